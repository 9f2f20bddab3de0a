"""A set of record numbers, kept as intervals: small as long as what is in it lies together, in whatever order it came."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable

import numpy as np


class Intervals:
    """Numbers from `first` to `last`, any number of times; neighbours grow together."""

    def __init__(self, intervals: Iterable[tuple[int, int]] = ()) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        for first, last in intervals:
            self.add(first, last)

    def __contains__(self, number: int) -> bool:
        at = bisect_right(self._firsts, number) - 1
        return at >= 0 and number <= self._lasts[at]

    def __len__(self) -> int:
        return len(self._firsts)

    def holds(self, first: int, last: int) -> bool:
        """Whether all numbers from `first` to `last` are in it."""
        at = bisect_right(self._firsts, first) - 1
        return at >= 0 and last <= self._lasts[at]

    def has(self, numbers: np.ndarray) -> np.ndarray:
        """Which of `numbers` are in it, as booleans."""
        if not self._firsts:
            return np.zeros(len(numbers), bool)
        at = np.searchsorted(np.array(self._firsts), numbers, side="right") - 1
        return (at >= 0) & (numbers <= np.array(self._lasts)[at])

    def add_all(self, numbers: np.ndarray) -> None:
        """Put in `numbers`."""
        for run in np.split(numbers, np.flatnonzero(np.diff(numbers) != 1) + 1):
            if len(run):
                self.add(int(run[0]), int(run[-1]))

    def add(self, first: int, last: int) -> None:
        """Put in the numbers from `first` to `last`."""
        start = bisect_left(self._lasts, first - 1)
        end = bisect_right(self._firsts, last + 1)
        if start < end:
            first, last = min(first, self._firsts[start]), max(last, self._lasts[end - 1])
        self._firsts[start:end], self._lasts[start:end] = [first], [last]

    def forget(self, upto: int) -> None:
        """Leave out the numbers up to `upto`."""
        gone = bisect_right(self._lasts, upto)
        del self._firsts[:gone], self._lasts[:gone]
        if self._firsts and self._firsts[0] <= upto:
            self._firsts[0] = upto + 1

    def to_list(self) -> list[tuple[int, int]]:
        """The intervals, ascending."""
        return list(zip(self._firsts, self._lasts, strict=True))
