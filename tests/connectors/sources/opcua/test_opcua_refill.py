"""What got lost although the connection held is read from history: queues that overflowed, messages, silent subscriptions."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from connectors.sources.opcua import history, missing
from normalization.reading import Flags
from tests.connectors.sources.opcua.conftest import MACHINE, PlantServer, Reading, source
from tests.connectors.sources.opcua.test_opcua_history import (
    COUNT,
    HERTZ,
    counting,
    historian,  # noqa: F401 - fixtures
    last_state,
    numbers,
    write,
)
from tests.connectors.sources.opcua.test_opcua_interop import NodeServer, device, node  # noqa: F401
from tests.connectors.sources.opcua.test_opcua_interop import installed as node_installed  # noqa: F401
from tests.connectors.sources.opcua.test_opcua_open62541 import CServer, installed  # noqa: F401
from tests.connectors.sources.opcua.test_opcua_subscription import ServerSide, mute
from tests.recording_intake import RecordingIntake


def nothing_open(directory: Path) -> bool:
    return not list((directory / "history").glob("*-*.npy"))


def live(intake: RecordingIntake, tag: str) -> int:
    return len(numbers(intake, tag, flags=0))


# -- queues that overflow


@pytest.fixture
def counter(installed: None) -> Any:  # noqa: F811
    running = CServer(COUNT, HERTZ, 100_000)
    yield running
    running.stop()


@pytest.mark.interop("open62541", "what overflowed in the server's queues is read from history, each value once")
@pytest.mark.parametrize("discard_oldest", [True, False])
async def test_what_overflowed_is_read_from_history_and_nothing_is_there_twice(counter, tmp_path, discard_oldest):
    config = counting(counter.port, queue_size=3, publishing_interval=0.4, discard_oldest=discard_oldest)
    async with Reading(config, tmp_path) as intake:
        await intake.until(lambda: live(intake, f"v{COUNT - 1}") > 20, 30)
        for at in range(COUNT):
            first, *_, last = numbers(intake, f"v{at}", flags=0)
            wanted = set(range(first, last))
            await intake.until(lambda at=at, wanted=wanted: wanted <= set(numbers(intake, f"v{at}")), 60)
            found = numbers(intake, f"v{at}")
            assert len(found) == len(set(found)), "nothing is there twice"
            assert numbers(intake, f"v{at}", flags=Flags.HISTORICAL)
        assert not intake.gaps


@pytest.mark.interop("node-opcua", "what overflowed in the server's queue is read from history, each value once")
async def test_what_overflowed_in_node_opcua_is_read_from_its_history(node, tmp_path):  # noqa: F811
    config = device(node.endpoint, queue_size=2, publishing_interval=0.5)
    async with Reading(config, tmp_path) as intake:
        await intake.until(lambda: intake.readings("Int32"), 10)
        node.command(burst=["Int32", 20000, 20020, 60])
        await intake.until(lambda: intake.last("Int32").value == 20019, 20)
        await intake.until(lambda: len([n for n in numbers(intake, "Int32") if n >= 20000]) >= 20, 20)
        assert sorted(n for n in numbers(intake, "Int32") if n >= 20000) == list(range(20000, 20020))
        assert numbers(intake, "Int32", flags=Flags.HISTORICAL)
        assert "Int32" not in {tag.tag_name for gap in intake.gaps for tag in gap.tags}


@pytest.mark.interop("open62541", "what overflowed before the gateway died is read by the next one")
async def test_what_overflowed_before_a_gateway_died_is_read_by_the_next(counter, tmp_path, monkeypatch):
    monkeypatch.setattr(history.services, "read_history", _never)  # it dies before it can read
    config = counting(counter.port, queue_size=3, publishing_interval=0.4)
    reading = Reading(config, tmp_path)
    reading.start()
    intake = reading.intake
    await intake.until(lambda: live(intake, "v0") > 10, 20)
    async with asyncio.timeout(20):
        while nothing_open(tmp_path):
            await asyncio.sleep(0.02)
    await reading.stop()
    monkeypatch.undo()
    reading.start(last_state(intake))
    try:
        before = live(intake, "v0")
        await intake.until(lambda: live(intake, "v0") > before + 10, 20)
        first, *_, last = numbers(intake, "v0", flags=0)
        await intake.until(lambda: set(numbers(intake, "v0")) >= set(range(first, last)), 60)
        assert len(numbers(intake, "v0")) == len(set(numbers(intake, "v0")))
        assert not intake.gaps
    finally:
        await reading.stop()


async def _never(*_: Any) -> Any:
    await asyncio.Future()


async def test_what_overflows_faster_than_history_is_read_stays_a_gap(counter, tmp_path, monkeypatch):
    monkeypatch.setattr(missing, "_MOST_WAITING", 0)
    config = counting(counter.port, queue_size=3, publishing_interval=0.4)
    async with Reading(config, tmp_path) as intake:
        await intake.until(lambda: intake.gaps, 20)
        assert intake.gaps[0].reason == "the queue in the server overflowed, and its history is slower"
        assert len(intake.gaps[0].tags) == COUNT
        assert nothing_open(tmp_path)


# -- messages and subscriptions that are lost


def speed(server: PlantServer, **more: Any) -> Any:
    return source(server.endpoint, nodes=[f"nsu={MACHINE};s=Speed"], publishing_interval=0.02, **more)


async def write_live(server: PlantServer, intake: RecordingIntake, *values: int) -> None:
    for value in values:
        await write(server, value)
        await intake.until(lambda value=value: intake.last("Speed").value == value, 10)


async def write_unheard(server: PlantServer, side: ServerSide, *values: int) -> None:
    """Set values, each in a message that does not reach the client."""
    for value in values:
        number = side.subscription._notification_seq
        await write(server, value)
        async with asyncio.timeout(10):
            while side.subscription._notification_seq == number:
                await asyncio.sleep(0.01)


async def test_messages_that_are_lost_for_good_are_read_from_history(historian, tmp_path):  # noqa: F811
    server, _ = historian
    async with Reading(speed(server), tmp_path) as intake:
        await intake.until(lambda: intake.last("Speed"), 10)
        await write_live(server, intake, 1, 2)
        side = await asyncio.to_thread(ServerSide, server)
        side.lose(3, forget=True)
        await write_unheard(server, side, 3, 4, 5)
        await write_live(server, intake, 6, 7)
        await intake.until(lambda: set(numbers(intake, "Speed")) >= set(range(1, 8)), 20)
        assert sorted(numbers(intake, "Speed"))[:-1] == list(range(1, 8))
        assert numbers(intake, "Speed", flags=Flags.HISTORICAL) == [3, 4, 5]
        await intake.until(lambda: nothing_open(tmp_path), 10)
        assert not intake.gaps


async def test_messages_that_history_does_not_have_either_are_a_gap_with_both_reasons(historian, tmp_path):  # noqa: F811
    server, storage = historian
    storage.refuses = True
    async with Reading(speed(server), tmp_path) as intake:
        await intake.until(lambda: intake.last("Speed"), 10)
        await write_live(server, intake, 1)
        side = await asyncio.to_thread(ServerSide, server)
        side.lose(1, forget=True)
        await write_unheard(server, side, 2)
        await write_live(server, intake, 3)
        await intake.until(lambda: intake.gaps, 20)
        (gap,) = intake.gaps
        assert "did not come, and the server's history cannot be read: BadHistoryOperationUnsupported" in gap.reason
        assert gap.start <= gap.end
        assert [tag.tag_name for tag in gap.tags] == ["Speed"]


async def test_what_was_lost_begins_behind_the_last_value_in_the_journal(historian, tmp_path):  # noqa: F811
    """Values before the loss that are still on the way to the disk are neither its end nor read again."""
    server, _ = historian
    intake = RecordingIntake()
    async with Reading(speed(server), tmp_path, intake):
        await intake.until(lambda: intake.last("Speed"), 10)
        side = await asyncio.to_thread(ServerSide, server)
        intake.hold = True
        await write_live(server, intake, 1, 2)
        side.lose(2, forget=True)
        await write_unheard(server, side, 3, 4)
        await write_live(server, intake, 5)
        assert nothing_open(tmp_path), "nothing is remembered that the journal does not have"
        intake.hold = False
        intake.release()
        await intake.until(lambda: set(numbers(intake, "Speed")) >= set(range(1, 6)), 20)
        assert sorted(numbers(intake, "Speed"))[:-1] == list(range(1, 6))
        assert numbers(intake, "Speed", flags=Flags.HISTORICAL) == [3, 4]
        assert not intake.gaps


async def test_what_a_silent_subscription_did_not_say_is_read_from_history(historian, tmp_path):  # noqa: F811
    server, _ = historian
    async with Reading(speed(server, keep_alive_interval=0.5, publish_requests=8), tmp_path) as intake:
        await intake.until(lambda: intake.last("Speed"), 10)
        await write_live(server, intake, 1)
        side = await asyncio.to_thread(ServerSide, server)
        side.subscription.pub_result_callback = mute
        for value in (2, 3, 4):
            await write(server, value)
        await intake.until(lambda: set(numbers(intake, "Speed")) >= {1, 2, 3, 4}, 20)
        assert sorted(numbers(intake, "Speed"))[:-1] == [1, 2, 3, 4]
        assert numbers(intake, "Speed", flags=Flags.HISTORICAL) == [2, 3]
        assert not intake.gaps
