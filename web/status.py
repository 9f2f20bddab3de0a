"""How a gateway stands, as plain values."""

import time
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from config.certificates.used import ending
from config.shown import members
from delivery.wear import written_bytes, years
from flows.standing import STATES, state
from web.gateway import Gateway

if TYPE_CHECKING:
    from delivery.forwarder import Forwarder


def status(gateway: Gateway) -> dict[str, Any]:
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
        for name, intake in dict(gateway.intakes).items()
    }
    targets = {name: target_status(forwarder) for name, forwarder in gateway.forwarders.items()}
    letters = gateway.dead_letters
    uptime, written, endurance = time.time() - gateway.started, written_bytes(), gateway.config.endurance
    return {
        "gateway": gateway.config.gateway,
        **members(gateway.config),
        "status": STATES[state(gateway)],
        "uptime": round(uptime, 1),
        "disk": {"written_bytes": written, "years": years(endurance, written, uptime) if endurance else None},
        "sources": sources,
        "targets": targets,
        "kept": gateway.kept,
        "certificates": [one.text for one in ending(gateway.config, datetime.now(UTC))],
        "dead_letters": {
            "stored": letters.total,
            "bytes": letters.size,
            "quota_bytes": letters.policy.quota,
            "discarded": letters.discarded,
            "alarm": letters.alarm,
        },
    }


def target_status(forwarder: "Forwarder") -> dict[str, Any]:
    """How a target stands, as plain values."""
    return {
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
