"""What `bifrost explain` says is what the running gateway does: the same input, once through each."""

import asyncio
import contextlib
import json
import re
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from asyncua import Server, ua

from config.loader import load
from config.models import Configuration
from connectors.dry_run import Captured, Message, Registers, Sample
from connectors.wire.sparkplug_values import DataType
from flows.explain import Reading, explain, plain, source_named, sources_of
from normalization.reading import TagTable
from tests.connectors.sources.modbus.device import Request, running, word
from tests.connectors.sources.sparkplug_bench import bdseq, metric, payload, properties
from tests.mosquitto_broker import Broker
from tests.ports import free_port
from tests.running_gateway import gateway, until
from tests.web.client import Client
from web.access.cli_token import cli_token

CONFIG = """
gateway:
  name: gw
  directory: {folder}/data
  cloud:
    default_connector: rest
    connectors:
      rest: {{type: file, endpoint: {folder}/rest}}
      hot: {{type: file, endpoint: {folder}/hot, format: line_protocol}}
      bus:
        type: mqtt
        endpoint: mqtt://127.0.0.1:{mqtt}
        provider_config: {{topic_prefix: out, data_topic: "", topic: "{{path}}"}}
web_ui: {{port: {port}}}
sources:
  - name: lab
    protocol: mqtt
    endpoint: mqtt://127.0.0.1:{mqtt}
    site: hamburg
    subscriptions:
      - {{topic: plant/#, pattern: "plant/{{area}}/{{device_id}}/{{tag_name}}"}}
      - {{topic: spBv1.0/#, format: sparkplug}}
    tags:
      - {{match: "*/temperature", scale: 1.8, offset: 32, unit: °F, report: {{deadband: 5}}}}
      - {{match: "*/level", type: integer}}
  - name: press
    protocol: modbus
    endpoint: {modbus}
    interval: 200ms
    timeout: 20s
    line: line 1
    registers:
      - {{name: speed, address: 10, type: uint32, unit: rpm, scale: 0.1}}
      - {{name: ready, address: 3, type: bit, kind: coil}}
  - name: oven
    protocol: opcua
    endpoint: {opcua}
    nodes: [{{id: "ns=2;s=Heat", unit: °C, equipment: oven}}]
routing_rules:
  - {{name: warm, condition: "unit LIKE '°_' AND value > 50", connectors: [hot, bus], priority: 3}}
  - {{name: bad, condition: "quality <> 'GOOD'", connectors: [bus]}}
"""
SENT = [
    ("plant/hall/boiler/temperature", b'{"value": 30, "timestamp": "2026-03-04T05:06:07Z"}'),
    ("plant/hall/boiler/temperature", b'{"value": 31, "timestamp": "2026-03-04T05:06:08Z"}'),
    ("plant/hall/boiler/state", b'{"mode": "run", "count": 3, "quality": "bad"}'),
    ("plant/hall/boiler/level", b'{"value": "high"}'),
    ("plant/hall/boiler/flow", b'{"value": '),
    ("spBv1.0/G/NBIRTH/N", payload(0, bdseq(0))),
    ("spBv1.0/G/DBIRTH/N/D", payload(1, properties(metric(DataType.DOUBLE, 60.5, "temp", 7), engUnit="°C"))),
    ("spBv1.0/G/DDATA/N/D", payload(2, metric(DataType.DOUBLE, 70.25, alias=7))),
]
POSTED = [  # for which target alone, and what
    ("", {"device_id": "PLC/1", "tag_name": "weight", "value": 2**60, "timestamp": "2026-03-04T05:06:07.5Z"}),
    ("", {"device_id": "PLC/1", "tag_name": "state", "value": {"mode": [1, None]}, "quality": "BAD"}),
    (
        "hot",
        {
            "device_id": "PLC/1",
            "tag_name": "temperature",
            "value": 61.5,
            "quality": "UNCERTAIN",
            "timestamp": "2026-03-04T05:06:08Z",
        },
    ),
]
HEAT, MEASURED = 75.5, datetime(2026, 3, 4, 5, 6, 7, 250_000, tzinfo=UTC)


