"""What a spool does at its bounds: priorities, policies, expiry and drain orders."""

import os
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from delivery.lane import EXPIRED
from delivery.overflow import BufferPolicy, Overflow, Thinner
from delivery.spool import DOWNSAMPLED, Spool
from delivery.waiting import Drain
from normalization.reading import Flags, Quality, TagTable
from tests.delivery.stores import Clock, deliver_all, new_spool, sequences_of, stream, tag_table, unaccounted, until
from tests.delivery.test_spool import crash

BIG = 2**30


def put(batch: pa.RecordBatch, name: str, values: Any) -> pa.RecordBatch:
    at = batch.schema.get_field_index(name)
    return batch.set_column(at, batch.schema.field(at), pa.array(values, batch.schema.field(at).type))


def urgent(table: TagTable, numbers: range | list[int], priority: int) -> pa.RecordBatch:
    """As `stream`, with a priority."""
    return put(stream(table, numbers), "priority", np.full(len(numbers), priority, np.int32))


def policy(**settings: Any) -> BufferPolicy:
    return BufferPolicy(**settings)


def fill(spool: Spool, numbers: range, size: int = 50, priority: int = 0) -> None:
    """Append readings of some 400 bytes, a batch each `size`."""
    rng = random.Random(numbers.start)
    for start in range(numbers.start, numbers.stop, size):
        batch = urgent(spool._tags, range(start, min(start + size, numbers.stop)), priority)
        spool.append(put(batch, "properties", [rng.randbytes(200).hex() for _ in range(len(batch))]))


def gone(spool: Spool) -> int:
    return sum(counts.total() for counts in spool.account().discarded.values())


# ---------------------------------------------------------------------- priority


def test_a_more_urgent_reading_overtakes_the_backlog_and_order_is_kept_within_a_priority(
    tmp_path: Path, table: TagTable
) -> None:
    spool = new_spool(tmp_path, table, entry_rows=10, priorities=[3, 7])
    spool.append(stream(table, range(100)))
    spool.append(urgent(table, range(200, 220), 3))
    spool.append(urgent(table, range(300, 310), 9))  # no rule gives 9: it goes with the 7s
    spool.append(urgent(table, range(400, 410), 3))
    spool.append(urgent(table, range(500, 510), -4))
    expected = [*range(300, 310), *range(200, 220), *range(400, 410), *range(100), *range(500, 510)]
    assert deliver_all(spool, rows=10) == expected
    assert not unaccounted(spool)
    spool.close()


def test_a_batch_of_several_priorities_is_taken_apart(tmp_path: Path, table: TagTable) -> None:
    spool = new_spool(tmp_path, table, priorities=[1])
    spool.append(put(stream(table, range(10)), "priority", np.arange(10) % 2))
    assert deliver_all(spool) == [1, 3, 5, 7, 9, 0, 2, 4, 6, 8]
    spool.close()


def test_a_reading_that_comes_again_with_another_priority_is_left_out(tmp_path: Path, table: TagTable) -> None:
    spool = new_spool(tmp_path, table, priorities=[5])
    spool.append(stream(table, range(20)))
    spool.append(urgent(table, range(10, 30), 5))
    assert sorted(deliver_all(spool)) == list(range(30))
    spool.close()


def test_a_lane_of_a_rule_that_went_is_still_delivered(tmp_path: Path, table: TagTable) -> None:
    spool = new_spool(tmp_path, table, priorities=[5])
    spool.append(urgent(table, range(10), 5))
    spool.close()
    spool = new_spool(tmp_path, tag_table())
    assert deliver_all(spool) == list(range(10))
    spool.close()


# ---------------------------------------------------------------------- overflow

QUOTA = 2_000_000


