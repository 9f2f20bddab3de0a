"""What readers have appended and no commit holds yet."""

import asyncio

import pyarrow as pa
import pytest

from delivery.pending import Pending
from normalization.reading import FACTS, Columns
from tests.delivery.stores import columns, tag_table

TABLE = tag_table()


def column(facts: list[pa.Array], name: str) -> list[object]:
    array = facts[FACTS.get_field_index(name)]
    return (array.view(pa.int64()) if pa.types.is_timestamp(array.type) else array).to_pylist()


async def test_appends_of_a_shard_become_one_batch_in_their_order() -> None:
    pending = Pending()
    assert not pending
    pending.add("s", 1, columns([1, 2]), None, 100)
    pending.add("t", 1, columns([3]), None, 200)
    pending.add("s", 1, columns([4]), None, 300)
    pending.add("s", 2, columns([9]), None, 400)
    assert pending
    assert (pending.rows, pending.began) == (5, 100)
    facts, sources = pending.cut(1, TABLE, 50)
    assert column(facts, "value_int") == [1, 2, 3, 4]
    assert column(facts, "sequence") == [50, 51, 52, 53]
    assert column(facts, "received_time") == [100, 100, 200, 300]
    assert sources == {"s": 3, "t": 1}
    facts, sources = pending.cut(2, TABLE, 7)
    assert (column(facts, "value_int"), column(facts, "sequence"), sources) == ([9], [7], {"s": 1})


async def test_a_state_without_readings_is_kept_and_the_last_one_counts() -> None:
    pending = Pending()
    done = pending.add("s", 1, Columns(), b"one", 100)
    assert pending, "somebody waits for it"
    assert (pending.rows, pending.began, pending.columns) == (0, 0, {})
    pending.add("s", 1, Columns(), b"two", 200)
    pending.add("t", 1, Columns(), None, 300)
    assert pending.states == {"s": b"two"}
    pending.resolve()
    await done


async def test_everybody_is_told_once_all_is_on_disk() -> None:
    pending = Pending()
    futures = [pending.add("s", n, columns([n]), None, 1) for n in range(3)]
    futures[1].cancel()
    await asyncio.sleep(0)
    assert not futures[0].done()
    pending.resolve()
    assert await asyncio.gather(futures[0], futures[2]) == [None, None]
    assert futures[1].cancelled()


async def test_what_fits_no_column_is_refused_with_its_state_and_the_others_go_on() -> None:
    pending = Pending()
    bad = columns([5])
    bad.tag[:] = [99]  # no such tag
    good = pending.add("s", 1, columns([1]), b"of s", 100)
    refused = pending.add("t", 1, bad, b"of t", 200)
    last = pending.add("u", 1, columns([2, 3]), None, 300)
    facts, sources = pending.cut(1, TABLE, 10)
    assert column(facts, "value_int") == [1, 2, 3]
    assert column(facts, "sequence") == [10, 11, 12]
    assert column(facts, "received_time") == [100, 300, 300]
    assert sources == {"s": 1, "u": 2}
    assert pending.states == {"s": b"of s"}
    with pytest.raises(ValueError, match="readings of t cannot be journalled: a tag that is not in the tag table"):
        await refused
    assert not good.done()
    pending.resolve()
    await asyncio.gather(good, last)


@pytest.mark.parametrize("tag", [-1, 4, 2**40])
async def test_a_tag_that_nobody_knows_is_refused(tag: int) -> None:
    pending = Pending()
    rows = columns([0])
    rows.tag[:] = [tag]
    refused = pending.add("s", 1, rows, None, 100)
    facts, sources = pending.cut(1, TABLE, 1)
    assert (len(facts[0]), sources) == (0, {})
    with pytest.raises(ValueError, match="readings of s cannot be journalled"):
        await refused


@pytest.mark.parametrize("tag", [0, 3])
async def test_the_first_and_the_last_tag_are_known(tag: int) -> None:
    pending = Pending()
    rows = columns([0])
    rows.tag[:] = [tag]
    pending.add("s", 1, rows, None, 100)
    assert column(pending.cut(1, TABLE, 1)[0], "tag") == [tag]


async def test_a_loop_that_has_been_closed_keeps_nobody_else_from_being_told() -> None:
    pending = Pending()

    def in_another_loop() -> None:
        async def add() -> None:
            pending.add("s", 1, columns([1]), None, 1)
            bad = columns([1])
            bad.tag[:] = [99]
            pending.add("t", 1, bad, None, 1)

        asyncio.run(add())

    await asyncio.to_thread(in_another_loop)
    mine = pending.add("u", 1, columns([2]), None, 1)
    assert column(pending.cut(1, TABLE, 1)[0], "value_int") == [1, 2]
    pending.resolve()
    await mine
