"""A scan as the servers see it: how often, how many at once, how fast, and what is sent; threat 7."""

import asyncio
import time
from itertools import pairwise
from pathlib import Path

import pytest

from discovery.desk import DiscoveryDesk
from discovery.draft import draft
from discovery.servers import Server
from tests.connectors.sources.modbus.device import IDENTIFY, Device, exception
from tests.connectors.sources.modbus.device import running as modbus_device
from tests.discovery.connections import listening, watched
from tests.discovery.scans import scanned, section
from tests.ports import free_port


def identification(**texts: str) -> bytes:
    encoded = [text.encode() for text in texts.values()]
    objects = b"".join(bytes([number, len(text)]) + text for number, text in enumerate(encoded))
    return bytes([IDENTIFY, 14, 1, 1, 0, 0, len(texts)]) + objects


def port_of(device: Device) -> int:
    return int(device.endpoint.rpartition(":")[2])


# ---------------------------------------------------------------------- threat 7


@pytest.mark.threat(7)
async def test_a_plc_gets_one_connection_per_port_and_nothing_that_writes(tmp_path: Path) -> None:
    async with modbus_device() as plc, modbus_device() as other, listening() as opcua, listening() as mqtt:
        plc.identify = lambda _: identification(vendor="Acme", product="P-1", revision="2")
        ports = {"modbus": [port_of(plc), port_of(other)], "opcua": [opcua.port], "mqtt": [mqtt.port]}
        with watched() as seen:
            found = await scanned(tmp_path, section(ports=ports, timeout=0.3))
        assert sorted(port for _, _, port in seen) == sorted([*ports["modbus"], opcua.port, mqtt.port])
        assert (plc.connections, other.connections, opcua.taken, mqtt.taken) == (1, 1, 1, 1)
        # who it is, of two units; nothing else, and nothing at all that writes (the device fails the test for that)
        assert [(request.function, request.unit) for request in plc.requests] == [(IDENTIFY, 255), (IDENTIFY, 1)]
        assert opcua.received[:4] == b"HELF"
        assert opcua.received[4:8] == len(opcua.received).to_bytes(4, "little")  # one message
        assert mqtt.received[:1] == b"\x10"
        assert len(mqtt.received) == 2 + mqtt.received[1]  # one packet
    assert {server.detail["speaks"] for server in found} == {True, False}


@pytest.mark.threat(7)
async def test_a_host_has_one_connection_at_a_time(tmp_path: Path) -> None:
    async with listening() as first:
        ports = [first.port, *[free_port() for _ in range(3)]]
        more = [await asyncio.start_server(first.serve, "127.0.0.1", port) for port in ports[1:]]
        await scanned(tmp_path, section(ports={"modbus": ports}, timeout=0.1))
        for server in more:
            server.close()
        assert (first.taken, first.most) == (4, 1)


@pytest.mark.threat(7)
async def test_no_more_connections_are_begun_in_a_second_than_is_said(tmp_path: Path) -> None:
    port = free_port()
    with watched() as seen:
        await scanned(tmp_path, section(("127.0.0.0/28",), rate=20, ports={"modbus": [port]}))
    moments = [moment for moment, _, _ in seen]
    assert {host for _, host, _ in seen} == {f"127.0.0.{n}" for n in range(1, 15)}
    assert min(after - before for before, after in pairwise(moments)) > 1 / 20 - 0.002


def test_the_default_is_ten_connections_a_second_and_the_most_a_hundred() -> None:
    from discovery.settings import NetworkSection

    assert NetworkSection.model_validate({}).max_connections_per_second == 10
    with pytest.raises(ValueError, match="less than or equal to 100"):
        NetworkSection.model_validate({"max_connections_per_second": 101})


@pytest.mark.threat(7)
@pytest.mark.parametrize("protocol", ["opcua", "mqtt", "mqtts", "modbus"])
async def test_a_stop_ends_everything_within_a_second_and_keeps_what_was_found(tmp_path: Path, protocol: str) -> None:
    async with modbus_device() as plc, listening() as silent:
        plc.identify = lambda _: identification(vendor="Acme")
        ports: dict[str, list[int]] = {"modbus": [port_of(plc)]}
        ports = {**ports, protocol: [silent.port, *([*ports["modbus"]] if protocol == "modbus" else [])]}
        desk = DiscoveryDesk(section(("127.0.0.1/32", "127.0.0.2/31"), timeout=10, ports=ports), tmp_path)
        desk.scan(who="somebody")
        async with asyncio.timeout(10):
            while silent.taken == 0:
                await asyncio.sleep(0.01)
        began = time.monotonic()
        assert await asyncio.to_thread(desk.stop)
        async with asyncio.timeout(1):
            while silent.open:
                await asyncio.sleep(0.01)
        assert time.monotonic() - began < 1
        assert not desk.listing()["running"]
        assert desk.listing()["scanned_time"] is None  # of all subnets
        assert (tmp_path / "discovery.json").exists()
        assert not await asyncio.to_thread(desk.stop)


