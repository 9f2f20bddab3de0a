"""What an MQTT target can be told."""

import re
from typing import Annotated, Literal, Self

import pyarrow as pa
from pydantic import BeforeValidator, Field, model_validator
from typing_extensions import override

from connectors.contract import Context, Writer
from connectors.dry_run import Written
from connectors.settings import Duration, SecretStr, Settings, Size, TlsSettings, TlsTargetConfig
from connectors.wire.mqtt_names import TopicTemplate, of_kinds
from connectors.wire.mqtt_settings import PLAIN_SCHEMES, endpoint_address
from connectors.wire.mqtt_status import check_status_topic

_SECURE = {"tcp": "tls", "mqtt": "mqtts", "ws": "wss"}


def _version(value: object) -> object:
    return {"3.1.1": "3.1.1", "311": "3.1.1", "4": "3.1.1", "5": "5", "5.0": "5"}.get(str(value), value)


Version = Annotated[Literal["3.1.1", "5"], BeforeValidator(_version)]


class EdgeSettings(Settings):
    """The Sparkplug B edge node that the gateway is with `payload: sparkplug`."""

    group: str = Field("bifrost", pattern=r"^[^/+#\x00]+$", description="group id")
    node: str | None = Field(
        None, pattern=r"^[^/+#\x00]+$", description="edge node id, unique in its group; the gateway's name when absent"
    )
    device: str = Field(
        "{source}",
        description="device id of a reading: a text with columns in braces; empty: metrics of the node itself",
    )
    metric: str = Field("{path}", description="name of a metric: a text with columns in braces")
    primary_host: str | None = Field(
        None,
        pattern=r"^[^/+#\x00]+$",
        description="host application without which nothing is published: while its STATE is offline, readings wait, and go "
        "out as historical ones afterwards",
    )


class MqttTargetSettings(Settings):
    """What only an MQTT target has."""

    broker: str | None = Field(None, description="the broker, as `endpoint`, before which it goes")
    client_id: str | None = Field(
        None,
        min_length=1,
        max_length=65_535,
        description="client id, unique at the broker; made from the names of the gateway and of the connector when absent",
    )
    username: str | None = Field(None, description="user name; anonymous when absent")
    password: SecretStr | None = Field(None, description="password of the user")
    version: Version = Field("3.1.1", description="version of MQTT: 3.1.1 or 5")
    qos: Literal[0, 1, 2] = Field(
        1,
        description="0: delivered when the broker answers a ping sent behind the messages; 1: with PUBACK; 2: with PUBCOMP, at "
        "four packets a message",
    )
    retain: bool = Field(False, description="whether the broker keeps the last message of each topic")
    topic_prefix: str = Field(
        "bifrost", description="first part of every topic; columns may stand in braces: plant/{site}; none when empty"
    )
    data_topic: str = Field("telemetry", description="second part of the topic of readings; none when empty")
    event_topic: str = Field("events", description="the same for events, as OPC UA servers tell them")
    alarm_topic: str = Field("alarms", description="the same for readings of quality ALARM")
    topic: str = Field(
        "{path}",
        description="rest of the topic, with columns in braces; `+`, `#` and control characters of a column become `_`",
    )
    readings_per_message: int = Field(
        1,
        ge=1,
        description="1: a message per reading, a JSON object; more: JSON arrays of up to so many readings of one topic",
    )
    max_in_flight: int = Field(
        1000, ge=1, le=60_000, description="messages that wait for the broker's answer at once; it may allow less"
    )
    max_packet_size: Size | None = Field(
        None,
        ge=64,
        description="bytes of the largest packet that the broker takes, where it does not say so itself (MQTT 5)",
    )
    keepalive: Duration = Field(
        30.0, ge=1, le=65_535, description="time after which the broker may drop a silent connection"
    )
    status_topic: str | None = Field(
        None,
        description="topic that says, retained, `online`, and by a will `offline`; {gateway} may stand in it; none when absent",
    )
    content_type: str = Field("application/json", description="content type of messages (MQTT 5); none when empty")
    message_expiry: Duration | None = Field(
        None, ge=1, description="time after which the broker drops a message that nobody took (MQTT 5)"
    )
    identity_properties: bool = Field(
        False,
        description="whether each message carries gateway, shard and sequence of its reading as user properties too (MQTT 5, "
        "a message per reading)",
    )
    payload: Literal["json", "sparkplug"] = Field(
        "json", description="json: see docs/mqtt-target.md; sparkplug: Sparkplug B, the gateway is an edge node"
    )
    sparkplug: EdgeSettings = Field(EdgeSettings.model_validate({}), description="the edge node")
    tls: TlsSettings | None = Field(
        None, description="more about TLS; its files go before those beside `endpoint`, with which it is merged"
    )

    @property
    def topics(self) -> tuple[str, str, str]:
        """Templates of the topics of data, events and alarms."""
        return of_kinds(self.topic_prefix, self.data_topic, self.event_topic, self.alarm_topic, self.topic)

    @model_validator(mode="after")
    def _sound(self) -> "MqttTargetSettings":
        for text in (*self.topics, self.sparkplug.device, self.sparkplug.metric):
            TopicTemplate(text)
        fixed = re.sub(r"\{[^{}]*\}", "", "".join(self.topics))
        if wild := [mark for mark in "+#\0" if mark in fixed]:
            raise ValueError(f"`{wild[0]}` cannot stand in a topic that is published to")
        if self.status_topic:
            check_status_topic(self.status_topic, "gateway")
        if not all(self.topics):
            raise ValueError("a topic would be empty: set topic_prefix or topic")
        if self.version != "5" and {"message_expiry", "identity_properties"} & self.model_fields_set:
            raise ValueError("message_expiry and identity_properties are of MQTT 5: set version: 5")
        if self.identity_properties and self.readings_per_message > 1:
            raise ValueError("identity_properties goes with one reading per message")
        return self


