import os
import random
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from delivery.disk import StoreError
from delivery.overflow import BufferPolicy, Overflow
from delivery.spool import Spool
from delivery.unit import Unit
from normalization.reading import Flags, TagTable
from tests.delivery.stores import (
    SHARD,
    content,
    deliver_all,
    new_spool,
    own,
    sequences_of,
    stream,
    tag_table,
    unaccounted,
    until,
)

BIG = 2**30


def crash(spool: Spool) -> None:
    """Leave a spool as a killed process does."""
    spool._flusher.close()
    for lane in spool.lanes:
        lane.log._failed = StoreError("killed")
        os.close(lane.log._fd)
        lane.log._fd = -1


def reopened(spool: Spool, table: TagTable | None = None, **options: Any) -> Spool:
    crash(spool)
    return new_spool(spool.directory, table or tag_table(), **options)


def test_what_is_appended_is_delivered_once_and_accounted_for(tmp_path: Path, table: TagTable) -> None:
    spool = new_spool(tmp_path, table)
    spool.append(stream(table, range(1, 101)))
    assert not unaccounted(spool)
    assert spool.stored_rows == 100
    assert deliver_all(spool) == list(range(1, 101))
    account = spool.account()
    assert account.routed == account.delivered == {"source0": 50, "source1": 50}
    assert account.stored == {}
    assert not unaccounted(spool)
    assert spool.take(10, BIG) is None
    spool.close()


@pytest.mark.parametrize("restart", [False, True])
def test_a_replay_adds_nothing(tmp_path: Path, table: TagTable, restart: bool) -> None:
    spool = new_spool(tmp_path, table)
    batches = [
        stream(table, range(1, 50)),
        stream(table, [60, 64, 66]),  # filtered by a rule
        stream(table, [59, 52, 55]),  # a step with state, or a priority, brings them out of order
        stream(table, [3, 1], "opcua-1-abc123"),
        stream(table, [7, 9], gateway="gw"),
    ]
    for batch in batches[:4]:
        spool.append(batch)
    rng = random.Random(3)
    if restart:
        spool.snapshot()
        spool = reopened(spool, table)
    for batch in rng.sample(batches, 5) + [stream(table, range(40, 70)), stream(table, [51, 51, 53])]:
        spool.append(batch)
    found = deliver_all(spool)
    assert sorted(found) == sorted([*range(1, 70), 1, 3])
    assert not unaccounted(spool)
    spool.close()


def test_a_reading_between_others_that_came_is_not_taken_for_known(tmp_path: Path, table: TagTable) -> None:
    spool = new_spool(tmp_path, table)
    spool.append(stream(table, [5, 5, 7]))  # a step gave one reading twice
    spool.append(stream(table, [6]))
    assert deliver_all(spool) == [5, 7, 6]
    spool.close()


@pytest.mark.parametrize("restart", [False, True])
def test_a_derived_reading_is_remembered_for_two_snapshots(tmp_path: Path, table: TagTable, restart: bool) -> None:
    spool = new_spool(tmp_path, table)
    derived = stream(table, [5, 99], f"{SHARD}/average")
    spool.append(derived)
    spool.append(derived)
    spool.snapshot()
    spool.append(derived)
    if restart:
        spool = reopened(spool, table)
    else:
        spool.snapshot()
    spool.append(derived)
    assert deliver_all(spool) == [5, 99]
    for _ in range(3):
        spool.snapshot()
    assert sum(len(g.shards()) for g in spool.lanes[0].ledger._derived) == 0, "and not for ever"
    spool.close()


def test_a_derived_reading_that_comes_again_and_again_is_remembered_each_time(tmp_path: Path, table: TagTable) -> None:
    spool = new_spool(tmp_path, table)
    derived = stream(table, [5, 99], "derived/average")
    for _ in range(6):  # an epoch that ends here, and is not durable elsewhere
        spool.append(derived)
        spool.snapshot()
    assert deliver_all(spool) == [5, 99]
    spool.close()


