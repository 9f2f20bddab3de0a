"""Dead letters: readings that no target will take, with the reason, on disk.

Both ways in are durable at this end first: the flow's output (readings that could not be decoded or normalized) and the
forwarders (readings that a target rejected). A dead letter that comes again after a crash is recognised by its identity.
"""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import structlog

from delivery.disk import StoreError, StoreFullError
from delivery.entry import COLUMNS, TagReader, TagScribe, decode, encode, pack, unpack
from delivery.flusher import Flusher
from delivery.identities import Identities, by_shard, fresh
from delivery.log import HEAD, Log
from normalization.reading import FACTS, TagTable, numbers, repeat, view

_TAGS, _LETTERS = 1, 2
_REMEMBERED: Final = 50_000
FLOW: Final = ""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class DeadLetters:
    """Dead letters that came at once.

    Attributes:
        target: The target that rejected them; empty for the flow itself.
        time: When, seconds since the epoch.
        attempts: How often the target was tried.
        reasons: The target's or the decoder's own words, one per reading.
        batch: The readings, as a batch of `normalization.reading.stream_schema`.
    """

    target: str
    time: float
    attempts: int
    reasons: list[str]
    batch: pa.RecordBatch


class DeadLetterStore:
    """The dead letters of one gateway.

    Args:
        directory: Where they lie.
        tags: The process's tag table.
        own_shard: Whether a shard is one of this gateway's journal.
    """

    def __init__(self, directory: Path, tags: TagTable, own_shard: Callable[[str], bool]) -> None:
        self._tags = tags
        self._own_shard = own_shard
        self._lock = threading.RLock()
        self._counts: dict[str, Counter[str]] = {}
        self._flow = Identities()
        self._recent: deque[Identities] = deque([Identities()], maxlen=2)
        self._recent_rows = 0
        self._log = Log(directory, self._head)
        for record in self._log.recover():
            if record.kind == HEAD:
                version, counts, flow, recent = unpack(record.payload)
                if version != 1:
                    raise StoreError(f"{directory} was written by a newer version of Bifrost; start that version")
                self._counts = {target: Counter(sources) for target, sources in counts.items()}
                self._flow = Identities.from_list(flow)
                self._recent = deque([Identities.from_list(recent)], maxlen=2)
            elif record.kind == _LETTERS:
                target, gateway, shard, sources, _, _, _, mask, raw_size, body = unpack(record.payload)
                sequences = decode(mask, raw_size, memoryview(body))[_SEQUENCE].to_numpy()
                self._remember(target, gateway, shard, sequences, sources)
        if self._log.damaged:
            log.error("dead letters damaged, some may be lost", directory=str(directory), places=self._log.damaged)
        self._scribe = TagScribe(tags)
        self._log.begin()
        self._flusher = Flusher([self._log], 0.2, "dead letters").start()

    def _head(self) -> bytes:
        recent = [run for generation in self._recent for run in generation.to_list()]
        return pack([1, self._counts, self._flow.to_list(), recent])

    def _identities(self, target: str, shard: str) -> list[Identities]:
        return [self._flow] if target == FLOW and self._own_shard(shard) else list(self._recent)

    def _remember(self, target: str, gateway: str, shard: str, sequences: np.ndarray, sources: dict[str, int]) -> None:
        into = self._identities(target, shard)[-1]
        into.add(shard if into is self._flow else f"{target}/{gateway}/{shard}", sequences)
        if into is not self._flow:
            self._recent_rows += len(sequences)
            if self._recent_rows > _REMEMBERED:
                self._recent.append(Identities())
                self._recent_rows = 0
        self._counts.setdefault(target, Counter()).update(sources)

    def append(self, batch: pa.RecordBatch, reasons: Sequence[str], target: str = FLOW, attempts: int = 0) -> None:
        """Take dead letters; those that are here already are left out. Not durable before `wait` returns.

        Args:
            batch: Readings, a batch of `stream_schema`.
            reasons: One per reading.
            target: The target that rejected them; empty for the flow itself.
            attempts: How often the target was tried.
        """
        index = pa.array(np.arange(len(batch), dtype=np.int64))
        for rows, part in by_shard(batch, index):
            self._append_shard(part, [reasons[int(i)] for i in rows], target, attempts)

    def _append_shard(self, batch: pa.RecordBatch, reasons: list[str], target: str, attempts: int) -> None:
        gateway, shard = batch.column("gateway")[0].as_py(), batch.column("shard")[0].as_py()
        sequences = batch.column("sequence").to_numpy()
        with self._lock:
            known = np.zeros(len(batch), bool)
            for identities in self._identities(target, shard):
                found = identities.had(shard if identities is self._flow else f"{target}/{gateway}/{shard}", sequences)
                known = known if found is None else known | found
            kept = fresh(sequences, known)
            if kept is None:
                kept = np.arange(len(batch))
            if not len(kept):
                return
            batch = batch.take(pa.array(kept))
            segment = self._log.segment()
            columns = [batch.column(name) for name in COLUMNS.names]
            sources = self._tags.count_sources(columns[0].to_numpy())
            columns[0], rows = self._scribe.translate(segment, columns[0])
            mask, raw_size, body = encode(columns)
            words = [reasons[i] for i in kept]
            described = [
                target,
                gateway,
                shard,
                sources,
                time.time(),
                attempts,
                words,
                mask,
                raw_size,
                memoryview(body),
            ]
            try:
                if rows:
                    self._log.append(_TAGS, [pack(rows)])
                self._log.append(_LETTERS, [pack(described)])
            except StoreFullError:
                self._scribe.announce_again()
                raise
            self._remember(target, gateway, shard, sequences[kept], sources)
        log.warning("dead letters", target=target or "flow", readings=len(kept), reason=words[0])

    def wait(self) -> None:
        """Return when everything appended is durable.

        Raises:
            StoreError: The disk fails.
        """
        self._flusher.wait(self._log, self._log.next_number - 1)

    def had(self, shard: str, sequences: np.ndarray) -> np.ndarray | None:
        """Which readings of the journal's `shard` are dead letters of the flow; None when none."""
        with self._lock:
            return self._flow.had(shard, sequences)

    def forget(self, shard: str, upto: int) -> None:
        """The journal has durably trimmed `shard` up to sequence `upto`."""
        with self._lock:
            self._flow.forget(shard, upto)

    def counts(self, target: str) -> Counter[str]:
        """Dead letters of `target` by source; of the flow itself for the empty name."""
        with self._lock:
            return Counter(self._counts.get(target, {}))

    @property
    def total(self) -> int:
        """Dead letters in the store."""
        with self._lock:
            return sum(counts.total() for counts in self._counts.values())

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return self._log.size

    def letters(self) -> Iterator[DeadLetters]:
        """All dead letters, oldest first."""
        reader = TagReader(self._tags)
        for record in self._log.read(self._log.cursor(1)):
            if record.kind == _TAGS:
                reader.learn(record.segment, unpack(record.payload))
            elif record.kind == _LETTERS:
                target, gateway, shard, _, when, attempts, reasons, mask, raw_size, body = unpack(record.payload)
                columns = decode(mask, raw_size, memoryview(body))
                if reader.translate(record.segment, columns):
                    yield DeadLetters(target, when, attempts, reasons, self._batch(columns, gateway, shard))

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


_SEQUENCE: Final = FACTS.get_field_index("sequence")
