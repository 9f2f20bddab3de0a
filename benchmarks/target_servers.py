"""Targets end to end: readings per second from a spool, through its forwarder, into real servers, which are counted at the end.

``python -m benchmarks.target_servers [NAME [ROWS]]`` measures one server, or all; the last line it prints is the answer as
JSON. Server and gateway share the machine's cores. Where a server has a limit of its own below the aim, what it takes from
a client that does nothing but send is shown beside: of InfluxDB by `server_limit`, of others by the gateway's own share of
the CPU.
"""

import http.client
import json
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from benchmarks.targets import WARM, batches, deliver
from connectors.settings import TargetConfig
from connectors.targets.amqp import AmqpConfig
from connectors.targets.influxdb import InfluxConfig
from connectors.targets.influxdb.server import write_target
from connectors.targets.kafka import KafkaConfig
from connectors.targets.mqtt import MqttTargetConfig
from connectors.targets.pubsub import PubSubConfig
from connectors.targets.timescaledb import TimescaleConfig
from connectors.wire.line_protocol import LineEncoder
from normalization.reading import TagTable
from tests.contract.writers.pubsub import message_rows
from tests.influx_server import BUILT, ORGANIZATION, TOKEN, Influx1, Influx2, LineServer
from tests.influx_server import PASSWORD as INFLUX_PASSWORD
from tests.influx_server import USER as INFLUX_USER
from tests.kafka_broker import KafkaBroker
from tests.mosquitto_broker import Broker, program
from tests.mosquitto_process import wait_for
from tests.postgres_server import PASSWORD as POSTGRES_PASSWORD
from tests.postgres_server import SUPERUSER, PostgresServer
from tests.pubsub_server import PubSubServer
from tests.rabbitmq_server import PASSWORD as RABBIT_PASSWORD
from tests.rabbitmq_server import USER as RABBIT_USER
from tests.rabbitmq_server import RabbitServer

AIMS: Final = {"kafka": 150_000, "influxdb": 100_000, "postgresql": 80_000, "rabbitmq": 20_000, "mosquitto": 15_000}
_PARTITIONS: Final = 6
_BATCH: Final = 10_000
_PATIENCE: Final = 60.0

Found = dict[str, Any]


def _measured(config: TargetConfig, rows: int, count: Callable[[], int]) -> Found:
    """Deliver, and count what the server has."""
    with tempfile.TemporaryDirectory(prefix="bifrost-bench-") as directory:
        found = deliver(config, rows, Path(directory))
    deadline = time.monotonic() + _PATIENCE
    while (there := count()) < rows + WARM and time.monotonic() < deadline:
        time.sleep(0.2)  # some servers count once a second
    if there != rows + WARM:
        raise RuntimeError(f"{config.type}: {rows + WARM} readings were acknowledged, the server has {there}")
    return found


def kafka(rows: int) -> Found:
    """One node of Apache Kafka, JSON, keys and headers."""
    from confluent_kafka import Consumer, TopicPartition

    broker = KafkaBroker()
    broker.start()

    def count() -> int:
        consumer = Consumer({"bootstrap.servers": broker.address, "group.id": "count"})
        try:
            marks = [consumer.get_watermark_offsets(TopicPartition("bench", n), timeout=30) for n in range(_PARTITIONS)]
        finally:
            consumer.close()
        return sum(high - low for low, high in marks)

    try:
        own = {"topic": "bench", "partitions": _PARTITIONS}
        return _measured(KafkaConfig.model_validate({"endpoint": broker.address, "provider_config": own}), rows, count)
    finally:
        broker.end()


