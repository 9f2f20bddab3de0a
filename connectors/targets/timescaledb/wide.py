"""Readings as rows of signals: one for each time of each equipment, with a column per signal and its quality. Pure.

The last place of a reading's path names the column, what stands before it the row. Numbers and booleans share one type of
column, because a signal that is 21 now and 21.5 later is one signal; an integer that a double cannot hold is refused. Of
two values of one signal at one time the later one stays.
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from connectors.targets.timescaledb.encode import EPOCH, HEADER, TRAILER, fixed, has_nul, joined, outside, prefixed
from connectors.targets.timescaledb.schema import WIDE, quoted
from normalization.reading import Quality, ValueType

Integers = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

_QUALITY: Final = "_quality"
_NUMBER, _TEXT, _BYTES, _NONE = range(4)
_KINDS: Final = np.array(
    [{"TEXT": _TEXT, "JSON": _TEXT, "BYTES": _BYTES, "NULL": _NONE}.get(kind.name, _NUMBER) for kind in ValueType],
    np.int8,
)
_TYPES: Final = ("double precision", "text", "bytea")  # of a kind
_COLUMNS: Final = ("value", "value_text", "value_bytes")  # of a kind
_QUALITIES: Final = pa.array([quality.name for quality in Quality])
_LONGEST: Final = 63 - len(_QUALITY)  # bytes of a name
_TAKEN: Final = {*WIDE.columns, "tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"}
_EXACT: Final = 2**53


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


def _unfit(name: str) -> str:
    """Why a signal cannot be called so, empty when it can."""
    if not name or "\0" in name or len(name.encode()) > _LONGEST:
        return f"is no name of a column, which has 1 to {_LONGEST} bytes"
    if name in _TAKEN or name.endswith(_QUALITY):
        return "is the name of another column"
    return ""


def merge(staging: str, name: str, columns: Sequence[str]) -> str:
    """The statement that takes rows from a staging table; what a row there does not have stays as it is in the table."""
    listed = ", ".join(quoted(column) for column in columns)
    key = ", ".join(quoted(column) for column in WIDE.key)
    sets = ['"received_time" = greatest(t."received_time", EXCLUDED."received_time")']
    for column in columns[len(WIDE.columns) :]:
        own, quality = quoted(column), quoted(column.removesuffix(_QUALITY) + _QUALITY)
        sets.append(f"{own} = CASE WHEN EXCLUDED.{quality} IS NULL THEN t.{own} ELSE EXCLUDED.{own} END")
    taken = f"INSERT INTO {name} AS t ({listed}) SELECT {listed} FROM {staging}"  # noqa: S608 - of quoted names
    return f"{taken} ON CONFLICT ({key}) DO UPDATE SET {', '.join(sets)}"


class WideEncoder:
    """Encodes stream items; remembers what tags are called, so use one for as long as possible.

    Args:
        time: The column that `time` is made from; where `source_time` is null, it is `received_time`.
    """

    def __init__(self, time: str = "source_time") -> None:
        self._time = time
        self._forget(b"")

    def _forget(self, token: bytes) -> None:
        self._token = token
        self._rows: dict[str, int] = {}
        self._signals: dict[str, int] = {}
        self._unsayable: list[int] = []  # rows whose path holds a NUL
        self._row_of = np.empty(0, np.int64)  # by tag
        self._signal_of = np.empty(0, np.int64)

    def encode(self, batch: pa.RecordBatch, there: Mapping[str, str]) -> Wide:
        """A batch of `normalization.reading.stream_schema` as rows.

        Args:
            batch: The readings.
            there: The types of the columns that the table has.
        """
        self._learn(batch)
        tags = batch.column("tag").to_numpy()
        signals, kinds = self._signal_of[tags], _KINDS[batch.column("type").to_numpy()]
        names = list(self._signals)
        present = {code: names[code] for code in np.unique(signals).tolist()}
        types = {code: _type(name, there, kinds[signals == code]) for code, name in present.items()}
        if unfit := _unfit_columns(present, there):
            return Wide(unfit=unfit)
        if rejects := self._rejects(batch, present, types):
            return Wide(rejected=list(rejects), reasons=list(rejects.values()))
        missing: dict[str, str] = {}
        for code, name in present.items():
            wanted = {name: types[code], name + _QUALITY: "text"}
            missing |= {column: kind for column, kind in wanted.items() if kind and column not in there}
        if missing:
            return Wide(missing=missing)
        return self._encode(batch, present, types)

    def _learn(self, batch: pa.RecordBatch) -> None:
        token = (batch.schema.metadata or {}).get(b"tags", b"")
        if token != self._token:
            self._forget(token)
        paths = batch.column("path").dictionary
        added = [path.rpartition("/") for path in paths.slice(len(self._row_of)).to_pylist()]
        if added:
            rows = [self._rows.setdefault(row, len(self._rows)) for row, _, _ in added]
            self._unsayable = [code for row, code in self._rows.items() if "\0" in row]
            signals = [self._signals.setdefault(signal, len(self._signals)) for _, _, signal in added]
            self._row_of = np.concatenate([self._row_of, np.array(rows, np.int64)])
            self._signal_of = np.concatenate([self._signal_of, np.array(signals, np.int64)])

    def _times(self, batch: pa.RecordBatch) -> tuple[pa.Array, pa.Array]:
        """`time` and `received_time`."""
        source, received = (batch.column(name).view(pa.int64()) for name in ("source_time", "received_time"))
        return (pc.coalesce(source, received) if self._time == "source_time" else received), received

    def _rejects(self, batch: pa.RecordBatch, present: Mapping[int, str], types: Mapping[int, str]) -> dict[int, str]:
        """Readings that cannot be said, ascending, with the reason."""
        found: dict[int, str] = {}

        def note(wrong: Mask, reason: str) -> None:
            for row in np.flatnonzero(wrong).tolist():
                found.setdefault(row, reason)

        tags = batch.column("tag").to_numpy()
        signals, kinds = self._signal_of[tags], _KINDS[batch.column("type").to_numpy()]
        for times in self._times(batch):
            note(outside(times), "its time is outside of what PostgreSQL can say, 4714 BC to 294247")
        for code, name in present.items():
            if reason := _unfit(name):
                note(signals == code, f"the last place of its path, {name[:80]!r}, {reason}")
            elif types[code]:
                others = (signals == code) & (kinds != _NONE) & (kinds != _TYPES.index(types[code]))
                note(others, f"column {name} is {types[code]}, which cannot hold the value")
        for code in self._unsayable:
            note(self._row_of[tags] == code, "its path holds the character NUL")
        text = batch.column("value_text")
        if text.null_count < len(text):
            note(has_nul(text), "its text holds the character NUL, which PostgreSQL has no way to say")
        note(_inexact(batch), "it is an integer that a column of double precision cannot hold exactly")
        return dict(sorted(found.items()))

    def _encode(self, batch: pa.RecordBatch, present: Mapping[int, str], types: Mapping[int, str]) -> Wide:
        tags = batch.column("tag").to_numpy()
        gateway = batch.column("gateway")
        time, received = (array.to_numpy() for array in self._times(batch))
        signals, places = self._signal_of[tags], self._row_of[tags]
        row, first = _grouped(time, places, gateway.indices.to_numpy())
        count = len(first)
        newest = np.full(count, np.iinfo(np.int64).min)
        np.maximum.at(newest, row, received)
        paths = pa.array(list(self._rows), pa.string()).take(pa.array(places[first]))
        columns = list(WIDE.columns)
        pieces: list[pa.Array | pa.Scalar] = [
            fixed(pa.array(time[first] - EPOCH), ">i8"),
            *prefixed(paths),
            *prefixed(gateway.take(pa.array(first)).dictionary_decode()),
            fixed(pa.array(newest - EPOCH), ">i8"),
        ]
        for code, name in present.items():
            source = np.full(count, -1)
            readings = np.flatnonzero(signals == code)
            source[row[readings]] = readings  # the last of several stays
            taken = pa.array(source, mask=source < 0)
            if types[code]:
                kind = _TYPES.index(types[code])
                values = batch.column(_COLUMNS[kind]).take(taken)
                pieces += [fixed(values, ">f8")] if kind == _NUMBER else prefixed(values)
                columns.append(name)
            pieces += prefixed(_QUALITIES.take(batch.column("quality").take(taken)))
            columns.append(name + _QUALITY)
        fields = pa.scalar(struct.pack(">h", len(columns)), pa.binary())
        return Wide(columns=columns, payload=b"".join((HEADER, joined([fields, *pieces]), TRAILER)))


def _unfit_columns(present: Mapping[int, str], there: Mapping[str, str]) -> list[str]:
    """Why columns that the table has cannot hold these signals, whatever their values."""
    wanted: dict[str, tuple[str, ...]] = {name: _TYPES for name in present.values() if not _unfit(name)}
    wanted |= {name + _QUALITY: ("text",) for name in wanted}
    return [
        f"column {name} is {there[name]}, signals need {' or '.join(kinds)}"
        for name, kinds in wanted.items()
        if name in there and there[name] not in kinds
    ]


def _type(name: str, there: Mapping[str, str], kinds: npt.NDArray[np.int8]) -> str:
    """The type of a signal's column: the one that it has, or that of its first value; empty when there is none yet."""
    if name in there:
        return there[name]
    known = kinds[kinds != _NONE]
    return _TYPES[known[0]] if len(known) else ""


def _inexact(batch: pa.RecordBatch) -> Mask:
    integers = batch.column("value_int")
    if integers.null_count == len(integers):
        return np.zeros(len(batch), np.bool_)
    numbers = integers.fill_null(0).to_numpy()
    unsigned = batch.column("type").to_numpy() == ValueType.UINT64
    return np.asarray((numbers > _EXACT) | np.where(unsigned, numbers < 0, numbers < -_EXACT))


def _grouped(time: Integers, places: Integers, gateways: npt.NDArray[np.int32]) -> tuple[Integers, Integers]:
    """Which row each reading belongs to, and the first reading of each row."""
    order = np.lexsort((time, places, gateways))
    new = np.ones(len(order), np.bool_)
    new[1:] = np.logical_or.reduce([column[order][1:] != column[order][:-1] for column in (time, places, gateways)])
    row = np.empty(len(order), np.int64)
    row[order] = np.cumsum(new) - 1
    return row, order[new]
