"""Dead letters as they are looked at: what one is, which are meant, and the groups that they fall into."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import numpy as np
import pyarrow as pa

from delivery.intervals import Intervals
from delivery.unit import Place

FLOW: Final = ""
FLOW_WORD: Final = "@flow"  # no target can have this name
DATA, DECODE, NORMALIZE = "data", "decode", "normalize"


@dataclass(frozen=True, slots=True)
class DeadLetters:
    """Dead letters that came at once.

    Attributes:
        target: The target that rejected them; empty for the flow itself.
        error_class: `data` from a target; `decode` or `normalize` from the flow.
        first: When the unit that they were in was tried first, seconds since the epoch.
        last: When they became dead letters.
        attempts: How often the target was tried.
        reasons: The target's or the decoder's own words, one per reading.
        numbers: Their numbers in the store, one per reading, ascending; a number is given once.
        batch: The readings, as a batch of `normalization.reading.stream_schema`.
        segment: The segment of the store that they lie in.
        places: Where they lay in the target's spool, one per reading; empty for the flow.
    """

    target: str
    error_class: str
    first: float
    last: float
    attempts: int
    reasons: list[str]
    numbers: np.ndarray
    batch: pa.RecordBatch
    segment: int
    places: list[Place]

    def __len__(self) -> int:
        return len(self.reasons)

    def take(self, rows: np.ndarray) -> "DeadLetters":
        """Some of them."""
        if len(rows) == len(self):
            return self
        return replace(
            self,
            reasons=[self.reasons[row] for row in rows],
            numbers=self.numbers[rows],
            batch=self.batch.take(pa.array(rows)),
            places=[self.places[row] for row in rows] if self.places else [],
        )


@dataclass(frozen=True, slots=True)
class Selection:
    """Which dead letters are meant; what is None or empty excludes nothing.

    Attributes:
        target: Name of a target, or ``FLOW_WORD``.
        source: Name of a source.
        reason: Part of the reason, in any case.
        since: Became dead letters at this time or later, seconds since the epoch.
        until: Became dead letters before this time.
        number: One reading.
        limit: How many at most.
    """

    target: str | None = None
    source: str | None = None
    reason: str | None = None
    since: float | None = None
    until: float | None = None
    number: int | None = None
    limit: int | None = None

    def of(self, letters: DeadLetters) -> DeadLetters | None:
        """Those of `letters` that are meant, whatever the limit; None when none is."""
        if self.target is not None and self.target != (letters.target or FLOW_WORD):
            return None
        if (self.since is not None and letters.last < self.since) or (
            self.until is not None and letters.last >= self.until
        ):
            return None
        wanted = np.ones(len(letters), bool)
        if self.number is not None:
            wanted &= letters.numbers == self.number
        if self.reason:
            words = self.reason.casefold()
            wanted &= np.array([words in reason.casefold() for reason in letters.reasons])
        if self.source is not None:
            wanted &= np.array([source == self.source for source in letters.batch.column("source").to_pylist()])
        return letters.take(np.flatnonzero(wanted)) if wanted.any() else None

    def among(self, stored: Iterable[DeadLetters]) -> Iterable[DeadLetters]:
        """Those of `stored` that are meant, oldest first."""
        left = self.limit
        for letters in stored:
            if left is not None and left <= 0:
                return
            chosen = self.of(letters)
            if chosen is not None:
                chosen = chosen if left is None else chosen.take(np.arange(min(left, len(chosen))))
                left = None if left is None else left - len(chosen)
                yield chosen


@dataclass(slots=True)
class Group:
    """Dead letters of one target, class and reason.

    Attributes:
        target: The target; ``FLOW_WORD`` for the flow.
        error_class: The class.
        reason: The reason.
        count: How many.
        first: When the first of them was tried first, seconds since the epoch.
        last: When the last of them became one.
    """

    target: str
    error_class: str
    reason: str
    count: int
    first: float
    last: float

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def grouped(stored: Iterable[DeadLetters]) -> list[Group]:
    """The groups, the largest first."""
    found: dict[tuple[str, str, str], Group] = {}
    for letters in stored:
        for reason in letters.reasons:
            key = (letters.target or FLOW_WORD, letters.error_class, reason)
            group = found.setdefault(key, Group(*key, 0, letters.first, letters.last))
            group.count += 1
            group.first, group.last = min(group.first, letters.first), max(group.last, letters.last)
    return sorted(found.values(), key=lambda group: (-group.count, group.target, group.reason))


def chosen_numbers(chosen: Iterable[DeadLetters]) -> Intervals:
    """The numbers of dead letters."""
    found = Intervals()
    for letters in chosen:
        found.add_all(letters.numbers)
    return found
