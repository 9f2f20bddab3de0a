"""Discovery on the HTTP port: what was found, scans, drafts; and what trials of sources and targets may reach."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from config.desk import ConfigDesk
from tests.connectors.sources.modbus import node_devices
from tests.delivery.stores import until
from tests.discovery.connections import watched
from tests.discovery.silent import SilentListener
from tests.web.served import PLENTY, Served, served


@pytest.fixture(scope="module")
def device() -> Iterator[int]:
    node_devices.install()
    with node_devices.node() as (ports, _):
        yield ports["serial"]


def config(*ports: int, enabled: str = "true", timeout: str = "500ms") -> str:
    return (
        f"discovery: {{enabled: {enabled}, network: {{subnets: [127.0.0.1/32], timeout: {timeout}, "
        f"ports: {{opcua: [], mqtt: [], mqtts: [], modbus: {list(ports)}}}}}}}\n"
    )


def found(gateway: Served) -> dict[str, Any]:
    answer: dict[str, Any] = gateway.cli().get("/api/discovery/servers").json
    return answer


def test_a_scan_is_begun_watched_and_becomes_a_draft(tmp_path: Path, device: int) -> None:
    with served(tmp_path, PLENTY, config(device)) as gateway:
        viewer, operator = gateway.user("viewer"), gateway.user("operator")
        before = viewer.get("/api/discovery/servers").json
        assert (before["enabled"], before["subnets"], before["running"], before["servers"]) == (
            True,
            ["127.0.0.1/32"],
            False,
            [],
        )
        assert viewer.ask("POST", "/api/discovery/scan", {}).status == 403
        assert operator.ask("POST", "/api/discovery/scan", {"subnets": ["127.0.0.1"]}).status == 202
        until(lambda: not found(gateway)["running"])
        (server,) = found(gateway)["servers"]
        assert (server["protocol"], server["port"], server["state"]) == ("modbus", device, "new")
        answer = operator.ask("POST", f"/api/discovery/servers/{server['id']}/draft", {})
        assert (answer.status, answer.json["source"]) == (200, server["draft"])
        assert answer.json["yaml"].startswith("# A draft")
        for unknown in ("opcua-1", "x" * 64, "..%2Fx"):
            assert operator.ask("POST", f"/api/discovery/servers/{unknown}/draft", {}).status in (404, 422)
        entries = [json.loads(line) for line in (gateway.directory / "audit.jsonl").read_text().splitlines()]
        told = [(entry["who"], entry["what"], entry["result"]) for entry in entries if "scan" in entry["what"]]
        assert ("viewer", "POST /api/discovery/scan", "refused 403") in told
        assert ("operator", "POST /api/discovery/scan", "done") in told
        assert ("operator", "network scan began", "done") in told
        assert ("operator", "network scan ended", "complete") in told


@pytest.mark.threat(7)
def test_a_scan_without_a_body_covers_all_and_is_stopped_within_a_second(tmp_path: Path) -> None:
    with SilentListener() as silent, served(tmp_path, PLENTY, config(silent.port, timeout="10s")) as gateway:
        operator = gateway.user("operator")
        assert operator.ask("POST", "/api/discovery/scan").status == 202
        again = operator.ask("POST", "/api/discovery/scan")
        assert (again.status, "runs already" in again.json["detail"]) == (409, True)
        until(lambda: silent.taken)
        assert found(gateway)["started"] is not None
        began = time.monotonic()
        assert operator.ask("DELETE", "/api/discovery/scan").json == {"stopped": True}
        until(lambda: not silent.open)
        assert time.monotonic() - began < 1
        assert operator.ask("DELETE", "/api/discovery/scan").json == {"stopped": False}


@pytest.mark.threat(6)
@pytest.mark.threat(7)
def test_what_is_not_listed_or_switched_off_is_refused(tmp_path: Path) -> None:
    with served(tmp_path, PLENTY, config(1)) as gateway, watched() as seen:
        for subnets in (
            ["127.0.0.2"], ["localhost"], ["169.254.169.254"], [], ["10.0.0.0/8"], ["127.0.0.1", "10.0.0.1"], ["::1"],
        ):  # fmt: skip
            answer = gateway.cli().ask("POST", "/api/discovery/scan", {"subnets": subnets})
            assert (answer.status, bool(answer.json["detail"])) == (409, True), subnets
        for wrong in ({"subnet": ["127.0.0.1"]}, {"subnets": "127.0.0.1"}, {"subnets": [1]}, []):
            assert gateway.cli().ask("POST", "/api/discovery/scan", wrong).status == 422
        assert {port for _, _, port in seen} <= {gateway.port}
    (tmp_path / "off").mkdir()
    with served(tmp_path / "off", PLENTY, config(1, enabled="false")) as gateway:
        answer = gateway.cli().ask("POST", "/api/discovery/scan")
        assert (answer.status, "discovery is off" in answer.json["detail"]) == (409, True)


SECRETS = [
    "169.254.169.254",
    "0xa9fea9fe",
    "2852039166",
    "[::ffff:169.254.169.254]",
    "[fd00:ec2::254]",
    "100.100.100.200",
]


@pytest.mark.threat(6)
def test_trials_and_new_sources_do_not_lead_to_metadata_or_to_this_api(tmp_path: Path) -> None:
    with served(tmp_path, PLENTY) as gateway, watched() as seen:
        gateway.process.desk = ConfigDesk(tmp_path / "gateway.yaml", lambda: gateway.process.config, lambda _: ())
        for host in [*(f"{host}:80" for host in SECRETS), f"127.0.0.1:{gateway.port}"]:
            source = {
                "name": "a",
                "protocol": "modbus",
                "endpoint": f"tcp://{host}",
                "registers": [{"name": "r", "address": 0}],
            }
            for method, path in (
                ("POST", "/api/sources/test"),
                ("POST", "/api/sources"),
                ("PUT", "/api/sources/line1"),
            ):
                answer = gateway.cli().ask(method, path, source)
                assert (answer.status, "not connected to" in answer.json["detail"]) == (422, True), (
                    host,
                    path,
                    answer.body,
                )
            target = {
                "type": "influxdb",
                "provider_config": {"url": f"http://{host}/", "version": "1.x", "database": "d"},
            }
            answer = gateway.cli().ask("POST", "/api/targets/test", {"name": "files", "config": target})
            assert (answer.status, "not connected to" in answer.json["detail"]) == (422, True), (host, answer.body)
        assert {(host, port) for _, host, port in seen} <= {("127.0.0.1", gateway.port)}
