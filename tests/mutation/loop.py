"""A pytest plugin: instead of running the tests once, it runs those that reach a mutant, for every mutant, each in a fork.

mutmut's own loop collects the tests anew for each mutant and runs them in no order; the tests of the stores take half a
minute, so that a whole run would take days. Here the tests are collected once, only those are run that reach the very
statement, and those come first that have killed a mutant of the same function.
"""

import contextlib
import itertools
import json
import os
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import coverage
import pytest
from mutmut.mutation.trampoline import set_mutant_under_test
from mutmut.state import state

_MEMORY: Final = 4 * 2**30  # bytes that a mutant may use
_PATIENCE: Final = 1.0  # seconds that a test gets beside eight times what it takes, and what it waits for a processor


Statement = tuple[str, int, int]
"""A file and the first and the last line in it, both 0 for the head of a function."""


@dataclass
class Reach:
    """A test that passes on the code as it is: how long it takes, which functions it runs, and which lines of them."""

    item: pytest.Item
    seconds: float
    functions: frozenset[str]
    lines: set[tuple[str, int]] = field(default_factory=set)
    kills: int = 0

    @property
    def cost(self) -> float:
        """What comes first: quick tests of little else than the function, and those that have noticed many mutants."""
        return len(self.functions) * self.seconds / (1 + self.kills)

    def reaches(self, function: str, statement: Statement) -> bool:
        """Whether a mutant of that statement could make a difference."""
        file, first, last = statement
        if function not in self.functions:
            return False
        return not last or any((file, line) in self.lines for line in range(first, last + 1))


class Failures:
    """Notes whether a test failed."""

    def __init__(self) -> None:
        self.failed = False
        self.skipped = False

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.failed |= report.failed
        self.skipped |= report.skipped


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("mutation")
    group.addoption("--mutants", type=Path, help="JSON object of the mutants to run: mutmut's names, statements")
    group.addoption("--verdicts", type=Path, help="where to write what became of each, a JSON list a line")
    group.addoption("--budget", type=float, default=20.0, help="seconds of tests that a mutant gets")
    group.addoption("--slowest", type=float, default=1.5, help="leave out the tests that take longer, seconds")


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool:
    """Run each mutant."""
    option = session.config.option
    failures = Failures()
    session.config.pluginmanager.register(failures)
    mutants: dict[str, Statement] = {
        name: tuple(statement) for name, statement in json.loads(option.mutants.read_text("utf-8")).items()
    }
    tests = _reached(session, failures, option.slowest, {file for file, _, _ in mutants.values()})
    _say(f"{len(tests)} tests, {sum(test.seconds for test in tests):.0f} s")
    killers: dict[str, list[Reach]] = {}
    counts = {"killed": 0, "survived": 0, "timeout": 0}
    with option.verdicts.open("a", encoding="utf-8") as verdicts:
        for number, (name, statement) in enumerate(mutants.items(), 1):
            function = name.partition("__mutmut_")[0]
            before = killers.setdefault(function, [])
            reaching = [test for test in tests if test.reaches(function, statement)]
            first = [test for test in before if test in reaching]
            rest = sorted((test for test in reaching if test not in first), key=lambda test: test.cost)
            order = _within(option.budget, [*first, *rest])
            began = time.monotonic()
            verdict, at = _run(session, failures, name, order)
            counts[verdict] += 1
            killer = None
            if at is not None:
                killer = order[at].item.nodeid
                order[at].kills += 1
                killers[function] = [order[at], *(test for test in before if test is not order[at])]
            took = time.monotonic() - began
            verdicts.write(json.dumps([name, verdict, killer, round(took, 2), len(order)]) + "\n")
            verdicts.flush()
            if number % 50 == 0 or number == len(mutants):
                _say(f"{number}/{len(mutants)}  " + "  ".join(f"{kind} {count}" for kind, count in counts.items()))
    return True


