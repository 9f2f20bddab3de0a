"""The goals G1 to G12, and how far the figures of a run reach them."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

Figures = Mapping[str, Mapping[str, Any]]
Look = Callable[[Figures], tuple[str, bool | None] | None]
_DISK: Final = 32 * 1024**3
_OUTAGE_RATE: Final = 1000
_CLAIM: Final = 1.05


@dataclass(frozen=True, slots=True)
class Goal:
    """One goal.

    Attributes:
        name: G1 to G12.
        words: What it speaks of.
        wanted: What is wanted, in words.
        look: Of the figures of the scenarios that prove it: what is shown, and whether it is reached; None for that when
            it is not resolved, and for all without figures.
        timed: Whether it depends on the machine's speed.
    """

    name: str
    words: str
    wanted: str
    look: Look
    timed: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """What a run found of a goal.

    Attributes:
        goal: The goal.
        shown: Its figures, in words.
        reached: Whether it is reached; None when nothing can be said.
    """

    goal: Goal
    shown: str
    reached: bool | None


def _sum(figures: Figures, name: str) -> int | None:
    found = [each[name] for each in figures.values() if name in each]
    return sum(found) if found else None


def _largest(figures: Figures, name: str) -> float | None:
    return max((each[name] for each in figures.values() if name in each), default=None)


def _none_of(name: str, of: str) -> Look:
    def look(figures: Figures) -> tuple[str, bool | None] | None:
        found, tried = _sum(figures, name), _sum(figures, of)
        return None if found is None else (f"{found} of {tried or 0:,} {of.replace('_', ' ')}", found == 0)

    return look


def _at_most(name: str, limit: float, unit: str) -> Look:
    def look(figures: Figures) -> tuple[str, bool | None] | None:
        found = _largest(figures, name)
        return None if found is None else (f"{found:g} {unit}", found <= limit)

    return look


def _duplicates(figures: Figures) -> tuple[str, bool] | None:
    most, twice = _largest(figures, "duplicate_ms_per_kill"), _sum(figures, "visible_twice")
    if most is None and twice is None:
        return None
    shown = f"{most or 0:g} ms a kill, {twice or 0} visible"
    return shown, (most or 0) <= 100 and not twice


def _outage(figures: Figures) -> tuple[str, bool] | None:
    size, ratio = _largest(figures, "bytes_per_reading"), _largest(figures, "drain_ratio")
    if size is None or ratio is None:
        return None
    hours = _DISK / (size * _OUTAGE_RATE) / 3600
    return f"{hours:,.0f} h at {size:g} bytes a reading, drains at {ratio:g} ×", hours >= 72 and ratio >= 5


def _blast(figures: Figures) -> tuple[str, bool | None] | None:
    cpu, latency = _largest(figures, "cpu_ratio_of_others"), _largest(figures, "latency_ratio_of_others")
    if cpu is None:
        return None
    interval = [each["cpu_interval"] for each in figures.values() if "cpu_interval" in each]
    low, high = interval[0] if interval else (cpu, cpu)
    shown = f"CPU × {cpu:.3f} ({low:.3f}–{high:.3f}), median latency × {latency or 0:.3f}"
    if low <= _CLAIM < high:
        return f"{shown}, not resolved", None
    return shown, high <= _CLAIM


def _clean_stop(figures: Figures) -> tuple[str, bool] | None:
    took, again = _largest(figures, "stopped_s"), _sum(figures, "duplicates")
    return None if took is None else (f"{took:g} s, {again or 0} replayed", took < 2 and not again)


def _puback(figures: Figures) -> tuple[str, bool] | None:
    found = _largest(figures, "p99_ms")
    rate = _largest(figures, "messages_per_s")
    return None if found is None else (f"p99 {found:g} ms at {rate or 0:,.0f}/s", found < 10)


GOALS: Final = (
    Goal("G1", "acknowledged readings lost through kills", "0", _none_of("lost", "kills")),
    Goal("G2", "acknowledged readings lost through power cuts", "0", _none_of("lost", "states")),
    Goal("G3", "wrong values after any single bit flip", "0", _none_of("wrong_values", "flips")),
    Goal("G4", "starts that need an operator", "0", lambda f: _operator(f)),
    Goal("G5", "duplicates after a kill", "≤ 100 ms of data, 0 visible", _duplicates, timed=True),
    Goal("G6", "PUBLISH received to PUBACK sent", "p99 < 10 ms at 5,000/s", _puback, timed=True),
    Goal(
        "G7",
        "start to first delivery with a backlog of 1 GiB",
        "< 3 s",
        _at_most("backlog_start_s", 3.0, "s"),
        timed=True,
    ),
    Goal("G8", "outage of a target on 32 GiB at 1,000/s", "72 h, drains at ≥ 5 ×", _outage, timed=True),
    Goal("G9", "what a dead target costs the others", "< 5 %", _blast, timed=True),
    Goal("G10", "readings unaccounted for", "0", lambda f: _unaccounted(f)),
    Goal("G11", "clean stop", "< 2 s, 0 replayed", _clean_stop, timed=True),
    Goal("G12", "stall at a step of the clock", "< 2 s", _at_most("stall_s", 2.0, "s"), timed=True),
)


def _operator(figures: Figures) -> tuple[str, bool] | None:
    found = _sum(figures, "needed_operator")
    return None if found is None else (f"{found} in {len(figures)} scenarios", found == 0)


def _unaccounted(figures: Figures) -> tuple[str, bool] | None:
    found = _sum(figures, "unaccounted")
    return None if found is None else (f"{found} after {len(figures)} scenarios", found == 0)


def found(figures: Figures, proves: Mapping[str, Sequence[str]], busy: Collection[str] = ()) -> list[Found]:
    """What a run found of each goal.

    Args:
        figures: Figures by scenario.
        proves: Goals that they speak of, by scenario.
        busy: Scenarios during which others used the processors, so that nothing timed is judged.
    """
    every = []
    for goal in GOALS:
        after_all = goal.name in ("G4", "G10")  # whatever it was about
        mine = {name: found for name, found in figures.items() if after_all or goal.name in proves.get(name, ())}
        shown, reached = goal.look(mine) or ("—", None)
        if goal.timed and reached is False and any(name in busy for name in mine):
            shown, reached = f"{shown}; not judged, the machine was busy", None
        every.append(Found(goal, shown, reached))
    return every


def table(every: Sequence[Found]) -> list[str]:
    """Lines of the table."""
    marks = {True: "✓", False: "✗", None: " "}
    lines = [f"{'goal':<5}{'what':<52}{'wanted':<30}found"]
    lines += [f"{f.goal.name:<5}{f.goal.words:<52}{f.goal.wanted:<30}{marks[f.reached]} {f.shown}" for f in every]
    return lines
