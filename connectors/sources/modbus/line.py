"""The connection to a device or gateway: requests one after the other, each with its answer or an error in time.

pymodbus makes network connections and computes RTU checksums. Requests and replies stay bytes: a PDU object a request would
cost more than everything else together, and the framing here takes no reply that is not exactly the one asked for. As long as
answers are as they should be, the next request leaves in the same step that took the answer before it.
"""

import asyncio
import socket
from collections.abc import Sequence
from typing import Final, NamedTuple, cast

from pymodbus.framer import FramerRTU
from pymodbus.transport import CommParams, CommType, ModbusProtocol
from typing_extensions import override

from connectors.sources.modbus.config import ModbusConfig
from connectors.sources.modbus.protocol import (
    AsciiFraming,
    Ask,
    BadReplyError,
    Framing,
    Identify,
    RefusedError,
    RtuFraming,
    TcpFraming,
)

_STRAY_LIMIT: Final = 64  # late and foreign frames in a row; more is not a line that one can talk on
_COMM: Final = {"tcp": CommType.TCP, "tls": CommType.TLS, "udp": CommType.UDP, "serial": CommType.SERIAL}


class Answers(NamedTuple):
    """What came of some requests.

    Attributes:
        data: The data of the first replies, in the order of the requests.
        failure: What came of the request after those; None when all were answered.
    """

    data: list[bytes]
    failure: Exception | None


