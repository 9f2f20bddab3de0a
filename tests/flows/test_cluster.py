"""A Bytewax cluster of two processes, each a gateway with directory, journal and sources of its own; either is killed."""

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.clustered import LINES, Plant, settle, sources_of
from tests.chaos.lives import pause


@pytest.fixture
def plant(tmp_path: Path) -> Iterator[Plant]:
    made = Plant(tmp_path)
    yield made
    made.end()


def reads_on(plant: Plant, member: int) -> None:
    """Until each source of a member has read more."""
    before = plant.acknowledged()
    mine = [source.name for source in sources_of(plant.setup(member)) if source.member == member]
    plant.until(lambda: all(plant.acknowledged()[name] > before[name] + 50 for name in mine), f"member {member} reads")


def closes_windows(plant: Plant, count: int = 3) -> None:
    """Until so many more windows of each line have been delivered."""
    before = plant.averages()
    plant.until(lambda: plant.averages() >= before + count * len(LINES), "windows close")


def test_no_window_over_the_plant_is_lost_or_doubled_when_either_member_is_killed(plant: Plant) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # noqa: T201 - pytest shows it when the test fails
    chance = random.Random(seed)
    plant.start(0)
    plant.start(1, targets=2)
    plant.until(lambda: "member 1 has other steps in its flow than member 0" in plant.lives[0].said(), "a refusal")
    for member in (0, 1):
        reads_on(plant, member)  # also while the others are waited for
    began = time.monotonic()
    assert plant.lives.pop(1).stop() == 0
    assert time.monotonic() - began < 5.0
    plant.start(1)
    closes_windows(plant)
    for victim in (0, 1):
        plant.kill(victim)
        reads_on(plant, 1 - victim)
        plant.start(victim)
        closes_windows(plant)
        pause(chance.uniform(0, 1))
    plant.kill(chance.choice((0, 1)))
    settle(plant)
    found = plant.found()
    assert found.pop("obligations") > 1000
    assert found.pop("windows") >= 12
    assert set(found.values()) == {0}, found


def test_readings_that_a_step_took_to_another_member_come_home(plant: Plant) -> None:
    plant.flow, plant.rate = "crossing", 200
    plant.start()
    plant.until(lambda: all(plant.delivered(name) > 100 for name in plant.acknowledged()), "delivery")
    plant.kill(random.choice((0, 1)))
    settle(plant)
    found = plant.found()
    assert found["obligations"] > 400
    assert {found[name] for name in ("lost", "lost_by_the_ledgers", "wrong_values", "unaccounted")} == {0}, found
    for member, ledger in enumerate(plant.accounts()):
        for name, line in ledger["sources"].items():
            assert line["filtered"] == {}, "the journal knows that they were routed"
            spooled = ledger["targets"]["t0"][name]
            assert (line["routed"], spooled["delivered"]) == (line["journalled"],) * 2
        assert {source.name for source in sources_of(plant.setup(0)) if source.member != member}.isdisjoint(
            ledger["targets"]["t0"]
        ), "each is in the spools of the member that read it"
