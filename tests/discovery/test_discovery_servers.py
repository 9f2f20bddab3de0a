"""What becomes of known servers from scan to scan, on disk and by the clock."""

import asyncio
import json
import threading
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from delivery.disk import StoreError
from discovery.coverage import Place, Protocol, ScanRefusedError
from discovery.desk import DiscoveryDesk, NoServerError, ScanRunningError, shown
from discovery.draft import draft
from discovery.scan import Hit
from discovery.servers import Server, StoreBrokenError, differing, from_bytes, merged, to_bytes
from discovery.settings import DiscoverySection
from tests.connectors.sources.modbus.device import running as modbus_device
from tests.discovery.connections import listening
from tests.discovery.scans import scanned, section
from tests.discovery.test_discovery_scan import identification, port_of

NOW = datetime(2026, 11, 26, 12, 0, tzinfo=UTC)


def place(host: str = "10.0.0.1", port: int = 502, protocol: Protocol = "modbus") -> Place:
    return Place(ip_address(host), port, protocol)


def hit(at: Place, **detail: Any) -> Hit:
    return Hit(at, {"speaks": True, **detail})


def test_a_server_is_new_then_known_then_changed_then_gone_and_known_again() -> None:
    at = place()
    states = []
    known: list[Server] = []
    for hour, hits in enumerate([[hit(at, a=1)], [hit(at, a=1)], [hit(at, a=2)], [], [], [hit(at, a=2)]]):
        known = merged(known, hits, {at}, NOW + timedelta(hours=hour))
        (server,) = known
        states.append((server.state, server.changes, server.seen_time[11:13]))
        assert server.found_time == "2026-11-26T12:00:00Z"
    assert states == [
        ("new", (), "12"), ("known", (), "13"), ("changed", ("a",), "14"), ("gone", (), "14"), ("gone", (), "14"), ("known", (), "17"),
    ]  # fmt: skip


def test_what_a_scan_did_not_ask_for_stays_as_it_is() -> None:
    first, second = place("10.0.0.1"), place("10.0.0.2")
    known = merged([], [hit(first), hit(second)], {first, second}, NOW)
    assert [(server.host, server.state) for server in merged(known, [], {second}, NOW)] == [
        ("10.0.0.1", "new"), ("10.0.0.2", "gone"),
    ]  # fmt: skip


def test_servers_are_listed_by_address_and_port() -> None:
    places = [place("10.0.0.10"), place("10.0.0.9", 4840, "opcua"), place("fd00::1"), place("10.0.0.9")]
    found = merged([], [hit(each) for each in places], set(places), NOW)
    assert [(server.host, server.port) for server in found] == [
        ("10.0.0.9", 502),
        ("10.0.0.9", 4840),
        ("10.0.0.10", 502),
        ("fd00::1", 502),
    ]


def test_what_differs_each_time_is_no_change() -> None:
    before = {
        "endpoints": [{"url": "a"}, {"url": "b"}],
        "sparkplug": {"present": True},
        "units": {"1": {"register": 1, "vendor": "x"}},
    }
    now = {
        "endpoints": [{"url": "b"}, {"url": "a"}],
        "sparkplug": {"present": False},
        "units": {"1": {"register": 2, "vendor": "x"}},
    }
    assert differing(before, now) == ()
    assert differing(before, now | {"endpoints": [{"url": "a"}], "more": 1}) == ("endpoints", "more")


def test_what_is_kept_is_read_again_and_nothing_else_is() -> None:
    known = merged([], [hit(place(), text="ü\u2028")], {place()}, NOW)
    assert from_bytes(to_bytes(known, NOW)) == (known, NOW)
    assert from_bytes(to_bytes([], None)) == ([], None)
    for broken in (
        b"",
        b"[]",
        b"{}",
        b'{"format": 2}',
        b'{"format": 1, "servers": [{}], "scanned_time": null}',
        b"\xff",
    ):
        with pytest.raises(StoreBrokenError):
            from_bytes(broken)


def test_a_draft_that_a_server_gives_no_more_than_facts_for() -> None:
    detail: dict[str, Any] = {"speaks": True, "name": "x\ny: z", "endpoints": [
        {"url": "opc.tcp://evil:1/../a b", "policy": "None", "mode": "none", "users": ["username"], "level": 0}
    ]}  # fmt: skip
    (server,) = merged([], [Hit(place("fd00::1", 4840, "opcua"), detail)], set(), NOW)
    found = draft(server)
    assert found is not None
    assert found.source["endpoint"] == "opc.tcp://[fd00::1]:4840"
    assert any("add username and password" in note for note in found.notes)
    assert found.yaml.count("\nsources:") == 1
    assert "evil" not in found.yaml


# ---------------------------------------------------------------------- the desk


