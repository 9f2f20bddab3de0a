"""What readings are kept in: a database and its retention policy, or a bucket. Looked at, and made where it is missing."""

import re
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

from connectors.contract import AuthError
from connectors.targets.influxdb.config import InfluxSettings
from connectors.targets.influxdb.server import Server

_UNITS: Final = {"w": 604_800.0, "d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0}


@dataclass(frozen=True, slots=True)
class Kept:
    """What was found.

    Attributes:
        name: What readings are kept in, for people.
        there: Whether it is there and can be seen.
        retention: Seconds after which it deletes readings; None for never, or not known.
    """

    name: str
    there: bool
    retention: float | None = None


async def look(server: Server, own: InfluxSettings) -> Kept:
    """Look for it; raises a `DeliveryError` where that is refused."""
    match own.version:
        case "1.x":
            return await _look_for_policy(server, own)
        case "2.x":
            return await _look_for_bucket(server, own)
        case "3.x":
            found = await server.ask("GET", "/api/v3/configure/database?format=json")
            names = [str(item.get("iox::database")) for item in found or [] if isinstance(item, dict)]
            return Kept(f"database {own.database}", own.database in names)
        case _:
            return Kept("VictoriaMetrics", there=True)


async def make(server: Server, own: InfluxSettings) -> None:
    """Make it where it is missing; what this user may not see or make is left to the first write, which tells."""
    if own.version not in ("1.x", "2.x"):
        return  # 3.x makes a database when it is first written to
    try:
        if (await look(server, own)).there:
            return
        await (_make_policy if own.version == "1.x" else _make_bucket)(server, own)
    except AuthError as error:
        if "HTTP 401" in str(error) and own.version == "1.x":
            raise  # 1.x tells what is not granted by 403


async def _look_for_policy(server: Server, own: InfluxSettings) -> Kept:
    name = f"database {own.database}" + (f", retention policy {own.retention_policy}" if own.retention_policy else "")
    databases = [row[0] for row in await server.query("SHOW DATABASES")]
    if own.database not in databases:
        return Kept(name, there=False)
    try:
        policies = await server.query(f"SHOW RETENTION POLICIES ON {_quoted(own.database)}")
    except AuthError:
        return Kept(name, there=True)
    for policy, duration, *_, is_default in policies:
        if policy == own.retention_policy or (own.retention_policy is None and is_default):
            return Kept(name, there=True, retention=_duration(duration))
    return Kept(name, there=False)


async def _make_policy(server: Server, own: InfluxSettings) -> None:
    duration = f"{round(own.retention)}s" if own.retention else "INF"
    database = _quoted(own.database)
    if own.retention_policy is None or own.retention_policy == "autogen":
        await server.query(f"CREATE DATABASE {database}" + (f" WITH DURATION {duration}" if own.retention else ""))
        if own.retention_policy is None or not own.retention:
            return
    else:
        await server.query(f"CREATE DATABASE {database}")
    policy = _quoted(own.retention_policy)
    await server.query(f"CREATE RETENTION POLICY {policy} ON {database} DURATION {duration} REPLICATION 1")


async def _look_for_bucket(server: Server, own: InfluxSettings) -> Kept:
    name = f"bucket {own.bucket} of {own.organization}"
    asked = urlencode({"org": own.organization or "", "name": own.bucket or ""})
    found = await server.ask("GET", f"/api/v2/buckets?{asked}")
    for bucket in (found or {}).get("buckets", []):
        if own.bucket in (bucket.get("name"), bucket.get("id")):
            rules = bucket.get("retentionRules") or [{}]
            return Kept(name, there=True, retention=float(rules[0].get("everySeconds") or 0) or None)
    return Kept(name, there=False)


async def _make_bucket(server: Server, own: InfluxSettings) -> None:
    found = await server.ask("GET", f"/api/v2/orgs?{urlencode({'org': own.organization or ''})}")
    organizations: list[dict[str, Any]] = (found or {}).get("orgs", [])
    if not organizations:
        return  # a token that may only write sees none
    rules = [{"type": "expire", "everySeconds": round(own.retention)}] if own.retention else []
    made = {"orgID": organizations[0]["id"], "name": own.bucket, "retentionRules": rules}
    await server.ask("POST", "/api/v2/buckets", json=made)


def _quoted(name: str | None) -> str:
    """An identifier of InfluxQL."""
    return '"' + (name or "").replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def _duration(text: str) -> float | None:
    """Seconds of a duration as InfluxQL shows it, e.g. ``168h0m0s``; None for endless."""
    found = re.findall(r"(\d+)([wdhms])", text)
    return sum(int(number) * _UNITS[unit] for number, unit in found) or None
