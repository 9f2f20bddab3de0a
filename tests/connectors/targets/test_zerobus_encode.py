"""Encoding: protobuf and Arrow say exactly what the table of a batch says, within the service's limits."""

import datetime as dt
import itertools
import math
import struct
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import given
from hypothesis import strategies as st

from connectors.targets.zerobus.encode import (
    MAX_BYTES,
    MAX_RECORDS,
    arrow_sizes,
    missing,
    oversized,
    record_sizes,
    requests,
    to_arrow,
)
from connectors.targets.zerobus.schema import Column, TableColumn, descriptor, plan
from connectors.wire.protobuf import ProtobufEncoder, reading_columns
from normalization.reading import TABLE, Columns, Tag, TagTable, numbers, repeat, table, view

SQL = {
    pa.string(): "string",
    pa.int64(): "bigint",
    pa.int32(): "int",
    pa.float64(): "double",
    pa.date32(): "date",
    pa.timestamp("us", tz="UTC"): "timestamp",
    pa.binary(): "binary",
}
WHOLE = [TableColumn(f.name, SQL[f.type], f.nullable) for f in TABLE]
MICROSECOND = dt.timedelta(microseconds=1)
EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)

texts = st.text(max_size=40)
values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(),
    texts,
    st.binary(max_size=300),
    st.lists(st.one_of(st.integers(), st.floats(), texts), max_size=4),
    st.dictionaries(texts, st.integers(), max_size=3),
)
times = st.one_of(st.none(), st.integers(-(10**12), 2**52), st.just(1_760_000_000_000_000))
readings = st.lists(
    st.tuples(
        st.integers(0, 4),
        values,
        st.booleans(),
        st.integers(0, 4),
        st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)),
        times,
        st.integers(0, 31),
        st.one_of(st.none(), texts),
    ),
    min_size=1,
    max_size=12,
)


def stream_batch(
    rows: list[tuple[Any, ...]], tags: TagTable, *, sequence: int = 1, priority: int = 1
) -> pa.RecordBatch:
    columns = Columns()
    for tag, value, unsigned, quality, status, when, flags, properties in rows:
        number = tags.intern(
            Tag(f"src-{tag}", "modbus", f"plc {tag}", f"holding:{tag}", f"tag ü{tag}" * tag, unit="°C" * (tag % 2))
        )
        columns.add(
            number,
            value,
            unsigned=unsigned,
            quality=quality,
            status=status,
            source_time=when,
            flags=flags,
            properties=properties,
        )
    facts = columns.to_batch(np.full(len(rows), 1_760_000_000_123_456), sequence).columns
    n = len(rows)
    return view(
        facts,
        repeat("gateway", n),
        repeat("modbus-1-1", n),
        tags,
        numbers(facts[1], facts[2], facts[3]),
        pa.array(np.full(n, priority, np.int32)),
    )


def messages(columns: tuple[Column, ...], records: pa.BinaryArray) -> list[Any]:
    pool = descriptor_pool.DescriptorPool()
    pool.Add(descriptor_pb2.FileDescriptorProto.FromString(descriptor(columns)))
    kind = message_factory.GetMessageClass(pool.FindMessageTypeByName("Reading"))
    return [kind.FromString(record.as_py()) for record in records]


def plain(value: Any) -> Any:
    """A value as protobuf has it: dates in days, times in µs; floats by their bits, so that NaN equals NaN."""
    match value:
        case dt.datetime():
            return (value.replace(tzinfo=dt.UTC) - EPOCH) // MICROSECOND
        case dt.date():
            return (value - EPOCH.date()).days
        case float():
            return struct.pack("<d", math.nan if math.isnan(value) else value)
        case _:
            return value


def expected(batch: pa.RecordBatch, columns: tuple[Column, ...]) -> list[dict[str, Any]]:
    return [
        {c.field: plain(row[c.name]) for c in columns if row[c.name] is not None} for row in table(batch).to_pylist()
    ]


def decoded(columns: tuple[Column, ...], records: pa.BinaryArray) -> list[dict[str, Any]]:
    out = []
    for message in messages(columns, records):
        assert message.IsInitialized()
        out.append({field.name: plain(value) for field, value in message.ListFields()})
    return out


@given(readings, st.integers(0, 2**62), st.integers(-(2**31), 2**31 - 1))
def test_protobuf_says_what_the_table_says_for_every_type_of_value(rows, sequence, priority):
    batch = stream_batch(rows, TagTable(), sequence=sequence, priority=priority)
    columns = plan(WHOLE).columns
    records = ProtobufEncoder(columns).encode(reading_columns(batch), batch.num_rows)
    assert decoded(columns, records) == expected(batch, columns)


