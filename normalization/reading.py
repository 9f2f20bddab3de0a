"""Readings: the Arrow schemas and the tag table; with what `facts` and `columns` define, from one place.

A *reading* is one value of one tag. Readings travel as Arrow record batches that follow a star schema: a batch holds the
facts (``FACTS``), the `TagTable` holds what is constant per tag, and `view` joins the two without copying: the names
become dictionary columns whose dictionaries are the tag table's own arrays. ``TABLE`` is what a table of readings looks
like at a target.
"""

import json
import threading
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from normalization.columns import Columns, raw_numbers, to_json
from normalization.facts import FACTS, TIMESTAMP, Flags, Quality, ValueType, field_of

__all__ = [
    "FACTS",
    "IDENTITY_COLUMNS",
    "STREAM_COLUMNS",
    "TABLE",
    "TAG_COLUMNS",
    "TIMESTAMP",
    "Columns",
    "Flags",
    "Quality",
    "Tag",
    "TagTable",
    "ValueType",
    "dates",
    "numbers",
    "raw_numbers",
    "repeat",
    "stream_schema",
    "table",
    "to_json",
    "view",
    "zeros",
]

_NAME: Final = pa.dictionary(pa.int32(), pa.string())


TAG_COLUMNS: Final = {
    "source": "name of the source in the configuration",
    "protocol": "protocol of the source: opcua, mqtt, sparkplug, modbus, api, gateway",
    "device_id": "the device as its protocol names it (server, edge node, unit)",
    "address": "the tag as its protocol names it (node id, topic, register)",
    "tag_name": "the tag's name",
    "unit": "engineering unit of the value",
    "metadata": "JSON object of the source's and the tag's metadata",
    "path": "ISA-95 path",
    "site": "ISA-95 site",
    "area": "ISA-95 area",
    "line": "ISA-95 line (work center)",
    "equipment": "ISA-95 equipment (work unit)",
    "signal_type": "kind of signal: temperature, pressure, speed …",
}

IDENTITY_COLUMNS: Final = {
    "gateway": "name of the gateway that read it; with shard and sequence the identity of the reading",
    "shard": "shard of the gateway's journal",
}

STREAM_COLUMNS: Final = (
    field_of("value", pa.float64(), "the value as a number (booleans 0 and 1), null where it is none"),
    field_of("priority", pa.int32(), "priority given by the routing rules, larger is more urgent", nullable=False),
)

TABLE: Final = pa.schema(
    [
        *(field_of(name, pa.string(), meaning, nullable=False) for name, meaning in IDENTITY_COLUMNS.items()),
        field_of("sequence", pa.int64(), "number within gateway and shard", nullable=False),
        field_of(
            "date", pa.date32(), "UTC date of source_time, or of received_time; the partition column", nullable=False
        ),
        field_of("source_time", TIMESTAMP, "when the device says it measured, UTC, µs; null when it does not say"),
        field_of("received_time", TIMESTAMP, "when the gateway received it, UTC, µs", nullable=False),
        *(field_of(name, pa.string(), meaning) for name, meaning in TAG_COLUMNS.items()),
        field_of("type", pa.string(), "NULL, BOOLEAN, INT64, UINT64, DOUBLE, TEXT, BYTES or JSON", nullable=False),
        field_of(
            "value", pa.float64(), "the value as a number (exact for DOUBLE; booleans 0 and 1), null where it is none"
        ),
        field_of(
            "value_int", pa.int64(), "the exact value of an INT64, a BOOLEAN (0, 1) or a UINT64 (its bit pattern)"
        ),
        field_of("value_text", pa.string(), "the value of a TEXT, or the JSON of an array or structure"),
        field_of("value_bytes", pa.binary(), "the value of BYTES"),
        field_of("quality", pa.string(), "GOOD, UNCERTAIN, BAD, STALE or ALARM", nullable=False),
        field_of("status", pa.int64(), "the protocol's own status code"),
        field_of("flags", pa.int32(), "bits: 1 retained, 2 historical, 4 re-sent, 8 derived, 16 gap", nullable=False),
        field_of("properties", pa.string(), "JSON object of what the protocol sent beside the value"),
        field_of("priority", pa.int32(), "priority given by the routing rules, larger is more urgent", nullable=False),
    ]
)


