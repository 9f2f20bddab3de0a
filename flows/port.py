"""The gateway's HTTP port: health and metrics, and whatever else is given to it, in a thread of its own."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import structlog
from fastapi import APIRouter, FastAPI, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from config.certificates.used import ending
from delivery import metrics
from delivery.wear import written_bytes, years

if TYPE_CHECKING:
    from config.models import Configuration
    from delivery.account import Account
    from delivery.dead_letters import DeadLetterStore
    from delivery.forwarder import Forwarder
    from flows.intake import SourceIntake

log = structlog.get_logger()


class Observed(Protocol):
    """What the port tells about."""

    config: "Configuration"
    started: float
    draining: bool
    dead_letters: "DeadLetterStore"
    kept: dict[str, dict[str, Any]]

    @property
    def intakes(self) -> "dict[str, SourceIntake]":
        """The sources' intakes, by name."""

    @property
    def forwarders(self) -> "dict[str, Forwarder]":
        """The targets' forwarders, by name."""

    def account(self) -> "Account":
        """The account of the gateway."""

    def refresh_metrics(self) -> None:
        """Set the gauges that are counted when somebody looks."""


def status(process: Observed) -> dict[str, Any]:
    """How sources and targets stand, as plain values."""
    sources = {
        name: {
            "protocol": intake.status.protocol,
            "state": str(intake.status.state),
            "detail": intake.status.detail,
            "received": intake.status.received,
            "reconnections": intake.status.reconnections,
            "last_reading": intake.status.last_reading,
            "tags": len(intake.status.tags),
            "gaps": intake.status.gaps,
            "counts": dict(intake.status.counts),
            "measures": dict(intake.status.measures),
            "last_gap": asdict(intake.status.last_gap) if intake.status.last_gap is not None else None,
        }
        for name, intake in dict(process.intakes).items()
    }
    targets = {
        name: {
            "connected": forwarder.status.connected,
            "breaker": forwarder.status.breaker.name.lower(),
            "delivered": forwarder.status.delivered,
            "stored": forwarder.spool.stored_rows,
            "spool_bytes": forwarder.spool.size,
            "quota_bytes": forwarder.spool.policy.quota,
            "full_in": forwarder.spool.full_in,
            "oldest_age": forwarder.spool.oldest_age,
            "discarded": forwarder.spool.discarded,
            "alarm": forwarder.spool.alarm,
            "compression": forwarder.spool.compression,
            "in_flight": forwarder.status.in_flight,
            "pool": asdict(use) if (use := forwarder.pool) is not None else None,
            "success_rate": forwarder.status.success_rate,
            "response_time": {
                "p50": forwarder.status.response_time(0.5),
                "p99": forwarder.status.response_time(0.99),
            },
            "last_success": forwarder.status.last_success,
            "last_error": forwarder.status.last_error,
            "error_class": forwarder.status.error_class,
            "errors": forwarder.status.errors,
        }
        for name, forwarder in process.forwarders.items()
    }
    letters = process.dead_letters
    uptime, written, endurance = time.time() - process.started, written_bytes(), process.config.endurance
    healthy = all(s["state"] == "connected" for s in sources.values()) and all(
        not t["last_error"] and not t["alarm"] for t in targets.values()
    )
    healthy = healthy and not letters.alarm
    return {
        "gateway": process.config.gateway,
        "status": "draining" if process.draining else "ok" if healthy else "degraded",
        "uptime": round(uptime, 1),
        "disk": {"written_bytes": written, "years": years(endurance, written, uptime) if endurance else None},
        "sources": sources,
        "targets": targets,
        "kept": process.kept,
        "certificates": [one.text for one in ending(process.config, datetime.now(UTC))],
        "dead_letters": {
            "stored": letters.total,
            "bytes": letters.size,
            "quota_bytes": letters.policy.quota,
            "discarded": letters.discarded,
            "alarm": letters.alarm,
        },
    }


def create_app(process: Observed, routers: list[APIRouter]) -> FastAPI:
    """The app behind the port."""
    app = FastAPI(title="Bifrost", docs_url=None, redoc_url=None)

    @app.get("/health")
    def health() -> dict[str, Any]:
        """How the gateway, its sources and its targets stand."""
        return status(process)

    @app.get("/metrics")
    def read_metrics() -> Response:
        """Metrics in Prometheus' text format."""
        process.refresh_metrics()
        return Response(generate_latest(metrics.REGISTRY), media_type=CONTENT_TYPE_LATEST)

    @app.get("/api/ledger")
    def ledger() -> dict[str, Any]:
        """The account of the gateway."""
        kept = {"kept": process.kept} if process.kept else {}
        return {"gateway": process.config.gateway, **process.account().to_dict(), **kept}

    for router in routers:
        app.include_router(router)
    return app


class Port:
    """Serves the app in a daemon thread.

    Args:
        process: What it tells about.
        host: Address to listen on.
        port: Port to listen on.
        routers: Routes beside its own.
    """

    routers: ClassVar[list[Callable[[Observed], APIRouter]]] = []

    def __init__(self, process: Observed, host: str, port: int, routers: Sequence[APIRouter] = ()) -> None:
        self._process, self._host, self._port = process, host, port
        self._own_routers = routers
        self._thread = threading.Thread(target=self._serve, name="port", daemon=True)

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def _serve(self) -> None:
        import uvicorn

        app = create_app(self._process, [*self._own_routers, *(make(self._process) for make in self.routers)])
        config = uvicorn.Config(app, self._host, self._port, log_config=None, access_log=False, lifespan="off")
        server = uvicorn.Server(config)
        server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
        try:
            listening = socket.create_server(
                (self._host, self._port), family=socket.AF_INET6 if ":" in self._host else socket.AF_INET
            )
        except OSError as error:
            log.error(
                "the port cannot be opened; data flows on without it",
                host=self._host,
                port=self._port,
                error=error.strerror,
            )
            return
        asyncio.run(server.serve(sockets=[listening]))
