"""Readings as what ZeroBus takes: protobuf records or Arrow batches, cut to its limits. Pure.

The protobuf wire format does not care for the order of fields, so a record is put together from pieces, each made for all
rows at once: names are rendered once per dictionary entry (once per tag) and looked up; numbers are written into a matrix
of bytes, one row per reading, with a mask that says which bytes count; texts keep their own buffers.
"""

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from connectors.targets.zerobus.schema import Column
from normalization.reading import Quality, ValueType

MAX_RECORDS: Final = 100_000
MAX_BYTES: Final = 10 * 1024 * 1024 - 65 * 1024
_FRAME: Final = 6  # tag and length of a record inside a request: at most 1 + 5 bytes

_TYPES: Final = pa.array([t.name for t in ValueType], pa.string())
_QUALITIES: Final = pa.array([q.name for q in Quality], pa.string())
_BINARY: Final = pa.binary()

Bytes = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]


def reading_columns(batch: pa.RecordBatch) -> dict[str, pa.Array]:
    """The columns of ``TABLE`` for a stream batch, as `normalization.reading.table` gives them, names still as dictionary."""
    source_time = batch.column("source_time")
    when = pc.coalesce(source_time, batch.column("received_time")) if source_time.null_count else source_time
    given = {name: batch.column(i) for i, name in enumerate(batch.schema.names)}
    return given | {
        "date": when.cast(pa.date32()),
        "type": pa.DictionaryArray.from_arrays(given["type"], _TYPES, safe=False),
        "quality": pa.DictionaryArray.from_arrays(given["quality"], _QUALITIES, safe=False),
        "flags": given["flags"].cast(pa.int32()),
    }


def missing(values: dict[str, pa.Array], columns: Sequence[Column]) -> dict[int, str]:
    """Rows without a value in a column that the service wants NOT NULL, with the reason."""
    found: dict[int, str] = {}
    for column in columns:
        if not column.nullable and values[column.name].null_count:
            for row in np.flatnonzero(values[column.name].is_null().to_numpy(zero_copy_only=False)).tolist():
                found.setdefault(row, f"column `{column.field}` is NOT NULL at the service, the reading has no value")
    return found


def to_arrow(values: dict[str, pa.Array], columns: Sequence[Column], schema: pa.Schema) -> pa.RecordBatch:
    """The columns that are sent as one Arrow batch of the service's types.

    Args:
        values: See `reading_columns`.
        columns: See `schema.Plan`.
        schema: `schema.Plan.arrow`.
    """
    arrays = []
    for column in columns:
        array = values[column.name]
        if pa.types.is_dictionary(array.type):
            array = array.dictionary_decode()
        arrays.append(array if array.type == column.kind.arrow else array.cast(column.kind.arrow))
    # Readings lack values in columns that are NOT NULL at the service only in rows that `missing` names.
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def arrow_sizes(batch: pa.RecordBatch) -> npt.NDArray[np.int64]:
    """Bytes of each row in Arrow's own layout."""
    sizes = np.zeros(batch.num_rows, np.int64)
    for array in batch.columns:
        if pa.types.is_string(array.type) or pa.types.is_binary(array.type):
            sizes += pc.binary_length(array).fill_null(0).to_numpy().astype(np.int64) + 4
        else:
            sizes += array.type.bit_width // 8
    sizes += (batch.num_columns + 7) // 8
    return sizes


def record_sizes(records: pa.BinaryArray) -> npt.NDArray[np.int64]:
    """Bytes that each encoded record takes in a request."""
    return np.diff(_offsets(records)).astype(np.int64) + _FRAME


