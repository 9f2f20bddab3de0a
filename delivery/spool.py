"""The spool of one target: what the flow decided to send, on disk until the target has it.

A spool has one lane per priority that the rules give, so that what is urgent overtakes a backlog and what is least urgent
makes room. Readings are deduped by identity over all lanes, whatever step, rule or priority brings them again. The spool is
bounded; `BufferPolicy` says what goes when it is full, and every reading that goes is counted by source and reason.
"""

import itertools
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import structlog

from delivery import upgrade
from delivery.disk import StoreFullError, make_directory
from delivery.entry import COLUMNS
from delivery.flusher import Flusher
from delivery.health import Growth
from delivery.identities import by_shard, fresh
from delivery.intervals import Intervals
from delivery.lane import EXPIRED, Lane
from delivery.ledger import Numbers
from delivery.origin import Origin
from delivery.outcome import LaneAccount
from delivery.overflow import BufferPolicy, Overflow, Thinner
from delivery.unit import Place, Unit
from normalization.reading import TagTable

_SYNC_INTERVAL: Final = 0.1
_HOUSEKEEPING: Final = 1.0  # seconds between two looks at the age of what is stored
_GATHER_SHARE: Final = 64  # of the readings that may be stored, one part is gathered at most
_GATHER_QUOTA: Final = 16 * 1024  # bytes of the quota for each reading that is gathered, so that a small one is kept
_RETRY_FULL: Final = 0.2
_PATIENCE: Final = 1.0  # seconds that a disk is full before something goes for it
_ROOMY: Final = 10.0  # seconds without a full disk after which it counts as one that has room
_LEAST_SEGMENT: Final = 64 * 1024
_THIN_FROM: Final = 0.8  # of the quota
_ALARM: Final = 60.0  # seconds that an alarm lasts after a reading was discarded
OVERFLOW: Final = "overflow"
DOWNSAMPLED: Final = "downsampled"
EARLIER: Final = "held in the memory of an earlier process"

log = structlog.get_logger()