def test_the_oldest_of_the_lowest_priority_makes_room(tmp_path: Path, table: TagTable) -> None:
    spool = new_spool(tmp_path, table, policy=policy(quota=QUOTA), priorities=[5])
    fill(spool, range(200_000, 201_000), priority=5)
    fill(spool, range(10_000))
    spool.snapshot()
    until(lambda: spool.size <= QUOTA + 100_000)
    assert spool.alarm == "readings are discarded"
    left_out = gone(spool)
    assert left_out > 1000
    assert not unaccounted(spool)
    found = deliver_all(spool)
    assert found[:1000] == list(range(200_000, 201_000)), "what is more urgent is all there"
    assert found[1000:] == list(range(left_out, 10_000)), "the oldest went"
    spool.close()


def test_what_is_less_urgent_than_all_that_is_stored_is_left_out(tmp_path: Path, table: TagTable) -> None:
    spool = new_spool(tmp_path, table, policy=policy(quota=QUOTA), priorities=[5])
    fill(spool, range(10_000), priority=5)
    before, stored = gone(spool), spool.stored_rows
    assert before > 0
    fill(spool, range(100_000, 101_000))
    assert gone(spool) > before
    assert len([n for n in deliver_all(spool) if n < 100_000]) == stored, "nothing more urgent went for them"
    assert not unaccounted(spool)
    spool.close()


def test_drop_newest_leaves_out_what_comes_and_goes_on_when_there_is_room(tmp_path: Path, table: TagTable) -> None:
    spool = new_spool(tmp_path, table, policy=policy(quota=QUOTA, overflow=Overflow.DROP_NEWEST), priorities=[5])
    fill(spool, range(10_000))
    fill(spool, range(20_000, 20_100), priority=5)
    stored = spool.stored_rows
    assert stored + gone(spool) == 10_100
    assert deliver_all(spool) == list(range(stored))
    until(lambda: spool.size < QUOTA / 2)
    fill(spool, range(30_000, 30_100))
    assert deliver_all(spool) == list(range(30_000, 30_100))
    assert not unaccounted(spool)
    spool.close()


def test_drop_lowest_priority_keeps_the_old_of_the_lowest_and_lets_them_go_for_more_urgent_ones(
    tmp_path: Path, table: TagTable
) -> None:
    full = policy(quota=QUOTA, overflow=Overflow.DROP_LOWEST_PRIORITY)
    spool = new_spool(tmp_path, table, policy=full, priorities=[5])
    fill(spool, range(10_000))
    before = gone(spool)
    assert before > 1000
    fill(spool, range(20_000, 20_500), priority=5)
    assert gone(spool) > before
    found = deliver_all(spool)
    assert found[:500] == list(range(20_000, 20_500))
    assert found[500:] == list(range(10_000 - before - len(found[500:]), 10_000 - before)), "the oldest of them went"
    assert not unaccounted(spool)
    spool.close()


def test_downsample_thins_out_before_anything_old_goes(tmp_path: Path, table: TagTable) -> None:
    thin = policy(quota=QUOTA, overflow=Overflow.DOWNSAMPLE, keep_every=10)
    spool = new_spool(tmp_path, table, policy=thin)
    fill(spool, range(10_000))
    account = spool.account()
    assert set(account.discarded) == {DOWNSAMPLED}
    assert not unaccounted(spool)
    found = deliver_all(spool)
    whole = next(i for i, n in enumerate(found) if n != i)
    assert whole > 1000
    rest = np.array(found[whole:])
    assert len(rest) == pytest.approx((10_000 - whole) / 10, rel=0.1)
    for tag in range(4):
        assert set(np.diff(rest[rest % 4 == tag])) == {40}, "every tenth of each tag"
    spool.close()


def test_block_asks_the_flow_to_wait_and_loses_nothing(tmp_path: Path, table: TagTable) -> None:
    spool = new_spool(tmp_path, table, policy=policy(quota=QUOTA, overflow=Overflow.BLOCK))
    assert not spool.blocked
    n = 0
    while not spool.blocked:
        fill(spool, range(n, n + 100))
        n += 100
        assert n < 20_000
    fill(spool, range(n, n + 100))  # what the flow held when it was asked
    assert spool.alarm == "full, the sources wait"
    assert deliver_all(spool) == list(range(n + 100))
    until(lambda: not spool.blocked)
    assert gone(spool) == 0
    spool.close()


