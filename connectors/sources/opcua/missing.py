"""What was missed of each node, until it is read from the server's history: see `History`.

`Missed` holds, for each node, what lies between the last reading in the journal and the first one behind the gap: of the new
connection, of the new subscription, after messages that did not come, or after a queue that overflowed. Both ends are source times
and are left out: their values are there.
"""

import asyncio
import datetime
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from asyncua import ua
from asyncua.ua.attribute_ids import AttributeIds
from asyncua.ua.object_ids import ObjectIds

from connectors.sources.opcua.connection import Connection
from connectors.sources.opcua.decode import LostBefore
from connectors.sources.opcua.nodes import Described
from connectors.sources.opcua.session import node_id
from connectors.sources.opcua.state import microseconds_now
from connectors.sources.opcua.watermarks import FILLED, NOT_CONNECTED, OPEN, Missed, Watermarks, node_keys
from normalization.columns import NULL_TIME

_log = logging.getLogger(__name__)

OVERFLOWED: Final = "the queue in the server overflowed"
_READABLE: Final = 4  # HistoryRead in an access level (OPC 10000-3 clause 8.57)
_PATIENCE: Final = 10.0  # seconds for the first value of each node
_OVERFLOW_EVERY: Final = 1_000_000  # µs between files of what overflowed
_MOST_WAITING: Final = 100  # gaps that wait to be filled, before what overflows is given up


@dataclass(frozen=True, slots=True)
class _Lost:
    """What nodes had to say will not come by itself; among what was decoded, it stands where that was."""

    handles: np.ndarray
    start: int
    end: int
    reason: str


