"""The Sparkplug host when plugs are pulled: of the edge node, of the broker, of the network and of the gateway itself."""

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from connectors.contract import Context, SourceState
from connectors.sources.mqtt import MqttConfig
from normalization.reading import Quality
from tests.connectors.sources.mqtt_harness import last_state
from tests.connectors.sources.sparkplug_edges import Edge, edge_node, host, host_config, install
from tests.contract.relay import Relay
from tests.mosquitto_broker import Broker
from tests.recording_intake import RecordingIntake

QUICK = {"reorder_timeout": 0.3, "rebirth_interval": 0.5}
pytestmark = pytest.mark.usefixtures("installed")


@pytest.fixture(scope="module")
def installed() -> None:
    install("sparkplug")


@asynccontextmanager
async def kept_running(settings: MqttConfig, intake: RecordingIntake, tmp_path: Path) -> AsyncIterator[None]:
    """The reader, begun again from what was committed last whenever it ends, as the gateway does."""

    async def run() -> None:
        reader = settings.reader(Context("gw", tmp_path))
        while True:
            with contextlib.suppress(ConnectionError):
                await reader.run(intake, last_state(intake))
            await asyncio.sleep(0.05)

    task = asyncio.create_task(run())
    try:
        await intake.until(lambda: _connections(intake) == 1, 30)
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _connections(intake: RecordingIntake) -> int:
    return [state for state, _ in intake.states].count(SourceState.CONNECTED)


def _is_connected(intake: RecordingIntake, times: int) -> bool:
    return _connections(intake) == times


def _has(intake: RecordingIntake, count: int) -> bool:
    """Whether the last metric of the edge node was read so many times."""
    return len(intake.readings("nothing")) == count


def _values(intake: RecordingIntake) -> list[Any]:
    return [r.value for r in intake.readings("temp") if r.value is not None]


def _alone(value: float) -> list[dict[str, Any]]:
    return [{"alias": 7, "type": "Double", "value": value}]


async def _until_read(edge: Edge, intake: RecordingIntake, value: float) -> None:
    """Send values until one is read: QoS 0 is lost as long as nobody listens."""
    async with asyncio.timeout(60):
        while value not in _values(intake):
            await edge.tell("ddata", _alone(value))
            with contextlib.suppress(AssertionError):
                await intake.until(lambda: value in _values(intake), 0.5)


@pytest.mark.interop(
    "sparkplug-client", "an edge node that is killed is stale by its will, and good again when it is back"
)
async def test_an_edge_node_that_is_killed_comes_back(tmp_path: Path) -> None:
    """tck-id-payloads-ndeath-will-message"""
    intake = RecordingIntake()
    async with Broker(tmp_path) as broker, host(broker, intake, tmp_path):
        for round_ in (1, 2):
            async with edge_node(broker.port) as edge:
                await edge.until("born")
                await intake.until(partial(_has, intake, 2 * round_ - 1), 30)  # births, and the deaths between them
                assert intake.readings("up")[-1].quality == Quality.GOOD
                edge.process.kill()
                await intake.until(partial(_has, intake, 2 * round_), 30)
                names = {r.tag.tag_name for r in intake.readings()}
                assert {intake.readings(name)[-1].quality for name in names} == {Quality.STALE}
            assert len(intake.readings("temp")) == 2 * round_
    assert intake.gaps == []


@pytest.mark.interop("sparkplug-client", "a broker that is killed and started again: births come, and data goes on")
async def test_a_broker_that_is_killed_and_started_again(tmp_path: Path) -> None:
    intake = RecordingIntake()
    async with (
        Broker(tmp_path) as broker,
        kept_running(host_config(broker.port, QUICK), intake, tmp_path),
        edge_node(broker.port) as edge,
    ):
        await _until_read(edge, intake, 21.5)
        for round_ in (2, 3):
            await broker.kill()
            await intake.until(lambda: intake.states[-1][0] is not SourceState.CONNECTED, 30)
            await broker.start()
            await intake.until(partial(_is_connected, intake, round_), 30)
            await edge.until("born", round_)  # it connects again by itself, or is asked
            await _until_read(edge, intake, 20.0 + round_ / 8)
    assert [r.reject for r in intake.readings() if r.reject] == []
    assert len(intake.gaps) >= 2, "what was sent meanwhile is a gap"


