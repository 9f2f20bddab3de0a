import math
import re
import struct
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from normalization.reading import FACTS, Columns, Quality, ValueType
from normalization.values import REASONS, Conversion, Conversions

NULL, BOOLEAN, INT64, UINT64, DOUBLE, TEXT, BYTES, JSON = ValueType


def batch_of(values: Any, qualities: Any = None) -> Any:
    columns = Columns()
    for i, value in enumerate(values):
        columns.add(0, value, quality=qualities[i] if qualities else Quality.GOOD)
    return columns.to_batch(np.zeros(len(columns), np.int64), 0)


def values_of(batch: Any) -> Any:
    """Type and value of each reading, read row by row."""
    rows = batch.to_pylist()
    out = []
    for row in rows:
        kind = ValueType(row["type"])
        held = {BOOLEAN: "value_int", INT64: "value_int", UINT64: "value_int", DOUBLE: "value_double"}
        held |= {TEXT: "value_text", JSON: "value_text", BYTES: "value_bytes"}
        for name in ("value_double", "value_int", "value_text", "value_bytes"):
            assert row[name] is None or name == held.get(kind), f"{kind.name} with a value in {name}"
        value: Any = row[held[kind]] if kind in held else None
        out.append((kind, value % 2**64 if kind == UINT64 else bool(value) if kind == BOOLEAN else value))
    return out


def convert(values: Any, conversions: Any, qualities: Any = None) -> Any:
    batch = batch_of(values, qualities)
    table = Conversions()
    which = np.array([table.number(conversion) for conversion in conversions], np.int32)
    out = pa.RecordBatch.from_arrays(table.apply(batch.columns, which), schema=FACTS)
    out.validate(full=True)
    return batch, out


def one(value: Any, **mapping: Any) -> Any:
    """The value, or the reason, that a mapping makes of one value."""
    _, out = convert([value], [Conversion.of(mapping)])
    reason = out["reject"][0].as_py()
    return reason or values_of(out)[0]


WANTS_INTEGER, WANTS_NUMBER, NOT_SCALABLE = REASONS[2], REASONS[3], REASONS[5]


