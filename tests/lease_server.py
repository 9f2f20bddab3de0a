"""A stand-in for the API server of a cluster: Lease objects with resource versions, over TLS, for a service account's token."""

import json
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import trustme
from typing_extensions import override

TOKEN: Final = "a-service-account's"
_PATH: Final = ["apis", "coordination.k8s.io", "v1", "namespaces"]


class LeaseServer:
    """Answers as the API server does: 401, 404, 409 for what is there or has changed, 422 for what is no lease.

    Args:
        directory: Where the files of a pod's service account are written.
        port: Where it listens; any free one when 0.
        namespace: The namespace that there is.
    """

    def __init__(self, directory: Path, port: int = 0, namespace: str = "plant") -> None:
        self.namespace, self.leases = namespace, dict[str, dict[str, Any]]()
        self.away = False  # answers nothing but 503
        self.requests = 0
        self._version = 100
        self._lock = threading.Lock()
        self.token_file, self.ca_file = directory / "token", directory / "ca.crt"
        self.token_file.write_text(TOKEN + "\n")
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(self.ca_file))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        self._server = ThreadingHTTPServer(("127.0.0.1", port), self._handler())
        self._server.daemon_threads = True
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self._server.server_address[1]}"

    def section(self, **more: Any) -> dict[str, Any]:
        """What stands in `gateway.leases` for it."""
        found = {"store": "kubernetes", "namespace": self.namespace, "endpoint": self.url}
        return found | {"ca_file": str(self.ca_file), "token_file": str(self.token_file)} | more

    def holders(self) -> dict[str, str]:
        """Who holds which source."""
        with self._lock:
            return {
                lease["metadata"]["annotations"]["bifrost/source"]: lease["spec"].get("holderIdentity") or ""
                for lease in self.leases.values()
            }

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, method: str, path: str, token: str | None, body: bytes) -> tuple[int, dict[str, Any]]:
        """What the API server answers."""
        if self.away:
            return 503, _status("the server is currently unable to handle the request")
        if token != f"Bearer {TOKEN}":
            return 401, _status("Unauthorized")
        *root, namespace, kind, name = [*path.strip("/").split("/"), *([""] if path.count("/") == 6 else [])]
        if root != _PATH or kind != "leases" or namespace != self.namespace:
            return 403, _status(f'leases is forbidden in the namespace "{namespace}"')
        with self._lock:
            self.requests += 1
            if method == "GET":
                found = self.leases.get(name)
                return (200, found) if found else (404, _status(f'leases "{name}" not found'))
            return self._change(method, name, json.loads(body))

    def _change(self, method: str, name: str, wanted: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        metadata, spec = wanted["metadata"], wanted["spec"]
        if wanted["kind"] != "Lease" or not 0 < spec["leaseDurationSeconds"] < 2**31 or len(metadata["name"]) > 253:
            return 422, _status("Lease is invalid")
        for key in ("acquireTime", "renewTime"):
            time.strptime(spec[key].split(".")[0], "%Y-%m-%dT%H:%M:%S")
            if len(spec[key]) != len("2026-01-01T00:00:00.000000Z"):
                return 400, _status("MicroTime wants six digits")
        name, there = name or metadata["name"], self.leases.get(name or metadata["name"])
        if method == "POST" and there:
            return 409, _status(f'leases "{name}" already exists')
        if method == "PUT" and not there:
            return 404, _status(f'leases "{name}" not found')
        if there and metadata.get("resourceVersion") != there["metadata"]["resourceVersion"]:
            return 409, _status(f'Operation cannot be fulfilled on leases "{name}": the object has been modified')
        self._version += 1
        kept = {**wanted, "metadata": metadata | {"resourceVersion": str(self._version), "namespace": self.namespace}}
        self.leases[name] = kept
        return (200 if there else 201), kept

    def _handler(server) -> type[BaseHTTPRequestHandler]:  # noqa: N805 - the handler has a self of its own
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _do(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                code, found = server.answer(self.command, self.path, self.headers.get("authorization"), body)
                said = json.dumps(found).encode()
                self.send_response(code)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(said)))
                self.end_headers()
                self.wfile.write(said)

            do_GET = do_POST = do_PUT = _do  # noqa: N815 - names that the server calls

            @override
            def log_message(self, format: str, *args: Any) -> None:
                pass

        return Handler


def _status(message: str) -> dict[str, Any]:
    return {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message}
