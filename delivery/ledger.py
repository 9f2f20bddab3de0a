"""What a lane of a spool knows: which readings it has had, which are settled, and the counts of its account.

Nothing here reads or writes a disk. The same calls that a running lane makes are made again from its records when it
opens, and `to_bytes` is the whole of it, as a segment's HEAD holds it.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from delivery.disk import StoreError
from delivery.entry import pack, unpack
from delivery.identities import Identities
from delivery.intervals import Intervals
from delivery.origin import Origin
from delivery.outcome import LaneAccount

_FORMAT: Final = 3  # 2 knew no dead letters that are sent again

Close = tuple[
    int, list[tuple[int, int]], dict[str, int], Sequence[Sequence[Any]], str
]  # as `LaneLedger.close` takes it


@dataclass(slots=True)
class Numbers:
    """Numbers of units; the lanes of a spool share them."""

    next: int = 1


class LaneLedger:
    """What a lane knows.

    Args:
        numbers: The spool's numbers of units.
        own_shard: Whether a shard is one of this gateway's journal, so that its trims will be announced.

    Attributes:
        account: Its counts.
        open: Unit that was recorded and not closed, with its entries.
        done: Every entry up to here is settled and gone.
        settled: Settled entries above it, each with what lies between it and the one before.
        dead: Rows that are dead letters, of entries that are not settled.
        dead_sources: How many of them are of each source.
        newest: Number of the newest entry.
        replayed: Dead letters that were sent again, by their store, until they have left it for certain.
    """

    def __init__(self, numbers: Numbers, own_shard: Callable[[str], bool]) -> None:
        self.numbers = numbers
        self.account = LaneAccount()
        self.open: tuple[int, list[int]] | None = None
        self.done = 0
        self.settled = Intervals()
        self.dead: dict[int, np.ndarray] = {}
        self.dead_sources: dict[int, Counter[str]] = {}
        self.newest = 0
        self.replayed: dict[str, Intervals] = {}
        self._own_shard = own_shard
        self._known = Identities()
        self._derived: deque[Identities] = deque([Identities()], maxlen=3)

    def to_bytes(self) -> bytes:
        """All of it."""
        account = self.account
        return pack(
            [
                _FORMAT,
                self.numbers.next,
                self.open,
                self.done,
                self.settled.to_list(),
                self.newest,
                [[number, rows.tolist(), self.dead_sources[number]] for number, rows in self.dead.items()],
                [account.routed, account.delivered, account.dead, account.discarded],
                self._known.to_list(),
                [run for generation in self._derived for run in generation.to_list()],
                {store: numbers.to_list() for store, numbers in self.replayed.items()},
            ]
        )

    def load(self, data: memoryview, directory: Path) -> None:
        """Become what `to_bytes` wrote.

        Raises:
            StoreError: Another version wrote it.
        """
        version, *rest = unpack(data)
        if version not in (_FORMAT, 2):  # the first one had no lanes, see `delivery.upgrade`
            raise StoreError(f"{directory} was written by a newer version of Bifrost; start that version")
        next_unit, opened, self.done, settled, self.newest, dead, counts, known, derived, *replayed = rest
        self.replayed = {store: Intervals(numbers) for part in replayed for store, numbers in part.items()}
        self.numbers.next = max(self.numbers.next, next_unit)
        self.open = (opened[0], opened[1]) if opened else None
        self.settled = Intervals(settled)
        self.dead = {number: np.array(rows, np.int64) for number, rows, _ in dead}
        self.dead_sources = {number: Counter(sources) for number, _, sources in dead}
        routed, delivered, dead_letters = (Counter(count) for count in counts[:3])
        discarded = {reason: Counter(sources) for reason, sources in counts[3].items()}
        self.account = LaneAccount(routed, delivered, dead_letters, discarded)
        self._known = Identities.from_list(known)
        self._derived = deque([Identities.from_list(derived)], maxlen=3)

    def succeed(
        self,
        next_unit: int,
        opened: tuple[int, list[int]] | None,
        dead: dict[int, tuple[np.ndarray, Counter[str]]],
        account: LaneAccount,
        known: Identities,
        derived: Identities,
    ) -> None:
        """Know what a store of an earlier format did, beside the entries that were taken over from it.

        Args:
            next_unit: Number of the next unit.
            opened: The unit that was recorded and not closed, with its entries as they are numbered here.
            dead: Rows that are dead letters, and how many of each source, by entry.
            account: All counts.
            known: Readings that may come again.
            derived: Readings of steps that may.
        """
        self.numbers.next, self.open, self.account = next_unit, opened, account
        self.dead = {number: rows for number, (rows, _) in dead.items()}
        self.dead_sources = {number: sources for number, (_, sources) in dead.items()}
        self._known, self._derived = known, deque([derived], maxlen=3)

    # ------------------------------------------------------------------ readings that come

    def enter(
        self,
        number: int,
        gateway: str,
        shard: str,
        sequences: np.ndarray,
        sources: dict[str, int],
        origin: Origin | None = None,
    ) -> None:
        """Entry `number` holds these readings, which were dead letters when they have an origin."""
        self.newest = number
        if origin is None or origin.untrimmed:
            self._remember(gateway, shard, sequences)
        if origin is None or origin.from_flow:
            self.account.routed.update(sources)
        else:
            self.account.dead.subtract(sources)
        if origin is not None:
            self.replayed.setdefault(origin.store, Intervals()).add_all(np.sort(origin.numbers))

    def leave_out(self, gateway: str, shard: str, sequences: np.ndarray, sources: dict[str, int], reason: str) -> None:
        """These readings came and were discarded."""
        self._remember(gateway, shard, sequences)
        self.account.routed.update(sources)
        self.account.discarded.setdefault(reason, Counter()).update(sources)

    def had(self, gateway: str, shard: str, sequences: np.ndarray) -> np.ndarray | None:
        """Which readings came before, as booleans; None when none."""
        if self._own_shard(shard):
            return self._known.had(shard, sequences)
        known: np.ndarray | None = None
        for generation in self._derived:
            found = generation.had(f"{gateway}/{shard}", sequences)
            if found is not None:
                known = found if known is None else known | found
        return known

    def renew(self, gateway: str, shard: str, sequences: np.ndarray) -> None:
        """Readings of a step came again: their epoch may end here and not elsewhere, and come any number of times."""
        if not self._own_shard(shard) and (known := self.had(gateway, shard, sequences)) is not None:
            self._derived[-1].add(f"{gateway}/{shard}", sequences[known])

    def _remember(self, gateway: str, shard: str, sequences: np.ndarray) -> None:
        if self._own_shard(shard):
            self._known.add(shard, sequences)
        else:
            self._derived[-1].add(f"{gateway}/{shard}", sequences)

    def forget(self, shard: str, upto: int) -> None:
        """Readings of the journal's `shard` up to sequence `upto` will not come again."""
        self._known.forget(shard, upto)

    def close_epoch(self) -> None:
        """Readings of steps are remembered for two more epochs."""
        self._derived.append(Identities())

    def untrimmed(self, shards: Iterable[str]) -> int:
        """Readings of the journal's `shards` that may come again."""
        return sum(self._known.count(shard) for shard in shards)

    # ------------------------------------------------------------------ readings that go

    def number_unit(self) -> int:
        """A number that no unit has had."""
        self.numbers.next += 1
        return self.numbers.next - 1

    def record(self, unit: int, entries: list[int]) -> None:
        """A unit is recorded."""
        self.open, self.numbers.next = (unit, entries), max(self.numbers.next, unit + 1)

    def waits(self, number: int, row: int) -> bool:
        """Whether row `row` of entry `number` has neither been delivered, nor discarded, nor become a dead letter."""
        return number <= self.newest and not self.is_settled(number) and row not in self.dead.get(number, ())

    def left(self, number: int, rows: int) -> np.ndarray:
        """Rows of entry `number`, of so many, that wait."""
        every = np.arange(0 if self.is_settled(number) else rows)
        return every[~np.isin(every, self.dead.get(number, ()))]

    def is_settled(self, number: int) -> bool:
        """Whether entry `number` is."""
        return number <= self.done or number in self.settled

    def close(
        self,
        unit: int,
        intervals: Sequence[tuple[int, int]],
        gone: dict[str, int],
        dead: Sequence[Sequence[Any]],
        reason: str,
    ) -> None:
        """A unit is closed, or entries are discarded.

        Args:
            unit: Its number; 0 for none.
            intervals: The entries that are settled by it, each with what lies between it and the one before.
            gone: Readings by source that the target has, or that were discarded.
            dead: Entry, rows, and readings by source, of what became dead letters.
            reason: Why they were discarded; empty when the target has them.
        """
        account = self.account
        for number, rows, sources in dead:
            known = self.dead.get(number, np.empty(0, np.int64))
            self.dead[number] = np.union1d(known, np.asarray(rows, np.int64))
            self.dead_sources.setdefault(number, Counter()).update(sources)
            account.dead.update(sources)
        for first, last in intervals:
            self.settled.add(first, last)
        for number in [number for number in self.dead if number in self.settled]:
            del self.dead[number], self.dead_sources[number]
        (account.discarded.setdefault(reason, Counter()) if reason else account.delivered).update(gone)
        self.numbers.next = max(self.numbers.next, unit + 1)
        if self.open is not None and self.open[0] == unit:
            self.open = None

    def drop(self, upto: int) -> None:
        """Nothing up to `upto` is there any more."""
        if upto > self.done:
            self.done = upto
            self.settled.forget(upto)
