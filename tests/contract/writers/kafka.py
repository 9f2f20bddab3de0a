"""Apache Kafka, one broker that all tests share, a topic for each; read back by a consumer, with the registry's schemas."""

import atexit
import functools
import io
import itertools
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import fastavro
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from connectors.settings import TargetConfig
from connectors.targets.kafka import KafkaConfig
from tests.contract.counterpart import Counterpart, Provider
from tests.contract.readings import Row, table_rows
from tests.contract.writers.file import json_row
from tests.kafka_broker import PASSWORD, USER, KafkaBroker
from tests.schema_registry import SchemaRegistry

_numbers = itertools.count()
_EPOCH, _MICROSECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)
Decode = Callable[[bytes], dict[str, Any]]


@functools.cache
def service() -> KafkaBroker:
    """The broker; it keeps its ports and its data when it is killed and started again."""
    broker = KafkaBroker()
    broker.start()
    atexit.register(broker.end)
    return broker


@functools.cache
def registry() -> SchemaRegistry:
    """The registry."""
    running = SchemaRegistry()
    running.start()
    atexit.register(running.end)
    return running


@functools.cache
def avro(number: int) -> Decode:
    """Reads records of the registry's schema with that number."""
    schema = fastavro.parse_schema(json.loads(registry().schema(number)))

    def decode(record: bytes) -> dict[str, Any]:
        stream = io.BytesIO(record)
        found = fastavro.schemaless_reader(stream, schema, None)
        assert not stream.read()
        assert isinstance(found, dict)
        return found

    return decode


@functools.cache
def protobuf(number: int) -> Decode:
    """Reads messages of the first type in the registry's schema with that number, which protoc compiles."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "reading.proto").write_text(registry().schema(number))
        compile_it = [sys.executable, "-m", "grpc_tools.protoc", f"-I{folder}", f"--descriptor_set_out={folder}/set"]
        subprocess.run([*compile_it, "reading.proto"], check=True, capture_output=True, timeout=60)
        files = descriptor_pb2.FileDescriptorSet.FromString((Path(folder) / "set").read_bytes()).file
    pool = descriptor_pool.DescriptorPool()
    for file in files:
        pool.Add(file)  # type: ignore[no-untyped-call]
    kind = pool.FindMessageTypeByName(f"{files[0].package}.{files[0].message_type[0].name}")
    made = message_factory.GetMessageClass(kind)

    def decode(record: bytes) -> dict[str, Any]:
        assert record[:1] == b"\0"  # the first message of the file
        message = made.FromString(record[1:])
        found: dict[str, Any] = {}
        for field in kind.fields:
            absent = field.has_presence and not message.HasField(field.name)
            found[field.name] = None if absent else getattr(message, field.name)
        return found

    return decode


def decoded(value: bytes, form: str) -> Row:
    """The reading in a message."""
    if form == "json":
        return json_row(value.decode())
    assert value[:1] == b"\0"
    number = int.from_bytes(value[1:5], "big")
    item = (avro if form == "avro" else protobuf)(number)(value[5:])
    when = item["source_time"]
    (row,) = table_rows([item | {"source_time": None}])
    micros = when if when is None or isinstance(when, int) else round((when - _EPOCH) / _MICROSECOND)
    return Row(row.gateway, row.shard, row.sequence, row.path, row.type, row.value, row.quality, micros)


class Topic:
    """A topic of the shared broker."""

    def __init__(self, form: str, **own: Any) -> None:
        self.server = service()
        self.port, self.relay_port = self.server.behind_port, self.server.relay_port
        self.form = form
        self.topic = f"contract.{next(_numbers)}"
        self.own = {"topic": self.topic, "format": form} | own
        if form != "json":
            self.own["registry"] = {"endpoint": registry().url}
        self.address = self.server.address

    def config(self, **settings: Any) -> TargetConfig:
        return self.at(self.address, **settings)

    def through(self, port: int, **settings: Any) -> TargetConfig:
        return self.at(f"127.0.0.1:{port}", **settings)

    def at(self, address: str, **settings: Any) -> TargetConfig:
        given = {"name": self.topic, "endpoint": address, "timeout": "5s", "provider_config": self.own}
        return KafkaConfig.model_validate(given | settings)

    def rows(self) -> list[Row]:
        return [decoded(message.value() or b"", self.form) for message in self.server.read(self.topic)]

    @contextmanager
    def outage(self) -> Iterator[None]:
        self.server.kill()
        try:
            yield
        finally:
            self.server.start()


class SecuredTopic(Topic):
    """A topic behind TLS and SCRAM."""

    def __init__(self, form: str, **own: Any) -> None:
        super().__init__(form, **own)
        self.address = f"127.0.0.1:{self.server.scram_port}"
        self.own["tls"] = {"ca_file": str(self.server.folder / "authority.pem")}
        self.own["sasl"] = {"mechanism": "SCRAM-SHA-512", "username": USER, "password": PASSWORD}

    def stranger(self) -> TargetConfig:
        sasl = {"mechanism": "SCRAM-SHA-512", "username": USER, "password": "wrong-secret"}
        return self.config(provider_config=self.own | {"sasl": sasl})

    def certify(self, *, expired: bool = False) -> None:
        self.server.kill()
        self.server.certify(expired=expired)
        self.server.start()


@contextmanager
def plain(_: Path) -> Iterator[Counterpart]:
    yield Topic("json")


@contextmanager
def secured(_: Path) -> Iterator[Counterpart]:
    service().settle()
    yield SecuredTopic("avro", transactions="unit")


PROVIDERS = [
    Provider(
        "kafka",
        "kafka, JSON",
        plain,
        counterpart="Apache Kafka",
        able=frozenset({"network"}),
        ordered=True,
        largest=1_000_000,
    ),
    Provider(
        "kafka",
        "kafka, Avro in transactions over TLS and SCRAM",
        secured,
        counterpart="Apache Kafka",
        able=frozenset({"credentials", "certificates"}),
        ordered=True,
    ),
]
