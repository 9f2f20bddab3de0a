"""Gaps are filled from the server's history: nothing is missing afterwards, and nothing is there twice."""

import asyncio
import datetime
import json
from collections.abc import Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from asyncua import ua
from asyncua.common.utils import ServiceError
from asyncua.server.history import HistoryDict

from connectors.sources.opcua import history
from normalization.reading import Flags
from tests.connectors.sources.opcua.conftest import MACHINE, PlantServer, Reading, source
from tests.connectors.sources.opcua.test_opcua_interop import NodeServer, device, node  # noqa: F401 - fixtures
from tests.connectors.sources.opcua.test_opcua_interop import installed as node_installed  # noqa: F401
from tests.connectors.sources.opcua.test_opcua_open62541 import CServer, installed  # noqa: F401 - a fixture
from tests.contract.relay import Relay
from tests.ports import free_port
from tests.recording_intake import RecordingIntake

COUNT, HERTZ = 20, 50


@pytest.fixture
def server(installed: None) -> Iterator[CServer]:  # noqa: F811
    running = CServer(COUNT, HERTZ, 100_000)
    yield running
    running.stop()


def counting(port: int, **more: Any) -> Any:
    """Anonymous on a channel without security: open62541 hands no subscription over."""
    nodes = [{"id": f"ns=1;s=v{at}", "tag_name": f"v{at}"} for at in range(COUNT)]
    return source(
        f"opc.tcp://127.0.0.1:{port}", **{"nodes": nodes, "queue_size": 1000, "keep_alive_interval": 0.5, **more}
    )


def numbers(intake: RecordingIntake, tag: str, *, flags: int | None = None) -> list[int]:
    return [int(r.value) for r in intake.readings(tag) if r.value is not None and flags in (None, r.flags)]


def complete(found: list[int]) -> bool:
    return bool(found) and sorted(found) == list(range(min(found), max(found) + 1))


def all_complete(intake: RecordingIntake) -> bool:
    return all(complete(numbers(intake, f"v{at}")) for at in range(COUNT))


async def lost(reading: Reading, relay: Relay, missed: int) -> None:
    """The connection is cut while the server goes on for `missed` values."""
    await reading.intake.until(lambda: len(numbers(reading.intake, "v0")) > 10, 10)
    relay.cut()
    with pytest.raises(Exception):  # noqa: B017, PT011 - whatever the connection died of
        await asyncio.wait_for(reading.task, 10)
    await asyncio.sleep(missed / HERTZ)  # values that nobody hears
    await relay.restore()


@asynccontextmanager
async def interrupted(server: CServer, directory: Path, missed: int = 50, **more: Any) -> Any:
    """A reader that has lost its connection for a while, and is to be started again."""
    async with Relay(server.port) as relay:
        reading = Reading(counting(relay.port, **more), directory)
        reading.start()
        try:
            await lost(reading, relay, missed)
            yield reading, relay
        finally:
            await reading.stop()


def last_state(intake: RecordingIntake) -> bytes | None:
    return next((state for _, state in reversed(intake.appended) if state is not None), None)


def again(reading: Reading) -> int:
    """Start it again from what is in the journal; returns the last number before."""
    reading.start(last_state(reading.intake))
    return max(numbers(reading.intake, "v0"))


@pytest.mark.interop("open62541", "a gap is filled from history to the last value, none twice")
@pytest.mark.parametrize("mode", ["subscription", "polling"])
async def test_a_gap_is_filled_to_the_last_value_and_nothing_is_there_twice(server, tmp_path, mode):
    polling = {"mode": "polling", "polling_interval": 0.01, "timestamps": "source"}
    async with interrupted(server, tmp_path, **(polling if mode == "polling" else {})) as (reading, _):
        last = again(reading)
        await reading.intake.until(lambda: max(numbers(reading.intake, "v0")) > last + 60, 10)
        historical = Flags.HISTORICAL
        await reading.intake.until(lambda: len(numbers(reading.intake, f"v{COUNT - 1}", flags=historical)) > 40, 10)
        filled = numbers(reading.intake, "v3", flags=historical)
        assert complete(filled)
        assert min(filled) <= last + 1
        if mode == "subscription":
            assert all_complete(reading.intake)
        assert not reading.intake.gaps
        assert not list((tmp_path / "history").glob("*-*.npy"))


@pytest.mark.interop("open62541", "history is read through continuation points, in pieces")
async def test_history_comes_in_pieces(server, tmp_path, monkeypatch):
    monkeypatch.setattr(history, "_VALUES", 60)
    async with interrupted(server, tmp_path) as (reading, _):
        again(reading)
        await reading.intake.until(lambda: not list((tmp_path / "history").glob("*-*.npy")), 20)
        assert all_complete(reading.intake)
        assert not reading.intake.gaps


