"""The journal: readings become durable here, before anything else happens to them.

Readers append from the I/O thread; a committer thread cuts one batch per shard and group commit, writes the commit as
one record, syncs, and only then hands the entries to the flow and acknowledges to the readers. An entry goes as soon as
the epoch that carried it is durable.

A *shard* is an input partition: protocol, number and the journal's incarnation. Sources live inside a shard, so they
come and go freely. Offsets are commit numbers; sequences number the readings of a shard. Both are stored, never derived
from what remains.
"""

import asyncio
import contextlib
import secrets
import threading
import time
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import structlog

from delivery.disk import RESTORED, StoreError, StoreFullError
from delivery.entry import TagReader, TagScribe, decode, encode, pack, unpack, write_tags
from delivery.log import HEAD, Cursor, Log, Record
from delivery.outcome import JournalAccount, Outcome
from delivery.patch import Patch, patch, patched
from delivery.pending import Pending
from delivery.spans import SPANS
from normalization.reading import FACTS, IDENTITY_COLUMNS, Columns, TagTable, repeat

PROTOCOLS: Final = ("opcua", "mqtt", "modbus", "gateway")
SHARDS_PER_PROTOCOL: Final = 4
SHARDS: Final = tuple(f"{protocol}-{n}" for protocol in PROTOCOLS for n in range(SHARDS_PER_PROTOCOL))
_FORMAT: Final = 2  # in 1 a commit holds whole states of readers
_TAGS, _COMMIT, _TRIM = 1, 2, 3
_SEGMENT_BYTES: Final = 16 * 1024 * 1024
_COMMIT_BYTES: Final = 32 * 1024 * 1024  # of readings in one record, before compression
_REFILL_ROWS: Final = 20_000  # read back at once, at most: readers wait meanwhile
_PLENTY: Final = 10_000
_RETRY_FULL: Final = 1.0
_JUMP: Final = 2**32  # sequences left out when the journal lost commits that may have been handed out
_LONG_JUMP: Final = 2**40  # and when nothing says how many: years of readings

RAW: Final = pa.schema([*FACTS, *(pa.field(name, pa.dictionary(pa.int32(), pa.string())) for name in IDENTITY_COLUMNS)])

log = structlog.get_logger()


def shard_of(protocol: str, source: str) -> int:
    """Index in ``SHARDS`` of the shard that `source` lives in."""
    kind = protocol if protocol in PROTOCOLS else "gateway"  # a protocol that another package brings
    return PROTOCOLS.index(kind) * SHARDS_PER_PROTOCOL + zlib.crc32(source.encode()) % SHARDS_PER_PROTOCOL


@dataclass(slots=True)
class Entry:
    """A batch of one shard in the journal.

    Attributes:
        number: Number of the commit, the offset in the shard.
        first: Sequence of its first reading.
        rows: How many readings.
        sources: How many readings of each source.
        batch: A batch of ``RAW``; None once it has been handed out.
    """

    number: int
    first: int
    rows: int
    sources: dict[str, int]
    batch: pa.RecordBatch | None

    @property
    def last(self) -> int:
        """Sequence of its last reading."""
        return self.first + self.rows - 1


@dataclass(slots=True)
class _Shard:
    name: str
    next_sequence: int = 1
    trimmed: int = 0  # commit number up to which everything is done
    trimmed_sequence: int = 0
    released: int = 0  # as `trimmed`, and durably so
    queued: int = 0  # newest commit that was put into `ready`
    ready: deque[Entry] = field(default_factory=deque)
    handed: deque[Entry] = field(default_factory=deque)
    outcomes: deque[tuple[int, Outcome]] = field(default_factory=deque)  # (last sequence, what became of them)


