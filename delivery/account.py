"""The account: for every source and target, what came in equals what went out and what is still here."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from delivery.dead_letters import OVERFLOW, PURGED, REPLAYED
from delivery.letter import FLOW
from delivery.outcome import JournalAccount, LaneAccount

_SCAN_SHARE: Final = 0.02  # of a core's time, at most, for counting what is stored for the metrics
LEFT: Final = {PURGED: "dead letters purged", OVERFLOW: "dead letters over quota"}  # as the account calls them
_SCAN_PAUSE: Final = 1.0  # seconds between two scans, at least


def next_scan(began: float, ended: float) -> float:
    """When the stores may be scanned for the metrics again, after a scan from `began` to `ended`, seconds."""
    return ended + max(_SCAN_PAUSE, (ended - began) * (1 / _SCAN_SHARE - 1))


@dataclass(frozen=True, slots=True)
class SourceLine:
    """journalled = waiting + filtered + routed + dead_letters, in readings since the journal was begun."""

    journalled: int
    waiting: int
    filtered: dict[str, int]
    routed: int
    dead_letters: int

    def states(self) -> dict[str, int]:
        """The counts by name, those of what was filtered in one."""
        return asdict(self) | {"filtered": sum(self.filtered.values()), "unaccounted": self.unaccounted}

    @property
    def unaccounted(self) -> int:
        """Readings that are missing (positive) or too many."""
        return self.journalled - self.waiting - sum(self.filtered.values()) - self.routed - self.dead_letters


@dataclass(frozen=True, slots=True)
class TargetLine:
    """routed = delivered + stored + discarded + dead_letters, in readings since the spool was begun.

    `settled` is what the journal says was routed; a spool may be ahead of it by what the flow still holds.
    """

    routed: int
    settled: int
    delivered: int
    stored: int
    discarded: dict[str, int]
    dead_letters: int

    def states(self) -> dict[str, int]:
        """The counts by name, those of what was discarded in one."""
        return asdict(self) | {"discarded": sum(self.discarded.values()), "unaccounted": self.unaccounted}

    @property
    def unaccounted(self) -> int:
        """Readings that are missing (positive) or too many, and those that the journal let go but the spool never had."""
        left = self.routed - self.delivered - self.stored - sum(self.discarded.values()) - self.dead_letters
        return left + max(0, self.settled - self.routed)


@dataclass(frozen=True, slots=True)
class Account:
    """The account of one gateway.

    Attributes:
        sources: One line per source.
        targets: One line per target and source.
    """

    sources: dict[str, SourceLine] = field(default_factory=dict)
    targets: dict[str, dict[str, TargetLine]] = field(default_factory=dict)

    @property
    def unaccounted(self) -> int:
        """Readings that no line explains, added up without regard to sign."""
        of_sources = sum(abs(line.unaccounted) for line in self.sources.values())
        return of_sources + sum(abs(line.unaccounted) for lines in self.targets.values() for line in lines.values())

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {
            "sources": {name: asdict(line) | {"unaccounted": line.unaccounted} for name, line in self.sources.items()},
            "targets": {
                target: {name: asdict(line) | {"unaccounted": line.unaccounted} for name, line in lines.items()}
                for target, lines in self.targets.items()
            },
            "unaccounted": self.unaccounted,
        }


Removed = Mapping[str, Mapping[str, Mapping[str, int]]]
"""Readings that left the store of dead letters, by reason, target and source."""


def settle_accounts(
    journal: JournalAccount, spools: Mapping[str, LaneAccount], removed: Removed | None = None
) -> Account:
    """Put the stores' accounts together. Read the journal's first: what it let go, the spools have had before."""
    outcome = journal.outcome
    left = removed or {}
    sources = {name: _source_line(name, journal, _left(left, FLOW, name)) for name in sorted(journal.journalled)}
    targets: dict[str, dict[str, TargetLine]] = {}
    for target, spool in spools.items():
        settled = outcome.targets.get(target, Counter())
        targets[target] = {
            name: _target_line(name, spool, settled[name], _left(left, target, name))
            for name in sorted({*spool.routed, *settled})
        }
    return Account(sources, targets)


def _left(removed: Removed, target: str, source: str) -> dict[str, int]:
    """How many dead letters of a source left their store, by reason."""
    found = {reason: by_target.get(target, {}).get(source, 0) for reason, by_target in removed.items()}
    return {reason: count for reason, count in found.items() if count}


def _source_line(name: str, journal: JournalAccount, left: dict[str, int]) -> SourceLine:
    outcome = journal.outcome
    filtered = Counter({reason: counts[name] for reason, counts in outcome.filtered.items()})
    filtered.update({LEFT.get(reason, reason): count for reason, count in left.items() if reason != REPLAYED})
    return SourceLine(
        journalled=journal.journalled[name],
        waiting=journal.waiting[name],
        filtered={reason: count for reason, count in filtered.items() if count},
        routed=outcome.routed[name] + left.get(REPLAYED, 0),
        dead_letters=outcome.dead[name] - sum(left.values()),
    )


def _target_line(name: str, spool: LaneAccount, settled: int, left: dict[str, int]) -> TargetLine:
    gone = {LEFT.get(reason, reason): count for reason, count in left.items() if reason != REPLAYED}
    discarded = Counter({reason: counts[name] for reason, counts in spool.discarded.items()})
    discarded.update(gone)
    return TargetLine(
        routed=spool.routed[name],
        settled=settled,
        delivered=spool.delivered[name],
        stored=spool.stored[name],
        discarded={reason: count for reason, count in discarded.items() if count},
        dead_letters=spool.dead[name] - sum(gone.values()),  # the spool itself counts those that are sent again
    )
