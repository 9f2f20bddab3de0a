"""How the gateway stands: for people, probes and Prometheus."""

from typing import Any

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from delivery import metrics
from web.access.callers import MaybeCaller
from web.gateway import Gateway
from web.status import status


def health_router(gateway: Gateway) -> APIRouter:
    """Routes to look at the gateway as a whole.

    Args:
        gateway: The gateway.
    """
    router = APIRouter(tags=["status"])

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

    @router.get("/api/ledger")
    def ledger() -> dict[str, Any]:
        """The account of the gateway."""
        kept = {"kept": gateway.kept} if gateway.kept else {}
        return {"gateway": gateway.config.gateway, **gateway.account().to_dict(), **kept}

    return router
