"""What this process connects to, seen by Python's own audit of sockets; and listeners that count who comes."""

import asyncio
import contextlib
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

_watching: list[list[tuple[float, str, int]]] = []


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    if event in {"socket.connect", "socket.sendto"} and _watching:
        address = arguments[1]
        if isinstance(address, tuple):
            for seen in _watching:
                seen.append((time.monotonic(), str(address[0]), int(address[1])))


sys.addaudithook(_hook)


@contextlib.contextmanager
def watched() -> Iterator[list[tuple[float, str, int]]]:
    """Time, host and port of every connection that is tried, and of every datagram, while the block runs."""
    seen: list[tuple[float, str, int]] = []
    _watching.append(seen)
    try:
        yield seen
    finally:
        _watching.remove(seen)


class Listener:
    """Takes connections and says what it is told to.

    Attributes:
        port: Where.
        taken: Connections so far.
        open: Connections that are open now.
        most: The most that were open at once.
        received: What came.
    """

    def __init__(self, says: bytes = b"", *, forever: bool = False) -> None:
        self.says, self.forever = says, forever
        self.port = self.taken = self.open = self.most = 0
        self.received = bytearray()
        self.closed = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.taken += 1
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            if self.says:
                writer.write(self.says)
            while self.forever:
                writer.write(self.says)
                await writer.drain()
            while data := await reader.read(65536):
                self.received += data
        except OSError:
            pass
        finally:
            self.open -= 1
            self.closed.set()
            writer.close()


@asynccontextmanager
async def listening(
    host: str = "127.0.0.1", port: int = 0, says: bytes = b"", *, forever: bool = False
) -> AsyncIterator[Listener]:
    """A listener until the end of the block."""
    listener = Listener(says, forever=forever)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    server = await asyncio.start_server(listener.serve, host, port, family=family)
    listener.port = server.sockets[0].getsockname()[1]
    try:
        yield listener
    finally:
        server.close()
