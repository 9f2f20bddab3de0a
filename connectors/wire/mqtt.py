"""An MQTT session driven by asyncio: paho for what is rare, a packet walker for PUBLISH.

paho-mqtt encodes and decodes CONNECT, CONNACK, SUBSCRIBE, SUBACK, UNSUBSCRIBE and DISCONNECT; it is handed a socket that
is really an asyncio transport, so nothing here blocks and no thread is started. PUBLISH packets go past paho: `walk` takes
all of them out of one network read, and the acknowledgements of many leave in one write. PUBREL goes past it too, because
paho would answer before the journal knows. Keep-alive is the session's own: paho's would break a connection whose reading
is paused. What a target sends goes past it as well: packets made in bulk leave through an `Outbox`.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from typing_extensions import override

from connectors.settings import TlsSettings
from connectors.wire.mqtt_outbox import FIRST_ID, Outbox
from connectors.wire.mqtt_outgoing import MAX_PACKET, Answers, Outgoing, take_answers
from connectors.wire.mqtt_packets import (
    KEPT_OF_OVERSIZE,
    PUBREC,
    MalformedPacketError,
    Publishes,
    acknowledgements,
    beginning,
    packet_bounds,
    released,
    walk,
)
from connectors.wire.mqtt_settings import Granted, SessionSettings, endpoint_address, websocket_url
from connectors.wire.mqtt_websocket import WebSocketTransport
from connectors.wire.tls import tls_context

if TYPE_CHECKING:
    from paho.mqtt.client import Client

_PINGREQ = b"\xc0\x00"
_TAKEN_OVER: Final = 0x8E  # reason code of a DISCONNECT
_ANSWERS: Final = frozenset({0x40, 0x50, 0x70})  # PUBACK, PUBREC, PUBCOMP
_WRITE_BUFFER: Final = 256 * 1024  # bytes that wait to be sent, above which an outbox sends no more
_GOOD_BYE: Final = 0.5  # seconds in which a broker hangs up when it was told good-bye
_PLENTY = 128 * 1024  # bytes of a read after which the next is not put off
_REST = 0.001, 0.020  # seconds between two reads of a busy broker, least and most: a read costs more than its messages
_REST_PER_BYTE = 2e-6  # so that a broker that sends less than 500 kB/s is read at the shortest pace
_REST_PER_BYTE_AWAITED = 5e-7  # of messages whose acknowledgement it may wait for before it sends the next


class RefusedError(ConnectionError):
    """The broker refused the connection or every subscription.

    Attributes:
        code: The reason code of CONNACK, as in MQTT 5; None where it is another refusal.
    """

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code


class DismissedError(ConnectionError):
    """The broker ended the connection and said why (MQTT 5).

    Attributes:
        code: The reason code of its DISCONNECT.
    """

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class ClosedError(ConnectionError):
    """The connection ended without a word of the broker."""


class TakenOverError(ConnectionError):
    """Somebody else connected with this client id (MQTT 5)."""


class _Link:
    """The socket that paho believes it has."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.inbox = bytearray()

    def recv(self, buffer_size: int) -> bytes:
        if not self.inbox:
            raise BlockingIOError
        taken = bytes(self.inbox[:buffer_size])
        del self.inbox[:buffer_size]
        return taken

    def send(self, buffer: bytes | bytearray) -> int:
        self._transport.write(bytes(buffer))
        return len(buffer)

    def close(self) -> None:
        """The session closes its connection."""

    def fileno(self) -> int:
        return -1

    def setblocking(self, flag: bool) -> None:
        pass


