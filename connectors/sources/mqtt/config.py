"""What an MQTT source can be told."""

import re
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import BeforeValidator, Field, field_validator, model_validator
from typing_extensions import override

from connectors.contract import Context, Reader
from connectors.dry_run import Captured
from connectors.settings import Duration, SecretStr, Settings, Size, SourceConfig, TlsSettings
from connectors.sources.mqtt.paths import parse_path
from connectors.sources.mqtt.times import UNITS
from connectors.sources.mqtt.topics import pattern_places
from connectors.wire.mqtt_settings import endpoint_address
from connectors.wire.mqtt_status import check_status_topic
from connectors.wire.sparkplug import state_topic
from normalization.reading import Columns, Tag

METADATA = "metadata."
_PLACES = ("site", "area", "line", "equipment", "signal_type")


def _version(value: object) -> object:
    return {"3.1.1": "3.1.1", "311": "3.1.1", "4": "3.1.1", "5": "5", "5.0": "5"}.get(str(value), value)


class CsvSettings(Settings):
    """How CSV payloads are written."""

    delimiter: str = Field(",", description="what stands between two cells", min_length=1, max_length=1)
    header: bool = Field(True, description="whether the first row names the columns")
    columns: list[str] = Field([], description="names of the columns, instead of those in the header")
    skip_rows: int = Field(0, ge=0, description="rows before the header, or before the first reading without one")
    decimal: Literal[".", ","] = Field(".", description="decimal mark of numbers")

    @model_validator(mode="after")
    def _check_together(self) -> "CsvSettings":
        if not self.header and not self.columns:
            raise ValueError("CSV without a header needs `columns`")
        if self.delimiter in {'"', "\r", "\n"} or self.delimiter == self.decimal:
            raise ValueError(f"`{self.delimiter}` cannot stand between cells")
        return self


