"""What became of the readings that were journalled: the journal's half of the account."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Outcome:
    """What became of readings in the flow: per source, how many.

    Attributes:
        routed: Went to one target at least.
        dead: Became dead letters in the flow.
        filtered: Went nowhere, by reason.
        targets: Went to a target, by target.
    """

    routed: Counter[str] = field(default_factory=Counter)
    dead: Counter[str] = field(default_factory=Counter)
    filtered: dict[str, Counter[str]] = field(default_factory=dict)
    targets: dict[str, Counter[str]] = field(default_factory=dict)

    def add(self, other: "Outcome") -> None:
        """Add the counts of `other`."""
        self.routed.update(other.routed)
        self.dead.update(other.dead)
        for mine, theirs in ((self.filtered, other.filtered), (self.targets, other.targets)):
            for key, counts in theirs.items():
                mine.setdefault(key, Counter()).update(counts)

    def missing(self, sources: dict[str, int]) -> Counter[str]:
        """Readings of `sources` that no count speaks of."""
        left = Counter(sources)
        left.subtract(self.routed)
        left.subtract(self.dead)
        for counts in self.filtered.values():
            left.subtract(counts)
        return Counter({source: count for source, count in left.items() if count > 0})

    def to_list(self) -> list[Any]:
        """As plain values."""
        return [
            dict(self.routed),
            dict(self.dead),
            {k: dict(v) for k, v in self.filtered.items()},
            {k: dict(v) for k, v in self.targets.items()},
        ]

    @staticmethod
    def from_list(values: Sequence[Any]) -> "Outcome":
        """From `to_list`."""
        routed, dead, filtered, targets = values
        return Outcome(
            Counter(routed),
            Counter(dead),
            {k: Counter(v) for k, v in filtered.items()},
            {k: Counter(v) for k, v in targets.items()},
        )


@dataclass(slots=True)
class JournalAccount:
    """What the journal knows of its readings, all counts since it was begun.

    Attributes:
        journalled: Readings by source.
        waiting: Readings by source that are not done yet.
        outcome: What became of those that are done.
    """

    journalled: Counter[str] = field(default_factory=Counter)
    waiting: Counter[str] = field(default_factory=Counter)
    outcome: Outcome = field(default_factory=Outcome)


@dataclass(slots=True)
class LaneAccount:
    """What a lane knows of its readings, all counts by source since it was begun.

    Attributes:
        routed: Readings that came in.
        delivered: Readings that the target has.
        dead: Readings that became dead letters.
        discarded: Readings that the overflow policy or their age let go, by reason.
        stored: Readings that wait; counted by scanning.
    """

    routed: Counter[str] = field(default_factory=Counter)
    delivered: Counter[str] = field(default_factory=Counter)
    dead: Counter[str] = field(default_factory=Counter)
    discarded: dict[str, Counter[str]] = field(default_factory=dict)
    stored: Counter[str] = field(default_factory=Counter)

    def add(self, other: "LaneAccount") -> None:
        """Add the counts of `other`."""
        for mine, theirs in (
            (self.routed, other.routed),
            (self.delivered, other.delivered),
            (self.dead, other.dead),
            (self.stored, other.stored),
        ):
            mine.update(theirs)
        for reason, counts in other.discarded.items():
            self.discarded.setdefault(reason, Counter()).update(counts)
