"""What an MQTT source can be told."""

import re
import uuid
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator
from typing_extensions import override

from connectors.contract import Context, Reader
from connectors.settings import Duration, SecretStr, Settings, Size, SourceConfig, TlsSettings
from connectors.wire.mqtt_settings import endpoint_address

_PLACES = ("site", "area", "line", "equipment", "signal_type")


def _version(value: object) -> object:
    return {"3.1.1": "3.1.1", "311": "3.1.1", "4": "3.1.1", "5": "5", "5.0": "5"}.get(str(value), value)


class Subscription(Settings):
    """A topic filter and how its messages are read."""

    topic: str = Field(description="topic filter; `+` stands for one level, `#` for the rest", min_length=1)
    qos: Literal[0, 1, 2] = Field(
        1,
        description="0: at most once; 1: at least once, acknowledged when it is on disk, repetitions recognized; 2: exactly once "
        "by the protocol's own means, acknowledged likewise, with four packets a message instead of two",
    )
    format: Literal["auto", "json", "plain", "sparkplug"] = Field(
        "auto",
        description="json: objects with a value, or flat objects of many tags; plain: a number or text; auto: json where "
        "the payload looks like it, else plain; sparkplug: Sparkplug B",
    )
    value: str | None = Field(
        None,
        description="JSON path of the value, e.g. `data.v` or `samples[0]`; `value` when absent. An object without it is "
        "one of many tags, one for each key",
    )
    timestamp: str | None = Field(
        None, description="JSON path of the time; the first of `timestamp`, `ts`, `time` when absent"
    )
    quality: str | None = Field(None, description="JSON path of the quality; `quality` when absent")
    unit: str | None = Field(None, description="JSON path of the engineering unit; `unit` when absent")
    timestamp_format: Literal["auto", "s", "ms", "us", "ns", "iso"] = Field(
        "auto", description="unit of numeric times since 1970 or ISO 8601 text; auto tells them by their size"
    )
    pattern: str | None = Field(
        None,
        description="what the topic's levels mean, e.g. `plant/{area}/{line}/{device_id}/+/{tag_name}`; places are "
        "device_id, tag_name, site, area, line, equipment, signal_type; `#` ends it",
    )
    device_id: str | None = Field(
        None,
        description="device, from levels of the topic, e.g. `{2}` or `{1}-{2}`; all levels but the last when absent",
    )
    tag_name: str | None = Field(
        None, description="tag name, from levels of the topic counted from 1 or, backwards, from -1; `{-1}` when absent"
    )

    @field_validator("topic")
    @classmethod
    def _check_topic(cls, topic: str) -> str:
        levels = topic.split("/")
        if any("#" in level and (level != "#" or i < len(levels) - 1) for i, level in enumerate(levels)):
            raise ValueError(f"`{topic}`: `#` stands alone as the last level")
        if any("+" in level and level != "+" for level in levels):
            raise ValueError(f"`{topic}`: `+` stands alone in its level")
        if "\0" in topic or len(topic.encode()) > 65535:
            raise ValueError(f"`{topic}` is not a topic filter")
        return topic

    @field_validator("pattern")
    @classmethod
    def _check_pattern(cls, pattern: str | None) -> str | None:
        for name in re.findall(r"\{(\w*)\}", pattern or ""):
            if name not in {"device_id", "tag_name", *_PLACES}:
                raise ValueError(f"`{{{name}}}` is no place; places are device_id, tag_name, {', '.join(_PLACES)}")
        return pattern

    @field_validator("device_id", "tag_name")
    @classmethod
    def _check_template(cls, template: str | None) -> str | None:
        if re.search(r"[{}]", re.sub(r"\{-?[1-9]\d?\}", "", template or "")):
            raise ValueError(f"`{template}`: write levels of the topic as {{1}}, {{2}} … or, from the end, {{-1}}")
        return template


class SparkplugSettings(Settings):
    """How Sparkplug B edge nodes are treated."""

    rebirth: bool = Field(True, description="ask edge nodes for their births where these are missing or data has a gap")
    rebirth_interval: Duration = Field(30.0, description="time between two such requests to one edge node")


class MqttConfig(SourceConfig):
    """An MQTT broker to read from."""

    protocol: Literal["mqtt"] = Field("mqtt", description="protocol of the source")
    endpoint: str = Field(description="mqtt://host:1883 or tcp://…; with TLS mqtts://host:8883 or tls://…")
    version: Annotated[Literal["3.1.1", "5"], BeforeValidator(_version)] = Field(
        "3.1.1", description="MQTT version; 5 sends retained messages once only and limits what is under way"
    )
    client_id: str | None = Field(
        None, description="name of the session at the broker, unique there; gateway-source when absent"
    )
    username: str | None = Field(None, description="user name; anonymous when absent")
    password: SecretStr | None = Field(None, description="password")
    tls: TlsSettings | None = Field(None, description="TLS settings for mqtts:// and tls://")
    keepalive: Duration = Field(
        30.0,
        ge=1,
        le=65535,
        description="pace of the signs of life; a silent connection counts as dead after 1.5 of it",
    )
    connect_timeout: Duration = Field(10.0, gt=0, description="time for the connection and the broker's answer")
    clean_session: bool = Field(
        False, description="forget the session at each connect; messages sent while the gateway is away are lost then"
    )
    session_expiry: Duration = Field(
        7 * 86400.0, description="time for which the broker keeps the session and its messages (MQTT 5)"
    )
    receive_maximum: int = Field(
        1000,
        ge=1,
        le=65535,
        description="messages of QoS 1 and 2 that the broker may have under way without acknowledgement (MQTT 5)",
    )
    max_unacknowledged: int = Field(
        50_000, ge=1, description="readings on their way to the disk above which nothing more is read from the broker"
    )
    max_message_size: Size = Field(
        16 * 1024 * 1024, ge=256 * 1024, description="size above which a message becomes a dead letter, cut short"
    )
    max_tags: int = Field(100_000, ge=1, description="topics and metrics that are followed; others become dead letters")
    subscriptions: list[Subscription] = Field([], description="what to subscribe to; everything (`#`) when empty")
    sparkplug: SparkplugSettings = Field(
        SparkplugSettings.model_validate({}), description="how Sparkplug B edge nodes are treated"
    )

    @field_validator("endpoint")
    @classmethod
    def _check_endpoint(cls, endpoint: str) -> str:
        endpoint_address(endpoint)
        return endpoint

    @model_validator(mode="after")
    def _check_together(self) -> "MqttConfig":
        if self.tls is not None and not endpoint_address(self.endpoint)[2]:
            raise ValueError(f"`tls` is set, but `{self.endpoint}` has no TLS; write mqtts://")
        if self.password is not None and self.username is None:
            raise ValueError("`password` without `username`")
        filters = [s.topic for s in self.subscriptions]
        twice = sorted({name for name in filters if filters.count(name) > 1})
        if twice:
            raise ValueError(f"subscribed to twice: {', '.join(twice)}")
        return self

    @override
    def trial(self) -> Self:
        """A session of its own, which the broker forgets: the gateway's session keeps its messages."""
        return self.model_copy(update={"clean_session": True, "client_id": f"trial-{uuid.uuid4().hex[:12]}"})

    @override
    def reader(self, context: Context) -> Reader:
        from connectors.sources.mqtt.reader import MqttReader

        return MqttReader(self, context)
