"""The durable log: what a client has been promised is in it and synced before the acknowledgement goes out.

A directory of segments, each named by the first number it may hold. An entry has a number (LSN) that only ever grows, the
stream it came by, and the client's request as it was on the wire; the first entry of a stream in a segment is preceded by
a declaration (which table, which format), so that a segment can be read, and removed, by itself. A checksum covers each
entry. Reading stops at the first entry of a segment that is torn: it was never acknowledged.

One group commit at a time: while one group is written and synced (in a thread), the next gathers.
"""

import asyncio
import json
import os
import struct
import time
import uuid
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Final, NamedTuple

_HEADER: Final = struct.Struct("<IIBQQ")  # payload length, checksum of all that follows it, kind, LSN, stream
_DECLARATION: Final = 0
_DATA: Final = 1
_READ_BYTES: Final = 8 << 20
_MAX_PAYLOAD: Final = 64 << 20
_MAX_BUFFERS: Final = 512  # buffers in one writev; IOV_MAX is 1024 on Linux


@dataclass(frozen=True)
class Declaration:
    """What an entry needs to become rows again: the table (name and incarnation) and the record format."""

    table: str
    table_id: str
    kind: str
    spec: bytes

    def to_bytes(self) -> bytes:
        """The declaration as the log stores it."""
        return json.dumps([self.table, self.table_id, self.kind, self.spec.hex()]).encode()

    @staticmethod
    def from_bytes(data: bytes) -> "Declaration":
        """The declaration that `to_bytes` wrote."""
        table, table_id, kind, spec = json.loads(data)
        return Declaration(table, table_id, kind, bytes.fromhex(spec))


class Entry(NamedTuple):
    """One logged request."""

    lsn: int
    declaration: Declaration
    payload: bytes


class LogFullError(Exception):
    """The group that an entry was in could not be written and synced; nothing of it will ever be read."""


@dataclass
class LogStream:
    """A stream's hold on the log. `wake` is called in the event loop when `durable` or `failure` has changed."""

    number: int
    declaration: Declaration
    wake: Callable[[], None]
    failure: LogFullError | None = None


@dataclass
class _Group:
    """Entries that are committed together."""

    items: list[tuple[LogStream, int, bytes]] = field(default_factory=list)
    size: int = 0


