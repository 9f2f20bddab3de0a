"""From topics and payloads to readings: pure, no clock, no network.

The way of a message is short for what is common: the topic is looked up once, a typed decoder takes the four fields of a
JSON sample, and the columns are extended once per network read. Everything else goes the general way, one at a time.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import msgspec

from connectors.sources.mqtt.config import MqttConfig, Subscription
from connectors.sources.mqtt.parse import (
    MISSING,
    at_path,
    fill,
    flatten,
    match_pattern,
    parse_json,
    parse_path,
    parse_plain,
    parse_properties,
    parse_time,
    topic_matches,
)
from connectors.wire.mqtt_packets import DUP, QOS, RETAIN, TRUNCATED, Publish
from normalization.quality import text_quality
from normalization.reading import Columns, Flags, Quality, Tag, to_json

__all__ = ["Decoder", "TooManyTagsError", "topic_matches"]

_TIMES: Final = ("timestamp", "ts", "time")
_KINDS: Final = {float: 4, int: 2, bool: 1, str: 5, type(None): 0}
_INT64: Final = (-(2**63), 2**63)
_UNSET: Final = msgspec.UNSET
_MS: Final = frozenset({"auto", "ms"})


@dataclass(slots=True)
class _Topic:
    """What is known of one topic: how it is read, its tags by field and unit, and whether a session keeps its messages."""

    name: str
    rule: Subscription
    device_id: str
    tag_name: str
    places: dict[str, str]
    kept: bool
    decode: Callable[[bytes], Any] | None = None
    unit: str | None = None
    tag: int = -1
    tags: dict[tuple[str, str], int] = field(default_factory=dict)


def _named(topic: _Topic, field: str) -> tuple[str, str, str]:
    """Device, address and tag name of a field of a topic; an empty field is the whole."""
    first, _, last = topic.name.rpartition("/")
    if field:
        tag_name = f"{topic.tag_name}.{field}" if topic.tag_name else field
        return topic.device_id or topic.name, f"{topic.name}#{field}", tag_name
    return topic.device_id or first or topic.name, topic.name, topic.tag_name or last


class TooManyTagsError(ValueError):
    """The source's limit of tags is reached."""


