import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from delivery.intervals import Intervals

PAIRS = st.lists(st.tuples(st.integers(1, 60), st.integers(0, 8)).map(lambda p: (p[0], p[0] + p[1])), max_size=30)


@given(PAIRS, st.integers(0, 70))
def test_exactly_what_was_added_and_not_forgotten_is_in_it(pairs: list[tuple[int, int]], upto: int) -> None:
    intervals, model = Intervals(), set[int]()
    for first, last in pairs:
        intervals.add(first, last)
        model.update(range(first, last + 1))
    intervals.forget(upto)
    model = {number for number in model if number > upto}
    assert {number for number in range(80) if number in intervals} == model
    assert {n for first, last in Intervals(intervals.to_list()).to_list() for n in range(first, last + 1)} == model


@given(st.permutations(list(range(1, 50))))
def test_neighbours_grow_together_in_whatever_order_they_come(numbers: list[int]) -> None:
    intervals = Intervals((number, number) for number in numbers)
    assert intervals.to_list() == [(1, 49)]


@given(st.sets(st.integers(1, 60)), st.lists(st.integers(1, 60), max_size=10))
def test_numbers_put_in_at_once_are_in_it_and_no_others(numbers: set[int], asked: list[int]) -> None:
    intervals = Intervals()
    intervals.add_all(np.array(sorted(numbers), np.int64))
    assert {number for number in range(70) if number in intervals} == numbers
    assert intervals.has(np.array(asked, np.int64)).tolist() == [number in numbers for number in asked]
