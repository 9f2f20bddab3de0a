"""The scenario files are sound, the small ones hold, and what is drawn from their figures is what was found."""

import functools
import json
import random
import secrets
import signal
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests import evidence
from tests.chaos import __main__ as command
from tests.chaos import goals, runner, worlds
from tests.chaos.interruption import INTERRUPTION
from tests.chaos.numbered_world import BEFORE, DURING
from tests.chaos.scenario import FOLDER, Fault, Scenario, load, load_all

SCENARIOS = load_all()
TINY = [scenario for scenario in SCENARIOS if scenario.tiny is not None]


@pytest.mark.chaos
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
    assert rows >= {f"R{n}" for n in (1, 2, 3, 5, 6, 7, 8, 9, 10, 14, 15, 16, 18, 20)}


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


def test_a_fault_happens_in_the_rounds_that_it_names() -> None:
    happens = {
        rounds: [Fault.model_validate({"do": "kill", "rounds": rounds}).happens_in(number) for number in range(3)]
        for rounds in ("all", "even", "odd")
    }
    assert happens == {"all": [True] * 3, "even": [True, False, True], "odd": [False, True, False]}


def _scenario(**more: Any) -> Scenario:
    return Scenario.model_validate({"name": "n", "test": "R1", "about": "", "world": "numbered", "expect": {}} | more)


def test_an_expectation_that_is_missed_or_never_measured_is_told() -> None:
    scenario = _scenario(expect={"lost": 0, "refusals": {"min": 2}}, timed={"p99_ms": {"max": 10}, "drain": {"min": 5}})
    good = {"lost": 0, "refusals": 2, "p99_ms": 10, "drain": 5}
    assert scenario.broken(good) == scenario.missed(good) == []
    assert scenario.broken({"lost": 1}) == ["lost is 1, expected 0 to 0", "refusals is None, expected 2 to …"]
    assert scenario.missed({"p99_ms": 11}) == ["p99_ms is 11, expected … to 10", "drain is None, expected 5 to …"]


INVARIANTS = {
    "lost",
    "wrong_values",
    "visible_twice",
    "unaccounted",
    "needed_operator",
    "disordered",
    "missing_letters",
}


def test_what_must_hold_anywhere_and_what_depends_on_the_machine_stay_apart() -> None:
    for scenario in SCENARIOS:
        assert not INVARIANTS & set(scenario.timed), scenario.name
        assert not {name for name in scenario.expect if name.endswith(("_s", "_ms", "_ratio"))}, scenario.name


@pytest.mark.parametrize(
    ("figures", "foreign", "fails", "fails_strictly"),
    [
        ({"lost": 0, "p99_ms": 9}, 0.0, False, False),
        ({"lost": 0, "p99_ms": 12}, 0.0, False, True),
        ({"lost": 0, "p99_ms": 12}, 0.5, False, False),
        ({"lost": 1, "p99_ms": 9}, 0.0, True, True),
        ({"lost": 1, "p99_ms": 9}, 0.5, True, True),
        ({"lost": 0, "p99_ms": 9, "unaccounted": 3}, 0.0, True, True),  # a goal that the scenario does not name
    ],
    ids=[
        "all well",
        "a figure missed",
        "missed on a busy machine",
        "a loss",
        "a loss on a busy machine",
        "a goal broken",
    ],
)
def test_an_invariant_fails_every_run_and_a_figure_only_a_strict_one_on_a_quiet_machine(
    figures: dict[str, Any], foreign: float, *, fails: bool, fails_strictly: bool
) -> None:
    scenario = _scenario(expect={"lost": 0}, timed={"p99_ms": {"max": 10}}, proves=["G1", "G6"])
    broken, missed = scenario.broken(figures), scenario.missed(figures)
    outcome = runner.Outcome(scenario, figures, broken, missed, foreign=foreign)
    assert runner.failed([outcome], strict=False) is fails
    assert runner.failed([outcome], strict=True) is fails_strictly
    noted = runner.evidence(outcome, "short", 1, {})["scenarios"]["n"]
    assert (noted["broken"], noted["missed"]) == (broken, missed)


