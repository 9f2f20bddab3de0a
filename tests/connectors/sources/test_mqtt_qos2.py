"""QoS 2 against mosquitto: PUBREC when the journal has the message, PUBCOMP when it has forgotten the packet id."""

import asyncio
import json
import random
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from connectors.sources.mqtt import MqttConfig
from tests.connectors.sources.mqtt_harness import config, has_readings, last_state, reading
from tests.mosquitto_broker import Broker
from tests.recording_intake import RecordingIntake

TWICE: dict[str, Any] = {"subscriptions": [{"topic": "#", "qos": 2}]}
EXACTLY_ONCE = ["-q", "2"]


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Broker]:
    async with Broker(tmp_path, ("allow_anonymous true", "max_queued_messages 0")) as running:
        yield running


def received(broker: Broker, kind: str) -> int:
    return broker.log().count(f"Received {kind} from gw-plant")


def values(intake: RecordingIntake) -> list[Any]:
    return [reading.value for reading in intake.readings()]


async def crash(broker: Broker, times: int = 1) -> None:
    """The broker has noticed that the reader is gone."""
    await broker.until_logged(lambda log: log.count("Client gw-plant disconnected") >= times)


@pytest.mark.parametrize("version", ["3.1.1", "5"])
@pytest.mark.interop("mosquitto", "QoS 2: messages come once and in order")
async def test_messages_come_once_and_in_order(broker: Broker, tmp_path: Path, version: str) -> None:
    intake = RecordingIntake()
    async with reading(config(broker, version=version, **TWICE), intake, tmp_path):
        await broker.publish_lines("m", [str(i) for i in range(100)], EXACTLY_ONCE)
        await intake.until(lambda: len(intake.readings()) == 100)
        await broker.until_logged(lambda log: log.count("Received PUBCOMP from gw-plant") == 100)
        await broker.publish_lines("m", [str(i) for i in range(100, 200)], EXACTLY_ONCE)
        await intake.until(lambda: len(intake.readings()) == 200)
        await broker.until_logged(lambda log: log.count("Received PUBCOMP from gw-plant") == 200)
    assert values(intake) == list(range(200))
    assert received(broker, "PUBREC") == 200


async def test_messages_of_different_levels_come_together(broker: Broker, tmp_path: Path) -> None:
    """Those that have waited for the reader are sent at once; in what order is the broker's affair."""
    intake = RecordingIntake()
    async with reading(config(broker, **TWICE), intake, tmp_path):
        pass
    for first in range(0, 20, 4):
        for qos in (1, 2):
            lines = [str(i) for i in range(first, first + 4)]
            await broker.publish_lines(f"m{qos}", lines, ["-q", str(qos)])
    async with reading(config(broker, **TWICE), intake, tmp_path, last_state(intake)):
        await broker.publish_lines("m0", ["1"])
        await intake.until(lambda: len(intake.readings()) == 41)
        await broker.until_logged(lambda log: log.count("Received PUBCOMP from gw-plant") == 20)
        await broker.until_logged(lambda log: log.count("Received PUBACK from gw-plant") == 20)
    for qos in (1, 2):
        assert sorted(reading.value for reading in intake.readings(f"m{qos}")) == list(range(20))
    assert any(len(set(rows.tag)) > 1 for rows, _ in intake.appended)


@pytest.mark.interop("mosquitto", "QoS 2: PUBREC and PUBCOMP after what they say is on disk")
async def test_neither_answer_is_given_before_the_journal_has_what_it_says(broker: Broker, tmp_path: Path) -> None:
    intake = RecordingIntake()
    async with reading(config(broker, **TWICE), intake, tmp_path):
        intake.hold = True
        await broker.publish("m", "1", options=EXACTLY_ONCE)
        await intake.until(lambda: has_readings(intake, 1))
        assert received(broker, "PUBREC") == 0
        appended = len(intake.appended)
        intake.release()
        await intake.until(lambda: len(intake.appended) > appended)  # PUBREL has come, its id is being forgotten
        assert (received(broker, "PUBREC"), received(broker, "PUBCOMP")) == (1, 0)
        intake.release()
        await broker.until_logged(lambda log: "Received PUBCOMP from gw-plant" in log)


@pytest.mark.parametrize(("committed", "again"), [(True, []), (False, [7])])
@pytest.mark.interop("mosquitto", "QoS 2: a message whose PUBREC was lost is journalled once")
async def test_a_message_whose_pubrec_was_lost_is_journalled_once(
    broker: Broker, tmp_path: Path, committed: bool, again: list[int]
) -> None:
    intake = RecordingIntake()
    async with reading(config(broker, **TWICE), intake, tmp_path):
        before = last_state(intake)
        intake.hold = True
        await broker.publish("m", "7", options=EXACTLY_ONCE)
        await intake.until(lambda: has_readings(intake, 1))
        after = next(state for rows, state in intake.appended if len(rows))
    await crash(broker)
    resumed = RecordingIntake()
    async with reading(config(broker, **TWICE), resumed, tmp_path, after if committed else before):
        await broker.publish("m", "8", options=EXACTLY_ONCE)
        await broker.until_logged(lambda log: log.count("Received PUBCOMP from gw-plant") == 2)
    assert values(resumed) == [*again, 8]


