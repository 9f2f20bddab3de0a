"""The scenario files are sound, the small ones hold, and what is drawn from their figures is what was found."""

import random
import secrets
from pathlib import Path
from typing import Any

import pytest

from tests.chaos import goals, runner, worlds
from tests.chaos.numbered_world import BEFORE, DURING
from tests.chaos.scenario import FOLDER, Fault, Scenario, load, load_all

SCENARIOS = load_all()
TINY = [scenario for scenario in SCENARIOS if scenario.tiny is not None]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("scenario", TINY, ids=[scenario.name for scenario in TINY])
def test_a_small_run_of_the_scenario_holds(
    scenario: Scenario, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seed = secrets.randbelow(2**31)
    print(f"seed {seed}")  # noqa: T201 - pytest shows it when the run fails
    outcome = runner.run_scenario(scenario, "tiny", seed, print, tmp_path)
    assert not outcome.not_run, f"{outcome.not_run}: make counterparts installs it"
    assert outcome.broken == []


def test_each_scenario_names_worlds_faults_figures_and_goals_that_exist() -> None:
    from tests.chaos import faults

    names = {goal.name for goal in goals.GOALS}
    for scenario in SCENARIOS:
        assert scenario.world in worlds.WORLDS
        assert {fault.do for fault in scenario.faults} <= {*BEFORE, *DURING}
        assert set(scenario.proves) <= names
        for need in scenario.needs:
            assert faults.missing(need) is not None
    assert {name for scenario in SCENARIOS for name in scenario.proves} == names
    rows = {scenario.test for scenario in SCENARIOS if scenario.runs_in("short")}
    assert rows >= {"R1", "R2", "R3", "R6", "R7", "R8", "R10", "R14", "R15", "R16", "R18"}


def test_a_scenario_that_calls_itself_otherwise_is_refused(tmp_path: Path) -> None:
    copy = tmp_path / "other.yaml"
    copy.write_text((FOLDER / "sigterm.yaml").read_text())
    with pytest.raises(ValueError, match="calls itself sigterm"):
        load(copy)


def test_a_key_that_the_format_does_not_know_is_refused(tmp_path: Path) -> None:
    copy = tmp_path / "sigterm.yaml"
    copy.write_text((FOLDER / "sigterm.yaml").read_text() + "hurry: yes\n")
    with pytest.raises(ValueError, match="hurry"):
        load(copy)


def test_a_moment_is_drawn_anew_and_the_seed_repeats_it() -> None:
    fault = Fault(do="kill", at=(0.2, 3.0))
    draws = [fault.moment(random.Random(f"{seed} x")) for seed in (1, 2, 1)]
    assert draws[0] == draws[2] != draws[1]
    assert all(0.2 <= draw <= 3.0 for draw in draws)


def _scenario(**more: Any) -> Scenario:
    return Scenario.model_validate({"name": "n", "test": "R1", "about": "", "world": "numbered", "expect": {}} | more)


def test_an_expectation_that_is_missed_or_never_measured_is_told() -> None:
    scenario = _scenario(expect={"lost": 0, "p99_ms": {"max": 10}, "drain_ratio": {"min": 5}})
    assert scenario.broken({"lost": 0, "p99_ms": 10, "drain_ratio": 5}) == []
    assert scenario.broken({"lost": 1, "p99_ms": 11}) == [
        "lost is 1, expected 0 to 0",
        "p99_ms is 11, expected … to 10",
        "drain_ratio is None, expected 5 to …",
    ]


def test_figures_of_several_scenarios_come_together_in_the_evidence() -> None:
    entry = {"evidence": {"kills.runs": "kills", "kills.lost": "lost", "backlog_start_s": "start"}}
    found = runner.drawn(
        {
            "a": entry | {"figures": {"kills": 3, "lost": 0, "unaccounted": 0}},
            "b": entry | {"figures": {"kills": 4, "lost": 1, "unaccounted": 2, "start": 1.5}},
        }
    )
    assert found == {"kills": {"runs": 7, "lost": 1}, "backlog_start_s": 1.5, "unaccounted": 2}


def test_the_table_shows_what_was_found_and_a_dash_where_nothing_was() -> None:
    figures: dict[str, dict[str, Any]] = {
        "kills": {"lost": 0, "kills": 25, "unaccounted": 0, "needed_operator": 0},
        "wire": {"p99_ms": 12.5},
    }
    lines = goals.table(figures, {"kills": ["G1"], "wire": ["G6"]})
    found = {line[:4].strip(): line for line in lines}
    assert "✓ 0 of 25 kills" in found["G1"]
    assert "✗ p99 12.5 ms" in found["G6"]
    assert found["G12"].rstrip().endswith("—")


def test_what_is_needed_and_not_there_is_not_run_but_told(tmp_path: Path) -> None:
    outcome = runner.run_scenario(_scenario(needs=["no-such-program"]), "short", 1, print, tmp_path)
    assert outcome.not_run == "no-such-program is not installed"
    assert "not run: n: no-such-program is not installed" in runner.table([outcome], 1)
