"""The routes of certificates, without the guard that stands before them."""

import base64
import http.client
import json
import socket
import stat
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from config.models import Configuration
from connectors.sources.opcua import OpcUaConfig
from web.app import api
from web.routes.certificates import certificates_router


class Port:
    """The routes alone, in a server of this process."""

    def __init__(self, folder: Path) -> None:
        press = OpcUaConfig.model_validate({"name": "press", "endpoint": "opc.tcp://127.0.0.1:1"})
        self.config = replace(Configuration("hall", folder / "data"), sources=(press,))
        app = api([certificates_router(lambda: self.config)])
        self._server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))
        listening = socket.create_server(("127.0.0.1", 0))
        self._port = listening.getsockname()[1]
        self._thread = threading.Thread(target=self._server.run, args=([listening],))
        self._thread.start()

    def end(self) -> None:
        self._server.should_exit = True
        self._thread.join(10)

    def ask(self, method: str, path: str = "", body: Any = None) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)
        sent = None if body is None else json.dumps(body)
        connection.request(method, f"/api/certificates{path}", sent, {"content-type": "application/json"})
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        assert "PRIVATE" not in text
        return answer.status, json.loads(text)

    def post(self, path: str, code: int = 201, **body: Any) -> Any:
        status, found = self.ask("POST", f"/{path}", body)
        assert status == code, found
        return found

    def listed(self) -> list[dict[str, Any]]:
        status, answer = self.ask("GET")
        assert (status, answer["gateway"]) == (200, "hall")
        found: list[dict[str, Any]] = answer["certificates"]
        return found


@pytest.fixture
def port(tmp_path: Path) -> Iterator[Port]:
    found = Port(tmp_path)
    yield found
    found.end()


def test_certificates_are_made_imported_trusted_rejected_renewed_and_removed(port: Port) -> None:
    authority = port.post("ca", name="plant-ca", key="p-256")
    port.post("server", name="broker", hosts=["broker.plant", "10.0.0.1"], by="plant-ca")
    client = port.post("client", name="edge", by="plant-ca", days=20, organization="ACME")
    assert client["subject"] == "O=ACME,CN=edge"
    application = port.post("application", name="press", source="press")
    assert application["application_uris"] == ["urn:bifrost:hall:press"]
    data = base64.b64encode(Path(client["file"]).read_bytes()).decode()
    key = base64.b64encode(Path(client["key_file"]).read_bytes()).decode()
    kept = port.post("import", name="other", data=data, key=key)
    assert stat.S_IMODE(Path(kept["key_file"]).stat().st_mode) == 0o600
    trusted = port.post("import", name="x", data=data, source="press")
    assert (trusted["owner"], trusted["kind"]) == ("press", "trusted")
    assert port.post(f"{client['id']}/reject", 200)["kind"] == "rejected"
    assert port.post(f"{client['id']}/trust", 200, owner="press", issuer=True)["kind"] == "issuer"
    renewed = port.post(f"{application['id']}/renew", 200, days=100)
    assert renewed["days_left"] == pytest.approx(100, abs=0.1)
    assert renewed["previous_file"]
    assert port.ask("DELETE", f"/{renewed['id']}")[0] == 200
    kinds = {(row["kind"], row["subject"]) for row in port.listed()}
    assert ("issuer", "O=ACME,CN=edge") in kinds
    assert ("own", "CN=press") not in kinds
    assert authority["authority"] is True


@pytest.mark.parametrize(
    ("path", "code", "body"),
    [
        ("server", 422, {"name": "broker"}),
        ("server", 422, {"name": "../x", "hosts": ["a"]}),
        ("client", 422, {"name": "edge", "more": 1}),
        ("client", 404, {"name": "edge", "by": "nobody"}),
        ("application", 404, {"name": "edge", "source": "lathe"}),
        ("import", 422, {"name": "x", "data": "%%%"}),
        ("import", 422, {"name": "x", "data": "eA=="}),
        ("0123456789/renew", 404, {}),
        ("zzz/trust", 404, {}),
    ],
)
def test_what_cannot_be_is_answered_in_plain_words(port: Port, path: str, code: int, body: dict[str, Any]) -> None:
    assert port.post(path, code, **body)["detail"]
    assert port.listed() == []


def test_a_name_that_is_taken_or_a_certificate_in_use_is_a_conflict(port: Port) -> None:
    made = port.post("ca", name="plant-ca", key="p-256")
    assert "already" in port.post("ca", 409, name="plant-ca")["detail"]
    port.post("client", name="edge", by="plant-ca")
    assert port.ask("DELETE", f"/{made['id']}")[0] == 409
