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

from delivery.entry import COLUMNS, TagReader, TagScribe, decode, encode, pack, unpack
from delivery.identities import Identities
from delivery.log import HEAD, Cursor, Flusher, Log, Record, StoreError, StoreFullError
from normalization.reading import FACTS, TagTable, numbers, repeat, view

_TAGS, _ENTRY, _SETTLE, _UNIT, _DEAD = 1, 2, 3, 4, 5
_SYNC_INTERVAL: Final = 0.05
_SEQUENCE: Final = FACTS.get_field_index("sequence")
_TYPE, _DOUBLE, _INT = (FACTS.get_field_index(name) for name in ("type", "value_double", "value_int"))

log = structlog.get_logger()


@dataclass(slots=True)
class Entry:
    """Readings of one shard in the spool.

    Attributes:
        number: Its record number.
        segment: The segment that it is in.
        gateway: Gateway of the readings' identity.
        shard: Shard of the readings' identity.
        rows: How many readings.
        size: Bytes before compression.
        sources: How many readings of each source.
        appended: When it was appended, seconds since the epoch.
        columns: Arrays in the order of ``COLUMNS``.
    """

    number: int
    segment: int
    gateway: str
    shard: str
    rows: int
    size: int
    sources: dict[str, int]
    appended: float
    columns: list[pa.Array]


@dataclass(slots=True)
class Unit:
    """What one write carries: a number and a fixed list of entries, less their dead rows.

    Attributes:
        number: Number of the unit.
        entries: The entries.
        dead: Rows of an entry that are dead letters, by entry number.
        tags: The process's tag table.
    """

    number: int
    entries: list[Entry]
    dead: dict[int, np.ndarray]
    tags: TagTable

    @property
    def rows(self) -> int:
        """How many readings it carries."""
        return sum(e.rows for e in self.entries) - sum(len(rows) for rows in self.dead.values())

    def batch(self) -> pa.RecordBatch:
        """The readings as a batch of `normalization.reading.stream_schema`."""
        entries = self.entries
        if len(entries) == 1:
            columns = entries[0].columns
            gateway, shard = repeat(entries[0].gateway, entries[0].rows), repeat(entries[0].shard, entries[0].rows)
        else:
            columns = [pa.concat_arrays([e.columns[i] for e in entries]) for i in range(len(COLUMNS))]
            gateway, shard = (
                _runs([getattr(e, name) for e in entries], [e.rows for e in entries]) for name in ("gateway", "shard")
            )
        value = numbers(columns[_TYPE], columns[_DOUBLE], columns[_INT])
        batch = view(columns[: len(FACTS)], gateway, shard, self.tags, value, columns[len(FACTS)])
        kept = self._kept()
        return batch if kept is None else batch.take(pa.array(kept))

    def _kept(self) -> np.ndarray | None:
        if not self.dead:
            return None
        keep = np.ones(sum(e.rows for e in self.entries), bool)
        start = 0
        for entry in self.entries:
            if entry.number in self.dead:
                keep[start + self.dead[entry.number]] = False
            start += entry.rows
        return np.flatnonzero(keep)

    def locate(self, indices: Sequence[int]) -> dict[int, np.ndarray]:
        """Rows of `batch` as rows of entries, by entry number."""
        kept = self._kept()
        rows = np.asarray(indices, np.int64) if kept is None else kept[np.asarray(indices, np.int64)]
        found: dict[int, np.ndarray] = {}
        start = 0
        for entry in self.entries:
            inside = rows[(rows >= start) & (rows < start + entry.rows)] - start
            if len(inside):
                found[entry.number] = inside
            start += entry.rows
        return found


