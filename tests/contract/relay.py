"""A TCP relay between a reader and its device, or a writer and its target, so that a test can take the other side away, slow
it down, watch what is sent, and alter answers."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Self

from tests.ports import free_port


class Relay:
    """Listens on a port of 127.0.0.1, a free one unless it is told, and passes everything on to the port `target`.

    Attributes:
        port: Where it listens; kept for its life.
        connections: Connections that the reader has open.
        target: The port that it passes on to; another one from the next connection on.
        with_connections, without_connections: Set while it has any, or none.
        sent: All that readers sent.
        streams: The same by connection, in the order in which they were opened.
        alter: What is done to each piece of data from the device.
        pause: Seconds that each piece of data to the device takes.
        cut_after: Bytes to the device after which the connection is reset, once; None for never.
    """

    def __init__(self, target: int, port: int = 0) -> None:
        self.port = port or free_port()
        self.connections = 0
        self.with_connections, self.without_connections = asyncio.Event(), asyncio.Event()
        self.without_connections.set()
        self.sent = bytearray()
        self.streams: list[bytearray] = []
        self.alter: Callable[[bytes], bytes] = lambda data: data
        self.pause = 0.0
        self.cut_after: int | None = None
        self.target = target
        self._frozen = False
        self._held: deque[tuple[asyncio.StreamWriter, bytes]] = deque()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        await self.restore()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cut()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def freeze(self) -> None:
        """Connections stay and are taken, but nothing passes: the cable is pulled."""
        self._frozen = True

    def thaw(self) -> None:
        """What was held passes, and all that follows."""
        self._frozen = False
        while self._held:
            writer, data = self._held.popleft()
            writer.write(data)

    def cut(self) -> None:
        """The device is gone: connections end, and nobody listens."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in self._writers:
            writer.transport.abort()

    async def restore(self) -> None:
        """The device is back, at the same address."""
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", self.port)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        self._count(1)
        try:
            up, down = await asyncio.open_connection("127.0.0.1", self.target)
            self._writers.add(down)
            self.streams.append(stream := bytearray())
            await asyncio.gather(self._pump(reader, down, stream), self._pump(up, writer, None))
        except OSError:
            pass
        finally:
            self._count(-1)
            for side in self._writers & {writer, locals().get("down")}:
                side.transport.abort()
                self._writers.discard(side)

    def _count(self, more: int) -> None:
        self.connections += more
        (self.with_connections if self.connections else self.without_connections).set()
        (self.without_connections if self.connections else self.with_connections).clear()

    async def _pump(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, stream: bytearray | None) -> None:
        """Pass on until the source ends; then the other side ends too. `stream` notes what goes to the device."""
        while data := await source.read(65536):
            if stream is not None:
                self.sent += data
                stream += data
                await asyncio.sleep(self.pause)
                if self.cut_after is not None:
                    left, self.cut_after = self.cut_after, self.cut_after - len(data)
                    if self.cut_after <= 0:
                        self.cut_after = None
                        target.write(data[:left])
                        raise ConnectionError("cut")
            else:
                data = self.alter(data)
            if self._frozen:
                self._held.append((target, data))
            else:
                target.write(data)
        raise ConnectionError("ended")
