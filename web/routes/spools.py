"""The spools on the gateway's HTTP port; see `web.routes.letters` for what changes something."""

import json
from typing import TYPE_CHECKING, Annotated, Any, Final

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from flows import spools
from web.errors import ApiError
from web.routes.letters import EXPORTED, OTHERS, JsonLines

if TYPE_CHECKING:
    from flows.process import Process

_NONE: Final[dict[int | str, dict[str, Any]]] = {404: {"description": "there is no spool of this name"}}
Target = Annotated[str, Query(max_length=255)]


class Purge(BaseModel):
    """A spool that is to be emptied, and whose it is."""

    model_config = ConfigDict(extra="forbid")

    target: str = Field(max_length=255)
    gateway: str = Field("", max_length=255, description="name of the gateway that is meant")


def spools_router(process: "Process") -> APIRouter:
    """Routes to look at spools, and to empty one."""
    router = APIRouter(prefix="/api/spools", tags=["store and forward"])
    gateway = process.config.gateway

    @router.get("")
    def listing() -> dict[str, Any]:
        """Every spool, also of targets that are not configured any more."""
        return {"gateway": gateway, **spools.listing(process)}

    @router.get("/peek", responses=_NONE)
    def peek(target: Target, limit: Annotated[int, Query(ge=0, le=500)]) -> dict[str, Any]:
        """The next readings of a spool."""
        return {"gateway": gateway, "readings": [json.loads(line) for line in spools.export(process, target, limit)]}

    @router.get("/export", response_class=JsonLines, responses={**EXPORTED, **_NONE})
    def export(target: Target) -> JsonLines:
        """What waits in a spool, as JSON lines."""
        spools.see(process, target)  # before the first line, after which nothing can be refused
        return JsonLines(spools.export(process, target))

    @router.post("/purge", responses={**OTHERS, **_NONE})
    def purge(order: Purge) -> dict[str, Any]:
        """Discard what waits in a spool."""
        if order.gateway != gateway:
            raise ApiError(409, f"this is gateway `{gateway}`; name it to change something")
        return {"gateway": gateway, **spools.purge(process, order.target)}

    return router
