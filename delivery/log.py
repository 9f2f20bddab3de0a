"""Append-only log in segment files: what journal, spool and dead letters are made of.

Layout of a directory::

    00000000000000000001-5a0c93d1.log    segment: number of its first record, and its marker
    00000000000000004711-e87f21b6.log    the newest segment takes the appends
    reserve                              room for the few records that free room when the disk is full
    quarantine/                          segments in which damage was found, as they were

Each record is ``marker(4) crc32(4) kind(1) pad(3) length(4) number(8) synced(8) payload``; the checksum covers
everything after itself. Record numbers rise by one. `synced` is the number of the last record that was durable when this
one was written. The marker is random, so that no payload can pass for a record. A segment begins with its HEAD, twice:
the whole state of the store at that point, so that a store opens by reading the newest head and what follows, and older
segments can go, oldest first.

A log always opens, and holds all that was synced. A record that is damaged there is left out and counted. What was never
synced is there up to the first record that is missing: no later one was promised to anybody, and it may speak of the one
that is missing. A log does not append to a segment of an earlier run.

Durability: `append` hands bytes to the operating system, `sync` makes them durable (data, then the directory when a
segment was begun) and runs without the lock, so that nobody waits for a disk who does not ask for durability.
"""

import contextlib
import errno
import os
import re
import secrets
import struct
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from delivery import metrics
from delivery.disk import StoreError, StoreFullError, make_directory, sync_directory

_HEADER: Final = struct.Struct("<4sIB3xIQQ")
_CHECKED: Final = 8  # the checksum covers the header from here on
HEAD: Final = 0
_SYNCED: Final = 255  # says nothing but what its `synced` says
MAX_RECORD: Final = 1024 * 1024 * 1024
RESERVE: Final = 128 * 1024
QUARANTINE: Final = "quarantine"  # where damaged segments are kept
_KEPT_ASIDE: Final = 8
_BLOCK: Final = 4096
_CHUNK: Final = 1024 * 1024
_NAME: Final = re.compile(r"(\d{20})-([0-9a-f]{8})\.log")


@dataclass(frozen=True, slots=True)
class Record:
    """One record of a log.

    Attributes:
        number: Its number.
        kind: What it is; 0 is a HEAD, the rest is the store's own.
        payload: Its bytes.
        segment: Number of the segment that it is in.
        synced: Number of the last record that was durable when this one was written.
    """

    number: int
    kind: int
    payload: memoryview
    segment: int
    synced: int


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
class Segment:
    """One file of a log.

    Attributes:
        first: Number of its first record.
        marker: What each of its records begins with.
        path: Where it can be opened.
        size: Bytes.
        proof: Its first record that says that all before the segment is durable.
    """

    first: int
    marker: bytes
    path: Path
    size: int = 0
    proof: int = 0


def _pread(fd: int, count: int, position: int) -> bytes:
    """Read from a file; blocks that the disk cannot read are zeroes."""
    try:
        return os.pread(fd, count, position)
    except OSError:
        blocks = []
        for start in range(position, position + count, _BLOCK):
            wanted = min(_BLOCK, position + count - start)
            try:
                blocks.append(os.pread(fd, wanted, start))
            except OSError:
                blocks.append(bytes(wanted))
        return b"".join(blocks)


def _segments(directory: Path) -> list[Segment]:
    names = [(match, path) for path in directory.iterdir() if (match := _NAME.fullmatch(path.name))]
    found = [Segment(int(match[1]), bytes.fromhex(match[2]), path, path.stat().st_size) for match, path in names]
    return sorted(found, key=lambda s: (s.first, s.path))


