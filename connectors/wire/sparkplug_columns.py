"""Sparkplug B data out of its bytes in columns, where metrics of one layout follow each other, as they do when they go by alias.

A metric with alias, time and a number is some twenty bytes whose structure, tags and lengths, is the same for its
neighbours: it is read once, compared for all of them at once, and the numbers are taken as arrays. What is not as plain as
that is left to protobuf: `parse_columns` says None then, and is never wrong.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

_ALIAS, _TIME, _TYPE, _HISTORICAL = 0x10, 0x18, 0x20, 0x28
_INT, _LONG, _FLOAT, _DOUBLE, _BOOLEAN = 0x50, 0x58, 0x65, 0x69, 0x70
_FIXED: Final = {_FLOAT: (4, "<f4"), _DOUBLE: (8, "<f8")}
_FIELDS: Final = {
    _INT: "int_value", _LONG: "long_value", _FLOAT: "float_value", _DOUBLE: "double_value", _BOOLEAN: "boolean_value",
}  # fmt: skip
_KNOWN: Final = {_ALIAS, _TIME, _TYPE, _HISTORICAL, *_FIELDS}
_SHORT: Final = 4  # metrics; shorter runs cost more than they save
_MOST_SHORT: Final = 4


@dataclass(slots=True)
class Run:
    """Metrics of one layout, one after the other.

    Attributes:
        aliases: One per metric.
        times: ms since the epoch, one per metric or for all; None when they have none.
        field: Name of the protobuf field that holds the values.
        values: One per metric: bool, uint32, uint64, float32 or float64, as the field has it.
        datatype: As the metrics say themselves; 0 when they do not.
        historical: Whether all are historical, or none.
    """

    aliases: np.ndarray
    times: np.ndarray | int | None
    field: str
    values: np.ndarray
    datatype: int
    historical: bool


@dataclass(slots=True)
class Plain:
    """A data message of nothing but runs."""

    timestamp: int
    seq: int | None
    runs: list[Run]


def parse_columns(data: bytes) -> Plain | None:
    """The payload in columns; None when it is not made of runs only, or not a payload at all."""
    at, end, short = 0, len(data), 0
    timestamp, seq, runs = 0, None, []
    try:
        if data[0] == 0x08:
            timestamp, at = _varint(data, 1)
        while at < end and data[at] == 0x12:
            size, begin = _varint(data, at + 1)
            layout = _layout(data, begin, begin + size) if size < 128 and begin + size <= end else None
            if layout is None:
                return None
            stride = begin - at + size
            count = _count(data, at, stride, begin - at, layout)
            short += count < _SHORT
            if short > _MOST_SHORT:
                return None
            view = np.frombuffer(data, np.uint8, count * stride, at).reshape(count, stride)
            runs.append(_read(view, begin - at, layout))
            at += count * stride
        if at < end and data[at] == 0x18:
            seq, at = _varint(data, at + 1)
    except IndexError:  # cut off
        return None
    return Plain(timestamp, seq, runs) if at == end and runs else None


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at
        shift += 7
        if shift > 63:
            raise IndexError


def _layout(data: bytes, begin: int, end: int) -> dict[int, tuple[int, int]] | None:
    """Where in a metric the content of each of its fields stands, from its beginning, and how wide it is, by tag."""
    found: dict[int, tuple[int, int]] = {}
    at = begin
    while at < end:
        tag = data[at]
        if tag not in _KNOWN or tag in found:
            return None
        start = at + 1
        at = start + _FIXED[tag][0] if tag in _FIXED else _varint(data, start)[1]
        found[tag] = start - begin, at - start
    sound = at == end and _ALIAS in found and len(found.keys() & _FIELDS.keys()) == 1
    return found if sound and found.get(_HISTORICAL, (0, 1))[1] == 1 else None


def _count(data: bytes, at: int, stride: int, head: int, layout: dict[int, tuple[int, int]]) -> int:
    """How many metrics from `at` on have the layout of the first."""
    mask = np.full(stride, 0xFF, np.uint8)
    for tag, (offset, width) in layout.items():
        if tag not in {_TYPE, _HISTORICAL}:
            mask[head + offset : head + offset + width] = 0 if tag in _FIXED else 0x80
    pattern = np.frombuffer(data, np.uint8, stride, at) & mask
    most, count, look = (len(data) - at) // stride, 0, 64
    while count < most:
        step = min(look, most - count)
        view = np.frombuffer(data, np.uint8, step * stride, at + count * stride).reshape(step, stride)
        other = (view & mask != pattern).any(axis=1)
        if other.any():
            return count + int(other.argmax())
        count += step
        look *= 2
    return count


def _read(view: np.ndarray, head: int, layout: dict[int, tuple[int, int]]) -> Run:
    cells = {tag: view[:, head + offset : head + offset + width] for tag, (offset, width) in layout.items()}
    tag = next(tag for tag in cells if tag in _FIELDS)
    if tag in _FIXED:
        values = np.ascontiguousarray(cells[tag]).view(_FIXED[tag][1]).reshape(-1)
    else:
        values = _varints(cells[tag])
        if tag == _BOOLEAN:
            values = values != 0
        elif tag == _INT:
            values = values.astype(np.uint32)
    times: np.ndarray | int | None = None
    if _TIME in cells:
        cell = cells[_TIME]
        times = int(_varints(cell[:1])[0]) if (cell == cell[0]).all() else _varints(cell)
    return Run(
        aliases=_varints(cells[_ALIAS]),
        times=times,
        field=_FIELDS[tag],
        values=values,
        datatype=int(_varints(cells[_TYPE][:1])[0]) if _TYPE in cells else 0,
        historical=_HISTORICAL in cells and bool(cells[_HISTORICAL][0, 0]),
    )


def _varints(cell: np.ndarray) -> np.ndarray:
    """Numbers of equal width, as uint64."""
    low = (cell & 0x7F).astype(np.uint64)
    out = low[:, 0]
    for place in range(1, cell.shape[1]):
        out = out | low[:, place] << np.uint64(7 * place)
    return out
