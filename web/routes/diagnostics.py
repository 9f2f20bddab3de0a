"""What helps to find out what is wrong: the log, versions, and a bundle of everything for those who help."""

import asyncio
import io
import json
import platform
import time
import zipfile
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent
from prometheus_client import generate_latest
from pydantic import BaseModel, ConfigDict, Field

from config.logs import RECENT, configure
from config.models import Level
from config.shown import MASK, secrets_in, understood
from delivery import metrics
from web.access.guard import audit_more
from web.gateway import Gateway
from web.status import status

LEVELS: Final = ("debug", "info", "warning", "error")
Least = Literal["debug", "info", "warning", "error"]
_LOOK: Final = 0.5
_AT_ONCE: Final = 100  # events in one frame
_SHORTEST: Final = 4  # characters of a secret that is looked for in the bundle; shorter ones stand anywhere


class Event(BaseModel):
    """An event of the log."""

    model_config = ConfigDict(extra="allow")

    seq: int = Field(description="counts from 1 at the gateway's start")
    event: str
    level: str
    timestamp: str


class Events(BaseModel):
    """Events of the log, the newest last."""

    events: list[Event]


class LogLevel(BaseModel):
    """From which level on is logged."""

    model_config = ConfigDict(extra="forbid")

    level: Level


class Versions(BaseModel):
    """What the gateway is made of."""

    bifrost: str
    python: str
    system: str
    packages: dict[str, str] = Field(description="versions of what it depends on, as installed")


def diagnostics_router(gateway: Gateway) -> APIRouter:
    """Routes that help to find out what is wrong.

    Args:
        gateway: The gateway.
    """
    router = APIRouter(prefix="/api", tags=["diagnostics"])

    @router.get("/logs")
    def logs(level: Least = "debug", limit: Annotated[int, Query(ge=1, le=500)] = 200) -> Events:
        """The newest events of the log, of a level and those above it."""
        return Events(events=_events(0, level)[-limit:])

    @router.get("/logs/follow", response_class=EventSourceResponse)
    async def follow(level: Least = "debug") -> AsyncIterator[ServerSentEvent]:
        """New events of the log as they come: server-sent events `logs`, each a list."""
        seen = max((number for number, _ in RECENT.after(0)), default=0)
        while True:
            await asyncio.sleep(_LOOK)
            found = _events(seen, level)
            newest = RECENT.after(seen)
            seen = newest[-1][0] if newest else seen
            if found:
                shown = [event.model_dump(mode="json") for event in found[-_AT_ONCE:]]
                yield ServerSentEvent(
                    data={"events": shown, "left_out": len(found) - len(shown)}, event="logs", id=str(seen)
                )

    @router.put("/log-level", status_code=204)
    def log_level(order: LogLevel) -> None:
        """Log from another level on, until the configuration is applied again or the gateway starts."""
        configure(order.level, gateway.config.log_format)

    @router.get("/versions")
    def versions() -> Versions:
        """What the gateway is made of."""
        return _versions()

    @router.get(
        "/support-bundle",
        response_class=Response,
        responses={200: {"content": {"application/zip": {"schema": {"type": "string", "format": "binary"}}}}},
    )
    def bundle(request: Request) -> Response:
        """A zip file for those who help: configuration, status, metrics, account, log and versions, without secrets."""
        now = datetime.now(UTC)
        audit_more(request.state, bundle="made")
        name = f"bifrost-{gateway.config.gateway}-{now:%Y%m%d-%H%M%S}.zip"
        return Response(
            _bundle(gateway),
            media_type="application/zip",
            headers={"content-disposition": f'attachment; filename="{name}"'},
        )

    return router


def _events(after: int, level: str) -> list[Event]:
    least = LEVELS.index(level)
    found = []
    for number, event in RECENT.after(after):
        said = str(event.get("level", "info"))
        if said not in LEVELS or LEVELS.index(said) >= least:
            kept = {
                key: value if isinstance(value, int | float | bool | None) else str(value)
                for key, value in event.items()
            }
            kept = {"event": "", "level": said, "timestamp": "", **kept, "seq": number}
            found.append(Event(**_sound(kept)))
    return found


def _sound(event: dict[str, Any]) -> dict[str, Any]:
    """Numbers that JSON has not as text."""
    return {
        key: str(value) if isinstance(value, float) and value - value != 0 else value for key, value in event.items()
    }


def _versions() -> Versions:
    names = {part.split(";")[0].split("[")[0].split(">")[0].split("=")[0].split("<")[0].strip() for part in _required()}
    packages = {}
    for name in sorted(names, key=str.lower):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    return Versions(
        bifrost=_own(),
        python=platform.python_version(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        packages=packages,
    )


def _own() -> str:
    try:
        return version("bifrost-gateway")
    except PackageNotFoundError:
        return "0"


def _required() -> list[str]:
    try:
        return requires("bifrost-gateway") or []
    except PackageNotFoundError:
        return []


def _bundle(gateway: Gateway) -> bytes:
    secrets = {
        one
        for part in (*gateway.config.sources, *gateway.config.targets.values())
        for one in secrets_in(part)
        if len(one) >= _SHORTEST
    }
    gateway.refresh_metrics()
    parts = {
        "configuration.json": understood(gateway.config),
        "status.json": status(gateway),
        "ledger.json": gateway.account().to_dict(),
        "versions.json": _versions().model_dump(),
        "log.jsonl": "\n".join(event.model_dump_json() for event in _events(0, "debug")),
        "metrics.txt": generate_latest(metrics.REGISTRY).decode(),
    }
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, part in parts.items():
            text = part if isinstance(part, str) else json.dumps(part, indent=1, ensure_ascii=False, default=str)
            for secret in secrets:
                text = text.replace(secret, MASK)
            info = zipfile.ZipInfo(name, time.gmtime()[:6])
            info.external_attr = 0o600 << 16
            archive.writestr(info, text, zipfile.ZIP_DEFLATED)
    return out.getvalue()
