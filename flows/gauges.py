"""The gauges that are counted when somebody looks."""

import threading
import time
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING

from config.certificates.used import ends, peers
from delivery import metrics
from delivery.account import Account, next_scan
from delivery.wear import written_bytes, years
from flows import standing

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
            metrics.CONNECTED.labels(name).set(forwarder.status.connected)
            if (share := forwarder.status.success_rate) is not None:
                metrics.SUCCESS.labels(name).set(share)
            for kind, times in list(forwarder.status.errors.items()):
                metrics.ERRORS.labels(name, kind).set(times)
            metrics.IN_FLIGHT.labels(name).set(forwarder.status.in_flight)
            metrics.LAST_SUCCESS.labels(name).set(forwarder.status.last_success or 0.0)
            if (use := forwarder.pool) is not None:
                metrics.show_pool(name, use)
        for source, intake in process.intakes.items():
            metrics.SOURCE_TAGS.labels(source).set(len(intake.status.tags))
            gap = intake.status.last_gap
            metrics.LAST_GAP.labels(source).set(0.0 if gap is None else gap.end / 1e6)
            for what, times in list(intake.status.counts.items()):
                metrics.ODDITIES.labels(source, what).set(times)
            for what, value in list(intake.status.measures.items()):
                metrics.MEASURES.labels(source, what).set(value)
        measured = {source: dict(intake.status.measures) for source, intake in process.intakes.items()}
        now = datetime.now(UTC)
        metrics.show_certificates(ends(process.config, now) | peers(measured, now))
        metrics.INFO.labels(process.config.gateway, self._version).set(1)
        metrics.STATE.set(standing.state(process))
        metrics.show_kept({name: (line["readings"], line["bytes"]) for name, line in dict(process.kept).items()})
        journal, letters = process.journal, process.dead_letters
        metrics.QUEUE_SIZE.set(journal.waiting_rows)
        metrics.QUEUE_CAPACITY.set(journal.memory_rows)
        metrics.SPOOLED_BYTES.set(journal.size + sum(spool.size for spool in process.spools.values()))
        written, endurance = written_bytes(), process.config.endurance
        metrics.WRITTEN.set(written)
        if endurance and (left := years(endurance, written, time.time() - process.started)) is not None:
            metrics.DISK_YEARS.set(left)
        metrics.DEAD_LETTERS.set(letters.total)
        metrics.DEAD_LETTER_BYTES.set(letters.size)
        metrics.DEAD_LETTER_QUOTA.set(letters.policy.quota)
        metrics.DEAD_LETTER_ALARM.set(bool(letters.alarm))
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
