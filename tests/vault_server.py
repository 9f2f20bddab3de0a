"""A server that speaks what HashiCorp documents of a Vault's HTTP API: KV 1 and 2, logins, namespaces, mounts, being sealed.

It is not a Vault. It checks what a Vault checks of a client: token, namespace, the header that a Vault may ask for, and paths.
"""

import json
import ssl
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ROOT_TOKEN = "hvs.canary-root"
ROLE, SECRET_ID = "role-7", "canary-secret-id"
POD, POD_TOKEN = "bifrost", "canary-pod-token"


@dataclass
class VaultServer:
    """Entries by mount and path; `versions` says which KV store a mount is."""

    versions: dict[str, int | str] = field(default_factory=lambda: {"secret": 2, "old": 1})
    entries: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    namespace: str = ""
    sealed: bool = False
    tells_mounts: bool = True
    deleted: set[tuple[str, str]] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    tokens: set[str] = field(default_factory=lambda: {ROOT_TOKEN})

    def start(self, certificate: Path | None = None, key: Path | None = None) -> "VaultServer":
        vault = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._answer(*vault.answer(self.path, self.headers, {}))

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers.get("content-length", 0))) or b"{}")
                self._answer(*vault.answer(self.path, self.headers, body))

            do_PUT = do_POST  # noqa: N815 - the server's name for it

            def _answer(self, status: int, body: dict[str, Any]) -> None:
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                vault.asked.append(f"{self.command} {self.path}")

        class Listener(ThreadingHTTPServer):
            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # a client that does not trust the certificate

        self._server = Listener(("127.0.0.1", 0), Handler)
        if certificate is not None:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(certificate, key)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.address = f"http{'s' if certificate else ''}://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, path: str, headers: Any, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if self.sealed:
            return 503, {"errors": ["Vault is sealed"]}
        if headers.get("X-Vault-Request") != "true" or headers.get("X-Vault-Namespace", "") != self.namespace:
            return 404, {"errors": []}
        where = path.removeprefix("/v1/")
        if where.startswith("auth/"):
            return self._login(where, body)
        if headers.get("X-Vault-Token") not in self.tokens:
            return 403, {"errors": ["permission denied"]}
        return self._read(where)

    def _login(self, where: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        good = {
            "auth/approle/login": {"role_id": ROLE, "secret_id": SECRET_ID},
            "auth/plant/login": {"role": POD, "jwt": POD_TOKEN},
        }.get(where)
        if good is None:
            return 403, {"errors": ["permission denied"]}
        if good != body:
            return 400, {"errors": [f"invalid credentials {json.dumps(body)}"]}  # a server that repeats what was sent
        token = f"hvs.canary-{len(self.tokens)}"
        self.tokens.add(token)
        return 200, {"auth": {"client_token": token, "lease_duration": 600, "renewable": True}}

    def _read(self, where: str) -> tuple[int, dict[str, Any]]:
        if where.startswith("sys/internal/ui/mounts/"):
            mount = where.removeprefix("sys/internal/ui/mounts/").split("/")[0]
            if not self.tells_mounts or mount not in self.versions:
                return 403, {"errors": ["preflight capability check returned 403"]}
            version = self.versions[mount]
            if isinstance(version, str):
                return 200, {"data": {"path": f"{mount}/", "type": version, "options": None}}
            options = {"version": str(version)} if version == 2 else None
            return 200, {"data": {"path": f"{mount}/", "type": "kv", "options": options}}
        mount, _, rest = where.partition("/")
        if self.versions.get(mount) == 2:
            if not rest.startswith("data/"):
                return 404, {"errors": []}
            known = self.entries.get((mount, rest.removeprefix("data/")))
            if (mount, rest.removeprefix("data/")) in self.deleted:
                metadata = {"deletion_time": "2026-01-01T00:00:00Z", "destroyed": False, "version": 1}
                return 404, {"data": {"data": None, "metadata": metadata}}
            if known is None:
                return 404, {"errors": []}
            return 200, {"data": {"data": known, "metadata": {"version": 1}}, "lease_duration": 0}
        known = self.entries.get((mount, rest))
        return (200, {"data": known, "lease_duration": 2764800}) if known is not None else (404, {"errors": []})
