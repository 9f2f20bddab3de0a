"""Append-only log in segment files: what journal, spool and dead letters are made of.

Layout of a directory::

    00000000000000000001.log    segment; the name is the number of its first record
    00000000000000004711.log    the newest segment takes the appends

Each record is ``magic(4) crc32(4) kind(1) pad(3) length(4) number(8) payload``; the checksum covers everything after
itself. Record numbers rise by one. The first record of a segment is its HEAD: the whole state of the store at that
point, so that a store opens by reading the newest head and what follows, and older segments can go one by one.

A log always opens. A torn or damaged record is skipped up to the next sound one and counted; nothing is appended to a
segment of an earlier run, so a torn tail is never written over.

Durability: `append` hands bytes to the operating system, `sync` makes them durable (data, then the directory when a
segment was begun) and runs without the lock, so that nobody waits for a disk who does not ask for durability.
"""

import contextlib
import errno
import fcntl
import os
import struct
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

_HEADER: Final = struct.Struct("<4sIB3xIQ")
_MAGIC: Final = b"BFR1"
_CHECKED: Final = 8  # the checksum covers the header from here on
HEAD: Final = 0
MAX_RECORD: Final = 256 * 1024 * 1024
_CHUNK: Final = 1024 * 1024


class StoreError(Exception):
    """A store cannot do what it must; the message says where and what to do."""


class StoreFullError(StoreError):
    """The disk under a store is full."""


@dataclass(frozen=True, slots=True)
class Record:
    """One record of a log.

    Attributes:
        number: Its number.
        kind: What it is; 0 is a HEAD, the rest is the store's own.
        payload: Its bytes.
        segment: Number of the segment that it is in.
    """

    number: int
    kind: int
    payload: memoryview
    segment: int


@dataclass(slots=True)
class Cursor:
    """A place in a log.

    Attributes:
        segment: First number of the segment.
        position: Bytes into it.
    """

    segment: int
    position: int = 0


@dataclass(slots=True)
class _Segment:
    first: int
    path: Path
    size: int = 0
    last: int = 0


class DirectoryLock:
    """Holds a directory for this process; a second process is refused."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._fd = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.pread(self._fd, 32, 0).decode(errors="replace").strip()
            os.close(self._fd)
            raise StoreError(
                f"{directory} belongs to process {owner}; stop it, or give this gateway its own directory"
            ) from error
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, str(os.getpid()).encode(), 0)

    def release(self) -> None:
        """Give the directory back."""
        os.close(self._fd)


def sync_directory(directory: Path) -> None:
    """Make created, renamed and removed names of `directory` durable."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_durably(path: Path, data: bytes) -> None:
    """Replace the file `path` by `data`; after a crash it holds the old bytes or the new ones."""
    temporary = path.with_name(path.name + ".new")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.write(fd, data)
        os.fsync(fd)
    finally:
        os.close(fd)
    temporary.rename(path)
    sync_directory(path.parent)


def _segments(directory: Path) -> list[_Segment]:
    found = [_Segment(int(p.stem), p, p.stat().st_size) for p in directory.glob("*.log") if p.stem.isdigit()]
    return sorted(found, key=lambda s: s.first)