@pytest.mark.threat(7)
async def test_nothing_is_scanned_unless_it_is_switched_on(tmp_path: Path) -> None:
    from config.loader import load

    (tmp_path / "g.yaml").write_text("discovery: {network: {subnets: [127.0.0.1/32]}}\n")
    desk = DiscoveryDesk(load(tmp_path / "g.yaml").discovery, tmp_path)
    with watched() as seen, pytest.raises(ValueError, match=r"discovery is off; set discovery\.enabled"):
        desk.scan()
    desk.start()
    assert seen == []


# ---------------------------------------------------------------------- what hostile servers get

GARBAGE = {
    "zeros": b"\x00" * 65536, "ones": b"\xff" * 65536, "text": b"HTTP/1.1 400 Bad Request\r\n\r\n" * 2000,
    "opcua": b"ACKF\x1c\x00\x00\x00" + b"\x00" * 20 + b"MSGC\xff\xff\xff\x7f" * 5000,
    "mqtt": b"\x20\x03\x00\x00\x00" + b"\x30\xff\xff\xff\x7f" + b"spBv1.0/" * 8000,
}  # fmt: skip


@pytest.mark.threat(7)
@pytest.mark.parametrize("name", GARBAGE)
async def test_a_server_that_never_stops_talking_nonsense_ends_no_scan(tmp_path: Path, name: str) -> None:
    async with listening(says=GARBAGE[name], forever=True) as a, listening(says=GARBAGE[name], forever=True) as b:  # noqa: SIM117
        async with listening(says=GARBAGE[name], forever=True) as c, listening(says=GARBAGE[name], forever=True) as d:
            ports = {"opcua": [a.port], "mqtt": [b.port], "mqtts": [c.port], "modbus": [d.port]}
            async with asyncio.timeout(15):
                found = await scanned(tmp_path, section(ports=ports, timeout=0.2, wait=0.2))
    assert len(found) == 4
    spoken = {server.protocol for server in found if server.detail["speaks"]}
    assert spoken <= {"mqtt"}  # its first packet was a good one
    assert all(server.detail.get("problem") or server.detail["sparkplug"] for server in found)
    assert all(len(str(server.detail)) < 2000 for server in found)


async def test_what_a_server_says_is_kept_short_and_printable(tmp_path: Path) -> None:
    async with modbus_device() as plc:
        plc.identify = lambda _: identification(vendor="A\x1b[31m\n\u2028B", product="P" * 60, revision="</script>")
        (found,) = await scanned(tmp_path, section(ports={"modbus": [port_of(plc)]}))
        said = found.detail["units"]["255"]
        assert all(text.isprintable() for text in said.values())
        drafted = draft(found)
        assert drafted is not None
        assert drafted.yaml.isascii() or "\u2028" not in drafted.yaml


async def test_silent_units_are_not_asked_for_long(tmp_path: Path) -> None:
    async with modbus_device() as plc:
        plc.identify = lambda request: exception(request, 1) if request.unit == 9 else None
        wanted = section(ports={"modbus": [port_of(plc)]}, timeout=0.1, modbus={"units": [1, 9, 2, 3, 4, 5]})
        (found,) = await scanned(tmp_path, wanted)
        assert [request.unit for request in plc.requests] == [1, 9, 2, 3]
        assert {unit: said["answers"] for unit, said in found.detail["units"].items()} == {
            "1": "nothing", "9": "yes, but not who it is", "2": "nothing", "3": "nothing",
        }  # fmt: skip


async def test_a_register_is_read_only_where_one_is_named(tmp_path: Path) -> None:
    async with modbus_device() as plc:
        wanted = section(ports={"modbus": [port_of(plc)]}, modbus={"units": [1], "register_address": 5})
        (found,) = await scanned(tmp_path, wanted)
        assert [(request.function, request.address, request.count) for request in plc.requests] == [
            (IDENTIFY, 0, 0),
            (3, 5, 1),
        ]
        assert found.detail["units"]["1"]["register"]["address"] == 5


def test_a_server_is_named_by_letters_digits_and_hyphens() -> None:
    from ipaddress import ip_address

    from discovery.coverage import Place
    from discovery.servers import server_id

    assert server_id(Place(ip_address("10.0.0.1"), 4840, "opcua")) == "opcua-10-0-0-1-4840"
    assert len(server_id(Place(ip_address("ffff::1"), 65535, "modbus"))) <= 63
    assert Server.__slots__
