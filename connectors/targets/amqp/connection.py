"""AMQP 0.9.1 as a publisher speaks it: a connection, and channels on which the server confirms every message.

Methods are read and written by pamqp. Messages come as bytes that are encoded already, many at once, because a call of a
client library per message costs more than all the rest; confirms are read here for the same reason. Nothing is tried
again: whatever ends a connection or a channel is raised where something waits for it.
"""

import asyncio
import contextlib
import ssl
import struct
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from pamqp import base, commands, frame
from pamqp.exceptions import PAMQPException

_HEADER: Final = struct.Struct(">BHL")
_IDS: Final = struct.Struct(">HH")
_CONFIRM: Final = struct.Struct(">QB")
_ACK, _NACK = (60, 80), (60, 120)
_METHOD, _CONTENT, _BODY, _HEARTBEAT = 1, 2, 3, 8
_BEAT: Final = b"\x08\0\0\0\0\0\0\xce"
_PROTOCOL: Final = b"AMQP\0\0\x09\x01"
_FRAME_MAX: Final = 131_072
_CLOSE_PATIENCE: Final = 1.0
_READ: Final = 65_536
_SAMPLES: Final = 5  # of returned messages that are kept to be told

Method = TypeVar("Method", bound=base.Frame)


class Closed(Exception):
    """The server, or the network, has ended a connection or a channel.

    Attributes:
        code: AMQP's reply code; 0 when the connection was lost without one.
    """

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True, slots=True)
class Returned:
    """A message that the server could not route."""

    code: int
    text: str
    exchange: str
    routing_key: str


@dataclass(frozen=True, slots=True)
class Login:
    """How the server is told who is there."""

    mechanism: str
    response: str = field(repr=False)
    vhost: str
    heartbeat: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """Messages that are sent at once: whole frames, and how many messages they are."""

    frames: bytes | memoryview
    count: int


class _Sent:
    """A chunk whose confirms are awaited."""

    __slots__ = ("done", "first", "last", "left", "open", "refused")

    def __init__(self, first: int, count: int) -> None:
        self.first, self.last, self.left = first, first + count - 1, count
        self.open = bytearray(b"\1" * count)
        self.refused: list[int] = []
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def settle(self, start: int, stop: int, *, taken: bool) -> None:
        """Confirms of the tags `start` to `stop`, without `stop`; those that came before stay as they are."""
        low, high = max(start, self.first) - self.first, min(stop, self.last + 1) - self.first
        fresh = self.open.count(1, low, high)
        if not fresh:
            return
        if not taken:
            self.refused += [at for at in range(low, high) if self.open[at]]
        self.open[low:high] = bytes(high - low)
        self.left -= fresh
        if not self.left and not self.done.done():
            self.done.set_result(None)


class Channel:
    """A channel in confirm mode. One task at a time publishes on it.

    Attributes:
        number: Its number in the connection.
        returned: The first messages that came back unroutable since the last `publish` began, and how many in all.
    """

    def __init__(self, connection: "Connection", number: int) -> None:
        self.number = number
        self.returned: list[Returned] = []
        self.returns = 0
        self._connection = connection
        self._answer: asyncio.Future[base.Frame] | None = None
        self._sent: deque[_Sent] = deque()
        self._next = 1
        self._ended: Closed | None = None

    @property
    def usable(self) -> bool:
        """Whether it is open, and so is its connection."""
        return self._ended is None

    async def call(self, method: base.Frame, answer: type[Method]) -> Method:
        """Send a method and wait for its answer."""
        if self._ended is not None:
            raise self._ended
        self._answer = asyncio.get_running_loop().create_future()
        self._connection.send(method, self.number)
        try:
            found = await self._answer
        finally:
            self._answer = None
        if not isinstance(found, answer):
            raise Closed(505, f"the server answered {found.name} to {method.name}")
        return found

    async def publish(self, chunks: Iterable[Chunk]) -> Sequence[int]:
        """Send messages, and wait until the server has confirmed each of them.

        Returns:
            Which of them it has refused (nack), counted from 0.

        Raises:
            Closed: The channel or the connection has ended; which messages arrived is not known.
        """
        self.returned, self.returns = [], 0
        sent: list[_Sent] = []
        try:
            for chunk in chunks:
                await self._connection.unblocked.wait()
                if self._ended is not None:
                    raise self._ended
                one = _Sent(self._next, chunk.count)
                self._next += chunk.count
                self._sent.append(one)
                sent.append(one)
                await self._connection.write(chunk.frames)
            for one in sent:
                await one.done
        finally:
            for one in sent:  # nobody waits for the others if one has failed
                if not one.done.cancel() and not one.done.cancelled():
                    one.done.exception()
        start = sent[0].first if sent else 0
        return [one.first - start + at for one in sent for at in one.refused]

    def confirmed(self, tag: int, *, multiple: bool, taken: bool) -> None:
        """The server has taken or refused messages: one, or all up to `tag` (0 for all)."""
        if not multiple:
            for one in self._sent:
                if one.first <= tag <= one.last:
                    one.settle(tag, tag + 1, taken=taken)
                    break
        else:
            stop = tag + 1 if tag else self._next
            for one in self._sent:
                if one.first >= stop:
                    break
                one.settle(one.first, stop, taken=taken)
        while self._sent and not self._sent[0].left:
            self._sent.popleft()

    def came_back(self, method: commands.Basic.Return) -> None:
        """The server could not route a message; its confirm follows."""
        self.returns += 1
        if len(self.returned) < _SAMPLES:
            self.returned.append(
                Returned(method.reply_code or 0, method.reply_text, method.exchange, method.routing_key or "")
            )

    def answered(self, method: base.Frame) -> None:
        """A method that is not of the kinds above."""
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(method)

    def end(self, reason: Closed) -> None:
        """It is closed: whoever waits is told."""
        self._ended = self._ended or reason
        waiting = [one.done for one in self._sent] + ([self._answer] if self._answer else [])
        self._sent.clear()
        for future in waiting:
            if not future.done():
                future.set_exception(reason)


