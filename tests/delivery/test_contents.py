"""What waits in a spool, looked at, purged, and moved to another target."""

from pathlib import Path

from delivery.contents import ATTACHED, move, stored
from delivery.origin import Origin
from delivery.overflow import BufferPolicy
from normalization.reading import TagTable
from tests.delivery.stores import content, deliver_all, new_spool, sequences_of, stream, unaccounted, until
from tests.delivery.test_overflow import urgent
from tests.delivery.test_spool import reopened


def test_looking_takes_nothing_and_shows_the_most_urgent_first(tmp_path: Path, table: TagTable) -> None:
    spool = new_spool(tmp_path, table, entry_rows=10, priorities=[5])
    spool.append(stream(table, range(1, 31)))
    spool.append(urgent(table, range(100, 105), 5))
    unit = spool.take(5, 2**30)  # under way: the urgent ones
    other = spool.take(10, 2**30)
    assert unit is not None
    assert other is not None
    spool.reject(other, [0, 3], rest_delivered=False)
    seen = [n for batch in stored(spool, table) for n in sequences_of(batch)]
    assert seen == [*range(100, 105), 2, 3, *range(5, 31)]
    spool.release(unit)
    assert sorted(deliver_all(spool)) == sorted(seen)
    assert list(stored(spool, table)) == []
    spool.close()


def test_purging_discards_all_but_what_is_under_way(tmp_path: Path, table: TagTable) -> None:
    spool = new_spool(tmp_path, table, entry_rows=10, priorities=[5])
    spool.append(stream(table, range(1, 101)))
    unit = spool.take(10, 2**30)
    assert unit is not None
    assert spool.purge("purged") == 90
    assert spool.account().discarded == {"purged": {"source0": 45, "source1": 45}}
    assert spool.stored_rows == 10
    spool.settle(unit)
    assert not unaccounted(spool)
    spool = reopened(spool)
    assert deliver_all(spool) == []
    assert not unaccounted(spool)
    spool.close()


def test_a_recorded_unit_is_spared_by_a_purge_after_a_crash(tmp_path: Path, table: TagTable) -> None:
    spool = new_spool(tmp_path, table, entry_rows=10, marks_resent=False)
    spool.append(stream(table, range(1, 31)))
    unit = spool.take(10, 2**30)
    assert unit is not None
    spool.record(unit)
    spool = reopened(spool, marks_resent=False)
    assert spool.purge("purged") == 20
    again = spool.take(10, 2**30)
    assert again is not None
    assert (again.number, sequences_of(again.batch())) == (unit.number, list(range(1, 11)))
    spool.close()


def test_what_is_moved_keeps_its_identity_and_leaves(tmp_path: Path, table: TagTable) -> None:
    old, new = new_spool(tmp_path / "old", table), new_spool(tmp_path / "new", table)
    batch = stream(table, range(1, 51))
    old.append(batch)
    new.append(stream(table, range(41, 61)))
    assert move("old", old, new) == (50, True)
    assert old.account().discarded[ATTACHED].total() == 50
    assert not unaccounted(old)
    assert not unaccounted(new)
    found = [n for part in stored(new, table) for n in sequences_of(part)]
    assert sorted(found) == list(range(1, 61)), "those that both had are there once"
    last = list(stored(new, table))[-1]
    assert content(last) == content(batch.slice(0, 40))
    old.close()
    new.close()


def test_a_move_that_a_crash_cut_short_can_be_done_again(tmp_path: Path, table: TagTable) -> None:
    old, new = new_spool(tmp_path / "old", table), new_spool(tmp_path / "new", table)
    old.append(stream(table, range(1, 11)))
    new.forget("mqtt-0-abc123", 10)  # nothing but the mark tells that they have come
    unit = old.take(1000, 2**30)
    assert unit is not None
    settle = old.settle
    old.settle = lambda *_: None  # type: ignore[method-assign]
    old.release(unit)
    reached: list[Origin] = []
    replay = new.replay

    def once(batch: object, origin: Origin) -> bool:
        reached.append(origin)
        return len(reached) == 1 and replay(batch, origin)  # type: ignore[arg-type]

    new.replay = once  # type: ignore[method-assign]
    move("old", old, new)
    old.settle = settle  # type: ignore[method-assign]
    old, new = reopened(old), reopened(new)
    assert old.stored_rows == new.stored_rows == 10
    assert move("old", old, new) == (10, True)
    assert (old.stored_rows, new.stored_rows) == (0, 10)
    assert deliver_all(new) == list(range(1, 11))
    old.close()
    new.close()


def test_a_move_into_a_full_spool_leaves_the_rest(tmp_path: Path, table: TagTable) -> None:
    old = new_spool(tmp_path / "old", table, entry_rows=10_000)
    new = new_spool(tmp_path / "new", table, policy=BufferPolicy(rows=1000))
    for start in range(0, 30_000, 10_000):
        old.append(stream(table, range(start, start + 10_000)))
    assert move("old", old, new) == (10_000, False)
    assert (old.stored_rows, new.stored_rows) == (20_000, 10_000)
    deliver_all(new)
    until(lambda: new.stored_rows == 0)
    assert move("old", old, new)[0] == 10_000
    old.close()
    new.close()
