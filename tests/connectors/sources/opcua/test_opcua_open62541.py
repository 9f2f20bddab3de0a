"""The OPC UA reader against open62541, whose variables count upwards, so that what is missing or comes twice can be seen."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from connectors.contract import SourceState
from connectors.sources.opcua import subscription
from tests.connectors.sources.opcua.conftest import Reading, Relay, source
from tests.ports import free_port
from tests.recording_intake import RecordingIntake

pytestmark = pytest.mark.interop("open62541")

COUNTERPART = Path(__file__).parents[3] / "counterparts" / "opcua-c"
PROGRAM = Path(__file__).parents[4] / "build" / "counterparts" / "opcua-c" / "server"
COUNT, HERTZ = 50, 20


class CServer:
    """The open62541 process."""

    def __init__(self, count: int = COUNT, hertz: float = HERTZ, history: int = 0, items: int = 0) -> None:
        self.port = free_port()
        self.endpoint = f"opc.tcp://127.0.0.1:{self.port}"
        self._command = [str(PROGRAM), *(str(n) for n in (self.port, count, hertz, history, items))]
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def say(self, line: str) -> None:
        """Give it a line."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def stop(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="module")
def installed() -> None:
    if shutil.which("cargo") is None:
        pytest.skip("cargo is not installed")
    subprocess.run(["/bin/sh", str(COUNTERPART / "install.sh")], check=True, timeout=600, stdout=sys.stderr)


@pytest.fixture
def server(installed: None) -> Iterator[CServer]:
    running = CServer()
    yield running
    running.stop()


def counting(endpoint: str, **more: Any) -> Any:
    nodes = [{"id": f"ns=1;s=v{at}", "tag_name": f"v{at}"} for at in range(COUNT)]
    user = {"username": "user1", "password": "secret1", "trust": "all", "allow_clear_password": True}
    return source(endpoint, **{"nodes": nodes, "queue_size": 200, "values_per_notification": 40, **user, **more})


def numbers(*intakes: RecordingIntake, tag: str = "v0") -> list[int]:
    return [int(r.value) for intake in intakes for r in intake.readings(tag) if r.value is not None]


def without_gaps(found: list[int]) -> bool:
    return all(after == before + 1 for before, after in pairwise(found))


async def test_each_value_comes_once_and_in_order(server, tmp_path):
    async with Reading(counting(server.endpoint), tmp_path) as intake:
        await intake.until(lambda: len(numbers(intake)) > 30, 10)
        assert all(without_gaps(numbers(intake, tag=f"v{at}")) for at in range(COUNT))
        assert not intake.gaps


async def test_after_a_gateway_died_nothing_is_missing_and_nothing_twice(server, tmp_path, monkeypatch):
    """Its messages come again from a number on that is on disk."""
    monkeypatch.setattr(subscription, "_LATE", 30.0)  # it goes on although nothing gets to the disk
    async with Relay(server.port) as relay:
        first = Reading(counting(relay.endpoint.removesuffix("/plant")), tmp_path, RecordingIntake(hold=True))
        task = first.start()
        await first.intake.until(lambda: len(numbers(first.intake)) > 15, 10)
    with pytest.raises(ConnectionError):
        await asyncio.wait_for(task, 5)
    on_disk = len(first.intake.appended) // 2
    state = first.intake.appended[on_disk - 1][1]
    survived = RecordingIntake(tags=first.intake.tags, appended=first.intake.appended[:on_disk])
    await asyncio.sleep(0.5)
    second = Reading(counting(server.endpoint), tmp_path)
    second.start(state)
    try:
        await second.intake.until(lambda: len(numbers(second.intake)) > 30, 10)
        for at in range(COUNT):
            assert without_gaps(numbers(survived, second.intake, tag=f"v{at}"))
        assert not second.intake.gaps
    finally:
        await second.stop()


@pytest.mark.parametrize("user", ["user1", None])
async def test_what_the_server_does_not_hand_over_is_a_gap(server, tmp_path, user):
    """From a session that was closed it hands over nothing, and from anonymous users on a channel without security neither."""
    config = counting(server.endpoint, username=user, password="secret1" if user else None)
    reading = Reading(config, tmp_path)
    reading.start()
    try:
        await reading.intake.until(lambda: len(numbers(reading.intake)) > 3, 10)
        await reading.stop()
        before = len(numbers(reading.intake))
        reading.start(reading.intake.appended[-1][1])
        await reading.intake.until(lambda: len(numbers(reading.intake)) > before, 10)
        assert [gap.reason for gap in reading.intake.gaps] == ["not connected"]
    finally:
        await reading.stop()


