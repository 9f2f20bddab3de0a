"""MQTT from the wire: messages per CPU-second of the gateway's process, read from mosquitto.

JSON of 65 bytes on 1,000 topics, at QoS 0 and 1, from a publisher that writes packets it has ready:

* ``journal``: the reader and the journal (fsync), whose entries are taken and let go at once, in a process of their own;
* ``file``: the whole gateway, ``bifrost run``, into a file of line protocol; what counts is the lines that are there.

Each as fast as the broker passes them on and at a set pace. CPU-seconds are those of all threads and children, user and
system, between two looks after a warm-up.
``python -m benchmarks.wire_mqtt [journal|file|both] [SECONDS] [RUNS] [PACE …]`` prints one JSON line a run.
"""

import contextlib
import os
import selectors
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from benchmarks import wire
from benchmarks.evidence import ROOT
from tests.mosquitto_broker import program
from tests.ports import free_port

TOPICS: Final = 1_000
PAYLOAD_BYTES: Final = 65
PACES: Final = (0, 30_000)  # messages per second; 0 is as fast as it goes
_READY: Final = 50_000  # messages that the publisher has ready; their packet ids are all different
_UNDER_WAY: Final = 20_000  # messages at QoS 1 without PUBACK
_TICK: Final = 0.002


# ---------------------------------------------------------------------- broker and publisher


def packets(qos: int) -> tuple[bytes, list[int]]:
    """PUBLISH packets one after the other, and where each begins and the last one ends."""
    data, bounds, now = bytearray(), [0], time.time_ns() // 1_000_000
    for number in range(_READY):
        at = number % TOPICS
        value = f"{(number * 7919) % 100_000 / 1000:.3f}"
        payload = f'{{"ts":{now + number // TOPICS},"value":{value},"quality":"good","unit":"C"}}'.encode()
        payload = payload.replace(b',"quality"', b"1" * (PAYLOAD_BYTES - len(payload)) + b',"quality"')
        topic = f"plant/line{at // 100}/machine{at // 10}/temperature{at}".encode()
        body = len(topic).to_bytes(2, "big") + topic + ((number + 1).to_bytes(2, "big") if qos else b"") + payload
        assert len(payload) == PAYLOAD_BYTES
        assert len(body) < 128
        data += bytes([0x30 | qos << 1, len(body)]) + body
        bounds.append(len(data))
    return bytes(data), bounds


def publish(port: int, qos: int, pace: int) -> None:
    """Publish until killed, `pace` messages per second; runs in a process of its own."""
    data, bounds = packets(qos)
    link = socket.create_connection(("127.0.0.1", port))
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    link.sendall(b"\x10\x15\x00\x04MQTT\x04\x02\x00\x00\x00\x09publisher")
    assert link.recv(4)[3] == 0
    link.setblocking(False)
    ready = selectors.DefaultSelector()
    ready.register(link, selectors.EVENT_READ)
    sent = acknowledged = rest = 0  # messages, messages, bytes of a PUBACK
    at, stop, began = 0, 0, time.monotonic()
    while True:
        if at == stop:
            due = int((time.monotonic() - began) * pace) if pace else sent + _READY
            first = sent % _READY
            count = max(0, min(due - sent, _READY - first, 2_000, _UNDER_WAY - (sent - acknowledged) if qos else 2_000))
            at, stop = bounds[first], bounds[first + count]
            sent += count
        blocked = at == stop
        if not blocked:
            try:
                at += link.send(data[at:stop])
            except BlockingIOError:
                blocked = True
        if blocked:
            ready.modify(link, selectors.EVENT_READ | (selectors.EVENT_WRITE if at < stop else 0))
        if pace and at == stop:
            time.sleep(_TICK)
        for _, events in ready.select(None if blocked and not pace else 0):
            if events & selectors.EVENT_READ:
                got = len(link.recv(1 << 20))
                acknowledged, rest = acknowledged + (got + rest) // 4, (got + rest) % 4


@contextlib.contextmanager
def broker(directory: Path) -> Iterator[int]:
    """The port of a mosquitto that ends with the block."""
    port = free_port()
    lines = [
        f"listener {port} 127.0.0.1",
        "allow_anonymous true",
        "max_inflight_messages 0",
        "max_queued_messages 0",
        "set_tcp_nodelay true",
        "log_type none",
        *(["user root"] if os.getuid() == 0 else []),
    ]
    (directory / "mosquitto.conf").write_text("\n".join(lines) + "\n")
    with subprocess.Popen([program(), "-c", str(directory / "mosquitto.conf")], stderr=subprocess.DEVNULL) as process:
        while True:
            assert process.poll() is None
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port)).close()
                break
            time.sleep(0.02)
        try:
            yield port
        finally:
            process.terminate()


@contextlib.contextmanager
def publisher(port: int, qos: int, pace: int) -> Iterator[None]:
    """Something that publishes until the block ends."""
    command = [sys.executable, "-m", "benchmarks.wire_mqtt", "publish", str(port), str(qos), str(pace)]
    with subprocess.Popen(command, cwd=ROOT) as process:
        try:
            yield
        finally:
            process.kill()


def source(port: int, qos: int) -> dict[str, Any]:
    """The source as a user writes it."""
    return {
        "name": "broker",
        "protocol": "mqtt",
        "endpoint": f"mqtt://127.0.0.1:{port}",
        "subscriptions": [{"topic": "plant/#", "qos": qos}],
    }


def run(work: str, qos: int, pace: int, seconds: float) -> dict[str, Any]:
    """One run."""
    with (
        tempfile.TemporaryDirectory(prefix="bifrost-bench-") as directory,
        broker(Path(directory)) as port,
        publisher(port, qos, pace),
    ):
        used = wire.take_in(work, source(port, qos), seconds)
    return used.described("messages", work=work, qos=qos, pace=pace or "fastest")


def measure(works: Sequence[str], seconds: float, runs: int, paces: tuple[int, ...] = PACES) -> dict[str, Any]:
    """All works at all paces, as they stand in bench.json under ``sources``."""
    cases = {
        f"mqtt {work}, QoS {qos}, {f'{pace:,} a second' if pace else 'fastest'}": partial(run, work, qos, pace, seconds)
        for work in works
        for qos in (0, 1)
        for pace in paces
    }
    return wire.measure(cases, "messages", runs)


def main(arguments: list[str]) -> None:
    """Measure and print, or publish."""
    if arguments[:1] == ["publish"]:
        port, qos, pace = map(int, arguments[1:])
        publish(port, qos, pace)
        return
    works = [arguments[0]] if arguments and arguments[0] != "both" else wire.WORKS
    seconds = float(arguments[1]) if len(arguments) > 1 else 10.0
    runs = int(arguments[2]) if len(arguments) > 2 else 3
    paces = tuple(int(pace) for pace in arguments[3:]) or PACES
    wire.print_measured(lambda: measure(works, seconds, runs, paces))


if __name__ == "__main__":
    main(sys.argv[1:])
