"""What the tests of the stores share: tags, readings, and waiting for a condition."""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from delivery.entry import COLUMNS
from delivery.journal import Journal
from delivery.outcome import Outcome
from delivery.spool import Spool
from normalization.reading import FACTS, Columns, Tag, TagTable, numbers, repeat, view

GATEWAY = "gw"
SHARD = "mqtt-0-abc123"


class Clock:
    """A clock that a test sets."""

    def __init__(self, time: float = 1000.0) -> None:
        self.time = time

    def __call__(self) -> float:
        return self.time


def tag_table(count: int = 4, sources: int = 2) -> TagTable:
    """A tag table; tag i is of source i modulo `sources`."""
    table = TagTable()
    for i in range(count):
        table.intern(Tag(f"source{i % sources}", "mqtt", "device", f"a{i}", f"tag{i}"))
    return table


def columns(values: Iterable[object], tags: int = 4) -> Columns:
    """Readings as a reader builds them; value n is of tag n modulo `tags` where it is an integer, else of tag 0."""
    rows = Columns()
    for value in values:
        rows.add(value % tags if type(value) is int else 0, value)
    return rows


def stream(
    table: TagTable, sequences: Sequence[int], shard: str = SHARD, gateway: str = GATEWAY, text: str | None = None
) -> pa.RecordBatch:
    """A stream item: the reading with sequence n has the value n and tag n modulo the number of tags."""
    rows = columns(sequences, len(table))
    if text is not None:
        rows.properties[:] = [text] * len(rows)
    facts = rows.to_batch(np.full(len(rows), 1_700_000_000_000_000), 0).columns
    facts[FACTS.get_field_index("sequence")] = pa.array(list(sequences), pa.int64())
    value = numbers(*(facts[FACTS.get_field_index(name)] for name in ("type", "value_double", "value_int")))
    count = len(rows)
    priority = pa.array(np.zeros(count, np.int32))
    return view(facts, repeat(gateway, count), repeat(shard, count), table, value, priority)


def as_stream(batch: pa.RecordBatch, table: TagTable, priorities: int = 1) -> pa.RecordBatch:
    """The journal's batch as a stream item; reading n of a shard has the priority n modulo `priorities`."""
    value = numbers(batch.column("type"), batch.column("value_double"), batch.column("value_int"))
    priority = pa.array((batch.column("sequence").to_numpy() % priorities).astype(np.int32))
    return view(batch.columns[: len(FACTS)], batch.column("gateway"), batch.column("shard"), table, value, priority)


def own(shard: str) -> bool:
    """Whether a shard is one of the journal's, as these tests name them."""
    return "/" not in shard


def sequences_of(batch: pa.RecordBatch) -> list[int]:
    return batch.column("sequence").to_pylist()


def content(batch: pa.RecordBatch) -> list[dict[str, object]]:
    """Readings as plain values, without what is only this process's: numbers of tags."""
    names = [name for name in batch.schema.names if name != "tag"]
    return batch.select(names).to_pylist()


def new_spool(directory: Path, table: TagTable, **options: Any) -> Spool:
    """A spool that writes each batch when it comes, so that a test knows its entries."""
    return Spool(directory, table, own, **{"gather_rows": 1} | options)


def deliver_all(spool: Spool, rows: int = 1000, size: int = 2**30) -> list[int]:
    """Take and settle every unit; returns the sequences in the order of delivery."""
    found: list[int] = []
    while (unit := spool.take(rows, size)) is not None:
        found += sequences_of(unit.batch())
        spool.settle(unit)
    return found


def unaccounted(spool: Spool) -> Counter[str]:
    """What the spool's account does not explain, by source; empty when it adds up."""
    account = spool.account()
    left = Counter(account.routed)
    for counts in (account.delivered, account.dead, account.stored, *account.discarded.values()):
        left.subtract(counts)
    return Counter({source: count for source, count in left.items() if count})


def nothing_told(batch: pa.RecordBatch) -> Outcome:
    raise AssertionError("no reading should have to be settled at the start")


def journal_missing(journal: Journal) -> Counter[str]:
    """What the journal's account does not explain, by source; empty when it adds up."""
    account = journal.account()
    left = account.outcome.missing(account.journalled)
    left.subtract(account.waiting)
    return Counter({source: count for source, count in left.items() if count})


def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Wait until `condition` holds."""
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        pause.wait(0.005)


async def until_async(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Wait until `condition` holds, and let the loop run."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.005)


def raw_columns(batch: pa.RecordBatch) -> list[pa.Array]:
    """Columns as `delivery.entry.encode` takes them."""
    return [batch.column(name) for name in COLUMNS.names]
