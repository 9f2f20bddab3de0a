"""The log of a Delta table in a local folder: syncing it, and mending it after a power cut.

The library writes files and renames them, but does not sync. `sync` makes commits durable, data before log. `mend` undoes
what a power cut left half written: a commit is acknowledged only after `sync` of it and of all before it, so only commits
at the end of the log can be damaged, and nobody was told of them.
"""

import contextlib
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

_MAGIC: Final = b"PAR1"
_LOOKED_AT: Final = 20
_ABSOLUTE: Final = re.compile(r"/|[a-z0-9+.-]+:", re.IGNORECASE)


def write_durably(path: Path, text: str) -> None:
    """Write a small file so that it is there whole, or as it was before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with part.open("w", encoding="utf-8") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    part.replace(path)
    sync_path(path.parent)


def sync_path(path: Path) -> None:
    """Make a file's content, or a folder's list of names, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync(root: Path, versions: Iterable[int]) -> None:
    """Make commits of the table in `root` durable: their data, then the log.

    Args:
        root: Folder of the table.
        versions: Versions of the commits; those whose entry is gone (cleaned up) are left out.
    """
    entries: list[Path] = []
    folders = {root}
    for version in versions:
        entry = _entry(root, version)
        with contextlib.suppress(FileNotFoundError):
            for add in _adds(_actions(entry)):
                data = root / unquote(add["path"])
                with contextlib.suppress(FileNotFoundError):  # merged and deleted since
                    sync_path(data)
                    folders.add(data.parent)
            entries.append(entry)
            checkpoint = entry.with_name(f"{version:020}.checkpoint.parquet")
            if checkpoint.exists():
                entries += [checkpoint, root / "_delta_log" / "_last_checkpoint"]
    for folder in folders:
        sync_path(folder)
    for entry in entries:
        with contextlib.suppress(FileNotFoundError):
            sync_path(entry)
    sync_path(root / "_delta_log")
    sync_path(root.parent)


def mend(root: Path, durable: int | None) -> list[str]:
    """Set aside what a power cut left half written in the table in `root`.

    Of the commits that may not be durable, the first that is damaged and all after it are moved to the folder ``_torn``:
    none of them was acknowledged, for that needs all before it to be durable. A checkpoint that is not a whole file is
    deleted, for the log says the same.

    Args:
        root: Folder of the table.
        durable: Version up to which the log is known to be durable; None where nothing is known, then the last few
            commits are looked at.

    Returns:
        What was set aside, in words; empty for a sound table, and where there is none.
    """
    found = []
    entries = sorted((root / "_delta_log").glob("[0-9]" * 20 + ".json"), reverse=True)
    unsure = entries[:_LOOKED_AT] if durable is None else [e for e in entries if int(e.stem) > durable]
    removed: set[str] = set()
    damaged = 0
    for count, entry in enumerate(unsure, 1):
        try:
            actions = _actions(entry)
            whole = all(
                add["path"] in removed or _whole(root / unquote(add["path"]), add["size"]) for add in _adds(actions)
            )
            removed |= {action["remove"]["path"] for action in actions if "remove" in action}
        except (ValueError, KeyError):
            whole = False
        if not whole:
            damaged = count
    for entry in unsure[:damaged]:
        aside = root / "_torn"
        aside.mkdir(exist_ok=True)
        entry.replace(aside / entry.name)
        found.append(f"commit {int(entry.stem)}")
    for checkpoint in (root / "_delta_log").glob("*.checkpoint.parquet"):
        if not _whole(checkpoint, None):
            checkpoint.unlink()
            (root / "_delta_log" / "_last_checkpoint").unlink(missing_ok=True)
            found.append(f"checkpoint {checkpoint.name}")
    pointer = root / "_delta_log" / "_last_checkpoint"
    if pointer.exists() and not _points(pointer):
        pointer.unlink()
        found.append("the pointer to the last checkpoint")
    if found:
        sync_path(root / "_delta_log")
    return found


def _entry(root: Path, version: int) -> Path:
    return root / "_delta_log" / f"{version:020}.json"


def _actions(entry: Path) -> list[dict[str, Any]]:
    """The actions of a commit; raises ValueError where the entry is not a whole one."""
    actions = [json.loads(line) for line in entry.read_bytes().splitlines() if line.strip()]
    if not actions or not all(isinstance(action, dict) for action in actions):
        raise ValueError(f"{entry} holds no commit")
    return actions


def _adds(actions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The files that a commit adds; not those by an absolute path, which are of another store and another engine."""
    return [action["add"] for action in actions if "add" in action and not _ABSOLUTE.match(action["add"]["path"])]


def _whole(path: Path, size: int | None) -> bool:
    """Whether a Parquet file is as long as it should be and has its end."""
    try:
        with path.open("rb") as file:
            length = os.fstat(file.fileno()).st_size
            if length < 12 or (size is not None and length != size):
                return False
            file.seek(-4, os.SEEK_END)
            return file.read() == _MAGIC
    except FileNotFoundError:
        return False


def _points(pointer: Path) -> bool:
    try:
        return isinstance(json.loads(pointer.read_bytes()), dict)
    except ValueError:
        return False