def test_a_derived_reading_of_another_gateway_is_another_reading(tmp_path: Path, table: TagTable) -> None:
    spool = new_spool(tmp_path, table)
    for gateway in ("a", "b", "a"):
        spool.append(stream(table, [5], "derived/average", gateway))
    assert deliver_all(spool) == [5, 5]
    spool.close()


def test_forgotten_identities_take_no_room_and_survive_no_restart(tmp_path: Path, table: TagTable) -> None:
    spool = new_spool(tmp_path, table)
    spool.append(stream(table, range(1, 101, 2)))
    assert spool.untrimmed([SHARD]) == 50
    spool.forget(SHARD, 50)
    assert spool.untrimmed([SHARD]) == 25
    spool.forget(SHARD, 1000)
    assert spool.untrimmed([SHARD]) == 0
    spool.append(stream(table, [2]))
    assert len(deliver_all(spool)) == 51
    spool.close()


def test_units_may_be_settled_in_any_order(tmp_path: Path, table: TagTable) -> None:
    spool = new_spool(tmp_path, table, entry_rows=10)
    spool.append(stream(table, range(1, 41)))
    first, second, third = (spool.take(10, BIG) for _ in range(3))
    assert first and second and third
    assert first.number < second.number < third.number
    spool.settle(third)
    assert not unaccounted(spool)
    spool.settle(first)
    spool.snapshot()
    spool = reopened(spool)
    assert not unaccounted(spool)
    assert deliver_all(spool) == [*range(11, 21), *range(31, 41)]
    assert not unaccounted(spool)
    spool.close()


@pytest.mark.parametrize("memory_rows", [5, 100_000])
def test_a_recorded_unit_is_sent_again_unchanged_after_a_crash(
    tmp_path: Path, table: TagTable, memory_rows: int
) -> None:
    spool = new_spool(tmp_path, table, entry_rows=10, memory_rows=memory_rows)
    spool.append(stream(table, range(1, 101)))
    delivered = spool.take(10, BIG)
    assert delivered
    spool.settle(delivered)
    unit = spool.take(35, BIG)
    assert unit
    spool.record(unit)
    for _ in range(2):
        spool = reopened(spool, entry_rows=10, memory_rows=memory_rows)
        spool.append(stream(spool._tags, range(95, 120)))
        again = spool.take(1000, BIG)
        assert again
        assert again.number == unit.number
        assert [e.number for e in again.entries] == [e.number for e in unit.entries]
        assert content(again.batch()) == content(unit.batch())
        spool.record(again)
    spool.settle(again)
    rest = spool.take(1000, BIG)
    assert rest
    assert rest.number > unit.number
    spool.settle(rest)
    assert sequences_of(rest.batch())[0] == len(unit.batch()) + 11
    deliver_all(spool)
    assert not unaccounted(spool)
    spool.close()


def test_a_recorded_unit_is_remembered_when_a_new_segment_begins(tmp_path: Path, table: TagTable) -> None:
    spool = new_spool(tmp_path, table, entry_rows=10, segment_bytes=3000)
    spool.append(stream(table, range(1, 31)))
    unit = spool.take(20, BIG)
    assert unit
    spool.record(unit)
    for n in range(4, 40):
        spool.append(stream(table, range(n * 10, n * 10 + 10)))
    assert len(spool.lanes[0].log.segments()) > 2
    spool.snapshot()
    spool = reopened(spool)
    again = spool.take(1000, BIG)
    assert again
    assert (again.number, content(again.batch())) == (unit.number, content(unit.batch()))
    spool.close()


def test_a_recorded_unit_keeps_the_order_of_its_entries(tmp_path: Path, table: TagTable) -> None:
    spool = new_spool(tmp_path, table, entry_rows=10)
    spool.append(stream(table, range(1, 41)))
    a, b = spool.take(20, BIG), spool.take(20, BIG)
    assert a and b
    spool.reject(b, [0], rest_delivered=False)
    spool.reject(a, [0], rest_delivered=False)  # now the later entries wait in front
    unit = spool.take(1000, BIG)
    assert unit
    assert sequences_of(unit.batch())[0] == 22
    spool.record(unit)
    spool = reopened(spool)
    again = spool.take(1000, BIG)
    assert again
    assert content(again.batch()) == content(unit.batch())
    spool.close()


