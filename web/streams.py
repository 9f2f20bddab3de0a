"""Event streams: who watches the same shares what is made, so that five pages cost little more than one.

Once in a turn every feed that somebody watches says what has changed, and each stream sends that in one piece. A turn comes
four times a second where the gateway is busy anyway, and once a second where it is not: all streams together shall
take a hundredth of what the gateway takes. Who is too slow to read gets everything anew when it has caught up.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Final, Protocol

import msgspec
import structlog
from starlette.responses import StreamingResponse

from web.errors import ApiError

log = structlog.get_logger()

_OF_THE_GATEWAY: Final = 0.008  # of the CPU time of the process
_OF_A_CORE: Final = 0.01
_FASTEST, _USUAL, _SLOWEST = 0.25, 1.0, 5.0  # seconds between turns
_SILENT: Final = 15.0
_AHEAD: Final = 256 * 1024  # bytes that wait for one who is slow
_MOST: Final = 24
_HEADERS: Final = {"cache-control": "no-store", "x-accel-buffering": "no"}

ALIVE: Final = b": alive\n\n"


class Feed(Protocol):
    """What streams tell."""

    def whole(self) -> bytes:
        """Events with all there is to tell, for somebody who comes."""

    def changes(self) -> bytes:
        """Events with what has changed since the last call, or the first `whole`; empty when nothing has."""


Feeds = Mapping[str, Callable[[], Feed]]
"""What makes a feed, by a name that tells it from all that are not the same."""


def event(name: str, data: Any) -> bytes:
    """An event as it is sent."""
    return b"event: " + name.encode() + b"\ndata: " + msgspec.json.encode(data) + b"\n\n"


class Pace:
    """Says how long to wait for the next turn, from what the last one took of the thread that it is asked in."""

    def __init__(self) -> None:
        self._seen = self._look()

    def wait(self) -> float:
        """Seconds."""
        (wall, process, thread), before = self._look(), self._seen
        self._seen = wall, process, thread
        passed, took = max(wall - before[0], 1e-6), thread - before[2]
        others = max((process - before[1] - took) / passed, 1e-6)
        return max(min(max(took / (_OF_THE_GATEWAY * others), _FASTEST), _USUAL), min(took / _OF_A_CORE, _SLOWEST))

    def _look(self) -> tuple[float, float, float]:
        return time.monotonic(), time.process_time(), time.thread_time()


class _Watcher:
    """One stream."""

    def __init__(self) -> None:
        self.channels: list[_Channel] = []
        self.waiting: list[bytes] = []
        self.bytes = 0
        self.behind = False
        self.woken = asyncio.Event()
        self.told = time.monotonic()

    def tell(self, made: bytes) -> None:
        self.bytes += len(made)
        self.behind = self.behind or self.bytes > _AHEAD
        if self.behind:
            self.waiting.clear()
        else:
            self.waiting.append(made)

    def take(self) -> bytes:
        waiting = [channel.feed.whole() for channel in self.channels] if self.behind else self.waiting
        self.waiting, self.bytes, self.behind, self.told = [], 0, False, time.monotonic()
        self.woken.clear()
        return b"".join(waiting) or ALIVE


class _Channel:
    """A feed, and who watches it."""

    def __init__(self, feed: Feed) -> None:
        self.feed = feed
        self.watchers: list[_Watcher] = []


class Streams:
    """The event streams of a port. All calls come from its event loop."""

    def __init__(self) -> None:
        self._channels: dict[str, _Channel] = {}
        self._watchers: set[_Watcher] = set()
        self._turning: asyncio.Task[None] | None = None

    def open(self, feeds: Feeds) -> StreamingResponse:
        """A stream of some feeds."""
        if len(self._watchers) >= _MOST:
            raise ApiError(429, f"{_MOST} event streams are open already; close a page", headers={"Retry-After": "5"})
        return StreamingResponse(self._watch(feeds), media_type="text/event-stream", headers=_HEADERS)

    async def _watch(self, feeds: Feeds) -> AsyncIterator[bytes]:
        watcher = _Watcher()
        self._watchers.add(watcher)
        try:
            for name, make in feeds.items():
                channel = self._channels.get(name)
                if channel is None:
                    channel = self._channels[name] = _Channel(make())
                channel.watchers.append(watcher)
                watcher.channels.append(channel)
            if self._turning is None:
                self._turning = asyncio.create_task(self._turn(), name="event streams")
            yield b"".join(channel.feed.whole() for channel in watcher.channels) or ALIVE
            while True:
                await watcher.woken.wait()
                yield watcher.take()
        finally:
            self._leave(watcher)

    def _leave(self, watcher: _Watcher) -> None:
        self._watchers.discard(watcher)
        for channel in watcher.channels:
            channel.watchers.remove(watcher)
        self._channels = {name: channel for name, channel in self._channels.items() if channel.watchers}
        if not self._watchers and self._turning is not None:
            self._turning.cancel()
            self._turning = None

    async def _turn(self) -> None:
        pace = Pace()
        while True:
            await asyncio.sleep(pace.wait())
            for channel in list(self._channels.values()):
                made = channel.feed.changes()
                for watcher in channel.watchers if made else ():
                    watcher.tell(made)
            now = time.monotonic()
            for watcher in self._watchers:
                if watcher.waiting or watcher.behind or now - watcher.told > _SILENT:
                    watcher.woken.set()
