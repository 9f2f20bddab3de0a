"""Readings as rows of signals: one for each time of each equipment, with a column per signal and its quality. Pure.

What targets share that have the layout `wide`. The last place of a reading's path names the column, what stands before it
the row. Numbers and booleans share one type of column, because a signal that is 21 now and 21.5 later is one signal; an
integer that a double cannot hold is refused. There is no loop over readings; there is one over the signals of a batch.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from normalization.reading import Quality, ValueType

Integers = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

QUALITY: Final = "_quality"
NUMBER, TEXT, BYTES, _NONE = range(4)
VALUES: Final = ("value", "value_text", "value_bytes")  # the column of a reading that holds the value, of a kind

_KINDS: Final = np.array(
    [{"TEXT": TEXT, "JSON": TEXT, "BYTES": BYTES, "NULL": _NONE}.get(kind.name, NUMBER) for kind in ValueType], np.int8
)
_QUALITIES: Final = pa.array([quality.name for quality in Quality])
_EXACT: Final = 2**53


@dataclass(frozen=True, slots=True)
class Dialect:
    """What columns a table can have.

    Attributes:
        types: What it calls the types of numbers, of texts, which qualities are too, and of bytes.
        taken: Names of columns that are no signals'.
        longest: Bytes of a name, at most.
        name: The name of a signal's column, by the last place of its path.
    """

    types: tuple[str, str, str]
    taken: frozenset[str]
    longest: int
    name: Callable[[str], str] = str

    def unfit(self, name: str) -> str:
        """Why a signal's column cannot be called so, empty when it can."""
        longest = self.longest - len(QUALITY)
        if not name or "\0" in name or len(name.encode()) > longest:
            return f"is no name of a column, which has 1 to {longest} bytes"
        if name in self.taken or name.endswith(QUALITY):
            return "is the name of another column"
        return ""


@dataclass(frozen=True, slots=True)
class Signal:
    """A column and the readings that go into it.

    Attributes:
        name: Name of the column; that of its quality has the suffix ``QUALITY``.
        kind: Which of ``Dialect.types`` it has; None where no reading has a value and the table has no such column.
        readings: Their rows in the batch, ascending.
    """

    name: str
    kind: int | None
    readings: Integers


@dataclass(frozen=True, slots=True)
class Signals:
    """What columns a batch needs.

    Attributes:
        signals: Its signals.
        unfit: Why columns of the table cannot hold their signals, whatever the value.
        rejected: Readings that fit into no column, and why.
        missing: Columns that the table does not have, and their types.
    """

    signals: list[Signal]
    unfit: list[str]
    rejected: dict[int, str]
    missing: dict[str, str]


@dataclass(frozen=True, slots=True)
class Rows:
    """What rows a batch makes, ordered by gateway, place and time.

    Attributes:
        row: By reading, the row that it goes to.
        first: By row, the first of its readings.
        time: By row, µs since the epoch.
        place: By row, the path without its last place.
    """

    row: Integers
    first: Integers
    time: Integers
    place: pa.Array


