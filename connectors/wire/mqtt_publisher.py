"""The connection of a target that publishes by MQTT: opened, written to and closed; every failure is a `DeliveryError`."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import numpy as np
import pyarrow as pa

from connectors.contract import ConfigError, DeliveryError, RejectedRecords, TransientError
from connectors.dry_run import Written, refuse
from connectors.wire.mqtt import ClosedError, MqttSession
from connectors.wire.mqtt_errors import causes, check_files, delivery_error, refused_message
from connectors.wire.mqtt_outbox import QOS2_WINDOW
from connectors.wire.mqtt_outgoing import encode
from connectors.wire.mqtt_packets import Publishes
from connectors.wire.mqtt_settings import Granted, SessionSettings

_BRIEF: Final = 10.0  # seconds that a connection lasts at least when nothing is wrong with it
_SUSPICIOUS: Final = 4


@dataclass(frozen=True, slots=True)
class Will:
    """What the broker publishes when the connection breaks.

    Attributes:
        topic: Its topic.
        payload: Its payload.
        qos: Its quality of service.
        retain: Whether it is kept.
    """

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = True


@dataclass(frozen=True, slots=True)
class Messages:
    """Messages that readings were made into.

    Attributes:
        topics: Topics as PUBLISH carries them.
        names: The same topics as text.
        index: Which of them each message has.
        payloads: A text or bytes for each message.
        rows: The rows of the batch that each message holds; None when message *n* is row *n*.
        properties: See `mqtt_outgoing.encode`.
    """

    topics: pa.Array
    names: Sequence[str]
    index: np.ndarray
    payloads: pa.Array
    rows: Sequence[np.ndarray] | np.ndarray | None = None
    properties: pa.Array | pa.Scalar | None = None

    def written(self, wrong: Mapping[int, str], **beside: Any) -> list[Written]:
        """The messages one by one, for a look at what would be published.

        Args:
            wrong: Why some rows have no message.
            beside: What is published beside each.

        Raises:
            RejectedRecords: There are such rows.
        """
        if wrong:
            refuse(wrong)
        payloads = self.payloads.cast(pa.binary()).to_pylist()
        return [
            Written(self.names[at], payload, beside) for at, payload in zip(self.index.tolist(), payloads, strict=True)
        ]

    def rows_of(self, message: int) -> list[int]:
        """The rows that a message holds."""
        if self.rows is None:
            return [message]
        found: list[int] = np.atleast_1d(self.rows[message]).tolist()
        return found

    def take(self, wanted: np.ndarray) -> "Messages":
        """Some of the messages."""
        rows = self.rows
        if rows is None or isinstance(rows, np.ndarray):
            kept: Sequence[np.ndarray] | np.ndarray = wanted if rows is None else rows[wanted]
        else:
            kept = [rows[at] for at in wanted.tolist()]
        places = pa.array(wanted)
        properties = self.properties.take(places) if isinstance(self.properties, pa.Array) else self.properties
        return Messages(self.topics, self.names, self.index[wanted], self.payloads.take(places), kept, properties)


class Encode(Protocol):
    """Makes messages of readings."""

    def __call__(self, batch: pa.RecordBatch, *, singly: bool = False) -> tuple[Messages, dict[int, str]]:
        """The messages, and why some rows have none; `singly` asks for one reading per message."""


@dataclass(slots=True)
class Refused:
    """What a broker did not take.

    Attributes:
        rows: Why, by the row of the batch.
        packs: Rows of messages that hold several readings of which one is at fault.
    """

    rows: dict[int, str] = field(default_factory=dict)
    packs: list[int] = field(default_factory=list)

    def settle(self) -> None:
        """Raise what is told to the forwarder, when anything is; the other rows are delivered."""
        if self.rows:
            rows = sorted(self.rows)
            raise RejectedRecords(rows, [self.rows[row] for row in rows], rest_written=True)


class Publisher:
    """One target's connection to its broker."""

    def __init__(
        self, where: str, timeout: float, *, explain: Callable[[Exception, str], DeliveryError] = delivery_error
    ) -> None:
        """A publisher without a connection.

        Args:
            where: The broker, as messages name it.
            timeout: Seconds that it may be silent.
            explain: Makes a `DeliveryError` of what a session raises.
        """
        self._where: Final = where
        self._timeout = timeout
        self._tell = explain
        self._session: MqttSession | None = None
        self._client_id = ""
        self._opened = 0.0
        self._brief = 0  # connections in a row that ended without a word soon after they began

    def _explain(self, error: Exception, where: str) -> DeliveryError:
        told = self._tell(error, where)
        if self._session is None or not any(isinstance(cause, ClosedError) for cause in causes(error)):
            return told
        self._brief = self._brief + 1 if time.monotonic() - self._opened < _BRIEF else 1
        if self._brief < _SUSPICIOUS or not isinstance(told, TransientError):
            return told
        return ConfigError(
            f"{told}; connections end soon after they began: is the client id `{self._client_id}` used twice, or does the "
            "broker not allow this client to publish to these topics?"
        )

    @property
    def session(self) -> MqttSession:
        """The connection.

        Raises:
            TransientError: There is none.
        """
        if self._session is None:
            raise TransientError(f"{self._where}: not connected")
        return self._session

    @property
    def granted(self) -> Granted:
        """What the broker allows."""
        return self.session.granted

    async def open(
        self,
        settings: SessionSettings,
        *,
        will: Will | None = None,
        window: int,
        rate: float | None = None,
        qos: int = 1,
        retain: bool = False,
        on_messages: Callable[[Publishes], None] = lambda _: None,
    ) -> None:
        """Connect.

        Args:
            settings: How to.
            will: What the broker publishes when the connection breaks.
            window: Messages under way at once, at most; the broker may allow less.
            rate: Messages per second, at most.
            qos: The quality of service that will be wanted.
            retain: Whether messages will be retained.
            on_messages: Gets what arrives for the subscriptions of the session.

        Raises:
            DeliveryError: It did not work, or the broker does not allow what is wanted.
        """
        await self.close()
        check_files(settings.tls)
        session = MqttSession(settings, lambda _: None, lambda found, _: on_messages(found))
        if will is not None:
            session.client.will_set(will.topic, will.payload, will.qos, will.retain)
        try:
            await session.open()
        except OSError as error:
            raise self._explain(error, self._where) from error
        granted = session.granted
        if qos > granted.max_qos or (retain and not granted.retain):
            await session.close()
            wrong = (
                f"QoS {granted.max_qos} at most: set `qos: {granted.max_qos}`"
                if qos > granted.max_qos
                else ("no retained messages: set `retain: false`")
            )
            raise ConfigError(f"{self._where}: the broker takes {wrong}")
        session.outbox.bound(min(window, granted.receive_maximum, QOS2_WINDOW if qos == 2 else window), rate)
        self._session = session
        self._opened, self._client_id = time.monotonic(), settings.client_id

    async def close(self) -> None:
        """Say good-bye and disconnect; never raises."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def publish(
        self, messages: Messages, *, qos: int, retain: bool = False, most_bytes: int | None = None
    ) -> Refused:
        """Publish messages and wait until the broker has taken them.

        Args:
            messages: The messages.
            qos: Their quality of service.
            retain: Whether the broker keeps each as the last of its topic.
            most_bytes: Bytes of a packet, at most; the broker may allow less.

        Returns:
            What will never be taken; all else is delivered.

        Raises:
            DeliveryError: The connection is lost, or a refusal that another time may not be.
        """
        session, refused = self.session, Refused()
        packets = encode(
            messages.topics, messages.index, messages.payloads, qos=qos, retain=retain, properties=messages.properties
        )
        most = min(most_bytes or session.granted.max_packet, session.granted.max_packet)
        large = packets.sizes > most
        if large.any():
            for at in np.flatnonzero(large).tolist():
                why = f"its message of {int(packets.sizes[at]):,} bytes is larger than {most:,}, the most that the broker takes"
                self._refuse(messages, at, why, refused)
            messages = messages.take(np.flatnonzero(~large))
            packets = encode(
                messages.topics,
                messages.index,
                messages.payloads,
                qos=qos,
                retain=retain,
                properties=messages.properties,
            )
        try:
            codes = await session.deliver(packets, qos, self._timeout)
        except TimeoutError:
            raise TransientError(f"{self._where}: the broker has not answered for {self._timeout:g} s") from None
        except OSError as error:
            raise self._explain(error, self._where) from error
        if len(packets):
            self._brief = 0
        for at, code in sorted(codes.items()):
            verdict = refused_message(code, messages.names[int(messages.index[at])], self._where)
            if isinstance(verdict, DeliveryError):
                raise verdict
            self._refuse(messages, at, verdict, refused)
        return refused

    async def publish_all(
        self, encode_: Encode, batch: pa.RecordBatch, *, qos: int, retain: bool = False, most_bytes: int | None = None
    ) -> Refused:
        """Publish the readings of a batch, those of a refused pack once more one by one; see `publish`.

        Args:
            encode_: Makes messages of a batch, as `mqtt_messages.MessageEncoder.encode` does.
            batch: The readings.
            qos: Quality of service of the messages.
            retain: Whether the broker keeps each as the last of its topic.
            most_bytes: Bytes of a packet, at most.
        """
        messages, wrong = encode_(batch)
        refused = await self.publish(messages, qos=qos, retain=retain, most_bytes=most_bytes)
        refused.rows |= wrong
        if refused.packs:
            rows = np.array(sorted(refused.packs))
            messages, _ = encode_(batch.take(pa.array(rows)), singly=True)
            again = await self.publish(messages, qos=qos, retain=retain, most_bytes=most_bytes)
            refused.rows |= {int(rows[row]): why for row, why in again.rows.items()}
        return refused

    @staticmethod
    def _refuse(messages: Messages, message: int, why: str, refused: Refused) -> None:
        rows = messages.rows_of(message)
        if len(rows) == 1:
            refused.rows[rows[0]] = why
        else:
            refused.packs += rows

    async def subscribe(self, filters: Sequence[tuple[str, int]]) -> None:
        """Subscribe to what the target has to hear.

        Raises:
            DeliveryError: The connection is lost, or one is refused.
        """
        try:
            answers = await self.session.subscribe(filters)
        except OSError as error:
            raise self._explain(error, self._where) from error
        for (name, _), answer in zip(filters, answers, strict=False):
            if answer.is_failure:
                raise ConfigError(
                    f"{self._where}: the subscription `{name}` is refused: {answer} (let the client read it)"
                )

    def say(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> None:
        """Publish one message without waiting for it, if there is a connection."""
        if self._session is not None:
            self._session.publish(topic, payload, qos=qos, retain=retain)
