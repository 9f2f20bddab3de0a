"""Databricks ZeroBus: which table each target writes, and how its stream stands."""

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, Field

from config.shown import plain
from connectors.targets.zerobus import ZeroBusConfig
from web.gateway import Gateway
from web.status import target_status


class Stream(BaseModel):
    """A table, and the stream into it."""

    target: str
    table: str
    sources: list[str] = Field(
        description="sources whose readings all go there; besides them, those that the rules send"
    )
    status: dict[str, Any] = Field(description="as in GET /api/status")
    config: dict[str, Any] = Field(description="what it is told, without secrets")


class ZeroBus(BaseModel):
    """The ZeroBus targets."""

    gateway: str
    streams: list[Stream]


def zerobus_router(gateway: Gateway) -> APIRouter:
    """The route that shows ZeroBus.

    Args:
        gateway: The gateway.
    """
    router = APIRouter(tags=["targets"])

    @router.get("/api/zerobus")
    def zerobus() -> ZeroBus:
        """The ZeroBus targets: configuration and streams."""
        config, forwarders = gateway.config, gateway.forwarders
        return ZeroBus(
            gateway=config.gateway,
            streams=[
                Stream(
                    target=name,
                    table=target.provider_config.table,
                    sources=[source for source, its in config.source_targets.items() if its == name],
                    status=target_status(forwarders[name]) if name in forwarders else {},
                    config=plain(target),
                )
                for name, target in config.targets.items()
                if isinstance(target, ZeroBusConfig)
            ],
        )

    return router
