"""HTTP/1.1 as uvicorn speaks it, with bounds on how long and how often somebody may hold a connection.

A connection that has no request under way is the first to go when there are too many: whoever opens them by the dozen and
says nothing keeps nobody out.
"""

import asyncio
from typing import Any, cast

from typing_extensions import override
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from web.access.limits import Limits


def limited(limits: Limits) -> type[H11Protocol]:
    """The protocol with these limits.

    Args:
        limits: What a client may ask for.
    """

    class Limited(H11Protocol):
        """A connection."""

        def __init__(self, *given: Any, **named: Any) -> None:
            super().__init__(*given, **named)
            self._head: asyncio.TimerHandle | None = None
            self._write: asyncio.TimerHandle | None = None
            self.since = self.loop.time()

        @property
        def _busy(self) -> bool:
            cycle: RequestResponseCycle | None = self.cycle  # None before the first request
            return cycle is not None and not cycle.response_complete

        @property
        def waits(self) -> int:
            """2 when no request is under way, 1 when one is still coming, 0 when one is being answered."""
            if not self._busy:
                return 2
            return 1 if self.cycle.more_body and not self.cycle.response_started else 0

        @override
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._await_head()
            if len(self.connections) > limits.connections:
                others = cast("set[Limited]", self.connections)
                last = max(others, key=lambda one: (one.waits, self.loop.time() - one.since))
                last.connections.discard(last)
                last.transport.abort()

        @override
        def connection_lost(self, exc: Exception | None) -> None:
            self._clear()
            if self._write is not None:
                self._write.cancel()
            super().connection_lost(exc)

        @override
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.waits < 2:
                self._clear()

        @override
        def on_response_complete(self) -> None:
            super().on_response_complete()
            if not self.transport.is_closing() and self.waits == 2:
                self._await_head()

        @override
        def pause_writing(self) -> None:
            super().pause_writing()
            if self._write is None:
                self._write = self.loop.call_later(limits.read_timeout, self.transport.abort)

        @override
        def resume_writing(self) -> None:
            super().resume_writing()
            if self._write is not None:
                self._write.cancel()
                self._write = None

        def _await_head(self) -> None:
            self._clear()
            self.since = self.loop.time()
            self._head = self.loop.call_later(limits.head_timeout, self.transport.abort)

        def _clear(self) -> None:
            if self._head is not None:
                self._head.cancel()
                self._head = None

    return Limited
