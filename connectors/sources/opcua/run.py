"""What an OPC UA source does with one connection: takes notifications or polls until something fails."""

import asyncio
import hashlib
import json
import logging
import math
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from asyncua import ua
from asyncua.ua.attribute_ids import AttributeIds
from asyncua.ua.ua_binary import struct_to_binary

from connectors.contract import Intake
from connectors.sources.opcua.config import OpcUaConfig
from connectors.sources.opcua.datatypes import DataTypes
from connectors.sources.opcua.decode import ValueDecoder
from connectors.sources.opcua.nodes import BAD_NODE_ID_UNKNOWN, Described
from connectors.sources.opcua.notification import DATA_CHANGE, Notification
from connectors.sources.opcua.session import Session, batches
from connectors.sources.opcua.subscription import Position, Subscription
from normalization.quality import opcua_quality
from normalization.reading import Columns

_log = logging.getLogger(__name__)

_OVERFLOW_EVERY: Final = 1_000_000  # µs between records of what overflowed
_IN_FLIGHT: Final = 16  # polls that are not on disk yet, before we wait for them


def microseconds_now() -> int:
    """Now, in µs since the epoch, UTC."""
    return time.time_ns() // 1000


@dataclass(frozen=True, slots=True)
class State:
    """What a reader remembers.

    Attributes:
        last_reading: When the server last said something, µs since the epoch; None when it never did.
        position: The subscription as far as it is on disk.
        stale: The connection was lost, and the tags were marked as stale.
    """

    last_reading: int | None = None
    position: Position | None = None
    stale: bool = False

    @staticmethod
    def from_json(state: bytes | None) -> "State":
        """What an append carried; nothing is remembered where it makes no sense."""
        try:
            said = json.loads(state or b"null")
        except ValueError:
            return State()
        if not isinstance(said, dict):
            return State()
        last = said.get("last_reading")
        sound = type(last) is int and 0 <= last <= microseconds_now()
        return State(last if sound else None, Position.from_json(said.get("subscription")), said.get("stale") is True)


@dataclass(frozen=True, slots=True)
class _Poll:
    """A ReadRequest that is sent again and again.

    Attributes:
        parameters: What it asks for, encoded.
        handles: The nodes that it asks for.
    """

    parameters: bytes
    handles: np.ndarray


