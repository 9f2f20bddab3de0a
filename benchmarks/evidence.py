"""Where results go, and the conditions that belong to each."""

import importlib.metadata
import json
import os
import platform
import statistics
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
BENCH: Final = ROOT / "build" / "evidence" / "bench.json"
_PACKAGES: Final = ("bytewax", "pyarrow", "numpy", "databricks-zerobus-ingest-sdk", "asyncua", "paho-mqtt", "pymodbus")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def conditions(before: Sequence[float], **more: Any) -> dict[str, Any]:
    """Date, machine, versions and load average; `before` is the load average when the measurement began."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "load_average_before": round(before[0], 2),
        "load_average_after": round(os.getloadavg()[0], 2),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "versions": {package: _version(package) for package in _PACKAGES},
        **more,
    }


def merge(results: dict[str, Any], described: dict[str, Any]) -> None:
    """Put `results` and their conditions into bench.json; what else is there stays."""
    BENCH.parent.mkdir(parents=True, exist_ok=True)
    known = json.loads(BENCH.read_text()) if BENCH.exists() else {}
    kept = known.get("conditions", {})
    known |= results
    known["conditions"] = kept | dict.fromkeys(results, described)
    draft = BENCH.with_suffix(".new")
    draft.write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n")
    draft.replace(BENCH)


def merge_sources(protocol: str, results: dict[str, Any], described: dict[str, Any]) -> None:
    """Put the results of a protocol's sources in the place of those that bench.json has, with their conditions."""
    known = json.loads(BENCH.read_text()) if BENCH.exists() else {}
    others = {name: one for name, one in known.get("sources", {}).items() if protocol not in name.split()[:2]}
    conditions = known.get("conditions", {}).get("sources", {})
    merge({"sources": others | results}, conditions | {protocol: described})


def median(values: Sequence[float]) -> float:
    """The median of several runs."""
    return statistics.median(values)
