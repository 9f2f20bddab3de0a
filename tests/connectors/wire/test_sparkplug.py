"""The Sparkplug B codec: values of every data type, there and back, and bytes that are none."""

import tracemalloc
import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.wire.sparkplug import Topic, parse_topic, rebirth_command
from connectors.wire.sparkplug_messages import decode_payload, message_class
from connectors.wire.sparkplug_values import (
    DataType,
    iso_time,
    metric_value,
    properties_of,
    quality_of,
    set_value,
)
from normalization.reading import Quality

Metric = message_class("Metric")


@pytest.mark.parametrize(
    ("topic", "expected"),
    [
        ("spBv1.0/G/NBIRTH/N", Topic("G", "NBIRTH", "N", "")),
        ("spBv1.0/G/DDATA/N/D", Topic("G", "DDATA", "N", "D")),
        ("spBv1.0/G/DDATA/N", None),
        ("spBv1.0/G/NDATA/N/D", None),
        ("spBv1.0/STATE/host", None),
        ("spBv1.0/G/XDATA/N", None),
        ("spBv1.0//NDATA/N", None),
        ("spAv1.0/G/NDATA/N", None),
    ],
)
def test_topics(topic: str, expected: Topic | None) -> None:
    """tck-id-topic-structure-namespace-a, tck-id-topic-structure-namespace-device-id-associated-message-types,
    tck-id-topic-structure-namespace-device-id-non-associated-message-types"""
    assert parse_topic(topic) == expected
    assert expected is None or str(expected) == topic


# Field numbers and wire types as the specification's appendix has them, written by hand: name 1, datatype 4, int 10,
# long 11, float 12, double 13, boolean 14, string 15, bytes 16.
@pytest.mark.parametrize(
    ("wire", "datatype", "expected"),
    [
        (b"\x50\xfb\x01", DataType.INT8, -5),  # 8-bit two's complement
        (b"\x50\xfb\xff\xff\xff\x0f", DataType.INT8, -5),  # 32-bit two's complement, as others send it
        (b"\x50\x80\x80\x02", DataType.INT16, -32768),
        (b"\x50\xff\xff\xff\xff\x0f", DataType.INT32, -1),
        (b"\x50\xff\xff\xff\xff\x0f", DataType.UINT32, 4294967295),
        (b"\x58\xff\xff\xff\xff\x0f", DataType.UINT32, 4294967295),  # in the long field, as Java and JavaScript do
        (b"\x58\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", DataType.INT64, -1),
        (b"\x58\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", DataType.UINT64, 2**64 - 1),
        (b"\x65\x00\x00\x00\x3f", DataType.FLOAT, 0.5),
        (b"\x69\x00\x00\x00\x00\x00\x00\xf8\x3f", DataType.DOUBLE, 1.5),
        (b"\x70\x01", DataType.BOOLEAN, True),
        (b"\x7a\x03h\xc3\xa9", DataType.STRING, "hé"),
        (b"\x7a\x03h\xc3\xa9", DataType.TEXT, "hé"),
        (b"\x58\x80\xd0\x95\xff\xbc\x31", DataType.DATETIME, "2023-11-14T22:13:20.000Z"),
        (b"\x58\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", DataType.DATETIME, "1969-12-31T23:59:59.999Z"),
        (b"\x82\x01\x02\x01\xff", DataType.BYTES, b"\x01\xff"),
        (b"\x82\x01\x04\xff\xff\x01\x00", DataType.INT16_ARRAY, [-1, 1]),
        (b"\x82\x01\x06\x0a\x00\x00\x00\xd5\x40", DataType.BOOLEAN_ARRAY, [c == "1" for c in "1101010101"]),
        (b"\x82\x01\x05ab\x00c\x00", DataType.STRING_ARRAY, ["ab", "c"]),
        (b"\x82\x01\x08\x00\x68\xe5\xcf\x8b\x01\x00\x00", DataType.DATETIME_ARRAY, ["2023-11-14T22:13:20.000Z"]),
        (b"\x38\x01\x50\x05", DataType.INT32, None),  # is_null wins over a value
        (b"", DataType.INT32, None),
    ],
)  # fmt: skip
def test_values_on_the_wire(wire: bytes, datatype: DataType, expected: Any) -> None:
    assert metric_value(Metric.FromString(wire), datatype) == expected


