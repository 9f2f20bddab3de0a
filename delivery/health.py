"""How a target stands: what happened at the last writes, and what the buffer in front of it tells."""

import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from connectors.contract import Pooled, PoolUse, Writer
from delivery.breaker import BreakerState

_WRITES: Final = 1000  # that response times and success rate speak of
_GROWTH: Final = 60.0  # seconds that the rate of growth speaks of


@dataclass(slots=True)
class TargetStatus:
    """How a target stands.

    Attributes:
        connected: Whether its writer is open.
        breaker: State of its circuit breaker.
        last_success: When it last took a unit, seconds since the epoch.
        last_error: What it said last, empty when all is well.
        error_class: Class of that error.
        delivered: Readings delivered since the process began.
        errors: Errors by class since the process began.
        in_flight: Writes under way.
    """

    connected: bool = False
    breaker: BreakerState = BreakerState.CLOSED
    last_success: float | None = None
    last_error: str = ""
    error_class: str = ""
    delivered: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    in_flight: int = 0
    _took: deque[float] = field(default_factory=lambda: deque(maxlen=_WRITES))
    _succeeded: deque[bool] = field(default_factory=lambda: deque(maxlen=_WRITES))

    def note_success(self, rows: int, took: float) -> None:
        """The target took a unit.

        Args:
            rows: Readings in it.
            took: Seconds from sending it to its durable acknowledgement.
        """
        self.last_success, self.last_error, self.error_class = time.time(), "", ""
        self.delivered += rows
        self._took.append(took)
        self._succeeded.append(True)

    def note_error(self, kind: str, error: str) -> None:
        """A write or a connection failed."""
        self.last_error, self.error_class = error, kind
        self.errors[kind] = self.errors.get(kind, 0) + 1
        self._succeeded.append(False)

    @property
    def success_rate(self) -> float | None:
        """Share of the last writes that succeeded; None before the first."""
        return sum(self._succeeded) / len(self._succeeded) if self._succeeded else None

    def response_time(self, share: float) -> float | None:
        """Seconds within which `share` of the last units were acknowledged; None before the first."""
        return quantile(self._took, share)


def pool_use(writer: Writer) -> PoolUse | None:
    """How the pool of a writer is used; None for one that has none."""
    return writer.pool() if isinstance(writer, Pooled) else None


def quantile(values: Iterable[float], share: float) -> float | None:
    """The least of `values` that `share` of them do not exceed; None when there are none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None


class Growth:
    """How fast something grows, over the last minute."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, float]] = deque()

    def note(self, now: float, size: float) -> None:
        """It has `size` at `now`, in seconds."""
        self._seen.append((now, size))
        while self._seen[0][0] < now - _GROWTH:
            self._seen.popleft()

    @property
    def per_second(self) -> float:
        """Growth per second; 0 as long as that cannot be told."""
        (began, before), (ended, after) = (self._seen[0], self._seen[-1]) if self._seen else ((0.0, 0.0), (0.0, 0.0))
        return (after - before) / (ended - began) if ended > began else 0.0

    def reaches(self, bound: float) -> float | None:
        """Seconds until it reaches `bound` at this rate; None when it does not grow."""
        rate = self.per_second
        return max(0.0, bound - self._seen[-1][1]) / rate if rate > 0 else None
