"""Letting the sources go, so that a gateway can be taken away with nothing in it."""

from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, HTTPException
from pydantic import BaseModel, ConfigDict, Field

from flows.held import held

if TYPE_CHECKING:
    from flows.process import Process


class DrainOrder(BaseModel):
    """Whether the sources are let go."""

    model_config = ConfigDict(extra="forbid")

    gateway: str = Field("", description="name of the gateway that is meant")
    wanted: bool = Field(True, description="false to read them again")


def drain_router(process: "Process") -> APIRouter:
    """Routes to see what a gateway still holds, and to have it read nothing meanwhile."""
    router = APIRouter(prefix="/api/drain", tags=["store and forward"])
    gateway = process.config.gateway

    @router.get("")
    def look() -> dict[str, Any]:
        """What waits in journal and spools."""
        return {"gateway": gateway, **held(process)}

    @router.post("", responses={409: {"description": "this is another gateway"}})
    def drain(order: DrainOrder) -> dict[str, Any]:
        """Read nothing until the gateway ends or is told otherwise; what it holds is delivered."""
        if order.gateway != gateway:
            raise HTTPException(409, f"this is gateway `{gateway}`; name it to change something")
        process.hold(wanted=order.wanted)
        return {"gateway": gateway, **held(process)}

    return router
