import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from delivery.identities import Identities, by_shard, fresh, spelled, unspelled
from tests.delivery.stores import stream, tag_table

BATCHES = st.lists(st.lists(st.integers(0, 60), min_size=0, max_size=12), max_size=12)


def known(identities: Identities, shard: str) -> set[int]:
    every = np.arange(0, 70)
    had = identities.had(shard, every)
    return set() if had is None else set(every[had].tolist())


@given(BATCHES, st.integers(-1, 70))
def test_exactly_what_was_added_and_not_forgotten_is_known(batches: list[list[int]], upto: int) -> None:
    """Subsets, gaps, any order, and sequences that come twice in one batch."""
    identities, added = Identities(), set()
    for batch in batches:
        identities.add("a", np.array(batch, np.int64))
        added |= set(batch)
    assert known(identities, "a") == added
    assert known(identities, "b") == set()
    identities.forget("a", upto)
    left = {n for n in added if n > upto}
    assert known(identities, "a") == left
    assert identities.shards() == (["a"] if left else [])
    again = Identities.from_list(identities.to_list())
    assert known(again, "a") == left
    again.add("a", np.array([65, 66]))
    assert known(again, "a") == left | {65, 66}


def test_contiguous_batches_take_no_room() -> None:
    identities = Identities()
    for start in range(1, 100_001, 100):
        identities.add("a", np.arange(start, start + 100))
    assert identities.to_list() == [["a", [[1, 100_000, b""]]]]
    assert identities.count("a") == 100_000


def test_a_known_sequence_may_be_in_any_order_in_the_question() -> None:
    identities = Identities()
    identities.add("a", np.array([2, 4]))
    had = identities.had("a", np.array([9, 4, 3, 2]))
    assert had is not None
    assert had.tolist() == [False, True, False, True]
    assert identities.had("a", np.array([3, 9])) is None
    assert identities.had("a", np.array([], np.int64)) is None


def test_forgetting_leaves_the_rest_of_a_run() -> None:
    identities = Identities()
    identities.add("a", np.arange(1, 11))
    identities.add("a", np.array([20, 22, 24]))
    identities.forget("a", 5)
    identities.forget("a", 20)
    assert identities.count("a") == 2
    identities.forget("nobody", 5)


@given(BATCHES, st.sets(st.integers(0, 70)))
def test_discarded_sequences_are_forgotten_alone(batches: list[list[int]], gone: set[int]) -> None:
    identities = Identities()
    for batch in batches:
        identities.add("a", np.array(batch, np.int64))
    identities.add("b", np.array([1, 2]))
    identities.discard("a", np.array(sorted(gone), np.int64))
    left = {n for batch in batches for n in batch} - gone
    assert known(identities, "a") == left
    assert set(identities.sequences("a").tolist()) == left
    assert identities.shards() == (["a", "b"] if left else ["b"])
    assert known(identities, "b") == {1, 2}


def test_the_number_of_those_remembered_is_told_with_and_without_holes() -> None:
    identities = Identities()
    assert (identities.count("a"), identities.sequences("a").tolist()) == (0, [])
    identities.add("a", np.array([5, 3, 4]))
    identities.add("a", np.array([9, 7, 7, 9]))
    identities.add("b", np.array([3, 3]))
    assert (identities.count("a"), identities.count("b")) == (5, 1)
    assert identities.sequences("a").tolist() == [3, 4, 5, 7, 9]
    assert identities.sequences("a").dtype == np.int64


def test_what_is_remembered_does_not_change_with_the_array_it_came_in() -> None:
    identities, numbers = Identities(), np.array([1, 3, 5])
    identities.add("a", numbers)
    numbers[:] = 0
    assert known(identities, "a") == {1, 3, 5}