class MqttTargetConfig(TlsTargetConfig):
    """Topics of an MQTT broker."""

    type: Literal["mqtt"] = Field("mqtt", description="type of the target")
    endpoint: str | None = Field(
        None,
        description="the broker: tcp, mqtt, tls, mqtts, ws or wss://<host>:<port>; `provider_config.broker` goes before it",
    )
    provider_config: MqttTargetSettings = Field(
        MqttTargetSettings.model_validate({}), description="what is published, and how"
    )

    @property
    def url(self) -> str:
        """Where the broker is, with TLS in its scheme if it is used."""
        said = (self.provider_config.broker or self.endpoint or "").strip()
        scheme, divider, rest = said.partition("://")
        return _SECURE[scheme] + divider + rest if self.tls_enabled and scheme in _SECURE else said

    @model_validator(mode="after")
    def _reachable(self) -> "MqttTargetConfig":
        if not self.url:
            raise ValueError("say where the broker is: endpoint: mqtts://<host>:8883")
        *_, secure = endpoint_address(self.url)
        if secure and self.tls_enabled is False:
            raise ValueError(
                f"`{self.url}` means TLS, tls_enabled says no: write {'://, '.join(PLAIN_SCHEMES)}:// or leave tls_enabled out"
            )
        return self

    @override
    def trial(self) -> Self:
        """Another client, and another edge node, than the gateway's."""
        own = self.provider_config
        edge = own.sparkplug.model_copy(update={"node": f"{own.sparkplug.node or 'bifrost'}-doctor"})
        other = {"client_id": f"{own.client_id or 'bifrost'}-doctor", "status_topic": None, "sparkplug": edge}
        return self.model_copy(update={"provider_config": own.model_copy(update=other)})

    @override
    def writer(self, context: Context) -> Writer:
        """The writer of this broker."""
        if self.provider_config.payload == "sparkplug":
            from connectors.targets.mqtt.edge_writer import EdgeWriter

            return EdgeWriter(self, context)
        from connectors.targets.mqtt.writer import MqttWriter

        return MqttWriter(self, context)

    @override
    def written(self, batch: pa.RecordBatch, context: Context) -> list[Written]:
        from connectors.targets.mqtt.written import written

        return written(self, batch, context)
