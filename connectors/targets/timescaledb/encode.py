"""Readings as the binary COPY format of PostgreSQL. Pure.

A row is put together from pieces that are each made for all rows at once: what is constant per tag is rendered once per
tag and looked up; numbers and times are written into a matrix of bytes, a row per reading, with a mask where some are
null; texts keep their own buffers. Arrow joins the pieces. There is no loop over readings.

PostgreSQL has no text with a NUL: a value that holds one goes to ``value_bytes`` as UTF-8, ``value_text`` is null then.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from connectors.wire import rows
from normalization.reading import TAG_COLUMNS, Quality, ValueType

HEADER: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER: Final = b"\xff\xff"

EPOCH: Final = 946_684_800_000_000  # 2000-01-01, where PostgreSQL counts µs from, in µs since 1970
_FIRST: Final = -210_866_803_200_000_000  # 4714-11-24 BC, the first day of timestamptz, in µs since 1970
_END: Final = 9_223_371_331_200_000_000  # in the year 294247, where hypertables end, in µs since 1970
_NULL: Final = b"\xff\xff\xff\xff"
_EMPTY: Final = pa.scalar(b"", pa.binary())
_BINARY: Final = pa.binary()
_NUL: Final = "holds the character NUL, which PostgreSQL has no way to say"

# in the order in which a row is made of them: numbers, what is constant per tag, the rest
_TIMES: Final = ("time", "received_time", "source_time")
_NUMBERS: Final = ("sequence", "flags", "priority", "value", "value_int", "value_uint", "status")
_TEXTS: Final = ("type", "quality", "gateway", "shard", "value_text", "value_bytes", "properties")
COLUMNS: Final = (*_TIMES, *_NUMBERS, *TAG_COLUMNS, *_TEXTS)

_DTYPES: Final = {"flags": ">i4", "priority": ">i4", "value": ">f8", "value_uint": "V18"}  # else >i8
_DIGITS: Final = 5  # of base 10,000 in a `numeric` that holds 2^64 - 1

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Copy:
    """What `COPY … FROM STDIN (FORMAT binary)` is given.

    Attributes:
        payload: The data; meaningless when there are rejects.
        rejected: Rows that PostgreSQL has no way to say, ascending.
        reasons: Why, one for each.
    """

    payload: bytes
    rejected: list[int]
    reasons: list[str]


def prefixed(values: pa.Array) -> list[pa.Array]:
    """A column of text or bytes as the two pieces of its field: length, data."""
    count = len(values)
    lengths = pc.fill_null(pc.binary_length(values), -1).to_numpy().astype(">i4")
    prefix = pa.Array.from_buffers(
        _BINARY, count, [None, pa.py_buffer(np.arange(0, 4 * count + 1, 4, dtype=np.int32)), pa.py_buffer(lengths)]
    )
    data = values.cast(_BINARY) if values.type != _BINARY else values
    return [prefix, pc.fill_null(data, b"") if data.null_count else data]


def _field(values: pa.Array) -> pa.Array:
    """A column of text or bytes as its fields."""
    return pc.binary_join_element_wise(*prefixed(values), _EMPTY)


_TYPE_FIELDS: Final = _field(pa.array([t.name for t in ValueType]))
_QUALITY_FIELDS: Final = _field(pa.array([q.name for q in Quality]))
_NULLS: Final = pa.array([_NULL], _BINARY)


def _numeric(numbers: npt.NDArray[np.uint64]) -> npt.NDArray[np.void]:
    """Numbers as `numeric`: count of digits, weight of the first, sign, scale, digits of base 10,000."""
    made = np.zeros((len(numbers), 4 + _DIGITS), ">i2")
    made[:, 0], made[:, 1] = _DIGITS, _DIGITS - 1
    rest = numbers
    for place in range(3 + _DIGITS, 3, -1):
        rest, made[:, place] = np.divmod(rest, np.uint64(10_000))
    return made.view("V18").reshape(len(numbers))


class CopyEncoder:
    """Encodes stream items; keeps the constant part of each tag's rows, so use one for as long as possible.

    Args:
        time: The column that `time` is made from; where `source_time` is null, it is `received_time`.
    """

    def __init__(self, time: str = "source_time") -> None:
        self._time = time
        self._token = b""
        self._tags = pa.array([], _BINARY)
        self._unsayable = np.empty(0, np.bool_)  # by tag: a name holds a NUL

    def encode(self, batch: pa.RecordBatch) -> Copy:
        """The rows of a batch of `normalization.reading.stream_schema`, in its order, of ``COLUMNS``."""
        self._learn(batch)
        tags = batch.column("tag")
        times = self._times(batch)
        if rejects := self._rejects(batch, tags.to_numpy(), times):
            return Copy(b"", list(rejects), list(rejects.values()))
        text, raw = _texts(batch)
        pieces = [
            _matrix(times | _numbers(batch)),
            self._tags.take(tags),
            _TYPE_FIELDS.take(batch.column("type")),
            _QUALITY_FIELDS.take(batch.column("quality")),
            *(_constant(batch.column(name)) for name in ("gateway", "shard")),
            *(piece for column in (text, raw, batch.column("properties")) for piece in _piece(column)),
        ]
        return Copy(b"".join((HEADER, joined(pieces), TRAILER)), [], [])

    def _learn(self, batch: pa.RecordBatch) -> None:
        """Render the constant part of the tags that are new."""
        token = (batch.schema.metadata or {}).get(b"tags", b"")
        if token != self._token:
            self._token, self._tags, self._unsayable = token, pa.array([], _BINARY), np.empty(0, np.bool_)
        known = len(self._tags)
        columns = [batch.column(name).dictionary for name in TAG_COLUMNS]
        if known >= len(columns[0]):
            return
        added = [column.slice(known) for column in columns]
        rendered = pc.binary_join_element_wise(*(piece for column in added for piece in prefixed(column)), _EMPTY)
        self._tags = pa.concat_arrays([self._tags, rendered])
        wrong = np.logical_or.reduce([has_nul(column) for column in added])
        self._unsayable = np.concatenate([self._unsayable, wrong])

    def _times(self, batch: pa.RecordBatch) -> dict[str, pa.Array]:
        source, received = (batch.column(name).view(pa.int64()) for name in ("source_time", "received_time"))
        time = received
        if self._time == "source_time":
            time = pc.coalesce(source, received) if source.null_count else source
        return dict(zip(_TIMES, (time, received, source), strict=True))

    def _rejects(
        self, batch: pa.RecordBatch, tags: npt.NDArray[np.int32], times: dict[str, pa.Array]
    ) -> dict[int, str]:
        """Rows that cannot be said, ascending, with the reason."""
        found: dict[int, str] = {}
        for name in _TIMES[1:]:
            _note(found, outside(times[name]), f"`{name}` is outside of what PostgreSQL can say, 4714 BC to 294247")
        if self._unsayable.any():
            _note(found, self._unsayable[tags], f"a name of its tag {_NUL}")
        properties = batch.column("properties")
        if properties.null_count < len(properties):
            _note(found, has_nul(properties), f"`properties` {_NUL}")
        return dict(sorted(found.items()))


def joined(pieces: Sequence[pa.Array | pa.Scalar]) -> memoryview:
    """The rows that `pieces` make side by side, one after the other."""
    joined = pc.binary_join_element_wise(*pieces, _EMPTY)
    _, offsets, data = joined.buffers()
    ends = np.frombuffer(offsets, np.int32)
    return memoryview(b"" if data is None else data)[ends[joined.offset] : ends[joined.offset + len(joined)]]


def fixed(column: pa.Array, dtype: str) -> pa.Array:
    """A column of numbers as its fields.

    Args:
        column: int64 or float64.
        dtype: What one is in PostgreSQL, as numpy calls it.
    """
    made = np.empty(len(column), np.dtype([("length", ">i4"), ("value", dtype)]))
    made["length"], made["value"] = made.dtype["value"].itemsize, column.fill_null(0).to_numpy()
    holes = []
    if column.null_count:
        nulls = column.is_null().to_numpy(zero_copy_only=False)
        made["length"][nulls] = -1
        holes = [(4, made.dtype["value"].itemsize, nulls)]
    return _pieces(made.view(np.uint8).reshape(len(column), made.dtype.itemsize), holes)


def _note(found: dict[int, str], wrong: npt.NDArray[np.bool_], reason: str) -> None:
    for row in np.flatnonzero(wrong).tolist():
        found.setdefault(row, reason)


def outside(micros: pa.Array) -> npt.NDArray[np.bool_]:
    """Which times (int64, µs since the epoch) PostgreSQL cannot say; null is none."""
    numbers = micros.fill_null(0).to_numpy()
    return np.asarray((numbers < _FIRST) | (numbers >= _END))


def has_nul(text: pa.Array) -> npt.NDArray[np.bool_]:
    """Which texts hold the character NUL."""
    found = pc.match_substring(text, "\0")
    return np.asarray(pc.fill_null(found, False).to_numpy(zero_copy_only=False))


def _texts(batch: pa.RecordBatch) -> tuple[pa.Array, pa.Array]:
    """`value_text` and `value_bytes`, with the texts that hold a NUL among the bytes."""
    text, raw = batch.column("value_text"), batch.column("value_bytes")
    if text.null_count == len(text):
        return text, raw
    nul = has_nul(text)
    if not nul.any():
        return text, raw
    wrong = pa.array(nul)
    return pc.if_else(wrong, None, text), pc.if_else(wrong, text.cast(_BINARY), raw)


def _numbers(batch: pa.RecordBatch) -> dict[str, pa.Array]:
    """The columns of `_NUMBERS`, UINT64 values apart from the other integers."""
    integers = batch.column("value_int")
    unsigned: pa.Array = pa.nulls(len(batch), pa.uint64())
    if integers.null_count < len(integers):
        is_unsigned = pc.equal(batch.column("type"), int(ValueType.UINT64))
        if pc.any(is_unsigned, min_count=0).as_py():
            unsigned = pc.if_else(is_unsigned, rows.unsigned(integers), None)
            integers = pc.if_else(is_unsigned, None, integers)
    given = {"value_int": integers, "value_uint": unsigned}
    return {name: given[name] if name in given else batch.column(name) for name in _NUMBERS}


def _matrix(columns: dict[str, pa.Array]) -> pa.Array:
    """The number of fields of a row, and the fields of fixed width; the bytes that are there, a piece per row."""
    count = len(next(iter(columns.values())))
    absent = {name for name, column in columns.items() if column.null_count == count}
    dtype = _row(columns, absent)
    made = np.empty(count, dtype)
    made["fields"] = len(COLUMNS)
    holes = []
    for name, column in columns.items():
        width = made[name].dtype.itemsize if name not in absent else -1
        made[f"{name} length"] = width
        if name in absent:
            continue
        if column.null_count:
            nulls = column.is_null().to_numpy(zero_copy_only=False)
            made[f"{name} length"][nulls] = -1
            holes.append((dtype.fields[name][1], width, nulls))  # type: ignore[index]
        numbers = column.fill_null(0).to_numpy() if column.null_count else column.to_numpy()
        if name in _TIMES:
            numbers = numbers - EPOCH
        made[name] = _numeric(numbers) if name == "value_uint" else numbers
    return _pieces(made.view(np.uint8).reshape(count, dtype.itemsize), holes)


def _row(names: Iterable[str], absent: set[str]) -> np.dtype[np.void]:
    fields = [("fields", ">i2")]
    for name in names:
        fields.append((f"{name} length", ">i4"))
        if name not in absent:
            fields.append((name, _DTYPES.get(name, ">i8")))
    return np.dtype(fields)


def _pieces(matrix: Bytes, holes: Sequence[tuple[int, int, npt.NDArray[np.bool_]]]) -> pa.Array:
    """The rows of a matrix of bytes, without the holes: first byte, width, and in which rows."""
    count, width = matrix.shape
    if not holes:
        ends = np.arange(0, (count + 1) * width, width, dtype=np.int32)
        return _binary(matrix, ends)
    there = np.ones(matrix.shape, np.bool_)
    for start, size, rows_ in holes:
        there[rows_, start : start + size] = False
    ends = np.zeros(count + 1, np.int32)
    np.cumsum(there.sum(axis=1, dtype=np.int32), out=ends[1:])
    return _binary(matrix[there], ends)


def _binary(data: Bytes, ends: npt.NDArray[np.int32]) -> pa.Array:
    return pa.Array.from_buffers(_BINARY, len(ends) - 1, [None, pa.py_buffer(ends), pa.py_buffer(data)])


def _constant(names: pa.DictionaryArray) -> pa.Array | pa.Scalar:
    """Fields of a dictionary column."""
    fields = _field(names.dictionary)
    return fields[0] if len(fields) == 1 else fields.take(names.indices)


def _piece(column: pa.Array) -> list[pa.Array | pa.Scalar]:
    return [_NULLS[0]] if column.null_count == len(column) else prefixed(column)
