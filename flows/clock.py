"""When the flow takes its turns, and the ends of epochs: a wall clock set back, and partitions that end at different times."""

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Final

TOLERATED: Final = 0.5  # seconds by which an epoch may last longer
_HELD_UP: Final = 0.05
_EARLY: Final = 0.005  # seconds that the flow may take from one partition to the next
_LATER: Final = 0.001
_LONGEST_PAUSE: Final = 0.5
_TURN: Final = 0.02, 0.1  # seconds between two turns, at least and at most
_TURNS_A_LINGER: Final = 5


def pace(lingers: Iterable[float]) -> float:
    """Seconds between two turns of the flow: each costs the same for one reading as for some hundred.

    Args:
        lingers: Seconds that each target lets readings gather; where all of them do, the flow does for a part of that.
    """
    least, most = _TURN
    return min(max(min(lingers, default=0.0) / _TURNS_A_LINGER, least), most)


def lead() -> float:
    """Seconds by which the wall clock is ahead of the monotonic one."""
    while True:
        before = time.monotonic()
        wall = time.time()
        if time.monotonic() - before < _HELD_UP:  # or the thread was held up between the two
            return wall - before


class Epochs:
    """Has the epochs of all partitions end together.

    Bytewax ends the epoch of each partition by itself and asks it for nothing more until all have ended and are durable: one
    that is ahead by a quarter of a second would stand still for as long, in every epoch.

    Args:
        interval: Seconds that an epoch lasts.
    """

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._began: dict[int, tuple[int, float]] = {}  # by partition: number of its epoch, and when it began

    def begin(self, partition: int, at: float) -> None:
        """A partition's epoch began at `at`, seconds on the monotonic clock."""
        self._began[partition] = self._began.get(partition, (0, 0.0))[0] + 1, at

    def due(self) -> float:
        """From when on `pause` may ask for one: shortly before the first epoch ends; far away when nothing is known."""
        return min((began for _, began in self._began.values()), default=float("inf")) + self._interval - _EARLY

    def pause(self, now: float) -> float:
        """Seconds for which no partition may be asked, so that the one that began first does not end before the others."""
        numbers = {number for number, _ in self._began.values()}
        if len(numbers) != 1 or now < self.due():
            return 0.0
        last = max(began for _, began in self._began.values()) + self._interval + _LATER
        return min(max(0.0, last - now), _LONGEST_PAUSE)


class EpochClock:
    """By how much the wall clock was set back in an epoch; Bytewax ends epochs by it.

    Args:
        lead: The wall clock's lead at a time before the first epoch began.
    """

    def __init__(self, lead: float) -> None:
        self._lead = self._highest = lead

    def set_back(self) -> float:
        """Seconds by which this epoch lasts longer than it should."""
        now = lead()
        self._highest = max(self._highest, now)
        return self._lead - now

    def next_epoch(self) -> None:
        """An epoch ended; the next one began at some time since `set_back` was asked last."""
        self._lead, self._highest = self._highest, lead()


async def repeatedly(act: Callable[[], None], interval: float) -> None:
    """Do something at once and every `interval` seconds, in another thread."""
    while True:
        await asyncio.to_thread(act)
        await asyncio.sleep(interval)
