"""A draft as YAML, with its remarks as comments."""

import re
from collections.abc import Iterator
from typing import Any, Final

from bifrost.convert.draft import Ready, Remark, Section

_PLAIN: Final = re.compile(r"[A-Za-z/$][A-Za-z0-9_./$+{}-]*(:[A-Za-z0-9_./$+{}-]+)*")
_SPECIAL: Final = frozenset(("true", "false", "null", "yes", "no", "on", "off", "y", "n"))
_BEGINS: Final = {"lost": "not taken over: ", "to do": "to do: ", "note": ""}


def written(root: Section) -> str:
    """The YAML of a draft."""
    return "\n".join(_mapping(root, "")) + "\n"


def scalar(value: Any) -> str:
    """A scalar that reads as what it is."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float):
        return {"inf": ".inf", "-inf": "-.inf", "nan": ".nan"}.get(str(value), repr(value))
    if isinstance(value, int):
        return str(value)
    text = str(value) if isinstance(value, Ready) else str(value).replace("${", "$${")
    if _PLAIN.fullmatch(text) and text.lower() not in _SPECIAL:
        return text
    return f'"{"".join(map(_character, text))}"'


def _character(one: str) -> str:
    if one in '"\\':
        return "\\" + one
    if one.isprintable():
        return one
    return "\\uFFFD" if "\ud800" <= one <= "\udfff" else f"\\U{ord(one):08x}"


def comment(remark: Remark) -> str:
    """A remark as a comment of one line."""
    text = "".join(one if one.isprintable() else "\ufffd" for one in remark.text)
    return f"# {_BEGINS[remark.kind]}{text}"


def _mapping(section: Section, indent: str) -> Iterator[str]:
    for remark in section.remarks:
        yield indent + comment(remark)
    for key, value in section.items():
        name = scalar(str(key))
        if isinstance(value, Section):
            yield f"{indent}{name}:" if value else f"{indent}{name}: {{}}"
            yield from _mapping(value, indent + "  ")
        elif isinstance(value, list) and value:
            yield f"{indent}{name}:"
            yield from _items(value, indent + "  ")
        elif isinstance(value, dict) and value:
            yield f"{indent}{name}:"
            yield from (f"{indent}  {scalar(str(inner))}: {scalar(text)}" for inner, text in value.items())
        elif isinstance(value, dict | list):
            yield f"{indent}{name}: {'{}' if isinstance(value, dict) else '[]'}"
        else:
            yield f"{indent}{name}: {scalar(value)}"


def _items(items: list[Any], indent: str) -> Iterator[str]:
    for item in items:
        if not isinstance(item, Section):
            yield f"{indent}- {scalar(item)}"
            continue
        for remark in item.remarks:
            yield indent + comment(remark)
        bare = Section(**item)
        lines = list(_mapping(bare, indent + "  "))
        if lines:
            lines[0] = f"{indent}- {lines[0][len(indent) + 2 :]}"
        yield from lines or [f"{indent}- {{}}"]
