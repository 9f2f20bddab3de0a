"""What an AWS IoT Core target can be told."""

import re
from typing import Final, Literal, Self

import pyarrow as pa
from pydantic import Field, model_validator
from typing_extensions import override

from connectors.contract import Context, Writer
from connectors.dry_run import Written
from connectors.settings import Duration, Settings, TlsSettings, TlsTargetConfig
from connectors.wire.messages import Template
from connectors.wire.mqtt_names import TopicTemplate, fault, of_kinds

ALPN: Final = "x-amzn-mqtt-ca"
_ENDPOINT: Final = re.compile(r"(?:(?:mqtts|tls|ssl)://)?(?P<host>[A-Za-z0-9.\-]+)(?::(?P<port>\d{1,5}))?/?")
_REGION: Final = re.compile(r"\.iot\.([a-z0-9-]+)\.amazonaws\.com")
_TOPIC_BYTES, _SLASHES = 256, 7


def topic_fault(topic: str) -> str | None:
    """Why AWS IoT Core would not take this topic."""
    return fault(topic, _TOPIC_BYTES, _SLASHES)


class AwsIotSettings(Settings):
    """What only an AWS IoT Core target has."""

    region: str | None = Field(None, description="AWS region, as in the endpoint's name")
    client_id: str | None = Field(
        None,
        min_length=1,
        max_length=128,
        description="MQTT client id, unique in the account; the thing's name when absent",
    )
    thing_name: str = Field(
        pattern=r"^[a-zA-Z0-9:_-]{1,128}$",
        description="name of the thing that the gateway is; the shadow is this thing's",
    )
    version: Literal["3.1.1", "5"] = Field(
        "5", description="version of MQTT; only in 5 does the service say why it refuses something"
    )
    qos: Literal[0, 1] = Field(1, description="quality of service; AWS IoT Core has no QoS 2")
    topic_prefix: str = Field("bifrost", description="first part of every topic; columns may stand in braces")
    data_topic: str = Field("telemetry", description="second part of the topic of readings; none when empty")
    event_topic: str = Field("events", description="the same for events, as OPC UA servers tell them")
    alarm_topic: str = Field("alarms", description="the same for readings of quality ALARM")
    topic: str = Field(
        "{source}",
        description="rest of the topic, with columns in braces; the whole has 7 slashes and 256 bytes at most",
    )
    readings_per_message: int = Field(
        1000,
        ge=1,
        description="readings of one topic in a message, at most, as a JSON array; the service takes 100 a second",
    )
    messages_per_second: float = Field(
        90.0, gt=0, le=100, description="messages per second; the service takes 100 of a connection"
    )
    shadow_update: bool = Field(
        False, description="whether the newest value of each tag is reported in the thing's device shadow too"
    )
    shadow_name: str | None = Field(
        None, pattern=r"^[a-zA-Z0-9:_-]{1,60}$", description="named shadow; the classic one when absent"
    )
    shadow_key: str = Field("{path}", description="key of a tag in the shadow's reported state; columns in braces")
    keepalive: Duration = Field(
        30.0, ge=30, le=1200, description="time after which the service drops a silent connection"
    )
    tls: TlsSettings | None = Field(
        None, description="more about TLS; its files go before those beside `endpoint`, with which it is merged"
    )

    @property
    def topics(self) -> tuple[str, str, str]:
        """Templates of the topics of data, events and alarms."""
        return of_kinds(self.topic_prefix, self.data_topic, self.event_topic, self.alarm_topic, self.topic)

    @model_validator(mode="after")
    def _sound(self) -> "AwsIotSettings":
        for text in self.topics:
            TopicTemplate(text)
            if text.count("/") > _SLASHES:
                raise ValueError(f"`{text}` has more than {_SLASHES} slashes, which AWS IoT Core does not take")
        Template(self.shadow_key)
        return self


class AwsIotConfig(TlsTargetConfig):
    """AWS IoT Core, over MQTT with a device certificate."""

    type: Literal["aws-iot"] = Field("aws-iot", description="type of the target")
    endpoint: str = Field(
        description="data endpoint of the account, <id>-ats.iot.<region>.amazonaws.com; with :443 by ALPN instead of port 8883"
    )
    provider_config: AwsIotSettings = Field(description="the thing, and what is published")

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        found = _ENDPOINT.fullmatch(self.endpoint.strip())
        return (found["host"], int(found["port"] or 8883)) if found else ("", 0)

    @model_validator(mode="after")
    def _reachable(self) -> "AwsIotConfig":
        if not self.address[0]:
            raise ValueError("is no endpoint of AWS IoT Core; write <id>-ats.iot.<region>.amazonaws.com, or with :443")
        if self.tls_enabled is False:
            raise ValueError("AWS IoT Core speaks TLS only: leave tls_enabled out")
        named = _REGION.search(self.address[0])
        own = self.provider_config
        if own.region and named and named[1] != own.region:
            raise ValueError(f"the endpoint lies in {named[1]}, provider_config.region says {own.region}")
        tls = self.tls_settings(own.tls)
        if not tls.cert_file or not tls.key_file:
            raise ValueError("name the device certificate: cert_file and key_file")
        return self

    @property
    def tls(self) -> TlsSettings:
        """TLS of the connection; port 443 needs the protocol's name."""
        tls = self.tls_settings(self.provider_config.tls)
        return tls.model_copy(update={"alpn": [ALPN]}) if self.address[1] == 443 and not tls.alpn else tls

    @override
    def trial(self) -> Self:
        """Another client than the gateway's; its policy has to allow it."""
        own = self.provider_config
        other = {"client_id": f"{own.client_id or own.thing_name}-doctor"[-128:], "shadow_update": False}
        return self.model_copy(update={"provider_config": own.model_copy(update=other)})

    @override
    def writer(self, context: Context) -> Writer:
        """The writer of this account."""
        from connectors.targets.aws_iot.writer import AwsIotWriter

        return AwsIotWriter(self)

    @override
    def written(self, batch: pa.RecordBatch, context: Context) -> list[Written]:
        from connectors.targets.aws_iot.writer import written

        return written(self, batch)
