"""A configuration, and what differs between two, as plain values that hold no secret."""

import re
from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel, SecretStr

from config.changes import Change, shown
from config.models import Configuration

MASK: Final = "********"
_LOGIN: Final = re.compile(r"(?<=://)[^/@\s]+@")  # in an address


def understood(loaded: Configuration) -> dict[str, Any]:
    """A configuration as it is understood: with every default, and without secrets."""
    return {
        "gateway": {
            "name": loaded.gateway,
            "directory": str(loaded.directory),
            "listen": loaded.listen,
            "port": loaded.port,
        }
        | {"commit_interval": loaded.commit_interval, "default": list(loaded.default)}
        | members(loaded),
        "sources": [plain(source) for source in loaded.sources],
        "targets": {name: plain(target) for name, target in loaded.targets.items()},
        "rules": [
            {"name": r.name, "condition": r.condition, "connectors": list(r.connectors), "priority": r.priority}
            for r in loaded.rules
        ],
    }


def members(loaded: Configuration) -> dict[str, Any]:
    """Which member of how many a gateway is, and who owns the sources of the others; empty where it is alone."""
    found = loaded.membership
    if found is None:
        return {}
    return {"member": found.member, "members": found.members, "elsewhere": found.elsewhere}


def plain(model: BaseModel) -> Any:
    """A part of a configuration with every default, and without secrets."""
    return without_logins(model.model_dump(mode="json", exclude_none=True))


def without_logins(value: Any) -> Any:
    """Plain values with the logins in addresses masked."""
    if isinstance(value, dict):
        return {key: without_logins(member) for key, member in value.items()}
    if isinstance(value, list):
        return [without_logins(member) for member in value]
    return _LOGIN.sub(f"{MASK}@", value) if isinstance(value, str) else value


def with_logins(wanted: Any, there: Any) -> Any:
    """Plain values that come back from somebody who saw them masked: the logins in addresses are those that are there.

    Args:
        wanted: The values.
        there: The values as they are.
    """
    if isinstance(wanted, dict):
        known = there if isinstance(there, dict) else {}
        return {key: with_logins(member, known.get(key)) for key, member in wanted.items()}
    if isinstance(wanted, list):
        listed = there if isinstance(there, list) else []
        return [with_logins(member, listed[at] if at < len(listed) else None) for at, member in enumerate(wanted)]
    return there if isinstance(there, str) and without_logins(there) == wanted else wanted


def told(change: Change, where: Mapping[tuple[str, str], str]) -> dict[str, Any]:
    """What differs, as plain values.

    Args:
        change: What differs.
        where: The place of each part in the files.
    """
    leaves = {key: {"before": shown(old), "now": shown(new)} for key, (old, new) in change.leaves.items()}
    place = where.get((change.kind, change.name), "")
    return {"kind": change.kind, "name": change.name, "what": change.what, "place": place, "keys": leaves}


def secrets_in(value: Any) -> set[str]:
    """Every secret that stands in a configuration, to see that it is nowhere else."""
    if isinstance(value, SecretStr):
        return {value.get_secret_value()} - {""}
    if isinstance(value, BaseModel):
        return {one for name in type(value).model_fields for one in secrets_in(getattr(value, name))}
    if isinstance(value, Mapping):
        return {one for member in value.values() for one in secrets_in(member)}
    if isinstance(value, list | tuple):
        return {one for member in value for one in secrets_in(member)}
    return set()
