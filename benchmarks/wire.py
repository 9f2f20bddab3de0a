"""What the benchmarks of sources share: a source's readings counted behind the journal, or as lines of the whole gateway's file.

``python -m benchmarks.wire SOURCE SECONDS DIRECTORY COMMIT_INTERVAL`` is the process that is measured for the journal; SOURCE is JSON.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import psutil

from benchmarks.evidence import ROOT, median
from config.models import GatewaySection

WORKS: Final = ("journal", "file")
_WARM_UP: Final = 4.0
_PATIENCE: Final = 60.0
_LINE_BYTES: Final = 1 << 20
COMMIT_INTERVAL: Final[float] = GatewaySection.model_fields["commit_interval"].default


@dataclass(frozen=True, slots=True)
class Used:
    """What a gateway's process took in, and what it used for that.

    Attributes:
        count: Readings.
        cpu_s: CPU-seconds of all threads and children, user and system.
        wall_s: Seconds.
        gaps: Gaps that the source recorded; None where that was not looked at.
    """

    count: int
    cpu_s: float
    wall_s: float
    gaps: int | None = None

    def described(self, unit: str, **about: Any) -> dict[str, Any]:
        """One run; `unit` is what is counted."""
        return {
            **about,
            f"{unit}_per_cpu_s": round(self.count / self.cpu_s),
            f"{unit}_per_s": round(self.count / self.wall_s),
            unit: self.count,
            "cpu_s": round(self.cpu_s, 3),
            "cpu_percent": round(100 * self.cpu_s / self.wall_s, 1),
            **({} if self.gaps is None else {"gaps": self.gaps}),
        }


def cpu_s(process: psutil.Process) -> float:
    used = process.cpu_times()
    living = [child.cpu_times() for child in process.children(recursive=True)]
    return float(
        used.user + used.system + used.children_user + used.children_system + sum(c.user + c.system for c in living)
    )


def measure(cases: Mapping[str, Callable[[], dict[str, Any]]], unit: str, runs: int) -> dict[str, Any]:
    """All cases, interleaved; the median of the runs, as they stand in bench.json under ``sources``."""
    found: dict[str, list[int]] = {name: [] for name in cases}
    for _ in range(runs):
        for name, case in cases.items():
            run = case()
            print(json.dumps(run), flush=True)
            found[name].append(run[f"{unit}_per_cpu_s"])
    return {name: {f"{unit}_per_cpu_s": round(median(each)), "runs": each} for name, each in found.items()}


def print_measured(measured: Callable[[], dict[str, Any]]) -> None:
    """Measure, and print what came of it with the load of the machine before."""
    before = os.getloadavg()
    print(json.dumps({**measured(), "load_average_before": round(before[0], 2)}))


def take_in(work: str, source: dict[str, Any], seconds: float, commit_interval: float = COMMIT_INTERVAL) -> Used:
    """One run.

    Args:
        work: Of ``WORKS``: the reader and the journal alone, or the whole gateway into a file of line protocol.
        source: The source as a user writes it; something feeds it.
        seconds: Time between the two looks.
        commit_interval: Seconds that a group commit waits for more readings.
    """
    with tempfile.TemporaryDirectory(prefix="bifrost-bench-") as directory:
        return {"journal": _journal, "file": _file}[work](source, seconds, Path(directory), commit_interval)


def _journal(source: dict[str, Any], seconds: float, directory: Path, commit_interval: float) -> Used:
    arguments = [json.dumps(source), str(seconds), str(directory), str(commit_interval)]
    child = [sys.executable, "-m", "benchmarks.wire", *arguments]
    done = subprocess.run(child, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True, timeout=300)
    return Used(**json.loads(done.stdout.splitlines()[-1]))


async def _into_journal(source: dict[str, Any], seconds: float, directory: Path, commit_interval: float) -> Used:
    """Readings that became durable; the journal's entries are taken and let go at once."""
    from pydantic import TypeAdapter

    from config.models import Source
    from connectors.contract import Context
    from delivery.journal import SHARDS, Journal, shard_of
    from delivery.outcome import Outcome
    from flows.intake import SourceIntake, supervise
    from normalization.reading import TagTable

    config = TypeAdapter[Source](Source).validate_python(source)
    tags = TagTable()
    journal = Journal(directory / "journal", "bench", tags, linger=commit_interval)
    index = shard_of(config.protocol, config.name)
    intake = SourceIntake(config.name, config.protocol, journal, tags)
    for shard in range(len(SHARDS)):
        journal.attach(shard, None, lambda _: Outcome())
    taken, ended = 0, False

    def let_go() -> None:
        """As the flow does, in a thread of its own."""
        nonlocal taken
        seen, last = -1, 0.0
        while not ended:
            seen = journal.wait_arrival(seen, 0.05, last + 0.02)
            entries = journal.take(index, 1_000_000)
            if entries:
                last = time.monotonic()
                taken += sum(entry.rows for entry in entries)
                journal.trim(index, entries[-1].number)

    flow = threading.Thread(target=let_go, daemon=True)
    flow.start()
    reading = asyncio.create_task(supervise(config, Context("bench", directory), intake, journal))
    process = psutil.Process()
    async with asyncio.timeout(_PATIENCE):
        while not taken:  # noqa: ASYNC110 - the thread says it
            await asyncio.sleep(0.1)
    await asyncio.sleep(_WARM_UP)
    gaps, before, cpu, began = intake.status.gaps, taken, cpu_s(process), time.monotonic()
    await asyncio.sleep(seconds)
    found = Used(taken - before, cpu_s(process) - cpu, time.monotonic() - began, intake.status.gaps - gaps)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    ended = True
    flow.join()
    journal.close()
    return found


