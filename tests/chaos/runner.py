"""Runs scenarios, says how it goes, and keeps what was found as evidence."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.chaos import faults, goals, worlds
from tests.chaos.interruption import INTERRUPTION
from tests.chaos.scenario import Length, Scenario
from tests.evidence import FOLDER, conditions, record
from tests.kill.campaign import cpu_of_others

PACKAGES: Final = ("bifrost-gateway", "bytewax", "pyarrow", "numpy", "deltalake", "databricks-zerobus-ingest-sdk")
INTERRUPTED: Final = "interrupted"
QUIET: Final = 0.15  # share of the processors that others may use while something is timed
# Added up over the scenarios that speak of them; of the rest the largest counts.
_ADDED: Final = {"runs", "states", "flips", "started", "lost", "visible_twice", "needed_operator", "wrong_values"}


@dataclass(slots=True)
class Outcome:
    """How one scenario ended.

    Attributes:
        scenario: The scenario.
        figures: What was counted and measured.
        broken: Invariants that did not hold, in words.
        missed: Figures of the machine's speed that are not as wanted, in words.
        not_run: Why it was not run; empty when it was.
        cut: It was interrupted; the figures are those of the rounds until then.
        foreign: Share of the machine's processors that others used meanwhile.
        seconds: How long it took.
        kept: Where its files are; None when they are gone.
    """

    scenario: Scenario
    figures: dict[str, Any] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)
    not_run: str = ""
    cut: bool = False
    foreign: float = 0.0
    seconds: float = 0.0
    kept: Path | None = None

    @property
    def quiet(self) -> bool:
        """Whether the machine was quiet enough to time anything."""
        return self.foreign < QUIET


def run_scenario(
    scenario: Scenario,
    length: Length,
    seed: int,
    say: Callable[[str], None],
    directory: Path | None = None,
    kills: int | None = None,
) -> Outcome:
    """Run one scenario; its files are kept when something did not hold.

    Args:
        scenario: The scenario.
        length: How long the run is.
        seed: Everything random is drawn from it and the scenario's name.
        say: Prints progress.
        directory: Where its files go; one of its own when None.
        kills: How many kills, where the load counts them and it is not to decide.
    """
    if reason := next(filter(None, map(faults.missing, scenario.needs)), ""):
        return Outcome(scenario, not_run=reason)
    place = directory or Path(tempfile.mkdtemp(prefix=f"bifrost-chaos-{scenario.name}-"))
    outcome, began, others = Outcome(scenario), time.monotonic(), cpu_of_others()
    chance = random.Random(f"{seed} {scenario.name}")
    try:
        world = worlds.WORLDS[scenario.world]
        outcome.figures = world(scenario, scenario.load_for(length, kills), place, chance, say)
        outcome.cut = INTERRUPTION.asked
        outcome.foreign = (cpu_of_others() - others) / (time.monotonic() - began) / (os.cpu_count() or 1)
        outcome.broken, outcome.missed = scenario.broken(outcome.figures), scenario.missed(outcome.figures)
    except Exception as error:  # noqa: BLE001 - the edge of a scenario: the others are run all the same, and this one has failed
        outcome.broken = [f"{type(error).__name__}: {error}"]
        say(traceback.format_exc())
    except KeyboardInterrupt:
        if directory is None:
            shutil.rmtree(place, ignore_errors=True)
        raise
    outcome.seconds = round(time.monotonic() - began, 1)
    if outcome.broken or (outcome.missed and outcome.quiet):
        outcome.kept = place
    elif directory is None:
        shutil.rmtree(place, ignore_errors=True)
    return outcome


def run_all(
    scenarios: Sequence[Scenario],
    length: Length,
    seed: int,
    say: Callable[[str], None],
    kills: int | None = None,
    jobs: int = 1,
) -> list[Outcome]:
    """Run scenarios, until the last or until Ctrl-C, which leaves some not run.

    The evidence is written after each and says which scenarios of this run it does not have yet.

    Args:
        scenarios: Those that may run.
        length: How long the run is.
        seed: Everything random is drawn from it.
        say: Prints progress.
        kills: How many kills, where a load counts them.
        jobs: How many run at a time; those that want the machine for themselves run first, one by one. What did not come
            to its end beside others, so that nothing was judged, runs again.
    """
    chosen = [scenario for scenario in scenarios if scenario.runs_in(length)]
    outcomes: list[Outcome] = []

    def keep(outcome: Outcome) -> None:
        outcomes.append(outcome)
        say(_told(outcome))
        _note(outcome, _left(chosen, [one for one in outcomes if not one.cut]), length, seed)
        if outcome.cut:
            raise KeyboardInterrupt

    try:
        for scenario in chosen:
            if jobs == 1 or scenario.alone:
                say(_headline(scenario))
                keep(run_scenario(scenario, length, seed, say, kills=kills))
        beside = [scenario for scenario in chosen if jobs > 1 and not scenario.alone]
        for outcome, said in _beside(beside, length, seed, kills, jobs):
            for line in said:
                say(line)
            keep(outcome)
        for outcome in [one for one in outcomes if jobs > 1 and one.broken and not one.figures]:
            say(f"{outcome.scenario.name} did not come to its end, and nothing was judged: once more, alone")
            outcomes.remove(outcome)
            keep(run_scenario(outcome.scenario, length, seed, say, kills=kills))
    except KeyboardInterrupt:
        outcomes += [Outcome(scenario, not_run=INTERRUPTED) for scenario in _left(chosen, outcomes)]
        record("chaos", {"not_finished": [outcome.scenario.name for outcome in outcomes if _interrupted(outcome)]})
    return outcomes


def _left(chosen: Sequence[Scenario], outcomes: Sequence[Outcome]) -> list[Scenario]:
    done = {outcome.scenario.name for outcome in outcomes}
    return [scenario for scenario in chosen if scenario.name not in done]


def _beside(
    scenarios: Sequence[Scenario], length: Length, seed: int, kills: int | None, jobs: int
) -> Iterator[tuple[Outcome, list[str]]]:
    """Run scenarios some at a time, with what each said; when it is left early, those that have begun go on to their end."""
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(jobs, context, initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN))
    try:
        for done in as_completed([pool.submit(_run_beside, scenario, length, seed, kills) for scenario in scenarios]):
            yield done.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _run_beside(scenario: Scenario, length: Length, seed: int, kills: int | None) -> tuple[Outcome, list[str]]:
    said = [_headline(scenario)]
    return run_scenario(scenario, length, seed, said.append, kills=kills), said


def _headline(scenario: Scenario) -> str:
    return f"{scenario.test:<8} {scenario.name}: {scenario.about}"


def _interrupted(outcome: Outcome) -> bool:
    return outcome.cut or outcome.not_run == INTERRUPTED


def _note(outcome: Outcome, left: Sequence[Scenario], length: Length, seed: int) -> None:
    found = {} if outcome.not_run else evidence(outcome, length, seed, _known())
    record("chaos", found | {"not_finished": [scenario.name for scenario in left]})


def _told(outcome: Outcome) -> str:
    if outcome.not_run:
        return f"  not run: {outcome.not_run}"
    shown = ", ".join(f"{name} {_shown(figure)}" for name, figure in outcome.figures.items() if _telling(name, figure))
    word = (
        "CUT SHORT"
        if outcome.cut
        else "BROKEN"
        if outcome.broken
        else "MISSED"
        if outcome.missed and outcome.quiet
        else "holds"
    )
    lines = [f"  {word} after {outcome.seconds:g} s: {shown}"]
    lines += [f"    {what}" for what in outcome.broken]
    judged = "" if outcome.quiet else f"; not judged, others used {100 * outcome.foreign:.0f} % of the processors"
    lines += [f"    ✗ {what}{judged}" for what in outcome.missed]
    if outcome.kept:
        lines.append(f"    files are kept in {outcome.kept}")
    return "\n".join(lines)


def _telling(name: str, figure: Any) -> bool:
    return isinstance(figure, int | float) and (figure != 0 or name in ("lost", "unaccounted", "wrong_values"))


def _shown(figure: float) -> str:
    return f"{figure:,}" if isinstance(figure, int) else f"{figure:,.3g}"


def _known() -> dict[str, Any]:
    path = FOLDER / "chaos.json"
    return dict(json.loads(path.read_text("utf-8")).get("scenarios", {})) if path.exists() else {}


def evidence(outcome: Outcome, length: Length, seed: int, known: Mapping[str, Any]) -> dict[str, Any]:
    """What chaos.json holds after this outcome: each scenario's own figures, and the figures that are drawn from them.

    Args:
        outcome: What was found just now.
        length: How long the run is.
        seed: Its seed.
        known: What is there of each scenario already.
    """
    scenario = outcome.scenario
    found = {
        "test": scenario.test,
        "length": length,
        "complete": not outcome.cut,
        "seed": seed,
        "seconds": outcome.seconds,
        "broken": outcome.broken,
        "missed": outcome.missed,
        "cpu_share_of_others": round(outcome.foreign, 2),
        "figures": outcome.figures,
        "evidence": scenario.evidence,
        "proves": scenario.proves,
        "date": conditions(())["date"],
    }
    scenarios = {**known, scenario.name: found}
    return drawn(scenarios) | {
        "scenarios": scenarios,
        "conditions": conditions(PACKAGES, **_tools()) | {"seed": seed, "length": length},
    }


def drawn(scenarios: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The figures of the whole, from those of the scenarios."""
    found: dict[str, Any] = {}
    for entry in scenarios.values():
        for place, name in entry["evidence"].items():
            figure = entry["figures"].get(name)
            if figure is None:
                continue
            outer, _, inner = place.partition(".")
            where, key = (found.setdefault(outer, {}), inner) if inner else (found, outer)
            if key not in where:
                where[key] = figure
            elif key in _ADDED:
                where[key] += figure
            else:
                where[key] = max(where[key], figure)
    every = [entry["figures"]["unaccounted"] for entry in scenarios.values() if "unaccounted" in entry["figures"]]
    if every:
        found["unaccounted"] = sum(every)
    return found