@dataclass(frozen=True, slots=True)
class Tag:
    """A row of the tag table. It never changes: a tag that changes is a new row.

    ``mapping`` is the JSON of what normalizing needs (template, context, overrides, scale, type); the fields after it are
    empty until the row has been normalized.
    """

    source: str
    protocol: str
    device_id: str
    address: str
    tag_name: str
    unit: str = ""
    metadata: str = "{}"
    mapping: str = "{}"
    path: str = ""
    site: str = ""
    area: str = ""
    line: str = ""
    equipment: str = ""
    signal_type: str = ""

    def to_json(self) -> bytes:
        """The row as a JSON array in field order, as stores keep it."""
        return json.dumps(
            [getattr(self, f.name) for f in fields(self)], ensure_ascii=False, separators=(",", ":")
        ).encode()

    @staticmethod
    def from_json(data: bytes | str) -> "Tag":
        """The row that `to_json` wrote."""
        return Tag(*json.loads(data))


def _encodable(tag: Tag) -> Tag:
    """`tag` with lone surrogates, which are not UTF-8, as question marks."""
    texts = [getattr(tag, f.name) for f in fields(tag)]
    return tag if "".join(texts).isascii() else Tag(*(text.encode("utf-8", "replace").decode() for text in texts))


class TagTable:
    """The tags of this process, numbered from 0; rows are only ever added. Safe to use from several threads."""

    def __init__(self) -> None:
        self.token: Final = uuid.uuid4().hex.encode()
        self._lock = threading.Lock()
        self._ids: dict[Tag, int] = {}
        self._rows: list[Tag] = []
        self._arrays: dict[str, pa.Array] = {name: pa.array([], pa.string()) for name in TAG_COLUMNS}
        self._source_codes: dict[str, int] = {}
        self._source_names: list[str] = []  # by code
        self._source_of = np.empty(0, np.int32)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, tag_id: int) -> Tag:
        return self._rows[tag_id]

    def intern(self, tag: Tag) -> int:
        """The number of `tag`, which is added if it is new."""
        known = self._ids.get(tag)
        if known is not None:
            return known
        with self._lock:
            if tag not in self._ids:
                sound = _encodable(tag)
                if sound not in self._ids:
                    self._rows.append(sound)
                    self._ids[sound] = len(self._rows) - 1
                self._ids[tag] = self._ids[sound]
            return self._ids[tag]

    def count_sources(self, tag_ids: np.ndarray) -> dict[str, int]:
        """How many of the readings with these tags come from each source."""
        if not len(tag_ids):
            return {}
        if len(self._source_of) < len(self._rows):
            with self._lock:
                added = self._rows[len(self._source_of) :]
                codes = [self._source_codes.setdefault(tag.source, len(self._source_codes)) for tag in added]
                self._source_names = list(self._source_codes)  # replaced, not changed: others read it without the lock
                self._source_of = np.concatenate([self._source_of, np.array(codes, np.int32)])
        source_of = self._source_of
        counts = np.bincount(source_of[tag_ids])
        return {self._source_names[code]: int(counts[code]) for code in np.flatnonzero(counts)}

    def arrays(self) -> dict[str, pa.Array]:
        """One string array per name in ``TAG_COLUMNS``, as long as the table; the arrays are shared, never copied."""
        size = len(self._rows)
        if len(self._arrays["path"]) < size:
            with self._lock:
                start = len(self._arrays["path"])
                added = self._rows[start:]
                if added:
                    self._arrays = {
                        name: pa.concat_arrays([array, pa.array([getattr(tag, name) for tag in added], pa.string())])
                        for name, array in self._arrays.items()
                    }
        return self._arrays


@lru_cache(maxsize=8)
def stream_schema(token: bytes) -> pa.Schema:
    """Schema of a stream item: ``FACTS``, then `value` and `priority`, then the names as dictionary columns.

    Args:
        token: `TagTable.token` of the table that `tag` and the names refer to; kept in the schema's metadata.
    """
    names = [field_of(name, _NAME, meaning) for name, meaning in {**IDENTITY_COLUMNS, **TAG_COLUMNS}.items()]
    return pa.schema([*FACTS, *STREAM_COLUMNS, *names], metadata={"tags": token})


