import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from delivery.identities import Identities

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
