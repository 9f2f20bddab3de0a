"""Readings as protobuf messages, by columns.

The wire format does not care for the order of fields: names are rendered once per dictionary entry (once per tag) and looked
up, numbers go through `connectors.wire.lanes`, texts keep their own buffers.
"""

from collections.abc import Sequence
from typing import Final, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from connectors.wire.lanes import Lanes, Mask, Rendered, content, integers, present, varint
from normalization.reading import Quality, ValueType, dates

_TYPES: Final = pa.array([t.name for t in ValueType], pa.string())
_QUALITIES: Final = pa.array([q.name for q in Quality], pa.string())


_DELIMITED: Final = 2  # the wire type of bytes, texts and messages


class Column(Protocol):
    """A column that becomes a field."""

    @property
    def name(self) -> str:
        """Name of the column."""

    @property
    def number(self) -> int:
        """Number of the field."""


def reading_columns(batch: pa.RecordBatch, partition_time: str = "source_time") -> dict[str, pa.Array]:
    """The columns of ``TABLE`` for a stream batch, as `normalization.reading.table` gives them, names still as dictionary."""
    given = {name: batch.column(i) for i, name in enumerate(batch.schema.names)}
    return given | {
        "date": dates(batch, partition_time),
        "type": pa.DictionaryArray.from_arrays(given["type"], _TYPES, safe=False),
        "quality": pa.DictionaryArray.from_arrays(given["quality"], _QUALITIES, safe=False),
        "flags": given["flags"].cast(pa.int32()),
    }


class ProtobufEncoder:
    """Readings as serialized protobuf messages.

    It remembers how dictionary entries were rendered for as long as batches share their dictionaries, which they do: the
    dictionaries are the tag table's own arrays.
    """

    def __init__(self, columns: Sequence[Column]) -> None:
        self._columns = columns
        self._memory: dict[tuple[int, ...], Rendered] = {}

    def encode(self, values: dict[str, pa.Array], rows: int) -> pa.BinaryArray:
        """One message per row.

        Args:
            values: See `reading_columns`.
            rows: Number of readings.
        """
        lanes = Lanes(rows)
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
                _number(lanes, column.number, array)
        pieces = [self._rendered(members).take(index.to_numpy()) for index, members in groups]
        pieces.append(lanes.finish())
        for number, array in texts:
            pieces += _delimited(number, array)
        return pc.binary_join_element_wise(*pieces, b"")

    def _rendered(self, members: dict[int, pa.Array]) -> Rendered:
        known = self._memory.get(tuple(members))
        if known is None or not known.holds(members):
            known = self._memory[tuple(members)] = Rendered(members, _delimited)
        return known


def _tag(lanes: Lanes, number: int, wire_type: int, mask: Mask | None) -> None:
    for byte in varint(number << 3 | wire_type):
        lanes.add(byte, mask)


def _number(lanes: Lanes, number: int, array: pa.Array) -> None:
    """A column of numbers, dates or timestamps; nulls are left out."""
    mask = present(array)
    if array.type == pa.float64():
        _tag(lanes, number, 1, mask)
        lanes.doubles(array, mask)
        return
    _tag(lanes, number, 0, mask)
    lanes.varint(integers(array).view(np.uint64), mask)


def _delimited(number: int, array: pa.Array) -> list[pa.Array]:
    """The pieces of a text or bytes column: tag and length, then the content; both empty where it is null."""
    lanes, mask = Lanes(len(array)), present(array)
    data, lengths = content(array)
    _tag(lanes, number, 2, mask)
    lanes.varint(lengths.astype(np.uint64), mask)
    return [lanes.finish(), data]


def field(number: int, value: bytes) -> bytes:
    """A field of bytes, text or a message."""
    return varint(number << 3 | _DELIMITED) + varint(len(value)) + value


def fields(number: int, contents: pa.Array) -> pa.Array:
    """The same field of many messages; where there is null there is no field."""
    column = contents.cast(pa.binary())
    lengths = pc.binary_length(column).fill_null(0).to_numpy(zero_copy_only=False)
    # messages of one kind have few lengths: what stands before the content is made once for each
    distinct, index = np.unique(lengths, return_inverse=True)
    tag = varint(number << 3 | _DELIMITED)
    heads = pa.array([tag + varint(int(length)) for length in distinct], pa.binary()).take(pa.array(index))
    found = pc.binary_join_element_wise(heads, column, b"")
    return pc.fill_null(found, b"") if column.null_count else found
