"""Discovery on the HTTP port: what was found, scans, drafts."""

import asyncio
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from discovery.desk import DiscoveryDesk
from discovery.settings import DiscoverySection
from tests.connectors.sources.modbus.device import running as modbus_device
from tests.discovery.connections import listening
from tests.discovery.scans import section
from tests.discovery.test_discovery_scan import identification, port_of
from web.routes.discovery import discovery_router


def client(desk: DiscoveryDesk) -> httpx.AsyncClient:
    app = FastAPI()
    app.include_router(discovery_router(desk, lambda _: "anna"))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://gateway")


async def until_done(http: httpx.AsyncClient) -> dict[str, Any]:
    async with asyncio.timeout(10):
        while True:
            found: dict[str, Any] = (await http.get("/api/discovery/servers")).json()
            if not found["running"]:
                return found
            await asyncio.sleep(0.02)


async def test_a_scan_is_begun_watched_and_becomes_a_draft(tmp_path: Path) -> None:
    entries: list[dict[str, Any]] = []
    async with modbus_device() as plc:
        plc.identify = lambda _: identification(vendor="Acme", product="P")
        desk = DiscoveryDesk(
            section(ports={"modbus": [port_of(plc)]}, timeout=0.5),
            tmp_path,
            audit=lambda **entry: entries.append(entry),
        )
        async with client(desk) as http:
            before = (await http.get("/api/discovery/servers")).json()
            assert (before["enabled"], before["subnets"], before["running"], before["servers"]) == (
                True,
                ["127.0.0.1/32"],
                False,
                [],
            )
            assert (await http.post("/api/discovery/scan", json={"subnets": ["127.0.0.1"]})).status_code == 202
            (server,) = (await until_done(http))["servers"]
            assert (server["protocol"], server["port"], server["state"]) == ("modbus", port_of(plc), "new")
            answer = await http.post(f"/api/discovery/servers/{server['id']}/draft")
            assert answer.status_code == 200
            assert answer.json()["source"] == server["draft"]
            assert answer.json()["yaml"].startswith("# A draft")
            assert (await http.post("/api/discovery/servers/opcua-1/draft")).status_code == 404
            assert (await http.post("/api/discovery/servers/..%2Fx/draft")).status_code in (404, 422)
    assert {entry["who"] for entry in entries} == {"anna"}


async def test_a_scan_without_a_body_covers_all_and_can_be_stopped(tmp_path: Path) -> None:
    async with listening() as silent:
        desk = DiscoveryDesk(section(ports={"modbus": [silent.port]}, timeout=10), tmp_path)
        async with client(desk) as http:
            assert (await http.post("/api/discovery/scan")).status_code == 202
            again = await http.post("/api/discovery/scan")
            assert (again.status_code, "runs already" in again.json()["detail"]) == (409, True)
            assert (await http.get("/api/discovery/servers")).json()["started"] is not None
            began = time.monotonic()
            assert (await http.delete("/api/discovery/scan")).json() == {"stopped": True}
            assert time.monotonic() - began < 1
            assert (await http.delete("/api/discovery/scan")).json() == {"stopped": False}


@pytest.mark.threat(6)
@pytest.mark.parametrize(
    "subnets", [["127.0.0.2"], ["localhost"], ["169.254.169.254"], [], ["10.0.0.0/8"], ["127.0.0.1", "10.0.0.1"]]
)
async def test_what_is_not_listed_is_refused(tmp_path: Path, subnets: list[str]) -> None:
    async with client(DiscoveryDesk(section(), tmp_path)) as http:
        answer = await http.post("/api/discovery/scan", json={"subnets": subnets})
        assert answer.status_code == 409
        assert answer.json()["detail"]


@pytest.mark.threat(7)
async def test_a_scan_is_refused_where_discovery_is_off(tmp_path: Path) -> None:
    async with client(DiscoveryDesk(DiscoverySection.model_validate({}), tmp_path)) as http:
        answer = await http.post("/api/discovery/scan")
        assert (answer.status_code, "discovery is off" in answer.json()["detail"]) == (409, True)
        assert (await http.post("/api/discovery/scan", json={"subnet": ["10.0.0.1"]})).status_code == 422
