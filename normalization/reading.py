"""Readings: the Arrow schemas, the tag table, and the builder that readers append to.

A *reading* is one value of one tag. Readings travel as Arrow record batches that follow a star schema: a batch holds the
facts (``FACTS``), the `TagTable` holds what is constant per tag, and `view` joins the two without copying: the names
become dictionary columns whose dictionaries are the tag table's own arrays. ``TABLE`` is what a table of readings looks
like at a target.
"""

import base64
import json
import math
import threading
import uuid
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import IntEnum, IntFlag
from functools import lru_cache
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


class ValueType(IntEnum):
    """What a value was at its source; says which value column holds it."""

    NULL = 0
    BOOLEAN = 1
    INT64 = 2
    UINT64 = 3
    DOUBLE = 4
    TEXT = 5
    BYTES = 6
    JSON = 7


class Quality(IntEnum):
    """One quality scale for all protocols; the protocol's own code stays in ``status``."""

    GOOD = 0
    UNCERTAIN = 1
    BAD = 2
    STALE = 3
    ALARM = 4


class Flags(IntFlag):
    """How a reading came to be, where that is not simply "live from its device"."""

    NONE = 0
    RETAINED = 1
    HISTORICAL = 2
    RESENT = 4
    DERIVED = 8
    GAP = 16


TIMESTAMP: Final = pa.timestamp("us", tz="UTC")
_NAME: Final = pa.dictionary(pa.int32(), pa.string())


def _field(name: str, type_: pa.DataType, meaning: str, *, nullable: bool = True) -> pa.Field:
    return pa.field(name, type_, nullable=nullable, metadata={"comment": meaning})


FACTS: Final = pa.schema(
    [
        _field("tag", pa.int32(), "row of the tag table", nullable=False),
        _field("type", pa.int8(), "ValueType: which value column holds the value", nullable=False),
        _field("value_double", pa.float64(), "the value of a DOUBLE, in the tag's unit; NaN and infinities kept"),
        _field("value_int", pa.int64(), "the value of an INT64, a BOOLEAN (0, 1) or a UINT64 (its bit pattern)"),
        _field("value_text", pa.string(), "the value of a TEXT, or the JSON of an array or structure"),
        _field("value_bytes", pa.binary(), "the value of BYTES, or what could not be decoded when `reject` is set"),
        _field("quality", pa.int8(), "Quality: GOOD, UNCERTAIN, BAD, STALE or ALARM", nullable=False),
        _field("status", pa.int64(), "the protocol's own status code (OPC UA StatusCode, Modbus exception …)"),
        _field("source_time", TIMESTAMP, "when the device says it measured, UTC, µs; null when it does not say"),
        _field("received_time", TIMESTAMP, "when the gateway received it, UTC, µs", nullable=False),
        _field("sequence", pa.int64(), "number within gateway and shard, given by the journal", nullable=False),
        _field("flags", pa.int16(), "Flags: retained, historical, re-sent, derived, gap", nullable=False),
        _field("properties", pa.string(), "JSON object of what the protocol sent beside the value"),
        _field("reject", pa.string(), "why this reading cannot be used; null when it is sound"),
    ]
)

TAG_COLUMNS: Final = {
    "source": "name of the source in the configuration",
    "protocol": "protocol of the source: opcua, mqtt, sparkplug, modbus, gateway",
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
    _field("value", pa.float64(), "the value as a number (booleans 0 and 1), null where it is none"),
    _field("priority", pa.int32(), "priority given by the routing rules, larger is more urgent", nullable=False),
)

