"""Which addresses may be connected to: by a scan, and by a trial of what a user entered.

An address is judged as a number, never as a text, and it is the very address that is connected to: a name is resolved once, and
every answer must pass.
"""

import contextlib
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_METADATA: Final = {  # of clouds; the one of most of them is link-local
    ip_address(text)
    for text in ("169.254.169.254", "169.254.170.2", "100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254")
}
_CARRIES_IPV4: Final = tuple(
    ip_network(text)
    for text in ("::/96", "64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32", "::ffff:0:0:0/96")
)
_LOOPBACK: Final = {4: ip_network("127.0.0.0/8"), 6: ip_network("::1/128")}


class RefusedAddressError(ValueError):
    """An address must not be connected to; the message says which and why."""


def on_this_machine(address: Address) -> bool:
    """Whether the address is one of this machine's own: only such a one can be bound. Nothing is sent."""
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_INET6 if address.version == 6 else socket.AF_INET, socket.SOCK_DGRAM) as own,
    ):
        own.bind((str(address), 0))
        return True
    return False


def address_of(text: str) -> Address:
    """The address that a text is, in the one usual way to write it; IPv4 in IPv6 (``::ffff:10.0.0.1``) is IPv4.

    Raises:
        RefusedAddressError: It is none.
    """
    try:
        found = ip_address(text)
    except ValueError:
        found = None
    if found is None or "%" in text:
        msg = f"`{text}` is no address; write one such as 192.168.1.10 or fd00::10"
        raise RefusedAddressError(msg)
    return _plain(found)


def _plain(address: Address) -> Address:
    return address.ipv4_mapped or address if isinstance(address, IPv6Address) else address


def network_of(text: str) -> Network:
    """The network that a text is; an address is a network of one.

    Raises:
        ValueError: It is none.
    """
    try:
        found = ip_network(text)
    except ValueError as error:
        reason = "has bits set behind its mask" if "host bits" in str(error) else "is no network"
        msg = f"`{text}` {reason}; write one such as 192.168.1.0/24 (names are not looked up)"
        raise ValueError(msg) from None
    if "%" in text or (isinstance(found, IPv6Network) and found.network_address.ipv4_mapped is not None):
        msg = f"`{text}` is not written as networks are; write one such as 192.168.1.0/24 or fd00::/120"
        raise ValueError(msg)
    return found


@dataclass(frozen=True, slots=True)
class Guard:
    """Judges addresses.

    Attributes:
        networks: Networks outside of which nothing is reached; None where a user says himself what to connect to.
        own_port: Port of this gateway's own API; None when it has none.
        is_own: Whether an address is this machine's.
    """

    networks: tuple[Network, ...] | None = None
    own_port: int | None = None
    is_own: Callable[[Address], bool] = on_this_machine

    def refusal(self, address: str | Address, port: int) -> str:
        """Why an address must not be connected to; empty when it may.

        Args:
            address: The address.
            port: The port there.
        """
        try:
            found = address_of(address) if isinstance(address, str) else _plain(address)
        except RefusedAddressError as error:
            return str(error)
        reason = _never(found) or ("" if self.networks is None else self._outside(found, self.networks))
        if not reason and port == self.own_port and self.is_own(found):
            reason = "with this port is the gateway's own API"
        return f"{found} {reason}; it is not connected to" if reason else ""

    def _outside(self, address: Address, networks: Sequence[Network]) -> str:
        loopback = _LOOPBACK[address.version]
        within = [network for network in networks if address.version == network.version and address in network]
        if address in loopback and not any(network.subnet_of(loopback) for network in within):  # type: ignore[arg-type]
            return "is this machine itself, which discovery.network.subnets does not list by its own network"
        if not within:
            return "lies outside discovery.network.subnets"
        if any(_is_edge(address, network) for network in within):
            return "is the address of a whole network"
        return ""

    def check(self, address: str | Address, port: int) -> Address:
        """The address, if it may be connected to.

        Raises:
            RefusedAddressError: It must not.
        """
        if reason := self.refusal(address, port):
            raise RefusedAddressError(reason)
        return address_of(address) if isinstance(address, str) else _plain(address)


def _is_edge(address: Address, network: Network) -> bool:
    """Whether it is the first or last of an IPv4 network, which name the network and everybody in it."""
    return (
        network.version == 4
        and network.prefixlen < 31
        and address in (network.network_address, network.broadcast_address)
    )


def _never(address: Address) -> str:
    """What forbids an address whatever is listed; empty when nothing does."""
    if address in _METADATA:
        return "tells the secrets of a cloud's machine"
    if address.is_unspecified or (address.version == 4 and int(address) < 1 << 24):
        return "is no host's address"
    if address.is_link_local:
        return "is link-local"
    if address.is_multicast or address == IPv4Address("255.255.255.255"):
        return "is many hosts' address"
    if address.version == 4 and address.is_reserved:
        return "is reserved"
    if address.version == 6 and address not in _LOOPBACK[6] and any(address in net for net in _CARRIES_IPV4):
        return "carries an IPv4 address in itself"
    return ""


