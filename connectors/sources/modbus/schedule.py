"""When what is read: a deadline per interval on a clock that never goes back (pure)."""

from collections.abc import Iterable


class Schedule:
    """The deadlines of some intervals.

    Attributes:
        skipped: Cycles of each interval that were left out because reading took longer.
    """

    def __init__(self, intervals: Iterable[float], now: float) -> None:
        self.skipped = dict.fromkeys(sorted(intervals), 0)
        self._due = dict.fromkeys(self.skipped, now)

    def begin(self, now: float, below: float = float("inf")) -> list[float]:
        """The intervals, of those shorter than `below`, whose time has come, the shortest first; each is due again later."""
        due = [interval for interval, at in self._due.items() if at <= now and interval < below]
        for interval in due:
            self._due[interval] += interval
        return due

    def end(self, interval: float, now: float) -> int:
        """What `begin` gave has been read: leave out deadlines that are missed by a whole interval; returns how many."""
        missed = int((now - self._due[interval]) // interval)
        if missed < 1:
            return 0
        self._due[interval] += missed * interval
        self.skipped[interval] += missed
        return missed

    def next(self) -> float:
        """When the next interval is due."""
        return min(self._due.values())
