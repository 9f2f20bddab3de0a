"""Kafka: readings per second from a spool through its forwarder into a real broker, and per CPU-second of this process.

The spool is filled before the clock starts, more than it keeps in memory, so most of it is read back from disk. The broker is
one node on the same cores; the messages are counted by its own offsets at the end. Beside it the encoder alone, by format.
One run is one process: ``python -m benchmarks.targets_kafka [ROWS [FORMAT]]`` prints one line of JSON.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from confluent_kafka import Consumer, TopicPartition

from benchmarks.zerobus import fill
from connectors.contract import Context
from connectors.targets.kafka import KafkaConfig
from connectors.targets.kafka.config import KafkaSettings
from connectors.targets.kafka.encode import MessageEncoder
from delivery.dead_letters import DeadLetterStore
from delivery.forwarder import Forwarder
from delivery.spool import Spool
from normalization.reading import TagTable
from tests.kafka_broker import KafkaBroker
from tests.schema_registry import SchemaRegistry

ROWS: Final = 600_000
FORMATS: Final = ("json", "avro", "protobuf")
_PARTITIONS: Final = 6
_WARM: Final = 100_000
_PATIENCE: Final = 120.0
_ENCODED: Final = 1_000  # readings in a batch of the encoder's figure
_SECONDS: Final = 1.0


def _count(broker: KafkaBroker, topic: str) -> int:
    """Messages in the topic, by the offsets that the broker tells."""
    consumer = Consumer({"bootstrap.servers": broker.address, "group.id": "count"})
    try:
        marks = [consumer.get_watermark_offsets(TopicPartition(topic, n), timeout=30) for n in range(_PARTITIONS)]
    finally:
        consumer.close()
    return sum(high - low for low, high in marks)


def _run(forwarder: Forwarder, prepare: Callable[[], None], rows: int) -> tuple[float, float]:
    """Seconds, and CPU-seconds of this process, until all is delivered."""
    prepare()
    began, cpu = time.monotonic(), time.process_time()
    forwarder.start()
    while forwarder.status.delivered < rows:
        if time.monotonic() > began + _PATIENCE:
            raise RuntimeError(f"{forwarder.status.delivered} of {rows} delivered: {forwarder.status.last_error}")
        time.sleep(0.005)
    took, used = time.monotonic() - began, time.process_time() - cpu
    forwarder.stop()
    forwarder.join(30)
    return took, used


def deliver(form: str, rows: int, directory: Path, broker: KafkaBroker) -> dict[str, Any]:
    """One run from end to end."""
    tags, topic = TagTable(), f"bench.{form}"
    own: dict[str, Any] = {"topic": topic, "format": form, "partitions": _PARTITIONS}
    registry = SchemaRegistry() if form != "json" else None
    if registry is not None:
        registry.start()
        own["registry"] = {"endpoint": registry.url}
    config = KafkaConfig.model_validate({"name": "bench", "endpoint": broker.address, "provider_config": own})
    context = Context("bench", directory)
    limits = config.writer(context).limits
    spool = Spool(directory / form, tags, lambda _: True, entry_rows=limits.rows, entry_bytes=limits.bytes)
    letters = DeadLetterStore(directory / f"{form}-dead", tags, lambda _: True)
    try:
        _run(Forwarder("bench", config.writer(context), spool, letters), lambda: fill(spool, tags, 1, _WARM), _WARM)
        fill(spool, tags, _WARM + 1, rows)
        took, used = _run(Forwarder("bench", config.writer(context), spool, letters), lambda: None, rows)
    finally:
        spool.close()
        letters.close()
        if registry is not None:
            registry.end()
    there = _count(broker, topic)
    if there != _WARM + rows:
        raise RuntimeError(f"{there} messages in the topic instead of {_WARM + rows}")
    return {"readings_per_s": round(rows / took), "readings_per_cpu_s": round(rows / used)}


def encode(form: str) -> int:
    """Readings per CPU-second of the encoder alone, in batches of 1,000, topics, keys, times and headers among them."""
    from tests.contract.readings import Source

    registry = {} if form == "json" else {"registry": {"endpoint": "http://registry"}}
    encoder = MessageEncoder(KafkaSettings.model_validate({"format": form} | registry))
    batch = Source().batch([float(i) / 7 for i in range(_ENCODED)])
    ids = {} if form == "json" else {"bifrost.readings": 1}
    encoder.encode(batch, ids)
    done, began = 0, time.process_time()
    while time.process_time() - began < _SECONDS:
        encoder.encode(batch, ids)
        done += _ENCODED
    return round(done / (time.process_time() - began))


def main() -> None:
    """Measure, and print the result."""
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else ROWS
    forms = sys.argv[2:] or ["json"]
    before = os.getloadavg()
    broker = KafkaBroker()
    broker.start()
    try:
        with tempfile.TemporaryDirectory(prefix="bifrost-bench-") as folder:
            found = {form: deliver(form, rows, Path(folder), broker) for form in forms}
    finally:
        broker.end()
    encoders = {form: encode(form) for form in FORMATS}
    print(json.dumps({"rows": rows, "load_before": before[0], "end_to_end": found, "encoder_per_cpu_s": encoders}))


if __name__ == "__main__":
    main()