def _config(source: dict[str, Any], directory: Path, commit_interval: float) -> Path:
    target = {"type": "file", "endpoint": str(directory / "lines"), "format": "line_protocol", "rotate_size": "1GiB"}
    config = {
        "gateway": {
            "name": "bench",
            "directory": str(directory / "data"),
            "log_level": "warning",
            "commit_interval": commit_interval,
            "cloud": {"connectors": {"lines": target}},
        },
        "web_ui": {"enabled": False},
        "sources": [source],
    }
    path = directory / "gateway.yaml"
    path.write_text(json.dumps(config, indent=1))
    return path


class Lines:
    """Counts lines of the files of a folder as they grow."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[Path, int] = {}
        self.count = 0

    def look(self) -> int:
        for path in sorted(self._folder.glob("**/*")):
            if path.is_file() and not path.name.startswith("."):
                with path.open("rb") as lines:
                    lines.seek(self._read.get(path, 0))
                    while found := lines.read(_LINE_BYTES):
                        self.count += found.count(b"\n")
                    self._read[path] = lines.tell()
        return self.count


class Counted(Protocol):
    """What says how much has come out of a process."""

    def look(self) -> int:
        """How much until now."""


def watch(gateway: "subprocess.Popen[bytes]", counted: Counted, seconds: float, log: Path) -> Used:
    """What a process takes in and uses between two looks, after the first has come and a warm-up.

    Args:
        gateway: The process.
        counted: What comes out of it.
        seconds: Time between the looks.
        log: What it says, for when nothing comes.
    """
    process, give_up = psutil.Process(gateway.pid), time.monotonic() + _PATIENCE
    while not counted.look():
        if gateway.poll() is not None or time.monotonic() > give_up:
            raise RuntimeError(f"nothing came: {log.read_text()[-2000:]}")
        time.sleep(0.2)
    time.sleep(_WARM_UP)
    before, cpu, began = counted.look(), cpu_s(process), time.monotonic()
    time.sleep(seconds)
    found = Used(counted.look() - before, cpu_s(process) - cpu, time.monotonic() - began)
    if gateway.poll() is not None or not found.count:
        raise RuntimeError(f"nothing came: {log.read_text()[-2000:]}")
    return found


def _file(source: dict[str, Any], seconds: float, directory: Path, commit_interval: float) -> Used:
    log = directory / "gateway.log"
    with log.open("wb") as output:
        command = [sys.executable, "-m", "bifrost", "run", "-c", str(_config(source, directory, commit_interval))]
        gateway = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output)
    try:
        found = watch(gateway, Lines(directory / "lines"), seconds, log)
        gateway.send_signal(signal.SIGTERM)
        if gateway.wait(60) != 0:
            raise RuntimeError(log.read_text()[-2000:])
    finally:
        if gateway.poll() is None:
            gateway.kill()
            gateway.wait()
    return found


def main(arguments: list[str]) -> None:
    """Be the process that is measured."""
    source, seconds, directory, commit_interval = arguments
    found = asyncio.run(_into_journal(json.loads(source), float(seconds), Path(directory), float(commit_interval)))
    print(json.dumps(asdict(found)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
