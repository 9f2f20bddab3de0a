"""The items of a subscription: those that a server takes, refuses, revises, and loses."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence

from asyncua import ua

from connectors.sources.opcua.config import OpcUaConfig
from connectors.sources.opcua.events import Events
from connectors.sources.opcua.items import FILTER_REFUSED, digest, has_no_range, monitored, revisions
from connectors.sources.opcua.nodes import Described
from connectors.sources.opcua.subscription import Subscription
from normalization.reading import Columns

_log = logging.getLogger(__name__)

_FIRST_RETRY, _LAST_RETRY = 5.0, 300.0  # seconds between attempts for nodes that the server did not take


class Monitoring:
    """The items of one subscription.

    Args:
        config: The source.
        subscription: The subscription.
        described: The nodes, by client handle; it may grow.
        events: Its events.
        timestamps: Which times are asked for.
        refuse: Appends a reading for a node that cannot be read: rows, handle, status and reason.

    Attributes:
        revised: What the server does otherwise than it was asked, in words.
        refresh: Set when the server's conditions are to be asked for.
    """

    def __init__(
        self,
        config: OpcUaConfig,
        subscription: Subscription,
        described: Sequence[Described],
        events: Events,
        timestamps: ua.TimestampsToReturn,
        refuse: Callable[[Columns, int, int, str], None],
    ) -> None:
        self._config = config
        self._subscription = subscription
        self._described = described
        self._events = events
        self._timestamps = timestamps
        self._refuse = refuse
        self._refused: set[int] = set()  # handles of nodes that the server did not take
        self._ids: dict[int, int] = {}  # ids of the server's items, by handle, as far as they are known
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

    async def create(self, handles: Sequence[int], rows: Columns, *, anew: bool = False) -> None:
        """Create the subscription with its items; report what the server makes of them.

        Args:
            handles: The nodes.
            rows: Gets the nodes that it did not take.
            anew: Another subscription in the place of one that is there.
        """
        without_range = [handle for handle in handles if has_no_range(self._config, self._described[handle])]
        if without_range:
            _log.warning(
                "source %s: a deadband in percent needs a range (EURange), which %d nodes do not state; all their changes are "
                "read: %s", self._config.name, len(without_range), self._addresses(without_range),
            )  # fmt: skip
        items = self._items(handles)
        begin = self._subscription.renew if anew else self._subscription.create
        results = await begin(items, self._timestamps)
        again = [at for at, result in enumerate(results) if result.StatusCode.value in FILTER_REFUSED]
        if again:
            nodes = [handles[at] for at in again]
            _log.warning(
                "source %s: the server filters no changes of %d nodes, all are read: %s: %s",
                self._config.name, len(again), self._addresses(nodes), results[again[0]].StatusCode.name,
            )  # fmt: skip
            unfiltered = await self._subscription.add(self._items(nodes, filtered=False), self._timestamps)
            for at, result in zip(again, unfiltered, strict=True):
                results[at] = result
        self.revised = revisions(items, results, self._subscription.publishing_interval)
        if self.revised:
            _log.info("source %s: %s", self._config.name, self.revised)
        await self._create_events()
        self._refused, self._ids = set(), {}
        self._created(handles, results, rows)

    def _created(
        self, handles: Sequence[int], results: Sequence[ua.MonitoredItemCreateResult], rows: Columns | None
    ) -> None:
        """Keep what the server says to new items; `rows` gets the nodes that it did not take."""
        for handle, result in zip(handles, results, strict=True):
            if result.StatusCode.is_good():
                self._ids[handle] = result.MonitoredItemId
                self._refused.discard(handle)
            elif rows is not None:
                self._refuse(rows, handle, result.StatusCode.value, result.StatusCode.name)
                self._refused.add(handle)

    async def _create_events(self) -> None:
        items = self._events.items()
        results = await self._subscription.add(items, self._timestamps)
        refused = [at for at, result in enumerate(results) if result.StatusCode.value in FILTER_REFUSED]
        if refused:  # severity is looked at here, too; types are not
            unfiltered = self._events.items(filtered=False)
            again = await self._subscription.add([unfiltered[at] for at in refused], self._timestamps)
            for at, result in zip(refused, again, strict=True):
                results[at] = result
        for at, (entry, result) in enumerate(zip(self._config.events, results, strict=False)):
            if not result.StatusCode.is_good():
                _log.warning("source %s: no events of %s: %s", self._config.name, entry.node, result.StatusCode.name)
            elif at in refused:
                _log.warning("source %s: the server does not filter the events of %s", self._config.name, entry.node)
        self.refresh.set()

    async def taken_over(self, handles: Sequence[int], *, stale: bool) -> None:
        """The subscription was taken over, with its items: learn which of them are not there."""
        if stale:
            self.refresh.set()
        self._refused = set(await self._subscription.not_monitored(handles))

    async def adapt(self, gone: Iterable[int], here: Sequence[int], rows: Columns) -> None:
        """Have the subscription say what came, and no longer what went; `rows` gets the nodes that the server did not take."""
        ids = [item for handle in gone if (item := self._ids.pop(handle, None)) is not None]
        if ids:
            await self._subscription.remove(ids)
        self._refused.difference_update(gone)
        self._created(here, await self._subscription.add(self._items(here), self._timestamps), rows)

    async def retry(self) -> None:
        """Ask again, less and less often, for the nodes that the server did not take."""
        pause = _FIRST_RETRY
        while True:
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LAST_RETRY)
            handles = sorted(self._refused)
            if not handles:
                continue
            self._created(handles, await self._subscription.add(self._items(handles), self._timestamps), None)
            there = [handle for handle in handles if handle not in self._refused]
            if there:
                _log.info("source %s: %d nodes are there: %s", self._config.name, len(there), self._addresses(there))

    async def refresh_conditions(self) -> None:
        """Ask for the server's conditions whenever that is due."""
        while True:
            await self.refresh.wait()
            self.refresh.clear()
            await self._events.refresh(self._subscription.id)
