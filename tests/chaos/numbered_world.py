"""The world of numbered sources: lives of the gateway, the faults that a scenario names, and the oracle at the end."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.chaos.gateway import Setup, SourceSetup, TargetSetup, control_file, frames_file
from tests.chaos.interruption import INTERRUPTION
from tests.chaos.lives import LOOK, WAYS, ChaosError, Life, Way, account, acked_bytes, pause, until
from tests.chaos.network import Station
from tests.chaos.scenario import Fault, Scenario
from tests.chaos.verdict import dead_letters, discarded, judge, miscounted, unexplained
from tests.wall_clock import WallClock

_TELL: Final = 20.0  # seconds between two lines of progress
_SETTLED: Final = 60.0
_QUIET: Final = 1.0
_SILENT: Final = 12.0  # seconds after which nothing more will come
_ATTEMPTS: Final = 3
_SUPERVISOR: Final = 0.5
_FRESH: Final = 15.0
_PROTOCOLS: Final = ("mqtt", "modbus", "opcua")


@dataclass
class Figures:
    """What a scenario of numbered sources counts while it runs."""

    rounds: int = 0
    kills: int = 0
    ended_by_fault: int = 0
    not_hit: int = 0
    failed_starts: int = 0
    needed_operator: int = 0
    bad_exits: int = 0
    before_handlers: int = 0
    stopped_s: list[float] = field(default_factory=list)
    restart_s: list[float] = field(default_factory=list)
    stall_s: list[float] = field(default_factory=list)
    recovered_s: list[float] = field(default_factory=list)
    applied_s: list[float] = field(default_factory=list)
    silent_ends: int = 0
    changes: int = 0
    refusals: int = 0
    not_refused: int = 0
    memory_mib: int = 0


@dataclass
class World:
    """One scenario at work.

    Attributes:
        directory: Where everything is that is not a store.
        setup: What the gateway is made of.
        load: The scenario's load.
        chance: What everything random is drawn from.
        say: Prints progress.
        way: How the gateway is started; drawn for each life when None.
        life: The life that runs, or ran last.
        prefix: What starts the next life.
        environment: More environment of the next life.
        clock: The wall clock of a life with a false one.
        traced: Whether the next life is one that a fault may end at any point.
        mounts: What was mounted.
        ever: Sources that there have been besides those of the setup.
        stations: Targets in the network, by name.
    """

    directory: Path
    setup: Setup
    load: dict[str, Any]
    chance: random.Random
    say: Callable[[str], None]
    figures: Figures = field(default_factory=Figures)
    life: Life | None = None
    prefix: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    clock: WallClock | None = None
    traced: bool = False
    mounts: list[Path] = field(default_factory=list)
    ever: list[str] = field(default_factory=list)
    stations: dict[str, Station] = field(default_factory=dict)

    @property
    def stores(self) -> Path:
        """The gateway's own directory."""
        return Path(self.setup.stores)

    @property
    def running(self) -> Life:
        """The life that runs."""
        if self.life is None or not self.life.alive():
            raise ChaosError(f"the gateway does not run: {self.life.said() if self.life else 'never started'}")
        return self.life

    def start(self) -> Life:
        """Begin a life, through a way drawn by the seed; a start that fails is tried once more, as a supervisor would."""
        self.setup.save(self.directory)
        for attempt in range(1, _ATTEMPTS + 2):
            way: Way = self.load.get("way") or self.chance.choice(WAYS)
            life = self.life = Life(self.directory, way, self.prefix, self.environment)
            if self.traced or self.load.get("blind"):
                return life
            life.wait_first_delivery()
            if life.alive():
                assert life.first_delivery is not None
                self.figures.restart_s.append(round(life.first_delivery, 2))
                return life
            self.figures.failed_starts += 1
            self.say(f"    start {attempt} failed: {life.said().strip().splitlines()[-1:]}")
            if attempt == _ATTEMPTS:
                self.operate()
        raise ChaosError(f"the gateway does not start any more: {self.life.said() if self.life else ''}")

    def start_blind(self) -> None:
        """Begin a life without waiting for what it delivers."""
        way: Way = self.load.get("way") or self.chance.choice(WAYS)
        self.life = Life(self.directory, way, self.prefix, self.environment)

    def operate(self) -> None:
        """What nobody should have to do: help a gateway that does not start, so that the rest can be judged."""
        self.figures.needed_operator += 1
        self.say("    an operator sets the recovery directory aside")
        (self.stores / "recovery").rename(self.stores / f"recovery.{self.figures.needed_operator}")

    def supervise(self) -> None:
        """Start the gateway again where a fault has ended it, as its supervisor would."""
        if self.life is not None and not self.life.alive():
            self.note_end()
            pause(_SUPERVISOR)
            self.start_blind()

    def end(self) -> None:
        """Kill what still runs."""
        if self.life is not None and self.life.alive():
            self.life.kill()

    def note_end(self) -> None:
        """The process ended by itself under a fault: it must have said why, unless it was killed."""
        assert self.life is not None
        code = self.life.process.wait(20)
        self.figures.ended_by_fault += 1
        if code > 0 and not self.life.said().strip():
            self.figures.silent_ends += 1

    def stop(self) -> None:
        """SIGTERM, and note how the process ended; before it runs any code of ours, the signal just ends it."""
        assert self.life is not None
        early = not self.life.handles_sigterm()
        code, took = self.life.stop()
        self.figures.stopped_s.append(round(took, 2))
        if early and code == -signal.SIGTERM:
            self.figures.before_handlers += 1
        elif code != 0:
            self.figures.bad_exits += 1
            self.say(f"    SIGTERM ended with code {code}: {self.life.said(400)}")

    def silence(self, seconds: float, target: str) -> float:
        """The longest time within `seconds` in which a target got nothing."""
        life, now = self.running, time.monotonic()
        end, last, longest, size = now + seconds, now, 0.0, self.running.taken(target)
        while now < end:
            pause(LOOK)
            now, grown = time.monotonic(), life.taken(target)
            longest = max(longest, now - last)
            if grown != size:
                size, last = grown, now
        return longest

    def fresh(self, target: str, seconds: float = _FRESH) -> float:
        """Seconds until a source is acknowledged and a target gets something again, with a supervisor's help."""
        source = self.setup.sources[0].name
        began, acked = time.monotonic(), acked_bytes(self.directory, source)
        assert self.life is not None
        size = self.life.taken(target)
        while self.life.taken(target) <= size or acked_bytes(self.directory, source) <= acked:
            if time.monotonic() - began > seconds:
                raise ChaosError(f"nothing fresh in {seconds:g} s: {self.life.said()}")
            self.supervise()
            pause(LOOK)
        return time.monotonic() - began


