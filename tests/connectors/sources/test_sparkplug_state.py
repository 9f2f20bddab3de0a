"""STATE of the host application, as the specification says, with mosquitto between it and those who look."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from connectors.sources.mqtt import MqttConfig
from tests import mosquitto_broker
from tests.connectors.sources.mqtt_harness import last_state, reading
from tests.connectors.sources.sparkplug_bench import data
from tests.connectors.sources.sparkplug_edges import host_config
from tests.mosquitto_broker import Broker, Onlooker
from tests.recording_intake import RecordingIntake

TOPIC = "spBv1.0/STATE/scada"
HOST = {"host_id": "scada"}


def state(online: bool, timestamp: int) -> str:
    return json.dumps({"online": online, "timestamp": timestamp})


class Host:
    """What an onlooker sees of the host."""

    def __init__(self, seen: Onlooker) -> None:
        self.line = seen.line

    async def next(self) -> tuple[int, int, bool, int]:
        retained, qos, content = await self.line()
        said = json.loads(content)
        assert set(said) == {"online", "timestamp"}
        assert type(said["timestamp"]) is int
        return int(retained), int(qos), said["online"], said["timestamp"]


@asynccontextmanager
async def onlooker(broker: Broker) -> AsyncIterator[Host]:
    async with mosquitto_broker.onlooker(broker, TOPIC) as seen:
        yield Host(seen)


@pytest.mark.interop(
    "mosquitto", "STATE of a Sparkplug host: will, birth after the subscriptions, death before leaving"
)
async def test_a_host_says_when_it_comes_and_goes(tmp_path: Path) -> None:
    """tck-id-host-topic-phid-birth-topic, tck-id-host-topic-phid-birth-payload, tck-id-host-topic-phid-birth-qos,
    tck-id-host-topic-phid-birth-retain, tck-id-host-topic-phid-birth-payload-timestamp,
    tck-id-host-topic-phid-birth-sub-required, tck-id-host-topic-phid-birth-required, tck-id-host-topic-phid-birth-message,
    tck-id-host-topic-phid-death-qos, tck-id-host-topic-phid-death-retain, tck-id-host-topic-phid-death-topic,
    tck-id-host-topic-phid-death-payload-timestamp-disconnect-clean, tck-id-message-flow-phid-sparkplug-subscription,
    tck-id-message-flow-phid-sparkplug-state-publish, tck-id-message-flow-phid-sparkplug-state-publish-payload,
    tck-id-operational-behavior-host-application-connect-will-qos, tck-id-payloads-state-subscribe,
    tck-id-operational-behavior-host-application-connect-birth, tck-id-conformance-primary-host,
    tck-id-operational-behavior-host-application-disconnect-intentional,
    tck-id-operational-behavior-host-application-connect-will-retained,
    tck-id-operational-behavior-host-application-connect-birth-topic,
    tck-id-operational-behavior-host-application-connect-birth-qos,
    tck-id-operational-behavior-host-application-connect-birth-retained,
    tck-id-operational-behavior-host-application-termination,
    tck-id-operational-behavior-host-application-death-topic, tck-id-operational-behavior-host-application-death-qos,
    tck-id-operational-behavior-host-application-death-retained"""
    intake = RecordingIntake()
    async with Broker(tmp_path) as broker, onlooker(broker) as seen:
        async with reading(host_config(broker.port, HOST), intake, tmp_path):
            _, qos, online, began = await seen.next()
            assert (qos, online) == (1, True)
            async with onlooker(broker) as late:
                assert await late.next() == (1, 1, True, began), "retained"
        _, qos, online, ended = await seen.next()
        assert (qos, online) == (1, False)
        assert ended >= began
        await broker.until_logged(lambda log: "Received DISCONNECT from gw-plant" in log)
        async with onlooker(broker) as late:
            assert await late.next() == (1, 1, False, ended)
        log = broker.log()
    assert re.search(r"Will message specified \(\d+ bytes\) \(r1, q1\)", log)
    assert f"\t{TOPIC}" in log
    order = [
        log.index(part) for part in ("Received SUBSCRIBE from gw-plant", "Received PUBLISH from gw-plant (d0, q1, r1")
    ]
    assert order == sorted(order)
    first = log[log.index("Received SUBSCRIBE from gw-plant") :]
    assert first.index(TOPIC) < first.index("Received PUBLISH from gw-plant"), "its own topic is subscribed to before"


@pytest.mark.interop("mosquitto", "the will of a Sparkplug host that is cut off, and its birth when it is back")
async def test_the_will_says_offline_with_the_time_of_the_birth(tmp_path: Path) -> None:
    """tck-id-host-topic-phid-death-required, tck-id-host-topic-phid-death-payload,
    tck-id-host-topic-phid-death-payload-timestamp-connect, tck-id-operational-behavior-host-application-connect-will,
    tck-id-operational-behavior-host-application-connect-will-topic,
    tck-id-operational-behavior-host-application-connect-will-payload, tck-id-payloads-state-will-message,
    tck-id-payloads-state-will-message-qos, tck-id-payloads-state-will-message-retain,
    tck-id-payloads-state-will-message-payload, tck-id-payloads-state-birth-payload,
    tck-id-message-flow-phid-sparkplug-state-publish-payload-timestamp,
    tck-id-operational-behavior-host-application-connect-birth-payload,
    tck-id-operational-behavior-primary-application-state-with-multiple-servers-state,
    tck-id-operational-behavior-host-application-multi-server-timestamp"""
    intake = RecordingIntake()
    async with Broker(tmp_path) as broker, onlooker(broker) as seen:
        async with reading(host_config(broker.port, HOST), intake, tmp_path) as task:
            _, _, online, began = await seen.next()
            assert online
            # another client of this name takes the session over: for the broker the connection is gone without a word
            await broker.publish("x", "y", options=["-i", "gw-plant"])
            assert await seen.next() == (0, 1, False, began)
            await asyncio.wait([task], timeout=20)
            assert task.done()
        async with reading(host_config(broker.port, HOST), intake, tmp_path, last_state(intake)):
            _, _, online, again = await seen.next()
            assert online
            assert again > began


@pytest.mark.interop("mosquitto", "STATE is the first that a Sparkplug host publishes, whatever waits for it")
async def test_its_state_is_the_first_that_a_host_publishes(tmp_path: Path) -> None:
    """tck-id-operational-behavior-primary-application-state-with-multiple-servers-state,
    tck-id-host-topic-phid-birth-message"""
    before, after = RecordingIntake(), RecordingIntake()
    async with Broker(tmp_path) as broker:
        kept = {"topic": "spBv1.0/#", "format": "sparkplug", "qos": 1}
        settings = host_config(broker.port, HOST, subscriptions=[kept])
        async with reading(settings, before, tmp_path):
            pass
        await broker.publish("spBv1.0/G/DDATA/N/D", data(5), options=["-q", "1"])  # kept for us
        await broker.until_logged(lambda log: "Received DISCONNECT from gw-plant" in log)
        begin = len(broker.log())
        async with reading(settings, after, tmp_path, last_state(before)):
            await broker.until_logged(lambda log: "'spBv1.0/G/NCMD/N'" in log[begin:])
        log = broker.log()[begin:]
    assert log.index("Sending PUBLISH to gw-plant (d0, q1") < log.index("Received PUBLISH from gw-plant (d0, q1, r1")
    assert log.index(f"'{TOPIC}'") < log.index("'spBv1.0/G/NCMD/N'")


@pytest.mark.interop("mosquitto", "a Sparkplug host corrects who says that it is offline")
async def test_who_says_that_the_host_is_offline_is_corrected(tmp_path: Path) -> None:
    """tck-id-message-flow-hid-sparkplug-state-message-delivered"""
    intake = RecordingIntake()
    async with (
        Broker(tmp_path) as broker,
        onlooker(broker) as seen,
        reading(host_config(broker.port, HOST), intake, tmp_path),
    ):
        _, _, _, began = await seen.next()
        await broker.publish(TOPIC, state(False, began + 5), options=["-q", "1", "-r"])
        assert await seen.next() == (0, 1, False, began + 5)
        assert await seen.next() == (0, 1, True, began)
        for junk in "", "OFFLINE", "[]":
            await broker.publish(TOPIC, junk, options=["-q", "1", "-r"])
            assert (await seen.line())[2].strip() == junk
            assert await seen.next() == (0, 1, True, began)
        await broker.publish("spBv1.0/STATE/other", state(False, 1), options=["-q", "1", "-r"])
        await broker.publish(TOPIC, state(True, 7), options=["-q", "1"])
        assert await seen.next() == (0, 1, True, 7)
        await broker.publish(TOPIC, state(True, 8), options=["-q", "1"])
        assert await seen.next() == (0, 1, True, 8), "nothing is answered to what is right, or somebody else's"
    assert intake.readings() == [], "STATE is no reading"


@pytest.mark.interop("mosquitto", "a Sparkplug host with a clean session, MQTT 3.1.1 and 5")
@pytest.mark.parametrize(("version", "level"), [("3.1.1", "p4"), ("5", "p5")])
async def test_a_host_can_have_the_clean_session_that_the_specification_asks_for(
    tmp_path: Path, version: str, level: str
) -> None:
    """tck-id-message-flow-phid-sparkplug-clean-session-311, tck-id-message-flow-phid-sparkplug-clean-session-50,
    tck-id-payloads-state-birth"""
    intake = RecordingIntake()
    async with Broker(tmp_path) as broker, onlooker(broker) as seen:
        settings = host_config(broker.port, HOST, clean_session=True, version=version)
        async with reading(settings, intake, tmp_path):
            assert (await seen.next())[2]
        assert not (await seen.next())[2]
        assert re.search(rf"as gw-plant \({level[0]}\d, c1,", broker.log())


@pytest.mark.interop("mosquitto", "a trial of the connection says nothing about the host")
async def test_a_listener_and_a_trial_say_nothing(tmp_path: Path) -> None:
    """tck-id-operational-behavior-host-application-host-id"""
    intake = RecordingIntake()
    async with Broker(tmp_path) as broker:
        for settings in (host_config(broker.port), host_config(broker.port, HOST).trial()):
            async with reading(settings, intake, tmp_path):
                pass
        await broker.until_logged(lambda log: log.count("Received DISCONNECT from") == 2)
        assert "Will message specified" not in broker.log()
        assert "Received PUBLISH" not in broker.log()


@pytest.mark.parametrize("host_id", ["", "a/b", "a+", "#"])
def test_a_host_id_is_one_level_of_a_topic(host_id: str) -> None:
    with pytest.raises(ValueError, match="is no host id"):
        host_config(1883, {"host_id": host_id})


def test_a_host_reads_sparkplug() -> None:
    with pytest.raises(ValueError, match="without a subscription of format sparkplug"):
        host_config(1883, HOST, subscriptions=[{"topic": "a/#"}])
    rules = host_config(1883, HOST, subscriptions=[{"topic": "spBv1.0/G/#", "format": "sparkplug"}]).rules()
    assert [(rule.topic, rule.qos) for rule in rules] == [(TOPIC, 1), ("spBv1.0/G/#", 1)]
    assert isinstance(host_config(1883, HOST), MqttConfig)
