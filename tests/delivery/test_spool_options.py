"""What a spool is told when it is made, and what comes of it."""

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from delivery.entry import Compression
from delivery.overflow import BufferPolicy, Overflow
from delivery.spool import EARLIER, Spool
from normalization.reading import Flags, TagTable
from tests.delivery.stores import deliver_all, new_spool, own, sequences_of, stream, tag_table, unaccounted
from tests.delivery.test_overflow import urgent
from tests.delivery.test_spool import crash

BIG = 2**30


def test_units_of_different_priorities_never_have_one_number(tmp_path: Path, table: TagTable) -> None:
    spool = new_spool(tmp_path, table, priorities=[5], entry_rows=10)
    for n in range(4):
        spool.append(urgent(table, range(n * 10, n * 10 + 10), 5 * (n % 2)))
    taken = [spool.take(10, BIG) for _ in range(4)]
    numbers = [unit.number for unit in taken if unit]
    assert numbers == sorted(set(numbers))
    assert len(numbers) == 4
    for unit in taken:
        assert unit
        spool.settle(unit)
    assert spool.stored_rows == 0
    spool.close()


def test_each_compression_gives_back_what_it_was_given_and_one_takes_less_room(tmp_path: Path, table: TagTable) -> None:
    sizes = {}
    for compression in Compression:
        policy = BufferPolicy(compression=compression)
        spool = new_spool(tmp_path / compression.name, table, policy=policy)
        spool.append(stream(table, range(5000), text="something that is said often"))
        spool.snapshot()
        sizes[compression] = spool.size
        assert deliver_all(spool, 10_000) == list(range(5000))
        spool.close()
    assert sizes[Compression.ZSTD] < sizes[Compression.LZ4] * 0.8


def segments(directory: Path) -> int:
    return len(list(directory.rglob("*.log")))


@pytest.mark.parametrize(
    ("options", "least", "most"),
    [
        ({}, 1, 1),
        ({"segment_bytes": 20_000}, 5, 100),
        ({"policy": BufferPolicy(quota=2 * 2**20)}, 2, 4),  # a segment is a part of the quota
    ],
)
def test_segments_are_small_enough_to_let_room_go_in_parts(
    tmp_path: Path, table: TagTable, options: dict[str, Any], least: int, most: int
) -> None:
    spool = new_spool(tmp_path, table, **options)
    for n in range(100):
        spool.append(stream(table, range(n * 100, n * 100 + 100), text=random.Random(n).randbytes(1500).hex()))
    assert least <= segments(tmp_path) <= most
    spool.close()


@pytest.mark.parametrize(("options", "said"), [({}, True), ({"marks_resent": False}, False)])
def test_readings_say_that_they_may_have_been_sent_unless_the_target_knows(
    tmp_path: Path, table: TagTable, options: dict[str, Any], said: bool
) -> None:
    spool = Spool(tmp_path, table, own, gather_rows=1, **options)
    spool.append(stream(table, range(5)))
    spool.failed()
    unit = spool.take(10, BIG)
    assert unit
    assert set(unit.batch().column("flags").to_pylist()) == ({Flags.RESENT} if said else {0})
    spool.close()


def test_a_spool_in_memory_leaves_nothing_behind_and_finds_nothing(tmp_path: Path, table: TagTable) -> None:
    spool = new_spool(tmp_path / "disk", table, priorities=[7])
    spool.append(urgent(table, range(10), 7))
    spool.snapshot()
    crash(spool)
    memory = new_spool(tmp_path / "disk", tag_table(), persistent=False)
    assert memory.stored_rows == 0
    assert [lane.priority for lane in memory.lanes] == [0]
    memory.append(stream(memory._tags, range(3)))
    unit = memory.take(10, BIG)
    assert unit
    assert sequences_of(unit.batch()) == [0, 1, 2]
    memory.close()
    assert new_spool(tmp_path / "disk", tag_table()).stored_rows == 10


def test_a_spool_in_memory_goes_on_with_the_account_of_the_processes_before(tmp_path: Path, table: TagTable) -> None:
    spool = new_spool(tmp_path, table, persistent=False, priorities=[5])
    spool.follow(Counter(source0=5, source1=2), Counter(source0=2, source9=1))
    account = spool.account()
    assert account.routed == Counter(source0=5, source1=2)
    assert account.dead == Counter(source0=2)
    assert account.discarded == {EARLIER: Counter(source0=3, source1=2)}
    spool.append(stream(table, range(10)))
    assert not unaccounted(spool)
    other = new_spool(tmp_path / "other", table, persistent=False)
    other.follow(Counter(source0=5))
    assert other.account().discarded == {EARLIER: Counter(source0=5)}
    spool.close()
    other.close()


def test_a_unit_may_be_settled_as_discarded_for_a_reason(tmp_path: Path, table: TagTable) -> None:
    spool = new_spool(tmp_path, table)
    spool.append(stream(table, range(10)))
    unit = spool.take(100, BIG)
    assert unit
    spool.settle(unit, "nobody wants it")
    account = spool.account()
    assert (account.delivered.total(), account.discarded["nobody wants it"].total()) == (0, 10)
    assert not unaccounted(spool)
    spool.close()


def test_a_purge_tells_how_many_went_from_all_lanes_and_segments_and_spares_what_is_under_way(
    tmp_path: Path, table: TagTable
) -> None:
    spool = new_spool(tmp_path, table, priorities=[5], entry_rows=10, segment_bytes=2_000)
    for n in range(10):
        spool.append(urgent(table, range(n * 10, n * 10 + 10), 5 * (n % 2)))
    unit = spool.take(10, BIG)
    assert unit
    assert spool.purge("not needed") == 90
    assert spool.stored_rows == 10
    assert spool.account().discarded["not needed"].total() == 90
    spool.release(unit)
    assert spool.purge("not needed") == 0, "the target may have it"
    again = spool.take(10, BIG)
    assert again
    assert (again.number, sequences_of(again.batch())) == (unit.number, sequences_of(unit.batch()))
    spool.settle(again)
    assert not unaccounted(spool)
    spool.close()


def test_what_was_left_out_is_known_after_a_restart_and_counted_by_its_reason(tmp_path: Path, table: TagTable) -> None:
    policy = BufferPolicy(rows=100, overflow=Overflow.DROP_NEWEST)
    spool = new_spool(tmp_path, table, policy=policy)
    for n in range(0, 200, 50):
        spool.append(stream(table, range(n, n + 50)))
        spool.append(stream(table, [n * 2 + 1, n * 2 + 5], "mqtt-0-abc/step"))
    spool.snapshot()
    before = spool.account()
    assert before.discarded["overflow"].total() == spool.discarded_rows > 0
    crash(spool)
    again = new_spool(tmp_path, tag_table(), policy=policy)
    assert again.account() == before
    for n in range(0, 200, 50):
        again.append(stream(again._tags, range(n, n + 50)))
        again.append(stream(again._tags, [n * 2 + 1, n * 2 + 5], "mqtt-0-abc/step"))
    assert again.account() == before, "a replay adds nothing"
    assert again.discarded_rows == 0
    again.close()
