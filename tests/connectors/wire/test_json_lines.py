"""JSON lines: every line is JSON, and says exactly what was read."""

import base64
import json
import math
from typing import Any

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.wire.json_lines import JsonLinesEncoder
from tests.contract.readings import Source


def items(payload: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in payload.decode().split("\n")[:-1]]


def test_a_line_reads_as_written() -> None:
    line = JsonLinesEncoder().encode(Source().batch([21.5])).decode()
    assert line == (
        '{"gateway":"gateway 1","shard":"modbus-0-a1b2","sequence":0,"source_time":"2026-09-21T14:13:20.123456Z",'
        '"received_time":"2026-09-21T14:30:00.123456Z","source":"plc0","protocol":"modbus","device_id":"1",'
        '"address":"40000","tag_name":"temp 0","unit":"°C","path":"plant 1/area,A/line=1/press0/temperature/temp 0",'
        '"site":"plant 1","signal_type":"temperature","type":"DOUBLE","value":21.5,"quality":"GOOD","priority":1}\n'
    )


def test_what_is_null_or_empty_is_left_out_but_the_value() -> None:
    [item] = items(JsonLinesEncoder().encode(Source().batch([None], source_times=[None])))
    assert item["value"] is None
    assert item["status"] == 0x80050000
    assert not {"source_time", "properties", "area", "metadata"} & set(item)


def test_json_that_is_not_json_is_a_text() -> None:
    source = Source()
    batch = source.batch([[1], [2]])
    position = batch.schema.get_field_index("value_text")
    texts = pa.array(["[1,", '{"a":\n1}'])
    broken = batch.set_column(position, batch.schema.field(position), texts)
    assert [item["value"] for item in items(JsonLinesEncoder().encode(broken))] == ["[1,", {"a": 1}]


def test_times_before_and_after_the_usual_are_written() -> None:
    times = [-1, 0, 86_400_000_000 - 1, 253_402_300_799_999_999]
    found = items(JsonLinesEncoder().encode(Source().batch([1.0] * 4, source_times=times)))
    assert [item["source_time"] for item in found] == [
        "1969-12-31T23:59:59.999999Z",
        "1970-01-01T00:00:00.000000Z",
        "1970-01-01T23:59:59.999999Z",
        "9999-12-31T23:59:59.999999Z",
    ]


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
VALUES = st.one_of(st.floats(), st.integers(-(2**63), 2**64 - 1), st.booleans(), TEXT, st.binary(max_size=8), st.none())


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(VALUES, TEXT), min_size=1, max_size=12), TEXT)
def test_whatever_comes_is_read_back_equal(readings: list[tuple[Any, str]], gateway: str) -> None:
    source = Source(gateway)
    tags = [source.tag(row, path=name) for row, (_, name) in enumerate(readings)]
    found = items(JsonLinesEncoder().encode(source.batch([value for value, _ in readings], tags=tags)))
    assert len(found) == len(readings)
    for item, (value, name) in zip(found, readings, strict=True):
        assert item["gateway"] == gateway
        assert item.get("path", "") == name
        if isinstance(value, float) and not math.isnan(value):
            assert repr(float(item["value"])) == repr(value)
        elif isinstance(value, float):
            assert (item["type"], item["value"]) == ("DOUBLE", "NaN")
        elif isinstance(value, bytes):
            assert base64.b64decode(item["value"]) == value
        else:
            assert (type(item["value"]), item["value"]) == (type(value), value)
