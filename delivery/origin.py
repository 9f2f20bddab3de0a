"""Where readings of a spool come from when they are dead letters that are sent again."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from delivery.intervals import Intervals


@dataclass(frozen=True, slots=True)
class Origin:
    """The dead letters that readings were.

    Attributes:
        store: Incarnation of the store of dead letters.
        numbers: Their numbers there, one per reading.
        from_flow: They were dead letters of the flow, so that the spool never had them; else its own target's.
        untrimmed: The flow may bring them again.
    """

    store: str
    numbers: np.ndarray
    from_flow: bool = False
    untrimmed: bool = False

    def take(self, rows: np.ndarray | slice) -> "Origin":
        """The origin of some of the readings."""
        return replace(self, numbers=self.numbers[rows])

    def to_list(self) -> list[Any]:
        """As plain values; the numbers as intervals, without their order."""
        intervals = Intervals()
        intervals.add_all(np.sort(self.numbers))
        return [self.store, intervals.to_list(), self.from_flow, self.untrimmed]

    @staticmethod
    def from_list(values: Sequence[Any]) -> "Origin":
        """From `to_list`."""
        store, intervals, from_flow, untrimmed = values
        runs = [np.arange(first, last + 1) for first, last in intervals]
        return Origin(store, np.concatenate([np.empty(0, np.int64), *runs]), from_flow, untrimmed)
