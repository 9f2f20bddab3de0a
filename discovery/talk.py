"""A connection that a probe is handed, and how what a server says is kept: short, printable and bounded."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from discovery.settings import ModbusScanSettings, MqttScanSettings

_LONGEST: Final = 200  # characters of a text
MOST: Final = 50  # members of a list
_READ_AHEAD: Final = 64 * 1024

Detail = dict[str, Any]
"""What was found out about a server, as JSON takes it."""


class NotSpokenError(Exception):
    """The server does not speak the protocol; the message says what it does instead."""


@dataclass(frozen=True, slots=True)
class Manner:
    """How servers are asked.

    Attributes:
        timeout: Seconds for each answer.
        mqtt: What MQTT brokers are asked.
        modbus: What Modbus devices are asked.
    """

    timeout: float = 1.0
    mqtt: MqttScanSettings = field(default_factory=lambda: MqttScanSettings.model_validate({}))
    modbus: ModbusScanSettings = field(default_factory=lambda: ModbusScanSettings.model_validate({}))


class Probe(Protocol):
    """Asks a server what it is.

    Raises:
        NotSpokenError: It speaks something else.
        OSError: The connection is lost, or no answer comes in time.
    """

    async def __call__(self, connection: socket.socket, host: str, port: int, manner: Manner) -> Detail:
        """What the server says; the connection is closed in any case."""


@asynccontextmanager
async def stream(
    connection: socket.socket, tls: ssl.SSLContext | None = None, host: str = "", patience: float | None = None
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Read and write on a connection, which is closed at the end at once, whatever is not sent yet.

    Args:
        connection: The connection.
        tls: How it is encrypted; None for not at all.
        host: Whom the server's name is told to be, with `tls`.
        patience: Seconds for agreeing on `tls`.
    """
    reader, writer = await asyncio.open_connection(sock=connection, limit=_READ_AHEAD)
    bare = writer.transport
    try:
        if tls is not None:
            await writer.start_tls(tls, server_hostname=host, ssl_handshake_timeout=patience)
        yield reader, writer
    finally:
        bare.abort()  # TLS would take its leave first, for as long as the server likes


def text(said: object) -> str:
    """What a server says, short and printable."""
    shown = "".join(letter if letter.isprintable() else "\ufffd" for letter in str(said or "")[:_LONGEST])
    return shown.strip()


def certificate(data: bytes | None) -> Detail:
    """What is to be seen of a certificate (DER)."""
    from cryptography import x509
    from cryptography.hazmat.primitives.hashes import SHA256

    if not data:
        return {}
    try:
        found = x509.load_der_x509_certificate(data)
        return {
            "subject": text(found.subject.rfc4514_string()),
            "issuer": text(found.issuer.rfc4514_string()),
            "not_after": found.not_valid_after_utc.isoformat().replace("+00:00", "Z"),
            "sha256": found.fingerprint(SHA256()).hex(),
        }
    except ValueError:
        return {"problem": "it cannot be read"}
