"""The oracle for numbered sources: what was acknowledged must have arrived, once where it can, and as it was given.

I1 every obligation is delivered; I2 nothing arrives that was not given; I3 values are equal; I4 order per source within
one delivery attempt; I5 a duplicate has the identity that the reading had before; I7 the gateway's own account adds up.
(I6, that fresh readings get through, is watched while the gateway runs.)
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from tests.chaos.gateway import acked_file, frames_file
from tests.chaos.numbered import ROW, TAGS, code, frames, is_poison, last_number, value_of

_SHOWN: Final = 3
_UNSEEN: Final = 200_000  # numbers beyond the acknowledged that a source may have under way, at most


@dataclass(slots=True)
class Numbers:
    """What the oracle found; counts are of readings, over all targets.

    Attributes:
        obligations: Readings that were acknowledged, times the targets that they go to.
        lost: Obligations that a target has not got.
        wrong_values: Readings whose value or path is not what was given.
        unknown: Readings that nobody gave.
        duplicates: Readings that a target without a memory got again.
        visible_twice: Readings that a target with a memory has twice, or that came under two identities.
        disordered: Readings that first came after a later one of their source.
        poison: Obligations that a rejecting target will never take.
        lost_by: What is lost by target and source.
        examples: Some of what is wrong, in words.
    """

    obligations: int = 0
    lost: int = 0
    wrong_values: int = 0
    unknown: int = 0
    duplicates: int = 0
    visible_twice: int = 0
    disordered: int = 0
    poison: int = 0
    lost_by: dict[tuple[str, str], int] = field(default_factory=dict)
    examples: list[str] = field(default_factory=list)


def acknowledged(directory: Path, source: str) -> int:
    """The newest number of a source that was acknowledged; all before it are too."""
    return last_number(acked_file(directory, source))


def rows_of(directory: Path, target: str) -> np.ndarray:
    """Everything that sources gave and a target has, in the order of its arrival."""
    found = [rows for _, _, rows in frames(frames_file(directory, target))]
    rows = np.concatenate(found) if found else np.empty(0, ROW)
    return rows[rows["n"] > 0]


def judge(
    directory: Path,
    sources: Iterable[str],
    remembering: Iterable[str],
    plain: Iterable[str],
    rejecting: Iterable[str] = (),
) -> Numbers:
    """Compare what was acknowledged with what the targets have.

    Args:
        directory: Where the files are.
        sources: Names of the sources.
        remembering: Targets that remember units.
        plain: Targets that do not.
        rejecting: Targets that refused poison from the beginning.
    """
    found, sources, remembering = Numbers(), list(sources), set(remembering)
    paths: dict[int, set[int]] = {}
    for target in [*remembering, *plain]:
        rows = rows_of(directory, target)
        known = np.isin(rows["source"], [code(source) for source in sources])
        found.unknown += int((~known).sum())
        for source in sources:
            mine = rows[rows["source"] == code(source)]
            newest = acknowledged(directory, source)
            found.unknown += int((mine["n"] > newest + _UNSEEN).sum())
            _compare(found, target, source, mine, newest, rejecting=target in rejecting)
            _count_again(found, target, source, mine, exactly_once=target in remembering)
            for pair in np.unique((mine["n"] % TAGS << 32) | mine["path"]).tolist():
                paths.setdefault(code(source) * TAGS + (pair >> 32), set()).add(pair & 0xFFFFFFFF)
    found.wrong_values += sum(len(names) - 1 for names in paths.values())  # one tag has one path, at every target
    return found


def _compare(found: Numbers, target: str, source: str, rows: np.ndarray, newest: int, *, rejecting: bool) -> None:
    due = np.arange(1, newest + 1, dtype=np.int64)
    if rejecting:
        poison = is_poison(due)
        found.poison += int(poison.sum())
        due = due[~poison]
    missing = np.setdiff1d(due, rows["n"])
    found.obligations += len(due)
    found.lost += len(missing)
    if len(missing):
        found.lost_by[target, source] = len(missing)
    wrong = rows["value"] != value_of(rows["n"])
    found.wrong_values += int(wrong.sum())
    if len(missing):
        shown = missing[:_SHOWN].tolist()
        found.examples.append(
            f"{target} has not got {len(missing)} of {source}: {shown} …, acknowledged up to {newest}"
        )
    if wrong.any():
        found.examples.append(f"{target}: {int(wrong.sum())} values of {source} are wrong: {rows[wrong][:_SHOWN]}")


def _count_again(found: Numbers, target: str, source: str, rows: np.ndarray, *, exactly_once: bool) -> None:
    if not len(rows):
        return
    identity = (rows["shard"].astype(np.uint64) << np.uint64(40)) ^ rows["sequence"].astype(np.uint64)
    _, first, counts = np.unique(rows["n"], return_index=True, return_counts=True)
    again = int((counts - 1).sum())
    _, pairs = np.unique(np.stack([rows["n"].astype(np.uint64), identity]), axis=1, return_counts=True)
    two_names = len(pairs) - len(counts)
    found.duplicates += 0 if exactly_once else again
    found.visible_twice += again if exactly_once else two_names
    order = rows["n"][np.sort(first)]
    found.disordered += int((order < np.maximum.accumulate(order)).sum())
    if two_names:
        found.examples.append(f"{target}: {two_names} readings of {source} came under two identities")
    if exactly_once and again:
        found.examples.append(f"{target} remembers units and has {again} readings of {source} twice")


def discarded(account: dict[str, Any]) -> dict[tuple[str, str], int]:
    """Readings that the gateway says it let go, by target and source."""
    return {
        (target, source): sum(line["discarded"].values())
        for target, lines in account.get("targets", {}).items()
        for source, line in lines.items()
    }


def unexplained(numbers: Numbers, let_go: dict[tuple[str, str], int]) -> int:
    """Obligations that are missing and were not let go by a policy either."""
    return sum(max(0, lost - let_go.get(place, 0)) for place, lost in numbers.lost_by.items())


def miscounted(directory: Path, account: dict[str, Any], sources: Iterable[str], targets: Iterable[str]) -> int:
    """Readings by which what the journal has, less what a target has, differs from what the gateway says it let go.

    A reading that is delivered and then, after a kill, discarded is in both: this is for runs without one.
    """
    let_go, wrong = discarded(account), 0
    for target in targets:
        rows = rows_of(directory, target)
        for source in sources:
            line = account.get("sources", {}).get(source)
            if line is not None:
                has = len(np.unique(rows["n"][rows["source"] == code(source)]))
                wrong += abs(line["journalled"] - has - let_go.get((target, source), 0))
    return wrong


def dead_letters(account: dict[str, Any]) -> int:
    """Readings that the gateway says are dead letters, in all targets."""
    return sum(line["dead_letters"] for lines in account.get("targets", {}).values() for line in lines.values())
