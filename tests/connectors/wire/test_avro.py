"""Avro: records say exactly what the table of a batch says, read by fastavro with the schema as it is registered."""

import datetime as dt
import io
import json
import math
import struct
from typing import Any

import fastavro
import numpy as np
from hypothesis import given

from connectors.wire.avro import FIELDS, AvroEncoder, schema
from normalization.reading import TABLE, TagTable, table
from tests.connectors.targets.test_zerobus_encode import readings, stream_batch
from tests.contract.readings import Source

SCHEMA = fastavro.parse_schema(json.loads(schema()))
EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def decoded(record: bytes) -> dict[str, Any]:
    stream = io.BytesIO(record)
    found = fastavro.schemaless_reader(stream, SCHEMA, None)
    assert stream.read() == b""
    assert isinstance(found, dict)
    return found


def plain(value: Any) -> Any:
    """Times in µs, floats by their bits, so that NaN equals NaN."""
    if isinstance(value, dt.datetime):
        return (value.replace(tzinfo=dt.UTC) - EPOCH) // dt.timedelta(microseconds=1)
    if isinstance(value, float):
        return struct.pack("<d", math.nan if math.isnan(value) else value)
    return value


def test_the_schema_has_every_column_but_that_of_the_partition() -> None:
    assert sorted(FIELDS) == sorted(set(TABLE.names) - {"date"})


@given(readings, readings)
def test_records_say_what_the_table_says(first: list[tuple[Any, ...]], second: list[tuple[Any, ...]]) -> None:
    tags, encoder = TagTable(), AvroEncoder()
    for rows in (first, second):
        batch = stream_batch(rows, tags)
        expected = [
            {name: plain(row[name]) for name in FIELDS} for row in table(batch).select(list(FIELDS)).to_pylist()
        ]
        found = [decoded(record.as_py()) for record in encoder.encode(batch)]
        assert [{name: plain(row[name]) for name in FIELDS} for row in found] == expected


def test_a_slice_is_encoded_as_itself_and_something_may_stand_before_each() -> None:
    batch = Source().batch([1.0, "two", None, 4, b"5", True, [6]])
    encoder = AvroEncoder()
    whole = encoder.encode(batch).to_pylist()
    assert encoder.encode(batch.slice(2, 4), b"\0\1").to_pylist() == [b"\0\1" + record for record in whole[2:6]]
    assert encoder.encode(batch.slice(0, 0)).to_pylist() == []


def test_two_tag_tables_are_not_mixed_up() -> None:
    encoder = AvroEncoder()
    for number in range(3):
        source = Source(gateway=f"gateway {number}")
        batch = source.batch([1.0], tags=[source.tag(0, path=f"path {number}")])
        found = decoded(encoder.encode(batch)[0].as_py())
        assert (found["gateway"], found["path"]) == (f"gateway {number}", f"path {number}")


def test_numbers_of_all_lengths() -> None:
    numbers = [sign * (2**bit + more) for bit in range(63) for more in (-1, 0, 1) for sign in (1, -1)]
    batch = Source().batch(numbers)
    assert [decoded(r.as_py())["value_int"] for r in AvroEncoder().encode(batch)] == numbers
    assert np.array(numbers).dtype == np.int64
