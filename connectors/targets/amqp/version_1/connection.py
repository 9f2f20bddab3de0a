"""AMQP 1.0 as a sender speaks it: one connection, one session, a link for each address. asyncio, no retries.

Transfers come as bytes that are encoded already, many at once. What the receiver allows is kept to: credit by link, window
by session. Each delivery is sent unsettled, and its outcome is awaited.
"""

import asyncio
import contextlib
import ssl
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from connectors.targets.amqp.version_1.types import Described, Symbol, Ubyte, Uint, Writable, decode, encode

_FRAME: Final = struct.Struct(">IBBH")
_SASL_HEADER: Final = b"AMQP\x03\x01\x00\x00"
_AMQP_HEADER: Final = b"AMQP\x00\x01\x00\x00"
OPEN, BEGIN, ATTACH, FLOW, TRANSFER, DISPOSITION, DETACH, END, CLOSE = range(0x10, 0x19)
_ERROR, _SOURCE, _TARGET, _ACCEPTED = 0x1D, 0x28, 0x29, 0x24
_MECHANISMS, _INIT, _OUTCOME = 0x40, 0x41, 0x44
_CONFIGURATION: Final = 1  # the least durability that makes RabbitMQ's queue outlast a restart
_MAX_FRAME: Final = 131_072
_WINDOW: Final = 2_048
_CLOSE_PATIENCE: Final = 1.0
_SERIAL: Final = 2**32


class Ended(Exception):
    """The peer, or the network, has ended the connection, the session or a link.

    Attributes:
        condition: The standard's name of the error; empty when the connection was lost without one.
    """

    def __init__(self, condition: str, text: str) -> None:
        super().__init__(f"{text} ({condition})" if condition and text else text or condition)
        self.condition = condition


@dataclass(frozen=True, slots=True)
class Login:
    """How the peer is told who is there."""

    mechanism: str
    response: bytes = field(repr=False)
    hostname: str
    container: str
    idle: float


@dataclass(slots=True)
class Link:
    """A link that sends to one address.

    Attributes:
        address: Where to.
        handle: Its number in the session.
        credit: Messages that the peer takes now.
        largest: Bytes of a message, at most; 0 where the peer does not say.
        sent: Deliveries since the link was attached.
    """

    address: str
    handle: int
    credit: int = 0
    largest: int = 0
    sent: int = 0
    attached: "asyncio.Future[None]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())


def _ended(performative: Described, index: int, what: str) -> Ended:
    error = performative.field(index)
    if isinstance(error, Described):
        return Ended(str(error.field(0) or ""), str(error.field(1) or ""))
    return Ended("", f"the peer has ended the {what}")


