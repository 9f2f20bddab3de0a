"""How long the gateway takes to acknowledge: mosquitto, QoS 1 at a steady rate, measured on the wire."""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from tests.chaos.lives import ROOT, until
from tests.chaos.scenario import Scenario
from tests.chaos.wire import Tap, waits
from tests.mosquitto_broker import Broker
from tests.ports import free_port

_TICK: Final = 0.002
_TOPICS: Final = 200
_SETTINGS: Final = ("max_queued_messages 0", "max_queued_bytes 0", "max_inflight_messages 0")


def run(
    scenario: Scenario, load: Mapping[str, Any], directory: Path, chance: random.Random, say: Callable[[str], None]
) -> dict[str, Any]:
    """Publish at `rate` for `seconds` after `settle`, and compare PUBLISH and PUBACK on the gateway's connection."""
    return asyncio.run(_measure(load, directory, say))


async def _measure(load: Mapping[str, Any], directory: Path, say: Callable[[str], None]) -> dict[str, Any]:
    rate, seconds, settle = int(load["rate"]), float(load["seconds"]), float(load.get("settle", 5))
    port = free_port()  # the gateway's own listener, so that the tap sees nothing of the publisher
    (directory / "broker").mkdir()
    settings = (*_SETTINGS, "per_listener_settings false", "allow_anonymous true", f"listener {port} 127.0.0.1")
    async with Broker(directory / "broker", settings) as broker:
        config = _configure(directory, port)
        log = (directory / "gateway.log").open("wb")
        tap = Tap(port)  # from the first byte of the connection, or packets could not be told apart
        process = await asyncio.to_thread(_start, config, log)
        try:
            await asyncio.to_thread(until, lambda: _connected(directory / "gateway.log"), 30, "the source is connected")
            publisher = asyncio.create_task(_publish(broker.port, rate, settle + seconds + 1))
            await asyncio.sleep(settle)
            since, cpu = time.time_ns(), _cpu(process.pid)
            await asyncio.sleep(seconds)
            until_then, cpu = time.time_ns(), _cpu(process.pid) - cpu
            sent, acked = await publisher
        finally:
            segments = await asyncio.to_thread(tap.close)
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            try:
                code = await asyncio.to_thread(process.wait, 20)
            except subprocess.TimeoutExpired:
                process.kill()
                code = -9
            log.close()
    found = await asyncio.to_thread(waits, segments, since, until_then)
    ledger = await asyncio.to_thread(_ledger, config)
    p50, p95, p99, most = (round(1000 * float(q), 2) for q in np.quantile(found, (0.5, 0.95, 0.99, 1.0)))
    say(f"    {len(found):,} PUBACKs in {seconds:g} s: p50 {p50} ms, p95 {p95} ms, p99 {p99} ms, at most {most} ms")
    journalled = sum(line["journalled"] for line in ledger["sources"].values())
    return {
        "p50_ms": p50,
        "p95_ms": p95,
        "p99_ms": p99,
        "max_ms": most,
        "messages_per_s": round(len(found) / seconds),
        "sent": sent,
        "cpu_percent": round(100 * cpu / seconds, 1),
        "lost": max(0, acked - journalled),
        "bad_exits": int(code != 0),
        "unaccounted": abs(ledger["unaccounted"]),
    }


def _configure(directory: Path, port: int) -> Path:
    config = {
        "gateway": {
            "name": "puback",
            "directory": str(directory / "data"),
            "port": free_port(),
            "log_level": "info",
            "cloud": {"connectors": {"file": {"type": "file", "endpoint": str(directory / "out")}}},
        },
        "sources": [
            {
                "name": "line",
                "protocol": "mqtt",
                "endpoint": f"mqtt://127.0.0.1:{port}",
                "version": "5",
                "subscriptions": [{"topic": "plant/#", "qos": 1}],
            }
        ],
        "routing_rules": [{"name": "everything", "condition": "TRUE", "connectors": ["file"]}],
    }
    path = directory / "gateway.yaml"
    path.write_text(json.dumps(config, indent=1))
    return path


def _start(config: Path, log: Any) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "bifrost", "run", "-c", str(config)]
    return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)


def _connected(log: Path) -> bool:
    return any('"connected"' in line for line in log.read_text(errors="replace").splitlines() if '"source"' in line)


def _ledger(config: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "bifrost", "ledger", "--json", "-c", str(config)]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=60, check=False)
    assert said.stdout, said.stderr.decode()
    return dict(json.loads(said.stdout))


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def _publish(port: int, rate: int, seconds: float) -> tuple[int, int]:
    """Publish single values at QoS 1, some every tick; returns how many were sent and how many the broker acknowledged."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    name = b"chaos"
    connect = b"\x00\x04MQTT\x04\x02\x00\x00" + len(name).to_bytes(2, "big") + name
    writer.write(b"\x10" + bytes([len(connect)]) + connect)
    await reader.readexactly(4)
    acknowledged = 0

    async def count() -> None:
        nonlocal acknowledged
        with_rest = 0
        while data := await reader.read(65536):
            with_rest += len(data)
            acknowledged = with_rest // 4

    counting = asyncio.create_task(count())
    sent, began = 0, time.monotonic()
    while (now := time.monotonic() - began) < seconds:
        due = int(now * rate)
        writer.write(b"".join(_message(number) for number in range(sent, due)))
        sent = max(sent, due)
        await asyncio.sleep(_TICK)
    async with asyncio.timeout(30):
        while acknowledged < sent:
            await asyncio.sleep(0.02)
    writer.close()
    await writer.wait_closed()
    counting.cancel()
    return sent, acknowledged


def _message(number: int) -> bytes:
    topic = b"plant/line/tag%d" % (number % _TOPICS)
    stamp = time.time_ns() // 1_000_000
    payload = b'{"value":%d,"timestamp":%d}' % (number, stamp)
    body = len(topic).to_bytes(2, "big") + topic + (number % 65535 + 1).to_bytes(2, "big") + payload
    return b"\x32" + bytes([len(body)]) + body
