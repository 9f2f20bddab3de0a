import asyncio
import base64
import json
import shutil
import struct
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
import pytest_asyncio
from paho.mqtt.enums import CallbackAPIVersion

from simulator.broker import Broker
from simulator.ledger import SENT, Ledger, read
from simulator.plant import build_plant, describe, describe_tags, value
from simulator.sparkplug import Payload, SparkplugNode

# A decoder of its own, from the wire format and the field numbers of the specification (3.0, §6.4.1).
PAYLOAD = {1: "timestamp", 2: "metrics", 3: "seq"}
METRIC = {1: "name", 2: "alias", 3: "timestamp", 4: "datatype", 7: "is_null", 9: "properties", 10: "int", 11: "long"}
METRIC |= {12: "float", 13: "double", 14: "boolean", 15: "string"}
TYPES = {"int32": 3, "int64": 4, "uint64": 8, "float32": 9, "float64": 10, "bool": 11, "string": 12}


def fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    at = 0

    def varint() -> int:
        nonlocal at
        number = shift = 0
        while True:
            byte = data[at]
            at += 1
            number |= (byte & 0x7F) << shift
            if byte < 0x80:
                return number
            shift += 7

    while at < len(data):
        key = varint()
        match key & 7:
            case 0:
                yield key >> 3, varint()
            case 1:
                yield key >> 3, data[at : at + 8]
                at += 8
            case 5:
                yield key >> 3, data[at : at + 4]
                at += 4
            case 2:
                size = varint()
                yield key >> 3, data[at : at + size]
                at += size
            case other:
                raise AssertionError(f"wire type {other}")


def decode_metric(data: bytes) -> dict[str, Any]:
    metric: dict[str, Any] = {METRIC[number]: content for number, content in fields(data)}
    if "properties" in metric:
        parts = list(fields(metric["properties"]))
        keys = [content.decode() for number, content in parts if number == 1 and isinstance(content, bytes)]
        values = [dict(fields(content)) for number, content in parts if number == 2 and isinstance(content, bytes)]
        metric["properties"] = dict(zip(keys, values, strict=True))
    if "name" in metric:
        metric["name"] = metric["name"].decode()
    return metric


def decode(data: bytes) -> dict[str, Any]:
    payload: dict[str, Any] = {"metrics": []}
    for number, content in fields(data):
        if number == 2:
            assert isinstance(content, bytes)
            payload["metrics"].append(decode_metric(content))
        else:
            payload[PAYLOAD[number]] = content
    return payload


def metric_value(metric: dict[str, Any], datatype: int) -> Any:
    if metric.get("is_null"):
        return None
    match datatype:
        case 3:
            return struct.unpack("<i", struct.pack("<I", metric["int"]))[0]
        case 4:
            return struct.unpack("<q", struct.pack("<Q", metric["long"]))[0]
        case 8:
            return metric["long"]
        case 9:
            return struct.unpack("<f", metric["float"])[0]
        case 10:
            return struct.unpack("<d", metric["double"])[0]
        case 11:
            return bool(metric["boolean"])
        case _:
            return metric["string"].decode()


class Host:
    """Listens to all of Sparkplug and can send commands."""

    def __init__(self, url: str) -> None:
        host, _, port = url.removeprefix("mqtt://").partition(":")
        self.messages: list[tuple[str, str, bytes]] = []
        self.ready = False
        self.client = paho.Client(CallbackAPIVersion.VERSION2, client_id="host")
        self.client.on_message = self._on_message
        self.client.on_subscribe = self._on_subscribe
        self.client.connect(host, int(port))
        self.client.subscribe("spBv1.0/#", 1)
        self.client.loop_start()

    def _on_message(self, _client: object, _data: object, message: paho.MQTTMessage) -> None:
        _, _, kind, _, *device = message.topic.split("/")
        self.messages.append((kind, "/".join(device), message.payload))

    def _on_subscribe(self, *_: object) -> None:
        self.ready = True

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [decode(payload) | {"device": device} for k, device, payload in list(self.messages) if k == kind]

    def rebirth(self) -> None:
        payload = Payload(timestamp=1)
        payload.metrics.add(name="Node Control/Rebirth", datatype=11, boolean_value=True)
        self.client.publish("spBv1.0/sparkplug1/NCMD/edge1", payload.SerializeToString(), 1)


@pytest_asyncio.fixture
async def broker() -> AsyncIterator[str]:
    async with Broker() as own:
        yield own.url


