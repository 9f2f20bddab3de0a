"""What a spool does at its bounds, step by step: its own thread does nothing here, and the clock and the disk are the test's."""

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from delivery.disk import StoreFullError
from delivery.lane import EXPIRED
from delivery.origin import Origin
from delivery.overflow import BufferPolicy, Overflow
from delivery.spool import DOWNSAMPLED, OVERFLOW, Spool
from normalization.reading import TagTable
from tests.delivery.stores import SHARD, Clock, deliver_all, own, sequences_of, stream, unaccounted
from tests.delivery.test_overflow import put, urgent

BIG = 2**30


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of spools, both for ages and for pauses; their own thread is silent."""
    clock = Clock()
    monkeypatch.setattr("delivery.spool._SYNC_INTERVAL", 3600.0)
    monkeypatch.setattr("delivery.spool.time", SimpleNamespace(time=clock, monotonic=clock, sleep=time.sleep))
    return clock


@pytest.fixture
def quiet(tmp_path: Path, table: TagTable, clock: Clock) -> Iterator[Callable[..., Spool]]:
    """Makes spools that write each batch at once, in entries of ten readings."""
    made = []

    def make(directory: str = "spool", **options: Any) -> Spool:
        given: dict[str, Any] = {"gather_rows": 1, "entry_rows": 10, "now": clock} | options
        given = {name: value for name, value in given.items() if value is not None}
        made.append(Spool(tmp_path / directory, table, own, **given))
        return made[-1]

    yield make
    for spool in made:
        spool._flusher.close()
        for lane in spool._lanes:
            lane.close()


def append(spool: Spool, first: int, count: int = 10, priority: int = 0) -> None:
    spool.append(urgent(spool._tags, range(first, first + count), priority))


def append_segments(spool: Spool, count: int, first: int = 0, priority: int = 0) -> None:
    """Ten readings in each of `count` segments of the lane."""
    lane = next(lane for lane in spool.lanes if lane.priority == priority)
    for n in range(count):
        append(spool, first + 10 * n, priority=priority)
        lane.log.roll()


def disk_is_full(spool: Spool, monkeypatch: pytest.MonkeyPatch, most: int = 0) -> None:
    """The disk takes no more than `most` readings at once."""
    for lane in spool._lanes:

        def full(gateway: str, shard: str, batch: pa.RecordBatch, *more: Any, real: Any = lane.append) -> None:
            if len(batch) > most:
                raise StoreFullError("the disk is full")
            real(gateway, shard, batch, *more)

        monkeypatch.setattr(lane, "append", full)


def disk_has(monkeypatch: pytest.MonkeyPatch, blocks: int) -> None:
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=blocks, f_frsize=1000))


def discarded(spool: Spool) -> dict[str, int]:
    return {reason: count for reason, count in spool.discarded.items() if count}


# ---------------------------------------------------------------------- gathering


def test_a_spool_gathers_up_to_four_thousand_readings_and_fewer_when_it_is_small(
    quiet: Callable[..., Spool], table: TagTable
) -> None:
    for name, options, gathered in (
        ("default", {}, 4000),
        ("rows", {"policy": BufferPolicy(rows=10 * 64 + 63)}, 10),
        ("quota", {"policy": BufferPolicy(quota=21 * 16 * 1024 - 1)}, 20),
    ):
        spool = quiet(name, gather_rows=None, entry_rows=None, **options)
        empty = spool.size
        spool.append(stream(table, range(gathered - 1)))
        assert spool.size == empty, name
        assert spool.stored_rows == gathered - 1
        spool.append(stream(table, [gathered]))
        assert spool.size > empty, name
        assert spool.stored_rows == gathered


def test_an_entry_has_ten_thousand_readings_at_most(quiet: Callable[..., Spool], table: TagTable) -> None:
    spool = quiet(entry_rows=None)
    spool.append(stream(table, range(10_001)))
    units = [spool.take(1, BIG), spool.take(1, BIG)]
    assert [unit.rows for unit in units if unit] == [10_000, 1]


def test_what_was_gathered_waits_since_the_first_of_it_came(
    quiet: Callable[..., Spool], table: TagTable, clock: Clock
) -> None:
    spool = quiet(gather_rows=100)
    assert (spool.oldest(), spool.oldest_received()) == (None, None)
    for clock.time in (1000.0, 1050.0):
        append(spool, int(clock.time))
    assert spool.oldest() == 1000.0
    assert (spool.waiting(20), spool.waiting(21)) == (True, False)
    assert len(deliver_all(spool)) == 20
    assert (spool.oldest(), spool.waiting(1)) == (None, False)
    for clock.time in (1100.0, 1150.0):
        append(spool, int(clock.time))
    assert spool.oldest() == 1100.0
    assert (spool.waiting(20), spool.waiting(21)) == (True, False)
    assert spool.stored_rows == 20
    assert spool.oldest_received() == 1_700_000_000_000_000


def test_who_delivers_is_woken_by_what_comes_and_by_what_is_sent_again(
    quiet: Callable[..., Spool], table: TagTable
) -> None:
    spool, woken = quiet(), Counter[str]()
    spool.wake = lambda: woken.update(["woken"])
    append(spool, 0)
    assert woken.total() == 1
    assert spool.replay(stream(table, range(10, 20)), Origin("letters", np.arange(10)))
    assert woken.total() == 2


def test_a_thread_of_the_spool_writes_what_was_gathered(quiet: Callable[..., Spool]) -> None:
    spool = quiet(gather_rows=1000)
    empty = spool.size
    append(spool, 0)
    spool._keep_house()
    assert spool.size > empty


# ---------------------------------------------------------------------- a full disk


def test_on_a_full_disk_what_is_small_finds_room_first_and_the_rest_waits_in_memory(
    quiet: Callable[..., Spool], table: TagTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = quiet(gather_rows=100, policy=BufferPolicy(overflow=Overflow.BLOCK))
    assert (spool.blocked, spool.alarm) == (False, "")
    with monkeypatch.context() as full:
        disk_is_full(spool, full, most=15)
        for first, count in ((0, 10), (10, 12), (30, 40), (70, 38)):
            append(spool, first, count)
        assert spool.stored_rows == 100
        assert (spool.blocked, spool.alarm) == (True, "disk full")
        assert spool._arrived_rows == 100
        spool._admit_arrived()
        assert spool._arrived_rows == 78, "one part at a time"
        unit = spool.take(1000, BIG)
        assert unit
        assert sequences_of(unit.batch()) == list(range(22))
        spool.settle(unit)
        assert spool.blocked
        assert not spool.replay(stream(table, [500]), Origin("letters", np.array([1])))
    assert spool._admit_arrived() is True
    assert (spool.blocked, spool.alarm, spool.stored_rows) == (False, "", 78)
    assert deliver_all(spool) == [*range(30, 108)]
    assert not unaccounted(spool)


def test_a_disk_may_be_full_for_a_second_before_the_oldest_go_for_it(
    quiet: Callable[..., Spool], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = quiet()
    append_segments(spool, 4)
    disk_is_full(spool, monkeypatch)
    append(spool, 100)
    for clock.time, gone in ((1000.9, 0), (1001.0, 10), (1002.0, 10)):
        spool._admit_arrived()
        assert spool.discarded_rows == gone, "and no more while what went makes room"
    spool.sync()
    spool.sync()
    spool._keep_house()
    assert spool.discarded_rows == 20
    assert discarded(spool) == {OVERFLOW: 20}


def test_a_disk_that_had_room_for_a_while_may_be_full_for_a_second_again(
    quiet: Callable[..., Spool], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = quiet()
    append_segments(spool, 4)
    disk_is_full(spool, monkeypatch)
    append(spool, 100)
    for clock.time, gone in ((1010.0, 10), (1020.5, 10), (1021.25, 10), (1021.5, 20)):
        spool._admit_arrived()
        assert spool.discarded_rows == gone
        for lane in spool._lanes:
            lane.log.sync()
            lane.drop_segments(lane.log.sync())


def test_nothing_goes_for_a_full_disk_where_the_sources_wait(
    quiet: Callable[..., Spool], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = quiet(policy=BufferPolicy(overflow=Overflow.BLOCK))
    append_segments(spool, 4)
    disk_is_full(spool, monkeypatch)
    append(spool, 100)
    clock.time += 5
    spool._admit_arrived()
    assert spool.discarded_rows == 0


# ---------------------------------------------------------------------- room that must stay free


def test_as_much_goes_as_comes_while_the_disk_has_too_little_room(
    quiet: Callable[..., Spool], monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = quiet(policy=BufferPolicy(free_disk=50_000))
    disk_has(monkeypatch, 50)
    append_segments(spool, 6)
    assert spool.discarded_rows == 0, "it has just enough"
    disk_has(monkeypatch, 49)
    append(spool, 100, count=1)
    assert spool.discarded_rows == 10, "one segment is more than one reading"
    append(spool, 101, count=1)
    assert spool.discarded_rows == 10, "the rest of its room is used first"
    append(spool, 102, count=60)
    assert 20 < spool.discarded_rows < 60
    before = spool.discarded_rows
    disk_has(monkeypatch, 50)
    append(spool, 200)
    assert spool.discarded_rows == before
    assert spool._owed == 0
    assert not unaccounted(spool)


def test_what_comes_is_left_out_when_nothing_can_go_for_it(
    quiet: Callable[..., Spool], monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = quiet(policy=BufferPolicy(free_disk=50_000))
    disk_has(monkeypatch, 49)
    append(spool, 0)
    assert (spool.stored_rows, discarded(spool)) == (0, {OVERFLOW: 10})


def test_readings_are_not_sent_again_when_the_disk_is_full(
    quiet: Callable[..., Spool], table: TagTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = quiet()
    origin = Origin("letters", np.arange(10))
    with monkeypatch.context() as full:
        disk_is_full(spool, full)
        assert spool.replay(stream(table, range(10)), origin) is False
    assert spool.stored_rows == 0
    assert spool.replay(stream(table, range(10)), origin) is True
    assert spool.stored_rows == 10


@pytest.mark.parametrize(("options", "scarce"), [({}, True), ({"persistent": False}, False)])
def test_readings_are_sent_again_only_when_the_disk_has_room(
    quiet: Callable[..., Spool], table: TagTable, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], scarce: bool
) -> None:
    spool = quiet(policy=BufferPolicy(free_disk=50_000), **options)
    disk_has(monkeypatch, 49)
    assert spool.replay(stream(table, [1]), Origin("letters", np.array([1]))) is not scarce
    disk_has(monkeypatch, 50)
    assert spool.replay(stream(table, [1]), Origin("letters", np.array([1]))) is True
    unbounded = quiet("unbounded", policy=BufferPolicy())
    disk_has(monkeypatch, 0)
    assert unbounded.replay(stream(table, [1]), Origin("letters", np.array([1])))


def test_the_sources_wait_while_the_disk_has_too_little_room(
    quiet: Callable[..., Spool], monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = quiet(policy=BufferPolicy(free_disk=50_000, overflow=Overflow.BLOCK))
    disk_has(monkeypatch, 49)
    assert (spool.blocked, spool.alarm) == (True, "full, the sources wait")
    append(spool, 0)
    assert spool.stored_rows == 10, "what comes all the same is kept"
    disk_has(monkeypatch, 50)
    assert (spool.blocked, spool.alarm) == (False, "")


# ---------------------------------------------------------------------- the quota


def test_a_spool_is_full_at_its_quota_less_what_goes_as_soon_as_the_disk_knows(
    quiet: Callable[..., Spool], table: TagTable
) -> None:
    first = quiet("first", policy=BufferPolicy(overflow=Overflow.BLOCK))
    append_segments(first, 4)
    size = first.size
    for name, quota, full in (("at", size, True), ("below", size + 1, False)):
        spool = quiet(name, policy=BufferPolicy(quota=quota, overflow=Overflow.BLOCK))
        append_segments(spool, 4)
        assert spool.size == size
        assert (spool.blocked, spool._is_full()) == (full, full)
        assert spool.replay(stream(table, [500]), Origin("letters", np.array([1]))) is not full
        unit = spool.take(10, BIG)
        assert unit
        spool.settle(unit)
        assert spool.size > size
        assert not spool.blocked, "the segment goes as soon as the disk knows that it is settled"


def test_a_spool_thins_out_from_four_fifths_of_its_quota_on(quiet: Callable[..., Spool]) -> None:
    first = quiet("first")
    append_segments(first, 4)
    for name, quota, thins in (("at", first.size * 1.25, True), ("below", first.size * 1.25 + 4, False)):
        spool = quiet(name, policy=BufferPolicy(quota=int(quota), overflow=Overflow.DOWNSAMPLE))
        append_segments(spool, 4)
        append(spool, 100)
        assert discarded(spool) == ({DOWNSAMPLED: 6} if thins else {})


@pytest.mark.parametrize(
    ("overflow", "priority", "left", "gone"),
    [
        (Overflow.DROP_OLDEST, 0, [*range(10, 40), *range(100, 110)], {OVERFLOW: 10}),
        (Overflow.DROP_OLDEST, 5, [*range(100, 110), *range(10, 40)], {OVERFLOW: 10}),
        (Overflow.DROP_OLDEST, -5, [*range(40)], {OVERFLOW: 10}),
        (Overflow.DOWNSAMPLE, 0, [*range(10, 40), *range(100, 104)], {OVERFLOW: 10, DOWNSAMPLED: 6}),
        (Overflow.DROP_NEWEST, 5, [*range(40)], {OVERFLOW: 10}),
        (Overflow.DROP_LOWEST_PRIORITY, 0, [*range(40)], {OVERFLOW: 10}),
        (Overflow.DROP_LOWEST_PRIORITY, 5, [*range(100, 110), *range(10, 40)], {OVERFLOW: 10}),
    ],
)
def test_at_the_bound_what_the_policy_says_goes_for_what_comes(
    quiet: Callable[..., Spool], overflow: Overflow, priority: int, left: list[int], gone: dict[str, int]
) -> None:
    spool = quiet(policy=BufferPolicy(rows=40, overflow=overflow), priorities=[-5, 5])
    plain = Overflow.DROP_NEWEST if overflow is Overflow.DOWNSAMPLE else overflow
    spool.policy = BufferPolicy(rows=41, overflow=plain)  # not thinned out yet
    append_segments(spool, 4)
    assert discarded(spool) == {}
    spool.policy = BufferPolicy(rows=40, overflow=overflow)
    append(spool, 100, priority=priority)
    assert discarded(spool) == gone
    assert spool.discarded_rows == sum(gone.values())
    assert deliver_all(spool, 10) == left
    assert not unaccounted(spool)


def test_thinned_out_readings_of_a_step_do_not_come_again_and_those_of_other_lanes_are_looked_at_too(
    quiet: Callable[..., Spool], table: TagTable
) -> None:
    spool = quiet(policy=BufferPolicy(rows=10, overflow=Overflow.DOWNSAMPLE, keep_every=5), priorities=[5])
    append(spool, 0, count=8)
    steps = stream(table, range(8), shard="derived/mean")
    spool.append(steps)
    assert discarded(spool) == {DOWNSAMPLED: 4}
    spool.append(steps)
    assert discarded(spool) == {DOWNSAMPLED: 4}
    assert len(deliver_all(spool)) == 12
    append(spool, 20, count=8)
    mixed = put(stream(table, [40, 41, 42, 43]), "priority", np.array([0, 0, 5, 5], np.int32))
    spool.append(put(mixed, "quality", np.array([0, 0, 2, 2], np.int8)))
    assert deliver_all(spool)[:2] == [42, 43], "a change of quality is kept"


def test_readings_are_thinned_out_from_four_fifths_on_and_those_of_each_tag_by_themselves(
    quiet: Callable[..., Spool],
) -> None:
    spool = quiet(policy=BufferPolicy(rows=100, overflow=Overflow.DOWNSAMPLE, keep_every=5))
    for first in range(0, 70, 10):
        append(spool, first)
    append(spool, 70, count=9)
    append(spool, 79, count=1)
    assert discarded(spool) == {}, "80 are not thinned out"
    append(spool, 80, count=40)
    assert discarded(spool) == {DOWNSAMPLED: 32}
    append(spool, 120, count=3)
    assert discarded(spool) == {DOWNSAMPLED: 32}, "a new fifth begins"
    append(spool, 123, count=1)
    append(spool, 124, count=4)
    assert discarded(spool) == {DOWNSAMPLED: 36}, "nothing is left to be appended"
    found = deliver_all(spool)
    assert found == [*range(84), *range(100, 104), *range(120, 124)]
    spool.append(stream(spool._tags, range(80, 128)))
    assert deliver_all(spool) == [], "what was left out does not come again"
    assert not unaccounted(spool)


def test_a_discard_raises_an_alarm_for_a_minute(quiet: Callable[..., Spool], clock: Clock) -> None:
    spool = quiet(policy=BufferPolicy(rows=10, overflow=Overflow.DROP_NEWEST))
    append(spool, 0)
    assert (spool.alarm, spool.discarded_rows) == ("", 0)
    append(spool, 10)
    append(spool, 20)
    assert (spool.alarm, spool.discarded_rows) == ("readings are discarded", 20)
    clock.time += 60.0
    assert spool.alarm == "readings are discarded"
    clock.time += 0.1
    assert spool.alarm == ""


# ---------------------------------------------------------------------- several lanes


def test_each_reading_goes_to_the_lane_of_the_next_lower_priority(quiet: Callable[..., Spool], table: TagTable) -> None:
    def priorities(spool: Spool) -> dict[int, list[int]]:
        found: dict[int, list[int]] = {}
        while (unit := spool.take(1000, BIG)) is not None:
            found[unit.priority] = sequences_of(unit.batch())
            spool.settle(unit)
        return found

    given = np.array([0, 5, 4, 9, -5, 6, -1, 5, 100, -9], np.int32)
    expected = {9: [3, 8], 5: [1, 5, 7], 0: [0, 2], -5: [4, 6, 9]}
    spool = quiet(priorities=[-5, 5, 9])
    batch = put(stream(table, range(10)), "priority", given)
    spool.append(batch)
    assert priorities(spool) == expected
    again = quiet("again", priorities=[-5, 5, 9])
    assert again.replay(batch, Origin("letters", np.arange(10)))
    assert priorities(again) == expected
    assert list(priorities(again)) == []
    assert again.replayed("letters").to_list() == [(0, 9)]


def test_a_reading_that_any_lane_has_had_is_left_out(quiet: Callable[..., Spool], table: TagTable) -> None:
    spool = quiet(priorities=[5, 9])
    for first, priority in ((0, 9), (10, 5), (20, 0)):
        append(spool, first, priority=priority)
    assert spool.had(SHARD, np.array([5, 15, 25, 35])).tolist() == [True, True, True, False]
    assert spool.had(SHARD, np.array([35])) is None
    spool.append(stream(table, range(40)))
    assert spool.stored_rows == 40
    spool.forget(SHARD, 14)
    assert spool.had(SHARD, np.array([5, 15, 25, 35])).tolist() == [False, True, True, True]


def test_dead_letters_of_the_flow_are_taken_once_and_those_of_the_target_by_their_numbers(
    quiet: Callable[..., Spool], table: TagTable
) -> None:
    spool = quiet(priorities=[5])
    append(spool, 0)
    flow = Origin("letters", np.arange(20), from_flow=True, untrimmed=True)
    assert spool.replay(stream(table, range(20)), flow)
    assert spool.stored_rows == 20, "the flow brought some of them already"
    assert spool.replayed("letters").to_list() == [(10, 19)]
    assert spool.replay(stream(table, range(20)), Origin("letters", np.arange(15, 35)))
    assert spool.stored_rows == 35
    spool.forget_replayed("letters")
    assert spool.replayed("letters").to_list() == []


def test_dead_letters_of_a_step_that_the_flow_brought_again_are_left_out(
    quiet: Callable[..., Spool], table: TagTable
) -> None:
    spool = quiet()
    batch = stream(table, range(10), shard="derived/mean")
    spool.append(batch.slice(0, 4))
    assert spool.replay(batch, Origin("letters", np.arange(10), from_flow=True))
    assert sorted(deliver_all(spool)) == list(range(10))


def test_dead_letters_of_several_shards_keep_their_numbers(quiet: Callable[..., Spool], table: TagTable) -> None:
    spool = quiet()
    first, second = stream(table, [1, 2, 3]), stream(table, [1, 2], shard="opcua-1-abc")
    both = pa.Table.from_batches([first, second]).unify_dictionaries().combine_chunks().to_batches()[0]
    append(spool, 1, 2)
    assert spool.replay(both, Origin("letters", np.arange(10, 15), from_flow=True))
    assert spool.replayed("letters").to_list() == [(12, 14)]


def test_a_unit_that_was_under_way_at_the_crash_goes_before_what_is_more_urgent(quiet: Callable[..., Spool]) -> None:
    spool = quiet(priorities=[5])
    append(spool, 0)
    unit = spool.take(10, BIG)
    assert unit
    spool.record(unit)
    append(spool, 10, priority=5)
    append(spool, 20)
    spool.snapshot()
    again = quiet()
    assert [sequences_of(u.batch()) for u in iter(lambda: again.take(10, BIG), None)] == [
        list(range(first, first + 10)) for first in (0, 10, 20)
    ]


def test_a_lane_whose_recorded_unit_has_gone_does_not_hold_up_the_others(quiet: Callable[..., Spool]) -> None:
    spool = quiet(priorities=[5])
    append(spool, 0, priority=5)
    unit = spool.take(10, BIG)
    assert unit
    spool.record(unit)
    lane = next(lane for lane in spool.lanes if lane.priority == 5)
    lane._close(0, unit.entries, [], "purged")
    append(spool, 10)
    append(spool, 20)
    spool.snapshot()
    again = quiet()
    found = [again.take(10, BIG), again.take(10, BIG)]
    assert [sequences_of(unit.batch()) for unit in found if unit] == [list(range(10, 20)), list(range(20, 30))]


def test_a_place_in_the_spool_waits_until_its_reading_is_settled(quiet: Callable[..., Spool]) -> None:
    spool = quiet(priorities=[5])
    append(spool, 0, priority=5)
    unit = spool.take(10, BIG)
    assert unit
    ((priority, number, row),) = unit.places([3])
    assert (priority, row) == (5, 3)
    assert spool.waits((5, number, 3))
    assert not spool.waits((0, number, 3))
    assert not spool.waits((7, number, 3))
    spool.reject(unit, [3], rest_delivered=False)
    assert not spool.waits((5, number, 3))
    assert spool.waits((5, number, 4))


# ---------------------------------------------------------------------- ages


def test_readings_expire_by_their_lane_once_a_second_while_nobody_takes_any(
    quiet: Callable[..., Spool], clock: Clock
) -> None:
    spool = quiet(policy=BufferPolicy(expiry={0: 60.0, 5: None, 9: 10.0}), priorities=[5, 9])
    spool._keep_house()
    for priority in (0, 5, 9):
        append_segments(spool, 2, first=100 * priority, priority=priority)
    for passed, gone in ((0.5, 0), (10.0, 0), (10.5, 0), (11.1, 20), (60.0, 20), (61.1, 40), (500.0, 40)):
        clock.time = 1000.0 + passed
        spool._keep_house()
        assert spool.discarded_rows == gone, passed
    assert discarded(spool) == {EXPIRED: 40}
    assert deliver_all(spool) == list(range(500, 520))


def test_what_never_expires_is_sent_however_early_it_came(quiet: Callable[..., Spool], clock: Clock) -> None:
    clock.time = 0.0
    spool = quiet()
    append(spool, 0)
    clock.time = 1e9
    assert deliver_all(spool) == list(range(10))


def test_nothing_expires_while_readings_are_kept(quiet: Callable[..., Spool], clock: Clock) -> None:
    spool = quiet(policy=BufferPolicy(expiry={0: 60.0}))
    append_segments(spool, 2)
    spool.keep(True)
    clock.time += 100.0
    spool._keep_house()
    assert spool.discarded_rows == 0
    unit = spool.take(10, BIG)
    assert unit
    spool.settle(unit)
    spool.keep(False)
    assert spool.take(10, BIG) is None
    assert discarded(spool) == {EXPIRED: 10}


def test_the_growth_of_a_spool_is_looked_at_once_a_second(quiet: Callable[..., Spool], clock: Clock) -> None:
    clock.time = 0.0
    spool = quiet(policy=BufferPolicy(quota=1_000_000))
    spool._keep_house()
    before = spool.size
    assert spool.full_in is None
    append(spool, 0)
    grown = spool.size - before
    clock.time += 0.5
    spool._keep_house()
    assert spool.full_in is None, "too early to tell"
    clock.time += 0.5
    spool._keep_house()
    assert spool.full_in == pytest.approx((1_000_000 - spool.size) / grown, rel=0.01)


def test_the_thread_of_a_spool_removes_what_is_settled_and_durable_in_every_lane(quiet: Callable[..., Spool]) -> None:
    spool = quiet(priorities=[5])
    for priority in (0, 5):
        append_segments(spool, 3, first=100 * priority, priority=priority)
    assert len(deliver_all(spool)) == 60
    spool.sync()
    spool.sync()
    for lane in spool.lanes:
        lane.log.sync()
    spool.snapshot()
    spool._keep_house()
    assert [len(lane.log.segments()) for lane in spool.lanes] == [1, 1]


def test_only_directories_of_lanes_are_lanes(quiet: Callable[..., Spool], tmp_path: Path) -> None:
    for name in ("p-3", "p7", "p7x", "xp8", "p", "p-", "p12"):
        (tmp_path / "spool" / name).mkdir(parents=True)
    assert [lane.priority for lane in quiet().lanes] == [-3, 0, 7, 12]
