"""Readings per second of sources, steps and targets, from how their counters grow."""

import threading
import time
from collections import deque
from collections.abc import Mapping
from typing import Any, Final, Protocol

from prometheus_client import Counter

from delivery import metrics
from delivery.dead_letters import DeadLetterStore
from delivery.forwarder import Forwarder
from flows.intake import SourceIntake

_OVER: Final = 10.0  # seconds that a rate speaks of
_APART: Final = 0.9  # seconds between two looks at the counters, at least

Counts = dict[tuple[str, str], float]


class Counting(Protocol):
    """What counts."""

    dead_letters: DeadLetterStore

    @property
    def intakes(self) -> Mapping[str, SourceIntake]:
        """The sources' intakes."""

    @property
    def forwarders(self) -> Mapping[str, Forwarder]:
        """The targets' forwarders."""


def total(counter: Counter, label: str | None = None) -> dict[str, float]:
    """What a counter has counted, by the value of a label."""
    found: dict[str, float] = {}
    for family in counter.collect():
        for sample in family.samples:
            if sample.name.endswith("_total"):
                name = sample.labels[label] if label else ""
                found[name] = found.get(name, 0.0) + sample.value
    return found


class Rates:
    """Tells rates over the last seconds; those who look also note. Safe from any thread."""

    def __init__(self, process: Counting) -> None:
        self._process = process
        self._lock = threading.Lock()
        self._seen: deque[tuple[float, Counts]] = deque()

    def note(self) -> None:
        """Look at the counters, unless that was done a moment ago."""
        with self._lock:
            now = time.monotonic()
            if self._seen and now - self._seen[-1][0] < _APART:
                return
            self._seen.append((now, self._counts()))
            while len(self._seen) > 2 and now - self._seen[1][0] > _OVER:
                self._seen.popleft()

    def now(self) -> dict[tuple[str, str], float]:
        """Readings per second by kind (source, step, to, target) and name; nothing when it is too early to tell."""
        self.note()
        with self._lock:
            if len(self._seen) < 2:
                return {}
            (began, before), (ended, after) = self._seen[0], self._seen[-1]
        took = ended - began
        return {key: max(0.0, (count - before.get(key, 0.0)) / took) for key, count in after.items()}

    def _counts(self) -> Counts:
        process = self._process
        found: Counts = {("source", name): intake.status.received for name, intake in dict(process.intakes).items()}
        found |= {("target", name): forwarder.status.delivered for name, forwarder in dict(process.forwarders).items()}
        found |= {("to", name): count for name, count in total(metrics.ENQUEUED, "connector").items()}
        found["step", "normalize"] = sum(total(metrics.NORMALIZED).values())
        found["step", "left out"] = sum(total(metrics.FILTERED).values()) + sum(total(metrics.DROPPED).values())
        found["step", "dead letters"] = process.dead_letters.total
        return found


def rounded(rate: float | None) -> float | None:
    """A rate as it is shown."""
    if rate is None:
        return None
    return float(round(rate)) if rate >= 100 else round(rate, 2)


def listed(rates: Mapping[tuple[str, str], float], kind: str) -> dict[str, Any]:
    """The rates of one kind, by name."""
    return {name: rounded(rate) for (of, name), rate in rates.items() if of == kind}
