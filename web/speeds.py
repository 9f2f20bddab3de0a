"""Rates of counters that only grow, measured between two looks."""

import threading
import time
from collections.abc import Callable
from typing import Final

_LEAST: Final = 1.0  # seconds between the looks that are compared
_LONGEST: Final = 30.0  # an older look tells nothing of now


class Speeds:
    """Rates per second by name.

    Args:
        now: The monotonic clock.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._looks: dict[str, tuple[float, int, float | None]] = {}  # time, count, rate until then

    def of(self, name: str, count: int) -> float | None:
        """The rate of a counter since an earlier look; None at the first.

        Args:
            name: Its name.
            count: What it says now.
        """
        with self._lock:
            now = self._now()
            time_before, before, rate = self._looks.get(name, (float("-inf"), 0, None))
            passed = now - time_before
            if passed < _LEAST and count >= before:
                return rate
            new = round((count - before) / passed, 3) if passed <= _LONGEST and count >= before else None
            self._looks[name] = now, count, new
            return new