def test_readings_are_bounded_too(tmp_path: Path, table: TagTable) -> None:
    bounded = policy(rows=1000, overflow=Overflow.DROP_NEWEST)
    spool = new_spool(tmp_path, table, policy=bounded, entry_rows=50)
    fill(spool, range(3000))
    assert spool.stored_rows == 1000
    assert gone(spool) == 2000
    spool.close()


@pytest.mark.parametrize("overflow", [Overflow.DROP_OLDEST, Overflow.DROP_NEWEST, Overflow.DOWNSAMPLE])
def test_discarded_readings_do_not_come_back_with_a_replay(tmp_path: Path, table: TagTable, overflow: Overflow) -> None:
    full = policy(quota=QUOTA, overflow=overflow)
    spool = new_spool(tmp_path, table, policy=full)
    fill(spool, range(5_000))
    before = spool.account()
    spool.snapshot()
    crash(spool)
    spool = new_spool(tmp_path, tag_table(), policy=full)
    assert spool.account() == before
    fill(spool, range(5_000))
    assert spool.account() == before
    assert len(deliver_all(spool)) == before.stored.total()
    assert not unaccounted(spool)
    spool.close()


@pytest.mark.parametrize("recorded", [False, True])
def test_overflow_spares_what_is_under_way_and_frees_room_around_it(
    tmp_path: Path, table: TagTable, recorded: bool
) -> None:
    spool = new_spool(tmp_path, table, policy=policy(quota=QUOTA), entry_rows=10)
    fill(spool, range(1000))
    unit = spool.take(20, BIG)
    assert unit
    if recorded:
        spool.record(unit)
    fill(spool, range(1000, 10_000))
    spool.snapshot()
    until(lambda: spool.size <= QUOTA + 100_000)
    if recorded:
        crash(spool)
        spool = new_spool(tmp_path, tag_table(), policy=policy(quota=QUOTA), entry_rows=10)
        unit = spool.take(20, BIG)
        assert unit
    assert sequences_of(unit.batch()) == list(range(20))
    spool.settle(unit)
    left_out = gone(spool)
    assert deliver_all(spool) == list(range(20 + left_out, 10_000))
    assert not unaccounted(spool)
    spool.close()


def test_a_disk_with_too_little_room_does_not_let_the_spool_grow(small_disk: Path, table: TagTable) -> None:
    scarce = policy(quota=BIG, free_disk=500_000)
    spool = new_spool(small_disk / "spool", table, policy=scarce, segment_bytes=20_000)
    fill(spool, range(5_000))
    spool.snapshot()
    until(lambda: os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize > 400_000)
    assert gone(spool) > 0
    left_out = gone(spool)
    assert deliver_all(spool) == list(range(left_out, 5_000))
    assert not unaccounted(spool)
    spool.close()


def test_a_full_disk_follows_the_policy_and_is_left_without_an_operator(small_disk: Path, table: TagTable) -> None:
    spool = new_spool(small_disk / "spool", table, policy=policy(quota=BIG), segment_bytes=20_000)
    other = small_disk / "other"
    other.write_bytes(bytes(400_000))
    fill(spool, range(10_000))
    spool.snapshot()
    left_out = gone(spool)
    assert 0 < left_out < 10_000
    assert not unaccounted(spool)
    assert deliver_all(spool) == list(range(left_out, 10_000))
    spool.close()


# ---------------------------------------------------------------------- expiry


@pytest.mark.parametrize("memory_rows", [10, 100_000])
def test_old_readings_expire_by_priority_and_are_counted(tmp_path: Path, table: TagTable, memory_rows: int) -> None:
    clock = Clock()
    ages = policy(expiry={0: 60.0, 5: None})
    options: dict[str, Any] = {"policy": ages, "priorities": [5], "entry_rows": 10, "memory_rows": memory_rows}
    spool = new_spool(tmp_path, table, now=clock, **options)
    spool.append(stream(table, range(100)))
    spool.append(urgent(table, range(200, 210), 5))
    clock.time += 50
    spool.append(stream(table, range(100, 150)))
    clock.time += 20
    assert deliver_all(spool) == [*range(200, 210), *range(100, 150)]
    assert spool.account().discarded == {EXPIRED: {"source0": 50, "source1": 50}}
    assert not unaccounted(spool)
    spool.close()