def requests(sizes: npt.NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Cut rows into requests within the service's limits.

    Args:
        sizes: Bytes of each row; none above `MAX_BYTES`.

    Yields:
        First row and the row after the last.
    """
    ends = np.cumsum(sizes)
    start, sent = 0, 0
    while start < len(sizes):
        stop = min(int(np.searchsorted(ends, sent + MAX_BYTES, side="right")), start + MAX_RECORDS)
        yield start, stop
        start, sent = stop, int(ends[stop - 1])


def oversized(sizes: npt.NDArray[np.int64]) -> dict[int, str]:
    """Rows that are larger than a request may be, with the reason."""
    return {
        row: f"the record has {int(sizes[row])} bytes, the service takes at most {MAX_BYTES}"
        for row in np.flatnonzero(sizes > MAX_BYTES).tolist()
    }


class ProtobufEncoder:
    """Readings as serialized protobuf messages (`schema.descriptor`).

    It remembers how dictionary entries were rendered for as long as batches share their dictionaries, which they do: the
    dictionaries are the tag table's own arrays.
    """

    def __init__(self, columns: Sequence[Column]) -> None:
        self._columns = columns
        self._memory: dict[tuple[int, ...], _Rendered] = {}

    def encode(self, values: dict[str, pa.Array], rows: int) -> pa.BinaryArray:
        """One message per row.

        Args:
            values: See `reading_columns`.
            rows: Number of readings.
        """
        lanes = _Lanes(rows)
        groups: list[tuple[pa.Array, dict[int, pa.Array]]] = []
        texts: list[tuple[int, pa.Array]] = []
        for column in self._columns:
            array = values[column.name]
            if array.null_count == rows:
                continue
            if isinstance(array, pa.DictionaryArray):
                entries = array.dictionary
                if array.null_count or entries.null_count:
                    texts.append((column.number, array.dictionary_decode()))
                    continue
                index = array.indices
                for known, members in groups:
                    if known.equals(index):
                        members[column.number] = entries
                        break
                else:
                    groups.append((index, {column.number: entries}))
            elif pa.types.is_string(array.type) or pa.types.is_binary(array.type):
                texts.append((column.number, array))
            else:
                lanes.number(column.number, array)
        pieces = [self._rendered(members).take(index.to_numpy()) for index, members in groups]
        pieces.append(lanes.finish())
        for number, array in texts:
            pieces += _delimited(number, array)
        return pc.binary_join_element_wise(*pieces, b"")

    def _rendered(self, members: dict[int, pa.Array]) -> "_Rendered":
        known = self._memory.get(tuple(members))
        if known is None or not known.holds(members):
            known = self._memory[tuple(members)] = _Rendered(members)
        return known


class _Rendered:
    """Dictionary columns with the same indices, rendered together, each entry when it is first used."""

    def __init__(self, members: dict[int, pa.Array]) -> None:
        self._members = members  # also keeps the buffers alive, whose addresses identify them
        self._key = self._identity(members)
        self._slots = np.full(max(map(len, members.values())), -1, np.int32)
        self._pieces = pa.array([], _BINARY)

    @staticmethod
    def _identity(members: dict[int, pa.Array]) -> list[tuple[int, int, int]]:
        return [(a.buffers()[2].address if a.buffers()[2] else 0, a.offset, len(a)) for a in members.values()]

    def holds(self, members: dict[int, pa.Array]) -> bool:
        return self._key == self._identity(members)

    def take(self, index: npt.NDArray[np.int32]) -> pa.BinaryArray:
        """The pieces of the entries that `index` names."""
        slots = self._slots[index]
        if slots.min(initial=0) < 0:
            new = np.unique(index[slots < 0])
            parts = [p for number, a in self._members.items() for p in _delimited(number, a.take(pa.array(new)))]
            first = len(self._pieces)
            self._pieces = pa.concat_arrays([self._pieces, pc.binary_join_element_wise(*parts, b"")])
            self._slots[new] = np.arange(first, first + len(new), dtype=np.int32)
            slots = self._slots[index]
        return self._pieces.take(pa.array(slots))


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _offsets(array: pa.Array) -> npt.NDArray[np.int32]:
    return np.frombuffer(array.buffers()[1], np.int32)[array.offset : array.offset + len(array) + 1]


class _Lanes:
    """Columns of bytes, each with a mask: what is unmasked in a row, left to right, is that row's piece."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._bytes: list[Bytes | int] = []
        self._masks: list[Mask | None] = []

    def _add(self, lane: Bytes | int, mask: Mask | None) -> None:
        self._bytes.append(lane)
        self._masks.append(mask)

    def tag(self, number: int, wire_type: int, mask: Mask | None) -> None:
        for byte in _varint(number << 3 | wire_type):
            self._add(byte, mask)

    def varint(self, values: npt.NDArray[np.uint64], mask: Mask | None) -> None:
        top = int(values.max()) if len(values) else 0
        low = int(values.min()) if len(values) else 0
        present = mask
        while True:
            lane = values.astype(np.uint8)
            if top < 0x80:
                self._add(lane, present)
                return
            values = values >> np.uint64(7)
            if low >= 0x80:
                self._add(lane | np.uint8(0x80), present)
            else:
                more = values != 0
                self._add((lane & np.uint8(0x7F)) | (more.view(np.uint8) << np.uint8(7)), present)
                present = more if mask is None else more & mask
            top, low = top >> 7, low >> 7

    def number(self, number: int, array: pa.Array) -> None:
        """A column of numbers, dates or timestamps; nulls are left out."""
        mask: Mask | None = None
        if array.null_count:
            mask = array.is_valid().to_numpy(zero_copy_only=False)
            array = array.view(_BITS[array.type.bit_width]).fill_null(0) if array.type != pa.float64() else array
        if array.type == pa.float64():
            raw = np.frombuffer(array.buffers()[1], np.uint8).reshape(-1, 8)[array.offset : array.offset + self._rows]
            self.tag(number, 1, mask)
            for i in range(8):
                self._add(raw[:, i], mask)
            return
        bits = array.view(_BITS[array.type.bit_width]).to_numpy().astype(np.int64, copy=False)
        self.tag(number, 0, mask)
        self.varint(bits.view(np.uint64), mask)

    def length(self, number: int, lengths: npt.NDArray[np.int32], mask: Mask | None) -> None:
        """Tag and length in front of a text or bytes."""
        self.tag(number, 2, mask)
        self.varint(lengths.astype(np.uint64), mask)

    def finish(self) -> pa.BinaryArray:
        """One piece per row."""
        cells = np.empty((self._rows, len(self._bytes)), np.uint8)
        keep = np.ones((self._rows, len(self._bytes)), np.bool_)
        for i, (lane, mask) in enumerate(zip(self._bytes, self._masks, strict=True)):
            cells[:, i] = lane
            if mask is not None:
                keep[:, i] = mask
        offsets = np.zeros(self._rows + 1, np.int32)
        if all(mask is None for mask in self._masks):
            np.cumsum(np.full(self._rows, len(self._bytes), np.int32), out=offsets[1:])
            data = cells.reshape(-1)
        else:
            np.cumsum(keep.sum(axis=1, dtype=np.int32), out=offsets[1:])
            data = cells[keep]
        return pa.Array.from_buffers(_BINARY, self._rows, [None, pa.py_buffer(offsets), pa.py_buffer(data)])


_BITS: Final = {32: pa.int32(), 64: pa.int64()}


def _delimited(number: int, array: pa.Array) -> list[pa.Array]:
    """The pieces of a text or bytes column: tag and length, then the content; both empty where it is null."""
    lanes = _Lanes(len(array))
    mask: Mask | None = None
    lengths = np.diff(_offsets(array))
    if array.null_count:
        mask = array.is_valid().to_numpy(zero_copy_only=False)
        array = array.fill_null("" if pa.types.is_string(array.type) else b"")
        lengths = np.diff(_offsets(array))
    lanes.length(number, lengths, mask)
    return [lanes.finish(), array if array.type == _BINARY else array.cast(_BINARY)]