async def test_what_scans_find_is_kept_from_one_process_to_the_next(tmp_path: Path) -> None:
    entries: list[dict[str, Any]] = []
    async with modbus_device() as plc, listening() as closed:
        plc.identify = lambda _: identification(vendor="Acme", product="P")
        wanted = section(ports={"modbus": [port_of(plc), closed.port]}, timeout=0.2)
        first = await scanned(tmp_path, wanted, audit=lambda **entry: entries.append(entry))
        plc.identify = lambda _: identification(vendor="Other", product="P")
        second = await scanned(tmp_path, wanted)
    third = await scanned(tmp_path, wanted)
    states = [{server.port: server.state for server in found} for found in (first, second, third)]
    assert [(found[port_of(plc)], found[closed.port]) for found in states] == [
        ("new", "new"), ("changed", "known"), ("gone", "gone"),
    ]  # fmt: skip
    assert {server.state for server in DiscoveryDesk(wanted, tmp_path).servers()} == {"gone"}
    assert (tmp_path / "discovery.json").stat().st_mode & 0o777 == 0o600
    began, ended = entries
    assert (began["what"], began["who"], began["subnets"]) == ("network scan began", "a test", ["127.0.0.1/32"])
    assert (ended["what"], ended["asked"], ended["open"], ended["result"]) == ("network scan ended", 2, 2, "complete")


async def test_one_scan_runs_at_a_time_also_over_processes(tmp_path: Path) -> None:
    async with listening() as silent:
        wanted = section(ports={"modbus": [silent.port]}, timeout=10)
        desk, other = DiscoveryDesk(wanted, tmp_path), DiscoveryDesk(wanted, tmp_path)
        desk.scan()
        with pytest.raises(ScanRunningError, match="runs already"):
            desk.scan()
        with pytest.raises(ScanRunningError, match="another process scans"):
            other.scan()
        while desk.listing()["progress"] is None:
            await asyncio.sleep(0.01)
        assert desk.listing()["progress"] == {"of": 1, "asked": 0, "hits": 0}
        assert await asyncio.to_thread(desk.stop)
        other.scan()
        assert await asyncio.to_thread(other.stop)


async def test_what_a_running_scan_has_found_is_shown_already(tmp_path: Path) -> None:
    async with modbus_device() as plc, listening() as silent:
        plc.identify = lambda _: identification(vendor="Acme")
        desk = DiscoveryDesk(section(ports={"mqtt": [silent.port], "opcua": [port_of(plc)]}, timeout=0.1), tmp_path)
        desk.section = section(ports={"modbus": [port_of(plc), silent.port]}, timeout=5)
        desk.scan()
        async with asyncio.timeout(10):
            while not desk.servers():
                await asyncio.sleep(0.01)
        assert desk.listing()["running"]
        assert not (tmp_path / "discovery.json").exists()
        (server,) = desk.servers()
        assert desk.draft(server.id).source["endpoint"] == plc.endpoint
        await asyncio.to_thread(desk.stop)


async def test_the_clock_scans_and_a_restart_does_not(tmp_path: Path) -> None:
    async with listening() as silent:
        wanted = section(ports={"modbus": [silent.port]}, timeout=0.1, interval="1h")
        for _ in range(2):
            desk = DiscoveryDesk(wanted, tmp_path, settle=0.0)
            desk.start()
            async with asyncio.timeout(10):
                while desk.listing()["scanned_time"] is None or desk.listing()["running"]:
                    await asyncio.sleep(0.01)
            desk.close()
        assert silent.taken == 1
    assert not [thread for thread in threading.enumerate() if thread.name == "discovery clock" and not thread.daemon]


@pytest.mark.parametrize("text", ["", "[]", '{"format": 99}'])
async def test_a_file_that_cannot_be_read_is_told_and_left_alone(tmp_path: Path, text: str) -> None:
    (tmp_path / "discovery.json").write_text(text)
    async with listening() as silent:
        wanted = section(ports={"modbus": [silent.port]}, timeout=0.1)
        with pytest.raises(StoreError, match="remove it"):
            DiscoveryDesk(wanted, tmp_path).servers()
        with pytest.raises(StoreError, match="remove it"):
            await scanned(tmp_path, wanted)
        with capture_logs() as logs:
            desk = DiscoveryDesk(wanted, tmp_path)
            desk.scan()
            async with asyncio.timeout(10):
                while not any("is not kept" in entry["event"] for entry in logs):
                    await asyncio.sleep(0.01)
    assert (tmp_path / "discovery.json").read_text() == text


def test_there_is_no_draft_of_what_is_not_known(tmp_path: Path) -> None:
    desk = DiscoveryDesk(section(), tmp_path)
    with pytest.raises(NoServerError, match="no server `x` is known"):
        desk.draft("x")
    known = merged([], [Hit(place(), {"speaks": False, "problem": "silent"})], {place()}, NOW)
    (tmp_path / "discovery.json").write_bytes(to_bytes(known, None))
    with pytest.raises(NoServerError, match="nothing to draft"):
        desk.draft(known[0].id)
    assert shown(known[0])["draft"] is None
    assert json.dumps(desk.listing())


def test_a_scan_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ScanRefusedError, match="no network may be scanned"):
        DiscoveryDesk(DiscoverySection.model_validate({"enabled": True}), tmp_path).scan()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"network": {"subnets": ["plc.example"]}}, "names are not looked up"),
        ({"network": {"subnets": ["10.0.0.1/24"]}}, "bits set behind its mask"),
        ({"network": {"ports": {"mqtt": [502]}}}, "port 502 stands here twice"),
        ({"network": {"subnets": ["10.0.0.0/16"]}, "interval": "1h"}, "1024 at most"),
        ({"interval": "10s"}, "greater than or equal to 60"),
        ({"modbus": {"units": [0]}}, "greater than or equal to 1"),
        ({"mqtt": {"sparkplug_wait": "1m"}}, "less than or equal to 2"),
    ],
)
def test_a_section_that_would_harm_is_a_problem(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DiscoverySection.model_validate(wrong)