@given(st.lists(st.integers(0, 12), max_size=20), st.none() | st.sets(st.integers(0, 12)))
def test_a_row_is_fresh_when_it_is_not_known_and_the_first_of_its_sequence(
    sequences: list[int], before: set[int] | None
) -> None:
    had = None if before is None else np.array([n in before for n in sequences], bool)
    found = fresh(np.array(sequences, np.int64), had)
    expected = [
        row for row, n in enumerate(sequences) if n not in sequences[:row] and (before is None or n not in before)
    ]
    assert (list(range(len(sequences))) if found is None else found.tolist()) == expected
    if had is None and sequences == sorted(set(sequences)):
        assert found is None, "nothing is taken apart that need not be"


@pytest.mark.parametrize(
    ("sequences", "run"), [([4], True), ([4, 5, 6], True), ([4, 6], False), ([5, 4, 6], False), ([4, 4, 6], False)]
)
def test_sequences_are_spelled_shortly_when_they_are_a_run(sequences: list[int], run: bool) -> None:
    short = spelled(np.array(sequences))
    assert short == (sequences[0], sequences[-1]) if run else isinstance(short, bytes)
    assert unspelled(short).tolist() == sequences


def test_a_batch_is_taken_apart_by_gateway_and_shard_with_the_rows_of_each() -> None:
    table = tag_table()
    parts = [("a", "gw"), ("b", "gw"), ("a", "other"), ("a", "gw"), ("b", "other"), ("c", "gw")]
    batches = [stream(table, [n], shard, gateway) for n, (shard, gateway) in enumerate(parts)]
    whole = pa.Table.from_batches(batches).unify_dictionaries().combine_chunks().to_batches()[0]
    found = {}
    for rows, part in by_shard(whole, pa.array([10, 11, 12, 13, 14, 15])):
        names = set(zip(*(part.column(name).to_pylist() for name in ("shard", "gateway")), strict=True))
        assert len(names) == 1
        found[names.pop()] = (rows.tolist(), part.column("sequence").to_pylist())
    assert found == {
        ("a", "gw"): ([10, 13], [0, 3]),
        ("b", "gw"): ([11], [1]),
        ("a", "other"): ([12], [2]),
        ("b", "other"): ([14], [4]),
        ("c", "gw"): ([15], [5]),
    }


def test_a_batch_of_one_shard_is_left_as_it_is() -> None:
    batch = stream(tag_table(), [3, 4])
    ((rows, part),) = by_shard(batch, pa.array([7, 8]))
    assert rows.tolist() == [7, 8]
    assert part is batch
    assert by_shard(batch.slice(0, 0), pa.array([], pa.int64())) == []


@pytest.mark.parametrize("parts", [[("a", "gw"), ("b", "gw")], [("a", "gw"), ("a", "other")]])
def test_a_batch_is_taken_apart_though_only_one_of_the_two_differs(parts: list[tuple[str, str]]) -> None:
    table = tag_table()
    batches = [stream(table, [n], shard, gateway) for n, (shard, gateway) in enumerate(parts)]
    whole = pa.Table.from_batches(batches).unify_dictionaries().combine_chunks().to_batches()[0]
    found = by_shard(whole, pa.array([7, 8]))
    assert [(rows.tolist(), part.column("sequence").to_pylist()) for rows, part in found] == [([7], [0]), ([8], [1])]


def test_discarding_from_the_middle_of_a_run_leaves_both_its_ends() -> None:
    identities = Identities()
    identities.add("a", np.arange(1, 11))
    identities.discard("a", np.array([4]))
    assert identities.sequences("a").tolist() == [1, 2, 3, 5, 6, 7, 8, 9, 10]


def test_a_batch_that_ascends_and_of_which_nothing_is_known_is_not_looked_through() -> None:
    assert fresh(np.array([1, 2, 3]), None) is None
    assert fresh(np.array([1, 3, 9]), None) is None
    found = fresh(np.array([1, 2, 3]), np.array([False, True, False]))
    assert found is not None
    assert found.tolist() == [0, 2]
