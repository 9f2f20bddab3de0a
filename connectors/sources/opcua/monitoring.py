"""The items of a source's subscriptions: those that a server takes, refuses, revises, and loses."""

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Sequence

from asyncua import ua

from connectors.sources.opcua import services
from connectors.sources.opcua.connection import Connection
from connectors.sources.opcua.events import MODEL_HANDLE, Events
from connectors.sources.opcua.items import FILTER_REFUSED, digest, has_no_range, monitored, revisions
from connectors.sources.opcua.publishing import Placed, Publishing
from normalization.reading import Columns

_log = logging.getLogger(__name__)

_FIRST_RETRY, _LAST_RETRY = 5.0, 300.0  # seconds between attempts for nodes that the server did not take


class Monitoring:
    """The items of one session.

    Args:
        connection: The connection.
        publishing: Its subscriptions.
        events: Its events.
        refuse: Appends a reading for a node that cannot be read: rows, handle, status and reason.

    Attributes:
        revised: What the server does otherwise than it was asked, in words.
        refresh: Set when the server's conditions are to be asked for.
    """

    def __init__(
        self,
        connection: Connection,
        publishing: Publishing,
        events: Events,
        refuse: Callable[[Columns, int, int, str], None],
    ) -> None:
        self._config = connection.config
        self._session = connection.session
        self._described = connection.described
        self._timestamps = connection.timestamps
        self._publishing = publishing
        self._events = events
        self._refuse = refuse
        self._refused: set[int] = set()  # handles of nodes that the server did not take
        self._places: dict[int, tuple[int, int]] = {}  # subscription and item, by handle, as far as they are known
        self._changing = asyncio.Lock()  # one change of the items at a time
        self.revised = ""
        self.refresh = asyncio.Event()

    def _items(self, handles: Iterable[int], *, filtered: bool = True) -> list[ua.MonitoredItemCreateRequest]:
        return [monitored(self._config, self._described[at], at, filtered=filtered) for at in handles]

    def _addresses(self, handles: Sequence[int]) -> str:
        return ", ".join(self._described[handle].variable.address for handle in handles[:5])

    def digest(self, handles: Sequence[int]) -> str:
        """What is subscribed to, in few letters."""
        return digest(self._timestamps, [*self._items(handles), *self._events.items()])

    def queues_tell(self, handles: Sequence[int]) -> bool:
        """Whether the server says of each node when it had to drop values: a queue of one does not."""
        return all(item.RequestedParameters.QueueSize > 1 for item in self._items(handles))

    async def create(self, handles: Sequence[int], rows: Columns) -> None:
        """Create the items of nodes; report what the server makes of them.

        Args:
            handles: The nodes.
            rows: Gets the nodes that it did not take.
        """
        without_range = [handle for handle in handles if has_no_range(self._config, self._described[handle])]
        if without_range:
            _log.warning(
                "source %s: a deadband in percent needs a range (EURange), which %d nodes do not state; all their changes are "
                "read: %s", self._config.name, len(without_range), self._addresses(without_range),
            )  # fmt: skip
        items = self._items(handles)
        placed = await self._publishing.add(items, self._timestamps)
        again = _filter_refused(placed)
        if again:
            nodes = [handles[at] for at in again]
            _log.warning(
                "source %s: the server filters no changes of %d nodes, all are read: %s: %s",
                self._config.name, len(again), self._addresses(nodes), placed[again[0]][1].StatusCode.name,
            )  # fmt: skip
            unfiltered = await self._publishing.add(self._items(nodes, filtered=False), self._timestamps)
            for at, result in zip(again, unfiltered, strict=True):
                placed[at] = result
        interval = next(iter(self._publishing.subscriptions.values())).publishing_interval
        self.revised = revisions(items, [result for _, result in placed], interval)
        if self.revised:
            _log.info("source %s: %s", self._config.name, self.revised)
        self._created(handles, placed, rows)

    def _created(self, handles: Sequence[int], placed: Sequence[Placed], rows: Columns | None) -> None:
        """Keep what the server says to new items; `rows` gets the nodes that it did not take."""
        for handle, (subscription, result) in zip(handles, placed, strict=True):
            if result.StatusCode.is_good():
                self._places[handle] = subscription, result.MonitoredItemId
                self._refused.discard(handle)
            elif rows is not None:
                self._refuse(rows, handle, result.StatusCode.value, result.StatusCode.name)
                self._refused.add(handle)

    async def create_events(self, of: Collection[int] | None = None) -> None:
        """Create the items of events, all or those with these handles, and have the conditions said."""

        def wanted(*, filtered: bool) -> list[ua.MonitoredItemCreateRequest]:
            items = self._events.items(filtered=filtered)
            return [item for item in items if of is None or item.RequestedParameters.ClientHandle in of]

        items = wanted(filtered=True)
        placed = await self._publishing.add(items, self._timestamps)
        refused = _filter_refused(placed)
        if refused:  # severity is looked at here, too; types are not
            unfiltered = wanted(filtered=False)
            again = await self._publishing.add([unfiltered[at] for at in refused], self._timestamps)
            for at, result in zip(refused, again, strict=True):
                placed[at] = result
        self._created([item.RequestedParameters.ClientHandle for item in items], placed, None)
        for at, (item, (_, said)) in enumerate(zip(items, placed, strict=True)):
            entry = self._events.entry(item.RequestedParameters.ClientHandle)
            if entry is None:
                continue
            if not said.StatusCode.is_good():
                _log.warning("source %s: no events of %s: %s", self._config.name, entry.node, said.StatusCode.name)
            elif at in refused:
                _log.warning("source %s: the server does not filter the events of %s", self._config.name, entry.node)
        if items:
            self.refresh.set()

    async def taken_over(self, handles: Sequence[int], *, stale: bool) -> None:
        """The subscriptions were taken over, with their items: learn where they are, and which are not there."""
        if stale:
            self.refresh.set()
        places: dict[int, tuple[int, int]] = {}
        for subscription in self._publishing.subscriptions:
            there = await services.items_of(self._session, subscription)
            if there is None:
                return
            places.update((handle, (subscription, item)) for handle, item in there.items())
        self._places = places
        self._refused = set(handles).difference(places)

    def handles_in(self, subscriptions: Collection[int]) -> set[int] | None:
        """The handles of the items in these subscriptions; None for all, also where nobody knows."""
        if not self._places or self._publishing.subscriptions.keys() <= set(subscriptions):
            return None
        return {handle for handle, (place, _) in self._places.items() if place in subscriptions}

    async def replace(self, silent: Sequence[int], handles: Sequence[int], rows: Columns) -> None:
        """Create subscriptions in the place of some that are silent.

        Args:
            silent: Ids of those.
            handles: The nodes that are read.
            rows: Gets the nodes that the server did not take.
        """
        async with self._changing:
            await self._replace(silent, handles, rows)

    async def _replace(self, silent: Sequence[int], handles: Sequence[int], rows: Columns) -> None:
        lost, revised = self.handles_in(silent), self.revised
        given_up = list(silent if lost is not None else self._publishing.subscriptions)
        self._publishing.abandon(given_up)
        if lost is None:
            self._refused, self._places = set(), {}
            await self.create(handles, rows)
        else:
            await self._publishing.delete(given_up)
            self._places = {handle: place for handle, place in self._places.items() if handle not in lost}
            await self.create([handle for handle in handles if handle in lost], rows)
            self.revised = revised
        await self.create_events(lost)
        if lost is None:  # not before: without a subscription our requests are refused
            await self._publishing.delete(given_up)

    async def adapt(self, gone: Iterable[int], here: Sequence[int], rows: Columns) -> None:
        """Have the subscriptions say what came, and no longer what went; `rows` gets the nodes that the server did not take."""
        async with self._changing:
            await self._adapt(gone, here, rows)

    async def _adapt(self, gone: Iterable[int], here: Sequence[int], rows: Columns) -> None:
        ids: dict[int, list[int]] = {}
        for handle in gone:
            if (place := self._places.pop(handle, None)) is not None:
                ids.setdefault(place[0], []).append(place[1])
        for subscription, items in ids.items():
            await services.remove_items(self._session, subscription, items)
        self._refused.difference_update(gone)
        self._created(here, await self._publishing.add(self._items(here), self._timestamps), rows)

    async def retry(self) -> None:
        """Ask again, less and less often, for the nodes that the server did not take."""
        pause = _FIRST_RETRY
        while True:
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LAST_RETRY)
            handles = sorted(self._refused)
            if not handles:
                continue
            async with self._changing:
                self._created(handles, await self._publishing.add(self._items(handles), self._timestamps), None)
            there = [handle for handle in handles if handle not in self._refused]
            if there:
                _log.info("source %s: %d nodes are there: %s", self._config.name, len(there), self._addresses(there))

    async def refresh_conditions(self) -> None:
        """Ask for the server's conditions whenever that is due."""
        while True:
            await self.refresh.wait()
            self.refresh.clear()
            known = {subscription for handle, (subscription, _) in self._places.items() if handle >= MODEL_HANDLE}
            for subscription in sorted(known or self._publishing.subscriptions):
                await self._events.refresh(subscription)


def _filter_refused(placed: Sequence[Placed]) -> list[int]:
    return [at for at, (_, result) in enumerate(placed) if result.StatusCode.value in FILTER_REFUSED]
