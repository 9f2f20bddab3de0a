"""What a scan covers: addresses and ports, in the order in which they are asked. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from discovery.guard import Address, Guard, Network, network_of
from discovery.settings import MOST_ADDRESSES, NetworkSection, PortSettings

Protocol = Literal["opcua", "mqtt", "mqtts", "modbus"]


class ScanRefusedError(ValueError):
    """A scan is not begun; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where one connection goes.

    Attributes:
        address: The host.
        port: The port.
        protocol: What is expected there.
    """

    address: Address
    port: int
    protocol: Protocol


def chosen(section: NetworkSection, subnets: Sequence[str] | None = None) -> tuple[Network, ...]:
    """The networks of a scan.

    Args:
        section: What may be scanned.
        subnets: Parts of it; all of it when None.

    Raises:
        ScanRefusedError: There is nothing to scan, a part lies outside, or all of it is more than one scan covers.
    """
    allowed = [network_of(text) for text in section.subnets]
    if not allowed:
        raise ScanRefusedError("no network may be scanned; list some in discovery.network.subnets")
    if subnets is None:
        wanted = allowed
    elif not subnets:
        raise ScanRefusedError("no network is named")
    else:
        wanted = [_within(text, allowed) for text in subnets]
    count = sum(network.num_addresses for network in _once(wanted))
    if count > MOST_ADDRESSES:
        msg = f"{count} addresses are more than the {MOST_ADDRESSES} (a /22) of one scan; name a part of the subnets"
        raise ScanRefusedError(msg)
    return tuple(_once(wanted))


def _within(text: str, allowed: Sequence[Network]) -> Network:
    try:
        network = network_of(text)
    except ValueError as error:
        raise ScanRefusedError(str(error)) from None
    if not any(network.version == each.version and network.subnet_of(each) for each in allowed):  # type: ignore[arg-type]
        msg = f"{text} is no part of discovery.network.subnets ({', '.join(map(str, allowed))})"
        raise ScanRefusedError(msg)
    return network


def _once(networks: Iterable[Network]) -> list[Network]:
    """Without those that lie in another of them."""
    found: list[Network] = []
    for network in sorted(set(networks), key=lambda each: (each.version, each.prefixlen, int(each.network_address))):
        if not any(network.version == each.version and network.subnet_of(each) for each in found):  # type: ignore[arg-type]
            found.append(network)
    return sorted(found, key=lambda each: (each.version, int(each.network_address)))


def covered(networks: Iterable[Network], ports: PortSettings, guard: Guard) -> list[Place]:
    """Every connection of a scan, port by port, so that no host is asked twice in a row where there are others.

    Args:
        networks: The networks of the scan.
        ports: The ports of each host.
        guard: Leaves out what must not be connected to.
    """
    hosts = [address for network in networks for address in network]
    kinds: list[tuple[Protocol, list[int]]] = [
        ("opcua", ports.opcua), ("mqtt", ports.mqtt), ("mqtts", ports.mqtts), ("modbus", ports.modbus),
    ]  # fmt: skip
    return [
        Place(host, port, protocol)
        for protocol, its in kinds
        for port in its
        for host in hosts
        if not guard.refusal(host, port)
    ]


__all__ = ["Place", "Protocol", "ScanRefusedError", "chosen", "covered"]
