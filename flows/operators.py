"""The flow's own operators: normalize and route batches, and the way to single readings and back for users' steps."""

import hashlib
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import bytewax.operators as op
import numpy as np
import pyarrow as pa
import structlog
from bytewax.dataflow import Stream, operator
from bytewax.operators import KeyedStream

from delivery import metrics
from delivery.journal import Outcome
from flows.process import Process
from normalization.reading import (
    FACTS,
    TAG_COLUMNS,
    Columns,
    Flags,
    Quality,
    Tag,
    TagTable,
    ValueType,
    numbers,
    repeat,
    view,
)
from normalization.rules import Routed, take

log = structlog.get_logger()

Batches = Stream[pa.RecordBatch]
_PRIORITY = "priority"


def step_name(target: str) -> str:
    """A target's name as part of a step id, which may hold no period."""
    return target.replace(".", "/")


@operator
def normalize(step_id: str, up: Batches, process: Process) -> Batches:  # noqa: ARG001 - Bytewax's operators have it
    """Give every reading its path, quality, type and unit; what cannot be normalized gets a reason in `reject`.

    Args:
        step_id: Name of the step.
        up: Batches from an input.
        process: What the flow lives on.

    Returns:
        Batches of `normalization.reading.stream_schema`.
    """
    normalizer = process.normalizer

    def shim(batch: pa.RecordBatch) -> pa.RecordBatch:
        normalized = normalizer(batch)
        metrics.NORMALIZED.inc(len(normalized))
        collisions = normalizer.new_collisions()
        if collisions:
            metrics.COLLISIONS.set(len(normalizer.collisions))
            path, tags = collisions[0]
            log.warning(
                "tags share one path; tell them apart by a mapping or a place",
                paths=len(collisions),
                first=path,
                tags=[f"{tag.source}: {tag.address}" for tag in tags],
            )
        return normalized

    return op.map("normalize", up, shim)


@dataclass(frozen=True)
class Routes:
    """What `route` gives.

    Attributes:
        targets: One stream of keyed batches per target.
        dead_letters: Keyed batches of readings that no target will get.
    """

    targets: dict[str, KeyedStream[pa.RecordBatch]]
    dead_letters: KeyedStream[pa.RecordBatch]


@operator
def route(step_id: str, up: Batches, process: Process) -> Routes:  # noqa: ARG001 - Bytewax's operators have it
    """Branch the stream by the routing rules; each target gets a reading once, with its largest priority.

    Args:
        step_id: Name of the step.
        up: Batches of `stream_schema`.
        process: What the flow lives on.
    """
    tags = process.tags

    def decide(batch: pa.RecordBatch) -> Routed:
        routed = process.router(localize(batch, tags))
        _note_outcome(routed, process)
        return routed

    decided = op.map("rules", up, decide)
    targets = {}
    for name in process.config.targets:

        def for_target(routed: Routed, name: str = name) -> tuple[str, pa.RecordBatch] | None:
            if name not in routed.targets:
                return None
            share = routed.select(name)
            metrics.ENQUEUED.labels(name).inc(len(share))
            return process.config.gateway, share

        targets[name] = op.filter_map(f"to_{step_name(name)}", decided, for_target)

    def dead(routed: Routed) -> tuple[str, pa.RecordBatch] | None:
        return (process.config.gateway, take(routed.batch, routed.dead)) if len(routed.dead) else None

    return Routes(targets, op.filter_map("dead_letters", decided, dead))


def _note_outcome(routed: Routed, process: Process) -> None:
    """Tell the journal what becomes of each reading, for the account."""
    tags, batch = process.tags, routed.batch
    if not len(batch):
        return
    ids = batch.column("tag").to_numpy()
    every = tags.count_sources(ids)
    outcome = Outcome()
    for name, rows in routed.targets.items():
        outcome.targets[name] = Counter(every if rows is None else tags.count_sources(ids[rows]))
    outcome.routed.update(every)
    if len(routed.dead):
        outcome.dead.update(tags.count_sources(ids[routed.dead]))
        outcome.routed.subtract(outcome.dead)
    if len(routed.unmatched):
        outcome.filtered["no rule"] = Counter(tags.count_sources(ids[routed.unmatched]))
        outcome.routed.subtract(outcome.filtered["no rule"])
        metrics.DROPPED.labels("no rule").inc(len(routed.unmatched))
    metrics.DEFAULTED.inc(routed.defaulted)
    shards = batch.column("shard").dictionary
    if len(shards) == 1:
        process.journal.note(shards[0].as_py(), batch.column("sequence")[len(batch) - 1].as_py(), outcome)


def localize(batch: pa.RecordBatch, tags: TagTable) -> pa.RecordBatch:
    """A batch that came from another process, with the tags of this one; other batches as they are."""
    if batch.schema.metadata[b"tags"] == tags.token:
        return batch
    names = {name: batch.column(name).to_pylist() for name in TAG_COLUMNS}
    ids = [tags.intern(Tag(**{name: column[row] for name, column in names.items()})) for row in range(len(batch))]
    facts = [batch.column(name) for name in FACTS.names]
    facts[0] = pa.array(ids, pa.int32())
    return view(
        facts, batch.column("gateway"), batch.column("shard"), tags, batch.column("value"), batch.column(_PRIORITY)
    )


