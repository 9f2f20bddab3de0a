"""What differs between two configurations: sources, targets, rules and what concerns the whole gateway. Pure.

A configuration is compared as leaves: each value under its key as people write it, ``registers[flow].address``. What a list
holds goes by its name where it has one, so that a register which is put in between changes no other. A secret is a leaf that
can be compared and not be read.
"""

import hashlib
import hmac
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from typing import Any, Final, Literal

from pydantic import BaseModel, SecretStr

from config.models import Configuration

Leaves = dict[str, Any]
Parts = dict[str, dict[str, Leaves]]

KINDS: Final = ("gateway", "source", "target", "rule")
NAMES: Final = ("name", "tag", "path", "topic", "node", "address")  # what tells the members of a list apart
_HASHED: Final = "hashed:"
_LISTED: Final = ("sources", "plant", "targets", "rules", "warnings", "buffers")


@dataclass(frozen=True)
class Change:
    """A part of the configuration that differs.

    Attributes:
        kind: Which kind of part, one of ``KINDS``.
        name: Its name.
        what: What became of it.
        leaves: Of a part that changed, what each key said before and says now; None where it was not or is not there.
    """

    kind: str
    name: str
    what: Literal["added", "removed", "changed"]
    leaves: Mapping[str, tuple[Any, Any]]


def parts(config: Configuration, salt: bytes) -> Parts:
    """A configuration as leaves, by kind and name.

    Args:
        config: The configuration.
        salt: What secrets are hashed with, so that they can be compared and not be read.
    """
    whole = {each.name: getattr(config, each.name) for each in fields(config) if each.name not in _LISTED}
    targets = {
        name: dict(_leaves(target, "", salt)) | dict(_leaves(config.buffers.get(name), "buffer (resolved)", salt))
        for name, target in config.targets.items()
    }
    return {
        "gateway": {config.gateway: dict(_leaves(whole, "", salt))},
        "source": {source.name: dict(_leaves(source, "", salt)) for source in config.sources},
        "target": targets,
        "rule": {rule.name: dict(_leaves(rule, "", salt)) for rule in config.rules},
    }


def changes(before: Parts, now: Parts) -> list[Change]:
    """What differs, in the order of ``KINDS``; the secrets of both are hashed with one salt."""
    found = []
    for kind in KINDS:
        old, new = before.get(kind, {}), now.get(kind, {})
        found += [Change(kind, name, "removed", {}) for name in old if name not in new]
        found += [Change(kind, name, "added", {}) for name in new if name not in old]
        for name in new:
            if name in old and (leaves := _differing(old[name], new[name])):
                found.append(Change(kind, name, "changed", leaves))
    return found


def shown(value: Any) -> str:
    """A leaf as it may be shown."""
    if isinstance(value, str):
        return "(a secret)" if value.startswith(_HASHED) else value
    return "–" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _differing(old: Leaves, new: Leaves) -> dict[str, tuple[Any, Any]]:
    found: dict[str, tuple[Any, Any]] = {}
    for key in [*old, *(key for key in new if key not in old)]:
        if old.get(key) == new.get(key):
            continue
        if key not in old and (member := _alone(key, old)):
            found[member] = (None, "added")
        elif key not in new and (member := _alone(key, new)):
            found[member] = ("removed", None)
        else:
            found[key] = (old.get(key), new.get(key))
    return found


def _alone(key: str, others: Leaves) -> str:
    """The outermost member of a list that a key is in and others know nothing of; empty when there is none."""
    for end in (at + 1 for at, letter in enumerate(key) if letter == "]"):
        if not any(other.startswith(key[:end]) for other in others):
            return key[:end]
    return ""


def _leaves(value: Any, key: str, salt: bytes) -> Iterator[tuple[str, Any]]:
    if isinstance(value, SecretStr):
        yield key, _HASHED + _hashed(value.get_secret_value(), salt)
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _leaves(getattr(value, name), _under(key, name), salt)
    elif is_dataclass(value) and not isinstance(value, type):
        for each in fields(value):
            yield from _leaves(getattr(value, each.name), _under(key, each.name), salt)
    elif isinstance(value, Mapping):
        for name, member in value.items():
            yield from _leaves(member, _under(key, str(name)), salt)
    elif isinstance(value, Sequence | set | frozenset) and not isinstance(value, str | bytes):
        listed = list(value) if isinstance(value, Sequence) else sorted(value, key=str)
        names = [_name(member, at) for at, member in enumerate(listed)]
        if len(set(names)) < len(names):
            names = [str(at) for at in range(len(names))]
        for name, member in zip(names, listed, strict=True):
            yield from _leaves(member, f"{key}[{name}]", salt)
    elif isinstance(value, Enum):
        yield key, value.name.lower()
    elif value is not None:
        yield key, value if isinstance(value, bool | int | float | str) else str(value)


def _under(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


def _name(member: Any, at: int) -> str:
    if isinstance(member, str | int | float):
        return str(member) if isinstance(member, str) else str(at)
    for name in NAMES:
        said = member.get(name) if isinstance(member, Mapping) else getattr(member, name, None)
        if isinstance(said, str | int) and said != "":
            return str(said)
    return str(at)


def _hashed(secret: str, salt: bytes) -> str:
    derived = hashlib.scrypt(secret.encode(), salt=salt, n=2**14, r=8, p=1, dklen=16)
    return hmac.new(derived, b"bifrost configuration", "sha256").hexdigest()[:32]
