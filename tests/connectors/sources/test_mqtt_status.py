"""The topic in which an MQTT source says whether the gateway is there, with mosquitto between it and those who look."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from connectors.contract import Context
from connectors.sources.mqtt import MqttConfig
from tests.connectors.sources.mqtt_harness import config, last_state, reading
from tests.mosquitto_broker import Broker, onlooker
from tests.recording_intake import RecordingIntake
from tests.running_gateway import gateway

TOPIC = "plant/gateways/gw"
STATUS = {"status_topic": "plant/gateways/{gateway}", "subscriptions": [{"topic": "m"}]}
versions = pytest.mark.parametrize("version", ["3.1.1", "5"])


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Broker]:
    async with Broker(tmp_path) as running:
        yield running


@pytest.mark.interop("mosquitto", "a status topic says, retained, that a source is there and that it has left")
@versions
async def test_a_source_says_when_it_comes_and_goes(broker: Broker, tmp_path: Path, version: str) -> None:
    settings = config(broker, version=version, **STATUS)
    async with onlooker(broker, TOPIC) as seen:
        async with reading(settings, RecordingIntake(), tmp_path):
            assert await seen.line() == ["0", "1", "online"]
            async with onlooker(broker, TOPIC, "late") as late:
                assert await late.line() == ["1", "1", "online"]
        assert await seen.line() == ["0", "1", "offline"]
        await broker.until_logged(lambda log: "Received DISCONNECT from gw-plant" in log)
        async with onlooker(broker, TOPIC, "late") as late:
            assert await late.line() == ["1", "1", "offline"]
        async with reading(settings, RecordingIntake(), tmp_path):
            assert await seen.line() == ["0", "1", "online"], "the good-bye was all: no will came after it"
    log = broker.log()
    assert log.index("Received SUBSCRIBE from gw-plant") < log.index("Received PUBLISH from gw-plant")


@pytest.mark.interop("mosquitto", "the will of a source says that it is gone when its connection breaks")
@versions
async def test_a_connection_that_breaks_is_told_by_the_will(broker: Broker, tmp_path: Path, version: str) -> None:
    settings, intake = config(broker, version=version, **STATUS), RecordingIntake()
    async with onlooker(broker, TOPIC) as seen:
        async with reading(settings, intake, tmp_path) as task:
            assert (await seen.line())[2] == "online"
            # another client of this name takes the session over: for the broker the connection is gone without a word
            await broker.publish("x", "y", options=["-i", "gw-plant"])
            assert await seen.line() == ["0", "1", "offline"]
            await asyncio.wait([task], timeout=20)
        async with onlooker(broker, TOPIC, "late") as late:
            assert await late.line() == ["1", "1", "offline"]
        async with reading(settings, intake, tmp_path, last_state(intake)):
            assert (await seen.line())[2] == "online"


@pytest.mark.interop(
    "mosquitto", "a source that connects while its broker still believes in the connection before is online"
)
@versions
async def test_the_next_connection_is_online_though_the_broker_had_not_noticed_the_end_of_the_one_before(
    broker: Broker, tmp_path: Path, version: str
) -> None:
    settings = config(broker, version=version, **STATUS)
    async with reading(settings, RecordingIntake(), tmp_path) as before, reading(settings, RecordingIntake(), tmp_path):
        await asyncio.wait([before], timeout=20)
        await broker.until_logged(lambda log: log.count("Sending PUBACK to gw-plant") == 2)
        async with onlooker(broker, TOPIC, "late") as late:
            assert await late.line() == ["1", "1", "online"]


@pytest.mark.interop("mosquitto", "the status topic of a gateway that is killed, started again and stopped")
async def test_a_gateway_that_is_killed_is_offline_and_online_again_when_it_is_back(
    broker: Broker, tmp_path: Path
) -> None:
    source = {"name": "plant", "protocol": "mqtt", "endpoint": f"mqtt://127.0.0.1:{broker.port}"} | STATUS
    out = {"type": "file", "endpoint": str(tmp_path / "readings")}
    section = {"name": "gw", "directory": str(tmp_path / "data"), "port": 0, "cloud": {"connectors": {"out": out}}}
    file = tmp_path / "gateway.yaml"
    file.write_text(json.dumps({"gateway": section, "sources": [source]}))
    async with onlooker(broker, TOPIC) as seen:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "bifrost", "run", "-c", str(file), stderr=asyncio.subprocess.DEVNULL
        )
        try:
            assert (await seen.line())[2] == "online"
        finally:
            process.kill()
            await process.wait()
        assert (await seen.line())[2] == "offline"
        with gateway(file):
            assert (await seen.line())[2] == "online"
        assert (await seen.line())[2] == "offline"
    assert broker.log().count("Received DISCONNECT from gw-plant") == 1, "the second left in order"


@pytest.mark.interop("mosquitto", "the status topics of two brokers say at which of them a source is")
@versions
async def test_each_broker_is_told_whether_the_source_is_there(tmp_path: Path, version: str) -> None:
    async with AsyncExitStack() as stack:
        brokers = []
        for name in "first", "second":
            (tmp_path / name).mkdir()
            brokers.append(await stack.enter_async_context(Broker(tmp_path / name)))
        first, second = brokers
        fallback = [f"mqtt://127.0.0.1:{second.port}"]
        settings = config(first, fallback=fallback, version=version, failback=0.1, **STATUS)
        intake = RecordingIntake()
        async with onlooker(first, TOPIC) as seen, reading(settings, intake, tmp_path):
            assert (await seen.line())[2] == "online"
        await first.stop()
        async with onlooker(second, TOPIC) as seen:
            async with reading(settings, intake, tmp_path, last_state(intake)) as task:
                assert (await seen.line())[2] == "online"
                await first.start()
                with pytest.raises(ConnectionError, match="answers again"):
                    await asyncio.wait_for(task, 10)
            assert (await seen.line())[2] == "offline"
            async with (
                reading(settings, intake, tmp_path, last_state(intake)),
                onlooker(first, TOPIC) as again,
                onlooker(second, TOPIC, "late") as late,
            ):
                assert (await again.line())[2] == "online"
                assert await late.line() == ["1", "1", "offline"]
        assert "gw-plant-probe" in first.log()
        assert len([line for line in first.log().splitlines() if "Will message specified" in line]) == 2, (
            "the look whether the broker answers has none"
        )


@versions
async def test_what_a_source_says_of_itself_is_no_reading(broker: Broker, tmp_path: Path, version: str) -> None:
    settings = config(broker, version=version, status_topic="plant/{gateway}/{source}")
    intake = RecordingIntake()
    async with reading(settings, intake, tmp_path):
        await broker.until_logged(lambda log: "Sending PUBLISH to gw-plant" in log and "'plant/gw/plant'" in log)
        await broker.publish("plant/other/plant", "online", options=["-q", "1"])
        await intake.until(lambda: len(intake.readings()) == 1)
        await broker.until_logged(lambda log: log.count("Received PUBACK from gw-plant") == 2)
    async with reading(settings, intake, tmp_path, last_state(intake)):
        await broker.publish("m", "2", options=["-q", "1"])
        await intake.until(lambda: len(intake.readings()) >= 2)
    assert [reading_.value for reading_ in intake.readings()] == ["online", 2]


@pytest.mark.interop("mosquitto", "gateways that share a subscription each have a status topic of their own")
async def test_gateways_that_share_a_subscription_have_a_topic_each(broker: Broker, tmp_path: Path) -> None:
    shared = {"status_topic": STATUS["status_topic"], "subscriptions": [{"topic": "$share/gateways/m"}]}
    async with AsyncExitStack() as stack:
        tasks = []
        for name in "one", "two":
            run = config(broker, **shared).reader(Context(name, tmp_path)).run(RecordingIntake(), None)
            tasks.append(asyncio.create_task(run))
        seen = {
            name: await stack.enter_async_context(onlooker(broker, f"plant/gateways/{name}", name))
            for name in ["one", "two"]
        }
        assert [(await seen[name].line())[2] for name in seen] == ["online", "online"]
        tasks[0].cancel()
        assert (await seen["one"].line())[2] == "offline"
        async with onlooker(broker, "plant/gateways/two", "late") as late:
            assert await late.line() == ["1", "1", "online"]
        tasks[1].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_look_at_the_connection_says_nothing(broker: Broker, tmp_path: Path) -> None:
    settings = config(broker, **STATUS)
    async with reading(settings.trial(), RecordingIntake(), tmp_path):
        pass
    await settings.reader(Context("gw", tmp_path)).check()
    await broker.until_logged(lambda log: log.count("Received DISCONNECT from") == 2)
    assert "Will message specified" not in broker.log()
    assert "Received PUBLISH" not in broker.log()


@pytest.mark.interop(
    "mosquitto", "a broker that keeps no retained messages says so to a source with a status topic (MQTT 5)"
)
async def test_a_broker_that_keeps_nothing_is_told_with_what_to_do(tmp_path: Path) -> None:
    async with Broker(tmp_path, ["allow_anonymous true", "retain_available false"]) as broker:
        with pytest.raises(ConnectionError, match="Retain not supported: leave out `status_topic`"):
            async with reading(config(broker, version="5", **STATUS), RecordingIntake(), tmp_path):
                pass
        plain = config(broker, version="5", subscriptions=STATUS["subscriptions"])
        async with reading(plain, RecordingIntake(), tmp_path):
            pass


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"status_topic": "a/+"}, "`\\+` cannot stand in a topic"),
        ({"status_topic": "{site}/status"}, "what may stand in braces in a status_topic is {gateway} and {source}"),
        ({"status_topic": "$SYS/me"}, "begins with \\$"),
        (
            {"status_topic": "s", "subscriptions": [{"topic": "spBv1.0/#", "format": "sparkplug"}, {"topic": "m"}]},
            "`status_topic` does not go with format sparkplug.*host_id",
        ),
    ],
)
def test_a_status_topic_that_cannot_be_is_refused(said: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        MqttConfig.model_validate({"name": "plant", "endpoint": "mqtt://broker"} | said)
