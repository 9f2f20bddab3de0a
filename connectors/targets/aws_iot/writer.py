"""Publishes units to AWS IoT Core within its limits, and reports the newest values in the thing's shadow before that."""

import asyncio
import logging
import time
from dataclasses import replace
from functools import partial
from typing import Any, Final

import numpy as np
import pyarrow as pa
from typing_extensions import override

from connectors.contract import DeliveryError, Finding, Limits, TransientError, Writer
from connectors.dry_run import Written
from connectors.targets.aws_iot.config import AwsIotConfig, AwsIotSettings, topic_fault
from connectors.targets.aws_iot.shadow import Shadow, Update, answer, each, refusal
from connectors.wire.mqtt_messages import MessageEncoder, MessageForm
from connectors.wire.mqtt_outgoing import properties, topic_fields
from connectors.wire.mqtt_packets import Publishes
from connectors.wire.mqtt_publisher import Messages, Publisher
from connectors.wire.mqtt_settings import SessionSettings

_log = logging.getLogger(__name__)
_MOST_BYTES: Final = 128 * 1024  # of a payload
_IN_FLIGHT: Final = 100  # messages of QoS 1 of a client
_SHADOWS_IN_FLIGHT: Final = 10  # updates of a thing
_CONNECT_PACE: Final = 1.0  # seconds between two connections of a client


def session_settings(config: AwsIotConfig) -> SessionSettings:
    """How to connect; the session is begun anew each time, because the spool keeps what was not taken."""
    own, (host, port) = config.provider_config, config.address
    return SessionSettings(
        endpoint=f"mqtts://{host}:{port}",
        client_id=own.client_id or own.thing_name,
        v5=own.version == "5",
        clean=True,
        tls=config.tls,
        keepalive=round(own.keepalive),
        connect_timeout=config.timeout,
    )


def message_form(own: AwsIotSettings) -> MessageForm:
    """How readings become messages."""
    common = properties(content_type="application/json") if own.version == "5" else None
    return MessageForm(own.topics, readings=own.readings_per_message, arrays=True, properties=common, fault=topic_fault)


def written(config: AwsIotConfig, batch: pa.RecordBatch) -> list[Written]:
    """What would be published, the shadow first, as if nothing had been reported yet; nothing is connected."""
    own, found = config.provider_config, []
    if own.shadow_update:
        updates = Shadow(own.thing_name, own.shadow_name, own.shadow_key).updates(batch)
        found = [Written(update.topic, update.payload, {"qos": 1}) for update in updates]
    messages, wrong = MessageEncoder(message_form(own)).encode(batch, _MOST_BYTES)
    return [*found, *messages.written(wrong, qos=own.qos)]


