"""Readings as binary COPY, read back by a reader of that format of its own, and by the server itself elsewhere."""

import struct
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from connectors.targets.timescaledb.encode import COLUMNS, Copy, CopyEncoder
from normalization.reading import TAG_COLUMNS, Quality, ValueType
from tests.contract.readings import BASE_TIME, SAMPLES, Source

_EPOCH = 946_684_800_000_000
_NUMBERS = {
    "time": ">q", "received_time": ">q", "source_time": ">q", "sequence": ">q", "flags": ">i", "priority": ">i",
    "value": ">d", "value_int": ">q", "status": ">q",
}  # fmt: skip


def numeric(field: bytes) -> Decimal:
    count, weight, sign, scale = struct.unpack_from(">hhHh", field)
    digits = struct.unpack_from(f">{count}h", field, 8)
    assert (sign, scale, len(field)) == (0, 0, 8 + 2 * count)
    return sum((Decimal(digit) * 10_000 ** (weight - place) for place, digit in enumerate(digits)), Decimal(0))


def decode(payload: bytes) -> list[dict[str, Any]]:
    """The rows of a binary COPY, as PostgreSQL's documentation describes it."""
    assert payload[:11] == b"PGCOPY\n\xff\r\n\0"
    assert payload[11:19] == bytes(8)
    at, found = 19, []
    while (count := struct.unpack_from(">h", payload, at)[0]) != -1:
        at += 2
        assert count == len(COLUMNS)
        row: dict[str, Any] = {}
        for name in COLUMNS:
            (length,) = struct.unpack_from(">i", payload, at)
            at += 4
            if length < 0:
                row[name] = None
                continue
            field = payload[at : at + length]
            at += length
            if name in _NUMBERS:
                (row[name],) = struct.unpack(_NUMBERS[name], field)
                if name.endswith("time"):
                    row[name] += _EPOCH
            elif name == "value_uint":
                row[name] = numeric(field)
            else:
                row[name] = field if name == "value_bytes" else field.decode()
        found.append(row)
    assert at + 2 == len(payload)
    return found


def sound(made: Copy) -> list[dict[str, Any]]:
    assert (made.rejected, made.reasons) == ([], [])
    return decode(made.payload)


@pytest.fixture
def source() -> Source:
    return Source()


