"""A stand-in for InfluxDB 2.x and 3.x: an HTTPS server that takes line protocol and answers as they do.

The answers of 2.x are those that a real InfluxDB 2.7.12 gave (`tests/connectors/targets/test_influxdb_answers.py` compares them
where it is built); those of 3.x are as its documentation shows them. It asks for a client certificate and a token, and forgets nothing while
it is stopped.
"""

import datetime
import gzip
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import trustme
from typing_extensions import override

from tests.connectors.wire.line_parser import Line, parse_lines
from tests.influx_server import ORGANIZATION, TOKEN
from tests.ports import free_port

_WRITES = {"/api/v2/write": "2.x", "/api/v3/write_lp": "3.x"}
_PRECISIONS = {"ns", "us", "ms", "s", "nanosecond", "microsecond", "millisecond", "second"}
_LONG_AGO = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
Key = tuple[str, tuple[tuple[str, str], ...], int]


class InfluxStandIn:
    """One server.

    Attributes:
        points: What it has, by series and time: one that is written again replaces itself.
        next_answers: What the next writes are answered with, whatever they are: status, headers, body.
        requests: Path and headers of the requests that came.
        largest: Bytes of a body, uncompressed, that it takes.
        longest: Bytes of a field that it takes.
        write_only: Whether the token may write and sees nothing.
    """

    def __init__(self, folder: Path, version: str = "v2.7.12") -> None:
        self.port, self.version = free_port(), version
        self.points: dict[Key, Line] = {}
        self.next_answers: list[tuple[int, dict[str, str], bytes]] = []
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.buckets: dict[str, list[Any]] = {}
        self.largest, self.longest = 10 * 1024**2, 1024**2
        self.token, self.write_only = TOKEN, False
        self._types: dict[tuple[str, str], type] = {}
        self._folder = folder / "certificates"
        self._folder.mkdir()
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        self._server: ThreadingHTTPServer | None = None
        self._thread: threading.Thread | None = None
        self.tls = {
            "ca_file": str(self._folder / "ca.pem"),
            "cert_file": str(self._folder / "client.pem"),
            "key_file": str(self._folder / "client.key"),
        }
        self.certify()

    def certify(self, *, expired: bool = False) -> None:
        """New authority and certificates, and a start with them."""
        self.stop()
        authority = trustme.CA()
        own = authority.issue_cert("localhost", not_after=_LONG_AGO if expired else None)
        client = authority.issue_cert("gateway")
        authority.cert_pem.write_to_path(self._folder / "ca.pem")
        client.private_key_pem.write_to_path(self._folder / "client.key")
        (self._folder / "client.pem").write_bytes(b"".join(pem.bytes() for pem in client.cert_chain_pems))
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        own.configure_cert(self._context)
        authority.configure_trust(self._context)
        self._context.verify_mode = ssl.CERT_REQUIRED
        self.start()

    def start(self) -> None:
        """Listen."""
        stand_in = self

        class Handler(_Handler):
            owner = stand_in

        self._server = _Listener(("localhost", self.port), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End, with all connections."""
        if self._server is None or self._thread is None:
            return
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._server = None
        for connection in list(self._connections):
            connection.close()

    end = stop

    # ------------------------------------------------------------------ what it answers

    def answer(self, handler: "_Handler", body: bytes) -> tuple[int, dict[str, str], bytes]:
        """The answer to a request."""
        path = urlsplit(handler.path)
        asked = {key: values[0] for key, values in parse_qs(path.query).items()}
        self.requests.append((handler.path, dict(handler.headers)))
        if path.path == "/ping":
            return 204, {"X-Influxdb-Version": self.version}, b""
        given = handler.headers.get("Authorization", "").split(" ")
        if given[-1] != self.token or given[0] not in ("Token", "Bearer"):
            return _error(401, "unauthorized", "unauthorized access")
        if path.path in _WRITES:
            if self.next_answers:
                return self.next_answers.pop(0)
            with self._lock:
                return self._write(_WRITES[path.path], asked, handler, body)
        return self._manage(handler.command, path.path, asked, body)

    def _manage(self, method: str, path: str, asked: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        if path == "/api/v2/orgs":
            if asked.get("org") != ORGANIZATION:
                return _error(404, "not found", f'organization name "{asked.get("org")}" not found')
            known = [] if self.write_only else [{"id": "0a", "name": ORGANIZATION}]
            return 200, {}, json.dumps({"orgs": known}).encode()
        if path == "/api/v2/buckets" and method == "POST":
            made = json.loads(body)
            self.buckets[made["name"]] = made["retentionRules"]
            return 201, {}, body
        if path == "/api/v2/buckets":
            name = asked.get("name", "")
            if self.write_only:
                return 200, {}, b'{"buckets": []}'
            if name not in self.buckets:
                return _error(404, "not found", f'bucket "{name}" not found')
            found = {"buckets": [{"id": "0b", "name": name, "retentionRules": self.buckets[name]}]}
            return 200, {}, json.dumps(found).encode()
        if path == "/api/v3/configure/database":
            return 200, {}, json.dumps([{"iox::database": "plant"}]).encode()
        return _error(404, "not found", "path not found")

    def _write(
        self, version: str, asked: dict[str, str], handler: "_Handler", body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        if version == "2.x" and asked.get("org") != ORGANIZATION:
            return _error(404, "not found", f'organization name "{asked.get("org")}" not found')
        if version == "2.x" and asked.get("bucket") not in self.buckets:
            return _error(404, "not found", f'bucket "{asked.get("bucket")}" not found')
        if asked.get("precision") not in _PRECISIONS:
            return _error(400, "invalid", "invalid precision; valid precision units are ns, us, ms, and s")
        if handler.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        if len(body) > self.largest:
            return _error(413, "request too large", "unable to read data: points batch is too large")
        try:
            lines = parse_lines(body.decode())
        except (ValueError, IndexError):
            return _error(400, "invalid", "\n".join(_unparsable(body.decode())))
        refused: dict[int, str] = {}
        for at, line in enumerate(lines):
            why = self._refusal(line)
            if why is not None:
                refused[at] = why
                continue
            key = line.measurement, tuple(sorted(line.tags.items())), line.time
            known = self.points.get(key)
            self.points[key] = (
                line if known is None else Line(line.measurement, line.tags, known.fields | line.fields, line.time)
            )
        if not refused:
            return 204, {}, b""
        if version == "2.x":
            why = next(iter(refused.values()))
            text = f"failure writing points to database: partial write: {why} dropped={len(refused)}"
            return _error(422, "unprocessable entity", text)
        data = [{"original_line": "", "line_number": at + 1, "error_message": why} for at, why in refused.items()]
        return 400, {}, json.dumps({"error": "partial write of line protocol occurred", "data": data}).encode()

    def _refusal(self, line: Line) -> str | None:
        for name, value in line.fields.items():
            if isinstance(value, str) and len(value) > self.longest:
                return f'input field "{name}" on measurement "{line.measurement}" is too long, {len(value)} > {self.longest}'
            known = self._types.setdefault((line.measurement, name), type(value))
            if known is not type(value):
                return (
                    f'field type conflict: input field "{name}" on measurement "{line.measurement}" is type '
                    f"{_NAMES[type(value)]}, already exists as type {_NAMES[known]}"
                )
        return None


_NAMES: dict[type, str] = {int: "integer", float: "float", bool: "boolean", str: "string"}


def _unparsable(text: str) -> Iterator[str]:
    """What is said about each line that cannot be parsed."""
    for line in text.splitlines():
        try:
            parse_lines(line + "\n")
        except (ValueError, IndexError) as error:
            why = "invalid boolean" if "is no number" in str(error) else "invalid field format"
            yield f"unable to parse '{line}': {why}"


def _error(status: int, code: str, message: str) -> tuple[int, dict[str, str], bytes]:
    return status, {}, json.dumps({"code": code, "message": message}).encode()


class _Listener(ThreadingHTTPServer):
    daemon_threads = True

    @override
    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: InfluxStandIn

    @override
    def setup(self) -> None:
        owner = self.owner
        self.request.settimeout(30)
        self.request = owner._context.wrap_socket(self.request, server_side=True)
        owner._connections.add(self.request)
        super().setup()

    @override
    def finish(self) -> None:
        self.owner._connections.discard(self.request)
        super().finish()
        self.request.close()

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        status, headers, answer = self.owner.answer(self, body)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_POST = do_GET  # noqa: N815 - the server looks for this name

    @override
    def log_message(self, format: str, *args: Any) -> None:
        """Silent."""
