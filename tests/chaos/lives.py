"""Gateways as processes: started both ways, under a tracer or a false clock where a fault wants it, and ended."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import psutil

from tests.chaos.gateway import Setup, acked_file, frames_file

ROOT: Final = Path(__file__).parents[2]
WAYS: Final[tuple["Way", ...]] = ("bifrost_run", "bytewax_run")
LOOK: Final = 0.01
FIRST_DELIVERY: Final = 40.0

Way = Literal["bifrost_run", "bytewax_run"]


class ChaosError(AssertionError):
    """The gateway did not do what must come before anything can be judged."""


def pause(seconds: float) -> None:
    """Let time pass: the length of a fault, or the pace of looking."""
    threading.Event().wait(seconds)


def until(condition: Callable[[], object], seconds: float, what: str) -> float:
    """Wait for a condition outside this process; returns the seconds that it took."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > seconds:
            raise ChaosError(f"not within {seconds:g} s: {what}")
        pause(LOOK)
    return time.monotonic() - began


def handles(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a handler for a signal."""
    with contextlib.suppress(OSError):
        status = Path(f"/proc/{pid}/status").read_text()
        return bool(int(status.split("SigCgt:")[1].split()[0], 16) >> (number - 1) & 1)
    return False


class Life:
    """One life of the gateway in `directory`.

    Args:
        directory: Where its options, its log and its targets' files are.
        way: How it is started.
        prefix: Command that starts it, such as strace.
        environment: More environment variables.
    """

    def __init__(
        self, directory: Path, way: Way, prefix: Sequence[str] = (), environment: Mapping[str, str] | None = None
    ) -> None:
        self.directory, self.way = directory, way
        self.log = directory / "gateway.log"
        self._log_start = self.log.stat().st_size if self.log.exists() else 0
        self._before = {target.name: self.taken(target.name) for target in Setup.load(directory).targets}
        self.started = time.monotonic()
        self.first_delivery: float | None = None
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("BYTEWAX")}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*prefix, sys.executable, *_arguments(directory, way)],
                cwd=ROOT,
                env=inherited | {"CHAOS_DIRECTORY": str(directory), "PYTHONPATH": str(ROOT)} | dict(environment or {}),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The gateway's own process, behind a prefix."""
        children = psutil.Process(self.process.pid).children()
        return children[0].pid if children else self.process.pid

    def alive(self) -> bool:
        """Whether it still runs."""
        return self.process.poll() is None

    def taken(self, target: str) -> int:
        """Bytes that a target has taken."""
        path = frames_file(self.directory, target)
        return path.stat().st_size if path.exists() else 0

    def handles_sigterm(self) -> bool:
        """Whether the process has come so far that SIGTERM does not just end it."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return handles(self.pid, signal.SIGTERM)
        return False

    def delivers(self) -> bool:
        """Whether a target has got something from this life."""
        found = any(self.taken(target) > before for target, before in self._before.items())
        if found and self.first_delivery is None:
            self.first_delivery = time.monotonic() - self.started
        return found

    def wait_first_delivery(self, seconds: float = FIRST_DELIVERY) -> None:
        """Until a target has got something, or the process has ended."""
        until(lambda: self.delivers() or not self.alive(), seconds, f"first delivery: {self.said()}")

    def kill(self) -> None:
        """SIGKILL, to a tracer too."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(20)

    def stop(self, patience: float = 20.0) -> tuple[int, float]:
        """SIGTERM; returns the exit code and how long it took."""
        began = time.monotonic()
        with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
            os.kill(self.pid, signal.SIGTERM)
        try:
            code = self.process.wait(patience)
        except subprocess.TimeoutExpired:
            self.kill()
            code = -signal.SIGKILL
        return code, time.monotonic() - began

    def said(self, most: int = 1500) -> str:
        """The end of what this life logged."""
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode(errors="replace")[-most:]


def _arguments(directory: Path, way: Way) -> list[str]:
    if way == "bifrost_run":
        return ["-m", "tests.chaos.gateway", str(directory)]
    recovery = str(Path(Setup.load(directory).stores) / "recovery")
    return ["-m", "bytewax.run", "tests.chaos.gateway:flow", "-r", recovery, "-s", "1", "-b", "0"]


@contextlib.contextmanager
def living(directory: Path, way: Way, **options: Any) -> Iterator[Life]:
    """A life that is ended at the end of the block if it still runs."""
    life = Life(directory, way, **options)
    try:
        yield life
    finally:
        if life.alive():
            life.kill()


def account(directory: Path) -> dict[str, Any]:
    """What `bifrost ledger --json` says of a gateway that does not run."""
    command = [sys.executable, "-m", "tests.chaos.gateway", str(directory), "--ledger"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    said = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, timeout=300, check=False)
    if said.returncode:
        raise ChaosError(f"the ledger cannot be read: {said.stderr.decode()[-1500:]}")
    return dict(json.loads(said.stdout.splitlines()[-1]))


def acked_bytes(directory: Path, source: str) -> int:
    """Grows with every acknowledgement to a source."""
    path = acked_file(directory, source)
    return path.stat().st_size if path.exists() else 0
