"""The gauges that are counted when somebody looks."""

import threading
import time
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING

from config.certificates.used import ends, peers
from delivery import metrics
from delivery.account import Account, next_scan
from delivery.wear import written_bytes

if TYPE_CHECKING:
    from flows.process import Process


class Gauges:
    """Sets the gauges of a process; its account, which costs a scan of the stores, not at every look."""

    def __init__(self) -> None:
        self._scanning = threading.Lock()
        self._next_scan = 0.0
        self._version = version("bifrost-gateway")

    def refresh(self, process: "Process") -> None:
        """Set them."""
        for name, spool in process.spools.items():
            metrics.BUFFERED.labels(name).set(spool.stored_rows)
            metrics.ALARM.labels(name).set(bool(spool.alarm))
            metrics.SPOOL_BYTES.labels(name).set(spool.size)
            metrics.SPOOL_QUOTA.labels(name).set(spool.policy.quota)
            metrics.SPOOL_FILLED.labels(name).set(spool.filled)
            metrics.OLDEST.labels(name).set(spool.oldest_age or 0.0)
            full_in = spool.full_in
            metrics.TIME_TO_FULL.labels(name).set(-1.0 if full_in is None else full_in)
            for reason, readings in spool.discarded.items():
                metrics.DISCARDED.labels(name, reason).set(readings)
        for name, forwarder in process.forwarders.items():
            if (use := forwarder.pool) is not None:
                metrics.show_pool(name, use)
        for source, intake in process.intakes.items():
            for what, times in list(intake.status.counts.items()):
                metrics.ODDITIES.labels(source, what).set(times)
            for what, value in list(intake.status.measures.items()):
                metrics.MEASURES.labels(source, what).set(value)
        measured = {source: dict(intake.status.measures) for source, intake in process.intakes.items()}
        now = datetime.now(UTC)
        metrics.show_certificates(ends(process.config, now) | peers(measured, now))
        metrics.INFO.labels(process.config.gateway, self._version).set(1)
        journal, letters = process.journal, process.dead_letters
        metrics.QUEUE_SIZE.set(journal.waiting_rows)
        metrics.QUEUE_CAPACITY.set(journal.memory_rows)
        metrics.SPOOLED_BYTES.set(journal.size + sum(spool.size for spool in process.spools.values()))
        metrics.WRITTEN.set(written_bytes())
        metrics.DEAD_LETTERS.set(letters.total)
        metrics.DEAD_LETTER_BYTES.set(letters.size)
        metrics.DEAD_LETTERS_DISCARDED.set(letters.discarded)
        with self._scanning:
            began = time.monotonic()
            if began >= self._next_scan:
                _show_account(process.account())
                self._next_scan = next_scan(began, time.monotonic())


def _show_account(account: Account) -> None:
    metrics.UNACCOUNTED.set(account.unaccounted)
    for source, line in account.sources.items():
        for state, count in line.states().items():
            metrics.LEDGER.labels(source, state).set(count)
    for target, lines in account.targets.items():
        for source, of_target in lines.items():
            for state, count in of_target.states().items():
                metrics.ROUTE_LEDGER.labels(source, target, state).set(count)
