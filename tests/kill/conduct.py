"""What the kill test and the chaos scenario share: the broker's settings, patience, and the figures of a campaign."""

import statistics
import subprocess
from collections import Counter
from typing import Any, Final

from tests.evidence import conditions
from tests.kill.campaign import PUBLISHING_INTERVAL, Campaign
from tests.kill.oracle import Verdict, summary
from tests.mosquitto_broker import program

# How long a reading may be on its way to the journal on a busy machine, seconds; which ones were is decided by order.
PATIENCE: Final = {"opcua": 2.0 + PUBLISHING_INTERVAL, "modbus": 2.0}
PACKAGES: Final = (
    *("bifrost-gateway", "bytewax", "pyarrow", "deltalake", "databricks-zerobus-ingest-sdk"),
    *("asyncua", "paho-mqtt", "pymodbus"),
)
# Debian's mosquitto drops what is queued for an absent client beyond 1,000 messages unless told otherwise.
BROKER: Final = ("allow_anonymous true", "max_queued_messages 0", "max_queued_bytes 0")


def evidence_of(found: Campaign, verdict: Verdict, seed: int) -> dict[str, Any]:
    """The campaign's figures, for the evidence."""
    killed = found.starts[:-1]
    through = Counter(start.through for start in killed)
    restarts = [start.first_delivery for start in found.starts if start.first_delivery is not None]
    deltas = [start.first_delta for start in found.starts if start.first_delta is not None]
    given = sum(len(account.issued()) for account in found.ledgers.values())
    return {
        "runs": len(killed),
        "seed": seed,
        "through": dict(sorted(through.items())),
        **summary(verdict),
        "readings_per_s": round(given / found.seconds, 1),
        "unaccounted": found.account["unaccounted"],
        "moments": dict(sorted(Counter(str(start.moment) for start in killed).items())),
        "killed_before_first_delivery": sum(start.first_delivery is None for start in killed),
        "restart_s": _spread(restarts),
        "restart_to_delta_s": _spread(deltas),
        "cpu_share_of_others": round(found.foreign, 2),
        "sigterm_s": round(found.exit_seconds, 2),
        "conditions": conditions(PACKAGES, mosquitto=_mosquitto()),
    }


def _spread(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    if not ordered:
        return {"measured": 0}
    return {
        "measured": len(ordered),
        "median": round(statistics.median(ordered), 2),
        "p95": round(ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))], 2),
        "max": round(ordered[-1], 2),
    }


def _mosquitto() -> str:
    said = subprocess.run([program(), "-h"], capture_output=True, text=True, timeout=10, check=False).stdout
    return said.split("\n")[0].removeprefix("mosquitto version ").strip()


def table_of(evidence: dict[str, Any]) -> str:
    """The figures as people read them."""
    lines = [f"  {'protocol':<10}{'obligations':>12}{'oldest excused':>18}   excluded"]
    for protocol, count in evidence["obligations"].items():
        reasons = ", ".join(f"{n} {reason}" for reason, n in evidence["excluded"][protocol].items() if n) or "none"
        oldest = f"{evidence['oldest_excused_ms'].get(protocol, 0.0):.0f} ms"
        lines.append(f"  {protocol:<10}{count:>12,}{oldest:>18}   {reasons}")
    names = (
        "lost",
        "visible_twice",
        "unaccounted",
        "unequal",
        "one_sided",
        "holes",
        "altered",
        "misnamed",
        "disordered",
    )
    lines += [
        "  " + ", ".join(f"{name} {evidence[name]}" for name in names),
        f"  {evidence['zerobus_duplicates']} repeated in ZeroBus of {evidence['rows']['zerobus']:,} rows",
        f"  {evidence['runs']} kills: {evidence['through']}, {evidence['moments']}, {evidence['readings_per_s']:,} readings/s",
        f"  restart to first delivery {evidence['restart_s']}, to Delta {evidence['restart_to_delta_s']}",
        f"  others used {100 * evidence['cpu_share_of_others']:.0f} % of the processors meanwhile",
    ]
    return "\n".join(lines)
