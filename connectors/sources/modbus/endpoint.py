"""Where a device is, and how one talks there: the scheme of an endpoint says transport and framing (pure)."""

from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import urlsplit

Transport = Literal["tcp", "tls", "udp", "serial"]
Mode = Literal["socket", "rtu", "ascii"]

SCHEMES: Final[dict[str, tuple[Transport, Mode]]] = {
    "tcp": ("tcp", "socket"),
    "tls": ("tls", "socket"),
    "udp": ("udp", "socket"),
    "rtu": ("serial", "rtu"),
    "ascii": ("serial", "ascii"),
    "rtu+tcp": ("tcp", "rtu"),
    "ascii+tcp": ("tcp", "ascii"),
    "rtu+udp": ("udp", "rtu"),
    "rtu+tls": ("tls", "rtu"),
}
_PORTS: Final = {"tls": 802}  # Modbus/TCP Security; the others have 502
_HINT: Final = (
    "write tcp://host:502, rtu+tcp://host:502, ascii+tcp://, udp://, tls://host:802, rtu:///dev/ttyUSB0 or "
    "ascii:///dev/ttyUSB0"
)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An endpoint taken apart.

    Attributes:
        transport: What carries the bytes.
        mode: How requests are framed: `socket` is the MBAP header of Modbus TCP.
        host: Host, or the path of a serial line.
        port: Port; 0 of a serial line.
    """

    transport: Transport
    mode: Mode
    host: str
    port: int


def endpoint_of(text: str) -> Endpoint:
    """The endpoint that `text` names.

    Raises:
        ValueError: It names none.
    """
    try:
        parts = urlsplit(text)
        transport, mode = SCHEMES[parts.scheme]
        if transport == "serial":
            sound = len(parts.path) > 1 and not (parts.netloc or parts.query)
            found = Endpoint(transport, mode, parts.path, 0)
        else:
            sound = bool(parts.hostname) and (parts.port is None or parts.port > 0)
            sound = sound and not (parts.path.strip("/") or parts.query or parts.username)
            found = Endpoint(transport, mode, parts.hostname or "", parts.port or _PORTS.get(transport, 502))
    except (ValueError, KeyError):
        sound, found = False, None
    if not sound or found is None:
        raise ValueError(f"`{text}` is not an endpoint; {_HINT}")
    return found
