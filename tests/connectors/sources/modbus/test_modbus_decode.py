"""Every type in every order, both ways, and the bytes of strings and bits."""

import itertools
import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.sources.modbus.datatypes import REGISTERS
from connectors.sources.modbus.decode import Decoder
from connectors.sources.modbus.plan import Kind, Point, plan
from normalization.reading import Columns, Tag, ValueType
from tests.recording_intake import RecordingIntake

FORMATS = {
    "int16": ">h",
    "uint16": ">H",
    "int32": ">i",
    "uint32": ">I",
    "int64": ">q",
    "uint64": ">Q",
    "float32": ">f",
    "float64": ">d",
}
ORDERS = list(itertools.product(["big", "little"], repeat=2))


def encode(type_: str, value: float, byte_order: str, word_order: str) -> bytes:
    """The registers of a value as a device sends them; written from the definition, register by register."""
    network = struct.pack(FORMATS[type_], value)
    registers = [network[i : i + 2] for i in range(0, len(network), 2)]
    if word_order == "little":
        registers.reverse()
    return b"".join(r if byte_order == "big" else r[::-1] for r in registers)


def decode(points: list[Point], data: bytes) -> dict[int, tuple[ValueType, object]]:
    """Type and value of each point, out of one block."""
    (block,) = plan(points, max_gap=100)  # one request
    rows = Columns()
    Decoder([block], points, range(len(points))).decode(data, rows)
    intake = RecordingIntake()
    assert len(rows) == len(points)
    intake = RecordingIntake()
    order, rows.tag = rows.tag, [intake.tag(Tag("s", "modbus", "1", "a", "t"))] * len(rows)
    intake.appended.append((rows, None))
    return {i: (reading.type, reading.value) for i, reading in zip(order, intake.readings(), strict=True)}


CASES = [
    ("int16", -2, "fffe"),
    ("int16", 0x1234, "1234"),
    ("uint16", 0xFFFE, "fffe"),
    ("int32", -2, "fffffffe"),
    ("uint32", 0x01020304, "01020304"),
    ("int64", -(2**63), "8000000000000000"),
    ("uint64", 2**64 - 2, "fffffffffffffffe"),
    ("uint64", 0x0102030405060708, "0102030405060708"),
    ("float32", 3.25, "40500000"),
    ("float64", -0.1, "bfb999999999999a"),
]


@pytest.mark.parametrize(("type_", "value", "network"), CASES)
@pytest.mark.parametrize(("byte_order", "word_order"), ORDERS)
def test_each_type_in_each_order(type_, value, network, byte_order, word_order):
    assert encode(type_, value, "big", "big").hex() == network
    point = Point(1, Kind.HOLDING, 7, REGISTERS[type_], type_, byte_order, word_order)
    assert decode([point], encode(type_, value, byte_order, word_order))[0][1] == value


@pytest.mark.parametrize(
    ("orders", "wire"),
    [
        (("big", "big"), "01020304"),  # ABCD
        (("big", "little"), "03040102"),  # CDAB
        (("little", "big"), "02010403"),  # BADC
        (("little", "little"), "04030201"),  # DCBA
    ],
)
def test_orders_are_those_that_vendors_call_abcd_cdab_badc_dcba(orders, wire):
    point = Point(1, Kind.INPUT, 0, 2, "uint32", *orders)
    assert decode([point], bytes.fromhex(wire)) == {0: (ValueType.INT64, 0x01020304)}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -0.0, 5e-324])
@pytest.mark.parametrize(("byte_order", "word_order"), ORDERS)
def test_floats_that_are_not_ordinary_numbers_stay_what_they_are(value, byte_order, word_order):
    point = Point(1, Kind.HOLDING, 0, 4, "float64", byte_order, word_order)
    (_, got) = decode([point], encode("float64", value, byte_order, word_order))[0]
    assert struct.pack(">d", got) == struct.pack(">d", value)


def value_of(type_: str) -> st.SearchStrategy[float]:
    size = 16 * REGISTERS[type_]
    if type_.startswith("float"):
        return st.floats(width=size, allow_nan=False)
    return st.integers(0, 2**size - 1) if type_[0] == "u" else st.integers(-(2 ** (size - 1)), 2 ** (size - 1) - 1)


typed = st.sampled_from(sorted(FORMATS)).flatmap(
    lambda t: st.tuples(st.just(t), value_of(t), st.sampled_from(ORDERS), st.integers(0, 3))
)


