"""What an OPC UA source does with one connection: takes notifications or polls until something fails."""

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Sequence
from functools import partial
from typing import Final

from asyncua.ua.uaerrors import UaError

from connectors.contract import SourceState
from connectors.sources.opcua.connection import Connection
from connectors.sources.opcua.events import EVENTS, MODEL_HANDLE, Events
from connectors.sources.opcua.history import History
from connectors.sources.opcua.missing import OVERFLOWED, Missing
from connectors.sources.opcua.monitoring import Monitoring
from connectors.sources.opcua.nodes import BAD_NODE_ID_UNKNOWN, describe, variables
from connectors.sources.opcua.notification import DATA_CHANGE, Notification
from connectors.sources.opcua.polling import Polling
from connectors.sources.opcua.publishing import Publishing
from connectors.sources.opcua.state import State, microseconds_now
from connectors.sources.opcua.subscription import Subscription
from connectors.sources.opcua.watchdog import Watchdog
from normalization.quality import opcua_quality
from normalization.reading import Columns

_log = logging.getLogger(__name__)

_OVERFLOW_EVERY: Final = 1_000_000  # µs between records of what overflowed
_CLOCK_EVERY: Final = 60.0  # seconds between looks at the server's clock
_NOWHERE: Final = b'"",""'  # as a position: it is not gone on from there
_SETTLE: Final = 0.5  # seconds from a change of the model to a look at it: a change rarely comes alone


