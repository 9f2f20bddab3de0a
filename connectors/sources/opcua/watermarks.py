"""What a source has of each node, in files beside its certificates: they outlive a kill, and cost the data path an assignment.

Both kinds of files are tables that are mapped into memory. Times are source timestamps in µs since the epoch. They are set when
readings are in the journal and never before, so that whatever a crash cuts off is read again rather than missed.
"""

import contextlib
import hashlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

_log = logging.getLogger(__name__)

_LAST: Final = np.dtype([("node", "<u8"), ("time", "<i8")])
_MISSED: Final = np.dtype([("node", "<u8"), ("since", "<i8"), ("until", "<i8"), ("state", "<i8")])
_WATERMARKS: Final = "last.npy"
OPEN, FILLED, REFUSED = 0, 1, 2
NOT_CONNECTED: Final = "not connected"


def node_keys(addresses: Sequence[str]) -> np.ndarray:
    """A number for each node that stays the same from run to run."""
    digests = [hashlib.blake2b(address.encode("utf-8", "replace"), digest_size=8).digest() for address in addresses]
    return np.frombuffer(b"".join(digests), "<u8")


def _map(path: Path, rows: np.ndarray) -> Any:
    """Write `rows` to a file that is whole or not there, and map it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    with new.open("wb") as file:
        np.save(file, rows)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    return np.load(path, mmap_mode="r+") if len(rows) else rows


def _mapped(path: Path, dtype: np.dtype[Any]) -> Any:
    """A file of ours; None when it is not there or not sound."""
    try:
        rows = np.load(path, mmap_mode="r+")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError) as error:
        _log.warning("%s cannot be used: %s", path, error)
        return None
    return rows if rows.dtype == dtype and rows.ndim == 1 else None


class Watermarks:
    """The source time of the last reading of each node that is in the journal; 0 for none.

    Args:
        directory: Where the file is.
        keys: Keys of the nodes, by client handle.
    """

    def __init__(self, directory: Path, keys: np.ndarray) -> None:
        before = _mapped(directory / _WATERMARKS, _LAST)
        old = {} if before is None else dict(zip(before["node"].tolist(), before["time"].tolist(), strict=True))
        times = [old.pop(key, 0) for key in keys.tolist()]
        rows = np.empty(len(keys) + len(old), _LAST)  # nodes that are not there now may come back
        rows["node"] = [*keys.tolist(), *old]
        rows["time"] = [*times, *old.values()]
        self.times: np.ndarray = _map(directory / _WATERMARKS, rows)["time"][: len(keys)]


class Missed:
    """What was missed once, node by node: after `since`, and before `until`, which is 0 until it is known.

    Attributes:
        start, end: When nothing was heard, µs since the epoch by the gateway's clock; a start of 0 is a back-fill.
        rows: The table, with columns `node`, `since`, `until` and `state`; None when the file is damaged.
        reason: Why it was missed, as far as that is known.
    """

    def __init__(self, path: Path, rows: Any, reason: str = NOT_CONNECTED) -> None:
        self._path = path
        self.rows = rows
        self.reason = reason
        self.start, self.end = (int(part) for part in path.stem.split("-"))

    @staticmethod
    def create(
        directory: Path,
        start: int,
        end: int,
        keys: np.ndarray,
        since: np.ndarray,
        until: np.ndarray | int = 0,
        *,
        reason: str = NOT_CONNECTED,
    ) -> "Missed":
        """Begin to remember a gap."""
        rows = np.zeros(len(keys), _MISSED)
        rows["node"], rows["since"], rows["until"] = keys, since, until
        path = directory / f"{start}-{end}.npy"
        return Missed(path, _map(path, rows), reason)

    @staticmethod
    def all(directory: Path) -> "list[Missed]":
        """Those that are not done yet, the oldest first."""
        found = []
        for path in directory.glob("*-*.npy"):
            with contextlib.suppress(ValueError):  # a name that is not ours
                found.append(Missed(path, _mapped(path, _MISSED)))
        return sorted(found, key=lambda missed: missed.end)

    def forget(self) -> None:
        """It is done."""
        self._path.unlink(missing_ok=True)
