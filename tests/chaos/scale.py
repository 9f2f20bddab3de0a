"""Members that come, go and are killed: each source is read by one gateway at a time, and nothing acknowledged is lost.

Each member is a gateway with a directory of its own; which of the sources it reads it tells by `config.members`, or, with
``leases``, it holds them in a server that speaks the cluster's API besides. The number of members goes 1, 3, 2, and at each the
members that stay are told of it while they run, in any order where there are leases; without, those that let sources go first.
"""

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil

from tests.chaos.gateway import SourceSetup, TargetSetup, applied_file, frames_file
from tests.chaos.interruption import INTERRUPTION
from tests.chaos.lives import Life, account, handles, pause, until
from tests.chaos.members import MemberSetup, twice_file
from tests.chaos.numbered import code, value_of
from tests.chaos.scenario import Scenario
from tests.chaos.verdict import acknowledged, rows_of
from tests.lease_server import LeaseServer

_LEASE_SECONDS: Final = 3
_APPLIED: Final = 30.0
_READ: Final = 30.0
_SETTLED: Final = 60.0
_PROTOCOLS: Final = ("mqtt", "modbus", "opcua")
_TARGETS: Final = ("plain", "units")


@dataclass
class Plant:
    """The members at work.

    Attributes:
        directory: Where each member has a folder, and the sources their files.
        sources: The sources.
        chance: What everything random is drawn from.
        say: Prints progress.
        leases: What stands in the configuration of each for the server of leases; empty without one.
        lives: The members that run.
        ever: Members that there have been.
    """

    directory: Path
    sources: list[SourceSetup]
    chance: random.Random
    say: Callable[[str], None]
    leases: dict[str, Any]
    lives: dict[int, Life] = field(default_factory=dict)
    ever: set[int] = field(default_factory=set)
    kills: int = 0
    changes: int = 0

    def folder(self, member: int) -> Path:
        return self.directory / f"m{member}"

    def write(self, member: int, members: int, *, idle: bool = False) -> None:
        """Tell a member how many there are; it looks when it starts, or is told to."""
        folder = self.folder(member)
        (folder / "control").mkdir(parents=True, exist_ok=True)
        setup = MemberSetup(
            str(folder / "data"),
            self.sources,
            [TargetSetup("plain"), TargetSetup("units", remembers=True)],
            gateway=f"plant-{member}",
            idle=idle,
            member=member,
            members=members,
            shared=str(self.directory),
            leases=self.leases,
        )
        setup.save(folder)

    def start(self, member: int) -> None:
        self.ever.add(member)
        self.lives[member] = Life(self.folder(member), "bifrost_run", environment={"CHAOS_MEMBER": "yes"})

    def tell(self, member: int, members: int) -> None:
        """Have a running member run with another number of members."""
        life, done = self.lives[member], applied_file(self.folder(member))
        until(lambda: _hears(life), _APPLIED, f"member {member} has come up: {life.said()}")
        before = done.stat().st_size if done.exists() else 0
        self.write(member, members)
        os.kill(life.pid, signal.SIGHUP)

        def applied() -> bool:
            return done.exists() and done.stat().st_size > before

        until(applied, _APPLIED, f"member {member} runs with {members}: {life.said()}")
        self.changes += 1

    def scale(self, members: int) -> None:
        """Have so many members."""
        present = sorted(self.lives, reverse=members < len(self.lives))  # who leaves lets go before who stays begins
        if self.leases:
            self.chance.shuffle(present)
        for member in present:
            self.tell(member, members)
        for member in range(members):
            if member not in self.lives:
                self.write(member, members)
                self.start(member)

    def leave(self, members: int) -> None:
        """Take away the members beyond: they have delivered what they held, or do so at the end."""
        for member in [one for one in self.lives if one >= members]:
            life = self.lives.pop(member)
            early = not life.handles_sigterm()  # it was killed just now, and has not begun anything yet
            code, _ = life.stop()
            if code != 0 and not (early and code == -signal.SIGTERM):
                raise AssertionError(f"member {member} ended with {code}")

    def kill(self) -> None:
        """SIGKILL one, and start it again as its supervisor would."""
        member = self.chance.choice(sorted(self.lives))
        self.lives[member].kill()
        self.kills += 1
        pause(self.chance.uniform(0, 0.5))
        self.start(member)

    def read_on(self) -> None:
        """Until every source is read by somebody."""
        newest = {source.name: acknowledged(self.directory, source.name) for source in self.sources}

        def on() -> bool:
            return all(acknowledged(self.directory, name) > before for name, before in newest.items())

        until(on, _READ, f"every source is read: {[life.said(300) for life in self.lives.values()]}")

    def end(self) -> None:
        for life in self.lives.values():
            if life.alive():
                life.kill()


