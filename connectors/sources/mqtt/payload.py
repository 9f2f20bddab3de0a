"""From topics and payloads to readings: pure, no clock, no network.

The way of a message is short for what is common: the topic is looked up once, a typed decoder takes the four fields of a
JSON sample, and the columns are extended once per network read. Everything else goes the general way, one at a time.
"""

import json
import math
import re
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

import msgspec

from connectors.sources.mqtt.config import MqttConfig, Subscription
from connectors.wire.mqtt import DUP, RETAIN, TRUNCATED, Publish
from normalization.quality import text_quality
from normalization.reading import Columns, Flags, Quality, Tag, to_json

_MIN_TIME, _MAX_TIME = -62_135_596_800_000_000, 253_402_300_800_000_000  # years 1 to 9999 in µs
_SCALE: Final = {"s": 1_000_000.0, "ms": 1_000.0, "us": 1.0, "ns": 0.001}
_TIMES: Final = ("timestamp", "ts", "time")
_NUMBER: Final = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?")
_WORDS: Final = {
    "true": True, "false": False, "nan": math.nan, "inf": math.inf, "infinity": math.inf, "-inf": -math.inf,
    "-infinity": -math.inf, "+inf": math.inf, "null": None,
}  # fmt: skip
_KINDS: Final = {float: 4, int: 2, bool: 1, str: 5, type(None): 0}
_INT64: Final = (-(2**63), 2**63)
_MISSING: Final = object()
_UNSET: Final = msgspec.UNSET
_MS: Final = frozenset({"auto", "ms"})


def topic_matches(topic_filter: str, topic: str) -> bool:
    """Whether a topic filter takes a topic (MQTT 5.0 §4.7); a ``$share`` filter counts by what follows its group."""
    wanted = topic_filter.split("/")
    if wanted[0] == "$share" and len(wanted) > 2:
        wanted = wanted[2:]
    levels = topic.split("/")
    if topic[:1] == "$" and wanted[0] in {"#", "+"}:
        return False
    for i, part in enumerate(wanted):
        if part == "#":
            return True
        if i >= len(levels) or part not in {"+", levels[i]}:
            return False
    return len(wanted) == len(levels)


def parse_path(path: str) -> list[str | int]:
    """The steps of a JSON path such as ``$.data.values[0].v``."""
    steps: list[str | int] = []
    for key, index in re.findall(r"([^.\[\]]+)|\[(\d+)\]", path.removeprefix("$").removeprefix(".")):
        steps.append(int(index) if index else key)
    return steps


def at_path(document: Any, steps: Iterable[str | int]) -> Any:
    """What `document` holds at a path; a marker that is none of JSON's values when there is nothing."""
    for step in steps:
        try:
            document = document[step]
        except (KeyError, IndexError, TypeError):
            return _MISSING
    return document


def parse_time(value: Any, unit: str = "auto") -> int | None:
    """A time in µs since the epoch, UTC; None when it cannot be told.

    Args:
        value: A number or ISO 8601 text (without a zone it is UTC), or text with a number in it.
        unit: s, ms, us, ns, iso, or auto, which tells numbers by their size and text by its form.
    """
    if isinstance(value, str):
        if unit != "iso" and _NUMBER.fullmatch(value):
            value = int(value) if value.lstrip("+-").isdigit() and len(value) < 25 else float(value)
        else:
            try:
                when = datetime.fromisoformat(value)
                if when.tzinfo is None:
                    when = when.replace(tzinfo=UTC)
                return round(when.timestamp() * 1e6)
            except (ValueError, OverflowError):
                return None
    if isinstance(value, bool) or not isinstance(value, int | float) or unit == "iso":
        return None
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if unit == "auto":
        size = abs(value)
        unit = "s" if size < 1e11 else "ms" if size < 1e14 else "us" if size < 1e17 else "ns"
    micros: int
    if isinstance(value, int):
        micros = value // 1000 if unit == "ns" else value * int(_SCALE[unit])
    else:
        micros = round(value * _SCALE[unit])
    return micros if _MIN_TIME <= micros < _MAX_TIME else None


def parse_json(payload: bytes) -> Any:
    """The JSON document in `payload`; NaN and Infinity, which JSON does not have, are taken as well.

    Raises:
        ValueError: It is not JSON.
    """
    try:
        return msgspec.json.decode(payload)
    except (msgspec.DecodeError, RecursionError) as error:
        try:
            return json.loads(payload)
        except (ValueError, RecursionError):
            raise ValueError(f"not JSON: {error}") from None


def parse_plain(payload: bytes) -> Any:
    """The number, boolean or text in `payload`.

    Raises:
        ValueError: It is not UTF-8.
    """
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        raise ValueError("not UTF-8 text") from None
    word = text.strip()
    if _NUMBER.fullmatch(word):
        if word.lstrip("+-").isdigit() and len(word) < 400:
            return int(word)
        number = float(word)
        return number if math.isfinite(number) else text
    known = _WORDS.get(word.lower(), _MISSING)
    return text if known is _MISSING else known


def parse_properties(raw: bytes) -> str | None:
    """The properties of an MQTT 5 message as a JSON object; user properties under ``user``."""
    return _cached_properties(raw) if len(raw) < 1024 else _properties(raw)