class Decoder:
    """Turns messages into readings; keeps what it has learnt of each topic.

    Attributes:
        grown: It has met a tag since this was last set to False.
        on_sparkplug: Takes topic, payload and head of a Sparkplug message, and the rows for its readings.
    """

    def __init__(self, config: MqttConfig, intern: Callable[[Tag], int]) -> None:
        """A decoder that has seen nothing yet.

        Args:
            config: The source.
            intern: Gives a tag its row of the tag table.
        """
        self._config = config
        self._intern = intern
        self._rules = config.subscriptions or [Subscription.model_validate({"topic": "#"})]
        self._topics: dict[bytes, _Topic] = {}
        self._count = 0
        self._qualities: dict[Any, tuple[int, int | None]] = {None: (Quality.GOOD, None)}
        self._samples: dict[tuple[str, str, str, str], Callable[[bytes], Any]] = {}
        self._metrics: dict[Tag, int] = {}
        self._reject_tag: int | None = None
        self.grown = False
        self.on_sparkplug: Callable[[str, bytes, int, Columns], None] | None = None

    def reject_tag(self) -> int:
        """Row of the tag table for what cannot be told; its readings' `properties` name the topic."""
        if self._reject_tag is None:
            self._reject_tag = self._intern(self._config.tag(self._config.name, "", "unreadable"))
        return self._reject_tag

    def new_tag(self, device_id: str, address: str, name: str, unit: str, places: dict[str, str] | None = None) -> int:
        """Row of the tag table for a tag of this source.

        Raises:
            TooManyTagsError: The source has as many as it may have.
        """
        self._take_tag()
        return self._intern(self._config.tag(device_id, address, name, unit, places=places))

    def sparkplug_tag(self, device_id: str, address: str, name: str, unit: str, metadata: dict[str, str]) -> int:
        """Row of the tag table for a Sparkplug metric.

        Raises:
            TooManyTagsError: The source has as many as it may have.
        """
        tag = replace(self._config.tag(device_id, address, name, unit, metadata), protocol="sparkplug")
        known = self._metrics.get(tag)
        if known is None:
            self._take_tag()
            known = self._metrics[tag] = self._intern(tag)
        return known

    def _take_tag(self) -> None:
        if self._count >= self._config.max_tags:
            raise TooManyTagsError(f"more than {self._config.max_tags} tags (`max_tags`)")
        self._count += 1

    def decode(self, messages: list[Publish], rows: Columns) -> None:
        """Append the readings of `messages` to `rows`, in their order."""
        tags: list[int] = []
        values: list[Any] = []
        qualities: list[int] = []
        statuses: list[int | None] = []
        times: list[int | None] = []
        flags: list[int] = []
        properties: list[str | None] = []
        topics, known_qualities = self._topics, self._qualities
        for message in messages:
            topic_name, payload, head, _, raw_properties = message
            topic = topics.get(topic_name)
            if topic is not None and topic.decode is not None and not head & TRUNCATED:
                try:
                    sample = topic.decode(payload)
                    value = sample.value
                    known = known_qualities.get(sample.quality)
                except (msgspec.DecodeError, TypeError, RecursionError):
                    sample = known = value = None
                if known is not None and value is not _UNSET and (sample.unit is None or sample.unit == topic.unit):
                    when = sample.time
                    if (
                        type(when) is int
                        and 100_000_000_000 < when < 100_000_000_000_000
                        and topic.rule.timestamp_format in _MS
                    ):
                        when *= 1000
                    elif when is not None:
                        when = parse_time(when, topic.rule.timestamp_format)
                    if when is not None or sample.time is None:
                        tags.append(topic.tag)
                        values.append(value)
                        qualities.append(known[0] if value is not None or known[0] else Quality.BAD)
                        statuses.append(known[1])
                        times.append(when)
                        flags.append(head & RETAIN if not head & DUP else head & RETAIN | Flags.RESENT)
                        properties.append(parse_properties(raw_properties) if raw_properties else None)
                        continue
            if tags:
                extend(rows, tags, values, qualities, statuses, times, flags, properties)
                for column in (tags, values, qualities, statuses, times, flags, properties):
                    column.clear()
            self._decode_one(message, topic, rows)
        if tags:
            extend(rows, tags, values, qualities, statuses, times, flags, properties)

    def _decode_one(self, message: Publish, topic: _Topic | None, rows: Columns) -> None:
        """The general way of one message; what it cannot read becomes a reject row."""
        properties = parse_properties(message.properties) if message.properties else None
        flags = message.head & RETAIN
        if message.head & DUP:
            flags |= Flags.RESENT
        try:
            topic = topic or self._learn(message.topic, message.head)
            if message.head & TRUNCATED:
                raise ValueError(f"larger than {self._config.max_message_size} bytes; this is its beginning")
            if topic.rule.format == "sparkplug":
                if self.on_sparkplug is not None:
                    self.on_sparkplug(topic.name, message.payload, message.head, rows)
                return
            if not message.payload:
                # the broker's way of clearing a topic
                rows.add(self._tag_of(topic, "", None), None, quality=Quality.BAD, flags=flags, properties=properties)
                return
            document = self._parse(topic.rule.format, message.payload)
            if isinstance(document, dict):
                self._decode_object(topic, document, flags, properties, rows)
            else:
                self._add(topic, "", None, document, (Quality.GOOD, None), None, flags, properties, rows)
        except ValueError as error:
            known = {} if properties is None else json.loads(properties)
            known["topic"] = message.topic.decode("utf-8", "backslashreplace")
            tag = topic.tag if topic is not None and topic.tag >= 0 else self.reject_tag()
            rows.add_reject(tag, str(error), message.payload, properties=to_json(known))
            rows.flags[-1] = flags

    @staticmethod
    def _parse(form: str, payload: bytes) -> Any:
        if form == "json":
            return parse_json(payload)
        if form == "auto":
            first = payload.lstrip()[:1]
            if first in {b"{", b"["}:
                return parse_json(payload)
            if first == b'"':
                try:
                    return parse_json(payload)
                except ValueError:
                    pass  # text that begins with a quotation mark
        return parse_plain(payload)

    def seen(self) -> Iterator[tuple[str, bool, list[tuple[str, str]]]]:
        """Each topic that has tags: its name, whether a session keeps its messages, and its tags by field and unit."""
        return ((topic.name, topic.kept, list(topic.tags)) for topic in self._topics.values() if topic.tags)

    def tags_of(self, name: str, fields: Sequence[tuple[str, str]]) -> list[int]:
        """Rows of the tag table for fields of a topic as `seen` told them; none when it is not subscribed to any more."""
        if not any(topic_matches(rule.topic, name) for rule in self._rules):
            return []
        topic = self._describe(name, 0)
        return [
            self._intern(self._config.tag(*_named(topic, field), unit, places=topic.places)) for field, unit in fields
        ]

    def _learn(self, raw: bytes, head: int) -> _Topic:
        try:
            name = raw.decode()
        except UnicodeDecodeError:
            raise ValueError("the topic is not UTF-8") from None
        if not name or "\0" in name:
            raise ValueError("not a topic name")
        if len(self._topics) >= self._config.max_tags:
            raise TooManyTagsError(f"more than {self._config.max_tags} topics (`max_tags`)")
        topic = self._topics[raw] = self._describe(name, head)
        return topic

    def _describe(self, name: str, head: int) -> _Topic:
        rule = next((r for r in self._rules if topic_matches(r.topic, name)), None)
        if rule is None:
            # a subscription of an earlier configuration, which the broker still serves until it is told
            rule = Subscription.model_validate({"topic": "#"})
        levels = name.split("/")
        places = (match_pattern(rule.pattern, levels) if rule.pattern else None) or {}
        device_id = places.pop("device_id", "") or (fill(rule.device_id, levels) if rule.device_id else "")
        tag_name = places.pop("tag_name", "") or (fill(rule.tag_name, levels) if rule.tag_name else "")
        return _Topic(name, rule, device_id, tag_name, places, kept=bool(head & QOS))

    def _tag_of(self, topic: _Topic, name: str, unit: str | None) -> int:
        key = (name, unit or "")
        known = topic.tags.get(key)
        if known is None:
            device_id, address, tag_name = _named(topic, name)
            known = topic.tags[key] = self.new_tag(device_id, address, tag_name, unit or "", topic.places)
            self.grown = True
        return known

    def _add(
        self,
        topic: _Topic,
        name: str,
        unit: str | None,
        value: Any,
        quality: tuple[int, int | None],
        when: int | None,
        flags: int,
        properties: str | None,
        rows: Columns,
    ) -> None:
        if name == "" and (topic.tag < 0 or (unit is not None and unit != topic.unit)):
            topic.tag = self._tag_of(topic, "", unit)
            topic.unit = unit
        tag = topic.tag if name == "" else self._tag_of(topic, name, unit)
        code = quality[0] if value is not None or quality[0] != Quality.GOOD else Quality.BAD
        rows.add(tag, value, quality=code, status=quality[1], source_time=when, flags=flags, properties=properties)

    def _quality(self, raw: Any) -> tuple[int, int | None]:
        if not isinstance(raw, str | int | float):
            return Quality.UNCERTAIN, None
        known = self._qualities.get(raw)
        if known is None:
            status = raw if isinstance(raw, int) and not isinstance(raw, bool) and abs(raw) < 2**63 else None
            known = (text_quality(raw), status)
            if len(self._qualities) < 1000:
                self._qualities[raw] = known
        return known

    def _decode_object(
        self, topic: _Topic, document: dict[str, Any], flags: int, properties: str | None, rows: Columns
    ) -> None:
        rule = topic.rule
        time_key = rule.timestamp or next((key for key in _TIMES if key in document), _TIMES[0])
        value_key, quality_key, unit_key = rule.value or "value", rule.quality or "quality", rule.unit or "unit"
        paths = [parse_path(key) for key in (value_key, time_key, quality_key, unit_key)]
        value, when, quality, unit = (at_path(document, path) for path in paths)
        source_time = None if when in (MISSING, None) else parse_time(when, rule.timestamp_format)
        said = (Quality.GOOD, None) if quality is MISSING or quality is None else self._quality(quality)
        unit = unit if isinstance(unit, str) else None
        extra: dict[str, Any] = {} if properties is None else json.loads(properties)
        if source_time is None and when is not MISSING and when is not None:
            extra["timestamp"] = when
        used = {str(path[0]) for path in paths if path}
        if value is MISSING:
            if rule.value is not None:
                raise ValueError(f"no `{rule.value}` in the object")
            more = to_json(extra) if extra else None
            fields = [(key, item) for key, item in document.items() if key not in used]
            if not fields:
                raise ValueError("an object without a value")
            for name, item in flatten(fields):
                self._add(topic, name, unit, item, said, source_time, flags, more, rows)
            return
        rest = {key: item for key, item in document.items() if key not in used}
        if rest:
            extra["payload"] = rest
        self._add(topic, "", unit, value, said, source_time, flags, to_json(extra) if extra else None, rows)
        keys = tuple(str(path[0]) for path in paths if len(path) == 1)
        if topic.decode is None and not rest and len(set(keys)) == 4:
            topic.decode = self._sample_decoder(keys[0], keys[1], keys[2], keys[3])

    def _sample_decoder(self, value: str, time: str, quality: str, unit: str) -> Callable[[bytes], Any]:
        known = self._samples.get((value, time, quality, unit))
        if known is None:
            sample = msgspec.defstruct(
                "Sample",
                [
                    ("value", Any, msgspec.field(default=_UNSET, name=value)),
                    ("time", Any, msgspec.field(default=None, name=time)),
                    ("quality", Any, msgspec.field(default=None, name=quality)),
                    ("unit", Any, msgspec.field(default=None, name=unit)),
                ],
                forbid_unknown_fields=True,  # what is more than these goes the general way and is kept
                gc=False,
            )
            known = self._samples[value, time, quality, unit] = msgspec.json.Decoder(sample).decode
        return known