class Missing:
    """What nodes of one connection miss, as far as the server has a history of it.

    Args:
        connection: The connection.

    Attributes:
        gaps: The oldest first; their rows are open until they are filled or refused.
        keys: Keys of the nodes, by client handle.
        readable: Whether the history of a node may be read.
        last: Source time of the last reading of a node that is in the journal; empty when no history may be read.
        more: Set when there is one more gap.
    """

    def __init__(self, connection: Connection) -> None:
        self._config = connection.config
        self._session = connection.session
        self._intake = connection.intake
        self._tags = connection.tags
        self._decoder = connection.decoder
        self._described = connection.described
        self._directory = connection.session.directory / "history"
        self.gaps: list[Missed] = []
        self.keys = node_keys([one.variable.address for one in connection.described])
        self.readable = np.zeros(len(self.keys), np.bool_)
        self.last: np.ndarray = np.zeros(0, np.int64)
        self.more = asyncio.Event()
        self._awaited: dict[int, tuple[Missed, int]] = {}  # nodes whose first value is not in the journal yet
        self._nothing_awaited = asyncio.Event()
        self._overflowed: list[tuple[int, int, int]] = []  # handle, and the times between which values were lost
        self._overflow_from = self._overflow_kept = 0
        self._stopping = False

    async def prepare(self) -> None:
        """Look which nodes have a history that may be read, and what is in the journal of each.

        Whoever runs readers has waited until all that they appended is in the journal.
        """
        try:
            await self._prepare()
        except OSError as error:
            self.readable[:] = False
            _log.warning("source %s: no history is read: %s", self._config.name, error)
        self._await_first()

    async def _prepare(self) -> None:
        self.gaps = Missed.all(self._directory)
        wanted = self._config.history
        if self._config.timestamps != "source" or not (wanted.gaps or wanted.backfill):
            return
        self.readable = await self._have_history([one.variable.id for one in self._described])
        if not self.readable.any():
            return  # whoever decodes need not say what it sees
        self.last = Watermarks(self._directory, self.keys).times
        self._decoder.seen = []
        self._decoder.fillable = self.readable & wanted.gaps
        if self._config.history.backfill is not None:
            new = self.readable & (self.last == 0)
            now = microseconds_now()
            if new.any() and not any(missed.start == 0 for missed in self.gaps):
                since = np.full(len(new), now - int(self._config.history.backfill * 1e6))
                self.gaps.append(Missed.create(self._directory, 0, now, self.keys[new], since[new]))

    async def _have_history(self, ids: Sequence[ua.NodeId | None]) -> np.ndarray:
        found = np.zeros(len(ids), np.bool_)
        nodes = [(at, node) for at, node in enumerate(ids) if node is not None]
        levels = await self._session.read_attributes_of([node for _, node in nodes], AttributeIds.UserAccessLevel)
        for (at, _), level in zip(nodes, levels, strict=True):
            said = level.Value.Value if level.Value is not None else None
            found[at] = isinstance(said, int) and bool(said & _READABLE)
        return found

    async def extend(self, described: Sequence[Described]) -> None:
        """Know further nodes; their handles follow. Of those that are new, no past is read."""
        ids = [one.variable.id for one in described]
        readable = await self._have_history(ids) if len(self.last) else np.zeros(len(ids), np.bool_)
        self.keys = np.concatenate([self.keys, node_keys([one.variable.address for one in described])])
        self.readable = np.concatenate([self.readable, readable])
        if len(self.last):
            self.last = Watermarks(self._directory, self.keys).times
            self._decoder.fillable = self.readable & self._config.history.gaps

    def handles(self) -> dict[int, int]:
        """Client handles by key."""
        return {key: handle for handle, key in enumerate(self.keys.tolist())}

    def missed(self, start: int, end: int) -> list[int]:
        """Nothing was heard between two times of the gateway's clock.

        Returns:
            Tags whose history will not be asked: they have a gap.
        """
        fillable = self.readable & self._config.history.gaps
        if fillable.any() and not self._begin(_Lost(np.flatnonzero(fillable), start, end, NOT_CONNECTED)):
            fillable[:] = False
        return [tag for tag, filled in zip(self._tags, fillable.tolist(), strict=True) if not filled]

    def lost(self, handles: Sequence[int], start: int, end: int, reason: str) -> list[int]:
        """What nodes had to say between two times of the gateway's clock will not come by itself.

        It is read once all that came before it is in the journal.

        Returns:
            Tags of those whose history will not be asked: they have a gap.
        """
        nodes = np.zeros(len(self.readable), np.bool_)
        nodes[handles] = True
        fillable = nodes & self.readable & self._config.history.gaps
        if self._decoder.seen is not None and fillable.any():
            self._decoder.seen.append(_Lost(np.flatnonzero(fillable), start, end, reason))
        return [self._tags[handle] for handle in np.flatnonzero(nodes & ~fillable).tolist()]

    def _begin(self, lost: _Lost) -> bool:
        """Remember a gap that ends with the next reading of each node; returns whether that can be done."""
        start = lost.start
        keys, last = self.keys[lost.handles], self.last[lost.handles]
        since = np.where(last > 0, last, start)
        at = {key: place for place, key in enumerate(keys.tolist())}
        for before in self.gaps:  # no value has come since: it is one gap
            if before.rows is None:
                continue
            for row in np.flatnonzero((before.rows["until"] == 0) & (before.rows["state"] == OPEN)).tolist():
                place = at.get(int(before.rows["node"][row]))
                if place is not None:
                    since[place] = min(since[place], before.rows["since"][row])
                    before.rows["state"][row] = FILLED
                    start = min(start, before.start or start)
        try:
            self.gaps.append(Missed.create(self._directory, start, lost.end, keys, since, reason=lost.reason))
        except OSError as error:
            _log.warning("source %s: no history is read: %s", self._config.name, error)
            return False
        self._await_first()
        self.more.set()
        return True

    def _await_first(self) -> None:
        """Note which nodes have a gap whose end is the first reading to come."""
        at = self.handles()
        self._awaited.clear()
        for missed in self.gaps:
            if missed.rows is not None:
                for row in np.flatnonzero((missed.rows["until"] == 0) & (missed.rows["state"] == OPEN)).tolist():
                    handle = at.get(int(missed.rows["node"][row]), -1)
                    if handle >= 0 and self.readable[handle]:
                        self._awaited[handle] = (missed, row)
        if self._awaited:
            self._nothing_awaited.clear()
        else:
            self._nothing_awaited.set()

    def seen(self) -> list[Any] | None:
        """What was decoded since the last time, for `journalled`."""
        seen = self._decoder.seen
        if seen:
            self._decoder.seen = []
        return seen

    def journalled(self, seen: Iterable[Any], since: int, future: "asyncio.Future[None]") -> None:
        """Readings are in the journal.

        Args:
            seen: What was decoded.
            since: When the server had last said all that it had to say before them, µs since the epoch.
            future: Done when they are there.
        """
        if future.cancelled() or future.exception() is not None:
            return
        for entry in seen:
            if isinstance(entry, LostBefore):
                if entry.handle in self._awaited:
                    continue  # the gap that ends with this value holds it
                last = int(self.last[entry.handle]) or since
                self._overflow_from = self._overflow_from or since
                self._overflowed.append((entry.handle, last, entry.time))
                continue
            if isinstance(entry, _Lost):
                if not self._begin(entry):
                    tags = [self._tags[handle] for handle in entry.handles.tolist()]
                    self._intake.gap(tags, entry.start, entry.end, entry.reason)
                continue
            handles, times = entry
            if self._awaited:
                self._first(np.atleast_1d(handles).tolist(), np.atleast_1d(times).tolist())
            if isinstance(times, np.ndarray) and times.min() == NULL_TIME:
                said = times != NULL_TIME
                self.last[handles[said]] = times[said]
            else:
                self.last[handles] = times
        if self._overflowed and (self._stopping or microseconds_now() - self._overflow_kept >= _OVERFLOW_EVERY):
            self.keep_overflowed()

    def stop(self) -> None:
        """Nothing is read any more; what overflowed is remembered at once."""
        self._stopping = True
        self.keep_overflowed()

    def keep_overflowed(self) -> None:
        """Remember what overflowed since the last time: when the server has too much to say, each message overflowed."""
        if not self._overflowed:
            return
        rows, start, end = np.array(self._overflowed, np.int64), self._overflow_from, microseconds_now()
        self._overflowed, self._overflow_from, self._overflow_kept = [], 0, end
        handles = rows[:, 0]
        problem = "and its history is slower" if len(self.gaps) >= _MOST_WAITING else ""
        if not problem:
            try:
                keys = self.keys[handles]
                missed = Missed.create(self._directory, start, end, keys, rows[:, 1], rows[:, 2], reason=OVERFLOWED)
                self.gaps.append(missed)
                self.more.set()
                return
            except OSError as error:
                problem = f"and its history is not read: {error}"
        tags = [self._tags[handle] for handle in sorted(set(handles.tolist()))]
        self._intake.gap(tags, start, end, f"{OVERFLOWED}, {problem}")

    def _first(self, handles: list[int], times: list[int]) -> None:
        for handle, when in zip(handles, times, strict=True):
            if when != NULL_TIME and (waiting := self._awaited.pop(handle, None)) is not None:
                missed, row = waiting
                missed.rows["until"][row] = when
        if not self._awaited:
            self._nothing_awaited.set()

    async def wait_for_ends(self) -> None:
        """Wait for the first reading of each node behind a gap."""
        if not self._awaited:
            return
        try:
            async with asyncio.timeout(_PATIENCE + 4 * self._config.publishing_interval):
                await self._nothing_awaited.wait()
        except TimeoutError:  # they may have no source time
            now = await self._server_time()
            for waiting, row in self._awaited.values():
                waiting.rows["until"][row] = now
            self._awaited.clear()

    async def _server_time(self) -> int:
        (now,) = await self._session.read_attributes_of(
            [node_id(ObjectIds.Server_ServerStatus_CurrentTime)], AttributeIds.Value
        )
        said = now.Value.Value if now.Value is not None else None
        return int(said.timestamp() * 1e6) if isinstance(said, datetime.datetime) else microseconds_now()
