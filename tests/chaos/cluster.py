"""A Bytewax cluster whose members are killed and stopped at random, beside gateways of their own that are killed the same way.

Each member has directory, journal, spools and sources of its own, and a supervisor that starts it again at once. What is
compared: every reading, and every window over the sources of both, with what a straight computation says; and how long the
members go without delivering what is fresh.
"""

import itertools
import json
import random
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from tests.chaos.clustered import LINES, Plant, settle
from tests.chaos.interruption import INTERRUPTION
from tests.chaos.lives import pause
from tests.chaos.scenario import Scenario
from tests.wall_clock import WallClock

_PATIENCE: Final = 60.0
_BACK: Final = -3600  # seconds
_LIVES: Final = 2.0  # seconds between two faults, at most


class _Supervised(Plant):
    """Members that are started again when they end by themselves, as a restart policy does."""

    ended = 0

    def until(self, condition: Callable[[], object], what: str, seconds: float = _PATIENCE) -> float:
        def look() -> object:
            for member in [member for member, life in self.lives.items() if not life.alive()]:
                self.ended += 1
                self.start(member)
            return condition()

        return super().until(look, what, seconds)


def run(
    scenario: Scenario,
    load: Mapping[str, Any],
    directory: Path,
    chance: random.Random,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Kill, stop and confuse the members so many times as there are rounds; returns the figures."""
    (directory / "cluster").mkdir()
    clock = WallClock(directory)
    plant = _Supervised(directory / "cluster", rate=int(load["rate"]), environment=clock.environment)
    took: dict[str, list[float]] = {"survivor": [], "victim": []}
    counts = dict.fromkeys(("kills", "both", "stops", "clock"), 0)
    try:
        plant.start()
        _closes(plant)
        with INTERRUPTION.rounds():
            for number in range(int(load["rounds"])):
                if INTERRUPTION.asked:
                    break
                what = chance.choice(("kills", "kills", "kills", "both", "stops", "clock"))
                counts[what] += 1
                if what == "kills":
                    for name, seconds in zip(took, _killed(plant, chance.choice((0, 1))), strict=True):
                        took[name].append(seconds)
                else:
                    _confused(plant, what, clock, chance)
                _closes(plant)
                say(f"    round {number + 1}: {what}, {plant.averages()} windows")
                pause(chance.uniform(0, _LIVES))
        settle(plant)
        found = plant.found() | counts | {"ended_themselves": plant.ended}
    finally:
        plant.end()
    alone = _alone(directory / "apart", int(load["rate"]), int(load["kills_apart"]), chance)
    say(f"    kills: {counts['kills']}, a gateway of its own {len(alone['victim'])} times")
    for kind, times in (("cluster", took), ("apart", alone)):
        for name, seconds in times.items():
            found |= {
                f"{kind}_{name}_s": _middle(seconds),
                f"{kind}_{name}_most_s": round(max(seconds, default=0.0), 2),
            }
    return found


def _alone(directory: Path, rate: int, kills: int, chance: random.Random) -> dict[str, list[float]]:
    """The same for two gateways that know nothing of each other."""
    directory.mkdir()
    plant = _Supervised(directory, rate=rate, apart=True)
    took: dict[str, list[float]] = {"survivor": [], "victim": []}
    try:
        plant.start()
        plant.until(lambda: all(_target(plant, member).exists() for member in (0, 1)), "both deliver")
        for _ in range(kills):
            for name, seconds in zip(took, _killed(plant, chance.choice((0, 1))), strict=True):
                took[name].append(seconds)
            pause(chance.uniform(0.5, _LIVES))
    finally:
        plant.end()
    return took


def _killed(plant: Plant, victim: int) -> tuple[float, float]:
    """SIGKILL one, which starts again.

    Returns:
        The longest time for which the other delivered none of its own readings; and the time until the victim delivers what
        it has read since. Seconds.
    """
    survivor = 1 - victim
    before = plant.acknowledged()
    ends = {member: _target(plant, member).stat().st_size for member in (0, 1)}
    began = time.time()
    plant.kill(victim)
    plant.start(victim)
    plant.until(lambda: _arrivals(plant, victim, ends[victim], before), "fresh readings of the one that was killed")
    back = _arrivals(plant, victim, ends[victim], before)[0]
    now = plant.acknowledged()
    plant.until(lambda: _arrivals(plant, survivor, ends[survivor], now), "fresh readings of the other")
    moments = [began, *_arrivals(plant, survivor, ends[survivor], dict.fromkeys(now, 0))]
    return max(later - earlier for earlier, later in itertools.pairwise(moments)), back - began


def _target(plant: Plant, member: int) -> Path:
    return plant.setup(member).folder / "t0.jsonl"


def _arrivals(plant: Plant, member: int, start: int, newest: Mapping[str, int]) -> list[float]:
    """When readings of a member's first source above a number arrived, behind byte `start` of its target's file."""
    source, found = f"{LINES[0]}_{member}", list[float]()
    with _target(plant, member).open("rb") as file:
        file.seek(start)
        for line in file:
            if line.endswith(b"\n"):
                *_, name, _, _, number, moment = json.loads(line)
                if name == source and number > newest[source]:
                    found.append(float(moment))
    return found


def _confused(plant: Plant, what: str, clock: WallClock, chance: random.Random) -> None:
    """Kill both, stop one or both, or set the wall clock back and right again."""
    if what == "clock":
        clock.set(_BACK)
        _closes(plant)
        clock.set(0)
        return
    members = [0, 1] if what == "both" else chance.choice(([0], [1], [0, 1]))
    for member in members:
        if what == "both":
            plant.kill(member)
    if what == "stops":
        for member in members:
            plant.lives[member].ask()
        codes = {member: plant.lives.pop(member).process.wait(20) for member in members}
        assert not any(codes.values()), codes
    pause(chance.uniform(0, 1.0))
    plant.start(*members)


def _closes(plant: Plant) -> None:
    before = plant.averages()
    plant.until(lambda: plant.averages() >= before + 2 * len(LINES), "windows close")


def _middle(seconds: list[float]) -> float:
    return round(statistics.median(seconds), 2) if seconds else 0.0
