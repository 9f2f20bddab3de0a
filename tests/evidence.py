"""Evidence is data: what a run found goes to build/evidence/<name>.json, merged by key."""

import importlib.metadata
import json
import os
import platform
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

FOLDER: Final = Path(__file__).parents[1] / "build" / "evidence"


def conditions(packages: Iterable[str], **more: Any) -> dict[str, Any]:
    """When and on what a run was made."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 2),
        "versions": {package: importlib.metadata.version(package) for package in packages} | more,
    }


def record(name: str, found: dict[str, Any], folder: Path = FOLDER) -> Path:
    """Put `found` into the evidence `name`: its keys replace those that are there, others stay."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    known = json.loads(path.read_text("utf-8")) if path.exists() else {}
    draft = path.with_suffix(".new")
    draft.write_text(json.dumps(known | found, indent=1, ensure_ascii=False) + "\n", "utf-8")
    draft.replace(path)
    return path