class Run:
    """What one connection does.

    Args:
        config: The source.
        session: Its session, which is open.
        intake: Where readings go.
        described: The nodes that are read.
        types: The server's structures.

    Attributes:
        tags: Rows of the tag table, of all nodes.
        goes_on: It took over the subscription of the connection before, and nothing is missing in between.
    """

    def __init__(
        self, config: OpcUaConfig, session: Session, intake: Intake, described: list[Described], types: DataTypes
    ) -> None:
        self._config = config
        self._session = session
        self._intake = intake
        self._types = types
        self._described = described
        self._items = [d.item(intake.tag(d.tag)) for d in described]
        self.tags = [item.tag for item in self._items]
        self._decoder = ValueDecoder(self._items, types.types, server_time=config.timestamps == "server")
        self._timestamps = (
            ua.TimestampsToReturn.Server if config.timestamps == "server" else ua.TimestampsToReturn.Source
        )
        self._pending: deque[asyncio.Future[None]] = deque()
        self._last_message = self._committed = microseconds_now()
        self._live = True  # what comes is of now, and nothing before it is missing
        self._taking_over = False
        self._overflowed: dict[int, None] = {}  # tags whose overflow is not recorded yet
        self._overflow_from = self._overflow_to = self._overflow_said = 0
        self._heard = time.monotonic()
        self._polling: list[tuple[float, list[_Poll]]] = []
        self._subscription = Subscription(config, session, self) if config.mode == "subscription" else None
        self._position, self._position_end = b"null", b'"",""'  # of the subscription, in JSON, around its sequence
        self.goes_on = False

    def will_be_handed_over(self, *, session_was_open: bool) -> bool:
        """Whether the server can be expected to hand the subscription over to the next session.

        Args:
            session_was_open: The session before this one was not closed when its subscription was asked for.
        """
        subscription = self._subscription
        if subscription is None:
            return False
        return not (subscription.cannot_be_taken_over or (subscription.denied and session_was_open))

    async def begin(self, before: State) -> None:
        """Take over the subscription or create one, or group the polls; report the nodes that cannot be read."""
        rows = Columns()
        usable: list[int] = []
        for handle, described in enumerate(self._described):
            if described.variable.id is None:
                self._refuse(rows, handle, BAD_NODE_ID_UNKNOWN, "the server has no such namespace")
            else:
                usable.append(handle)
        if self._subscription is None:
            groups: dict[float, list[int]] = {}
            for handle in usable:
                groups.setdefault(self._interval(handle) or self._config.polling_interval, []).append(handle)
            self._polling = [(interval, self._requests(groups[interval])) for interval in sorted(groups)]
        else:
            await self._subscribe(self._subscription, usable, rows, before)
        if len(rows):
            self._append(rows)

    async def until_failure(self) -> None:
        """Read until the connection fails."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._keep_alive())
                for interval, requests in self._polling:
                    tasks.create_task(self._poll(interval, requests))
                if self._subscription is not None:
                    tasks.create_task(self._publish(self._subscription))
        except ExceptionGroup as group:
            error: Exception = group
            while isinstance(error, ExceptionGroup):
                error = error.exceptions[0]
            raise error from None

    def _id(self, handle: int) -> ua.NodeId:
        node = self._described[handle].variable.id
        return node if node is not None else ua.NodeId()

    def _interval(self, handle: int) -> float | None:
        node = self._described[handle].variable.config
        return node.interval if node is not None else None

    def _refuse(self, rows: Columns, handle: int, status: int, reason: str) -> None:
        _log.warning("source %s: node %s: %s", self._config.name, self._described[handle].variable.address, reason)
        rows.add(self._items[handle].tag, None, quality=opcua_quality(status), status=status)

    def _append(self, rows: Columns) -> "asyncio.Future[None]":
        if self._live:
            self._last_message = self._committed = microseconds_now()
        return self._intake.append(rows, self._state())

    def _state(self, *, stale: bool = False) -> bytes:
        end = b',"stale":true}' if stale else b"}"
        if self._subscription is None:
            return b'{"last_reading":%d%b' % (self._last_message, end)
        position = b"[%b,%d,%b]" % (self._position, self._subscription.sequence, self._position_end)
        return b'{"last_reading":%d,"subscription":%b%b' % (self._last_message, position, end)

    def remember(self, *, stale: bool) -> None:
        """Commit when the server last said that there is nothing new, so that a gap does not begin with the last change."""
        self._say_overflow()
        if stale or self._last_message > self._committed:
            self._intake.append(Columns(), self._state(stale=stale))

    # -- subscription

    async def _subscribe(
        self, subscription: Subscription, handles: Sequence[int], rows: Columns, before: State
    ) -> None:
        items = [self._monitored(handle) for handle in handles]
        digest = self._digest(items)
        position = before.position
        same = position is not None and (position.server, position.items) == (self._session.started, digest)
        self._position_end = json.dumps([self._session.started, digest]).encode()[1:-1]
        if position is not None and same and position.server:
            self._position = b"%d" % position.subscription
            if before.last_reading is not None:
                self._last_message, self._live = before.last_reading, False
            self._taking_over = True
            taken_over = await subscription.take_over(position, initial=before.stale)
            self._taking_over = False
            self.goes_on = taken_over and self._config.queue_size > 1  # a queue of one does not say what it dropped
        if not subscription.id:
            self._live = True
            said = await subscription.create(items, self._timestamps)
            self._begin_with(subscription, handles, said, rows)

    def _begin_with(
        self, subscription: Subscription, handles: Sequence[int], said: list[ua.StatusCode], rows: Columns
    ) -> None:
        self._position = b"%d" % subscription.id
        for handle, status in zip(handles, said, strict=True):
            if not status.is_good():
                self._refuse(rows, handle, status.value, status.name)

    def _digest(self, items: list[ua.MonitoredItemCreateRequest]) -> str:
        """What is subscribed to, in few letters: a handle means the same node as long as they are the same."""
        said = [[str(self._timestamps)]]
        for item in items:
            asked = item.RequestedParameters
            node = item.ItemToMonitor.NodeId.to_string()
            said.append([node, str(asked.ClientHandle), str(asked.SamplingInterval), str(asked.QueueSize)])
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]

    def _monitored(self, handle: int) -> ua.MonitoredItemCreateRequest:
        config = self._config
        sampling = self._interval(handle)
        if sampling is None:
            sampling = config.sampling_interval
        return ua.MonitoredItemCreateRequest(
            ItemToMonitor=ua.ReadValueId(NodeId=self._id(handle), AttributeId=AttributeIds.Value),
            MonitoringMode=ua.MonitoringMode.Reporting,
            RequestedParameters=ua.MonitoringParameters(
                ClientHandle=ua.IntegerId(handle),
                SamplingInterval=-1.0 if sampling is None else sampling * 1000,
                QueueSize=ua.Counter(config.queue_size),
                DiscardOldest=True,
            ),
        )

    async def take(self, data: bytes, message: Notification) -> "asyncio.Future[None]":
        """Append the values of a message of the subscription."""
        self._live |= not self._taking_over
        since = self._last_message
        rows, overflowed = self._decoded(data, message)
        if self._types.types.missing and await self._types.learn_missing():
            rows, overflowed = self._decoded(data, message)
        future = self._append(rows)
        if overflowed:
            if not self._overflowed:
                self._overflow_from = since
            self._overflowed.update(dict.fromkeys(overflowed))
            self._overflow_to = self._last_message
        if self._overflowed and self._overflow_to - self._overflow_said >= _OVERFLOW_EVERY:
            self._say_overflow()
        return future

    def _say_overflow(self) -> None:
        """Record what overflowed since the last time: when the server has too much to say, each message overflowed."""
        if self._overflowed:
            start, end = self._overflow_from, self._overflow_to
            self._intake.gap(list(self._overflowed), start, end, "the queue in the server overflowed")
            self._overflowed.clear()
            self._overflow_said = end

    def _decoded(self, data: bytes, message: Notification) -> tuple[Columns, list[int]]:
        rows, overflowed = Columns(), []
        for kind, start, end in message.parts:
            if kind == DATA_CHANGE:
                overflowed += self._decoder.data_change(data[start:end], rows)
        return rows, overflowed

    def lost(self, reason: str) -> None:
        """Messages of the subscription will never come."""
        self._intake.gap(self.tags, self._last_message, microseconds_now(), reason)

    def quiet(self) -> None:
        """Nothing has changed until now; what a subscription says that was taken over counts from its first values on."""
        self._say_overflow()
        if self._live:
            self._last_message = microseconds_now()

    # -- polling

    def _requests(self, handles: list[int]) -> list[_Poll]:
        """What is read in one poll, in as many requests as the server's limit makes."""
        return [
            _Poll(
                struct_to_binary(
                    ua.ReadParameters(
                        TimestampsToReturn=self._timestamps,
                        NodesToRead=[
                            ua.ReadValueId(NodeId=self._id(at), AttributeId=AttributeIds.Value) for at in part
                        ],
                    )
                ),
                np.array(part, np.int64),
            )
            for part in batches(handles, self._session.max_nodes_per_read)
        ]

    async def _poll(self, interval: float, requests: list[_Poll]) -> None:
        clock = asyncio.get_running_loop().time
        due = clock()
        while True:
            rows = Columns()
            for request in requests:
                rows.extend(await self._read(request))
            self._pending.append(self._append(rows))
            before = microseconds_now()
            await self._settle()
            if microseconds_now() - before > interval * 1e6:
                tags = [self._items[handle].tag for request in requests for handle in request.handles.tolist()]
                self._intake.gap(tags, before, microseconds_now(), "the journal was full")
            due += interval
            late = clock() - due
            if late > 0:  # cycles that the server was too slow for are left out
                due += math.ceil(late / interval) * interval
            await asyncio.sleep(due - clock())

    async def _settle(self) -> None:
        """Wait while too much is on the way to the disk."""
        while self._pending and (self._pending[0].done() or len(self._pending) > _IN_FLIGHT):
            await self._pending.popleft()

    async def _read(self, request: _Poll) -> Columns:
        data, pos = await self._session.read(request.parameters)
        self._heard = time.monotonic()
        rows = Columns()
        self._decoder.read_results(data, pos, request.handles, rows)
        if self._types.types.missing and await self._types.learn_missing():
            rows = Columns()
            self._decoder.read_results(data, pos, request.handles, rows)
        return rows

    # -- health

    async def _keep_alive(self) -> None:
        """Have the connection prove itself whenever nothing was heard for a while; it is dead after twice that."""
        pause = self._config.keep_alive_interval
        while True:
            heard = self._heard if self._subscription is None else max(self._heard, self._subscription.heard)
            rest = heard + pause - time.monotonic()
            if rest > 0:
                await asyncio.sleep(rest)
            else:
                await self._session.prove(min(pause, self._config.timeout))
                self._heard = time.monotonic()

    async def _publish(self, subscription: Subscription) -> None:
        """Take what the subscription says; one that falls silent while the server answers is replaced."""
        while True:
            run = asyncio.ensure_future(subscription.run())
            try:
                silent = await self._until_silent(subscription, run)
            finally:
                run.cancel()
                await asyncio.gather(run, return_exceptions=True)
            if subscription.created and not subscription.has_spoken:
                msg = f"the subscription has been silent for {silent:.1f} s"
                raise ConnectionError(msg)
            await self._session.prove(min(self._config.keep_alive_interval, self._config.timeout))
            _log.warning("source %s: the server answers, but its subscription is silent", self._config.name)
            handles = [at for at, described in enumerate(self._described) if described.variable.id is not None]
            rows = Columns()
            said = await subscription.renew([self._monitored(handle) for handle in handles], self._timestamps)
            self._intake.gap(self.tags, self._last_message, microseconds_now(), "the subscription was silent")
            self._live = True
            self._begin_with(subscription, handles, said, rows)
            self._append(rows)

    async def _until_silent(self, subscription: Subscription, run: "asyncio.Future[None]") -> float:
        """Wait until the subscription has said nothing for twice the time in which the server owes it a word."""
        limit = 2 * subscription.keep_alive
        while (silent := subscription.silent()) < limit:
            await asyncio.wait({run}, timeout=limit - silent)
            if run.done():
                run.result()
        return silent
