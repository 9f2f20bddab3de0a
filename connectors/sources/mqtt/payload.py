"""From topics and payloads to readings: pure, no clock, no network.

The way of a message is short for what is common, a JSON sample of four fields on a topic that is known for them: those of
a network read are decoded in one call and appended as arrays. Everything else goes the general way, one at a time, and so do
all messages of a topic that has an odd one among them.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, tzinfo
from typing import Any, Final
from zoneinfo import ZoneInfo

import msgspec

from connectors.sources.mqtt.config import METADATA, MqttConfig, Subscription
from connectors.sources.mqtt.formats import storable
from connectors.sources.mqtt.gathered import STORED, Gathered, Said
from connectors.sources.mqtt.layout import Item, Layout, Table
from connectors.sources.mqtt.paths import MISSING
from connectors.sources.mqtt.samples import Shape
from connectors.sources.mqtt.times import parse_time, parse_times
from connectors.sources.mqtt.topics import fill, match_pattern, parse_properties, topic_matches
from connectors.wire.mqtt_packets import DUP, QOS, RETAIN, TRUNCATED, Publishes
from normalization.quality import text_quality
from normalization.reading import Columns, Flags, Quality, Tag, to_json

__all__ = ["Decoder", "TooManyTagsError", "topic_matches"]

_FLAGS: Final = tuple(head & RETAIN | (Flags.RESENT.value if head & DUP else 0) for head in range(16))
_Columns = tuple[list[int], list[Any], list[Said], list[int | None], list[int], list[str | None]]
_UNKNOWN: Final[Said] = (-1, None)  # a quality that has not been met yet
_PLAIN: Final = frozenset(head for head in range(16) if not _FLAGS[head])


@dataclass(slots=True, eq=False)
class _Topic:
    """What is known of one topic: how it is read, its tags by field and unit, and whether a session keeps its messages."""

    name: str
    rule: Subscription
    device_id: str
    tag_name: str
    places: dict[str, str]
    metadata: dict[str, str]
    layout: Layout
    zone: tzinfo
    kept: bool
    shape: Shape | None = None
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

        Raises:
            ValueError: A descriptor of Protobuf messages cannot be used.
        """
        self._config = config
        self._intern = intern
        everything = Subscription.model_validate({"topic": "#"})
        self._rules = [(rule, Layout(rule)) for rule in config.rules()]
        # for a subscription of an earlier configuration, which the broker still serves until it is told
        self._otherwise = everything, Layout(everything)
        self._topics: dict[bytes, _Topic] = {}
        self._count = 0
        self._qualities: dict[Any, Said] = {None: (Quality.GOOD, None), "": (Quality.GOOD, None)}
        self._sampled: dict[bytes, _Topic] = {}  # those whose last message was a sample; each has a shape
        self._shapes: dict[tuple[tuple[str, ...], str, tzinfo], Shape] = {}
        self._metrics: dict[Tag, int] = {}
        self._reject_tag: int | None = None
        self.grown = False
        self.on_sparkplug: Callable[[str, bytes, int, Columns], None] | None = None

    def reject_tag(self) -> int:
        """Row of the tag table for what cannot be told; its readings' `properties` name the topic."""
        if self._reject_tag is None:
            self._reject_tag = self._intern(self._config.tag(self._config.name, "", "unreadable"))
        return self._reject_tag

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

    def decode(self, messages: Publishes, rows: Columns) -> None:
        """Append the readings of `messages` to `rows`, in their order."""
        gathered = Gathered(rows)
        topics = [topic for topic in map(self._sampled.get, messages.topics) if topic is not None]
        if topics and len(topics) == len(messages) and len(self._shapes) == 1 and max(messages.heads) < TRUNCATED:
            (shape,) = self._shapes.values()
            columns, odd = self._read_samples(shape, topics, messages)
            if not odd:
                gathered.extend(*columns)
                gathered.flush()
                return
        readings, start = self._find_samples(messages), 0
        others = [place for place, reading in enumerate(readings) if reading is None]
        for place in (*others, len(readings)):
            if place > start:
                gathered.extend(*zip(*readings[start:place], strict=True))
            if place < len(readings):
                self._decode_one(messages, place, gathered)
            start = place + 1
        gathered.flush()

    def _find_samples(self, messages: Publishes) -> list[Any]:
        """For each message its reading, as a tuple of what `Gathered.extend` takes, if it is a sample; else None."""
        found: list[Any] = [None] * len(messages)
        places: dict[Shape, list[int]] = {}
        for place, (name, head) in enumerate(zip(messages.topics, messages.heads, strict=True)):
            topic = self._sampled.get(name)
            if topic is not None and topic.shape is not None and not head & TRUNCATED:
                places.setdefault(topic.shape, []).append(place)
        for shape, of_shape in places.items():
            these = messages.pick(of_shape)
            topics = [self._sampled[name] for name in these.topics]
            columns, odd = self._read_samples(shape, topics, these)
            for place, topic, reading in zip(of_shape, topics, zip(*columns, strict=True), strict=True):
                found[place] = None if topic.name in odd else reading
        return found

    def _read_samples(self, shape: Shape, topics: list[_Topic], messages: Publishes) -> tuple[_Columns, set[str]]:
        """Read messages as samples of one shape: the arguments of `Gathered.extend`, and which topics have an odd one."""
        samples = shape.decode(messages.payloads)
        values, times = [sample.value for sample in samples], [sample.time for sample in samples]
        units, expected = [sample.unit for sample in samples], [topic.unit for topic in topics]
        said = [sample.quality for sample in samples]
        if said.count(said[0]) == len(said):  # equal is the same here: a dictionary takes 1 for True as well
            qualities = [self._qualities.get(said[0], _UNKNOWN)] * len(said)
        else:
            qualities = [self._qualities.get(quality, _UNKNOWN) for quality in said]
        when = parse_times(times, *shape.times)
        odd: set[str] = set()
        if (
            msgspec.UnsetType in set(map(type, values))
            or _UNKNOWN in qualities
            or units != expected
            or when.count(None) > times.count(None)
        ):
            odd = {
                topic.name
                for topic, value, unit, quality, micros, time in zip(
                    topics, values, units, qualities, when, times, strict=True
                )
                if value is msgspec.UNSET
                or quality is _UNKNOWN
                or (unit is not None and unit != topic.unit)
                or (micros is None and time is not None)
            }
        heads, given = messages.heads, messages.properties
        flags = [0] * len(heads) if set(heads) <= _PLAIN else [_FLAGS[head & 0x0F] for head in heads]
        properties = [parse_properties(raw) if raw else None for raw in given]
        return ([topic.tag for topic in topics], values, qualities, when, flags, properties), odd

    def _decode_one(self, messages: Publishes, at: int, gathered: Gathered) -> None:
        """The general way of one message; what it cannot read becomes a reject row."""
        name, payload, head, raw = (
            messages.topics[at],
            messages.payloads[at],
            messages.heads[at],
            messages.properties[at],
        )
        properties = parse_properties(raw) if raw else None
        flags = _FLAGS[head & 0x0F]
        self._sampled.pop(name, None)
        topic = self._topics.get(name)
        try:
            topic = topic or self._learn(name, head)
            if head & TRUNCATED:
                raise ValueError(f"larger than {self._config.max_message_size} bytes; this is its beginning")
            if topic.rule.format == "sparkplug":
                if self.on_sparkplug is not None:
                    self.on_sparkplug(topic.name, payload, head, gathered.flush())
                return
            if not payload:
                # the broker's way of clearing a topic
                gathered.add(self._tag_of(topic, "", None), None, (Quality.BAD, None), None, flags, properties)
                return
            self._decode_document(topic, topic.layout.parse(payload), flags, properties, gathered)
            if topic.shape is not None:
                self._sampled[name] = topic
            for reason, part in topic.layout.trouble:
                self._reject(topic, name, reason, part or payload, flags, properties, gathered)
        except (ValueError, RecursionError) as error:
            self._reject(topic, name, str(error), payload, flags, properties, gathered)

    def _reject(
        self,
        topic: _Topic | None,
        name: bytes,
        reason: str,
        payload: bytes,
        flags: int,
        properties: str | None,
        gathered: Gathered,
    ) -> None:
        """Append what cannot be read."""
        known = {} if properties is None else json.loads(properties)
        known["topic"] = name.decode("utf-8", "backslashreplace")
        tag = topic.tag if topic is not None and topic.tag >= 0 else self.reject_tag()
        reject = Columns()
        reject.add_reject(tag, reason, payload, properties=to_json(known))
        reject.flags[-1] = flags
        gathered.flush().extend(reject)

    def seen(self) -> Iterator[tuple[str, bool, list[tuple[str, str]]]]:
        """Each topic that has tags: its name, whether a session keeps its messages, and its tags by field and unit."""
        return ((topic.name, topic.kept, list(topic.tags)) for topic in self._topics.values() if topic.tags)

    def tags_of(self, name: str, fields: Sequence[tuple[str, str]]) -> list[int]:
        """Rows of the tag table for fields of a topic as `seen` told them; none when it is not subscribed to any more."""
        if not any(topic_matches(rule.topic, name) for rule, _ in self._rules):
            return []
        topic = self._describe(name, 0)
        return [self._intern(self._described(topic, field, unit)) for field, unit in fields]

    def _described(self, topic: _Topic, field: str, unit: str) -> Tag:
        return self._config.tag(*_named(topic, field), unit, topic.metadata, places=topic.places)

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
        rules = (pair for pair in self._rules if topic_matches(pair[0].topic, name))
        rule, layout = next(rules, self._otherwise)
        levels = name.split("/")
        places = (match_pattern(rule.pattern, name) if rule.pattern else None) or {}
        device_id = places.pop("device_id", "") or (fill(rule.device_id, levels) if rule.device_id else "")
        tag_name = places.pop("tag_name", "") or (fill(rule.tag_name, levels) if rule.tag_name else "")
        metadata = {key[len(METADATA) :]: places.pop(key) for key in list(places) if key.startswith(METADATA)}
        zone = UTC if rule.time_zone == "UTC" else ZoneInfo(rule.time_zone)
        return _Topic(name, rule, device_id, tag_name, places, metadata, layout, zone, kept=bool(head & QOS))

    def _tag_of(self, topic: _Topic, name: str, unit: str | None) -> int:
        key = (name, unit or "")
        known = topic.tags.get(key)
        if known is None:
            self._take_tag()
            known = topic.tags[key] = self._intern(self._described(topic, name, unit or ""))
            self.grown = True
        return known

    def _tag(self, topic: _Topic, name: str, unit: str | None) -> int:
        """Row of the tag table for a field of a topic, empty for the topic itself, which keeps its unit if none is said."""
        if name:
            return self._tag_of(topic, name, unit)
        if topic.tag < 0 or (unit is not None and unit != topic.unit):
            topic.tag = self._tag_of(topic, "", unit)
            topic.unit = unit
        return topic.tag

    def _quality(self, raw: Any) -> Said:
        if raw is MISSING or raw is None:
            return Quality.GOOD, None
        if not isinstance(raw, str | int | float):
            return Quality.UNCERTAIN, None
        known = self._qualities.get(raw)
        if known is None:
            status = raw if isinstance(raw, int) and not isinstance(raw, bool) and abs(raw) < 2**63 else None
            known = (text_quality(raw), status)
            if len(self._qualities) < 1000:
                self._qualities[raw] = known
        return known

    def _decode_document(
        self, topic: _Topic, document: Any, flags: int, properties: str | None, gathered: Gathered
    ) -> None:
        topic.shape = None
        if isinstance(document, dict):
            item = topic.layout.item(document)
            if item is not None:
                self._add_item(topic, item, flags, properties, gathered)
                return
        elif topic.layout.scalar and type(document) in STORED:
            gathered.add(self._tag(topic, "", None), document, (Quality.GOOD, None), None, flags, properties)
            return
        for table in topic.layout.tables(document):
            self._add_table(topic, table, flags, properties, gathered)

    def _add_item(self, topic: _Topic, item: Item, flags: int, properties: str | None, gathered: Gathered) -> None:
        """Append the readings of one object."""
        form, zone = topic.rule.timestamp_format, topic.zone
        when = None if item.time is MISSING or item.time is None else parse_time(item.time, form, zone)
        extra: dict[str, Any] = {} if properties is None else json.loads(properties)
        if when is None and item.time is not MISSING and item.time is not None:
            extra["timestamp"] = item.time
        if item.rest:
            extra["payload"] = item.rest
        quality, more = self._quality(item.quality), to_json(extra) if extra else None
        unit = item.unit if isinstance(item.unit, str) else None
        for name, value in item.fields:
            given = value if type(value) in STORED else storable(value)
            gathered.add(self._tag(topic, name, unit), given, quality, when, flags, more)
        topic.shape = self._shape(item.keys, form, zone) if item.keys else None

    def _add_table(self, topic: _Topic, table: Table, flags: int, properties: str | None, gathered: Gathered) -> None:
        """Append the readings of a table."""
        form, zone = topic.rule.timestamp_format, topic.zone
        values = table.values
        pairs = list(zip(table.names, [unit if isinstance(unit, str) else None for unit in table.units], strict=True))
        found = {pair: self._tag(topic, *pair) for pair in dict.fromkeys(pairs)}
        tags = list(map(found.__getitem__, pairs))
        when = parse_times([None if time is MISSING else time for time in table.times], form, zone)
        qualities = list(map(self._quality, table.qualities))
        known = _properties(properties, table, when)
        if set(map(type, values)) <= STORED:
            gathered.extend(tags, values, qualities, when, [flags] * len(values), known)
        else:
            for tag, value, quality, micros, more in zip(tags, values, qualities, when, known, strict=True):
                gathered.add(tag, storable(value), quality, micros, flags, more)

    def _shape(self, keys: tuple[str, ...], form: str, zone: tzinfo) -> Shape:
        known = self._shapes.get((keys, form, zone))
        if known is None:
            known = self._shapes[keys, form, zone] = Shape(keys, form, zone)
        return known


def _properties(given: str | None, table: Table, times: list[int | None]) -> list[str | None]:
    """Of each reading the message's properties, its time where that cannot be told, and what else its payload says."""
    known = {} if given is None else json.loads(given)
    rests = table.rest if isinstance(table.rest, list) else [table.rest]
    unread = [
        time if micros is None and time is not MISSING else None
        for time, micros in zip(table.times, times, strict=True)
    ]
    if len(rests) <= 1 and unread.count(None) == len(unread):
        rest = {"payload": rests[0]} if rests and rests[0] else {}
        return [to_json(known | rest) if known or rest else None] * len(times)
    if len(rests) != len(times):
        rests = (rests or [{}]) * len(times)
    found = []
    for time, rest in zip(unread, rests, strict=True):
        more = known | ({} if time is None else {"timestamp": time}) | ({"payload": rest} if rest else {})
        found.append(to_json(more) if more else None)
    return found
