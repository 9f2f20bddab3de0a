"""What stands in a topic, and in the properties of a message. Pure."""

import re
import struct
from functools import lru_cache
from typing import Any

from normalization.reading import to_json


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


def pattern_places(pattern: str) -> list[str]:
    """What the places of a pattern are called, in their order; ``tag`` is short for ``tag_name``."""
    return ["tag_name" if name == "tag" else name for name in re.findall(r"\{([^{}]*)\}", pattern)]


def match_pattern(pattern: str, topic: str) -> dict[str, str] | None:
    """What the places of a pattern such as ``plant/{line}/+/{tag_name}`` are in a topic; None when it does not fit."""
    match = _compiled(pattern).fullmatch(topic)
    return None if match is None else dict(zip(pattern_places(pattern), match.groups(), strict=True))


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> re.Pattern[str]:
    levels = pattern.split("/")
    rest = r"(?:/.*)?" if levels[-1] == "#" else ""
    if rest:
        levels.pop()
    # a place takes at least a letter, `+` also an empty level
    parts = ["[^/]*" if level == "+" else re.sub(r"\\\{.*?\\\}", "([^/]+)", re.escape(level)) for level in levels]
    return re.compile("/".join(parts) + rest if parts else ".*", re.DOTALL)