# ---------------------------------------------------------------------- single readings, for users' steps


@dataclass(frozen=True, slots=True)
class Row:
    """One reading, for steps that work on single readings: windows, state, joins.

    Attributes:
        tag: Its tag, normalized.
        value: Its value as Python has it.
        quality: Its quality.
        time: When it was measured, or received when the device does not say; UTC.
        gateway: Gateway of its identity.
        shard: Shard of its identity.
        sequence: Sequence of its identity.
        priority: Its priority.
    """

    tag: Tag
    value: Any
    quality: Quality
    time: datetime
    gateway: str
    shard: str
    sequence: int
    priority: int = 0

    def derive(self, step: str, value: Any, **changes: str) -> "Row":
        """A reading that `step` makes of this one alone; its identity is this one's and the step.

        Args:
            step: Name of the step, the same at every run.
            value: The new value.
            changes: Columns of the tag that differ, such as `tag_name`, `path` and `unit`.
        """
        return replace(self, tag=replace(self.tag, **changes), value=value, shard=f"{self.shard}/{step}")


def summarize(step: str, gateway: str, tag: Tag, start: datetime, value: Any, ordinal: int = 0) -> Row:
    """A reading that `step` makes of many, such as the average of a window; its identity is equal on replay.

    Args:
        step: Name of the step, the same at every run.
        gateway: Name of the gateway.
        tag: The tag of the new reading.
        start: Start of the window; the new reading's time.
        value: The value.
        ordinal: Tells readings of one window apart.
    """
    described = f"{step}\0{tag.source}\0{tag.path}\0{start.isoformat()}\0{ordinal}".encode()
    sequence = int.from_bytes(hashlib.blake2b(described, digest_size=8).digest(), "big") >> 1
    return Row(tag, value, Quality.GOOD, start, gateway, f"derived/{step}", sequence)


@operator
def explode_by_tag(step_id: str, up: Batches, process: Process) -> KeyedStream[Row]:  # noqa: ARG001 - Bytewax's operators have it
    """Turn batches into single readings keyed by path, so that Bytewax's keyed operators can be used.

    Readings that cannot be used (`reject`) are left out. This costs some µs a reading; filter batches before.
    """

    def explode(batch: pa.RecordBatch) -> Iterable[tuple[str, Row]]:
        batch = localize(batch, process.tags)
        columns = {name: batch.column(name).to_pylist() for name in _ROW_COLUMNS}
        for row in range(len(batch)):
            if columns["reject"][row] is None:
                reading = _row(process.tags, {name: column[row] for name, column in columns.items()})
                yield reading.tag.path, reading

    return op.flat_map("explode", up, explode)


_ROW_COLUMNS = (*(n for n in FACTS.names if n not in ("status", "flags", "properties")), _PRIORITY, "gateway", "shard")


def _row(tags: TagTable, columns: dict[str, Any]) -> Row:
    match columns["type"]:
        case ValueType.DOUBLE:
            value = columns["value_double"]
        case ValueType.BOOLEAN:
            value = bool(columns["value_int"])
        case ValueType.INT64:
            value = columns["value_int"]
        case ValueType.UINT64:
            value = columns["value_int"] % 2**64
        case ValueType.BYTES:
            value = columns["value_bytes"]
        case _:
            value = columns["value_text"]
    return Row(
        tag=tags[columns["tag"]],
        value=value,
        quality=Quality(columns["quality"]),
        time=columns["source_time"] or columns["received_time"],
        gateway=columns["gateway"],
        shard=columns["shard"],
        sequence=columns["sequence"],
        priority=columns[_PRIORITY],
    )


@operator
def collect(step_id: str, up: KeyedStream[Row], process: Process) -> Batches:  # noqa: ARG001 - Bytewax's operators have it
    """Turn single readings into batches again, marked as derived; merge them with the others before `route`."""

    def gather(items: list[tuple[str, Row]]) -> list[pa.RecordBatch]:
        groups: dict[tuple[str, str], list[Row]] = {}
        for _, row in items:
            groups.setdefault((row.gateway, row.shard), []).append(row)
        return [_batch(gateway, shard, rows, process.tags) for (gateway, shard), rows in groups.items()]

    return op.flat_map_batch("collect", up, gather)


def _batch(gateway: str, shard: str, rows: list[Row], tags: TagTable) -> pa.RecordBatch:
    made = Columns()
    for row in rows:
        micros = round(row.time.astimezone(UTC).timestamp() * 1_000_000)
        made.add(tags.intern(row.tag), row.value, quality=row.quality, source_time=micros, flags=Flags.DERIVED)
    batch = made.to_batch(np.full(len(rows), time.time_ns() // 1000, np.int64), 0)
    facts = batch.columns
    facts[FACTS.get_field_index("sequence")] = pa.array([row.sequence for row in rows], pa.int64())
    value = numbers(batch.column("type"), batch.column("value_double"), batch.column("value_int"))
    priority = pa.array([row.priority for row in rows], pa.int32())
    return view(facts, repeat(gateway, len(rows)), repeat(shard, len(rows)), tags, value, priority)
