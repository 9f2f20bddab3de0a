"""Scans of tests: loopback, explicitly listed, and ports that are given."""

import asyncio
from pathlib import Path
from typing import Any

from discovery.desk import DiscoveryDesk
from discovery.servers import Server
from discovery.settings import DiscoverySection


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
