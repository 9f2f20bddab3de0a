"""The flow's own operators: normalize and route batches, and the way to single readings and back for users' steps."""

import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Final, NamedTuple

import bytewax.operators as op
import numpy as np
import pyarrow as pa
import structlog
from bytewax.dataflow import Stream, operator
from bytewax.operators import KeyedStream
from bytewax.operators.windowing import EventClock

from delivery import metrics
from flows.crossing import homes, localize
from flows.isolation import isolate, refuse_routing, refused
from flows.outcomes import note_routed, of_others
from flows.outputs import OutcomeSink
from flows.process import Process
from normalization.reading import (
    FACTS,
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
_PRIORITY: Final = "priority"
_REJECT, _SEQUENCE = (FACTS.get_field_index(name) for name in ("reject", "sequence"))
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


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

    def shim(batch: pa.RecordBatch) -> list[pa.RecordBatch]:
        normalized = isolate(normalizer, lambda row, reason: refused(row, reason, process.tags), batch)
        metrics.NORMALIZED.inc(len(batch))
        if process.live is not None:
            process.live(batch)
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

    return op.flat_map("normalize", up, shim)


@dataclass(frozen=True)
class Routes:
    """What `route` gives.

    Attributes:
        targets: One stream of keyed batches per target.
        dead_letters: Keyed batches of readings that no target will get.
    """

    targets: dict[str, KeyedStream[pa.RecordBatch]]
    dead_letters: KeyedStream[pa.RecordBatch]


def route(step_id: str, up: Batches, process: Process) -> Routes:
    """Branch the stream by the routing rules; each target gets a reading once, with its largest priority.

    Args:
        step_id: Name of the step.
        up: Batches of `stream_schema`.
        process: What the flow lives on.
    """
    gateway, cluster = process.config.gateway, process.cluster
    decided = decide(step_id, up, process)
    if cluster is not None:
        told = op.flat_map("told", decided, lambda routed: of_others(routed, process))
        op.output("outcomes", told, OutcomeSink(process))
    targets = {}
    for name in process.config.targets:

        def for_target(routed: Routed, name: str = name) -> list[tuple[str, pa.RecordBatch]]:
            if name not in routed.targets:
                return []
            share = routed.select(name)
            metrics.ENQUEUED.labels(name).inc(len(share))
            return homes(share, gateway, cluster)

        targets[name] = op.flat_map(f"for_{step_name(name)}", decided, for_target)

    def dead(routed: Routed) -> list[tuple[str, pa.RecordBatch]]:
        return homes(take(routed.batch, routed.dead), gateway, cluster) if len(routed.dead) else []

    return Routes(targets, op.flat_map("rejected", decided, dead))


@operator
def decide(step_id: str, up: Batches, process: Process) -> Stream[Routed]:  # noqa: ARG001 - Bytewax's operators have it
    """Apply the routing rules: where each reading of a batch goes."""
    tags = process.tags

    def shim(batch: pa.RecordBatch) -> list[Routed]:
        routed = isolate(lambda part: process.router(localize(part, tags)), refuse_routing, batch)
        for part in routed:
            note_routed(part, process)
        return routed

    return op.flat_map("rules", up, shim)


# ---------------------------------------------------------------------- single readings, for users' steps


class Row(NamedTuple):
    """One reading, for steps that work on single readings: windows, state, joins.

    Attributes:
        tag: Its tag, normalized.
        value: Its value as Python has it; the JSON text of an array or structure; None where it has none.
        quality: Its quality.
        time: When it was measured, or received when the device does not say; UTC.
        gateway: Gateway of its identity.
        shard: Shard of its identity.
        sequence: Sequence of its identity.
        type: Type of its value; None lets `collect` see from the value.
        source_time: When the device says it was measured, µs since the epoch, UTC.
        received_time: When the gateway received it, µs since the epoch, UTC; None is now.
        status: The protocol's own status code.
        flags: How it came to be.
        properties: JSON object of what the protocol sent beside the value.
        priority: Its priority.
    """

    tag: Tag
    value: Any
    quality: Quality
    time: datetime
    gateway: str
    shard: str
    sequence: int
    type: ValueType | None = None
    source_time: int | None = None
    received_time: int | None = None
    status: int | None = None
    flags: int = Flags.NONE
    properties: str | None = None
    priority: int = 0

    def derive(self, step: str, value: Any, **changes: str) -> "Row":
        """A reading that `step` makes of this one alone; its identity is this one's and the step.

        Args:
            step: Name of what is made, the same at every run; two readings made of one need two names.
            value: The new value.
            changes: Columns of the tag that differ, such as `tag_name`, `unit` and `path`; see `derived_tag`.
        """
        return self._replace(
            tag=derived_tag(self.tag, step, **changes),
            value=value,
            type=None,
            status=None,
            properties=None,
            shard=f"{self.shard}/{step}",
            flags=self.flags | Flags.DERIVED,
        )


@lru_cache(maxsize=65_536)
def derived_tag(tag: Tag, step: str, **changes: str) -> Tag:
    """The tag of a reading that `step` makes of readings of `tag`.

    Args:
        tag: The tag it is made of.
        step: Name of the step. The new tag's source is `source/step`, a line of its own in the account.
        changes: Columns that differ. Without `path`, a new `tag_name` takes the place of the path's last part.
    """
    changes.setdefault("source", f"{tag.source}/{step}")
    if "tag_name" in changes:
        changes.setdefault("path", "/".join([*tag.path.split("/")[:-1], changes["tag_name"]]))
    return replace(tag, **changes)


def summarize(step: str, gateway: str, tag: Tag, start: datetime, value: Any, ordinal: int = 0, **changes: str) -> Row:
    """A reading that `step` makes of many, such as the average of a window; its identity is equal on replay.

    Args:
        step: Name of the step, the same at every run.
        gateway: Name of the gateway.
        tag: The tag of the readings it is made of.
        start: Start of the window; the new reading's time.
        value: The value.
        ordinal: Tells readings of one window apart.
        changes: Columns of the tag that differ, such as `tag_name`; see `derived_tag`.
    """
    made = derived_tag(tag, step, **changes)
    described = f"{step}\0{made.source}\0{made.device_id}\0{made.address}\0{made.path}\0{start.isoformat()}\0{ordinal}"
    sequence = int.from_bytes(hashlib.blake2b(described.encode(), digest_size=8).digest(), "big") >> 1
    micros = (start - _EPOCH) // _MICROSECOND
    shard = f"derived/{step}"
    return Row(made, value, Quality.GOOD, start, gateway, shard, sequence, source_time=micros, flags=Flags.DERIVED)


def event_clock(wait: timedelta) -> EventClock[Row]:
    """The clock of windows over the readings' own time that a replay reads the same.

    Only readings move it on, so that a window holds the same readings after a stop or a crash, however long that took;
    Bytewax's own would call late what came before. A window closes with the first reading of its tag that is `wait`
    later than the window's end.

    Args:
        wait: How much later than a newer one a reading of the same tag may come.
    """
    return EventClock(_time_of, wait, now_getter=_never, to_system_utc=_no_time)


def _time_of(row: Row) -> datetime:
    return row.time


def _never() -> datetime:
    return _EPOCH


def _no_time(_: datetime) -> None:
    return None


@operator
def explode_by_tag(step_id: str, up: Batches, process: Process) -> KeyedStream[Row]:  # noqa: ARG001 - Bytewax's operators have it
    """Turn batches into single readings keyed by path, so that Bytewax's keyed operators can be used.

    Readings that cannot be used (`reject`) are left out. This costs some µs a reading; filter batches before.
    """

    def explode(batch: pa.RecordBatch) -> list[tuple[str, Row]]:
        return [(row.tag.path, row) for row in rows_of(localize(batch, process.tags), process.tags)]

    return op.flat_map("explode", up, explode)


def rows_of(batch: pa.RecordBatch, tags: TagTable) -> Iterator[Row]:
    """The readings of a batch of `stream_schema`, one by one, without those that cannot be used."""
    if batch.column("reject").null_count < len(batch):
        batch = batch.filter(batch.column("reject").is_null())
    source_time, received_time = (
        _listed(batch.column(name).view(pa.int64())) for name in ("source_time", "received_time")
    )
    kinds = batch.column("type").to_pylist()
    return map(
        Row,
        map(tags.__getitem__, batch.column("tag").to_pylist()),
        _values(batch, kinds),
        map(_QUALITIES.__getitem__, batch.column("quality").to_pylist()),
        [
            _EPOCH + timedelta(microseconds=r if s is None else s)
            for s, r in zip(source_time, received_time, strict=False)
        ],
        _listed(batch.column("gateway")),
        _listed(batch.column("shard")),
        batch.column("sequence").to_pylist(),
        map(_TYPES.__getitem__, kinds),
        source_time,
        received_time,
        *(_listed(batch.column(name)) for name in ("status", "flags", "properties", _PRIORITY)),
    )


def _listed(column: pa.Array) -> list[Any]:
    if not pa.types.is_dictionary(column.type):
        return [None] * len(column) if column.null_count == len(column) else column.to_pylist()
    words = column.dictionary.to_pylist()
    return [words[code] for code in column.indices.to_pylist()]


def _values(batch: pa.RecordBatch, kinds: list[int]) -> list[Any]:
    made: list[Any] = [None] * len(kinds)
    for kind in set(kinds):
        name, convert = _VALUE_OF[kind]
        if not name:
            continue
        held = batch.column(name).to_pylist()
        if len(set(kinds)) == 1:
            return held if convert is None else list(map(convert, held))
        for row, other in enumerate(kinds):
            if other == kind:
                made[row] = held[row] if convert is None else convert(held[row])
    return made


def _unsigned(pattern: int) -> int:
    return pattern % 2**64


_VALUE_OF: Final[dict[int, tuple[str, Callable[[Any], Any] | None]]] = {
    ValueType.NULL: ("", None),
    ValueType.BOOLEAN: ("value_int", bool),
    ValueType.INT64: ("value_int", None),
    ValueType.UINT64: ("value_int", _unsigned),
    ValueType.DOUBLE: ("value_double", None),
    ValueType.TEXT: ("value_text", None),
    ValueType.BYTES: ("value_bytes", None),
    ValueType.JSON: ("value_text", None),
}
_TYPES: Final = list(ValueType)
_QUALITIES: Final = list(Quality)


@operator
def collect(step_id: str, up: KeyedStream[Row], process: Process) -> Batches:  # noqa: ARG001 - Bytewax's operators have it
    """Turn single readings into batches again, with their identities; merge them with the others before `route`.

    A reading keeps its identity only as long as no step holds it back: what comes out of a window or a buffer is a new
    reading (`Row.derive`, `summarize`), or the account has counted it as dropped before it arrives.
    """

    def gather(items: list[tuple[str, Row]]) -> list[pa.RecordBatch]:
        groups: dict[tuple[str, str], list[Row]] = {}
        for _, row in items:
            groups.setdefault((row.gateway, row.shard), []).append(row)
        made = [_batch(gateway, shard, rows, process.tags) for (gateway, shard), rows in groups.items()]
        if process.live is not None:
            for (_, shard), batch in zip(groups, made, strict=True):
                if "/" in shard:  # what a step made; all else has been shown
                    process.live(batch)
        return made

    return op.flat_map_batch("collect", up, gather)


def _batch(gateway: str, shard: str, rows: list[Row], tags: TagTable) -> pa.RecordBatch:
    made = Columns()
    now = time.time_ns() // 1000
    for row in rows:
        made.add(
            tags.intern(row.tag),
            row.value,
            quality=row.quality,
            status=row.status,
            source_time=row.source_time,
            flags=row.flags,
            properties=row.properties,
            unsigned=row.type is ValueType.UINT64,
        )
        if row.type is ValueType.JSON:
            made.type[-1] = ValueType.JSON
    received = np.array([now if row.received_time is None else row.received_time for row in rows], np.int64)
    batch = made.to_batch(received, 0)
    facts = batch.columns
    facts[_SEQUENCE] = pa.array([row.sequence for row in rows], pa.int64())
    value = numbers(batch.column("type"), batch.column("value_double"), batch.column("value_int"))
    priority = pa.array([row.priority for row in rows], pa.int32())
    return view(facts, repeat(gateway, len(rows)), repeat(shard, len(rows)), tags, value, priority)