def test_a_released_unit_comes_first_and_unchanged(tmp_path: Path, table: TagTable) -> None:
    spool = new_spool(tmp_path, table, entry_rows=10)
    spool.append(stream(table, range(1, 41)))
    first, second = spool.take(10, BIG), spool.take(10, BIG)
    assert first and second
    spool.release(second)
    spool.release(first)
    assert spool.oldest() is not None
    assert spool.waiting(1000), "no linger for what was under way"
    assert spool.take(1000, BIG) is first
    assert spool.take(1000, BIG) is second
    third = spool.take(1000, BIG)
    assert third
    assert third.number > second.number
    for unit in (first, second, third):
        spool.settle(unit)
    assert not unaccounted(spool)
    spool.close()


def test_settling_twice_counts_once(tmp_path: Path, table: TagTable) -> None:
    spool = new_spool(tmp_path, table)
    spool.append(stream(table, range(10)))
    unit = spool.take(10, BIG)
    assert unit
    spool.settle(unit)
    spool.settle(unit)
    assert spool.account().delivered.total() == 10
    assert not unaccounted(spool)
    spool.close()


@pytest.mark.parametrize("rest_delivered", [False, True])
@pytest.mark.parametrize("restart", [False, True])
def test_rejected_readings_over_several_entries_leave_the_rest(
    tmp_path: Path, table: TagTable, rest_delivered: bool, restart: bool
) -> None:
    spool = new_spool(tmp_path, table, entry_rows=10)
    spool.append(stream(table, range(1, 31)))
    unit = spool.take(1000, BIG)
    assert unit
    spool.record(unit)
    spool.reject(unit, [25, 3, 0, 11, 11], rest_delivered=rest_delivered)
    assert spool.account().dead.total() == 4
    assert not unaccounted(spool)
    if restart:
        spool.snapshot()
        spool = reopened(spool)
        assert not unaccounted(spool)
    rest = spool.take(1000, BIG)
    if rest_delivered:
        assert rest is None
        assert spool.account().delivered.total() == 26
    else:
        assert rest
        assert rest.number > unit.number, "a rejection closes the unit"
        assert rest.rows == 26
        assert sequences_of(rest.batch()) == [n for n in range(1, 31) if n not in (1, 4, 12, 26)]
        spool.settle(rest)
    account = spool.account()
    assert (account.routed.total(), account.delivered.total(), account.dead.total()) == (30, 26, 4)
    assert account.stored.total() == 0
    assert not unaccounted(spool)
    spool.close()


def test_an_entry_may_be_rejected_in_part_more_than_once(tmp_path: Path, table: TagTable) -> None:
    spool = new_spool(tmp_path, table)
    spool.append(stream(table, range(1, 11)))
    dead = []
    for indices in ([0, 9], [0, 7], [2]):
        unit = spool.take(1000, BIG)
        assert unit
        batch = sequences_of(unit.batch())
        dead += [batch[i] for i in indices]
        spool.reject(unit, indices, rest_delivered=False)
        spool = reopened(spool)
        assert not unaccounted(spool)
    assert deliver_all(spool) == [n for n in range(1, 11) if n not in dead]
    assert spool.account().dead.total() == 5
    assert not unaccounted(spool)
    spool.close()


def test_a_unit_may_be_rejected_whole(tmp_path: Path, table: TagTable) -> None:
    spool = new_spool(tmp_path, table, entry_rows=10)
    spool.append(stream(table, range(30)))
    unit = spool.take(20, BIG)
    assert unit
    spool.reject(unit, range(20), rest_delivered=False)
    assert not unaccounted(spool)
    assert deliver_all(spool) == list(range(20, 30))
    spool = reopened(spool)
    assert spool.take(10, BIG) is None
    assert not unaccounted(spool)
    spool.close()


