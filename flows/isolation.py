"""What a step of the flow cannot take: the readings at fault are refused, and the others go on."""

from collections.abc import Callable
from typing import Final, TypeVar

import numpy as np
import pyarrow as pa
import structlog

from normalization.reading import FACTS, Tag, TagTable, view
from normalization.rules import Routed

_Made = TypeVar("_Made")
_REJECT: Final = FACTS.get_field_index("reject")

log = structlog.get_logger()


def isolate(
    work: Callable[[pa.RecordBatch], _Made], refuse: Callable[[pa.RecordBatch, str], _Made], batch: pa.RecordBatch
) -> list[_Made]:
    """What `work` makes of a batch; where it fails, of its halves, so that only the readings at fault are refused.

    An exception that left a step would come again with the same readings at every start.

    Args:
        work: What is to be done with a batch.
        refuse: What is to be done with a single reading that `work` cannot take, and why it cannot.
        batch: The batch.
    """
    try:
        return [work(batch)]
    except Exception as error:  # noqa: BLE001 - the edge of the flow's steps: a failure is data
        if len(batch) > 1:
            half = len(batch) // 2
            return [*isolate(work, refuse, batch.slice(0, half)), *isolate(work, refuse, batch.slice(half))]
        log.error("a reading cannot be used", error=f"{type(error).__name__}: {error}")
        return [refuse(batch, f"{type(error).__name__}: {error}")] if len(batch) else []


def refused(batch: pa.RecordBatch, reason: str, tags: TagTable) -> pa.RecordBatch:
    """A batch of an input with `reject` set throughout, as a batch of `stream_schema`."""
    count = len(batch)
    facts = [batch.column(name) for name in FACTS.names]
    facts[_REJECT] = pa.array([reason] * count, pa.string())
    number = facts[0].to_numpy()
    if count and not 0 <= number.min() <= number.max() < len(tags):
        unknown = tags.intern(Tag("", "", "", "", ""))
        facts[0] = pa.array(np.where((number >= 0) & (number < len(tags)), number, unknown).astype(np.int32))
    priority = pa.array(np.zeros(count, np.int32))
    return view(facts, batch.column("gateway"), batch.column("shard"), tags, pa.nulls(count, pa.float64()), priority)


def refuse_routing(batch: pa.RecordBatch, reason: str) -> Routed:
    """A batch that cannot be routed: every reading has `reject` set and goes to no target."""
    every = np.arange(len(batch))
    reasons = pa.array([reason] * len(batch), pa.string())
    batch = batch.set_column(_REJECT, batch.schema.field(_REJECT), reasons)
    return Routed(batch, {}, every, every[:0], 0)
