"""What readers have appended and no commit holds yet: gathered per shard, and cut into columns, once per group commit."""

import asyncio
import contextlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import pyarrow as pa
import structlog

from normalization.reading import Columns, TagTable

_UNFIT: Final = (TypeError, ValueError, OverflowError, IndexError)  # what Arrow and numpy say of unfit values

log = structlog.get_logger()


@dataclass(slots=True)
class _Append:
    source: str
    time: int  # µs since the epoch
    rows: int
    done: "asyncio.Future[None]"


@dataclass(slots=True)
class Pending:
    """Appends that wait for one commit.

    Attributes:
        columns: Readings by shard.
        states: State of the readers that gave one, by source.
        rows: How many readings.
        began: When the first of them came, µs since the epoch.
    """

    columns: dict[int, Columns] = field(default_factory=dict)
    states: dict[str, bytes] = field(default_factory=dict)
    rows: int = 0
    began: int = 0
    _appends: dict[int, list[_Append]] = field(default_factory=dict)
    _waiters: dict[asyncio.AbstractEventLoop, list["asyncio.Future[None]"]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self._waiters)

    def add(self, source: str, index: int, rows: Columns, state: bytes | None, now: int) -> "asyncio.Future[None]":
        """Take readings of `source` for shard `index`; the result is done when they are on disk.

        Args:
            source: Their source.
            index: Their shard.
            rows: The readings; they belong to the journal from now on.
            state: The reader's state, on disk with them.
            now: When they were received, µs since the epoch.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        count = len(rows)
        if count:
            if index in self.columns:
                self.columns[index].extend(rows)
            else:
                self.columns[index] = rows
            self._appends.setdefault(index, []).append(_Append(source, now, count, done))
            self.began = self.began or now
            self.rows += count
        if state is not None:
            self.states[source] = state
        self._waiters.setdefault(loop, []).append(done)
        return done

    def cut(self, index: int, tags: TagTable, first: int) -> tuple[list[pa.Array], dict[str, int]]:
        """The readings of shard `index` as arrays in the order of ``FACTS``, and how many there are of each source.

        An append that does not fit the columns' types is left out and told so; the others go on.
        """
        try:
            facts = _facts(self.columns[index], self._appends[index], tags, first)
        except _UNFIT:
            facts = self._sift(index, tags, first)
        sources: dict[str, int] = {}
        for append in self._appends[index]:
            sources[append.source] = sources.get(append.source, 0) + append.rows
        return facts, sources

    def _sift(self, index: int, tags: TagTable, first: int) -> list[pa.Array]:
        columns, sound, fit, start = self.columns[index], Columns(), [], 0
        for append in self._appends[index]:
            part = Columns()
            for name in Columns.__slots__:
                getattr(part, name).extend(getattr(columns, name)[start : start + append.rows])
            start += append.rows
            try:
                _facts(part, [append], tags, 1)
            except _UNFIT as error:
                log.error("readings refused", source=append.source, readings=append.rows, error=str(error))
                self._refuse(append, error)
            else:
                sound.extend(part)
                fit.append(append)
        self.columns[index], self._appends[index] = sound, fit
        return _facts(sound, fit, tags, first)

    def _refuse(self, append: _Append, error: Exception) -> None:
        self.states.pop(append.source, None)
        loop = append.done.get_loop()
        self._waiters[loop].remove(append.done)
        reason = ValueError(f"readings of {append.source} cannot be journalled: {error}")
        with contextlib.suppress(RuntimeError):  # the loop has been closed
            loop.call_soon_threadsafe(_fail, append.done, reason)

    def resolve(self) -> None:
        """Everything is on disk: tell those who wait. Safe from any thread."""
        for loop, futures in self._waiters.items():
            with contextlib.suppress(RuntimeError):  # the loop has been closed
                loop.call_soon_threadsafe(_resolve, futures)


def _facts(columns: Columns, appends: list[_Append], tags: TagTable, first: int) -> list[pa.Array]:
    times = np.array([a.time for a in appends], np.int64)
    facts = columns.to_arrays(np.repeat(times, np.array([a.rows for a in appends], np.int64)), first)
    numbers = facts[0].to_numpy()
    if len(numbers) and not 0 <= int(numbers.min()) <= int(numbers.max()) < len(tags):
        raise IndexError("a tag that is not in the tag table")
    return facts


def _resolve(futures: Iterable["asyncio.Future[None]"]) -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)


def _fail(future: "asyncio.Future[None]", error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
