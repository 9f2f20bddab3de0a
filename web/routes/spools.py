"""The spools on the gateway's HTTP port; see `web.routes.letters` for what changes something."""

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, HTTPException
from fastapi.responses import StreamingResponse

from flows import spools

if TYPE_CHECKING:
    from flows.process import Process


@dataclass(frozen=True, slots=True)
class Purge:
    """A spool that is to be emptied, and whose it is."""

    target: str
    gateway: str = ""


def spools_router(process: "Process") -> APIRouter:
    """Routes to look at spools, and to empty one."""
    router = APIRouter(prefix="/api/spools", tags=["store and forward"])
    gateway = process.config.gateway

    @router.get("")
    def listing() -> dict[str, Any]:
        """Every spool, also of targets that are not configured any more."""
        return {"gateway": gateway, **spools.listing(process)}

    @router.get("/peek")
    def peek(target: str, limit: int) -> dict[str, Any]:
        """The next readings of a spool."""
        return {"gateway": gateway, "readings": [json.loads(line) for line in spools.export(process, target, limit)]}

    @router.get("/export")
    def export(target: str) -> StreamingResponse:
        """What waits in a spool, as JSON lines."""
        lines = spools.export(process, target)
        return StreamingResponse(lines, media_type="application/x-ndjson")

    @router.post("/purge")
    def purge(order: Purge) -> dict[str, Any]:
        """Discard what waits in a spool."""
        if order.gateway != gateway:
            raise HTTPException(409, f"this is gateway `{gateway}`; name it to change something")
        return {"gateway": gateway, **spools.purge(process, order.target)}

    return router
