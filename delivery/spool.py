"""The spool of one target: what the flow decided to send, on disk until the target has it.

The flow appends and never waits for a disk; a flusher keeps the log durable and `snapshot` waits for the rest. The
forwarder takes *units*, which may go out before they are synced (the journal still holds them), and settles each by
itself. Readings are deduped by identity, so that a replay of the flow adds none.
"""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import structlog

from delivery.disk import StoreError, StoreFullError
from delivery.entry import COLUMNS, TagReader, TagScribe, decode, encode, pack, unpack
from delivery.flusher import Flusher
from delivery.identities import Identities, by_shard, fresh
from delivery.log import HEAD, Cursor, Log, Record
from delivery.unit import Entry, Unit
from normalization.reading import FACTS, TagTable

_TAGS, _ENTRY, _CLOSE, _UNIT = 1, 2, 3, 4
_SYNC_INTERVAL: Final = 0.05
_REFILL_ROWS: Final = 10_000  # read back at once, at least: opening a segment costs more than some rows
_NOT_YET: Final = 2**62
_SEQUENCE: Final = FACTS.get_field_index("sequence")

log = structlog.get_logger()


@dataclass(slots=True)
class SpoolAccount:
    """What the spool knows of its readings, all counts by source since it was begun.

    Attributes:
        routed: Readings that came in.
        delivered: Readings that the target has.
        dead: Readings that became dead letters.
        discarded: Readings that the overflow policy let go, by reason.
        stored: Readings that wait; counted by scanning.
    """

    routed: Counter[str] = field(default_factory=Counter)
    delivered: Counter[str] = field(default_factory=Counter)
    dead: Counter[str] = field(default_factory=Counter)
    discarded: dict[str, Counter[str]] = field(default_factory=dict)
    stored: Counter[str] = field(default_factory=Counter)