def _say(line: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {line}\n")


# ---------------------------------------------------------------------- the tests on the code as it is


def _reached(session: pytest.Session, failures: Failures, slowest: float, files: set[str]) -> list[Reach]:
    """The tests that reach a function that can be mutated; those that fail, are skipped or are too slow are left out."""

    def note(write: int) -> None:
        set_mutant_under_test("stats")
        items = session.items
        lines = coverage.Coverage(
            data_file=None, config_file=False, include=[str(Path(file).resolve()) for file in files]
        )
        lines.start()
        with os.fdopen(write, "w", encoding="utf-8") as told:
            for at, item in enumerate(items):
                state()._stats.clear()
                failures.failed = failures.skipped = False
                lines.switch_context(str(at))
                began = time.monotonic()
                _protocol(item, items[at + 1 : at + 2])
                took = time.monotonic() - began
                line = [at, took, failures.failed, failures.skipped, sorted(state()._stats)]
                told.write(json.dumps(line) + "\n")
                told.flush()
            lines.stop()
            found = lines.get_data()
            told.write(json.dumps({file: found.contexts_by_lineno(str(Path(file).resolve())) for file in files}))

    with _fork(note) as (_, read), os.fdopen(os.dup(read), encoding="utf-8") as lines:
        *found, reached = [json.loads(line) for line in lines]
    if len(found) != len(session.items):
        raise pytest.UsageError(f"the tests stopped after {reached and session.items[reached[0]].nodeid}")
    tests: dict[int, Reach] = {}
    for at, seconds, failed, skipped, functions in found:
        item = session.items[at]
        if failed or seconds > slowest:
            _say(f"left out, {'it fails' if failed else f'{seconds:.1f} s'}: {item.nodeid}")
        elif functions and not skipped:
            tests[at] = Reach(item, seconds, frozenset(functions))
    if not tests:
        raise pytest.UsageError("no test reaches what is mutated")
    for file, line, at in _each(reached):
        if at in tests:
            tests[at].lines.add((file, line))
    return list(tests.values())


def _each(reached: dict[str, dict[str, list[str]]]) -> Iterator[tuple[str, int, int]]:
    """File, line, and number of a test that runs it."""
    for file, by_line in reached.items():
        for line, contexts in by_line.items():
            yield from ((file, int(line), int(context)) for context in contexts if context)


# ---------------------------------------------------------------------- one mutant


def _within(budget: float, tests: Sequence[Reach]) -> list[Reach]:
    """The first of `tests`, as many as take `budget` seconds; one at least."""
    ends = itertools.accumulate(test.seconds for test in tests)
    return [test for at, (test, end) in enumerate(zip(tests, ends, strict=True)) if not at or end <= budget]


def _run(session: pytest.Session, failures: Failures, name: str, order: Sequence[Reach]) -> tuple[str, int | None]:
    """What becomes of a mutant, and which test of `order` it was."""

    def attempt(write: int) -> None:
        set_mutant_under_test(name)
        resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY, _MEMORY))
        items = [test.item for test in order]
        for at, item in enumerate(items):
            os.write(write, at.to_bytes(4, "big"))
            failures.failed = False
            _protocol(item, items[at + 1 : at + 2])
            if failures.failed:
                os._exit(1)

    at = None
    with _fork(attempt) as (child, read):
        ended = os.pidfd_open(child)
        try:
            starved, deadline = 0.0, time.monotonic() + _PATIENCE
            while True:
                ready, _, _ = select.select([read, ended], [], [], max(0.0, deadline - time.monotonic()))
                if read in ready and (number := os.read(read, 4)):
                    at = int.from_bytes(number, "big")
                    deadline = time.monotonic() + _PATIENCE + 8 * order[at].seconds
                elif ended in ready:
                    break
                elif not ready:
                    if (late := _starved(child) - starved) < 0.1:
                        return "timeout", at
                    starved, deadline = starved + late, time.monotonic() + late
        finally:
            os.close(ended)
        _, status = os.waitpid(child, 0)
    return ("survived", None) if status == 0 else ("killed", at)


def _starved(child: int) -> float:
    """Seconds that the threads of a process wanted a processor and had none: it does not hang because others work."""
    waited = 0
    for path in Path(f"/proc/{child}/task").glob("*/schedstat"):
        with contextlib.suppress(OSError):  # the thread has ended
            waited += int(path.read_text("utf-8").split()[1])
    return waited / 1e9


def _protocol(item: pytest.Item, following: Sequence[pytest.Item]) -> None:
    item.config.hook.pytest_runtest_protocol(item=item, nextitem=following[0] if following else None)


@contextlib.contextmanager
def _fork(work: Callable[[int], None]) -> Iterator[tuple[int, int]]:
    """Do `work` in a child with a place of its own for files; it is handed a pipe to write to. Gives its id and the pipe."""
    place = tempfile.mkdtemp(prefix="mutant-")
    read, write = os.pipe()
    child = os.fork()
    if not child:
        code = 1
        with contextlib.suppress(BaseException):
            os.setpgid(0, 0)
            nothing = os.open(os.devnull, os.O_RDWR)
            for stream in (0, 1, 2):
                os.dup2(nothing, stream)
            os.environ["TMPDIR"] = tempfile.tempdir = place
            work(write)
            code = 0
        os._exit(code)
    os.close(write)
    with contextlib.suppress(OSError):
        os.setpgid(child, child)
    try:
        yield child, read
    finally:
        os.close(read)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(child, 0)
        _remove(place)


def _remove(place: str) -> None:
    for line in Path("/proc/mounts").read_text("utf-8").splitlines():
        if (mount := line.split()[1]).startswith(place):
            subprocess.run(["umount", "-l", mount], check=False)
    shutil.rmtree(place, ignore_errors=True)
