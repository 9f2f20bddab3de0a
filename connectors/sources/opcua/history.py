"""What was missed is read from the server's history (OPC 10000-11), node by node, and nothing twice.

`Missed` holds, for each node, what lies between the last reading in the journal and the first one behind the gap: of the new
connection, of the new subscription, after messages that did not come, or after a queue that overflowed. Both ends are source times
and are left out: their values are there. What the server does not have stays a gap.
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
from asyncua.ua.status_codes import StatusCodes
from asyncua.ua.uaerrors import UaStatusCodeError

from connectors.contract import Intake
from connectors.sources.opcua import services
from connectors.sources.opcua.binary import Malformed
from connectors.sources.opcua.config import OpcUaConfig
from connectors.sources.opcua.datatypes import DataTypes
from connectors.sources.opcua.decode import LostBefore, ValueDecoder
from connectors.sources.opcua.limits import TOO_MUCH
from connectors.sources.opcua.nodes import Described
from connectors.sources.opcua.services import HistoryResult
from connectors.sources.opcua.session import Session, node_id
from connectors.sources.opcua.state import microseconds_now
from connectors.sources.opcua.watermarks import (
    FILLED,
    NOT_CONNECTED,
    OPEN,
    REFUSED,
    Missed,
    Watermarks,
    node_keys,
)
from normalization.columns import NULL_TIME
from normalization.reading import Columns

_log = logging.getLogger(__name__)

OVERFLOWED: Final = "the queue in the server overflowed"
_READABLE: Final = 4  # HistoryRead in an access level (OPC 10000-3 clause 8.57)
_VALUES: Final = 20_000  # in one answer, at most
_FEW: Final = 100
_NODES: Final = 100  # in one request, at most
_SPREAD: Final = 10_000_000  # µs between what nodes of one request begin with
_PATIENCE: Final = 10.0  # seconds for the first value of each node
_TOO_MUCH: Final = TOO_MUCH | {StatusCodes.BadTimeout}
_AGAIN: Final = {StatusCodes.BadNoContinuationPoints, StatusCodes.BadContinuationPointInvalid} | _TOO_MUCH
_NOTHING: Final = {StatusCodes.BadNoData}
_OVERFLOW_EVERY: Final = 1_000_000  # µs between files of what overflowed
_MOST_WAITING: Final = 100  # gaps that wait to be filled, before what overflows is given up


@dataclass(frozen=True, slots=True)
class _Lost:
    """What nodes had to say will not come by itself; among what was decoded, it stands where that was."""

    handles: np.ndarray
    start: int
    end: int
    reason: str


class History:
    """The history of the nodes of one connection.

    Args:
        config: The source.
        session: Its session.
        intake: Where readings go.
        described: The nodes, by client handle.
        tags: Their tags.
        decoder: Decodes their values.
        types: The server's structures.
    """

    def __init__(
        self,
        config: OpcUaConfig,
        session: Session,
        intake: Intake,
        described: Sequence[Described],
        tags: Sequence[int],
        decoder: ValueDecoder,
        types: DataTypes,
    ) -> None:
        self._config = config
        self._session = session
        self._intake = intake
        self._ids = [d.variable.id for d in described]
        self._tags = list(tags)
        self._decoder = decoder
        self._types = types
        self._keys = node_keys([d.variable.address for d in described])
        self._directory = session.directory / "history"
        self._readable = np.zeros(len(described), np.bool_)
        self._last: np.ndarray = np.zeros(0, np.int64)
        self._awaited: dict[int, tuple[Missed, int]] = {}  # nodes whose first value is not in the journal yet
        self._nothing_awaited = asyncio.Event()
        self._missed: list[Missed] = []
        self._reasons: dict[tuple[int, int], str] = {}
        self._more = asyncio.Event()
        self._overflowed: list[tuple[int, int, int]] = []  # handle, and the times between which values were lost
        self._overflow_from = self._overflow_kept = 0
        self._stopping = False
        self._at_once = min(_NODES, session.limits.size("history"))
        self._values = _VALUES

    async def prepare(self) -> None:
        """Look which nodes have a history that may be read, and what is in the journal of each.

        Whoever runs readers has waited until all that they appended is in the journal.
        """
        try:
            await self._prepare()
        except OSError as error:
            self._readable[:] = False
            _log.warning("source %s: no history is read: %s", self._config.name, error)
        self._await_first()

    async def _prepare(self) -> None:
        self._missed = Missed.all(self._directory)
        wanted = self._config.history
        if self._config.timestamps != "source" or not (wanted.gaps or wanted.backfill):
            return
        self._readable = await self._have_history(self._ids)
        if not self._readable.any():
            return  # whoever decodes need not say what it sees
        self._last = Watermarks(self._directory, self._keys).times
        self._decoder.seen = []
        self._decoder.fillable = self._readable & wanted.gaps
        if self._config.history.backfill is not None:
            new = self._readable & (self._last == 0)
            now = microseconds_now()
            if new.any() and not any(missed.start == 0 for missed in self._missed):
                since = np.full(len(new), now - int(self._config.history.backfill * 1e6))
                self._missed.append(Missed.create(self._directory, 0, now, self._keys[new], since[new]))

    async def _have_history(self, ids: Sequence[ua.NodeId | None]) -> np.ndarray:
        found = np.zeros(len(ids), np.bool_)
        nodes = [(at, node) for at, node in enumerate(ids) if node is not None]
        levels = await self._session.read_attributes_of([node for _, node in nodes], AttributeIds.UserAccessLevel)
        for (at, _), level in zip(nodes, levels, strict=True):
            said = level.Value.Value if level.Value is not None else None
            found[at] = isinstance(said, int) and bool(said & _READABLE)
        return found

    async def extend(self, described: Sequence[Described], tags: Sequence[int]) -> None:
        """Know further nodes; their handles follow. Of those that are new, no past is read."""
        ids = [d.variable.id for d in described]
        readable = await self._have_history(ids) if len(self._last) else np.zeros(len(ids), np.bool_)
        self._ids += ids
        self._tags += tags
        self._keys = np.concatenate([self._keys, node_keys([d.variable.address for d in described])])
        self._readable = np.concatenate([self._readable, readable])
        if len(self._last):
            self._last = Watermarks(self._directory, self._keys).times
            self._decoder.fillable = self._readable & self._config.history.gaps

    def missed(self, start: int, end: int) -> list[int]:
        """Nothing was heard between two times of the gateway's clock.

        Returns:
            Tags whose history will not be asked: they have a gap.
        """
        fillable = self._readable & self._config.history.gaps
        if fillable.any() and not self._begin(_Lost(np.flatnonzero(fillable), start, end, NOT_CONNECTED)):
            fillable[:] = False
        return [tag for tag, filled in zip(self._tags, fillable.tolist(), strict=True) if not filled]

    def lost(self, handles: Sequence[int], start: int, end: int, reason: str) -> list[int]:
        """What nodes had to say between two times of the gateway's clock will not come by itself.

        It is read once all that came before it is in the journal.

        Returns:
            Tags of those whose history will not be asked: they have a gap.
        """
        nodes = np.zeros(len(self._tags), np.bool_)
        nodes[handles] = True
        fillable = nodes & self._readable & self._config.history.gaps
        if self._decoder.seen is not None and fillable.any():
            self._decoder.seen.append(_Lost(np.flatnonzero(fillable), start, end, reason))
        return [self._tags[handle] for handle in np.flatnonzero(nodes & ~fillable).tolist()]

    def _begin(self, lost: _Lost) -> bool:
        """Remember a gap that ends with the next reading of each node; returns whether that can be done."""
        start = lost.start
        keys, last = self._keys[lost.handles], self._last[lost.handles]
        since = np.where(last > 0, last, start)
        at = {key: place for place, key in enumerate(keys.tolist())}
        for before in self._missed:  # no value has come since: it is one gap
            if before.rows is None:
                continue
            for row in np.flatnonzero((before.rows["until"] == 0) & (before.rows["state"] == OPEN)).tolist():
                place = at.get(int(before.rows["node"][row]))
                if place is not None:
                    since[place] = min(since[place], before.rows["since"][row])
                    before.rows["state"][row] = FILLED
                    start = min(start, before.start or start)
        try:
            self._missed.append(Missed.create(self._directory, start, lost.end, keys, since, reason=lost.reason))
        except OSError as error:
            _log.warning("source %s: no history is read: %s", self._config.name, error)
            return False
        self._await_first()
        self._more.set()
        return True

    def _await_first(self) -> None:
        """Note which nodes have a gap whose end is the first reading to come."""
        at = {key: handle for handle, key in enumerate(self._keys.tolist())}
        self._awaited.clear()
        for missed in self._missed:
            if missed.rows is not None:
                for row in np.flatnonzero((missed.rows["until"] == 0) & (missed.rows["state"] == OPEN)).tolist():
                    handle = at.get(int(missed.rows["node"][row]), -1)
                    if handle >= 0 and self._readable[handle]:
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
                last = int(self._last[entry.handle]) or since
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
                self._last[handles[said]] = times[said]
            else:
                self._last[handles] = times
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
        problem = "and its history is slower" if len(self._missed) >= _MOST_WAITING else ""
        if not problem:
            try:
                keys = self._keys[handles]
                missed = Missed.create(self._directory, start, end, keys, rows[:, 1], rows[:, 2], reason=OVERFLOWED)
                self._missed.append(missed)
                self._more.set()
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

    # -- reading

    async def run(self) -> None:
        """Fill what was missed, the oldest first; values that come meanwhile are not held up."""
        while True:
            self._more.clear()
            await self._fill_all()
            await self._more.wait()

    async def _fill_all(self) -> None:
        if self._awaited:
            await self._wait_for_ends()
        missed = [one for one in self._missed if self._sound(one)]
        at = {key: handle for handle, key in enumerate(self._keys.tolist())}
        for one in missed:
            for row in np.flatnonzero(one.rows["state"] == OPEN).tolist():
                handle = at.get(int(one.rows["node"][row]), -1)
                if handle < 0 or not self._readable[handle]:
                    self._refuse(one, row, "the server keeps no history of the node")
        for one in missed:
            await self._fill(one, at)
            self._finish(one, at)

    async def _wait_for_ends(self) -> None:
        """Wait for the first reading of each node behind a gap."""
        try:
            async with asyncio.timeout(_PATIENCE + 4 * self._config.publishing_interval):
                await self._nothing_awaited.wait()
        except TimeoutError:  # they may have no source time
            now = await self._server_time()
            for waiting, row in self._awaited.values():
                waiting.rows["until"][row] = now
            self._awaited.clear()

    def _sound(self, missed: Missed) -> bool:
        if missed.rows is not None:
            return True
        self._intake.gap(list(self._tags), missed.start, missed.end, "what was missed is not known any more")
        missed.forget()
        return False

    async def _server_time(self) -> int:
        (now,) = await self._session.read_attributes_of(
            [node_id(ObjectIds.Server_ServerStatus_CurrentTime)], AttributeIds.Value
        )
        said = now.Value.Value if now.Value is not None else None
        return int(said.timestamp() * 1e6) if isinstance(said, datetime.datetime) else microseconds_now()

    async def _fill(self, missed: Missed, at: dict[int, int]) -> None:
        rows = missed.rows
        rows["state"][(rows["state"] == OPEN) & (rows["until"] <= rows["since"] + 1)] = FILLED  # nothing lies between
        alone: set[int] = set()  # nodes that are asked for one by one
        while len(left := np.flatnonzero(rows["state"] == OPEN)):
            order = left[np.argsort(rows["since"][left], kind="stable")].tolist()
            begins = rows["since"][order].tolist()
            batch = [
                row
                for row, begin in zip(order[: self._at_once], begins, strict=False)
                if begin <= begins[0] + _SPREAD and row not in alone
            ]
            await self._read(missed, batch if batch and order[0] not in alone else order[:1], at, alone)

    async def _read(self, missed: Missed, batch: list[int], at: dict[int, int], alone: set[int]) -> None:
        """Read the history of some rows to its end, or as far as it can be read together."""
        rows = missed.rows
        handles = {row: at[int(rows["node"][row])] for row in batch}
        most = max(1, self._values // len(batch))
        start, end = int(rows["since"][batch].min()), int(rows["until"][batch].max())
        points: dict[int, bytes | None] = dict.fromkeys(batch)
        while points:
            asked = list(points)
            try:
                nodes = [(self._ids[handles[row]], points[row]) for row in asked]
                answer = await services.read_history(self._session, nodes, start, end, most)
            except (UaStatusCodeError, TimeoutError, Malformed) as error:
                code = error.code if isinstance(error, UaStatusCodeError) else 0
                code = int(StatusCodes.BadTimeout) if isinstance(error, TimeoutError) else code
                if code in _TOO_MUCH and (len(batch) > 1 or self._values > _FEW):
                    self._at_once, self._values = max(1, len(batch) // 2), max(_FEW, self._values // 2)
                    return
                for row in asked:
                    self._refuse(missed, row, f"the server's history cannot be read: {type(error).__name__}")
                return
            data, results = answer
            columns = Columns()
            done: list[tuple[int, int, bool]] = []  # row, time of the last value, whether it is all
            for row, result in zip(asked, results, strict=True):
                done += self._take(data, result, missed, row, handles[row], most, columns, points, alone)
            if self._types.types.missing and await self._types.learn_missing():
                columns = Columns()
                for row, result in zip(asked, results, strict=True):
                    self._decode(data, result, missed, row, handles[row], columns)
            await self._intake.append(columns)  # the journal's pace is ours
            for row, last, is_all in done:
                rows["since"][row] = max(int(rows["since"][row]), min(last, int(rows["until"][row])))
                if is_all:
                    rows["state"][row] = FILLED

    def _take(
        self,
        data: bytes,
        result: HistoryResult,
        missed: Missed,
        row: int,
        handle: int,
        most: int,
        columns: Columns,
        points: dict[int, bytes | None],
        alone: set[int],
    ) -> list[tuple[int, int, bool]]:
        """Take what the server says to one node; returns row, time of its last value, and whether it is all."""
        points.pop(row)
        if result.status & 0x80000000 and result.status not in _NOTHING:
            if result.status in _AGAIN and row not in alone:
                alone.add(row)
            else:
                self._refuse(missed, row, f"the server's history says {ua.StatusCode(ua.UInt32(result.status)).name}")
            return []
        try:
            count, last = self._decode(data, result, missed, row, handle, columns)
        except Malformed as error:
            self._refuse(missed, row, f"the server's history cannot be decoded: {error}")
            return []
        if result.more is not None:
            points[row] = result.more
            return [(row, last, False)]
        if count < most:
            return [(row, last, True)]
        alone.add(row)  # it gave what we asked for at most, and no way to go on: from the last value, then
        return [(row, max(last, int(missed.rows["since"][row]) + 1), False)]

    def _decode(
        self, data: bytes, result: HistoryResult, missed: Missed, row: int, handle: int, columns: Columns
    ) -> tuple[int, int]:
        if result.start == result.end:
            return 0, 0
        since, until = int(missed.rows["since"][row]), int(missed.rows["until"][row])
        return self._decoder.history(data[result.start : result.end], handle, since, until, columns)

    def _refuse(self, missed: Missed, row: int, reason: str) -> None:
        missed.rows["state"][row] = REFUSED
        self._reasons[missed.end, row] = reason

    def _finish(self, missed: Missed, at: dict[int, int]) -> None:
        """Record what stays a gap."""
        refused: dict[str, list[int]] = {}
        if not missed.start:
            for row in np.flatnonzero(missed.rows["state"] == FILLED).tolist():
                handle = at.get(int(missed.rows["node"][row]), -1)
                if handle >= 0 and not self._last[handle]:
                    self._last[handle] = missed.rows["until"][row]  # its past is read once
        for row in np.flatnonzero(missed.rows["state"] == REFUSED).tolist():
            place = at.get(int(missed.rows["node"][row]))
            reason = self._reasons.pop((missed.end, row), "the server's history could not be read")
            if place is not None:
                refused.setdefault(reason, []).append(self._tags[place])
        for reason, tags in refused.items():
            _log.warning("source %s: history of %d nodes: %s", self._config.name, len(tags), reason)
            if missed.start:
                self._intake.gap(tags, missed.start, missed.end, f"{missed.reason}, and {reason}")
        filled = int((missed.rows["state"] == FILLED).sum())
        _log.info("source %s: history of %d nodes is complete", self._config.name, filled)
        missed.forget()
        self._missed.remove(missed)
