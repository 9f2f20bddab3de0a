"""Publishes units to an MQTT broker; each message counts when the broker has taken it over."""

import re
from dataclasses import replace
from functools import partial
from typing import Final

import pyarrow as pa
from typing_extensions import override

from connectors.contract import Context, DeliveryError, Finding, Limits, Writer
from connectors.targets.mqtt.config import MqttTargetConfig, MqttTargetSettings
from connectors.wire.mqtt_messages import MessageEncoder, MessageForm
from connectors.wire.mqtt_outgoing import properties
from connectors.wire.mqtt_publisher import Publisher, Will
from connectors.wire.mqtt_settings import SessionSettings
from connectors.wire.mqtt_status import OFFLINE, ONLINE, status_topic

_ROWS: Final = 5_000


def session_settings(config: MqttTargetConfig, context: Context) -> SessionSettings:
    """How to connect; the session is begun anew each time, because the spool keeps what was not taken."""
    own = config.provider_config
    name = re.sub(r"[^A-Za-z0-9_.-]", "-", f"bifrost-{context.gateway}-{config.name or 'mqtt'}")
    return SessionSettings(
        endpoint=config.url,
        client_id=own.client_id or name,
        v5=own.version == "5",
        clean=True,
        username=own.username,
        password=own.password.get_secret_value() if own.password else None,
        tls=config.tls_settings(own.tls),
        keepalive=round(own.keepalive),
        connect_timeout=config.timeout,
    )


def message_form(own: MqttTargetSettings) -> MessageForm:
    """How readings become messages."""
    expiry = None if own.message_expiry is None else round(own.message_expiry)
    common = properties(content_type=own.content_type, expiry=expiry) if own.version == "5" else None
    return MessageForm(
        own.topics,
        readings=own.readings_per_message,
        arrays=own.readings_per_message > 1,
        properties=common,
        identity=own.identity_properties,
    )


class MqttWriter(Writer):
    """Writes to one broker."""

    def __init__(self, config: MqttTargetConfig, context: Context) -> None:
        own = config.provider_config
        self.limits = Limits(
            rows=config.batch_size or _ROWS,
            bytes=8 * 1024**2,
            linger=0.0 if config.flush_interval is None else config.flush_interval,
        )
        self._config = config
        self._context = context
        self._status = status_topic(own.status_topic, gateway=context.gateway) if own.status_topic else None
        self._encoder = MessageEncoder(message_form(own))
        self._publisher = Publisher(config.url, config.timeout)

    @override
    async def open(self) -> None:
        """Connect, and say that the gateway is there; see `Writer.open`."""
        own = self._config.provider_config
        await self._publisher.open(
            session_settings(self._config, self._context),
            will=Will(self._status, OFFLINE) if self._status else None,
            window=own.max_in_flight,
            qos=own.qos,
            retain=own.retain or self._status is not None,
        )
        if self._status:
            self._publisher.say(self._status, ONLINE, retain=True)

    @override
    async def write(self, batch: pa.RecordBatch, unit: int) -> None:
        """Publish the readings of the unit; return when the broker has them. See `Writer.write`."""
        own = self._config.provider_config
        most = min(own.max_packet_size or 2**28, self._publisher.granted.max_packet)
        refused = await self._publisher.publish_all(
            partial(self._encoder.encode, most_bytes=most), batch, qos=own.qos, retain=own.retain, most_bytes=most
        )
        refused.settle()

    @override
    async def close(self) -> None:
        """Say that the gateway leaves, and disconnect; see `Writer.close`."""
        if self._status:
            self._publisher.say(self._status, OFFLINE, retain=True)
        await self._publisher.close()

    async def check(self) -> list[Finding]:
        """Connect beside the running gateway, publish nothing and leave again; see `contract.Checks`."""
        own = self._config.provider_config
        retain = own.retain or self._status is not None
        return await check_broker(self._config, self._context, qos=own.qos, retain=retain)


async def check_broker(config: MqttTargetConfig, context: Context, *, qos: int, retain: bool) -> list[Finding]:
    """What a connection under another client id finds."""
    settings = session_settings(config, context)
    beside = Publisher(config.url, config.timeout)
    try:
        await beside.open(replace(settings, client_id=f"{settings.client_id}-check"), window=1, qos=qos, retain=retain)
    except DeliveryError as error:
        return [Finding(False, config.url, str(error))]
    granted, version = beside.granted, config.provider_config.version
    await beside.close()
    detail = f"answers as MQTT {version}, takes QoS {granted.max_qos}"
    if version == "5":
        detail += f", {granted.receive_maximum} messages at once, packets of up to {granted.max_packet} bytes"
    return [Finding(True, config.url, detail)]
