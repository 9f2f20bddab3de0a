"""The examples that the project grew from run as written, endpoints and files apart, and readings come where they say."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlencode

from connectors.targets.zerobus import ddl
from tests.certificates import Authority
from tests.connectors.targets.zerobus_emulator import CLIENT, SECRET, Emulator
from tests.influx_server import Influx1
from tests.iot_clouds import AwsIot
from tests.mosquitto_broker import Broker
from tests.ports import free_port
from tests.running_gateway import CELL, ROOT, gateway, until

SEEDS = Path(__file__).parent / "seeds"
SENT = [
    ("plant/PLC001/temperature", {"value": 1.5}),
    ("plant/PLC002/temperature", {"value": 2.5}),
    ("plant/PLC002/pressure", {"value": 3.5, "quality": "ALARM"}),
    ("plant/PLC001/pressure", {"value": 4.5}),
    ("plant/PLC003/speed", {"value": 5.5}),
]


def seed(name: str) -> str:
    return (SEEDS / f"{name}.yaml").read_text("utf-8")


def replaced(text: str, *changes: tuple[str, str]) -> str:
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    return text


@contextmanager
def listening(port: int, out: BinaryIO) -> Iterator[None]:
    """What is published under bifrost/ is written to a file, a line each."""
    command = ["mosquitto_sub", "-h", "127.0.0.1", "-p", str(port), "-t", "bifrost/#", "-v"]
    process = subprocess.Popen(command, stdout=out)
    try:
        yield
    finally:
        process.kill()
        process.wait()


async def test_the_connectors_and_routing_rules_of_the_cloud_example_run(tmp_path: Path) -> None:
    certificates = Authority(tmp_path / "certificates")
    aws, influx = AwsIot(certificates), Influx1()
    made = urlencode({"q": "CREATE USER admin WITH PASSWORD 'password' WITH ALL PRIVILEGES"})
    assert influx.call("POST", "/query", made.encode())[0] == 200
    (tmp_path / "broker").mkdir()
    async with Broker(tmp_path / "broker") as broker:
        port = free_port()
        mqtt = replaced(
            seed("cloud_gateway"),
            ("tcp://localhost:1883", f"tcp://127.0.0.1:{broker.port}"),
            ("/tmp/bifrost-cloud-buffer", str(tmp_path / "data")),
            ("port: 8080", f"port: {port}"),
        )
        files = [
            (f"/etc/ssl/{name}", str(path))
            for name, path in (
                ("certs/device-cert.pem", certificates.client_cert),
                ("private/device-key.pem", certificates.client_key),
                ("certs/amazon-root-ca-1.pem", certificates.ca),
            )
        ]
        cloud = replaced(
            seed("cloud_aws_iot"),
            ("your-endpoint.iot.us-east-1.amazonaws.com", f"127.0.0.1:{aws.port}"),
            *files,
        )
        history = replaced(seed("cloud_influxdb"), ("http://localhost:8086", influx.url))
        blocks = "".join(f"      {line}\n" for line in f"{cloud}\n{history}".splitlines())
        file = tmp_path / "gateway.yaml"
        rules = seed("cloud_routing_rules")
        file.write_text(f"{mqtt.rstrip()}\n{blocks}\n{rules}\n{CELL.format(port=broker.port)}")
        received = tmp_path / "received"
        with received.open("wb") as out, listening(broker.port, out), gateway(file):
            await until(lambda: "plant/+/+ (QoS" in broker.log(), file)
            for topic, payload in SENT:
                await broker.publish(topic, json.dumps(payload))
            await until(lambda: at_aws(aws) >= {1.5, 3.5, 4.5} and at_influx(influx) >= {1.5, 2.5, 4.5}, file)
            await until(lambda: received.read_bytes().count(b"\n") >= 4, file)
    said = [line.partition(" ") for line in received.read_text().splitlines()]
    assert {json.loads(payload)["value"] for _, _, payload in said} == {1.5, 2.5, 3.5, 5.5}
    assert all(topic.startswith("bifrost/industrial/") for topic, _, _ in said)
    assert at_aws(aws) == {1.5, 3.5, 4.5}
    assert at_influx(influx) == {1.5, 2.5, 4.5}
    assert [name for name in aws.shadows if "bifrost-gateway-001" in name]
    assert aws.broken == []
    aws.end()
    influx.end()


def at_aws(service: AwsIot) -> set[float]:
    found: set[float] = set()
    for message in list(service.published):
        if not message.topic.startswith("$"):
            found |= {item["value"] for item in json.loads(message.payload)}
    return found


def at_influx(server: Influx1) -> set[float]:
    series = server.query('SELECT value FROM "bifrost".."industrial_data" GROUP BY *') if has_database(server) else []
    return {row[found["columns"].index("value")] for found in series for row in found["values"]}


def has_database(server: Influx1) -> bool:
    return any(["bifrost"] in found["values"] for found in server.query("SHOW DATABASES"))


async def test_each_source_of_the_production_example_fills_its_own_table(tmp_path: Path) -> None:
    emulator = Emulator(tmp_path / "emulator")
    names = [f"manufacturing.plant1.{name}" for name in ("opcua_data", "mqtt_data")]
    for name in names:
        emulator.call("POST", "/tables", {"name": name, "ddl": ddl(name).split(";\n")[0] + ";"})
    described = tmp_path / "plant.json"
    opcua = free_port()
    command = [
        sys.executable,
        "-m",
        "bifrost",
        "sim",
        "opcua",
        "--ports",
        f"opcua={opcua}",
        "--describe",
        str(described),
    ]
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    plant = await asyncio.create_subprocess_exec(*command, cwd=ROOT, **silent)
    (tmp_path / "broker").mkdir()
    file = tmp_path / "gateway.yaml"
    try:
        async with Broker(tmp_path / "broker") as broker:
            await until(described.exists, file)
            where = {
                "endpoint": emulator.endpoint,
                "workspace_url": emulator.url,
                "client_id": CLIENT,
                "client_secret": SECRET,
            }
            access = "".join(f"  {key}: {value}\n" for key, value in where.items())
            file.write_text(
                replaced(
                    seed("production_multi_source"),
                    ("opc.tcp://10.1.1.100:4840", f"opc.tcp://127.0.0.1:{opcua}"),
                    ("mqtt://10.1.1.101:1883", f"mqtt://127.0.0.1:{broker.port}"),
                    ("zerobus:\n", f"zerobus:\n{access}"),
                )
                + f"gateway:\n  directory: {tmp_path}/data\n  port: {free_port()}\n"
            )
            with gateway(file):
                await until(lambda: "\t# (QoS" in broker.log(), file)
                await broker.publish("line2/robot1/speed", json.dumps({"value": 7.5}))
                await until(lambda: all(len(read(emulator, name)) for name in names), file)
            from_opcua, from_mqtt = (read(emulator, name) for name in names)
    finally:
        plant.kill()
        await plant.wait()
        emulator.kill()
    assert {row["source"] for row in from_opcua} == {"plant1_opcua"}
    assert {row["path"].split("/")[:3] == ["plant1", "production", "line1"] for row in from_opcua} == {True}
    assert [(row["source"], row["value"], row["line"]) for row in from_mqtt] == [("plant1_mqtt", 7.5, "line2")]


def read(emulator: Emulator, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = emulator.rows(name).to_pylist()
    return found
