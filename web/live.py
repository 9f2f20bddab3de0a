"""What the API and the UI show of readings, at no cost to the data path that could be seen.

The flow hands over a reference of every batch that it normalizes, and nothing else. A thread of its own looks at them: as
often as somebody looks, and every five seconds, so that the last value of a slow tag is known when somebody does. What
is shown is normalized again, because it is little: one row per tag that is on a screen.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import structlog

from config.models import Configuration
from delivery.journal import RAW
from flows.isolation import isolate, refused
from normalization.normalizer import Normalizer
from normalization.reading import FACTS, TagTable, repeat
from web.last import LastReadings, Numbers

log = structlog.get_logger()

WINDOW_ROWS: Final = 50_000
WINDOW_SECONDS: Final = 60.0
_PLENTY: Final = 50_000  # readings that are looked at without waiting longer
_TOO_MANY: Final = 400_000  # readings that are not kept even so
_SMALL: Final = 2_000  # readings in a batch, below which it costs more to keep it by itself than to copy it
_SLOW: Final = 5.0
_WINDOW_BYTES: Final = 32 * 1024**2
_KEYS: Final = ("source", "device_id", "address", "tag_name")


class Shown(Protocol):
    """Whose readings are shown."""

    config: Configuration
    tags: TagTable
    normalizer: Normalizer
    live: Callable[[pa.RecordBatch], None] | None


@dataclass(slots=True)
class Recent:
    """A batch of the newest readings.

    Attributes:
        number: Its number, ascending.
        time: When it was looked at, seconds of the monotonic clock.
        raw: The readings as they were journalled.
        size: Its bytes.
    """

    number: int
    time: float
    raw: pa.RecordBatch
    size: int


@dataclass(frozen=True, slots=True)
class Index:
    """The tags that have a reading, in the order of their paths; of a tag that was changed, as it is now.

    Attributes:
        tags: Their numbers, as readings come with them.
        rows: The last reading of each, normalized.
        made_of: How many tags there were, and how many had a reading.
    """

    tags: Numbers
    rows: pa.RecordBatch
    made_of: tuple[int, int] = field(default=(0, 0))


class Live:
    """Shows readings.

    Args:
        process: Whose readings.
        beside: What else is to be done every few seconds.
    """

    def __init__(self, process: Shown, beside: Callable[[], None] = lambda: None) -> None:
        self._process, self._beside = process, beside
        self._lock = threading.Lock()  # of what is new
        self._folding = threading.RLock()  # of all else
        self._new: deque[pa.RecordBatch] = deque()
        self._new_rows = 0
        self._wake = threading.Event()
        self._recent: deque[Recent] = deque()
        self._recent_rows = self._recent_bytes = 0
        self._number = 0
        self._last = LastReadings()
        self._changed_at = np.zeros(1024, np.int64)  # by tag: number of the fold that brought its last reading
        self._folds = 0
        self._index = Index(np.zeros(0, np.int64), pa.RecordBatch.from_pylist([], RAW))
        self._indexed = -1
        self.left_out = 0
        self._thread = threading.Thread(target=self._run, name="live", daemon=True)

    def start(self) -> None:
        """Begin to look at what comes."""
        self._thread.start()

    def show(self, batch: pa.RecordBatch) -> None:
        """Called by the flow: this was normalized. Safe from any thread."""
        with self._lock:
            self._new.append(batch)
            self._new_rows += batch.num_rows
            while self._new_rows > _TOO_MANY and len(self._new) > 1:
                gone = self._new.popleft().num_rows
                self._new_rows -= gone
                self.left_out += gone
            plenty = self._new_rows > _PLENTY
        if plenty:
            self._wake.set()

    def _run(self) -> None:
        while self._process.live == self.show:  # until the gateway has ended
            self._wake.wait(_SLOW)
            self._wake.clear()
            try:
                self.fold()
                self._beside()
            except Exception:  # the edge of this thread: data flows on, and what comes next may be sound
                log.exception("what came cannot be shown")

    def fold(self) -> int:
        """Look at what came since the last time; how often that has brought something."""
        with self._folding:
            with self._lock:
                new, self._new, self._new_rows = self._new, deque(), 0
            if not new:
                self._forget(time.monotonic())
                return self._folds
            batches = list(_joined(_stripped(batch) for batch in new))
            self._folds += 1
            tags = len(self._process.tags)
            changed = self._last.update(batches, tags)
            if tags > len(self._changed_at):
                more = np.zeros(2 * tags - len(self._changed_at), np.int64)
                self._changed_at = np.concatenate([self._changed_at, more])
            self._changed_at[changed] = self._folds
            self._keep(batches)
            return self._folds

    def _keep(self, batches: Iterable[pa.RecordBatch]) -> None:
        now = time.monotonic()
        for batch in batches:
            self._number += 1
            size = batch.nbytes  # not of what it shares with others, such as a constant column
            self._recent.append(Recent(self._number, now, batch, size))
            self._recent_rows += batch.num_rows
            self._recent_bytes += size
        self._forget(now)

    def _forget(self, now: float) -> None:
        recent = self._recent
        while recent and (
            now - recent[0].time > WINDOW_SECONDS
            or (self._recent_rows > WINDOW_ROWS and len(recent) > 1)
            or (self._recent_bytes > _WINDOW_BYTES and len(recent) > 1)
        ):
            gone = recent.popleft()
            self._recent_rows -= gone.raw.num_rows
            self._recent_bytes -= gone.size

    # ------------------------------------------------------------------ what is asked

    def index(self) -> Index:
        """All tags that have a reading, with it."""
        with self._folding:
            folds = self.fold()
            if self._indexed == folds:
                return self._index
            seen = self._last.tags()
            made_of = len(self._process.tags), len(seen)
            known = self._index
            tags = known.tags if known.made_of == made_of else self._ordered(seen)
            self._index = Index(tags, self.normalized(self._last.facts(tags)), made_of)
            self._indexed = folds
            return self._index

    def _ordered(self, seen: Numbers) -> Numbers:
        """Tags by path, without those that are there again with another description."""
        rows = self.normalized(self._last.facts(seen))
        names = [rows.column(name).dictionary_decode() for name in _KEYS]
        keys = pc.binary_join_element_wise(*names, "\0")
        path = rows.column("path").dictionary_decode()
        if pc.count_distinct(keys).as_py() < len(keys):
            received = rows.column("received_time").view(pa.int64()).to_pylist()
            newest: dict[str, int] = {}
            for row, key in enumerate(keys.to_pylist()):
                other = newest.setdefault(key, row)
                if (received[row], row) > (received[other], other):
                    newest[key] = row
            kept = np.array(sorted(newest.values()))
            seen, path = seen[kept], path.take(pa.array(kept))
        order: Numbers = pc.array_sort_indices(path).to_numpy().astype(np.int64)
        return seen[order]

    def known(self, tag: int) -> bool:
        """Whether a tag has a reading."""
        with self._folding:
            self.fold()
            return self._last.has(tag)

    def last(self, tags: Numbers) -> tuple[pa.RecordBatch, pa.RecordBatch]:
        """The last readings of tags that have one, as they were journalled and normalized."""
        with self._folding:
            facts = self._last.facts(tags)
        return self._raw(facts), self.normalized(facts)

    def changed(self, tags: Numbers, since: int) -> tuple[Numbers, int]:
        """Which of these tags have had a reading after fold number `since`, and the number of the newest fold."""
        with self._folding:
            folds = self.fold()
            known = tags[tags < len(self._changed_at)]
            return known[self._changed_at[known] > since], folds

    def samples(self, tag: int, most: int) -> pa.RecordBatch:
        """The newest readings of a tag, the oldest first, normalized."""
        with self._folding:
            self.fold()
            kept, recent = self._last.samples(tag), list(self._recent)
        found: list[pa.RecordBatch] = []
        count = 0
        for one in reversed(recent):
            rows = np.flatnonzero(one.raw.column(0).to_numpy() == tag)[-(most - count) :]
            if len(rows):
                found.append(one.raw.select(FACTS.names).take(pa.array(rows)))
                count += len(rows)
            if count >= most:
                break
        older = pa.RecordBatch.from_arrays(kept, schema=FACTS)
        if found:
            first = found[-1].column("received_time")[0].value
            older = older.filter(pc.less(older.column("received_time").view(pa.int64()), first))
        parts = [older.slice(max(0, len(older) - (most - count))), *reversed(found)]
        return self.normalized(pa.concat_batches(parts).columns)

    def since(self, number: int) -> tuple[list[Recent], int]:
        """The batches after number `number`, the newest first, and the number of the newest; those that had to go are not there."""
        with self._folding:
            self.fold()
            found = []
            for one in reversed(self._recent):
                if one.number <= number:
                    break
                found.append(one)
            return found, self._number

    def window(self) -> pa.RecordBatch | None:
        """The newest readings as one batch, normalized; None when there are none."""
        with self._folding:
            self.fold()
            recent = [one.raw.select(FACTS.names) for one in self._recent]
        if not recent:
            return None
        return self.normalized(pa.concat_batches(recent).columns)

    def normalized(self, facts: Iterable[pa.Array]) -> pa.RecordBatch:
        """Readings normalized, from columns in the order of ``FACTS``."""
        return self.normalized_raw(self._raw(facts))

    def normalized_raw(self, raw: pa.RecordBatch) -> pa.RecordBatch:
        """Readings normalized, as they were journalled."""
        process = self._process
        parts = isolate(process.normalizer, lambda row, reason: refused(row, reason, process.tags), raw)
        return parts[0] if len(parts) == 1 else pa.concat_batches(parts)

    def _raw(self, facts: Iterable[pa.Array]) -> pa.RecordBatch:
        columns = list(facts)
        count = len(columns[0])
        names = [repeat(self._process.config.gateway, count), repeat("", count)]
        return pa.RecordBatch.from_arrays([*columns, *names], schema=RAW)


def _stripped(batch: pa.RecordBatch) -> pa.RecordBatch:
    """A batch as it is journalled, without the names of its tags."""
    if batch.num_columns == len(RAW):
        return batch
    return pa.RecordBatch.from_arrays([batch.column(name) for name in RAW.names], schema=RAW)


def _joined(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The same readings in the same order, small batches together."""
    small: list[pa.RecordBatch] = []
    rows = 0
    for batch in batches:
        small.append(batch)
        rows += batch.num_rows
        if rows >= _SMALL:
            yield pa.concat_batches(small) if len(small) > 1 else batch
            small, rows = [], 0
    if small:
        yield pa.concat_batches(small)
