"""OPC UA from the wire: values per CPU-second of the gateway's process, read from open62541.

5,000 doubles that change together, from the C program in `tests/counterparts/opcua-c`, in notifications of 1,000 values and of
20, over SecurityPolicy None:

* ``journal``: the reader and the journal (fsync), whose entries are taken and let go at once, in a process of their own;
* ``file``: the whole gateway, ``bifrost run``, into a file of line protocol; what counts is the lines that are there.

CPU-seconds are those of all threads, user and system, between two looks after a warm-up. A gap says that the server's queues
overflowed, because it or the gateway got too little of the processors. ``python -m benchmarks.wire_opcua [journal|file|both] [SECONDS] [RUNS] [HERTZ]`` prints one JSON line a
run.
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import psutil

from benchmarks.evidence import ROOT, median

DOUBLES: Final = 5_000
HERTZ: Final = 20
PER_NOTIFICATION: Final = (1_000, 20)
PUBLISH_REQUESTS: Final = 50  # at 20 values each, 250 notifications are due at once
_WARM_UP: Final = 4.0
_LINE_BYTES: Final = 1 << 20


@contextlib.contextmanager
def device(hertz: float) -> Iterator[int]:
    """The port of an open62541 server that ends with the block."""
    subprocess.run(["/bin/sh", ROOT / "tests/counterparts/opcua-c/install.sh"], check=True, timeout=600)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = [str(ROOT / "build/counterparts/opcua-c/server"), str(port), str(DOUBLES), str(hertz)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield port
        process.stdin.close()


def source(port: int, values: int, hertz: float) -> dict[str, Any]:
    """The source as a user writes it."""
    return {
        "name": "device",
        "protocol": "opcua",
        "endpoint": f"opc.tcp://127.0.0.1:{port}",
        "publishing_interval": 1 / hertz,
        "sampling_interval": 0,
        "queue_size": 100,
        "publish_requests": PUBLISH_REQUESTS,
        "values_per_notification": values,
        "nodes": [{"id": f"ns=1;s=v{at}"} for at in range(DOUBLES)],
    }


def cpu_s(process: psutil.Process) -> float:
    """CPU-seconds that the process has used, all threads, user and system."""
    used = process.cpu_times()
    return float(used.user + used.system)


def result(work: str, per_notification: int, values: int, cpu: float, wall: float) -> dict[str, Any]:
    """One run."""
    return {
        "work": work,
        "values_per_notification": per_notification,
        "values_per_cpu_s": round(values / cpu),
        "values_per_s": round(values / wall),
        "values": values,
        "cpu_s": round(cpu, 3),
        "cpu_percent": round(100 * cpu / wall, 1),
    }


# ---------------------------------------------------------------------- wire to journal


async def _into_journal(
    port: int, values: int, hertz: float, seconds: float, directory: Path
) -> tuple[int, float, float, int]:
    """Values that became durable, CPU-seconds, seconds and gaps; runs in the process that is measured."""
    from connectors.contract import Context
    from connectors.sources.opcua import OpcUaConfig
    from delivery.journal import SHARDS, Journal, shard_of
    from delivery.outcome import Outcome
    from flows.intake import SourceIntake, supervise
    from normalization.reading import TagTable

    config = OpcUaConfig.model_validate(source(port, values, hertz))
    tags = TagTable()
    journal = Journal(directory / "journal", "bench", tags)
    index = shard_of("opcua", config.name)
    intake = SourceIntake(config.name, "opcua", journal, tags)
    for shard in range(len(SHARDS)):
        journal.attach(shard, None, lambda _: Outcome())
    taken, ended = 0, False

    def let_go() -> None:
        """As the flow does, in a thread of its own."""
        nonlocal taken
        seen = -1
        while not ended:
            seen = journal.wait_arrival(seen, 0.05)
            entries = journal.take(index, 1_000_000)
            if entries:
                taken += sum(entry.rows for entry in entries)
                journal.trim(index, entries[-1].number)

    flow = threading.Thread(target=let_go, daemon=True)
    flow.start()
    reading = asyncio.create_task(supervise(config, Context("bench", directory), intake, journal))
    process = psutil.Process()
    while not taken:  # noqa: ASYNC110 - the thread says it
        await asyncio.sleep(0.1)
    await asyncio.sleep(_WARM_UP)
    gaps, before, cpu, began = intake.status.gaps, taken, cpu_s(process), time.monotonic()
    await asyncio.sleep(seconds)
    found = taken - before, cpu_s(process) - cpu, time.monotonic() - began
    gaps = intake.status.gaps - gaps
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    ended = True
    flow.join()
    journal.close()
    return *found, gaps


def journal(per_notification: int, hertz: float, seconds: float) -> dict[str, Any]:
    """One run of wire to journal, in a process of its own."""
    with device(hertz) as port, tempfile.TemporaryDirectory(prefix="bifrost-bench-") as directory:
        child = [sys.executable, "-m", "benchmarks.wire_opcua", "child", str(port), str(per_notification), str(hertz)]
        done = subprocess.run(
            [*child, str(seconds), directory], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True, timeout=300
        )
    values, cpu, wall, gaps = json.loads(done.stdout.splitlines()[-1])
    return result("journal", per_notification, values, cpu, wall) | {"gaps": gaps}


# ---------------------------------------------------------------------- wire to file


def _config(port: int, per_notification: int, hertz: float, directory: Path) -> Path:
    target = {"type": "file", "endpoint": str(directory / "lines"), "format": "line_protocol", "rotate_size": "1GiB"}
    config = {
        "gateway": {
            "name": "bench",
            "directory": str(directory / "data"),
            "log_level": "warning",
            "cloud": {"connectors": {"lines": target}},
        },
        "web_ui": {"enabled": False},
        "sources": [source(port, per_notification, hertz)],
    }
    path = directory / "gateway.yaml"
    path.write_text(json.dumps(config, indent=1))
    return path


class _Lines:
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


def file(per_notification: int, hertz: float, seconds: float) -> dict[str, Any]:
    """One run of the whole gateway."""
    with device(hertz) as port, tempfile.TemporaryDirectory(prefix="bifrost-bench-") as name:
        directory = Path(name)
        config = _config(port, per_notification, hertz, directory)
        with (directory / "gateway.log").open("wb") as log:
            command = [sys.executable, "-m", "bifrost", "run", "-c", str(config)]
            gateway = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
        try:
            lines, process = _Lines(directory / "lines"), psutil.Process(gateway.pid)
            give_up = time.monotonic() + 60
            while not lines.look():
                if gateway.poll() is not None or time.monotonic() > give_up:
                    raise RuntimeError(f"nothing came: {(directory / 'gateway.log').read_text()[-2000:]}")
                time.sleep(0.2)
            time.sleep(_WARM_UP)
            before, cpu, began = lines.look(), cpu_s(process), time.monotonic()
            time.sleep(seconds)
            values, cpu, wall = lines.look() - before, cpu_s(process) - cpu, time.monotonic() - began
            gateway.send_signal(signal.SIGTERM)
            if gateway.wait(60) != 0:
                raise RuntimeError((directory / "gateway.log").read_text()[-2000:])
        finally:
            if gateway.poll() is None:
                gateway.kill()
                gateway.wait()
    return result("file", per_notification, values, cpu, wall)


WORKS: Final = {"journal": journal, "file": file}


def measure(works: list[str], seconds: float, runs: int, hertz: float) -> dict[str, Any]:
    """All works at all sizes, interleaved; the median of the runs, as they stand in bench.json under ``sources``."""
    found: dict[tuple[str, int], list[int]] = {}
    for _ in range(runs):
        for work in works:
            for per_notification in PER_NOTIFICATION:
                run = WORKS[work](per_notification, hertz, seconds)
                print(json.dumps(run), flush=True)
                found.setdefault((work, per_notification), []).append(run["values_per_cpu_s"])
    return {
        f"opcua {work}, {per_notification} a notification": {"values_per_cpu_s": round(median(runs_)), "runs": runs_}
        for (work, per_notification), runs_ in found.items()
    }


def main(arguments: list[str]) -> int:
    """Measure and print."""
    if arguments[:1] == ["child"]:
        port, values, hertz, seconds, directory = arguments[1:]
        work = _into_journal(int(port), int(values), float(hertz), float(seconds), Path(directory))
        print(json.dumps(asyncio.run(work)), flush=True)
        return 0
    given = dict(enumerate(arguments))
    works = list(WORKS) if given.get(0, "both") == "both" else [given[0]]
    before = os.getloadavg()
    found = measure(works, float(given.get(1, 10)), int(given.get(2, 3)), float(given.get(3, HERTZ)))
    print(json.dumps({**found, "load_average_before": round(before[0], 2)}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