class Log:
    """An append-only log; see the module for its layout.

    Args:
        directory: Where the segments lie; created when absent.
        head: Gives the store's state for the HEAD of a new segment.
        segment_bytes: Size at which a new segment is begun.
    """

    def __init__(self, directory: Path, head: Callable[[], bytes], segment_bytes: int = 16 * 1024 * 1024) -> None:
        self.directory = directory
        self.damaged = 0  # places where records are missing that were durable
        self.torn = False  # the end was cut off, as a power cut leaves it: nothing there was promised to anybody
        self._head = head
        self._segment_bytes = segment_bytes
        self._lock = threading.RLock()
        self._syncing = threading.Lock()  # two syncs at once would each be done before the other's segments are
        self._segments = self._find()
        self._next = 1
        self._synced = 0
        self._cut: tuple[int, int] | None = None  # segment and bytes of it that were recovered; what follows goes
        self._fd = -1
        self._unsynced: list[int] = []  # descriptors of full segments that still want a sync
        self._new_names = False
        self._failed: StoreError | None = None
        self._holds = 0
        self._suspect: set[int] = set()  # segments in which damage was found
        self._reserve = directory / "reserve"

    # ------------------------------------------------------------------ files

    def _find(self) -> list[Segment]:
        make_directory(self.directory)
        return _segments(self.directory)

    def _create(self, path: Path) -> tuple[int, Path]:
        """A new segment's descriptor, and the path to open it by."""
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), path

    def _remove(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def _sync_names(self) -> None:
        sync_directory(self.directory)

    def _sync_file(self, fd: int) -> None:
        os.fdatasync(fd)

    # ------------------------------------------------------------------ opening

    def recover(self) -> Iterator[Record]:
        """The newest HEAD that can be trusted and every record after it; call once, before `begin`."""
        start, durable = self._start()
        expected, before = 0, None
        for segment in self._segments[start:]:
            end = 0
            for record, position in self._scan(segment):
                if record.number < expected:
                    continue
                if expected and record.number > expected and record.number - 1 > durable:
                    self.torn, self._cut = True, (segment.first, end)
                    return
                if record.number > (expected or segment.first):
                    self._note_damage(before if expected and record.number == segment.first else segment)
                end, expected = position, record.number + 1
                self._next = expected
                yield record
            if end < segment.size and segment is self._segments[-1]:
                self.torn, self._cut = True, (segment.first, end)
            before = segment

    def _note_damage(self, segment: Segment | None) -> None:
        """Count a place where records are lost that were durable, and keep the file aside for whoever wants to look."""
        self.damaged += 1
        metrics.DAMAGED.inc()
        if segment is None or segment.first in self._suspect:
            return
        self._suspect.add(segment.first)
        aside = self.directory / QUARANTINE
        with contextlib.suppress(OSError):  # a full disk has no room for it
            make_directory(aside)
            (aside / segment.path.name).hardlink_to(segment.path)
            for old in sorted(aside.iterdir())[:-_KEPT_ASIDE]:
                old.unlink()

    def _start(self) -> tuple[int, int]:
        """Index of the segment to begin with, and number of the newest record that is known to be durable.

        A HEAD that was written before the records in front of it were durable speaks of what may be lost.
        """
        durable = 0
        for index in reversed(range(len(self._segments))):
            segment, sound = self._segments[index], False
            for record, _ in self._scan(segment):
                durable = max(durable, record.synced)
                sound = sound or record.kind == HEAD
            if sound and segment.first - 1 <= durable:
                return index, durable
        return 0, durable

    def begin(self) -> None:
        """Make what was recovered durable, remove what was not, and start a new segment for this run.

        Raises:
            StoreFullError: The disk is full.
            StoreError: The disk fails.
        """
        with self._lock:
            if self._segments:
                self._next = max(self._next, self._segments[-1].first + 1)
            try:
                self._remove_cut()
                for segment in self._segments:  # a killed process leaves records that no disk has seen
                    fd = os.open(segment.path, os.O_RDONLY | os.O_CLOEXEC)
                    try:
                        self._sync_file(fd)
                    finally:
                        os.close(fd)
                self._sync_names()
            except OSError as error:
                raise StoreError(f"{self.directory}: {error.strerror}") from error
            self._synced = self._next - 1
            self._roll()
            self._keep_reserve()

    def _remove_cut(self) -> None:
        if self._cut is None:
            return
        first, size = self._cut
        for segment in reversed(self._segments):
            if segment.first > first or (segment.first == first and not size):
                segment.path.unlink(missing_ok=True)
                self._segments.remove(segment)
            elif segment.first == first:
                os.truncate(segment.path, size)
                segment.size = size

    @property
    def next_number(self) -> int:
        """Number that the next record will get."""
        return self._next

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(s.size for s in self._segments)

    # ------------------------------------------------------------------ writing

    def append(self, kind: int, parts: Sequence[bytes | memoryview], *, urgent: bool = False) -> int:
        """Append one record made of `parts`; returns its number. A full disk leaves the log as it was.

        Args:
            kind: What it is, from 1 to 254.
            parts: Its payload.
            urgent: It may use the reserve, because it helps to free room.

        Raises:
            StoreFullError: The disk is full.
            StoreError: The disk fails.
        """
        with self._lock:
            return self._write(kind, parts, urgent=urgent)

    def segment(self) -> int:
        """First number of the segment that the next append goes to; begins a new one when the newest is full."""
        with self._lock:
            if self._segments[-1].size >= self._segment_bytes:
                self._roll()
            return self._segments[-1].first

    def roll(self) -> None:
        """Begin a new segment now."""
        with self._lock:
            self._roll()

    def skip(self, number: int) -> None:
        """Begin a new segment whose records have numbers from `number` on, unless they have already."""
        with self._syncing, self._lock:
            if self._next < number:
                self._sync_files([*self._unsynced, self._fd])
                self._next, self._synced = number, number - 1
                self._roll()

    def _write(self, kind: int, parts: Sequence[bytes | memoryview], *, urgent: bool = False) -> int:
        segment = self._segments[-1]
        length = sum(memoryview(p).nbytes for p in parts)
        if length > MAX_RECORD:
            raise StoreError(f"{self.directory}: a record of {length} bytes is too large")
        header = bytearray(_HEADER.pack(segment.marker, 0, kind, length, self._next, self._synced))
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
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise StoreError(f"{segment.path}: {error.strerror}") from error
            if urgent and self._reserve.exists():
                self._reserve.unlink()
                return self._write(kind, parts)
            raise StoreFullError(f"{self.directory}: the disk is full; make room") from error
        number = self._next
        self._next += 1
        segment.size += total
        if not segment.proof and self._synced >= segment.first - 1:
            segment.proof = number
        return number

    def _roll(self) -> None:
        marker = secrets.token_bytes(4)
        path = self.directory / f"{self._next:020d}-{marker.hex()}.log"
        previous, kept, number = self._fd, self._segments, self._next
        try:
            self._fd, path = self._create(path)
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            raise (StoreFullError if full else StoreError)(f"{path}: {error.strerror}") from error
        self._segments = [*kept, Segment(self._next, marker, path)]
        try:
            head = self._head()
            for _ in range(2):
                self._write(HEAD, [head], urgent=True)
        except StoreError:
            os.close(self._fd)
            self._remove(path)
            self._segments, self._fd, self._next = kept, previous, number
            raise
        if previous >= 0:
            self._unsynced.append(previous)
        self._new_names = True

    def _keep_reserve(self) -> None:
        """Set the reserve aside again when there is room; without it the log works, but for a full disk."""
        if self._reserve.exists():
            return
        try:
            fd = os.open(self._reserve, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            return
        try:
            os.posix_fallocate(fd, 0, RESERVE)
        except OSError:
            self._reserve.unlink(missing_ok=True)
        finally:
            os.close(fd)

    def sync(self) -> int:
        """Make everything appended so far durable; returns the number of the last durable record.

        Raises:
            StoreError: The disk refused; what it holds is uncertain, so the process must stop and start again.
        """
        with self._syncing:
            if self._failed is not None:
                raise self._failed
            with self._lock:
                last = self._next - 1
                full, self._unsynced = self._unsynced, []
                current = self._fd
                names, self._new_names = self._new_names, False
            try:
                self._sync_files([*full, current], names=names)
            finally:
                for fd in full:
                    os.close(fd)
            with self._lock:
                self._synced = max(self._synced, last)
                newest = self._segments[-1]
                if not newest.proof and self._synced >= newest.first - 1:
                    with contextlib.suppress(StoreFullError):
                        self._write(_SYNCED, [], urgent=True)
            return last

    def _sync_files(self, files: Sequence[int], *, names: bool = False) -> None:
        try:
            for fd in files:
                self._sync_file(fd)
            if names:
                self._sync_names()
        except OSError as error:
            raise self._fail(error) from error
        metrics.SYNCS.inc(len(files))

    def _fail(self, error: OSError) -> StoreError:
        """Refuse every later sync: asked again, the system would say that all is well."""
        self._failed = StoreError(f"{self.directory}: fsync failed ({error.strerror}); the disk is suspect, replace it")
        return self._failed

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
            expected = 0
            for record, position in self._scan(segment, cursor.position):
                if upto is not None and record.number > upto:
                    return
                if expected and record.number > expected and segment.first not in self._suspect:
                    self._note_damage(segment)
                cursor.position, expected = position, record.number + 1
                yield record
            if newest:
                return
            cursor.segment, cursor.position = segment.first + 1, 0

    def _scan(self, segment: Segment, position: int = 0) -> Iterator[tuple[Record, int]]:
        try:
            fd = os.open(segment.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return  # trimmed meanwhile
        try:
            yield from self._scan_file(fd, segment, position)
        finally:
            os.close(fd)

    def _scan_file(self, fd: int, segment: Segment, position: int) -> Iterator[tuple[Record, int]]:
        marker = segment.marker
        while position + _HEADER.size <= segment.size:
            data = _pread(fd, min(_CHUNK, segment.size - position), position)
            offset = 0
            while offset + _HEADER.size <= len(data):
                found, crc, kind, length, number, synced = _HEADER.unpack_from(data, offset)
                end = offset + _HEADER.size + length
                sound = found == marker and position + end <= segment.size
                if sound and end > len(data):
                    if offset:
                        break  # the next chunk begins with this record
                    data = _pread(fd, end, position)
                if sound and zlib.crc32(memoryview(data)[offset + _CHECKED : end]) == crc:
                    payload = memoryview(data)[offset + _HEADER.size : end]
                    yield Record(number, kind, payload, segment.first, synced), position + end
                    offset = end
                    continue
                following = data.find(marker, offset + 1)
                offset = following if following >= 0 else max(len(data) - len(marker) + 1, offset + 1)
            if len(data) < _HEADER.size:
                return  # the file is shorter than it was
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

    def segment_size(self, segment: int) -> int:
        """Bytes of the segment whose first number is `segment`; 0 when it has gone."""
        with self._lock:
            return next((s.size for s in self._segments if s.first == segment), 0)

    def drop(self, first: int) -> bool:
        """Remove the segment whose first number is `first`, unless it is the newest, or somebody reads under `held`.

        The newest must first say, durably, that nothing before it is missing: removed segments may come back one by one.
        """
        with self._lock:
            proof = self._segments[-1].proof
            index = next((i for i, segment in enumerate(self._segments[:-1]) if segment.first == first), -1)
            if self._holds or index < 0 or not 0 < proof <= self._synced:
                return False
            self._remove(self._segments.pop(index).path)
            self._keep_reserve()
            return True

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """No segment is removed meanwhile."""
        with self._lock:
            self._holds += 1
        try:
            yield
        finally:
            with self._lock:
                self._holds -= 1

    def close(self) -> None:
        """Sync and close.

        Raises:
            StoreError: The disk refused.
        """
        if self._fd < 0:
            return
        try:
            if self._failed is None:
                self.sync()
                with contextlib.suppress(StoreFullError):
                    self.append(_SYNCED, [])
                    self.sync()
        finally:
            with self._lock:
                os.close(self._fd)
                self._fd = -1
