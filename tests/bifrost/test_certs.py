"""`bifrost certs` as a user meets it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from typer.testing import CliRunner, Result

from bifrost.cli import app
from connectors.sources.opcua.certificates import thumbprint
from tests.command_in_process import quiet
from tests.connectors.sources.opcua.milo_server import Made

__all__ = ["quiet"]

CONFIG = """
gateway: {name: hall, directory: DIR}
sources:
  - {name: press, protocol: opcua, endpoint: "opc.tcp://127.0.0.1:1", security_policy: auto, certificate_hosts: [10.1.1.5]}
  - {name: oven, protocol: opcua, endpoint: "opc.tcp://127.0.0.1:1"}
  - {name: pump, protocol: mqtt, endpoint: "mqtt://127.0.0.1:1"}
"""
ROOT = Made("Plant CA", ca=True)
PRESS = Made("press", ROOT)


@pytest.fixture
def plant(tmp_path: Path) -> Path:
    """A configuration, and what source press was shown and refused."""
    (tmp_path / "gateway.yaml").write_text(CONFIG.replace("DIR", str(tmp_path / "data")))
    for made in (ROOT, PRESS):
        put(tmp_path, "rejected", made)
    return tmp_path


def put(plant: Path, folder: str, made: Made) -> None:
    place = plant / "data" / "sources" / "press" / folder
    place.mkdir(parents=True, exist_ok=True)
    (place / f"{thumbprint(made.certificate)}.der").write_bytes(made.der)


def certs(plant: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["certs", *arguments, "-c", str(plant / "gateway.yaml")])


def listed(plant: Path, *arguments: str) -> dict[tuple[str, str], dict[str, Any]]:
    said = json.loads(certs(plant, "list", *arguments, "--json").stdout)
    return {(one["source"], f"{c['folder']} {c['subject']}"): c for one in said["sources"] for c in one["certificates"]}


def test_what_was_refused_is_listed_and_trusted_by_its_first_digits(plant: Path) -> None:
    assert set(listed(plant)) == {("press", "rejected CN=Plant CA"), ("press", "rejected CN=press")}
    name = thumbprint(PRESS.certificate)
    said = certs(plant, "trust", "press", name[:8].upper())
    assert said.exit_code == 0, said.output
    assert f"CN=press (SHA-1 {name}) is trusted now" in said.output
    assert set(listed(plant, "press")) == {("press", "rejected CN=Plant CA"), ("press", "trusted CN=press")}
    assert set(listed(plant, "oven")) == set()


def test_an_authority_completes_chains_without_being_trusted(plant: Path) -> None:
    name = thumbprint(ROOT.certificate)
    assert "is an issuer now" in certs(plant, "trust", "press", name, "--issuer").output
    row = listed(plant)["press", "issuer CN=Plant CA"]
    assert (row["authority"], row["note"]) == (True, "authority, expires in 29 days")
    assert certs(plant, "trust", "press", name).exit_code == 0
    assert ("press", "trusted CN=Plant CA") in listed(plant)


def test_trust_is_taken_back(plant: Path) -> None:
    name = thumbprint(PRESS.certificate)
    certs(plant, "trust", "press", name)
    assert "is rejected now" in certs(plant, "reject", "press", ":".join([name[:2], name[2:4], name[4:]])).output
    assert ("press", "rejected CN=press") in listed(plant)
    again = certs(plant, "reject", "press", name)
    assert again.exit_code == 1
    assert "no certificate in trusted or issuer of press begins with" in again.output


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["trust", "press", "12345"], 2, "too short"),
        (["trust", "press", "000000000"], 1, "no certificate in rejected or issuer"),
        (["trust", "pump", "123456"], 2, "no OPC UA source `pump`"),
        (["list", "lathe"], 2, "the configuration has: press, oven"),
    ],
)
def test_what_cannot_be_meant_is_said(plant: Path, arguments: list[str], code: int, said: str) -> None:
    found = certs(plant, *arguments)
    assert found.exit_code == code
    assert said in " ".join(found.output.replace("│", " ").split())


def test_one_certificate_in_two_folders_is_one(plant: Path) -> None:
    put(plant, "issuer", PRESS)
    assert certs(plant, "trust", "press", thumbprint(PRESS.certificate)).exit_code == 0
    assert ("press", "trusted CN=press") in listed(plant)


def test_the_own_certificate_is_exported_and_made_when_there_is_none(plant: Path) -> None:
    said = certs(plant, "export", "press")
    certificate = x509.load_pem_x509_certificate(said.stdout.encode())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["urn:bifrost:hall:press"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["10.1.1.5"]
    assert certs(plant, "export", "press", "-o", str(plant / "press.der")).exit_code == 0
    assert x509.load_der_x509_certificate((plant / "press.der").read_bytes()) == certificate
    assert listed(plant)["press", "own CN=Bifrost hall:press"]["thumbprint"] == thumbprint(certificate)


def test_it_says_where_it_cannot_write(plant: Path) -> None:
    (plant / "data" / "sources" / "press" / "own").write_text("a file")
    found = certs(plant, "export", "press")
    assert found.exit_code == 1
    assert "own" in found.output


def test_as_a_process_it_prints_a_table(plant: Path) -> None:
    command = [sys.executable, "-m", "bifrost", "certs", "list", "-c", str(plant / "gateway.yaml")]
    said = subprocess.run(command, capture_output=True, text=True, timeout=90, check=True).stdout
    assert thumbprint(PRESS.certificate) in said
    assert "CN=Plant CA" in said
