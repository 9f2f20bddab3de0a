"""Polling: the same ReadRequests again and again, each group of nodes at its own pace."""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from asyncua import ua
from asyncua.ua.attribute_ids import AttributeIds
from asyncua.ua.ua_binary import struct_to_binary
from asyncua.ua.uaerrors import UaStatusCodeError

from connectors.sources.opcua.connection import Connection
from connectors.sources.opcua.limits import TOO_MUCH
from connectors.sources.opcua.session import batches
from connectors.sources.opcua.state import microseconds_now
from normalization.reading import Columns

_IN_FLIGHT: Final = 16  # polls that are not on disk yet, before we wait for them


@dataclass(frozen=True, slots=True)
class _Request:
    """A ReadRequest that is sent again and again.

    Attributes:
        parameters: What it asks for, encoded.
        handles: The nodes that it asks for.
    """

    parameters: bytes
    handles: np.ndarray


class Polling:
    """The polls of one connection.

    Args:
        connection: The connection.
        append: Gets the readings.

    Attributes:
        heard: When the server last answered, by the monotonic clock.
    """

    def __init__(self, connection: Connection, append: Callable[[Columns], "asyncio.Future[None]"]) -> None:
        self._connection = connection
        self._append = append
        self._pending: deque[asyncio.Future[None]] = deque()
        self.heard = time.monotonic()
        self._tasks: asyncio.TaskGroup | None = None

    async def run(self, handles: Sequence[int]) -> None:
        """Poll these nodes until something fails."""
        groups: dict[float, list[int]] = {}
        for handle in handles:
            node = self._connection.described[handle].variable.config
            own = node.interval if node is not None else None
            groups.setdefault(own or self._connection.config.polling_interval, []).append(handle)
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            for interval in sorted(groups):
                tasks.create_task(self._poll(interval, groups[interval]))
            await asyncio.Future()  # further nodes may join

    def join(self, handles: Sequence[int]) -> None:
        """Poll these nodes, too."""
        if self._tasks is not None:
            self._tasks.create_task(self._poll(self._connection.config.polling_interval, handles))

    def _requests(self, handles: Sequence[int]) -> list[_Request]:
        """What is read in one poll, in as many requests as the server's limit makes."""
        asked = [
            ua.ReadValueId(NodeId=self._connection.described[at].variable.id, AttributeId=AttributeIds.Value)
            for at in handles
        ]
        size = self._connection.session.limits.size("read")
        return [
            _Request(
                struct_to_binary(
                    ua.ReadParameters(TimestampsToReturn=self._connection.timestamps, NodesToRead=list(part))
                ),
                np.array(places, np.int64),
            )
            for part, places in zip(batches(asked, size), batches(handles, size), strict=True)
        ]

    async def _poll(self, interval: float, handles: Sequence[int]) -> None:
        clock = asyncio.get_running_loop().time
        requests = self._requests(handles)
        due = clock()
        while True:
            rows = Columns()
            try:
                for request in requests:
                    rows.extend(await self._read(request))
            except UaStatusCodeError as error:
                size = max(len(request.handles) for request in requests)
                if error.code not in TOO_MUCH or size == 1:
                    raise
                self._connection.session.limits.learn("read", size // 2)
                requests = self._requests(handles)
                continue
            self._pending.append(self._append(rows))
            before = microseconds_now()
            await self._settle()
            if microseconds_now() - before > interval * 1e6:
                tags = [self._connection.decoder.items[handle].tag for handle in handles]
                self._connection.intake.gap(tags, before, microseconds_now(), "the journal was full")
            due += interval
            late = clock() - due
            if late > 0:  # cycles that the server was too slow for are left out
                due += math.ceil(late / interval) * interval
            await asyncio.sleep(due - clock())

    async def _settle(self) -> None:
        """Wait while too much is on the way to the disk."""
        while self._pending and (self._pending[0].done() or len(self._pending) > _IN_FLIGHT):
            await self._pending.popleft()

    async def _read(self, request: _Request) -> Columns:
        data, pos = await self._connection.session.read(request.parameters)
        self.heard = time.monotonic()
        rows = Columns()
        self._connection.decoder.read_results(data, pos, request.handles, rows)
        if self._connection.types.types.missing and await self._connection.types.learn_missing():
            rows = Columns()
            self._connection.decoder.read_results(data, pos, request.handles, rows)
        return rows
