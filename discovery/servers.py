"""The servers that are known, and what a scan makes of them: new, known, changed or gone. Pure."""

import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from ipaddress import ip_address
from typing import Any, Final, Literal

from discovery.coverage import Place
from discovery.scan import Hit
from discovery.talk import Detail

State = Literal["new", "known", "changed", "gone"]
_FORMAT: Final = 1
_PASSING: Final = {"sparkplug", "register", "problem"}  # what differs from one look to the next


class StoreBrokenError(ValueError):
    """The file of known servers cannot be read."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server that was found.

    Attributes:
        id: Its name in the API: protocol, address and port.
        protocol: What it speaks; `mqtts` is MQTT by TLS.
        host: Its address.
        port: Its port.
        found_time: When it was found first, ISO 8601 in UTC.
        seen_time: When it was seen last.
        state: What the last scan that asked for it made of it.
        changes: What differed then.
        detail: What it said when it was seen last.
    """

    id: str
    protocol: str
    host: str
    port: int
    found_time: str
    seen_time: str
    state: State
    changes: tuple[str, ...]
    detail: Detail


def server_id(place: Place) -> str:
    """The id of what is found at a place: letters, digits and hyphens."""
    return f"{place.protocol}-{re.sub('[.:]', '-', place.address.exploded)}-{place.port}"


def iso(moment: datetime) -> str:
    """A time as the API writes it."""
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")


def merged(known: Iterable[Server], hits: Iterable[Hit], asked: Collection[Place], now: datetime) -> list[Server]:
    """What is known after a scan.

    Args:
        known: What was known before.
        hits: What the scan found.
        asked: Where it asked; what lies elsewhere stays as it is.
        now: The time.
    """
    found = {server.id: server for server in known}
    here = {server_id(hit.place): hit for hit in hits}
    for missed in {server_id(place) for place in asked} - set(here):
        if missed in found:
            found[missed] = replace(found[missed], state="gone", changes=())
    for name, hit in here.items():
        before = found.get(name)
        changes = differing(before.detail, hit.detail) if before is not None else ()
        found[name] = Server(
            id=name,
            protocol=hit.place.protocol,
            host=str(hit.place.address),
            port=hit.place.port,
            found_time=before.found_time if before is not None else iso(now),
            seen_time=iso(now),
            state="new" if before is None else "changed" if changes else "known",
            changes=changes,
            detail=hit.detail,
        )
    return sorted(found.values(), key=lambda server: (_order(server.host), server.port, server.protocol))


def _order(host: str) -> tuple[int, int]:
    address = ip_address(host)
    return address.version, int(address)


def differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[str, ...]:
    """Which parts of what a server says differ, leaving out what differs each time."""
    keys = [*before, *(key for key in now if key not in before)]
    return tuple(key for key in keys if key not in _PASSING and _lasting(before.get(key)) != _lasting(now.get(key)))


def _lasting(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _lasting(member) for key, member in value.items() if key not in _PASSING}
    if isinstance(value, list | tuple):  # servers list what they have in any order
        return sorted((_lasting(member) for member in value), key=lambda member: json.dumps(member, sort_keys=True))
    return value


# ---------------------------------------------------------------------- as a file


def to_bytes(servers: Iterable[Server], scanned: datetime | None) -> bytes:
    """What is kept on disk.

    Args:
        servers: The servers.
        scanned: When the last scan of all subnets ended; None when there was none.
    """
    kept = {
        "format": _FORMAT,
        "scanned_time": iso(scanned) if scanned is not None else None,
        "servers": [asdict(server) for server in servers],
    }
    return (json.dumps(kept, ensure_ascii=False, indent=1) + "\n").encode()


def from_bytes(data: bytes) -> tuple[list[Server], datetime | None]:
    """The reverse of `to_bytes`.

    Raises:
        StoreBrokenError: It is nothing of ours.
    """
    try:
        kept = json.loads(data)
        if kept["format"] != _FORMAT:
            msg = f"format {kept['format']} is not one of this version"
            raise StoreBrokenError(msg)
        servers = [Server(**{**each, "changes": tuple(each["changes"])}) for each in kept["servers"]]
        for server in servers:
            _order(server.host)
        scanned = kept["scanned_time"]
        return servers, datetime.fromisoformat(scanned) if scanned is not None else None
    except StoreBrokenError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        msg = f"it is not what was written: {error}"
        raise StoreBrokenError(msg) from None
