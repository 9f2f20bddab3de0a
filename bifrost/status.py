"""How a gateway stands, as tables."""

from datetime import UTC, datetime
from typing import Any

from rich.table import Table

from bifrost.screen import Listing


def tables(status: dict[str, Any]) -> list[Table]:
    """The answer of GET /health as two tables: sources, then targets."""
    sources = Listing(
        ["source", "protocol", "state"],
        ["received", "tags", "last\nreading"],
        ["detail"],
        title=f"Gateway {status['status']}",
    )
    for name, line in status["sources"].items():
        last = line["last_reading"]
        sources.add_row(
            name,
            line["protocol"],
            line["state"],
            f"{line['received']:,}",
            f"{line['tags']:,}",
            datetime.fromtimestamp(last, UTC).strftime("%H:%M:%S UTC") if last else "–",
            line["detail"],
        )
    targets = Listing(["target", "connected", "breaker"], ["delivered", "stored"], ["last error"], title="Targets")
    for name, line in status["targets"].items():
        targets.add_row(
            name,
            "yes" if line["connected"] else "no",
            line["breaker"],
            f"{line['delivered']:,}",
            f"{line['stored']:,}",
            line["last_error"],
        )
    return [sources, targets]
