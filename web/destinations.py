"""Where readings go by the rules, for whoever looks; the flow has routers of its own."""

import threading
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import pyarrow as pa

from config.models import Configuration
from flows.isolation import isolate, refuse_routing
from flows.posted import router_of
from normalization.rules import Router, Rule


class Ruled(Protocol):
    """What has rules."""

    config: Configuration


def matching(router: Router, batch: pa.RecordBatch) -> list[tuple[Rule, np.ndarray]]:
    """Each rule of a router, and which readings of a batch it matches."""
    size = batch.num_rows
    found = []
    for rule, _, truth in router.verdicts(batch):
        found.append((rule, np.full(size, truth) if isinstance(truth, bool) else truth))
    return found


class Destinations:
    """Tells where readings go. Safe from any thread."""

    def __init__(self, process: Ruled) -> None:
        self._process = process
        self._lock = threading.Lock()
        self._made: tuple[Configuration, Router] | None = None

    def of(self, batch: pa.RecordBatch) -> list[list[str]]:
        """The targets of each reading of a batch of `stream_schema`; none for one that cannot be used."""
        found: list[list[str]] = [[] for _ in range(batch.num_rows)]
        start = 0
        with self._lock:
            for routed in isolate(self._router(), refuse_routing, batch):
                size = routed.batch.num_rows
                for target, rows in routed.targets.items():
                    for row in range(size) if rows is None else rows.tolist():
                        found[start + row].append(target)
                start += size
        return found

    def rules(self, batch: pa.RecordBatch) -> Sequence[str]:
        """The names of the rules that match the one reading of a batch."""
        with self._lock:
            return [rule.name for rule, matched in matching(self._router(), batch) if matched[0]]

    def _router(self) -> Router:
        config = self._process.config
        if self._made is None or self._made[0] is not config:
            self._made = config, router_of(config)
        return self._made[1]