@given(readings, st.data())
def test_any_part_and_order_of_the_columns_can_be_sent(rows, data):
    some = data.draw(st.lists(st.sampled_from(WHOLE), min_size=1, unique=True))
    wide = {"flags": "bigint", "source_time": "timestamp_ntz", "priority": "bigint"}
    some = [TableColumn(c.name.upper(), wide.get(c.name, c.type), c.nullable) for c in some]
    batch = stream_batch(rows, TagTable())
    start = data.draw(st.integers(0, len(rows) - 1))
    batch = batch.slice(start)
    fitting = plan(some)
    assert not fitting.problems
    records = ProtobufEncoder(fitting.columns).encode(reading_columns(batch), batch.num_rows)
    assert decoded(fitting.columns, records) == expected(batch, fitting.columns)
    sent = to_arrow(reading_columns(batch), fitting.columns, fitting.arrow)
    assert sent.schema.equals(fitting.arrow)
    assert [{k: plain(v) for k, v in row.items() if v is not None} for row in sent.to_pylist()] == expected(
        batch, fitting.columns
    )


@given(st.lists(readings, min_size=2, max_size=4))
def test_an_encoder_serves_a_growing_tag_table(batches):
    tags, columns = TagTable(), plan(WHOLE).columns
    encoder = ProtobufEncoder(columns)
    for rows in batches:
        batch = stream_batch(rows, tags)
        assert decoded(columns, encoder.encode(reading_columns(batch), batch.num_rows)) == expected(batch, columns)


def test_an_encoder_does_not_take_other_names_for_those_it_knows():
    columns = plan(WHOLE).columns
    encoder = ProtobufEncoder(columns)
    rows = [(1, 1.0, False, 0, None, None, 0, None)] * 3
    for _ in range(20):  # freed buffers are often given out again at the same address
        tags = TagTable()
        tags.intern(Tag(f"other {_}", "mqtt", "", "", "x"))
        batch = stream_batch(rows, tags)
        assert decoded(columns, encoder.encode(reading_columns(batch), 3)) == expected(batch, columns)


def test_names_that_a_users_step_left_null_are_left_out():
    columns = plan(WHOLE).columns
    batch = stream_batch([(1, 1.0, False, 0, None, None, 0, None), (2, 2.0, False, 0, None, None, 0, None)], TagTable())
    place = batch.schema.get_field_index("line")
    line = pa.DictionaryArray.from_arrays(pa.array([None, 0], pa.int32()), pa.array(["line 1"]))
    batch = batch.set_column(place, batch.schema.field(place), line)
    records = ProtobufEncoder(columns).encode(reading_columns(batch), 2)
    assert [row.get("line") for row in decoded(columns, records)] == [None, "line 1"]


def test_arrow_is_the_table_itself():
    batch = stream_batch(
        [(i, v, False, i % 5, i, i, i, None) for i, v in enumerate([1.5, math.nan, "x", b"y"])], TagTable()
    )
    fitting = plan(WHOLE)
    sent = to_arrow(reading_columns(batch), fitting.columns, fitting.arrow)
    assert sent.schema.equals(TABLE, check_metadata=False)
    for name in TABLE.names:
        assert sent.column(name).to_pylist().__repr__() == table(batch).column(name).to_pylist().__repr__()


def test_a_reading_without_a_value_the_service_insists_on_is_named():
    strict = plan([TableColumn("value", "double", nullable=False), TableColumn("status", "bigint", nullable=False)])
    rows = [
        (0, 1.0, False, 0, 5, None, 0, None),
        (0, "text", False, 0, 5, None, 0, None),
        (0, 1, False, 0, None, None, 0, None),
    ]
    refused = missing(reading_columns(stream_batch(rows, TagTable())), strict.columns)
    assert sorted(refused) == [1, 2]
    assert "`value`" in refused[1]
    assert "`status`" in refused[2]


@pytest.mark.parametrize("wire", ["protobuf", "arrow"])
def test_only_the_record_that_is_too_large_is_named(wire):
    rows = [(0, b"x" * size, False, 0, None, None, 0, None) for size in (10, MAX_BYTES + 1, MAX_BYTES // 2, 10)]
    fitting, found = plan(WHOLE), reading_columns(stream_batch(rows, TagTable()))
    if wire == "protobuf":
        sizes = record_sizes(ProtobufEncoder(fitting.columns).encode(found, 4))
    else:
        sizes = arrow_sizes(to_arrow(found, fitting.columns, fitting.arrow))
    assert list(oversized(sizes)) == [1]


@given(st.lists(st.integers(1, MAX_BYTES), max_size=60))
def test_requests_hold_every_row_once_within_the_bytes(sizes):
    cuts = list(requests(np.array(sizes, np.int64)))
    assert [row for start, stop in cuts for row in range(start, stop)] == list(range(len(sizes)))
    assert all(sum(sizes[start:stop]) <= MAX_BYTES for start, stop in cuts)
    assert all(sum(sizes[a:b]) + sizes[b] > MAX_BYTES for (a, b), _ in itertools.pairwise(cuts))


def test_requests_are_cut_at_the_number_of_records():
    cuts = list(requests(np.full(2 * MAX_RECORDS + 5, 10, np.int64)))
    assert cuts == [(0, MAX_RECORDS), (MAX_RECORDS, 2 * MAX_RECORDS), (2 * MAX_RECORDS, 2 * MAX_RECORDS + 5)]
