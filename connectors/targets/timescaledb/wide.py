"""Readings as rows of signals (see `connectors.wire.pivot`) for COPY, and the statement that merges them. Pure."""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import pyarrow as pa

from connectors.targets.timescaledb.encode import EPOCH, HEADER, TRAILER, fixed, has_nul, joined, outside, prefixed
from connectors.targets.timescaledb.schema import WIDE, quoted
from connectors.wire.pivot import NUMBER, QUALITY, Dialect, Mask, Pivot, Signal, cells

DIALECT: Final = Dialect(
    types=("double precision", "text", "bytea"),
    taken=frozenset({*WIDE.columns, "tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"}),
    longest=63,
)


@dataclass(frozen=True, slots=True)
class Wide:
    """A unit as rows of signals.

    Attributes:
        columns: The columns that it has.
        unfit: Why columns of the table cannot hold their signals, whatever the value.
        missing: Those of them that the table does not have, and their types.
        payload: What `COPY … FROM STDIN (FORMAT binary)` is given; empty when something of the others is there.
        rejected: Readings that cannot be said, ascending.
        reasons: Why, one for each.
    """

    columns: list[str] = field(default_factory=list)
    unfit: list[str] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    payload: bytes = b""
    rejected: list[int] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)


def merge(staging: str, name: str, columns: Sequence[str]) -> str:
    """The statement that takes rows from a staging table; what a row there does not have stays as it is in the table."""
    listed = ", ".join(quoted(column) for column in columns)
    key = ", ".join(quoted(column) for column in WIDE.key)
    sets = ['"received_time" = greatest(t."received_time", EXCLUDED."received_time")']
    for column in columns[len(WIDE.columns) :]:
        own, quality = quoted(column), quoted(column.removesuffix(QUALITY) + QUALITY)
        sets.append(f"{own} = CASE WHEN EXCLUDED.{quality} IS NULL THEN t.{own} ELSE EXCLUDED.{own} END")
    taken = f"INSERT INTO {name} AS t ({listed}) SELECT {listed} FROM {staging}"  # noqa: S608 - of quoted names
    return f"{taken} ON CONFLICT ({key}) DO UPDATE SET {', '.join(sets)}"


class WideEncoder:
    """Encodes stream items; remembers what tags are called, so use one for as long as possible.

    Args:
        time: The column that `time` is made from; where `source_time` is null, it is `received_time`.
    """

    def __init__(self, time: str = "source_time") -> None:
        self._pivot = Pivot(DIALECT, time)

    def encode(self, batch: pa.RecordBatch, there: Mapping[str, str]) -> Wide:
        """A batch of `normalization.reading.stream_schema` as rows.

        Args:
            batch: The readings.
            there: The types of the columns that the table has.
        """
        found = self._pivot.signals(batch, there)
        if found.unfit:
            return Wide(unfit=found.unfit)
        if rejects := found.rejected | self._unsayable(batch):
            rejects = dict(sorted(rejects.items()))
            return Wide(rejected=list(rejects), reasons=list(rejects.values()))
        if found.missing:
            return Wide(missing=found.missing)
        return self._encode(batch, found.signals)

    def _unsayable(self, batch: pa.RecordBatch) -> dict[int, str]:
        """Readings that PostgreSQL has no way to say, with the reason."""
        found: dict[int, str] = {}

        def note(wrong: Mask, reason: str) -> None:
            for row in np.flatnonzero(wrong).tolist():
                found.setdefault(row, reason)

        for times in self._pivot.times(batch):
            note(outside(times), "its time is outside of what PostgreSQL can say, 4714 BC to 294247")
        place = self._pivot.place(batch)
        note(has_nul(place.dictionary)[place.indices.to_numpy()], "its path holds the character NUL")
        text = batch.column("value_text")
        if text.null_count < len(text):
            note(has_nul(text), "its text holds the character NUL, which PostgreSQL has no way to say")
        return found

    def _encode(self, batch: pa.RecordBatch, signals: Sequence[Signal]) -> Wide:
        rows = self._pivot.rows(batch)
        count = len(rows.first)
        newest = np.full(count, np.iinfo(np.int64).min)
        np.maximum.at(newest, rows.row, self._pivot.times(batch)[1].to_numpy())
        columns = list(WIDE.columns)
        pieces: list[pa.Array | pa.Scalar] = [
            fixed(pa.array(rows.time - EPOCH), ">i8"),
            *prefixed(rows.place),
            *prefixed(batch.column("gateway").take(pa.array(rows.first)).dictionary_decode()),
            fixed(pa.array(newest - EPOCH), ">i8"),
        ]
        for signal in signals:
            values, qualities = cells(batch, rows, signal, 0, count)
            if values is not None:
                pieces += [fixed(values, ">f8")] if signal.kind == NUMBER else prefixed(values)
                columns.append(signal.name)
            pieces += prefixed(qualities)
            columns.append(signal.name + QUALITY)
        fields = pa.scalar(struct.pack(">h", len(columns)), pa.binary())
        return Wide(columns=columns, payload=b"".join((HEADER, joined([fields, *pieces]), TRAILER)))
