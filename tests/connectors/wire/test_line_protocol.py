"""Line protocol: what is encoded is read back equal by a parser of the tests' own, or refused with a reason."""

import base64
import math
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.wire.line_protocol import (
    NO_FIELD,
    NOT_FINITE,
    NOT_WRITABLE,
    TOO_LARGE,
    LineEncoder,
    LineFormat,
)
from normalization.reading import ValueType
from tests.connectors.wire.line_parser import Line, parse_lines
from tests.contract.readings import BASE_TIME, SAMPLES, Source

PLAIN = LineFormat(tags=("path",), fields=())


def lines(encoder: LineEncoder, batch: pa.RecordBatch) -> list[Line]:
    return parse_lines(encoder.encode(batch).payload.decode())


def test_a_line_reads_as_written() -> None:
    source = Source()
    encoder = LineEncoder(LineFormat(tags=("path", "unit", "gateway"), fields=("quality", "sequence")))
    encoded = encoder.encode(source.batch([21.5, 3, True, "läuft"]))
    head = "reading,path=plant\\ 1/area\\,A/line\\=1/press{0}/temperature/temp\\ {0},unit=°C,gateway=gateway\\ 1"
    ends = [
        f'value=21.5,quality="GOOD",sequence=0i {BASE_TIME}000',
        f'value_int=3i,quality="GOOD",sequence=1i {BASE_TIME + 1001}000',
        f'value_bool=true,quality="GOOD",sequence=2i {BASE_TIME + 2002}000',
        f'value_text="läuft",quality="GOOD",sequence=3i {BASE_TIME + 3003}000',
    ]
    assert encoded.payload.decode() == "".join(f"{head.format(i)} {end}\n" for i, end in enumerate(ends))
    assert encoded.rejected == []


def test_every_sample_comes_back_equal_or_is_refused() -> None:
    batch = Source().samples()
    encoder = LineEncoder(LineFormat(tags=("path",), fields=("quality", "sequence", "status"), one_line=True))
    encoded = encoder.encode(batch)
    assert [SAMPLES[row].name for row in encoded.rejected] == ["nan", "inf", "-inf"]
    assert encoded.reasons == [NOT_FINITE] * 3
    assert encoded.payload.count(b"\n") == len(SAMPLES) - 3
    found = {line.fields.pop("sequence"): line for line in parse_lines(encoded.payload.decode())}
    for row, sample in enumerate(SAMPLES):
        if row in encoded.rejected:
            continue
        fields = found[row].fields
        status = fields.pop("status", None)
        if sample.value is None:
            assert fields == {"quality": "BAD"}
            assert status == 0x80050000
            continue
        [value] = [value for name, value in fields.items() if name != "quality"]
        expected = base64.b64encode(sample.value).decode() if isinstance(sample.value, bytes) else sample.value
        if not isinstance(sample.value, list | dict):
            assert (type(value), repr(value)) == (type(expected), repr(expected))


def test_a_reading_without_any_field_is_refused() -> None:
    encoded = LineEncoder(PLAIN).encode(Source().batch([1.0, None, 2.0]))
    assert encoded.rejected == [1]
    assert encoded.reasons == [NO_FIELD]
    assert [line.fields for line in parse_lines(encoded.payload.decode())] == [{"value": 1.0}, {"value": 2.0}]


def test_a_batch_of_nothing_that_can_be_written_is_empty() -> None:
    encoded = LineEncoder(PLAIN).encode(Source().batch([math.nan, None]))
    assert (encoded.payload, encoded.rejected) == (b"", [0, 1])
    assert LineEncoder().encode(Source().batch([1.0])[:0]).payload == b""


def test_integers_above_the_signed_range_are_refused_where_the_server_has_no_unsigned() -> None:
    batch = Source().batch([2**64 - 1, 5], unsigned=[True, True])
    encoded = LineEncoder(LineFormat(tags=("path",), fields=(), unsigned=False)).encode(batch)
    assert (encoded.rejected, encoded.reasons) == ([0], [TOO_LARGE])
    assert [line.fields for line in parse_lines(encoded.payload.decode())] == [{"value_uint": 5}]
    assert [line.fields for line in lines(LineEncoder(PLAIN), batch)] == [{"value_uint": 2**64 - 1}, {"value_uint": 5}]


def test_names_that_cannot_be_written_are_refused_and_their_neighbors_are_not() -> None:
    source = Source()
    tags = [
        source.tag(i, path=path) for i, path in enumerate(["good", "two\nlines", "ends\\", "return\r", "back\\slash"])
    ]
    encoded = LineEncoder(PLAIN).encode(source.batch([1.0] * 5, tags=tags))
    assert (encoded.rejected, encoded.reasons) == ([1, 2, 3], [NOT_WRITABLE] * 3)
    assert [line.tags["path"] for line in parse_lines(encoded.payload.decode())] == ["good", "back\\slash"]
    bad_gateway = Source("gate\nway")
    encoded = LineEncoder(LineFormat(tags=("gateway",))).encode(bad_gateway.batch([1.0]))
    assert encoded.rejected == [0]


