"""What a dead target costs the others: windows with and without it in turn, one long outage, and how its backlog drains.

The CPU of the others is that of the process without the forwarder of the target that dies, which spares its own work
meanwhile. Windows come in pairs, alive and dead in random order, on one gateway, so that what drifts hits both.
"""

import contextlib
import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from tests.chaos.gateway import Setup, SourceSetup, TargetSetup, control_file, frames_file
from tests.chaos.lives import Life, account, living, pause, until
from tests.chaos.numbered import frames
from tests.chaos.numbered_world import World, set_way
from tests.chaos.scenario import Scenario
from tests.chaos.verdict import judge

_STEADY, _WEAK = "plain", "units"
_LATE: Final = 0.5  # of a second: a reading this young is live data
_DRAINED: Final = 60.0
_SWITCHING: Final = 0.5
_CLAIM: Final = 1.05


@dataclass(frozen=True, slots=True)
class Window:
    """What the steady target got in a window of time.

    Attributes:
        cpu: CPU-seconds of the others per reading.
        latency: Median time from received to delivered, µs.
        readings: How many.
    """

    cpu: float
    latency: float
    readings: int


def run(
    scenario: Scenario, load: Mapping[str, Any], directory: Path, chance: random.Random, say: Callable[[str], None]
) -> dict[str, Any]:
    """Pairs of windows first, then the long outage and the drain, then the account."""
    (directory / "control").mkdir()
    rate, seconds = int(load["rate"]), float(load["window"])
    sources = [SourceSetup(f"{p}_line", p, rate // 3) for p in ("mqtt", "modbus", "opcua")]
    setup = Setup(str(directory / "data"), sources, [TargetSetup(_STEADY), TargetSetup(_WEAK, remembers=True)])
    setup.save(directory)
    world = World(directory, setup, dict(load), chance, say)
    with living(directory, "bifrost_run") as life:
        until(lambda: life.taken(_STEADY) and life.taken(_WEAK), 30, f"deliveries: {life.said()}")
        pause(float(load.get("settle", 5)))
        ratios, latencies = [], []
        for pair in range(int(load["pairs"])):
            found = {}
            for dead in chance.sample((False, True), 2):
                found[dead] = _window(world, life, seconds, dead=dead)
            ratios.append(found[True].cpu / found[False].cpu)
            latencies.append(found[True].latency / found[False].latency)
            if (pair + 1) % 5 == 0:
                say(
                    f"    {pair + 1} pairs: CPU × {statistics.median(ratios):.3f}, latency × {statistics.median(latencies):.3f}"
                )
        drain = _outage(world, life, float(load["outage"]), rate, say)
        code, stopped = life.stop()
    numbers = judge(directory, [source.name for source in sources], [_WEAK], [_STEADY])
    behind = _settle(world)
    numbers = judge(directory, [source.name for source in sources], [_WEAK], [_STEADY]) if behind else numbers
    for example in numbers.examples:
        say(f"    {example}")
    low, high = _interval(ratios)
    return {
        "pairs": len(ratios),
        "cpu_ratio_of_others": round(statistics.median(ratios), 3),
        "cpu_interval": [low, high],
        "latency_ratio_of_others": round(statistics.median(latencies), 3),
        "latency_interval": list(_interval(latencies)),
        "proven_costly": int(low > _CLAIM) + int(_interval(latencies)[0] > _CLAIM),
        **drain,
        "lost": numbers.lost,
        "wrong_values": numbers.wrong_values + numbers.unknown,
        "visible_twice": numbers.visible_twice,
        "duplicates": numbers.duplicates,
        "needed_operator": 0,
        "bad_exits": int(code != 0),
        "stopped_s": round(stopped, 2),
        "unaccounted": abs(account(directory)["unaccounted"]),
    }


def _window(world: World, life: Life, seconds: float, *, dead: bool) -> Window:
    """Let one window pass; afterwards the weak target has caught up."""
    set_way(world, _WEAK, "refuse" if dead else "ok")
    pause(_SWITCHING)  # what the switch itself costs belongs to neither
    start, cpu = frames_file(life.directory, _STEADY).stat().st_size, _cpu(life)
    pause(seconds)
    end, used = frames_file(life.directory, _STEADY).stat().st_size, _cpu(life) - cpu
    waits = _waits(life.directory, _STEADY, start, end)
    set_way(world, _WEAK, "ok")
    if dead:
        _wait_caught_up(life)
    return Window(used / max(1, len(waits)), float(np.median(waits)), len(waits))


def _waits(directory: Path, target: str, start: int, end: int) -> np.ndarray:
    """Time from received to delivered of each reading, µs."""
    path = frames_file(directory, target)
    found = [
        moment - rows["received"]
        for _, moment, rows in frames(path, start)
        if len(rows)
    ]  # fmt: skip
    return np.concatenate(found) if found else np.zeros(1)


def _cpu(life: Life) -> float:
    """CPU-seconds of all threads but the forwarder of the weak target, as the scheduler counts them, in ns."""
    own = control_file(life.directory, _WEAK).with_suffix(".thread").read_text()
    spent = 0
    for task in Path(f"/proc/{life.pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that has just ended
            spent += 0 if task.name == own else int((task / "schedstat").read_text().split()[0])
    return spent / 1e9


def _wait_caught_up(life: Life) -> None:
    """Until what the weak target got last is as young as live data is."""

    def young() -> bool:
        newest = frames(frames_file(life.directory, _WEAK), max(0, life.taken(_WEAK) - 1)) or _last(life)
        return bool(newest) and time.time() * 1e6 - float(newest[-1][2]["received"].max()) < _LATE * 1e6

    until(young, _DRAINED, "the weak target catches up")


def _last(life: Life) -> list[tuple[int, int, np.ndarray]]:
    return frames(frames_file(life.directory, _WEAK))[-1:]


def _outage(world: World, life: Life, seconds: float, rate: int, say: Callable[[str], None]) -> dict[str, Any]:
    """The long outage, then the drain: how fast it goes, and how old live data gets at the other target meanwhile."""
    spool = world.stores / "targets" / _WEAK / "spool"
    size_before = sum(path.stat().st_size for path in spool.rglob("*.log"))
    set_way(world, _WEAK, "refuse")
    pause(1.0)
    dead_from = time.time()
    pause(seconds)
    stored = sum(path.stat().st_size for path in spool.rglob("*.log")) - size_before
    weak, steady = (
        frames_file(life.directory, _WEAK).stat().st_size,
        frames_file(life.directory, _STEADY).stat().st_size,
    )
    returned = time.time()
    set_way(world, _WEAK, "ok")
    _wait_caught_up(life)
    backlog = [(moment, len(rows)) for _, moment, rows in frames(frames_file(life.directory, _WEAK), weak) if len(rows)]
    first, caught_up = backlog[0][0] / 1e6, time.time()
    took = max(0.001, caught_up - first)
    drained = sum(rows for _, rows in backlog)
    live = [
        (moment - rows["received"]).max() / 1e6
        for _, moment, rows in frames(frames_file(life.directory, _STEADY), steady)
        if moment / 1e6 <= caught_up
    ]
    ratio = drained / took / rate
    say(
        f"    {returned - dead_from:.0f} s dead, {drained:,} readings drained in {took:.2f} s: {ratio:.1f} × the ingest rate"
    )
    return {
        "outage_s": round(seconds),
        "drained": drained,
        "drain_ratio": round(ratio, 1),
        "back_after_s": round(first - returned, 2),
        "live_age_s": round(float(max(live, default=0.0)), 3),
        "bytes_per_reading": round(stored / max(1, rate * (returned - dead_from + 1)), 1),
    }


def _settle(world: World) -> bool:
    """A life with silent sources that delivers what the last one left."""
    world.setup.idle = True
    world.setup.save(world.directory)
    with living(world.directory, "bytewax_run") as life:
        until(lambda: any((world.stores / "journal").glob("*.log")), 20, "the stores")
        pause(5.0)
        life.stop()
    return True


def _interval(ratios: list[float]) -> tuple[float, float]:
    """95 % interval of the median, by order statistics (binomial); the range when there are too few."""
    ordered, count = sorted(ratios), len(ratios)
    reach = 0.98 * count**0.5
    low, high = max(0, int(count / 2 - reach)), min(count - 1, int(count / 2 + reach))
    return round(ordered[low], 3), round(ordered[high], 3)
