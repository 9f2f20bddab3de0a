"""JSON lines: a reading per line, as an object whose `value` is the value itself.

``type`` says what the value was: integers are exact (also above 2^53), booleans are ``true`` and ``false``, bytes are
base64 text, arrays and structures are nested JSON, NaN and infinities are the texts ``NaN``, ``Infinity`` and
``-Infinity`` with type DOUBLE. A key whose value is null or empty is left out, except ``value``. Times are UTC with
microseconds.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from connectors.wire import rows
from normalization.reading import TAG_COLUMNS, Quality, ValueType

_TYPES: Final = pa.array([f',"type":"{t.name}","value":' for t in ValueType], pa.string())
_QUALITIES: Final = pa.array([f',"quality":"{q.name}"' for q in Quality], pa.string())
_DAY: Final = 86_400_000_000


def _letters(texts: Sequence[str]) -> np.ndarray:
    """Texts of one length, each as that many bytes."""
    return np.frombuffer("".join(texts).encode(), np.dtype(f"V{len(texts[0])}"))


@lru_cache(maxsize=1)
def _clock() -> np.ndarray:
    return _letters([f"T{h:02}:{m:02}:{s:02}." for h in range(24) for m in range(60) for s in range(60)])


_DIGITS: Final = _letters([f"{number:03}" for number in range(1000)])


def timestamps(micros: pa.Array) -> pa.Array:
    """Times (int64, µs since the epoch, UTC) as ``2026-09-21T14:13:20.500123Z``."""
    given = (micros.fill_null(0) if micros.null_count else micros).to_numpy()
    days, rest = np.divmod(given, _DAY)
    one_day = len(days) > 0 and bool((days == days[0]).all())
    distinct, index = (days[:1], slice(None)) if one_day else np.unique(days, return_inverse=True)
    dates = np.datetime_as_string(distinct.view("datetime64[D]"), unit="D").tolist()
    width = max(map(len, dates), default=10)  # years of more than four digits make some longer
    seconds, fraction = np.divmod(rest, 1_000_000)
    thousands, units = np.divmod(fraction, 1000)
    letters = np.empty(len(days), [("date", f"V{width}"), ("clock", "V10"), ("ms", "V3"), ("us", "V3"), ("zone", "V1")])
    if dates:
        letters["date"] = _letters([date.ljust(width) for date in dates])[index]
    letters["clock"] = _clock()[seconds]
    letters["ms"], letters["us"], letters["zone"] = _DIGITS[thousands], _DIGITS[units], b"Z"
    offsets = np.arange(0, letters.nbytes + 1, letters.itemsize, dtype=np.int32)
    text = pa.Array.from_buffers(pa.string(), len(days), [None, pa.py_buffer(offsets), pa.py_buffer(letters.data)])
    if len({len(date) for date in dates}) > 1:
        text = pc.replace_substring(text, " ", "")
    return pc.if_else(micros.is_valid(), text, None) if micros.null_count else text


def strings(text: pa.Array) -> pa.Array:
    """JSON strings with their quotes; nulls stay nulls."""
    special = pc.match_substring_regex(text, r'[\x00-\x1f"\\]')
    if pc.any(special, min_count=0).as_py():
        encode = msgspec.json.encode
        return pa.array([None if t is None else encode(t).decode() for t in text.to_pylist()], pa.string())
    return pc.binary_join_element_wise('"', text, '"', "")


def _nested(text: str) -> str:
    """The text itself where it is JSON on one line, else a JSON string of it."""
    try:
        return msgspec.json.format(text, indent=-1)
    except msgspec.DecodeError:
        return msgspec.json.encode(text).decode()


def value(kind: ValueType, batch: rows.Rows) -> pa.Array:
    """The JSON of the values of readings of one type, see `connectors.wire.rows.by_type`."""
    match kind:
        case ValueType.DOUBLE:
            doubles = batch.column("value_double")
            numbers = doubles.to_numpy()
            text = doubles.cast(pa.string())
            if (numbers == 0).any():
                text = pc.if_else(pc.equal(text, "-0"), "-0.0", text)  # an integer has no negative zero
            if np.isfinite(numbers).all():
                return text
            names = pc.if_else(
                pc.is_nan(doubles), '"NaN"', pc.if_else(pc.greater(doubles, 0), '"Infinity"', '"-Infinity"')
            )
            return pc.if_else(pc.is_finite(doubles), text, names)
        case ValueType.BOOLEAN:
            return pc.if_else(pc.equal(batch.column("value_int"), 0), "false", "true")
        case ValueType.INT64:
            return batch.column("value_int").cast(pa.string())
        case ValueType.UINT64:
            return rows.unsigned(batch.column("value_int")).cast(pa.string())
        case ValueType.TEXT:
            return strings(batch.column("value_text"))
        case ValueType.JSON:
            return pa.array([_nested(t) for t in batch.column("value_text").to_pylist()], pa.string())
        case ValueType.BYTES:
            return pc.binary_join_element_wise('"', rows.base64_text(batch.column("value_bytes")), '"', "")
        case _:
            return pa.array(["null"], pa.string()).take(pa.array(np.zeros(len(batch), np.int32)))


def _optional(key: str, text: pa.Array) -> pa.Array:
    return pc.binary_join_element_wise(f',"{key}":', text, "").fill_null("")


def _names(column: pa.DictionaryArray) -> rows.Part:
    """JSON strings of a column that mostly says the same in each row."""
    if len(column.dictionary) == 1:
        return msgspec.json.encode(column.dictionary[0].as_py()).decode()
    return strings(column.dictionary).take(column.indices)


class JsonLinesEncoder:
    """Encodes stream items; keeps the constant part of each tag's lines, so use one for as long as possible."""

    def __init__(self) -> None:
        self._token = b""
        self._tags = pa.array([], pa.string())

    def encode(self, batch: pa.RecordBatch) -> bytes:
        """The lines of a batch of `normalization.reading.stream_schema`, in its order; UTF-8."""
        return rows.join([*self._parts(batch), "}\n"])

    def objects(self, batch: pa.RecordBatch) -> pa.Array:
        """The lines without their line feeds, a string per reading."""
        return rows.beside([*self._parts(batch), "}"])

    def _parts(self, batch: pa.RecordBatch) -> list[rows.Part]:
        self._learn(batch)
        source_time = batch.column("source_time").view(pa.int64())
        received = timestamps(batch.column("received_time").view(pa.int64()))
        parts: list[rows.Part] = ['{"gateway":', _names(batch.column("gateway"))]
        parts += [',"shard":', _names(batch.column("shard"))]
        parts += [',"sequence":', batch.column("sequence").cast(pa.string())]
        if not source_time.null_count:
            parts += [',"source_time":"', timestamps(source_time), '"']
        elif source_time.null_count < len(source_time):
            parts.append(_optional("source_time", pc.binary_join_element_wise('"', timestamps(source_time), '"', "")))
        parts += [',"received_time":"', received, '"', self._tags.take(batch.column("tag"))]
        parts += [_TYPES.take(batch.column("type")), rows.by_type(batch, value)]
        parts.append(_QUALITIES.take(batch.column("quality")))
        status, properties = batch.column("status"), batch.column("properties")
        if not status.null_count:
            parts += [',"status":', status.cast(pa.string())]
        elif status.null_count < len(status):
            parts.append(_optional("status", status.cast(pa.string())))
        for name in ("flags", "priority"):
            column = batch.column(name)
            if column.to_numpy().any():
                zero = pc.equal(column, 0)
                parts.append(_optional(name, pc.if_else(zero, None, column).cast(pa.string())))
        if properties.null_count < len(properties):
            parts.append(_optional("properties", strings(properties)))
        return parts

    def _learn(self, batch: pa.RecordBatch) -> None:
        """Render the constant part of the tags that are new: ``,"source":"…",…``."""
        token = (batch.schema.metadata or {}).get(b"tags", b"")
        if token != self._token:
            self._token, self._tags = token, pa.array([], pa.string())
        known = len(self._tags)
        if known >= len(batch.column("path").dictionary):
            return
        pieces = []
        for name in TAG_COLUMNS:
            text = batch.column(name).dictionary.slice(known)
            empty = "{}" if name == "metadata" else ""
            pieces.append(_optional(name, pc.if_else(pc.equal(text, empty), None, strings(text))))
        self._tags = pa.concat_arrays([self._tags, pc.binary_join_element_wise(*pieces, "")])