@asynccontextmanager
async def oven(port: int) -> AsyncIterator[str]:
    """An OPC UA server with one node."""
    server = Server()
    await server.init()
    server.set_endpoint(f"opc.tcp://127.0.0.1:{port}/oven")
    await server.register_namespace("urn:oven")
    node = await server.nodes.objects.add_variable(ua.NodeId("Heat", 2), "2:Heat", 0.0, ua.VariantType.Float)
    async with server:
        status = ua.StatusCode(ua.StatusCodes.UncertainSensorNotAccurate)
        value = ua.Variant(HEAT, ua.VariantType.Float)
        when = MEASURED.replace(tzinfo=None)
        await server.write_attribute_value(node.nodeid, ua.DataValue(value, status, when))
        yield f"opc.tcp://127.0.0.1:{port}/oven"


def kept(said: dict[str, Any]) -> dict[str, Any]:
    """What does not depend on when a reading came, among which others, and which journal it was in."""
    return {key: part for key, part in said.items() if key not in ("shard", "sequence", "received_time")}


def lines(folder: Path) -> list[str]:
    return [line for file in sorted(folder.glob("*")) for line in file.read_text().splitlines()]


def explained(config: Configuration, source: str, *captured: Captured) -> list[Reading]:
    """What explain says of everything that came, one after the other."""
    (one,) = [one for one in config.sources if one.name == source]
    found = []
    for last in range(1, len(captured) + 1):
        found += explain(config, one, captured[:last], TagTable(), 1_800_000_000_000_000).readings
    return found


def written(readings: list[Reading], target: str) -> list[str]:
    """The payloads that a target would get."""
    return [
        (one.payload or b"").decode()
        for reading in readings
        for found in reading.targets
        if found.name == target
        for one in found.written
    ]


def without_numbers(line: str) -> str:
    """A line of line protocol without its number and the journal that gave it."""
    return re.sub(r",shard=[^ ]+|,sequence=\d+i", "", line.rstrip())


