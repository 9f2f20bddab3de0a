"""Scans of tests: loopback, explicitly listed, and ports that are given."""

import asyncio
from pathlib import Path
from typing import Any

from config.loader import load
from discovery.desk import DiscoveryDesk
from discovery.draft import draft
from discovery.servers import Server
from discovery.settings import DiscoverySection
from tests.discovery.connections import watched


def section(
    subnets: tuple[str, ...] = ("127.0.0.1/32",),
    timeout: float = 1.0,
    rate: float = 100,
    wait: float = 0.0,
    **more: Any,
) -> DiscoverySection:
    """A section of the configuration; ports of protocols that are not named are not looked at."""
    ports = {"opcua": [], "mqtt": [], "mqtts": [], "modbus": []} | more.pop("ports", {})
    network = {"subnets": list(subnets), "ports": ports, "timeout": timeout, "max_connections_per_second": rate}
    mqtt = {"sparkplug_wait": wait} | more.pop("mqtt", {})
    return DiscoverySection.model_validate({"enabled": True, "network": network, "mqtt": mqtt, **more})


async def scanned(
    directory: Path, found: DiscoverySection, subnets: list[str] | None = None, **more: Any
) -> list[Server]:
    """What a scan finds."""
    desk = DiscoveryDesk(found, directory, **more)
    return await asyncio.to_thread(desk.scan_here, subnets, "a test")


async def found_at(tmp_path: Path, protocol: str, port: int, **more: Any) -> Server:
    """The one server there, by a scan that has connected to it once and to nothing else."""
    with watched() as seen:
        (found,) = await scanned(tmp_path, section(ports={protocol: [port]}, timeout=5, **more))
    assert [(host, its) for _, host, its in seen] == [("127.0.0.1", port)]
    return found


def loads(tmp_path: Path, server: Server) -> Any:
    """The source that its draft is, loaded as a configuration of its own."""
    drafted = draft(server)
    assert drafted is not None
    path = tmp_path / "drafted.yaml"
    path.write_text(drafted.yaml, encoding="utf-8")
    (source,) = load(path).sources
    return source