def test_a_reading_that_is_not_in_the_unit_cannot_be_rejected(tmp_path: Path, table: TagTable) -> None:
    spool = new_spool(tmp_path, table)
    spool.append(stream(table, range(10)))
    unit = spool.take(10, BIG)
    assert unit
    spool.reject(unit, [3], rest_delivered=False)
    unit = spool.take(10, BIG)
    assert unit
    with pytest.raises(IndexError):
        spool.reject(unit, [9], rest_delivered=False)
    spool.settle(unit)
    assert not unaccounted(spool)
    spool.close()


def test_entries_are_split_by_readings_and_bytes(tmp_path: Path, table: TagTable) -> None:
    spool = new_spool(tmp_path, table, entry_rows=100, entry_bytes=20_000)
    assert spool.oldest() is None
    spool.append(stream(table, range(1000)))
    spool.append(stream(table, range(1000, 1040), text="x" * 1000))
    spool.append(stream(table, [2000], text="y" * 100_000))
    spool.append(stream(table, [2001]))
    assert len(spool.lanes[0]._waiting.backlog.entries) > 10
    for entry in spool.lanes[0]._waiting.backlog.entries:
        assert entry.rows <= 100
        assert entry.size <= 20_000 or entry.rows == 1
    sizes = [unit.rows for unit in iter(lambda: spool.take(250, 45_000), None)]
    assert max(sizes) <= 250
    assert sum(sizes) == 1042
    spool.close()


def test_a_unit_takes_whole_entries_up_to_its_limits(tmp_path: Path, table: TagTable) -> None:
    spool = new_spool(tmp_path, table, entry_rows=100)
    for n in range(5):
        spool.append(stream(table, range(n * 30, n * 30 + 30)))
    units = [spool.take(70, BIG), spool.take(10, BIG), spool.take(1000, 1)]
    assert [unit.rows for unit in units if unit] == [60, 30, 30]
    spool.close()


def test_the_age_of_what_waits_is_known(tmp_path: Path, table: TagTable) -> None:
    spool = new_spool(tmp_path, table)
    assert spool.oldest() is None
    assert not spool.waiting(1)
    spool.append(stream(table, range(10)))
    age = spool.oldest()
    assert age is not None
    assert spool.waiting(10)
    assert not spool.waiting(11)
    spool.append(stream(table, range(10, 20)))
    assert spool.oldest() == age
    spool = reopened(spool)
    assert spool.oldest() == age
    deliver_all(spool)
    assert spool.oldest() is None
    spool.close()


@pytest.mark.parametrize("memory_rows", [1, 25, 100])
def test_a_spool_that_is_behind_holds_little_in_memory_and_loses_nothing(
    tmp_path: Path, table: TagTable, memory_rows: int
) -> None:
    spool = new_spool(tmp_path, table, entry_rows=10, memory_rows=memory_rows, segment_bytes=4000)
    rng, found, n = random.Random(memory_rows), [], 0
    for _ in range(300):
        count = rng.randrange(1, 25)
        spool.append(stream(table, range(n, n + count)))
        n += count
        assert spool.lanes[0]._waiting.backlog.rows <= memory_rows + 10
        if rng.random() < 0.4 and (unit := spool.take(20, BIG)):
            found += sequences_of(unit.batch())
            spool.settle(unit)
    found += deliver_all(spool, rows=20)
    assert found == list(range(n))
    assert not unaccounted(spool)
    spool.close()


