"""The MQTT reader as a Sparkplug B host, with mosquitto and Eclipse Tahu's Java library as a foreign edge node."""

import json
from pathlib import Path
from typing import Any

import pytest

from normalization.reading import Flags, Quality
from tests.connectors.sources.mqtt_harness import last_state
from tests.connectors.sources.sparkplug_edges import host, install, tahu_node
from tests.mosquitto_broker import Broker
from tests.recording_intake import RecordingIntake

T0 = 1_700_000_000_000
ISO = "2023-11-14T22:13:20.000Z"
pytestmark = pytest.mark.usefixtures("installed")


@pytest.fixture(scope="module")
def installed() -> None:
    install("sparkplug-tahu")


EXPECTED = {
    "up": 1,
    "Motor": {
        "version": "v1", "definition": True, "parameters": {"maker": "ACME"}, "metrics": {"rpm": 0, "on": False}
    },
    "temp": 20.5,
    "int8": -128,
    "int16": -32768,
    "int32": -(2**31),
    "int64": -(2**63),
    "uint8": 255,
    "uint16": 65535,
    "uint32": 2**32 - 1,
    "uint64": 2**64 - 1,
    "float": 0.5,
    "boolean": True,
    "string": "läuft ✓",
    "text": "two\nlines",
    "uuid": "5e1f0a52-0000-4000-8000-000000000001",
    "datetime": ISO,
    "bytes": b"\x01\x02\xff",
    "file": b"\x00\x7f",
    "dataset": {"columns": ["n", "x", "t"], "types": ["INT8", "DOUBLE", "DATETIME"], "rows": [[-1, 2.5, ISO]]},
    "template": {
        "template": "Motor", "version": "v1", "parameters": {"maker": "ACME"}, "metrics": {"rpm": -1450, "on": True}
    },
    "int8array": [-128, 127],
    "int16array": [-32768, 32767],
    "int32array": [-(2**31), 1],
    "int64array": [-(2**63), 1],
    "uint8array": [0, 255],
    "uint16array": [0, 65535],
    "uint32array": [0, 2**32 - 1],
    "uint64array": [0, 2**64 - 1],
    "floatarray": [0.5, -2.0],
    "doublearray": [0.1, -2.0],
    "booleanarray": [True, False, True, True, False, False, False, False, True],
    "stringarray": ["a", "ß"],
    "datetimearray": [ISO],
    "nothing": None,
}  # fmt: skip


@pytest.mark.interop("Eclipse Tahu", "values of all data types, arrays, data set and template, by alias")
async def test_all_data_types_of_tahu_are_read(tmp_path: Path) -> None:
    """tck-id-payloads-metric-datatype-value, tck-id-payloads-alias-birth-requirement,
    tck-id-payloads-alias-data-cmd-requirement, tck-id-payloads-propertyset-quality-value-value,
    tck-id-payloads-template-definition-is-definition, tck-id-payloads-template-instance-ref,
    tck-id-payloads-dataset-column-num-headers"""
    intake = RecordingIntake()
    async with Broker(tmp_path) as broker, host(broker, intake, tmp_path), tahu_node(broker.port) as edge:
        await edge.until("born")
        await intake.until(lambda: intake.last("nothing"), 30)
        found = {r.tag.tag_name: r.value for r in intake.readings()}
        read = {
            name: json.loads(value) if isinstance(EXPECTED.get(name), list | dict) else value
            for name, value in found.items()
        }
        assert read == EXPECTED
        temp, file = intake.last("temp"), intake.last("file")
        assert temp is not None
        assert file is not None
        assert (temp.tag.device_id, temp.tag.unit, temp.quality, temp.status) == ("G/T/D", "°C", Quality.GOOD, 192)
        assert json.loads(temp.tag.metadata) == {"place": '{"hall":7}', "description": "of the oven"}
        assert json.loads(file.properties or "") == {"metadata": {"size": 2, "file_name": "a.bin", "file_type": "bin"}}
        assert intake.readings("nothing")[0].quality == Quality.BAD

        await edge.tell("history", 18.5)
        await edge.tell("null")
        await edge.tell("ndata", -7)
        await intake.until(lambda: intake.readings()[-1].value == -7, 30)
        history, nothing = intake.readings("temp")[1:]
        assert (history.value, history.flags) == (18.5, Flags.HISTORICAL)
        assert (nothing.value, nothing.quality, json.loads(nothing.properties or "")) == (
            None, Quality.BAD, {"is_transient": True},
        )  # fmt: skip
    assert intake.gaps == []
    assert [r.reject for r in intake.readings() if r.reject] == []


