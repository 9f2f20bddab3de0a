"""Readings that are appended in arrays are the same as if each had been appended by itself."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from normalization.columns import NULL_TIME
from normalization.reading import Columns, Quality, ValueType

DTYPES = ("<f8", ">f8", "<f4", "<i8", "<u8", "<i4", "<u4", "<i2", ">u2", "<i1", "<u1", "?")
TIMES = st.integers(-(2**40), 2**60)
TEXT = st.none() | st.sampled_from(['{"a":1}', '{"b":"ü"}'])


def plain(array: pa.Array) -> list[Any]:
    """Values of a column; a NaN is told from null, and -0.0 from 0.0."""
    if pa.types.is_timestamp(array.type):
        array = array.view(pa.int64())
    return told_apart(array.to_pylist())


def told_apart(values: Sequence[Any]) -> list[Any]:
    return [repr(v) if isinstance(v, float) else v for v in values]


def per_row(value: Any, count: int) -> Sequence[Any]:
    if isinstance(value, np.ndarray):
        return [None if v == NULL_TIME else v for v in value.tolist()]
    return value if isinstance(value, list) else [value] * count


@st.composite
def arrays(draw: Any) -> dict[str, Any]:
    """Arguments of `add_arrays`."""
    count = draw(st.integers(0, 5))

    def scalar_or_array(one: st.SearchStrategy[int], dtype: str) -> Any:
        many = st.lists(one, min_size=count, max_size=count).map(lambda found: np.array(found, dtype))
        return draw(one | many)

    tags = np.array(draw(st.lists(st.integers(0, 9), min_size=count, max_size=count)), np.int32)
    kind, values = None, None
    if draw(st.integers(0, 5)):
        dtype = np.dtype(draw(st.sampled_from(DTYPES)))
        values = np.frombuffer(draw(st.binary(min_size=count * dtype.itemsize, max_size=count * dtype.itemsize)), dtype)
        if dtype.kind == "b":
            values = values.view(np.uint8) > 127
        if draw(st.booleans()):
            values = np.repeat(values, 2)[::2]  # as a field of a structured array is
        kind = {"i": draw(st.sampled_from([None, ValueType.INT64])), "u": None}.get(dtype.kind)
    return {
        "tags": tags,
        "values": values,
        "kind": kind,
        "quality": scalar_or_array(st.integers(0, 4), "i1"),
        "status": draw(st.none()) if draw(st.booleans()) else scalar_or_array(st.integers(0, 2**32 - 1), "<u4"),
        "source_time": draw(st.none()) if draw(st.booleans()) else scalar_or_array(TIMES | st.just(NULL_TIME), "<i8"),
        "flags": scalar_or_array(st.integers(0, 31), "<i2"),
        "properties": draw(TEXT | st.lists(TEXT, min_size=count, max_size=count)),
    }


@st.composite
def single(draw: Any) -> tuple[Any, ...]:
    return (
        draw(st.integers(0, 9)),
        draw(st.none() | st.booleans() | st.integers(-(2**63), 2**64) | st.floats() | st.text() | st.binary()),
        draw(st.none() | TIMES),
        draw(TEXT),
    )


STEPS = st.one_of(
    st.tuples(st.just("arrays"), arrays()),
    st.tuples(st.just("add"), single()),
    st.tuples(st.just("reject"), single()),
    st.tuples(st.just("many"), st.lists(st.floats(), max_size=4)),
    st.tuples(st.just("look"), st.just(None)),
)


def add_one(rows: Columns, one: tuple[Any, ...]) -> None:
    tag, value, when, properties = one
    rows.add(tag, value, source_time=when, properties=properties)


def apply(rows: Columns, step: str, given_: Any) -> None:
    match step:
        case "arrays":
            rows.add_arrays(**given_)
        case "add":
            add_one(rows, given_)
        case "reject":
            rows.add_reject(given_[0], "broken", b"\xff", source_time=given_[2], properties=given_[3])
        case "many":
            rows.add_many(range(len(given_)), ValueType.DOUBLE, given_, status=7)
        case "look":
            assert len(rows.tag) == len(rows)


def apply_by_row(rows: Columns, step: str, given_: Any) -> None:
    if step == "arrays":
        count, values = len(given_["tags"]), given_["values"]
        columns = {name: per_row(given_[name], count) for name in ("quality", "status", "flags", "properties")}
        times = given_["source_time"]
        columns["source_time"] = per_row(times, count)
        for row, tag in enumerate(given_["tags"].tolist()):
            value = None if values is None else values[row].item()
            one = {name: column[row] for name, column in columns.items()}
            if isinstance(times, int) and times == NULL_TIME:
                one["source_time"] = None
            rows.add(tag, value, unsigned=values is not None and values.dtype.str[1:] == "u8", **one)
    elif step == "many":
        for tag, value in enumerate(given_):
            rows.add(tag, value, status=7)
    else:
        apply(rows, step, given_)


def same(one: Columns, other: Columns) -> None:
    assert len(one) == len(other)
    times = np.arange(len(one), dtype=np.int64)
    batch, expected = one.to_batch(times, 5), other.to_batch(times, 5)
    batch.validate(full=True)
    assert {name: plain(batch.column(name)) for name in batch.schema.names} == {
        name: plain(expected.column(name)) for name in batch.schema.names
    }
    for name in Columns.__slots__:  # makes lists of everything
        assert told_apart(getattr(one, name)) == told_apart(getattr(other, name)), name
    assert one.even


@given(st.lists(STEPS, max_size=8))
@settings(max_examples=400, deadline=None)
def test_arrays_are_the_same_as_row_by_row(steps: list[tuple[str, Any]]) -> None:
    whole, by_row = Columns(), Columns()
    for step, given_ in steps:
        apply(whole, step, given_)
        apply_by_row(by_row, step, given_)
    same(whole, by_row)


@given(st.lists(STEPS, max_size=5), st.lists(STEPS, max_size=5), single())
@settings(max_examples=300, deadline=None)
def test_what_is_joined_is_one_after_the_other_and_stays_apart(first: list[Any], second: list[Any], last: Any) -> None:
    whole, other, by_row, others = Columns(), Columns(), Columns(), Columns()
    for step, given_ in first:
        apply(whole, step, given_)
        apply_by_row(by_row, step, given_)
    for step, given_ in second:
        apply(other, step, given_)
        apply_by_row(by_row, step, given_)
        apply_by_row(others, step, given_)
    whole.extend(other)
    add_one(whole, last)
    add_one(by_row, last)
    same(whole, by_row)
    same(other, others)


def test_a_pattern_of_bits_can_be_an_unsigned_number() -> None:
    rows = Columns()
    rows.add_arrays(np.zeros(2, np.int32), np.array([-1, 1]), ValueType.UINT64)
    rows.add_arrays(np.zeros(2, np.int32), np.array([2, 0]), ValueType.BOOLEAN)
    rows.add_arrays(np.zeros(1, np.int32), np.array([2]), ValueType.DOUBLE)
    assert rows.type == [ValueType.UINT64] * 2 + [ValueType.BOOLEAN] * 2 + [ValueType.DOUBLE]
    assert (rows.value_int, rows.value_double) == ([-1, 1, 1, 0, None], [None, None, None, None, 2.0])


def test_a_signalling_nan_is_a_nan() -> None:
    rows = Columns()
    rows.add_arrays(np.zeros(1, np.int32), np.frombuffer(b"\x01\x00\x80\x7f", "<f4"))
    assert math.isnan(rows.value_double[0] or 0.0)


def test_times_may_be_those_of_numpy() -> None:
    rows = Columns()
    times = np.array(["1970-01-01T00:00:01", "NaT"], "datetime64[us]")
    rows.add_arrays(np.zeros(2, np.int32), None, source_time=times, quality=Quality.BAD)
    assert (rows.source_time, rows.quality, rows.type) == ([1_000_000, None], [2, 2], [0, 0])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"tags": np.zeros(2, np.int64)}, "int64"),
        ({"tags": np.zeros((2, 1), np.int32)}, "2 dimensions"),
        ({"values": np.zeros(3)}, "3 of value_double for 2 tags"),
        ({"values": np.array(["a", "b"])}, "not one array of numbers"),
        ({"values": np.zeros(2), "kind": ValueType.INT64}, "float64, which INT64 cannot hold"),
        ({"values": np.zeros(2, np.uint64), "kind": ValueType.INT64}, "uint64, which INT64 cannot hold"),
        ({"values": np.zeros(2, np.int64), "kind": ValueType.TEXT}, "TEXT"),
        ({"status": np.zeros(1, np.int64)}, "1 of status"),
        ({"source_time": np.zeros(2, "datetime64[s]")}, "times are datetime64"),
        ({"source_time": np.zeros(2, np.float64)}, "times are float64"),
        ({"properties": ["{}"]}, "1 of properties"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_and_nothing_is_appended(arguments: dict[str, Any], says: str) -> None:
    rows = Columns()
    with pytest.raises(ValueError, match=says):
        given: dict[str, Any] = {"tags": np.zeros(2, np.int32), "values": np.zeros(2)}
        rows.add_arrays(**given | arguments)
    assert len(rows) == 0
    assert rows.even


def test_columns_of_different_length_are_seen() -> None:
    rows = Columns()
    rows.add_arrays(np.zeros(2, np.int32), np.zeros(2))
    rows.add(0, 1.5)
    assert rows.even
    rows.status.pop()
    assert not rows.even


def test_a_name_that_is_no_column_is_none() -> None:
    rows = Columns()
    rows.add_arrays(np.zeros(2, np.int32), np.zeros(2))
    with pytest.raises(AttributeError, match="nothing"):
        _ = getattr(rows, "nothing")  # noqa: B009 - a checker knows that there is none