class CommitLog:
    """The log's writing end; all methods but `read` and `trim` belong to the event loop's thread.

    Args:
        directory: where the segments are; made if missing.
        linger: seconds that a group may wait for more entries before it is committed.
        segment_bytes: size at which a new segment is begun.
        max_pending: bytes not yet committed from which `room` makes senders wait.
    """

    def __init__(
        self, directory: Path, *, linger: float = 0.002, segment_bytes: int = 64 << 20, max_pending: int = 64 << 20
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._linger = linger
        self._segment_bytes = segment_bytes
        self._max_pending = max_pending
        self.identity: Final = _identity(directory)
        self.last_recovered = _last_lsn(directory)
        self.durable = self.last_recovered  # every LSN up to this one is on disk, or was never acknowledged
        self._next = self.last_recovered + 1
        self._group = _Group()
        self._more = asyncio.Event()
        self._settled = asyncio.Condition()
        self._streams = 0
        self._fd = -1
        self._size = 0
        self._next_segment = False
        self._declared: set[int] = set()
        self._executor = ThreadPoolExecutor(1, "log")
        self.before_write: Callable[[], None] = lambda: None  # a fault knob raises OSError here
        self.syncs = 0
        self.bytes_written = 0
        self.sync_seconds = 0.0
        self._begin_segment()

    def stream(self, declaration: Declaration, wake: Callable[[], None]) -> LogStream:
        """A new stream of entries."""
        self._streams += 1
        # the number tells streams apart within a segment, and every start begins a segment of its own
        return LogStream(self._streams, declaration, wake)

    def append(self, stream: LogStream, payload: bytes) -> int:
        """Queue an entry; it is on disk when `durable` has reached the LSN returned and the stream has no failure."""
        lsn = self._next
        self._next += 1
        self._group.items.append((stream, lsn, payload))
        self._group.size += len(payload)
        self._more.set()
        return lsn

    @property
    def appended(self) -> int:
        """The LSN given last."""
        return self._next - 1

    async def settled(self, lsn: int) -> None:
        """Wait until everything up to `lsn` is on disk, or has failed to get there."""
        async with self._settled:
            await self._settled.wait_for(lambda: self.durable >= lsn)

    async def room(self) -> None:
        """Wait while more is queued than a group should hold."""
        if self._group.size > self._max_pending:
            async with self._settled:
                await self._settled.wait_for(lambda: self._group.size <= self._max_pending)

    async def run(self) -> None:
        """Commit groups until cancelled; what was queued before the cancellation is committed first."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                await self._more.wait()
                if self._linger and self._group.size < self._max_pending:
                    await asyncio.sleep(self._linger)
                await self._commit(loop)
        finally:
            while self._group.items:
                await self._commit(loop)
            self._executor.shutdown()
            os.close(self._fd)

    async def _commit(self, loop: asyncio.AbstractEventLoop) -> None:
        group, self._group = self._group, _Group()
        self._more.clear()
        writing = loop.run_in_executor(self._executor, self._write, group)
        try:
            await asyncio.wait({writing})
        except asyncio.CancelledError:
            await asyncio.wait({writing})
            self._settle(group, writing.exception())
            raise
        self._settle(group, writing.exception())
        async with self._settled:
            self._settled.notify_all()

    def _settle(self, group: _Group, error: BaseException | None) -> None:
        if error is not None:
            self._next_segment = True
            for stream, _, _ in group.items:
                stream.failure = stream.failure or LogFullError(*error.args)
        if group.items:
            self.durable = group.items[-1][1]
        for stream in {id(stream): stream for stream, _, _ in group.items}.values():
            stream.wake()

    def _write(self, group: _Group) -> None:
        self.before_write()
        if self._next_segment or self._size >= self._segment_bytes:
            # also after a failed write: what it may have left behind ends the old segment
            os.close(self._fd)
            self._begin_segment(group.items[0][1])
            self._next_segment = False
        buffers: list[bytes] = []
        declared: set[int] = set()
        for stream, lsn, payload in group.items:
            if stream.failure is not None:
                continue  # an earlier request of this stream was lost, so this one must not be found either
            if stream.number not in self._declared and stream.number not in declared:
                declared.add(stream.number)
                buffers += _frame(_DECLARATION, lsn, stream.number, stream.declaration.to_bytes())
            buffers += _frame(_DATA, lsn, stream.number, payload)
        started = time.perf_counter()
        try:
            written = 0
            for index in range(0, len(buffers), _MAX_BUFFERS):
                written += _write_all(self._fd, buffers[index : index + _MAX_BUFFERS])
            os.fdatasync(self._fd)
        except OSError:
            os.ftruncate(self._fd, self._size)
            raise
        self._size += written
        self._declared |= declared
        self.syncs += 1
        self.bytes_written += written
        self.sync_seconds += time.perf_counter() - started

    def _begin_segment(self, first: int | None = None) -> None:
        path = self._directory / f"{self._next if first is None else first:020d}.log"
        self._fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_TRUNC, 0o600)
        _sync_directory(self._directory)
        self._size = 0
        self._declared = set()

    def segments(self) -> list[Path]:
        """All segments, oldest first."""
        return _segments(self._directory)

    def trim(self, lsn: int) -> int:
        """Remove the segments that hold nothing above `lsn`; returns how many. The newest stays: it keeps the numbers."""
        segments = self.segments()
        removed = 0
        for path, following in pairwise(segments):
            if int(following.stem) > lsn + 1:
                break
            path.unlink()
            removed += 1
        return removed


class LogReader:
    """The log's reading end; used by one thread, which may be another than the writer's."""

    def __init__(self, log: CommitLog) -> None:
        self._log = log
        self._path: Path | None = None
        self._offset = 0
        self._declarations: dict[int, Declaration] = {}

    def read(self, up_to: int, max_bytes: int) -> Iterator[Entry]:
        """The entries after the last one handed out, with LSNs up to `up_to`, until `max_bytes` have been read."""
        read_bytes = 0
        while read_bytes < max_bytes:
            if self._path is None and not self._advance(up_to):
                return
            path = self._path
            if path is None:
                return
            # a segment that was read to its end may have been trimmed before the next one was begun to be read
            frames = _frames(path, self._offset) if path.exists() else iter(())
            for kind, lsn, stream, payload, end in frames:
                if lsn > up_to or read_bytes >= max_bytes:
                    return
                self._offset = end
                if kind == _DECLARATION:
                    self._declarations[stream] = Declaration.from_bytes(payload)
                else:
                    read_bytes += len(payload)
                    yield Entry(lsn, self._declarations[stream], payload)
            if read_bytes >= max_bytes or not self._advance(up_to):
                return

    def _advance(self, up_to: int) -> bool:
        """Go to the next segment; False when there is none yet."""
        segments = self._log.segments()
        if self._path is not None:
            segments = [path for path in segments if path.name > self._path.name]
        # a later one may have been begun meanwhile, after more was written to the present one
        if not segments or int(segments[0].stem) > up_to + 1:
            return False
        self._path, self._offset, self._declarations = segments[0], 0, {}
        return True


def _frame(kind: int, lsn: int, stream: int, payload: bytes) -> tuple[bytes, bytes]:
    header = _HEADER.pack(len(payload), 0, kind, lsn, stream)
    checksum = zlib.crc32(payload, zlib.crc32(header[8:], len(payload)))
    return _HEADER.pack(len(payload), checksum, kind, lsn, stream), payload


def _frames(path: Path, offset: int) -> Iterator[tuple[int, int, int, bytes, int]]:
    """Kind, LSN, stream, payload and end offset of each sound frame from `offset` on, up to the first that is not."""
    with path.open("rb") as file:
        file.seek(offset)
        rest = b""
        while True:
            block = file.read(_READ_BYTES)
            if not block:
                return
            data = rest + block
            at = 0
            while len(data) - at >= _HEADER.size:
                length, checksum, kind, lsn, stream = _HEADER.unpack_from(data, at)
                if length > _MAX_PAYLOAD:
                    return
                end = at + _HEADER.size + length
                if end > len(data):
                    break
                payload = data[at + _HEADER.size : end]
                if zlib.crc32(payload, zlib.crc32(data[at + 8 : at + _HEADER.size], length)) != checksum:
                    return
                at = end
                offset += _HEADER.size + length
                yield kind, lsn, stream, payload, offset
            rest = data[at:]


def _write_all(fd: int, buffers: Sequence[bytes]) -> int:
    """`os.writev` until everything is written; the number of bytes."""
    total = sum(map(len, buffers))
    written = os.writev(fd, buffers)
    if written < total:  # a short write: the rest in one piece
        rest = memoryview(b"".join(buffers))[written:]
        while rest:
            rest = rest[os.write(fd, rest) :]
    return total


def _segments(directory: Path) -> list[Path]:
    return sorted(path for path in directory.glob("*.log") if path.stem.isdigit())


def _last_lsn(directory: Path) -> int:
    """The highest LSN that the segments hold or, by the newest one's name, have held."""
    last = 0
    for path in _segments(directory):
        last = max(last, int(path.stem) - 1)
        for _, lsn, _, _, _ in _frames(path, 0):
            last = max(last, lsn)
    return last


def _identity(directory: Path) -> str:
    """The name of this log's incarnation: its LSNs mean something only together with it."""
    path = directory / "identity"
    if not path.exists():
        temporary = directory / "identity.new"
        with temporary.open("w") as file:
            file.write(uuid.uuid4().hex)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
        _sync_directory(directory)
    return path.read_text().strip()


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
