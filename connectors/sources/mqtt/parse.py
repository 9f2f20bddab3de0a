"""What stands in a topic, a payload and its properties: pure functions from bytes and text to values."""

import json
import math
import re
import struct
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

import msgspec

from normalization.reading import to_json

_MIN_TIME, _MAX_TIME = -62_135_596_800_000_000, 253_402_300_800_000_000  # years 1 to 9999 in µs
_SCALE: Final = {"s": 1_000_000.0, "ms": 1_000.0, "us": 1.0, "ns": 0.001}
_WHOLE: Final = {"s": 1_000_000, "ms": 1_000, "us": 1}
_NUMBER: Final = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?")
_WORDS: Final = {
    "true": True, "false": False, "nan": math.nan, "inf": math.inf, "infinity": math.inf, "-inf": -math.inf,
    "-infinity": -math.inf, "+inf": math.inf, "null": None,
}  # fmt: skip
MISSING: Final = object()


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
            return MISSING
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
    if unit == "auto":
        unit = _unit_of(value)
    micros: int
    if isinstance(value, int):
        micros = value // 1000 if unit == "ns" else value * int(_SCALE[unit])
    else:
        scaled = value * _SCALE[unit]
        if not math.isfinite(scaled):
            return None
        micros = round(scaled)
    return micros if _MIN_TIME <= micros < _MAX_TIME else None


def parse_times(values: list[Any], unit: str = "auto") -> list[int | None]:
    """As `parse_time` for each of many; that is short for whole numbers of one size."""
    if set(map(type, values)) == {int}:
        low, high = min(values), max(values)
        if unit == "auto" and _unit_of(low) == _unit_of(high):
            unit = _unit_of(low)
        scale = _WHOLE.get(unit)
        if scale is not None and low * scale >= _MIN_TIME and high * scale < _MAX_TIME:
            return [value * scale for value in values]
    return [None if value is None else parse_time(value, unit) for value in values]


def _unit_of(number: float) -> str:
    """What a time is probably counted in, by its size."""
    size = abs(number)
    return "s" if size < 1e11 else "ms" if size < 1e14 else "us" if size < 1e17 else "ns"


def parse_json(payload: bytes) -> Any:
    """The JSON document in `payload`; NaN and Infinity, which JSON does not have, are taken as well.

    Raises:
        ValueError: It is not JSON.
    """
    try:
        return msgspec.json.decode(payload)
    except (msgspec.DecodeError, RecursionError) as error:
        try:
            document = json.loads(payload)
            json.dumps(document, ensure_ascii=False).encode()  # half a surrogate pair is no text that can be stored
            return document
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
    known = _WORDS.get(word.lower(), MISSING)
    return text if known is MISSING else known


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


def flatten(fields: Iterable[tuple[str, Any]], prefix: str = "", depth: int = 0) -> Iterable[tuple[str, Any]]:
    """The leaves of nested objects, named ``outer.inner``; arrays are leaves, and so is what is nested too deeply."""
    for key, item in fields:
        if isinstance(item, dict) and item and depth < 8:
            yield from flatten(item.items(), f"{prefix}{key}.", depth + 1)
        else:
            yield f"{prefix}{key}", item