def test_segments_go_when_all_in_them_is_settled_and_durable(
    tmp_path: Path, table: TagTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = new_spool(tmp_path, table, entry_rows=10, segment_bytes=2000)
    spool.append(stream(table, range(1000)))
    assert len(spool.lanes[0].log.segments()) > 5
    first, held = spool.take(100, BIG), spool.take(10, BIG)
    assert first and held
    spool.settle(first)
    deliver_all(spool)
    spool.snapshot()
    oldest = spool.lanes[0].log.segment_of(held.entries[0].number)
    until(lambda: len(spool.lanes[0].log.segments()) == 2)
    assert spool.lanes[0].log.segments()[0] == oldest, "an entry of it is still under way"
    gate, real = threading.Event(), os.fdatasync
    with monkeypatch.context() as slow:
        slow.setattr(os, "fdatasync", lambda fd: (gate.wait(10), real(fd))[1])
        until(lambda: spool._flusher._thread.is_alive())
        spool.settle(held)
        assert len(list((tmp_path / "p0").glob("*.log"))) == 2, (
            "a power cut would bring the readings back, not the counts"
        )
        gate.set()
        until(lambda: len(spool.lanes[0].log.segments()) == 1)
    assert len(list((tmp_path / "p0").glob("*.log"))) == 1
    assert not unaccounted(spool)
    spool = reopened(spool)
    assert not unaccounted(spool)
    assert deliver_all(spool) == []
    spool.close()


def test_a_segment_that_comes_back_after_a_power_cut_is_not_sent_again(tmp_path: Path, table: TagTable) -> None:
    """Removing a file is not durable by itself."""
    spool = new_spool(tmp_path, table, entry_rows=10, segment_bytes=2000)
    spool.append(stream(table, range(300)))
    kept = {path.name: path.read_bytes() for path in (tmp_path / "p0").glob("*.log")}
    deliver_all(spool)
    spool.append(stream(table, range(300, 310)))
    until(lambda: len(spool.lanes[0].log.segments()) == 1)
    deliver_all(spool)
    spool.snapshot()
    crash(spool)
    for name, data in kept.items():
        if not (tmp_path / "p0" / name).exists():
            (tmp_path / "p0" / name).write_bytes(data)
    spool = new_spool(tmp_path, tag_table(), entry_rows=10)
    assert deliver_all(spool) == []
    assert not unaccounted(spool)
    spool.append(stream(spool._tags, range(400, 410)))
    spool.snapshot()
    until(lambda: len(spool.lanes[0].log.segments()) == 1)
    spool.close()


def test_a_damaged_entry_loses_itself_and_shows_in_the_account(tmp_path: Path, table: TagTable) -> None:
    spool = new_spool(tmp_path, table, entry_rows=10, segment_bytes=100_000)
    assert spool.oldest() is None
    for n in range(20):
        spool.append(stream(table, range(n * 10, n * 10 + 10)))
        spool.snapshot()
    lost = spool.lanes[0]._waiting.backlog.entries[7].number
    spool.lanes[0].log.roll()
    spool.close()
    path = min((tmp_path / "p0").glob("*.log"))
    data, marker = bytearray(path.read_bytes()), bytes.fromhex(path.stem[-8:])
    position = -1
    while int.from_bytes(data[position + 16 : position + 24], "little") != lost:
        position = data.index(marker, position + 1)
    data[position + 60] ^= 1
    path.write_bytes(data)
    spool = new_spool(tmp_path, tag_table(), entry_rows=10)
    assert deliver_all(spool) == [n for n in range(200) if not 70 <= n < 80]
    assert unaccounted(spool) == {"source0": 5, "source1": 5}, "an alarm, not silence"
    spool.append(stream(spool._tags, range(200, 210)))
    assert deliver_all(spool) == list(range(200, 210))
    spool.snapshot()
    until(lambda: len(spool.lanes[0].log.segments()) == 1)
    spool.close()


def test_numbers_of_units_are_not_used_again_after_a_restart(tmp_path: Path, table: TagTable) -> None:
    spool = new_spool(tmp_path, table, entry_rows=10)
    numbers = []
    for n in range(6):
        spool.append(stream(spool._tags, range(n * 10, n * 10 + 10)))
        unit = spool.take(10, BIG)
        assert unit
        numbers.append(unit.number)
        spool.record(unit)
        spool.settle(unit)
        spool = reopened(spool)
    assert numbers == sorted(set(numbers))
    spool.close()


def test_an_entry_that_does_not_fit_the_disk_leaves_the_spool_usable(
    tmp_path: Path, table: TagTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = new_spool(tmp_path, table, entry_rows=10, policy=BufferPolicy(overflow=Overflow.BLOCK))
    spool.append(stream(table, range(10)))
    more = tag_table(50, 3)
    for i in range(50):
        table.intern(more[i])
    real, calls = os.writev, Counter[str]()

    def full(fd: int, parts: list[bytes]) -> int:
        calls["write"] += 1
        if calls["write"] <= 3:
            raise OSError(28, "No space left on device")
        return real(fd, parts)

    wide = stream(table, range(10, 100))
    with monkeypatch.context() as small:
        small.setattr(os, "writev", full)
        spool.append(wide)
        assert spool.blocked
        assert spool.alarm == "disk full"
        spool.snapshot()
    assert not spool.blocked
    spool.append(wide)
    spool.snapshot()
    spool = reopened(spool)
    unit = spool.take(1000, BIG)
    assert unit
    assert sequences_of(unit.batch()) == list(range(100))
    assert content(unit.batch())[10:] == [row | {"flags": Flags.RESENT} for row in content(wide)]
    spool.settle(unit)
    assert not unaccounted(spool)
    spool.close()


def test_a_delivery_that_cannot_be_noted_is_noted_later_and_once(
    tmp_path: Path, table: TagTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = new_spool(tmp_path, table, entry_rows=10, segment_bytes=3000)
    spool.append(stream(table, range(40)))
    units = [spool.take(10, BIG) for _ in range(4)]

    def full(fd: int, parts: list[bytes]) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as small:
        small.setattr(os, "writev", full)
        for unit in units[:2]:
            assert unit
            spool.settle(unit)
        assert spool.account().delivered.total() == 20
    for n in range(5, 30):  # a new segment, whose HEAD says it too
        spool.append(stream(table, range(n * 10, n * 10 + 10)))
    assert units[2]
    spool.settle(units[2])
    spool.snapshot()
    spool = reopened(spool)
    assert spool.account().delivered.total() == 30
    assert not unaccounted(spool)
    assert deliver_all(spool) == [*range(30, 40), *range(50, 300)]
    spool.close()


def test_a_snapshot_returns_when_everything_is_durable_and_not_before(
    tmp_path: Path, table: TagTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = new_spool(tmp_path, table)
    gate, real = threading.Event(), os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda fd: (gate.wait(10), real(fd))[1])
    spool.append(stream(table, range(10)))
    thread = threading.Thread(target=spool.snapshot)
    thread.start()
    thread.join(0.15)
    assert thread.is_alive()
    unit = spool.take(10, BIG)  # nobody else waits for the disk
    assert unit
    spool.settle(unit)
    spool.append(stream(table, range(10, 20)))
    gate.set()
    thread.join(10)
    assert not thread.is_alive()
    spool.close()


def test_a_failed_disk_fails_the_snapshot(tmp_path: Path, table: TagTable, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = new_spool(tmp_path, table)

    def refuse(fd: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", refuse)
    spool.append(stream(table, range(10)))
    with pytest.raises(StoreError, match="fsync failed"):
        spool.snapshot()


def test_a_batch_of_several_shards_is_taken_apart(tmp_path: Path, table: TagTable) -> None:
    spool = new_spool(tmp_path, table)
    parts = [stream(table, [1, 2], "a-0"), stream(table, [1, 2], "b-0"), stream(table, [1], "a-0", "other")]
    both = pa.Table.from_batches(
        [pa.RecordBatch.from_arrays(p.columns, schema=parts[0].schema) for p in parts]
    ).unify_dictionaries()
    both = both.combine_chunks().to_batches()[0]
    spool.append(both)
    spool.append(both)
    found = Counter()
    while unit := spool.take(1, BIG):
        batch = unit.batch()
        found[(batch.column("gateway")[0].as_py(), batch.column("shard")[0].as_py())] += len(batch)
        spool.settle(unit)
    assert found[("gw", "b-0")] == 2
    assert found[("gw", "a-0")] == 2
    spool.close()


def test_a_unit_of_several_shards_names_each_reading_right(tmp_path: Path, table: TagTable) -> None:
    spool = new_spool(tmp_path, table)
    batches = [stream(table, [1, 2], "a-0"), stream(table, [1, 2, 3], "b-0"), stream(table, [3], "a-0")]
    for batch in batches:
        spool.append(batch)
    unit = spool.take(1000, BIG)
    assert unit
    assert content(unit.batch()) == [row for batch in batches for row in content(batch)]
    spool.close()


def test_dead_rows_are_found_in_the_right_entries(tmp_path: Path, table: TagTable) -> None:
    spool = new_spool(tmp_path, table, entry_rows=10)
    spool.append(stream(table, range(30)))
    taken = spool.take(1000, BIG)
    assert taken
    first, second, third = (e.number for e in taken.entries)
    unit = Unit(1, taken.entries, {first: np.array([0, 1]), third: np.array([9])}, table)
    found = {number: rows.tolist() for number, rows in unit.locate([0, 8, 17, 26]).items()}
    assert found == {first: [2], second: [0, 9], third: [8]}
    assert unit.rows == len(unit.batch()) == 27
    spool.close()


def test_a_newer_format_is_refused_with_what_to_do(tmp_path: Path, table: TagTable) -> None:
    spool = new_spool(tmp_path, table)
    real = spool.lanes[0]._head
    spool.lanes[0].log._head = lambda: real()[:1] + b"\x09" + real()[2:]
    spool.lanes[0].log.roll()
    spool.close()
    with pytest.raises(StoreError, match="newer version of Bifrost; start that version"):
        Spool(tmp_path, table, own)


def test_flow_forwarder_and_account_at_once(tmp_path: Path, table: TagTable) -> None:
    """Append, replay, take, settle, reject, forget and scan from several threads; all is there once and adds up."""
    spool = new_spool(tmp_path, table, entry_rows=50, memory_rows=500, segment_bytes=30_000)
    total, found, dead, problems = 12_000, [], [], []
    appended, stop = threading.Event(), threading.Event()

    def flow() -> None:
        rng, n = random.Random(1), 0
        while n < total:
            count = min(rng.randrange(1, 120), total - n)
            spool.append(stream(table, range(n, n + count)))
            if rng.random() < 0.2:
                spool.append(stream(table, range(max(0, n - 100), n + count)))
            n += count
            if rng.random() < 0.1:
                spool.snapshot()
                spool.forget(SHARD, n - 300)
        appended.set()

    def forward() -> None:
        rng, under_way = random.Random(2), []
        while True:
            ended = appended.is_set()
            unit = spool.take(rng.randrange(1, 300), BIG)
            if unit is not None:
                under_way.append(unit)
            elif ended and not under_way:
                return
            while under_way and (len(under_way) > 3 or unit is None):
                unit = under_way.pop(rng.randrange(len(under_way)))
                batch = sequences_of(unit.batch())
                draw = rng.random()
                if draw < 0.1:
                    indices = rng.sample(range(len(batch)), rng.randrange(1, len(batch) + 1))
                    whole = rng.random() < 0.5
                    spool.reject(unit, indices, rest_delivered=whole)
                    dead.extend(batch[i] for i in indices)
                    if whole:
                        found.extend(n for i, n in enumerate(batch) if i not in indices)
                elif draw < 0.2:
                    spool.release(unit)
                else:
                    spool.settle(unit)
                    found.extend(batch)

    def account() -> None:
        while not stop.is_set():
            if missing := unaccounted(spool):
                problems.append(missing)
            stop.wait(0.01)

    threads = [threading.Thread(target=work) for work in (flow, forward, account)]
    for thread in threads:
        thread.start()
    for thread in threads[:2]:
        thread.join(60)
    stop.set()
    threads[2].join(10)
    assert sorted(found + dead) == list(range(total))
    assert problems == []
    assert not unaccounted(spool)
    spool.snapshot()
    until(lambda: len(spool.lanes[0].log.segments()) == 1)
    again = reopened(spool)
    assert not unaccounted(again)
    assert deliver_all(again) == []
    again.close()
