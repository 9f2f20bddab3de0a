"""What is found out about servers of others, with one connection to each; OPC UA stands beside its readers."""

import asyncio
from pathlib import Path

import pytest
from pymodbus import ModbusDeviceIdentification
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

from discovery.draft import draft
from tests.certificates import Authority
from tests.connectors.sources.modbus import node_devices
from tests.connectors.sources.sparkplug_edges import edge_node, install
from tests.discovery.connections import listening
from tests.discovery.scans import found_at, loads, scanned, section
from tests.mosquitto_broker import Broker

# ---------------------------------------------------------------------- MQTT


@pytest.mark.interop("mosquitto", "discovery: anonymous users and Sparkplug B")
@pytest.mark.parametrize("version", ["3.1.1", "5"])
async def test_a_broker_that_lets_anybody_in_and_its_edge_nodes_are_seen(tmp_path: Path, version: str) -> None:
    install("sparkplug")
    async with Broker(tmp_path) as broker, edge_node(broker.port) as edge:
        await edge.until("born")
        looking = asyncio.create_task(found_at(tmp_path, "mqtt", broker.port, wait=1, mqtt={"version": version}))
        await broker.until_logged(lambda log: "Received SUBSCRIBE from bifrost" in log)
        await edge.tell("ndata", [{"name": "up", "type": "Int32", "value": 1}])
        found = await looking
        await broker.until_logged(lambda log: "Received DISCONNECT from bifrost" in log)
        ours = [line for line in broker.log().splitlines() if "from bifrost" in line]
    assert (found.detail["anonymous"], found.detail["code"], found.detail["version"]) == ("accepted", 0, version)
    assert found.detail["sparkplug"]["groups"] == {"G": ["N"]}
    assert not any("PUBLISH" in line for line in ours)
    source = loads(tmp_path, found)
    assert (source.version, source.subscriptions[0].format) == (version, "sparkplug")


@pytest.mark.interop("mosquitto", "discovery: a broker that wants a login, with TLS")
async def test_a_broker_that_wants_a_login_says_so_and_shows_its_certificate(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    tls = [f"certfile {authority.server_cert}", f"keyfile {authority.server_key}"]
    async with Broker(tmp_path, ["allow_anonymous false", *tls]) as broker:
        found = await found_at(tmp_path, "mqtts", broker.port)
        older = await found_at(tmp_path / "b", "mqtts", broker.port, mqtt={"version": "5"})
    assert (found.detail["anonymous"], found.detail["answer"]) == ("refused", "not authorized")
    assert older.detail["code"] == 135
    assert len(found.detail["tls"]["certificate"]["sha256"]) == 64
    source = loads(tmp_path, found)
    assert (source.endpoint, source.tls is not None) == (f"mqtts://127.0.0.1:{broker.port}", True)


async def test_a_broker_that_wants_a_certificate_of_its_clients_is_seen(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    async with Broker(tmp_path, ["allow_anonymous true", *authority.mosquitto(), "require_certificate true"]) as broker:
        found = await found_at(tmp_path, "mqtts", broker.port)
    assert found.detail["speaks"] is False
    assert "a certificate of its clients" in found.detail["problem"]
    assert len(found.detail["tls"]["certificate"]["sha256"]) == 64
    assert draft(found) is None


async def test_a_broker_of_the_other_version_is_named_as_such(tmp_path: Path) -> None:
    async with listening(says=b"\x20\x02\x00\x01") as old:
        found = await found_at(tmp_path, "mqtt", old.port, mqtt={"version": "5"})
        assert old.received[8] == 5
    assert (found.detail["version"], found.detail["anonymous"]) == ("3.1.1", "unknown")
    assert found.detail["answer"] == "does not take MQTT 5"


# ---------------------------------------------------------------------- Modbus


@pytest.mark.interop("modbus-serial", "discovery: who a device is")
async def test_modbus_serial_says_who_it_is(tmp_path: Path) -> None:
    node_devices.install()
    with node_devices.node() as (ports, _):
        found = await found_at(tmp_path, "modbus", ports["serial"], modbus={"units": [1, 8]})
        silent = await scanned(
            tmp_path / "b", section(ports={"modbus": [ports["js"]]}, timeout=0.2, modbus={"units": [1]})
        )
    said = found.detail["units"]["1"]
    assert said["answers"] == "yes"
    assert said["vendor"]
    assert found.detail["units"]["8"]["answers"].startswith(("yes", "nobody"))
    source = loads(tmp_path, found)
    assert (source.endpoint, source.unit_id) == (f"tcp://127.0.0.1:{ports['serial']}", 1)
    assert len(silent) == 1  # jsmodbus does not know 43/14


@pytest.mark.interop("pymodbus", "discovery: who a device is")
async def test_a_device_of_pymodbus_says_who_it_is(tmp_path: Path) -> None:
    device = SimDevice(1, [SimData(0, values=[7], datatype=DataType.REGISTERS)])
    identity = ModbusDeviceIdentification(
        info_name={"VendorName": "Acme", "ProductCode": "P1", "MajorMinorRevision": "2.1"}
    )
    server = ModbusTcpServer(device, identity=identity, address=("127.0.0.1", 0))
    await server.serve_forever(background=True)
    try:
        port = server.transport.sockets[0].getsockname()[1]
        found = await found_at(tmp_path, "modbus", port, modbus={"units": [1]})
    finally:
        await server.shutdown()
    said = found.detail["units"]["1"]
    assert (said["vendor"], said["product"], said["revision"]) == ("Acme", "P1", "2.1")
