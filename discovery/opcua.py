"""What an OPC UA server offers: GetEndpoints and FindServers, on one channel without security and without a session.

URLs that the server gives are shown and never connected to: the only connection is the one that is handed in.
"""

import asyncio
import contextlib
import socket
from typing import Any, Final

from asyncua.client.client import Client
from asyncua.client.ua_client import UaClientState
from asyncua.ua.uaerrors import UaError
from typing_extensions import override

from connectors.sources.opcua.channel import CHUNK, ChannelClient, Limits
from connectors.sources.opcua.trust import split
from discovery.talk import MOST, Detail, Manner, NotSpokenError, certificate, text

_CHUNKS: Final = 32
_MESSAGE: Final = 1024 * 1024
_MODES: Final = {1: "none", 2: "sign", 3: "sign_and_encrypt"}
_TOKENS: Final = {0: "anonymous", 1: "username", 2: "certificate", 3: "issued_token"}
_APPLICATIONS: Final = {0: "server", 1: "client", 2: "client_and_server", 3: "discovery_server"}


class _HandedClient(ChannelClient):
    """A client on a connection that is there already; it opens none."""

    def __init__(self, connection: socket.socket, timeout: float) -> None:
        super().__init__(timeout, Limits(CHUNK, CHUNK, _CHUNKS, _MESSAGE))
        self._handed: socket.socket | None = connection

    @override
    async def connect_socket(self, host: str, port: int) -> None:
        handed, self._handed = self._handed, None
        if handed is None:
            raise ConnectionError("a scan connects once")
        self._set_state(UaClientState.CONNECTING)
        await asyncio.get_running_loop().create_connection(self._make_protocol, sock=handed)
        self._set_state(UaClientState.SOCKET_OPEN)


async def probe(connection: socket.socket, host: str, port: int, manner: Manner) -> Detail:
    """Ask a server for its endpoints and the servers that it knows; see `talk.Probe`."""
    url = f"opc.tcp://[{host}]:{port}" if ":" in host else f"opc.tcp://{host}:{port}"
    client = Client(url, timeout=manner.timeout)
    client.uaclient = _HandedClient(connection, manner.timeout)
    try:
        await client.connect_socket()
        try:
            await client.send_hello()
            await client.open_secure_channel()
            endpoints = await client.get_endpoints() or []
        except (UaError, ConnectionError, TimeoutError) as error:
            channel = client.uaclient.channel
            reason = (channel.failure if channel is not None else "") or str(error) or type(error).__name__
            if isinstance(error, TimeoutError):
                reason = "it takes connections and does not answer"
            msg = f"it does not speak OPC UA, or not without security: {text(reason)}"
            raise NotSpokenError(msg) from None
        detail = described(endpoints)
        try:
            detail["servers"] = [_application(each) for each in (await client.find_servers() or [])[:MOST]]
        except (UaError, OSError) as error:
            detail["servers_problem"] = text(error) or type(error).__name__
        with contextlib.suppress(UaError, OSError):
            await client.close_secure_channel()
        return detail
    finally:
        protocol = client.uaclient.protocol
        transport = protocol.transport if protocol is not None else None
        client.disconnect_socket()
        if transport is not None:
            transport.abort()


def described(endpoints: list[Any]) -> Detail:
    """What a server's endpoints say, as JSON takes it. Pure."""
    own = next((each.Server for each in endpoints if each.Server is not None), None)
    return {
        **(_application(own) if own is not None else {}),
        "endpoints": [_endpoint(each) for each in endpoints[:MOST]],
        "urls": "shown as the server gives them, not connected to",
    }


def _application(its: Any) -> Detail:
    name = its.ApplicationName.Text if its.ApplicationName is not None else ""
    return {
        "name": text(name),
        "application_uri": text(its.ApplicationUri),
        "product_uri": text(its.ProductUri),
        "type": _APPLICATIONS.get(int(its.ApplicationType), "unknown"),
        "discovery_urls": [text(url) for url in (its.DiscoveryUrls or [])[:MOST]],
    }


def _endpoint(its: Any) -> Detail:
    tokens = its.UserIdentityTokens or []
    return {
        "url": text(its.EndpointUrl),
        "policy": text((its.SecurityPolicyUri or "").rpartition("#")[2]) or "none",
        "mode": _MODES.get(int(its.SecurityMode), "invalid"),
        "users": sorted({_TOKENS.get(int(token.TokenType), "unknown") for token in tokens}),
        "level": int(its.SecurityLevel or 0),
        **_certificate(its.ServerCertificate),
    }


def _certificate(data: bytes | None) -> Detail:
    try:
        leaf = split(data)[0] if data else None
    except (ValueError, IndexError):
        leaf = data
    seen = certificate(leaf)
    return {"certificate": seen} if seen else {}
