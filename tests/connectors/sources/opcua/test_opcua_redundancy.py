"""Servers that stand in for each other: the healthiest is read, and left when another serves better."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from asyncua import ua

from connectors.contract import Context, SourceState
from connectors.sources.opcua.reader import OpcUaReader
from tests.connectors.sources.opcua.conftest import MACHINE, PlantServer, Reading, source
from tests.connectors.sources.opcua.milo_server import LAB, MiloServer, install
from tests.ports import free_port
from tests.recording_intake import RecordingIntake

NODES = [f"nsu={MACHINE};s=Temperature"]
NOBODY = "opc.tcp://127.0.0.1:1/nobody"


@pytest.fixture(scope="module")
def second() -> Iterator[PlantServer]:
    server = PlantServer(free_port()).start()
    yield server
    server.stop()


@pytest.fixture
def pair(plant: PlantServer, second: PlantServer) -> Iterator[tuple[PlantServer, PlantServer]]:
    yield plant, second
    for server in (plant, second):
        level(server, 255)


def level(server: PlantServer, value: int) -> None:
    node = ua.NodeId(ua.ObjectIds.Server_ServiceLevel)
    server.call(server.server.write_attribute_value(node, ua.DataValue(ua.Variant(value, ua.VariantType.Byte))))


def config(first: str, *others: str, **more: Any) -> Any:
    return source(first, endpoints=list(others), **{"nodes": NODES, "keep_alive_interval": 1, "timeout": 10, **more})


async def server_of(intake: RecordingIntake) -> str:
    """The endpoint that a reader is connected to."""
    await intake.until(lambda: intake.states and intake.states[-1][0] == SourceState.CONNECTED, 60)
    return str(intake.states[-1][1]).split(" of ")[1].split(";")[0]


@pytest.mark.parametrize(
    ("levels", "best"), [((255, 255), 0), ((200, 255), 1), ((255, 200), 0), ((150, 199), 1), ((0, 0), 0)]
)
async def test_the_server_with_the_highest_level_is_read_and_of_equal_ones_the_first(pair, tmp_path, levels, best):
    for server, value in zip(pair, levels, strict=True):
        level(server, value)
    async with Reading(config(pair[0].endpoint, pair[1].endpoint), tmp_path) as intake:
        assert await server_of(intake) == pair[best].endpoint


async def test_a_server_that_is_not_there_is_said_and_the_other_is_read(pair, tmp_path, caplog):
    async with Reading(config(NOBODY, pair[1].endpoint), tmp_path) as intake:
        await intake.until(lambda: intake.readings(), 60)
    assert f"a server of the set cannot be used: {NOBODY}" in caplog.text


async def test_when_none_is_there_all_are_named(tmp_path):
    with pytest.raises(ConnectionError, match=r"no server of the set can be used: opc.tcp://127.0.0.1:1/nobody: .*; opc.tcp://127.0.0.1:1/neither:"):  # fmt: skip
        await Reading(config(NOBODY, "opc.tcp://127.0.0.1:1/neither"), tmp_path).start()


async def test_a_server_that_is_no_longer_healthy_is_left_for_a_better_one(pair, tmp_path):
    reading = Reading(config(pair[0].endpoint, pair[1].endpoint), tmp_path)
    try:
        task = reading.start()
        assert await server_of(reading.intake) == pair[0].endpoint
        level(pair[1], 220)
        level(pair[0], 210)  # worse, but healthy
        await reading.intake.until(lambda: reading.intake.readings(), 60)
        level(pair[0], 100)
        with pytest.raises(
            ConnectionError, match=f"{pair[0].endpoint} has ServiceLevel 100, and {pair[1].endpoint} has 220"
        ):
            await asyncio.wait_for(task, 60)
        reading.start(reading.intake.appended[-1][1])
        assert await server_of(reading.intake) == pair[1].endpoint
    finally:
        await reading.stop()


async def test_a_server_that_is_no_longer_healthy_stays_when_no_other_is_better(pair, tmp_path, caplog):
    async with Reading(config(pair[0].endpoint, NOBODY), tmp_path) as intake:
        await intake.until(lambda: intake.readings(), 60)
        level(pair[0], 100)
        async with asyncio.timeout(60):
            while "is not healthy" not in caplog.text:
                await asyncio.sleep(0.05)
        before = len(intake.readings())
        pair[0].write("Temperature", 77.0, ua.VariantType.Double)
        await intake.until(lambda: len(intake.readings()) > before and intake.readings()[-1].value == 77.0, 60)
        assert f"{pair[0].endpoint} is not healthy, level 100" in caplog.text


async def test_a_check_looks_at_each_server(pair, tmp_path):
    level(pair[1], 201)
    reader = OpcUaReader(config(pair[0].endpoint, pair[1].endpoint, NOBODY), Context("g", tmp_path))
    said = [(finding.ok, finding.detail) for finding in await reader.check() if finding.subject == "connection"]
    assert [ok for ok, _ in said] == [True, True, False]
    assert said[1][1] == f"{pair[1].endpoint} has ServiceLevel 201"
    assert NOBODY in said[2][1]


@pytest.mark.interop(
    "Eclipse Milo", "of a redundant set the healthiest server is read; one that falls ill or is lost is left"
)
@pytest.mark.timeout(180)
async def test_a_redundant_set_of_milo(tmp_path: Path):
    install()
    servers = [MiloServer(tmp_path / name) for name in ("first", "second")]
    reading = Reading(config(*(s.endpoint for s in servers), nodes=[f"nsu={LAB};s=Counter"]), tmp_path / "gateway")
    try:
        servers[0].command("level 210")
        servers[1].command("level 250")
        task = reading.start()
        assert await server_of(reading.intake) == servers[1].endpoint
        await reading.intake.until(lambda: reading.intake.readings(), 60)
        servers[1].command("level 50")
        with pytest.raises(ConnectionError, match="has ServiceLevel 50, and .* has 210"):
            await asyncio.wait_for(task, 60)
        task = reading.start(reading.intake.appended[-1][1])
        assert await server_of(reading.intake) == servers[0].endpoint
        servers[0].kill()
        with pytest.raises(Exception):  # noqa: B017, PT011  whatever the connection died of
            await asyncio.wait_for(task, 60)
        seen = len(reading.intake.readings())
        reading.start(reading.intake.appended[-1][1])
        assert await server_of(reading.intake) == servers[1].endpoint
        await reading.intake.until(lambda: len(reading.intake.readings()) > seen + 3, 60)
        assert [gap.reason for gap in reading.intake.gaps].count("not connected") == 2
    finally:
        await reading.stop()
        for server in servers:
            if server.process.poll() is None:
                server.kill()