def extend(
    rows: Columns,
    tags: list[int],
    values: list[Any],
    qualities: list[int],
    statuses: list[int | None],
    times: list[int | None],
    flags: list[int],
    properties: list[str | None],
) -> None:
    """Append many readings at once; as `Columns.add` for each, at a fraction of its cost."""
    kinds = [_KINDS.get(type(value), -1) for value in values]
    distinct = set(kinds)
    low, high = _INT64
    if (
        -1 in distinct
        or (2 in distinct and any(k == 2 and not low <= v < high for k, v in zip(kinds, values, strict=True)))
        or (5 in distinct and any(k == 5 and not v.isascii() for k, v in zip(kinds, values, strict=True)))
    ):
        for i, value in enumerate(values):
            rows.add(
                tags[i],
                value,
                quality=qualities[i],
                status=statuses[i],
                source_time=times[i],
                flags=flags[i],
                properties=properties[i],
            )
        return
    none: list[None] = [None] * len(values)
    rows.tag += tags
    rows.type += kinds
    if distinct == {4}:
        rows.value_double += values
        rows.value_int += none
        rows.value_text += none
    else:
        rows.value_double += [v if k == 4 else None for k, v in zip(kinds, values, strict=True)]
        rows.value_int += [int(v) if k in {1, 2} else None for k, v in zip(kinds, values, strict=True)]
        rows.value_text += [v if k == 5 else None for k, v in zip(kinds, values, strict=True)]
    rows.value_bytes += none
    rows.quality += qualities
    rows.status += statuses
    rows.source_time += times
    rows.flags += flags
    rows.properties += properties
    rows.reject += none
