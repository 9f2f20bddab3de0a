"""What a scan finds out about a server, with one connection to it; threat 8."""

import copy
from pathlib import Path
from typing import Any

import pytest

from discovery.draft import draft
from tests.connectors.sources.opcua.conftest import PlantServer
from tests.discovery.connections import listening
from tests.discovery.scans import found_at, loads


async def test_asyncua_tells_its_endpoints(tmp_path: Path, plant: PlantServer) -> None:
    found = await found_at(tmp_path, "opcua", plant.port)
    (endpoint,) = found.detail["endpoints"]
    assert (endpoint["policy"], endpoint["mode"], endpoint["url"]) == ("None", "none", plant.endpoint)
    assert found.detail["application_uri"] == "urn:plant.test:server"
    source = loads(tmp_path, found)
    assert (source.endpoint, source.security_policy) == (plant.endpoint, "none")


@pytest.mark.threat(8)
async def test_urls_that_a_server_gives_are_shown_and_never_connected_to(tmp_path: Path, plant: PlantServer) -> None:
    inner = plant.server.iserver
    given = plant.call(inner.get_endpoints())[0]
    async with listening("127.0.0.2") as elsewhere:
        lures = [
            f"opc.tcp://127.0.0.2:{elsewhere.port}/ua/server", "opc.tcp://169.254.169.254:80/latest/meta-data",
            "http://169.254.169.254/latest/meta-data/", "opc.tcp://[fe80::1]:4840", "opc.tcp://plc.example:4840/x",
        ]  # fmt: skip

        def luring(url: str) -> Any:
            found = copy.deepcopy(given)
            found.EndpointUrl = url
            found.Server.DiscoveryUrls = lures
            found.Server.GatewayServerUri = lures[1]
            return found

        async def endpoints(*_: Any, **__: Any) -> Any:
            return [luring(url) for url in lures]

        true = inner.get_endpoints, inner.find_servers
        inner.get_endpoints, inner.find_servers = endpoints, lambda *_, **__: [luring(lures[0]).Server]
        try:
            found = await found_at(tmp_path, "opcua", plant.port)
        finally:
            inner.get_endpoints, inner.find_servers = true
        assert elsewhere.taken == 0
    assert [each["url"] for each in found.detail["endpoints"]] == lures
    assert found.detail["servers"][0]["discovery_urls"] == lures
    drafted = draft(found)
    assert drafted is not None
    assert drafted.source["endpoint"].startswith(f"opc.tcp://127.0.0.1:{plant.port}")
    assert not any(host in drafted.yaml for host in ("127.0.0.2", "169.254", "fe80", "plc.example"))