@pytest.mark.interop("Eclipse Tahu", "a lost message: births are asked for, and given")
async def test_tahu_gives_its_births_when_a_message_is_lost(tmp_path: Path) -> None:
    """tck-id-operational-behavior-host-reordering-rebirth, tck-id-operational-behavior-data-commands-ncmd-rebirth-verb,
    tck-id-operational-behavior-data-commands-ncmd-rebirth-name,
    tck-id-operational-behavior-data-commands-ncmd-rebirth-value, tck-id-topics-ncmd-mqtt, tck-id-payloads-ncmd-qos,
    tck-id-payloads-ncmd-retain"""
    intake, quick = RecordingIntake(), {"reorder_timeout": 0.2}
    async with (
        Broker(tmp_path) as broker,
        host(broker, intake, tmp_path, sparkplug=quick),
        tahu_node(broker.port) as edge,
    ):
        await edge.until("born")
        await intake.until(lambda: intake.last("nothing"), 30)
        await edge.tell("skip")
        await edge.tell("ddata", 33.5)
        await edge.until("ncmd Node Control/Rebirth true")
        await edge.until("born", 2)
        await intake.until(lambda: [r.value for r in intake.readings("temp")] == [20.5, 33.5, 20.5], 30)
        assert "Received PUBLISH from gw-plant (d0, q0, r0" in broker.log()
    (gap,) = intake.gaps
    assert "sequence number" in gap.reason


@pytest.mark.interop("Eclipse Tahu", "deaths of device and edge node make exactly their tags stale")
async def test_the_deaths_of_tahu_make_its_tags_stale(tmp_path: Path) -> None:
    """tck-id-operational-behavior-edge-node-termination-host-action-ddeath-devices-tags-stale,
    tck-id-operational-behavior-edge-node-termination-host-action-ndeath-node-tags-stale,
    tck-id-operational-behavior-edge-node-termination-host-action-ndeath-devices-tags-stale"""
    intake = RecordingIntake()
    async with Broker(tmp_path) as broker, host(broker, intake, tmp_path), tahu_node(broker.port) as edge:
        await edge.until("born")
        await intake.until(lambda: intake.last("nothing"), 30)
        await edge.tell("ddeath")
        await intake.until(lambda: intake.readings("temp")[-1].quality == Quality.STALE, 30)
        assert intake.readings("up")[-1].quality == Quality.GOOD
        await edge.tell("dbirth")
        await intake.until(lambda: intake.readings("temp")[-1].quality == Quality.GOOD, 30)
        edge.process.kill()  # the broker sends its will
        stale = set(EXPECTED)
        await intake.until(lambda: {n for n in stale if intake.readings(n)[-1].quality == Quality.STALE} == stale, 30)
        async with tahu_node(broker.port) as again:
            await again.until("born")
            await intake.until(lambda: intake.readings("temp")[-1].quality == Quality.GOOD, 30)
    assert intake.gaps == []


@pytest.mark.interop("Eclipse Tahu", "waits for its primary host, leaves with it and comes back with it")
async def test_tahu_follows_the_state_of_its_primary_host(tmp_path: Path) -> None:
    """tck-id-message-flow-edge-node-birth-publish-phid-wait, tck-id-payloads-state-birth,
    tck-id-operational-behavior-host-application-termination,
    tck-id-operational-behavior-host-application-death-payload"""
    primary: dict[str, Any] = {"sparkplug": {"host_id": "scada"}}
    intake, again = RecordingIntake(), RecordingIntake()
    async with Broker(tmp_path) as broker, tahu_node(broker.port, "scada") as edge:
        await edge.until("connected")
        assert "born" not in edge.said
        async with host(broker, intake, tmp_path, **primary):
            await edge.until("state scada true")
            await edge.until("born")
            await intake.until(lambda: intake.last("nothing"), 30)
        await edge.until("state scada false")
        async with host(broker, again, tmp_path, last_state(intake), **primary):
            await edge.until("born", 2)
            await again.until(lambda: again.last("nothing"), 30)
    assert [r.reject for r in (*intake.readings(), *again.readings()) if r.reject] == []


@pytest.mark.interop("Eclipse Tahu", "a restart of the gateway forces no rebirth")
async def test_a_restart_of_the_reader_asks_tahu_for_nothing(tmp_path: Path) -> None:
    before, after = RecordingIntake(), RecordingIntake()
    async with Broker(tmp_path) as broker, tahu_node(broker.port) as edge:
        async with host(broker, before, tmp_path):
            await before.until(lambda: before.last("nothing"), 30)
            await edge.tell("ddata", 21.5)
            await before.until(lambda: before.readings("temp")[-1].value == 21.5, 30)
            births = len(before.readings("up"))
        async with host(broker, after, tmp_path, last_state(before)):
            await edge.tell("ddata", 22.5)
            await edge.tell("ndata", 5)
            await after.until(lambda: after.last("up"), 30)
        assert [(r.tag.tag_name, r.value) for r in after.readings()] == [("temp", 22.5), ("up", 5)]
        assert broker.log().count("'spBv1.0/G/NCMD/T'") <= births - 1, "as many as births before the restart"