@lru_cache(maxsize=64)
def _constant(text: str) -> pa.Array:
    return pa.array([text], pa.string())


def repeat(text: str, count: int) -> pa.DictionaryArray:
    """A dictionary column that says `text` `count` times."""
    return pa.DictionaryArray.from_arrays(zeros(count), _constant(text), safe=False)


def zeros(count: int) -> pa.Array:
    """`count` zeros as int32; a piece of one shared array."""
    global _zeros  # noqa: PLW0603 - it only grows, and a longer one is as good
    shared = _zeros
    if count > len(shared):
        shared = _zeros = pa.array(np.zeros(2 * count, np.int32))
    return shared.slice(0, count)


_zeros: pa.Array = pa.array(np.zeros(4096, np.int32))


def view(
    facts: Sequence[pa.Array], gateway: pa.Array, shard: pa.Array, tags: TagTable, value: pa.Array, priority: pa.Array
) -> pa.RecordBatch:
    """Join facts with the tag table: a batch of `stream_schema`; nothing is copied.

    Args:
        facts: Arrays in the order of ``FACTS``; `tag` holds rows of `tags`.
        gateway: Dictionary column, see `repeat`.
        shard: Dictionary column, see `repeat`.
        tags: The process's tag table.
        value: The numbers, see `numbers`.
        priority: int32, one per reading.
    """
    index = facts[0]
    names = [pa.DictionaryArray.from_arrays(index, array, safe=False) for array in tags.arrays().values()]
    return pa.RecordBatch.from_arrays(
        [*facts, value, priority, gateway, shard, *names], schema=stream_schema(tags.token)
    )


def numbers(type_: pa.Array, value_double: pa.Array, value_int: pa.Array) -> pa.Array:
    """The values as float64: doubles as they are, integers and booleans converted, null for all else."""
    if value_int.null_count == len(value_int):
        return value_double
    kinds = type_.to_numpy()
    integers = raw_numbers(value_int)
    out = integers.astype(np.float64)
    unsigned = kinds == ValueType.UINT64
    if unsigned.any():
        out[unsigned] = integers[unsigned].view(np.uint64).astype(np.float64)
    if not value_int.null_count:
        return pa.array(out)
    doubles = kinds == ValueType.DOUBLE
    np.copyto(out, raw_numbers(value_double), where=doubles)
    none = (kinds == ValueType.NULL) | (kinds >= ValueType.TEXT)
    return pa.array(out, mask=none if none.any() else None)


_TYPE_NAMES: Final = pa.array([t.name for t in ValueType], pa.string())
_QUALITY_NAMES: Final = pa.array([q.name for q in Quality], pa.string())


def dates(batch: pa.RecordBatch, partition_time: str = "source_time") -> pa.Array:
    """The column `date` of ``TABLE`` for a stream item.

    Args:
        batch: The stream item.
        partition_time: The column that it is the date of; `received_time` where that is null.
    """
    when = batch.column(partition_time)
    return (pc.coalesce(when, batch.column("received_time")) if when.null_count else when).cast(pa.date32())


def table(batch: pa.RecordBatch, partition_time: str = "source_time") -> pa.RecordBatch:
    """A stream item as a batch of ``TABLE``: what Delta, ZeroBus and Parquet receive.

    Args:
        batch: The stream item.
        partition_time: See `dates`.
    """
    columns: dict[str, pa.Array] = {
        "date": dates(batch, partition_time),
        "type": _TYPE_NAMES.take(batch.column("type")),
        "quality": _QUALITY_NAMES.take(batch.column("quality")),
        "flags": batch.column("flags").cast(pa.int32()),
    }
    for name in TABLE.names:
        if name not in columns:
            column = batch.column(name)
            columns[name] = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
    return pa.RecordBatch.from_arrays([columns[name] for name in TABLE.names], schema=TABLE)
