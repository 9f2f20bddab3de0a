"""Sends a message by HTTP: outbound alone, through a proxy where the environment names one, with what a file of TLS holds now."""

import base64
import email.utils
import http.client
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Final

from typing_extensions import override

from config.telemetry import LoginSettings, OtlpSection, RemoteWriteSection
from connectors.contract import TransientError
from connectors.settings import TlsSettings
from connectors.wire.tls import tls_context
from flows.renewed import Mark, mark

_SAID: Final = 200  # characters of an answer that are told
_READ: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Answer:
    """What the other side said.

    Attributes:
        code: The status.
        body: What came with it.
        retry_after: Seconds that it wants to be left alone; None when it does not say.
    """

    code: int
    body: bytes
    retry_after: float | None

    @property
    def said(self) -> str:
        """Status and text, to be shown."""
        text = self.body[:_SAID].decode(errors="replace").strip()
        return f"{self.code}: {text}" if text else f"{self.code} {http.client.responses.get(self.code, '')}".strip()


class Post:
    """Posts to one address, one message at a time, over a connection that is kept.

    Args:
        section: Where to, and who the gateway is.
        address: The address with its path.
        headers: Headers of each request besides those of the section.
    """

    def __init__(self, section: RemoteWriteSection | OtlpSection, address: str, headers: Mapping[str, str]) -> None:
        found = urllib.parse.urlsplit(address)
        self.address = address
        self._secure = found.scheme == "https"
        self._host, self._port = found.hostname or "", found.port or (443 if self._secure else 80)
        self._path = found.path + (f"?{found.query}" if found.query else "")
        self._tls, self._timeout = section.tls, section.timeout
        own = {name: value.get_secret_value() for name, value in section.headers.items()}
        self._headers = {
            "user-agent": f"bifrost/{version('bifrost-gateway')}",
            **headers,
            **_login(section.auth),
            **own,
        }
        self._connection: http.client.HTTPConnection | None = None
        self._marks: list[Mark] = []
        self._ended = False
        self._lock = threading.Lock()

    def send(self, body: bytes) -> Answer:
        """Send one message; returns what the other side said of it.

        Raises:
            TransientError: It could not be sent, or no answer came.
        """
        marks = self._marked()
        if marks != self._marks:
            self._drop()
            self._marks = marks
        try:
            kept = self._connection is not None
            try:
                return self._asked(body)
            except (http.client.RemoteDisconnected, ConnectionError):
                self._drop()
                if not kept:
                    raise
                return self._asked(body)  # it was idle too long
        except (OSError, http.client.HTTPException) as error:
            self._drop()
            raise TransientError(f"{type(error).__name__}: {error}") from error

    def end(self) -> None:
        """Send nothing more, and do not wait for an answer; from any thread."""
        with self._lock:
            self._ended = True
            connection = self._connection
        if connection is not None and (socket := connection.sock) is not None:
            try:
                socket.shutdown(2)
            except OSError:
                return  # it has gone already

    def close(self) -> None:
        """Let go of the connection, when nothing is under way any more."""
        self._drop()

    def _asked(self, body: bytes) -> Answer:
        connection = self._connection or self._connected()
        connection.request("POST", self._target, body, self._headers)
        answer = connection.getresponse()
        said = answer.read(_READ)
        if answer.read(1):  # more than anybody needs to say
            self._drop()
        return Answer(answer.status, said, retry_after(answer.headers.get("retry-after"), time.time()))

    @property
    def _target(self) -> str:
        return self.address if self._proxied() and not self._secure else self._path or "/"

    def _proxied(self) -> str | None:
        """The proxy that the environment names for the address."""
        if urllib.request.proxy_bypass(f"{self._host}:{self._port}"):
            return None
        return urllib.request.getproxies().get("https" if self._secure else "http")

    def _connected(self) -> http.client.HTTPConnection:
        proxy = urllib.parse.urlsplit(self._proxied() or "")
        host, port = proxy.hostname or self._host, (proxy.port or 3128) if proxy.hostname else self._port
        login = {}
        if proxy.username:
            login["proxy-authorization"] = _basic(
                urllib.parse.unquote(proxy.username), urllib.parse.unquote(proxy.password or "")
            )
        connection: http.client.HTTPConnection
        if self._secure:
            connection = _Verified(host, port, self._timeout, self._tls, self._host)
            if proxy.hostname:
                connection.set_tunnel(self._host, self._port, login)
        else:
            connection = http.client.HTTPConnection(host, port, timeout=self._timeout)
            self._headers |= login
        with self._lock:
            if self._ended:
                raise ConnectionAbortedError("the gateway stops")
            self._connection = connection
        return connection

    def _drop(self) -> None:
        with self._lock:
            connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _marked(self) -> list[Mark]:
        """What tells that a file of TLS was renewed."""
        files = (self._tls.ca_file, self._tls.cert_file, self._tls.key_file)
        return [mark(file) for file in files if file is not None]


class _Verified(http.client.HTTPSConnection):
    """A connection whose certificate is looked at under another name than the host's, where that is said."""

    def __init__(self, host: str, port: int, timeout: float, tls: TlsSettings, name: str) -> None:
        self._made = tls_context(tls)
        super().__init__(host, port, timeout=timeout, context=self._made)
        self._name = tls.server_name or name

    @override
    def connect(self) -> None:
        http.client.HTTPConnection.connect(self)
        self.sock = self._made.wrap_socket(self.sock, server_hostname=self._name)


def _login(auth: LoginSettings) -> dict[str, str]:
    if auth.token is not None:
        return {"authorization": f"Bearer {auth.token.get_secret_value()}"}
    if auth.username is not None and auth.password is not None:
        return {"authorization": _basic(auth.username, auth.password.get_secret_value())}
    return {}


def _basic(username: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


def retry_after(header: str | None, now: float) -> float | None:
    """Seconds that a ``Retry-After`` asks for, which is a number or a date; None for none.

    Args:
        header: What it says.
        now: The time, seconds since the epoch.
    """
    if header is None:
        return None
    if header.strip().isdigit():
        return float(header)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - now)
    except ValueError:
        return None


__all__ = ["Answer", "Post", "retry_after"]
