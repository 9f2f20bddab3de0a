"""What a lane knows of its entries: where they came from, how old they are, and how well they are compressed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from delivery.origin import Origin
from normalization.reading import TagTable
from tests.delivery.stores import deliver_all, new_spool, sequences_of, stream, tag_table, unaccounted
from tests.delivery.test_spool import crash

BIG = 2**30


@pytest.mark.parametrize("options", [{}, {"entry_rows": 10}, {"entry_bytes": 2_000}])
def test_dead_letters_that_are_sent_again_are_known_one_by_one_however_they_are_split(
    tmp_path: Path, table: TagTable, options: dict[str, Any]
) -> None:
    spool = new_spool(tmp_path, table, **options)
    numbers = np.array([*range(100, 110), *range(200, 230)])
    assert spool.replay(stream(table, range(40)), Origin("letters", numbers))
    assert spool.replayed("letters").to_list() == [(100, 109), (200, 229)]
    assert spool.replayed("other letters").to_list() == []
    spool.snapshot()
    crash(spool)
    again = new_spool(tmp_path, tag_table(), **options)
    assert again.replayed("letters").to_list() == [(100, 109), (200, 229)]
    more = np.array([*range(100, 110), *range(225, 255)])
    assert again.replay(stream(again._tags, range(40)), Origin("letters", more)), "those that came are left out"
    assert again.stored_rows == 65
    assert sorted(deliver_all(again)) == sorted([*range(40), *range(15, 40)])
    again.forget_replayed("letters")
    assert again.replayed("letters").to_list() == []
    again.close()


def test_an_entry_larger_than_its_bound_is_split_in_the_middle_and_loses_nothing(
    tmp_path: Path, table: TagTable
) -> None:
    spool = new_spool(tmp_path, table, entry_bytes=4_000)
    spool.append(stream(table, range(100), text="x" * 100))
    assert not unaccounted(spool)
    found, sizes = [], []
    while (unit := spool.take(1, BIG)) is not None:
        sizes.append(unit.rows)
        found += sequences_of(unit.batch())
        spool.settle(unit)
    assert found == list(range(100))
    assert max(sizes) <= 2 * min(sizes) + 1
    assert max(sizes) * 100 <= 4_000
    spool.close()


def test_the_oldest_is_the_oldest_of_what_waits_and_of_what_is_under_way(tmp_path: Path, table: TagTable) -> None:
    clock = [10.0]
    spool = new_spool(tmp_path, table, now=lambda: clock[0], entry_rows=10)
    (lane,) = spool.lanes
    assert (lane.oldest(), lane.oldest_stored()) == (None, None)
    for moment in (10.0, 20.0, 30.0):
        clock[0] = moment
        spool.append(stream(table, range(int(moment), int(moment) + 10)))
    assert (lane.oldest(), lane.oldest_stored()) == (10.0, 10.0)
    first = spool.take(10, BIG)
    assert first
    assert (lane.oldest(), lane.oldest_stored()) == (20.0, 10.0)
    second = spool.take(10, BIG)
    assert second
    spool.settle(first)
    assert (lane.oldest(), lane.oldest_stored()) == (30.0, 20.0)
    spool.release(second)
    assert (lane.oldest(), lane.oldest_stored()) == (20.0, 20.0)
    for unit in (spool.take(10, BIG), spool.take(10, BIG)):
        assert unit
        spool.settle(unit)
    assert (lane.oldest(), lane.oldest_stored()) == (None, None)
    spool.close()


def test_the_ratio_of_compression_is_that_of_what_was_appended(tmp_path: Path, table: TagTable) -> None:
    spool = new_spool(tmp_path, table)
    (lane,) = spool.lanes
    assert (lane.raw_bytes, lane.compressed_bytes) == (0, 0)
    for n in range(2):
        spool.append(stream(table, range(n * 1000, n * 1000 + 1000), text="something that is said often"))
    assert lane.raw_bytes > 2 * 1000 * 28
    assert lane.raw_bytes / 200 < lane.compressed_bytes < lane.raw_bytes / 2
    spool.close()


def test_rejected_readings_are_no_delivered_ones_and_no_discarded_ones(tmp_path: Path, table: TagTable) -> None:
    spool = new_spool(tmp_path, table, entry_rows=10)
    spool.append(stream(table, range(20)))
    unit = spool.take(20, BIG)
    assert unit
    spool.reject(unit, [3, 15], rest_delivered=False)
    rest = spool.take(20, BIG)
    assert rest
    assert rest.number > unit.number
    spool.reject(rest, [0], rest_delivered=True)
    account = spool.account()
    assert (account.routed.total(), account.delivered.total(), account.dead.total()) == (20, 17, 3)
    assert account.discarded == {}
    assert spool.stored_rows == 0
    spool.close()
