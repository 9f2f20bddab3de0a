"""`Columns`: what readers append to, row by row or in whole arrays, and what the journal makes Arrow of.

As long as readings come one by one there is one Python list per column. Arrays are kept as they came, as *blocks* between such
lists, and are joined once, when the journal cuts a batch. Who asks for a column, as in ``rows.tag``, gets a list in any case.
"""

import base64
import json
import math
from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa

from normalization.facts import FACTS, Quality, ValueType

NULL_TIME: Final = -(2**63)
"""In an array of times: none (the bits of NumPy's NaT)."""

_INT64_MIN, _INT64_MAX, _UINT64_MAX = -(2**63), 2**63 - 1, 2**64 - 1


def to_json(value: Any) -> str:
    """JSON of an array or structure: bytes as base64, NaN and infinities as the strings NaN, Infinity, -Infinity."""
    return json.dumps(_jsonable(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _jsonable(value: Any) -> Any:
    match value:
        case float() if not math.isfinite(value):
            return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
        case bool() | int() | float() | str() | None:
            return value
        case bytes() | bytearray():
            return base64.b64encode(value).decode()
        case dict():
            return {str(key): _jsonable(item) for key, item in value.items()}
        case list() | tuple():
            return [_jsonable(item) for item in value]
        case _:
            return str(value)


_VALUE_COLUMN: Final = {
    ValueType.NULL: "",
    ValueType.BOOLEAN: "value_int",
    ValueType.INT64: "value_int",
    ValueType.UINT64: "value_int",
    ValueType.DOUBLE: "value_double",
    ValueType.TEXT: "value_text",
    ValueType.BYTES: "value_bytes",
    ValueType.JSON: "value_text",
}
_NAMES: Final = tuple(name for name in FACTS.names if name not in ("received_time", "sequence"))


class _Block:
    """Readings that came in arrays: one entry per column, which is an array, a list, what all rows say, or None for null."""

    __slots__ = ("columns", "count")

    def __init__(self, count: int, columns: dict[str, Any]) -> None:
        self.count = count
        self.columns = columns

    def as_list(self, name: str) -> list[Any]:
        column = self.columns.get(name)
        if isinstance(column, np.ndarray):
            found = column.tolist()
            return [None if time == NULL_TIME else time for time in found] if name == "source_time" else found
        return column if isinstance(column, list) else [column] * self.count


class _Parts:
    """The slots beside the columns, so that ``Columns.__slots__`` are the columns and nothing else."""

    __slots__ = ("_listed", "_parts")


class Columns(_Parts):
    """Readings in the making: what a reader appends to.

    The columns are attributes, one Python list each, once somebody asks for one or adds a single reading (`_listed`). Until then,
    and again when a block comes, they are unset: `_parts` holds blocks, and `Columns` with lists, in their order.
    """

    __slots__ = _NAMES

    tag: list[int]
    type: list[int]
    value_double: list[float | None]
    value_int: list[int | None]
    value_text: list[str | None]
    value_bytes: list[bytes | None]
    quality: list[int]
    status: list[int | None]
    source_time: list[int | None]
    flags: list[int]
    properties: list[str | None]
    reject: list[str | None]

    def __init__(self) -> None:
        self._parts: list[_Block | Columns] = []
        self._listed = False

    def __len__(self) -> int:
        if self._listed:
            return len(self.tag)
        count = 0
        for part in self._parts:
            count += part.count if isinstance(part, _Block) else len(part)
        return count

    if not TYPE_CHECKING:  # a checker would take any name

        def __getattr__(self, name: str) -> Any:
            """A column that is unset: all become lists."""
            if name not in _NAMES:
                raise AttributeError(name)
            self._list()
            return getattr(self, name)

    def _list(self) -> None:
        """Make lists of all columns."""
        parts, self._parts, self._listed = self._parts, [], True
        for column in _NAMES:
            joined: list[Any] = []
            for part in parts:
                joined.extend(part.as_list(column) if isinstance(part, _Block) else getattr(part, column))
            setattr(self, column, joined)

    def _tail(self) -> "Columns":
        """Where a single reading goes: here, or into the lists behind the last block."""
        if self._listed:
            return self
        if not self._parts:
            self._list()
            return self
        last = self._parts[-1]
        if isinstance(last, _Block):
            last = Columns()
            self._parts.append(last)
        return last._tail()

    def add(
        self,
        tag: int,
        value: Any,
        *,
        quality: int = Quality.GOOD,
        status: int | None = None,
        source_time: int | None = None,
        flags: int = 0,
        properties: str | None = None,
        unsigned: bool = False,
    ) -> None:
        """Append one reading.

        Args:
            tag: Row of the tag table.
            value: float, int, bool, str, bytes, None, or a list, tuple or dict (kept as JSON).
            quality: A `Quality`.
            status: The protocol's own status code.
            source_time: µs since the epoch, UTC.
            flags: `Flags`.
            properties: JSON object.
            unsigned: The source's type is an unsigned 64-bit integer.
        """
        double: float | None = None
        integer: int | None = None
        text: str | None = None
        raw: bytes | None = None
        kind: int
        if isinstance(value, float):
            kind, double = 4, value
        elif isinstance(value, bool):
            kind, integer = 1, int(value)
        elif isinstance(value, int):
            if unsigned and 0 <= value <= _UINT64_MAX:
                kind, integer = 3, value if value <= _INT64_MAX else value - 2**64
            elif _INT64_MIN <= value <= _INT64_MAX:
                kind, integer = 2, value
            elif 0 <= value <= _UINT64_MAX:
                kind, integer = 3, value - 2**64
            else:
                kind, text = 7, str(value)
        elif isinstance(value, str):
            kind, text = 5, value
        elif value is None:
            kind = 0
        elif isinstance(value, bytes | bytearray):
            kind, raw = 6, bytes(value)
        else:
            kind, text = 7, to_json(value)
        if text is not None and not text.isascii():
            text = text.encode("utf-8", "replace").decode()  # a lone surrogate is not UTF-8
        rows = self if self._listed else self._tail()
        rows.tag.append(tag)
        rows.type.append(kind)
        rows.value_double.append(double)
        rows.value_int.append(integer)
        rows.value_text.append(text)
        rows.value_bytes.append(raw)
        rows.quality.append(quality)
        rows.status.append(status)
        rows.source_time.append(source_time)
        rows.flags.append(flags)
        rows.properties.append(properties)
        rows.reject.append(None)

    def add_many(
        self,
        tags: Sequence[int],
        kind: ValueType,
        values: Sequence[Any] | None = None,
        *,
        quality: int = Quality.GOOD,
        status: int | None = None,
        source_time: int | None = None,
    ) -> None:
        """Append one reading per tag, all of one type, with one extension per column.

        Args:
            tags: Rows of the tag table.
            kind: Type of all values.
            values: As the column of `kind` holds them (`FACTS`: booleans as 0 and 1, a UINT64 as its bit pattern, JSON as
                text), one per tag and none of them null; None for readings without value, whose type is NULL.
            quality: A `Quality`.
            status: The protocol's own status code.
            source_time: µs since the epoch, UTC.
        """
        rows = self._tail()
        count = len(tags)
        none = [None] * count
        held = _VALUE_COLUMN[kind]
        rows.tag.extend(tags)
        rows.type.extend([int(kind)] * count)
        rows.value_double.extend(values if held == "value_double" and values is not None else none)
        rows.value_int.extend(values if held == "value_int" and values is not None else none)
        rows.value_text.extend(values if held == "value_text" and values is not None else none)
        rows.value_bytes.extend(values if held == "value_bytes" and values is not None else none)
        rows.quality.extend([int(quality)] * count)
        rows.status.extend([status] * count)
        rows.source_time.extend([source_time] * count)
        rows.flags.extend([0] * count)
        rows.properties.extend(none)
        rows.reject.extend(none)

    def add_arrays(
        self,
        tags: np.ndarray,
        values: np.ndarray | None,
        kind: ValueType | None = None,
        *,
        quality: int | np.ndarray = Quality.GOOD,
        status: int | np.ndarray | None = None,
        source_time: int | np.ndarray | None = None,
        flags: int | np.ndarray = 0,
        properties: str | Sequence[str | None] | None = None,
    ) -> None:
        """Append one reading per tag, all of one type, as `add` would one by one. The arrays must not change afterwards.

        Args:
            tags: Rows of the tag table, int32.
            values: Numbers or booleans, one per tag; None for readings without value, whose type is NULL.
            kind: Type of all values; without it what the array says: DOUBLE, BOOLEAN, UINT64 for 64 bits without sign, else
                INT64. UINT64 takes integers as bit patterns.
            quality: A `Quality`, or one per tag.
            status: The protocol's own status code, or one per tag.
            source_time: µs since the epoch, UTC, or one per tag, where `NULL_TIME` is none.
            flags: `Flags`, or one per tag.
            properties: JSON object, or one or None per tag.

        Raises:
            ValueError: The arrays do not fit each other, or the values their type; nothing is appended.
        """
        if tags.dtype != np.int32 or tags.ndim != 1:
            raise ValueError(f"tags are {tags.dtype} in {tags.ndim} dimensions, not one array of int32")
        kind, held = (ValueType.NULL, None) if values is None else _held(values, kind)
        columns = {
            "tag": tags,
            "type": int(kind),
            "quality": quality if isinstance(quality, np.ndarray) else int(quality),
            "status": status,
            "source_time": _times(source_time),
            "flags": flags if isinstance(flags, np.ndarray) else int(flags),
            "properties": properties if properties is None or isinstance(properties, str) else list(properties),
        }
        if held is not None:
            columns[_VALUE_COLUMN[kind]] = held
        count = len(tags)
        for name, column in columns.items():
            if isinstance(column, np.ndarray | list) and len(column) != count:
                raise ValueError(f"{len(column)} of {name} for {count} tags")
        if count:
            self._append_block(_Block(count, columns))

    def _append_block(self, block: _Block) -> None:
        if self._listed:
            if self.tag:
                lists = Columns()
                lists._listed = True
                for name in _NAMES:
                    setattr(lists, name, getattr(self, name))
                self._parts.append(lists)
            for name in _NAMES:
                delattr(self, name)
            self._listed = False
        self._parts.append(block)

    def add_reject(
        self, tag: int, reason: str, raw: bytes, *, source_time: int | None = None, properties: str | None = None
    ) -> None:
        """Append what could not be decoded, with the reason and the bytes; it becomes a dead letter."""
        rows = self._tail()
        rows.add(tag, raw, quality=Quality.BAD, source_time=source_time, properties=properties)
        rows.reject[-1] = reason

    def extend(self, other: "Columns") -> None:
        """Append all readings of `other`."""
        parts = other._parts  # noqa: SLF001 - one of its own class
        for part in parts[:] or (other,):
            if isinstance(part, _Block):
                self._append_block(part)
            else:
                rows = self._tail()
                for name in _NAMES:
                    getattr(rows, name).extend(getattr(part, name))

    @property
    def even(self) -> bool:
        """Whether all columns are equally long; only who changes their lists can make it otherwise."""
        for part in self._parts or (self,):
            if not isinstance(part, _Block):
                count = len(part.tag)
                if any(len(getattr(part, name)) != count for name in _NAMES):
                    return False
        return True

    def to_batch(self, received_time: Sequence[int] | np.ndarray, first_sequence: int) -> pa.RecordBatch:
        """The readings as a batch of ``FACTS``, numbered upwards from `first_sequence`."""
        return pa.RecordBatch.from_arrays(self.to_arrays(received_time, first_sequence), schema=FACTS)

    def to_arrays(self, received_time: Sequence[int] | np.ndarray, first_sequence: int) -> list[pa.Array]:
        """The readings as arrays in the order of ``FACTS``, numbered upwards from `first_sequence`."""
        count = len(self)
        given = {
            "received_time": np.asarray(received_time, np.int64),
            "sequence": np.arange(first_sequence, first_sequence + count, dtype=np.int64),
        }
        return [
            _buffered(given[name], count, type_)
            if name in given
            else _joined([_piece(part, name) for part in self._parts], count, name, type_, code)
            if self._parts
            else _array(getattr(self, name), type_, code)
            for name, type_, code in _BUILT
        ]


_INTEGERS: Final = (ValueType.BOOLEAN, ValueType.INT64, ValueType.UINT64)
_KINDS: Final = {"f": ValueType.DOUBLE, "b": ValueType.BOOLEAN, "i": ValueType.INT64, "u": ValueType.INT64}


def _held(values: np.ndarray, kind: ValueType | None) -> tuple[ValueType, np.ndarray]:
    """The type of the values, and they as their column holds them."""
    code = values.dtype.kind
    if values.ndim != 1 or code not in _KINDS:
        raise ValueError(f"values are {values.dtype} in {values.ndim} dimensions, not one array of numbers")
    wide = code == "u" and values.dtype.itemsize == 8
    if kind is None:
        kind = ValueType.UINT64 if wide else _KINDS[code]
    if kind is ValueType.DOUBLE:
        with np.errstate(invalid="ignore"):  # numpy's word for a signalling NaN
            return kind, values.astype(np.float64, copy=False)
    if code == "f" or kind not in _INTEGERS or (wide and kind is ValueType.INT64):
        raise ValueError(f"values are {values.dtype}, which {kind.name} cannot hold")
    if kind is ValueType.BOOLEAN:
        return kind, (values != 0).astype(np.int64)
    return kind, values.astype(np.uint64 if wide else np.int64, copy=False).view(np.int64)


def _times(times: int | np.ndarray | None) -> int | np.ndarray | None:
    if not isinstance(times, np.ndarray):
        return None if times == NULL_TIME else times
    if times.dtype == np.int64:
        return times
    if times.dtype != np.dtype("datetime64[us]"):
        raise ValueError(f"times are {times.dtype}, not int64 or datetime64[us]")
    return times.view(np.int64)


_CODES: Final = {8: "b", 16: "h", 32: "i", 64: "q"}


def _code(type_: pa.DataType) -> str:
    return _CODES[type_.bit_width] if pa.types.is_integer(type_) or pa.types.is_timestamp(type_) else ""


_BUILT: Final = [(field.name, field.type, _code(field.type)) for field in FACTS]
_FEW: Final = 16


def _array(values: list[Any], type_: pa.DataType, code: str) -> pa.Array:
    """`values` in Arrow. Most columns say the same throughout, and Python reads a list of integers faster than Arrow does.

    Args:
        values: The values, None for null.
        type_: Their type.
        code: Type code of `array.array` for the same bits, for integers and times.
    """
    count = len(values)
    first = values[0] if count else None
    if first is None:
        return pa.nulls(count, type_) if values.count(None) == count else pa.array(values, type_)
    if not code:
        return pa.array(values, type_)
    try:
        if count >= _FEW and values[-1] == first and values.count(first) == count:
            found = array(code, [first]) * count
        else:
            found = array(code, values)
    except (TypeError, OverflowError):  # there are nulls, or Arrow says what is wrong
        return pa.array(values, type_)
    return _buffered(found, count, type_)


def _buffered(values: Any, count: int, type_: pa.DataType) -> pa.Array:
    """The same bits in Arrow, without nulls; nothing is copied."""
    return pa.Array.from_buffers(type_, count, [None, pa.py_buffer(values)], 0)


_Piece = tuple[int, Any]
"""How many readings of a column, and what `_Block` holds of them."""


def _piece(part: _Block | Columns, name: str) -> _Piece:
    return (part.count, part.columns.get(name)) if isinstance(part, _Block) else (len(part), getattr(part, name))


def _joined(pieces: list[_Piece], count: int, name: str, type_: pa.DataType, code: str) -> pa.Array:
    """A column of several pieces in Arrow, in one copy."""
    if all(column is None for _, column in pieces):
        return pa.nulls(count, type_)
    if not code and name != "value_double":
        return pa.array(
            [x for n, column in pieces for x in (column if isinstance(column, list) else [column] * n)], type_
        )
    bits = pa.int64() if name == "source_time" else type_
    out = np.zeros(count, bits.to_pandas_dtype())
    valid: np.ndarray | None = None
    at = 0
    for n, column in pieces:
        here = slice(at, at + n)
        at += n
        if isinstance(column, list):
            found = _array(column, bits, code)
            out[here] = raw_numbers(found)
            if found.null_count:
                valid = np.ones(count, np.bool_) if valid is None else valid
                valid[here] = found.is_valid().to_numpy(zero_copy_only=False)
        elif column is not None:
            out[here] = column
        else:
            valid = np.ones(count, np.bool_) if valid is None else valid
            valid[here] = False
    if name == "source_time" and out.min() == NULL_TIME:
        valid = (out != NULL_TIME) & (True if valid is None else valid)
    if valid is None:
        return _buffered(out, count, type_)
    return pa.Array.from_buffers(type_, count, [pa.py_buffer(np.packbits(valid, bitorder="little")), pa.py_buffer(out)])


def raw_numbers(array: pa.Array) -> np.ndarray:
    """The numbers of a column of fixed width without a copy; where it is null, whatever lies there."""
    if not array.null_count:
        return np.asarray(array.to_numpy())
    dtype, buffer, width = np.dtype(array.type.to_pandas_dtype()), array.buffers()[1], array.type.byte_width
    if buffer is None or buffer.size < (array.offset + len(array)) * width:
        return np.zeros(len(array), dtype)
    return np.frombuffer(buffer, dtype, len(array), array.offset * width)