def _hears(life: Life) -> bool:
    """Whether the process has come so far that SIGHUP does not just end it."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return handles(life.pid, signal.SIGHUP)
    return False


def run(
    scenario: Scenario,
    load: Mapping[str, Any],
    directory: Path,
    chance: random.Random,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Scale 1, 3, 2 so many times as there are rounds, with kills; returns the figures."""
    count = int(load["sources"])
    rate = round(int(load["rate"]) / count)
    sources = [SourceSetup(f"line{number}", _PROTOCOLS[number % 3], rate) for number in range(count)]  # type: ignore[arg-type]
    server = LeaseServer(directory) if load.get("leases") else None
    leases = server.section(duration=_LEASE_SECONDS) if server is not None else {}
    plant = Plant(directory, sources, chance, say, leases)
    try:
        plant.scale(1)
        plant.read_on()
        with INTERRUPTION.rounds():
            for number in range(int(load["rounds"])):
                if INTERRUPTION.asked:
                    break
                _round(plant, load)
                say(f"    round {number + 1}: {plant.kills} kills, {plant.changes} changes")
        return _settled(plant)
    finally:
        plant.end()
        if server is not None:
            server.close()


def _round(plant: Plant, load: Mapping[str, Any]) -> None:
    for members in (3, 2, 1):
        if plant.chance.random() < 0.5:
            plant.kill()  # one of those that are told of the change is just coming up
        plant.scale(members)
        plant.read_on()
        for _ in range(int(load["kills_each"])):
            pause(plant.chance.uniform(0.1, 1.0))
            plant.kill()
            plant.read_on()
        plant.leave(members)


def _settled(plant: Plant) -> dict[str, Any]:
    """Every member once more, without sources, until all is delivered; then what the targets and the accounts say."""
    for member in sorted(plant.lives):
        plant.lives.pop(member).stop()
    for member in plant.ever:
        plant.write(member, 1, idle=True)
        plant.start(member)

    def delivered() -> bool:
        return not any(_missing(plant).values())

    deadline = time.monotonic() + _SETTLED
    while not delivered() and time.monotonic() < deadline:
        pause(0.5)
    for member in sorted(plant.lives):
        plant.lives.pop(member).stop()
    accounts = [account(plant.folder(member)) for member in sorted(plant.ever)]
    newest = {source.name: acknowledged(plant.directory, source.name) for source in plant.sources}
    journalled = {name: sum(one["sources"].get(name, {}).get("journalled", 0) for one in accounts) for name in newest}
    wrong = sum(
        int((rows["value"] != value_of(rows["n"])).sum())
        for member in plant.ever
        for target in _TARGETS
        for rows in [rows_of(plant.folder(member), target)]
    )
    twice = sum(
        path.stat().st_size for source in plant.sources if (path := twice_file(plant.directory, source.name)).exists()
    )
    return {
        "members": len(plant.ever),
        "kills": plant.kills,
        "changes": plant.changes,
        "obligations": sum(newest.values()) * len(_TARGETS),
        "lost": sum(_missing(plant).values()),
        "lost_by_the_ledgers": sum(max(0, newest[name] - journalled[name]) for name in newest),
        "read_by_two": twice,
        "wrong_values": wrong,
        "unaccounted": sum(abs(one["unaccounted"]) for one in accounts),
    }


def _missing(plant: Plant) -> dict[tuple[str, str], int]:
    """Readings that were acknowledged to a source and are at no member's target, by target and source."""
    found = {}
    for target in _TARGETS:
        rows = [
            rows_of(plant.folder(member), target)
            for member in plant.ever
            if frames_file(plant.folder(member), target).exists()
        ]
        every = np.concatenate(rows) if rows else rows_of(plant.directory, target)
        for source in plant.sources:
            due = np.arange(1, acknowledged(plant.directory, source.name) + 1)
            mine = every["n"][every["source"] == code(source.name)]
            found[target, source.name] = len(np.setdiff1d(due, mine))
    return found
