"""`bifrost certs ca|server|client|application|import|renew|rm` as a user meets them, and who warns of certificates that end."""

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, load_pem_private_key, pkcs12
from typer.testing import CliRunner, Result

from bifrost.cli import app
from bifrost.status import certificates
from tests.command_in_process import quiet

__all__ = ["quiet"]

CONFIG = """
gateway:
  name: hall
  directory: DIR/data
  cloud: {connectors: {held: {type: file, endpoint: DIR/held}}}
sources:
  - {name: press, protocol: opcua, endpoint: "opc.tcp://127.0.0.1:1", security_policy: auto}
"""
BROKER = """
  - name: broker
    protocol: mqtt
    endpoint: mqtts://127.0.0.1:1
    tls: {ca_file: DIR/data/certificates/plant-ca.pem, cert_file: DIR/data/certificates/edge.pem, key_file: DIR/data/certificates/KEY.key}
"""


class Hall:
    def __init__(self, folder: Path) -> None:
        self.folder, self.config = folder, folder / "gateway.yaml"
        self.configure()

    def configure(self, key: str | None = None) -> None:
        text = CONFIG if key is None else CONFIG + BROKER.replace("KEY", key)
        self.config.write_text(text.replace("DIR", str(self.folder)))

    def run(self, *arguments: str) -> Result:
        return CliRunner().invoke(app, [*arguments, "-c", str(self.config)])

    def certs(self, *arguments: str) -> Any:
        found = self.run("certs", *arguments, "--json")
        assert found.exit_code == 0, found.output
        return json.loads(found.stdout)


@pytest.fixture
def hall(tmp_path: Path) -> Hall:
    return Hall(tmp_path)


def test_an_authority_signs_and_everything_is_listed_and_renewed(hall: Hall) -> None:
    hall.certs("ca", "plant-ca", "--organization", "ACME", "--key", "p-256")
    hall.certs("server", "broker", "--host", "broker.plant", "--host", "10.0.0.1", "--ca", "plant-ca")
    edge = hall.certs("client", "edge", "--ca", "plant-ca", "--days", "20")
    press = hall.certs("application", "press", "--source", "press", "--host", "10.0.0.2")
    assert press["application_uris"] == ["urn:bifrost:hall:press"]
    assert "10.0.0.2" in press["hosts"]
    hall.configure("edge")
    rows = {(row["owner"], row["kind"], Path(row["file"]).name) for row in hall.certs("list")["certificates"]}
    assert rows == {
        ("broker", "own", "edge.pem"), ("broker", "ca", "edge.pem"), ("broker", "ca", "plant-ca.pem"),
        ("", "own", "broker.pem"), ("", "ca", "broker.pem"), ("", "own", "press.pem"),
    }  # fmt: skip
    shown = hall.run("certs", "list").stdout
    assert edge["id"][:8] in shown and "ENDS SOON" in shown
    renewed = hall.run("certs", "renew", "--due", "30", "--days", "400")
    assert "CN=edge is renewed" in renewed.output
    assert "the one before is kept in" in renewed.output
    assert "ENDS SOON" not in hall.run("certs", "list").stdout
    assert "nothing ends within 30 days" in hall.run("certs", "renew", "--due", "30").output


def test_a_pkcs12_file_is_imported_with_its_password_from_a_file(hall: Hall, tmp_path: Path) -> None:
    made = hall.certs("client", "edge")
    key, certificate = Path(made["key_file"]), x509.load_pem_x509_certificate(Path(made["file"]).read_bytes())
    private: Any = load_pem_private_key(key.read_bytes(), None)
    packed = pkcs12.serialize_key_and_certificates(b"x", private, certificate, None, BestAvailableEncryption(b"s3cret"))
    (tmp_path / "Device 7.p12").write_bytes(packed)
    (tmp_path / "password").write_text("s3cret\n")
    refused = hall.run("certs", "import", str(tmp_path / "Device 7.p12"))
    assert refused.exit_code == 1
    assert "needs a password" in refused.output
    kept = hall.certs("import", str(tmp_path / "Device 7.p12"), "--password-file", str(tmp_path / "password"))
    assert (Path(kept["file"]).name, Path(kept["key_file"]).name) == ("device-7.pem", "device-7.key")
    trusted = hall.certs("import", made["file"], "--trusted", "press")
    assert (trusted["owner"], trusted["kind"]) == ("press", "trusted")
    assert hall.run("certs", "rm", made["id"], "--source", "press").exit_code == 1
    assert hall.run("certs", "reject", "press", trusted["thumbprint"]).exit_code == 0
    assert hall.run("certs", "rm", made["id"], "--source", "press").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["server", "broker"], 1, "give hosts"),
        (["client", "Edge"], 1, "is no name"),
        (["client", "edge", "--key", "dsa"], 2, "there is no key"),
        (["client", "edge", "--ca", "none"], 1, "bifrost certs ca none"),
        (["application", "x", "--source", "lathe"], 1, "the configuration has: press"),
        (["renew"], 2, "say --due DAYS"),
        (["renew", "00000000"], 1, "no certificate with the id"),
    ],
)
def test_what_cannot_be_is_said(hall: Hall, arguments: list[str], code: int, said: str) -> None:
    found = hall.run("certs", *arguments)
    assert found.exit_code == code
    assert said in " ".join(found.output.replace("│", " ").split())


def test_check_and_doctor_warn_of_certificates_that_end_or_cannot_be_used(hall: Hall) -> None:
    hall.certs("ca", "plant-ca", "--key", "p-256")
    hall.certs("client", "edge", "--ca", "plant-ca", "--days", "20")
    hall.certs("client", "other", "--ca", "plant-ca")
    hall.configure("edge")
    assert "warning: the certificate of CN=edge" in hall.run("check").output
    assert len(json.loads(hall.run("check", "--json").stdout)["certificates"]) == 1
    hall.configure("other")
    warned = json.loads(hall.run("check", "--json").stdout)["certificates"]
    assert any(said.startswith("broker: tls.cert_file: the key in") for said in warned)
    examined = json.loads(hall.run("doctor", "--json").stdout)["connectors"]
    (found,) = [one["findings"] for one in examined if one["name"] == "broker"]
    assert [(f["ok"], f["subject"]) for f in found][:2] == [(False, "certificates"), (True, "certificates")]
    assert "renew it" in found[1]["detail"]


def test_the_status_of_a_gateway_warns_of_certificates_that_end() -> None:
    assert certificates({"certificates": ["the certificate of CN=\x1bx ends"]}) == [
        "WARNING: the certificate of CN=\\x1bx ends"
    ]
    assert certificates({}) == []
