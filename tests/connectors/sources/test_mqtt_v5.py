"""What only MQTT 5 has, against mosquitto: receive maximum, session expiry, and reasons of a disconnection."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from connectors.contract import Context
from tests.connectors.sources.mqtt_harness import config, last_state, reading
from tests.mosquitto_broker import Broker
from tests.recording_intake import RecordingIntake


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Broker]:
    async with Broker(tmp_path) as running:
        yield running


@pytest.mark.interop("mosquitto", "receive maximum bounds what is under way")
async def test_the_broker_has_no_more_under_way_than_the_receive_maximum(broker: Broker, tmp_path: Path) -> None:
    intake = RecordingIntake()
    async with reading(config(broker, version=5, receive_maximum=3), intake, tmp_path):
        intake.hold = True
        await broker.publish_lines("m", [str(i) for i in range(10)], options=["-q", "1"])
        await intake.until(lambda: len(intake.readings()) == 3)
        await broker.until_logged(lambda log: log.count("Received PUBLISH from") == 10)
        assert [r.value for r in intake.readings()] == [0, 1, 2]
        intake.hold = False
        intake.release()
        await intake.until(lambda: len(intake.readings()) == 10)
    assert [r.value for r in intake.readings()] == list(range(10))


@pytest.mark.interop("mosquitto", "an expired session is recorded as a gap")
async def test_an_expired_session_is_recorded_as_a_gap(broker: Broker, tmp_path: Path) -> None:
    before, after = RecordingIntake(), RecordingIntake()
    settings = config(broker, version=5, session_expiry=1)
    async with reading(settings, before, tmp_path):
        await broker.publish("m", "1", options=["-q", "1"])
        await before.until(before.readings)
    await broker.until_logged(lambda log: "Expiring client gw-plant" in log)
    await broker.publish("m", "2", options=["-q", "1"])
    async with reading(settings, after, tmp_path, last_state(before)):
        (gap,) = after.gaps
    assert ([tag.address for tag in gap.tags], after.readings()) == (["m"], [])
    assert gap.reason == "not connected, and the broker had forgotten the session"


@pytest.mark.interop("mosquitto", "a session that another client takes over is his")
async def test_a_session_that_another_takes_over_ends_the_run_and_is_his(broker: Broker, tmp_path: Path) -> None:
    """Two gateways with one client id."""
    first, second = RecordingIntake(), RecordingIntake()
    settings = config(broker, version=5)
    task = asyncio.create_task(settings.reader(Context("gw", tmp_path)).run(first, None))
    await first.until(lambda: len(first.states) == 2)
    async with reading(settings, second, tmp_path):
        with pytest.raises(ConnectionError):
            await asyncio.wait_for(task, 5)
        await broker.publish("m", "1", options=["-q", "1"])
        await second.until(second.readings)
        await broker.until_logged(lambda log: log.count("Received PUBACK") == 1)
    assert first.readings() == []
