"""The MQTT reader as a Sparkplug B host, with mosquitto and sparkplug-client (npm) as a foreign edge node."""

import time
from pathlib import Path

import pytest

from normalization.reading import Quality
from tests.connectors.sources.mqtt_harness import last_state
from tests.connectors.sources.sparkplug_edges import edge_node, host, install
from tests.mosquitto_broker import Broker
from tests.recording_intake import RecordingIntake

T0 = 1_700_000_000_000


@pytest.fixture(scope="module")
def installed() -> None:
    install("sparkplug")


EXPECTED = {
    "up": 1,
    "temp": 20.5,
    "i8": -5,
    "i32": -2147483648,
    "i64": -9007199254740991,
    "u32": 4294967295,
    "u64": 5,
    "float": 0.5,
    "flag": True,
    "when": "2023-11-14T22:13:20.000Z",
    "text": "hé",
    "id": "5e1f0a52-0000-4000-8000-000000000001",
    "raw": b"\x01\x02\xff",
    "table": '{"columns":["a","b"],"types":["DOUBLE","STRING"],"rows":[[1.5,"x"],[2.5,"y"]]}',
    "nothing": None,
}


@pytest.mark.interop("sparkplug-client", "births, data, lost messages and deaths are read as they were meant")
@pytest.mark.usefixtures("installed")
async def test_a_foreign_edge_node_lives_and_dies(tmp_path: Path) -> None:
    intake = RecordingIntake()
    async with Broker(tmp_path) as broker, host(broker, intake, tmp_path), edge_node(broker.port) as edge:
        await intake.until(lambda: intake.last("nothing"), 15)
        assert {r.tag.tag_name: r.value for r in intake.readings()} == EXPECTED
        temp = intake.last("temp")
        assert temp is not None
        assert (temp.tag.device_id, temp.tag.unit, temp.tag.protocol) == ("G/N/D", "°C", "sparkplug")
        assert (temp.quality, temp.status, temp.source_time) == (Quality.GOOD, 192, (T0 + 2) * 1000)

        await edge.tell("ddata", [{"name": "temp", "type": "Double", "value": 21.5, "alias": 7, "timestamp": T0 + 50}])
        await edge.tell("compress", {"algorithm": "GZIP"})
        await edge.tell("ndata", [{"name": "up", "type": "Int32", "value": -7}])
        await edge.tell("compress")
        await intake.until(lambda: intake.readings()[-1].value == -7)
        assert [r.value for r in intake.readings("temp")] == [20.5, 21.5]

        assert intake.gaps == []
        await edge.tell("skip")
        await edge.tell("ddata", [{"name": "temp", "type": "Double", "value": 22.5, "alias": 7}])
        await edge.until("ncmd Node Control/Rebirth true")
        await edge.until("born", 2)
        await intake.until(lambda: [r.value for r in intake.readings("temp")] == [20.5, 21.5, 22.5, 20.5])

        (gap,) = intake.gaps
        assert {tag.tag_name for tag in gap.tags} == set(EXPECTED)
        assert (gap.start < gap.end, "sequence number" in gap.reason) == (True, True)

        await edge.tell("ddeath")
        await intake.until(lambda: intake.readings("temp")[-1].quality == Quality.STALE)
        assert intake.readings("up")[-1].quality == Quality.GOOD
        edge.process.kill()
        await intake.until(lambda: intake.readings("up")[-1].quality == Quality.STALE, 15)
    assert [r for r in intake.readings() if r.reject] == []


@pytest.mark.interop("sparkplug-client", "a restart of the gateway forces no rebirth")
@pytest.mark.usefixtures("installed")
async def test_a_restart_of_the_reader_forces_no_rebirth(tmp_path: Path) -> None:
    intake = RecordingIntake()
    alone = [
        {"alias": 7, "type": "Double", "value": 30.5}
    ]  # without a name it means nothing but to who knows the birth
    async with Broker(tmp_path) as broker, edge_node(broker.port) as edge:
        await edge.until("born")
        await broker.until_logged(lambda log: log.count("Received PUBLISH from edge-N") == 2)
        async with host(broker, intake, tmp_path):
            await edge.tell("ddata", alone)  # we came after the birth: it is asked for
            await edge.until("born", 2)
            await intake.until(lambda: intake.last("nothing"))
        assert [r.value for r in intake.readings("temp")] == [30.5, 20.5], "what came before the birth is not lost"
        assert [r.reject for r in intake.readings() if r.reject] == []
        await broker.until_logged(lambda log: "Received DISCONNECT from gw-plant" in log)
        resumed = RecordingIntake()
        async with host(broker, resumed, tmp_path, last_state(intake)):
            await edge.tell("ddata", [{"alias": 7, "type": "Double", "value": 31.5}])
            await resumed.until(lambda: resumed.last("temp"))
        assert [(r.tag.tag_name, r.value) for r in resumed.readings()] == [("temp", 31.5)]
        assert edge.said.count("born") == 2
        (gap,) = resumed.gaps  # data is QoS 0, so that nobody can say that none was sent
        assert {tag.tag_name for tag in gap.tags} == set(EXPECTED)


@pytest.mark.interop("sparkplug-client", "what was sent while the gateway was away is a gap, and births are asked for")
@pytest.mark.usefixtures("installed")
async def test_data_sent_while_the_reader_was_away_is_a_gap_and_a_rebirth_is_asked_for(tmp_path: Path) -> None:
    fresh, after = RecordingIntake(), RecordingIntake()
    async with Broker(tmp_path) as broker, edge_node(broker.port) as edge:
        await edge.until("born")
        await broker.until_logged(lambda log: log.count("Received PUBLISH from edge-N") == 2)
        async with host(broker, fresh, tmp_path):
            await edge.tell("ddata", [{"alias": 7, "type": "Double", "value": 30.5}])  # we came after the birth
            await edge.until("born", 2)
            await fresh.until(lambda: fresh.last("nothing"), 15)
        left = time.time_ns() // 1000
        sent = broker.log().count("Received PUBLISH from edge-N")
        await edge.tell("ddata", [{"alias": 7, "type": "Double", "value": 31.5}])  # missed: QoS 0 while we are away
        await broker.until_logged(lambda log: log.count("Received PUBLISH from edge-N") > sent)
        missed = time.time_ns() // 1000
        async with host(broker, after, tmp_path, last_state(fresh)):
            await edge.tell("ddata", [{"alias": 7, "type": "Double", "value": 32.5}])
            await edge.until("born", 3)
            await after.until(lambda: [r.value for r in after.readings("temp")] == [32.5, 20.5])
    (gap,) = after.gaps
    assert {tag.tag_name for tag in gap.tags} == set(EXPECTED)
    assert gap.start <= left < missed < gap.end


@pytest.mark.interop("sparkplug-client", "without a kept session births are asked for before data comes")
@pytest.mark.usefixtures("installed")
async def test_without_our_session_an_edge_node_is_asked_before_it_sends(tmp_path: Path) -> None:
    before, after = RecordingIntake(), RecordingIntake()
    async with Broker(tmp_path) as broker, edge_node(broker.port) as edge:
        await edge.until("born")
        async with host(broker, before, tmp_path):
            await edge.tell("ddata", [{"alias": 7, "type": "Double", "value": 1.5}])
            await before.until(lambda: before.last("nothing"), 15)
        async with host(broker, after, tmp_path, last_state(before), clean_session=True):
            await after.until(lambda: after.last("nothing"), 15)
    assert after.readings("temp")[0].value == 20.5
    assert [r.reject for r in after.readings() if r.reject] == []