def expected(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """What the rows of a batch without NUL must hold."""
    facts = batch.set_column(
        batch.schema.get_field_index("source_time"), "source_time", batch.column("source_time").view(pa.int64())
    )
    facts = facts.set_column(
        facts.schema.get_field_index("received_time"), "received_time", facts.column("received_time").view(pa.int64())
    )
    made = []
    for item in facts.to_pylist():
        unsigned = item["type"] == ValueType.UINT64
        made.append(
            {name: item[name] for name in TAG_COLUMNS}
            | {n: item[n] for n in ("sequence", "flags", "priority", "value", "status", "gateway", "shard")}
            | {n: item[n] for n in ("value_text", "value_bytes", "properties", "source_time", "received_time")}
            | {
                "time": item["received_time"] if item["source_time"] is None else item["source_time"],
                "type": ValueType(item["type"]).name,
                "quality": Quality(item["quality"]).name,
                "value_int": None if unsigned else item["value_int"],
                "value_uint": item["value_int"] % 2**64 if unsigned else None,
            }
        )
    return made


def same(found: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> bool:
    return [repr(sorted(row.items())) for row in found] == [
        repr(sorted((k, Decimal(v) if k == "value_uint" and v is not None else v) for k, v in row.items()))
        for row in wanted
    ]


def test_every_kind_of_value_is_said_exactly(source: Source) -> None:
    batch = source.samples()
    assert same(sound(CopyEncoder().encode(batch)), expected(batch))


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda s: s.name)
def test_a_batch_of_one_kind_is_said_exactly(source: Source, sample: Any) -> None:
    batch = source.batch([sample.value] * 3, unsigned=[sample.unsigned] * 3)
    assert same(sound(CopyEncoder().encode(batch)), expected(batch))


@pytest.mark.parametrize("number", [0, 1, 9_999, 10_000, 10**8, 10**16 + 1, 2**63 - 1, 2**63, 2**64 - 1])
def test_unsigned_numbers_are_exact(source: Source, number: int) -> None:
    (row,) = sound(CopyEncoder().encode(source.batch([number], unsigned=[True])))
    assert (row["value_uint"], row["value_int"]) == (number, None)


def test_a_part_of_a_batch_is_said_like_a_batch(source: Source) -> None:
    batch = source.samples()
    encoder = CopyEncoder()
    whole = sound(encoder.encode(batch))
    parts = [row for start in range(0, len(batch), 4) for row in sound(encoder.encode(batch.slice(start, 4)))]
    assert repr(parts) == repr(whole)
    order = pa.array(np.arange(len(batch))[::-1].copy())
    assert repr(sound(encoder.encode(batch.take(order)))) == repr(whole[::-1])


def test_tags_that_come_later_and_other_tables_of_tags_are_learnt(source: Source) -> None:
    encoder = CopyEncoder()
    first = source.batch([1.0], tags=[source.tag(0)])
    later = source.batch([2.0, 3.0], tags=[source.tag(1), source.tag(0)])
    other = Source("gateway 2", "opcua-0-ffff")
    another = other.batch([4.0], tags=[other.tag(5)])
    for batch in (first, later, another, first):
        assert same(sound(encoder.encode(batch)), expected(batch))


def test_readings_of_several_gateways_and_shards_keep_theirs(source: Source) -> None:
    batch = source.batch([1.0, 2.0, 3.0])
    names = pa.DictionaryArray.from_arrays(pa.array([2, 0, 2], pa.int32()), pa.array(["a", "unused", 'b, "c"']))
    batch = batch.set_column(batch.schema.get_field_index("shard"), batch.schema.field("shard"), names)
    assert [row["shard"] for row in sound(CopyEncoder().encode(batch))] == ['b, "c"', "a", 'b, "c"']


@pytest.mark.parametrize("time", ["source_time", "received_time"])
def test_the_time_is_the_one_that_was_asked_for(source: Source, time: str) -> None:
    batch = source.batch([1.0, 2.0], source_times=[None, 5])
    received = BASE_TIME + 10**9
    assert [row["time"] for row in sound(CopyEncoder(time).encode(batch))] == (
        [received, 5] if time == "source_time" else [received, received]
    )


def test_a_text_with_a_nul_is_kept_in_bytes(source: Source) -> None:
    batch = source.batch(["a\0ü", "b", b"\0", "\0", ""])
    rows = sound(CopyEncoder().encode(batch))
    assert [(row["type"], row["value_text"], row["value_bytes"]) for row in rows] == [
        ("TEXT", None, "a\0ü".encode()),
        ("TEXT", "b", None),
        ("BYTES", None, b"\0"),
        ("TEXT", None, b"\0"),
        ("TEXT", "", None),
    ]


def test_names_and_properties_with_a_nul_are_refused_by_row(source: Source) -> None:
    tags = [source.tag(0), source.tag(1, tag_name="te\0mp"), source.tag(2)]
    batch = source.batch([1.0, 2.0, 3.0, 4.0], tags=[tags[0], tags[1], tags[2], tags[1]])
    properties = pa.array([None, None, '{"a":"\0"}', None])
    batch = batch.set_column(batch.schema.get_field_index("properties"), batch.schema.field("properties"), properties)
    made = CopyEncoder().encode(batch)
    assert made.rejected == [1, 2, 3]
    assert [reason.split()[0] for reason in made.reasons] == ["a", "`properties`", "a"]
    rest = CopyEncoder().encode(batch.take(pa.array([0])))
    assert len(sound(rest)) == 1


def micros(year: int) -> int:
    return int(np.datetime64(f"{year:04}-01-01", "us").astype(np.int64))


@pytest.mark.parametrize("name", ["source_time", "received_time"])
def test_times_that_the_server_cannot_say_are_refused_by_row(source: Source, name: str) -> None:
    times = [micros(1), -(2**63), 2**63 - 1, -210_866_803_200_000_001, -210_866_803_200_000_000, micros(9999)]
    batch = source.batch([1.0] * len(times))
    column = pa.array(times, pa.int64()).cast(pa.timestamp("us", "UTC"))
    batch = batch.set_column(batch.schema.get_field_index(name), batch.schema.field(name), column)
    made = CopyEncoder().encode(batch)
    assert made.rejected == [1, 2, 3]
    assert all(name in reason for reason in made.reasons)
    rest = sound(CopyEncoder().encode(batch.take(pa.array([0, 4, 5]))))
    assert [row[name] for row in rest] == [times[0], times[4], times[5]]
