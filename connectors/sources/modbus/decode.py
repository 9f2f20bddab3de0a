"""The bytes of a block to columns: a few numpy operations for all values of one type, worked out once per block."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from connectors.sources.modbus.plan import REGISTERS, Block, Point
from normalization.reading import Columns, ValueType

# What numpy reads, once the bytes lie in network order, and what the reading's type is. A uint64 travels as its bit pattern.
_NUMBERS: dict[str, tuple[str, ValueType]] = {
    "int16": (">i2", ValueType.INT64),
    "uint16": (">u2", ValueType.INT64),
    "int32": (">i4", ValueType.INT64),
    "uint32": (">u4", ValueType.INT64),
    "int64": (">i8", ValueType.INT64),
    "uint64": (">i8", ValueType.UINT64),
    "float32": (">f4", ValueType.DOUBLE),
    "float64": (">f8", ValueType.DOUBLE),
}


@dataclass(frozen=True, slots=True)
class _Numbers:
    """Values of one type: `first` is where they lie without a gap in network order, else `index` says where each byte is."""

    tags: list[int]
    type: ValueType
    dtype: np.dtype[np.generic]
    first: int | None
    index: np.ndarray


@dataclass(frozen=True, slots=True)
class _Bits:
    """Bits: position of each in the reply's bits, lowest bit of the first byte first."""

    tags: list[int]
    index: np.ndarray


@dataclass(frozen=True, slots=True)
class _Text:
    """A string: its bytes lie at `index` in the order in which they are read."""

    tag: int
    index: np.ndarray
    encoding: str


class Decoder:
    """Decodes the data of one block's replies.

    Attributes:
        tags: All tags of the block.
    """

    def __init__(self, block: Block, points: Sequence[Point], tags: Sequence[int]) -> None:
        self.tags = [tags[i] for i in block.members]
        self._texts: list[_Text] = []
        self._numbers: list[_Numbers] = []
        bits: list[tuple[int, int]] = []
        numbers: dict[str, list[tuple[int, np.ndarray]]] = {}
        for i in block.members:
            point, offset = points[i], points[i].address - block.address
            if block.kind.is_bits:
                bits.append((tags[i], offset))
            elif point.type == "bit":
                byte = _byte_index(point, offset)[1 - point.bit // 8]
                bits.append((tags[i], int(byte) * 8 + point.bit % 8))
            elif point.type == "string":
                self._texts.append(_Text(tags[i], _byte_index(point, offset)[: point.length], point.encoding))
            else:
                numbers.setdefault(point.type, []).append((tags[i], _byte_index(point, offset)))
        self._bits = _Bits([tag for tag, _ in bits], np.array([at for _, at in bits], np.intp)) if bits else None
        for name, values in numbers.items():
            index = np.stack([at for _, at in values]).astype(np.intp)
            flat = index.ravel()
            dense = bool((np.diff(flat) == 1).all())
            dtype, type_ = _NUMBERS[name]
            self._numbers.append(
                _Numbers([tag for tag, _ in values], type_, np.dtype(dtype), int(flat[0]) if dense else None, index)
            )

    def decode(self, data: bytes, rows: Columns, source_time: int | None = None) -> None:
        """Append one reading per value; a string that is not one in its encoding is appended as a reject.

        Args:
            data: The data of the reply, exactly as long as the block.
            rows: Where the readings go.
            source_time: µs since the epoch, UTC.
        """
        raw = np.frombuffer(data, np.uint8)
        for group in self._numbers:
            if group.first is not None:
                values = np.frombuffer(data, group.dtype, len(group.tags), group.first)
            else:
                values = raw[group.index].view(group.dtype)[:, 0]
            rows.add_many(group.tags, group.type, values.tolist(), source_time=source_time)
        if self._bits is not None:
            values = np.unpackbits(raw, bitorder="little")[self._bits.index]
            rows.add_many(self._bits.tags, ValueType.BOOLEAN, values.tolist(), source_time=source_time)
        for text in self._texts:
            octets = raw[text.index].tobytes().partition(b"\0")[0]
            try:
                rows.add(text.tag, octets.decode(text.encoding), source_time=source_time)
            except UnicodeDecodeError:
                rows.add_reject(text.tag, f"not a string in {text.encoding}", octets, source_time=source_time)


def _byte_index(point: Point, offset: int) -> np.ndarray:
    """Where the value's bytes lie in the reply's data, in network order; `offset` is its first register in the block."""
    size = REGISTERS.get(point.type, point.size)
    index = np.arange(offset * 2, (offset + size) * 2).reshape(-1, 2)
    if point.word_order == "little" and point.type != "string":
        index = index[::-1]
    if point.byte_order == "little":
        index = index[:, ::-1]
    return index.ravel()
