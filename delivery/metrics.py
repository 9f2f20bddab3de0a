"""Every metric of the gateway, declared once; labels are names of sources and targets, never tags."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, disable_created_metrics

from connectors.contract import PoolUse

disable_created_metrics()  # type: ignore[no-untyped-call]
REGISTRY: Final = CollectorRegistry(auto_describe=True)
ProcessCollector(registry=REGISTRY)  # memory, CPU, files and when it began; read when somebody looks


@dataclass(frozen=True, slots=True)
class Declared:
    """A metric as it is declared.

    Attributes:
        name: Its name, of a counter with ``_total``.
        kind: counter, gauge or histogram.
        labels: What tells its series apart.
        meaning: What it counts or measures.
        metric: What is set.
    """

    name: str
    kind: str
    labels: tuple[str, ...]
    meaning: str
    metric: Counter | Gauge | Histogram


DECLARED: Final[list[Declared]] = []


def _counter(name: str, meaning: str, *labels: str) -> Counter:
    counter = Counter(name, meaning, labels, registry=REGISTRY)
    DECLARED.append(Declared(name, "counter", labels, meaning, counter))
    return counter


def _gauge(name: str, meaning: str, *labels: str) -> Gauge:
    gauge = Gauge(name, meaning, labels, registry=REGISTRY)
    DECLARED.append(Declared(name, "gauge", labels, meaning, gauge))
    return gauge


def _histogram(name: str, meaning: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
    histogram = Histogram(name, meaning, labels, buckets=buckets, registry=REGISTRY)
    DECLARED.append(Declared(name, "histogram", labels, meaning, histogram))
    return histogram


INFO: Final = _gauge("bifrost_gateway_info", "1; the name of the gateway and its version", "gateway", "version")
STATE: Final = _gauge("bifrost_gateway_state", "0 all is well, 1 a source or target is not, 2 the gateway stops")
RECEIVED: Final = _counter("bifrost_bridge_records_received_total", "Readings received from a source", "source")
NORMALIZED: Final = _counter("bifrost_bridge_records_normalized_total", "Readings normalized")
ENQUEUED: Final = _counter("bifrost_bridge_records_enqueued_total", "Readings put into a target's spool", "connector")
DEFAULTED: Final = _counter(
    "bifrost_bridge_records_defaulted_total", "Readings that matched no rule and go to the default"
)
DROPPED: Final = _counter("bifrost_bridge_records_dropped_total", "Readings that no target gets, by reason", "reason")
FILTERED: Final = _counter(
    "bifrost_bridge_records_filtered_total",
    "Readings of a source that report by exception left out or held back, by reason",
    "source",
    "reason",
)
PASSED_LATE: Final = _counter(
    "bifrost_bridge_records_passed_late_total", "Readings that a swinging door held back and then let out"
)
BATCHES_SENT: Final = _counter("bifrost_bridge_batches_sent_total", "Units delivered", "connector")
RECONNECTIONS: Final = _counter("bifrost_bridge_reconnections_total", "Times a source was connected again", "source")
SOURCE_UP: Final = _gauge("bifrost_source_connected", "1 while a source is connected", "source")
LAST_READING: Final = _gauge(
    "bifrost_source_last_reading_timestamp_seconds", "When a source last gave a reading", "source"
)
SOURCE_TAGS: Final = _gauge(
    "bifrost_source_tags", "Tags that a source has given since the gateway was started", "source"
)
LAST_GAP: Final = _gauge(
    "bifrost_source_last_gap_timestamp_seconds", "When the last gap in a source's readings ended; 0 for none", "source"
)
GAPS: Final = _counter("bifrost_source_gaps_total", "Times that readings of a source were missed", "source")
ODDITIES: Final = _gauge(
    "bifrost_source_oddities",
    "What a source's reader counts: rebirth requests, messages out of order …",
    "source",
    "what",
)
MEASURES: Final = _gauge(
    "bifrost_source_measure",
    "What a source's reader measures: seconds that a server's clock is ahead, when certificates end …",
    "source",
    "what",
)
CERTIFICATE_DAYS: Final = _gauge(
    "bifrost_certificate_days_left",
    "Days until a source's or target's certificate ends, negative after that: its own, an authority (ca), one that it trusts "
    "(trusted, issuer), or the one that its server shows (peer)",
    "owner",
    "kind",
)
LEDGER: Final = _gauge(
    "bifrost_ledger_records",
    "Readings of a source by what became of them, since the journal was begun",
    "source",
    "state",
)
ROUTE_LEDGER: Final = _gauge(
    "bifrost_ledger_route_records",
    "Readings of a source for a target by what became of them, since its spool was begun",
    "source",
    "connector",
    "state",
)

SENT: Final = _counter("bifrost_cloud_data_points_sent_total", "Readings that a target acknowledged", "connector")
FAILED: Final = _counter(
    "bifrost_cloud_data_points_failed_total", "Readings that a target will never take", "connector"
)
OPERATIONS: Final = _counter("bifrost_cloud_batch_operations_total", "Writes tried, by result", "connector", "result")
CONNECTIONS: Final = _counter(
    "bifrost_cloud_connection_attempts_total", "Connections tried, by result", "connector", "result"
)
CONNECTED: Final = _gauge("bifrost_cloud_connected", "1 while the connection to a target is open", "connector")
ERRORS: Final = _gauge(
    "bifrost_cloud_errors",
    "Writes and connections of a target that failed since the gateway was started, by class",
    "connector",
    "reason",
)
SUCCESS: Final = _gauge(
    "bifrost_cloud_success_ratio", "Share of a target's last 1,000 writes and connections that went well", "connector"
)
IN_FLIGHT: Final = _gauge("bifrost_cloud_in_flight", "Writes to a target that are under way", "connector")
LAST_SUCCESS: Final = _gauge(
    "bifrost_cloud_last_success_timestamp_seconds", "When a target last acknowledged a unit; 0 for never", "connector"
)
BUFFERED: Final = _gauge("bifrost_cloud_buffer_size", "Readings that wait in a target's spool", "connector")
RESPONSE_TIME: Final = _histogram(
    "bifrost_cloud_response_time_seconds",
    "Time from sending a unit to its durable acknowledgement",
    (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
    "connector",
)

POOL_SIZE: Final = _gauge("bifrost_cloud_pool_size", "Connections that a target's pool may have", "connector")
POOL_OPEN: Final = _gauge("bifrost_cloud_pool_open", "Connections that a target's pool has", "connector")
POOL_IN_USE: Final = _gauge(
    "bifrost_cloud_pool_in_use", "Connections of a target's pool that carry a write", "connector"
)
POOL_WAITING: Final = _gauge("bifrost_cloud_pool_waiting", "Writes that wait for a connection of the pool", "connector")

QUEUE_SIZE: Final = _gauge("bifrost_backpressure_queue_size", "Readings in memory between journal and flow")
QUEUE_CAPACITY: Final = _gauge("bifrost_backpressure_queue_capacity", "Readings held in memory at most")
SPOOLED_BYTES: Final = _gauge("bifrost_backpressure_disk_spooled_bytes", "Bytes of journal and spools on disk")
DEAD_LETTERS: Final = _gauge("bifrost_backpressure_dlq_messages", "Dead letters in the store")
DEAD_LETTER_BYTES: Final = _gauge("bifrost_dead_letters_bytes", "Bytes of dead letters on disk")
DEAD_LETTER_QUOTA: Final = _gauge("bifrost_dead_letters_quota_bytes", "Bytes that dead letters may take on disk")
DEAD_LETTER_ALARM: Final = _gauge("bifrost_dead_letters_alarm", "1 while dead letters are let go or left out")
DEAD_LETTERS_DISCARDED: Final = _gauge(
    "bifrost_dead_letters_discarded_records", "Dead letters let go or left out because their store was full"
)

ZEROBUS_SENT: Final = _counter("bifrost_zerobus_batches_sent_total", "Units that ZeroBus acknowledged", "connector")
ZEROBUS_FAILED: Final = _counter("bifrost_zerobus_batches_failed_total", "Units that ZeroBus did not take", "connector")
ZEROBUS_BREAKER: Final = _gauge("bifrost_zerobus_circuit_breaker_state", "0 closed, 1 half open, 2 open", "connector")
BREAKER: Final = _gauge("bifrost_cloud_circuit_breaker_state", "0 closed, 1 half open, 2 open", "connector")

SYNCS: Final = _counter("bifrost_disk_syncs_total", "Files that journal, spools and dead letters made durable")
WRITTEN: Final = _gauge("bifrost_disk_written_bytes", "Bytes that the process made the disk write since it began")
DISK_YEARS: Final = _gauge(
    "bifrost_disk_years_left", "Years that the disk lasts at the present pace; there when gateway.endurance is set"
)
SPOOL_BYTES: Final = _gauge("bifrost_spool_bytes", "Bytes that wait in a target's spool", "connector")
SPOOL_QUOTA: Final = _gauge("bifrost_spool_quota_bytes", "Bytes that may wait in a target's spool", "connector")
SPOOL_FILLED: Final = _gauge(
    "bifrost_spool_filled_ratio",
    "How full a target's spool is, 0 to 1: of its bytes or of its readings, whichever is more",
    "connector",
)
ALARM: Final = _gauge(
    "bifrost_spool_alarm", "1 while a target's spool discards readings or stops the flow", "connector"
)
DISCARDED: Final = _gauge(
    "bifrost_spool_discarded_records", "Readings that a target's spool let go since it was begun", "connector", "reason"
)
OLDEST: Final = _gauge("bifrost_spool_oldest_seconds", "Age of the oldest reading that waits for a target", "connector")
TIME_TO_FULL: Final = _gauge(
    "bifrost_spool_full_seconds", "Time until a target's spool is full at its present growth; -1 for never", "connector"
)
KEPT: Final = _gauge(
    "bifrost_spool_kept_records", "Readings kept for a target that is not in the configuration", "connector"
)
KEPT_BYTES: Final = _gauge("bifrost_spool_kept_bytes", "Bytes of them", "connector")
TELEMETRY_SENT: Final = _counter(
    "bifrost_telemetry_sent_total", "Samples or events that were taken by who is told of the gateway", "what"
)
TELEMETRY_DROPPED: Final = _counter(
    "bifrost_telemetry_dropped_total", "Samples or events that are not sent any more, by reason", "what", "reason"
)
TELEMETRY_BYTES: Final = _gauge("bifrost_telemetry_bytes", "Bytes of samples or events on disk", "what")
TELEMETRY_OLDEST: Final = _gauge(
    "bifrost_telemetry_oldest_seconds", "Age of the oldest sample or event that waits to be sent", "what"
)
CLOCK_SET_BACK: Final = _counter(
    "bifrost_clock_set_back_total", "Times that the wall clock was set back under the running flow"
)
DAMAGED: Final = _counter(
    "bifrost_store_damage_total", "Places in journal, spools and dead letters where records were lost"
)
COLLISIONS: Final = _gauge("bifrost_path_collisions", "Paths that more than one tag has")
UNACCOUNTED: Final = _gauge("bifrost_unaccounted", "Readings that the account cannot explain; 0 when all is well")


_ENDING: Final[set[tuple[str, str]]] = set()
_KEPT: Final[set[str]] = set()


def show_certificates(days: Mapping[tuple[str, str], float]) -> None:
    """Set the gauges of certificates, by owner and kind."""
    for gone in _ENDING - days.keys():
        with contextlib.suppress(KeyError):  # somebody else looks at the same time
            CERTIFICATE_DAYS.remove(*gone)
    _ENDING.intersection_update(days)
    _ENDING.update(days)
    for (owner, kind), left in days.items():
        CERTIFICATE_DAYS.labels(owner, kind).set(left)


def show_kept(kept: Mapping[str, tuple[int, int]]) -> None:
    """Set the gauges of what is kept for targets that are not in the configuration: readings and bytes, by target."""
    for gone in _KEPT - kept.keys():
        for gauge in (KEPT, KEPT_BYTES):
            gauge.remove_by_labels({"connector": gone})
    _KEPT.intersection_update(kept)
    _KEPT.update(kept)
    for connector, (readings, size) in kept.items():
        KEPT.labels(connector).set(readings)
        KEPT_BYTES.labels(connector).set(size)


def show_pool(connector: str, use: PoolUse) -> None:
    """Set the gauges of a target's pool."""
    POOL_SIZE.labels(connector).set(use.size)
    POOL_OPEN.labels(connector).set(use.open)
    POOL_IN_USE.labels(connector).set(use.in_use)
    POOL_WAITING.labels(connector).set(use.waiting)


def begin_target(connector: str, *, zerobus: bool) -> None:
    """Show what counts from the start, so that the first failure is seen as an increase.

    Args:
        connector: Name of the target.
        zerobus: Whether it counts under the ZeroBus metrics too.
    """
    own = (ZEROBUS_SENT, ZEROBUS_FAILED) if zerobus else ()
    for counter in (SENT, FAILED, BATCHES_SENT, ENQUEUED, *own):
        counter.labels(connector)
    for result in ("ok", "error"):
        CONNECTIONS.labels(connector, result)
    for gauge in (BREAKER, ZEROBUS_BREAKER) if zerobus else (BREAKER,):
        gauge.labels(connector).set(0)


def forget(label: str, name: str) -> None:
    """Show nothing more of a source or target that has gone.

    Args:
        label: ``source`` or ``connector``.
        name: Its name.
    """
    for declared in DECLARED:
        if label in declared.labels:
            declared.metric.remove_by_labels({label: name})
