"""How an MQTT session is connected: its endpoint, and what CONNECT says."""

from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit, urlunsplit

from connectors.settings import TlsSettings

PLAIN_SCHEMES: Final = {"mqtt": 1883, "tcp": 1883, "ws": 80}
TLS_SCHEMES: Final = {"mqtts": 8883, "tls": 8883, "ssl": 8883, "wss": 443}
_WEBSOCKETS: Final = ("ws", "wss")
_WEBSOCKET_PATH: Final = "/mqtt"


def endpoint_address(endpoint: str) -> tuple[str, int, bool]:
    """Host, port and whether TLS is used, of an endpoint such as ``mqtts://broker:8883``.

    Raises:
        ValueError: The endpoint is not one that can be connected to.
    """
    parts = urlsplit(endpoint)
    port = (PLAIN_SCHEMES | TLS_SCHEMES).get(parts.scheme)
    if port is None or not parts.hostname:
        known = ", ".join(f"{scheme}://" for scheme in (*PLAIN_SCHEMES, *TLS_SCHEMES))
        msg = f"`{endpoint}` is not an MQTT endpoint; write one of {known} with a host and, if needed, a port"
        raise ValueError(msg)
    websocket = parts.scheme in _WEBSOCKETS
    if (not websocket and (parts.path not in {"", "/"} or parts.query)) or parts.username or parts.fragment:
        raise ValueError(f"`{endpoint}` holds more than host and port; user and password have settings of their own")
    return parts.hostname, parts.port or port, parts.scheme in TLS_SCHEMES


def websocket_url(endpoint: str) -> str | None:
    """The URL of an endpoint that is reached over WebSocket, whose path is ``/mqtt`` if it has none; None for others."""
    parts = urlsplit(endpoint)
    if parts.scheme not in _WEBSOCKETS:
        return None
    return urlunsplit((parts.scheme, parts.netloc, parts.path or _WEBSOCKET_PATH, parts.query, ""))


@dataclass(frozen=True, slots=True)
class Granted:
    """What a broker allows; the defaults are those of MQTT 5 for a broker that says nothing.

    Attributes:
        receive_maximum: Messages of QoS 1 and 2 that it takes at once.
        max_qos: The highest quality of service.
        retain: Whether it keeps retained messages.
        max_packet: Bytes of the largest packet.
    """

    receive_maximum: int = 65_535
    max_qos: int = 2
    retain: bool = True
    max_packet: int = 5 + 268_435_455


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """How to connect.

    Attributes:
        endpoint: For example ``mqtts://broker:8883`` or ``wss://broker/mqtt``.
        client_id: Name of the session at the broker.
        v5: MQTT 5 instead of 3.1.1.
        clean: Begin a new session instead of resuming one.
        username: User name, None for anonymous.
        password: Password, never logged.
        tls: TLS settings; used when the endpoint's scheme says TLS.
        keepalive: Seconds after which the broker may drop a silent connection; 0 for never.
        session_expiry: Seconds for which the broker keeps the session (MQTT 5).
        receive_maximum: Messages of QoS 1 and 2 that the broker may have under way (MQTT 5).
        max_packet: Bytes of a packet; of a larger one only the beginning is kept.
        connect_timeout: Seconds for the connection and the broker's answer.
    """

    endpoint: str
    client_id: str
    v5: bool = False
    clean: bool = False
    username: str | None = None
    password: str | None = None
    tls: TlsSettings | None = None
    keepalive: int = 30
    session_expiry: int = 0
    receive_maximum: int = 1000
    max_packet: int = 16 * 1024 * 1024
    connect_timeout: float = 10.0
