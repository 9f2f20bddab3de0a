"""MQTT from the wire: messages per CPU-second of the gateway's process, read from mosquitto.

JSON of 65 bytes on 1,000 topics, at QoS 0 and 1, from a publisher that writes packets it has ready:

* ``journal``: the reader and the journal (fsync), whose entries are taken and let go at once, in a process of their own;
* ``file``: the whole gateway, ``bifrost run``, into a file of line protocol; what counts is the lines that are there.

Each as fast as the broker passes them on and at a set pace. CPU-seconds are those of all threads and children, user and
system, between two looks after a warm-up.
``python -m benchmarks.wire_mqtt [journal|file|both] [SECONDS] [RUNS] [PACE …]`` prints one JSON line a run.
"""

import asyncio
import contextlib
import json
import os
import selectors
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
from tests.mosquitto_broker import free_port, program

TOPICS: Final = 1_000
PAYLOAD_BYTES: Final = 65
PACES: Final = (0, 30_000)  # messages per second; 0 is as fast as it goes
_READY: Final = 50_000  # messages that the publisher has ready; their packet ids are all different
_UNDER_WAY: Final = 20_000  # messages at QoS 1 without PUBACK
_TICK: Final = 0.002
_WARM_UP: Final = 3.0
_LINE_BYTES: Final = 1 << 20


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


def cpu_s(process: psutil.Process) -> float:
    """CPU-seconds that the process and its children have used, all threads, user and system."""
    used = process.cpu_times()
    living = [child.cpu_times() for child in process.children(recursive=True)]
    return float(
        used.user + used.system + used.children_user + used.children_system + sum(c.user + c.system for c in living)
    )


def result(work: str, qos: int, pace: int, messages: int, cpu: float, wall: float) -> dict[str, Any]:
    """One run."""
    return {
        "work": work,
        "qos": qos,
        "pace": pace or "fastest",
        "messages_per_cpu_s": round(messages / cpu),
        "messages_per_s": round(messages / wall),
        "messages": messages,
        "cpu_s": round(cpu, 3),
        "cpu_percent": round(100 * cpu / wall, 1),
    }


# ---------------------------------------------------------------------- wire to journal


async def _into_journal(port: int, qos: int, seconds: float, directory: Path) -> tuple[int, float, float]:
    """Messages that became durable, CPU-seconds and seconds; runs in the process that is measured."""
    from connectors.contract import Context
    from connectors.sources.mqtt import MqttConfig
    from delivery.journal import SHARDS, Journal, shard_of
    from delivery.outcome import Outcome
    from flows.intake import SourceIntake, supervise
    from normalization.reading import TagTable

    config = MqttConfig.model_validate(source(port, qos))
    tags = TagTable()
    journal = Journal(directory / "journal", "bench", tags)
    index = shard_of("mqtt", config.name)
    intake = SourceIntake(config.name, "mqtt", journal, tags)
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


def journal(qos: int, pace: int, seconds: float) -> dict[str, Any]:
    """One run of wire to journal, in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="bifrost-bench-") as name, broker(Path(name)) as port:
        child = [sys.executable, "-m", "benchmarks.wire_mqtt", "child", str(port), str(qos), str(seconds), name]
        with publisher(port, qos, pace):
            done = subprocess.run(child, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True, timeout=300)
    messages, cpu, wall = json.loads(done.stdout.splitlines()[-1])
    return result("journal", qos, pace, messages, cpu, wall)


# ---------------------------------------------------------------------- wire to file


def _config(port: int, qos: int, directory: Path) -> Path:
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
        "sources": [source(port, qos)],
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


def file(qos: int, pace: int, seconds: float) -> dict[str, Any]:
    """One run of the whole gateway."""
    with tempfile.TemporaryDirectory(prefix="bifrost-bench-") as name, broker(Path(name)) as port:
        directory = Path(name)
        config = _config(port, qos, directory)
        with (directory / "gateway.log").open("wb") as log:
            command = [sys.executable, "-m", "bifrost", "run", "-c", str(config)]
            gateway = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
        try:
            lines, process = _Lines(directory / "lines"), psutil.Process(gateway.pid)
            with publisher(port, qos, pace):
                time.sleep(2 * _WARM_UP)
                before, cpu, began = lines.look(), cpu_s(process), time.monotonic()
                time.sleep(seconds)
                messages, cpu, wall = lines.look() - before, cpu_s(process) - cpu, time.monotonic() - began
            if gateway.poll() is not None or not messages:
                raise RuntimeError(f"nothing came: {(directory / 'gateway.log').read_text()[-2000:]}")
            gateway.send_signal(signal.SIGTERM)
            if gateway.wait(60) != 0:
                raise RuntimeError((directory / "gateway.log").read_text()[-2000:])
        finally:
            if gateway.poll() is None:
                gateway.kill()
                gateway.wait()
    return result("file", qos, pace, messages, cpu, wall)


WORKS: Final = {"journal": journal, "file": file}


def measure(works: list[str], seconds: float, runs: int, paces: tuple[int, ...] = PACES) -> dict[str, Any]:
    """All works at all paces, interleaved; the median of the runs, as they stand in bench.json under ``sources``."""
    found: dict[str, list[int]] = {}
    for _ in range(runs):
        for work in works:
            for qos in (0, 1):
                for pace in paces:
                    run = WORKS[work](qos, pace, seconds)
                    print(json.dumps(run), flush=True)
                    name = f"mqtt {work}, QoS {qos}, {f'{pace:,} a second' if pace else 'fastest'}"
                    found.setdefault(name, []).append(run["messages_per_cpu_s"])
    return {name: {"messages_per_cpu_s": round(median(runs_)), "runs": runs_} for name, runs_ in found.items()}


def main(arguments: list[str]) -> int:
    """Measure and print."""
    match arguments:
        case ["publish", port, qos, pace]:
            publish(int(port), int(qos), int(pace))
        case ["child", port, qos, seconds, directory]:
            found = asyncio.run(_into_journal(int(port), int(qos), float(seconds), Path(directory)))
            print(json.dumps(found), flush=True)
        case _:
            works = [arguments[0]] if arguments and arguments[0] != "both" else list(WORKS)
            length = float(arguments[1]) if len(arguments) > 1 else 10.0
            runs = int(arguments[2]) if len(arguments) > 2 else 3
            paces = tuple(int(pace) for pace in arguments[3:]) or PACES
            before = os.getloadavg()
            print(json.dumps({**measure(works, length, runs, paces), "load_average_before": round(before[0], 2)}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