class Subscription(Settings):
    """A topic filter and how its messages are read."""

    topic: str = Field(description="topic filter; `+` stands for one level, `#` for the rest", min_length=1)
    qos: Literal[0, 1, 2] = Field(
        1,
        description="0: at most once; 1: at least once, acknowledged when it is on disk, repetitions recognized; 2: exactly once "
        "by the protocol's own means, acknowledged likewise, with four packets a message instead of two",
    )
    format: Literal["auto", "json", "plain", "csv", "cbor", "msgpack", "protobuf", "sparkplug"] = Field(
        "auto",
        description="plain: a number or text; json, cbor, msgpack, protobuf: an object with a value, or one of many tags, or an "
        "array of either; csv: rows of these; auto: json where the payload looks like it, else plain; sparkplug: Sparkplug B",
    )
    value: str | list[str] | dict[str, str] | None = Field(
        None,
        description="path of the value, e.g. `data.v`, `samples[0]` or, for each item of an array, `samples[*].v`; several "
        "paths, each a tag of its own, as a list or by name; `value` when absent. An object without it is one of many tags, "
        "one for each key. In csv all paths are names of columns",
    )
    timestamp: str | None = Field(
        None,
        description="path of the time; the first of `timestamp`, `ts`, `time` when absent, beside the value or on top",
    )
    quality: str | None = Field(None, description="path of the quality; `quality` when absent")
    unit: str | None = Field(None, description="path of the engineering unit; `unit` when absent")
    name: str | None = Field(
        None, description="path of the tag's name, where one topic carries the values of several tags; no default"
    )
    timestamp_format: str = Field(
        "auto",
        description="unit of numeric times since 1970 (s, ms, us, ns), iso for ISO 8601 text, auto to tell them by their size "
        "and form, or a format of strptime such as `%d.%m.%Y %H:%M:%S`",
    )
    time_zone: str = Field("UTC", description="zone of times that name none, e.g. `Europe/Berlin`")
    encoding: str = Field("utf-8", description="encoding of text, e.g. `latin-1`")
    csv: CsvSettings | None = Field(None, description="how CSV is written")
    descriptor: Path | None = Field(
        None,
        description="file with the descriptors of Protobuf messages, from `protoc --include_imports --descriptor_set_out=FILE`",
    )
    message: str | None = Field(None, description="full name of the Protobuf message, e.g. `plant.Sample`")
    pattern: str | None = Field(
        None,
        description="what the topic's levels mean, e.g. `plant/{area}/{line}/{device_id}/+/{tag}`; places are device_id, "
        "tag_name (or tag), site, area, line, equipment, signal_type and metadata.KEY; `#` ends it. A topic that it does not "
        "fit is named by its levels alone",
    )
    device_id: str | None = Field(
        None,
        description="device, from levels of the topic, e.g. `{2}` or `{1}-{2}`; all levels but the last when absent",
    )
    tag_name: str | None = Field(
        None, description="tag name, from levels of the topic counted from 1 or, backwards, from -1; `{-1}` when absent"
    )

    def fields(self) -> list[tuple[str, str]]:
        """What `value` says: names of tags within the topic, empty for the topic itself, and their paths."""
        if isinstance(self.value, str):
            return [("", self.value)]
        if isinstance(self.value, dict):
            return list(self.value.items())
        return [(path.removeprefix("$").removeprefix("."), path) for path in self.value or ()]

    @field_validator("topic")
    @classmethod
    def _check_topic(cls, topic: str) -> str:
        levels = topic.split("/")
        if any("#" in level and (level != "#" or i < len(levels) - 1) for i, level in enumerate(levels)):
            raise ValueError(f"`{topic}`: `#` stands alone as the last level")
        if any("+" in level and level != "+" for level in levels):
            raise ValueError(f"`{topic}`: `+` stands alone in its level")
        shared = levels[0] == "$share"
        if shared and (len(levels) < 3 or not levels[1] or "+" in levels[1] or not "/".join(levels[2:])):
            raise ValueError(f"`{topic}`: a shared subscription is written `$share/GROUP/FILTER`")
        if "\0" in topic or len(topic.encode()) > 65535:
            raise ValueError(f"`{topic}` is not a topic filter")
        return topic

    @field_validator("pattern")
    @classmethod
    def _check_pattern(cls, pattern: str | None) -> str | None:
        places = pattern_places(pattern or "")
        for name in places:
            if name not in {"device_id", "tag_name", *_PLACES} and not re.fullmatch(
                rf"{re.escape(METADATA)}[\w-]+", name
            ):
                known = ", ".join(("device_id", "tag_name", *_PLACES, "metadata.KEY"))
                raise ValueError(f"`{{{name}}}` is no place; places are {known}")
        if len(set(places)) < len(places):
            raise ValueError(f"`{pattern}` has a place twice")
        levels = (pattern or "").split("/")
        if any("#" in level and (level != "#" or at < len(levels) - 1) for at, level in enumerate(levels)):
            raise ValueError(f"`{pattern}`: `#` stands alone as the last level")
        return pattern

    @field_validator("timestamp_format")
    @classmethod
    def _check_timestamp_format(cls, form: str) -> str:
        if form not in UNITS and "%" not in form:
            raise ValueError(
                f"`{form}` is no format of times; write {', '.join(UNITS)} or one such as %Y-%m-%d %H:%M:%S"
            )
        return form

    @field_validator("time_zone")
    @classmethod
    def _check_time_zone(cls, zone: str) -> str:
        try:
            ZoneInfo(zone)
        except (ValueError, KeyError, OSError):  # OSError: `Europe` is a folder
            raise ValueError(f"`{zone}` is no time zone; write one such as Europe/Berlin") from None
        return zone

    @field_validator("encoding")
    @classmethod
    def _check_encoding(cls, encoding: str) -> str:
        try:
            "a".encode(encoding)
        except (LookupError, UnicodeError):
            raise ValueError(f"`{encoding}` is no encoding of text") from None
        return encoding

    @model_validator(mode="after")
    def _check_format(self) -> "Subscription":
        paths = [path for path in (self.timestamp, self.quality, self.unit, self.name) if path is not None]
        paths += [path for _, path in self.fields()]
        if not all(paths) or self.value in ([], {}):
            raise ValueError("a path is empty")
        if self.format != "csv":
            for path in paths:
                parse_path(path)
        if self.csv is not None and self.format != "csv":
            raise ValueError("`csv` is for format csv")
        if {self.descriptor is not None, self.message is not None} != {self.format == "protobuf"}:
            raise ValueError("`descriptor` and `message` go with format protobuf, which needs both")
        return self

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
    reorder_timeout: Duration = Field(
        2.0,
        description="time for which a message that came too early waits for those before it, and data for its birth; "
        "0: nothing waits, which suits a broker that keeps the order",
    )
    host_id: str | None = Field(
        None,
        description="name of this host application, unique in the plant. With it the gateway says in "
        "`spBv1.0/STATE/<host_id>` whether it is online, as edge nodes need that have it as their primary host; "
        "without it, it listens only",
    )

    @field_validator("host_id")
    @classmethod
    def _check_host_id(cls, host_id: str | None) -> str | None:
        if host_id is not None and (not host_id or re.search(r"[/+#\0]", host_id)):
            raise ValueError(f"`{host_id}` is no host id: it is one level of a topic, without /, + and #")
        return host_id


