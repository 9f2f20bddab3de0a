"""The last reading of every tag, and a few before it, as arrays by tag number.

What comes is gathered batch by batch and put in place for all tags at once: a batch costs one assignment of row numbers,
and only the rows that turn out to be the last of their tag are ever looked at.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from normalization.columns import NULL_TIME
from normalization.reading import FACTS, TIMESTAMP, ValueType, raw_numbers

Numbers = npt.NDArray[np.int64]

_SAMPLES: Final = 32
_SAMPLED: Final = 20_000  # tags that samples are kept of
_LONGEST: Final = 4096  # characters that are kept of a text
_TEXTS: Final = ("value_text", "properties", "reject")
_FIXED: Final = {
    "type": np.int8,
    "value_double": np.float64,
    "value_int": np.int64,
    "quality": np.int8,
    "status": np.int64,
    "source_time": np.int64,
    "received_time": np.int64,
    "sequence": np.int64,
    "flags": np.int16,
}
_COLUMNS: Final = [*_FIXED, *_TEXTS, "value_bytes"]
_TIMES: Final = ("source_time", "received_time")


class LastReadings:
    """The last reading of every tag, in the order in which readings were journalled."""

    def __init__(self) -> None:
        self._where = np.full(1024, -1, np.int64)
        self._order = np.arange(32_768)
        self._seen = np.zeros(1024, bool)
        self._fixed: dict[str, npt.NDArray[Any]] = {name: np.zeros(1024, kind) for name, kind in _FIXED.items()}
        self._no_status = np.ones(1024, bool)
        self._texts: dict[str, npt.NDArray[Any]] = {
            name: np.full(1024, None, object) for name in (*_TEXTS, "value_bytes")
        }
        self._ring: dict[str, npt.NDArray[Any]] = {
            "time": np.zeros((_SAMPLED, _SAMPLES), np.int64),
            "received": np.zeros((_SAMPLED, _SAMPLES), np.int64),
            "bits": np.zeros((_SAMPLED, _SAMPLES), np.int64),
            "type": np.zeros((_SAMPLED, _SAMPLES), np.int8),
            "quality": np.zeros((_SAMPLED, _SAMPLES), np.int8),
        }
        self._turns = np.zeros(_SAMPLED, np.int64)

    def tags(self) -> Numbers:
        """Numbers of the tags that have a reading, ascending."""
        return np.flatnonzero(self._seen)

    def has(self, tag: int) -> bool:
        """Whether a tag has a reading."""
        return 0 <= tag < len(self._seen) and bool(self._seen[tag])

    def update(self, batches: Sequence[pa.RecordBatch], tags: int) -> Numbers:
        """Take readings, the oldest first.

        Args:
            batches: Batches of one schema, which begins with the columns of ``FACTS``.
            tags: How many tags there are.

        Returns:
            Numbers of the tags that have a new last reading.
        """
        self._grow(tags)
        total = sum(batch.num_rows for batch in batches)
        if total > len(self._order):
            self._order = np.arange(2 * total)
        starts, start = [], 0
        for batch in batches:
            starts.append(start)
            end = start + batch.num_rows
            self._where[batch.column(0).to_numpy()] = self._order[start:end]
            start = end
        touched = np.flatnonzero(self._where >= 0)
        rows = self._where[touched]
        self._where[touched] = -1
        if len(touched):
            order = np.argsort(rows, kind="stable")
            self._store(touched[order], _taken(batches, np.array(starts), rows[order]))
        return touched

    def facts(self, tags: Numbers) -> list[pa.Array]:
        """The last readings of these tags as columns in the order of ``FACTS``."""
        found: dict[str, pa.Array] = {"tag": pa.array(tags.astype(np.int32))}
        fixed = {name: column[tags] for name, column in self._fixed.items()}
        kinds = fixed["type"]
        doubles = kinds == ValueType.DOUBLE
        integers = (kinds >= ValueType.BOOLEAN) & (kinds <= ValueType.UINT64)
        masks = {
            "value_double": ~doubles,
            "value_int": ~integers,
            "status": self._no_status[tags],
            "source_time": fixed["source_time"] == NULL_TIME,
        }
        for name, column in fixed.items():
            mask = masks.get(name)
            array = pa.array(column, mask=mask if mask is not None and mask.any() else None)
            found[name] = array.view(TIMESTAMP) if name in _TIMES else array
        for name in _TEXTS:
            found[name] = pa.array(self._texts[name][tags], pa.string())
        found["value_bytes"] = pa.array(self._texts["value_bytes"][tags], pa.binary())
        return [found[name] for name in FACTS.names]

    def samples(self, tag: int) -> list[pa.Array]:
        """Some readings of a tag before its last one, the oldest first, as columns in the order of ``FACTS``."""
        count = min(int(self._turns[tag]), _SAMPLES) if tag < _SAMPLED else 0
        at = (
            np.arange(int(self._turns[tag]) - count, int(self._turns[tag])) % _SAMPLES
            if count
            else np.zeros(0, np.int64)
        )
        kept = {name: column[tag, at] if count else column[0, at] for name, column in self._ring.items()}
        kinds, bits = kept["type"], kept["bits"]
        found = {
            "tag": pa.array(np.full(count, tag, np.int32)),
            "type": pa.array(kinds),
            "value_double": pa.array(bits.view(np.float64), mask=kinds != ValueType.DOUBLE),
            "value_int": pa.array(bits, mask=(kinds < ValueType.BOOLEAN) | (kinds > ValueType.UINT64)),
            "quality": pa.array(kept["quality"]),
            "source_time": pa.array(kept["time"]).view(TIMESTAMP),
            "received_time": pa.array(kept["received"]).view(TIMESTAMP),
            "sequence": pa.array(np.zeros(count, np.int64)),
            "flags": pa.array(np.zeros(count, np.int16)),
        }
        return [found[field.name] if field.name in found else pa.nulls(count, field.type) for field in FACTS]

    def _grow(self, tags: int) -> None:
        size = len(self._where)
        if tags <= size:
            return
        more = 2 * tags - size

        def longer(column: npt.NDArray[Any], fill: Any) -> npt.NDArray[Any]:
            return np.concatenate([column, np.full(more, fill, column.dtype)])

        self._where, self._seen = longer(self._where, -1), longer(self._seen, False)
        self._no_status = longer(self._no_status, True)
        self._fixed = {name: longer(column, 0) for name, column in self._fixed.items()}
        self._texts = {name: longer(column, None) for name, column in self._texts.items()}

    def _store(self, tags: Numbers, taken: pa.RecordBatch) -> None:
        self._seen[tags] = True
        columns = dict(zip(_COLUMNS, taken.columns, strict=True))
        numbers: dict[str, npt.NDArray[Any]] = {}
        for name in _FIXED:
            column = columns[name].view(pa.int64()) if name in _TIMES else columns[name]
            numbers[name] = raw_numbers(column)
            if name == "source_time" and column.null_count:
                numbers[name] = np.where(_nulls(column), NULL_TIME, numbers[name])
            self._fixed[name][tags] = numbers[name]
        self._no_status[tags] = _nulls(columns["status"])
        for name in (*_TEXTS, "value_bytes"):
            column = columns[name]
            if column.null_count == len(column):
                self._texts[name][tags] = None
            else:
                short = pc.binary_slice if name == "value_bytes" else pc.utf8_slice_codeunits
                self._texts[name][tags] = short(column, 0, _LONGEST).to_numpy(zero_copy_only=False)
        self._sample(tags, numbers)

    def _sample(self, tags: Numbers, numbers: dict[str, npt.NDArray[Any]]) -> None:
        few = tags < _SAMPLED
        if not few.all():
            tags, numbers = tags[few], {name: column[few] for name, column in numbers.items()}
        at = self._turns[tags] % _SAMPLES
        self._turns[tags] += 1
        kinds = numbers["type"]
        when = np.where(numbers["source_time"] == NULL_TIME, numbers["received_time"], numbers["source_time"])
        doubles = np.ascontiguousarray(numbers["value_double"]).view(np.int64)
        self._ring["time"][tags, at] = when
        self._ring["received"][tags, at] = numbers["received_time"]
        self._ring["bits"][tags, at] = np.where(kinds == ValueType.DOUBLE, doubles, numbers["value_int"])
        self._ring["type"][tags, at] = np.where(kinds >= ValueType.TEXT, ValueType.NULL, kinds)
        self._ring["quality"][tags, at] = numbers["quality"]


def _taken(batches: Sequence[pa.RecordBatch], starts: Numbers, rows: Numbers) -> pa.RecordBatch:
    """Rows, which are numbered through all batches and ascend, as one batch."""
    of = np.searchsorted(starts, rows, side="right") - 1
    needed, which = np.unique(of, return_inverse=True)
    chosen = [batches[number] for number in needed.tolist()]
    if len(chosen) == 1:
        inside = rows - starts[needed[0]]
        batch = chosen[0].select(_COLUMNS)
        return batch if len(inside) == batch.num_rows else batch.take(pa.array(inside))
    sizes = [batch.num_rows for batch in chosen]
    first = np.cumsum([0, *sizes[:-1]])
    joined = pa.Table.from_batches(chosen).select(_COLUMNS).combine_chunks().to_batches()[0]
    inside = rows - starts[of] + first[which]
    return joined if len(inside) == joined.num_rows else joined.take(pa.array(inside))


def _nulls(column: pa.Array) -> npt.NDArray[np.bool_]:
    if not column.null_count:
        return np.zeros(len(column), bool)
    nulls: npt.NDArray[np.bool_] = column.is_null().to_numpy(zero_copy_only=False)
    return nulls
