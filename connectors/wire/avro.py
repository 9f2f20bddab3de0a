"""Readings as Avro records, by columns, and their schema; what is constant per tag is rendered once per tag. Pure.

The fields are those of ``normalization.reading.TABLE`` without its partition column, in an order in which what is constant
stands together.
"""

import json
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from connectors.wire.lanes import Lanes, Rendered, content, integers, present
from normalization.reading import IDENTITY_COLUMNS, TABLE, TAG_COLUMNS, Quality, ValueType

_NUMBERS: Final = (
    "sequence", "source_time", "received_time", "type", "quality", "flags", "priority", "status", "value", "value_int",
)  # fmt: skip
_TEXTS: Final = ("value_text", "value_bytes", "properties")
_ENUMS: Final = {
    "type": ("ValueType", [t.name for t in ValueType]),
    "quality": ("Quality", [q.name for q in Quality]),
}
FIELDS: Final = (*IDENTITY_COLUMNS, *TAG_COLUMNS, *_NUMBERS, *_TEXTS)


def _kind(field: pa.Field) -> Any:
    if field.name in _ENUMS:
        name, symbols = _ENUMS[field.name]
        return {"type": "enum", "name": name, "symbols": symbols, "default": symbols[0]}
    if pa.types.is_timestamp(field.type):
        return {"type": "long", "logicalType": "timestamp-micros"}
    return {
        pa.string(): "string", pa.binary(): "bytes", pa.float64(): "double", pa.int32(): "int", pa.int64(): "long",
    }[field.type]  # fmt: skip


def schema() -> str:
    """The schema of a reading, as JSON. A field that may be absent is a union with null, which is its default."""
    fields: list[dict[str, Any]] = []
    for name in FIELDS:
        field = TABLE.field(name)
        kind, doc = _kind(field), (field.metadata or {}).get(b"comment", b"").decode()
        if name in TAG_COLUMNS:
            fields.append({"name": name, "type": kind, "default": "", "doc": doc})
        elif field.nullable:
            fields.append({"name": name, "type": ["null", kind], "default": None, "doc": doc})
        else:
            fields.append({"name": name, "type": kind, "doc": doc})
    record = {"type": "record", "name": "Reading", "namespace": "bifrost", "doc": "one value of one tag"}
    return json.dumps(record | {"fields": fields}, ensure_ascii=False)


def _zigzag(numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    return (numbers << 1 ^ numbers >> 63).view(np.uint64)


def _texts(_: int, array: pa.Array) -> list[pa.Array]:
    """The pieces of a column of texts or bytes that all rows have: length and content."""
    lanes = Lanes(len(array))
    data, lengths = content(array)
    lanes.varint(_zigzag(lengths.astype(np.int64)))
    return [lanes.finish(), data]


class AvroEncoder:
    """Encodes stream items; keeps the constant part of each tag, so use one for as long as possible."""

    def __init__(self) -> None:
        self._memory: dict[str, Rendered] = {}

    def encode(self, batch: pa.RecordBatch, before: bytes = b"") -> pa.BinaryArray:
        """A record per reading of a batch of `normalization.reading.stream_schema`.

        Args:
            batch: The readings.
            before: What stands before each record.
        """
        pieces: list[pa.Array | bytes] = [before] if before else []
        for name in IDENTITY_COLUMNS:
            column = batch.column(name)
            pieces.append(self._rendered(name, {0: column.dictionary}).take(column.indices.to_numpy()))
        tags = {i: batch.column(name).dictionary for i, name in enumerate(TAG_COLUMNS)}
        pieces.append(self._rendered("tags", tags).take(batch.column("tag").to_numpy()))
        lanes = Lanes(len(batch))
        for name in _NUMBERS:
            _number(lanes, name, batch.column(name))
        for name in _TEXTS:
            array = batch.column(name)
            if array.null_count == len(array):
                lanes.add(0)
                continue
            mask = present(array)
            data, lengths = content(array)
            lanes.add(2 if mask is None else mask.view(np.uint8) << np.uint8(1))
            lanes.varint(_zigzag(lengths.astype(np.int64)), mask)
            pieces += [lanes.finish(), data]
            lanes = Lanes(len(batch))
        if lanes:
            pieces.append(lanes.finish())
        return pc.binary_join_element_wise(*pieces, b"")

    def _rendered(self, name: str, members: dict[int, pa.Array]) -> Rendered:
        known = self._memory.get(name)
        if known is None or not known.holds(members):
            known = self._memory[name] = Rendered(members, _texts)
        return known


def _number(lanes: Lanes, name: str, array: pa.Array) -> None:
    """A column of numbers or times, with the number of its type in the union where it may be absent."""
    if name in _ENUMS:
        lanes.add(array.to_numpy().view(np.uint8) << np.uint8(1))
        return
    mask = None
    if TABLE.field(name).nullable:
        if array.null_count == len(array):
            lanes.add(0)
            return
        mask = present(array)
        lanes.add(2 if mask is None else mask.view(np.uint8) << np.uint8(1))
    if array.type == pa.float64():
        lanes.doubles(array, mask)
    else:
        lanes.varint(_zigzag(integers(array)), mask)
