"""A start with a large backlog: a dead target, a spool that grows, SIGKILL, and the time to the first delivery."""

import random
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from tests.chaos.gateway import Setup, SourceSetup, TargetSetup
from tests.chaos.lives import WAYS, account, living, pause
from tests.chaos.numbered_world import World, set_way
from tests.chaos.scenario import Scenario
from tests.chaos.verdict import judge

_GROWN: Final = 600.0
_DRAINED: Final = 600.0


def run(
    scenario: Scenario, load: Mapping[str, Any], directory: Path, chance: random.Random, say: Callable[[str], None]
) -> dict[str, Any]:
    """Let the backlog grow to `mib`, then start `starts` times, killed each time after the first delivery."""
    (directory / "control").mkdir()
    wanted = int(load["mib"]) * 1024 * 1024
    source = SourceSetup("bulk", "mqtt", int(load["rate"]), padding=int(load["padding"]))
    setup = Setup(str(directory / "data"), [source], [TargetSetup("plain")])
    setup.save(directory)
    world = World(directory, setup, dict(load), chance, say)
    set_way(world, "plain", "refuse")
    spool = directory / "data" / "targets" / "plain" / "spool"
    with living(directory, "bifrost_run") as life:
        told = time.monotonic()
        deadline = told + _GROWN
        while (size := _size(spool)) < wanted:
            assert life.alive(), life.said()
            assert time.monotonic() < deadline, f"the backlog has only {size:,} bytes"
            if time.monotonic() - told > 10:
                told = time.monotonic()
                say(f"    the backlog has {size / 2**20:,.0f} MiB")
            pause(0.2)
        life.kill()
    setup.idle = True  # what is delivered first is the backlog
    setup.save(directory)
    set_way(world, "plain", "slow")  # a start must not find the backlog gone
    took = []
    for number in range(int(load["starts"])):
        with living(directory, WAYS[number % 2]) as life:
            life.wait_first_delivery(60)
            assert life.first_delivery is not None, life.said()
            took.append(round(life.first_delivery, 2))
            life.kill()
    say(f"    {_size(spool) / 2**20:,.0f} MiB: first delivery after {took} s")
    set_way(world, "plain", "ok")
    with living(directory, "bifrost_run") as life:
        began, size = time.monotonic(), 0
        quiet = began
        while time.monotonic() - quiet < 3 and time.monotonic() - began < _DRAINED:
            if life.taken("plain") != size:
                size, quiet = life.taken("plain"), time.monotonic()
            pause(0.1)
        drained = quiet - began
        code, stopped = life.stop()
    numbers = judge(directory, ["bulk"], [], ["plain"])
    for example in numbers.examples:
        say(f"    {example}")
    return {
        "backlog_mib": round(wanted / 2**20),
        "readings": numbers.obligations,
        "backlog_start_s": round(statistics.median(took), 2),
        "slowest_start_s": max(took),
        "starts": len(took),
        "drained_s": round(drained, 1),
        "lost": numbers.lost,
        "wrong_values": numbers.wrong_values + numbers.unknown,
        "visible_twice": numbers.visible_twice,
        "kills": len(took) + 1,
        "needed_operator": 0,
        "bad_exits": int(code != 0),
        "stopped_s": round(stopped, 2),
        "unaccounted": abs(account(directory)["unaccounted"]),
    }


def _size(spool: Path) -> int:
    return sum(path.stat().st_size for path in spool.rglob("*.log")) if spool.exists() else 0
