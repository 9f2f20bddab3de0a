"""How the gateway stands: for people, probes and Prometheus."""

from typing import Any, Final

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, Field

from delivery import metrics
from web.access.callers import MaybeCaller
from web.errors import ApiError
from web.gateway import Gateway
from web.status import status

_PATIENCE: Final = 8.0  # seconds that the flow may take for a turn


class Well(BaseModel):
    """All is well."""

    gateway: str
    status: str = "ok"


class Sample(BaseModel):
    """What a metric says of one thing."""

    labels: dict[str, str]
    value: float | str = Field(description="the number; NaN, +Inf and -Inf as text")


def health_router(gateway: Gateway) -> APIRouter:
    """Routes to look at the gateway as a whole.

    Args:
        gateway: The gateway.
    """
    router = APIRouter(tags=["status"])

    @router.get("/livez")
    def live() -> Well:
        """Whether the process does its work: the flow takes turns, the I/O loop goes round. When not, start it again."""
        if reason := gateway.lives(_PATIENCE):
            raise ApiError(503, f"{reason}; the process should be started again")
        return Well(gateway=gateway.config.gateway)

    @router.get("/readyz")
    def ready() -> Well:
        """Whether readings are taken: stores open, sources begun, not stopping. When not, wait."""
        if reason := gateway.unready():
            raise ApiError(503, reason, (), {"retry-after": "1"})
        return Well(gateway=gateway.config.gateway)

    @router.get("/health")
    def health(caller: MaybeCaller) -> dict[str, Any]:
        """How the gateway stands in a word; with a login its sources and targets too."""
        found = status(gateway)
        return found if caller is not None else {key: found[key] for key in ("gateway", "status")}

    @router.get("/api/status")
    def full_status() -> dict[str, Any]:
        """How the gateway, its sources and its targets stand."""
        return status(gateway)

    @router.get(
        "/metrics",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )
    def read_metrics() -> Response:
        """Metrics in Prometheus' text format."""
        gateway.refresh_metrics()
        return Response(generate_latest(metrics.REGISTRY), media_type=CONTENT_TYPE_LATEST)

    @router.get("/api/metrics")
    def metrics_as_json() -> dict[str, list[Sample]]:
        """The same as JSON: by name, labels and value."""
        gateway.refresh_metrics()
        found: dict[str, list[Sample]] = {}
        for family in metrics.REGISTRY.collect():
            for sample in family.samples:
                finite = sample.value - sample.value == 0
                value = sample.value if finite else {"nan": "NaN", "inf": "+Inf", "-inf": "-Inf"}[str(sample.value)]
                found.setdefault(sample.name, []).append(Sample(labels=sample.labels, value=value))
        return found

    @router.get("/api/ledger")
    def ledger() -> dict[str, Any]:
        """The account of the gateway."""
        kept = {"kept": gateway.kept} if gateway.kept else {}
        return {"gateway": gateway.config.gateway, **gateway.account().to_dict(), **kept}

    return router
