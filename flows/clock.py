"""The wall clock being set back. Bytewax ends epochs by it: one would last until the clock has caught up."""

import time
from typing import Final

TOLERATED: Final = 0.5  # seconds by which an epoch may last longer
_HELD_UP: Final = 0.05


def lead() -> float:
    """Seconds by which the wall clock is ahead of the monotonic one."""
    while True:
        before = time.monotonic()
        wall = time.time()
        if time.monotonic() - before < _HELD_UP:  # or the thread was held up between the two
            return wall - before


class EpochClock:
    """By how much the wall clock was set back in an epoch.

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
