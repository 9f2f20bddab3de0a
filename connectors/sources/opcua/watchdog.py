"""Nodes that the server says nothing of: one that should have changed is looked at, and is stale or was forgotten by the server.

In OPC UA silence means that nothing has changed, and is nothing wrong; a node that must change (a counter, a sign of life) is watched
by its `watchdog`. When that time is over, the node is read. It is STALE if the server has nothing else to say of it. If it has, the
item of the subscription does not do its work: it is created anew, and what it did not say is a gap, filled from history where there
is one.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import numpy as np
from asyncua import ua
from asyncua.ua.attribute_ids import AttributeIds
from asyncua.ua.ua_binary import struct_to_binary
from asyncua.ua.uaerrors import UaStatusCodeError

from connectors.sources.opcua.connection import Connection
from connectors.sources.opcua.decode import ValueDecoder
from connectors.sources.opcua.heard import Heard
from connectors.sources.opcua.items import setting
from connectors.sources.opcua.limits import TOO_MUCH
from connectors.sources.opcua.publishing import Publishing
from connectors.sources.opcua.session import batches
from connectors.sources.opcua.state import microseconds_now
from normalization.reading import Columns, Quality, to_json

_log = logging.getLogger(__name__)

_LOOKS: Final = 8  # looks in the shortest of all times
_OFTENEST: Final = 0.1  # seconds between looks
_BAD: Final = 0x80000000
NOT_REPORTED: Final = "the server did not report changes of the node"


class Watchdog:
    """Watches the nodes of one connection.

    Args:
        connection: The connection.
        append: Gets the readings.
        renew: Has the items of nodes created anew.
        lost: Hears of nodes that the server did not report, since when, and why.
    """

    def __init__(
        self,
        connection: Connection,
        append: Callable[[Columns], "asyncio.Future[None]"],
        renew: Callable[[Sequence[int]], Awaitable[None]],
        lost: Callable[[set[int] | None, int, str], None],
    ) -> None:
        self._connection = connection
        self._append, self._renew, self._lost = append, renew, lost
        self._counts = connection.counts
        self._limits = np.zeros(0)
        self._said: set[int] = set()  # nodes that were called stale
        self._told = False  # that they cannot be read
        self._suspects: dict[int, float] = {}  # nodes whose report may be under way, since when
        self._heard = Heard()
        config = connection.config
        own = (node.watchdog for node in config.nodes)
        if any(wanted for wanted in (config.watchdog, *own)):
            connection.decoder.heard = self._heard
            self._heard.extend(len(connection.described))

    @property
    def is_needed(self) -> bool:
        """Whether any node is watched."""
        return self._connection.decoder.heard is not None

    async def run(self, usable: Sequence[int], publishing: Publishing) -> None:
        """Look at silent nodes, again and again.

        Args:
            usable: Handles of the nodes that are there; more may come.
            publishing: Subscriptions that say what changes.
        """
        while True:
            self._learn_limits()
            watched = self._limits[self._limits < np.inf]
            shortest = float(watched.min()) if len(watched) else 1.0
            await asyncio.sleep(max(_OFTENEST, shortest / _LOOKS))
            subscriptions = publishing.subscriptions.values()
            said_all = min((one.heard for one in subscriptions), default=0.0)  # what is late for all is nobody's fault
            late = np.flatnonzero(said_all - self._heard.at[: len(self._limits)] > self._limits)
            there = set(usable)
            silent = [handle for handle in late.tolist() if handle in there]
            self._said.intersection_update(silent)
            self._suspects = {handle: since for handle, since in self._suspects.items() if handle in silent}
            interval = max((one.publishing_interval for one in subscriptions), default=0.0) / 1000
            for part in batches(silent, self._connection.session.limits.size("read")):
                await self._look_at(part, interval + (self._connection.config.sampling_interval or interval))

    def _learn_limits(self) -> None:
        described = self._connection.described
        new = [setting(self._connection.config, one, "watchdog") or np.inf for one in described[len(self._limits) :]]
        self._limits = np.concatenate([self._limits, new])

    async def _look_at(self, silent: Sequence[int], reporting: float) -> None:
        try:
            said, now = await self._read(silent), time.monotonic()
        except (UaStatusCodeError, TimeoutError) as error:  # whether the connection holds is told by others
            if isinstance(error, UaStatusCodeError) and error.code in TOO_MUCH and len(silent) > 1:
                self._connection.session.limits.learn("read", len(silent) // 2)
            elif not self._told:
                self._told = True
                _log.warning("source %s: silent nodes cannot be read: %r", self._connection.config.name, error)
            return
        stale: list[int] = []
        forgotten: list[int] = []
        for at, handle in enumerate(silent):
            if said.status[at] < 0:
                continue  # what the server says cannot be decoded
            if said.same(at, self._heard, handle):
                stale.append(handle)
            elif said.status[at] == self._heard.status[handle] and self._is_filtered(handle):
                self._heard.take(handle, said, at)  # it changes, by less than is to be reported
            elif now - self._suspects.setdefault(handle, now) > 2 * reporting:
                forgotten.append(handle)
        self._call_stale([handle for handle in stale if handle not in self._said])
        if forgotten:
            await self._create_anew(forgotten)

    def _call_stale(self, handles: Sequence[int]) -> None:
        rows = Columns()
        for handle in handles:
            self._said.add(handle)
            if self._heard.status[handle] & _BAD:
                continue  # that it has no value is known
            self._counts["node that must change and does not"] += 1
            why = to_json({"watchdog": f"no change within {self._limits[handle]:g} s"})
            rows.add(self._connection.tags[handle], None, quality=Quality.STALE, properties=why)
        if len(rows):
            self._append(rows)

    async def _create_anew(self, handles: Sequence[int]) -> None:
        self._counts["item that the server had forgotten"] += len(handles)
        addresses = ", ".join(self._connection.described[handle].variable.address for handle in handles[:5])
        name = self._connection.config.name
        _log.warning("source %s: the server reports no changes of %d nodes: %s", name, len(handles), addresses)
        age = time.monotonic() - float(self._heard.at[list(handles)].min())
        since = microseconds_now() - int(age * 1e6)
        self._lost(set(handles), since, NOT_REPORTED)  # before its end, which is a new report
        await self._renew(handles)
        self._heard.at[list(handles)] = time.monotonic()

    async def _read(self, handles: Sequence[int]) -> Heard:
        """What the server says of nodes, by their places in `handles`."""
        connection = self._connection
        asked = [
            ua.ReadValueId(NodeId=connection.described[at].variable.id, AttributeId=AttributeIds.Value)
            for at in handles
        ]
        parameters = ua.ReadParameters(TimestampsToReturn=connection.timestamps, NodesToRead=asked)
        data, pos = await connection.session.read(struct_to_binary(parameters))
        decoder = ValueDecoder(
            [connection.decoder.items[at] for at in handles],
            connection.types.types,
            server_time=connection.config.timestamps == "server",
        )
        decoder.heard = Heard()
        decoder.heard.extend(len(handles))
        decoder.read_results(data, pos, np.arange(len(handles)), Columns())
        return decoder.heard

    def _is_filtered(self, handle: int) -> bool:
        """Whether the server was told not to report each change of the value."""
        described = self._connection.described[handle]
        config = self._connection.config
        return (
            setting(config, described, "server_deadband") is not None
            or setting(config, described, "trigger") == "status"
        )
