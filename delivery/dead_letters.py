"""Dead letters: readings that no target will take, with the reason, on disk.

Both ways in are durable at this end first: the flow's output (readings that could not be decoded or normalized) and the
forwarders (readings that a target rejected). A dead letter that comes again after a crash is recognised by its identity.
Each reading has a number. What was sent again or purged leaves by a record of its own, and a segment in which nothing is
left goes. The store is bounded: when it is full, the oldest make room, or what comes is left out, and both are counted.
"""

import contextlib
import secrets
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import structlog

from delivery import upgrade
from delivery.disk import StoreError, StoreFullError
from delivery.entry import COLUMNS, TagReader, TagScribe, decode, encode, pack, unpack, write_tags
from delivery.flusher import Flusher
from delivery.identities import Identities, by_shard, fresh
from delivery.intervals import Intervals
from delivery.letter import DATA, FLOW, NORMALIZE, DeadLetters
from delivery.log import HEAD, Log, Record
from delivery.unit import Place
from normalization.reading import FACTS, TagTable, numbers, repeat, view

_TAGS, _LETTERS, _REMOVED, _LEFT_OUT = 1, 3, 4, 5
_FORMAT: Final = 2
_REMEMBERED: Final = 50_000
_LONGEST_REASON: Final = 4000
_ALARM: Final = 60.0  # seconds that an alarm lasts after a dead letter was discarded
_JUMP: Final = 1_000_000  # numbers left out when a damaged record may have held some
_LEAST_SEGMENT, _SEGMENT = 64 * 1024, 16 * 1024 * 1024
REPLAYED: Final = "replayed"
PURGED: Final = "purged"
OVERFLOW: Final = "overflow"
NO_RULE: Final = "no rule"
WITHDRAWN: Final = "withdrawn"  # the target's spool holds them still: they are no dead letters yet

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class LetterPolicy:
    """How dead letters are bounded.

    Attributes:
        quota: Bytes on disk.
        drops_oldest: Whether the oldest make room when it is full; else those that come are left out.
    """

    quota: int = 1024**3
    drops_oldest: bool = True


