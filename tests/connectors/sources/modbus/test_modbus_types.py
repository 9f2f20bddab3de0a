"""The decoder of whole blocks against one that goes register by register, for every type, order and meaning."""

import itertools
import math
import random
import struct
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.sources.modbus import ModbusConfig
from connectors.sources.modbus.datatypes import INTEGERS, REGISTERS, Meaning, is_order, order_of
from connectors.sources.modbus.decode import Decoder
from connectors.sources.modbus.plan import Block, Kind, Point, plan
from normalization.reading import Columns, Quality, Tag
from tests.recording_intake import RecordingIntake

CODES = {"int": "bhiq", "uint": "BHIQ", "float": " efd"}
BAD = "not a number"


def one_by_one(point: Point, words: list[int]) -> tuple[Any, Quality]:
    """A value from its registers, as the definitions say it."""
    octets = b"".join(word.to_bytes(2, "big") for word in words)
    if point.type == "string":
        pairs = [word.to_bytes(2, point.byte_order) for word in words]
        return b"".join(pairs)[: point.length].split(b"\0")[0].decode(point.encoding), Quality.GOOD
    if point.type == "bit" or "8_" in point.type:
        word = int.from_bytes(words[0].to_bytes(2, "big"), point.byte_order)
        if point.type == "bit":
            return meaning_of(bool(word >> point.bit & 1), point.meaning)
        octet = word >> 8 if point.type.endswith("high") else word & 255
        return meaning_of(octet - 256 * (point.type[0] == "i" and octet > 127), point.meaning)
    order = point.order or order_of(len(words), point.byte_order, point.word_order)
    network = bytes(octets[order.index(letter)] for letter in sorted(order))
    if point.type.startswith("bcd"):
        digits = network.hex()
        return meaning_of(int(digits), point.meaning) if digits.isdecimal() else (BAD, Quality.BAD)
    name = point.type.rstrip("0123456789")
    code = CODES[name][{1: 1, 2: 2, 4: 3}[len(words)]]
    return meaning_of(struct.unpack(f">{code}", network)[0], point.meaning)


def meaning_of(raw: Any, meaning: Meaning) -> tuple[Any, Quality]:
    if any(
        raw == each or (math.isnan(each) and isinstance(raw, float) and math.isnan(raw)) for each in meaning.invalid
    ):
        return None, Quality.BAD
    if meaning.mask:
        raw = (raw & meaning.mask) >> ((meaning.mask & -meaning.mask).bit_length() - 1)
    if meaning.names:
        named = dict(meaning.names).get(raw)
        return (str(int(raw)), Quality.UNCERTAIN) if named is None else (named, Quality.GOOD)
    return (float(raw) / 10**meaning.decimals if meaning.decimals else raw), Quality.GOOD


def at_once(points: list[Point], blocks: list[Block], data: bytes) -> dict[int, tuple[Any, Quality]]:
    rows = Columns()
    Decoder(blocks, points, range(len(points))).decode(data, rows)
    intake = RecordingIntake()
    order = list(rows.tag)
    rows.tag = [intake.tag(Tag("s", "modbus", "1", "a", "t"))] * len(order)
    intake.appended.append((rows, None))
    found = zip(order, intake.readings(), strict=True)
    return {i: (BAD if r.reject else r.value, r.quality) for i, r in found}


def same(one: tuple[Any, Quality], other: tuple[Any, Quality]) -> bool:
    if isinstance(one[0], float) and isinstance(other[0], float):
        if math.isnan(one[0]) and math.isnan(other[0]):
            return one[1] == other[1]
        return struct.pack(">d", one[0]) == struct.pack(">d", other[0]) and one[1] == other[1]
    return one == other and type(one[0]) is type(other[0])