@pytest.mark.parametrize("how", ["link", "process"])
async def test_a_freeze_is_noticed_within_twice_the_keep_alive_and_nothing_is_missing(server, tmp_path, how):
    async with Relay(server.port) as relay:
        config = counting(relay.endpoint.removesuffix("/plant"), keep_alive_interval=1.0, timeout=5.0)
        reading = Reading(config, tmp_path)
        task = reading.start()
        try:
            await reading.intake.until(lambda: len(numbers(reading.intake)) > 5, 10)
            if how == "link":
                relay.flowing.clear()
            else:
                os.kill(server.process.pid, signal.SIGSTOP)
            clock = asyncio.get_running_loop().time
            frozen = clock()
            await reading.intake.until(lambda: reading.intake.states[-1][0] == SourceState.DOWN)
            assert clock() - frozen < 2 * 1.0 + 1.0, "a busy machine takes its time"
            with pytest.raises(ConnectionError):
                await asyncio.wait_for(task, 5)
            relay.flowing.set()
            os.kill(server.process.pid, signal.SIGCONT)
            before = len(numbers(reading.intake))
            reading.start(reading.intake.appended[-1][1])
            await reading.intake.until(lambda: len(numbers(reading.intake)) > before + 20, 10)
            assert all(without_gaps(sorted(set(numbers(reading.intake, tag=f"v{at}")))) for at in range(COUNT))
            assert not reading.intake.gaps
        finally:
            os.kill(server.process.pid, signal.SIGCONT)
            await reading.stop()


async def test_a_server_that_was_started_again_is_subscribed_to_anew_and_the_time_between_is_a_gap(server, tmp_path):
    reading = Reading(counting(server.endpoint), tmp_path)
    task = reading.start()
    try:
        await reading.intake.until(lambda: len(numbers(reading.intake)) > 5, 10)
        server.stop()
        with pytest.raises(Exception):  # noqa: B017, PT011  whatever the connection died of
            await asyncio.wait_for(task, 5)
        server.start()
        before = len(numbers(reading.intake))
        reading.start(reading.intake.appended[-1][1])
        await reading.intake.until(lambda: len(numbers(reading.intake)) > before, 10)
        assert [gap.reason for gap in reading.intake.gaps] == ["not connected"]
    finally:
        await reading.stop()


@pytest.mark.interop("open62541", "more items than a subscription takes are split over several, each value once")
async def test_more_items_than_a_subscription_takes_are_split_over_several(installed, tmp_path):
    server = CServer(COUNT, HERTZ, items=20)
    try:
        async with Reading(counting(server.endpoint), tmp_path) as intake:
            await intake.until(lambda: len(numbers(intake, tag=f"v{COUNT - 1}")) > 30, 10)
            assert all(len(numbers(intake, tag=f"v{at}")) > 20 for at in range(COUNT))
            assert all(without_gaps(numbers(intake, tag=f"v{at}")) for at in range(COUNT))
            assert not intake.gaps
            assert len(json.loads(intake.appended[-1][1] or b"")["subscription"]) == 4 + 2 * 2, "three of them"
    finally:
        server.stop()


@pytest.mark.interop(
    "open62541", "names of an enumeration come from the data type's property EnumValues or EnumStrings"
)
@pytest.mark.parametrize(
    ("name", "value", "said"),
    [("Mode", 7, "Automatic"), ("Phase", 1, "Draining")],
    ids=["EnumValues", "EnumStrings"],
)
async def test_names_of_an_enumeration_come_from_a_property_of_its_data_type(server, tmp_path, name, value, said):
    config = source(server.endpoint, nodes=[{"id": f"ns=1;s={name}", "tag_name": name}])
    async with Reading(config, tmp_path) as intake:
        await intake.until(lambda: intake.last(name), 10)
        reading = intake.last(name)
        assert (reading.value, json.loads(reading.properties)) == (value, {"enum": said})


async def test_ten_thousand_items_come_up_in_less_than_twenty_seconds(installed, tmp_path):
    server = CServer(10_000, 0.5)
    nodes = [{"id": f"ns=1;s=v{at}", "tag_name": f"v{at}"} for at in range(10_000)]
    try:
        async with Reading(source(server.endpoint, nodes=nodes, publishing_interval=0.5), tmp_path) as intake:
            await intake.until(lambda: len({r.tag.tag_name for r in intake.readings()}) == 10_000, 20)
            assert not [r for r in intake.readings() if r.reject is not None]
    finally:
        server.stop()
