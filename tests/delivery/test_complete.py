"""Up to when all is delivered: what the journal and the spools know of the oldest reading that is not."""

import asyncio
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from delivery.journal import Journal
from delivery.overflow import BufferPolicy
from delivery.waiting import Drain
from normalization.reading import TagTable
from tests.delivery.stores import columns, new_spool, stream, tag_table, until_async
from tests.delivery.test_journal import INDEX, attach, closing, opened
from tests.delivery.test_spool import crash

__all__ = ["closing"]
BIG = 2**30


def received(table: TagTable, numbers: range) -> pa.RecordBatch:
    """As `stream`; reading n was received at n."""
    batch = stream(table, numbers)
    at = batch.schema.get_field_index("received_time")
    times = pa.array(np.array(numbers, np.int64)).cast(pa.timestamp("us", "UTC"))
    return batch.set_column(at, batch.schema.field(at), times)


async def test_a_journal_tells_when_the_oldest_reading_came_that_is_not_behind_the_flow(
    tmp_path: Path, closing: list[Journal]
) -> None:
    journal = opened(tmp_path, closing)
    attach(journal)
    assert journal.oldest_received() is None
    before = time.time_ns() // 1000
    await journal.append("source0", INDEX, columns([1]), None)
    between = time.time_ns() // 1000
    await journal.append("source1", INDEX + 1, columns([2]), None)
    first = journal.oldest_received()
    assert first is not None
    assert before <= first <= between
    journal.trim(INDEX, journal.take(INDEX, 10)[-1].number)
    second = journal.oldest_received()
    assert second is not None
    assert second >= between, "the other shard's still waits"
    journal.trim(INDEX + 1, journal.take(INDEX + 1, 10)[-1].number)
    await until_async(lambda: journal.oldest_received() is None)


async def test_a_journal_cannot_tell_of_an_earlier_run(tmp_path: Path, closing: list[Journal]) -> None:
    journal = opened(tmp_path, closing)
    await journal.append("source0", INDEX, columns([1]), None)
    await asyncio.to_thread(journal.close)
    journal = opened(tmp_path, closing)
    attach(journal)
    await journal.append("source0", INDEX, columns([2]), None)
    assert journal.oldest_received() == 0
    entries = journal.take(INDEX, 1)
    assert journal.oldest_received() == 0
    journal.trim(INDEX, entries[-1].number)
    assert journal.oldest_received() != 0


@pytest.mark.parametrize("drain", list(Drain))
@pytest.mark.parametrize("memory_rows", [20, 100_000])
def test_a_spool_tells_when_the_oldest_reading_was_received_that_the_target_does_not_have(
    tmp_path: Path, drain: Drain, memory_rows: int
) -> None:
    options: dict[str, Any] = {"entry_rows": 10, "memory_rows": memory_rows, "policy": BufferPolicy(drain=drain)}
    spool = new_spool(tmp_path, tag_table(), segment_bytes=2000, **options)
    assert spool.oldest_received() is None
    for start in range(1000, 1200, 10):
        spool.append(received(spool._tags, range(start, start + 10)))
    found = []
    while (unit := spool.take(10, BIG)) is not None:
        oldest = spool.oldest_received()
        assert oldest is not None
        stored = {n for n in range(1000, 1200, 10) if n not in found}
        assert oldest <= min(stored), "also what is under way, and what lies on disk only"
        found.append(unit.batch().column("sequence")[0].as_py())
        spool.settle(unit)
    assert spool.oldest_received() is None
    spool.append(received(spool._tags, range(2000, 2010)))
    crash(spool)
    spool = new_spool(tmp_path, tag_table(), **options)
    assert spool.oldest_received() == 0, "not read back yet"
    unit = spool.take(10, BIG)
    assert unit
    assert spool.oldest_received() == 2000
    spool.release(unit)
    assert spool.oldest_received() == 2000
    spool.close()