class Spool:
    """The spool of one target.

    Args:
        directory: Where it lies.
        tags: The process's tag table.
        own_shard: Whether a shard is one of this gateway's journal, so that its trims will be announced.
        persistent: Whether it lies on disk; else in memory, and what it holds is gone with the process.
        policy: Its bounds, and what happens at them.
        priorities: Priorities that the rules give; readings of others go with the next lower one.
        entry_rows: Readings in one entry, at most.
        entry_bytes: Bytes of one entry before compression, at most, unless it is a single reading.
        memory_rows: Readings held in memory per lane; more are read back from disk.
        marks_resent: Whether readings that may have been sent before say so.
        segment_bytes: Size at which a new segment is begun, at most.
        gather_rows: Readings that are gathered before they are written, at most.
        now: The clock that readings age by, in seconds; a step of the wall clock does not move it.
    """

    def __init__(
        self,
        directory: Path,
        tags: TagTable,
        own_shard: Callable[[str], bool],
        *,
        persistent: bool = True,
        policy: BufferPolicy | None = None,
        priorities: Iterable[int] = (),
        entry_rows: int = 10_000,
        entry_bytes: int = 4 * 1024 * 1024,
        memory_rows: int = 100_000,
        marks_resent: bool = True,
        segment_bytes: int = 16 * 1024 * 1024,
        gather_rows: int = 4_000,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.directory = directory
        self.policy = policy or BufferPolicy()
        self.wake: Callable[[], None] = lambda: None
        self.discarded_rows = 0  # since the process began
        self._persistent = persistent
        self._tags = tags
        self._now = now
        self._lock = threading.RLock()
        self._numbers = Numbers()
        self._thinner = Thinner(self.policy.keep_every)
        self._arrived: dict[tuple[str, str], list[pa.RecordBatch]] = {}  # in no lane yet
        self._arrived_rows = 0
        self._arrived_since = 0.0
        self._gather = min(gather_rows, self.policy.quota // _GATHER_QUOTA)
        if self.policy.rows is not None:
            self._gather = min(self._gather, self.policy.rows // _GATHER_SHARE)
        self._owed = 0  # bytes to be freed before more are written, while the disk has too little room
        self._keeps = False  # readings do not expire: the target refuses the gateway, not the readings
        self._no_room = False  # the disk did not take what has arrived
        self._full_since = self._full_last = float("-inf")
        self._growth = Growth()
        self._next_look = 0.0
        self._last_discard: float | None = None
        if persistent:
            make_directory(directory)
            upgrade.spool(directory, tags, own_shard)
        stored = _stored(directory) if persistent else []
        self._new_lane: Callable[[int], Lane] = lambda priority: Lane(
            directory / f"p{priority}",
            tags,
            own_shard,
            self.policy,
            priority=priority,
            entry_rows=entry_rows,
            entry_bytes=entry_bytes,
            memory_rows=memory_rows,
            segment_bytes=min(segment_bytes, max(_LEAST_SEGMENT, self.policy.quota // 16)),
            marks_resent=marks_resent,
            now=now,
            persistent=persistent,
            lock=self._lock,
            numbers=self._numbers,
        )
        self._use(map(self._new_lane, {0, *priorities, *stored}))
        self._flusher = Flusher(
            [lane.log for lane in self._lanes], _SYNC_INTERVAL, f"spool {directory.name}", self._keep_house
        )
        self._flusher.start()

    def _use(self, lanes: Iterable[Lane]) -> None:
        self._lanes = sorted(lanes, key=lambda lane: lane.priority)
        self._priorities = np.array([lane.priority for lane in self._lanes])
        self._urgent_first = self._lanes[::-1]

    def prepare(self, priorities: Iterable[int]) -> None:
        """Have a lane for each of these priorities from now on; what waits already stays where it is.

        Raises:
            StoreError: The disk refused.
        """
        with self._lock:
            new = [self._new_lane(priority) for priority in set(priorities).difference(self._priorities.tolist())]
            for lane in new:
                self._flusher.add(lane.log)
            self._use([*self._lanes, *new])

    # ------------------------------------------------------------------ appending (flow thread)

    def append(self, batch: pa.RecordBatch) -> None:
        """Take readings of `stream_schema`; those that the spool has had already are left out.

        They are gathered, so that small batches become large entries, until somebody asks for them. What a full disk cannot
        take is held in memory, and `snapshot` does not return before it is written.
        """
        for _, part in by_shard(batch, batch.column("sequence")):
            names = part.column("gateway")[0].as_py(), part.column("shard")[0].as_py()
            with self._lock:
                if not self._arrived:
                    self._arrived_since = self._now()
                self._arrived.setdefault(names, []).append(part.select(COLUMNS.names))
                self._arrived_rows += len(part)
        if self._arrived_rows >= self._gather:
            self._admit_arrived()
        self.wake()

    def _admit_arrived(self) -> bool:
        """Put what has arrived into the lanes, as far as there is room; returns whether that is all."""
        with self._lock:
            for (gateway, shard), parts in list(self._arrived.items()):
                while parts:
                    some = parts[: 1 if self._no_room else None]  # on a full disk, what is small finds room first
                    try:
                        self._admit(gateway, shard, some[0] if len(some) == 1 else pa.concat_batches(some))
                    except StoreFullError as error:
                        if not self._no_room:
                            log.warning("disk full, the flow waits", spool=str(self.directory), error=str(error))
                        self._no_room = True
                        self._make_room_on_disk()
                        return False
                    del parts[: len(some)]
                    self._arrived_rows -= sum(map(len, some))
                del self._arrived[gateway, shard]
            self._no_room = False
            return True

    def _make_room_on_disk(self) -> None:
        """Discard what the policy lets go, once a disk has been full for a while; some room may come by itself."""
        now = time.monotonic()
        if now - self._full_last > _ROOMY:
            self._full_since = now
        self._full_last = now
        if now - self._full_since >= _PATIENCE and self.policy.overflow is not Overflow.BLOCK and not self._going:
            self._free_lowest(self._lanes[-1].priority)

    def _admit(self, gateway: str, shard: str, batch: pa.RecordBatch) -> None:
        """Put readings of one shard, less those that were here before, into their lanes; or leave them out."""
        sequences = batch.column("sequence").to_numpy()
        keep = fresh(sequences, self._had(gateway, shard, sequences))
        if keep is not None:
            for lane in self._lanes:
                lane.renew(gateway, shard, np.delete(sequences, keep))
            batch = batch.take(pa.array(keep))
        for lane, part in self._by_lane(batch):
            kept = self._thin_out(lane, gateway, shard, part) if self._thins else part
            if not len(kept):
                continue
            if self._make_room(lane.priority, kept):
                lane.append(gateway, shard, kept)
            else:
                self._leave_out(lane, gateway, shard, kept, OVERFLOW)

    def _by_lane(self, batch: pa.RecordBatch) -> list[tuple[Lane, pa.RecordBatch]]:
        if not len(batch):
            return []
        lanes = self._lane_of(batch)
        order = np.argsort(lanes, kind="stable")
        lanes = lanes[order]
        starts = [0, *(np.flatnonzero(np.diff(lanes)) + 1), len(lanes)]
        if len(starts) > 2:
            batch = batch.take(pa.array(order))
        return [
            (self._lanes[int(lanes[start])], batch.slice(start, end - start))
            for start, end in itertools.pairwise(starts)
        ]

    def _lane_of(self, batch: pa.RecordBatch) -> np.ndarray:
        """For each reading the lane, by its place in `_lanes`."""
        priority = batch.column("priority").to_numpy()
        lanes: np.ndarray = np.maximum(np.searchsorted(self._priorities, priority, side="right") - 1, 0)
        return lanes

    def _had(self, gateway: str, shard: str, sequences: np.ndarray) -> np.ndarray | None:
        known: np.ndarray | None = None
        for lane in self._lanes:
            found = lane.had(gateway, shard, sequences)
            if found is not None:
                known = found if known is None else known | found
        return known

    def replay(self, batch: pa.RecordBatch, origin: Origin) -> bool:
        """Take readings that were dead letters, less those that were taken already; nothing is discarded for them.

        Args:
            batch: Readings, a batch of `stream_schema`.
            origin: The dead letters that they were.

        Returns:
            Whether there was room for all; `replayed` tells for which there was.
        """
        with self._lock:
            if not self._admit_arrived() or self._is_full() or self._is_scarce():
                return False
            try:
                for rows, part in by_shard(batch, pa.array(np.arange(len(batch)))):
                    self._replay_shard(part, origin.take(rows))
            except StoreFullError:
                return False
        self.wake()
        return True

    def _replay_shard(self, batch: pa.RecordBatch, origin: Origin) -> None:
        gateway, shard = batch.column("gateway")[0].as_py(), batch.column("shard")[0].as_py()
        known = self.replayed(origin.store).has(origin.numbers)
        had = self._had(gateway, shard, batch.column("sequence").to_numpy()) if origin.from_flow else None
        rows = np.flatnonzero(~(known if had is None else known | had))
        batch = batch.select(COLUMNS.names)
        lanes = self._lane_of(batch)[rows]
        for index in np.unique(lanes):
            share = rows[lanes == index]
            self._lanes[int(index)].append(gateway, shard, batch.take(pa.array(share)), origin.take(share))

    def replayed(self, store: str) -> Intervals:
        """Dead letters of `store` that were sent again and may not have left it."""
        found = Intervals()
        with self._lock:
            for lane in self._lanes:
                for first, last in lane.ledger.replayed.get(store, Intervals()).to_list():
                    found.add(first, last)
        return found

    def forget_replayed(self, store: str) -> None:
        """The dead letters of `store` that were sent again have left it for certain."""
        with self._lock:
            for lane in self._lanes:
                lane.ledger.replayed.pop(store, None)

    def waits(self, place: Place) -> bool:
        """Whether the reading that lies there waits or is under way."""
        priority, entry, row = place
        with self._lock:
            return any(lane.priority == priority and lane.ledger.waits(entry, row) for lane in self._lanes)

    def purge(self, reason: str) -> int:
        """Discard everything that waits, but for what is under way; returns how many readings."""
        count = 0
        for lane in self.lanes:
            if lane.interrupted and (unit := lane.take(1, 1)) is not None:  # the target may have it: it is under way
                lane.release(unit)
            while gone := lane.discard_oldest(reason)[1]:
                count += gone.total()
        self.sync()
        return count

    def sync(self) -> None:
        """Return when everything that the spool was told is durable.

        Raises:
            StoreError: The disk fails.
        """
        for lane, last in [(lane, lane.log.next_number - 1) for lane in self.lanes]:
            self._flusher.wait(lane.log, last)

    def had(self, shard: str, sequences: np.ndarray) -> np.ndarray | None:
        """Which readings of the journal's `shard` the spool has had; None when none."""
        with self._lock:
            self._admit_arrived()
            return self._had("", shard, sequences)

    def forget(self, shard: str, upto: int) -> None:
        """The journal has durably trimmed `shard` up to sequence `upto`: those readings will not come again."""
        for lane in self._lanes:
            lane.forget(shard, upto)

    def snapshot(self, waits: Callable[[], None] = lambda: None) -> None:
        """Return when everything appended is durable; readings of steps are remembered for two more snapshots.

        Args:
            waits: Called again and again while a full disk has no room.

        Raises:
            StoreError: The disk fails.
        """
        while not self._admit_arrived():
            waits()
            time.sleep(_RETRY_FULL)  # the flow may not go on before this epoch is durable; the flusher tries again
        for lane, last in [(lane, lane.close_epoch()) for lane in self._lanes]:
            self._flusher.wait(lane.log, last)

    # ------------------------------------------------------------------ when it is full

    @property
    def persistent(self) -> bool:
        """Whether it lies on disk."""
        return self._persistent

    @property
    def blocked(self) -> bool:
        """Whether the flow should bring nothing more until there is room."""
        if self._no_room:
            return True
        return self.policy.overflow is Overflow.BLOCK and (self._is_full() or self._is_scarce())

    @property
    def filled(self) -> float:
        """How full it is, 0 to 1: of its bytes or of its readings, whichever is more."""
        rows = self.policy.rows
        by_rows = 0.0 if rows is None else self.stored_rows / rows
        return min(1.0, max(self.size / self.policy.quota, by_rows))

    @property
    def _thins(self) -> bool:
        return self.policy.overflow is Overflow.DOWNSAMPLE and self._is_full(_THIN_FROM)

    def _is_full(self, share: float = 1.0) -> bool:
        quota, rows = self.policy.quota * share, self.policy.rows
        if self.size >= quota and self.size - self._going >= quota:
            return True
        return rows is not None and sum(lane.stored_rows for lane in self._lanes) >= rows * share

    @property
    def _going(self) -> int:
        """Bytes that are free as soon as the disk knows it."""
        return sum(lane.going for lane in self._lanes)

    def _is_scarce(self) -> bool:
        """Whether the disk has less room than must stay free."""
        if not self.policy.free_disk or not self._persistent:
            return False
        disk = os.statvfs(self.directory)
        return disk.f_bavail * disk.f_frsize < self.policy.free_disk

    def _make_room(self, priority: int, batch: pa.RecordBatch) -> bool:
        """Whether readings of `priority` may be appended; what the policy lets go for them has gone then."""
        if self.policy.overflow is Overflow.BLOCK:
            return True
        if self._is_scarce():
            self._owed += batch.nbytes
        else:
            self._owed = 0
        while self._owed > 0 or self._is_full():
            freed = self._free_lowest(priority)
            if not freed:
                return False
            self._owed -= freed
        return True

    def _free_lowest(self, priority: int) -> int:
        """Discard the oldest of what is least urgent, for readings of `priority`; returns the bytes that it frees."""
        match self.policy.overflow:
            case Overflow.DROP_NEWEST:
                lanes = []
            case Overflow.DROP_LOWEST_PRIORITY:
                lanes = [lane for lane in self._lanes if lane.priority < priority]
            case _:
                lanes = [lane for lane in self._lanes if lane.priority <= priority]
        for lane in lanes:
            freed, gone = lane.discard_oldest(OVERFLOW)
            if gone:
                self._note_discard(gone.total(), OVERFLOW, lane.priority)
                return freed
        return 0

    def _thin_out(self, lane: Lane, gateway: str, shard: str, batch: pa.RecordBatch) -> pa.RecordBatch:
        kept = self._thinner.keep(batch.column("tag").to_numpy(), batch.column("quality").to_numpy())
        if kept.all():
            return batch
        self._leave_out(lane, gateway, shard, batch.take(pa.array(np.flatnonzero(~kept))), DOWNSAMPLED)
        return batch.take(pa.array(np.flatnonzero(kept)))

    def _leave_out(self, lane: Lane, gateway: str, shard: str, batch: pa.RecordBatch, reason: str) -> None:
        sources = self._tags.count_sources(batch.column("tag").to_numpy())
        lane.leave_out(gateway, shard, batch.column("sequence").to_numpy(), sources, reason)
        self._note_discard(len(batch), reason, lane.priority)

    def _note_discard(self, rows: int, reason: str, priority: int) -> None:
        now = time.monotonic()
        if self._last_discard is None or now - self._last_discard > _ALARM:
            log.warning(
                "readings discarded", spool=str(self.directory), reason=reason, priority=priority, readings=rows
            )
        self._last_discard = now
        self.discarded_rows += rows

    @property
    def alarm(self) -> str:
        """Why somebody should look: readings were discarded, or nothing flows; empty when all is well."""
        if self._no_room:
            return "disk full"
        if self.blocked:
            return "full, the sources wait"
        recent = self._last_discard is not None and time.monotonic() - self._last_discard <= _ALARM
        return "readings are discarded" if recent else ""

    # ------------------------------------------------------------------ taking (forwarder thread)

    def take(self, rows: int, size: int) -> Unit | None:
        """The next unit: entries of about `rows` readings and `size` bytes at most; None when nothing waits."""
        with self._lock:
            if not self._no_room:
                self._admit_arrived()
            interrupted = [lane for lane in self._urgent_first if lane.interrupted]
            for lane in interrupted or self._urgent_first:
                unit = lane.take(rows, size, self._not_before(lane))
                if unit is not None:
                    return unit
            return None if not interrupted else self.take(rows, size)

    def _not_before(self, lane: Lane) -> float:
        age = None if self._keeps else self.policy.expires_after(lane.priority)
        return 0.0 if age is None else self._now() - age

    def keep(self, keeps: bool) -> None:
        """Whether readings are kept beyond their age: the target refuses the gateway, and nobody knows for how long."""
        self._keeps = keeps

    def failed(self) -> None:
        """A write failed: what the spool holds now may have been sent before, when it goes out."""
        for lane in self._lanes:
            lane.failed()

    def oldest(self) -> float | None:
        """When the oldest reading that waits was appended, by the spool's clock; None when nothing waits."""
        found = [when for lane in self._lanes if (when := lane.oldest()) is not None]
        return min([*found, self._arrived_since] if self._arrived else found, default=None)

    def waiting(self, rows: int) -> bool:
        """Whether about `rows` readings wait to be taken in one lane."""
        return self._arrived_rows >= rows or any(lane.waiting(rows) for lane in self._lanes)

    def _lane(self, unit: Unit) -> Lane:
        return next(lane for lane in self._lanes if lane.priority == unit.priority)

    def record(self, unit: Unit) -> None:
        """Make the unit itself durable, so that it can be sent again unchanged after a crash.

        Raises:
            StoreError: The disk fails.
        """
        lane = self._lane(unit)
        self._flusher.wait(lane.log, lane.record(unit))

    def settle(self, unit: Unit, reason: str = "") -> None:
        """The target has the unit, or it is discarded for a reason: its entries leave the spool."""
        self._lane(unit).settle(unit, reason)

    def reject(self, unit: Unit, indices: Sequence[int], *, rest_delivered: bool) -> None:
        """Rows of the unit's batch are dead letters, which are durable elsewhere already.

        Args:
            unit: The unit; it is closed.
            indices: Rows of the unit's batch.
            rest_delivered: Whether the target has the other rows; else they wait again, under a new number.
        """
        self._lane(unit).reject(unit, indices, rest_delivered=rest_delivered)

    def release(self, unit: Unit) -> None:
        """The unit was not settled: it waits again, unchanged, before all others."""
        self._lane(unit).release(unit)

    # ------------------------------------------------------------------ housekeeping (flusher thread)

    def _keep_house(self) -> None:
        for lane in self._lanes:
            lane.drop_segments(self._flusher.durable(lane.log))
        if self._arrived:
            self._admit_arrived()
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + _HOUSEKEEPING
        self._growth.note(now, self.size)
        if self.policy.expiry and not self._keeps:
            self._expire()

    def _expire(self) -> None:
        for lane in self._lanes:
            age = self.policy.expires_after(lane.priority)
            while age is not None:
                _, gone = lane.discard_oldest(EXPIRED, self._now() - age)
                if not gone:
                    break
                self._note_discard(gone.total(), EXPIRED, lane.priority)

    # ------------------------------------------------------------------ looking

    @property
    def stored_rows(self) -> int:
        """Readings that wait or are under way."""
        return self._arrived_rows + sum(lane.stored_rows for lane in self._lanes)

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(lane.size for lane in self._lanes)

    @property
    def full_in(self) -> float | None:
        """Seconds until the quota is reached at the present growth; None when it does not grow."""
        return self._growth.reaches(self.policy.quota)

    @property
    def oldest_age(self) -> float | None:
        """Seconds that the oldest reading that the target does not have has waited; None when it has all."""
        stored = [when for lane in self.lanes if (when := lane.oldest_stored()) is not None]
        return max(0.0, self._now() - min(stored)) if stored else None

    def oldest_received(self) -> int | None:
        """When the oldest reading that the target does not have was received, µs since the epoch; None when it has all.

        0 as long as that cannot be told, because readings of an earlier run have not been read back.
        """
        with self._lock:
            waiting = [
                int(batch.column("received_time").view(pa.int64()).to_numpy().min())
                for parts in self._arrived.values()
                for batch in parts
            ]
        found = [when for lane in self._lanes if (when := lane.oldest_received()) is not None]
        return min([*waiting, *found], default=None)

    @property
    def compression(self) -> float | None:
        """How many times smaller readings are on disk, since the process began; None before the first."""
        compressed = sum(lane.compressed_bytes for lane in self._lanes)
        return sum(lane.raw_bytes for lane in self._lanes) / compressed if compressed else None

    @property
    def discarded(self) -> dict[str, int]:
        """Readings that were let go since the spool was begun, by reason."""
        with self._lock:
            found: Counter[str] = Counter()
            for lane in self._lanes:
                found.update(lane.discarded)
            return dict(found)

    @property
    def lanes(self) -> list[Lane]:
        """The lanes, least urgent first; what has arrived is in them."""
        self._admit_arrived()
        return self._lanes

    def untrimmed(self, shards: Iterable[str]) -> int:
        """Readings of the journal's `shards` that the flow may bring again."""
        shards = list(shards)
        return sum(lane.untrimmed(shards) for lane in self.lanes)

    def account(self) -> LaneAccount:
        """The account of the spool; what is stored is counted by scanning."""
        account = LaneAccount()
        for lane in self.lanes:
            account.add(lane.account())
        return account

    def follow(self, routed: Counter[str], dead: Counter[str] | None = None) -> None:
        """Begin after the spools in memory of earlier processes.

        Args:
            routed: Readings by source that went to those; what became of them is not known here.
            dead: Readings by source that became dead letters.
        """
        self._lanes[0].follow(routed, dead or Counter(), EARLIER)

    def close(self) -> None:
        """Sync and close.

        Raises:
            StoreError: The disk refused.
        """
        self._admit_arrived()
        self._flusher.close()
        for lane in self._lanes:
            lane.close()


def _stored(directory: Path) -> list[int]:
    """Priorities of the lanes that lie in `directory`."""
    return [int(path.name[1:]) for path in directory.iterdir() if re.fullmatch(r"p-?\d+", path.name)]


__all__ = ["DOWNSAMPLED", "OVERFLOW", "Spool"]