@given(st.lists(typed, min_size=1, max_size=17))
def test_what_is_encoded_comes_back_from_a_block_of_many_types_orders_and_gaps(values):
    data, points = b"", []
    for type_, value, orders, gap in values:
        data += b"" if not points else b"\xaa\x55" * gap
        points.append(Point(1, Kind.HOLDING, 1000 + len(data) // 2, REGISTERS[type_], type_, *orders))
        data += encode(type_, value, *orders)
    got = decode(points, data)
    assert [got[i][1] for i in range(len(points))] == [value for _, value, _, _ in values]
    kinds = {"f": ValueType.DOUBLE, "i": ValueType.INT64, "u": ValueType.INT64}
    for i, (type_, *_) in enumerate(values):
        assert got[i][0] == (ValueType.UINT64 if type_ == "uint64" else kinds[type_[0]])


@given(st.binary(min_size=1, max_size=250), st.data())
def test_coils_are_the_bits_of_the_answer_from_the_lowest(data, draw):
    count = draw.draw(st.integers((len(data) - 1) * 8 + 1, len(data) * 8))
    points = [Point(1, Kind.COIL, 40 + a, type="bit") for a in range(count)]
    got = decode(points, data)
    assert [got[a] for a in range(count)] == [
        (ValueType.BOOLEAN, bool(data[a // 8] >> (a % 8) & 1)) for a in range(count)
    ]


@pytest.mark.parametrize("byte_order", ["big", "little"])
@pytest.mark.parametrize("bit", range(16))
def test_bits_of_a_register(bit, byte_order):
    points = [Point(1, Kind.HOLDING, 5, type="uint16"), Point(1, Kind.HOLDING, 6, 1, "bit", byte_order, bit=bit)]
    for word in (1 << bit, 0xFFFF ^ (1 << bit)):
        data = b"\0\0" + word.to_bytes(2, byte_order)
        assert decode(points, data)[1] == (ValueType.BOOLEAN, bool(word >> bit & 1))


def test_two_values_on_the_same_registers_are_both_decoded():
    points = [
        Point(1, Kind.HOLDING, 0, 2, "float32"),
        Point(1, Kind.HOLDING, 0, 1, "uint16"),
        Point(1, Kind.HOLDING, 1, 1, "bit", bit=0),
        Point(1, Kind.HOLDING, 1, 1, "uint16"),
    ]
    values = decode(points, bytes.fromhex("40500001"))
    assert {i: value for i, (_, value) in values.items()} == {
        0: struct.unpack(">f", bytes.fromhex("40500001"))[0],
        1: 0x4050,
        2: True,
        3: 1,
    }


def text(data: bytes, length: int, encoding: str = "utf-8", byte_order: str = "big") -> Columns:
    point = Point(1, Kind.HOLDING, 0, (length + 1) // 2, "string", byte_order, length=length, encoding=encoding)
    rows = Columns()
    Decoder(plan([point]), [point], [0]).decode(data, rows)
    return rows


@pytest.mark.parametrize(
    ("data", "length", "encoding", "byte_order", "value"),
    [
        (b"PUMP", 4, "ascii", "big", "PUMP"),
        (b"UPPM", 4, "ascii", "little", "PUMP"),
        (b"PUMP\0\0xx", 8, "utf-8", "big", "PUMP"),
        (b"PUMPxx", 5, "utf-8", "big", "PUMPx"),
        ("°C".encode(), 3, "utf-8", "big", "°C"),
        (b"\xb0C", 2, "latin-1", "big", "°C"),
        (b"\0\0\0\0", 4, "ascii", "big", ""),
    ],
)
def test_strings(data, length, encoding, byte_order, value):
    rows = text(data + b"\0" * (len(data) % 2), length, encoding, byte_order)
    assert (rows.type, rows.value_text, rows.reject) == ([ValueType.TEXT], [value], [None])


def test_a_string_that_is_not_in_its_encoding_becomes_a_reject_with_its_bytes():
    rows = text(b"\xff\xfeab", 4)
    assert rows.reject == ["not a string in utf-8"]
    assert rows.value_bytes == [b"\xff\xfeab"]


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (ValueType.BOOLEAN, [True, False]),
        (ValueType.INT64, [-5, 7]),
        (ValueType.UINT64, [2**64 - 1, 7]),
        (ValueType.DOUBLE, [1.5, -0.0]),
        (ValueType.TEXT, ["a", "°"]),
        (ValueType.BYTES, [b"a", b""]),
        (ValueType.NULL, [None, None]),
    ],
)
def test_many_readings_at_once_are_those_that_one_by_one_gives(kind, values):
    said = {"quality": 1, "status": 7, "source_time": 9}
    one, many = Columns(), Columns()
    for tag, value in enumerate(values):
        one.add(tag, value, unsigned=kind == ValueType.UINT64, **said)
    held = values
    if kind in {ValueType.BOOLEAN, ValueType.UINT64}:
        held = [int(v) - (2**64 if v > 2**63 else 0) for v in values]
    many.add_many([0, 1], kind, None if kind == ValueType.NULL else held, **said)
    assert one.to_batch([3, 4], 5).equals(many.to_batch([3, 4], 5))
