"""AMQP: readings per second from a spool through its forwarder into a real RabbitMQ, each a confirmed message of its own.

The spool is filled before the clock starts. RabbitMQ is a process of its own, on the same cores; the messages in its queue
are counted at the end. ``python -m benchmarks.targets_amqp [0.9.1|1.0] [reading|packed] [READINGS] [classic|quorum]``.
"""

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from benchmarks.zerobus import fill
from connectors.contract import Context
from connectors.targets.amqp import AmqpConfig
from delivery.dead_letters import DeadLetterStore
from delivery.forwarder import Forwarder
from delivery.spool import Spool
from normalization.reading import TagTable
from tests.rabbitmq_server import PASSWORD, USER, RabbitServer

READINGS: Final = 200_000
_WARM: Final = 20_000
_QUEUE: Final = "bench"
_PATIENCE: Final = 300.0


def _deliver(forwarder: Forwarder, readings: int) -> None:
    deadline = time.monotonic() + _PATIENCE
    while forwarder.status.delivered < readings:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{forwarder.status.delivered} of {readings} delivered: {forwarder.status.last_error}")
        time.sleep(0.005)


def configured(server: RabbitServer, version: str, message: str) -> AmqpConfig:
    """A target that writes into the queue."""
    own: dict[str, Any] = {"username": USER, "password": PASSWORD, "version": version, "message": message}
    own |= (
        {"exchange": "", "routing_key": _QUEUE, "channels": 2}
        if version == "0.9.1"
        else {"address": f"/amq/queue/{_QUEUE}"}
    )
    return AmqpConfig.model_validate({"endpoint": f"amqp://127.0.0.1:{server.port}", "provider_config": own})


def measure(version: str, message: str, readings: int, kind: str, directory: Path) -> dict[str, Any]:
    """One run."""
    server = RabbitServer()
    try:
        server.start()
        with server.channel() as channel:
            channel.queue_declare(_QUEUE, durable=True, arguments={"x-queue-type": kind})
        config = configured(server, version, message)
        tags = TagTable()
        limits = config.writer(Context("bench", directory)).limits
        spool = Spool(directory / "spool", tags, lambda _: True, entry_rows=limits.rows, entry_bytes=limits.bytes)
        letters = DeadLetterStore(directory / "dead_letters", tags, lambda _: True)
        took = cpu = 0.0
        for first, count in ((1, _WARM), (_WARM + 1, readings)):
            fill(spool, tags, first, count)
            forwarder = Forwarder("amqp", config.writer(Context("bench", directory)), spool, letters)
            cpu, took = time.process_time(), time.monotonic()
            forwarder.start()
            _deliver(forwarder, count)
            took, cpu = time.monotonic() - took, time.process_time() - cpu
            forwarder.stop()
            forwarder.join(10)
        spool.close()
        letters.close()
        with server.channel() as channel:
            found = channel.queue_declare(_QUEUE, passive=True).method.message_count
        if message == "reading" and found != _WARM + readings:
            raise RuntimeError(f"{_WARM + readings} readings were confirmed, the queue has {found} messages")
    finally:
        server.end()
    return {
        "version": version,
        "message": message,
        "queue": kind,
        "readings": readings,
        "messages_in_queue": found,
        "readings_per_s": round(readings / took),
        "readings_per_cpu_s_of_the_gateway": round(readings / cpu),
        "seconds": round(took, 3),
    }


def main() -> None:
    """Measure once in this process."""
    version, message, readings, kind = (
        sys.argv[1:] + ["0.9.1", "reading", str(READINGS), "classic"][len(sys.argv) - 1 :]
    )[:4]
    with tempfile.TemporaryDirectory(prefix="bifrost-bench-") as directory:
        print(json.dumps(measure(version, message, int(readings), kind, Path(directory))))


if __name__ == "__main__":
    main()