@pytest.mark.parametrize(
    ("value", "mapping", "expected"),
    [
        # scaling
        (7, {"scale": 0.1}, (DOUBLE, 0.7)),
        (123, {"scale": 0.01, "offset": -1.0}, (DOUBLE, 1.23 - 1)),
        (5, {"offset": 1}, (DOUBLE, 6.0)),
        (5, {"scale": 1, "offset": 0}, (INT64, 5)),
        (2**64 - 1, {"scale": 2}, (DOUBLE, 2.0**65)),
        (True, {"scale": 2}, NOT_SCALABLE),
        (True, {"scale": 2, "type": "number"}, (DOUBLE, 2.0)),
        ("5", {"scale": 2}, NOT_SCALABLE),
        (" 5 ", {"scale": 2, "type": "integer"}, (INT64, 10)),
        ("five", {"scale": 2, "type": "number"}, WANTS_NUMBER),
        ([1, 2], {"scale": 2}, NOT_SCALABLE),
        (1e300, {"scale": 1e20}, REASONS[6]),
        (math.inf, {"scale": 2}, (DOUBLE, math.inf)),
        (None, {"scale": 2}, (NULL, None)),
        (70, {"scale": 0.1, "type": "integer"}, (INT64, 7)),
        (3, {"scale": 0.7, "offset": 0.9, "type": "integer"}, (INT64, 3)),
        (71, {"scale": 0.1, "type": "integer"}, WANTS_INTEGER),
        (2**60, {"scale": 2, "type": "integer"}, WANTS_INTEGER),
        (15, {"scale": 0.1, "type": "text"}, (TEXT, "1.5")),
        # boolean
        (1, {"type": "boolean"}, (BOOLEAN, True)),
        (0.0, {"type": "boolean"}, (BOOLEAN, False)),
        (2, {"type": "boolean"}, REASONS[1]),
        (math.nan, {"type": "boolean"}, REASONS[1]),
        ("ON", {"type": "boolean"}, (BOOLEAN, True)),
        ("no", {"type": "boolean"}, (BOOLEAN, False)),
        ("maybe", {"type": "boolean"}, REASONS[1]),
        # integer
        (3.0, {"type": "integer"}, (INT64, 3)),
        (3.5, {"type": "integer"}, WANTS_INTEGER),
        (2.0**63, {"type": "integer"}, (UINT64, 2**63)),
        (-(2.0**63), {"type": "integer"}, (INT64, -(2**63))),
        (2.0**64, {"type": "integer"}, WANTS_INTEGER),
        (math.nan, {"type": "integer"}, WANTS_INTEGER),
        (True, {"type": "integer"}, (INT64, 1)),
        ("+12", {"type": "integer"}, (INT64, 12)),
        ("1e3", {"type": "integer"}, (INT64, 1000)),
        ("1.5", {"type": "integer"}, WANTS_INTEGER),
        ("9223372036854775807", {"type": "integer"}, (INT64, 2**63 - 1)),
        ("-9223372036854775808", {"type": "integer"}, (INT64, -(2**63))),
        ("18446744073709551615", {"type": "integer"}, (UINT64, 2**64 - 1)),
        ("18446744073709551616", {"type": "integer"}, WANTS_INTEGER),
        (b"1", {"type": "integer"}, WANTS_INTEGER),
        # number
        (7, {"type": "number"}, (DOUBLE, 7.0)),
        (2**53 + 1, {"type": "number"}, WANTS_NUMBER),
        (2**53 + 2, {"type": "number"}, (DOUBLE, 2.0**53 + 2)),
        (2**63 - 1, {"type": "number"}, WANTS_NUMBER),
        (2**63, {"type": "number"}, (DOUBLE, 2.0**63)),
        (2**64 - 1, {"type": "number"}, WANTS_NUMBER),
        ("12,5", {"type": "number"}, WANTS_NUMBER),
        (".5E-1", {"type": "number"}, (DOUBLE, 0.05)),
        ("-Infinity", {"type": "number"}, (DOUBLE, -math.inf)),
        ("1e999", {"type": "number"}, WANTS_NUMBER),
        ("1_000", {"type": "number"}, WANTS_NUMBER),
        # text
        (True, {"type": "text"}, (TEXT, "true")),
        (-5, {"type": "text"}, (TEXT, "-5")),
        (2**64 - 1, {"type": "text"}, (TEXT, "18446744073709551615")),
        (0.1, {"type": "text"}, (TEXT, "0.1")),
        ([1, "a"], {"type": "text"}, (TEXT, '[1,"a"]')),
        ("Grüße".encode(), {"type": "text"}, (TEXT, "Grüße")),
        (b"\xff", {"type": "text"}, REASONS[4]),
        ("x", {"type": "text"}, (TEXT, "x")),
    ],
)
def test_what_a_mapping_makes_of_a_value(value: Any, mapping: Any, expected: Any) -> None:
    assert one(value, **mapping) == expected


@pytest.mark.parametrize(
    ("value", "quality", "expected"),
    [
        (True, Quality.GOOD, Quality.ALARM),
        (7, Quality.UNCERTAIN, Quality.ALARM),
        (-0.5, Quality.GOOD, Quality.ALARM),
        ("HIGH", Quality.GOOD, Quality.ALARM),
        (True, Quality.BAD, Quality.BAD),
        (True, Quality.STALE, Quality.STALE),
        (False, Quality.GOOD, Quality.GOOD),
        (0, Quality.UNCERTAIN, Quality.UNCERTAIN),
        (-0.0, Quality.GOOD, Quality.GOOD),
        (math.nan, Quality.GOOD, Quality.GOOD),
        ("False", Quality.GOOD, Quality.GOOD),
        ("", Quality.GOOD, Quality.GOOD),
        (None, Quality.GOOD, Quality.GOOD),
        ([1], Quality.GOOD, Quality.GOOD),
    ],
)
def test_alarm(value: Any, quality: Any, expected: Any) -> None:
    batch, out = convert([value], [Conversion.of({"alarm": True})], [quality])
    assert out["quality"][0].as_py() == expected
    assert values_of(out) == values_of(batch) or math.isnan(value)