@pytest.mark.parametrize("committed", [True, False])
@pytest.mark.interop("mosquitto", "QoS 2: a release that was not answered is answered")
async def test_a_release_that_was_not_answered_is_answered_and_its_id_is_free(
    broker: Broker, tmp_path: Path, committed: bool
) -> None:
    intake = RecordingIntake()
    async with reading(config(broker, **TWICE), intake, tmp_path):
        intake.hold = True
        await broker.publish("m", "7", options=EXACTLY_ONCE)
        await intake.until(lambda: has_readings(intake, 1))
        known = next(state for rows, state in intake.appended if len(rows))
        appended = len(intake.appended)
        intake.release()
        await intake.until(lambda: len(intake.appended) > appended)
        forgotten = intake.appended[appended][1]
    await crash(broker)
    assert received(broker, "PUBCOMP") == 0
    resumed = RecordingIntake()
    async with reading(config(broker, **TWICE), resumed, tmp_path, forgotten if committed else known):
        await broker.until_logged(lambda log: "Received PUBCOMP from gw-plant" in log)
        await broker.publish("m", "7", "7", options=EXACTLY_ONCE)  # the same content is another message
        await resumed.until(lambda: has_readings(resumed, 2))
        await broker.until_logged(lambda log: log.count("Received PUBCOMP from gw-plant") == 3)
    assert values(resumed) == [7, 7]


async def test_what_the_broker_has_forgotten_is_forgotten_too(broker: Broker, tmp_path: Path) -> None:
    intake = RecordingIntake()
    async with reading(config(broker, **TWICE), intake, tmp_path):
        intake.hold = True
        await broker.publish("m", "7", options=EXACTLY_ONCE)
        await intake.until(lambda: has_readings(intake, 1))
        known = next(state for rows, state in intake.appended if len(rows))
    await broker.stop()
    (tmp_path / "mosquitto.db").unlink()
    await broker.start()
    resumed = RecordingIntake()
    async with reading(config(broker, **TWICE), resumed, tmp_path, known):
        await broker.publish("m", "7", options=EXACTLY_ONCE)  # with packet id 1 again
        await resumed.until(lambda: has_readings(resumed, 1))


class Life:
    """A reader and its journal in a process of its own, see `mqtt_life`."""

    def __init__(self, settings: MqttConfig, directory: Path) -> None:
        self._arguments = ("-m", "tests.connectors.sources.mqtt_life", settings.model_dump_json(), str(directory))

    async def until_on_disk(self, count: int) -> list[int]:
        """Live until so many values have come to the disk, then be killed; returns all values that were."""
        process = await asyncio.create_subprocess_exec(sys.executable, *self._arguments, stdout=asyncio.subprocess.PIPE)
        assert process.stdout is not None
        found: list[int] = []
        try:
            async with asyncio.timeout(60):
                while len(found) < count:
                    line = await process.stdout.readline()
                    assert line, "it ended by itself"
                    if line.startswith(b"["):  # else it is of the log
                        found += json.loads(line)
        finally:
            process.kill()
            await process.wait()
        return found


@pytest.mark.parametrize(("version", "qos"), [("3.1.1", 2), ("5", 2), ("3.1.1", 1)])
@pytest.mark.interop("mosquitto", "killed gateways neither lose nor double a message at QoS 1 and 2")
async def test_killed_readers_neither_lose_nor_double_a_message(
    broker: Broker, tmp_path: Path, version: str, qos: int
) -> None:
    lives, messages, chance = 5, 300, random.Random(qos)
    settings = config(broker, version=version, subscriptions=[{"topic": "m", "qos": qos}], receive_maximum=20)
    life = Life(settings, tmp_path / "journal")
    async with reading(settings, RecordingIntake(), tmp_path):
        pass  # the broker has the session: what comes from now on is kept
    on_disk = 0
    for number in range(lives):
        lines = [str(i) for i in range(number * messages, (number + 1) * messages)]
        publishing = asyncio.create_task(broker.publish_lines("m", lines, ["-q", str(qos)]))
        on_disk = len(await life.until_on_disk(on_disk + chance.randint(1, messages // 2)))
        await publishing
    found = await life.until_on_disk(lives * messages)
    assert sorted(found) == list(range(lives * messages))