class Run:
    """What one connection does.

    Args:
        connection: The connection.
        event_tags: Tags of the events that came in connections before; what comes in this one is added.

    Attributes:
        goes_on: It took over the subscription of the connection before, and nothing is missing in between.
    """

    def __init__(self, connection: Connection, event_tags: set[int]) -> None:
        self._connection = connection
        self._config = config = connection.config
        self._session = connection.session
        self._intake = connection.intake
        self._missing = Missing(connection)
        self._history = History(connection, self._missing)
        self._answered = self._committed = microseconds_now()
        self._overflowed: dict[int, None] = {}  # tags whose overflow is not recorded yet
        self._overflow_from = self._overflow_to = self._overflow_said = 0
        self._heard = time.monotonic()
        self._polling = Polling(connection, self._append)
        self._usable: list[int] = []  # handles of the nodes that are there
        self._gone: set[int] = set()  # handles of nodes that were browsed and are not there any more
        self._model_changed = asyncio.Event()
        self._events = Events(connection, event_tags)
        self._has_events = bool(config.events) or config.browsing is not None
        publishing = Publishing(connection.session, self)
        self._monitoring = Monitoring(connection, publishing, self._events, self._refuse)
        self._watchdog = Watchdog(connection, self._append, self._create_anew, self._lost)
        self._publishing = publishing if config.mode == "subscription" else None
        self._position_texts = _NOWHERE  # the server's start and what is subscribed to, in JSON
        self._replaced_since: int | None = (
            None  # while subscriptions are replaced: until when nothing of them is missing
        )
        self.goes_on = False

    @property
    def summary(self) -> str:
        """What is read, and what the server does otherwise than it was asked."""
        of = f" of {self._session.endpoint}" if self._config.endpoints else ""
        nodes = f"{len(self._usable) - len(self._gone)} nodes{of}"
        return f"{nodes}; {self._monitoring.revised}" if self._monitoring.revised else nodes

    def handles(self) -> dict[str, int]:
        """Client handles by address."""
        return {described.variable.address: handle for handle, described in enumerate(self._connection.described)}

    def will_be_handed_over(self, *, session_was_open: bool) -> bool:
        """Whether the server can be expected to hand the subscriptions over to the next session.

        Args:
            session_was_open: The session before this one was not closed when its subscriptions were asked for.
        """
        publishing = self._publishing
        if publishing is None:
            return False
        return not (publishing.cannot_be_taken_over or (publishing.denied and session_was_open))

    async def begin(self, before: State) -> None:
        """Take over the subscriptions or create them, or group the polls; report the nodes that cannot be read."""
        await self._missing.prepare()
        if self._config.events:
            await self._events.learn()
        rows = Columns()
        usable: list[int] = []
        for handle, described in enumerate(self._connection.described):
            if described.variable.id is None:
                self._refuse(rows, handle, BAD_NODE_ID_UNKNOWN, described.variable.absent)
            else:
                usable.append(handle)
        self._usable = usable
        if self._publishing is not None:
            await self._subscribe(self._publishing, usable, rows, before)
        if len(rows):
            self._append(rows)

    def missed(self, before: State) -> None:
        """Record a gap since the last reading of a connection before, as far as the server's history will not fill it."""
        start, now = before.last_reading or 0, microseconds_now()
        without_history = self._missing.missed(start, now) + sorted(self._events.tags)
        if without_history:
            self._intake.gap(without_history, start, now, "not connected")
        started = self._session.started_at
        known = before.position is not None and before.position.server
        again = before.position.server != self._session.started if before.position and known else started > start
        filled = set(self._connection.tags).difference(without_history)
        if again and started and filled:
            self._intake.gap(sorted(filled), start, max(start, min(started, now)), "the server was started again")

    async def until_failure(self) -> None:
        """Read until the connection fails."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._keep_alive())
                tasks.create_task(self._history.run())
                tasks.create_task(self._watch_clock())
                if self._config.browsing is not None:
                    tasks.create_task(self._watch_model(self._config.browsing.rebrowse_interval))
                if self._publishing is None:
                    tasks.create_task(self._polling.run(self._usable))
                else:
                    tasks.create_task(self._publish(self._publishing))
                    tasks.create_task(self._monitoring.retry())
                    tasks.create_task(self._monitoring.refresh_conditions())
                    if self._watchdog.is_needed:
                        tasks.create_task(self._watchdog.run(self._usable, self._publishing))
        except ExceptionGroup as group:
            error: Exception = group
            while isinstance(error, ExceptionGroup):
                error = error.exceptions[0]
            raise error from None

    def _refuse(self, rows: Columns, handle: int, status: int, reason: str) -> None:
        _log.warning(
            "source %s: node %s: %s", self._config.name, self._connection.described[handle].variable.address, reason
        )
        rows.add(self._connection.tags[handle], None, quality=opcua_quality(status), status=status)

    def _last_message(self) -> int:
        """Until when nothing is missing, µs since the epoch."""
        subscriptions = self._publishing.subscriptions.values() if self._publishing is not None else ()
        known = min((subscription.up_to for subscription in subscriptions), default=self._answered)
        return known if self._replaced_since is None else min(known, self._replaced_since)

    def _append(self, rows: Columns) -> "asyncio.Future[None]":
        self._answered = microseconds_now()
        since, self._committed = self._committed, self._last_message()
        future = self._intake.append(rows, self._state())
        if seen := self._missing.seen():
            future.add_done_callback(partial(self._missing.journalled, seen, since))
        return future

    def _state(self, *, stale: bool = False) -> bytes:
        end = b',"stale":true}' if stale else b"}"
        last = self._last_message()
        if self._publishing is None or not self._publishing.subscriptions:
            return b'{"last_reading":%d%b' % (last, end)
        places = [b"%d,%d" % (one.id, one.sequence) for one in self._publishing.subscriptions.values()]
        texts = (
            self._position_texts if self._replaced_since is None else _NOWHERE
        )  # nobody is to go on with some of them
        position = b",".join([places[0], texts, *places[1:]])
        return b'{"last_reading":%d,"subscription":[%b]%b' % (last, position, end)

    def remember(self, *, stale: bool) -> None:
        """Commit when the server last said that there is nothing new, so that a gap does not begin with the last change."""
        self._say_overflow()
        self._missing.stop()
        if stale or self._last_message() > self._committed:
            self._intake.append(Columns(), self._state(stale=stale))

    # -- subscription

    async def _subscribe(self, publishing: Publishing, handles: Sequence[int], rows: Columns, before: State) -> None:
        monitoring = self._monitoring
        of_items = monitoring.digest(handles)
        position = before.position
        same = position is not None and (position.server, position.items) == (self._session.started, of_items)
        self._position_texts = self._texts_of_position(of_items)
        if position is not None and same and position.server:
            taken_over = await publishing.take_over(position, initial=before.stale, up_to=before.last_reading)
            self.goes_on = taken_over and monitoring.queues_tell(handles)
        if not publishing.subscriptions:
            await monitoring.create(handles, rows)
            await monitoring.create_events()
        else:
            await monitoring.taken_over(handles, stale=before.stale)

    async def take(self, data: bytes, message: Notification, since: int) -> "asyncio.Future[None]":
        """Append the values of a message of a subscription."""
        rows, overflowed = self._decoded(data, message)
        if self._connection.types.types.missing and await self._connection.types.learn_missing():
            rows, overflowed = self._decoded(data, message)
        if self._has_events:
            overflowed += await self._take_events(data, message, rows)
        future = self._append(rows)
        if overflowed:
            if not self._overflowed:
                self._overflow_from = since
            self._overflowed.update(dict.fromkeys(overflowed))
            self._overflow_to = microseconds_now()
            self._connection.counts["queue that overflowed in the server"] += len(overflowed)
        if self._overflowed and self._overflow_to - self._overflow_said >= _OVERFLOW_EVERY:
            self._say_overflow()
        return future

    def _say_overflow(self) -> None:
        """Record what overflowed since the last time: when the server has too much to say, each message overflowed."""
        if self._overflowed:
            start, end = self._overflow_from, self._overflow_to
            self._intake.gap(list(self._overflowed), start, end, OVERFLOWED)
            self._overflowed.clear()
            self._overflow_said = end

    def _decoded(self, data: bytes, message: Notification) -> tuple[Columns, list[int]]:
        rows, overflowed = Columns(), []
        for kind, start, end in message.parts:
            if kind == DATA_CHANGE:
                overflowed += self._connection.decoder.data_change(data[start:end], rows)
        return rows, overflowed

    async def _take_events(self, data: bytes, message: Notification, rows: Columns) -> list[int]:
        """Append the events of a message; returns the tags of events that were lost in the server."""
        lost: list[int] = []
        for kind, start, end in message.parts:
            if kind == EVENTS:
                told = await self._events.take(data[start:end], rows)
                if told.model:
                    self._model_changed.set()
                if told.refresh:
                    self._monitoring.refresh.set()
                if told.overflow:
                    lost = sorted(self._events.tags)
        return lost

    def lost(self, subscription: int, since: int, reason: str) -> None:
        """Messages of a subscription will never come."""
        self._connection.counts["notifications that did not come"] += 1
        self._lost(self._monitoring.handles_in([subscription]), since, reason)

    def _lost(self, handles: set[int] | None, since: int, reason: str) -> None:
        """What items with these handles had to say since then will never come; None for all items."""
        nodes = [at for at in range(len(self._connection.tags)) if handles is None or at in handles]
        now = microseconds_now()
        tags = self._missing.lost(nodes, since, now, reason)
        if handles is None or max(handles, default=0) >= MODEL_HANDLE:
            tags += sorted(self._events.tags)
        if tags:
            self._intake.gap(tags, since, now, reason)
        self._append(Columns())  # what came before is in the journal with it

    def quiet(self) -> None:
        """Nothing has changed until now."""
        self._say_overflow()
        self._missing.keep_overflowed()

    async def _create_anew(self, handles: Sequence[int]) -> None:
        """Have the server report some nodes by new items."""
        rows = Columns()
        await self._monitoring.adapt(handles, handles, rows)
        if len(rows):
            self._append(rows)

    # -- nodes that come and go

    async def _watch_model(self, interval: float | None) -> None:
        """Browse again when the server says that its model has changed, and every so often."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(interval):
                    await self._model_changed.wait()
            await asyncio.sleep(_SETTLE)
            self._model_changed.clear()
            await self._look_again()

    async def _look_again(self) -> None:
        found = {v.address: v for v in await variables(self._session, self._config) if v.id is not None}
        known = self.handles()
        rows = Columns()
        here: list[int] = []
        for address, handle in known.items():
            variable = self._connection.described[handle].variable
            if address in found and (variable.id is None or handle in self._gone):
                variable.id = found[address].id
                self._gone.discard(handle)
                here.append(handle)
            elif address not in found and variable.config is None and handle not in self._gone:
                self._gone.add(handle)
                self._refuse(rows, handle, BAD_NODE_ID_UNKNOWN, "it is not there any more")
        new = [variable for address, variable in found.items() if address not in known]
        described = await describe(self._session, self._config, new, self._connection.types)
        if described:
            here += range(len(known), len(known) + len(described))
            await self._missing.extend(described)
            self._connection.extend(described)
            _log.info(
                "source %s: %d nodes are new: %s", self._config.name, len(new), ", ".join(v.address for v in new[:5])
            )
        self._usable += [handle for handle in here if handle not in self._usable]
        if not here and not len(rows):
            return
        if self._publishing is None:
            self._polling.join(here)
        else:
            await self._monitoring.adapt(self._gone, here, rows)
            self._position_texts = self._texts_of_position(self._monitoring.digest(self._usable))
        self._append(rows)
        self._intake.state(SourceState.CONNECTED, self.summary)

    def _texts_of_position(self, of_items: str) -> bytes:
        return json.dumps([self._session.started, of_items]).encode()[1:-1]

    # -- health

    async def _keep_alive(self) -> None:
        """Have the connection prove itself whenever nothing was heard for a while; it is dead after twice that."""
        pause = self._config.keep_alive_interval
        while True:
            heard = max(self._heard, self._polling.heard if self._publishing is None else self._publishing.heard)
            rest = heard + pause - time.monotonic()
            if rest > 0:
                await asyncio.sleep(rest)
            else:
                await self._session.prove(min(pause, self._config.timeout))
                self._heard = time.monotonic()

    async def _watch_clock(self) -> None:
        while True:
            with contextlib.suppress(UaError, TimeoutError):  # whether the connection holds is told by others
                await self._session.compare_clocks()
            await asyncio.sleep(_CLOCK_EVERY)

    async def _publish(self, publishing: Publishing) -> None:
        """Take what the subscriptions say; those that fall silent while the server answers are replaced."""
        while True:
            run = asyncio.ensure_future(publishing.run())
            try:
                silent = await self._until_silent(publishing, run)
            finally:
                run.cancel()
                await asyncio.gather(run, return_exceptions=True)
            if any(one.created and not one.has_spoken for one in silent):
                msg = f"the subscription has been silent for {time.monotonic() - silent[0].heard:.1f} s"
                raise ConnectionError(msg)
            await self._session.prove(min(self._config.keep_alive_interval, self._config.timeout))
            ids = [one.id for one in silent]
            _log.warning("source %s: the server answers, but its subscription is silent: %s", self._config.name, ids)
            handles, since = self._monitoring.handles_in(ids), min(one.up_to for one in silent)
            rows = Columns()
            self._replaced_since = since
            await self._monitoring.replace(ids, self._usable, rows)
            self._replaced_since = None
            self._lost(handles, since, "the subscription was silent")
            if len(rows):
                self._append(rows)

    async def _until_silent(self, publishing: Publishing, run: "asyncio.Future[None]") -> list[Subscription]:
        """Wait until some have said nothing for twice the time in which the server owes them a word."""
        while True:
            silence = publishing.silence()
            rest = {one: 2 * one.keep_alive - silence[one.id] for one in publishing.subscriptions.values()}
            if silent := [one for one, left in rest.items() if left <= 0]:
                return silent
            await asyncio.wait({run}, timeout=min(rest.values()))
            if run.done():
                run.result()
