"""How a lane lets go: what is settled, what a full disk cannot note yet, and what is discarded."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from delivery.entry import COLUMNS
from delivery.lane import EXPIRED, Lane
from delivery.log import Record
from delivery.overflow import BufferPolicy
from delivery.waiting import Drain
from normalization.reading import TagTable
from tests.delivery.lanes import (
    BIG,
    drained,
    fill_disk,
    keep_house,
    new_lane,
    put,
    put_segments,
    readings,
    reopened,
    take,
    tens,
)
from tests.delivery.stores import GATEWAY, SHARD, Clock, stream

# ---------------------------------------------------------------------- settling


def test_a_closed_unit_is_counted_by_source_once_and_without_its_dead_readings(tmp_path: Path, table: TagTable) -> None:
    lane = new_lane(tmp_path, table)
    put(lane, range(20))
    unit = take(lane, 20)
    lane.reject(unit, [0, 2, 11], rest_delivered=False)
    rest = take(lane, 20)
    lane.reject(rest, [0], rest_delivered=True)
    lane.settle(rest)
    lane.settle(unit, "late")
    for again in (lane, reopened(lane)):
        account = again.account()
        assert account.routed == Counter(source0=10, source1=10)
        assert account.dead == Counter(source0=2, source1=2)
        assert account.delivered == Counter(source0=8, source1=8)
        assert account.discarded.get("late", Counter()).total() == 0
        assert again.stored_rows == account.stored.total() == 0


def test_an_entry_whose_last_readings_are_rejected_is_settled(tmp_path: Path, table: TagTable) -> None:
    lane = new_lane(tmp_path, table)
    put(lane, range(20))
    lane.reject(take(lane), range(10), rest_delivered=False)
    lane.reject(take(lane), range(6), rest_delivered=False)
    lane.reject(take(lane), range(4), rest_delivered=False)
    assert lane.take(10, BIG) is None
    assert lane.ledger.dead == {}
    assert lane.account().dead.total() == 20


def test_a_lane_keeps_nothing_in_mind_of_what_is_settled(tmp_path: Path, table: TagTable) -> None:
    lane = new_lane(tmp_path, table)
    put_segments(lane, 4)
    lane.reject(take(lane), [0], rest_delivered=False)
    drained(lane)
    assert not lane._inside
    assert not lane._under_way
    keep_house(lane)
    (segment,) = lane.log.segments()
    for per_segment in (lane._outstanding, lane._settled_at, lane._newest, lane._received):
        assert set(per_segment) == {segment}


def test_an_account_counts_what_waits_what_is_under_way_and_no_dead_readings(tmp_path: Path, table: TagTable) -> None:
    lane = new_lane(tmp_path, table)
    put_segments(lane, 3)
    lane.settle(take(lane))
    lane.reject(take(lane), [1, 2], rest_delivered=False)
    take(lane)
    for again in (lane, reopened(lane)):
        account = again.account()
        assert account.stored == Counter(source0=9, source1=9)
        assert account.delivered.total() == 10
        assert again.stored_rows == 18


def test_what_comes_while_an_account_is_taken_is_not_in_it(
    tmp_path: Path, table: TagTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    lane = new_lane(tmp_path, table)
    put(lane, range(10))
    real = lane.log.read

    def read(*given: Any) -> Iterator[Record]:
        put(lane, range(10, 30))
        return real(*given)

    monkeypatch.setattr(lane.log, "read", read)
    account = lane.account()
    assert (account.routed.total(), account.stored.total()) == (10, 10)


def test_what_a_full_disk_could_not_note_is_noted_in_its_order_when_there_is_room(
    tmp_path: Path, table: TagTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    lane = new_lane(tmp_path, table)
    put_segments(lane, 3)
    units = [take(lane) for _ in range(3)]
    with monkeypatch.context() as full:
        fill_disk(lane, full)
        lane.settle(units[0])
        lane.settle(units[1], "late")
    put(lane, range(30, 40))
    before = lane.log.next_number
    lane.drop_segments(0)
    assert lane.log.next_number == before + 2
    lane.drop_segments(0)
    assert lane.log.next_number == before + 2
    again = reopened(lane)
    assert (again.account().delivered.total(), again.discarded) == (10, {"late": 10})
    assert drained(again) == tens(20, 30)


def test_what_a_full_disk_could_not_note_is_in_the_head_of_the_next_segment(
    tmp_path: Path, table: TagTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    lane = new_lane(tmp_path, table, segment_bytes=1000)
    put(lane, range(30))
    unit = take(lane)
    with monkeypatch.context() as full:
        fill_disk(lane, full)
        lane.settle(unit)
    old = lane.log.segments()[0]
    lane.log.roll()
    put(lane, range(30, 40))
    before = lane.log.next_number
    lane.drop_segments(0)
    assert lane.log.next_number == before, "nothing is said twice"
    assert drained(lane) == tens(10, 20, 30)
    assert old not in keep_house(lane)
    again = reopened(lane)
    assert again.account().delivered.total() == 40
    assert drained(again) == []


def test_a_segment_whose_end_is_said_in_a_head_goes_when_that_is_durable(
    tmp_path: Path, table: TagTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    lane = new_lane(tmp_path, table)
    put(lane, range(10))
    unit = take(lane)
    with monkeypatch.context() as full:
        fill_disk(lane, full)
        lane.settle(unit)
    lane.log.roll()
    put(lane, range(10, 20))
    lane.log.sync()
    lane.log.sync()
    old, new = lane.log.segments()
    lane.drop_segments(new)
    assert lane.log.segments() == [old, new], "of two heads one may be torn"
    lane.drop_segments(new + 1)
    assert lane.log.segments() == [new]


def test_a_segment_goes_when_the_record_that_settled_its_last_entry_is_durable(tmp_path: Path, table: TagTable) -> None:
    lane = new_lane(tmp_path, table)
    assert drained(lane) == []
    segments = put_segments(lane, 3)
    first, second = take(lane), take(lane)
    lane.settle(second)
    settled = lane.log.next_number - 1
    lane.log.sync()
    lane.log.sync()
    lane.drop_segments(settled - 1)
    assert set(segments) <= set(lane.log.segments())
    assert lane.going == lane.log.segment_size(segments[1]), "it goes as soon as that is durable"
    lane.drop_segments(settled)
    assert segments[1] not in lane.log.segments()
    assert segments[0] in lane.log.segments(), "one of its entries is under way"
    assert lane.going == 0
    lane.settle(first)
    assert keep_house(lane) == segments[2:]
    assert lane.ledger.done == segments[2] - 1
    assert lane.stored_rows == 10


def test_a_segment_waits_for_the_record_that_settled_it_whatever_was_settled_since(
    tmp_path: Path, table: TagTable
) -> None:
    lane = new_lane(tmp_path, table)
    segments = put_segments(lane, 3)
    units, settled = [take(lane), take(lane)], []
    for unit in units:
        settled.append(lane.log.next_number)
        lane.settle(unit)
    lane.log.sync()
    lane.log.sync()
    for durable, left in ((settled[0] - 1, segments), (settled[0], segments[1:]), (settled[1], segments[2:])):
        lane.drop_segments(durable)
        assert lane.log.segments() == left


def test_the_newest_segment_stays_and_no_segment_goes_while_an_account_reads(tmp_path: Path, table: TagTable) -> None:
    lane = new_lane(tmp_path, table)
    segments = put_segments(lane, 3)
    assert drained(lane) == tens(0, 10, 20)
    before = lane.log.segments()
    with lane.log.held():
        assert keep_house(lane) == before
    assert keep_house(lane) == segments[-1:]
    assert lane.going == 0


def test_when_the_first_of_what_the_target_does_not_have_was_received(tmp_path: Path, table: TagTable) -> None:
    def received(lane: Lane, number: int, moment: int) -> None:
        batch = stream(lane._tags, range(number, number + 10)).select(COLUMNS.names)
        at = COLUMNS.get_field_index("received_time")
        times = pa.array(np.arange(moment, moment + 10), pa.int64()).cast(COLUMNS.field(at).type)
        lane.append(GATEWAY, SHARD, batch.set_column(at, COLUMNS.field(at), times))

    lane = new_lane(tmp_path, table, memory_rows=10)
    assert lane.oldest_received() is None
    assert drained(lane) == []
    assert lane.oldest_received() is None
    for number, moment in ((0, 5_000), (10, 6_000), (20, 7_000)):
        received(lane, number, moment)
        if moment != 6_000:
            lane.log.roll()
    assert lane.oldest_received() == 5_000
    first = take(lane)
    assert lane.oldest_received() == 5_000, "it is under way"
    lane.release(first)
    assert lane.oldest_received() == 5_000, "and waits again"
    lane.settle(take(lane))
    assert lane.oldest_received() == 6_000, "of what is to be read back"
    second = take(lane)
    assert readings(second) == list(range(10, 20))
    assert lane.oldest_received() == 6_000
    again = reopened(lane, memory_rows=10)
    assert again.oldest_received() == 0, "nobody knows yet"
    received(again, 30, 9_000)
    first, second = take(again), take(again)
    assert again.oldest_received() == 0, "there may be more"
    third = take(again)
    assert readings(third) == list(range(30, 40))
    assert again.oldest_received() == 6_000
    again.settle(first)
    assert again.oldest_received() == 7_000
    again.settle(second)
    assert again.oldest_received() == 9_000
    again.settle(third)
    assert again.take(10, BIG) is None
    assert again.oldest_received() is None


# ---------------------------------------------------------------------- letting go


@pytest.mark.parametrize("drain", list(Drain))
@pytest.mark.parametrize("restart", [False, True])
def test_the_oldest_segment_is_discarded_first_and_only_that(
    tmp_path: Path, table: TagTable, drain: Drain, restart: bool
) -> None:
    policy = BufferPolicy(drain=drain)
    lane = new_lane(tmp_path, table, policy=policy, memory_rows=20)
    segments = put_segments(lane, 4)
    if restart:
        lane = reopened(lane, policy=policy, memory_rows=20)
    size = lane.log.segment_size(segments[0])
    assert lane.discard_oldest("room") == (size, Counter(source0=5, source1=5))
    assert lane.discarded == {"room": 10}
    assert lane.stored_rows == 30
    assert lane.discard_oldest("space")[1].total() == 10
    assert not {*segments[:2]} & {*keep_house(lane)}
    assert sorted(drained(lane)) == tens(20, 30)
    assert lane.discarded == {"room": 10, "space": 10}
    assert lane.discard_oldest("room") == (0, Counter())


def test_a_recorded_unit_comes_again_whatever_was_discarded_behind_it(tmp_path: Path, table: TagTable) -> None:
    lane = new_lane(tmp_path, table)
    put_segments(lane, 3)
    unit = take(lane)
    lane.record(unit)
    assert lane.discard_oldest("room")[1].total() == 10
    again = reopened(lane)
    assert again.interrupted
    assert (take(again).number, drained(again)) == (unit.number, tens(20))


def test_a_discarded_segment_that_is_written_to_is_left_for_a_new_one(tmp_path: Path, table: TagTable) -> None:
    lane = new_lane(tmp_path, table)
    put(lane, range(20))
    (segment,) = lane.log.segments()
    unit = take(lane)
    freed, gone = lane.discard_oldest("room")
    assert (freed, gone.total()) == (lane.log.segment_size(segment), 10)
    assert len(lane.log.segments()) == 2
    assert len(keep_house(lane)) == 2, "one of its entries is under way"
    lane.settle(unit)
    assert segment not in keep_house(lane)


def test_a_segment_is_discarded_also_when_the_disk_has_no_room_for_a_new_one(
    tmp_path: Path, table: TagTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    lane = new_lane(tmp_path, table)
    put(lane, range(20))
    with monkeypatch.context() as full:
        fill_disk(lane, full)
        assert lane.discard_oldest("room")[1].total() == 20
    assert len(lane.log.segments()) == 1
    assert lane.take(10, BIG) is None
    put(lane, range(20, 30))
    assert drained(lane) == tens(20)
    assert reopened(lane).discarded == {"room": 20}


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize(("before", "gone"), [(0.25, []), (0.3, [10]), (0.5, [10]), (0.6, [10, 10]), (0.8, [10] * 3)])
def test_segments_are_discarded_when_everything_in_them_was_appended_before(
    tmp_path: Path, table: TagTable, before: float, gone: list[int], restart: bool
) -> None:
    clock = Clock(100.0)
    lane = new_lane(tmp_path, table, now=clock)
    for clock.time in (0.25, 0.5, 0.75):
        put(lane, range(int(100 * clock.time), int(100 * clock.time) + 10))
        lane.log.roll()
    if restart:
        lane = reopened(lane, now=clock)
    found = []
    while (count := lane.discard_oldest(EXPIRED, before)[1].total()) > 0:
        found.append(count)
    assert found == gone
    assert len(drained(lane)) == 3 - len(gone)


def test_a_segment_is_as_young_as_its_newest_entry_also_when_that_is_under_way(tmp_path: Path, table: TagTable) -> None:
    clock, policy = Clock(100.0), BufferPolicy(drain=Drain.NEWEST_FIRST)
    lane = new_lane(tmp_path, table, now=clock, policy=policy, memory_rows=10)
    for clock.time, first in ((100.0, 0), (300.0, 10)):
        put(lane, range(first, first + 10))
    assert readings(take(lane)) == list(range(10, 20))
    assert lane.oldest() == 100.0
    assert lane.discard_oldest(EXPIRED, 200.0) == (0, Counter())
    assert lane.discard_oldest(EXPIRED, 300.5)[1].total() == 10


def test_what_is_under_way_and_what_goes_again_is_spared(tmp_path: Path, table: TagTable) -> None:
    lane = new_lane(tmp_path, table)
    put(lane, range(30))
    under_way = take(lane)
    lane.reject(take(lane), [0], rest_delivered=False)
    assert lane.discard_oldest("room")[1].total() == 10
    assert lane.discard_oldest("room") == (0, Counter())
    lane.settle(under_way)
    assert drained(lane) == [list(range(11, 20))]
    assert lane.stored_rows == 0