@pytest.mark.interop("sparkplug-client", "a black hole between gateway and broker: each value is read or in a gap")
async def test_a_black_hole_between_gateway_and_broker(tmp_path: Path) -> None:
    intake = RecordingIntake()
    async with Broker(tmp_path) as broker, Relay(broker.port) as relay, edge_node(broker.port) as edge:
        settings = host_config(relay.port, QUICK, keepalive=1, connect_timeout=1)
        async with kept_running(settings, intake, tmp_path):
            await _until_read(edge, intake, 21.5)
            sent = {21.5}
            relay.freeze()
            for step in range(1, 6):
                sent.add(21.5 + step)
                await edge.tell("ddata", _alone(21.5 + step))
            await intake.until(lambda: intake.states[-1][0] is not SourceState.CONNECTED, 30)
            relay.cut()
            relay.thaw()
            await relay.restore()
            await intake.until(lambda: _connections(intake) >= 2, 30)
            await _until_read(edge, intake, 40.5)
    found = set(_values(intake))
    assert 40.5 in found
    assert intake.gaps, "a connection was lost"
    assert sent - found, "what the hole swallowed is in the gap"
    assert {tag.tag_name for tag in intake.gaps[-1].tags} >= {"temp", "up"}
    assert [r.reject for r in intake.readings() if r.reject] == []


class Life:
    """A reader and its journal in a process of its own, see `mqtt_life`."""

    def __init__(self, settings: MqttConfig, directory: Path) -> None:
        self._arguments = ("-m", "tests.connectors.sources.mqtt_life", settings.model_dump_json(), str(directory))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.StreamReader]:
        process = await asyncio.create_subprocess_exec(sys.executable, *self._arguments, stdout=asyncio.subprocess.PIPE)
        assert process.stdout is not None
        try:
            async with asyncio.timeout(90):
                yield process.stdout
        finally:
            process.kill()
            await process.wait()


async def _until_logged(broker: Broker, words: str) -> None:
    """As long as it takes a process to start, which is bounded by `Life.running`."""
    while words not in broker.log():
        await asyncio.sleep(0.05)


async def _until_line(out: asyncio.StreamReader, wanted: bytes | int) -> None:
    """Until a line is as it says, or is an array with a number in it."""
    while True:
        line = await out.readline()
        assert line, "it ended by itself"
        if line == wanted or (isinstance(wanted, int) and line.startswith(b"[") and wanted in json.loads(line)):
            return


@pytest.mark.interop("sparkplug-client", "a gateway that is killed and started again asks for no births")
async def test_a_gateway_that_is_killed_asks_for_no_births(tmp_path: Path) -> None:
    async with Broker(tmp_path) as broker, edge_node(broker.port) as edge:
        await edge.until("born")
        life = Life(host_config(broker.port), tmp_path / "journal")
        async with life.running() as out:
            await _until_logged(broker, "Sending SUBACK to gw-plant")
            await edge.tell("ddata", [{"alias": 8, "type": "Int32", "value": 1}])  # we came after the birth
            await edge.until("born", 2)
            await _until_line(out, 4294967295)
            for value in range(1000, 1005):  # a burst, and then silence until the kill
                await edge.tell("ndata", [{"name": "up", "type": "Int32", "value": value}])
            await _until_line(out, 1004)
            await _until_line(out, b"[]\n")  # how far it has come is on disk too
        before = broker.log().count("'spBv1.0/G/NCMD/N'")
        async with life.running() as out:
            await _until_logged(broker, "Sending CONNACK to gw-plant (1, 0)")
            await edge.tell("ndata", [{"name": "up", "type": "Int32", "value": 2000}])
            await _until_line(out, 2000)
            await edge.tell("ndata", [{"name": "up", "type": "Int32", "value": 2001}])
            await _until_line(out, 2001)
        assert broker.log().count("'spBv1.0/G/NCMD/N'") == before
        assert edge.said.count("born") == 2
