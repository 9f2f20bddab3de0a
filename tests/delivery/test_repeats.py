"""What was handed over before is remembered in a ring, as long as the window says."""

import random

from delivery.patch import patch
from delivery.repeats import Repeats


def digest(number: int) -> bytes:
    return number.to_bytes(12, "big")


def test_the_newest_are_remembered_across_states_wherever_the_ring_stands() -> None:
    repeats = Repeats(window=10)
    for number in range(1, 47):
        assert digest(number) not in repeats
        repeats.add(digest(number))
        if number % 3 == 0:
            repeats = Repeats(repeats.to_bytes(), window=10)
        newest = range(max(1, number - 9), number + 1)
        assert all(digest(n) in repeats for n in newest)
        assert len(repeats) == len(newest)
    assert digest(36) not in repeats


def test_what_was_not_taken_is_forgotten_and_can_come_again() -> None:
    repeats = Repeats(window=4)
    for number in (1, 2, 3):
        repeats.add(digest(number))
    repeats.forget(digest(2))
    assert digest(2) not in repeats
    assert digest(2) not in Repeats(repeats.to_bytes(), window=4)
    for number in (2, 5, 6, 7):
        repeats.add(digest(number))
    assert [n for n in range(1, 8) if digest(n) in repeats] == [2, 5, 6, 7]


def test_a_commit_writes_what_is_new_and_not_the_whole_window() -> None:
    repeats, chance = Repeats(window=1000), random.Random(1)
    for _ in range(1500):
        repeats.add(chance.randbytes(12))
    before = repeats.to_bytes()
    for _ in range(5):
        repeats.add(chance.randbytes(12))
    assert len(patch(before, repeats.to_bytes())[3]) <= 5 * 16
    assert len(before) == 16_000
