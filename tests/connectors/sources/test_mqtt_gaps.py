"""What the broker did not keep while the MQTT reader was away is recorded as a gap: mosquitto, stopped and made to forget."""

import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from connectors.sources.mqtt.known import MOST, KnownTags
from tests.connectors.sources.mqtt_harness import config, last_state, reading
from tests.mosquitto_broker import Broker
from tests.recording_intake import Gap, RecordingIntake

BOTH = pytest.mark.parametrize("version", ["3.1.1", "5"])


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Broker]:
    async with Broker(tmp_path) as running:
        yield running


def now() -> int:
    return time.time_ns() // 1000


def names(gap: Gap) -> set[str]:
    return {tag.address for tag in gap.tags}


async def forget(broker: Broker, tmp_path: Path) -> None:
    """The broker starts again and knows no session any more."""
    await broker.stop()
    (tmp_path / "mosquitto.db").unlink()
    await broker.start()


async def once(broker: Broker, tmp_path: Path, state: bytes | None, qos: int, **settings: Any) -> RecordingIntake:
    """A run in which `plant/a` and the fields of `plant/b` are read."""
    intake = RecordingIntake()
    before = len(intake.readings())
    async with reading(config(broker, **settings), intake, tmp_path, state):
        await broker.publish("plant/a", "1", options=["-q", str(qos)])
        await broker.publish("plant/b", '{"x": 1, "y": 2}', options=["-q", str(qos)])
        await intake.until(lambda: len(intake.readings()) == before + 3)
    return intake


@BOTH
@pytest.mark.interop("mosquitto", "a forgotten session is recorded as a gap")
async def test_forgotten_session_is_recorded_as_a_gap(broker: Broker, tmp_path: Path, version: str) -> None:
    began = now()
    before = await once(broker, tmp_path, None, 1, version=version)
    assert before.gaps == [], "nothing was missed before the first connection"
    left = now()
    await forget(broker, tmp_path)
    await broker.publish("plant/a", "2", options=["-q", "1"])
    missed = now()
    after = RecordingIntake()
    async with reading(config(broker, version=version), after, tmp_path, last_state(before)):
        (gap,) = after.gaps
        assert names(gap) == {"plant/a", "plant/b#x", "plant/b#y"}
        assert {tag.source for tag in gap.tags} == {"plant"}
        assert began < gap.start <= left
        assert missed < gap.end <= now()
        assert gap.reason == "not connected, and the broker had forgotten the session"
    again = RecordingIntake()
    async with reading(config(broker, version=version), again, tmp_path, last_state(after)):
        pass
    assert again.gaps == [], "told once"


@BOTH
@pytest.mark.interop("mosquitto", "a session that was kept has no gap")
async def test_a_session_that_was_kept_has_no_gap(broker: Broker, tmp_path: Path, version: str) -> None:
    before = await once(broker, tmp_path, None, 1, version=version)
    await broker.publish("plant/a", "2", options=["-q", "1"])
    after = RecordingIntake()
    async with reading(config(broker, version=version), after, tmp_path, last_state(before)):
        await after.until(after.readings)
    assert [r.value for r in after.readings()] == [2]
    assert after.gaps == []


async def test_tags_of_the_run_before_are_known_before_they_are_read_again(broker: Broker, tmp_path: Path) -> None:
    """So that they go stale when the broker does."""
    before = await once(broker, tmp_path, None, 1)
    after = RecordingIntake()
    async with reading(config(broker), after, tmp_path, last_state(before)):
        known = {after.tags[at].address for at in range(len(after.tags))}
    assert known == {"plant/a", "plant/b#x", "plant/b#y"}


@pytest.mark.parametrize(("subscribed", "sent"), [(0, 1), (1, 0), (0, 0)])
@pytest.mark.interop("mosquitto", "a lost connection is a gap for what comes at QoS 0")
async def test_any_disconnection_is_a_gap_for_what_comes_at_qos_0(
    broker: Broker, tmp_path: Path, subscribed: int, sent: int
) -> None:
    settings = {"subscriptions": [{"topic": "plant/#", "qos": subscribed}, {"topic": "safe", "qos": 1}]}
    before = await once(broker, tmp_path, None, sent, **settings)
    async with reading(config(broker, **settings), before, tmp_path, last_state(before)):
        await broker.publish("safe", "1", options=["-q", "1"])
        await before.until(lambda: before.last("safe"))
    left = now()
    await broker.publish("plant/a", "2", options=["-q", str(sent)])
    missed = now()
    after = RecordingIntake()
    async with reading(config(broker, **settings), after, tmp_path, last_state(before)):
        (gap,) = after.gaps
    assert names(gap) == {"plant/a", "plant/b#x", "plant/b#y"}
    assert gap.start <= left < missed < gap.end
    assert "QoS 0" in gap.reason