# ---------------------------------------------------------------------- what a user entered


Lookup = Callable[[str, int], Sequence[str]]
"""The addresses of a name."""


def look_up(host: str, port: int) -> list[str]:
    """The addresses of a name, by the system's resolver.

    Raises:
        OSError: It has none.
    """
    return [str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


def resolve(host: str, port: int, guard: Guard, lookup: Lookup = look_up) -> Address:
    """The one address to connect to for a host: it is looked up once, and all its addresses must pass.

    Raises:
        RefusedAddressError: One of them must not be connected to.
        OSError: The name has no address.
    """
    bare = host.strip("[]").partition("%")[0]
    try:
        found = [ip_address(bare)]
    except ValueError:
        found = [ip_address(text.partition("%")[0]) for text in lookup(host, port)]
    if not found:
        msg = f"{host} has no address"
        raise OSError(msg)
    for address in found:
        if reason := guard.refusal(address, port):
            msg = f"{host}: {reason}"
            raise RefusedAddressError(msg)
    return _plain(found[0])


def numeric(host: str, port: int) -> list[str]:
    """The address of a host that is a number in any of the ways that systems read; names are not looked up.

    Raises:
        OSError: It is a name.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    return [str(each[4][0]) for each in found]


_PORTS: Final = {"http": 80, "https": 443, "opc.tcp": 4840, "mqtt": 1883, "mqtts": 8883, "ws": 80, "wss": 443}
_KEYS: Final = frozenset({"endpoint", "endpoints", "fallback", "broker", "url", "host", "bootstrap_servers"})


def places(value: Any, key: str = "") -> Iterator[tuple[str, int]]:
    """The hosts and ports that a source or target is told to connect to.

    Args:
        value: The source or target, or a part of it.
        key: The key that it stands under.
    """
    if isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from places(getattr(value, name), name)
    elif isinstance(value, dict):
        for name, member in value.items():
            yield from places(member, str(name))
    elif isinstance(value, list | tuple):
        for member in value:
            yield from places(member, key)
    elif isinstance(value, str) and (key in _KEYS or "://" in value):
        for part in value.split(",") if key in _KEYS else [value]:  # a list of brokers is written in one text
            yield from _place(part.strip(), key)


def _place(text: str, key: str) -> Iterator[tuple[str, int]]:
    with contextlib.suppress(ValueError):  # no URL; the models say so
        parts = urlsplit(text if "://" in text else f"//{text}")
        if parts.hostname and (parts.scheme or key in _KEYS):
            yield parts.hostname, parts.port or _PORTS.get(parts.scheme, 0)


def refusal_of(connector: Any, guard: Guard, lookup: Lookup = look_up) -> str:
    """Why what a user entered must not be connected to; empty when it may. A name without an address is for others to tell.

    Args:
        connector: The source or target, checked or as it was entered.
        guard: Judges the addresses.
        lookup: Finds the addresses of names.
    """
    for host, port in places(connector):
        try:
            resolve(host, port, guard, lookup)
        except RefusedAddressError as error:
            return str(error)
        except OSError:
            continue
    return ""


_Connector = TypeVar("_Connector", bound=BaseModel)


def pinned(source: _Connector, guard: Guard, lookup: Lookup = look_up) -> _Connector:
    """The source with addresses instead of names, so that what was judged is what is connected to.

    Args:
        source: A source that a user entered.
        guard: Judges the addresses.
        lookup: Finds the addresses of names.

    Raises:
        RefusedAddressError: One of its hosts must not be connected to.
        OSError: A name has no address.
    """
    update: dict[str, Any] = {}
    names: list[str] = []
    for key in ("endpoint", "endpoints", "fallback"):
        given = getattr(source, key) if key in type(source).model_fields else None
        each = [given] if isinstance(given, str) else given or []
        told = [_told(text, guard, lookup, names) for text in each]
        if told:
            update[key] = told[0] if isinstance(given, str) else told
    tls = getattr(source, "tls", None)
    if names and isinstance(tls, BaseModel) and getattr(tls, "server_name", None) is None:
        update["tls"] = tls.model_copy(update={"server_name": names[0]})
    copy = source.model_copy(update=update)
    for key in set(vars(copy)) - set(type(copy).model_fields):  # what was computed from the names
        del vars(copy)[key]
    return copy


def _told(text: str, guard: Guard, lookup: Lookup, names: list[str]) -> str:
    """An endpoint with the address of its host; its name goes to `names`."""
    found = next(_place(text, "endpoint"), None)
    if found is None:
        return text
    host, port = found
    address = resolve(host, port, guard, lookup)
    shown = f"[{address}]" if address.version == 6 else str(address)
    parts = urlsplit(text if "://" in text else f"//{text}")
    if host != str(address):
        names.append(host)
    return parts._replace(netloc=f"{shown}:{parts.port}" if parts.port else shown).geturl()


__all__ = [
    "Address",
    "Guard",
    "Network",
    "RefusedAddressError",
    "address_of",
    "look_up",
    "network_of",
    "numeric",
    "pinned",
    "places",
    "refusal_of",
    "resolve",
]