BeforeFault = Callable[[World, dict[str, Any]], None]
BEFORE: dict[str, BeforeFault] = {}
"""Faults that are laid before a life begins."""
DURING: dict[str, BeforeFault] = {}
"""Faults at a moment of a life."""


def run(
    scenario: Scenario, load: Mapping[str, Any], directory: Path, chance: random.Random, say: Callable[[str], None]
) -> dict[str, Any]:
    """Carry a scenario out; returns its figures."""
    from tests.chaos import faults  # noqa: F401 - registers what scenarios name

    (directory / "control").mkdir()
    world = World(directory, setup_of(directory, load), dict(load), chance, say)
    with contextlib.ExitStack() as stations:
        for target in world.setup.targets:
            if target.name in load.get("remote", ()):
                station = Station(frames_file(directory, target.name), remembers=target.remembers)
                world.stations[target.name] = stations.enter_context(station)
                target.port = station.port
        return _carry_out(scenario, world, load)


def _carry_out(scenario: Scenario, world: World, load: Mapping[str, Any]) -> dict[str, Any]:
    try:
        _mount(world)
        rounds, told = int(load.get("rounds", load.get("kills", 1))), time.monotonic()
        with INTERRUPTION.rounds():
            for number in range(rounds):
                if INTERRUPTION.asked:
                    world.say(f"    interrupted after {number} of {rounds} rounds, which are judged now")
                    break
                _round(world, scenario.faults, number)
                if time.monotonic() - told > _TELL:
                    told = time.monotonic()
                    world.say(f"    round {number + 1} of {rounds}: {world.figures.kills} kills")
        world.end()
        return settle(world, load)
    finally:
        world.end()
        for mount in world.mounts:
            subprocess.run(["umount", "-l", str(mount)], check=False, capture_output=True)


def setup_of(directory: Path, load: Mapping[str, Any]) -> Setup:
    """What the gateway of a load is made of."""
    protocols = _PROTOCOLS[: int(load.get("sources", 3))]
    rate = round(int(load.get("rate", 1000)) / len(protocols))
    targets = [TargetSetup("plain"), TargetSetup("units", remembers=True)]
    return Setup(
        str(directory / "data"),
        [SourceSetup(f"{protocol}_line", protocol, rate) for protocol in protocols],  # type: ignore[arg-type]
        targets[: int(load.get("targets", 2))],
    )


def _mount(world: World) -> None:
    """Put a store, or all of them, on a small disk of its own."""
    disk = world.load.get("disk")
    if disk is None:
        return
    place = world.stores / str(disk.get("of", "."))
    place.mkdir(parents=True, mode=0o700, exist_ok=True)
    options = f"size={disk['size']}" + (f",nr_inodes={disk['inodes']}" if "inodes" in disk else "") + ",mode=0700"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "chaos", str(place)], check=True, capture_output=True)
    world.mounts.append(place)