class AwsIotWriter(Writer):
    """Writes to one account as one thing."""

    def __init__(self, config: AwsIotConfig) -> None:
        own = config.provider_config
        self.limits = Limits(
            rows=config.batch_size or 10_000,
            bytes=8 * 1024**2,
            linger=1.0 if config.flush_interval is None else config.flush_interval,
        )
        self._config = config
        self._encoder = MessageEncoder(message_form(own))
        self._shadow = Shadow(own.thing_name, own.shadow_name, own.shadow_key) if own.shadow_update else None
        self._said: set[str] = set()
        self._waiting: dict[str, asyncio.Future[DeliveryError | None]] = {}
        self._publisher = Publisher(config.endpoint, config.timeout)
        self._connected = float("-inf")

    @override
    async def open(self) -> None:
        """Connect, and listen to the shadow's answers; see `Writer.open`."""
        config, own = self._config, self._config.provider_config
        # the service counts connections of a client, and refuses a second one within a second
        await asyncio.sleep(self._connected + _CONNECT_PACE - time.monotonic())
        try:
            await self._publisher.open(
                session_settings(config),
                window=_IN_FLIGHT,
                rate=own.messages_per_second,
                qos=own.qos,
                on_messages=self._hear,
            )
        finally:
            self._connected = time.monotonic()
        if self._shadow is not None:
            self._shadow.newest.forget()
            await self._publisher.subscribe([(name, 1) for name in self._shadow.answers()])

    @override
    async def write(self, batch: pa.RecordBatch, unit: int) -> None:
        """Report the newest values, then publish the readings; return when the service has them. See `Writer.write`."""
        if self._shadow is not None and len(batch):
            for updates in each(self._shadow.updates(batch), _SHADOWS_IN_FLIGHT):
                await self._report(self._shadow, updates)
            if new := self._shadow.newest.long - self._said:
                self._said |= new
                _log.warning("values too long for the shadow are left out of it: %s", ", ".join(sorted(new)))
        encode = partial(self._encoder.encode, most_bytes=_MOST_BYTES)
        refused = await self._publisher.publish_all(
            encode, batch, qos=self._config.provider_config.qos, most_bytes=_MOST_BYTES
        )
        refused.settle()

    @override
    async def close(self) -> None:
        """Disconnect; see `Writer.close`."""
        await self._publisher.close()

    async def check(self) -> list[Finding]:
        """Connect under another client id, so that the running gateway keeps its own; see `contract.Checks`."""
        config = self._config
        settings = session_settings(config)
        name = f"{settings.client_id}-check"
        beside = Publisher(config.endpoint, config.timeout)
        try:
            await beside.open(replace(settings, client_id=name), window=1, qos=config.provider_config.qos)
            if self._shadow is not None:
                await beside.subscribe([(topic, 1) for topic in self._shadow.answers()])
        except DeliveryError as error:
            words = f"{error}; the policy must allow iot:Connect for `{name}` too, for this check"
            return [Finding(False, config.endpoint, words)]
        finally:
            await beside.close()
        return [Finding(True, config.endpoint, "takes the device certificate")]

    async def _report(self, shadow: Shadow, updates: list[Update]) -> None:
        """Publish updates of the shadow and wait until the service has accepted them."""
        loop = asyncio.get_running_loop()
        answers = {update.token: loop.create_future() for update in updates}
        self._waiting = dict(answers)
        topics = [update.topic for update in updates]
        common = pa.scalar(b"", pa.binary()) if self._config.provider_config.version == "5" else None
        messages = Messages(
            topic_fields(topics),
            topics,
            np.arange(len(updates)),
            pa.array([update.payload for update in updates], pa.binary()),
            properties=common,
        )
        try:
            refused = await self._publisher.publish(messages, qos=1)
            if refused.rows:
                raise TransientError(f"the shadow's topics take no message: {next(iter(refused.rows.values()))}")
            lost = self._publisher.session.lost
            every = asyncio.gather(*answers.values())
            waited: set[asyncio.Future[Any]] = {every, lost}
            await asyncio.wait(waited, timeout=self._config.timeout, return_when=asyncio.FIRST_COMPLETED)
            if lost.done():
                raise TransientError(f"{self._config.endpoint}: {lost.exception()}")
            for update in updates:
                future = answers[update.token]
                if not future.done():
                    every.cancel()
                    raise TransientError(
                        f"{self._config.endpoint}: no answer to an update of the shadow of "
                        f"`{self._config.provider_config.thing_name}` (does the thing exist?)"
                    )
                error = future.result()
                if error is not None:
                    raise error
                shadow.newest.accepted(update.state)
        finally:
            self._waiting = {}

    def _hear(self, messages: Publishes) -> None:
        """Answers of the shadow's service."""
        for topic, payload in zip(messages.topics, messages.payloads, strict=True):
            found = answer(topic.decode("utf-8", "replace"), payload)
            future = self._waiting.get(found[0]) if found is not None else None
            if found is not None and future is not None and not future.done():
                _, code, words = found
                future.set_result(refusal(code, words, self._config.provider_config.thing_name) if code else None)