class MqttConfig(SourceConfig):
    """An MQTT broker to read from."""

    protocol: Literal["mqtt"] = Field("mqtt", description="protocol of the source")
    endpoint: str = Field(
        description="mqtt://host:1883 or tcp://…, with TLS mqtts://host:8883 or tls://…, over WebSocket ws://host:80/mqtt or "
        "wss://host:443/mqtt"
    )
    fallback: list[str] = Field(
        [],
        description="further brokers, tried in this order when those before cannot be connected to; each has a session",
    )
    failback: Duration = Field(
        0.0,
        description="pace at which a source on a fallback looks whether a broker before it answers again, and goes back to it; "
        "0: only when its connection is lost",
    )
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
    status_topic: str | None = Field(
        None,
        description="topic that says, retained, `online`, and by a will `offline`; {gateway} and {source} may stand in it; none "
        "when absent. Sparkplug has STATE for it, see `sparkplug.host_id`",
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

    @property
    def endpoints(self) -> list[str]:
        """All brokers, in the order in which they are tried."""
        return [self.endpoint, *self.fallback]

    @model_validator(mode="after")
    def _check_together(self) -> "MqttConfig":
        for endpoint in self.endpoints:
            if not endpoint_address(endpoint)[2] and self.tls is not None:
                raise ValueError(f"`tls` is set, but `{endpoint}` has no TLS; write mqtts://")
        if len(set(self.endpoints)) < len(self.endpoints):
            raise ValueError("a broker stands among `endpoint` and `fallback` twice")
        if self.password is not None and self.username is None:
            raise ValueError("`password` without `username`")
        filters = [s.topic for s in self.subscriptions]
        twice = sorted({name for name in filters if filters.count(name) > 1})
        if twice:
            raise ValueError(f"subscribed to twice: {', '.join(twice)}")
        if self.sparkplug.host_id is not None and not self.has_sparkplug:
            raise ValueError("`host_id` without a subscription of format sparkplug")
        if self.status_topic:
            if self.has_sparkplug:
                raise ValueError(
                    "`status_topic` does not go with format sparkplug, whose STATE says whether the gateway is online: set "
                    "`sparkplug: {host_id: …}`, or read the other topics by a source of their own"
                )
            check_status_topic(self.status_topic, "gateway", "source")
        return self

    @property
    def has_sparkplug(self) -> bool:
        """Whether anything is read as Sparkplug B."""
        return any(s.format == "sparkplug" for s in self.subscriptions)

    def rules(self) -> list[Subscription]:
        """What is subscribed to and how it is read, with the STATE of this host application first if it has one."""
        rules = self.subscriptions or [Subscription.model_validate({"topic": "#"})]
        host_id = self.sparkplug.host_id
        topic = state_topic(host_id) if host_id is not None else ""
        if not topic or any(rule.topic == topic for rule in rules):
            return rules
        return [Subscription.model_validate({"topic": topic, "format": "sparkplug"}), *rules]

    @override
    def named_tags(self) -> bool:
        return self._named(lambda _: 0)

    @override
    def named_rows(self) -> list[Tag]:
        found: list[Tag] = []

        def keep(tag: Tag) -> int:
            found.append(tag)
            return 0

        self._named(keep)
        return found

    @override
    def row_of(self, address: str, device: str = "", unit: str = "", tag_name: str = "") -> Tag | None:
        from connectors.sources.mqtt.captured import row

        return row(self, address, device, unit, tag_name)

    @override
    def decode_captured(self, captured: Sequence[Captured], intern: Callable[[Tag], int]) -> list[Columns]:
        from connectors.sources.mqtt.captured import Replay

        return Replay(self, intern).decode(captured)

    def _named(self, intern: Callable[[Tag], int]) -> bool:
        from connectors.sources.mqtt.payload import Decoder

        decoder = Decoder(self, intern)
        complete = bool(self.subscriptions)
        for one in self.subscriptions:
            topic = one.topic.split("/", 2)[-1] if one.topic.startswith("$share/") else one.topic
            said = one.value is not None or one.format == "plain"  # else a payload may be an object of many tags
            if {"+", "#"} & set(topic.split("/")) or one.format == "sparkplug" or one.name or not said:
                complete = False
            else:
                decoder.tags_of(topic, [(field, "") for field, _ in one.fields() or [("", "")]])
        return complete

    @override
    def trial(self) -> Self:
        """A session of its own, which the broker forgets and nobody is told of: the gateway's keeps its messages."""
        mute = self.sparkplug.model_copy(update={"host_id": None})
        client_id = f"trial-{uuid.uuid4().hex[:12]}"
        return self.model_copy(
            update={"clean_session": True, "client_id": client_id, "sparkplug": mute, "status_topic": None}
        )

    @override
    def reader(self, context: Context) -> Reader:
        from connectors.sources.mqtt.brokers import MqttReader

        return MqttReader(self, context)
