"""What one write carries: a number and a fixed list of the spool's entries."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from delivery.entry import COLUMNS
from normalization.reading import FACTS, Flags, TagTable, numbers, repeat, view

_TYPE, _DOUBLE, _INT, _FLAGS, _RECEIVED = (
    FACTS.get_field_index(name) for name in ("type", "value_double", "value_int", "flags", "received_time")
)

Place = tuple[int, int, int]
"""Where a reading lies in a spool: priority of the lane, number of the entry, row in it."""


@dataclass(slots=True)
class Entry:
    """Readings of one shard in the spool.

    Attributes:
        number: Its record number.
        previous: Record number of the entry before it.
        segment: The segment that it is in.
        gateway: Gateway of the readings' identity.
        shard: Shard of the readings' identity.
        rows: How many readings.
        size: Bytes before compression.
        sources: How many readings of each source.
        appended: When it was appended, by the spool's clock, in seconds.
        columns: Arrays in the order of ``COLUMNS``.
    """

    number: int
    previous: int
    segment: int
    gateway: str
    shard: str
    rows: int
    size: int
    sources: dict[str, int]
    appended: float
    columns: list[pa.Array]

    @property
    def received(self) -> int:
        """When the first of its readings was received, µs since the epoch."""
        return int(self.columns[_RECEIVED].view(pa.int64()).to_numpy().min())


@dataclass(slots=True)
class Unit:
    """What one write carries: a number and a fixed list of entries, less their dead rows.

    Attributes:
        number: Number of the unit.
        entries: The entries.
        dead: Rows of an entry that are dead letters, by entry number.
        tags: The process's tag table.
        resent: Entries up to this number may have been sent before; their readings say so.
        priority: Priority of the lane that they wait in.
    """

    number: int
    entries: list[Entry]
    dead: dict[int, np.ndarray]
    tags: TagTable
    resent: int = 0
    priority: int = 0

    @property
    def rows(self) -> int:
        """How many readings it carries."""
        return sum(e.rows for e in self.entries) - sum(len(rows) for rows in self.dead.values())

    def batch(self) -> pa.RecordBatch:
        """The readings as a batch of `normalization.reading.stream_schema`."""
        entries = self.entries
        if len(entries) == 1:
            columns = entries[0].columns
            gateway, shard = repeat(entries[0].gateway, entries[0].rows), repeat(entries[0].shard, entries[0].rows)
        else:
            columns = [pa.concat_arrays([e.columns[i] for e in entries]) for i in range(len(COLUMNS))]
            gateway, shard = (
                _runs([getattr(e, name) for e in entries], [e.rows for e in entries]) for name in ("gateway", "shard")
            )
        if any(entry.number <= self.resent for entry in entries):
            columns = [*columns]
            columns[_FLAGS] = self._flags(columns[_FLAGS])
        value = numbers(columns[_TYPE], columns[_DOUBLE], columns[_INT])
        batch = view(columns[: len(FACTS)], gateway, shard, self.tags, value, columns[len(FACTS)])
        kept = self._kept()
        return batch if kept is None else batch.take(pa.array(kept))

    def _flags(self, flags: pa.Array) -> pa.Array:
        marks = [Flags.RESENT if entry.number <= self.resent else 0 for entry in self.entries]
        return pa.array(flags.to_numpy() | np.repeat(np.array(marks, np.int16), [entry.rows for entry in self.entries]))

    def _kept(self) -> np.ndarray | None:
        if not self.dead:
            return None
        keep = np.ones(sum(e.rows for e in self.entries), bool)
        start = 0
        for entry in self.entries:
            if entry.number in self.dead:
                keep[start + self.dead[entry.number]] = False
            start += entry.rows
        return np.flatnonzero(keep)

    def locate(self, indices: Sequence[int]) -> dict[int, np.ndarray]:
        """Rows of `batch` as rows of entries, by entry number."""
        rows = self._rows(indices)
        found: dict[int, np.ndarray] = {}
        start = 0
        for entry in self.entries:
            inside = rows[(rows >= start) & (rows < start + entry.rows)] - start
            if len(inside):
                found[entry.number] = inside
            start += entry.rows
        return found

    def places(self, indices: Sequence[int]) -> list[Place]:
        """Where rows of `batch` lie in the spool."""
        starts = np.cumsum([0, *(entry.rows for entry in self.entries)])
        rows = self._rows(indices)
        at = np.searchsorted(starts, rows, side="right") - 1
        return [
            (self.priority, self.entries[entry].number, row)
            for entry, row in zip(at.tolist(), (rows - starts[at]).tolist(), strict=True)
        ]

    def _rows(self, indices: Sequence[int]) -> np.ndarray:
        kept = self._kept()
        return np.asarray(indices, np.int64) if kept is None else kept[np.asarray(indices, np.int64)]


def _runs(names: Sequence[str], lengths: Sequence[int]) -> pa.DictionaryArray:
    distinct = list(dict.fromkeys(names))
    index = np.repeat(np.array([distinct.index(name) for name in names], np.int32), lengths)
    return pa.DictionaryArray.from_arrays(index, pa.array(distinct, pa.string()), safe=False)
