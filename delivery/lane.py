"""One lane of a spool: the readings of one priority that a target is to get, on disk until it has them.

The flow appends and never waits for a disk; the spool's flusher keeps the log durable. The forwarder takes *units*, which
may go out before they are synced (the journal still holds them), and settles each by itself. What lies in memory is a
part of what lies on disk; the rest is read back when its turn comes.
"""

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import structlog

from delivery.disk import StoreFullError
from delivery.entry import TagReader, TagScribe, decode, encode, pack, unpack, write_tags
from delivery.identities import spelled, unspelled
from delivery.intervals import Intervals
from delivery.ledger import Close, LaneLedger, Numbers
from delivery.log import HEAD, Cursor, Log, Record
from delivery.memory import MemoryLog
from delivery.origin import Origin
from delivery.outcome import LaneAccount
from delivery.overflow import BufferPolicy
from delivery.unit import Entry, Unit
from delivery.waiting import Drain, Queue, Waiting
from normalization.reading import FACTS, TagTable

TAGS, ENTRY, _CLOSE, _UNIT, _LEFT_OUT = 1, 2, 3, 4, 5
_REFILL_ROWS: Final = 10_000  # read back at once, at least: opening a segment costs more than some rows
_NOT_YET: Final = 2**62
_SEQUENCE: Final = FACTS.get_field_index("sequence")
EXPIRED: Final = "expired"

log = structlog.get_logger()