@pytest.mark.interop("open62541", "a back-fill that was interrupted goes on where it stood")
async def test_a_gateway_that_dies_while_it_fills_a_gap_goes_on_where_it_stood(server, tmp_path, monkeypatch):
    monkeypatch.setattr(history, "_VALUES", 60)
    async with interrupted(server, tmp_path) as (reading, _):
        again(reading)
        intake = reading.intake
        await intake.until(lambda: numbers(intake, "v7", flags=Flags.HISTORICAL), 20)
        durable = len(intake.appended)
        intake.hold = True  # from now on nothing gets to the disk
        await intake.until(lambda: len(intake.open) > 2, 10)
        await reading.stop()
        assert list((tmp_path / "history").glob("*-*.npy"))
        survived = RecordingIntake(tags=intake.tags, appended=intake.appended[:durable])
        second = Reading(reading.config, tmp_path, survived)
        second.start(last_state(survived))
        try:
            await survived.until(lambda: not list((tmp_path / "history").glob("*-*.npy")), 20)
            await survived.until(lambda: len(numbers(survived, "v19")) > 100, 20)
            assert all_complete(survived)
            assert not intake.gaps + survived.gaps
        finally:
            await second.stop()


async def test_a_second_outage_before_the_first_is_filled_is_filled_too(server, tmp_path, monkeypatch):
    monkeypatch.setattr(history, "_VALUES", 60)
    async with interrupted(server, tmp_path) as (reading, relay):
        again(reading)
        await reading.intake.until(lambda: numbers(reading.intake, "v7", flags=Flags.HISTORICAL), 20)
        await lost(reading, relay, 20)
        again(reading)
        await reading.intake.until(lambda: not list((tmp_path / "history").glob("*-*.npy")), 20)
        assert all_complete(reading.intake)
        assert not reading.intake.gaps


@pytest.mark.interop("open62541", "the past of a node is read at its first start, beside what is new")
async def test_the_first_start_reads_the_past_once_and_keeps_nothing_new_waiting(server, tmp_path):
    await asyncio.sleep(1.0)  # so that there is a past
    reading = Reading(counting(server.port, history="1h"), tmp_path)
    reading.start()
    try:
        intake = reading.intake
        await intake.until(lambda: numbers(intake, "v19", flags=Flags.HISTORICAL), 10)
        first = [rows.flags[0] for rows, _ in intake.appended if len(rows)]
        assert first[0] == 0
        await intake.until(lambda: not list((tmp_path / "history").glob("*-*.npy")), 20)
        assert all_complete(intake)
        assert min(numbers(intake, "v0")) == 1
        await reading.stop()
        last = again(reading)
        await intake.until(lambda: max(numbers(intake, "v0")) > last + 20, 10)
        await intake.until(lambda: not list((tmp_path / "history").glob("*-*.npy")), 20)
        assert all_complete(intake), "what was read again is there twice"
        assert not intake.gaps
    finally:
        await reading.stop()


@pytest.mark.interop("open62541", "what a killed server has no history of stays a gap")
async def test_what_a_killed_server_did_not_keep_stays_a_gap(server, tmp_path):
    reading = Reading(counting(server.port), tmp_path)
    task = reading.start()
    try:
        await reading.intake.until(lambda: len(numbers(reading.intake, "v0")) > 10, 10)
        server.stop()
        with pytest.raises(Exception):  # noqa: B017, PT011 - whatever the connection died of
            await asyncio.wait_for(task, 10)
        server.start()
        before = len(numbers(reading.intake, "v0"))
        reading.start(last_state(reading.intake))
        await reading.intake.until(lambda: len(numbers(reading.intake, "v0")) > before + 5, 10)
        (gap,) = reading.intake.gaps
        assert gap.reason == "the server was started again"
        assert len(gap.tags) == COUNT
        assert 0 < gap.end - gap.start < 20_000_000
    finally:
        await reading.stop()


async def test_only_nodes_without_history_have_a_gap(server, tmp_path):
    nodes = ["ns=1;s=v0", "ns=1;s=Double", "ns=1;s=v1"]
    async with interrupted(server, tmp_path, nodes=[{"id": n, "tag_name": n[7:]} for n in nodes]) as (reading, _):
        again(reading)
        await reading.intake.until(lambda: numbers(reading.intake, "v1", flags=Flags.HISTORICAL), 10)
        (gap,) = reading.intake.gaps
        assert ([tag.tag_name for tag in gap.tags], gap.reason) == (["Double"], "not connected")