class Spool:
    """The spool of one target.

    Args:
        directory: Where it lies.
        tags: The process's tag table.
        own_shard: Whether a shard is one of this gateway's journal, so that its trims will be announced.
        entry_rows: Readings in one entry, at most.
        entry_bytes: Bytes of one entry before compression, at most, unless it is a single reading.
        memory_rows: Readings held in memory; more are read back from disk.
        segment_bytes: Size at which a new segment is begun.
    """

    def __init__(
        self,
        directory: Path,
        tags: TagTable,
        own_shard: Callable[[str], bool],
        *,
        entry_rows: int = 10_000,
        entry_bytes: int = 4 * 1024 * 1024,
        memory_rows: int = 100_000,
        segment_bytes: int = 16 * 1024 * 1024,
    ) -> None:
        self.directory = directory
        self.wake: Callable[[], None] = lambda: None
        self._tags = tags
        self._own_shard = own_shard
        self._entry_rows, self._entry_bytes, self._limit = entry_rows, entry_bytes, memory_rows
        self._lock = threading.RLock()
        self._known = Identities()
        self._derived: deque[Identities] = deque([Identities()], maxlen=3)
        self._routed: Counter[str] = Counter()
        self._delivered: Counter[str] = Counter()
        self._dead_letters: Counter[str] = Counter()
        self._discarded: dict[str, Counter[str]] = {}
        self._next_unit = 1
        self._open: tuple[int, list[int]] | None = None  # recorded and not closed
        self._resume = False  # the open unit is from before the start
        self._done = 0  # every entry up to here is settled and gone
        self._settled: set[int] = set()  # settled entries above it
        self._settled_at: dict[int, int] = {}  # segment: record that settled the last of its entries so far
        self._outstanding: dict[int, int] = {}  # segment: entries read or appended in this run and not settled
        self._dead: dict[int, np.ndarray] = {}
        self._dead_sources: dict[int, Counter[str]] = {}
        self._released: deque[Unit] = deque()
        self._again: deque[Entry] = deque()
        self._ready: deque[Entry] = deque()
        self._ready_rows = 0
        self._queued = 0
        self._unwritten: deque[Sequence[Any]] = deque()
        self._log = Log(directory, self._head, segment_bytes)
        self._recover()
        self._scribe, self._reader = TagScribe(tags), TagReader(tags)
        self._log.begin()
        self._segment = self._log.segments()[-1]
        self._behind: Cursor | None = self._log.cursor(self._done + 1)
        self._flusher = Flusher(self._log, _SYNC_INTERVAL, f"spool {directory.name}", self._drop_segments).start()

    # ------------------------------------------------------------------ state

    def _head(self) -> bytes:
        return pack(
            [
                1,
                self._next_unit,
                self._open,
                self._done,
                sorted(self._settled),
                [[number, rows.tolist(), self._dead_sources[number]] for number, rows in self._dead.items()],
                [self._routed, self._delivered, self._dead_letters, self._discarded],
                self._known.to_list(),
                [run for generation in self._derived for run in generation.to_list()],
            ]
        )

    def _load_head(self, payload: memoryview) -> None:
        version, *rest = unpack(payload)
        if version != 1:
            raise StoreError(f"{self.directory} was written by a newer version of Bifrost; start that version")
        self._next_unit, opened, self._done, settled, dead, counts, known, derived = rest
        self._open = (opened[0], opened[1]) if opened else None
        self._settled = set(settled)
        self._dead = {number: np.array(rows, np.int64) for number, rows, _ in dead}
        self._dead_sources = {number: Counter(sources) for number, _, sources in dead}
        self._routed, self._delivered, self._dead_letters = (Counter(count) for count in counts[:3])
        self._discarded = {reason: Counter(sources) for reason, sources in counts[3].items()}
        self._known = Identities.from_list(known)
        self._derived = deque([Identities.from_list(derived)], maxlen=3)

    def _recover(self) -> None:
        for record in self._log.recover():
            if record.kind == HEAD:
                self._load_head(record.payload)
            elif record.kind == _ENTRY:
                self._recover_entry(record)
            elif record.kind == _CLOSE:
                self._close_unit(*unpack(record.payload))
            elif record.kind == _UNIT:
                number, entries = unpack(record.payload)
                self._open, self._next_unit = (number, entries), number + 1
        self._resume = self._open is not None
        if self._log.damaged:
            log.error("spool damaged, readings may be lost", spool=str(self.directory), places=self._log.damaged)

    def _recover_entry(self, record: Record) -> None:
        gateway, shard, first, last, rows, sources, _, mask, raw_size, body = unpack(record.payload)
        if last - first + 1 == rows:
            sequences = np.arange(first, last + 1)
        else:
            sequences = decode(mask, raw_size, memoryview(body))[_SEQUENCE].to_numpy()
        self._remember(gateway, shard, sequences)
        self._routed.update(sources)

    # ------------------------------------------------------------------ appending (flow thread)

    def append(self, batch: pa.RecordBatch) -> None:
        """Take readings of `stream_schema`; those that the spool has had already are left out.

        Raises:
            StoreFullError: The disk is full.
        """
        for _, part in by_shard(batch, batch.column("sequence")):
            self._append_shard(part)
        self.wake()

    def _append_shard(self, batch: pa.RecordBatch) -> None:
        if not len(batch):
            return
        gateway, shard = batch.column("gateway")[0].as_py(), batch.column("shard")[0].as_py()
        sequences = batch.column("sequence").to_numpy()
        with self._lock:
            keep = fresh(sequences, self._had(gateway, shard, sequences))
            if keep is not None:
                batch = batch.take(pa.array(keep))
            try:
                for start in range(0, len(batch), self._entry_rows):
                    self._append_entry(gateway, shard, batch.slice(start, self._entry_rows))
            except StoreFullError:
                self._scribe.announce_again()
                raise

    def _append_entry(self, gateway: str, shard: str, batch: pa.RecordBatch) -> None:
        segment = self._begin_segment()
        columns = [batch.column(name) for name in COLUMNS.names]
        process_tags = columns[0]
        columns[0], rows = self._scribe.translate(segment, process_tags)
        mask, raw_size, body = encode(columns)
        if rows:
            self._log.append(_TAGS, [pack(rows)])
        if raw_size > self._entry_bytes and len(batch) > 1:
            half = len(batch) // 2
            self._append_entry(gateway, shard, batch.slice(0, half))
            self._append_entry(gateway, shard, batch.slice(half))
            return
        sequences = columns[_SEQUENCE].to_numpy()
        first, last = int(sequences.min()), int(sequences.max())
        sources = self._tags.count_sources(process_tags.to_numpy())
        now = time.time()
        described = [gateway, shard, first, last, len(batch), sources, now, mask, raw_size, memoryview(body)]
        number = self._log.append(_ENTRY, [pack(described)])
        self._remember(gateway, shard, sequences)
        self._routed.update(sources)
        columns[0] = process_tags
        if self._behind is None and self._ready and self._ready_rows + len(batch) > self._limit:
            self._behind = self._log.cursor(number)
        if self._behind is None:
            self._push(Entry(number, segment, gateway, shard, len(batch), raw_size, sources, now, columns))

    def _begin_segment(self) -> int:
        """The segment for the next entry; a new one has a HEAD that says what could not be written before."""
        segment = self._log.segment()
        if segment != self._segment:
            self._segment = segment
            self._unwritten.clear()
            self._settled_at = {s: min(number, segment + 1) for s, number in self._settled_at.items()}
        return segment

    def _had(self, gateway: str, shard: str, sequences: np.ndarray) -> np.ndarray | None:
        if self._own_shard(shard):
            return self._known.had(shard, sequences)
        known: np.ndarray | None = None
        for generation in self._derived:
            found = generation.had(f"{gateway}/{shard}", sequences)
            if found is not None:
                known = found if known is None else known | found
        return known

    def _remember(self, gateway: str, shard: str, sequences: np.ndarray) -> None:
        if self._own_shard(shard):
            self._known.add(shard, sequences)
        else:
            self._derived[-1].add(f"{gateway}/{shard}", sequences)

    def had(self, shard: str, sequences: np.ndarray) -> np.ndarray | None:
        """Which readings of the journal's `shard` the spool has had; None when none."""
        with self._lock:
            return self._known.had(shard, sequences)

    def forget(self, shard: str, upto: int) -> None:
        """The journal has durably trimmed `shard` up to sequence `upto`: those readings will not come again."""
        with self._lock:
            self._known.forget(shard, upto)

    def snapshot(self) -> None:
        """Return when everything appended is durable; readings of steps are remembered for two more snapshots.

        Raises:
            StoreError: The disk fails.
        """
        with self._lock:
            last = self._log.next_number - 1
            self._derived.append(Identities())
        self._flusher.wait(last)

    # ------------------------------------------------------------------ taking (forwarder thread)

    def _push(self, entry: Entry) -> None:
        if entry.number > self._queued:
            self._queued = entry.number
            self._outstanding[entry.segment] = self._outstanding.get(entry.segment, 0) + 1
            self._ready.append(entry)
            self._ready_rows += entry.rows

    def _refill(self, rows: int) -> None:
        """Read back until about `rows` readings are in memory, or all."""
        if self._behind is None or self._ready_rows >= rows:
            return
        for record in self._log.read(self._behind):
            entry = self._decode(record)
            if entry is not None:
                self._push(entry)
            if self._ready_rows >= rows:
                return
        self._behind = None

    def _decode(self, record: Record) -> Entry | None:
        if record.kind == _TAGS:
            self._reader.learn(record.segment, unpack(record.payload))
        if (
            record.kind != _ENTRY
            or record.number <= self._queued
            or record.number <= self._done
            or record.number in self._settled
        ):
            return None
        gateway, shard, _, _, rows, sources, appended, mask, raw_size, body = unpack(record.payload)
        columns = decode(mask, raw_size, memoryview(body))
        if not self._reader.translate(record.segment, columns):
            log.error(
                "spool entry unreadable, its tags are damaged",
                spool=self.directory.name,
                entry=record.number,
                readings=rows,
            )
            return None
        return Entry(record.number, record.segment, gateway, shard, rows, raw_size, sources, appended, columns)

    def oldest(self) -> float | None:
        """When the oldest reading that waits was appended, seconds since the epoch; None when nothing waits."""
        with self._lock:
            self._refill(1)
            waiting = self._released[0].entries if self._released else self._again or self._ready
            return waiting[0].appended if waiting else None

    def waiting(self, rows: int) -> bool:
        """Whether `rows` readings wait to be taken."""
        with self._lock:
            return bool(self._released or self._again) or self._ready_rows >= rows or self._behind is not None

    def take(self, rows: int, size: int) -> Unit | None:
        """The next unit: entries of about `rows` readings and `size` bytes at most; None when nothing waits."""
        with self._lock:
            if self._resume:
                self._resume = False
                self._release_open()
            if self._released:
                return self._released.popleft()
            if self._ready_rows < rows:
                self._refill(min(max(rows, _REFILL_ROWS), self._limit))
            entries: list[Entry] = []
            queue = self._again or self._ready
            while queue and (not entries or (rows >= queue[0].rows and size >= queue[0].size)):
                entry = queue.popleft()
                entries.append(entry)
                rows -= entry.rows
                size -= entry.size
                if queue is self._ready:
                    self._ready_rows -= entry.rows
            if not entries:
                return None
            self._next_unit += 1
            return self._unit(self._next_unit - 1, entries)

    def _unit(self, number: int, entries: list[Entry]) -> Unit:
        return Unit(
            number, entries, {e.number: self._dead[e.number] for e in entries if e.number in self._dead}, self._tags
        )

    def _release_open(self) -> None:
        """Find the entries of the unit that was recorded before the start, and let it go first."""
        if self._open is None:
            return
        number, wanted = self._open
        while self._behind is not None and self._queued < max(wanted):
            self._refill(self._ready_rows + 1)
        found = {e.number: e for e in self._ready if e.number in set(wanted)}
        self._ready = deque(e for e in self._ready if e.number not in found)
        self._ready_rows = sum(e.rows for e in self._ready)
        if found:
            self._released.append(self._unit(number, [found[n] for n in wanted if n in found]))

    def record(self, unit: Unit) -> None:
        """Make the unit itself durable, so that it can be sent again unchanged after a crash.

        Raises:
            StoreError: The disk fails.
        """
        entries = [e.number for e in unit.entries]
        with self._lock:
            if self._open == (unit.number, entries):
                return
            number = self._log.append(_UNIT, [pack([unit.number, entries])], urgent=True)
            self._open = unit.number, entries
        self._flusher.wait(number)

    def settle(self, unit: Unit) -> None:
        """The target has the unit: its entries leave the spool."""
        self._close(unit.number, unit.entries, [])

    def reject(self, unit: Unit, indices: Sequence[int], *, rest_delivered: bool) -> None:
        """Rows of the unit's batch are dead letters, which are durable elsewhere already.

        Args:
            unit: The unit; it is closed.
            indices: Rows of the unit's batch.
            rest_delivered: Whether the target has the other rows; else they wait again, under a new number.
        """
        tag_of = {e.number: e.columns[0].to_numpy() for e in unit.entries}
        dead = {number: np.unique(rows) for number, rows in unit.locate(indices).items()}
        described = [[n, rows.tolist(), self._tags.count_sources(tag_of[n][rows])] for n, rows in dead.items()]
        left = {e.number for e in unit.entries if not rest_delivered and _left(e, unit.dead, dead)}
        with self._lock:
            self._close(unit.number, [e for e in unit.entries if e.number not in left], described)
            self._again.extend(e for e in unit.entries if e.number in left)

    def _close(self, unit: int, entries: Sequence[Entry], dead: Sequence[Sequence[Any]]) -> None:
        dead_sources = {number: Counter(sources) for number, _, sources in dead}
        delivered: Counter[str] = Counter()
        with self._lock:
            entries = [e for e in entries if e.number > self._done and e.number not in self._settled]
            for entry in entries:
                delivered.update(entry.sources)
                delivered.subtract(self._dead_sources.get(entry.number, {}))
                delivered.subtract(dead_sources.get(entry.number, {}))
                self._outstanding[entry.segment] -= 1
                self._settled_at[entry.segment] = _NOT_YET
            counts = {source: count for source, count in delivered.items() if count}
            described: list[Any] = [unit, [e.number for e in entries], counts, dead]
            self._close_unit(*described)
            self._unwritten.append(described)
            self._write()

    def _close_unit(
        self, unit: int, entries: Sequence[int], delivered: dict[str, int], dead: Sequence[Sequence[Any]]
    ) -> None:
        for number, rows, sources in dead:
            known = self._dead.get(number, np.empty(0, np.int64))
            self._dead[number] = np.union1d(known, np.asarray(rows, np.int64))
            self._dead_sources.setdefault(number, Counter()).update(sources)
            self._dead_letters.update(sources)
        self._settled.update(entries)
        for number in entries:
            self._dead.pop(number, None)
            self._dead_sources.pop(number, None)
        self._delivered.update(delivered)
        self._next_unit = max(self._next_unit, unit + 1)
        if self._open is not None and self._open[0] == unit:
            self._open = None

    def _write(self) -> None:
        try:
            while self._unwritten:
                number = self._log.append(_CLOSE, [pack(self._unwritten[0])], urgent=True)
                for entry in self._unwritten.popleft()[1]:
                    self._settled_at[self._log.segment_of(entry)] = number
        except StoreFullError as error:
            log.warning("spool cannot note a delivery yet", spool=self.directory.name, error=str(error))

    def _drop_segments(self) -> None:
        """Remove the oldest segments, as far as all is settled in them and the disk knows it (the flusher's thread)."""
        with self._lock:
            if self._unwritten:
                self._write()
            for segment in self._log.segments()[:-1]:
                unread = self._behind is not None and self._behind.segment <= segment
                if unread or self._outstanding.get(segment) or self._settled_at.get(segment, 0) > self._flusher.durable:
                    break
                if not self._log.drop_oldest():
                    break
                self._outstanding.pop(segment, None)
                self._settled_at.pop(segment, None)
            done = self._log.segments()[0] - 1
            if done > self._done:
                self._done = done
                self._settled = {number for number in self._settled if number > done}

    def release(self, unit: Unit) -> None:
        """The unit was not settled: it waits again, unchanged, before all others."""
        with self._lock:
            self._released = deque(sorted([*self._released, unit], key=lambda released: released.number))

    # ------------------------------------------------------------------ looking

    @property
    def stored_rows(self) -> int:
        """Readings that wait or are under way."""
        gone = [self._delivered, self._dead_letters, *self._discarded.values()]
        return self._routed.total() - sum(counts.total() for counts in gone)

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return self._log.size

    def untrimmed(self, shards: Iterable[str]) -> int:
        """Readings of the journal's `shards` that the flow may bring again."""
        with self._lock:
            return sum(self._known.count(shard) for shard in shards)

    def account(self) -> SpoolAccount:
        """The account of the spool; what is stored is counted by scanning."""
        with self._log.held():
            with self._lock:
                account = SpoolAccount(
                    Counter(self._routed),
                    Counter(self._delivered),
                    Counter(self._dead_letters),
                    {k: Counter(v) for k, v in self._discarded.items()},
                )
                done, settled = self._done, set(self._settled)
                dead = {number: dict(sources) for number, sources in self._dead_sources.items()}
                last = self._log.next_number - 1
            for record in self._log.read(self._log.cursor(done + 1), last):
                if record.kind == _ENTRY and record.number > done and record.number not in settled:
                    account.stored.update(unpack(record.payload)[5])
                    account.stored.subtract(dead.get(record.number, {}))
        return account

    def close(self) -> None:
        """Sync and close."""
        self._flusher.close()
        self._log.close()


def _left(entry: Entry, *dead: dict[int, np.ndarray]) -> bool:
    """Whether a row of `entry` is in none of `dead`."""
    return sum(len(rows.get(entry.number, ())) for rows in dead) < entry.rows