def test_the_command_ends_with_0_when_a_short_run_misses_a_figure_and_with_1_when_it_is_strict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    slow = _scenario(name="slow", world="slow", expect={"lost": 0}, timed={"p99_ms": {"max": 10}})
    lossy = _scenario(name="lossy", world="lossy", expect={"lost": 0})
    monkeypatch.setitem(worlds.WORLDS, "slow", lambda *_: {"lost": 0, "p99_ms": 12})
    monkeypatch.setitem(worlds.WORLDS, "lossy", lambda *_: {"lost": 1})
    monkeypatch.setattr(command, "load_all", lambda: [slow, lossy])
    monkeypatch.setattr(runner, "record", lambda *_: tmp_path)
    monkeypatch.setattr(runner, "cpu_of_others", lambda: 0.0)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # files of what is broken are kept
    assert command.main(["--short", "--only", "slow"]) == 0
    assert "✗ p99_ms is 12, expected … to 10" in capsys.readouterr().out
    assert command.main(["--short", "--strict", "--only", "slow"]) == 1
    assert command.main(["--only", "slow"]) == 1
    assert command.main(["--short", "--only", "lossy"]) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_interrupted_keeps_what_was_finished_and_says_what_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    names = ["done", "interrupted", "never begun"]
    monkeypatch.setattr(command, "load_all", lambda: [_scenario(name=n, world=n, expect={"lost": 0}) for n in names])
    monkeypatch.setattr(runner, "record", functools.partial(evidence.record, folder=tmp_path))
    monkeypatch.setattr(runner, "FOLDER", tmp_path)
    for name in names:
        monkeypatch.setitem(worlds.WORLDS, name, lambda *_: {"lost": 0})

    def written() -> dict[str, Any]:
        return dict(json.loads((tmp_path / "chaos.json").read_text()))

    assert command.main(["--short"]) == 0
    assert written()["not_finished"] == []
    (tmp_path / "chaos.json").unlink()
    before, places = signal.getsignal(signal.SIGTERM), []

    def interrupted(_: Scenario, __: Any, place: Path, *___: Any) -> dict[str, Any]:
        places.append(place)
        assert written()["not_finished"] == names[1:], "also when nothing can be written any more"
        signal.raise_signal(number)
        return {"lost": 1}

    monkeypatch.setitem(worlds.WORLDS, "interrupted", interrupted)
    assert command.main(["--short"]) == 1
    assert list(written()["scenarios"]) == ["done"]
    assert written()["not_finished"] == names[1:]
    said = capsys.readouterr().out
    assert "not run: interrupted: interrupted\nnot run: never begun: interrupted\n1 scenarios run, 2 not run" in said
    assert [place.exists() for place in places] == [False]
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_scenario_that_is_interrupted_between_rounds_is_judged_and_marked_as_not_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def in_rounds(*_: Any) -> dict[str, Any]:
        kills = 0
        with INTERRUPTION.rounds():
            while not INTERRUPTION.asked:
                kills += 1
                if kills == 2:
                    signal.raise_signal(signal.SIGTERM)
        return {"lost": 0, "kills": kills}

    monkeypatch.setattr(command, "load_all", lambda: [_scenario(name=n, world=n, expect={"lost": 0}) for n in "ab"])
    monkeypatch.setattr(runner, "record", functools.partial(evidence.record, folder=tmp_path))
    monkeypatch.setattr(runner, "FOLDER", tmp_path)
    for name in "ab":
        monkeypatch.setitem(worlds.WORLDS, name, in_rounds)
    assert command.main(["--short"]) == 1
    written = json.loads((tmp_path / "chaos.json").read_text())
    assert written["not_finished"] == ["a", "b"]
    (noted,) = written["scenarios"].values()
    assert (noted["complete"], noted["broken"], noted["figures"]) == (False, [], {"lost": 0, "kills": 2})
    assert "not complete: a: interrupted\nnot run: b: interrupted\n1 scenarios run" in capsys.readouterr().out


def test_what_comes_to_no_end_beside_others_runs_again_alone_and_what_is_broken_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Processes beside this one do not know its worlds."""
    alone = [_scenario(name=name, world=name, expect={"lost": 0}, alone=True) for name in ("a", "b")]
    beside = [_scenario(name=name, world=name, expect={"lost": 0}) for name in ("c", "d")]
    monkeypatch.setattr(command, "load_all", lambda: [*beside, *alone])
    monkeypatch.setattr(runner, "record", functools.partial(evidence.record, folder=tmp_path))
    monkeypatch.setattr(runner, "FOLDER", tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in "abcd":
        monkeypatch.setitem(worlds.WORLDS, name, lambda *_: {"lost": 0})
    assert command.main(["--short", "--jobs", "2"]) == 0
    said = capsys.readouterr().out
    assert "c did not come to its end" in said
    assert "d did not come to its end" in said
    assert "4 scenarios run, 0 not run, 0 broken" in said
    monkeypatch.setitem(worlds.WORLDS, "c", lambda *_: {"lost": 1})
    monkeypatch.setitem(worlds.WORLDS, "a", lambda *_: {"lost": 1})
    assert command.main(["--short", "--jobs", "2"]) == 1
    assert "a did not come to its end" not in capsys.readouterr().out


def test_the_number_of_kills_can_be_given_where_a_load_counts_them() -> None:
    counting, other = _scenario(load={"kills": 140}, short={"kills": 12}), _scenario(load={"rounds": 3})
    assert [counting.load_for(length, 1000)["kills"] for length in ("short", "long")] == [1000, 1000]
    assert counting.load_for("short")["kills"] == 12
    assert other.load_for("long", 1000) == {"rounds": 3}
    with pytest.raises(SystemExit, match="2"):
        command.main(["--only", "sigterm", "--kills", "1000"])


def test_what_a_dead_target_costs_is_reached_or_missed_only_when_the_interval_says_so() -> None:
    def reached(low: float, high: float) -> bool | None:
        figures = {"d": {"cpu_ratio_of_others": (low + high) / 2, "cpu_interval": [low, high]}}
        return next(found.reached for found in goals.found(figures, {"d": ["G9"]}) if found.goal.name == "G9")

    assert [reached(0.98, 1.03), reached(0.97, 1.12), reached(1.06, 1.2)] == [True, None, False]


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
    lines = goals.table(goals.found(figures, {"kills": ["G1"], "wire": ["G6"]}))
    found = {line[:4].strip(): line for line in lines}
    assert "✓ 0 of 25 kills" in found["G1"]
    assert "✗ p99 12.5 ms" in found["G6"]
    assert found["G12"].rstrip().endswith("—")


def test_what_is_needed_and_not_there_is_not_run_but_told(tmp_path: Path) -> None:
    outcome = runner.run_scenario(_scenario(needs=["no-such-program"]), "short", 1, print, tmp_path)
    assert outcome.not_run == "no-such-program is not installed"
    assert "not run: n: no-such-program is not installed" in runner.table([outcome], 1)
