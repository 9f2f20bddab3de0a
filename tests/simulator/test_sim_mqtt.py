import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator
from datetime import datetime

import paho.mqtt.client as paho
import pytest
import pytest_asyncio
from paho.mqtt.enums import CallbackAPIVersion

from simulator.broker import Broker
from simulator.ledger import ACKED, SENT, Ledger, read
from simulator.mqtt import MqttPublisher, Session
from simulator.plant import Plant, build_plant, describe, describe_tags, value


class Listener:
    """A client with a persistent session that keeps what it gets."""

    def __init__(self, url: str) -> None:
        host, _, port = url.removeprefix("mqtt://").partition(":")
        self._address = host, int(port)
        self.messages: list[paho.MQTTMessage] = []
        self.subscribed = False

    def _on_message(self, _client: object, _data: object, message: paho.MQTTMessage) -> None:
        self.messages.append(message)

    def _on_subscribe(self, *_: object) -> None:
        self.subscribed = True

    def connect(self, topic: str = "#") -> None:
        self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id="listener", clean_session=False)
        self._client.on_message = self._on_message
        self._client.on_subscribe = self._on_subscribe
        self._client.connect(*self._address)
        self._client.subscribe(topic, 1)
        self._client.loop_start()

    def disconnect(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()
        self._client.on_message = self._client.on_subscribe = None


@pytest_asyncio.fixture(params=["amqtt", "mosquitto"])
async def broker(request, tmp_path) -> AsyncIterator[str]:
    """URL of a broker: the demonstration's, and mosquitto where it is installed."""
    if request.param == "amqtt":
        async with Broker() as own:
            yield own.url
        return
    program = shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("mosquitto is not installed")
    async with asyncio.timeout(20):
        server = await asyncio.start_server(lambda _r, w: w.close(), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        server.close()
        await server.wait_closed()
        config = tmp_path / "mosquitto.conf"
        config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\n")
        process = await asyncio.create_subprocess_exec(program, "-c", config, stderr=asyncio.subprocess.DEVNULL)
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionRefusedError:
                await asyncio.sleep(0.02)
            else:
                break
        writer.close()
        await writer.wait_closed()
    yield f"mqtt://127.0.0.1:{port}"
    process.terminate()
    await process.wait()


def _numbers(plant: Plant, messages: list[paho.MQTTMessage]) -> list[tuple[int, int]]:
    """(position of the tag, number) of everything in messages of a ledger plant."""
    positions = {(tag["topic"], tag["key"]): at for at, tag in enumerate(describe_tags(plant, plant.sources[0]))}
    found = []
    for message in messages:
        content = json.loads(message.payload)
        if "/flat/" in message.topic:
            found += [(positions[message.topic, key], int(n)) for key, n in content.items() if key != "timestamp"]
        else:
            found.append((positions[message.topic, None], int(content["value"])))
    return found


async def test_messages_say_what_the_description_promises(until):
    plant = build_plant(tags=30, rate=300, sources={"mqtt": 1})
    description = describe(plant, {"mqtt1": "mqtt://127.0.0.1"})
    tags = {(tag["topic"], tag["key"]): tag for tag in description["tags"]}
    values = {
        (entry["topic"], entry["key"]): [value(tag, n, group.period) for n in range(1, 400)]
        for group in plant.sources[0].groups
        for tag in group.tags
        for entry in description["tags"]
        if entry["tag_name"] == tag.name and entry["equipment"] == tag.equipment
    }
    assert len(tags) == 30
    async with Broker() as broker, MqttPublisher(plant, plant.sources[0], broker.url) as publisher:
        listener = Listener(broker.url)
        listener.connect("plant/mqtt1/#")
        seen = set()

        def all_seen() -> bool:
            for message in list(listener.messages):
                content = json.loads(message.payload)
                if "/tag/" in message.topic:
                    key = message.topic, None
                    assert content["unit"] == tags[key]["unit"]
                    assert content["quality"] in ("GOOD", "BAD")
                    assert datetime.fromisoformat(content["timestamp"]).tzinfo is not None
                    assert content["value"] in values[key]
                    seen.add(key)
                else:
                    assert content.pop("timestamp") > 1.6e12
                    for name, reading in content.items():
                        assert reading in values[message.topic, name]
                        seen.add((message.topic, name))
            return seen == set(tags)

        await until(all_seen)
        publisher.set_bad("conveyor_speed", True)
        topic = "plant/mqtt1/tag/robot1/conveyor_speed"
        await until(
            lambda: any(m.topic == topic and json.loads(m.payload)["quality"] == "BAD" for m in list(listener.messages))
        )
        listener.disconnect()


async def test_what_the_broker_acknowledged_arrives_also_after_the_listener_was_away(broker, tmp_path, until):
    plant = build_plant(tags=30, rate=900, sources={"mqtt": 1}, ledger=True)
    source = plant.sources[0]
    ledger = Ledger(tmp_path, source.name, source.protocol, describe_tags(plant, source))
    path = tmp_path / "mqtt1.ledger"
    listener = Listener(broker)
    listener.connect()
    await until(lambda: listener.subscribed)
    async with MqttPublisher(plant, source, broker, ledger) as publisher:
        await until(lambda: len(listener.messages) > 10)
        await asyncio.to_thread(listener.disconnect)
        away = len(read(path).obligations())
        await until(lambda: len(read(path).obligations()) > away + 300)
        listener.connect()
        publisher.session.drop()
        await until(lambda: len(read(path).obligations()) > away + 900)
        publisher.pause()
        await until(lambda: publisher.unacknowledged == 0)
    ledger.close()
    account = read(path)
    due = set(account.obligations()[["tag", "n"]].tolist())
    await until(lambda: due <= set(_numbers(plant, list(listener.messages))))
    assert not any(message.retain for message in listener.messages)
    await asyncio.to_thread(listener.disconnect)
    assert set(_numbers(plant, listener.messages)) <= set(account.issued()[["tag", "n"]].tolist())
    sent = account.records[account.records["event"] == SENT]
    for position in range(30):
        numbers = sent[sent["tag"] == position]["n"].tolist()
        assert numbers == list(range(1, len(numbers) + 1))
    acknowledged = account.records[account.records["event"] == ACKED]
    assert len(acknowledged) > 900


async def test_nothing_is_numbered_while_there_is_no_broker(tmp_path, until):
    plant = build_plant(tags=8, rate=400, sources={"mqtt": 1}, ledger=True)
    source = plant.sources[0]
    ledger = Ledger(tmp_path, source.name, source.protocol, describe_tags(plant, source))
    path = tmp_path / "mqtt1.ledger"
    broker = Broker()
    await broker.__aenter__()
    async with MqttPublisher(plant, source, broker.url, ledger) as publisher:
        await until(lambda: len(read(path).obligations()) > 16)
        await broker.__aexit__()
        await until(lambda: not publisher.session.connected)
        before = len(read(path).issued())
        await asyncio.sleep(0.3)  # twice as long as a reading takes at this rate
        assert len(read(path).issued()) == before
    ledger.close()


async def test_a_broker_that_is_not_there_is_said_so():
    with pytest.raises(TimeoutError, match=r"no MQTT broker answers at 127\.0\.0\.1:1"):
        await Session("mqtt://127.0.0.1:1", "nobody").start(timeout=0.2)
    with pytest.raises(ValueError, match="mqtt://host:port"):
        Session("http://127.0.0.1", "nobody")
