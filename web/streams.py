"""Event streams: who watches the same shares the frames, so that five pages cost what one costs.

A frame holds what has changed, and there are two in a second at most; when making one takes long, there are fewer, so that all
of them together take a fiftieth of one core. Who is too slow to read gets everything anew when it has caught up.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Final, Protocol

import msgspec
from starlette.responses import StreamingResponse

from web.errors import ApiError

PACE: Final = 0.5
_SHARE: Final = 50  # of a core's time, at most, is a part of this size
_SLOWEST: Final = 5.0
_SILENT: Final = 15.0
_AHEAD: Final = 4
_MOST: Final = 24
_HEADERS: Final = {"cache-control": "no-store", "x-accel-buffering": "no"}

ALIVE: Final = b": alive\n\n"


class Feed(Protocol):
    """What a stream tells."""

    def whole(self) -> bytes:
        """Frames with all there is to tell, and what `changes` then begins from; called once for everybody who comes."""

    def changes(self) -> bytes:
        """Frames with what has changed since the last call; empty when nothing has."""


def frame(event: str, data: Any) -> bytes:
    """An event as it is sent."""
    return b"event: " + event.encode() + b"\ndata: " + msgspec.json.encode(data) + b"\n\n"


def pause(took: float) -> float:
    """Seconds until the next frame, when making one took so many of a core's time."""
    return min(max(PACE, took * _SHARE), _SLOWEST)


class Streams:
    """The event streams of a port. All calls come from its event loop."""

    def __init__(self) -> None:
        self._channels: dict[str, _Channel] = {}
        self.open = 0

    def shared(self, name: str, make: Callable[[], Feed]) -> StreamingResponse:
        """A stream that everybody shares who names it so."""
        self._room()
        return _answer(self._counted(self._watch(name, make)))

    def own(self, frames: AsyncIterator[bytes]) -> StreamingResponse:
        """A stream of frames for one alone."""
        self._room()
        return _answer(self._counted(frames))

    def _room(self) -> None:
        if self.open >= _MOST:
            raise ApiError(429, f"{_MOST} event streams are open already; close a page", headers={"Retry-After": "5"})

    async def _counted(self, frames: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        self.open += 1
        try:
            async for one in frames:
                yield one
        finally:
            self.open -= 1

    async def _watch(self, name: str, make: Callable[[], Feed]) -> AsyncIterator[bytes]:
        channel = self._channels.get(name)
        if channel is None:
            channel = self._channels[name] = _Channel(make())
            channel.task = asyncio.create_task(channel.run(), name=f"stream {name[:60]}")
        queue: asyncio.Queue[bytes | None] = asyncio.Queue(_AHEAD)
        channel.watchers.add(queue)
        try:
            yield channel.feed.whole()
            while True:
                try:
                    async with asyncio.timeout(_SILENT):
                        found = await queue.get()
                except TimeoutError:
                    yield ALIVE
                else:
                    yield channel.feed.whole() if found is None else found
        finally:
            channel.watchers.discard(queue)
            if not channel.watchers:
                if channel.task is not None:
                    channel.task.cancel()
                self._channels.pop(name, None)


class _Channel:
    def __init__(self, feed: Feed) -> None:
        self.feed = feed
        self.watchers: set[asyncio.Queue[bytes | None]] = set()
        self.task: asyncio.Task[None] | None = None

    async def run(self) -> None:
        wait = PACE
        while True:
            await asyncio.sleep(wait)
            began = time.thread_time()
            made = self.feed.changes()
            wait = pause(time.thread_time() - began)
            for queue in self.watchers if made else ():
                if queue.full():
                    while not queue.empty():
                        queue.get_nowait()
                    queue.put_nowait(None)
                else:
                    queue.put_nowait(made)


def _answer(frames: AsyncIterator[bytes]) -> StreamingResponse:
    return StreamingResponse(frames, media_type="text/event-stream", headers=_HEADERS)
