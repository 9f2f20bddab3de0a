"""Evidence is data: what a run found goes to build/evidence/<name>.json, merged by key."""

import contextlib
import fcntl
import importlib.metadata
import json
import os
import platform
from collections.abc import Iterable, Iterator
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


@contextlib.contextmanager
def locked(folder: Path = FOLDER) -> Iterator[None]:
    """Alone with the evidence in `folder`: test processes that run side by side add to the same files."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def record(name: str, found: dict[str, Any], folder: Path = FOLDER) -> Path:
    """Put `found` into the evidence `name`: its keys replace those that are there, others stay."""
    with locked(folder):
        path = folder / f"{name}.json"
        write(path, read(path) | found)
    return path


def record_within(name: str, found: dict[str, dict[str, Any]], key: str, folder: Path = FOLDER) -> Path:
    """As `record`, but what is under `key` of each entry is added to what is known there already."""
    with locked(folder):
        path = folder / f"{name}.json"
        known = read(path)
        whole = {entry: value | {key: known.get(entry, {}).get(key, {}) | value[key]} for entry, value in found.items()}
        write(path, known | whole)
    return path


def read(path: Path) -> dict[str, Any]:
    """What a file of evidence holds; nothing when it is not there."""
    found: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    return found


def write(path: Path, found: Any) -> None:
    """Put evidence into its file, whole or not at all."""
    draft = path.with_suffix(".new")
    draft.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", "utf-8")
    draft.replace(path)
