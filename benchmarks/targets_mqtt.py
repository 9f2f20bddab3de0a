"""MQTT: readings per second from a spool through its forwarder into mosquitto at QoS 1, a message each.

The spool is filled before the clock starts, more than it keeps in memory, so most of it is read back from disk. The broker
is a process of its own, on the same cores; a subscriber would take from what is measured, so the broker's own counter says
what it has received. ``python -m benchmarks.targets_mqtt [READINGS] [VERSION]``.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from benchmarks.zerobus import fill
from connectors.contract import Context
from connectors.targets.mqtt import MqttTargetConfig
from delivery.dead_letters import DeadLetterStore
from delivery.forwarder import Forwarder
from delivery.spool import Spool
from normalization.reading import TagTable
from tests.mosquitto_broker import Broker, program
from tests.mosquitto_process import wait_for

READINGS: Final = 200_000
_PATIENCE: Final = 120.0
_WARM: Final = 20_000


def _deliver(forwarder: Forwarder, rows: int) -> None:
    deadline = time.monotonic() + _PATIENCE
    while forwarder.status.delivered < rows:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{forwarder.status.delivered} of {rows} delivered: {forwarder.status.last_error}")
        time.sleep(0.005)


def _received(port: int) -> int:
    """Publishes that the broker says it has received."""
    command = ["mosquitto_sub", "-p", str(port), "-t", "$SYS/broker/publish/messages/received", "-C", "1"]
    return int(subprocess.run(command, check=True, capture_output=True, timeout=30).stdout)


def _cpu(pid: int) -> float:
    import psutil

    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def measure(readings: int, version: str, directory: Path) -> dict[str, Any]:
    """One run."""
    broker = Broker(directory, ["allow_anonymous true", "sys_interval 1"])
    log = directory / "mosquitto.log"
    with log.open("wb") as out:
        process = subprocess.Popen([program(), "-c", str(directory / "mosquitto.conf")], stdout=out, stderr=out)
    try:
        wait_for(broker.port, process, log)
        config = MqttTargetConfig.model_validate(
            {"endpoint": f"mqtt://127.0.0.1:{broker.port}", "provider_config": {"version": version}}
        )
        tags = TagTable()
        writer = config.writer(Context("bench", directory))
        spool = Spool(
            directory / "spool", tags, lambda _: True, entry_rows=writer.limits.rows, entry_bytes=writer.limits.bytes
        )
        letters = DeadLetterStore(directory / "dead_letters", tags, lambda _: True)
        first = Forwarder("mqtt", writer, spool, letters)
        fill(spool, tags, 1, _WARM)
        first.start()
        _deliver(first, _WARM)
        first.stop()
        first.join(10)
        fill(spool, tags, _WARM + 1, readings)
        forwarder = Forwarder("mqtt", config.writer(Context("bench", directory)), spool, letters)
        cpu, of_broker, began = time.process_time(), _cpu(process.pid), time.monotonic()
        forwarder.start()
        _deliver(forwarder, readings)
        took, cpu, of_broker = time.monotonic() - began, time.process_time() - cpu, _cpu(process.pid) - of_broker
        forwarder.stop()
        forwarder.join(10)
        spool.close()
        letters.close()
        deadline = time.monotonic() + _PATIENCE
        while (found := _received(broker.port)) < _WARM + readings and time.monotonic() < deadline:
            time.sleep(0.2)
        if found < _WARM + readings:
            raise RuntimeError(f"{_WARM + readings} messages were acknowledged, the broker has {found}")
    finally:
        process.kill()
        process.wait()
    return {
        "target": "mqtt",
        "version": version,
        "readings": readings,
        "readings_per_s": round(readings / took),
        "readings_per_cpu_s_of_the_gateway": round(readings / cpu),
        "readings_per_cpu_s_of_the_broker": round(readings / of_broker),
        "seconds": round(took, 3),
    }


def main() -> None:
    """Measure in this process."""
    readings = int(sys.argv[1]) if len(sys.argv) > 1 else READINGS
    version = sys.argv[2] if len(sys.argv) > 2 else "3.1.1"
    with tempfile.TemporaryDirectory(prefix="bifrost-bench-") as directory:
        print(json.dumps(measure(readings, version, Path(directory))))


if __name__ == "__main__":
    main()
