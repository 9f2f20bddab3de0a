"""Modbus from the wire: registers per CPU-second of the gateway's process, read from libmodbus.

2,000 INT16 holding registers in 16 requests of 125, over Modbus TCP, from the C program in `tests/counterparts/modbus-c`:

* ``journal``: the reader and the journal (fsync), whose entries are taken and let go at once, in a process of their own;
* ``file``: the whole gateway, ``bifrost run``, into a file of line protocol; what counts is the lines that are there.

Each as fast as the device answers, at a set interval, at that with 16 requests in flight, and with group commits of 0.1 s besides
(Telegraf's file is written once a second). CPU-seconds are those of all threads, user and system, between two
looks after a warm-up. ``python -m benchmarks.wire_modbus [journal|file] [SECONDS] [RUNS]`` prints one JSON line a run.
"""

import contextlib
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Final

from benchmarks import wire
from benchmarks.evidence import ROOT

REGISTERS: Final = 2_000
FASTEST: Final = 0.001  # seconds; a cycle takes longer, so that the next begins at once
PACES: Final[dict[str, tuple[dict[str, Any], float]]] = {  # settings of the source, and time of a group commit
    "fastest": ({"interval": FASTEST}, wire.COMMIT_INTERVAL),
    "every 10 ms": ({"interval": 0.01}, wire.COMMIT_INTERVAL),
    "every 10 ms, 16 in flight": ({"interval": 0.01, "in_flight": 16}, wire.COMMIT_INTERVAL),
    "every 10 ms, 16 in flight, commits of 0.1 s": ({"interval": 0.01, "in_flight": 16}, 0.1),
}


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


def source(port: int, settings: dict[str, Any]) -> dict[str, Any]:
    """The source as a user writes it."""
    return settings | {
        "name": "device",
        "protocol": "modbus",
        "endpoint": f"tcp://127.0.0.1:{port}",
        "registers": [{"name": "register_{address}", "address": 0, "count": REGISTERS, "type": "int16"}],
    }


def run(work: str, pace: str, seconds: float) -> dict[str, Any]:
    """One run."""
    settings, commit_interval = PACES[pace]
    with device() as port:
        used = wire.take_in(work, source(port, settings), seconds, commit_interval)
    return used.described("registers", work=work, pace=pace)


def measure(works: Sequence[str], seconds: float, runs: int) -> dict[str, Any]:
    """All works at all paces, as they stand in bench.json under ``sources``."""
    cases = {f"modbus {work}, {pace}": partial(run, work, pace, seconds) for work in works for pace in PACES}
    return wire.measure(cases, "registers", runs)


def main(arguments: list[str]) -> None:
    """Measure and print."""
    works = [arguments[0]] if arguments else wire.WORKS
    seconds = float(arguments[1]) if len(arguments) > 1 else 10.0
    runs = int(arguments[2]) if len(arguments) > 2 else 3
    wire.print_measured(lambda: measure(works, seconds, runs))


if __name__ == "__main__":
    main(sys.argv[1:])
