"""Binary records of many readings at once: columns of bytes side by side, each with a mask of the rows that have it.

A record is put together from pieces that are each made for all rows; numbers are written into a matrix of bytes, one row per
reading, and the mask says which bytes of a row count.
"""

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Bytes = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
BINARY: Final = pa.binary()
_BITS: Final = {16: pa.int16(), 32: pa.int32(), 64: pa.int64()}


def varint(value: int) -> bytes:
    """A number in groups of 7 bits, the least first."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def offsets(array: pa.Array) -> npt.NDArray[np.int32]:
    """Where the texts or bytes of a column begin in its buffer, and where the last one ends."""
    found: npt.NDArray[np.int32] = np.frombuffer(array.buffers()[1], np.int32)[
        array.offset : array.offset + len(array) + 1
    ]
    return found


def integers(array: pa.Array) -> npt.NDArray[np.int64]:
    """A column of integers, dates or times as its numbers; a null is 0."""
    if array.null_count:
        array = array.view(_BITS[array.type.bit_width]).fill_null(0)
    found: npt.NDArray[np.int64] = array.view(_BITS[array.type.bit_width]).to_numpy().astype(np.int64, copy=False)
    return found


def present(array: pa.Array) -> Mask | None:
    """Which rows have a value; None when all have."""
    if not array.null_count:
        return None
    found: Mask = array.is_valid().to_numpy(zero_copy_only=False)
    return found


class Lanes:
    """Columns of bytes, each with a mask: what is unmasked in a row, left to right, is that row's piece."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._bytes: list[Bytes | int] = []
        self._masks: list[Mask | None] = []

    def __bool__(self) -> bool:
        return bool(self._bytes)

    def add(self, lane: Bytes | int, mask: Mask | None = None) -> None:
        """A byte of each row, the same in all or a column of them."""
        self._bytes.append(lane)
        self._masks.append(mask)

    def varint(self, values: npt.NDArray[np.uint64], mask: Mask | None = None) -> None:
        """Numbers in groups of 7 bits, the least first."""
        top = int(values.max()) if len(values) else 0
        low = int(values.min()) if len(values) else 0
        still = mask
        while True:
            lane = values.astype(np.uint8)
            if top < 0x80:
                self.add(lane, still)
                return
            values = values >> np.uint64(7)
            if low >= 0x80:
                self.add(lane | np.uint8(0x80), still)
            else:
                more = values != 0
                self.add((lane & np.uint8(0x7F)) | (more.view(np.uint8) << np.uint8(7)), still)
                still = more if mask is None else more & mask
            top, low = top >> 7, low >> 7

    def doubles(self, array: pa.Array, mask: Mask | None = None) -> None:
        """A column of float64, 8 bytes each, the least first."""
        raw = np.frombuffer(array.buffers()[1], np.uint8).reshape(-1, 8)[array.offset : array.offset + self._rows]
        for i in range(8):
            self.add(raw[:, i], mask)

    def finish(self) -> pa.BinaryArray:
        """One piece per row."""
        cells = np.empty((self._rows, len(self._bytes)), np.uint8)
        keep = np.ones((self._rows, len(self._bytes)), np.bool_)
        for i, (lane, mask) in enumerate(zip(self._bytes, self._masks, strict=True)):
            cells[:, i] = lane
            if mask is not None:
                keep[:, i] = mask
        ends = np.zeros(self._rows + 1, np.int32)
        if all(mask is None for mask in self._masks):
            np.cumsum(np.full(self._rows, len(self._bytes), np.int32), out=ends[1:])
            data = cells.reshape(-1)
        else:
            np.cumsum(keep.sum(axis=1, dtype=np.int32), out=ends[1:])
            data = cells[keep]
        return pa.Array.from_buffers(BINARY, self._rows, [None, pa.py_buffer(ends), pa.py_buffer(data)])


class Rendered:
    """Dictionary columns with the same indices, rendered side by side, each entry when it is first used."""

    def __init__(self, members: Mapping[int, pa.Array], render: Callable[[int, pa.Array], list[pa.Array]]) -> None:
        """Nothing is rendered yet.

        Args:
            members: Dictionaries by a number, all of one length, none with nulls.
            render: Gets a number and some entries, and returns pieces of the record, whose order is kept.
        """
        self._members = members  # also keeps the buffers alive, whose addresses identify them
        self._render = render
        self._key = self._identity(members)
        self._slots = np.full(max(map(len, members.values())), -1, np.int32)
        self._pieces = pa.array([], BINARY)

    @staticmethod
    def _identity(members: Mapping[int, pa.Array]) -> list[tuple[int, int, int]]:
        return [(a.buffers()[2].address if a.buffers()[2] else 0, a.offset, len(a)) for a in members.values()]

    def holds(self, members: Mapping[int, pa.Array]) -> bool:
        """Whether it was made from these very dictionaries."""
        return self._key == self._identity(members)

    def take(self, index: npt.NDArray[np.int32]) -> pa.BinaryArray:
        """The pieces of the entries that `index` names."""
        slots = self._slots[index]
        if slots.min(initial=0) < 0:
            new = np.unique(index[slots < 0])
            parts = [p for number, a in self._members.items() for p in self._render(number, a.take(pa.array(new)))]
            first = len(self._pieces)
            self._pieces = pa.concat_arrays([self._pieces, pc.binary_join_element_wise(*parts, b"")])
            self._slots[new] = np.arange(first, first + len(new), dtype=np.int32)
            slots = self._slots[index]
        return self._pieces.take(pa.array(slots))


def content(array: pa.Array) -> tuple[pa.Array, npt.NDArray[np.int32]]:
    """A column of texts or bytes as bytes, and the length of each; a null is empty."""
    if array.null_count:
        array = array.fill_null("" if pa.types.is_string(array.type) else b"")
    return (array if array.type == BINARY else array.cast(BINARY)), np.diff(offsets(array))
