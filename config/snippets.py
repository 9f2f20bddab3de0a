"""Configuration to paste: the smallest example of a source or target, and all its other settings as comments."""

import re
from collections.abc import Iterator
from typing import Any, Final

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from config import models
from config.reference import EXAMPLES, choices, default_words, type_words

UNIONS: Final = {"source": models.Source, "target": models.Target}
_OWN: Final = "provider_config"
_BROUGHT: Final = {
    "source": "sources:\n  - name: device\n    protocol: {}\n",
    "target": "gateway:\n  cloud:\n    connectors:\n      target:\n        type: {}\n",
}
_INDENT: Final = {"source": 4, "target": 8}  # of a connector's settings in its example


def types(kind: str) -> list[str]:
    """The types of sources or targets there are."""
    return sorted(choices(UNIONS[kind]))


def snippet(kind: str, type_: str) -> str:
    """YAML that can be loaded as it is.

    Args:
        kind: ``source`` or ``target``.
        type_: Its protocol or type.

    Raises:
        KeyError: There is no such type.
    """
    model = choices(UNIONS[kind])[type_]
    example = example_of(kind, type_)
    written = _written(kind, yaml.safe_load(example))
    indent = _INDENT[kind]
    lines = [example.rstrip(), f"{' ' * indent}# Further settings; what stands behind them is the default."]
    own = model.model_fields.get(_OWN)
    if own is not None and isinstance(own.annotation, type) and issubclass(own.annotation, BaseModel):
        if _OWN not in written:
            lines.append(f"{' ' * indent}# {_OWN}:")
        lines += _commented(own.annotation, written.get(_OWN, {}), indent + 2)
    lines += _commented(model, written, indent)
    return "\n".join(lines) + "\n"


def example_of(kind: str, type_: str) -> str:
    """The smallest example of a source or target."""
    for place in (EXAMPLES / f"{type_}_{kind}.yaml", EXAMPLES / f"{type_}.yaml"):
        if place.exists():
            return place.read_text("utf-8")
    return _BROUGHT[kind].format(type_)  # of an installed package


def _written(kind: str, example: Any) -> dict[str, Any]:
    """What the example says of its one connector."""
    if kind == "source":
        found: dict[str, Any] = example["sources"][0]
        return found
    (found,) = example["gateway"]["cloud"]["connectors"].values()
    return found


def _commented(model: type[BaseModel], written: Any, indent: int) -> Iterator[str]:
    for key, field in model.model_fields.items():
        name = field.alias or key
        if name not in written and key not in ("type", "protocol", _OWN):
            said = f"{name}: {_value(field)}".rstrip()
            yield f"{' ' * indent}# {said:<32} # {_meaning(field)}"


def _value(field: FieldInfo) -> str:
    words = default_words(field)
    return "" if words.startswith("**") else words.replace("`", "")


def _meaning(field: FieldInfo) -> str:
    kind = type_words(field.annotation, [*field.metadata]).replace("`", "")
    return re.sub(r"\s+", " ", f"{kind}: {field.description}")