class Log:
    """An append-only log; see the module for its layout.

    Args:
        directory: Where the segments lie; created when absent.
        head: Gives the store's state for the HEAD of a new segment.
        segment_bytes: Size at which a new segment is begun.
    """

    def __init__(self, directory: Path, head: Callable[[], bytes], segment_bytes: int = 16 * 1024 * 1024) -> None:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.directory = directory
        self.damaged = 0
        self._head = head
        self._segment_bytes = segment_bytes
        self._lock = threading.RLock()
        self._segments = _segments(directory)
        self._next = 1
        self._fd = -1
        self._unsynced: list[int] = []  # descriptors of full segments that still want a sync
        self._new_names = False

    # ------------------------------------------------------------------ opening

    def recover(self) -> Iterator[Record]:
        """The newest sound HEAD and every record after it; call once, before `begin`."""
        start = len(self._segments) - 1
        while start > 0 and next((r for r, _ in self._scan(self._segments[start]) if r.kind == HEAD), None) is None:
            start -= 1
        for segment in self._segments[max(start, 0) :]:
            for record, _ in self._scan(segment):
                self._next = record.number + 1
                yield record
        if self._segments:
            self._next = max(self._next, self._segments[-1].first + 1)

    def begin(self) -> None:
        """Start a new segment for this run."""
        with self._lock:
            self._roll()

    @property
    def next_number(self) -> int:
        """Number that the next record will get."""
        return self._next

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(s.size for s in self._segments)

    # ------------------------------------------------------------------ writing

    def append(self, kind: int, parts: Sequence[bytes | memoryview]) -> int:
        """Append one record made of `parts`; returns its number. A full disk leaves the log as it was.

        Raises:
            StoreFullError: The disk is full.
            StoreError: The disk fails.
        """
        with self._lock:
            return self._write(kind, parts)

    def segment(self) -> int:
        """First number of the segment that the next append goes to; begins a new one when the newest is full."""
        with self._lock:
            if self._segments[-1].size >= self._segment_bytes:
                self._roll()
            return self._segments[-1].first

    def _write(self, kind: int, parts: Sequence[bytes | memoryview]) -> int:
        segment = self._segments[-1]
        length = sum(memoryview(p).nbytes for p in parts)
        header = bytearray(_HEADER.pack(_MAGIC, 0, kind, length, self._next))
        crc = zlib.crc32(memoryview(header)[_CHECKED:])
        for part in parts:
            crc = zlib.crc32(part, crc)
        header[4:8] = crc.to_bytes(4, "little")
        total = _HEADER.size + length
        try:
            written = os.writev(self._fd, [header, *parts])
            if written < total:
                rest = memoryview(b"".join([bytes(header), *(bytes(p) for p in parts)]))
                while written < total:
                    written += os.write(self._fd, rest[written:])
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, segment.size)
                os.lseek(self._fd, segment.size, os.SEEK_SET)
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StoreFullError(f"{self.directory}: the disk is full; make room") from error
            raise StoreError(f"{segment.path}: {error.strerror}") from error
        number = self._next
        self._next += 1
        segment.size += total
        segment.last = number
        return number

    def _roll(self) -> None:
        previous = self._fd
        path = self.directory / f"{self._next:020d}.log"
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        kept = self._segments
        self._segments = [*(s for s in kept if s.first != self._next), _Segment(self._next, path)]
        try:
            self._write(HEAD, [self._head()])
        except StoreError:
            os.close(self._fd)
            path.unlink(missing_ok=True)
            self._segments, self._fd = kept, previous
            raise
        if previous >= 0:
            self._unsynced.append(previous)
        self._new_names = True

    def sync(self) -> int:
        """Make everything appended so far durable; returns the number of the last durable record.

        Raises:
            StoreError: The disk refused; what it holds is uncertain, so the process must stop and start again.
        """
        with self._lock:
            last = self._next - 1
            full, self._unsynced = self._unsynced, []
            current = os.dup(self._fd)
            names, self._new_names = self._new_names, False
        try:
            for fd in full:
                os.fdatasync(fd)
            os.fdatasync(current)
            if names:
                sync_directory(self.directory)
        except OSError as error:
            raise StoreError(
                f"{self.directory}: fsync failed ({error.strerror}); the disk is suspect, replace it"
            ) from error
        finally:
            os.close(current)
            for fd in full:
                os.close(fd)
        return last

    # ------------------------------------------------------------------ reading

    def cursor(self, number: int) -> Cursor:
        """A cursor at the HEAD of the segment that holds `number`: what stands there explains later records."""
        return Cursor(self.segment_of(number))

    def read(self, cursor: Cursor, upto: int | None = None) -> Iterator[Record]:
        """Records from `cursor` on, which moves along, up to what has been appended when the end is reached.

        Args:
            cursor: Where to begin.
            upto: Number of the last record wanted; the cursor stays before the next one.
        """
        while True:
            with self._lock:
                segment = next((s for s in self._segments if s.first >= cursor.segment), None)
                if segment is None:
                    return
                if segment.first != cursor.segment:
                    cursor.segment, cursor.position = segment.first, 0
                newest = segment is self._segments[-1]
            for record, position in self._scan(segment, cursor.position):
                if upto is not None and record.number > upto:
                    return
                cursor.position = position
                yield record
            if newest:
                return
            cursor.segment, cursor.position = segment.first + 1, 0

    def _scan(self, segment: _Segment, position: int = 0) -> Iterator[tuple[Record, int]]:
        try:
            fd = os.open(segment.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return  # trimmed meanwhile
        try:
            yield from self._scan_file(fd, segment, position)
        finally:
            os.close(fd)

    def _scan_file(self, fd: int, segment: _Segment, position: int) -> Iterator[tuple[Record, int]]:
        while position + _HEADER.size <= segment.size:
            data = os.pread(fd, min(_CHUNK, segment.size - position), position)
            offset = 0
            while offset + _HEADER.size <= len(data):
                magic, crc, kind, length, number = _HEADER.unpack_from(data, offset)
                end = offset + _HEADER.size + length
                sound = magic == _MAGIC and length <= MAX_RECORD and position + end <= segment.size
                if sound and end > len(data):
                    if offset:
                        break  # the next chunk begins with this record
                    data = os.pread(fd, end, position)
                if sound and zlib.crc32(memoryview(data)[offset + _CHECKED : end]) == crc:
                    yield (
                        Record(number, kind, memoryview(data)[offset + _HEADER.size : end], segment.first),
                        position + end,
                    )
                    offset = end
                    continue
                self.damaged += 1
                following = data.find(_MAGIC, offset + 1)
                offset = following if following >= 0 else max(len(data) - len(_MAGIC) + 1, offset + 1)
            position += max(offset, 1)

    # ------------------------------------------------------------------ trimming

    def segment_of(self, number: int) -> int:
        """First number of the segment that holds record `number`."""
        with self._lock:
            return max((s.first for s in self._segments if s.first <= number), default=0)

    def segments(self) -> list[int]:
        """First numbers of the segments, oldest first; the last one takes the appends."""
        with self._lock:
            return [s.first for s in self._segments]

    def drop(self, first: int) -> None:
        """Remove the segment whose first record is `first`; the newest one stays."""
        with self._lock:
            for segment in self._segments[:-1]:
                if segment.first == first:
                    self._segments.remove(segment)
                    segment.path.unlink(missing_ok=True)
                    return

    def close(self) -> None:
        """Sync and close."""
        with self._lock:
            if self._fd >= 0:
                self.sync()
                os.close(self._fd)
                self._fd = -1


class Flusher:
    """A thread that keeps a log durable, so that `wait` waits only for the rest.

    Args:
        log: The log.
        interval: Seconds between two syncs while nobody waits.
        name: Name of the thread.
    """

    def __init__(self, log: Log, interval: float, name: str) -> None:
        self._log = log
        self._interval = interval
        self._changed = threading.Condition()
        self._durable = 0
        self._wanted = 0
        self._closing = False
        self._error: StoreError | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> Self:
        """Begin."""
        self._durable = self._log.sync()
        self._thread.start()
        return self

    @property
    def durable(self) -> int:
        """Number of the last durable record."""
        return self._durable

    def wait(self, number: int) -> None:
        """Return when record `number` is durable.

        Raises:
            StoreError: It cannot be made durable.
        """
        with self._changed:
            self._wanted = max(self._wanted, number)
            self._changed.notify_all()
            while self._durable < number:
                if self._error is not None:
                    raise self._error
                self._changed.wait(1.0)

    def close(self) -> None:
        """Sync what is left and end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._closing and self._wanted <= self._durable:
                    self._changed.wait(self._interval)
                closing = self._closing
            if self._log.next_number - 1 > self._durable:
                try:
                    durable = self._log.sync()
                except StoreError as error:
                    with self._changed:
                        self._error = error
                        self._changed.notify_all()
                    return
                with self._changed:
                    self._durable = durable
                    self._changed.notify_all()
            if closing:
                return