class Lane:
    """One lane of a spool.

    Args:
        directory: Where it lies.
        tags: The process's tag table.
        own_shard: Whether a shard is one of this gateway's journal, so that its trims will be announced.
        policy: Of it the compression, and in what order readings go out.
        priority: Priority of its readings, or of the least urgent of them.
        entry_rows: Readings in one entry, at most.
        entry_bytes: Bytes of one entry before compression, at most, unless it is a single reading.
        memory_rows: Readings held in memory; more are read back from disk.
        segment_bytes: Size at which a new segment is begun.
        marks_resent: Whether readings that may have been sent before say so.
        now: The clock that entries age by, in seconds.
        persistent: Whether it lies on disk; else in memory, and what it holds is gone with the process.
        lock: The spool's lock.
        numbers: The spool's numbers of units.
    """

    def __init__(
        self,
        directory: Path,
        tags: TagTable,
        own_shard: Callable[[str], bool],
        policy: BufferPolicy,
        *,
        priority: int,
        entry_rows: int,
        entry_bytes: int,
        memory_rows: int,
        segment_bytes: int,
        marks_resent: bool,
        now: Callable[[], float],
        persistent: bool = True,
        lock: "threading.RLock | None" = None,
        numbers: Numbers | None = None,
    ) -> None:
        self.directory, self.priority = directory, priority
        self.raw_bytes = self.compressed_bytes = 0  # of what was appended since the process began
        self._tags = tags
        self._entry_rows, self._entry_bytes, self._limit = entry_rows, entry_bytes, memory_rows
        self._now = now
        self._lock = lock or threading.RLock()
        self.ledger = LaneLedger(numbers or Numbers(), own_shard)
        self._settled_at: dict[int, int] = {}  # segment: record that settled the last of its entries so far
        self._outstanding: dict[int, int] = {}  # segment: entries read or appended in this run and not settled
        self._newest: dict[int, float] = {}  # segment: when its newest entry was appended, by `now`
        self._compression = policy.compression
        self._marks, self._resent = marks_resent, 0  # entries up to here may have been sent before
        self._inside: set[int] = set()  # entries in memory or under way
        self._under_way: dict[int, Entry] = {}  # entries in units that were taken, until they are settled
        self._received: dict[int, int] = {}  # segment: when the first reading appended in this run was received, µs
        self._released: deque[Unit] = deque()
        self._waiting = Waiting(policy.drain, policy.live_share)
        self._unwritten: deque[tuple[Close, set[int]]] = deque()
        self._log = (Log if persistent else MemoryLog)(directory, self._head, segment_bytes)
        self._recover()
        self._scribe, self._reader = TagScribe(tags), TagReader(tags)
        self._log.begin()
        self._segment = self._began = self._log.segments()[-1]
        self._behind: Cursor | None = self._log.cursor(self.ledger.done + 1)  # where reading back goes on, forwards
        self._unread: list[int] = []  # segments to be read back, newest last, with `Drain.NEWEST_FIRST`
        if policy.drain is Drain.NEWEST_FIRST:
            self._behind, self._unread = None, self._log.segments()

    # ------------------------------------------------------------------ state

    def _head(self) -> bytes:
        return self.ledger.to_bytes()

    def _recover(self) -> None:
        ledger = self.ledger
        for record in self._log.recover():
            if record.kind == HEAD:
                ledger.load(record.payload, self.directory)
            elif record.kind == ENTRY:
                self._recover_entry(record)
            elif record.kind == _CLOSE:
                ledger.close(*unpack(record.payload))
            elif record.kind == _UNIT:
                ledger.record(*unpack(record.payload))
            elif record.kind == _LEFT_OUT:
                gateway, shard, sequences, sources, reason = unpack(record.payload)
                ledger.leave_out(gateway, shard, unspelled(sequences), sources, reason)
        self._resume = ledger.open is not None  # the open unit is from before the start
        self.failed()
        if self._log.damaged:
            log.error("spool damaged, readings may be lost", spool=str(self.directory), places=self._log.damaged)

    def _recover_entry(self, record: Record) -> None:
        _, gateway, shard, first, last, rows, sources, _, mask, raw_size, body, *origin = unpack(record.payload)
        if last - first + 1 == rows:
            sequences = np.arange(first, last + 1)
        else:
            sequences = decode(mask, raw_size, memoryview(body))[_SEQUENCE].to_numpy()
        came = Origin.from_list(origin[0]) if origin else None
        self.ledger.enter(record.number, gateway, shard, sequences, sources, came)

    # ------------------------------------------------------------------ appending (flow thread)

    def append(self, gateway: str, shard: str, batch: pa.RecordBatch, origin: Origin | None = None) -> None:
        """Take readings of one shard, the columns of ``COLUMNS``, that no lane of the spool has had, or that went.

        Raises:
            StoreFullError: The disk is full.
        """
        with self._lock:
            try:
                for start in range(0, len(batch), self._entry_rows):
                    share = origin and origin.take(slice(start, start + self._entry_rows))
                    self._append_entry(gateway, shard, batch.slice(start, self._entry_rows), share)
            except StoreFullError:
                self._scribe.announce_again()
                raise

    def _append_entry(self, gateway: str, shard: str, batch: pa.RecordBatch, origin: Origin | None) -> None:
        segment = self._begin_segment()
        columns = batch.columns
        process_tags = columns[0]
        columns[0], rows = self._scribe.translate(segment, process_tags)
        mask, raw_size, body = encode(columns, self._compression)
        if rows:
            write_tags(self._log, TAGS, rows)
        if raw_size > self._entry_bytes and len(batch) > 1:
            half = len(batch) // 2
            self._append_entry(gateway, shard, batch.slice(0, half), origin and origin.take(slice(half)))
            self._append_entry(gateway, shard, batch.slice(half), origin and origin.take(slice(half, None)))
            return
        sequences = columns[_SEQUENCE].to_numpy()
        first, last = int(sequences.min()), int(sequences.max())
        sources = self._tags.count_sources(process_tags.to_numpy())
        now, previous = self._now(), self.ledger.newest
        described = [previous, gateway, shard, first, last, len(batch), sources, now, mask, raw_size, memoryview(body)]
        described += [origin.to_list()] if origin else []
        number = self._log.append(ENTRY, [pack(described)])
        self.raw_bytes += raw_size
        self.compressed_bytes += body.size
        self.ledger.enter(number, gateway, shard, sequences, sources, origin)
        columns[0] = process_tags
        self._newest[segment] = now
        entry = Entry(number, previous, segment, gateway, shard, len(batch), raw_size, sources, now, columns)
        self._received[segment] = min(entry.received, self._received.get(segment, _NOT_YET))
        self._keep(entry)

    def _keep(self, entry: Entry) -> None:
        """Keep a new entry in memory, or leave it to be read back."""
        backlog, live, drain = self._waiting.backlog, self._waiting.live, self._waiting.drain
        is_live = drain is Drain.LIVE_FIRST and (self._left_behind or live.entries or backlog.entries)
        if is_live or drain is Drain.NEWEST_FIRST:
            queue = live if is_live else backlog
            self._push(queue, entry)
            while queue.rows > self._limit and len(queue.entries) > 1:
                self._forget(queue.pop())
            return
        if not self._left_behind and backlog.entries and backlog.rows + entry.rows > self._limit:
            self._leave_behind(entry.number, entry.segment)
        if not self._left_behind:
            self._push(backlog, entry)

    @property
    def _left_behind(self) -> bool:
        return self._behind is not None or bool(self._unread)

    def _leave_behind(self, number: int, segment: int) -> None:
        """Entry `number`, which is in `segment`, is to be read back."""
        if self._waiting.drain is Drain.NEWEST_FIRST:
            if segment not in self._unread:
                self._unread = sorted([*self._unread, segment])
        elif self._behind is None or segment <= self._behind.segment:
            self._behind = self._log.cursor(number)

    def _forget(self, entry: Entry) -> None:
        """An entry leaves the memory and will be read back."""
        self._inside.discard(entry.number)
        self._outstanding[entry.segment] -= 1
        self._leave_behind(entry.number, entry.segment)

    def _begin_segment(self) -> int:
        """The segment for the next entry; a new one has a HEAD that says what could not be written before."""
        segment = self._log.segment()
        if segment != self._segment:
            self._segment = segment
            self._unwritten.clear()
            self._settled_at = {s: min(number, segment + 1) for s, number in self._settled_at.items()}
        return segment

    def leave_out(self, gateway: str, shard: str, sequences: np.ndarray, sources: dict[str, int], reason: str) -> None:
        """Discard readings that come, and remember that they came.

        Raises:
            StoreFullError: The disk is full.
        """
        with self._lock:
            self._begin_segment()
            described = [gateway, shard, spelled(sequences), sources, reason]
            self._log.append(_LEFT_OUT, [pack(described)], urgent=True)
            self.ledger.leave_out(gateway, shard, sequences, sources, reason)

    def had(self, gateway: str, shard: str, sequences: np.ndarray) -> np.ndarray | None:
        """Which readings the lane has had; None when none."""
        with self._lock:
            return self.ledger.had(gateway, shard, sequences)

    def renew(self, gateway: str, shard: str, sequences: np.ndarray) -> None:
        """Remember readings of a step anew that came again."""
        with self._lock:
            self.ledger.renew(gateway, shard, sequences)

    def forget(self, shard: str, upto: int) -> None:
        """The journal has durably trimmed `shard` up to sequence `upto`: those readings will not come again."""
        with self._lock:
            self.ledger.forget(shard, upto)

    def left(self, number: int, rows: int) -> np.ndarray:
        """Rows of entry `number`, of so many, that wait or are under way."""
        with self._lock:
            return self.ledger.left(number, rows)

    def close_epoch(self) -> int:
        """An epoch of the flow ends; readings of steps are remembered for two more. Number of the lane's last record."""
        with self._lock:
            self.ledger.close_epoch()
            return self._log.next_number - 1

    # ------------------------------------------------------------------ taking (forwarder thread)

    def _push(self, queue: Queue, entry: Entry) -> None:
        self._take_in(entry)
        queue.push(entry)

    def _take_in(self, entry: Entry) -> None:
        self._inside.add(entry.number)
        self._outstanding[entry.segment] = self._outstanding.get(entry.segment, 0) + 1

    def _refill(self, rows: int) -> None:
        """Read back until about `rows` readings are in memory, or all."""
        while self._left_behind and self._waiting.backlog.rows < rows:
            if self._behind is not None:
                self._read_forwards(self._behind, rows)
            else:
                entries = list(self._entries(self._unread.pop()))
                for entry in entries:
                    self._take_in(entry)
                self._waiting.backlog.insert(entries)

    def _read_forwards(self, behind: Cursor, rows: int) -> None:
        for record in self._log.read(behind):
            entry = self._decode(record, self._reader)
            if entry is not None:
                self._push(self._waiting.backlog, entry)
            if self._waiting.backlog.rows >= rows:
                return
        self._behind = None

    def _entries(self, segment: int) -> Iterator[Entry]:
        """Entries of `segment` that are neither settled nor in memory."""
        reader = TagReader(self._tags)
        for record in self._log.read(Cursor(segment)):
            if record.segment != segment:
                return
            entry = self._decode(record, reader)
            if entry is not None:
                yield entry

    def _decode(self, record: Record, reader: TagReader) -> Entry | None:
        if record.kind == TAGS:
            reader.learn(record.segment, unpack(record.payload))
        number = record.number
        if record.kind != ENTRY or number in self._inside or self.ledger.is_settled(number):
            return None
        previous, gateway, shard, _, _, rows, sources, appended, mask, raw_size, body, *_ = unpack(record.payload)
        columns = decode(mask, raw_size, memoryview(body))
        if not reader.translate(record.segment, columns):
            log.error(
                "spool entry unreadable, its tags are damaged",
                spool=str(self.directory),
                entry=number,
                readings=rows,
            )
            return None
        self._newest[record.segment] = max(appended, self._newest.get(record.segment, 0.0))
        return Entry(number, previous, record.segment, gateway, shard, rows, raw_size, sources, appended, columns)

    def oldest(self) -> float | None:
        """When the oldest reading that waits was appended, by the lane's clock; None when nothing waits."""
        with self._lock:
            if not self._waiting.rows:
                self._refill(1)
            moments = [self._waiting.oldest, *(unit.entries[0].appended for unit in self._released)]
            return min((moment for moment in moments if moment is not None), default=None)

    def waiting(self, rows: int) -> bool:
        """Whether `rows` readings wait to be taken."""
        with self._lock:
            go_first = self._released or self._waiting.again.entries
            return bool(go_first) or self._left_behind or self._waiting.rows >= rows

    @property
    def interrupted(self) -> bool:
        """Whether a unit that was recorded before the start, or released, must go before anything else."""
        return self._resume or bool(self._released)

    def take(self, rows: int, size: int, not_before: float = 0.0) -> Unit | None:
        """The next unit: entries of about `rows` readings and `size` bytes at most; None when nothing waits.

        Args:
            rows: Readings at most.
            size: Bytes at most.
            not_before: What was appended before, by the lane's clock, has expired.
        """
        with self._lock:
            if self._resume:
                self._resume = False
                self._release_open()
            if self._released:
                return self._hand_out(self._released.popleft())
            while True:
                if self._waiting.wants(rows):
                    self._refill(max(rows, min(_REFILL_ROWS, self._limit)))
                taken = self._waiting.take(rows, size, more=self._left_behind)
                if not taken:
                    return None
                entries = self._expire(taken, not_before)
                if entries:
                    break
            return self._hand_out(self._unit(self.ledger.number_unit(), entries, self._resent))

    def _expire(self, entries: list[Entry], not_before: float) -> list[Entry]:
        """Discard what is too old; returns the rest."""
        expired = [entry for entry in entries if entry.appended < not_before]
        if not expired:
            return entries
        self._close(0, expired, [], EXPIRED)
        return [entry for entry in entries if entry.appended >= not_before]

    def _unit(self, number: int, entries: list[Entry], resent: int) -> Unit:
        dead = {e.number: self.ledger.dead[e.number] for e in entries if e.number in self.ledger.dead}
        return Unit(number, entries, dead, self._tags, resent, self.priority)

    def _release_open(self) -> None:
        """Find the entries of the unit that was recorded before the start, and let it go first."""
        if self.ledger.open is None:
            return
        number, wanted = self.ledger.open
        found: dict[int, Entry] = {}
        for segment in sorted({self._log.segment_of(entry) for entry in wanted}):
            for entry in self._entries(segment):
                if entry.number in wanted:
                    self._take_in(entry)
                    found[entry.number] = entry
        found |= {entry.number: entry for entry in self._waiting.remove(lambda entry: entry.number in wanted)}
        if found:
            self._released.append(self._unit(number, [found[n] for n in wanted if n in found], 0))

    def failed(self) -> None:
        """A write failed: what the lane holds now counts as sent again when it goes out."""
        with self._lock:
            if self._marks:
                self._resent = self.ledger.newest

    def record(self, unit: Unit) -> int:
        """Note the unit itself, so that it can be sent again unchanged after a crash; number of the record.

        Raises:
            StoreError: The disk fails.
        """
        entries = [e.number for e in unit.entries]
        with self._lock:
            if self.ledger.open == (unit.number, entries):
                return 0
            number = self._log.append(_UNIT, [pack([unit.number, entries])], urgent=True)
            self.ledger.record(unit.number, entries)
        return number

    def settle(self, unit: Unit, reason: str = "") -> None:
        """The target has the unit, or it is discarded for a reason: its entries leave the lane."""
        self._close(unit.number, unit.entries, [], reason)

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
            for entry in unit.entries:
                if entry.number in left:
                    self._waiting.again.push(entry)

    def _close(
        self, unit: int, entries: Sequence[Entry], dead: Sequence[Sequence[Any]], reason: str = ""
    ) -> Counter[str]:
        """Settle entries; returns how many readings of each source were delivered, or discarded for `reason`."""
        dead_sources = {number: Counter(sources) for number, _, sources in dead}
        gone: Counter[str] = Counter()
        with self._lock:
            entries = [e for e in entries if not self.ledger.is_settled(e.number)]
            intervals = Intervals()
            for entry in entries:
                gone.update(entry.sources)
                gone.subtract(self.ledger.dead_sources.get(entry.number, {}))
                gone.subtract(dead_sources.get(entry.number, {}))
                if entry.number in self._inside:
                    self._inside.discard(entry.number)
                    self._outstanding[entry.segment] -= 1
                self._under_way.pop(entry.number, None)
                intervals.add(entry.previous + 1, entry.number)
            counts = {source: count for source, count in gone.items() if count}
            described = (unit, intervals.to_list(), counts, dead, reason)
            self.ledger.close(*described)
            segments = {entry.segment for entry in entries}
            self._settled_at |= dict.fromkeys(segments, _NOT_YET)
            self._unwritten.append((described, segments))
            self._write()
        return Counter(counts)

    def _write(self) -> None:
        try:
            while self._unwritten:
                described, segments = self._unwritten[0]
                number = self._log.append(_CLOSE, [pack(described)], urgent=True)
                self._settled_at |= dict.fromkeys(segments, number)
                self._unwritten.popleft()
        except StoreFullError as error:
            log.warning("spool cannot note a delivery yet", spool=str(self.directory), error=str(error))

    def _hand_out(self, unit: Unit) -> Unit:
        self._under_way |= {entry.number: entry for entry in unit.entries}
        return unit

    def oldest_stored(self) -> float | None:
        """When the oldest reading that waits or is under way was appended, by the lane's clock; None when there is none."""
        with self._lock:
            moments = [self.oldest(), *(entry.appended for entry in self._under_way.values())]
            return min((moment for moment in moments if moment is not None), default=None)

    def oldest_received(self) -> int | None:
        """When the oldest reading that the target does not have was received, µs since the epoch; None when it has all.

        0 as long as that cannot be told, because readings of an earlier run have not been read back.
        """
        with self._lock:
            moments = [entry.received for entry in (*self._under_way.values(), *self._waiting.entries)]
            unread = [segment for segment in self._log.segments() if self._is_unread(segment)]
            moments += [self._received.get(segment, 0 if segment < self._began else _NOT_YET) for segment in unread]
            return min((moment for moment in moments if moment < _NOT_YET), default=None)

    def release(self, unit: Unit) -> None:
        """The unit was not settled: it waits again, unchanged, before all others."""
        with self._lock:
            self._released = deque(sorted([*self._released, unit], key=lambda released: released.number))

    # ------------------------------------------------------------------ letting go

    def drop_segments(self, durable: int) -> None:
        """Remove the segments in which all is settled, as soon as the disk knows it.

        Args:
            durable: Number of the lane's last durable record.
        """
        with self._lock:
            if self._unwritten:
                self._write()
            for segment in self._log.segments()[:-1]:
                if not self._is_settled(segment) or self._settled_at.get(segment, 0) > durable:
                    continue
                if not self._log.drop(segment):
                    break
                for per_segment in (self._outstanding, self._settled_at, self._newest, self._received):
                    per_segment.pop(segment, None)
            self.ledger.drop(self._log.segments()[0] - 1)

    def _is_settled(self, segment: int) -> bool:
        return not self._is_unread(segment) and not self._outstanding.get(segment)

    def _is_unread(self, segment: int) -> bool:
        return segment in self._unread or (self._behind is not None and self._behind.segment <= segment)

    def discard_oldest(self, reason: str, before: float = float("inf")) -> tuple[int, Counter[str]]:
        """Discard what waits in the oldest segment where something does; what is under way is spared.

        Args:
            reason: Why.
            before: Discard only when everything in the segment was appended before, by the lane's clock.

        Returns:
            Bytes that will be free once that is durable, and how many readings of each source went.
        """
        with self._lock:
            for segment in self._log.segments():
                if self._is_settled(segment):
                    continue
                if self._newest.get(segment, 0.0) >= before:
                    break
                entries = list(self._entries(segment))
                if self._newest.get(segment, 0.0) >= before:
                    break
                entries += self._waiting.remove(lambda entry: entry.segment == segment)  # noqa: B023 - called at once
                self._have_read(segment)
                if entries:
                    if segment == self._log.segments()[-1]:
                        self._roll()
                    return self._log.segment_size(segment), self._close(0, entries, [], reason)
        return 0, Counter()

    def _roll(self) -> None:
        try:
            self._log.roll()
        except StoreFullError:
            return  # its room is wanted back, but not before the disk has some for a new segment
        self._begin_segment()

    def _have_read(self, segment: int) -> None:
        """Nothing in `segment` is to be read back any more."""
        if segment in self._unread:
            self._unread.remove(segment)
        if self._behind is not None and self._behind.segment <= segment:
            newer = [s for s in self._log.segments() if s > segment]
            self._behind = Cursor(newer[0]) if newer else None

    # ------------------------------------------------------------------ looking

    @property
    def log(self) -> Log:
        """The lane's log."""
        return self._log

    @property
    def stored_rows(self) -> int:
        """Readings that wait or are under way."""
        account = self.ledger.account
        gone = [account.delivered, account.dead, *account.discarded.values()]
        return account.routed.total() - sum(counts.total() for counts in gone)

    @property
    def discarded(self) -> dict[str, int]:
        """Readings that were let go, by reason."""
        return {reason: counts.total() for reason, counts in self.ledger.account.discarded.items()}

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return self._log.size

    @property
    def going(self) -> int:
        """Bytes of it that go as soon as the disk knows that they are settled."""
        with self._lock:
            settled = [segment for segment in self._log.segments()[:-1] if self._is_settled(segment)]
            return sum(self._log.segment_size(segment) for segment in settled)

    def untrimmed(self, shards: Iterable[str]) -> int:
        """Readings of the journal's `shards` that the flow may bring again."""
        with self._lock:
            return self.ledger.untrimmed(shards)

    def account(self) -> LaneAccount:
        """The account of the lane; what is stored is counted by scanning."""
        with self._log.held():
            with self._lock:
                account = LaneAccount()
                ledger = self.ledger
                account.add(ledger.account)
                done, settled = ledger.done, Intervals(ledger.settled.to_list())
                dead = {number: dict(sources) for number, sources in ledger.dead_sources.items()}
                last = self._log.next_number - 1
            for record in self._log.read(self._log.cursor(done + 1), last):
                if record.kind == ENTRY and record.number > done and record.number not in settled:
                    account.stored.update(unpack(record.payload)[6])
                    account.stored.subtract(dead.get(record.number, {}))
        return account

    def follow(self, routed: Counter[str], dead: Counter[str], reason: str) -> None:
        """Count readings that came before the lane was begun as discarded, but for `dead` ones."""
        with self._lock:
            account = self.ledger.account
            account.routed.update(routed)
            account.dead.update(routed & dead)
            account.discarded.setdefault(reason, Counter()).update(routed - dead)

    def close(self) -> None:
        """Sync and close."""
        self._log.close()


def _left(entry: Entry, *dead: dict[int, np.ndarray]) -> bool:
    """Whether a row of `entry` is in none of `dead`."""
    return sum(len(rows.get(entry.number, ())) for rows in dead) < entry.rows
