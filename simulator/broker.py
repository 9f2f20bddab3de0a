"""An MQTT 3.1.1 broker for demonstrations: amqtt, made to keep what a persistent session is owed.

amqtt by itself forgets three things that a gateway may count on, and this broker does not:

- messages for a persistent session that is away are kept for anonymous clients too (MQTT 3.1.1 §3.1.2.4);
- a QoS 1 message that is not acknowledged within 5 s, or whose connection breaks, stays owed and is sent again (§4.4);
- what was kept is delivered as an ordinary message, without the RETAIN flag (§3.3.1.3).

Everything is in memory and everybody is let in: for a loopback interface only.
"""

import asyncio
import contextlib
import weakref
from typing import Any

from amqtt.broker import Broker as AmqttBroker
from amqtt.errors import AMQTTError, BrokerError
from amqtt.mqtt.protocol.broker_handler import BrokerProtocolHandler
from amqtt.mqtt.protocol.handler import OUTGOING
from amqtt.plugins.base import BaseAuthPlugin
from amqtt.session import Session
from typing_extensions import override

from simulator.listen import check


class LetIn(BaseAuthPlugin):  # type: ignore[misc]  # amqtt has no types
    """Accepts every client, and as somebody: amqtt keeps nothing for those whom it calls anonymous."""

    async def authenticate(self, *, session: Session) -> bool:
        """Say yes."""
        session.is_anonymous = False
        return True


class _Handler(BrokerProtocolHandler):  # type: ignore[misc]
    """One connection, with QoS 1 deliveries that stay owed until they are acknowledged."""

    @override
    async def _handle_qos1_message_flow(self, app_message: Any) -> None:
        if app_message.direction != OUTGOING:
            await super()._handle_qos1_message_flow(app_message)
            return
        session = self.session
        if session is None:
            raise AMQTTError("the connection has no session")
        number = app_message.packet_id
        session.inflight_out.setdefault(number, app_message)
        waiter: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._puback_waiters[number] = waiter
        packet = app_message.build_publish_packet(dup=app_message.publish_packet is not None)
        app_message.publish_packet = packet
        try:
            await self._send_packet(packet)
            app_message.puback_packet = await waiter
            session.inflight_out.pop(number, None)
        finally:
            self._puback_waiters.pop(number, None)

    @override
    async def _retry_deliveries(self) -> None:
        """Send again what is owed, without waiting here for the acknowledgements."""
        session = self.session
        owed = list(session.inflight_out.values()) if session is not None else []
        self._owed = [asyncio.create_task(self._deliver(message)) for message in owed]

    async def _deliver(self, message: Any) -> None:
        with contextlib.suppress(asyncio.CancelledError, AMQTTError, OSError):
            await self._handle_message_flow(message)


class _Broker(AmqttBroker):  # type: ignore[misc]
    """amqtt's broker with `_Handler` and honest redelivery.

    Attributes:
        writers: Of all connections that may still be open.
        tasks: One for each connection that is served.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config)
        self.writers: weakref.WeakSet[asyncio.StreamWriter] = weakref.WeakSet()
        self.tasks: set[asyncio.Task[Any]] = set()

    @override
    async def stream_connected(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, listener_name: str
    ) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  (a coroutine runs in a task)
        self.tasks.add(task)
        self.writers.add(writer)
        try:
            await super().stream_connected(reader, writer, listener_name)
        finally:
            self.tasks.discard(task)
            writer.close()

    @override
    async def _handle_client_session(
        self, reader: Any, writer: Any, client_session: Any, handler: Any, server: Any, listener_name: str
    ) -> None:
        own = _Handler(self.plugins_manager, loop=self._loop)
        await super()._handle_client_session(reader, writer, client_session, own, server, listener_name)

    @override
    async def _publish_session_retained_messages(self, session: Any) -> None:
        handler = self._get_handler(session)
        kept = session.retained_messages
        while handler is not None and not kept.empty():
            message = kept.get_nowait()
            task = asyncio.ensure_future(handler.mqtt_publish(message.topic, message.data, message.qos, retain=False))
            self._tasks_queue.append(task)


class Broker:
    """The broker. Use as ``async with``; `url` is known then.

    Args:
        host: Address to listen on.
        port: TCP port; 0 takes a free one.

    Raises:
        OSError: On entering: the port cannot be listened on.
    """

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self.url = ""
        self._host, self._port = host, port
        self._broker: _Broker | None = None

    async def __aenter__(self) -> "Broker":
        check(self._host, self._port)
        broker = _Broker(
            {
                "listeners": {"default": {"type": "tcp", "bind": f"{self._host}:{self._port}"}},
                "plugins": {f"{LetIn.__module__}.{LetIn.__qualname__}": {}},
            }
        )
        try:
            await broker.start()
        except BrokerError as error:
            raise OSError(str(error)) from error
        self._broker = broker
        listener = broker._servers["default"].instance  # noqa: SLF001  (the only way to learn a port that was 0)
        self.url = f"mqtt://{self._host}:{listener.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        broker = self._broker
        if broker is not None:
            listener = broker._servers["default"].instance  # noqa: SLF001
            listener.close()
            await _end(broker)  # first, because amqtt's shutdown can wait for ever for a connection in use
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(broker.shutdown(), 3.0)
            await _end(broker)


async def _end(broker: _Broker) -> None:
    """End all connections."""
    for writer in list(broker.writers):
        writer.transport.abort()
    if broker.tasks:
        await asyncio.wait(broker.tasks, timeout=2.0)
    await asyncio.sleep(0)  # the loop closes aborted sockets in its next round
