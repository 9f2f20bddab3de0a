"""A parser of InfluxDB line protocol for tests, written from its published grammar and not from our encoder."""

from dataclasses import dataclass


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
    out = []
    while at < len(text) and text[at] not in stops:
        if text[at] == "\n":
            raise ValueError(f"line break in a name at {at}")
        if text[at] == "\\" and at + 1 < len(text) and text[at + 1] in ",= ":
            at += 1
        out.append(text[at])
        at += 1
    return "".join(out), at


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
        out = []
        at += 1
        while text[at] != '"':
            if text[at] == "\\" and text[at + 1] in '"\\n':
                at += 1
                out.append("\n" if text[at] == "n" else text[at])
            else:
                out.append(text[at])
            at += 1
        return "".join(out), at + 1
    end = at
    while text[end] not in ", \n":
        end += 1
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