def test_empty_tags_are_left_out_and_an_empty_measurement_has_a_name() -> None:
    source = Source()
    tags = [source.tag(0, unit="", signal_type=""), source.tag(1)]
    form = LineFormat(measurement="{signal_type}", tags=("unit", "equipment"))
    found = lines(LineEncoder(form), source.batch([1.0, 2.0], tags=tags))
    assert [(line.measurement, line.tags) for line in found] == [("reading", {}), ("temperature", {"unit": "°C"})]


def test_tags_that_are_new_in_a_later_batch_are_learned() -> None:
    source = Source()
    encoder = LineEncoder(PLAIN)
    for count in (1, 3, 2, 6):
        tags = [source.tag(i, path=f"p{i}") for i in range(count)]
        assert [line.tags["path"] for line in lines(encoder, source.batch([1.0] * count, tags=tags))] == [
            f"p{i}" for i in range(count)
        ]


def test_the_tags_of_another_process_are_not_taken_for_known_ones() -> None:
    encoder = LineEncoder(PLAIN)
    for path in ("first", "second"):
        source = Source()
        assert lines(encoder, source.batch([1.0], tags=[source.tag(0, path=path)]))[0].tags == {"path": path}


def test_readings_of_several_gateways_keep_theirs() -> None:
    batch = Source().batch([1.0, 2.0, 3.0])
    position = batch.schema.get_field_index("gateway")
    gateways = pa.DictionaryArray.from_arrays(pa.array([1, 0, 1], pa.int32()), pa.array(["a b", "c"]))
    batch = batch.set_column(position, batch.schema.field(position), gateways)
    found = lines(LineEncoder(LineFormat(tags=("gateway",), fields=("gateway",))), batch)
    assert [(line.tags["gateway"], line.fields["gateway"]) for line in found] == [
        ("c", "c"),
        ("a b", "a b"),
        ("c", "c"),
    ]


@pytest.mark.parametrize(
    ("precision", "expected"),
    [
        ("ns", [-1_000, 1_999_999_000, 1_790_000_000_123_456_000]),
        ("us", [-1, 1_999_999, 1_790_000_000_123_456]),
        ("ms", [-1, 1_999, 1_790_000_000_123]),
        ("s", [-1, 1, 1_790_000_000]),
    ],
)
def test_times_are_rounded_down_to_the_precision(precision: Any, expected: list[int]) -> None:
    batch = Source().batch([1.0] * 3, source_times=[-1, 1_999_999, 1_790_000_000_123_456])
    found = lines(LineEncoder(LineFormat(tags=("path",), precision=precision)), batch)
    assert [line.time for line in found] == expected


def test_a_reading_without_source_time_has_the_time_of_its_receipt() -> None:
    batch = Source().batch([1.0, 2.0], source_times=[None, 5])
    assert [line.time for line in lines(LineEncoder(PLAIN), batch)] == [(BASE_TIME + 10**9) * 1000, 5000]


@pytest.mark.parametrize(
    "wrong",
    [
        {"measurement": "{nothing}"},
        {"tags": ("path", "value")},
        {"fields": ("quality", "path")},
        {"values": {ValueType.DOUBLE: "a b"}},
    ],
)
def test_a_format_that_cannot_be_is_refused_when_it_is_made(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"cannot|no column"):
        LineFormat(**wrong)


VALUES = st.one_of(
    st.floats(),
    st.integers(-(2**63), 2**64 - 1),
    st.booleans(),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    st.binary(max_size=8),
    st.none(),
)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(VALUES, NAMES), min_size=1, max_size=12))
def test_whatever_comes_is_read_back_equal_or_refused(readings: list[tuple[Any, str]]) -> None:
    source = Source()
    tags = [source.tag(row, path=name, source=name) for row, (_, name) in enumerate(readings)]
    batch = source.batch([value for value, _ in readings], tags=tags)
    encoded = LineEncoder(LineFormat(tags=("path", "source"), fields=("sequence",))).encode(batch)
    found = {line.fields.pop("sequence"): line for line in parse_lines(encoded.payload.decode())}
    refused = dict(zip(encoded.rejected, encoded.reasons, strict=True))
    assert set(found) | set(refused) == set(range(len(readings)))
    assert not set(found) & set(refused)
    for row, (value, name) in enumerate(readings):
        bad_name = "\n" in name or "\r" in name or name.endswith("\\")
        if row in refused:
            assert bad_name or (isinstance(value, float) and not math.isfinite(value))
            continue
        assert not bad_name
        assert found[row].tags == ({"path": name, "source": name} if name else {})
        values = list(found[row].fields.values())
        expected = base64.b64encode(value).decode() if isinstance(value, bytes) else value
        assert [(type(v), repr(v)) for v in values] == ([] if value is None else [(type(expected), repr(expected))])
