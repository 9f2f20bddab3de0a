"""The ledger: an append-only file per source that says which readings were given out, so that a test can account for each.

Format of ``<source>.ledger``, all numbers little-endian::

    8 bytes   magic ``SIMLEDG1``
    u32       length of the header
    header    JSON: {"source", "protocol", "tags": [as in simulator.plant.describe_tags, in order]}
    records   24 bytes each: u32 tag (position in "tags"), u32 event, i64 n, i64 time (µs since the epoch, UTC)

Events:

1 SENT
    Reading `n` of the tag was given out and nobody has confirmed it: published (MQTT, Sparkplug), or set in an OPC UA
    server while no connected client monitored the node. `time` is the reading's source timestamp.
2 ACKED
    MQTT: the broker's PUBACK for reading `n` was seen; from now on it must arrive. `time` is when.
3 SERVED
    OPC UA: set while a connected client monitored the node (`time` is the source timestamp). Modbus: part of an answer to
    a client (`time` is when). It must arrive unless the client died before it had read the notification or answer, which
    `time` lets a test tell, or had asked an OPC UA server for too short a queue.

ACKED and SERVED are *obligations*. A record is written with one `write` call before the next reading goes out, without a
buffer of our own; a torn tail (the machine lost power) is cut when the file is opened again. A simulator that is started
again with the same plant and folder goes on counting where the ledger ends, so that no number is given out twice.
"""

import json
import os
import struct
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

MAGIC: Final = b"SIMLEDG1"
SENT: Final = 1
ACKED: Final = 2
SERVED: Final = 3
RECORD: Final = np.dtype([("tag", "<u4"), ("event", "<u4"), ("n", "<i8"), ("time", "<i8")])
_RECORD: Final = struct.Struct("<IIqq")


@dataclass(frozen=True, slots=True)
class Account:
    """What a ledger file says.

    Attributes:
        source: Name of the source.
        protocol: Its protocol.
        tags: Description of each tag, in the order of the records' `tag`.
        records: Array of `RECORD`, oldest first.
    """

    source: str
    protocol: str
    tags: list[dict[str, Any]]
    records: np.ndarray

    def obligations(self) -> np.ndarray:
        """The records that must arrive: ACKED and SERVED."""
        due: np.ndarray = self.records[self.records["event"] >= ACKED]
        return due

    def issued(self) -> np.ndarray:
        """The records that say that a number was given out (SENT and SERVED): nothing else may arrive."""
        given: np.ndarray = self.records[self.records["event"] != ACKED]
        return given


def read(path: Path) -> Account:
    """Read a ledger file; the simulator may still be writing it.

    Raises:
        ValueError: It is not a ledger.
    """
    data = path.read_bytes()
    header, start = _header(data, path)
    count = (len(data) - start) // RECORD.itemsize
    records = np.frombuffer(data, RECORD, count, start)
    return Account(header["source"], header["protocol"], header["tags"], records)


def read_all(folder: Path) -> dict[str, Account]:
    """All ledgers of a folder by source name."""
    accounts = [read(path) for path in sorted(folder.glob("*.ledger"))]
    return {account.source: account for account in accounts}


def _header(data: bytes, path: Path) -> tuple[dict[str, Any], int]:
    """The header and where the records start."""
    if len(data) < 12 or data[:8] != MAGIC:
        raise ValueError(f"{path}: not a simulator's ledger")
    (size,) = struct.unpack_from("<I", data, 8)
    if len(data) < 12 + size:
        raise ValueError(f"{path}: the header is cut short")
    return json.loads(data[12 : 12 + size]), 12 + size


class Ledger:
    """Writes one source's ledger. `append` may be called from several threads.

    Attributes:
        last: Last number given out per tag, 0 where none was.
    """

    def __init__(self, folder: Path, source: str, protocol: str, tags: Sequence[dict[str, Any]]) -> None:
        """Open `<folder>/<source>.ledger`, which is made if it is not there.

        Raises:
            ValueError: The file is of another plant.
        """
        path = folder / f"{source}.ledger"
        head: dict[str, Any] = {"source": source, "protocol": protocol, "tags": list(tags)}
        self.last = [0] * len(tags)
        self._lock = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size:
            data = path.read_bytes()
            old, start = _header(data, path)
            if [_identity(tag) for tag in old["tags"]] != [_identity(tag) for tag in head["tags"]]:
                raise ValueError(f"{path}: was written for other tags; use another folder")
            whole = start + (len(data) - start) // RECORD.itemsize * RECORD.itemsize
            records = np.frombuffer(data[start:whole], RECORD)
            last = np.zeros(len(tags), np.int64)
            np.maximum.at(last, records["tag"], records["n"])
            self.last = last.tolist()
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND)
            os.ftruncate(self._file, whole)
        else:
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            text = json.dumps(head, ensure_ascii=False).encode()
            self._write(MAGIC + struct.pack("<I", len(text)) + text)

    def append(self, tags: Iterable[int], n: int, event: int, time: int) -> None:
        """Record one event of reading `n` of some tags, at `time` (µs since the epoch)."""
        self._write(b"".join([_RECORD.pack(tag, event, n, time) for tag in tags]))

    def append_each(self, readings: Iterable[tuple[int, int]], event: int, time: int) -> None:
        """Record one event of several (tag, n) at `time` (µs since the epoch)."""
        self._write(b"".join([_RECORD.pack(tag, event, n, time) for tag, n in readings]))

    def _write(self, data: bytes) -> None:
        with self._lock:
            view = memoryview(data)
            while view:
                view = view[os.write(self._file, view) :]

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._file >= 0:
                os.close(self._file)
                self._file = -1


def _identity(tag: dict[str, Any]) -> tuple[Any, ...]:
    return tag["address"], tag.get("unit_id"), tag["path"], tag["type"]
