"""Protobuf payloads, by a descriptor file that protoc writes."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.contract import Checks, Context
from connectors.sources.mqtt import MqttConfig
from tests.connectors.sources.mqtt_decoding import Told, columns, rejects, told

T = 1_700_000_000
PROTO = """
syntax = "proto3";
package plant;
import "google/protobuf/timestamp.proto";
import "google/protobuf/wrappers.proto";
enum State { OFF = 0; ON = 1; }
message Sample {
  double value = 1;
  uint64 ts = 2;
  string quality = 3;
  optional string unit = 4;
}
message Report {
  string machine = 1;
  google.protobuf.Timestamp time = 2;
  repeated Sample samples = 3;
  map<string, double> levels = 4;
  State state = 5;
  optional int64 count = 6;
  google.protobuf.BoolValue running = 7;
  bytes raw = 8;
  repeated sint32 numbers = 9;
  Report inner = 10;
  repeated State states = 11;
  oneof either { float one = 12; string other = 13; }
}
"""


@pytest.fixture(scope="module")
def descriptor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("proto")
    (folder / "plant.proto").write_text(PROTO)
    out = folder / "plant.desc"
    command = [
        sys.executable,
        "-m",
        "grpc_tools.protoc",
        f"-I{folder}",
        "--include_imports",
        f"--descriptor_set_out={out}",
    ]
    subprocess.run([*command, "plant.proto"], check=True)
    return out


@pytest.fixture(scope="module")
def messages(descriptor: Path) -> Any:
    """Makes messages of plant.proto, by their names."""
    pool = DescriptorPool()
    for file in FileDescriptorSet.FromString(descriptor.read_bytes()).file:
        pool.Add(file)
    return lambda name, **fields: GetMessageClass(pool.FindMessageTypeByName(f"plant.{name}"))(**fields)


def test_a_sample_is_read_with_what_its_sender_did_not_set(descriptor: Path, messages: Any) -> None:
    settings = {"format": "protobuf", "descriptor": descriptor, "message": "plant.Sample", "timestamp_format": "s"}
    payload = messages("Sample", value=21.5, ts=T, quality="good", unit="C").SerializeToString()
    assert told(payload, **settings) == [Told("press", 21.5, T * 10**6, unit="C")]
    zero = messages("Sample", value=0, ts=T).SerializeToString()
    assert told(zero, **settings) == [Told("press", 0.0, T * 10**6)]


def test_all_kinds_of_fields_are_read(descriptor: Path, messages: Any) -> None:
    settings = {"format": "protobuf", "descriptor": descriptor, "message": "plant.Report"}
    report = messages("Report", machine="m1", state=1, count=-(2**63), raw=b"\xff\x00", numbers=[1, -2], states=[0, 7])
    report.time.FromMicroseconds(T * 10**6 + 5)
    report.levels["a"] = 1.5
    report.running.value = False
    report.inner.machine = "m2"
    report.other = "x"
    found = {one.name: one.value for one in told(report.SerializeToString(), **settings)}
    assert {one.time for one in told(report.SerializeToString(), **settings)} == {T * 10**6 + 5}
    assert found == {
        "machine": "m1", "levels.a": 1.5, "state": "ON", "count": -(2**63), "running": False, "raw": b"\xff\x00",
        "numbers": "[1,-2]", "inner.machine": "m2", "inner.samples": "[]", "inner.levels": "{}", "inner.state": "OFF",
        "inner.raw": b"", "inner.numbers": "[]", "inner.states": "[]", "samples": "[]", "states": '["OFF",7]', "other": "x",
    }  # fmt: skip


@settings(deadline=None)
@given(values=st.lists(st.tuples(st.floats(allow_nan=False), st.integers(0, 2 * 10**9)), min_size=1, max_size=60))
def test_arrays_of_samples_come_back(descriptor: Path, messages: Any, values: list[tuple[float, int]]) -> None:
    settings = {"format": "protobuf", "descriptor": descriptor, "message": "plant.Report", "timestamp_format": "s"}
    samples = [messages("Sample", value=value, ts=when) for value, when in values]
    payload = messages("Report", samples=samples).SerializeToString()
    found = told(payload, value="samples[*].value", timestamp="samples[*].ts", **settings)
    assert [(repr(one.value), one.time) for one in found] == [(repr(value), when * 10**6) for value, when in values]


@settings(deadline=None)
@given(payload=st.binary(max_size=80))
def test_no_bytes_break_a_decoder(descriptor: Path, payload: bytes) -> None:
    rows, _ = columns(payload, format="protobuf", descriptor=descriptor, message="plant.Report")
    assert len(rows) >= 1
    assert [raw for why, raw in zip(rows.reject, rows.value_bytes, strict=True) if why] in ([], [payload])


def test_hostile_payloads_are_rejects_with_their_bytes(descriptor: Path) -> None:
    nested = b""
    for _ in range(300):
        size, head = len(nested), b""
        while size > 127:
            head, size = head + bytes([size & 127 | 128]), size >> 7
        nested = b"\x52" + head + bytes([size]) + nested
    for payload in (b"\x0a\xff\xff\xff\xff\x0f", b"\x0a\x02\xff\xfe", b"\x0a\x05ab", b"\xff" * 20, nested):
        ((reason, raw),) = rejects(payload, format="protobuf", descriptor=descriptor, message="plant.Report")
        assert raw == payload
        assert reason.startswith("not a plant.Report")


def test_a_descriptor_that_cannot_be_used_is_an_error_that_names_it(descriptor: Path, tmp_path: Path) -> None:
    alone = FileDescriptorSet.FromString(descriptor.read_bytes())
    del alone.file[:-1]
    (tmp_path / "alone.desc").write_bytes(alone.SerializeToString())
    (tmp_path / "text.desc").write_text(PROTO)
    for file, message, words in [
        (descriptor, "plant.Other", r"has no message plant\.Other"),
        (tmp_path / "none.desc", "plant.Sample", "No such file"),
        (tmp_path / "text.desc", "plant.Sample", "holds no descriptors"),
        (tmp_path / "alone.desc", "plant.Report", "with all it needs"),
    ]:
        with pytest.raises(ValueError, match=words) as refused:
            columns(b"\x01", format="protobuf", descriptor=file, message=message)
        assert str(file) in str(refused.value)


async def test_a_check_names_the_descriptor_that_cannot_be_used(tmp_path: Path) -> None:
    rule = {"topic": "a", "format": "protobuf", "descriptor": tmp_path / "none.desc", "message": "plant.Sample"}
    settings = MqttConfig.model_validate({"name": "s", "endpoint": "mqtt://b", "subscriptions": [rule]})
    reader = settings.reader(Context("gw", tmp_path))
    assert isinstance(reader, Checks)
    (finding,) = await reader.check()
    assert (finding.ok, "none.desc: No such file" in finding.detail) == (False, True)
