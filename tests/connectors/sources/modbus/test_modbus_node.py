"""Against devices that are not made with our library: modbus-serial and jsmodbus, in JavaScript."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from normalization.reading import Quality
from tests.connectors.sources.modbus.harness import config, good, reader, reading
from tests.connectors.sources.modbus.node_devices import install, node
from tests.connectors.sources.modbus.serial_pair import serial_pair
from tests.recording_intake import RecordingIntake

pytestmark = pytest.mark.interop("modbus-serial")


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files of a small authority: of the device and of the gateway."""
    folder, ca = tmp_path_factory.mktemp("tls"), trustme.CA()
    ca.cert_pem.write_to_path(folder / "ca.pem")
    trustme.CA().cert_pem.write_to_path(folder / "other.pem")
    device = ca.issue_cert("127.0.0.1")
    device.cert_chain_pems[0].write_to_path(folder / "device.pem")
    device.private_key_pem.write_to_path(folder / "device.key")
    ca.issue_cert("gateway@plant").private_key_and_cert_chain_pem.write_to_path(folder / "gateway.pem")
    return {name.stem + name.suffix: name for name in folder.iterdir()}


@pytest.fixture(scope="module")
def ports(secrets: dict[str, Path]) -> Iterator[dict[str, int]]:
    install()
    with node("--tls", secrets["device.pem"], secrets["device.key"], secrets["ca.pem"]) as (found, _):
        yield found


ALL_TABLES = [
    {"name": "c{address}", "kind": "coil", "address": 0, "count": 3000},
    {"name": "d{address}", "kind": "discrete", "address": 0, "count": 3000},
    {"name": "i{address}", "kind": "input", "address": 0, "count": 1000},
    {"name": "h{address}", "kind": "holding", "address": 200, "count": 2000, "type": "int16"},
]


def assert_all_tables(intake: RecordingIntake) -> None:
    got = {r.tag.tag_name: r.value for r in intake.readings()}
    assert len(got) == 9000
    assert all(got[f"c{a}"] == (a % 3 == 0) and got[f"d{a}"] == (a % 5 == 0) for a in range(3000))
    assert all(got[f"i{a}"] == a for a in range(1000))
    assert all(got[f"h{a}"] == a * 3 for a in range(200, 2200))
    assert {r.quality for r in intake.readings()} == {Quality.GOOD}


JSMODBUS = pytest.mark.interop("jsmodbus")
WAYS = [
    ("serial", "tcp"),
    *(
        pytest.param(*way, marks=JSMODBUS)
        for way in (("js", "tcp"), ("rtu", "rtu+tcp"), ("udp", "udp"), ("tls", "tls"))
    ),
]


@pytest.mark.parametrize(("device", "scheme"), WAYS)
async def test_all_tables_by_each_way(ports, secrets, device, scheme):
    tls = {"ca_file": secrets["ca.pem"], "cert_file": secrets["gateway.pem"]} if scheme == "tls" else None
    settings = config(f"{scheme}://127.0.0.1:{ports[device]}", ALL_TABLES, tls=tls)
    async with reading(settings) as (intake, _):
        await intake.until(lambda: good(intake, "h2199") >= 2 and good(intake, "d2999") >= 2, within=20)
    assert_all_tables(intake)


@pytest.fixture
def serial_line() -> Iterator[str]:
    """One end of a serial line with modbus-serial, unit 5, at the other."""
    install()
    with serial_pair() as (here, there), node("--line", there):
        yield here


async def test_modbus_serial_on_a_serial_line(serial_line):
    serial = {"baud_rate": 115200, "parity": "none", "stop_bits": 2}
    registers = [entry | {"count": 300} for entry in ALL_TABLES]
    async with reading(config(f"rtu://{serial_line}", registers, unit_id=5, serial=serial)) as (intake, _):
        await intake.until(lambda: good(intake, "h499") >= 3, within=20)
    got = {r.tag.tag_name: r.value for r in intake.readings()}
    assert all(got[f"c{a}"] == (a % 3 == 0) and got[f"i{a}"] == a for a in range(300))
    assert {r.quality for r in intake.readings()} == {Quality.GOOD}


@JSMODBUS
async def test_a_device_whose_authority_is_another_is_refused(ports, secrets):
    tls = {"ca_file": secrets["other.pem"], "cert_file": secrets["gateway.pem"]}
    source = reader(config(f"tls://127.0.0.1:{ports['tls']}", [{"address": 1}], tls=tls))
    with pytest.raises(ConnectionError, match="certificate verify failed"):
        await source.run(RecordingIntake(), None)


async def test_addresses_that_modbus_serial_does_not_have_do_not_lose_the_others(ports):
    registers = [{"name": "h{address}", "address": 9950, "count": 60}]
    async with reading(config(f"tcp://127.0.0.1:{ports['serial']}", registers)) as (intake, _):
        await intake.until(lambda: good(intake, "h9999") >= 3, within=20)
        await intake.until(lambda: intake.last("h10009") is not None, within=20)
    assert {intake.last(f"h{a}").value for a in range(9950, 10_000)} == {a * 3 for a in range(9950, 10_000)}
    for address in range(10_000, 10_010):
        assert [(r.value, r.quality, r.status) for r in intake.readings(f"h{address}")] == [(None, Quality.BAD, 2)]


@JSMODBUS
async def test_jsmodbus_gives_short_answers_at_the_end_of_its_tables_and_they_are_no_values(ports):
    registers = [{"name": "h{address}", "address": 9995, "count": 10}, {"name": "first", "address": 1}]
    async with reading(config(f"tcp://127.0.0.1:{ports['js']}", registers)) as (intake, _):
        await intake.until(lambda: good(intake, "first") >= 5 and intake.last("h10004") is not None)
    assert good(intake, "h9999") == 0
    rejects = [r.reject for r in intake.readings("h9995") if r.reject]
    assert "reply with 10 bytes of data, byte count 10, not 20" in rejects[0]


async def test_busy_slow_unreachable_and_dead_units_of_modbus_serial_cost_the_others_nothing(ports):
    registers = [{"name": f"u{unit}", "unit_id": unit, "kind": "input", "address": 7} for unit in (1, 7, 8, 9, 10)]
    registers += [{"name": "slow_{n}", "unit_id": 6, "kind": "input", "address": 7, "count": 3, "step": 100}]
    settings = config(
        f"tcp://127.0.0.1:{ports['serial']}", registers, timeout=0.6, interval=0.25, busy_pause=0.01, probe_interval=5
    )
    async with reading(settings) as (intake, _):
        await intake.until(lambda: good(intake, "u10") >= 16 and good(intake, "slow_3"), within=60)
        said = [detail for _, detail in intake.states if "unit 6 takes" in detail]
    assert {r.quality for r in intake.readings("u1") + intake.readings("u10")} == {Quality.GOOD}
    assert {r.quality for r in intake.readings("u7")} == {Quality.GOOD}, "busy twice, and then it answers"
    assert good(intake, "u7") >= 10
    assert [(r.quality, r.status) for r in intake.readings("u8")] == [(Quality.STALE, 11)]
    assert {(r.quality, r.status) for r in intake.readings("u9")} == {(Quality.STALE, None)}
    assert said, "a slow unit is told"
    slow = [good(intake, f"slow_{n}") for n in (1, 2, 3)]
    assert min(slow) >= 1
    assert max(b - a for a, b in itertools.pairwise(sorted(slow))) <= 2, "its blocks are read in turn"
