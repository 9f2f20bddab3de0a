"""OPC UA from the wire: values per CPU-second of the gateway's process, read from open62541.

5,000 doubles that change together, from the C program in `tests/counterparts/opcua-c`, in notifications of 1,000 values and of
20, over SecurityPolicy None:

* ``journal``: the reader and the journal (fsync), whose entries are taken and let go at once, in a process of their own;
* ``file``: the whole gateway, ``bifrost run``, into a file of line protocol; what counts is the lines that are there.

CPU-seconds are those of all threads, user and system, between two looks after a warm-up. A gap says that the server's queues
overflowed, because it or the gateway got too little of the processors. ``python -m benchmarks.wire_opcua [journal|file|both] [SECONDS] [RUNS] [HERTZ]`` prints one JSON line a
run.
"""

import contextlib
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Final

from benchmarks import wire
from benchmarks.evidence import ROOT
from tests.ports import free_port

DOUBLES: Final = 5_000
HERTZ: Final = 20
PER_NOTIFICATION: Final = (1_000, 20)
PUBLISH_REQUESTS: Final = 50  # at 20 values each, 250 notifications are due at once


@contextlib.contextmanager
def device(hertz: float) -> Iterator[int]:
    """The port of an open62541 server that ends with the block."""
    subprocess.run(["/bin/sh", ROOT / "tests/counterparts/opcua-c/install.sh"], check=True, timeout=600)
    port = free_port()
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


def run(work: str, per_notification: int, hertz: float, seconds: float) -> dict[str, Any]:
    """One run."""
    with device(hertz) as port:
        used = wire.take_in(work, source(port, per_notification, hertz), seconds)
    return used.described("values", work=work, values_per_notification=per_notification)


def measure(works: Sequence[str], seconds: float, runs: int, hertz: float) -> dict[str, Any]:
    """All works at all sizes, as they stand in bench.json under ``sources``."""
    cases = {
        f"opcua {work}, {size} a notification": partial(run, work, size, hertz, seconds)
        for work in works
        for size in PER_NOTIFICATION
    }
    return wire.measure(cases, "values", runs)


def main(arguments: list[str]) -> None:
    """Measure and print."""
    given = dict(enumerate(arguments))
    works = wire.WORKS if given.get(0, "both") == "both" else [given[0]]
    seconds, runs, hertz = float(given.get(1, 10)), int(given.get(2, 3)), float(given.get(3, HERTZ))
    wire.print_measured(lambda: measure(works, seconds, runs, hertz))


if __name__ == "__main__":
    main(sys.argv[1:])
