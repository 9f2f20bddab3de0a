"""Modbus from the wire: registers per CPU-second of the gateway's process, read from libmodbus.

2,000 INT16 holding registers in 16 requests of 125, over Modbus TCP, from the C program in `tests/counterparts/modbus-c`:

* ``journal``: the reader and the journal (fsync), whose entries are taken and let go at once, in a process of their own;
* ``file``: the whole gateway, ``bifrost run``, into a file of line protocol; what counts is the lines that are there.

Each as fast as the device answers and at a set interval. CPU-seconds are those of all threads, user and system, between two
looks after a warm-up. ``python -m benchmarks.wire_modbus [journal|file] [SECONDS] [RUNS]`` prints one JSON line a run.
"""

import asyncio
import contextlib
import json
import os
import signal
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

REGISTERS: Final = 2_000
FASTEST: Final = 0.001  # seconds; a cycle takes longer, so that the next begins at once
PACES: Final[dict[str, dict[str, Any]]] = {
    "fastest": {"interval": FASTEST},
    "every 10 ms": {"interval": 0.01},
}
_WARM_UP: Final = 3.0
_LINE_BYTES: Final = 1 << 20


@contextlib.contextmanager
def device() -> Iterator[int]:
    """The port of a libmodbus device that ends with the block."""
    subprocess.run([ROOT / "tests/counterparts/modbus-c/install.sh"], check=True, timeout=300)
    command = [ROOT / "build/counterparts/modbus-c/server"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield int(process.stdout.readline())
        process.stdin.close()


def source(port: int, pace: str) -> dict[str, Any]:
    """The source as a user writes it."""
    return PACES[pace] | {
        "name": "device",
        "protocol": "modbus",
        "endpoint": f"tcp://127.0.0.1:{port}",
        "registers": [{"name": "register_{address}", "address": 0, "count": REGISTERS, "type": "int16"}],
    }


def cpu_s(process: psutil.Process) -> float:
    """CPU-seconds that the process has used, all threads, user and system."""
    used = process.cpu_times()
    return float(used.user + used.system)


def result(work: str, pace: str, registers: int, cpu: float, wall: float) -> dict[str, Any]:
    """One run."""
    return {
        "work": work,
        "pace": pace,
        "registers_per_cpu_s": round(registers / cpu),
        "registers_per_s": round(registers / wall),
        "registers": registers,
        "cpu_s": round(cpu, 3),
        "cpu_percent": round(100 * cpu / wall, 1),
    }


# ---------------------------------------------------------------------- wire to journal


async def _into_journal(port: int, pace: str, seconds: float, directory: Path) -> tuple[int, float, float]:
    """Registers that became durable, CPU-seconds and seconds; runs in the process that is measured."""
    from connectors.contract import Context
    from connectors.sources.modbus import ModbusConfig
    from delivery.journal import SHARDS, Journal, shard_of
    from delivery.outcome import Outcome
    from flows.intake import SourceIntake, supervise
    from normalization.reading import TagTable

    config = ModbusConfig.model_validate(source(port, pace))
    tags = TagTable()
    journal = Journal(directory / "journal", "bench", tags)
    index = shard_of("modbus", config.name)
    intake = SourceIntake(config.name, "modbus", journal, tags)
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

    flow = threading.Thread(target=let_go)
    flow.start()
    reading = asyncio.create_task(supervise(config, Context("bench", directory), intake, journal))
    process = psutil.Process()
    began, start = time.monotonic(), (0, 0.0, 0.0)
    while (now := time.monotonic() - began) < _WARM_UP + seconds:
        await asyncio.sleep(0.25)
        if not start[1] and now > _WARM_UP:
            start = taken, cpu_s(process), time.monotonic()
    found = taken - start[0], cpu_s(process) - start[1], time.monotonic() - start[2]
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    ended = True
    flow.join()
    journal.close()
    return found


def journal(pace: str, seconds: float) -> dict[str, Any]:
    """One run of wire to journal, in a process of its own."""
    with device() as port, tempfile.TemporaryDirectory(prefix="bifrost-bench-") as directory:
        child = [sys.executable, "-m", "benchmarks.wire_modbus", "child", str(port), pace]
        done = subprocess.run(
            [*child, str(seconds), directory], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True, timeout=300
        )
    registers, cpu, wall = json.loads(done.stdout.splitlines()[-1])
    return result("journal", pace, registers, cpu, wall)


# ---------------------------------------------------------------------- wire to file


def _config(port: int, pace: str, directory: Path) -> Path:
    target = {
        "type": "file",
        "endpoint": str(directory / "lines"),
        "format": "line_protocol",
        "rotate_size": "1GiB",
    }
    config = {
        "gateway": {
            "name": "bench",
            "directory": str(directory / "data"),
            "log_level": "warning",
            "cloud": {"connectors": {"lines": target}},
        },
        "web_ui": {"enabled": False},
        "sources": [source(port, pace)],
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


def file(pace: str, seconds: float) -> dict[str, Any]:
    """One run of the whole gateway."""
    with device() as port, tempfile.TemporaryDirectory(prefix="bifrost-bench-") as name:
        directory = Path(name)
        config = _config(port, pace, directory)
        with (directory / "gateway.log").open("wb") as log:
            command = [sys.executable, "-m", "bifrost", "run", "-c", str(config)]
            gateway = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
        try:
            lines, process = _Lines(directory / "lines"), psutil.Process(gateway.pid)
            time.sleep(2 * _WARM_UP)
            before, cpu, began = lines.look(), cpu_s(process), time.monotonic()
            time.sleep(seconds)
            registers, cpu, wall = lines.look() - before, cpu_s(process) - cpu, time.monotonic() - began
            if gateway.poll() is not None or not registers:
                raise RuntimeError(f"nothing came: {(directory / 'gateway.log').read_text()[-2000:]}")
            gateway.send_signal(signal.SIGTERM)
            if gateway.wait(60) != 0:
                raise RuntimeError((directory / "gateway.log").read_text()[-2000:])
        finally:
            if gateway.poll() is None:
                gateway.kill()
                gateway.wait()
    return result("file", pace, registers, cpu, wall)


WORKS: Final = {"journal": journal, "file": file}


def measure(works: list[str], seconds: float, runs: int) -> dict[str, Any]:
    """All works at all paces, interleaved; the median of the runs, as they stand in bench.json under ``sources``."""
    found: dict[tuple[str, str], list[int]] = {}
    for _ in range(runs):
        for work in works:
            for pace in PACES:
                run = WORKS[work](pace, seconds)
                print(json.dumps(run), flush=True)
                found.setdefault((work, pace), []).append(run["registers_per_cpu_s"])
    return {
        f"modbus {work}, {pace}": {"registers_per_cpu_s": round(median(runs_)), "runs": runs_}
        for (work, pace), runs_ in found.items()
    }


def main(arguments: list[str]) -> int:
    """Measure and print."""
    if arguments[:1] == ["child"]:
        port, pace, seconds, directory = arguments[1:]
        found = asyncio.run(_into_journal(int(port), pace, float(seconds), Path(directory)))
        print(json.dumps(found), flush=True)
        return 0
    works = [arguments[0]] if arguments else list(WORKS)
    length = float(arguments[1]) if len(arguments) > 1 else 10.0
    runs = int(arguments[2]) if len(arguments) > 2 else 3
    before = os.getloadavg()
    print(json.dumps({**measure(works, length, runs), "load_average_before": round(before[0], 2)}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