def influxdb(rows: int, server: LineServer | None = None) -> Found:
    """InfluxDB 1.x."""
    server = server or Influx1()
    versions: dict[type, Found] = {
        Influx1: {"version": "1.x", "database": "bench", "username": INFLUX_USER, "password": INFLUX_PASSWORD},
        Influx2: {"version": "2.x", "organization": ORGANIZATION, "bucket": "bench", "token": TOKEN},
    }
    config = InfluxConfig.model_validate({"endpoint": server.url, "provider_config": versions[type(server)]})

    def count() -> int:
        found = server.query('SELECT count("sequence") FROM "reading"', db="bench")
        return int(found[0]["values"][0][1]) if found else 0

    try:
        return _measured(config, rows, count) | {"server_limit": round(_limit(server, config, rows // 2))}
    finally:
        server.end()


def influxdb_2(rows: int) -> Found:
    """InfluxDB 2.x, where `tests/counterparts/influx2/install.sh` has built it."""
    return influxdb(rows, Influx2())


def _limit(server: LineServer, config: InfluxConfig, rows: int) -> float:
    """Readings per second that the server takes from clients that do nothing but send."""
    encoder, lock, bodies = LineEncoder(config.provider_config.line_format), threading.Lock(), []
    for batch in batches(TagTable(), 10**9, rows, _BATCH):
        packer = zlib.compressobj(1, zlib.DEFLATED, 31)
        bodies.append(packer.compress(encoder.encode(batch).payload) + packer.flush())

    def send() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", server.port)
        while True:
            with lock:
                if not bodies:
                    break
                body = bodies.pop()
            connection.request("POST", write_target(config), body, {**server.headers, "Content-Encoding": "gzip"})
            answer = connection.getresponse()
            if answer.status != 204:
                raise RuntimeError(answer.read())
            answer.read()
        connection.close()

    threads = [threading.Thread(target=send) for _ in range(config.provider_config.pool_size)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return rows / (time.monotonic() - began)


def postgresql(rows: int) -> Found:
    """PostgreSQL, each reading once by its key, synced at each commit."""
    with PostgresServer(["fsync = on"]) as server:
        own = {"username": SUPERUSER, "password": POSTGRES_PASSWORD}
        config = TimescaleConfig.model_validate({"endpoint": server.url("postgres"), "provider_config": own})
        return _measured(config, rows, lambda: int(server.run("SELECT count(*) FROM readings")[0][0]))


def rabbitmq(rows: int) -> Found:
    """RabbitMQ, AMQP 0.9.1, a durable queue, each message confirmed."""
    server = RabbitServer()
    server.start()

    def count() -> int:
        with server.channel() as channel:
            return int(channel.queue_declare("bench", passive=True).method.message_count)

    try:
        with server.channel() as channel:
            channel.queue_declare("bench", durable=True, arguments={"x-queue-type": "quorum"})
        own = {
            "username": RABBIT_USER,
            "password": RABBIT_PASSWORD,
            "exchange": "",
            "routing_key": "bench",
            "channels": 2,
        }
        config = AmqpConfig.model_validate({"endpoint": f"amqp://127.0.0.1:{server.port}", "provider_config": own})
        return _measured(config, rows, count)
    finally:
        server.end()


def mosquitto(rows: int) -> Found:
    """mosquitto, MQTT 3.1.1 at QoS 1, each reading a message; counted by the broker itself."""
    with tempfile.TemporaryDirectory(prefix="bifrost-bench-") as folder, ExitStack() as stack:
        directory = Path(folder)
        broker = Broker(directory, ["allow_anonymous true", "sys_interval 1"])
        log = directory / "mosquitto.log"
        out = stack.enter_context(log.open("wb"))
        process = subprocess.Popen([program(), "-c", str(directory / "mosquitto.conf")], stdout=out, stderr=out)
        stack.callback(process.wait)
        stack.callback(process.kill)
        wait_for(broker.port, process, log)
        counter = "$SYS/broker/publish/messages/received"
        command = ["mosquitto_sub", "-p", str(broker.port), "-t", counter, "-C", "1"]

        def count() -> int:
            return int(subprocess.run(command, check=True, capture_output=True, timeout=30).stdout)

        config = MqttTargetConfig.model_validate({"endpoint": f"mqtt://127.0.0.1:{broker.port}"})
        return _measured(config, rows, count)


def pubsub(rows: int) -> Found:
    """The fake of Google Cloud Pub/Sub that the tests use, a message per reading with its ordering key."""
    server = PubSubServer()
    own = {"project": "bench", "payload": "reading"}
    config = PubSubConfig.model_validate({"endpoint": server.endpoint, "provider_config": own})
    try:
        return _measured(config, rows, lambda: sum(len(message_rows(m.data)) for m in server.messages("bench")))
    finally:
        server.end()


SERVERS: Final[dict[str, tuple[Callable[[int], Found], int]]] = {
    "kafka": (kafka, 600_000),
    "influxdb": (influxdb, 600_000),
    "influxdb 2": (influxdb_2, 600_000),
    "postgresql": (postgresql, 400_000),
    "rabbitmq": (rabbitmq, 200_000),
    "mosquitto": (mosquitto, 200_000),
    "pubsub fake": (pubsub, 200_000),
}
"""Name, what measures it, and readings of a run."""


def there() -> list[str]:
    """The servers that can be measured on this machine."""
    return [name for name in SERVERS if name != "influxdb 2" or BUILT.exists()]


def main(arguments: list[str]) -> None:
    """Measure in this process."""
    names = arguments[:1] or there()
    found: Found = {}
    for name in names:
        measure, rows = SERVERS[name]
        found[name] = measure(int(arguments[1]) if len(arguments) > 1 else rows) | {"aim": AIMS.get(name)}
        print(f"{name}: {found[name]['rows_per_s']:,} readings/s")
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