@pytest_asyncio.fixture
async def host(broker, until) -> AsyncIterator[Host]:
    listening = Host(broker)
    await until(lambda: listening.ready)
    yield listening
    listening.client.disconnect()
    listening.client.loop_stop()
    listening.client.on_message = listening.client.on_subscribe = None


async def test_births_name_every_metric_and_data_refers_to_them_by_alias(broker, host, until):
    plant = build_plant(tags=30, rate=900, sources={"sparkplug": 1})
    source = plant.sources[0]
    tags = {tag["alias"]: tag for tag in describe(plant, {"sparkplug1": broker})["tags"]}
    async with SparkplugNode(plant, source, broker):
        await until(lambda: len(host.of("NDATA")) > 8 and len(host.of("DDATA")) > 8)
        births = host.of("NBIRTH") + host.of("DBIRTH")
    named = [(birth["device"], metric) for birth in births for metric in birth["metrics"] if "alias" in metric]
    assert len(named) == 30
    for device, metric in named:
        tag = tags[metric["alias"]]
        assert (tag["device_id"], tag["metric"]) == (device, metric["name"])
        assert metric["datatype"] == TYPES[tag["type"]]
        assert metric["properties"].get("engUnit", {}).get(8, b"").decode() == tag["unit"]
        assert metric["properties"]["Quality"][3] in (0, 192)
    controls = {metric["name"]: metric for metric in births[0]["metrics"] if "alias" not in metric}
    assert controls["bdSeq"]["long"] == 0
    assert controls["Node Control/Rebirth"]["boolean"] == 0
    readings = {
        tag.address.alias: {value(tag, n, group.period) for n in range(1, 300)}
        for group in source.groups
        for tag in group.tags
        if tag.type != "float32"
    }
    for message in host.of("NDATA") + host.of("DDATA"):
        for metric in message["metrics"]:
            assert "name" not in metric
            tag = tags[metric["alias"]]
            assert tag["device_id"] == message["device"]
            if metric["alias"] in readings:
                assert metric_value(metric, TYPES[tag["type"]]) in readings[metric["alias"]]
    sequence = [decode(payload)["seq"] for kind, _, payload in host.messages if kind != "NDEATH"]
    assert sequence == [n % 256 for n in range(len(sequence))]


async def test_a_rebirth_is_given_when_asked_for(broker, host, until):
    plant = build_plant(tags=4, rate=80, sources={"sparkplug": 1})
    async with SparkplugNode(plant, plant.sources[0], broker) as node:
        await until(lambda: host.of("DBIRTH"))
        host.rebirth()
        await until(lambda: len(host.of("NBIRTH")) == 2 and len(host.of("DBIRTH")) == 2)
        assert node.births == 2
        host.client.publish("spBv1.0/sparkplug1/NCMD/edge1", b"\xff\xff nonsense", 1)
        host.rebirth()
        await until(lambda: len(host.of("NBIRTH")) == 3)
    assert [birth["seq"] for birth in host.of("NBIRTH")] == [0, 0, 0]
    numbers = [m["long"] for birth in host.of("NBIRTH") for m in birth["metrics"] if m.get("name") == "bdSeq"]
    assert numbers == [0, 0, 0]


async def test_a_broken_connection_gives_a_death_and_a_birth_with_the_next_number(broker, host, until):
    plant = build_plant(tags=4, rate=80, sources={"sparkplug": 1})
    async with SparkplugNode(plant, plant.sources[0], broker) as node:
        await until(lambda: host.of("NDATA"))
        node.session.drop()
        await until(lambda: len(host.of("NBIRTH")) == 2)
        assert len(host.of("NDEATH")) == 1
        births = [m["long"] for birth in host.of("NBIRTH") for m in birth["metrics"] if m.get("name") == "bdSeq"]
        assert births == [0, 1]
    await until(lambda: len(host.of("NDEATH")) == 2)  # leaving in order says so too
    assert [death["metrics"][0]["long"] for death in host.of("NDEATH")] == [0, 1]
    assert all("seq" not in death for death in host.of("NDEATH"))


