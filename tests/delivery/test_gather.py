"""Small batches that the spool gathers: fewer and larger entries, and nobody can tell the difference."""

import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from stores import deliver_all, new_spool, sequences_of, stream, unaccounted, until

from delivery.overflow import BufferPolicy, Overflow
from delivery.spool import Spool
from normalization.reading import TagTable

BIG = 2**30


def gathering(tmp_path: Path, table: TagTable, **options: object) -> Spool:
    return new_spool(tmp_path, table, gather_rows=1_000, **options)


@pytest.fixture
def nobody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that writes what was gathered does not look, however slow the machine is."""
    monkeypatch.setattr("delivery.spool._SYNC_INTERVAL", 3600.0)


def entries(spool: Spool) -> list[int]:
    """Readings of each entry, in order."""
    found = []
    while (unit := spool.take(1, BIG)) is not None:
        found.append(unit.rows)
        spool.settle(unit)
    return found


@pytest.mark.usefixtures("nobody_asks")
def test_small_batches_become_one_entry(tmp_path: Path, table: TagTable) -> None:
    spool = gathering(tmp_path, table)
    with spool._lock:  # the flusher writes what it finds
        for n in range(30):
            spool.append(stream(table, range(n * 10, n * 10 + 10)))
        assert spool.stored_rows == 300
        assert entries(spool) == [300]
    assert spool.stored_rows == 0


@pytest.mark.usefixtures("nobody_asks")
def test_gathered_readings_are_written_when_they_are_many(tmp_path: Path, table: TagTable) -> None:
    spool = gathering(tmp_path, table)
    with spool._lock:  # the flusher writes what it finds
        written = spool.size
        for n in range(12):
            spool.append(stream(table, range(n * 100, n * 100 + 100)))
            assert (spool.size > written) == (n >= 9)
        assert entries(spool) == [1_000, 200]


def test_gathered_readings_are_written_soon_when_nobody_asks(tmp_path: Path, table: TagTable) -> None:
    spool = gathering(tmp_path, table)
    written = spool.size
    spool.append(stream(table, range(10)))
    until(lambda: spool.size > written)


@pytest.mark.parametrize("ask", ["snapshot", "sync", "close"])
def test_gathered_readings_are_durable_when_that_was_asked_for(tmp_path: Path, table: TagTable, ask: str) -> None:
    spool = gathering(tmp_path, table)
    spool.append(stream(table, range(50)))
    spool.append(stream(table, range(50, 80)))
    getattr(spool, ask)()
    later = TagTable()
    if ask == "close":
        assert deliver_all(new_spool(tmp_path, later)) == list(range(80))
    else:
        assert all(lane.log.next_number - 1 == spool._flusher.durable(lane.log) for lane in spool._lanes)


def test_what_is_gathered_twice_is_delivered_once(tmp_path: Path, table: TagTable) -> None:
    spool = gathering(tmp_path, table)
    spool.append(stream(table, range(20)))
    spool.append(stream(table, range(10, 30)))
    spool.append(stream(table, range(20), shard="modbus-1-abc123"))
    assert sorted(deliver_all(spool)) == sorted([*range(30), *range(20)])
    spool.append(stream(table, range(30)))
    assert deliver_all(spool) == []


def test_the_account_adds_up_while_readings_are_gathered(tmp_path: Path, table: TagTable) -> None:
    spool = gathering(tmp_path, table)
    spool.append(stream(table, range(100)))
    assert spool.account().routed.total() == 100
    assert not unaccounted(spool)


def test_order_within_a_shard_and_a_lane_is_kept(tmp_path: Path, table: TagTable) -> None:
    spool = gathering(tmp_path, table, priorities=(1, 2))
    drawn, next_of = random.Random(5), {"mqtt-0-a": 0, "modbus-1-b": 0}
    for _ in range(100):
        shard, count = drawn.choice(list(next_of)), drawn.randint(1, 40)
        batch = stream(table, range(next_of[shard], next_of[shard] + count), shard=shard)
        next_of[shard] += count
        priority = pa.array((batch.column("sequence").to_numpy() % 3).astype(np.int32))
        spool.append(batch.set_column(batch.schema.get_field_index("priority"), "priority", priority))
    found: dict[tuple[str, int], list[int]] = {}
    while (unit := spool.take(100, BIG)) is not None:
        batch = unit.batch()
        for shard, sequence in zip(batch.column("shard").to_pylist(), sequences_of(batch), strict=True):
            found.setdefault((shard, sequence % 3), []).append(sequence)
        spool.settle(unit)
    assert found == {(shard, p): list(range(p, last, 3)) for shard, last in next_of.items() for p in range(3)}


def test_a_small_spool_gathers_little_and_holds_its_quota(tmp_path: Path, table: TagTable) -> None:
    policy = BufferPolicy(rows=640, overflow=Overflow.DROP_NEWEST, free_disk=0)
    spool = gathering(tmp_path, table, policy=policy)
    for n in range(200):
        spool.append(stream(table, range(n * 5, n * 5 + 5)))
    assert 640 <= spool.stored_rows < 640 + 10 + 5
    assert spool.discarded["overflow"] == 1_000 - spool.stored_rows
