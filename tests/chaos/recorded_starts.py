"""The whole gateway started on what a power cut may have left of two recorded lives, the first of which was killed.

Journal, spools, dead letters, Bytewax's recovery store and all else in the gateway's directory are rebuilt as they may be;
what sources were told and what targets have is kept as it was at that moment, since those are other machines.
"""

import random
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from tests.chaos.gateway import Setup, acked_file, frames_file
from tests.chaos.lives import living, pause
from tests.chaos.numbered_world import World, settle, setup_of
from tests.chaos.recording import MAPPED, Recorded, calls, tracer
from tests.chaos.scenario import Scenario

_BAD: Final = ("lost", "wrong_values", "visible_twice", "unaccounted", "failed_starts", "needed_operator", "bad_exits")
_FOUND: Final = (*_BAD, "obligations")


def run(
    scenario: Scenario, load: Mapping[str, Any], directory: Path, chance: random.Random, say: Callable[[str], None]
) -> dict[str, Any]:
    """Record two lives of `seconds` each, then start on `states` of their moments."""
    lived = directory / "lived"
    (lived / "control").mkdir(parents=True)
    setup = setup_of(lived, load)
    setup.save(lived)
    for number, way in enumerate(("bifrost_run", "bytewax_run")):
        with living(lived, way, prefix=tracer(directory / f"{number}.trace")) as life:  # type: ignore[arg-type]
            life.wait_first_delivery()
            pause(float(load["seconds"]))
            if number:
                life.stop()
            else:
                life.kill()
        shutil.copytree(lived, directory / f"{number}.lived")
    changes, unexplained = _replay(directory, lived)
    wanted = sorted(chance.sample(changes, int(load["states"])))
    places = [directory / f"state {number}" for number in range(len(wanted))]
    _replay(directory, lived, dict(zip(wanted, places, strict=True)), chance)
    found = dict.fromkeys(_FOUND, 0)
    with ThreadPoolExecutor(2) as pool:
        seeds = [chance.randrange(2**31) for _ in places]
        for number, figures in enumerate(
            pool.map(lambda place, seed: _start(place, load, seed, say), places, seeds), 1
        ):
            for name in found:
                found[name] += figures[name]
            if any(figures[name] for name in _BAD):
                say(f"    {places[number - 1].name}, after call {wanted[number - 1]:,}: {figures}")
            if number % 10 == 0:
                say(f"    {number} of {len(places)} states")
    return {"changes": len(changes), "states": len(places), "unexplained": unexplained, **found}


def _replay(
    directory: Path, lived: Path, moments: Mapping[int, Path] | None = None, chance: random.Random | None = None
) -> tuple[list[int], int]:
    """Go through the recordings, and write down the states that some moments may have left.

    Returns:
        After which calls something had changed, and how many files are in the end not what the recordings say.
    """
    disk, data, changes, unexplained = Recorded(lived), lived / "data", list[int](), list[Path]()
    for number in range(2):
        with (directory / f"{number}.trace").open() as lines:
            for call in calls(lines, disk.ended):
                if disk.apply(call) and data in (call.path, *call.path.parents):
                    changes.append(disk.ended)
                    if chance is not None and moments and disk.ended in moments:
                        _write(disk, chance, moments[disk.ended])
        unexplained = [path for path in disk.learn(directory / f"{number}.lived") if data in path.parents]
    return changes, len(unexplained)


def _write(disk: Recorded, chance: random.Random, place: Path) -> None:
    """A directory in which the gateway can be started, as a power cut at this moment may have left its own."""
    lived = disk.root
    (place / "control").mkdir(parents=True)
    setup = Setup.load(lived)
    for source in setup.sources:
        acked_file(place, source.name).write_bytes(disk.content(acked_file(lived, source.name)))
    for target in setup.targets:
        frames_file(place, target.name).write_bytes(disk.content(frames_file(lived, target.name)))
    data = Path(setup.stores)
    setup.stores = str(place / "data")
    setup.save(place)
    for path, content in disk.after_power_cut(chance).items():
        if path.is_relative_to(data) and not path.name.endswith(MAPPED):
            copy = place / path.relative_to(lived)
            copy.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            copy.write_bytes(content)
            copy.chmod(0o600)


def _start(place: Path, load: Mapping[str, Any], seed: int, say: Callable[[str], None]) -> dict[str, Any]:
    world = World(place, Setup.load(place), dict(load), random.Random(seed), say)
    try:
        return settle(world, load)
    finally:
        world.end()
