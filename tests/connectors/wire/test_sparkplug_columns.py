"""Sparkplug data in columns: the same as protobuf reads, or left to it."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.wire.sparkplug_columns import parse_columns
from connectors.wire.sparkplug_messages import message_class

Payload = message_class()
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "int_value": st.integers(0, 2**32 - 1),
    "long_value": st.integers(0, 2**64 - 1),
    "float_value": st.floats(width=32),
    "double_value": st.floats(),
    "boolean_value": st.booleans(),
}


@st.composite
def groups(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Metrics that are alike, some more or less."""
    field = draw(st.sampled_from(sorted(FIELDS)))
    alias = st.integers(*draw(st.sampled_from([(0, 127), (128, 999), (0, 2**64 - 1)])))
    same: dict[str, Any] = {}
    if draw(st.booleans()):
        same["datatype"] = draw(st.integers(0, 2**32 - 1))
    if draw(st.booleans()):
        same["is_historical"] = draw(st.booleans())
    time = draw(
        st.none() | st.just(st.integers(0, 2**64 - 1)) | st.just(st.integers(1_700_000_000_000, 1_700_000_000_100))
    )
    one = st.fixed_dictionaries(
        {"alias": alias, field: FIELDS[field]} | ({"timestamp": time} if time is not None else {})
    )
    metrics = draw(st.lists(one.map(lambda m: m | same), min_size=1, max_size=70))
    if draw(st.integers(0, 9)) == 0:
        metrics.append({"name": "odd", "int_value": 1})
    return metrics


def build(parts: list[list[dict[str, Any]]], timestamp: int | None, seq: int | None) -> Any:
    out = Payload(metrics=[metric for part in parts for metric in part])
    if timestamp is not None:
        out.timestamp = timestamp
    if seq is not None:
        out.seq = seq
    return out


def same(one: np.ndarray, other: list[Any]) -> bool:
    return bool(np.array_equal(one, np.array(other, one.dtype), equal_nan=one.dtype.kind == "f"))


def assert_equal(data: bytes) -> bool:
    """What is read in columns is what protobuf reads; returns whether it was."""
    plain = parse_columns(data)
    if plain is None:
        return False
    message = Payload.FromString(data)
    assert plain.timestamp == message.timestamp
    assert plain.seq == (message.seq if message.HasField("seq") else None)
    at = 0
    for run in plain.runs:
        metrics = message.metrics[at : at + len(run.aliases)]
        at += len(run.aliases)
        assert {metric.WhichOneof("value") for metric in metrics} == {run.field}
        assert same(run.aliases, [metric.alias for metric in metrics])
        assert same(run.values, [getattr(metric, run.field) for metric in metrics])
        times = [metric.timestamp for metric in metrics]
        assert times == (run.times.tolist() if isinstance(run.times, np.ndarray) else [run.times or 0] * len(times))
        assert {(metric.datatype, metric.is_historical) for metric in metrics} == {(run.datatype, run.historical)}
        assert not any(metric.name or metric.is_null or metric.is_transient for metric in metrics)
    assert at == len(message.metrics)
    return True


@settings(deadline=None)
@given(st.lists(groups(), max_size=4), st.none() | st.integers(0, 2**64 - 1), st.none() | st.integers(0, 300))
def test_columns_say_what_protobuf_says(
    parts: list[list[dict[str, Any]]], timestamp: int | None, seq: int | None
) -> None:
    assert_equal(build(parts, timestamp, seq).SerializeToString())


@settings(deadline=None)
@given(groups(), st.data())
def test_broken_bytes_are_left_to_protobuf_or_read_alike(part: list[dict[str, Any]], given_data: st.DataObject) -> None:
    data = bytearray(build([part], 5, 7).SerializeToString())
    for _ in range(given_data.draw(st.integers(0, 3))):
        data[given_data.draw(st.integers(0, len(data) - 1))] = given_data.draw(st.integers(0, 255))
    assert_equal(bytes(data[: given_data.draw(st.integers(0, len(data)))]))


@settings(deadline=None)
@given(st.binary(max_size=100))
def test_any_bytes_are_left_to_protobuf_or_read_alike(data: bytes) -> None:
    assert_equal(data)


@pytest.mark.parametrize("field", sorted(FIELDS))
def test_metrics_that_are_alike_are_one_run(field: str) -> None:
    part = [{"alias": i, "timestamp": 1_700_000_000_000 + i, field: 1} for i in range(100)]
    data = build([part], 1, 2).SerializeToString()
    assert assert_equal(data)
    plain = parse_columns(data)
    assert plain is not None
    assert [len(run.aliases) for run in plain.runs] == [100]


def test_metrics_of_many_layouts_are_left_to_protobuf() -> None:
    parts = [[{"alias": i, "double_value": 1.0} if i % 2 else {"alias": i, "int_value": 1}] for i in range(100)]
    assert parse_columns(build(parts, 1, 2).SerializeToString()) is None