def test_an_alarm_looks_at_the_scaled_value_and_not_at_a_reject() -> None:
    mapping = Conversion.of({"alarm": True, "offset": -4.0, "type": "number"})
    _, out = convert([4, 5, "x"], [mapping] * 3)
    assert out["quality"].to_pylist() == [Quality.GOOD, Quality.ALARM, Quality.GOOD]
    assert out["reject"].to_pylist() == [None, None, WANTS_NUMBER]


def test_rejects_that_came_as_rejects_are_left_alone() -> None:
    columns = Columns()
    columns.add_reject(0, "not JSON", b"{")
    columns.add(0, 1)
    table = Conversions()
    number = table.number(Conversion.of({"type": "text", "alarm": True}))
    batch = columns.to_batch(np.zeros(2, np.int64), 0)
    out = pa.RecordBatch.from_arrays(table.apply(batch.columns, np.full(2, number, np.int32)), schema=FACTS)
    assert out.slice(0, 1).equals(batch.slice(0, 1))
    assert values_of(out)[1] == (TEXT, "1")


def test_a_mapping_that_says_nothing_of_values_converts_nothing() -> None:
    assert Conversion.of({"site": "a"}) is None
    assert Conversion.of({"scale": 1.0, "offset": 0.0, "alarm": False, "type": None}) is None


@pytest.mark.parametrize(
    "mapping",
    [
        {"type": "float"},
        {"type": 5},
        {"scale": "2"},
        {"scale": True},
        {"offset": math.nan},
        {"scale": math.inf},
        {"alarm": 1},
    ],
)
def test_a_mapping_that_is_not_possible_is_refused(mapping: Any) -> None:
    with pytest.raises(ValueError, match="mapping: "):
        Conversion.of(mapping)


# --- Against a model, row by row

plain_values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.integers(-5, 5),
    st.sampled_from([2**53, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1, -(2**53) - 1]),
    st.floats(),
    st.integers(-(2**65), 2**65).map(float),
    st.text("0123456789.eE+-xtruefalsoni ", max_size=24),
    st.from_regex(r"[+-]?[0-9]{1,21}", fullmatch=True),
    st.sampled_from(["nan", " INF", "-infinity", "+inf", "TRUE", "off", "1e400", "18446744073709551616"]),
    st.binary(max_size=4),
    st.lists(st.integers(), max_size=2),
)
conversions = st.builds(
    lambda kind, scale, offset, alarm: Conversion.of({"type": kind, "scale": scale, "offset": offset, "alarm": alarm}),
    st.sampled_from([None, "boolean", "integer", "number", "text"]),
    st.one_of(st.none(), st.sampled_from([0.1, 0.01, 2.0, -1.0, 0.3, 0.0]), st.floats(-1e6, 1e6)),
    st.one_of(st.none(), st.sampled_from([0.0, 1.0, -273.15])),
    st.booleans(),
)


def parsed(text: Any, want: Any) -> Any:
    """The number or boolean that a text spells, or None."""
    text = text.strip().lower()
    if want == "boolean":
        return {
            "true": True,
            "on": True,
            "yes": True,
            "1": True,
            "false": False,
            "off": False,
            "no": False,
            "0": False,
        }.get(text)
    if want == "integer" and re.fullmatch(r"[+-]?[0-9]+", text):
        return int(text) if -(2**63) <= int(text) < 2**64 else None
    if re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?", text):
        return float(text) if math.isfinite(float(text)) else None
    return float(text) if re.fullmatch(r"[+-]?(nan|inf|infinity)", text) else None