async def test_a_clean_session_has_a_gap_at_each_connection(broker: Broker, tmp_path: Path) -> None:
    before = await once(broker, tmp_path, None, 1, clean_session=True)
    after = await once(broker, tmp_path, last_state(before), 1, clean_session=True)
    assert [(len(gap.tags), gap.reason) for gap in after.gaps] == [(3, "not connected, with a clean session")]


async def test_another_client_id_is_another_session_and_has_a_gap(broker: Broker, tmp_path: Path) -> None:
    before = await once(broker, tmp_path, None, 1)
    after = await once(broker, tmp_path, last_state(before), 1, client_id="other")
    assert [len(gap.tags) for gap in after.gaps] == [3]


async def test_a_gap_has_the_tags_that_are_still_subscribed_to(broker: Broker, tmp_path: Path) -> None:
    before = await once(broker, tmp_path, None, 1)
    await forget(broker, tmp_path)
    after = RecordingIntake()
    settings = config(broker, subscriptions=[{"topic": "plant/b", "device_id": "press"}])
    async with reading(settings, after, tmp_path, last_state(before)):
        (gap,) = after.gaps
    assert {(tag.device_id, tag.tag_name) for tag in gap.tags} == {("press", "x"), ("press", "y")}


async def test_a_tag_that_was_silent_for_two_connections_still_has_its_gap(broker: Broker, tmp_path: Path) -> None:
    before = await once(broker, tmp_path, None, 1)
    between = RecordingIntake()
    async with reading(config(broker), between, tmp_path, last_state(before)):
        await broker.publish("plant/c", "1", options=["-q", "1"])
        await between.until(between.readings)
    await forget(broker, tmp_path)
    after = RecordingIntake()
    async with reading(config(broker), after, tmp_path, last_state(between)):
        (gap,) = after.gaps
    assert names(gap) == {"plant/a", "plant/b#x", "plant/b#y", "plant/c"}


@pytest.mark.interop("mosquitto", "the gap of a killed gateway begins with its last readings")
async def test_the_gap_of_a_killed_gateway_begins_with_its_last_readings(broker: Broker, tmp_path: Path) -> None:
    """Only what was committed with readings is there: nothing said good-bye."""
    intake = RecordingIntake()
    settings = config(broker, subscriptions=[{"topic": "#", "qos": 0}])
    async with reading(settings, intake, tmp_path):
        await broker.publish("plant/a", "1")
        await intake.until(intake.readings)
        state, seen = last_state(intake), now()
    after = RecordingIntake()
    async with reading(settings, after, tmp_path, state):
        (gap,) = after.gaps
    assert names(gap) == {"plant/a"}
    assert seen - 1_000_000 < gap.start <= seen


async def test_a_state_of_the_future_gives_no_gap(
    broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await once(broker, tmp_path, None, 0)
    past = time.time_ns() - 3600 * 10**9
    monkeypatch.setattr(time, "time_ns", lambda: past)
    after = RecordingIntake()
    async with reading(config(broker), after, tmp_path, last_state(before)):
        assert after.gaps == []


def test_known_tags_come_back_and_those_silent_longest_are_forgotten() -> None:
    known = KnownTags()
    known.update((f"t/{i}", True, [("", "°C")]) for i in range(MOST))
    known.update([("t/0", False, [("x", "")])])
    known.update([("new", True, [("", "")])])
    back = KnownTags(known.dump())
    assert back.topics == known.topics
    assert len(back.topics) == MOST
    assert back.topics["t/0"] == (False, [("x", ""), ("", "°C")])
    assert "t/1" not in back.topics


def test_known_tags_take_little_room() -> None:
    known = KnownTags()
    known.update((f"plant/line{i % 9}/machine{i % 40}/sensor{i}/temperature", True, [("", "°C")]) for i in range(5000))
    assert len(known.dump()) < 60_000
    assert len(json.dumps(list(known.topics))) > 3 * len(known.dump())
