"""Who did what: a file to which lines are only added, each with the hash of the one before it.

A line that was edited or taken out breaks the chain, which `bifrost audit verify` tells. The hash of each line is in the
gateway's log too, so that a log that leaves the machine shows a chain that was made anew. The files have a quota of their
own; a disk that is full costs entries, each of them told in the log, and no reading.
"""

import errno
import fcntl
import hashlib
import json
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import structlog

from delivery.disk import make_directory, sync_directory

log = structlog.get_logger()

FILE: Final = "audit.jsonl"
_BEGIN: Final = "0" * 64
_FILE_BYTES: Final = 4 * 1024**2
_FILES: Final = 8
_LONGEST: Final = 1_000  # characters of what an entry says


@dataclass(frozen=True, slots=True)
class Broken:
    """Where a chain is broken.

    Attributes:
        file: The file.
        line: The line, from 1.
        reason: What is wrong.
    """

    file: str
    line: int
    reason: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found of a chain.

    Attributes:
        entries: How many entries hold together, up to the break if there is one.
        head: The hash of the last of them.
        broken: The first break.
    """

    entries: int
    head: str
    broken: Broken | None = None


def _hash(previous: str, entry: dict[str, Any]) -> str:
    said = json.dumps(entry, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(f"{previous}\n{said}".encode()).hexdigest()


def _text(value: object) -> str:
    return str(value)[:_LONGEST].encode(errors="replace").decode()  # half of a surrogate pair cannot be written


def _files(directory: Path) -> list[Path]:
    """All files, the oldest first."""
    older = sorted(directory.glob("audit-*.jsonl"))
    return [*older, *([directory / FILE] if (directory / FILE).exists() else [])]


def verify(directory: Path) -> Verdict:
    """See whether the chain holds from the oldest file that is kept to the last line.

    Args:
        directory: The gateway's directory.
    """
    previous, number, count = "", 0, 0
    for path in _files(directory):
        with path.open("rb") as lines:
            for place, line in enumerate(lines, 1):
                reason = ""
                try:
                    entry = json.loads(line)
                    said = entry.pop("hash")
                    before, this = entry["previous"], int(entry["number"])
                except (ValueError, KeyError, TypeError, AttributeError):
                    return Verdict(count, previous, Broken(path.name, place, "is no entry"))
                if previous and before != previous:
                    reason = "does not follow the line before it: one was changed, or taken out"
                elif number and this != number + 1:
                    reason = f"has number {this} after {number}"
                elif _hash(before, entry) != said:
                    reason = "was changed"
                if reason:
                    return Verdict(count, previous, Broken(path.name, place, reason))
                previous, number, count = said, this, count + 1
    return Verdict(count, previous or _BEGIN)


class Audit:
    """The audit of a running gateway.

    Args:
        directory: The gateway's directory.
        file_bytes: Size at which a new file is begun.
        files: How many are kept.
    """

    def __init__(self, directory: Path, file_bytes: int = _FILE_BYTES, files: int = _FILES) -> None:
        self._directory, self._path = directory, directory / FILE
        self._file_bytes, self._files = file_bytes, files
        self._lock = threading.Lock()
        self._previous, self._number = _BEGIN, 0
        self._seen: tuple[int, int] | None = None  # the file's number and size after our last entry
        self.missed = 0

    def _last(self) -> tuple[str, int]:
        for path in reversed(_files(self._directory)):
            whole = path.read_bytes()
            kept = whole[: whole.rfind(b"\n") + 1]
            if kept != whole:  # the end of a line that a crash cut off
                os.truncate(path, len(kept))
            for line in reversed(kept.splitlines()):
                try:
                    entry = json.loads(line)
                    return str(entry["hash"]), int(entry["number"])
                except (ValueError, KeyError, TypeError):
                    continue  # `verify` tells of it
        return _BEGIN, 0

    def note(self, who: str, what: str, origin: str, result: str, when: datetime, **more: object) -> None:
        """Add an entry; when it cannot be written the log says so, and nothing else stops.

        Args:
            who: The user or token.
            what: What was asked for.
            origin: The address that it came from.
            result: What became of it.
            when: The time.
            more: What else is known.
        """
        with self._lock:
            try:
                said = {"who": who, "what": what, "from": origin, "result": result, **more}
                time = when.isoformat(timespec="milliseconds").replace("+00:00", "Z")
                entry = self._append({"time": time} | {key: _text(value) for key, value in said.items() if value != ""})
            except OSError as error:
                self.missed += 1
                log.error("the audit has no room for an entry", error=error.strerror, who=who, what=what, result=result)
                return
        log.info("audit", **{key: entry[key] for key in ("number", "who", "what", "from", "result", "hash")})

    def _append(self, said: dict[str, Any]) -> dict[str, Any]:
        make_directory(self._directory)
        fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            found = os.fstat(fd)
            if (found.st_ino, found.st_size) != self._seen:  # a command has written too, or this is the start
                self._previous, self._number = self._last()
                found = os.fstat(fd)
            entry = {"number": self._number + 1, **said, "previous": self._previous}
            entry["hash"] = _hash(self._previous, entry)
            line = json.dumps(entry, ensure_ascii=False).encode() + b"\n"
            try:
                if os.write(fd, line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(fd)
            except OSError:
                os.ftruncate(fd, found.st_size)  # half a line would break the chain
                raise
            self._previous, self._number = entry["hash"], entry["number"]
            self._seen = (found.st_ino, found.st_size + len(line))
            if self._seen[1] >= self._file_bytes:
                self._rotate()
            return entry
        finally:
            os.close(fd)

    def _rotate(self) -> None:
        older = sorted(self._directory.glob("audit-*.jsonl"))
        number = int(older[-1].stem.removeprefix("audit-")) + 1 if older else 1
        self._path.rename(self._directory / f"audit-{number:06}.jsonl")
        for path in older[: max(0, len(older) + 2 - self._files)]:
            path.unlink()
        sync_directory(self._directory)

    def newest(self, offset: int, limit: int) -> tuple[int, list[dict[str, Any]]]:
        """How many entries there are, and some of them, the newest first."""
        with self._lock:
            found: list[dict[str, Any]] = []
            files = _files(self._directory)
            for path in reversed(files):
                found += reversed(list(_entries(path)))
                if len(found) >= offset + limit:
                    break
            first = next((entry for path in files for entry in _entries(path)), None)
        if not found or first is None:
            return 0, []
        return int(found[0]["number"]) - int(first["number"]) + 1, found[offset : offset + limit]


def _entries(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as lines:
        for line in lines:
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict) and isinstance(entry.get("number"), int):
                yield entry
