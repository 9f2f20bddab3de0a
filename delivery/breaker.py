"""Circuit breaker: after some failures in a row a target is only probed, one unit at a time."""

from enum import IntEnum


class BreakerState(IntEnum):
    """Where a breaker stands; the number is the metric's value."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


class Breaker:
    """Counts failures in a row.

    Args:
        threshold: Failures in a row that open it.
    """

    def __init__(self, threshold: int) -> None:
        self._threshold = threshold
        self.failures = 0
        self.state = BreakerState.CLOSED

    def success(self) -> None:
        """A write succeeded: closed."""
        self.failures = 0
        self.state = BreakerState.CLOSED

    def failure(self) -> None:
        """A write or a connection failed."""
        self.failures += 1
        if self.failures >= self._threshold:
            self.state = BreakerState.OPEN

    def probe(self) -> None:
        """The wait is over: an open breaker lets one unit through."""
        if self.state is BreakerState.OPEN:
            self.state = BreakerState.HALF_OPEN