def model(value: Any, conversion: Any) -> Any:
    """What a conversion should make of a value; None for a reject."""
    want = conversion.type
    if isinstance(value, str) and want in ("boolean", "integer", "number"):
        value = parsed(value, want)
        if value is None:
            return None
    scaled = conversion.scale is not None or conversion.offset is not None
    if scaled:
        if isinstance(value, bool) and want in ("integer", "number"):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        scale = 1.0 if conversion.scale is None else conversion.scale
        inverse = round(1 / scale) if 1e-15 < abs(scale) < 1 else 0
        product = float(value) / inverse if inverse and 1 / inverse == scale else float(value) * scale
        result = product + (conversion.offset or 0.0)
        if math.isfinite(value) and not math.isfinite(result):
            return None
        value = result
    if want == "boolean":
        return bool(value) if isinstance(value, int | float) and value in (0, 1) else None
    if want == "integer":
        if not isinstance(value, int | float) or not math.isfinite(value):
            return None
        whole = round(value) if isinstance(value, float) else int(value)
        near = scaled and abs(value - whole) <= 1e-9 * abs(value)
        if (value != whole and not near) or not -(2**63) <= whole < 2**64 or (scaled and abs(value) >= 2**53):
            return None
        return whole
    if want == "number":
        if not isinstance(value, int | float):
            return None
        return float(value) if isinstance(value, float) or int(float(value)) == value else None
    if want == "text":
        if isinstance(value, bytes):
            try:
                return value.decode()
            except UnicodeDecodeError:
                return None
        return value
    return value


def is_alarm(value: Any) -> Any:
    if isinstance(value, str):
        return value.strip().lower() not in ("", "0", "false")
    return isinstance(value, int | float) and value != 0 and not math.isnan(value)


def same(a: Any, b: Any) -> Any:
    if isinstance(a, float) and isinstance(b, float):
        return struct.pack("d", a) == struct.pack("d", b) or (math.isnan(a) and math.isnan(b))
    return type(a) is type(b) and a == b


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(plain_values, conversions, st.sampled_from(Quality)), min_size=1, max_size=8))
def test_conversion_of_any_values_agrees_with_a_row_by_row_model(rows: Any) -> None:
    values, mappings, qualities = zip(*rows, strict=True)
    batch, out = convert(values, mappings, qualities)
    reasons = out["reject"].to_pylist()
    before, after = values_of(batch), values_of(out)
    for i, (value, conversion, quality) in enumerate(rows):
        if conversion is None or value is None:
            assert reasons[i] is None
            assert after[i][0] == before[i][0]
            assert same(after[i][1], before[i][1])
            assert out["quality"][i].as_py() == quality
            continue
        expected = model(value, conversion)
        if expected is None:
            assert reasons[i] in REASONS[1:], (value, conversion)
            assert after[i][0] == before[i][0]
            assert same(after[i][1], before[i][1])
            assert out["quality"][i].as_py() == quality
            continue
        assert reasons[i] is None, (value, conversion)
        kind, got = after[i]
        text = conversion.type == "text"
        if text:
            assert kind == TEXT
            if isinstance(expected, float):
                assert same(float(got), expected)
            elif not isinstance(expected, list):
                assert got == (str(expected).lower() if isinstance(expected, bool) else str(expected))
        elif isinstance(expected, list):
            assert (kind, got) == before[i]
        else:
            assert same(got, expected), (value, conversion, got, expected)
        alarming = conversion.alarm and is_alarm(
            model(value, replace(conversion, type=None if text else conversion.type))
        )
        expected_quality = Quality.ALARM if alarming and quality <= Quality.UNCERTAIN else quality
        assert out["quality"][i].as_py() == expected_quality, (value, conversion)
