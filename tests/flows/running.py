"""Gateways in processes of their own, started both ways, and what their targets must then hold."""

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import psutil
from numbered import PROTOCOLS, configuration, read

from bifrost.run import account

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
WAYS = ("bifrost_run", "bytewax_run")
OPTIONS = ("-s", "1", "-b", "0")


def until(condition: Callable[[], object], seconds: float = 30.0, what: str = "") -> None:
    """Wait for a condition outside this process, with a deadline."""
    deadline, pause = time.monotonic() + seconds, threading.Event()
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what or condition}"
        pause.wait(0.02)


class Running:
    """A gateway in a process of its own.

    Args:
        directory: Its directory, the same at every start.
        way: One of ``WAYS``.
        flow: The factory in numbered_flow that `bytewax.run` takes.
        arguments: Options of `bytewax.run` after `-r`.
        prefix: Command that the gateway is started by.
        options: Of `numbered.configuration`.
    """

    def __init__(
        self,
        directory: Path,
        way: str = "bytewax_run",
        flow: str = "flow",
        arguments: Sequence[str] = OPTIONS,
        prefix: Sequence[str] = (),
        environment: dict[str, str] | None = None,
        **options: object,
    ) -> None:
        self.directory = directory
        self.log = directory / "log"
        self.began = time.time()
        command = (
            [str(HERE / "numbered_flow.py")]
            if way == "bifrost_run"
            else ["-m", "bytewax.run", f"tests/flows/numbered_flow:{flow}", "-r", str(recovery(directory)), *arguments]
        )
        numbered = json.dumps({"directory": str(directory), **options})
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("BYTEWAX")}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*prefix, sys.executable, *command],
                env=inherited | {"NUMBERED": numbered, "PYTHONPATH": str(ROOT)} | (environment or {}),
                cwd=ROOT,
                stdout=log,
                stderr=log,
            )

    @property
    def pid(self) -> int:
        """The gateway's own process, behind a prefix."""
        children = psutil.Process(self.process.pid).children()
        return children[0].pid if children else self.process.pid

    def handles(self, number: int) -> bool:
        """Whether the process has a handler for a signal."""
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{self.pid}/status").read_text()
            return bool(int(status.split("SigCgt:")[1].split()[0], 16) >> (number - 1) & 1)
        return False

    def opened(self) -> "Running":
        """Wait until the stores are open: a journal begins a segment at every start."""
        journal = self.directory / "data" / "journal"
        self.until(lambda: any(p.stat().st_ctime >= self.began for p in journal.glob("*.log")), "open stores")
        return self

    def deliver(self, readings: int = 2000, targets: Sequence[str] = ("first", "second")) -> None:
        """Wait until each target has got so many readings from this run."""
        before = {target: written(self.directory, target) for target in targets}
        self.until(lambda: all(written(self.directory, t) > before[t] + readings * 100 for t in targets), "delivery")

    def until(self, condition: Callable[[], object], what: str = "", seconds: float = 40.0) -> None:
        def look() -> object:
            assert self.process.poll() is None, f"ended with {self.process.returncode}: {self.said()}"
            return condition()

        until(look, seconds, what)

    def stop(self, number: int = signal.SIGTERM, times: int = 1) -> float:
        """Send a signal, expect exit code 0; returns seconds until the end."""
        began = time.monotonic()
        for _ in range(times):
            os.kill(self.pid, number)
        code = self.process.wait(20)
        took = time.monotonic() - began
        assert code == 0, f"exit code {code}: {self.said()}"
        return took

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(20)

    def said(self) -> str:
        return self.log.read_text(errors="replace")[-3000:]


@contextlib.contextmanager
def running(directory: Path, **options: object) -> Iterator[Running]:
    """A gateway that is killed at the end if it still runs."""
    gateway = Running(directory, **options)  # type: ignore[arg-type]
    try:
        yield gateway
    finally:
        if gateway.process.poll() is None:
            gateway.kill()


def recovery(directory: Path) -> Path:
    """One recovery directory for both ways of starting."""
    return directory / "data" / "recovery"


def epochs(directory: Path) -> tuple[int, int]:
    """How often a flow has begun, and the newest epoch that is durable, as the recovery store knows them."""
    with closing(sqlite3.connect(f"file:{recovery(directory) / 'part-0.sqlite3'}?mode=ro", uri=True)) as store:
        begun, epoch = store.execute("SELECT max(ex_num), max(worker_frontier) FROM fronts").fetchone()
    return begun or 0, epoch or 0


def written(directory: Path, target: str) -> int:
    """Bytes that a telling target has written."""
    path = directory / f"{target}.jsonl"
    return path.stat().st_size if path.exists() else 0


def acknowledged(directory: Path) -> dict[str, int]:
    """The newest number of each source that was acknowledged to its reader."""
    found = {}
    for protocol in PROTOCOLS:
        path = directory / f"{protocol}.acked"
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        found[protocol] = max(map(int, lines), default=0)
    return found


def settle(directory: Path, way: str = "bytewax_run", **options: object) -> None:
    """Run once more without sources until everything that the stores hold is delivered, and stop."""
    with running(directory, way=way, idle=True, **options) as gateway:
        want = acknowledged(directory)
        targets = ("first",) if options.get("fail_second") or options.get("hang_second") else ("first", "second")
        gateway.opened()
        gateway.until(lambda: not any(missing(directory, t, want) for t in targets), "what was acknowledged")
        gateway.stop()


def raw(rows: Sequence[list]) -> Iterator[tuple[str, int, str, int, int]]:
    """Protocol, number, shard, sequence and unit of the readings that come from a source."""
    for unit, shard, sequence, value, _path, _number, _time in rows:
        if value is not None and "/" not in shard and not shard.startswith("gateway"):
            yield shard.split("-")[0], value, shard, sequence, unit


def missing(directory: Path, target: str, want: dict[str, int]) -> dict[str, list[int]]:
    """Numbers up to the acknowledged ones that a target has not got, by protocol."""
    got: dict[str, set[int]] = {protocol: set() for protocol in want}
    for protocol, value, *_ in raw(read(directory / f"{target}.jsonl")):
        got[protocol].add(value)
    lost = {p: sorted(set(range(1, newest + 1)) - got[p])[:5] for p, newest in want.items()}
    return {protocol: numbers for protocol, numbers in lost.items() if numbers}


def repeated(directory: Path, target: str) -> int:
    """Readings that a target without a memory got again; each must have come under the same identity."""
    identity: dict[tuple[str, int], tuple[str, int]] = {}
    times: Counter[tuple[str, int]] = Counter()
    for protocol, value, shard, sequence, _ in raw(read(directory / f"{target}.jsonl")):
        known = identity.setdefault((protocol, value), (shard, sequence))
        assert known == (shard, sequence), f"{protocol} {value} came as {known} and as {(shard, sequence)}"
        times[shard, sequence] += 1
    assert len(set(identity.values())) == len(identity), "two readings have one identity"
    return sum(count - 1 for count in times.values())


def check_account(directory: Path, **options: object) -> dict:
    """The account of a stopped gateway: nothing unaccounted, and the sources' lines are what was given in."""
    found = account(configuration(directory, **options))
    assert found["unaccounted"] == 0, found
    want = acknowledged(directory)
    for protocol, newest in want.items():
        line = found["sources"].get(f"{protocol}_line")
        if line is not None:
            # The journal may hold what was not acknowledged any more before the end.
            assert newest <= line["journalled"] <= newest + 20_000, (protocol, newest, line)
            assert line["journalled"] == line["waiting"] + line["routed"] + sum(line["filtered"].values())
    return found