def test_old_readings_expire_while_nobody_takes_any(tmp_path: Path, table: TagTable) -> None:
    clock = Clock()
    spool = new_spool(tmp_path, table, now=clock, policy=policy(expiry={0: 60.0}), segment_bytes=20_000)
    fill(spool, range(1000))
    clock.time += 70
    fill(spool, range(1000, 1050))
    until(lambda: gone(spool) > 900)
    until(lambda: spool.size < 100_000)
    assert deliver_all(spool)[-50:] == list(range(1000, 1050))
    assert not unaccounted(spool)
    spool.close()


def test_readings_do_not_expire_while_the_target_refuses_the_gateway(tmp_path: Path, table: TagTable) -> None:
    clock = Clock()
    spool = new_spool(tmp_path, table, now=clock, policy=policy(expiry={0: 60.0}))
    spool.append(stream(table, range(10)))
    spool.keep(True)
    clock.time += 100
    assert deliver_all(spool) == list(range(10))
    spool.close()


# ---------------------------------------------------------------------- drain orders


def test_the_newest_go_first(tmp_path: Path, table: TagTable) -> None:
    spool = new_spool(
        tmp_path, table, policy=policy(drain=Drain.NEWEST_FIRST), entry_rows=10, memory_rows=40, segment_bytes=4000
    )
    for start in range(0, 1000, 10):
        spool.append(stream(table, range(start, start + 10)))
    found = []
    for number in range(2):
        unit = spool.take(20, BIG)
        assert unit
        found.append(sequences_of(unit.batch()))
        spool.settle(unit)
        spool.append(stream(table, range(1000 + 10 * number, 1010 + 10 * number)))
    assert found == [list(range(980, 1000)), [*range(970, 980), *range(1000, 1010)]]
    rest = deliver_all(spool, rows=10)
    assert rest[:10] == list(range(1010, 1020))
    assert sorted(rest[10:]) == list(range(970))
    assert rest[10:] == [n for start in range(960, -1, -10) for n in range(start, start + 10)]
    assert not unaccounted(spool)
    spool.close()


def test_live_readings_go_beside_the_backlog_with_their_share(tmp_path: Path, table: TagTable) -> None:
    live = policy(drain=Drain.LIVE_FIRST, live_share=0.75)
    spool = new_spool(tmp_path, table, policy=live, entry_rows=10, memory_rows=100, segment_bytes=4000)
    for start in range(0, 1000, 10):
        spool.append(stream(table, range(start, start + 10)))
    sent: list[int] = []
    for number in range(80):
        spool.append(stream(table, range(1000 + 10 * number, 1010 + 10 * number)))
        unit = spool.take(10, BIG)
        assert unit
        sent += sequences_of(unit.batch())
        spool.settle(unit)
    backlog = [n for n in sent if n < 900]
    assert len(backlog) / len(sent) == pytest.approx(0.25, abs=0.05)
    assert backlog == sorted(backlog), "the backlog keeps its order"
    assert [n for n in sent if n >= 1000][-1] >= 1500, "what is live does not wait for the backlog"
    assert sorted(sent + deliver_all(spool)) == list(range(1800))
    assert not unaccounted(spool)
    spool.close()


def test_an_idle_target_gets_the_backlog_at_once(tmp_path: Path, table: TagTable) -> None:
    spool = new_spool(tmp_path, table, policy=policy(drain=Drain.LIVE_FIRST), entry_rows=10, memory_rows=50)
    for start in range(0, 500, 10):
        spool.append(stream(table, range(start, start + 10)))
    assert sorted(deliver_all(spool)) == list(range(500))
    spool.close()