def listens(port: int) -> bool:
    """Whether somebody takes connections there."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def post(folder: Path, port: int, target: str, body: dict[str, Any]) -> None:
    """Hand a reading to the gateway."""
    client = Client(port, {"authorization": f"Bearer {cli_token(folder / 'data')}"})
    place = f"/api/cloud/connectors/{target}/data" if target else "/api/data"
    assert client.post(place, json=body).status_code == 200


def posted(config: Configuration, target: str, body: dict[str, Any]) -> list[Reading]:
    """What explain says of a reading that is handed over."""
    source = f"api/{target}" if target else "api"
    ((_, row),) = sources_of(config, body["tag_name"], source, body["device_id"])
    when = body.get("timestamp")
    micros = None if when is None else round(datetime.fromisoformat(when).timestamp() * 1e6)
    one = source_named(config, source)
    assert one is not None
    return explain(config, one, [Sample(row, body["value"], body.get("quality", ""), micros)], TagTable(), 0).readings


async def answer(*arguments: str) -> str:
    """What a verb prints."""
    command = [sys.executable, "-m", "bifrost", *arguments]
    return (await asyncio.to_thread(subprocess.run, command, capture_output=True, check=True, text=True)).stdout


async def test_explain_says_of_every_protocol_what_the_gateway_does(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    (tmp_path / "broker").mkdir()
    async with Broker(tmp_path / "broker") as broker, running() as device, oven(free_port()) as opcua:
        port = free_port()
        text = CONFIG.format(folder=tmp_path, mqtt=broker.port, modbus=device.endpoint, opcua=opcua, port=port)
        file.write_text(text)
        with (tmp_path / "heard").open("wb") as heard:
            command = ["mosquitto_sub", "-h", "127.0.0.1", "-p", str(broker.port), "-t", "out/#", "-v"]
            listener = await asyncio.create_subprocess_exec(*command, stdout=heard)
            try:
                with gateway(file):
                    await until(lambda: broker.log().count("Sending SUBACK") >= 2 and listens(port), file)
                    for topic, sent in SENT:
                        command = [
                            "mosquitto_pub",
                            "-h",
                            "127.0.0.1",
                            "-p",
                            str(broker.port),
                            "-q",
                            "1",
                            "-t",
                            topic,
                            "-s",
                        ]
                        await asyncio.to_thread(subprocess.run, command, input=sent, check=True)
                    for target, body in POSTED:
                        await asyncio.to_thread(post, tmp_path, port, target, body)

                    def arrived() -> bool:
                        said = "".join(lines(tmp_path / "rest") + lines(tmp_path / "hot"))
                        bus = (tmp_path / "heard").read_text()
                        ends = ("press", "oven", "70.25", "uncertain", "mode", "61.5", str(2**60), "[1,null]")
                        return all(end in (said + bus).lower() for end in ends)

                    await until(arrived, file, 30)
            finally:
                listener.kill()
                await listener.wait()
    config = load(file)
    readings = explained(config, "lab", *(Message(topic, sent) for topic, sent in SENT))
    ten, three = Request(0, 1, 3, 10, 2), Request(0, 1, 1, 3, 1)
    readings += explained(config, "press", Registers(10, (word(ten, 10), word(ten, 11))))
    readings += explained(config, "press", Registers(3, (word(three, 3) & 1,), "coil"))
    measured = round(MEASURED.timestamp() * 1e6)
    (row,) = next(one for one in config.sources if one.name == "oven").named_rows()
    heat = Sample(row, HEAT, "UncertainSensorNotAccurate", measured, "Float")
    readings += explained(config, "oven", heat)
    for target, body in POSTED:
        readings += posted(config, target, body)
    assert [target.because for target in readings[-1].targets] == [["it was posted for this target alone"]]
    assert readings[-1].rules == []

    def once(found: list[str]) -> set[str]:
        """Each line once, because Modbus is read again and again; a server's name is known at the server only."""
        known = [
            kept(json.loads(line)) for line in found if '\\"state\\":' not in line
        ]  # of a connection, on a slow machine
        return {
            json.dumps(one | {"device_id": ""} if one["source"] == "oven" else one, sort_keys=True) for one in known
        }

    assert once(written(readings, "rest")) == once(lines(tmp_path / "rest"))
    hot = {without_numbers(line) for line in lines(tmp_path / "hot")}
    assert {without_numbers(line) for line in written(readings, "hot")} == hot
    bus = [line.partition(" {") for line in (tmp_path / "heard").read_text().splitlines()]
    assert once(written(readings, "bus")) == once(["{" + said for _, _, said in bus])
    topics = {one.place for reading in readings for t in reading.targets if t.name == "bus" for one in t.written}
    assert topics == {topic for topic, _, _ in bus}

    # what went nowhere, with the reasons that the gateway gives
    dead = {reading.dead_letter for reading in readings if reading.dead_letter}
    left_out = [reading.left_out for reading in readings if reading.left_out]
    told = await answer("dlq", "list", "-c", str(file), "--json", "--each")
    assert len(dead) == 2
    assert all(json.dumps(reason, ensure_ascii=False)[1:-1] in told for reason in dead), (dead, told)
    assert left_out == ["report by exception: deadband"]
    ledger = await answer("ledger", "-c", str(file), "--json")
    assert json.loads(ledger)["unaccounted"] == 0
    assert '"deadband": 1' in ledger


def test_the_explanation_is_plain_json(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(
        CONFIG.format(folder=tmp_path, mqtt=1883, modbus="tcp://127.0.0.1", opcua="opc.tcp://127.0.0.1", port=1)
    )
    config = load(file)
    source = config.sources[0]
    sent = [Message(topic, data) for topic, data in SENT[-3:]]
    told = plain(explain(config, source, sent, TagTable(), 0))
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    (reading,) = told["readings"]
    assert reading["normalized"]["value"] == 70.25
