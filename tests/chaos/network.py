"""A target at the other end of a network: its writer in the gateway, and the station that keeps what it took.

The station runs in the harness and outlives the gateway. It misbehaves as networks and peers do:

- `black_hole`: no packet comes in, not even that of a new connection, and nothing says so;
- `half_open`: connections stand and new ones are accepted, but nobody reads or answers;
- `slow`: readings trickle through;
- `unanswered`: what is sent is taken, and the connection ends before the answer;
- `cut`: connections are reset, and new ones refused.
"""

import asyncio
import contextlib
import ctypes
import socket
import struct
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Final, Literal, Self

import pyarrow as pa
from pydantic import Field
from typing_extensions import override

from connectors.contract import Context, Limits, TransientError, Writer
from connectors.settings import TargetConfig
from tests.appending import Appender
from tests.chaos.numbered import FRAME, ROW, frame, rows_of, sound_bytes
from tests.ports import free_port

Road = Literal["ok", "black_hole", "half_open", "slow", "unanswered", "cut"]
_ANSWER: Final = struct.Struct("<q")
_SLOW: Final = 40_000  # bytes per second
_PIECE: Final = 4096
_SETTLING: Final = 0.01  # seconds in which the loop of a station accepts and closes what waits for that
_SO_ATTACH_FILTER, _SO_DETACH_FILTER = 26, 27  # Linux, for all processors but three
_RESET: Final = struct.pack("ii", 1, 0)  # of SO_LINGER: closing resets the connection


class RemoteConfig(TargetConfig):
    type: Literal["remote"] = "remote"
    port: int = Field(description="port of the station on this machine")
    remembers: bool = Field(False, description="whether it knows the number of the last unit that it took")
    rows: int = Field(2000, description="readings in one write")

    @override
    def writer(self, context: Context) -> Writer:
        return RemoteWriter(self)


class RemoteWriter(Writer):
    """Sends frames over TCP and waits for the number of the unit in answer."""

    def __init__(self, config: RemoteConfig) -> None:
        self.limits = Limits(rows=config.rows, linger=0.02, remembers_units=config.remembers)
        self._config = config
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    @override
    async def open(self) -> None:
        try:
            async with asyncio.timeout(self._config.timeout):
                self._streams = await asyncio.open_connection("127.0.0.1", self._config.port)
        except OSError as error:
            raise TransientError(f"no connection: {error!r}") from error

    @override
    async def write(self, batch: pa.RecordBatch, unit: int) -> None:
        assert self._streams is not None
        reader, writer = self._streams
        try:
            async with asyncio.timeout(self._config.timeout):
                writer.write(frame(unit, rows_of(batch)))
                await writer.drain()
                (answer,) = _ANSWER.unpack(await reader.readexactly(_ANSWER.size))
        except (OSError, asyncio.IncompleteReadError) as error:
            raise TransientError(f"no answer: {error!r}") from error
        if answer != unit:
            raise TransientError(f"asked for unit {unit}, the answer is for {answer}")

    @override
    async def close(self) -> None:
        if self._streams is not None:
            writer, self._streams = self._streams[1], None
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


class Station:
    """The target itself: a server in a thread of its own.

    Args:
        path: Where it keeps its frames.
        remembers: Whether it takes a unit once only.

    Attributes:
        port: Where it listens; kept for its life.
    """

    def __init__(self, path: Path, *, remembers: bool) -> None:
        whole, self._last = sound_bytes(path)
        self._file = Appender(path, lambda _: whole)
        self._remembers = remembers
        self._road: Road = "ok"
        self._changed = asyncio.Event()
        self._listener: socket.socket | None = None
        self._connections: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._serving: asyncio.Server | None = None
        self.port = free_port()
        self._thread = threading.Thread(target=self._loop.run_forever, name="station", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._do(self._listen())
        return self

    def __exit__(self, *_: object) -> None:
        self.take_road("cut")
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._file.close()

    def take_road(self, road: Road) -> None:
        """From now on the network, or the peer, is like this."""
        self._do(self._take_road(road))

    def _do(self, act: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(act, self._loop).result(20)

    async def _listen(self) -> None:
        self._serving = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def _take_road(self, road: Road) -> None:
        if self._road == "black_hole":
            self._drop_packets(drop=False)
        self._road = road
        self._changed.set()
        self._changed = asyncio.Event()
        if road == "cut":
            await self._cut()
        elif self._serving is None:
            await self._listen()
        if road == "black_hole":
            self._drop_packets(drop=True)

    async def _cut(self) -> None:
        await asyncio.sleep(_SETTLING)  # a server that is closed while it accepts would leave that connection open
        if self._serving is not None:
            self._serving.close()
            self._serving = None
        for writer in [*self._connections]:
            _reset(writer)
        await asyncio.sleep(_SETTLING)
        for writer in [*self._connections]:  # those that were just being accepted
            _reset(writer)
        while self._connections:
            await asyncio.sleep(_SETTLING)
        await asyncio.sleep(_SETTLING)

    def _drop_packets(self, *, drop: bool) -> None:
        """Let the kernel drop whatever comes for our sockets before it looks at it, or not any more."""
        listening = [] if self._serving is None else [*self._serving.sockets]
        for each in [*listening, *(writer.get_extra_info("socket") for writer in self._connections)]:
            with contextlib.suppress(OSError):  # it has just been closed
                if drop:
                    nothing = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))  # "return 0 bytes"
                    program = struct.pack("HL", 1, ctypes.addressof(nothing))
                    each.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
                else:
                    each.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        try:
            while True:
                head = await self._read(reader, FRAME.size)
                _, _, unit, _, rows = FRAME.unpack(head)
                body = await self._read(reader, rows * ROW.itemsize)
                if not (self._remembers and unit <= self._last):
                    self._file.append(head + body)
                    self._last = max(self._last, unit)
                if self._road == "unanswered":
                    _reset(writer)
                    return
                writer.write(_ANSWER.pack(unit))
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            return  # the gateway has gone, or gave up
        finally:
            self._connections.discard(writer)
            writer.transport.abort()

    async def _read(self, reader: asyncio.StreamReader, count: int) -> bytes:
        found = bytearray()
        while len(found) < count:
            while self._road == "half_open":
                await self._changed.wait()
            piece = count - len(found)
            if self._road == "slow":
                piece = min(piece, _PIECE)
                await asyncio.sleep(piece / _SLOW)
            found += await reader.readexactly(piece)
        return bytes(found)


def _reset(writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()
