"""Messages without a broker: Protobuf by the registry's text, framing, and that names are kept apart."""

import math
import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from connectors.targets.kafka.config import KafkaSettings
from connectors.targets.kafka.encode import MessageEncoder, framing, proto_schema
from normalization.reading import TABLE, table
from tests.connectors.targets.test_zerobus_encode import plain
from tests.contract.readings import Source


@cache
def reading() -> Any:
    """The message type that protoc makes of the schema."""
    with TemporaryDirectory() as folder:
        (Path(folder) / "reading.proto").write_text(proto_schema())
        command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{folder}", f"--descriptor_set_out={folder}/set"]
        subprocess.run([*command, "reading.proto"], check=True, capture_output=True, timeout=60)
        (file,) = descriptor_pb2.FileDescriptorSet.FromString((Path(folder) / "set").read_bytes()).file
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)  # type: ignore[no-untyped-call]
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("bifrost.Reading"))


def encoder(form: str, **own: Any) -> MessageEncoder:
    registry = {} if form == "json" else {"registry": {"endpoint": "http://registry"}}
    return MessageEncoder(KafkaSettings.model_validate({"format": form} | registry | own))


def test_protobuf_says_what_the_table_says() -> None:
    batch = Source().samples()
    made = encoder("protobuf").encode(batch, {"bifrost.readings": 258})
    for value, row in zip(made.values, table(batch).to_pylist(), strict=True):
        assert value[:6] == b"\0\0\0\1\2\0"
        message = reading().FromString(value[6:])
        for name in set(TABLE.names) - {"date"}:
            absent = TABLE.field(name).nullable and message.DESCRIPTOR.fields_by_name[name].has_presence
            found = None if absent and not message.HasField(name) else getattr(message, name)
            assert found == plain(row[name]) or (isinstance(found, float) and same(found, row[name]))


def same(found: float, expected: float) -> bool:
    return found == expected or (math.isnan(found) and math.isnan(expected))


@pytest.mark.parametrize(("form", "before"), [("avro", b"\0\0\0\0\7"), ("protobuf", b"\0\0\0\0\7\0")])
def test_each_topic_has_the_number_of_its_own_schema(form: str, before: bytes) -> None:
    assert framing(form, 7) == before
    source = Source()
    tags = [source.tag(i, site=site) for i, site in enumerate(["a", "b"])]
    batch = source.batch([1.0, 2.0, 3.0], tags=[tags[0], tags[1], tags[0]])
    made = encoder(form, topic="{site}").encode(batch, {"a": 7, "b": 8})
    assert made.topics == ["a", "b", "a"]
    assert [value[4] for value in made.values] == [7, 8, 7]


def test_names_of_another_tag_table_are_not_taken_for_those_of_the_last() -> None:
    one = encoder("json", key="{tag_name}")
    for number in range(3):
        source = Source()
        batch = source.batch([1.0], tags=[source.tag(0, tag_name=f"tag {number}")])
        assert one.encode(batch, {}).keys == [f"tag {number}"]


def test_some_of_the_messages_are_the_same_messages() -> None:
    made = encoder("json").encode(Source().batch([1.0, 2.0, 3.0]), {})
    some = made.only([2, 0])
    assert (some.values, some.times, some.keys) == (
        [made.values[2], made.values[0]],
        [made.times[2], made.times[0]],
        [made.keys[2], made.keys[0]],
    )
    assert [dict(headers or [])["sequence"] for headers in some.headers()] == ["2", "0"]
