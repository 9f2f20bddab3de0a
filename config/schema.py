"""What the models know about a place in the configuration: its keys, their descriptions, and what was probably meant."""

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, Final

from config.models import ConfigFile

Path = tuple[str | int, ...]
Schema = dict[str, Any]

_SYNONYMS: Final = {
    "endpoint": "url uri host hostname server broker address bootstrap_servers connection",
    "username": "user login",
    "password": "pass passwd pwd",
    "tls": "ssl tls_enabled",
    "timeout": "request_timeout",
    "interval": "poll_interval polling_interval scan_interval scan_rate period",
    "tag_name": "alias",
    "unit_id": "slave slave_id station",
}


@cache
def schema() -> Schema:
    """The JSON schema of the configuration file."""
    return ConfigFile.model_json_schema()


@dataclass(frozen=True, slots=True)
class Spot:
    """Where a location of pydantic leads.

    Attributes:
        path: Keys and positions, without the names of a union's choices.
        schemas: What may stand there; several where a union is not decided.
    """

    path: Path
    schemas: tuple[Schema, ...]

    @property
    def keys(self) -> dict[str, Schema]:
        """The keys that a mapping may have there."""
        return {key: value for found in self.schemas for key, value in found.get("properties", {}).items()}

    @property
    def description(self) -> str:
        """What stands there, in words."""
        return next((str(found["description"]) for found in self.schemas if "description" in found), "")

    @property
    def is_secret(self) -> bool:
        """Whether what stands there must not be shown."""
        return any(found.get("format") == "password" for found in self.schemas)

    @property
    def is_file(self) -> bool:
        """Whether the name of a file or folder stands there."""
        return any(found.get("format") == "path" for found in self.schemas)


def follow(location: Sequence[str | int]) -> Spot:
    """Where a location leads; parts that no model knows are left out of the path."""
    path: list[str | int] = []
    schemas = tuple(_resolved(schema()))
    for part in location:
        chosen = tuple(found for choice in schemas for found in _chosen(choice, part))
        if chosen:  # the name of a union's choice
            schemas = chosen
            continue
        below = tuple(found for choice in schemas for child in _below(choice, part) for found in _resolved(child))
        if below:
            path.append(part)
            schemas = below
    return Spot(tuple(path), schemas)


def _resolved(found: Schema) -> Iterator[Schema]:
    """The alternatives of a schema, without references; a union with a discriminator stays one."""
    if "$ref" in found:
        beside = {key: value for key, value in found.items() if key != "$ref"}
        target = schema()["$defs"][found["$ref"].rsplit("/", 1)[1]]
        for choice in _resolved(target):
            yield choice | beside
    elif "anyOf" in found or ("oneOf" in found and "discriminator" not in found):
        beside = {key: value for key, value in found.items() if key not in ("anyOf", "oneOf")}
        for option in found.get("anyOf") or found["oneOf"]:
            for choice in _resolved(option):
                if choice.get("type") != "null":
                    yield choice | beside
    else:
        yield found


def _chosen(found: Schema, part: str | int) -> Iterator[Schema]:
    choices = found.get("discriminator", {}).get("mapping", {})
    if part in choices:
        yield from _resolved({"$ref": choices[part]})


def _below(found: Schema, part: str | int) -> Iterator[Schema]:
    if "discriminator" in found:  # not decided: what any choice has
        for choice in found["oneOf"]:
            for option in _resolved(choice):
                yield from _below(option, part)
    elif isinstance(part, int):
        if "items" in found:
            yield found["items"]
    elif part in found.get("properties", {}):
        yield found["properties"][part]
    elif "patternProperties" in found:
        yield from found["patternProperties"].values()
    elif isinstance(found.get("additionalProperties"), dict):
        yield found["additionalProperties"]


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that was probably meant."""
    return _nearest(word, tuple(known))


@lru_cache(maxsize=1024)
def _nearest(word: str, known: tuple[str, ...]) -> str | None:
    folded = word.lower().replace("-", "_")
    near = difflib.get_close_matches(folded, known, 1)
    if near:
        return near[0]
    parts = [(difflib.SequenceMatcher(None, folded, part).ratio(), key) for key in known for part in key.split("_")]
    if parts and max(parts)[0] >= 0.8 and len(folded) > 3:
        return max(parts)[1]
    return next((key for key in known if folded in _SYNONYMS.get(key, "").split()), None)


def advice(key: str, spot: Spot) -> str:
    """What to do about a key that the models do not know at `spot`."""
    keys = spot.keys
    near = nearest(key, keys)
    if near:
        return f"did you mean `{near}`?"
    for name, found in keys.items():
        for choice in _resolved(found):
            inner = [choice, *(_resolved(choice["items"]) if "items" in choice else ())]
            if any(key in option.get("properties", {}) for option in inner):
                return f"it belongs into `{name}`"
    return f"known are {', '.join(sorted(keys))}" if keys else ""


def plain(message: str) -> str:
    """A message of pydantic as the end of a sentence."""
    message = re.sub(r"^(Value error, |Input )", "", message)
    return message[:1].lower() + message[1:] if not message[:2].isupper() else message
