"""The bytes of blocks to columns: a few numpy operations for all values of one type, worked out once for these blocks."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from connectors.sources.modbus.datatypes import PLAIN, REGISTERS, Meaning, byte_places, order_of
from connectors.sources.modbus.plan import Block, Point
from connectors.sources.modbus.protocol import reply_bytes
from normalization.reading import Columns, Quality, ValueType

# What numpy reads, once the bytes lie in network order, and what the reading's type is. A uint64 travels as its bit pattern.
_NUMBERS: Final[dict[str, tuple[str, ValueType]]] = {
    "int8": (">i1", ValueType.INT64),
    "uint8": (">u1", ValueType.INT64),
    "int16": (">i2", ValueType.INT64),
    "uint16": (">u2", ValueType.INT64),
    "int32": (">i4", ValueType.INT64),
    "uint32": (">u4", ValueType.INT64),
    "int64": (">i8", ValueType.INT64),
    "uint64": (">u8", ValueType.UINT64),
    "float16": (">f2", ValueType.DOUBLE),
    "float32": (">f4", ValueType.DOUBLE),
    "float64": (">f8", ValueType.DOUBLE),
}
_BITS: Final = "bit"


@dataclass(frozen=True, slots=True)
class _Group:
    """Values of one type and meaning.

    Attributes:
        tags: Rows of the tag table.
        type: How they are written.
        meaning: What they stand for.
        first: Where they begin when they lie one after the other in network order, else None.
        index: Where each byte of each is, in network order; of a bit its place among the bits, lowest of a byte first.
    """

    tags: np.ndarray
    type: str
    meaning: Meaning
    first: int | None
    index: np.ndarray


@dataclass(frozen=True, slots=True)
class _Text:
    """A string: its bytes lie at `index` in the order in which they are read."""

    tag: int
    index: np.ndarray
    encoding: str


@dataclass(slots=True)
class _Gathered:
    tags: list[int] = field(default_factory=list)
    index: list[list[int]] = field(default_factory=list)


class Decoder:
    """Decodes the data of the replies to the requests for some blocks, one behind the other.

    Attributes:
        tags: All tags of the blocks.
        all_tags: The same as an array.
    """

    def __init__(self, blocks: Sequence[Block], points: Sequence[Point], tags: Sequence[int]) -> None:
        self.tags = [tags[i] for block in blocks for i in block.members]
        self.all_tags = np.array(self.tags, np.int32)
        self._texts: list[_Text] = []
        gathered: dict[tuple[str, Meaning], _Gathered] = {}
        start = 0
        for block in blocks:
            for i in block.members:
                self._place(points[i], points[i].address - block.address, start, block, tags[i], gathered)
            start += reply_bytes(block)
        self._groups = [_group(name, meaning, found) for (name, meaning), found in gathered.items()]

    def _place(
        self,
        point: Point,
        offset: int,
        start: int,
        block: Block,
        tag: int,
        gathered: dict[tuple[str, Meaning], _Gathered],
    ) -> None:
        if point.type == "string":
            index = _string_index(point, start + 2 * offset)
            self._texts.append(_Text(tag, index, point.encoding))
            return
        at = start + 2 * offset
        name: str = point.type
        if block.kind.is_bits:
            name, index_ = _BITS, [8 * start + offset]
        elif name == "bit":
            index_ = [8 * (at + _register_bytes(point)[1 - point.bit // 8]) + point.bit % 8]
        elif "8_" in name:
            name, _, half = name.partition("_")
            index_ = [at + _register_bytes(point)[half == "low"]]
        else:
            order = point.order or order_of(REGISTERS[name], point.byte_order, point.word_order)
            index_ = [at + place for place in byte_places(order)]
        values = gathered.setdefault((name, point.meaning), _Gathered())
        values.tags.append(tag)
        values.index.append(index_)

    def decode(self, data: bytes, rows: Columns, source_time: int | None = None) -> None:
        """Append one reading per value; what is not a value of its type is appended as a reject.

        Args:
            data: The data of the replies, exactly as long as the blocks.
            rows: Where the readings go.
            source_time: µs since the epoch, UTC.
        """
        raw = np.frombuffer(data, np.uint8)
        for group in self._groups:
            if group.type == _BITS:
                at = group.index[:, 0]
                values = raw[at >> 3] >> (at & 7).astype(np.uint8) & np.uint8(1)
                _append(rows, group, group.tags, values, ValueType.BOOLEAN, source_time)
            elif group.type.startswith("bcd"):
                _append_bcd(rows, group, raw[group.index], source_time)
            else:
                dtype, kind = _NUMBERS[group.type]
                if group.first is not None:
                    values = np.frombuffer(data, dtype, len(group.tags), group.first)
                else:
                    values = raw[group.index].view(dtype)[:, 0]
                if kind is ValueType.DOUBLE:
                    with np.errstate(invalid="ignore"):  # signaling NaNs
                        values = values.astype(np.float64)
                _append(rows, group, group.tags, values, kind, source_time)
        for text in self._texts:
            octets = raw[text.index].tobytes().partition(b"\0")[0]
            try:
                rows.add(text.tag, octets.decode(text.encoding), source_time=source_time)
            except UnicodeDecodeError:
                rows.add_reject(text.tag, f"not a string in {text.encoding}", octets, source_time=source_time)


def _group(name: str, meaning: Meaning, found: _Gathered) -> _Group:
    index = np.array(found.index, np.intp)
    flat = index.ravel()
    dense = name != _BITS and bool((np.diff(flat) == 1).all())
    return _Group(np.array(found.tags, np.int32), name, meaning, int(flat[0]) if dense else None, index)


def _register_bytes(point: Point) -> tuple[int, int]:
    """Where the high and the low byte of a register lie."""
    return (1, 0) if point.byte_order == "little" else (0, 1)


def _string_index(point: Point, start: int) -> np.ndarray:
    index = np.arange(start, start + 2 * point.size).reshape(-1, 2)
    return (index[:, ::-1] if point.byte_order == "little" else index).ravel()[: point.length]


def _append(
    rows: Columns, group: _Group, tags: np.ndarray, values: np.ndarray, kind: ValueType, source_time: int | None
) -> None:
    """The values of a group, and what they stand for."""
    meaning = group.meaning
    if meaning is PLAIN or meaning == PLAIN:
        rows.add_arrays(tags, values, kind, source_time=source_time)
        return
    if meaning.invalid:
        invalid = np.isin(values, np.array(meaning.invalid))
        if any(number != number for number in meaning.invalid):  # noqa: PLR0124 - NaN is not itself
            invalid |= values != values  # noqa: PLR0124
        if invalid.any():
            rows.add_arrays(tags[invalid], None, quality=Quality.BAD, source_time=source_time)
            tags, values = tags[~invalid], values[~invalid]
    if meaning.mask:
        values = values.astype(np.uint64) & np.uint64(meaning.mask)
        values >>= np.uint64((meaning.mask & -meaning.mask).bit_length() - 1)
        kind = ValueType.UINT64
        if meaning.mask >> 63 == 0 or meaning.mask & 1 == 0:  # it fits into 63 bits once it is moved down
            kind, values = ValueType.INT64, values.view(np.int64)
    if meaning.names:
        _append_names(rows, tags, values, dict(meaning.names), source_time)
    elif meaning.decimals:
        rows.add_arrays(tags, values / 10.0**meaning.decimals, ValueType.DOUBLE, source_time=source_time)
    else:
        rows.add_arrays(tags, values, kind, source_time=source_time)


def _append_names(
    rows: Columns, tags: np.ndarray, values: np.ndarray, names: dict[int, str], source_time: int | None
) -> None:
    """The names of the values of an enumeration; one without a name is told as its number, and is uncertain."""
    for tag, number in zip(tags.tolist(), values.tolist(), strict=True):
        name = names.get(number)
        quality = Quality.UNCERTAIN if name is None else Quality.GOOD
        rows.add(tag, str(number) if name is None else name, quality=quality, source_time=source_time)


def _append_bcd(rows: Columns, group: _Group, octets: np.ndarray, source_time: int | None) -> None:
    """Numbers of four bits a digit, the most significant first."""
    digits = np.stack([octets >> 4, octets & 15], axis=2).reshape(len(octets), -1)
    sound = (digits <= 9).all(axis=1)
    powers = 10 ** np.arange(digits.shape[1] - 1, -1, -1, dtype=np.int64)
    _append(rows, group, group.tags[sound], digits[sound].astype(np.int64) @ powers, ValueType.INT64, source_time)
    for at in np.flatnonzero(~sound):
        tag, raw = int(group.tags[at]), octets[at].tobytes()
        rows.add_reject(tag, "not a number in BCD", raw, source_time=source_time)