@pytest.mark.parametrize("drain", list(Drain))
@pytest.mark.parametrize("seed", range(6))
def test_nothing_is_lost_or_doubled_in_any_order_of_delivery(tmp_path: Path, drain: Drain, seed: int) -> None:
    rng = random.Random(seed)
    bounds = rng.choice([policy(drain=drain), policy(drain=drain, rows=300), policy(drain=drain, quota=120_000)])
    options: dict[str, Any] = {"policy": bounds, "priorities": [2], "entry_rows": 7, "memory_rows": 30}
    spool = new_spool(tmp_path, tag_table(), segment_bytes=3000, **options)
    delivered, under_way, n = Counter[int](), [], 0
    for _ in range(600):
        draw = rng.random()
        if draw < 0.45:
            count = rng.randrange(1, 20)
            spool.append(urgent(spool._tags, range(n, n + count), rng.choice([0, 2])))
            n += count
        elif draw < 0.75:
            unit = spool.take(rng.randrange(1, 30), BIG)
            if unit is not None:
                under_way.append(unit)
        elif under_way and draw < 0.9:
            unit = under_way.pop(rng.randrange(len(under_way)))
            batch = sequences_of(unit.batch())
            if rng.random() < 0.2:
                spool.reject(unit, [0], rest_delivered=False)
                delivered[batch[0]] += 1
            else:
                delivered.update(batch)
                spool.settle(unit)
        elif under_way and draw < 0.95:
            spool.release(under_way.pop())
        elif draw < 0.97:
            spool.snapshot()
            crash(spool)
            spool, under_way = new_spool(tmp_path, tag_table(), segment_bytes=3000, **options), []
    for unit in under_way:
        spool.release(unit)
    delivered.update(deliver_all(spool))
    assert set(delivered.values()) <= {1}
    assert len(delivered) + gone(spool) == n
    assert not unaccounted(spool)
    assert spool.stored_rows == 0
    spool.snapshot()
    until(lambda: all(len(lane.log.segments()) == 1 for lane in spool.lanes))
    spool.close()


# ---------------------------------------------------------------------- marks


def test_what_may_have_been_sent_before_says_so(tmp_path: Path, table: TagTable) -> None:
    def marks(spool: Spool) -> list[int]:
        unit = spool.take(10, BIG)
        assert unit
        spool.settle(unit)
        return unit.batch().column("flags").to_pylist()

    spool = new_spool(tmp_path, table, entry_rows=2)
    spool.append(stream(table, range(2)))
    assert marks(spool) == [0, 0]
    spool.append(stream(table, range(2, 4)))
    spool.failed()
    spool.append(stream(table, range(4, 6)))
    assert marks(spool) == [Flags.RESENT, Flags.RESENT, 0, 0]
    spool.append(stream(table, range(6, 8)))
    crash(spool)
    spool = new_spool(tmp_path, tag_table(), entry_rows=2)
    spool.append(stream(spool._tags, range(8, 10)))
    assert marks(spool) == [Flags.RESENT, Flags.RESENT, 0, 0]
    spool.close()


# ---------------------------------------------------------------------- thinning out


@given(
    st.lists(st.lists(st.tuples(st.integers(0, 5), st.sampled_from([0, 2])), min_size=1, max_size=20), max_size=8),
    st.integers(1, 5),
)
def test_thinning_out_keeps_every_nth_and_every_change_of_quality(
    batches: list[list[tuple[int, int]]], every: int
) -> None:
    thinner, seen, quality = Thinner(every), Counter[int](), dict[int, int]()
    for batch in batches:
        expected = []
        for tag, now in batch:
            expected.append(seen[tag] % every == 0 or quality[tag] != now)
            seen[tag], quality[tag] = seen[tag] + 1, now
        tags, qualities = (np.array(column) for column in zip(*batch, strict=True))
        assert thinner.keep(tags, qualities).tolist() == expected
    assert Quality.GOOD == 0


def test_ages_are_by_the_largest_priority_that_is_not_above() -> None:
    ages = BufferPolicy(expiry={0: 60.0, 5: None, 8: 10.0})
    assert [ages.expires_after(n) for n in (-1, 0, 4, 5, 7, 8, 100)] == [None, 60.0, 60.0, None, None, 10.0, 10.0]
