"""What a lane takes: its entries, what it holds in memory, and what is known of it after a restart."""

import os
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from delivery.disk import StoreError, StoreFullError
from delivery.entry import Compression
from delivery.log import HEAD
from delivery.origin import Origin
from delivery.overflow import BufferPolicy
from delivery.waiting import Drain
from normalization.reading import Flags, TagTable
from tests.delivery.lanes import (
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
from tests.delivery.stores import GATEWAY, SHARD, content, stream

# ---------------------------------------------------------------------- appending


@pytest.mark.parametrize(
    ("bound", "rows"), [("as large", [8]), ("less", [4, 4]), ("nothing", [1] * 8)], ids=["as large", "less", "nothing"]
)
def test_an_entry_is_halved_until_it_is_within_its_bound(
    tmp_path: Path, table: TagTable, bound: str, rows: list[int]
) -> None:
    whole = new_lane(tmp_path / "whole", table)
    put(whole, range(8), text="x" * 50)
    size = take(whole).entries[0].size
    lane = new_lane(tmp_path / "lane", table, entry_bytes={"as large": size, "less": size - 1, "nothing": 1}[bound])
    put(lane, range(8), text="x" * 50)
    unit = take(lane, 100)
    assert [entry.rows for entry in unit.entries] == rows
    assert content(unit.batch()) == content(stream(table, range(8), text="x" * 50))


def test_what_a_lane_counts_of_its_compression_is_the_sum_over_its_entries(tmp_path: Path, table: TagTable) -> None:
    packed = {}
    for compression in Compression:
        lane = new_lane(
            tmp_path / compression.name, table, policy=BufferPolicy(compression=compression), entry_rows=1000
        )
        put(lane, range(1000), text="said often")
        first = lane.compressed_bytes
        put(lane, range(1000, 2000), text="said often")
        unit = take(lane, 5000)
        assert lane.raw_bytes == sum(entry.size for entry in unit.entries)
        assert first * 1.5 < lane.compressed_bytes < lane.size
        packed[compression] = lane.compressed_bytes
    assert packed[Compression.ZSTD] < packed[Compression.LZ4]


@pytest.mark.parametrize("from_disk", [False, True])
def test_readings_are_what_they_were_whatever_tags_came_before(
    tmp_path: Path, table: TagTable, from_disk: bool
) -> None:
    lane = new_lane(tmp_path, table)
    assert from_disk or drained(lane) == []
    for numbers in ([7, 3], [2]):
        put(lane, numbers)
    unit = take(lane, 100)
    assert unit.batch().column("tag").to_pylist() == [3, 3, 2]
    assert content(unit.batch()) == [row for n in (7, 3, 2) for row in content(stream(table, [n]))]


@pytest.mark.parametrize("sequences", [[1, 3, 5], [1, 1, 3, 3], [1, 1, 3, 3, 3], [4, 2], [7]])
def test_the_readings_that_came_are_known_after_a_restart_and_no_others(
    tmp_path: Path, table: TagTable, sequences: list[int]
) -> None:
    lane = new_lane(tmp_path, table)
    put(lane, sequences)
    expected = np.isin(np.arange(10), sequences).tolist()
    for again in (lane, reopened(lane)):
        known = again.had(GATEWAY, SHARD, np.arange(10))
        assert known is not None
        assert known.tolist() == expected


def test_of_dead_letters_that_are_sent_again_those_are_known_that_a_full_disk_took(
    tmp_path: Path, table: TagTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    lane = new_lane(tmp_path, table)
    fill_disk(lane, monkeypatch, after=2)
    with pytest.raises(StoreFullError):
        put(lane, range(30), Origin("letters", np.arange(100, 130)))
    assert lane.ledger.replayed["letters"].to_list() == [(100, 119)]
    monkeypatch.undo()
    again = reopened(lane)
    assert again.ledger.replayed["letters"].to_list() == [(100, 119)]
    half = new_lane(tmp_path / "half", table, entry_bytes=1)
    fill_disk(half, monkeypatch, after=3)
    with pytest.raises(StoreFullError):
        put(half, range(8), Origin("letters", np.arange(200, 208)))
    assert half.ledger.replayed["letters"].to_list() == [(200, 202)]


def test_tags_are_said_again_after_a_full_disk_refused_them(
    tmp_path: Path, table: TagTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    lane = new_lane(tmp_path, table)
    with monkeypatch.context() as full:
        fill_disk(lane, full)
        full.setattr("delivery.lane.write_tags", lambda *_: None)  # lost with what was written after them
        with pytest.raises(StoreFullError):
            put(lane, range(4))
    put(lane, range(4))
    again = reopened(lane)
    assert content(take(again).batch()) == [row | {"flags": Flags.RESENT} for row in content(stream(table, range(4)))]


@pytest.mark.parametrize(("limit", "held"), [(20, 20), (19, 10), (1, 10)])
def test_a_lane_holds_what_its_memory_may_and_one_entry_at_least(
    tmp_path: Path, table: TagTable, limit: int, held: int
) -> None:
    lane = new_lane(tmp_path, table, memory_rows=limit)
    assert drained(lane) == []  # has read to its end
    put(lane, range(50))
    assert lane._waiting.rows == held
    assert drained(lane) == tens(0, 10, 20, 30, 40)
    put(lane, range(50, 60))
    assert lane._waiting.rows == 10, "nothing is left behind any more"


@pytest.mark.parametrize("up_to_date", [False, True])
@pytest.mark.parametrize(("limit", "held"), [(20, 20), (19, 10), (1, 10)])
def test_with_the_newest_first_the_oldest_leave_the_memory_and_come_back_in_their_turn(
    tmp_path: Path, table: TagTable, limit: int, held: int, up_to_date: bool
) -> None:
    lane = new_lane(tmp_path, table, memory_rows=limit, policy=BufferPolicy(drain=Drain.NEWEST_FIRST))
    assert not up_to_date or drained(lane) == []
    put_segments(lane, 5)
    assert lane._waiting.rows == held
    assert lane.stored_rows == 50
    assert drained(lane) == tens(40, 30, 20, 10, 0)
    assert len(keep_house(lane)) == 1


@pytest.mark.parametrize("seed", range(3))
def test_with_the_newest_first_each_unit_is_the_newest_that_waits_wherever_it_is(
    tmp_path: Path, table: TagTable, seed: int
) -> None:
    lane = new_lane(tmp_path, table, memory_rows=30, policy=BufferPolicy(drain=Drain.NEWEST_FIRST))
    rng, waiting = random.Random(seed), list[int]()
    for n in range(150):
        if rng.random() < (0.8 if n % 50 < 25 else 0.3):  # the target is slow, and then it is not
            put(lane, range(10 * n, 10 * n + 10))
            waiting.append(n)
            if rng.random() < 0.6:
                lane.log.roll()
        elif waiting:
            newest = waiting.pop()
            unit = take(lane)
            assert readings(unit) == list(range(10 * newest, 10 * newest + 10))
            lane.settle(unit)
    assert drained(lane) == tens(*(10 * n for n in reversed(waiting)))


def test_live_readings_and_backlog_each_get_their_share_also_when_the_backlog_must_be_read_first(
    tmp_path: Path, table: TagTable
) -> None:
    lane = new_lane(tmp_path, table)
    put(lane, range(60))
    policy = BufferPolicy(drain=Drain.LIVE_FIRST, live_share=0.5)
    again = reopened(lane, policy=policy, memory_rows=20)
    put(again, range(100, 120))
    found = [readings(take(again)), readings(take(again, 20))]
    put(again, range(120, 130))
    found += [readings(take(again)), readings(take(again)), readings(take(again))]
    assert found == [*tens(100), list(range(20)), *tens(110, 120, 20)]


def test_with_live_readings_first_the_oldest_of_them_become_backlog_and_keep_their_order(
    tmp_path: Path, table: TagTable
) -> None:
    policy = BufferPolicy(drain=Drain.LIVE_FIRST, live_share=1.0)
    lane = new_lane(tmp_path, table, memory_rows=20, policy=policy)
    put_segments(lane, 6)
    assert drained(lane) == tens(40, 50, 0, 10, 20, 30)
    assert len(keep_house(lane)) == 1


def test_what_is_left_out_is_known_and_counted_also_on_a_disk_that_has_only_its_reserve(
    tmp_path: Path, table: TagTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    lane = new_lane(tmp_path, table)
    real = os.writev

    def full(fd: int, parts: list[bytes]) -> int:
        if (tmp_path / "reserve").exists():
            raise OSError(28, "No space left on device")
        return real(fd, parts)

    unit_before = [put(lane, range(10)), take(lane)][1]
    with monkeypatch.context() as small:
        small.setattr(os, "writev", full)
        lane.leave_out(GATEWAY, SHARD, np.array([20, 22]), {"source0": 2}, "overflow")
        lane.leave_out(GATEWAY, "derived/mean", np.array([7]), {"source0": 1}, "overflow")
    for again in (lane, reopened(lane)):
        assert again.discarded == {"overflow": 3}
        derived = again.had(GATEWAY, "derived/mean", np.array([6, 7]))
        assert derived is not None
        assert derived.tolist() == [False, True]
        known = again.had(GATEWAY, SHARD, np.arange(19, 24))
        assert known is not None
        assert known.tolist() == [False, True, False, True, False]
        assert again.stored_rows == unit_before.rows


@pytest.mark.parametrize("note", ["record", "settle"])
def test_a_unit_is_noted_on_a_disk_that_has_only_its_reserve(
    tmp_path: Path, table: TagTable, monkeypatch: pytest.MonkeyPatch, note: str
) -> None:
    lane = new_lane(tmp_path, table)
    put(lane, range(20))
    unit, real = take(lane), os.writev

    def full(fd: int, parts: list[bytes]) -> int:
        if (tmp_path / "reserve").exists():
            raise OSError(28, "No space left on device")
        return real(fd, parts)

    with monkeypatch.context() as small:
        small.setattr(os, "writev", full)
        getattr(lane, note)(unit)
    again = reopened(lane)
    assert again.interrupted is (note == "record")
    assert drained(again) == (tens(0, 10) if note == "record" else tens(10))


def test_an_epoch_ends_with_the_newest_record(tmp_path: Path, table: TagTable) -> None:
    lane = new_lane(tmp_path, table)
    put(lane, range(10))
    assert lane.close_epoch() == lane.log.next_number - 1 == take(lane).entries[0].number


# ---------------------------------------------------------------------- opening


def test_a_lane_of_a_newer_version_is_refused_with_its_place(tmp_path: Path, table: TagTable) -> None:
    lane = new_lane(tmp_path / "p7", table)
    real = lane._head
    lane.log._head = lambda: real()[:1] + b"\x09" + real()[2:]
    lane.log.roll()
    with pytest.raises(StoreError, match=r"p7 was written by a newer version of Bifrost"):
        reopened(lane)


def test_each_segment_can_be_read_without_those_before(tmp_path: Path, table: TagTable) -> None:
    lane = new_lane(tmp_path, table)
    assert drained(lane) == []
    put_segments(lane, 3)
    first, second = take(lane), take(lane)
    lane.settle(first)
    lane.settle(second)
    keep_house(lane)
    again = reopened(lane)
    assert [record.kind for record in lane.log.read(lane.log.cursor(0))][:2] == [HEAD, HEAD]
    assert content(take(again).batch()) == [
        row | {"flags": Flags.RESENT} for row in content(stream(table, range(20, 30)))
    ]


def test_a_lane_in_memory_leaves_nothing_on_disk(tmp_path: Path, table: TagTable) -> None:
    lane = new_lane(tmp_path / "lane", table, persistent=False)
    put_segments(lane, 3)
    assert drained(lane) == tens(0, 10, 20)
    assert not (tmp_path / "lane").exists()


def test_a_lane_goes_on_with_the_account_of_an_earlier_one(tmp_path: Path, table: TagTable) -> None:
    lane = new_lane(tmp_path, table)
    for _ in range(2):
        lane.follow(Counter(source0=5, source1=2), Counter(source0=2, source1=3), "earlier")
    account = lane.account()
    assert account.routed == Counter(source0=10, source1=4)
    assert account.dead == Counter(source0=4, source1=4)
    assert account.discarded == {"earlier": Counter(source0=6)}