def _tools() -> dict[str, str]:
    """Versions of the programs that scenarios need."""
    found = {}
    for tool, asked in (("strace", "--version"), ("mosquitto", "-h")):
        path = shutil.which(tool, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
        said = subprocess.run([path, asked], capture_output=True, text=True, check=False).stdout if path else "absent"
        found[tool] = said.split("\n")[0].rpartition(" ")[2]
    return found


def table(outcomes: Sequence[Outcome], seed: int) -> str:
    """The goals with their figures, and what was not run."""
    lines = goals.table(_goals(outcomes))
    not_run = [outcome for outcome in outcomes if outcome.not_run]
    lines += [f"not complete: {outcome.scenario.name}: {INTERRUPTED}" for outcome in outcomes if outcome.cut]
    lines += [f"not run: {outcome.scenario.name}: {outcome.not_run}" for outcome in not_run]
    broken = [outcome.scenario.name for outcome in outcomes if outcome.broken]
    missed = [outcome.scenario.name for outcome in outcomes if outcome.missed]
    lines.append(
        f"{len(outcomes) - len(not_run)} scenarios run, {len(not_run)} not run, {len(broken)} broken, "
        f"{len(missed)} with a figure missed; seed {seed}"
    )
    if broken:
        lines.append(f"broken: {', '.join(broken)}")
    if missed:
        lines.append(f"✗ missed: {', '.join(missed)}")
    return "\n".join(lines)


def _goals(outcomes: Sequence[Outcome]) -> list[goals.Found]:
    figures = {outcome.scenario.name: outcome.figures for outcome in outcomes if outcome.figures}
    proves = {outcome.scenario.name: outcome.scenario.proves for outcome in outcomes}
    return goals.found(figures, proves, {outcome.scenario.name for outcome in outcomes if not outcome.quiet})


def failed(outcomes: Sequence[Outcome], *, strict: bool) -> bool:
    """Whether a run has failed: it was interrupted, or an invariant or its goal is broken.

    If `strict`, also when a figure or its goal is missed.
    """
    if any(outcome.broken or _interrupted(outcome) for outcome in outcomes):
        return True
    missed = [found.goal for found in _goals(outcomes) if found.reached is False]
    if any(not goal.timed for goal in missed):
        return True
    return strict and (bool(missed) or any(outcome.missed and outcome.quiet for outcome in outcomes))