def _runs(names: Sequence[str], lengths: Sequence[int]) -> pa.DictionaryArray:
    distinct = list(dict.fromkeys(names))
    index = np.repeat(np.array([distinct.index(name) for name in names], np.int32), lengths)
    return pa.DictionaryArray.from_arrays(index, pa.array(distinct, pa.string()), safe=False)


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
        self._open: tuple[int, list[int]] | None = None
        self._done = 0  # every entry up to here is settled
        self._settled: set[int] = set()  # settled entries above it
        self._outstanding: dict[int, int] = {}  # segment: entries not settled
        self._dead: dict[int, np.ndarray] = {}
        self._dead_sources: dict[int, Counter[str]] = {}
        self._again: deque[Entry] = deque()
        self._ready: deque[Entry] = deque()
        self._ready_rows = 0
        self._queued = 0
        self._unwritten: list[tuple[int, bytes]] = []
        self._log = Log(directory, self._head)
        self._recover()
        self._scribe, self._reader = TagScribe(tags), TagReader(tags)
        self._log.begin()
        self._behind: Cursor | None = self._log.cursor(self._done + 1)
        self._flusher = Flusher(self._log, _SYNC_INTERVAL, f"spool {directory.name}").start()

    # ------------------------------------------------------------------ state

    def _head(self) -> bytes:
        return pack(
            [
                1,
                self._next_unit,
                self._open,
                self._done,
                sorted(self._settled),
                list(self._outstanding.items()),
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
        self._next_unit, opened, self._done, settled, outstanding, dead, counts, known, derived = rest
        self._open = (opened[0], opened[1]) if opened else None
        self._settled, self._outstanding = set(settled), dict(outstanding)
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
            elif record.kind == _SETTLE:
                self._apply_settle(*unpack(record.payload))
            elif record.kind == _UNIT:
                number, entries = unpack(record.payload)
                self._open, self._next_unit = (number, entries), number + 1
            elif record.kind == _DEAD:
                self._apply_dead(unpack(record.payload))

    def _recover_entry(self, record: Record) -> None:
        gateway, shard, first, last, rows, sources, _, mask, raw_size, body = unpack(record.payload)
        if last - first + 1 == rows:
            sequences = np.arange(first, last + 1)
        else:
            sequences = decode(mask, raw_size, memoryview(body))[_SEQUENCE].to_numpy()
        self._remember(gateway, shard, sequences)
        self._routed.update(sources)
        self._outstanding[record.segment] = self._outstanding.get(record.segment, 0) + 1

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
            known = self._had(gateway, shard, sequences)
            if known is not None:
                batch = batch.take(pa.array(np.flatnonzero(~known)))
                sequences = sequences[~known]
            for start in range(0, len(batch), self._entry_rows):
                self._append_entry(gateway, shard, batch.slice(start, self._entry_rows))

    def _append_entry(self, gateway: str, shard: str, batch: pa.RecordBatch) -> None:
        segment = self._log.segment()
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
        self._outstanding[segment] = self._outstanding.get(segment, 0) + 1
        columns[0] = process_tags
        if self._behind is None and self._ready_rows + len(batch) > self._limit:
            self._behind = self._log.cursor(number)
        if self._behind is None:
            self._push(Entry(number, segment, gateway, shard, len(batch), raw_size, sources, now, columns))

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
            self._ready.append(entry)
            self._ready_rows += entry.rows

    def _refill(self, behind: Cursor) -> None:
        for record in self._log.read(behind):
            entry = self._decode(record)
            if entry is not None:
                self._push(entry)
            if self._ready_rows >= self._limit:
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
            if not self._again and not self._ready and self._behind is not None:
                self._refill(self._behind)
            first = next(iter(self._again or self._ready), None)
            return None if first is None else first.appended

    def waiting(self, rows: int) -> bool:
        """Whether `rows` readings wait to be taken."""
        with self._lock:
            return self._ready_rows >= rows or self._behind is not None

    def take(self, rows: int, size: int) -> Unit | None:
        """The next unit: entries of about `rows` readings and `size` bytes at most; None when nothing waits."""
        with self._lock:
            if self._behind is not None and self._ready_rows < self._limit // 2:
                self._refill(self._behind)
            if self._open is not None:
                number, wanted = self._open
                entries = self._pop_exactly(set(wanted))
                self._open = None
                if entries:
                    return self._unit(number, entries)
            entries = []
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

    def _pop_exactly(self, wanted: set[int]) -> list[Entry]:
        found = [e for e in self._ready if e.number in wanted]
        while len(found) < len(wanted) and self._behind is not None:
            before = self._queued
            self._limit += sum(e.rows for e in found)
            self._refill(self._behind)
            found = [e for e in self._ready if e.number in wanted]
            if self._queued == before:
                break
        self._ready = deque(e for e in self._ready if e.number not in wanted)
        self._ready_rows = sum(e.rows for e in self._ready)
        return found

    def record(self, unit: Unit) -> None:
        """Make the unit itself durable, so that it can be sent again unchanged after a crash.

        Raises:
            StoreError: The disk fails.
        """
        with self._lock:
            number = self._log.append(_UNIT, [pack([unit.number, [e.number for e in unit.entries]])])
        self._flusher.wait(number)

    def settle(self, unit: Unit) -> None:
        """The target has the unit: its entries leave the spool."""
        delivered: Counter[str] = Counter()
        for entry in unit.entries:
            delivered.update(entry.sources)
            delivered.subtract(self._dead_sources.get(entry.number, {}))
        entries = [e.number for e in unit.entries]
        counts = {source: count for source, count in delivered.items() if count}
        with self._lock:
            self._write(_SETTLE, pack([unit.number, entries, counts]))
            self._apply_settle(unit.number, entries, counts)
            self._drop_segments()

    def _drop_segments(self) -> None:
        for segment in self._log.segments()[:-1]:
            if self._outstanding.get(segment, 0) > 0:
                break
            self._outstanding.pop(segment, None)
            self._log.drop(segment)
        self._done = max(self._done, self._log.segments()[0] - 1)
        self._settled = {number for number in self._settled if number > self._done}

    def _apply_settle(self, unit: int, entries: Iterable[int], delivered: dict[str, int]) -> None:
        self._settled.update(entries)
        for number in entries:
            self._dead.pop(number, None)
            self._dead_sources.pop(number, None)
            segment = self._log.segment_of(number)
            if segment in self._outstanding:
                self._outstanding[segment] -= 1
        self._delivered.update(delivered)
        self._next_unit = max(self._next_unit, unit + 1)
        self._open = None

    def reject(self, unit: Unit, indices: Sequence[int], *, rest_delivered: bool) -> None:
        """Rows of the unit's batch are dead letters, which are durable elsewhere already.

        Args:
            unit: The unit; it is closed.
            indices: Rows of the unit's batch.
            rest_delivered: Whether the target has the other rows; else they wait again, under a new number.
        """
        tag_of = {e.number: e.columns[0].to_numpy() for e in unit.entries}
        described = [
            [number, rows.tolist(), self._tags.count_sources(tag_of[number][rows])]
            for number, rows in unit.locate(sorted(indices)).items()
        ]
        with self._lock:
            self._write(_DEAD, pack(described))
            self._apply_dead(described)
        whole = [e for e in unit.entries if len(self._dead.get(e.number, ())) < e.rows]
        gone = [e for e in unit.entries if len(self._dead.get(e.number, ())) >= e.rows]
        if rest_delivered:
            gone, whole = unit.entries, []
        if gone:
            self.settle(Unit(unit.number, gone, {}, self._tags))
        with self._lock:
            self._open = None
            self._again.extend(whole)

    def _apply_dead(self, described: Iterable[Sequence[Any]]) -> None:
        for number, rows, sources in described:
            known = self._dead.get(number, np.empty(0, np.int64))
            self._dead[number] = np.union1d(known, np.asarray(rows, np.int64))
            self._dead_sources.setdefault(number, Counter()).update(sources)
            self._dead_letters.update(sources)

    def release(self, unit: Unit) -> None:
        """The unit was not sent: it waits again, before all others."""
        with self._lock:
            self._again.extendleft(reversed(unit.entries))

    def _write(self, kind: int, payload: bytes) -> None:
        self._unwritten.append((kind, payload))
        try:
            while self._unwritten:
                written, data = self._unwritten[0]
                self._log.append(written, [data])
                self._unwritten.pop(0)
        except StoreFullError as error:
            log.warning("spool cannot note a delivery yet", spool=self.directory.name, error=str(error))

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
        with self._lock:
            account = SpoolAccount(
                Counter(self._routed),
                Counter(self._delivered),
                Counter(self._dead_letters),
                {k: Counter(v) for k, v in self._discarded.items()},
            )
            settled, dead = set(self._settled), dict(self._dead_sources)
            last = self._log.next_number - 1
            records = self._log.read(self._log.cursor(self._done + 1), last)
        for record in records:
            if record.kind == _ENTRY and record.number > self._done and record.number not in settled:
                account.stored.update(unpack(record.payload)[5])
                account.stored.subtract(dead.get(record.number, {}))
        return account

    def close(self) -> None:
        """Sync and close."""
        self._flusher.close()
        self._log.close()


def by_shard(batch: pa.RecordBatch, index: pa.Array) -> list[tuple[np.ndarray, pa.RecordBatch]]:
    """The batch apart by gateway and shard, with the rows of `index` that belong to each part."""
    if not len(batch):
        return []
    shard, gateway = batch.column("shard"), batch.column("gateway")
    rows = index.to_numpy()
    if len(shard.dictionary) == 1 and len(gateway.dictionary) == 1:
        return [(rows, batch)]
    codes = shard.indices.to_numpy().astype(np.int64) * len(gateway.dictionary) + gateway.indices.to_numpy()
    parts = [np.flatnonzero(codes == code) for code in np.unique(codes)]
    return [(rows[part], batch.take(pa.array(part))) for part in parts]
