from pathlib import Path

import pytest

from delivery.clock import AgeClock, Moment, resumed

NOTED = Moment(age=100.0, boot="a", since_boot=50.0, wall=1_700_000_000.0)


@pytest.mark.parametrize(
    ("boot", "since_boot", "wall", "age"),
    [
        ("a", 60.0, 1_700_000_010.0, 110.0),
        ("a", 60.0, 0.0, 110.0),  # the wall clock was set to 1970
        ("a", 60.0, 1_700_003_610.0, 110.0),  # or an hour on
        ("b", 5.0, 1_700_000_600.0, 700.0),  # the machine was off
        ("b", 5.0, 1_600_000_000.0, 100.0),  # and has forgotten the time
    ],
)
def test_ages_grow_by_what_has_passed(boot: str, since_boot: float, wall: float, age: float) -> None:
    assert resumed(NOTED, boot, since_boot, wall) == age


def test_the_clock_goes_on_over_restarts(tmp_path: Path) -> None:
    clock = AgeClock(tmp_path / "clock")
    first = clock()
    clock.note()
    again = AgeClock(tmp_path / "clock")
    assert first <= again() < first + 60
    assert AgeClock(tmp_path / "other")() < 60


@pytest.mark.parametrize("damage", [b"", b"{", b'{"age": 1}', b"[1]", b"null"])
def test_a_damaged_note_begins_anew(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "clock").write_bytes(damage)
    assert AgeClock(tmp_path / "clock")() < 60