async def test_history_is_left_alone_when_it_is_not_wanted(server, tmp_path):
    async with interrupted(server, tmp_path, history=False) as (reading, _):
        last = again(reading)
        await reading.intake.until(lambda: max(numbers(reading.intake, "v0")) > last + 60, 10)
        assert [gap.reason for gap in reading.intake.gaps] == ["not connected"]
        assert not (tmp_path / "history").exists()


# -- servers with ways of their own


class Storage(HistoryDict):
    """A history that answers as it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.refuses = False
        self.goes_on = True

    async def read_node_history(self, node_id: Any, start: Any, end: Any, nb_values: int) -> Any:
        if self.refuses:
            raise ServiceError(ua.StatusCodes.BadHistoryOperationUnsupported)
        found, more = await super().read_node_history(node_id, start, end, 0)
        found, rest = found[:nb_values], found[nb_values:]
        return found, rest[0].SourceTimestamp if rest and self.goes_on else more


@pytest.fixture
def historian() -> Iterator[tuple[PlantServer, Storage]]:
    """asyncua's server with a history of its speed."""
    running, storage = PlantServer(free_port()).start(), Storage()
    running.server.iserver.history_manager.set_storage(storage)
    running.call(running.server.historize_node_data_change(running.nodes["Speed"], count=10_000))
    yield running, storage
    running.stop()


async def write(server: PlantServer, value: int) -> None:
    now = datetime.datetime.now(datetime.UTC)
    await asyncio.to_thread(lambda: server.write("Speed", value, ua.VariantType.Int32, SourceTimestamp=now))


async def speeds_after_a_gap(server: PlantServer, directory: Path, count: int) -> RecordingIntake:
    """Values that nobody heard, then a new subscription."""
    reading = Reading(source(server.endpoint, nodes=[f"nsu={MACHINE};s=Speed"]), directory)
    async with reading as intake:
        await write(server, 1)
        await intake.until(lambda: intake.last("Speed") and intake.last("Speed").value == 1)
    for value in range(2, count):
        await write(server, value)
    state = json.dumps({"last_reading": json.loads(last_state(intake) or b"")["last_reading"]}).encode()
    reading.start(state)
    try:
        await intake.until(lambda: not list((directory / "history").glob("*-*.npy")))
        await write(server, count)
        await intake.until(lambda: intake.last("Speed").value == count)
        await intake.until(lambda: not list((directory / "history").glob("*-*.npy")))
    finally:
        await reading.stop()
    return intake


@pytest.mark.parametrize("goes_on", [True, False])
async def test_a_server_that_has_no_continuation_points_is_read_to_the_end(historian, tmp_path, monkeypatch, goes_on):
    server, storage = historian
    storage.goes_on = goes_on
    monkeypatch.setattr(history, "_VALUES", 7)
    intake = await speeds_after_a_gap(server, tmp_path, 40)
    speeds = [value for value in numbers(intake, "Speed") if value != 1500]
    assert sorted(speeds) == list(range(1, 41))
    assert not intake.gaps


async def test_a_history_that_the_server_does_not_give_stays_a_gap(historian, tmp_path):
    server, storage = historian
    storage.refuses = True
    intake = await speeds_after_a_gap(server, tmp_path, 5)
    (gap,) = intake.gaps
    assert "BadHistoryOperationUnsupported" in gap.reason
    assert [tag.tag_name for tag in gap.tags] == ["Speed"]


@pytest.mark.interop("node-opcua", "a gap is filled from history to the last value, none twice")
async def test_a_gap_is_filled_from_the_history_of_node_opcua(node, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(history, "_VALUES", 20)
    reading = Reading(device(node.endpoint), tmp_path)
    async with reading as intake:
        await intake.until(lambda: intake.readings("Int32"), 10)
        node.command(burst=["Int32", 8000, 8060, 60])
        await intake.until(lambda: intake.last("Int32").value >= 8005)
    last = max(numbers(intake, "Int32"))
    await asyncio.sleep(1.5)
    reading.start(json.dumps({"last_reading": json.loads(last_state(intake) or b"")["last_reading"]}).encode())
    try:
        await intake.until(lambda: intake.last("Int32").value == 8059, 10)
        await intake.until(lambda: not list((tmp_path / "history").glob("*-*.npy")), 20)
        assert sorted(value for value in numbers(intake, "Int32") if value >= 8000) == list(range(8000, 8060))
        assert last + 1 in numbers(intake, "Int32", flags=Flags.HISTORICAL)
        assert "Int32" not in {tag.tag_name for gap in intake.gaps for tag in gap.tags}
    finally:
        await reading.stop()
