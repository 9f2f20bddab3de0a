"""A publisher of JSON messages for a source of the plant: one tag a message, and flat objects of many tags. QoS 1.

``<plant>/<source>/tag/<equipment>/<tag>``
    ``{"value": 18.2, "timestamp": "2026-01-31T12:00:00.000000Z", "quality": "GOOD", "unit": "m/min"}``; a bad reading has
    value null and quality BAD.
``<plant>/<source>/flat/<equipment>``
    ``{"timestamp": 1769860800000, "conveyor_speed": 18.2, "state": 2, …}``; a bad reading is null.

Nothing is published while the broker is away or more than a thousand messages wait for their PUBACK: the readings keep
their numbers for later. What was published and not acknowledged goes out again after a reconnect, as QoS 1 demands.

Faults: `pause` / `resume`, `set_bad`, `Session.drop` (the socket dies without DISCONNECT), `Session.publish` for hostile content.
"""

import asyncio
import contextlib
import json
import socket
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlsplit

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode

from simulator.ledger import ACKED, SENT, Ledger
from simulator.pace import Pace
from simulator.plant import Group, MqttField, Plant, Source, value

MOST_UNACKNOWLEDGED: Final = 1000


class Session:
    """A connection to a broker that comes back by itself. Callbacks run in the event loop that called `start`.

    Args:
        url: ``mqtt://[user:password@]host[:port]``.
        client_id: MQTT client id.
        on_connect: Called after each CONNACK.
        on_message: Called with topic and payload of what arrives on a subscription.
        will: Gives topic and payload of the will of the next connection; called before each CONNECT.

    Attributes:
        acknowledged: (message id, µs since the epoch) of each PUBACK, in order, for the owner to take out.
    """

    def __init__(
        self,
        url: str,
        client_id: str,
        *,
        on_connect: Callable[[], None] | None = None,
        on_message: Callable[[str, bytes], None] | None = None,
        will: Callable[[], tuple[str, bytes]] | None = None,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme != "mqtt" or not parts.hostname:
            raise ValueError(f"{url}: a broker's address is mqtt://host:port")
        self._host, self._port = parts.hostname, parts.port or 1883
        self._on_connect, self._on_message, self._will = on_connect, on_message, will
        self._loop: asyncio.AbstractEventLoop | None = None
        self._online = asyncio.Event()
        self.acknowledged: deque[tuple[int, int]] = deque()
        client = paho.Client(CallbackAPIVersion.VERSION2, client_id=client_id, clean_session=True)
        if parts.username:
            client.username_pw_set(parts.username, parts.password)
        client.max_inflight_messages_set(200)
        client.reconnect_delay_set(1, 5)
        client.on_connect = self._connected
        client.on_disconnect = self._disconnected
        client.on_publish = self._published
        client.on_message = self._received
        self._client = client

    @property
    def connected(self) -> bool:
        """Whether the broker has accepted the connection and it has not been seen to fail since."""
        return self._online.is_set()

    async def start(self, timeout: float = 10.0) -> None:  # noqa: ASYNC109
        """Connect.

        Raises:
            TimeoutError: The broker did not accept within `timeout` seconds.
        """
        self._loop = asyncio.get_running_loop()
        self._set_will()
        self._client.connect_async(self._host, self._port, keepalive=20)
        self._client.loop_start()
        try:
            await asyncio.wait_for(self._online.wait(), timeout)
        except TimeoutError:
            await self.stop()
            raise TimeoutError(f"no MQTT broker answers at {self._host}:{self._port}") from None

    async def stop(self) -> None:
        """Disconnect in order (the will is not sent)."""
        client = self._client
        client.disconnect()
        await asyncio.to_thread(client.loop_stop)
        client.on_connect = client.on_disconnect = client.on_publish = client.on_message = None  # no cycle: it can go

    def publish(self, topic: str, payload: bytes, qos: int = 1) -> int | None:
        """Send a message; its id, or None when there is no connection."""
        info = self._client.publish(topic, payload, qos)
        return info.mid if info.rc == MQTTErrorCode.MQTT_ERR_SUCCESS else None

    def subscribe(self, *topics: str) -> None:
        """Subscribe with QoS 1."""
        self._client.subscribe([(topic, 1) for topic in topics])

    def drop(self) -> None:
        """Fault: cut the connection without a DISCONNECT, so that the broker sends the will."""
        connection = self._client.socket()
        if isinstance(connection, socket.socket):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    # paho calls these in its network thread

    def _call(self, function: Callable[..., None], *arguments: Any) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *arguments)

    def _set_will(self) -> None:
        if self._will is not None:
            topic, payload = self._will()
            self._client.will_set(topic, payload, qos=1)

    def _connected(self, _client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if not reason.is_failure:
            self._call(self._online.set)
            if self._on_connect is not None:
                self._call(self._on_connect)

    def _disconnected(self, _client: Any, _data: Any, _flags: Any, _reason: Any, _properties: Any) -> None:
        self._call(self._online.clear)
        self._set_will()

    def _published(self, _client: Any, _data: Any, message: int, _reason: Any, _properties: Any) -> None:
        self.acknowledged.append((message, time.time_ns() // 1000))

    def _received(self, _client: Any, _data: Any, message: paho.MQTTMessage) -> None:
        if self._on_message is not None:
            self._call(self._on_message, message.topic, message.payload)


class MqttPublisher:
    """Publishes one source. Use as ``async with``.

    Args:
        plant: The plant.
        source: A source with protocol ``mqtt``.
        broker: URL of the broker.
        ledger: Where to record what was published and what the broker has acknowledged.

    Attributes:
        endpoint: URL of the broker, without user and password.
        session: The connection.
    """

    def __init__(self, plant: Plant, source: Source, broker: str, ledger: Ledger | None = None) -> None:
        self.endpoint = without_user(broker)
        self.session = Session(broker, f"{plant.name}-{source.name}")
        self._ledger = ledger
        self._pace = Pace(source, ledger)
        self._bad: set[str] = set()
        self._unacknowledged: dict[int, tuple[range, int]] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "MqttPublisher":
        await self.session.start()
        self._tasks = [asyncio.create_task(self._pace.run(self._emit)), asyncio.create_task(self._settle_always())]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        deadline = time.monotonic() + 2.0
        while self._unacknowledged and self.session.connected and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
            self._settle()
        await self.session.stop()
        self._settle()

    def pause(self) -> None:
        """Publish nothing until `resume`."""
        self._pace.pause()

    def resume(self) -> None:
        """Go on after `pause`."""
        self._pace.resume()

    def set_bad(self, tag_name: str, bad: bool) -> None:
        """Make all readings of the tags of a name bad, or good again. Not for a ledger: a bad reading has no number."""
        (self._bad.add if bad else self._bad.discard)(tag_name)

    @property
    def unacknowledged(self) -> int:
        """Messages that the broker has not acknowledged yet."""
        self._settle()
        return len(self._unacknowledged)

    async def _emit(self, group: Group, first: int, n: int, time: int) -> bool:
        if not self.session.connected or len(self._unacknowledged) > MOST_UNACKNOWLEDGED:
            return False
        if self._ledger is not None:
            self._ledger.append(range(first, first + len(group.tags)), n, SENT, time)
        flat: dict[str, Any] = {"timestamp": time // 1000}
        topic = ""
        for number, tag in enumerate(group.tags, first):
            place = tag.address
            assert isinstance(place, MqttField)  # noqa: S101  (by construction of the plant)
            reading = None if tag.name in self._bad else value(tag, n, group.period)
            if place.key is None:
                self._publish(place.topic, single(reading, time, tag.unit), range(number, number + 1), n)
            else:
                topic, flat[place.key] = place.topic, reading
        if topic:
            self._publish(topic, flat, range(first, first + len(group.tags)), n)
        return True

    def _publish(self, topic: str, content: dict[str, Any], numbers: range, n: int) -> None:
        payload = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
        message = self.session.publish(topic, payload)
        if message is not None:
            self._unacknowledged[message] = (numbers, n)

    async def _settle_always(self) -> None:
        while True:
            await asyncio.sleep(0.02)
            self._settle()

    def _settle(self) -> None:
        """Record the PUBACKs that have come in."""
        acknowledged = self.session.acknowledged
        while acknowledged:
            message, when = acknowledged.popleft()
            known = self._unacknowledged.pop(message, None)
            if known is not None and self._ledger is not None:
                self._ledger.append(known[0], known[1], ACKED, when)


def single(reading: Any, time: int, unit: str) -> dict[str, Any]:
    """Content of a message of one tag; `time` in µs since the epoch."""
    stamp = datetime.fromtimestamp(time // 1_000_000, UTC).replace(microsecond=time % 1_000_000)
    return {
        "value": reading,
        "timestamp": stamp.isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "quality": "BAD" if reading is None else "GOOD",
        "unit": unit,
    }


def without_user(url: str) -> str:
    """A broker's URL without user and password."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}:{parts.port or 1883}"