class Journal:
    """The journal of one gateway.

    Args:
        directory: Where it lies.
        gateway: Name of the gateway.
        tags: The process's tag table.
        linger: Seconds that a commit waits for more readings.
        commit_rows: Readings at which a commit waits no longer.
        quota: Bytes on disk at which appends wait.
        memory_rows: Readings held in memory for the flow; more are read back from disk.
    """

    def __init__(
        self,
        directory: Path,
        gateway: str,
        tags: TagTable,
        *,
        linger: float = 0.003,
        commit_rows: int = 10_000,
        quota: int = 2 * 1024**3,
        memory_rows: int = 200_000,
    ) -> None:
        self.gateway = gateway
        self.failed: StoreError | None = None
        self.memory_rows = memory_rows
        self._arrival = threading.Condition()
        self._arrivals = 0
        self.on_trimmed: list[Callable[[str, int], None]] = []
        self._tags = tags
        self._linger, self._commit_rows, self._quota = linger, commit_rows, quota
        self._lock = threading.RLock()
        self._wake, self._enough, self._room = threading.Event(), threading.Event(), threading.Event()
        self._plenty = threading.Event()
        self._pending = Pending()
        self._incarnation = secrets.token_hex(3)
        self._shards = [_Shard(name) for name in SHARDS]
        self._states: dict[str, bytes] = {}
        self._journalled: Counter[str] = Counter()
        self._outcome = Outcome()
        self._in_segment: dict[int, list[int]] = {}  # segment: newest commit per shard
        self._announce: list[tuple[int, int, int]] = []  # shard, commit and sequence of trims not yet durable
        self._memory_rows = 0
        self._behind: Cursor | None = None
        self._committing = 0  # when the first reading of the commit under way came, µs; 0 for none
        self._commit_times: deque[tuple[int, int]] = deque()  # commits of this run: number, and when they began, µs
        self._counted = 0  # newest commit that the counts speak of
        self._closing = False
        self._log = Log(directory, self._head, min(_SEGMENT_BYTES, quota // 8))
        self._recover()
        self._scribe, self._reader = TagScribe(tags), TagReader(tags)
        self._opened = self._log.next_number - 1
        self._log.begin()
        self._durable = self._log.sync()
        (directory / RESTORED).unlink(missing_ok=True)
        self._by_name = {self.shard_name(index): index for index in range(len(SHARDS))}
        for shard in self._shards:
            shard.queued = shard.released = shard.trimmed
        self._behind = self._log.cursor(min(s.trimmed for s in self._shards) + 1)
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    # ------------------------------------------------------------------ state

    def _head(self) -> bytes:
        return pack(
            [
                _FORMAT,
                self._incarnation,
                [[s.name, s.next_sequence, s.trimmed, s.trimmed_sequence] for s in self._shards],
                self._states,
                dict(self._journalled),
                self._outcome.to_list(),
                list(self._in_segment.items()),  # recovery reads no older segment, but must not drop one too early
            ]
        )

    def _load_head(self, payload: memoryview) -> None:
        version, *rest = unpack(payload)
        if version not in (1, _FORMAT):
            raise StoreError(f"{self._log.directory} was written by a newer version of Bifrost; start that version")
        self._incarnation, shards, self._states, journalled, outcome, in_segment = rest
        for shard, (name, next_sequence, trimmed, trimmed_sequence) in zip(self._shards, shards, strict=True):
            shard.name, shard.next_sequence, shard.trimmed, shard.trimmed_sequence = (
                name,
                next_sequence,
                trimmed,
                trimmed_sequence,
            )
        self._journalled, self._outcome = Counter(journalled), Outcome.from_list(outcome)
        self._in_segment = dict(in_segment)

    def _recover(self) -> None:
        for record in self._log.recover():
            if record.kind == HEAD:
                self._load_head(record.payload)
            elif record.kind == _COMMIT:
                entries, states, _ = unpack(record.payload)
                for index, first, rows, sources, *_rest in entries:
                    self._shards[index].next_sequence = first + rows
                    self._journalled.update(sources)
                    self._note_commit(record.segment, index, record.number)
                self._patch_states(states)
            elif record.kind == _TRIM:
                trims, outcome = unpack(record.payload)
                for index, number, sequence in trims:
                    self._shards[index].trimmed, self._shards[index].trimmed_sequence = number, sequence
                self._outcome.add(Outcome.from_list(outcome))
        if self._log.damaged:
            log.error(
                "journal damaged, readings may be lost", directory=str(self._log.directory), places=self._log.damaged
            )
        restored = (self._log.directory / RESTORED).exists()  # others have had the next sequences
        if restored or self._log.damaged or self._log.torn:
            for shard in self._shards:  # a lost commit may have been handed out: its sequences must not name others
                shard.next_sequence += _LONG_JUMP if restored else _JUMP

    def _patch_states(self, changes: dict[str, Patch | bytes]) -> None:
        for source, change in changes.items():
            state = change if isinstance(change, bytes) else patched(self._states.get(source, b""), change)
            if state is not None:
                self._states[source] = state
            elif self._states.pop(source, None) is not None:
                log.error("state of a source is lost with a damaged record", source=source)

    def _note_commit(self, segment: int, index: int, number: int) -> None:
        self._in_segment.setdefault(segment, [0] * len(SHARDS))[index] = number

    def shard_name(self, index: int) -> str:
        """The shard's part of a reading's identity."""
        return f"{SHARDS[index]}-{self._incarnation}"

    def state(self, source: str) -> bytes | None:
        """The last state that the reader of `source` committed."""
        return self._states.get(source)

    # ------------------------------------------------------------------ appending (I/O thread)

    def append(self, source: str, index: int, rows: Columns, state: bytes | None) -> "asyncio.Future[None]":
        """Take readings of `source` into shard `index`; see `connectors.contract.Intake.append`."""
        if not rows.even:
            raise ValueError(f"readings of {source}: columns of different length")
        with self._lock:
            done = self._pending.add(source, index, rows, state, time.time_ns() // 1000)
            if self._pending.rows >= self._commit_rows:
                self._enough.set()
            self._wake.set()
        return done

    # ------------------------------------------------------------------ committing (journal thread)

    def _run(self) -> None:
        try:
            while self._pending or not self._closing:
                self._wake.wait()
                self._wake.clear()
                if self._pending and not self._closing:
                    self._enough.wait(self._linger)
                self._wait_for_room()
                with self._lock:
                    pending, self._pending = self._pending, Pending()
                    self._committing = pending.began
                    self._enough.clear()
                self._commit(pending)
        except Exception as error:  # the edge of the journal's thread: without it readers would wait for ever
            known = isinstance(error, StoreError)
            self.failed = error if isinstance(error, StoreError) else StoreError(f"{self._log.directory}: {error!r}")
            self._tell_arrival()
            log.error("journal failed", error=str(self.failed), exc_info=not known)

    def _wait_for_room(self) -> None:
        if self._log.size < self._quota or self._closing:
            return
        log.warning("journal full, sources wait", directory=str(self._log.directory), bytes=self._log.size)
        while self._log.size >= self._quota and not self._closing:
            self._make_room()

    def _make_room(self) -> None:
        """Let go what can go, and wait for more."""
        self._tell_trimmed(self._sync())
        with self._lock:
            newest = self._log.segments()[-1]
            if newest in self._in_segment and self._is_done(newest):
                with contextlib.suppress(StoreFullError):
                    self._log.roll()
        self._tell_trimmed(self._sync())
        self._room.wait(_RETRY_FULL)
        self._room.clear()

    def _commit(self, pending: Pending) -> None:
        began = time.monotonic()
        # By number: the readings that the gateway is handed stand last, in the record that holds their state too.
        entries = [
            (index, entry) for index in sorted(pending.columns) for entry in self._split(self._cut(index, pending))
        ]
        *large, last = self._records(entries)
        if not all(self._write(record, {}) for record in large):
            return
        if (last or pending.states) and not self._write(last, pending.states):
            return
        trims = self._sync()
        with self._lock:
            if self._behind is None and entries and self._memory_rows > self.memory_rows:
                self._behind = self._log.cursor(entries[0][1].number)
            if entries:
                self._commit_times.append((entries[0][1].number, pending.began))
            if self._behind is None:
                for index, entry in entries:
                    self._push(index, entry)
            self._committing = 0
        if entries:
            self._tell_arrival()
        pending.resolve()
        SPANS.note("journal commit", began, rows=pending.rows, entries=len(entries))
        self._tell_trimmed(trims)

    def _tell_trimmed(self, trims: list[tuple[int, int, int]]) -> None:
        for index, _, last in trims:
            for tell in self.on_trimmed:
                tell(self.shard_name(index), last)

    def _sync(self) -> list[tuple[int, int, int]]:
        """Make everything durable, and what was trimmed go; returns the trims that are durable now."""
        with self._lock:
            trims, self._announce = self._announce, []
        durable = self._log.sync()
        with self._lock:
            self._durable = durable
            for index, number, _ in trims:
                self._shards[index].released = number
            self._drop_segments()
        return trims

    def _cut(self, index: int, pending: Pending) -> Entry:
        first = self._shards[index].next_sequence
        facts, sources = pending.cut(index, self._tags, first)
        return Entry(0, first, len(facts[0]), sources, self._raw(index, facts))

    def _split(self, entry: Entry) -> Iterator[Entry]:
        """The entry in parts that fit into a record; a slow disk lets much gather."""
        if entry.batch is None or entry.batch.nbytes <= _COMMIT_BYTES:
            if entry.rows:
                yield entry
            return
        step = max(1, entry.rows * _COMMIT_BYTES // entry.batch.nbytes)
        for start in range(0, entry.rows, step):
            part = entry.batch.slice(start, step)
            sources = self._tags.count_sources(part.column("tag").to_numpy())
            yield Entry(0, entry.first + start, len(part), sources, part)

    def _records(self, entries: list[tuple[int, Entry]]) -> list[list[tuple[int, Entry]]]:
        """The entries of a commit in as few records as hold them, at least one."""
        records: list[list[tuple[int, Entry]]] = [[]]
        size = 0
        for index, entry in entries:
            more = entry.batch.nbytes if entry.batch is not None else 0
            if records[-1] and size + more > _COMMIT_BYTES:
                records.append([])
                size = 0
            records[-1].append((index, entry))
            size += more
        return records

    def _raw(self, index: int, facts: Sequence[pa.Array]) -> pa.RecordBatch:
        count = len(facts[0])
        names = [repeat(self.gateway, count), repeat(self.shard_name(index), count)]
        return pa.RecordBatch.from_arrays([*facts, *names], schema=RAW)

    def _write(self, entries: list[tuple[int, Entry]], states: dict[str, bytes]) -> bool:
        """Append a commit; wait while the disk is full. False when the journal is closed before there is room."""
        appended = self._append(entries, states)
        if appended is None:
            log.warning("disk full, sources wait", directory=str(self._log.directory))
        while appended is None:
            if self._closing:
                return False
            self._make_room()
            appended = self._append(entries, states)
        segment, number = appended
        with self._lock:
            for index, entry in entries:
                entry.number = number
                self._shards[index].next_sequence = entry.first + entry.rows
                self._note_commit(segment, index, number)
                self._journalled.update(entry.sources)
            self._states |= states
            self._counted = number
        return True

    def _append(self, entries: list[tuple[int, Entry]], states: dict[str, bytes]) -> tuple[int, int] | None:
        """Append a commit; returns its segment and number, None when the disk is full."""
        described: list[Any] = []
        bodies: list[pa.Buffer] = []
        try:
            with self._lock:
                segment = self._log.segment()
            for index, entry in entries:
                columns = (entry.batch or pa.RecordBatch.from_pylist([], RAW)).columns[: len(FACTS)]
                columns[0], rows = self._scribe.translate(segment, columns[0])
                if rows:
                    write_tags(self._log, _TAGS, rows)
                mask, raw_size, body = encode(columns)
                described.append([index, entry.first, entry.rows, entry.sources, mask, raw_size, len(body)])
                bodies.append(body)
            changes = {source: patch(self._states.get(source, b""), state) for source, state in states.items()}
            return segment, self._log.append(_COMMIT, [pack([described, changes, b"".join(bodies)])])
        except StoreFullError:
            self._scribe.announce_again()
            return None

    # ------------------------------------------------------------------ handing out (flow thread)

    def attach(self, index: int, offset: int | None, settle: Callable[[pa.RecordBatch], Outcome]) -> None:
        """Begin to hand out shard `index` after `offset`, the snapshot of the flow.

        Args:
            index: The shard.
            offset: Commit up to which the flow's outputs are durable; None when the flow remembers nothing.
            settle: Tells what became of readings up to `offset` that were not trimmed before the process ended.
        """
        shard = self._shards[index]
        offset = offset or 0
        if offset > max(self._opened, shard.queued):
            offset = self._regain(shard, offset)
        with self._lock:
            self._memory_rows -= sum(e.rows for e in shard.ready)
            shard.ready.clear()
            shard.handed.clear()
            shard.outcomes.clear()
        if offset > shard.trimmed:
            reader = TagReader(self._tags)
            for record in self._log.read(self._log.cursor(shard.trimmed + 1), offset):
                for _, entry in self._decode(record, reader, index):
                    if entry.batch is not None:
                        outcome, entry.batch = settle(entry.batch), None
                        with self._lock:
                            shard.handed.append(entry)
                            shard.outcomes.append((entry.last, outcome))
            self.trim(index, offset)
        with self._lock:
            shard.queued = max(shard.trimmed, offset)
            rewind = self._log.cursor(shard.queued + 1)
            if self._behind is None or rewind.segment <= self._behind.segment:
                self._behind = rewind

    def _regain(self, shard: _Shard, offset: int) -> int:
        """The flow knows commits that the journal has lost: name no other readings as it named those."""
        log.error("journal is older than the flow, readings may be lost", newest=self._opened, flow=offset)
        with self._lock:
            self._log.skip(offset + 1)
            shard.next_sequence += _LONG_JUMP
        return self._opened

    def take(self, index: int, rows: int) -> list[Entry]:
        """Entries of shard `index` that are durable and not yet handed out, about `rows` readings at most.

        Raises:
            StoreError: The journal has failed.
        """
        if self.failed is not None:
            raise self.failed
        shard = self._shards[index]
        with self._lock:
            if not shard.ready and self._behind is not None:
                self._refill(self._behind)
            taken: list[Entry] = []
            while shard.ready and rows > 0:
                entry = shard.ready.popleft()
                self._memory_rows -= entry.rows
                rows -= entry.rows
                taken.append(entry)
                shard.handed.append(Entry(entry.number, entry.first, entry.rows, entry.sources, None))
            return taken

    def _refill(self, behind: Cursor) -> None:
        read = 0
        for record in self._log.read(behind, self._durable):
            for index, entry in self._decode(record, self._reader):
                self._push(index, entry)
                read += entry.rows
            if read >= _REFILL_ROWS or (read and self._memory_rows > self.memory_rows):
                return
        self._behind = None

    def _push(self, index: int, entry: Entry) -> None:
        shard = self._shards[index]
        if entry.number > shard.queued:
            shard.queued = entry.number
            shard.ready.append(entry)
            self._memory_rows += entry.rows

    def _decode(self, record: Record, reader: TagReader, only: int | None = None) -> Iterator[tuple[int, Entry]]:
        """Entries of `record` that were not put into `ready`; or those of shard `only` that were not trimmed."""
        if record.kind == _TAGS:
            reader.learn(record.segment, unpack(record.payload))
        elif record.kind == _COMMIT:
            described, _, bodies = unpack(record.payload)
            body, position = memoryview(bodies), 0
            for index, first, rows, sources, mask, raw_size, length in described:
                data = body[position : position + length]
                position += length
                shard = self._shards[index]
                if record.number <= (shard.queued if only is None else shard.trimmed) or only not in (None, index):
                    continue
                facts = decode(mask, raw_size, data)[: len(FACTS)]
                if reader.translate(record.segment, facts):
                    yield index, Entry(record.number, first, rows, sources, self._raw(index, facts))
                else:
                    log.error("journal entry unreadable, its tags are damaged", commit=record.number, readings=rows)

    def _tell_arrival(self) -> None:
        with self._arrival:
            self._arrivals += 1
            self._arrival.notify_all()
        if self._memory_rows >= _PLENTY or self.failed is not None:
            self._plenty.set()

    def wait_arrival(self, seen: int, timeout: float, not_before: float = 0.0) -> int:
        """Wait, `timeout` seconds at most, until there have been other than `seen` arrivals; returns how many there were.

        Args:
            seen: What was returned before.
            timeout: Seconds to wait for an arrival.
            not_before: Time, of the monotonic clock, until which to wait for more than a few readings.
        """
        with self._arrival:
            if self._arrivals == seen:
                self._arrival.wait(timeout)
            arrivals = self._arrivals
        if arrivals != seen and self._behind is None:
            self._plenty.clear()
            left = not_before - time.monotonic()
            if left > 0 and self._memory_rows < _PLENTY:
                self._plenty.wait(left)
        return arrivals

    def note(self, shard: str, last: int, outcome: Outcome) -> None:
        """Remember what became of readings of `shard` up to sequence `last`, until they are trimmed."""
        index = self._by_name.get(shard)
        if index is not None:
            with self._lock:
                self._shards[index].outcomes.append((last, outcome))

    def trim(self, index: int, number: int) -> None:
        """Everything of shard `index` up to commit `number` is durable behind the flow: let it go."""
        shard = self._shards[index]
        with self._lock:
            if number <= shard.trimmed:
                return
            entries = list(takewhile(lambda entry: entry.number <= number, shard.handed))
            last = entries[-1].last if entries else shard.trimmed_sequence
            told = list(takewhile(lambda noted: noted[0] <= last, shard.outcomes))
            done: Counter[str] = Counter()
            for entry in entries:
                done.update(entry.sources)
            outcome = Outcome()
            for _, noted in told:
                outcome.add(noted)
            missing = outcome.missing(done)
            if missing:
                outcome.filtered.setdefault("dropped by a step", Counter()).update(missing)
            try:
                self._log.append(_TRIM, [pack([[[index, number, last]], outcome.to_list()])], urgent=True)
            except StoreFullError as error:
                log.warning("journal cannot note what is done yet", error=str(error))
                return
            for _ in entries:
                shard.handed.popleft()
            for _ in told:
                shard.outcomes.popleft()
            shard.trimmed, shard.trimmed_sequence = number, last
            self._forget_times()
            self._outcome.add(outcome)
            self._announce.append((index, number, last))
        self._room.set()
        self._wake.set()

    def _drop_segments(self) -> None:
        for segment in self._log.segments()[:-1]:
            if not self._is_done(segment) or not self._log.drop(segment):
                return
            self._in_segment.pop(segment, None)

    def _is_done(self, segment: int) -> bool:
        newest = self._in_segment.get(segment, [])
        return all(commit <= shard.released for commit, shard in zip(newest, self._shards, strict=False))

    # ------------------------------------------------------------------ looking

    def account(self) -> JournalAccount:
        """The account of the journal; what waits is counted by scanning."""
        with self._log.held():
            with self._lock:
                account = JournalAccount(Counter(self._journalled), Counter(), Outcome())
                account.outcome.add(self._outcome)
                trimmed = [shard.trimmed for shard in self._shards]
                last = max(self._counted, self._opened)
            for record in self._log.read(self._log.cursor(min(trimmed) + 1), last):
                if record.kind == _COMMIT:
                    for index, _, _, sources, *_rest in unpack(record.payload)[0]:
                        if record.number > trimmed[index]:
                            account.waiting.update(sources)
        return account

    def settled(self, target: str) -> Counter[str]:
        """Readings by source that went to `target`, as far as they are done."""
        with self._lock:
            return Counter(self._outcome.targets.get(target, {}))

    def oldest_received(self) -> int | None:
        """When the oldest reading was received that is not durable behind the flow, µs since the epoch; None for none.

        0 as long as that cannot be told, because readings of an earlier run wait.
        """
        with self._lock:
            times = [began for began in (self._pending.began, self._committing) if began]
            if self._forget_times() <= self._opened:
                return 0
            times += [began for _, began in self._commit_times][:1]
            return min(times, default=None)

    def _forget_times(self) -> int:
        """Forget when those commits began that are behind the flow; returns the number of the oldest that is not."""
        waiting = [queue[0].number for s in self._shards for queue in (s.handed, s.ready) if queue]
        if self._behind is not None:
            waiting.append(min(shard.queued for shard in self._shards) + 1)
        first = min(waiting, default=self._log.next_number)
        while self._commit_times and self._commit_times[0][0] < first:
            self._commit_times.popleft()
        return first

    @property
    def waiting_rows(self) -> int:
        """Readings in memory that the flow has not taken yet."""
        return self._memory_rows

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return self._log.size

    def close(self) -> None:
        """Commit what is pending and end; what a full disk cannot take is not acknowledged."""
        self._closing = True
        self._enough.set()
        self._room.set()
        self._wake.set()
        self._thread.join()
        self._log.close()