class Pivot:
    """Pivots stream items; remembers what tags are called, so use one for as long as possible.

    Args:
        dialect: What columns the table can have.
        time: The column that `time` is made from; where `source_time` is null, it is `received_time`.
        every: Whether of several readings of one signal at one time each gets a row, in their order; else they share one.
    """

    def __init__(self, dialect: Dialect, time: str, *, every: bool = False) -> None:
        self._dialect, self._time, self._every = dialect, time, every
        self._forget(b"")

    def _forget(self, token: bytes) -> None:
        self._token = token
        self._places: dict[str, int] = {}
        self._names: dict[str, int] = {}
        self._called: dict[tuple[int, int], str] = {}  # by place and column, the signal that has it
        self._place_of = np.empty(0, np.int64)  # by tag
        self._name_of = np.empty(0, np.int64)
        self._wrong: dict[int, str] = {}  # tags that have no column, and why
        self._is_wrong = np.empty(0, np.bool_)

    def _learn(self, batch: pa.RecordBatch) -> None:
        token = (batch.schema.metadata or {}).get(b"tags", b"")
        if token != self._token:
            self._forget(token)
        known = len(self._place_of)
        added = batch.column("path").dictionary.slice(known).to_pylist()
        if not added:
            return
        codes = np.array([self._code(known + at, path) for at, path in enumerate(added)], np.int64)
        self._place_of = np.concatenate([self._place_of, codes[:, 0]])
        self._name_of = np.concatenate([self._name_of, codes[:, 1]])
        self._is_wrong = np.zeros(len(self._place_of), np.bool_)
        self._is_wrong[list(self._wrong)] = True

    def _code(self, tag: int, path: str) -> tuple[int, int]:
        """The numbers of the place and of the column of a tag."""
        before, _, last = path.rpartition("/")
        name = self._dialect.name(last)
        place = self._places.setdefault(before, len(self._places))
        column = self._names.setdefault(name, len(self._names))
        holder = self._called.setdefault((place, column), last)
        if why := self._dialect.unfit(name):
            self._wrong[tag] = f"the last place of its path, {last[:80]!r}, {why}"
        elif holder != last:
            self._wrong[tag] = f"column {name} is that of {holder[:80]!r}, another signal of its equipment"
        return place, column

    def signals(self, batch: pa.RecordBatch, there: Mapping[str, str]) -> Signals:
        """The columns that a batch of `normalization.reading.stream_schema` needs.

        Args:
            batch: The readings.
            there: The types of the columns that the table has.
        """
        self._learn(batch)
        tags, names, types = batch.column("tag").to_numpy(), list(self._names), self._dialect.types
        codes, kinds = self._name_of[tags], _KINDS[batch.column("type").to_numpy()]
        order = np.argsort(codes, kind="stable")
        present, starts = np.unique(codes[order], return_index=True)
        kind_of = np.full(len(names), _NONE, np.int8)  # of a new column its first value's
        valued = np.flatnonzero(kinds != _NONE)[::-1]
        kind_of[codes[valued]] = kinds[valued]
        found = Signals([], [], {}, {})
        for code, readings in zip(
            present.tolist(), np.split(order, starts[1:]), strict=False
        ):  # nothing splits into one
            name = names[code]
            has, quality = there.get(name), there.get(name + QUALITY, types[TEXT])
            if has in types:
                kind_of[code] = types.index(has)
            if self._dialect.unfit(name):
                continue  # its readings are rejected
            if has is not None and has not in types:
                found.unfit.append(f"column {name} is {has}, signals need {' or '.join(types)}")
            if quality != types[TEXT]:
                found.unfit.append(f"column {name}{QUALITY} is {quality}, signals need {types[TEXT]}")
            kind = int(kind_of[code])
            if has is None and kind != _NONE:
                found.missing[name] = types[kind]
            if name + QUALITY not in there:
                found.missing[name + QUALITY] = types[TEXT]
            found.signals.append(Signal(name, None if kind == _NONE else kind, readings))
        if not found.unfit:
            found.rejected.update(self._rejected(batch, kinds, kind_of[codes]))
        return found

    def _rejected(
        self, batch: pa.RecordBatch, kinds: npt.NDArray[np.int8], wanted: npt.NDArray[np.int8]
    ) -> dict[int, str]:
        tags, names = batch.column("tag").to_numpy(), list(self._names)
        wrong: dict[int, str] = {}
        for row in np.flatnonzero(_inexact(batch)).tolist():
            wrong[row] = f"it is an integer that a column of {self._dialect.types[NUMBER]} cannot hold exactly"
        for row in np.flatnonzero((kinds != _NONE) & (kinds != wanted)).tolist():
            held = self._dialect.types[wanted[row]]
            wrong[row] = f"column {names[self._name_of[tags[row]]]} is {held}, which cannot hold the value"
        for row in np.flatnonzero(self._is_wrong[tags]).tolist():
            wrong[row] = self._wrong[int(tags[row])]
        return wrong

    def times(self, batch: pa.RecordBatch) -> tuple[pa.Array, pa.Array]:
        """`time` and `received_time` of each reading, in µs since the epoch."""
        source, received = (batch.column(name).view(pa.int64()) for name in ("source_time", "received_time"))
        return (pc.coalesce(source, received) if self._time == "source_time" else received), received

    def place(self, batch: pa.RecordBatch) -> pa.DictionaryArray:
        """The path of each reading without its last place; `signals` comes before it."""
        codes = self._place_of[batch.column("tag").to_numpy()]
        return pa.DictionaryArray.from_arrays(pa.array(codes), pa.array(list(self._places), pa.string()))

    def rows(self, batch: pa.RecordBatch) -> Rows:
        """The rows that a batch makes; `signals` comes before it, and what it rejects is not in the batch."""
        tags = batch.column("tag").to_numpy()
        time, place = self.times(batch)[0].to_numpy(), self._place_of[tags]
        keys = [time, place, batch.column("gateway").indices.to_numpy()]
        row, first = _grouped(keys)
        if self._every and (turn := _turns(row, self._name_of[tags])).any():
            row, first = _grouped([turn, *keys])
        places = pa.array(list(self._places), pa.string())
        return Rows(row, first, time[first], places.take(pa.array(place[first])))


def cells(batch: pa.RecordBatch, rows: Rows, signal: Signal, start: int, stop: int) -> tuple[pa.Array | None, pa.Array]:
    """Values and qualities of a signal in the rows from `start` to before `stop`; of two readings in one row the later stays."""
    row = rows.row[signal.readings]
    inside = (row >= start) & (row < stop)
    source = np.full(stop - start, -1)
    source[row[inside] - start] = signal.readings[inside]
    taken = pa.array(source, mask=source < 0)
    values = None if signal.kind is None else batch.column(VALUES[signal.kind]).take(taken)
    return values, _QUALITIES.take(batch.column("quality").take(taken))


def _inexact(batch: pa.RecordBatch) -> Mask:
    integers = batch.column("value_int")
    if integers.null_count == len(integers):
        return np.zeros(len(batch), np.bool_)
    numbers = integers.fill_null(0).to_numpy()
    unsigned = batch.column("type").to_numpy() == ValueType.UINT64
    return np.asarray((numbers > _EXACT) | np.where(unsigned, numbers < 0, numbers < -_EXACT))


def _changes(columns: list[npt.NDArray[np.int64]]) -> Mask:
    """Where a row of sorted columns is another than the one before."""
    new = np.ones(len(columns[0]), np.bool_)
    new[1:] = np.logical_or.reduce([column[1:] != column[:-1] for column in columns])
    return new


def _grouped(keys: list[npt.NDArray[np.int64]]) -> tuple[Integers, Integers]:
    """Which row each reading belongs to, and the first reading of each row; ordered by the last key first."""
    order = np.lexsort(keys)
    new = _changes([key[order] for key in keys])
    row = np.empty(len(order), np.int64)
    row[order] = np.cumsum(new) - 1
    return row, order[new]


def _turns(row: Integers, column: Integers) -> Integers:
    """How many readings of the same row and column come before each."""
    order = np.lexsort((column, row))
    new = _changes([row[order], column[order]])
    place = np.arange(len(order))
    turn = np.empty(len(order), np.int64)
    turn[order] = place - np.maximum.accumulate(np.where(new, place, 0))
    return turn
