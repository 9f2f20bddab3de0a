"""MQTT over WebSocket (MQTT 5.0 §6): a transport for an asyncio protocol that speaks through frames of another one.

The library `websockets` decides what frames mean; its bytes go over the real transport, and what it hands out goes to the
protocol as if it had come from a socket.
"""

import asyncio
import logging
from typing import Any, Final

from typing_extensions import override

_log: Final = logging.getLogger(__name__)
_SUBPROTOCOL: Final = "mqtt"
_MAX_SIZE: Final = 5 + 268_435_455  # the largest packet of MQTT; what is kept of one the session decides


class WebSocketTransport(asyncio.Transport, asyncio.Protocol):
    """What stands between a real transport and the protocol of `make`.

    Attributes:
        opened: Done when the server has agreed; its exception, a ConnectionError, says why it did not.
    """

    def __init__(self, inner: asyncio.Protocol, url: str) -> None:
        """A transport that is the protocol of the real one.

        Args:
            inner: The protocol that speaks MQTT.
            url: For example ``wss://broker:443/mqtt``.
        """
        super().__init__()
        from websockets.client import ClientProtocol
        from websockets.typing import Subprotocol
        from websockets.uri import parse_uri

        self._inner = inner
        self._frames: Final = ClientProtocol(
            parse_uri(url), subprotocols=[Subprotocol(_SUBPROTOCOL)], max_size=_MAX_SIZE, logger=_log
        )
        self._outer: asyncio.Transport | None = None
        self.opened: Final[asyncio.Future[None]] = asyncio.get_running_loop().create_future()
        self.opened.add_done_callback(lambda future: future.exception())  # nobody may be waiting any more

    # the real transport's protocol

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101  (create_connection gives no other)
        self._outer = transport
        self._frames.send_request(self._frames.connect())
        self._push()

    @override
    def data_received(self, data: bytes) -> None:
        from websockets.frames import CloseCode, Frame, Opcode
        from websockets.protocol import State

        self._frames.receive_data(data)
        events: list[Any] = self._frames.events_received()
        if not self.opened.done():
            self._agree(events)
        frames = [one for one in events if isinstance(one, Frame)]
        if any(one.opcode is Opcode.TEXT for one in frames):
            self._frames.fail(CloseCode.UNSUPPORTED_DATA, "text is not MQTT")
        payloads = [one.data for one in frames if one.opcode in {Opcode.BINARY, Opcode.CONT}]
        self._push()
        if payloads:
            self._inner.data_received(b"".join(payloads))
        if self._outer is not None and self._frames.state is not State.OPEN and self.opened.done():
            self._outer.close()  # the server said good-bye, or what is no frame

    def _agree(self, events: list[Any]) -> None:
        """Take the answer to the handshake out of `events`."""
        error = self._frames.handshake_exc
        if error is None and events and self._frames.subprotocol != _SUBPROTOCOL:
            error = ConnectionError("it does not offer the subprotocol mqtt")
        if error is not None:
            self.opened.set_exception(ConnectionError(f"no WebSocket for MQTT: {error}"))
            self.abort()
        elif events:
            events.pop(0)
            self.opened.set_result(None)
            self._inner.connection_made(self)

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        if not self.opened.done():
            self.opened.set_exception(ConnectionError(f"no WebSocket for MQTT: {exc or 'the connection was closed'}"))
        elif self.opened.exception() is None:
            self._inner.connection_lost(exc or self._frames.parser_exc)

    @override
    def pause_writing(self) -> None:
        self._inner.pause_writing()

    @override
    def resume_writing(self) -> None:
        self._inner.resume_writing()

    # the protocol's transport

    @override
    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        if self._outer is not None:
            self._outer.set_write_buffer_limits(high, low)

    def _push(self) -> None:
        """Send what the library has to say."""
        if self._outer is None:
            return
        for data in self._frames.data_to_send():
            if data:
                self._outer.write(data)
            else:
                self._outer.close()

    @override
    def write(self, data: "bytes | bytearray | memoryview[Any]") -> None:
        from websockets.protocol import State

        if self._frames.state is State.OPEN:
            self._frames.send_binary(bytes(data))
            self._push()

    @override
    def close(self) -> None:
        from websockets.protocol import State

        if self._frames.state is State.OPEN:
            self._frames.send_close()
            self._push()
        if self._outer is not None:
            self._outer.close()

    @override
    def abort(self) -> None:
        if self._outer is not None:
            self._outer.abort()

    @override
    def is_closing(self) -> bool:
        return self._outer is None or self._outer.is_closing()

    @override
    def pause_reading(self) -> None:
        if self._outer is not None:
            self._outer.pause_reading()

    @override
    def resume_reading(self) -> None:
        if self._outer is not None:
            self._outer.resume_reading()
