"""Discovery on the gateway's HTTP port: what was found, scans, and drafts of sources."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from fastapi import Path as InPath
from pydantic import BaseModel, ConfigDict, Field

from discovery.coverage import ScanRefusedError
from discovery.desk import DiscoveryDesk, NoServerError, ScanRunningError
from web.access.callers import MaybeCaller
from web.access.guard import audit_more
from web.errors import ApiError


class ScanOrder(BaseModel):
    """What is to be scanned."""

    model_config = ConfigDict(extra="forbid")

    subnets: list[Annotated[str, Field(max_length=64)]] | None = Field(
        None, max_length=64, description="parts of discovery.network.subnets; all of them when absent"
    )


class ScanProgress(BaseModel):
    """How far a scan is."""

    of: int = Field(description="ports that are asked, in sum")
    asked: int = Field(description="ports that were asked")
    hits: int = Field(description="open ones among them")


class FoundServer(BaseModel):
    """A server that was found."""

    id: str
    protocol: Literal["opcua", "mqtt", "mqtts", "modbus"]
    host: str
    port: int
    found_time: str = Field(description="when it was found first")
    seen_time: str = Field(description="when it was seen last")
    state: Literal["new", "known", "changed", "gone"] = Field(description="what the last scan made of it")
    changes: list[str] = Field(description="what differed then")
    detail: dict[str, Any] = Field(description="what it says, by protocol; URLs in it are shown and never connected to")
    draft: dict[str, Any] | None = Field(
        description="a source for it; none where it was not seen to speak the protocol"
    )


class Servers(BaseModel):
    """What is known, and the scan that runs."""

    gateway: str
    enabled: bool = Field(description="whether networks may be scanned")
    subnets: list[str] = Field(description="which ones")
    running: bool
    started: str | None = Field(description="when the scan that runs began")
    progress: ScanProgress | None
    scanned_time: str | None = Field(description="when the last scan of all subnets ended")
    servers: list[FoundServer]


class ScanBegun(BaseModel):
    """A scan has begun."""

    running: bool = True


class ScanStopped(BaseModel):
    """What became of the order to stop."""

    stopped: bool = Field(description="whether a scan ran")


class DraftAnswer(BaseModel):
    """A source to look through before it is used."""

    yaml: str = Field(description="as a configuration file, with what is known as comments")
    source: dict[str, Any] = Field(description="the same for POST /api/sources")
    notes: list[str] = Field(description="what is known, and what is left to do")


def discovery_router(gateway: str, desk: DiscoveryDesk) -> APIRouter:
    """Routes of discovery.

    Args:
        gateway: Name of the gateway.
        desk: Its discovery.
    """
    router = APIRouter(prefix="/api/discovery", tags=["discovery"])

    @router.get("/servers")
    def servers() -> Servers:
        """Every server that is known, and how far the scan is that runs."""
        return Servers.model_validate({"gateway": gateway, **desk.listing()})

    @router.post("/scan", status_code=202, responses={409: {"description": "off, not listed, or a scan runs already"}})
    def scan(request: Request, caller: MaybeCaller, order: ScanOrder | None = None) -> ScanBegun:
        """Begin a scan."""
        subnets = None if order is None else order.subnets
        audit_more(request.state, subnets="all" if subnets is None else ", ".join(subnets))
        try:
            desk.scan(subnets, "" if caller is None else caller.name)
        except (ScanRefusedError, ScanRunningError) as error:
            raise ApiError(409, str(error)) from error
        return ScanBegun()

    @router.delete("/scan")
    def stop() -> ScanStopped:
        """Stop the scan that runs; what it found is kept."""
        return ScanStopped(stopped=desk.stop())

    @router.post("/servers/{server_id}/draft")
    def draft(server_id: Annotated[str, InPath(max_length=63)]) -> DraftAnswer:
        """A source for a server that was found."""
        try:
            found = desk.draft(server_id)
        except NoServerError as error:
            raise ApiError(404, str(error)) from error
        return DraftAnswer(yaml=found.yaml, source=found.source, notes=list(found.notes))

    return router
