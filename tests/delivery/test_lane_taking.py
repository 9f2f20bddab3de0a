"""What a lane gives out, in which order, and what of it goes again."""

from pathlib import Path

import numpy as np
import pytest

from delivery.lane import EXPIRED, Lane
from normalization.reading import Flags, TagTable
from tests.delivery.lanes import BIG, drained, keep_house, new_lane, put, put_segments, readings, reopened, take, tens
from tests.delivery.stores import Clock


def test_a_lane_says_whether_so_many_readings_wait(tmp_path: Path, table: TagTable) -> None:
    lane = new_lane(tmp_path, table)
    assert lane.waiting(1), "what lies on disk from before has not been looked at"
    assert drained(lane) == []
    assert not lane.waiting(1)
    put(lane, range(10))
    assert lane.waiting(10)
    assert not lane.waiting(11)
    unit = take(lane)
    assert not lane.waiting(1)
    lane.release(unit)
    assert lane.waiting(1000), "a released unit goes at once"
    unit = take(lane)
    lane.reject(unit, [0], rest_delivered=False)
    assert lane.waiting(1000), "and so does what is left of one"
    assert lane.waiting(1000) is True


def test_the_oldest_that_waits_is_found_on_disk_too(tmp_path: Path, table: TagTable) -> None:
    clock = Clock(100.0)
    lane = new_lane(tmp_path, table, now=clock)
    assert lane.oldest() is None
    for clock.time in (100.0, 200.0):
        put(lane, range(int(clock.time), int(clock.time) + 10))
    again = reopened(lane)
    assert (again.oldest(), again.oldest_stored()) == (100.0, 100.0)
    assert again._waiting.rows == 10, "and no more is read for it than is needed"
    first = take(again)
    assert (again.oldest(), again.oldest_stored()) == (200.0, 100.0)
    second = take(again)
    again.release(second)
    again.release(first)
    assert (again.oldest(), again.oldest_stored()) == (100.0, 100.0)
    assert [readings(take(again)), readings(take(again))] == tens(100, 200), "in the order of their numbers"


def test_no_more_is_read_back_for_the_age_of_the_oldest_than_one_entry(tmp_path: Path, table: TagTable) -> None:
    lane = new_lane(tmp_path, table)
    for n in range(3):
        put(lane, [n])
    again = reopened(lane)
    assert again.oldest() == 100.0
    assert again._waiting.rows == 1


def test_a_backlog_is_read_back_in_parts_of_what_the_memory_may_hold(tmp_path: Path, table: TagTable) -> None:
    lane = new_lane(tmp_path, table)
    put(lane, range(100))
    again = reopened(lane, memory_rows=30)
    unit = take(again)
    assert again._waiting.rows == 20
    assert readings(take(again, 100)) == list(range(10, 100)), "and more for a larger unit"
    assert readings(unit) == list(range(10))
    large = reopened(again, memory_rows=1000)
    take(large)
    assert large._waiting.rows == 90


def test_a_lane_reads_back_past_what_is_settled_and_what_it_holds(tmp_path: Path, table: TagTable) -> None:
    lane = new_lane(tmp_path, table)
    put(lane, range(40))
    units = [take(lane) for _ in range(4)]
    lane.settle(units[1])
    lane.settle(units[3])
    again = reopened(lane, memory_rows=10)
    first = take(again)
    put(again, range(40, 50))
    assert readings(first) == list(range(10))
    assert drained(again) == tens(20, 40)
    assert again.stored_rows == 10


@pytest.mark.parametrize(
    ("not_before", "left"), [(100.0, tens(0, 10)), (100.5, tens(10)), (200.0, tens(10)), (201.0, [])]
)
def test_what_was_appended_before_has_expired_and_what_was_appended_then_has_not(
    tmp_path: Path, table: TagTable, not_before: float, left: list[list[int]]
) -> None:
    clock = Clock(100.0)
    lane = new_lane(tmp_path, table, now=clock)
    for clock.time, first in ((100.0, 0), (200.0, 10)):
        put(lane, range(first, first + 10))
    unit = lane.take(100, BIG, not_before)
    assert [[*entry] for entry in np.split(np.array(readings(unit)), len(unit.entries))] == left if unit else not left
    assert lane.discarded == ({EXPIRED: 20 - 10 * len(left)} if len(left) < 2 else {})
    assert unit is None or unit.number == 1
    again = reopened(lane)
    assert drained(again) == left
    assert again.discarded == lane.discarded


def test_numbers_of_units_go_on_and_a_whole_one_that_expired_takes_none(tmp_path: Path, table: TagTable) -> None:
    clock = Clock(100.0)
    lane = new_lane(tmp_path, table, now=clock)
    put(lane, range(10))
    clock.time = 200.0
    put(lane, range(10, 30))
    assert readings(take(lane, 10, 150.0)) == list(range(10, 20)), "what has expired does not make the target wait"
    assert take(lane, 10, 150.0).number == 2


def test_a_recorded_unit_comes_first_after_a_restart_with_its_entries_in_their_order(
    tmp_path: Path, table: TagTable
) -> None:
    lane = new_lane(tmp_path, table)
    assert lane.interrupted is False
    put_segments(lane, 4)
    a, b = take(lane), take(lane, 20)
    lane.reject(b, [0], rest_delivered=False)
    lane.reject(a, [0], rest_delivered=False)
    unit = take(lane, 30)
    assert readings(unit) == [*range(11, 20), *range(20, 30), *range(1, 10)]
    assert lane.interrupted is False
    assert lane.record(unit) == lane.log.next_number - 1
    assert lane.record(unit) == 0, "once is enough"
    again = reopened(lane)
    assert again.interrupted is True
    assert again.oldest_stored() is not None
    once_more = take(again, 1)
    assert (once_more.number, readings(once_more)) == (unit.number, readings(unit))
    assert again.interrupted is False
    assert again.record(once_more) == 0
    assert drained(again) == tens(30)
    again.settle(once_more)
    assert again.stored_rows == 0
    assert len(keep_house(again)) == 1


def test_of_a_recorded_unit_what_was_discarded_since_does_not_come_again(tmp_path: Path, table: TagTable) -> None:
    lane = new_lane(tmp_path, table)
    put(lane, range(30))
    unit = take(lane, 20)
    lane.record(unit)
    lane._close(0, unit.entries[:1], [], "purged")
    again = reopened(lane)
    assert drained(again, 30) == tens(10, 20)
    other = new_lane(tmp_path / "all", table)
    put(other, range(20))
    unit = take(other)
    other.record(unit)
    other._close(0, unit.entries, [], "purged")
    again = reopened(other)
    assert drained(again, 30) == tens(10), "nor is there an empty one"


@pytest.mark.parametrize("marks", [True, False])
def test_what_a_lane_held_when_a_write_failed_is_marked_and_nothing_else(
    tmp_path: Path, table: TagTable, marks: bool
) -> None:
    def flags(lane: Lane) -> set[int]:
        return set(take(lane).batch().column("flags").to_pylist())

    lane = new_lane(tmp_path, table, marks_resent=marks)
    put(lane, range(20))
    assert flags(lane) == {0}
    lane.failed()
    put(lane, range(20, 30))
    marked = {Flags.RESENT} if marks else {0}
    assert [flags(lane), flags(lane)] == [marked, {0}]
    again = reopened(lane, marks_resent=marks)
    put(again, range(30, 40))
    assert [flags(again) for _ in range(4)] == [marked] * 3 + [{0}]
