"""How a gateway stands, as tables."""

from datetime import UTC, datetime
from typing import Any, Final

from rich.table import Table

from bifrost.screen import Listing
from config.logs import escaped

_SPANS: Final = ((86_400.0, "d"), (3_600.0, "h"), (60.0, "min"), (1.0, "s"), (0.001, "ms"))


def span(seconds: float | None) -> str:
    """A time to read: its largest unit that gives at least 1, with two digits."""
    if seconds is None:
        return "–"
    for size, unit in _SPANS:
        if seconds >= size:
            count = seconds / size
            return f"{count:.0f} {unit}" if count >= 10 else f"{count:.1f} {unit}"
    return "0 s"


def pool(use: dict[str, int] | None) -> str:
    """How a pool of connections is used: those in use of those there may be, and the writes that wait for one."""
    if use is None:
        return "–"
    waiting = f" +{use['waiting']:,}" if use["waiting"] else ""
    return f"{use['in_use']:,}/{use['size']:,}{waiting}"


def disk(status: dict[str, Any]) -> str:
    """What the gateway costs the disk, in a line."""
    written, years = status["disk"]["written_bytes"], status["disk"]["years"]
    said = f"disk: {written / 1e6:,.1f} MB written in {span(status['uptime'])}"
    if years is None:
        return f"{said}; set gateway.endurance to learn how long it lasts"
    return f"{said}; at this pace it lasts {years:,.1f} years"


def certificates(status: dict[str, Any]) -> list[str]:
    """A line for each certificate that has ended or ends soon."""
    return [f"WARNING: {escaped(said)}" for said in status.get("certificates", [])]


def tables(status: dict[str, Any]) -> list[Table]:
    """The answer of GET /health as tables: sources, targets, and dead letters where there are some."""
    sources = Listing(
        ["source", "protocol", "state"],
        ["received", "tags", "gaps", "last\nreading"],
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
            f"{line['gaps']:,}",
            datetime.fromtimestamp(last, UTC).strftime("%H:%M:%S UTC") if last else "–",
            line["detail"],
        )
    pooled = any(line.get("pool") for line in status["targets"].values())
    targets = Listing(
        ["target", "connected", "breaker"],
        ["delivered", "stored", "oldest", "full in", "p99", *(["pool"] if pooled else [])],
        ["what to know"],
        title="Targets",
    )
    for name, line in status["targets"].items():
        targets.add_row(
            name,
            "yes" if line["connected"] else "no",
            line["breaker"],
            f"{line['delivered']:,}",
            f"{line['stored']:,}",
            span(line["oldest_age"]),
            span(line["full_in"]),
            span(line["response_time"]["p99"]),
            *([pool(line.get("pool"))] if pooled else []),
            "; ".join(said for said in (line["alarm"], line["last_error"]) if said),
        )
    return [sources, targets, *_letters(status.get("dead_letters")), *kept_table(status.get("kept"))]


def kept_table(kept: dict[str, dict[str, Any]] | None) -> list[Table]:
    """Spools of targets that are not in the configuration, where there are some."""
    if not kept:
        return []
    shown = Listing(["target"], ["readings", "bytes"], title="Kept (bifrost spool ls)")
    for name, line in kept.items():
        shown.add_row(name, f"{line['readings']:,}", f"{line['bytes']:,}")
    return [shown]


def _letters(line: dict[str, Any] | None) -> list[Table]:
    """Dead letters, where there are some or were."""
    if line is None or not (line["stored"] or line["discarded"]):
        return []
    shown = Listing([], ["stored", "bytes", "quota", "discarded"], ["alarm"], title="Dead letters (bifrost dlq list)")
    counts = (line["stored"], line["bytes"], line["quota_bytes"], line["discarded"])
    shown.add_row(*(f"{count:,}" for count in counts), line["alarm"])
    return [shown]