class Connection:
    """A connection. `open` it, open channels, `close` it.

    Attributes:
        unblocked: Set unless the server has said that it takes no messages now.
        blocked: Why the server takes no messages, in its words; empty when it does.
        server: What the server says of itself.
        frame_max: Bytes of a frame, at most.
    """

    def __init__(self) -> None:
        self.unblocked = asyncio.Event()
        self.unblocked.set()
        self.blocked = ""
        self.server: dict[str, Any] = {}
        self.frame_max = _FRAME_MAX
        self._channels: dict[int, Channel] = {}
        self._self = Channel(self, 0)
        self._highest = 0
        self._channel_max = 2047
        self._heard = 0.0
        self._tasks: list[asyncio.Task[None]] = []
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def open(
        self, host: str, port: int, tls: ssl.SSLContext | None, server_name: str | None, login: Login
    ) -> None:
        """Connect and log in.

        Raises:
            Closed: The server has refused that.
            OSError: There is no connection.
        """
        self._reader, self._writer = await asyncio.open_connection(
            host, port, ssl=tls, server_hostname=(server_name or host) if tls else None
        )
        self._writer.write(_PROTOCOL)
        self._tasks.append(asyncio.create_task(self._read(self._reader)))
        start = await self._awaited(commands.Connection.Start)
        self.server = dict(start.server_properties or {})
        if login.mechanism not in str(start.mechanisms).split():
            raise Closed(540, f"the server does not know {login.mechanism}, but {start.mechanisms}")
        tune = await self._self.call(
            commands.Connection.StartOk(_CLIENT, login.mechanism, login.response, "en_US"), commands.Connection.Tune
        )
        self.frame_max = min(tune.frame_max or _FRAME_MAX, _FRAME_MAX)
        self._channel_max = tune.channel_max or self._channel_max
        beat = min(tune.heartbeat, login.heartbeat) if tune.heartbeat and login.heartbeat else login.heartbeat
        self.send(commands.Connection.TuneOk(self._channel_max, self.frame_max, beat), 0)
        await self._self.call(commands.Connection.Open(login.vhost), commands.Connection.OpenOk)
        if beat:
            self._tasks.append(asyncio.create_task(self._beat(beat)))

    async def channel(self) -> Channel:
        """A new channel, in confirm mode."""
        if self._highest >= self._channel_max:
            raise Closed(0, "every channel of the connection was used up")
        self._highest += 1
        made = Channel(self, self._highest)
        if not self._self.usable:
            raise Closed(0, "the connection is closed")
        self._channels[made.number] = made
        await made.call(commands.Channel.Open(), commands.Channel.OpenOk)
        await made.call(commands.Confirm.Select(), commands.Confirm.SelectOk)
        return made

    def send(self, method: base.Frame, channel: int) -> None:
        """Send a method."""
        if self._writer is not None:
            self._writer.write(frame.marshal(method, channel))

    async def write(self, frames: bytes | memoryview) -> None:
        """Send whole frames; waits while the server reads slower than they come."""
        if self._writer is None:
            raise Closed(0, "the connection is closed")
        self._writer.write(frames)
        await self._writer.drain()

    async def close(self) -> None:
        """Say good-bye, if there is somebody, and leave."""
        if self._self.usable and self._writer is not None:
            with contextlib.suppress(TimeoutError, Closed, OSError):
                async with asyncio.timeout(_CLOSE_PATIENCE):
                    await self._self.call(commands.Connection.Close(200, "", 0, 0), commands.Connection.CloseOk)
        self._end(Closed(0, "the connection was closed"))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _awaited(self, method: type[Method]) -> Method:
        """A method that the server sends without having been asked."""
        self._self._answer = asyncio.get_running_loop().create_future()  # noqa: SLF001 - channel 0 is the connection
        found = await self._self._answer  # noqa: SLF001
        if not isinstance(found, method):
            raise Closed(505, f"the server began with {found.name}")
        return found

    def _end(self, reason: Closed) -> None:
        for channel in (self._self, *self._channels.values()):
            channel.end(reason)
        self._channels.clear()
        self.unblocked.set()
        if self._writer is not None:
            self._writer.transport.abort()

    async def _beat(self, seconds: int) -> None:
        """Send heartbeats, and end the connection when the server sends none."""
        loop = asyncio.get_running_loop()
        while self._writer is not None and self._self.usable:
            await asyncio.sleep(seconds / 2)
            self._writer.write(_BEAT)
            if loop.time() - self._heard > 2 * seconds:
                self._end(Closed(0, f"the server has said nothing for {2 * seconds} s"))

    async def _read(self, reader: asyncio.StreamReader) -> None:
        """Take apart what comes, until the connection ends."""
        loop = asyncio.get_running_loop()
        held = b""
        try:
            while data := await reader.read(_READ):
                self._heard = loop.time()
                held = self._take(held + data if held else data)
        except (OSError, PAMQPException, ValueError) as error:
            self._end(Closed(0, str(error) or type(error).__name__))
            return
        self._end(Closed(0, "the server has closed the connection"))

    def _take(self, data: bytes) -> bytes:
        """Handle the whole frames at the beginning of `data`; returns the rest."""
        at, end = 0, len(data)
        while end - at >= _HEADER.size:
            kind, number, size = _HEADER.unpack_from(data, at)
            if kind == ord("A"):
                raise ValueError(f"the server speaks another protocol: {data[at : at + 8]!r}")
            if size > _FRAME_MAX:
                raise ValueError(f"the server sends a frame of {size:,} bytes, {_FRAME_MAX:,} were agreed on at most")
            after = at + _HEADER.size + size + 1
            if after > end:
                break
            if kind == _METHOD:
                self._method(number, data, at, after)
            elif kind not in {_CONTENT, _BODY, _HEARTBEAT}:  # of returned messages their keys are enough
                raise ValueError(f"the server sent a frame of type {kind}")
            at = after
        return data[at:]

    def _method(self, number: int, data: bytes, at: int, after: int) -> None:
        ids = _IDS.unpack_from(data, at + _HEADER.size)
        channel = self._self if number == 0 else self._channels.get(number)
        if ids in {_ACK, _NACK}:
            if channel is not None:
                tag, bits = _CONFIRM.unpack_from(data, at + _HEADER.size + _IDS.size)
                channel.confirmed(tag, multiple=bool(bits & 1), taken=ids == _ACK)
            return
        _, _, method = frame.unmarshal(data[at:after])
        match method:
            case commands.Connection.Blocked():
                self.blocked = method.reason or "no reason given"
                self.unblocked.clear()
            case commands.Connection.Unblocked():
                self.blocked = ""
                self.unblocked.set()
            case commands.Connection.Close():
                self.send(commands.Connection.CloseOk(), 0)
                self._end(Closed(method.reply_code or 0, method.reply_text))
            case commands.Channel.Close():
                self.send(commands.Channel.CloseOk(), number)
                if channel is not None:
                    self._channels.pop(number, None)
                    channel.end(Closed(method.reply_code or 0, method.reply_text))
            case commands.Basic.Return():
                if channel is not None:
                    channel.came_back(method)
            case base.Frame():
                if channel is not None:
                    channel.answered(method)
            case _:
                raise ValueError("the server sent what is no method")


_CLIENT: Final[dict[str, Any]] = {
    "product": "Bifrost",
    "platform": "Python",
    "capabilities": {
        "publisher_confirms": True,
        "basic.nack": True,
        "connection.blocked": True,
        "authentication_failure_close": True,
    },
}
