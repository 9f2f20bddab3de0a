"""The plug of modbus-serial and of jsmodbus is pulled: what was read goes on by itself, and the gap is recorded."""

import signal
from pathlib import Path

import pytest
import trustme

from connectors.contract import SourceState
from normalization.reading import Quality
from tests.connectors.sources.modbus.harness import config, good, trying
from tests.connectors.sources.modbus.node_devices import install, node
from tests.contract.relay import Relay
from tests.recording_intake import RecordingIntake

LAST = "h399"
DEVICES = [
    pytest.param("serial", "tcp", marks=pytest.mark.interop("modbus-serial")),
    pytest.param("js", "tcp", marks=pytest.mark.interop("jsmodbus")),
    pytest.param("rtu", "rtu+tcp", marks=pytest.mark.interop("jsmodbus")),
]


@pytest.fixture(scope="module", autouse=True)
def programs() -> None:
    install()


def settings(scheme: str, port: int, **more):
    registers = [{"name": "h{address}", "address": 200, "count": 200}]
    return config(f"{scheme}://127.0.0.1:{port}", registers, timeout=0.5, **more)


def assert_one_gap_and_no_wrong_value(intake: RecordingIntake) -> None:
    (gap,) = intake.gaps
    assert len(gap.tags) == 200
    assert gap.end > gap.start
    readings = [r for r in intake.readings() if r.quality == Quality.GOOD]
    assert all(r.value == int(r.tag.tag_name[1:]) * 3 for r in readings)


async def goes_on(intake: RecordingIntake) -> None:
    count = good(intake, LAST)
    await intake.until(lambda: good(intake, LAST) >= count + 3, within=20)


@pytest.mark.parametrize(("name", "scheme"), DEVICES)
async def test_a_device_that_is_killed_and_started_again_is_read_on(name, scheme):
    with node() as (ports, process):
        async with Relay(ports[name]) as relay, trying(settings(scheme, relay.port)) as (intake, _):
            await intake.until(lambda: good(intake, LAST) >= 3, within=20)
            process.kill()
            relay.cut()
            await intake.until(lambda: [state for state, _ in intake.states].count(SourceState.CONNECTING) >= 2)
            with node() as (again, _):
                relay.target = again[name]
                await relay.restore()
                await goes_on(intake)
    assert_one_gap_and_no_wrong_value(intake)
    assert intake.gaps[0].reason == "connection lost"


@pytest.mark.parametrize(("name", "scheme"), [*DEVICES, pytest.param("udp", "udp", marks=DEVICES[1].marks)])
async def test_a_device_that_is_frozen_and_goes_on_gives_no_late_value(name, scheme):
    with node() as (ports, process):
        async with trying(settings(scheme, ports[name])) as (intake, _):
            await intake.until(lambda: good(intake, LAST) >= 3, within=20)
            process.send_signal(signal.SIGSTOP)
            try:
                await intake.until(lambda: intake.last(LAST).quality == Quality.STALE, within=20)
            finally:
                process.send_signal(signal.SIGCONT)
            await goes_on(intake)
    assert_one_gap_and_no_wrong_value(intake)


@pytest.mark.parametrize(("name", "scheme"), DEVICES)
async def test_a_cable_that_is_pulled_and_put_back_gives_no_late_value(name, scheme):
    with node() as (ports, _):
        async with Relay(ports[name]) as relay, trying(settings(scheme, relay.port)) as (intake, _):
            await intake.until(lambda: good(intake, LAST) >= 3, within=20)
            relay.freeze()
            await intake.until(lambda: intake.last(LAST).quality == Quality.STALE, within=20)
            relay.thaw()
            await goes_on(intake)
    assert_one_gap_and_no_wrong_value(intake)


@pytest.mark.interop("jsmodbus")
async def test_a_device_that_comes_back_with_a_strangers_certificate_is_not_read_until_it_has_its_own(tmp_path):
    ours, stranger = trustme.CA(), trustme.CA()
    ours.cert_pem.write_to_path(tmp_path / "ca.pem")
    ours.issue_cert("gateway@plant").private_key_and_cert_chain_pem.write_to_path(tmp_path / "gateway.pem")
    files: dict[str, list[Path]] = {}
    for name, authority in {"ours": ours, "stranger": stranger}.items():
        device = authority.issue_cert("127.0.0.1")
        files[name] = [tmp_path / f"{name}.pem", tmp_path / f"{name}.key", tmp_path / "ca.pem"]
        device.cert_chain_pems[0].write_to_path(files[name][0])
        device.private_key_pem.write_to_path(files[name][1])
    tls = {"ca_file": tmp_path / "ca.pem", "cert_file": tmp_path / "gateway.pem"}

    with node("--tls", *files["ours"]) as (ports, process):
        async with Relay(ports["tls"]) as relay, trying(settings("tls", relay.port, tls=tls)) as (intake, errors):
            await intake.until(lambda: good(intake, LAST) >= 3, within=20)
            process.kill()
            relay.cut()
            with node("--tls", *files["stranger"]) as (again, _):
                relay.target = again["tls"]
                await relay.restore()
                await intake.until(
                    lambda: any("certificate verify failed" in str(error) for error in errors), within=20
                )
                relay.cut()
            with node("--tls", *files["ours"]) as (again, _):
                relay.target = again["tls"]
                await relay.restore()
                await goes_on(intake)
    assert_one_gap_and_no_wrong_value(intake)