def _properties(raw: bytes) -> str | None:
    from paho.mqtt.exception import MQTTException
    from paho.mqtt.packettypes import PacketTypes
    from paho.mqtt.properties import Properties

    size, prefix = len(raw), b""
    while True:
        size, low = size >> 7, size & 0x7F
        prefix += bytes([low | 0x80 if size else low])
        if not size:
            break
    decoded: Any = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    try:
        decoded.unpack(prefix + raw)
        given = decoded.json()
    except (MQTTException, ValueError, IndexError, KeyError, TypeError, struct.error) as error:
        return to_json({"malformed": str(error), "raw": raw})
    out: dict[str, Any] = {}
    for name, value in given.items():
        if name == "UserProperty":
            out["user"] = {}
            for key, text in value:
                out["user"][key] = f"{out['user'][key]}, {text}" if key in out["user"] else text
        else:
            out[re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()] = value
    return to_json(out) if out else None


_cached_properties = lru_cache(maxsize=1024)(_properties)


def fill(template: str, levels: list[str]) -> str:
    """A template such as ``{1}-{-1}`` with the levels of a topic; levels that are not there are empty."""

    def level(match: re.Match[str]) -> str:
        number = int(match[1])
        index = number - 1 if number > 0 else number
        return levels[index] if -len(levels) <= index < len(levels) else ""

    return re.sub(r"\{(-?\d+)\}", level, template)


def match_pattern(pattern: str, levels: list[str]) -> dict[str, str] | None:
    """What the places of a pattern such as ``plant/{line}/+/{tag_name}`` are in a topic; None when it does not fit."""
    wanted = pattern.split("/")
    if wanted[-1] == "#":
        wanted.pop()
        if len(levels) < len(wanted):
            return None
    elif len(wanted) != len(levels):
        return None
    found: dict[str, str] = {}
    for part, level in zip(wanted, levels, strict=False):
        if part == "+":
            continue
        names = re.findall(r"\{(\w+)\}", part)
        match = re.fullmatch(
            "".join(
                f"(?P<{names.pop(0)}>.+)" if bit[:1] == "{" else re.escape(bit) for bit in re.split(r"(\{\w+\})", part)
            ),
            level,
        )
        if match is None:
            return None
        found |= match.groupdict()
    return found


@dataclass(slots=True)
class _Topic:
    """What is known of one topic: how it is read, and its tags by field and unit."""

    name: str
    rule: Subscription
    device_id: str
    tag_name: str
    places: dict[str, str]
    decode: Callable[[bytes], Any] | None = None
    unit: str | None = None
    tag: int = -1
    tags: dict[tuple[str, str], int] = field(default_factory=dict)


class TooManyTagsError(ValueError):
    """The source's limit of tags is reached."""


class Decoder:
    """Turns messages into readings; keeps what it has learnt of each topic."""

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
            topic = topic or self._learn(message.topic)
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

    def _learn(self, raw: bytes) -> _Topic:
        try:
            name = raw.decode()
        except UnicodeDecodeError:
            raise ValueError("the topic is not UTF-8") from None
        if not name or "\0" in name:
            raise ValueError("not a topic name")
        if len(self._topics) >= self._config.max_tags:
            raise TooManyTagsError(f"more than {self._config.max_tags} topics (`max_tags`)")
        rule = next((r for r in self._rules if topic_matches(r.topic, name)), None)
        if rule is None:
            # a subscription of an earlier configuration, which the broker still serves until it is told
            rule = Subscription.model_validate({"topic": "#"})
        levels = name.split("/")
        places = (match_pattern(rule.pattern, levels) if rule.pattern else None) or {}
        device_id = places.pop("device_id", "") or (fill(rule.device_id, levels) if rule.device_id else "")
        tag_name = places.pop("tag_name", "") or (fill(rule.tag_name, levels) if rule.tag_name else "")
        topic = self._topics[raw] = _Topic(name, rule, device_id, tag_name, places)
        return topic

    def _tag_of(self, topic: _Topic, name: str, unit: str | None) -> int:
        key = (name, unit or "")
        known = topic.tags.get(key)
        if known is not None:
            return known
        first, _, last = topic.name.rpartition("/")
        if name:
            address = f"{topic.name}#{name}"
            device_id = topic.device_id or topic.name
            tag_name = f"{topic.tag_name}.{name}" if topic.tag_name else name
        else:
            address = topic.name
            device_id = topic.device_id or first or topic.name
            tag_name = topic.tag_name or last
        known = topic.tags[key] = self.new_tag(device_id, address, tag_name, unit or "", topic.places)
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
        source_time = None if when in (_MISSING, None) else parse_time(when, rule.timestamp_format)
        said = (Quality.GOOD, None) if quality is _MISSING or quality is None else self._quality(quality)
        unit = unit if isinstance(unit, str) else None
        extra: dict[str, Any] = {} if properties is None else json.loads(properties)
        if source_time is None and when is not _MISSING and when is not None:
            extra["timestamp"] = when
        used = {str(path[0]) for path in paths if path}
        if value is _MISSING:
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


def flatten(fields: Iterable[tuple[str, Any]], prefix: str = "", depth: int = 0) -> Iterable[tuple[str, Any]]:
    """The leaves of nested objects, named ``outer.inner``; arrays are leaves, and so is what is nested too deeply."""
    for key, item in fields:
        if isinstance(item, dict) and item and depth < 8:
            yield from flatten(item.items(), f"{prefix}{key}.", depth + 1)
        else:
            yield f"{prefix}{key}", item


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
