"""docs/reference/metrics.md, from what is declared in `delivery.metrics`."""

from typing import Final

from delivery.metrics import DECLARED, Declared

# Names that the documents this project began with promise; GET /api/metrics has those of the second by their bare names.
PROMISED: Final = (
    "bifrost_cloud_data_points_sent_total",
    "bifrost_cloud_data_points_failed_total",
    "bifrost_cloud_batch_operations_total",
    "bifrost_cloud_connection_attempts_total",
    "bifrost_cloud_buffer_size",
    "bifrost_cloud_response_time_seconds",
    "bifrost_bridge_records_received_total",
    "bifrost_bridge_records_normalized_total",
    "bifrost_bridge_records_enqueued_total",
    "bifrost_bridge_records_dropped_total",
    "bifrost_bridge_batches_sent_total",
    "bifrost_bridge_reconnections_total",
    "bifrost_backpressure_queue_size",
    "bifrost_backpressure_queue_capacity",
    "bifrost_backpressure_disk_spooled_bytes",
    "bifrost_backpressure_dlq_messages",
    "bifrost_zerobus_batches_sent_total",
    "bifrost_zerobus_batches_failed_total",
    "bifrost_zerobus_circuit_breaker_state",
)
OF_THE_PROCESS: Final = {
    "process_resident_memory_bytes": ("gauge", "Memory that the gateway has in RAM"),
    "process_virtual_memory_bytes": ("gauge", "Address space that it has taken"),
    "process_cpu_seconds_total": ("counter", "CPU time that it has used"),
    "process_open_fds": ("gauge", "Files and sockets that it has open"),
    "process_max_fds": ("gauge", "Files and sockets that it may have open"),
    "process_start_time_seconds": ("gauge", "When it was started, seconds since the epoch"),
}

_INTRODUCTION: Final = """\
# Metrics

<!-- Written by `python -m config.reference` from delivery/metrics.py; change that. -->

`GET /metrics` of the gateway's HTTP port gives these in Prometheus' text format; [`k8s/observability`](../../k8s/observability/)
has dashboards and alert rules over them. Labels are names of sources (`source`) and targets (`connector`), never of tags, so that
their number does not grow with the plant.

- **counter**: only grows, and begins at 0 at each start of the gateway; ask for its `rate` or `increase`.
- **gauge**: what is so at the moment. What is counted in the stores (`bifrost_ledger_*`, `bifrost_spool_discarded_records` …) is
  a gauge too: it outlives restarts, and begins anew with the store.
- **histogram**: `_bucket`, `_sum` and `_count`.

Names in **bold** are fixed: dashboards of others rely on them.
"""

_SECTIONS: Final = (
    ("Sources and the dataflow", ("bifrost_bridge_", "bifrost_source_", "bifrost_path_", "bifrost_clock_")),
    ("Targets", ("bifrost_cloud_", "bifrost_zerobus_")),
    ("What waits, and what no target takes", ("bifrost_backpressure_", "bifrost_spool_", "bifrost_dead_letters_")),
    ("The account and the disk", ("bifrost_ledger_", "bifrost_unaccounted", "bifrost_disk_", "bifrost_store_")),
)


def page() -> str:
    """The page as Markdown."""
    out, shown = [_INTRODUCTION], set[str]()
    for title, beginnings in _SECTIONS:
        own = [one for one in DECLARED if one.name.startswith(beginnings)]
        shown |= {one.name for one in own}
        out += [f"## {title}\n", _table(own)]
    out += ["## The gateway\n", _table([one for one in DECLARED if one.name not in shown])]
    lines = [f"| `{name}` | {kind} | | {meaning} |" for name, (kind, meaning) in OF_THE_PROCESS.items()]
    out += ["## The process (on Linux)\n", "\n".join([_HEAD, *lines]) + "\n"]
    return "\n".join(out).rstrip() + "\n"


_HEAD: Final = "| name | type | labels | |\n|---|---|---|---|"


def _table(metrics: list[Declared]) -> str:
    lines = [_HEAD]
    for one in sorted(metrics, key=lambda one: one.name):
        name = f"**`{one.name}`**" if one.name in PROMISED else f"`{one.name}`"
        lines.append(f"| {name} | {one.kind} | {', '.join(f'`{label}`' for label in one.labels)} | {one.meaning} |")
    return "\n".join(lines) + "\n"