def some_meaning(chance: random.Random, kind: str) -> Meaning:
    width = 8 if "8_" in kind else 16 * REGISTERS[kind]
    choice = chance.choice(["plain", "plain", "invalid", "mask", "names", "decimals"])
    low, high = (-(2 ** (width - 1)), 2 ** (width - 1) - 1) if kind.startswith("int") else (0, 2**width - 1)
    numbers = [low, high, 0, 1, 3]
    if choice == "invalid" and kind.startswith("float"):
        return Meaning(invalid=(math.nan, 0.0))
    if kind not in INTEGERS:
        return Meaning(names=((0, "off"), (1, "on"))) if kind == "bit" and choice == "names" else Meaning()
    match choice:
        case "invalid":
            return Meaning(invalid=tuple(chance.sample(numbers, 2)))
        case "mask" if not kind.startswith("bcd"):
            return Meaning(mask=chance.randint(1, 2**width - 1))
        case "names":
            return Meaning(names=tuple(sorted({chance.choice(numbers): "a", chance.choice(numbers): "b"}.items())))
        case "decimals":
            return Meaning(decimals=chance.randint(1, 6))
    return Meaning()


def some_point(chance: random.Random) -> Point:
    kind = chance.choice([*REGISTERS, "string"])
    length = chance.randint(1, 8) if kind == "string" else 0
    size = REGISTERS.get(kind, (length + 1) // 2)
    letters, order = list("ABCDEFGH"[: 2 * size]), ""
    if kind in REGISTERS and kind != "bit" and "8_" not in kind and chance.random() < 0.5:
        chance.shuffle(letters)
        order = "".join(letters)
    bit = chance.randint(0, 15) if kind == "bit" else 0
    meaning = Meaning() if kind == "string" else some_meaning(chance, kind)
    orders = chance.choice(["big", "little"]), chance.choice(["big", "little"])
    return Point(1, Kind.HOLDING, chance.randint(0, 30), size, kind, *orders, bit, length, "latin-1", order, meaning)


SPECIAL = [0, 1, 3, 0x8000, 0x7FFF, 0xFFFF, 0x1234, 0x7FC0, 0x7F81, 0x7C01, 0x9999]


def some_words(chance: random.Random, count: int) -> list[int]:
    return [chance.choice(SPECIAL) if chance.random() < 0.4 else chance.randrange(65536) for _ in range(count)]


@settings(deadline=None)
@given(st.integers(0, 2**32))
def test_a_block_at_once_gives_what_its_registers_one_by_one_give(seed):
    chance = random.Random(seed)
    points, registers = [some_point(chance) for _ in range(chance.randint(1, 12))], some_words(chance, 64)
    blocks = plan(points, chance.randint(0, 3), chance.randint(4, 40))
    data = b"".join(word.to_bytes(2, "big") for block in blocks for word in registers[block.address : block.end])
    got = at_once(points, blocks, data)
    assert sorted(got) == list(range(len(points)))
    for i, each in enumerate(points):
        expected = one_by_one(each, registers[each.address : each.end])
        assert same(got[i], expected), (each, got[i], expected)


@pytest.mark.parametrize("kind", sorted(set(REGISTERS) - {"bit"}))
@pytest.mark.parametrize("orders", list(itertools.product(["big", "little"], repeat=2)), ids="-".join)
def test_a_whole_block_of_one_type_in_each_order(kind, orders):
    size, chance = REGISTERS[kind], random.Random(f"{kind}{orders}")
    for _ in range(20):
        registers = some_words(chance, 64)
        points = [Point(1, Kind.INPUT, at, size, kind, *orders) for at in range(0, 64, size)]
        got = at_once(points, plan(points), b"".join(word.to_bytes(2, "big") for word in registers))
        for i, each in enumerate(points):
            assert same(got[i], one_by_one(each, registers[each.address : each.end]))


@pytest.mark.parametrize("order", ["".join(p) for p in itertools.permutations("ABCD")])
def test_every_order_of_four_bytes(order):
    octets = dict(zip("ABCD", struct.pack(">f", -1234.5678), strict=True))
    wire = bytes(octets[letter] for letter in order)
    each = Point(1, Kind.HOLDING, 0, 2, "float32", order=order)
    assert at_once([each], plan([each]), wire)[0][0] == struct.unpack(">f", struct.pack(">f", -1234.5678))[0]


@pytest.mark.parametrize(
    "order", ["ABCDEFGH", "GHEFCDAB", "BADCFEHG", "HGFEDCBA", "CDABGHEF", "EFGHABCD", "DCBAHGFE", "FEHGBADC"]
)
@pytest.mark.parametrize(
    ("kind", "code", "value"), [("float64", ">d", -0.1), ("uint64", ">Q", 2**64 - 2), ("int64", ">q", -(2**60))]
)
def test_orders_of_eight_bytes_that_vendors_have(order, kind, code, value):
    octets = dict(zip("ABCDEFGH", struct.pack(code, value), strict=True))
    wire = bytes(octets[letter] for letter in order)
    each = Point(1, Kind.HOLDING, 0, 4, kind, order=order)
    assert at_once([each], plan([each]), wire)[0] == (value, Quality.GOOD)


def test_the_four_orders_by_byte_and_word_are_those_of_the_letters():
    assert [order_of(2, b, w) for w in ("big", "little") for b in ("big", "little")] == ["ABCD", "BADC", "CDAB", "DCBA"]
    assert order_of(4, "big", "little") == "GHEFCDAB"
    assert is_order("CDAB", 2)
    assert not is_order("CDAB", 4)
    assert not is_order("AACD", 2)


@settings(deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=100), st.integers(0, 2**32))
def test_blocks_of_several_tables_are_decoded_in_one_step(bits, seed):
    registers = some_words(random.Random(seed), 30)
    points = [Point(1, Kind.COIL, 7 + at, type="bit") for at in range(len(bits))]
    points += [Point(1, Kind.HOLDING, 100 + at, type="int16") for at in range(30)]
    points += [Point(1, Kind.INPUT, 100, 1, "bit", bit=3)]
    blocks = plan(points)
    coils = sum(bit << at for at, bit in enumerate(bits)).to_bytes((len(bits) + 7) // 8, "little")
    holding = b"".join(word.to_bytes(2, "big") for word in registers)
    got = at_once(points, blocks, coils + holding + b"\x00\x08")
    assert [got[at][0] for at in range(len(bits))] == bits
    assert [got[len(bits) + at][0] for at in range(30)] == [w - 65536 * (w > 32767) for w in registers]
    assert got[len(points) - 1][0] is True


# From what a user writes


def read(register: dict, data: str, **more) -> dict[str, tuple[Any, Quality]]:
    """Values by name, of a register at 40."""
    source = ModbusConfig.model_validate(
        {"name": "s", "endpoint": "tcp://h", "registers": [{"address": 40, "name": "v"} | register]} | more
    )
    points = [point for _, _, point in source.values]
    got = at_once(points, plan(points), bytes.fromhex(data))
    return {name: got[i] for i, (_, name, _) in enumerate(source.values)}


@pytest.mark.parametrize(
    ("register", "data", "value", "quality"),
    [
        ({"type": "float16"}, "3e00", 1.5, Quality.GOOD),
        ({"type": "bcd16"}, "1234", 1234, Quality.GOOD),
        ({"type": "bcd32", "word_order": "little"}, "56781234", 12345678, Quality.GOOD),
        ({"type": "bcd64"}, "9999999999999999", 9999999999999999, Quality.GOOD),
        ({"type": "bcd16"}, "12A4", BAD, Quality.BAD),
        ({"type": "bcd16", "decimals": 1}, "2301", 230.1, Quality.GOOD),
        ({"type": "int32", "decimals": 2}, "fffffb2e", -12.34, Quality.GOOD),
        ({"type": "int16", "invalid": [0x8000]}, "8000", None, Quality.BAD),
        ({"type": "int16", "invalid": [-32768]}, "8000", None, Quality.BAD),
        ({"type": "uint16", "invalid": [0xFFFF]}, "fffe", 65534, Quality.GOOD),
        ({"type": "uint64", "invalid": [2**64 - 1]}, "f" * 16, None, Quality.BAD),
        ({"type": "uint64", "invalid": [2**64 - 1]}, "f" * 15 + "e", 2**64 - 2, Quality.GOOD),
        ({"type": "float32", "invalid": [math.nan]}, "7fc00000", None, Quality.BAD),
        ({"type": "float32", "invalid": [-1e30]}, "40500000", 3.25, Quality.GOOD),
        ({"enum": {0: "off", 1: "on", 7: "fault"}}, "0007", "fault", Quality.GOOD),
        ({"enum": {0: "off"}}, "0003", "3", Quality.UNCERTAIN),
        ({"mask": 0x0F00}, "1a34", 10, Quality.GOOD),
        ({"mask": 0x0F00, "enum": {10: "open"}}, "1a34", "open", Quality.GOOD),
        ({"type": "uint64", "mask": 2**64 - 1}, "f" * 16, 2**64 - 1, Quality.GOOD),
        ({"type": "int8_high"}, "fe01", -2, Quality.GOOD),
        ({"type": "uint8_low", "byte_order": "little"}, "fe01", 254, Quality.GOOD),
        ({"type": "uint32", "order": "CDAB"}, "03040102", 0x01020304, Quality.GOOD),
    ],
)  # fmt: skip
def test_what_a_raw_value_stands_for(register, data, value, quality):
    assert read(register, data) == {"v": (value, quality)}


def test_a_bitfield_is_a_tag_for_each_of_its_bits():
    assert read({"bits": {0: "running", 3: "fault"}}, "0008") == {
        "v.running": (False, Quality.GOOD),
        "v.fault": (True, Quality.GOOD),
    }
    assert read({"name": None, "bits": {1: "b"}, "count": 2}, "00020000") == {
        "unit1_holding_40.b": (True, Quality.GOOD),
        "unit1_holding_41.b": (False, Quality.GOOD),
    }


def test_an_enumeration_of_a_coil():
    assert read({"kind": "coil", "enum": {0: "closed", 1: "open"}}, "01") == {"v": ("open", Quality.GOOD)}


@pytest.mark.parametrize(
    ("register", "says"),
    [
        ({"type": "float32", "mask": 3}, "are for integers, not for a float32"),
        ({"type": "bcd16", "mask": 3}, "not for BCD"),
        ({"type": "int16", "mask": 0x10000}, "has more bits than a int16"),
        ({"type": "string", "length": 2, "enum": {0: "a"}}, "not for a string"),
        ({"type": "int16", "invalid": [0x10000]}, "is nothing that a int16 holds"),
        ({"type": "int16", "invalid": [1.5]}, "is nothing that a int16 holds"),
        ({"type": "int32", "order": "AB"}, "does not name each byte of a int32 once"),
        ({"type": "int32", "order": "ABCC"}, "does not name each byte of a int32 once"),
        ({"type": "int16", "enum": {0: "a"}, "decimals": 1}, "`enum` names integers"),
        ({"bits": {16: "a"}}, "a register has the bits 0 to 15"),
        ({"kind": "coil", "bits": {0: "a"}}, "a coil holds one bit"),
        ({"type": "int16", "bits": {0: "a"}}, "needs `type: bit`"),
    ],
)
def test_what_cannot_be_meant_is_refused(register, says):
    with pytest.raises(ValueError, match=says.replace("`", ".")):
        read(register, "0000")


def test_a_reject_carries_the_bytes_of_the_number_that_is_none():
    each = Point(1, Kind.HOLDING, 0, 1, "bcd16")
    rows = Columns()
    Decoder(plan([each]), [each, replace(each, address=1)], [0, 1]).decode(b"\xab\xcd", rows)
    assert (list(rows.reject), list(rows.value_bytes)) == (["not a number in BCD"], [b"\xab\xcd"])