class Line(ModbusProtocol):
    """A connection on which units are asked in turn.

    Attributes:
        frames: Well-formed replies received so far.
        lost: Why there is no connection any more; None while there is one.
    """

    def __init__(self, config: ModbusConfig) -> None:
        at = config.at
        super().__init__(
            CommParams(
                comm_name=config.name,
                comm_type=_COMM[at.transport],
                host=at.host,
                port=at.port,
                timeout_connect=config.timeout,
                reconnect_delay=0,
                sslctx=config.tls_context() if at.transport == "tls" else None,
            ),
            is_server=False,
        )
        self.frames = 0
        self.lost: str | None = None
        self._broken = True
        self._config = config
        self._at = at
        self._timeout = config.timeout
        self._pause = config.silence
        framings: dict[str, Framing] = {
            "socket": TcpFraming(),
            "rtu": RtuFraming(FramerRTU.compute_CRC),
            "ascii": AsciiFraming(),
        }
        self._framing = framings[at.mode]
        self._window = config.in_flight if self._framing.numbered and at.transport != "udp" else 1
        self._transaction = 0
        self._stray = 0
        self._buffer = b""
        self._echo = b""  # what an adapter will give back of what was sent
        self._asks: Sequence[Ask | Identify] = ()
        self._answers: list[bytes] = []  # by request; empty where there is none yet
        self._leading = 0  # requests answered without one before them missing
        self._sent = 0  # requests sent
        self._waiting: dict[int, int] = {}  # which request has this transaction; 0 where the framing has no numbers
        self._failure: tuple[int, Exception] | None = None  # of which request
        self._doubtful: int | None = (
            None  # request whose answer has bytes behind it, and may have taken its end from them
        )
        self._done: asyncio.Future[Exception | None] | None = None
        self._deadline = self._last_start = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._quiet_until = 0.0
        self._overdue: dict[
            int, tuple[float, Ask | Identify]
        ] = {}  # units whose answer may still come, until when, and to what

    # ---------------------------------------------------------------------- connecting

    async def open(self) -> None:
        """Connect, or connect anew.

        Raises:
            OSError: No connection within the time-out.
        """
        self.abort()
        self.is_closing = False
        self._buffer, self._echo, self._stray = b"", b"", 0
        endpoint = self._config.endpoint
        try:
            if self._at.transport == "serial":
                from connectors.sources.modbus.serial_line import open_serial

                self.transport = open_serial(self.loop, self, self._at.host, self._config.serial.format)  # type: ignore[arg-type]  # it has all that an asyncio.Protocol has
            else:
                async with asyncio.timeout(self._timeout):
                    self.transport, _ = await self.call_create()
        except TimeoutError:
            raise TimeoutError(f"{endpoint}: no connection within {self._timeout:g} s") from None
        except OSError as error:
            raise ConnectionError(f"{endpoint}: {error.strerror or error}") from error
        self._broken, self.lost = False, None
        self._quiet_until = max(self._quiet_until, self.loop.time() + self._config.connect_pause)

    @property
    def broken(self) -> bool:
        """Whether what comes next might be taken for an answer and is none: open again before asking."""
        return self._broken or bool(self._buffer)

    def abort(self) -> None:
        """Drop the connection; nothing that is still on its way will arrive."""
        transport, self.transport = self.transport, None  # type: ignore[assignment]  # as pymodbus does
        self.is_closing, self._broken = True, True
        if transport is not None:
            cast("asyncio.WriteTransport", transport).abort()

    # ---------------------------------------------------------------------- asking

    async def ask(self, asked: Ask | Identify) -> bytes:
        """Send a request and return the data of its reply.

        Raises:
            RefusedError: The device or a gateway answers with an exception.
            TimeoutError: No reply in time.
            BadReplyError: Something arrived that is not the reply.
            ConnectionError: The connection is lost.
        """
        data, failure = await self.ask_all([asked])
        if failure is not None:
            raise failure
        return data[0]

    async def ask_all(self, asks: Sequence[Ask | Identify], seconds: float = 0.0) -> Answers:
        """Send requests one after the other, up to the first that fails; its error is the one that `ask` would raise.

        Args:
            asks: The requests.
            seconds: Time after which no more of them are sent, so that answers do not wait for others; 0 for one request.
        """
        if self.transport is None:
            return Answers([], ConnectionError(self.lost or f"{self._config.endpoint}: not connected"))
        self._asks, self._answers = asks, [b""] * len(asks)
        self._leading = self._sent = 0
        self._failure = self._doubtful = None
        done: asyncio.Future[Exception | None] = self.loop.create_future()
        self._done = done
        self._last_start = self.loop.time() + seconds
        self._send()
        self._timer = self.loop.call_at(self._deadline, self._expire)
        try:
            failure = await done
            return Answers(self._answers[: self._leading], failure)
        finally:
            self._done = None
            self._timer.cancel()
            if self._waiting and not self._framing.numbered:
                self._broken = True  # the answer may still come, and would be nobody's
            self._waiting.clear()

    def _send(self) -> None:
        """Send what may be sent now, or when the line has been silent for long enough."""
        now = self.loop.time()
        asked = self._asks[self._sent]
        if self._overdue:
            self._quiet_until = max(self._quiet_until, self._wait_for_late(asked, now))
        if now < self._quiet_until:
            self._deadline = self._quiet_until + self._timeout
            self.loop.call_at(self._quiet_until, self._send_after_silence, self._done)
            return
        self._deadline = now + self._timeout
        frames = b""
        for asked in self._asks[self._sent : self._sent + self._window - len(self._waiting)]:
            self._transaction = self._transaction % 0xFFFF + 1  # never 0: a reply with 0 is nobody's
            self._waiting[self._transaction if self._framing.numbered else 0] = self._sent
            self._sent += 1
            frames += self._framing.wrap(self._transaction, asked.unit_id, asked.pdu)
        if self._config.serial.echo:
            self._echo = frames
        if self._at.transport == "udp":
            cast("asyncio.DatagramTransport", self.transport).sendto(frames)
        else:
            cast("asyncio.WriteTransport", self.transport).write(frames)

    def _send_after_silence(self, done: "asyncio.Future[Exception | None] | None") -> None:
        if done is not None and done is self._done and not done.done():
            self._send()

    def _wait_for_late(self, asked: Ask | Identify, now: float) -> float:
        """Until when a unit must not be asked, because its late answer to something else could be taken for the new one."""
        until, before = self._overdue.get(asked.unit_id, (0.0, asked))
        if until <= now:
            self._overdue.pop(asked.unit_id, None)
        return until if before.pdu != asked.pdu else 0.0

    def _expire(self) -> None:
        left = self._deadline - self.loop.time()
        if left > 0:  # for one of the requests before
            self._timer = self.loop.call_at(self._deadline, self._expire)
        elif self._done is not None and not self._done.done():
            self._broken = self._broken or bool(self._buffer) or not self._framing.numbered
            if not self._framing.numbered and self._waiting:
                asked = self._asks[self._leading]
                self._overdue[asked.unit_id] = (self.loop.time() + self._timeout, asked)
            self._waiting.clear()
            self._finish(TimeoutError(f"no answer within {self._timeout:g} s"))

    def _took(self, transaction: int, data: bytes) -> None:
        self.frames += 1
        self._stray = 0
        self._doubtful = self._waiting.pop(transaction)
        self._answers[self._doubtful] = data

    def _go_on(self) -> None:
        """After what has arrived: send more, or be done."""
        if self._done is None or self._done.done():
            return
        if self._buffer and self._doubtful is not None and not self._waiting:
            self._fail(BadReplyError("bytes behind the reply", self._buffer))
            return
        before = self._leading
        leading = self._advance(self._sent)
        if leading == before and self._failure is None:
            return
        now = self.loop.time()
        self._deadline = now + self._timeout
        if self._pause:
            self._quiet_until = now + self._pause
        if self._failure is not None:
            if leading >= self._failure[0]:
                self._waiting.clear()  # their answers are late ones now, and have numbers
                self._finish(self._failure[1])
        elif leading == len(self._asks) or (now > self._last_start and not self._waiting):
            self._finish(None)
        elif now <= self._last_start and self._sent < len(self._asks) and 2 * len(self._waiting) <= self._window:
            self._send()  # several at once, and the device has others to answer until then

    def _advance(self, end: int) -> int:
        """Count the answers that none before them is missing of, up to `end`."""
        leading = self._leading
        while leading < end and self._answers[leading]:
            leading += 1
        self._leading = leading
        return leading

    def _finish(self, failure: Exception | None) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_result(failure)

    def _fail(self, error: Exception) -> None:
        self._broken = True
        self._buffer = b""
        self._waiting.clear()
        if self._done is not None and not self._done.done():
            end = self._sent if self._doubtful is None else self._doubtful
            self._leading = min(self._leading, end)
            self._finish(None if self._advance(end) == len(self._asks) else error)

    # ---------------------------------------------------------------------- what arrives

    @override
    def data_received(self, data: bytes) -> None:
        if self._broken:
            return
        if self._echo:
            data = self._without_echo(data)
        if len(self._waiting) > 1:
            self._acknowledge()
        if not self._waiting and not self._framing.numbered:  # nothing was asked: the line needs to be silent again
            self._quiet_until = self.loop.time() + self._pause
            return
        data = self._buffer + data if self._buffer else data
        for transaction, at in [*self._waiting.items()]:  # in order, as nearly always
            asked = self._asks[at]
            size = self._framing.length(asked)
            found = self._framing.plain(data if len(data) == size else data[:size], transaction, asked)
            if found is None or (not self._framing.numbered and len(data) > size):
                break
            self._took(transaction, found)
            data = data[size:]
            if not data:
                break
        self._buffer = data
        if data:
            self._unwrap()
        if not self._buffer:
            self._doubtful = None
        self._go_on()

    def _acknowledge(self) -> None:
        """Tell the device now that its answer has come: many hold back the next until then, and the system takes 40 ms (RFC 896)."""
        connection = self.transport.get_extra_info("socket")
        if connection is not None and hasattr(socket, "TCP_QUICKACK"):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    @override
    def datagram_received(self, data: bytes, addr: tuple[str, int] | None) -> None:
        self.data_received(data)
        self._buffer = b""  # a frame ends with its datagram

    def _without_echo(self, data: bytes) -> bytes:
        """What of `data` is not what this end has sent, which a two-wire adapter gives back."""
        common = min(len(data), len(self._echo))
        if data[:common] != self._echo[:common]:
            self._echo = b""
            return data
        self._echo = self._echo[common:]
        return data[common:]

    def _unwrap(self) -> None:
        """The general way to an answer: in pieces, behind others, or an exception."""
        numbered = self._framing.numbered
        while self._buffer:
            try:
                used, transaction, unit_id, pdu = self._framing.unwrap(self._buffer)
            except BadReplyError as error:
                self._fail(error)
                return
            if not used:
                return
            frame, self._buffer = self._buffer[:used], self._buffer[used:]
            at = self._waiting.get(transaction)
            if at is not None and unit_id == self._asks[at].unit_id:
                if self._buffer and not numbered:  # a reply that was cut short takes its end from what follows it
                    self._fail(BadReplyError("bytes behind the reply", self._buffer))
                    return
                self._reply(transaction, self._asks[at], pdu)
            elif unit_id in self._overdue:
                del self._overdue[unit_id]  # late; another one may be ours
            elif at is not None or not numbered:
                self._fail(BadReplyError(f"unexpected reply of unit {unit_id}", frame))
                return
            else:  # late or foreign: another one may be ours
                self._stray += 1
                if self._stray > _STRAY_LIMIT:
                    self._fail(BadReplyError("replies that nobody asked for", frame))
                    return

    def _reply(self, transaction: int, asked: Ask | Identify, pdu: bytes) -> None:
        try:
            self._took(transaction, asked.data_of(pdu))
        except (RefusedError, BadReplyError) as error:
            self.frames += 1
            self._stray = 0
            at = self._waiting.pop(transaction)
            if self._failure is None or at < self._failure[0]:
                self._failure = at, error

    @override
    def error_received(self, exc: Exception) -> None:
        self._fail(ConnectionError(f"{self._config.endpoint}: {exc}"))

    @override
    def callback_disconnected(self, exc: Exception | None) -> None:
        self.lost = f"{self._config.endpoint}: connection lost" + (f": {exc}" if exc else "")
        self._fail(ConnectionError(self.lost))

    @override
    def callback_connected(self) -> None:
        """Nothing to do: `open` waits for the connection."""

    @override
    def callback_data(self, data: bytes, addr: tuple[str, int] | None = None) -> int:  # data_received goes past it
        return len(data)

    @override
    def callback_new_connection(self) -> ModbusProtocol:
        return self  # servers only
