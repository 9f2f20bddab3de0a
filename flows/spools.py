"""What can be asked of the spools, also of those whose target was taken out of the configuration and which are kept."""

import contextlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from config.loader import remembered_name
from connectors.wire.json_lines import JsonLinesEncoder
from delivery.contents import move, stored
from delivery.disk import DirectoryLock
from delivery.journal import SHARDS
from delivery.spool import Spool

if TYPE_CHECKING:
    from flows.process import Process

PURGED: Final = "purged"
_PEEKED: Final = 20


def file_name(name: str) -> str:
    """A target's name as the name of its folder."""
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in name)


class NoSuchSpoolError(LookupError):
    """There is no spool of this name; the message says which there are."""


def kept_folders(process: "Process") -> dict[str, Path]:
    """Folders of spools whose target is not in the configuration, by name."""
    configured = {file_name(name) for name in process.config.targets}
    found = sorted((process.config.directory / "targets").glob("*/spool"))
    return {
        path.parent.name: path
        for path in found
        if path.parent.name not in configured and (any(path.glob("p*")) or any(path.glob("*.log")))
    }


@contextlib.contextmanager
def _kept_spool(process: "Process", folder: Path) -> Iterator[Spool]:
    own = {process.journal.shard_name(index) for index in range(len(SHARDS))}
    with process.opening_kept:
        spool = Spool(folder, process.tags, own.__contains__, now=process.ages)
        try:
            yield spool
        finally:
            spool.close()


def see(process: "Process", name: str) -> None:
    """See that there is a spool of this name.

    Raises:
        NoSuchSpoolError: There is none.
    """
    folders = kept_folders(process)
    if name not in process.spools and name not in folders:
        there = ", ".join([*process.spools, *folders]) or "none"
        raise NoSuchSpoolError(f"there is no spool `{name}`; there are {there}")


@contextlib.contextmanager
def _spool(process: "Process", name: str) -> Iterator[Spool]:
    see(process, name)
    if name in process.spools:
        yield process.spools[name]
    else:
        with _kept_spool(process, kept_folders(process)[name]) as spool:
            yield spool


def _line(spool: Spool, state: str) -> dict[str, Any]:
    return {
        "state": state,
        "readings": spool.stored_rows,
        "bytes": spool.size,
        "quota_bytes": spool.policy.quota if state == "configured" else None,
        "oldest_age": spool.oldest_age,
        "lanes": {str(lane.priority): lane.stored_rows for lane in reversed(spool.lanes) if lane.stored_rows},
        "alarm": spool.alarm,
    }


def kept(process: "Process") -> dict[str, dict[str, Any]]:
    """What waits for targets that are not in the configuration, by name, as plain values."""
    found = {}
    for name, folder in kept_folders(process).items():
        with _kept_spool(process, folder) as spool:
            if spool.stored_rows:
                found[name] = kept_line(spool)
    return found


def kept_line(spool: Spool) -> dict[str, Any]:
    """How a spool stands whose target is not in the configuration, as plain values."""
    return _line(spool, "kept")


def listing(process: "Process") -> dict[str, Any]:
    """Every spool."""
    return {"spools": {name: _line(spool, "configured") for name, spool in process.spools.items()} | kept(process)}


def export(process: "Process", name: str, limit: int | None = None) -> Iterator[bytes]:
    """What waits in a spool as JSON lines; it stays there.

    Raises:
        NoSuchSpoolError: There is none of this name.
    """
    encoder = JsonLinesEncoder()
    with _spool(process, name) as spool:
        lines = (
            line for batch in stored(spool, process.tags) for line in encoder.encode(batch).splitlines(keepends=True)
        )
        yield from islice(lines, limit)


def purge(process: "Process", name: str) -> dict[str, Any]:
    """Discard what waits in a spool.

    Raises:
        NoSuchSpoolError: There is none of this name.
    """
    with _spool(process, name) as spool:
        gone = spool.purge(PURGED)
        left = spool.stored_rows
    if name in process.kept:
        process.kept = kept(process)
    return {"purged": gone, "under_way": left}


def attach(process: "Process", old: str, new: str, other: Path | None = None) -> dict[str, Any]:
    """Move what waits for a removed target into the spool of a configured one; the gateway must not run.

    Args:
        process: The gateway, with its stores open.
        old: The removed target.
        new: The configured one.
        other: Directory of another gateway that does not run any more, whose target `old` is; None for this one's own.

    Raises:
        NoSuchSpoolError: The first is configured or not there, or the second is not configured.
        StoreError: The other gateway runs.
    """
    if other is not None:
        return _attach_from(process, other, old, new)
    folders = kept_folders(process)
    if old in process.spools:
        raise NoSuchSpoolError(f"`{old}` is in the configuration: its readings wait for itself")
    if old not in folders:
        raise NoSuchSpoolError(f"there is no kept spool `{old}`; there are {', '.join(folders) or 'none'}")
    if new not in process.spools:
        raise NoSuchSpoolError(f"`{new}` is not in the configuration; there are {', '.join(process.spools)}")
    with _kept_spool(process, folders[old]) as spool:
        moved, roomy = move(old, spool, process.spools[new])
        return {"moved": moved, "left": spool.stored_rows, "full": not roomy}


def _attach_from(process: "Process", other: Path, old: str, new: str) -> dict[str, Any]:
    folder = other / "targets" / file_name(old) / "spool"
    if other.resolve() == process.config.directory.resolve():
        raise NoSuchSpoolError(f"{other} is this gateway's own directory")
    if not folder.is_dir():
        there = sorted(path.parent.name for path in (other / "targets").glob("*/spool"))
        raise NoSuchSpoolError(f"{other} has no spool `{old}`; there are {', '.join(there) or 'none'}")
    if new not in process.spools:
        raise NoSuchSpoolError(f"`{new}` is not in the configuration; there are {', '.join(process.spools)}")
    lock = DirectoryLock(other)  # what moves must not be delivered meanwhile
    try:
        # The gateway's name tells its readings from those of another one whose target has the same name.
        name = f"{old} of {remembered_name(other) or other.name}"
        with _kept_spool(process, folder) as spool:
            moved, roomy = move(name, spool, process.spools[new])
            return {"moved": moved, "left": spool.stored_rows, "full": not roomy}
    finally:
        lock.release()