async def test_devices_die_and_come_back_and_messages_go_missing_on_command(broker, host, until):
    plant = build_plant(tags=4, rate=80, sources={"sparkplug": 1})
    async with SparkplugNode(plant, plant.sources[0], broker) as node:
        await until(lambda: host.of("DDATA"))
        node.kill_device("packer2")
        await until(lambda: host.of("DDEATH"))
        assert host.of("DDEATH")[0]["device"] == "packer2"
        count = len(host.of("NDATA"))
        silent = len(host.of("DDATA"))
        await until(lambda: len(host.of("NDATA")) > count + 3)
        assert len(host.of("DDATA")) == silent
        node.revive_device("packer2")
        await until(lambda: len(host.of("DBIRTH")) == 2 and len(host.of("DDATA")) > silent)
        node.pause()
        at = len(host.messages)
        node.skip_sequence()
        node.send_unknown_alias()
        await until(lambda: len(host.messages) > at)
        sequence = [decode(payload)["seq"] for _, _, payload in host.messages]
        assert (sequence[-1] - sequence[-2]) % 256 == 2
        assert decode(host.messages[-1][2])["metrics"][0]["alias"] == 999_999


async def test_every_number_is_in_the_ledger_once_births_too(broker, host, tmp_path, until):
    plant = build_plant(tags=6, rate=240, sources={"sparkplug": 1}, ledger=True)
    source = plant.sources[0]
    tags = describe_tags(plant, source)
    ledger = Ledger(tmp_path, source.name, source.protocol, tags)
    async with SparkplugNode(plant, source, broker, ledger):
        await until(lambda: len(host.of("DDATA")) > 5)
        host.rebirth()
        await until(lambda: len(host.of("NBIRTH")) == 2)
        count = len(host.of("DDATA"))
        await until(lambda: len(host.of("DDATA")) > count + 5)
    await until(lambda: host.of("NDEATH"))
    ledger.close()
    positions = {tag["alias"]: at for at, tag in enumerate(tags)}
    got = []
    for kind, _, payload in host.messages:
        if kind != "NDEATH":
            for metric in decode(payload)["metrics"]:
                if "alias" in metric:
                    position = positions[metric["alias"]]
                    got.append((position, int(metric_value(metric, TYPES[tags[position]["type"]]))))
    records = read(tmp_path / "sparkplug1.ledger").records
    assert set(records["event"].tolist()) == {SENT}
    assert sorted(got) == sorted(records[["tag", "n"]].tolist())


DECODER = """
const { get } = require("sparkplug-payload");
const sparkplug = get("spBv1.0");
const input = JSON.parse(require("fs").readFileSync(0, "utf8"));
const plain = (key, value) => (typeof value === "bigint" ? value.toString() : value);
const decoded = input.map(text => sparkplug.decodePayload(Buffer.from(text, "base64")));
console.log(JSON.stringify(decoded, (key, value) => value && value.low !== undefined ? Number(value.toString()) : plain(key, value)));
"""


COUNTERPARTS = Path(__file__).resolve().parents[2] / "build" / "counterparts"


def _run(command: list[str], text: str, folder: Path) -> str:
    return subprocess.run(
        command, input=text, cwd=folder, capture_output=True, text=True, check=True, timeout=30
    ).stdout


@pytest.mark.interop("sparkplug-payload")
async def test_a_foreign_decoder_reads_births_and_data(broker, host, until):
    """Against sparkplug-payload (Eclipse Tahu, JavaScript), where the project's counterparts are installed."""
    places = [path.parent for path in COUNTERPARTS.glob("*/node_modules/sparkplug-payload")]
    node = shutil.which("node")
    if not places or node is None:
        pytest.skip("the Sparkplug counterpart is not installed")
    plant = build_plant(tags=30, rate=900, sources={"sparkplug": 1})
    tags = {tag["alias"]: tag for tag in describe(plant, {"sparkplug1": broker})["tags"]}
    async with SparkplugNode(plant, plant.sources[0], broker):
        await until(lambda: len(host.of("DDATA")) > 3)
    messages = [payload for kind, _, payload in host.messages if kind in ("NBIRTH", "DBIRTH", "DDATA")]
    texts = json.dumps([base64.b64encode(payload).decode() for payload in messages])
    answer = await asyncio.to_thread(_run, [node, "-e", DECODER], texts, places[0].parent)
    decoded = json.loads(answer)
    names = {"float64": "Double", "float32": "Float", "uint64": "UInt64", "int32": "Int32"}
    names |= {"bool": "Boolean", "string": "String"}
    born = {m["alias"]: m for payload in decoded[:2] for m in payload["metrics"] if "alias" in m}
    assert set(born) == set(tags)
    for alias, metric in born.items():
        assert metric["name"] == tags[alias]["metric"]
        assert metric["type"] == names[tags[alias]["type"]]
    first = next(metric for metric in born.values() if metric["name"] == "film_tension")
    assert 70 < first["value"] < 100
    assert first["properties"]["engUnit"]["value"] == "N"
