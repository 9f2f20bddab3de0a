"""Which addresses may be connected to: by a scan within its list, and by a trial of what a user entered."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from connectors.sources.modbus import ModbusConfig
from connectors.sources.mqtt import MqttConfig
from connectors.sources.opcua import OpcUaConfig
from connectors.targets.influxdb import InfluxConfig
from connectors.targets.kafka import KafkaConfig
from discovery.coverage import ScanRefusedError, chosen, covered
from discovery.guard import Guard, RefusedAddressError, network_of, pinned, places, refusal_of, resolve
from discovery.settings import NetworkSection, PortSettings
from tests.discovery.connections import listening, watched
from tests.discovery.scans import scanned, section


def guard(*networks: str, own: int | None = None) -> Guard:
    return Guard(tuple(network_of(text) for text in networks), own)


# ---------------------------------------------------------------------- threat 6: a scan

OUTSIDE = [  # an address as somebody might write it to get a scan elsewhere; the list is 127.0.0.1/32
    "169.254.169.254", "169.254.170.2", "100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254",
    "127.0.0.2", "127.1", "127.0.1", "127.0.0.01", "0177.0.0.1", "0x7f.1", "0x7f000001", "2130706433", "127.0.0.1.",
    "127.0.0.0/8", "127.0.0.0/31", "0.0.0.0", "0.0.0.0/0", "0", "::", "::/0", "::1", "[::1]", "::ffff:127.0.0.1",
    "::ffff:127.0.0.2", "::ffff:7f00:1", "::127.0.0.1", "::ffff:169.254.169.254", "::ffff:0:127.0.0.2", "64:ff9b::7f00:2",
    "64:ff9b:1::a9fe:a9fe", "2002:7f00:1::", "2001:0:7f00:1::", "fe80::1", "fe80::1%lo", "fec0::1", "ff02::1", "224.0.0.1",
    "239.255.255.250", "255.255.255.255", "240.0.0.1", "10.0.0.1", "192.168.1.1", "8.8.8.8", "2001:4860:4860::8888",
    "localhost", "localhost.localdomain", "localtest.me", "metadata.google.internal", "instance-data", "127.0.0.1.nip.io",
    "http://127.0.0.2", "http://169.254.169.254/latest/meta-data/", "opc.tcp://127.0.0.2:4840", "127.0.0.1@127.0.0.2",
    "127.0.0.1#@127.0.0.2", "127.0.0.1 127.0.0.2", "127.0.0.1,127.0.0.2", "127.0.0.1\n127.0.0.2", "127.0.0.1\t", "", " ",
    "①②⑦.⓪.⓪.②", "127。0。0。2", "１２７.0.0.2", "../127.0.0.2", "127.0.0.1/33", "127.0.0.1/-1", "file:///etc/passwd",
]  # fmt: skip


@pytest.mark.threat(6)
async def test_a_scan_of_what_is_not_listed_sends_nothing(tmp_path: Path) -> None:
    assert len(OUTSIDE) >= 60
    async with listening("127.0.0.2") as outside, listening("127.0.0.1", outside.port) as listed:
        wanted = section(ports={"modbus": [outside.port]})
        with watched() as seen:
            for text in OUTSIDE:
                with pytest.raises(ScanRefusedError):
                    await scanned(tmp_path, wanted, [text])
        assert seen == []
        assert (outside.taken, listed.taken) == (0, 0)
        assert not (tmp_path / "discovery.json").exists()


FORBIDDEN = [  # never connected to, even by a configuration that lists them
    "169.254.169.254/32", "169.254.0.0/24", "100.100.100.200/32", "168.63.129.16/32", "192.0.0.192/32", "fd00:ec2::254/128",
    "0.0.0.0/24", "224.0.0.0/24", "239.255.255.250/32", "240.0.0.0/24", "255.255.255.255/32", "fe80::/120", "ff02::/120",
    "64:ff9b::7f00:0/120", "2002:7f00:1::/120", "2001:0:7f00:1::/120", "::/127", "64:ff9b:1::/120",
]  # fmt: skip


@pytest.mark.threat(6)
@pytest.mark.parametrize("network", FORBIDDEN)
async def test_what_is_never_connected_to_is_left_out_even_where_it_is_listed(tmp_path: Path, network: str) -> None:
    with watched() as seen:
        assert await scanned(tmp_path, section((network,), ports={"modbus": [5020]})) == []
    assert seen == []


@pytest.mark.threat(6)
async def test_a_scan_does_not_reach_the_gateways_own_api(tmp_path: Path) -> None:
    async with listening() as api, listening() as other:
        wanted = section(ports={"modbus": [api.port, other.port]}, timeout=0.2)
        (found,) = await scanned(tmp_path, wanted, own_port=api.port)
        assert (found.port, api.taken, other.taken) == (other.port, 0, 1)


@pytest.mark.threat(6)
def test_loopback_is_scanned_only_where_it_is_listed_itself() -> None:
    assert guard("127.0.0.0/30").refusal("127.0.0.1", 502) == ""
    assert guard("::1/128").refusal("::1", 502) == ""
    for wide in (guard("0.0.0.0/0"), guard("126.0.0.0/7"), guard("::/0")):
        assert wide.refusal("127.0.0.1", 502)
        assert wide.refusal("::1", 502)
    assert "lies outside" in guard("127.0.0.1/32").refusal("10.0.0.1", 502)


def test_the_addresses_of_a_whole_network_are_no_hosts() -> None:
    judge = guard("10.0.0.0/29", "10.1.0.0/31", "fd00::/126")
    ports = PortSettings.model_validate({"opcua": [], "mqtt": [], "mqtts": [], "modbus": [502]})
    found = [str(place.address) for place in covered(judge.networks or (), ports, judge)]
    assert found[:6] == [f"10.0.0.{n}" for n in range(1, 7)]
    assert found[6:] == ["10.1.0.0", "10.1.0.1", "fd00::", "fd00::1", "fd00::2", "fd00::3"]
    assert judge.refusal("10.0.0.7", 502)


def test_ports_are_asked_one_after_the_other_over_all_hosts() -> None:
    judge = guard("10.0.0.0/30")
    ports = PortSettings.model_validate({"opcua": [4840], "mqtt": [1883], "mqtts": [], "modbus": []})
    order = [(str(place.address)[-1], place.port) for place in covered(judge.networks or (), ports, judge)]
    assert order == [("1", 4840), ("2", 4840), ("1", 1883), ("2", 1883)]


@pytest.mark.threat(7)
def test_a_scan_covers_a_22_at_most() -> None:
    wide = NetworkSection.model_validate({"subnets": ["10.0.0.0/16", "10.0.0.0/24", "192.168.0.0/24"]})
    with pytest.raises(ScanRefusedError, match="more than the 1024"):
        chosen(wide)
    with pytest.raises(ScanRefusedError, match="more than the 1024"):
        chosen(wide, ["10.0.0.0/22", "192.168.0.0/24"])
    assert [str(each) for each in chosen(wide, ["10.0.4.0/22", "10.0.4.0/24", "10.0.7.1"])] == ["10.0.4.0/22"]
    with pytest.raises(ScanRefusedError, match="no network may be scanned"):
        chosen(NetworkSection.model_validate({}))
    with pytest.raises(ScanRefusedError, match="no network is named"):
        chosen(wide, [])


# ---------------------------------------------------------------------- threat 6: what a user entered


USER_REFUSED = [
    "169.254.169.254", "169.254.169.254.", "0xa9.0xfe.0xa9.0xfe", "0xa9fea9fe", "2852039166", "169.254.43518", "0251.0376.0251.0376",
    "[::ffff:169.254.169.254]", "[::ffff:a9fe:a9fe]", "[fe80::1]", "[fd00:ec2::254]", "[64:ff9b::a9fe:a9fe]", "[2002:a9fe:a9fe::]",
    "[::a9fe:a9fe]", "100.100.100.200", "168.63.129.16", "224.0.0.1", "[ff02::1]", "255.255.255.255", "0.0.0.0", "0", "[::]",
]  # fmt: skip


@pytest.mark.threat(6)
@pytest.mark.parametrize("host", USER_REFUSED)
def test_a_trial_of_a_host_that_tells_secrets_sends_nothing(host: str) -> None:
    with watched() as seen:
        for source in (
            OpcUaConfig(name="a", endpoint=f"opc.tcp://{host}:80/latest"),
            MqttConfig(name="a", endpoint="mqtt://127.0.0.1", fallback=[f"mqtt://{host}:80"]),
            ModbusConfig.model_validate({"name": "a", "endpoint": f"tcp://{host}:80", "registers": [{"name": "a", "address": 0}]}),
        ):  # fmt: skip
            with pytest.raises((RefusedAddressError, OSError)):  # not every resolver knows every way to write a number
                pinned(source, Guard())
    assert {(address, port) for _, address, port in seen if port == 80} == set()


@pytest.mark.threat(6)
def test_a_name_is_looked_up_once_and_its_address_is_what_is_connected_to() -> None:
    answers = [["10.0.0.5"], ["169.254.169.254"]]  # a server of names that says something else the second time
    asked: list[str] = []

    def lookup(host: str, _: int) -> Sequence[str]:
        asked.append(host)
        return answers[len(asked) - 1]

    source = MqttConfig.model_validate({"name": "a", "endpoint": "mqtts://plant.example:8883", "tls": {}})
    found = pinned(source, Guard(), lookup)
    assert (found.endpoint, asked) == ("mqtts://10.0.0.5:8883", ["plant.example"])
    assert found.tls is not None
    assert found.tls.server_name == "plant.example"
    modbus = ModbusConfig.model_validate(
        {"name": "a", "endpoint": "tcp://plc.example:1502", "registers": [{"name": "a", "address": 0}]}
    )
    assert modbus.at.host == "plc.example"
    pinned_modbus = pinned(modbus, Guard(), lambda *_: ["fd00::7"])
    assert (pinned_modbus.endpoint, pinned_modbus.at.host) == ("tcp://[fd00::7]:1502", "fd00::7")


@pytest.mark.threat(6)
def test_a_name_with_one_address_that_is_refused_is_refused() -> None:
    with pytest.raises(RefusedAddressError, match="plant.example: 169.254.169.254 tells the secrets"):
        resolve("plant.example", 80, Guard(), lambda *_: ["10.0.0.5", "169.254.169.254"])
    with pytest.raises(OSError, match="no address"):
        resolve("plant.example", 80, Guard(), lambda *_: [])
    assert str(resolve("plant.example", 80, Guard(), lambda *_: ["::ffff:10.0.0.5"])) == "10.0.0.5"


@pytest.mark.threat(6)
def test_a_trial_does_not_reach_the_gateways_own_api() -> None:
    own = Guard(own_port=8080)
    assert "own API" in refusal_of(OpcUaConfig(name="a", endpoint="opc.tcp://localhost:8080"), own)
    assert refusal_of(OpcUaConfig(name="a", endpoint="opc.tcp://localhost:4840"), own) == ""
    assert own.refusal("192.0.2.1", 8080) == ""  # another machine's


@pytest.mark.threat(6)
def test_targets_are_judged_by_all_their_places() -> None:
    influx = InfluxConfig.model_validate(
        {
            "type": "influxdb",
            "provider_config": {"url": "http://169.254.169.254/", "organization": "o", "bucket": "b", "token": "t"},
        }
    )
    assert "169.254.169.254 tells the secrets" in refusal_of(influx, Guard())
    kafka = KafkaConfig.model_validate({"type": "kafka", "endpoint": "10.0.0.1:9092,[fe80::1]:9092"})
    assert set(places(kafka)) >= {("10.0.0.1", 9092), ("fe80::1", 9092)}
    assert "is link-local" in refusal_of(kafka, Guard())


@pytest.mark.parametrize(
    "text", ["plc.example", "10.0.0.1/24", "10.0.0", "fe80::1%eth0", "::ffff:10.0.0.0/120", "x/24", ""]
)
def test_a_network_that_is_not_one_is_a_problem_of_the_configuration(text: str) -> None:
    with pytest.raises(ValueError, match="write one such as"):
        network_of(text)
