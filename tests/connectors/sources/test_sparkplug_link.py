"""The Sparkplug host on its connection: what it tells edge nodes, intake, log and people, with mosquitto between."""

import asyncio
import logging
from pathlib import Path
from typing import Any

import msgspec
import pytest

from connectors.contract import Context
from connectors.sources.mqtt.brokers import MqttReader
from connectors.wire.sparkplug_messages import decode_payload, message_class
from connectors.wire.sparkplug_values import DataType
from tests.connectors.sources.mqtt_harness import last_state
from tests.connectors.sources.sparkplug_bench import bdseq, data, metric, payload
from tests.connectors.sources.sparkplug_edges import host, host_config
from tests.mosquitto_broker import Broker
from tests.ports import free_port
from tests.recording_intake import RecordingIntake

N = "spBv1.0/G/{}/N"


async def publish(broker: Broker, kind: str, content: bytes, device: str = "", qos: int = 0) -> None:
    await broker.publish(N.format(kind) + device, content, options=["-q", str(qos)])


@pytest.mark.interop("mosquitto", "an unknown Sparkplug edge node is asked for its births, at QoS 0 and not retained")
async def test_an_unknown_edge_node_is_asked_and_its_data_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """tck-id-topics-ncmd-mqtt, tck-id-payloads-ncmd-qos, tck-id-payloads-ncmd-retain"""
    intake = RecordingIntake()
    async with Broker(tmp_path) as broker:
        reader = host_config(broker.port, {"reorder_timeout": 0.2}).reader(Context("gw", tmp_path))
        assert isinstance(reader, MqttReader)
        command = await asyncio.create_subprocess_exec(
            "mosquitto_sub", "-h", "127.0.0.1", "-p", str(broker.port), "-i", "edge", "-t", N.format("NCMD"), "-N", "-C", "1",
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        await broker.until_logged(lambda log: "Sending SUBACK to edge" in log)
        with caplog.at_level(logging.INFO):
            task = asyncio.create_task(reader.run(intake, None))
            await broker.until_logged(lambda log: "Sending SUBACK to gw-plant" in log)
            await publish(broker, "DDATA", data(5), "/D")
            sent, _ = await asyncio.wait_for(command.communicate(), 30)
            await intake.until(lambda: intake.readings(), 30)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        assert "Received PUBLISH from gw-plant (d0, q0, r0" in broker.log()
    (rebirth,) = decode_payload(sent).metrics
    assert (rebirth.name, rebirth.datatype, rebirth.boolean_value) == ("Node Control/Rebirth", DataType.BOOLEAN, True)
    assert [(r.value, r.reject) for r in intake.readings()] == [(data(5), "alias 7 has no birth")]
    assert reader.counts == {"rebirth: data before birth": 1, "reject": 1}
    assert "edge node G/N is asked for its births: data before birth" in caplog.text


async def test_nobody_is_asked_where_that_is_not_wanted(tmp_path: Path) -> None:
    intake, quiet = RecordingIntake(), {"rebirth": False, "reorder_timeout": 0.2}
    async with Broker(tmp_path) as broker, host(broker, intake, tmp_path, sparkplug=quiet):
        await publish(broker, "DDATA", data(5), "/D")
        await intake.until(lambda: intake.readings(), 30)
        assert "Received PUBLISH from gw-plant" not in broker.log()


@pytest.mark.interop("mosquitto", "a Sparkplug message at QoS 1 that waits is acknowledged when it is on disk, waiting")
async def test_a_message_that_waits_is_on_disk_before_it_is_acknowledged(tmp_path: Path) -> None:
    """An edge node that publishes at QoS 1, against the rules, loses nothing by it when the gateway is killed."""
    before, attempt, after = RecordingIntake(hold=True), RecordingIntake(), RecordingIntake()
    patient: dict[str, Any] = {"sparkplug": {"reorder_timeout": 60}, "subscriptions": [sparkplug_at(1)]}
    async with Broker(tmp_path) as broker:
        async with host(broker, before, tmp_path, **patient):
            before.release()
            await publish(broker, "DDATA", data(5), "/D", qos=1)
            await before.until(lambda: before.open and data(5) in (last_state(before) or b""), 30)
            assert "Received PUBACK from gw-plant" not in broker.log()
            killed = last_state(before)
            before.release()
            await broker.until_logged(lambda log: "Received PUBACK from gw-plant" in log)
            before.hold = False
        quick: dict[str, Any] = {"sparkplug": {"reorder_timeout": 0.2}, "subscriptions": [sparkplug_at(1)]}
        with pytest.raises(ConnectionError):
            await host_config(free_port(), **quick).reader(Context("gw", tmp_path)).run(attempt, killed)
        assert attempt.readings() == []
        async with host(broker, after, tmp_path, last_state(attempt) or killed, **quick):
            await after.until(lambda: after.readings(), 30)
    assert [r.value for r in after.readings()] == [data(5)]


def sparkplug_at(qos: int) -> dict[str, Any]:
    return {"topic": "spBv1.0/#", "format": "sparkplug", "qos": qos}


async def test_a_gap_is_as_long_as_the_messages_were_missed(tmp_path: Path) -> None:
    intake = RecordingIntake()
    async with Broker(tmp_path) as broker, host(broker, intake, tmp_path, sparkplug={"reorder_timeout": 0.5}):
        await publish(broker, "NBIRTH", payload(0, bdseq(0), metric(DataType.INT32, 1, "up", 1)))
        await publish(broker, "NDATA", payload(1, message_class("Metric")(alias=1, int_value=2)))
        await publish(broker, "NDATA", payload(5, message_class("Metric")(alias=1, int_value=3)))
        await intake.until(lambda: intake.gaps, 30)
        assert [r.value for r in intake.readings()] == [1, 2, 3]
    (gap,) = intake.gaps
    assert [tag.tag_name for tag in gap.tags] == ["up"]
    assert gap.reason == "edge node G/N: sequence number 5 after 1"
    assert gap.end - gap.start > 0


async def test_a_state_of_before_there_was_progress_is_taken_over(tmp_path: Path) -> None:
    before, after = RecordingIntake(), RecordingIntake()
    async with Broker(tmp_path) as broker:
        async with host(broker, before, tmp_path):
            await publish(broker, "NBIRTH", payload(0, bdseq(0), metric(DataType.INT32, 1, "up", 1)))
            await before.until(lambda: before.readings(), 30)
        fields = msgspec.msgpack.decode(last_state(before) or b"")
        assert isinstance(fields.pop(2), bytes)
        async with host(broker, after, tmp_path, msgspec.msgpack.encode(fields)):
            await publish(broker, "NDATA", payload(1, message_class("Metric")(alias=1, int_value=2)))
            await after.until(lambda: after.readings(), 30)
        assert [(r.tag.tag_name, r.value) for r in after.readings()] == [("up", 2)]
        assert broker.log().count("Received SUBSCRIBE from gw-plant") == 1, "what was subscribed to is known too"