def _round(world: World, named: list[Fault], number: int) -> None:
    faults = [fault for fault in named if fault.happens_in(number)]
    before = [fault for fault in faults if fault.do in BEFORE]
    if unknown := [fault.do for fault in faults if fault.do not in BEFORE and fault.do not in DURING]:
        raise ValueError(f"no such fault: {', '.join(unknown)}")
    world.figures.rounds += 1
    if before:
        world.end()
        world.prefix, world.environment, world.traced = [], {}, False
        for fault in before:
            BEFORE[fault.do](world, fault.options | {"round": number})
    if world.life is None or not world.life.alive():
        world.start()
    life = world.life
    assert life is not None
    timed = sorted(
        ((fault.moment(world.chance), fault) for fault in faults if fault.do in DURING), key=lambda pair: pair[0]
    )
    origin: dict[str, float] = {"start": life.started}
    for moment, fault in timed:
        if fault.after == "delivery" and "delivery" not in origin:
            life.wait_first_delivery()
            origin["delivery"] = (
                time.monotonic() if world.figures.rounds > 1 else life.started + (life.first_delivery or 0)
            )
        pause(max(0.0, origin[fault.after] + moment - time.monotonic()))
        if world.load.get("supervised"):
            world.supervise()
        DURING[fault.do](world, fault.options | {"round": number})


def settle(world: World, load: Mapping[str, Any]) -> dict[str, Any]:
    """One more life without faults and with silent sources, until everything acknowledged is there; then the verdict."""
    world.prefix, world.environment, world.traced = [], {}, False
    world.load["blind"] = True  # there may be nothing left to deliver
    for control in (world.directory / "control").glob("*.way"):
        if not load.get("rejecting"):
            control.unlink()
    for station in world.stations.values():
        station.take_road("ok")
    world.setup.idle = True
    names = [source.name for source in world.setup.sources]
    names += [name for name in world.ever if name not in names]
    targets = [target for target in world.setup.targets if target.name in ("plain", "units")]
    rejecting = list(load.get("rejecting", ()))

    def verdict() -> Any:
        return judge(
            world.directory,
            names,
            [target.name for target in targets if target.remembers],
            [target.name for target in targets if not target.remembers],
            rejecting,
        )

    life = world.start()
    deadline, size, changed = time.monotonic() + _SETTLED, -1, time.monotonic()
    numbers, failures = verdict(), 0
    while numbers.lost and time.monotonic() < min(deadline, changed + _SILENT):
        if not life.alive():
            world.figures.failed_starts += 1
            failures += 1
            if failures == _ATTEMPTS:
                world.operate()
            life, changed = world.start(), time.monotonic()
        now = sum(life.taken(target.name) for target in targets)
        if now != size:
            size, changed = now, time.monotonic()
        elif time.monotonic() - changed > _QUIET:
            numbers = verdict()
        pause(0.2)
    until(lambda: life.handles_sigterm(), 20, f"the gateway has come up: {life.said()}")
    pause(_QUIET)
    world.stop()
    numbers, found = verdict(), account(world.directory)
    figures = world.figures
    let_go, letters = discarded(found), dead_letters(found)
    rate = sum(source.rate for source in world.setup.sources)
    for example in numbers.examples:
        world.say(f"    {example}")
    if found["unaccounted"]:
        world.say(f"    {json.dumps(found)}")
    return {
        **{name: count for name, count in vars(figures).items() if isinstance(count, int)},
        "obligations": numbers.obligations,
        "lost": unexplained(numbers, let_go),
        "discarded": sum(let_go.values()),
        "miscounted": miscounted(world.directory, found, names, [target.name for target in targets]),
        "wrong_values": numbers.wrong_values + numbers.unknown,
        "duplicates": numbers.duplicates,
        "duplicate_ms_per_kill": round(1000 * numbers.duplicates / rate / max(1, figures.kills), 1),
        "visible_twice": numbers.visible_twice,
        "disordered": numbers.disordered,
        "dead_letters": letters,
        "missing_letters": max(0, numbers.poison - letters),
        "unaccounted": abs(found["unaccounted"]),
        "restart_s": _largest(figures.restart_s),
        "stopped_s": _largest(figures.stopped_s),
        "stall_s": _largest(figures.stall_s),
        "recovered_s": _largest(figures.recovered_s),
        "applied_s": _largest(figures.applied_s),
    }  # fmt: skip


def _largest(figures: list[float]) -> float:
    return round(max(figures, default=0.0), 2)


def free_bytes(place: Path) -> int:
    """What is left on the disk under `place`."""
    found = os.statvfs(place)
    return found.f_bavail * found.f_frsize


def set_way(world: World, target: str, way: str) -> None:
    """Tell a target how to behave from now on."""
    path = control_file(world.directory, target)
    draft = path.with_suffix(".new")
    draft.write_text(way)
    draft.replace(path)


def copy_tree(source: Path, destination: Path) -> None:
    """Replace `destination` by what is in `source`."""
    shutil.rmtree(destination, ignore_errors=True)
    if source.exists():
        shutil.copytree(source, destination)