class MqttSession(asyncio.Protocol):
    """One connection of one MQTT session.

    Attributes:
        lost: Done with the reason, a ConnectionError, when the connection is gone; never done otherwise.
        client: The paho client, for what this class does not wrap.
        heard: When the broker last sent anything, on the loop's clock: until then nothing that it sent was lost.
        confirmed: How many of the PUBACKs given to `acknowledge` the broker is known to have worked off.
        outbox: What is sent in bulk, see `deliver`.
        granted: What the broker allows, known when `open` is done.
    """

    def __init__(
        self,
        settings: SessionSettings,
        on_session: Callable[[bool], None],
        on_read: Callable[[Publishes, list[int]], None],
    ) -> None:
        """Prepare a session; `open` connects.

        Args:
            settings: How to connect.
            on_session: Called when the broker has accepted, with whether it had the session; before any message.
            on_read: Called with the messages of one network read, and the packet ids that it released (PUBREL).
        """
        self._settings = settings
        self._on_session = on_session
        self._on_read = on_read
        self._releases: list[int] = []
        self._loop = asyncio.get_running_loop()
        self.lost: Final[asyncio.Future[None]] = self._loop.create_future()
        self.lost.add_done_callback(lambda future: future.exception())  # nobody may be waiting any more
        self._accepted: asyncio.Future[bool] = self._loop.create_future()
        self._answers: dict[int, asyncio.Future[list[Any]]] = {}
        self._transport: asyncio.Transport | None = None
        self._link: _Link | None = None
        self._chunks: list[bytes] = []
        self._held = 0
        self._wanted = 0
        self._skip = 0
        self._paused = False
        self._rest: asyncio.TimerHandle | None = None
        self._closing = False
        self.heard = self._resumed = self._loop.time()
        self._beat: asyncio.TimerHandle | None = None
        self._acknowledged = 0
        self._pings: deque[tuple[int, asyncio.Future[None] | None]] = deque()
        self._full = False
        self.confirmed = 0
        self.outbox: Final = Outbox(self._send)
        self.granted = Granted()
        self.client = self._make_client()

    def _make_client(self) -> "Client":
        from paho.mqtt.client import Client, MQTTv5, MQTTv311
        from paho.mqtt.enums import CallbackAPIVersion

        session = self

        class TransportClient(Client):
            """A paho client that is given its connection."""

            @override
            def _create_socket(self) -> Any:
                return session._link

        settings = self._settings
        client = TransportClient(
            CallbackAPIVersion.VERSION2,
            client_id=settings.client_id,
            clean_session=None if settings.v5 else settings.clean,
            protocol=MQTTv5 if settings.v5 else MQTTv311,
            reconnect_on_failure=False,
        )
        if settings.username is not None:
            client.username_pw_set(settings.username, settings.password)
        client.on_connect = self._connack
        client.on_subscribe = self._suback
        client.on_unsubscribe = self._suback
        client.on_disconnect = self._disconnected
        return client

    async def open(self) -> bool:
        """Connect and wait for the broker's answer.

        Returns:
            Whether the broker had the session.

        Raises:
            ConnectionError: Nobody answers there, or the answer is no.
        """
        from paho.mqtt.packettypes import PacketTypes
        from paho.mqtt.properties import Properties

        settings = self._settings
        host, port, secure = endpoint_address(settings.endpoint)
        tls = settings.tls or TlsSettings.model_validate({})
        extra: dict[str, Any] = {}
        if settings.v5:
            properties: Any = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.SessionExpiryInterval = 0 if settings.clean else min(settings.session_expiry, 0xFFFFFFFF)
            properties.ReceiveMaximum = settings.receive_maximum
            # no MaximumPacketSize: a broker drops what is larger without a word, and a reject row is wanted instead
            extra = {"clean_start": settings.clean, "properties": properties}
        self.client.connect_async(host, port, settings.keepalive, **extra)
        try:
            async with asyncio.timeout(settings.connect_timeout):
                context = tls_context(tls) if secure else None
                name = (tls.server_name or host) if secure else None
                url = websocket_url(settings.endpoint)
                if url is None:
                    await self._loop.create_connection(lambda: self, host, port, ssl=context, server_hostname=name)
                else:
                    socket = self._transport = WebSocketTransport(self, url)
                    await self._loop.create_connection(lambda: socket, host, port, ssl=context, server_hostname=name)
                    await socket.opened
                self.client.reconnect()
                return await self._accepted
        except TimeoutError:
            self._fail(ConnectionError(f"no answer within {settings.connect_timeout:g} s"))
            raise ConnectionError(f"{settings.endpoint}: no answer within {settings.connect_timeout:g} s") from None
        except OSError as error:
            self._fail(ConnectionError(str(error)))
            message = f"{settings.endpoint}: {error}"
            if isinstance(error, RefusedError):
                raise RefusedError(message, error.code) from error
            raise ConnectionError(message) from error
        except asyncio.CancelledError:
            self._fail(ConnectionError("cancelled"))
            raise

    async def subscribe(self, filters: Sequence[tuple[str, int]]) -> list[Any]:
        """Subscribe; retained messages are sent for subscriptions that are new (3.1.1: for all).

        Args:
            filters: Topic filters and their QoS.

        Returns:
            A paho ReasonCode for each; `is_failure` when refused, else `value` is the granted QoS.
        """
        from paho.mqtt.subscribeoptions import SubscribeOptions

        if not self._settings.v5:
            return await self._answer(self.client.subscribe(list(filters)))
        new_only = SubscribeOptions.RETAIN_SEND_IF_NEW_SUB
        options = [
            (name, SubscribeOptions(qos=qos, retainAsPublished=False, retainHandling=new_only)) for name, qos in filters
        ]
        return await self._answer(self.client.subscribe(options))

    async def unsubscribe(self, filters: Sequence[str]) -> list[Any]:
        """Unsubscribe; returns a paho ReasonCode for each filter (MQTT 5)."""
        return await self._answer(self.client.unsubscribe(list(filters)))

    async def _answer(self, sent: tuple[Any, int | None]) -> list[Any]:
        code, mid = sent
        if mid is None:
            raise ConnectionError(f"not connected: {code!r}")
        answer: asyncio.Future[list[Any]] = self._loop.create_future()
        self._answers[mid] = answer
        try:
            async with asyncio.timeout(self._settings.connect_timeout):
                futures: set[asyncio.Future[Any]] = {answer, self.lost}
                await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError:
            raise ConnectionError("the broker does not answer a subscription") from None
        finally:
            self._answers.pop(mid, None)
        if not answer.done():
            self.lost.result()
        return answer.result()

    def acknowledge(self, words: Sequence[int]) -> None:
        """Send acknowledgements, in this order, in one write; nothing when the connection is gone.

        Args:
            words: For each a packet id with the kind of packet, as in ``PUBACK | packet_id``.
        """
        if words and self._transport is not None and not self.lost.done():
            self._acknowledged += sum([word < PUBREC for word in words])
            self._transport.write(acknowledgements(words))

    def ping(self) -> None:
        """Send a PINGREQ, unless one is under way; its answer proves that the broker has worked off the PUBACKs before."""
        if not self._pings:
            self._send_ping()

    def _send_ping(self, answer: "asyncio.Future[None] | None" = None) -> None:
        if self._transport is not None and not self.lost.done():
            self._pings.append((self._acknowledged, answer))
            self._transport.write(_PINGREQ)

    async def deliver(self, packets: Outgoing, qos: int, patience: float) -> dict[int, int]:
        """Send messages and wait until the broker has taken all of them.

        At QoS 0 the broker says nothing of messages: it answers a PINGREQ that was sent behind them, which proves that it
        has read them, and no more.

        Args:
            packets: The messages.
            qos: Their quality of service.
            patience: Seconds that the broker may be silent.

        Returns:
            The reason codes of those that it refused, by their number in `packets`.

        Raises:
            ConnectionError: The connection is lost.
            TimeoutError: The broker was silent for that long.
        """
        refused = await self.outbox.deliver(packets, qos, patience)
        if not qos and len(packets):
            await self._answered_ping(patience)
        return refused

    async def _answered_ping(self, patience: float) -> None:
        answer: asyncio.Future[None] = self._loop.create_future()
        self._send_ping(answer)
        futures: set[asyncio.Future[Any]] = {answer, self.lost}
        await asyncio.wait(futures, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
        if self.lost.done():
            self.lost.result()
        if not answer.done():
            raise TimeoutError

    def _send(self, data: memoryview | bytes) -> bool:
        """Send bytes of the outbox; says whether there is room for more."""
        if self._transport is not None and not self.lost.done():
            self._transport.write(data)
        return not self._full

    def publish(self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False) -> None:
        """Send a message; at QoS 1 the broker's answer is taken, but nothing is sent again on another connection."""
        self.client.publish(topic, payload, qos=qos, retain=retain)
        self._push()

    def pause(self) -> None:
        """Stop reading; keep-alive goes on."""
        if not self._paused and self._transport is not None and not self._transport.is_closing():
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read again."""
        if self._paused and self._transport is not None and not self._transport.is_closing():
            self._paused = False
            self._resumed = self._loop.time()
            if self._rest is None:
                self._transport.resume_reading()

    def _take_rest(self, seconds: float) -> None:
        """Read no more for a moment, in which messages gather."""
        if self._rest is None and self._transport is not None and not self._transport.is_closing():
            self._rest = self._loop.call_later(min(max(seconds, _REST[0]), _REST[1]), self._end_rest)
            self._transport.pause_reading()

    def _end_rest(self) -> None:
        self._rest = None
        if not self._paused and self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def fail(self, error: Exception) -> None:
        """Break the connection off; the broker keeps what was not acknowledged."""
        self._fail(error)

    async def close(self) -> None:
        """Say good-bye and disconnect; the session stays at the broker unless it is clean."""
        self._closing = True
        if self._transport is not None and not self.lost.done():
            self.client.disconnect()
            self._push()
            # closing with something unread resets the connection, and the broker, which then may not see the
            # good-bye, would publish the will
            self._transport.resume_reading()
            await asyncio.wait([self.lost], timeout=_GOOD_BYE)
            self._transport.close()
        self._fail(ConnectionError("closed"))

    # asyncio.Protocol

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101  (create_connection gives no other)
        self._transport = transport
        self._link = _Link(transport)
        transport.set_write_buffer_limits(high=_WRITE_BUFFER)
        self.heard = self._loop.time()

    @override
    def pause_writing(self) -> None:
        self._full = True

    @override
    def resume_writing(self) -> None:
        self._full = False
        self.outbox.writable()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        error = ClosedError(f"connection lost: {exc}" if exc else "the broker closed the connection")
        error.__cause__ = exc
        self._fail(error)

    @override
    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        now, size = self._loop.time(), len(data)
        busy = now - self.heard < 2 * _REST[1] and size < _PLENTY
        self.heard = now
        if self._skip:
            cut = min(self._skip, len(data))
            self._skip -= cut
            data = data[cut:]
        if self._chunks:
            self._chunks.append(data)
            self._held += len(data)
            if self._held < self._wanted:
                return
            data = b"".join(self._chunks)
            self._chunks = []
        found = Publishes()
        try:
            rest = self._take(data, found)
        except ConnectionError as error:
            self._fail(error)
            rest = b""
        if busy and not self.outbox.in_flight:
            self._take_rest(size * (_REST_PER_BYTE_AWAITED if any(found.packet_ids) else _REST_PER_BYTE))
        if found or self._releases:
            releases, self._releases = self._releases, []
            self._on_read(found, releases)
        if rest and not self.lost.done():
            self._chunks = [rest]
            self._held = len(rest)

    def _take(self, data: bytes, found: Publishes) -> bytes:
        """Take the messages out of `data`, and give the rest to paho; returns what is not complete yet."""
        at, v5 = 0, self._settings.v5
        while not self.lost.done():
            if self._accepted.done():
                at = walk(data, at, v5, found)
            elif data[at : at + 1] and data[at] & 0xF0 != 0x20:
                raise MalformedPacketError("what answers does not speak MQTT: its first packet is no CONNACK")
            if self._accepted.done() and at < len(data) and data[at] & 0xF0 in _ANSWERS:
                answers, at = take_answers(data, at)
                for some in answers:
                    self._answered(some)
                if answers:
                    continue
            bounds = packet_bounds(data, at) if at < len(data) else None
            if bounds is None:
                self._wanted = len(data) - at + 1
                break
            start, stop = bounds
            if stop > len(data):
                size, limit = stop - at, self._settings.max_packet
                if size > limit and data[at] & 0xF0 != 0x30:
                    raise MalformedPacketError(f"a control packet of {size} bytes")
                if size > limit and len(data) - start >= KEPT_OF_OVERSIZE:
                    self._skip = stop - len(data)
                    found.add(beginning(data, at, start, v5))
                    return b""
                self._wanted = size if size <= limit else start - at + KEPT_OF_OVERSIZE
                break
            self._control(data[at:stop])
            at = stop
        return data[at:]

    def _answered(self, answers: Answers) -> None:
        """Answers to what was published: in bulk, or by paho, which has the lowest packet ids."""
        if min(answers.packet_ids) < FIRST_ID:
            pairs = list(zip(answers.packet_ids, answers.codes, strict=True))
            for packet_id, code in (pair for pair in pairs if pair[0] < FIRST_ID):
                rest = bytes([code]) if self._settings.v5 and code else b""
                self._control(bytes([answers.kind, 2 + len(rest)]) + packet_id.to_bytes(2, "big") + rest)
            pairs = [pair for pair in pairs if pair[0] >= FIRST_ID]
            answers = Answers(answers.kind, [one for one, _ in pairs], bytes(code for _, code in pairs))
        if answers.packet_ids:
            self.outbox.take(answers)

    def _control(self, packet: bytes) -> None:
        kind = packet[0] & 0xF0
        if kind == 0xD0:
            if self._pings:
                self.confirmed, answer = self._pings.popleft()
                if answer is not None and not answer.done():
                    answer.set_result(None)
            return
        if kind == 0x60:
            self._releases.append(released(packet))
            return
        if self._link is not None:
            self._link.inbox += packet
        code = self.client.loop_read()
        self._push()
        if code:
            self._fail(MalformedPacketError(f"the broker sent what is not MQTT: {code!r}"))

    def _push(self) -> None:
        while self.client.want_write():
            if self.client.loop_write():
                break

    def _fail(self, error: Exception) -> None:
        if self._beat is not None:
            self._beat.cancel()
            self._beat = None
        if self._rest is not None:
            self._rest.cancel()
            self._rest = None
        if not self.lost.done():
            self.lost.set_exception(error)
        self.outbox.fail(error)
        if not self._accepted.done():
            self._accepted.set_exception(error)
            self._accepted.exception()
        if self._transport is not None and not self._closing:
            self._transport.abort()
        self._chunks = []

    def _tick(self) -> None:
        keepalive = self.client.keepalive
        self._beat = self._loop.call_later(keepalive / 2, self._tick)
        if not self._paused and self._loop.time() - max(self.heard, self._resumed) > 1.5 * keepalive:
            self._fail(ConnectionError(f"the broker has been silent for {1.5 * keepalive:g} s"))
            return
        self._send_ping()

    # paho's callbacks

    def _connack(self, _client: "Client", _userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        if self._accepted.done():
            return
        if reason.is_failure:
            self._fail(RefusedError(f"the broker refused the connection: {reason}", int(reason.value)))
            return
        self.granted = Granted(
            receive_maximum=getattr(properties, "ReceiveMaximum", 65_535),
            max_qos=getattr(properties, "MaximumQoS", 2),
            retain=bool(getattr(properties, "RetainAvailable", 1)),
            max_packet=getattr(properties, "MaximumPacketSize", MAX_PACKET),
        )
        if self.client.keepalive:
            self._beat = self._loop.call_later(self.client.keepalive / 2, self._tick)
        self._accepted.set_result(bool(flags.session_present))
        self._on_session(bool(flags.session_present))

    def _suback(self, _client: "Client", _userdata: Any, mid: int, reasons: Any, _properties: Any) -> None:
        answer = self._answers.pop(mid, None)
        if answer is not None and not answer.done():
            answer.set_result(list(reasons) if isinstance(reasons, list) else [reasons])

    def _disconnected(self, _client: "Client", _userdata: Any, flags: Any, reason: Any, _properties: Any) -> None:
        if flags.is_disconnect_packet_from_server and reason.value == _TAKEN_OVER:
            self._fail(TakenOverError(f"another client connected with the client id `{self._settings.client_id}`"))
        elif flags.is_disconnect_packet_from_server:
            self._fail(DismissedError(f"the broker ended the connection: {reason}", int(reason.value)))