class DeadLetterStore:
    """The dead letters of one gateway.

    Args:
        directory: Where they lie.
        tags: The process's tag table.
        own_shard: Whether a shard is one of this gateway's journal.
        policy: How they are bounded.

    Attributes:
        id: Names this store; one that was begun anew has another.
        moving: Held by whoever moves dead letters out of the store.
    """

    def __init__(
        self,
        directory: Path,
        tags: TagTable,
        own_shard: Callable[[str], bool],
        policy: LetterPolicy | None = None,
    ) -> None:
        unbounded = LetterPolicy(quota=2**62)
        upgrade.dead_letters(directory, tags, lambda place: DeadLetterStore(place, tags, own_shard, unbounded))
        self.id = secrets.token_hex(6)
        self.policy = policy or LetterPolicy()
        self.moving = threading.Lock()
        self._tags = tags
        self._own_shard = own_shard
        self._lock = threading.RLock()
        self._next = 1
        self._gone = Intervals()
        self._floor = 0  # all numbers up to here have gone
        self._first: dict[int, int] = {}  # segment: number of the first reading in it
        self._held: dict[int, dict[str, Counter[str]]] = {}  # segment: readings by target and source
        self._emptied: dict[int, int] = {}  # segment: record that emptied it
        self._removed: dict[str, dict[str, Counter[str]]] = {}  # by reason, target and source
        self._flow = Identities()
        self._recent: deque[Identities] = deque([Identities()], maxlen=2)
        self._recent_rows = 0
        self._busy: set[int] = set()  # segments that something is just being moved out of
        self._last_discard: float | None = None
        size = min(_SEGMENT, max(_LEAST_SEGMENT, self.policy.quota // 16))
        self._log = Log(directory, self._head, size)
        for record in self._log.recover():
            self._recover(record)
        if self._log.damaged:
            log.error("dead letters damaged, some may be lost", directory=str(directory), places=self._log.damaged)
            self._next += _JUMP
        self._scribe = TagScribe(tags)
        self._leave_lost_segments()
        self._log.begin()
        self._flusher = Flusher([self._log], 0.2, "dead letters", self._drop_segments)
        self._flusher.start()

    # ------------------------------------------------------------------ state

    def _head(self) -> bytes:
        recent = [run for generation in self._recent for run in generation.to_list()]
        held = [[segment, first, self._held.get(segment, {})] for segment, first in self._first.items()]
        return pack(
            [
                _FORMAT,
                self.id,
                self._next,
                self._floor,
                self._gone.to_list(),
                held,
                self._removed,
                self._flow.to_list(),
                recent,
            ]
        )

    def _load_head(self, payload: memoryview) -> None:
        version, *rest = unpack(payload)
        if version != _FORMAT:
            raise StoreError(
                f"{self._log.directory} was written by a newer version of Bifrost; start that version, "
                "or move the directory away"
            )
        self.id, self._next, self._floor, gone, held, removed, flow, recent = rest
        self._gone = Intervals(gone)
        self._first = {segment: first for segment, first, _ in held}
        self._held = {segment: _counters(counts) for segment, _, counts in held if counts}
        self._removed = {reason: _counters(counts) for reason, counts in removed.items()}
        self._flow = Identities.from_list(flow)
        self._recent = deque([Identities.from_list(recent)], maxlen=2)

    def _recover(self, record: Record) -> None:
        if record.kind == HEAD:
            self._load_head(record.payload)
        elif record.kind == _LETTERS:
            first, target, gateway, shard, sources, *_, mask, raw_size, body = unpack(record.payload)
            sequences = decode(mask, raw_size, memoryview(body))[_SEQUENCE].to_numpy()
            self._enter(record.segment, first, target, sources, len(sequences))
            self._remember(target, gateway, shard, sequences)
        elif record.kind == _REMOVED:
            self._leave(record.number, *unpack(record.payload))
        elif record.kind == _LEFT_OUT:
            target, gateway, shard, sources, sequences = unpack(record.payload)
            self._remember(target, gateway, shard, np.frombuffer(sequences, "<i8"))
            self._count_removed(OVERFLOW, target, sources)

    def _leave_lost_segments(self) -> None:
        """Segments that were dropped after the newest HEAD, or that the disk has lost."""
        there = set(self._log.segments())
        self._first = {segment: first for segment, first in self._first.items() if segment in there}
        self._held = {segment: held for segment, held in self._held.items() if segment in there}

    def _identities(self, target: str, shard: str) -> list[Identities]:
        return [self._flow] if target == FLOW and self._own_shard(shard) else list(self._recent)

    def _key(self, target: str, gateway: str, shard: str) -> str:
        return shard if target == FLOW and self._own_shard(shard) else f"{target}/{gateway}/{shard}"

    def _remember(self, target: str, gateway: str, shard: str, sequences: np.ndarray) -> None:
        into = self._identities(target, shard)[-1]
        into.add(self._key(target, gateway, shard), sequences)
        if into is not self._flow:
            self._recent_rows += len(sequences)
            if self._recent_rows > _REMEMBERED:
                self._recent.append(Identities())
                self._recent_rows = 0

    def _enter(self, segment: int, first: int, target: str, sources: Mapping[str, int], rows: int) -> None:
        self._next = first + rows
        self._first.setdefault(segment, first)
        self._held.setdefault(segment, {}).setdefault(target, Counter()).update(sources)

    def _leave(
        self,
        record: int,
        reason: str,
        gone: Sequence[tuple[int, int]],
        by_segment: Mapping[int, Mapping[str, Mapping[str, int]]],
        forgotten: Sequence[Any],
    ) -> None:
        """Readings go, as a record says."""
        for first, last in gone:
            self._gone.add(first, last)
        for segment, by_target in by_segment.items():
            held = self._held.get(segment, {})
            for target, sources in by_target.items():
                if reason != WITHDRAWN:
                    self._count_removed(reason, target, sources)
                left = held.pop(target, Counter()) - Counter(sources)
                if left:
                    held[target] = left
            if not held and self._held.pop(segment, None) is not None:
                self._emptied[segment] = record
        for key, runs in forgotten:
            identities = Identities.from_list([(key, runs)])
            for generation in self._recent:
                generation.discard(key, identities.sequences(key))

    def _count_removed(self, reason: str, target: str, sources: Mapping[str, int]) -> None:
        self._removed.setdefault(reason, {}).setdefault(target, Counter()).update(sources)

    # ------------------------------------------------------------------ coming

    def append(
        self,
        batch: pa.RecordBatch,
        reasons: Sequence[str],
        target: str = FLOW,
        attempts: int = 0,
        *,
        error_class: str | None = None,
        first: float | None = None,
        last: float | None = None,
        places: Sequence[Place] = (),
    ) -> None:
        """Take dead letters; those that are here already are left out. Not durable before `wait` returns.

        Args:
            batch: Readings, a batch of `stream_schema`.
            reasons: One per reading.
            target: The target that rejected them; empty for the flow itself.
            attempts: How often the target was tried.
            error_class: `data` when absent and from a target, `normalize` when from the flow.
            first: When the target was first tried, seconds since the epoch; now when absent.
            last: When they became dead letters, for those that were so in an earlier store; now when absent.
            places: Where each lies in the target's spool.

        Raises:
            StoreFullError: The disk is full. Those of the flow, which may not wait, are left out and counted.
        """
        kind = error_class or (DATA if target else NORMALIZE)
        now = time.time() if last is None else last
        for rows, part in by_shard(batch, pa.array(np.arange(len(batch), dtype=np.int64))):
            words = [(reasons[i] or "")[:_LONGEST_REASON] for i in rows]
            lay = [places[i] for i in rows] if places else []
            with self._lock:
                about = [target, attempts, kind, now if first is None else first, now]
                self._append_shard(part, words, lay, about, told=last is None)

    def _append_shard(
        self, batch: pa.RecordBatch, words: list[str], places: list[Place], about: list[Any], *, told: bool
    ) -> None:
        target = about[0]
        gateway, shard = batch.column("gateway")[0].as_py(), batch.column("shard")[0].as_py()
        kept = self._new_rows(target, gateway, shard, batch.column("sequence").to_numpy())
        if not len(kept):
            return
        batch, words = batch.take(pa.array(kept)), [words[i] for i in kept]
        sequences = batch.column("sequence").to_numpy()
        sources = self._tags.count_sources(batch.column("tag").to_numpy())
        try:
            stored = self._has_room() and self._write(batch, words, [places[i] for i in kept if places], about, sources)
        except StoreFullError:
            self._scribe.announce_again()
            if self.policy.drops_oldest and not self._going:
                with contextlib.suppress(StoreFullError):
                    self._discard_oldest()
            if target != FLOW:  # its spool holds them, so that they can come again
                raise
            stored = False
        if not stored:
            described = [target, gateway, shard, sources, sequences.astype("<i8").tobytes()]
            self._log.append(_LEFT_OUT, [pack(described)], urgent=True)
            self._count_removed(OVERFLOW, target, sources)
            self._note_discard(len(batch))
        self._remember(target, gateway, shard, sequences)
        if told:
            log.warning("dead letters", target=target or "flow", readings=len(kept), reason=words[0], stored=stored)

    def _new_rows(self, target: str, gateway: str, shard: str, sequences: np.ndarray) -> np.ndarray:
        """Rows that are not here."""
        known = np.zeros(len(sequences), bool)
        for identities in self._identities(target, shard):
            found = identities.had(self._key(target, gateway, shard), sequences)
            known = known if found is None else known | found
        kept = fresh(sequences, known)
        return np.arange(len(sequences)) if kept is None else kept

    def _write(
        self, batch: pa.RecordBatch, words: list[str], places: list[Place], about: list[Any], sources: dict[str, int]
    ) -> bool:
        target, *rest = about
        segment = self._log.segment()
        columns = [batch.column(name) for name in COLUMNS.names]
        columns[0], rows = self._scribe.translate(segment, columns[0])
        mask, raw_size, body = encode(columns)
        distinct = list(dict.fromkeys(words))
        which = [distinct.index(word) for word in words] if len(distinct) > 1 else []
        identity = [batch.column("gateway")[0].as_py(), batch.column("shard")[0].as_py()]
        described = [self._next, target, *identity, sources, *rest, distinct, which, places]
        if rows:
            write_tags(self._log, _TAGS, rows)
        self._log.append(_LETTERS, [pack([*described, mask, raw_size, memoryview(body)])])
        self._enter(segment, self._next, target, sources, len(batch))
        return True

    def wait(self) -> None:
        """Return when everything that the store was told is durable.

        Raises:
            StoreError: The disk fails.
        """
        self._flusher.wait(self._log, self._log.next_number - 1)

    def had(self, shard: str, sequences: np.ndarray) -> np.ndarray | None:
        """Which readings of the journal's `shard` are or were dead letters of the flow; None when none."""
        with self._lock:
            return self._flow.had(shard, sequences)

    def forget(self, shard: str, upto: int) -> None:
        """The journal has durably trimmed `shard` up to sequence `upto`."""
        with self._lock:
            self._flow.forget(shard, upto)

    # ------------------------------------------------------------------ going

    def remove(self, chosen: Iterable[DeadLetters], reason: str) -> int:
        """Let dead letters go; not durable before `wait` returns.

        Args:
            chosen: Dead letters, or some readings of them; those that have gone are left out.
            reason: ``REPLAYED``, ``PURGED``, ``NO_RULE`` or ``WITHDRAWN``.

        Returns:
            How many went.
        """
        gone, by_segment, forgotten = Intervals(), dict[int, dict[str, Counter[str]]](), Identities()
        count = 0
        with self._lock:
            for letters in [left for found in chosen if len(left := self._live(found))]:
                count += len(letters)
                gone.add_all(letters.numbers)
                sources = self._tags.count_sources(letters.batch.column("tag").to_numpy())
                by_segment.setdefault(letters.segment, {}).setdefault(letters.target, Counter()).update(sources)
                if reason in (REPLAYED, WITHDRAWN) and letters.target != FLOW:  # the target may refuse them again
                    gateway, shard = (letters.batch.column(name)[0].as_py() for name in ("gateway", "shard"))
                    sequences = np.sort(letters.batch.column("sequence").to_numpy())
                    forgotten.add(self._key(letters.target, gateway, shard), sequences)
            if count:
                self._remove(reason, gone, by_segment, forgotten.to_list())
        return count

    def _remove(
        self, reason: str, gone: Intervals, by_segment: dict[int, dict[str, Counter[str]]], forgotten: list[Any]
    ) -> None:
        described = (reason, gone.to_list(), by_segment, forgotten)
        number = self._log.append(_REMOVED, [pack(described)], urgent=True)
        self._leave(number, *described)
        newest = self._log.segments()[-1]
        if newest in self._first and newest not in self._held:
            with contextlib.suppress(StoreFullError):  # its room is wanted back, but not before the disk has some
                self._log.roll()

    def _live(self, letters: DeadLetters) -> DeadLetters:
        left = ~self._gone.has(letters.numbers) & (letters.numbers > self._floor)
        return letters.take(np.flatnonzero(left))

    def have_gone(self, numbers: Intervals) -> bool:
        """Whether all of these have left the store, durably once `wait` has returned."""
        with self._lock:
            return all(
                last <= self._floor or self._gone.holds(max(first, self._floor + 1), last)
                for first, last in numbers.to_list()
            )

    @contextlib.contextmanager
    def spared(self, chosen: Iterable[DeadLetters]) -> Iterator[None]:
        """These do not make room meanwhile."""
        with self._lock:
            self._busy |= {letters.segment for letters in chosen}
        try:
            yield
        finally:
            with self._lock:
                self._busy.clear()

    def _has_room(self) -> bool:
        """Whether there is room for more; what the policy lets go for them has gone then."""
        while self._log.size - self._going >= self.policy.quota:
            if not self.policy.drops_oldest or not self._discard_oldest():
                return False
        return True

    @property
    def _going(self) -> int:
        """Bytes that are free as soon as the disk knows it."""
        return sum(self._log.segment_size(s) for s in self._log.segments()[:-1] if s not in self._held)

    def _discard_oldest(self) -> bool:
        segment = min((s for s in self._held if s not in self._busy), default=None)
        if segment is None:
            return False
        after = min((first for s, first in self._first.items() if s > segment), default=self._next)
        gone = Intervals([(self._first[segment], after - 1)])
        by_target = {target: Counter(sources) for target, sources in self._held[segment].items()}
        self._note_discard(sum(sources.total() for sources in by_target.values()))
        self._remove(OVERFLOW, gone, {segment: by_target}, [])
        return True

    def _note_discard(self, readings: int) -> None:
        now = time.monotonic()
        if self._last_discard is None or now - self._last_discard > _ALARM:
            log.warning("dead letters discarded, their store is full", readings=readings, quota=self.policy.quota)
        self._last_discard = now

    def _drop_segments(self) -> None:
        durable = self._flusher.durable(self._log)
        with self._lock:
            for segment in self._log.segments()[:-1]:
                if segment in self._held or self._emptied.get(segment, 0) > durable:
                    continue
                if not self._log.drop(segment):
                    break
                self._emptied.pop(segment, None)
                self._first.pop(segment, None)
            self._floor = max(self._floor, min(self._first.values(), default=self._next) - 1)
            self._gone.forget(self._floor)

    # ------------------------------------------------------------------ looking

    def counts(self, target: str) -> Counter[str]:
        """Dead letters of `target` by source; of the flow itself for the empty name."""
        found: Counter[str] = Counter()
        with self._lock:
            for by_target in self._held.values():
                found.update(by_target.get(target, {}))
        return found

    def came(self, target: str) -> Counter[str]:
        """Dead letters of `target` by source that are here, or were and were not sent again."""
        with self._lock:
            found = self.counts(target)
            for reason, by_target in self._removed.items():
                found.update(by_target.get(target, {}) if reason != REPLAYED else {})
        return found

    def removed(self) -> dict[str, dict[str, Counter[str]]]:
        """Readings that left the store since it was begun, by reason, target and source."""
        with self._lock:
            return {reason: _counters(counts) for reason, counts in self._removed.items()}

    @property
    def total(self) -> int:
        """Dead letters in the store."""
        with self._lock:
            return sum(counts.total() for by_target in self._held.values() for counts in by_target.values())

    @property
    def discarded(self) -> int:
        """Dead letters that were let go or left out because the store was full, since it was begun."""
        with self._lock:
            return sum(counts.total() for counts in self._removed.get(OVERFLOW, {}).values())

    @property
    def alarm(self) -> str:
        """Why somebody should look; empty when all is well."""
        recent = self._last_discard is not None and time.monotonic() - self._last_discard <= _ALARM
        return "dead letters are discarded" if recent else ""

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return self._log.size

    def letters(self, *, newest: bool = False) -> Iterator[DeadLetters]:
        """The dead letters that are in the store now, oldest first.

        Args:
            newest: Only those of the last two segments that hold some.
        """
        reader = TagReader(self._tags)
        with self._log.held():
            upto = self._log.next_number - 1
            with self._lock:
                start = sorted(self._held)[-2:][:1] if newest else []
            for record in self._log.read(self._log.cursor(*start or [1]), upto):
                if record.kind == _TAGS:
                    reader.learn(record.segment, unpack(record.payload))
                elif record.kind == _LETTERS and record.segment in self._held:
                    letters = self._read(record, reader)
                    if letters is not None and len(letters):
                        yield letters

    def _read(self, record: Record, reader: TagReader) -> DeadLetters | None:
        number, target, gateway, shard, _, attempts, kind, first, last, *rest = unpack(record.payload)
        distinct, which, places, mask, raw_size, body = rest
        columns = decode(mask, raw_size, memoryview(body))
        if not reader.translate(record.segment, columns):
            return None
        words = [distinct[i] for i in which] or distinct * len(columns[0])
        numbered = np.arange(number, number + len(columns[0]))
        batch = self._batch(columns, gateway, shard)
        lay = [tuple(place) for place in places]
        letters = DeadLetters(target, kind, first, last, attempts, words, numbered, batch, record.segment, lay)
        with self._lock:
            return self._live(letters)

    def _batch(self, columns: list[pa.Array], gateway: str, shard: str) -> pa.RecordBatch:
        rows = len(columns[0])
        value = numbers(*(columns[FACTS.get_field_index(name)] for name in ("type", "value_double", "value_int")))
        return view(
            columns[: len(FACTS)], repeat(gateway, rows), repeat(shard, rows), self._tags, value, columns[len(FACTS)]
        )

    def close(self) -> None:
        """Sync and close."""
        self._flusher.close()
        self._log.close()


def _counters(counts: Mapping[str, Mapping[str, int]]) -> dict[str, Counter[str]]:
    return {name: Counter(sources) for name, sources in counts.items()}


_SEQUENCE: Final = FACTS.get_field_index("sequence")
