"""One request to a provider: within a time as a whole, of a bounded size, and never to where its answer leads."""

import contextlib
import http.client
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from connectors.settings import TlsSettings
from connectors.wire.tls import tls_context
from web.access.oidc.claims import OidcError

MOST: Final = 512 * 1024  # bytes of an answer


class DownError(OidcError):
    """The provider does not answer, or not as it should."""


def fetch(
    url: str, *, ca_file: Path | None, timeout: float, form: str | None = None, headers: Mapping[str, str] | None = None
) -> tuple[int, bytes]:
    """Status and body of an answer.

    Args:
        url: What is asked, by http or https.
        ca_file: Authorities to trust; the system's when None.
        timeout: Seconds for all of it.
        form: What is posted; None to get.
        headers: Headers besides.

    Raises:
        DownError: There is no whole answer in this time, or it is too large.
    """
    parts = urlsplit(url)
    host, until = parts.netloc, time.monotonic() + timeout
    sent = {"accept": "application/json", "connection": "close", "user-agent": "bifrost", **(headers or {})}
    if form is not None:
        sent["content-type"] = "application/x-www-form-urlencoded"
    late = threading.Event()
    try:
        connection = _connection(parts.scheme, parts.hostname or "", parts.port, ca_file, timeout)
        try:
            connection.connect()
            cut = threading.Timer(max(0.0, until - time.monotonic()), _cut, (connection.sock, late))
            cut.daemon = True
            cut.start()
            try:
                path = f"{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}"
                connection.request("GET" if form is None else "POST", path, form, sent)
                with connection.getresponse() as answer:
                    body = answer.read(MOST + 1)
            finally:
                cut.cancel()
        finally:
            connection.close()
    except ssl.SSLCertVerificationError as error:
        raise DownError(
            f"the certificate of {host} is not trusted ({error.verify_message}); set web_ui.oidc.ca_file"
        ) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise DownError(_words(host, error, timeout, late=late.is_set())) from None
    if late.is_set():
        raise DownError(_words(host, None, timeout, late=True))
    if len(body) > MOST:
        raise DownError(f"{host} answers with more than {MOST // 1024} KiB, which is not read")
    return answer.status, body


def _connection(
    scheme: str, host: str, port: int | None, ca_file: Path | None, timeout: float
) -> http.client.HTTPConnection:
    if scheme == "https":
        context = tls_context(TlsSettings(ca_file=ca_file))
        return http.client.HTTPSConnection(host, port, timeout=timeout, context=context)
    return http.client.HTTPConnection(host, port, timeout=timeout)


def _cut(sock: socket.socket, late: threading.Event) -> None:
    """End a connection that another thread reads from: an answer that trickles keeps every single read in time."""
    late.set()
    with contextlib.suppress(OSError):  # it has ended
        socket.socket.shutdown(sock, socket.SHUT_RDWR)  # beneath TLS, whose own state is the other thread's


def _words(host: str, error: Exception | None, timeout: float, *, late: bool) -> str:
    local = "; users of the gateway itself can log in all the same"
    if late or isinstance(error, TimeoutError):
        return f"the provider at {host} does not answer within {timeout:g} s{local}"
    if isinstance(error, socket.gaierror):
        return f"the name of the provider, {host}, cannot be resolved{local}"
    if isinstance(error, OSError):
        return f"the provider at {host} cannot be reached ({error.strerror or type(error).__name__}){local}"
    return f"the provider at {host} does not speak HTTP as it should{local}"
