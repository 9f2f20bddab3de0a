"""Readings as plain values for JSON."""

import base64
import json
import math
from typing import Any, Final

import pyarrow as pa

from normalization.reading import Quality, ValueType

QUALITIES: Final = [quality.name for quality in Quality]


def values(batch: pa.RecordBatch) -> list[Any]:
    """The values of a batch that begins with the columns of ``FACTS``, each as JSON has it.

    NaN and infinities are texts, bytes are base64.
    """
    kinds = batch.column("type").to_pylist()
    if kinds and set(kinds) == {ValueType.DOUBLE}:
        return [value if value - value == 0 else _finite(value) for value in batch.column("value_double").to_pylist()]
    double, integer, text, raw = (
        batch.column(name).to_pylist() for name in ("value_double", "value_int", "value_text", "value_bytes")
    )
    found: list[Any] = []
    for row, kind in enumerate(kinds):
        match kind:
            case ValueType.DOUBLE:
                found.append(_finite(double[row]))
            case ValueType.INT64:
                found.append(integer[row])
            case ValueType.BOOLEAN:
                found.append(bool(integer[row]))
            case ValueType.UINT64:
                found.append(None if integer[row] is None else integer[row] % 2**64)
            case ValueType.TEXT:
                found.append(text[row])
            case ValueType.JSON:
                found.append(_parsed(text[row]))
            case ValueType.BYTES:
                found.append(base64.b64encode(raw[row] or b"").decode())
            case _:
                found.append(None)
    return found


def micros(batch: pa.RecordBatch, name: str) -> list[int | None]:
    """A column of times in µs since the epoch, UTC."""
    found: list[int | None] = batch.column(name).view(pa.int64()).to_pylist()
    return found


def words(batch: pa.RecordBatch, name: str) -> list[str]:
    """A column of names."""
    column = batch.column(name)
    if not pa.types.is_dictionary(column.type):
        return [text or "" for text in column.to_pylist()]
    found: list[str] = column.dictionary.take(column.indices).to_pylist()
    return found


def qualities(batch: pa.RecordBatch) -> list[str]:
    """The names of the qualities."""
    return [QUALITIES[number] for number in batch.column("quality").to_pylist()]


def _finite(value: float | None) -> float | str | None:
    if value is None or math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _parsed(text: str | None) -> Any:
    try:
        return json.loads(text or "null")
    except (ValueError, RecursionError):
        return text
