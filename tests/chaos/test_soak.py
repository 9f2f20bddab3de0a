"""The soak, made short: what it counts, and that it finds growth."""

from pathlib import Path

import pytest

from tests.chaos.soak import Watched, soak


def test_growth_is_the_slope_of_the_lives_without_their_first_minutes() -> None:
    watched = Watched([[(float(t), 150 + t / 360, 20, 30, 5.0) for t in range(0, 3600, 60)], [(0.0, 1.0, 1, 1, 9.0)]])
    found = watched.figures(600.0)
    assert found["rss_mb_per_hour"] == pytest.approx(10.0)
    assert (found["threads_per_hour"], found["fds_per_hour"], found["disk_mb_most"]) == (0.0, 0.0, 9.0)


def test_a_short_soak_loses_nothing_and_adds_up(tmp_path: Path) -> None:
    said: list[str] = []
    faults = ("refuse", "slow", "kill", "hang")
    found = soak(tmp_path / "soak", seconds=16.0, every=2.5, away=2.0, warm_up=1.0, faults=faults, say=said.append)
    assert any("next: kill" in line for line in said)
    assert found["kills"] >= 1
    assert found["exit_code"] == 0
    assert found["obligations"] > 10_000
    assert [found[name] for name in ("lost", "visible_twice", "wrong_values", "unaccounted")] == [0, 0, 0, 0]
    assert found["disk_mb_idle"] < 20
