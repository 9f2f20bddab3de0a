"""Sparkplug B payloads of an edge node, made of columns (specification 3.0, §6). Pure.

What is said of a metric in a data message is a few bytes: alias, time, value. They are made for all readings of a batch at
once, and cut into messages.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from connectors.wire import rows
from connectors.wire.mqtt_outgoing import lengths, varint, varints
from connectors.wire.sparkplug_messages import message_class
from connectors.wire.sparkplug_values import DataType, set_value
from normalization.reading import Quality, ValueType

_NAME, _ALIAS, _TIME, _TYPE, _HISTORICAL, _NULL, _PROPERTIES = 0x0A, 0x10, 0x18, 0x20, b"\x28\x01", b"\x38\x01", 0x4A
_LONG, _DOUBLE, _BOOLEAN, _STRING, _BYTES = b"\x58", b"\x69", b"\x70", b"\x7a", b"\x82\x01"
_NOTHING: Final = pa.scalar(b"", pa.binary())
_SCALARS: Final = {
    ValueType.NULL: DataType.UNKNOWN, ValueType.BOOLEAN: DataType.BOOLEAN, ValueType.INT64: DataType.INT64,
    ValueType.UINT64: DataType.UINT64, ValueType.DOUBLE: DataType.DOUBLE, ValueType.TEXT: DataType.STRING,
    ValueType.BYTES: DataType.BYTES, ValueType.JSON: DataType.STRING,
}  # fmt: skip
_QUALITY: Final = {Quality.GOOD: 192, Quality.UNCERTAIN: 64, Quality.BAD: 0, Quality.STALE: 500, Quality.ALARM: 192}
_INTEGERS: Final = range(-(2**63), 2**63)


def _number(field: int, value: int) -> bytes:
    return bytes([field]) + varint(value)


def _block(field: int, content: bytes) -> bytes:
    return varint(field) + varint(len(content)) + content


def quality_properties(quality: int) -> bytes:
    """The field of a metric that says its quality (§6.4.11); none when it is good, and with `alarm` when it is ALARM."""
    if quality == Quality.GOOD:
        return b""
    metric = message_class("Metric")()
    metric.properties.keys.append("Quality")
    set_value(metric.properties.values.add(), DataType.INT32, _QUALITY[Quality(quality)])
    if quality == Quality.ALARM:
        metric.properties.keys.append("Alarm")
        set_value(metric.properties.values.add(), DataType.BOOLEAN, True)
    return bytes(metric.SerializeToString())


_OF_QUALITY: Final[list[bytes]] = []


def _qualities() -> pa.Array:
    if not _OF_QUALITY:
        _OF_QUALITY.extend(quality_properties(one) for one in Quality)
    return pa.array(_OF_QUALITY, pa.binary())


def wide_varints(numbers: np.ndarray) -> pa.Array:
    """Variable byte integers of 64 bits, as protobuf has them; `numbers` are uint64."""
    if not len(numbers):
        return pa.array([], pa.binary())
    places = np.arange(10, dtype=np.uint64)
    cells = numbers[:, None] >> np.uint64(7) * places
    width = np.maximum((cells != 0).sum(axis=1), 1)
    kept = places < width[:, None]
    out = (cells & np.uint64(0x7F)).astype(np.uint8) | ((places < (width[:, None] - 1)).astype(np.uint8) << 7)
    offsets = np.concatenate([[0], np.cumsum(width)]).astype(np.int32)
    return pa.Array.from_buffers(pa.binary(), len(numbers), [None, pa.py_buffer(offsets), pa.py_buffer(out[kept])])


def array_of(text: str) -> tuple[DataType, bytes]:
    """A JSON value as an array of Sparkplug, where all its items are of one kind; else as text. Type, and field."""
    try:
        found: Any = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if isinstance(found, list) and found:
        kinds = {type(item) for item in found}
        datatype = None
        if kinds == {bool}:
            datatype = DataType.BOOLEAN_ARRAY
        elif kinds == {int} and all(item in _INTEGERS for item in found):
            datatype = DataType.INT64_ARRAY
        elif kinds <= {int, float} and all(isinstance(item, float) or abs(item) <= 2**53 for item in found):
            datatype = DataType.DOUBLE_ARRAY
        elif kinds == {str} and not any("\0" in item for item in found):
            datatype = DataType.STRING_ARRAY
        if datatype is not None:
            metric = message_class("Metric")()
            set_value(metric, datatype, found)
            return datatype, _block(130, metric.bytes_value)
    return DataType.STRING, _block(0x7A, text.encode())


@dataclass(frozen=True, slots=True)
class Values:
    """Values of readings.

    Attributes:
        fields: The protobuf field of each value; what says that it is null where it has none.
        datatypes: `DataType` of each; UNKNOWN for null.
    """

    fields: pa.Array
    datatypes: np.ndarray


def values(batch: pa.RecordBatch) -> Values:
    """The values of a batch of `normalization.reading.stream_schema`."""
    kinds = batch.column("type").to_numpy()
    datatypes = np.zeros(len(kinds), np.int64)
    for kind in rows.types(batch):
        datatypes[kinds == kind] = _SCALARS[kind]
    nested = np.flatnonzero(kinds == ValueType.JSON)
    arrays = [array_of(text) for text in batch.column("value_text").take(pa.array(nested)).to_pylist()]
    datatypes[nested] = [int(datatype) for datatype, _ in arrays]
    return Values(rows.by_type(batch, lambda kind, some: _fields(kind, some, arrays)), datatypes)


def _fields(kind: ValueType, some: rows.Rows, arrays: Sequence[tuple[DataType, bytes]]) -> pa.Array:
    def head(field: bytes) -> pa.Scalar:
        return pa.scalar(field, pa.binary())

    match kind:
        case ValueType.DOUBLE:
            data = some.column("value_double").to_numpy().astype("<f8").tobytes()
            fixed = pa.Array.from_buffers(pa.binary(8), len(some), [None, pa.py_buffer(data)]).cast(pa.binary())
            return pc.binary_join_element_wise(head(_DOUBLE), fixed, _NOTHING)
        case ValueType.INT64 | ValueType.UINT64:
            numbers = some.column("value_int").to_numpy().view(np.uint64)
            return pc.binary_join_element_wise(head(_LONG), wide_varints(numbers), _NOTHING)
        case ValueType.BOOLEAN:
            two = pa.array([_BOOLEAN + b"\0", _BOOLEAN + b"\x01"], pa.binary())
            return two.take(pa.array((some.column("value_int").to_numpy() != 0).astype(np.int8)))
        case ValueType.TEXT:
            text = some.column("value_text").cast(pa.binary())
            return pc.binary_join_element_wise(head(_STRING), varints(lengths(text)), text, _NOTHING)
        case ValueType.BYTES:
            content = some.column("value_bytes")
            return pc.binary_join_element_wise(head(_BYTES), varints(lengths(content)), content, _NOTHING)
        case ValueType.JSON:
            return pa.array([field for _, field in arrays], pa.binary())
        case _:
            return pa.array([_NULL], pa.binary()).take(pa.array(np.zeros(len(some), np.int32)))


def metrics(
    aliases: np.ndarray, times: np.ndarray, historical: np.ndarray, quality: np.ndarray, fields: pa.Array
) -> pa.Array:
    """Metrics of data messages, one for each reading.

    Args:
        aliases: Of each metric.
        times: Milliseconds since the epoch.
        historical: Whether each is older than the birth.
        quality: `Quality` of each.
        fields: See `Values`.
    """
    flags = pa.array([b"", _HISTORICAL], pa.binary()).take(pa.array(historical.astype(np.int8)))
    parts: list[pa.Array | pa.Scalar] = [
        pa.scalar(bytes([_ALIAS]), pa.binary()),
        wide_varints(aliases.astype(np.uint64)),
        pa.scalar(bytes([_TIME]), pa.binary()),
        wide_varints(np.maximum(times, 0).astype(np.uint64)),
        flags,
        _qualities().take(pa.array(quality)),
        fields,
    ]
    body = pc.binary_join_element_wise(*parts, _NOTHING)
    return pc.binary_join_element_wise(pa.scalar(b"\x12", pa.binary()), varints(lengths(body)), body, _NOTHING)


def birth_metric(name: str, alias: int | None, time: int, datatype: int, field: bytes, quality: int) -> bytes:
    """A metric of a birth.

    Args:
        name: Its name.
        alias: Its alias; None for none.
        time: Milliseconds since the epoch.
        datatype: Its `DataType`.
        field: Its value, see `Values`.
        quality: Its `Quality`.
    """
    out = _block(_NAME, name.encode())
    if alias is not None:
        out += _number(_ALIAS, alias)
    out += _number(_TIME, max(time, 0)) + _number(_TYPE, datatype) + quality_properties(quality) + (field or _NULL)
    return _block(0x12, out)


def boolean_field(value: bool) -> bytes:
    """The field of a boolean."""
    return _BOOLEAN + bytes([value])


def long_field(value: int) -> bytes:
    """The field of an integer of 64 bits."""
    return _LONG + varint(value)


def payload(time: int, content: bytes, seq: int | None) -> bytes:
    """A payload of metrics.

    Args:
        time: Milliseconds since the epoch.
        content: The metrics.
        seq: Its sequence number; None for a death, which has none.
    """
    return _number(0x08, time) + content + (b"" if seq is None else _number(0x18, seq))


def cut(found: pa.Array, groups: np.ndarray, most: int, most_bytes: int) -> Iterator[tuple[int, np.ndarray, bytes]]:
    """Metrics of a group after those of another, cut into messages: group, rows, and metrics.

    Args:
        found: See `metrics`.
        groups: The group of each.
        most: Metrics in a message, at most.
        most_bytes: Bytes of a message, at most; a larger metric is alone.
    """
    order = np.argsort(groups, kind="stable")
    joined = found.take(pa.array(order))
    ends = np.cumsum(lengths(joined))
    _, offsets, data = joined.buffers()
    view = memoryview(data)
    starts = np.concatenate([[0], ends[:-1]])
    sorted_groups = groups[order]
    stops = np.append(np.flatnonzero(np.diff(sorted_groups)) + 1, len(order))
    base, first = int(np.frombuffer(offsets, np.int32)[joined.offset]), 0
    for stop in stops.tolist():
        while first < stop:
            fits = int(np.searchsorted(ends, starts[first] + most_bytes, side="right"))
            last = min(max(fits, first + 1), first + most, stop)
            content = bytes(view[base + int(starts[first]) : base + int(ends[last - 1])])
            yield int(sorted_groups[first]), order[first:last], content
            first = last