TABLE: Final = pa.schema(
    [
        *(_field(name, pa.string(), meaning, nullable=False) for name, meaning in IDENTITY_COLUMNS.items()),
        _field("sequence", pa.int64(), "number within gateway and shard", nullable=False),
        _field(
            "date", pa.date32(), "UTC date of source_time, or of received_time; the partition column", nullable=False
        ),
        _field("source_time", TIMESTAMP, "when the device says it measured, UTC, µs; null when it does not say"),
        _field("received_time", TIMESTAMP, "when the gateway received it, UTC, µs", nullable=False),
        *(_field(name, pa.string(), meaning) for name, meaning in TAG_COLUMNS.items()),
        _field("type", pa.string(), "NULL, BOOLEAN, INT64, UINT64, DOUBLE, TEXT, BYTES or JSON", nullable=False),
        _field(
            "value", pa.float64(), "the value as a number (exact for DOUBLE; booleans 0 and 1), null where it is none"
        ),
        _field("value_int", pa.int64(), "the exact value of an INT64, a BOOLEAN (0, 1) or a UINT64 (its bit pattern)"),
        _field("value_text", pa.string(), "the value of a TEXT, or the JSON of an array or structure"),
        _field("value_bytes", pa.binary(), "the value of BYTES"),
        _field("quality", pa.string(), "GOOD, UNCERTAIN, BAD, STALE or ALARM", nullable=False),
        _field("status", pa.int64(), "the protocol's own status code"),
        _field("flags", pa.int32(), "bits: 1 retained, 2 historical, 4 re-sent, 8 derived, 16 gap", nullable=False),
        _field("properties", pa.string(), "JSON object of what the protocol sent beside the value"),
        _field("priority", pa.int32(), "priority given by the routing rules, larger is more urgent", nullable=False),
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


class Columns:
    """Readings in the making: what a reader appends to, one Python list per column."""

    __slots__ = tuple(name for name in FACTS.names if name not in ("received_time", "sequence"))

    def __init__(self) -> None:
        self.tag: list[int] = []
        self.type: list[int] = []
        self.value_double: list[float | None] = []
        self.value_int: list[int | None] = []
        self.value_text: list[str | None] = []
        self.value_bytes: list[bytes | None] = []
        self.quality: list[int] = []
        self.status: list[int | None] = []
        self.source_time: list[int | None] = []
        self.flags: list[int] = []
        self.properties: list[str | None] = []
        self.reject: list[str | None] = []

    def __len__(self) -> int:
        return len(self.tag)

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
        self.tag.append(tag)
        self.type.append(kind)
        self.value_double.append(double)
        self.value_int.append(integer)
        self.value_text.append(text)
        self.value_bytes.append(raw)
        self.quality.append(quality)
        self.status.append(status)
        self.source_time.append(source_time)
        self.flags.append(flags)
        self.properties.append(properties)
        self.reject.append(None)

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
        count = len(tags)
        none = [None] * count
        held = _VALUE_COLUMN[kind]
        self.tag.extend(tags)
        self.type.extend([int(kind)] * count)
        self.value_double.extend(values if held == "value_double" and values is not None else none)
        self.value_int.extend(values if held == "value_int" and values is not None else none)
        self.value_text.extend(values if held == "value_text" and values is not None else none)
        self.value_bytes.extend(values if held == "value_bytes" and values is not None else none)
        self.quality.extend([int(quality)] * count)
        self.status.extend([status] * count)
        self.source_time.extend([source_time] * count)
        self.flags.extend([0] * count)
        self.properties.extend(none)
        self.reject.extend(none)

    def add_reject(
        self, tag: int, reason: str, raw: bytes, *, source_time: int | None = None, properties: str | None = None
    ) -> None:
        """Append what could not be decoded, with the reason and the bytes; it becomes a dead letter."""
        self.add(tag, raw, quality=Quality.BAD, source_time=source_time, properties=properties)
        self.reject[-1] = reason

    def extend(self, other: "Columns") -> None:
        """Append all readings of `other`."""
        for name in self.__slots__:
            getattr(self, name).extend(getattr(other, name))

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
            _buffered(given[name], count, type_) if name in given else _array(getattr(self, name), type_, code)
            for name, type_, code in _BUILT
        ]


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


@lru_cache(maxsize=8)
def stream_schema(token: bytes) -> pa.Schema:
    """Schema of a stream item: ``FACTS``, then `value` and `priority`, then the names as dictionary columns.

    Args:
        token: `TagTable.token` of the table that `tag` and the names refer to; kept in the schema's metadata.
    """
    names = [_field(name, _NAME, meaning) for name, meaning in {**IDENTITY_COLUMNS, **TAG_COLUMNS}.items()]
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


def raw_numbers(array: pa.Array) -> np.ndarray:
    """The numbers of a column of fixed width without a copy; where it is null, whatever lies there."""
    if not array.null_count:
        return np.asarray(array.to_numpy())
    dtype, buffer, width = np.dtype(array.type.to_pandas_dtype()), array.buffers()[1], array.type.byte_width
    if buffer is None or buffer.size < (array.offset + len(array)) * width:
        return np.zeros(len(array), dtype)
    return np.frombuffer(buffer, dtype, len(array), array.offset * width)


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


def table(batch: pa.RecordBatch) -> pa.RecordBatch:
    """A stream item as a batch of ``TABLE``: what Delta, ZeroBus and Parquet receive."""
    source_time, received_time = batch.column("source_time"), batch.column("received_time")
    when = source_time if not source_time.null_count else pc.coalesce(source_time, received_time)
    columns: dict[str, pa.Array] = {
        "date": when.cast(pa.date32()),
        "type": _TYPE_NAMES.take(batch.column("type")),
        "quality": _QUALITY_NAMES.take(batch.column("quality")),
        "flags": batch.column("flags").cast(pa.int32()),
    }
    for name in TABLE.names:
        if name not in columns:
            column = batch.column(name)
            columns[name] = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
    return pa.RecordBatch.from_arrays([columns[name] for name in TABLE.names], schema=TABLE)
