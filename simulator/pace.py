"""Keeps time for a source: says which group of tags is due, and gives each reading its number."""

import asyncio
import heapq
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from simulator.ledger import Ledger
from simulator.plant import Group, Source

_TICK: Final = 0.005
_BEHIND: Final = 1.0

Emit = Callable[[Group, int, int, int], Awaitable[bool]]
"""Give out reading `n` of a group: (group, number of its first tag, n, time in µs); False if it could not be given out."""


class Pace:
    """Calls `emit` for each group at its period until cancelled; the numbers of a group have no gaps.

    Groups are spread over their periods. When the machine falls behind by more than a second, the time is given up
    and not made good in a burst. A group whose `emit` says False keeps its number for the next time.
    """

    def __init__(self, source: Source, ledger: Ledger | None = None) -> None:
        self._groups: Sequence[Group] = source.groups
        firsts, first = [], 0
        for group in source.groups:
            firsts.append(first)
            first += len(group.tags)
        self._firsts = firsts
        self._numbers = [ledger.last[start] if ledger is not None else 0 for start in firsts]
        self._running = asyncio.Event()
        self._running.set()

    def pause(self) -> None:
        """Give out nothing until `resume`."""
        self._running.clear()

    def resume(self) -> None:
        """Go on after `pause`."""
        self._running.set()

    def take(self, index: int) -> tuple[int, int]:
        """Number of a group's first tag, and the group's next number, which counts as given out."""
        self._numbers[index] += 1
        return self._firsts[index], self._numbers[index]

    async def run(self, emit: Emit) -> None:
        """Give out readings until cancelled."""
        count = len(self._groups)
        begin = time.monotonic()
        due = [(begin + group.period * index / count, index) for index, group in enumerate(self._groups)]
        heapq.heapify(due)
        while True:
            await self._running.wait()
            now = time.monotonic()
            if due[0][0] > now:
                await asyncio.sleep(max(due[0][0] - now, _TICK))
                continue
            moment, index = due[0]
            group = self._groups[index]
            n = self._numbers[index] + 1
            if await emit(group, self._firsts[index], n, time.time_ns() // 1000):
                self._numbers[index] = n
            late = now - moment
            heapq.heapreplace(due, (now + group.period if late > _BEHIND else moment + group.period, index))
