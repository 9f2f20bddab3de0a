"""The targets under the names that they have as cloud connectors: health, metrics and configuration."""

from typing import Any, Final, Protocol

from fastapi import APIRouter
from pydantic import BaseModel, Field

from config.models import Configuration
from config.shown import plain
from delivery import metrics
from delivery.forwarder import Forwarder
from flows.posted import Posted
from web.errors import ErrorAnswer
from web.routes.data import known

_PREFIX: Final = "bifrost_cloud_"


class Clouds(Protocol):
    """What the routes tell about."""

    config: Configuration
    posted: Posted

    @property
    def forwarders(self) -> dict[str, Forwarder]:
        """The targets' forwarders, by name."""

    def refresh_metrics(self) -> None:
        """Set the gauges that are counted when somebody looks."""


class ConnectorHealth(BaseModel):
    """How a connector stands."""

    healthy: bool = Field(description="whether it is connected and its last write succeeded")
    connected: bool = Field(description="whether it is connected")
    circuit_breaker: str = Field(description="closed, half_open or open")
    response_time: float | None = Field(description="median of the newest writes, seconds")
    success_rate: float | None = Field(description="share of the newest writes that succeeded")
    errors: int = Field(description="writes and connections that failed since the start")
    last_error: str = Field(description="why the newest one failed; empty when all is well")
    last_communication: float | None = Field(description="when it last took a write, seconds since 1970")
    buffered: int = Field(description="readings that wait for it")


class CloudHealth(BaseModel):
    """How all connectors stand."""

    gateway: str = Field(description="name of the gateway")
    status: str = Field(description="ok, or degraded when one is not healthy")
    connectors: dict[str, ConnectorHealth] = Field(description="each by its name")


def cloud_router(gateway: Clouds) -> APIRouter:
    """Routes to look at connectors."""
    router = APIRouter(prefix="/api/cloud", tags=["cloud"])

    @router.get("/health")
    def health() -> CloudHealth:
        """How the connectors stand."""
        connectors = {name: _health(forwarder) for name, forwarder in dict(gateway.forwarders).items()}
        ok = all(connector.healthy for connector in connectors.values())
        return CloudHealth(gateway=gateway.config.gateway, status="ok" if ok else "degraded", connectors=connectors)

    @router.get("/metrics")
    def read_metrics() -> dict[str, Any]:
        """The `bifrost_cloud_*` metrics of each connector, under their names without that."""
        gateway.refresh_metrics()
        return {"gateway": gateway.config.gateway, "connectors": _metrics(list(gateway.forwarders))}

    @router.get(
        "/connectors/{name}/config",
        responses={404: {"model": ErrorAnswer, "description": "there is no such connector"}},
    )
    def config(name: str) -> dict[str, Any]:
        """The configuration of a connector; a secret is shown as stars."""
        known(gateway, name)
        return {"gateway": gateway.config.gateway, "name": name, "config": plain(gateway.config.targets[name])}

    return router


def _health(forwarder: Forwarder) -> ConnectorHealth:
    status = forwarder.status
    return ConnectorHealth(
        healthy=not status.last_error and not forwarder.spool.alarm,
        connected=status.connected,
        circuit_breaker=status.breaker.name.lower(),
        response_time=status.response_time(0.5),
        success_rate=status.success_rate,
        errors=sum(status.errors.values()),
        last_error=status.last_error,
        last_communication=status.last_success,
        buffered=forwarder.spool.stored_rows,
    )


def _metrics(names: list[str]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {name: {} for name in names}
    for family in metrics.REGISTRY.collect():
        if not family.name.startswith(_PREFIX):
            continue
        for sample in family.samples:
            connector, bare = sample.labels.get("connector", ""), sample.name.removeprefix(_PREFIX)
            if connector not in found or bare.endswith("_bucket"):
                continue
            if (result := sample.labels.get("result")) is not None:
                found[connector].setdefault(bare, {})[result] = sample.value
            else:
                found[connector][bare] = sample.value
    return found
