"""A parser of InfluxDB line protocol for tests, written from its published grammar and not from our encoder."""

import re
from dataclasses import dataclass

# a name runs up to what ends it; a backslash before a comma, an equals sign or a space makes that a part of it
_NAMES = {stops: re.compile(rf"(?:\\[,= ]|[^{stops}\n])*") for stops in (", ", "=")}
_ESCAPED = re.compile(r"\\([,= ])")
_QUOTED = re.compile(r'"((?:\\["\\n]|[^"])*)"')
_IN_QUOTES = re.compile(r'\\(["\\n])')
_TOKEN = re.compile(r"[^, \n]*")


@dataclass(frozen=True)
class Line:
    """One point; integers are int, floats float, strings str, booleans bool."""

    measurement: str
    tags: dict[str, str]
    fields: dict[str, float | int | bool | str]
    time: int


def parse_lines(text: str) -> list[Line]:
    """All points of a text."""
    lines, at = [], 0
    while at < len(text):
        line, at = _line(text, at)
        lines.append(line)
    return lines


def _name(text: str, at: int, stops: str) -> tuple[str, int]:
    found = _NAMES[stops].match(text, at)
    assert found is not None
    if text[found.end() : found.end() + 1] == "\n":
        raise ValueError(f"line break in a name at {at}")
    return _ESCAPED.sub(r"\1", found[0]) if "\\" in found[0] else found[0], found.end()


def _line(text: str, at: int) -> tuple[Line, int]:
    measurement, at = _name(text, at, ", ")
    tags: dict[str, str] = {}
    while text[at] == ",":
        key, at = _name(text, at + 1, "=")
        value, at = _name(text, at + 1, ", ")
        if not key or not value or key in tags:
            raise ValueError(f"tag `{key}` is empty or there twice")
        tags[key] = value
    fields: dict[str, float | int | bool | str] = {}
    while text[at] in (" " if not fields else ","):
        key, at = _name(text, at + 1, "=")
        value_, at = _field(text, at + 1)
        if key in fields:
            raise ValueError(f"field `{key}` is there twice")
        fields[key] = value_
    end = text.index("\n", at)
    if text[at] != " " or not fields:
        raise ValueError(f"no fields or no time at {at}")
    return Line(measurement, tags, fields, int(text[at + 1 : end])), end + 1


def _field(text: str, at: int) -> tuple[float | int | bool | str, int]:
    if text[at] == '"':
        quoted = _QUOTED.match(text, at)
        if quoted is None:
            raise ValueError(f"a quote is not closed at {at}")
        inner = quoted[1]
        return _IN_QUOTES.sub(lambda m: "\n" if m[1] == "n" else m[1], inner) if "\\" in inner else inner, quoted.end()
    end = _TOKEN.match(text, at).end()  # type: ignore[union-attr]
    token = text[at:end]
    if token in ("true", "false"):
        return token == "true", end
    if token[-1] in "iu":
        number = int(token[:-1])
        low, high = (-(2**63), 2**63) if token[-1] == "i" else (0, 2**64)
        if not low <= number < high:
            raise ValueError(f"{token} is out of range")
        return number, end
    if not token.lstrip("-")[0].isdigit():
        raise ValueError(f"{token} is no number")
    return float(token), end
