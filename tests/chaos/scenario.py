"""The scenario format: one YAML file says what runs, what goes wrong and when, and what must hold then.

::

    name: disk_full            the file's name
    test: R6                   row of the test plan
    about: one line
    proves: [G1, G4, G10]      goals that its figures speak of
    world: numbered            what carries the load, see `tests.chaos.worlds`
    needs: [root]              without these it is not run, and that is counted with the reason
    load: {rate: 1000, rounds: 3}
    faults:
      - {do: fill, at: 2.0}            2 s after the first delivery of the round
      - {do: kill, at: [0.2, 3.0], rounds: odd}     drawn anew, by the seed, in each second round
    expect: {lost: 0, unaccounted: 0}           invariants: a run in which one does not hold fails, whatever the machine
    timed: {recovered_s: {max: 10}}    figures that depend on the machine: judged on a quiet one, see `__main__`
    alone: true                what it measures wants the machine for itself, also with ``--jobs``
    short: {rounds: 1}         laid over `load` in `make chaos-short`; `tiny` in `make test`
    evidence: {kills.runs: kills, kills.lost: lost}     what goes where in chaos.json
"""

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

FOLDER: Final = Path(__file__).parent / "scenarios"
Length = Literal["tiny", "short", "long"]


class Fault(BaseModel):
    """One thing that goes wrong; what else it is told is its own."""

    model_config = ConfigDict(extra="allow")

    do: str
    at: float | tuple[float, float] = 0.0
    after: Literal["delivery", "start"] = "delivery"
    rounds: Literal["all", "even", "odd"] = "all"

    def happens_in(self, number: int) -> bool:
        """Whether it is part of round `number`, counted from 0."""
        return self.rounds in ("all", ("even", "odd")[number % 2])

    @property
    def options(self) -> dict[str, Any]:
        """What this kind of fault is told."""
        return dict(self.model_extra or {})

    def moment(self, chance: random.Random) -> float:
        """Seconds after the first delivery, or the start, of the round."""
        return chance.uniform(*self.at) if isinstance(self.at, tuple) else self.at


class Bound(BaseModel):
    """Between what a figure must lie, both included."""

    model_config = ConfigDict(extra="forbid")

    min: float | None = None
    max: float | None = None

    def holds(self, figure: float) -> bool:
        """Whether a figure lies within."""
        return (self.min is None or figure >= self.min) and (self.max is None or figure <= self.max)


class Scenario(BaseModel):
    """A scenario file."""

    model_config = ConfigDict(extra="forbid")

    name: str
    test: str
    about: str
    proves: list[str] = Field(default_factory=list)
    world: str
    needs: list[str] = Field(default_factory=list)
    load: dict[str, Any] = Field(default_factory=dict)
    faults: list[Fault] = Field(default_factory=list)
    expect: dict[str, float | Bound]
    timed: dict[str, float | Bound] = Field(default_factory=dict)
    alone: bool = False
    tiny: dict[str, Any] | None = None
    short: dict[str, Any] | None = Field(default_factory=dict)
    evidence: dict[str, str] = Field(default_factory=dict)

    def runs_in(self, length: Length) -> bool:
        """Whether it is part of a run of this length."""
        return length == "long" or getattr(self, length) is not None

    def load_for(self, length: Length, kills: int | None = None) -> dict[str, Any]:
        """The load of a run of this length; with so many kills, if it counts them."""
        load = self.load | (({} if length == "long" else getattr(self, length)) or {})
        return load | {"kills": kills} if kills is not None and "kills" in load else load

    def broken(self, figures: Mapping[str, Any]) -> list[str]:
        """Each invariant that the figures do not fulfil, in words."""
        return _unfulfilled(self.expect, figures)

    def missed(self, figures: Mapping[str, Any]) -> list[str]:
        """The same for what depends on the machine's speed."""
        return _unfulfilled(self.timed, figures)


def _unfulfilled(wanted: Mapping[str, float | Bound], figures: Mapping[str, Any]) -> list[str]:
    found = []
    for name, limit in wanted.items():
        bound = limit if isinstance(limit, Bound) else Bound(min=limit, max=limit)
        figure = figures.get(name)
        if figure is None or not bound.holds(figure):
            limits = " to ".join("…" if edge is None else f"{edge:g}" for edge in (bound.min, bound.max))
            found.append(f"{name} is {figure}, expected {limits}")
    return found


def load(path: Path) -> Scenario:
    """Read a scenario file.

    Raises:
        ValueError: It is not one.
    """
    found = Scenario.model_validate(yaml.safe_load(path.read_text("utf-8")))
    if found.name != path.stem:
        raise ValueError(f"{path} calls itself {found.name}")
    return found


def load_all(folder: Path = FOLDER) -> list[Scenario]:
    """All scenarios, in the order of their test."""
    return sorted((load(path) for path in folder.glob("*.yaml")), key=lambda s: (int(s.test[1:].split()[0]), s.name))
