"""The connection to a device or gateway: one request at a time, one answer or an error within the time-out.

pymodbus makes the connection and computes RTU checksums. Requests and replies stay bytes: a PDU object a request would cost
more than everything else together, and the framing here takes no reply that is not exactly the one asked for.
"""

import asyncio
from typing import Final

from pymodbus.framer import FramerRTU
from pymodbus.transport import CommParams, CommType, ModbusProtocol
from typing_extensions import override

from connectors.sources.modbus.config import ModbusConfig
from connectors.sources.modbus.protocol import BadReplyError, Framing, RtuFraming, TcpFraming

_NONE: Final = -1  # no transaction is waited for
_STRAY_LIMIT: Final = 64  # late and foreign frames in a row; more is not a line that one can talk on


class Line(ModbusProtocol):
    """A connection on which units are asked in turn.

    Attributes:
        frames: Well-formed replies received so far.
        lost: Why there is no connection any more; None while there is one.
    """

    def __init__(self, config: ModbusConfig) -> None:
        super().__init__(
            CommParams(
                comm_name=config.name,
                comm_type=CommType.TCP,
                host=config.host,
                port=config.port,
                timeout_connect=config.timeout,
                reconnect_delay=0,
            ),
            is_server=False,
        )
        self.frames = 0
        self.lost: str | None = None
        self._broken = True
        self._endpoint = config.endpoint
        self._timeout = config.timeout
        rtu = config.endpoint.startswith("rtu")
        self._framing: Framing = RtuFraming(FramerRTU.compute_CRC) if rtu else TcpFraming()
        self._transaction = 0
        self._expected = _NONE
        self._unit_id = 0
        self._stray = 0
        self._buffer = b""
        self._answer: asyncio.Future[bytes] | None = None

    async def open(self) -> None:
        """Connect, or connect anew.

        Raises:
            OSError: No connection within the time-out.
        """
        self.abort()
        self.is_closing = False
        self._buffer, self._stray = b"", 0
        try:
            async with asyncio.timeout(self._timeout):
                self.transport, _ = await self.call_create()
        except TimeoutError:
            raise TimeoutError(f"{self._endpoint}: no connection within {self._timeout:g} s") from None
        except OSError as error:
            raise ConnectionError(f"{self._endpoint}: {error.strerror or error}") from error
        self._broken, self.lost = False, None

    @property
    def broken(self) -> bool:
        """Whether what comes next might be taken for an answer and is none: open again before asking."""
        return self._broken or bool(self._buffer)

    def abort(self) -> None:
        """Drop the connection; nothing that is still on its way will arrive."""
        transport, self.transport = self.transport, None  # type: ignore[assignment]  # as pymodbus does
        self.is_closing, self._broken = True, True
        if isinstance(transport, asyncio.WriteTransport):
            transport.abort()

    async def ask(self, unit_id: int, pdu: bytes) -> bytes:
        """Send a request and return the PDU of its reply.

        Raises:
            TimeoutError: No reply in time.
            BadReplyError: Something arrived that is not the reply.
            ConnectionError: The connection is lost.
        """
        transport = self.transport
        if not isinstance(transport, asyncio.WriteTransport):
            raise ConnectionError(self.lost or f"{self._endpoint}: not connected")
        self._transaction = self._transaction % 0xFFFF + 1  # never 0: a reply with 0 is nobody's
        self._expected, self._unit_id = self._transaction if self._framing.numbered else 0, unit_id
        answer: asyncio.Future[bytes] = self.loop.create_future()
        self._answer = answer
        transport.write(self._framing.wrap(self._transaction, unit_id, pdu))
        timer = self.loop.call_later(self._timeout, self._expire, answer)
        try:
            return await answer
        finally:
            timer.cancel()
            self._answer, self._expected = None, _NONE

    def _expire(self, answer: "asyncio.Future[bytes]") -> None:
        if not answer.done():
            self._broken = self._broken or bool(self._buffer) or not self._framing.numbered
            self._expected = _NONE
            answer.set_exception(TimeoutError(f"no answer within {self._timeout:g} s"))

    def _fail(self, error: Exception) -> None:
        self._broken = True
        self._buffer = b""
        self._expected = _NONE
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)

    @override
    def data_received(self, data: bytes) -> None:
        if self._broken:
            return
        self._buffer = self._buffer + data if self._buffer else data
        found: bytes | None = None
        while self._buffer:
            try:
                used, transaction, unit_id, pdu = self._framing.unwrap(self._buffer)
            except BadReplyError as error:
                self._fail(error)
                return
            if not used:
                break
            frame, self._buffer = self._buffer[:used], self._buffer[used:]
            if transaction == self._expected and unit_id == self._unit_id and found is None:
                found = pdu
            elif transaction == self._expected or not self._framing.numbered:
                self._fail(BadReplyError(f"unexpected reply of unit {unit_id}", frame))
                return
            else:  # late or foreign: another one may be ours
                self._stray += 1
                if self._stray > _STRAY_LIMIT:
                    self._fail(BadReplyError("replies that nobody asked for", frame))
                    return
        if found is not None and self._answer is not None and not self._answer.done():
            if self._buffer:  # a reply that was cut short takes its end from what follows it
                self._fail(BadReplyError("bytes behind the reply", self._buffer))
                return
            self._stray = 0
            self.frames += 1
            self._expected = _NONE
            self._answer.set_result(found)

    @override
    def callback_disconnected(self, exc: Exception | None) -> None:
        self.lost = f"{self._endpoint}: connection lost" + (f": {exc}" if exc else "")
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