@pytest.mark.parametrize(
    ("wire", "datatype", "reason"),
    [
        (b"\x7a\x01\xff", DataType.STRING, "not UTF-8"),
        (b"\x7a\x015", DataType.INT32, "string_value where INT32 is declared"),
        (b"\x69\x00\x00\x00\x00\x00\x00\xf8\x3f", DataType.INT32, "double_value where INT32"),
        (b"\x82\x01\x03\x01\x02\x03", DataType.INT16_ARRAY, "3 bytes are no INT16_ARRAY"),
        (b"\x82\x01\x04\xff\xff\xff\xff", DataType.BOOLEAN_ARRAY, "shorter than its count"),
        (b"\x82\x01\x01a", DataType.STRING_ARRAY, "zero byte"),
    ],
)
def test_values_that_do_not_fit_are_refused(wire: bytes, datatype: DataType, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        metric_value(Metric.FromString(wire), datatype)


def _integers(bits: int, signed: bool) -> st.SearchStrategy[int]:
    return st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else st.integers(0, 2**bits - 1)


floats = st.floats(allow_nan=False, width=32)
doubles = st.floats(allow_nan=False)
SCALARS: dict[DataType, st.SearchStrategy[Any]] = {
    **{DataType[f"INT{bits}"]: _integers(bits, True) for bits in (8, 16, 32, 64)},
    **{DataType[f"UINT{bits}"]: _integers(bits, False) for bits in (8, 16, 32, 64)},
    DataType.FLOAT: floats,
    DataType.DOUBLE: doubles,
    DataType.BOOLEAN: st.booleans(),
    DataType.STRING: st.text(st.characters(codec="utf-8")),
    DataType.TEXT: st.text(st.characters(codec="utf-8")),
    DataType.UUID: st.uuids().map(str),
    DataType.BYTES: st.binary(),
    DataType.FILE: st.binary(),
    **{DataType[f"INT{bits}_ARRAY"]: st.lists(_integers(bits, True)) for bits in (8, 16, 32, 64)},
    **{DataType[f"UINT{bits}_ARRAY"]: st.lists(_integers(bits, False)) for bits in (8, 16, 32, 64)},
    DataType.FLOAT_ARRAY: st.lists(floats),
    DataType.DOUBLE_ARRAY: st.lists(doubles),
    DataType.BOOLEAN_ARRAY: st.lists(st.booleans()),
    DataType.STRING_ARRAY: st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"))),
}


@settings(deadline=None)
@given(st.sampled_from(sorted(SCALARS)).flatmap(lambda t: st.tuples(st.just(t), st.none() | SCALARS[t])))
def test_what_is_written_is_read(case: tuple[DataType, Any]) -> None:
    datatype, value = case
    metric = Metric(name="m")
    set_value(metric, datatype, value)
    read = Metric.FromString(metric.SerializeToString())
    assert metric_value(read, read.datatype) == value
    assert type(metric_value(read, read.datatype)) is type(value)


def test_times_are_written_as_milliseconds() -> None:
    for datatype, value, expected in (
        (DataType.DATETIME, -1, "1969-12-31T23:59:59.999Z"),
        (DataType.DATETIME_ARRAY, [0, 10**17], ["1970-01-01T00:00:00.000Z", 10**17]),
    ):
        metric = Metric()
        set_value(metric, datatype, value)
        assert metric_value(metric, datatype) == expected
    assert iso_time(1700000000123) == "2023-11-14T22:13:20.123Z"


@pytest.mark.parametrize(("datatype", "value"), [(DataType.INT8, 128), (DataType.UINT16, -1), (DataType.TEMPLATE, {})])
def test_values_that_a_type_cannot_hold_are_not_written(datatype: DataType, value: Any) -> None:
    with pytest.raises(ValueError, match=datatype.name):
        set_value(Metric(), datatype, value)


def test_data_sets_templates_and_property_sets_become_structures() -> None:
    metric = Metric(datatype=DataType.DATASET)
    metric.dataset_value.columns.extend(["n", "s"])
    metric.dataset_value.types.extend([DataType.INT8, DataType.STRING])
    row = metric.dataset_value.rows.add()
    row.elements.add(int_value=255)
    row.elements.add(string_value="x")
    expected = {"columns": ["n", "s"], "types": ["INT8", "STRING"], "rows": [[-1, "x"]]}
    assert metric_value(metric, DataType.DATASET) == expected

    outer = Metric(datatype=DataType.TEMPLATE)
    outer.template_value.template_ref = "Motor"
    outer.template_value.version = "2"
    outer.template_value.parameters.add(name="p", type=DataType.DOUBLE, double_value=1.5)
    outer.template_value.metrics.add(name="rpm", datatype=DataType.INT32, int_value=2**32 - 7)
    outer.template_value.metrics.add(name="table", datatype=DataType.DATASET).CopyFrom(metric)
    outer.template_value.metrics[1].name = "table"
    outer.template_value.metrics.add(name="none", datatype=DataType.INT32, is_null=True)
    assert metric_value(outer, DataType.TEMPLATE) == {
        "template": "Motor",
        "version": "2",
        "parameters": {"p": 1.5},
        "metrics": {"rpm": -7, "table": expected, "none": None},
    }

    outer.properties.keys.extend(["Quality", "nested"])
    outer.properties.values.add(type=DataType.INT32, int_value=500)
    nested = outer.properties.values.add(type=DataType.PROPERTYSET).propertyset_value
    nested.keys.append("k")
    nested.values.add(type=DataType.BOOLEAN, boolean_value=True)
    assert properties_of(outer) == {"Quality": 500, "nested": {"k": True}}


@pytest.mark.parametrize(
    ("properties", "expected"),
    [
        ({}, (Quality.GOOD, None)),
        ({"Quality": 192}, (Quality.GOOD, 192)),
        ({"Quality": 0}, (Quality.BAD, 0)),
        ({"Quality": 500}, (Quality.STALE, 500)),
        ({"Quality": "good"}, (Quality.GOOD, None)),
    ],
)
def test_quality(properties: dict[str, Any], expected: tuple[Quality, int | None]) -> None:
    assert quality_of(properties) == expected


def test_nesting_is_bounded() -> None:
    metric = Metric(name="m", datatype=DataType.TEMPLATE)
    inner = metric
    for _ in range(40):
        inner = inner.template_value.metrics.add(name="m", datatype=DataType.TEMPLATE)
    inner.int_value = 1
    with pytest.raises(ValueError, match="nested deeper"):
        metric_value(Metric.FromString(metric.SerializeToString()), DataType.TEMPLATE)


@pytest.mark.parametrize("wbits", [15, 31], ids=["deflate", "gzip"])
def test_compressed_payloads_are_unpacked(wbits: int) -> None:
    inner = message_class()(seq=7)
    packer = zlib.compressobj(wbits=wbits)
    body = packer.compress(inner.SerializeToString()) + packer.flush()
    outer = message_class()(uuid="SPBV1.0_COMPRESSED", body=body)
    assert decode_payload(outer.SerializeToString()).seq == 7
    for broken in (body[:-3], b"nonsense"):
        outer.body = broken
        with pytest.raises(ValueError, match="compressed payload"):
            decode_payload(outer.SerializeToString())


@pytest.mark.threat(17)
def test_a_compression_bomb_does_not_fill_the_memory() -> None:
    packer = zlib.compressobj(9, wbits=31)
    first = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    more = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)  # and so on, the same each time
    body = first + 1023 * more + packer.flush()  # 1 GB in 2 MB
    outer = message_class()(uuid="SPBV1.0_COMPRESSED", body=body).SerializeToString()
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="more than 16777216 bytes"):
            decode_payload(outer)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


def test_a_rebirth_command_is_what_the_specification_says() -> None:
    """tck-id-operational-behavior-data-commands-ncmd-rebirth-name,
    tck-id-operational-behavior-data-commands-ncmd-rebirth-value, tck-id-topics-ncmd-timestamp,
    tck-id-topics-ncmd-payload, tck-id-payloads-ncmd-timestamp, tck-id-payloads-ncmd-seq"""
    # bytes laid out by hand
    name = b"Node Control/Rebirth"
    metric = b"\x0a" + bytes([len(name)]) + name + b"\x18\x05" + b"\x20\x0b" + b"\x70\x01"
    assert rebirth_command(5) == b"\x08\x05" + b"\x12" + bytes([len(metric)]) + metric


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_break_the_decoder(data: bytes) -> None:
    try:
        payload = decode_payload(data)
        for metric in payload.metrics:
            metric_value(metric, metric.datatype)
            properties_of(metric)
    except ValueError:
        return
    assert payload.ByteSize() <= max(len(data), 16 << 20)