class Connection:
    """A connection with one session. `open` it, `attach` links, send, `close` it.

    Args:
        durable: Whether a RabbitMQ is asked for queues that outlast it, where it makes them.

    Attributes:
        server: What the peer says of itself.
        frame_max: Bytes of a frame, at most.
        next: Number of the next delivery.
    """

    def __init__(self, *, durable: bool = True) -> None:
        self._durable = durable
        self.server: dict[str, Any] = {}
        self.frame_max = 512
        self.next = 0
        self._links: dict[str, Link] = {}
        self._window = 0
        self._frames = 0  # number of the next transfer, a frame each
        self._begun = False
        self._outcomes: dict[int, Described | None] = {}
        self._waiting = 0
        self._settled: asyncio.Future[None] | None = None
        self._changed = asyncio.Event()
        self._ended: Ended | None = None
        self._heard = 0.0
        self._tasks: list[asyncio.Task[None]] = []
        self._writer: asyncio.StreamWriter | None = None

    async def open(
        self, host: str, port: int, tls: ssl.SSLContext | None, server_name: str | None, login: Login
    ) -> None:
        """Connect, log in and begin a session.

        Raises:
            Ended: The peer has refused that.
            OSError: There is no connection.
        """
        reader, self._writer = await asyncio.open_connection(
            host, port, ssl=tls, server_hostname=(server_name or host) if tls else None
        )
        try:
            await self._log_in(reader, login)
            self._writer.write(_AMQP_HEADER)
            await self._header(reader, _AMQP_HEADER)
            idle = Uint(round(login.idle * 1000))
            self._send(OPEN, [login.container, login.hostname, Uint(_MAX_FRAME), None, idle])
            answer = await self._performative(reader, OPEN)
            self.server = {str(key): value for key, value in (answer.field(9) or {}).items()}
            self.frame_max = min(answer.field(2) or _MAX_FRAME, _MAX_FRAME)
            self._send(BEGIN, [None, Uint(0), Uint(_WINDOW), Uint(_WINDOW)])
            begun = await self._performative(reader, BEGIN)
            self._window = begun.field(2) or 0
        except asyncio.IncompleteReadError as error:
            raise Ended("", "the peer has closed the connection") from error
        self._begun = True
        self._heard = asyncio.get_running_loop().time()
        self._tasks.append(asyncio.create_task(self._read(reader)))
        theirs = (answer.field(4) or 0) / 1000
        self._tasks.append(asyncio.create_task(self._beat(login.idle, theirs)))

    async def _log_in(self, reader: asyncio.StreamReader, login: Login) -> None:
        await self._write(_SASL_HEADER)
        await self._header(reader, _SASL_HEADER)
        offered = (await self._performative(reader, _MECHANISMS)).field(0)
        known = [offered] if isinstance(offered, str) else list(offered or [])
        if login.mechanism not in known:
            raise Ended("amqp:not-implemented", f"the peer does not know {login.mechanism}, but {', '.join(known)}")
        self._send(_INIT, [Symbol(login.mechanism), login.response, login.hostname], kind=1)
        code = (await self._performative(reader, _OUTCOME)).field(0)
        if code:
            raise Ended(
                "amqp:unauthorized-access" if code == 1 else "amqp:internal-error",
                f"the login was refused, code {code}",
            )

    async def _header(self, reader: asyncio.StreamReader, wanted: bytes) -> None:
        found = await reader.readexactly(8)
        if found != wanted:
            raise Ended("amqp:not-implemented", f"the peer speaks another protocol: {found!r}")

    async def _performative(self, reader: asyncio.StreamReader, wanted: int) -> Described:
        """The next one, before the session has begun."""
        while True:
            size, offset, _, _ = _FRAME.unpack(await reader.readexactly(_FRAME.size))
            if not _FRAME.size <= size <= 2 * _MAX_FRAME:
                raise Ended("", f"the peer sent a frame of {size} bytes")
            data = await reader.readexactly(size - _FRAME.size)
            if size == 4 * offset:
                continue
            found = decode(data, 4 * offset - _FRAME.size)
            if isinstance(found, Described) and found.code == wanted:
                return found
            if isinstance(found, Described) and found.code in {CLOSE, END}:
                raise _ended(found, 0, "connection")
            raise Ended("", f"the peer sent {found!r:.100}")

    async def attach(self, address: str) -> Link:
        """The link to an address; a new one where there is none."""
        self._sound()
        link = self._links.get(address)
        if link is None:
            durability = _CONFIGURATION if self._durable and self.server.get("product") == "RabbitMQ" else 0
            link = self._links[address] = Link(address, len(self._links))
            self._send(
                ATTACH,
                [
                    f"bifrost-{link.handle}",
                    Uint(link.handle),
                    False,
                    Ubyte(0),
                    Ubyte(0),
                    Described(_SOURCE, []),
                    Described(_TARGET, [address, Uint(durability)]),
                    None,
                    None,
                    Uint(0),
                ],
            )
        await asyncio.shield(link.attached)
        return link

    async def room(self, link: Link, frames: int) -> tuple[int, int]:
        """Messages and frames that the peer takes now; waits until there is room for a message of so many frames."""
        while not (link.credit and self._window >= frames):
            self._sound()
            self._changed.clear()
            await self._changed.wait()
        return link.credit, self._window

    async def transfer(self, link: Link, data: bytes | memoryview, deliveries: int, frames: int) -> None:
        """Send deliveries whose numbers go on from `next`."""
        self._sound()
        self.next = (self.next + deliveries) % _SERIAL
        self._frames = (self._frames + frames) % _SERIAL
        link.sent = (link.sent + deliveries) % _SERIAL
        link.credit -= deliveries
        self._window -= frames
        await self._write(data)

    def expect(self, count: int) -> int:
        """Await the outcomes of the next `count` deliveries; returns the number of the first."""
        self._outcomes = {(self.next + at) % _SERIAL: None for at in range(count)}
        self._waiting = count
        self._settled = asyncio.get_running_loop().create_future()
        return self.next

    async def outcomes(self) -> list[Described]:
        """What became of them, in their order."""
        self._sound()
        if self._waiting and self._settled is not None:
            await self._settled
        return [found for found in self._outcomes.values() if found is not None]

    async def close(self) -> None:
        """Say good-bye, if there is somebody, and leave."""
        if self._begun and self._ended is None:
            with contextlib.suppress(TimeoutError, OSError):
                async with asyncio.timeout(_CLOSE_PATIENCE):
                    self._send(CLOSE, [])
                    while self._ended is None:
                        self._changed.clear()
                        await self._changed.wait()
        self._end(Ended("", "the connection was closed"))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _sound(self) -> None:
        if self._ended is not None:
            raise self._ended
        if self._writer is None:
            raise Ended("", "the connection is closed")

    def _send(self, code: int, fields: list[Writable], *, kind: int = 0) -> None:
        if self._writer is not None:
            body = encode(Described(code, fields))
            self._writer.write(_FRAME.pack(_FRAME.size + len(body), 2, kind, 0) + body)

    async def _write(self, data: bytes | memoryview) -> None:
        if self._writer is not None:
            self._writer.write(data)
            await self._writer.drain()

    def _end(self, reason: Ended) -> None:
        self._ended = self._ended or reason
        waiting = [self._settled, *(link.attached for link in self._links.values())]
        for future in waiting:
            if future is not None and not future.done():
                future.set_exception(reason)
                future.exception()  # nobody may wait for it
        self._changed.set()
        if self._writer is not None:
            self._writer.transport.abort()

    async def _beat(self, ours: float, theirs: float) -> None:
        """Send empty frames as often as the peer asks, and end the connection when it has been silent for too long."""
        loop = asyncio.get_running_loop()
        while self._writer is not None and self._ended is None:
            await asyncio.sleep(min(ours, theirs or ours) / 2)
            self._writer.write(_FRAME.pack(_FRAME.size, 2, 0, 0))
            if loop.time() - self._heard > 2 * ours:
                self._end(Ended("", f"the peer has said nothing for {2 * ours:g} s"))

    async def _read(self, reader: asyncio.StreamReader) -> None:
        """Take apart what comes, until the connection ends."""
        loop = asyncio.get_running_loop()
        held = b""
        try:
            while data := await reader.read(65_536):
                self._heard = loop.time()
                held = self._take(held + data if held else data)
        except (OSError, ValueError) as error:
            self._end(Ended("", str(error) or type(error).__name__))
            return
        self._end(Ended("", "the peer has closed the connection"))

    def _take(self, data: bytes) -> bytes:
        at = 0
        while len(data) - at >= _FRAME.size:
            size, offset, _, _ = _FRAME.unpack_from(data, at)
            if not _FRAME.size <= size <= 2 * _MAX_FRAME or 4 * offset > size:
                raise ValueError(f"the peer sent a frame of {size} bytes")
            if at + size > len(data):
                break
            if size > 4 * offset:
                found = decode(data[at : at + size], 4 * offset)
                if not isinstance(found, Described):
                    raise ValueError("the peer sent a frame without a performative")
                self._handle(found)
            at += size
        return data[at:]

    def _handle(self, found: Described) -> None:
        handlers: dict[int | str, Callable[[Described], None]] = {
            ATTACH: self._attached,
            FLOW: self._flowed,
            DISPOSITION: self._disposed,
            DETACH: self._detached,
        }
        if found.code == CLOSE:
            self._send(CLOSE, [])
            self._end(_ended(found, 0, "connection"))
        elif found.code == END:
            self._end(_ended(found, 0, "session"))
        elif (handle := handlers.get(found.code)) is not None:
            handle(found)

    def _of(self, handle: int | None) -> Link | None:
        return next((link for link in self._links.values() if link.handle == handle), None)

    def _attached(self, found: Described) -> None:
        link = next((one for one in self._links.values() if found.field(0) == f"bifrost-{one.handle}"), None)
        # without a target it is a refusal, whose reason a detach tells
        if link is not None and not link.attached.done() and found.field(6) is not None:
            link.largest = found.field(10) or 0
            link.attached.set_result(None)

    def _flowed(self, found: Described) -> None:
        begins = found.field(0)
        self._window = ((begins or 0) + (found.field(1) or 0) - self._frames) % _SERIAL
        if (link := self._of(found.field(4))) is not None:
            link.credit = max(0, ((found.field(5) or 0) + (found.field(6) or 0) - link.sent + 2**31) % _SERIAL - 2**31)
        if found.field(9):
            self._send(FLOW, [Uint(0), Uint(_WINDOW), Uint(self._frames), Uint(_WINDOW)])
        self._changed.set()

    def _disposed(self, found: Described) -> None:
        if not found.field(0):
            return  # of deliveries to us, of which there are none
        first = found.field(1) or 0
        last = found.field(2) if found.field(2) is not None else first
        state = found.field(4) if isinstance(found.field(4), Described) else Described(_ACCEPTED, [])
        if state.code not in range(_ACCEPTED, _ACCEPTED + 4):
            return  # received so far, which is no outcome
        span = (last - first) % _SERIAL
        known = (
            range(first, first + span + 1) if first + span < _SERIAL and span < len(self._outcomes) else self._outcomes
        )
        for number in list(known):
            if self._outcomes.get(number, state) is None and (number - first) % _SERIAL <= span:
                self._outcomes[number] = state
                self._waiting -= 1
        if not self._waiting and self._settled is not None and not self._settled.done():
            self._settled.set_result(None)
        if not found.field(3):
            self._send(DISPOSITION, [False, Uint(first), Uint(last), True])

    def _detached(self, found: Described) -> None:
        link = self._of(found.field(0))
        if link is not None:
            self._end(_ended(found, 2, f"link to {link.address}"))
