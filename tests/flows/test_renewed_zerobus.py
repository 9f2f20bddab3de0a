"""The authority that a ZeroBus target trusts is replaced while the gateway runs, before the official SDK's own TLS."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.certificates import Authority
from tests.connectors.targets.zerobus_emulator import CLIENT, SECRET, Emulator
from tests.ports import free_port
from tests.web.client import Client, NoAnswerError
from tests.web.serving import until
from web.access.cli_token import cli_token

pytestmark = pytest.mark.timeout(180)


def configuration(folder: Path, emulator: Emulator, table: str, port: int) -> Path:
    own = {"table": table, "workspace_url": emulator.url, "client_id": CLIENT, "client_secret": SECRET}
    target = {"type": "zerobus", "endpoint": emulator.endpoint, "timeout": "10s", "provider_config": own}
    cloud = {"connectors": {"lake": target}, "default_connector": "lake"}
    path = folder / "gateway.yaml"
    written = {"gateway": {"name": "line1", "directory": str(folder / "data"), "port": port, "cloud": cloud}}
    path.write_text(yaml.safe_dump(written))
    return path


def test_a_renewed_authority_of_zerobus_counts_without_a_restart_and_nothing_is_lost(tmp_path: Path) -> None:
    authority, trusted, port = Authority(tmp_path / "tls"), tmp_path / "trusted.pem", free_port()
    trusted.write_bytes(authority.ca.read_bytes())
    emulator = Emulator(tmp_path / "emulator", authority)
    table = emulator.create()
    command = [sys.executable, "-m", "bifrost", "run", "-c", configuration(tmp_path, emulator, table, port)]
    environment = os.environ | {"SSL_CERT_FILE": str(trusted), "NO_PROXY": "localhost", "no_proxy": "localhost"}

    def client() -> Client:
        return Client(port, {"authorization": f"Bearer {cli_token(tmp_path / 'data')}"})

    def posted(value: float) -> bool:
        try:
            body = {"id": f"r{value}", "device_id": "press", "tag_name": "force", "value": value}
            return client().post("/api/data", json=body).status_code == 200
        except (NoAnswerError, OSError):
            return False

    def failing() -> str:
        return str(json.loads(client().get("/health").text)["targets"]["lake"]["last_error"])

    def arrived() -> list[float]:
        return sorted(emulator.rows(table).column("value").to_pylist())

    with (tmp_path / "log").open("wb") as log:
        gateway = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        until(lambda: posted(1.0), 60)
        until(lambda: arrived() == [1.0], 60)
        listed = client().get("/api/certificates").json()["certificates"]
        assert any("SSL_CERT_FILE" in use for one in listed for use in one["used_by"])

        emulator.kill()
        authority.issue()  # another authority, and a server certificate of it
        emulator.start()
        assert posted(2.0)
        until(lambda: "UnknownIssuer" in failing() or "CERTIFICATE_VERIFY_FAILED" in failing(), 60)
        assert arrived() == [1.0]

        trusted.write_bytes(authority.ca.read_bytes())
        until(lambda: arrived() == [1.0, 2.0], 60)
        until(lambda: "renewed files, connecting anew" in (tmp_path / "log").read_text())
        gateway.terminate()
        assert gateway.wait(60) == 0
    finally:
        gateway.kill()
        gateway.wait()
        emulator.kill()
