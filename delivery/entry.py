"""How a batch lies in a store: only ids and numbers, in one Arrow message, compressed; tag rows once per segment.

A column that is null throughout is left out (bit *i* of the mask says that column *i* is there). Tags are numbered from
0 in each segment, so that a segment explains itself: a TAGS record with the new rows stands before the entries that need
them.
"""

from collections.abc import Sequence
from enum import IntEnum
from functools import lru_cache
from typing import Any, Final, Protocol

import msgspec
import numpy as np
import pyarrow as pa

from normalization.reading import FACTS, Tag, TagTable

COLUMNS: Final = pa.schema([*(f.remove_metadata() for f in FACTS), pa.field("priority", pa.int32())])
_CODECS: Final = (pa.Codec("lz4_raw"), pa.Codec("zstd", compression_level=1))
_CODEC_BIT: Final = 24  # of the mask, from here on: the codec's number
_WORTH_COMPRESSING: Final = 1024
_TAG: Final = COLUMNS.get_field_index("tag")

pack: Final = msgspec.msgpack.Encoder().encode
unpack: Final = msgspec.msgpack.Decoder().decode


@lru_cache(maxsize=256)
def _columns(mask: int) -> tuple[list[int], pa.Schema]:
    present = [i for i in range(len(COLUMNS)) if mask >> i & 1]
    return present, pa.schema([COLUMNS.field(i) for i in present])


class Compression(IntEnum):
    """How the columns of an entry are compressed: quickly, or to half of that."""

    LZ4 = 0
    ZSTD = 1


def encode(arrays: Sequence[pa.Array], compression: Compression = Compression.LZ4) -> tuple[int, int, pa.Buffer]:
    """Serialize columns.

    Args:
        arrays: Arrays in the order of ``COLUMNS``; the last may be missing.
        compression: How to compress them.

    Returns:
        Mask of the columns that are there (and the codec), bytes before compression, and the bytes.
    """
    count = len(arrays[0])
    mask = 0
    for i, array in enumerate(arrays):
        if array.null_count < count or not count:
            mask |= 1 << i
    present, schema = _columns(mask)
    raw = pa.RecordBatch.from_arrays([arrays[i] for i in present], schema=schema).serialize()
    if raw.size < _WORTH_COMPRESSING:
        return mask, raw.size, raw
    return mask | compression << _CODEC_BIT, raw.size, _CODECS[compression].compress(raw)


def decode(mask: int, raw_size: int, data: memoryview) -> list[pa.Array]:
    """The columns that `encode` was given, in the order of ``COLUMNS``; those left out are null throughout."""
    present, schema = _columns(mask & ((1 << _CODEC_BIT) - 1))
    codec = _CODECS[mask >> _CODEC_BIT]
    raw = pa.py_buffer(data) if raw_size < _WORTH_COMPRESSING else codec.decompress(data, raw_size)
    batch = pa.ipc.read_record_batch(raw, schema)
    found = dict(zip(present, batch.columns, strict=True))
    return [found[i] if i in found else pa.nulls(len(batch), COLUMNS.field(i).type) for i in range(len(COLUMNS))]


class Appends(Protocol):
    """A log that records can be appended to."""

    def append(self, kind: int, parts: Sequence[bytes]) -> int:
        """Append one record; returns its number."""


def write_tags(log: Appends, kind: int, rows: Sequence[Any]) -> None:
    """Append a TAGS record, twice: one that is damaged must not cost the entries that need it."""
    for _ in range(2):
        log.append(kind, [pack(rows)])


class TagScribe:
    """Numbers tags within the segment that is being written."""

    def __init__(self, tags: TagTable) -> None:
        self._tags = tags
        self._segment = -1
        self._local = np.empty(0, np.int32)
        self._count = 0

    def translate(self, segment: int, tag: pa.Array) -> tuple[pa.Array, list[Any]]:
        """The tags' numbers in `segment`, and what a TAGS record must say before them; empty when nothing is new."""
        if segment != self._segment:
            self._segment, self._count = segment, 0
            self._local = np.full(len(self._tags), -1, np.int32)
        elif len(self._local) < len(self._tags):
            grown = np.full(max(len(self._tags), 2 * len(self._local)), -1, np.int32)
            grown[: len(self._local)] = self._local
            self._local = grown
        ids = tag.to_numpy()
        local = self._local[ids]
        rows: list[Any] = []
        if len(local) and local.min() < 0:
            rows.append(self._count)
            for tag_id in np.unique(ids[local < 0]):
                self._local[tag_id] = self._count
                self._count += 1
                rows.append(self._tags[int(tag_id)].to_json())
            local = self._local[ids]
        return pa.array(local), rows

    def announce_again(self) -> None:
        """The last TAGS record may not be there: give every tag that comes a new number, never one used before."""
        self._local[:] = -1


class TagReader:
    """Turns the numbers of one segment back into rows of the tag table."""

    def __init__(self, tags: TagTable) -> None:
        self._tags = tags
        self._segment = -1
        self._ids: list[int] = []
        self._array = np.empty(0, np.int32)

    def learn(self, segment: int, rows: Sequence[Any]) -> None:
        """Take a TAGS record's content: number of its first row, then the rows."""
        if segment != self._segment:
            self._segment, self._ids = segment, []
        first, *data = rows
        known = self._ids[first : first + len(data)]
        if len(known) == len(data) and -1 not in known:
            return  # it is read again: a number never stands for another row of its segment
        self._ids.extend([-1] * (first - len(self._ids)))  # rows of a damaged record
        self._ids[first:] = [self._tags.intern(Tag.from_json(row)) for row in data]
        self._array = np.array(self._ids, np.int32)

    def translate(self, segment: int, arrays: list[pa.Array]) -> bool:
        """Put rows of the tag table in place of the numbers; False when a row is not known (its record is damaged)."""
        if segment != self._segment:
            return False
        local = arrays[_TAG].to_numpy()
        if not len(local) or local.max() >= len(self._array):
            return False
        ids = self._array[local]
        if ids.min() < 0:
            return False
        arrays[_TAG] = pa.array(ids)
        return True
