"""`bifrost config`, as an engineer uses it beside a gateway that has run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from bifrost.cli import app
from tests.command_in_process import quiet  # noqa: F401 - a fixture that holds for every test here
from tests.ports import free_port

TEXT = """
gateway:
  name: gw
  directory: {directory}/data
  port: {port}
  cloud:
    connectors:
      files: {{type: file, endpoint: {directory}/out}}
sources:
  - {{name: broker, protocol: mqtt, endpoint: "mqtt://127.0.0.1:1", username: u, password: canary-7f3a91}}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration that a gateway has run with."""
    path = tmp_path / "gateway.yaml"
    path.write_text(TEXT.format(directory=tmp_path, port=free_port()))
    command = [sys.executable, "-m", "bifrost", "run", "-c", str(path), "--for", "1s"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return path


def said(config: Path, *arguments: str, code: int = 0, given: str = "") -> str:
    result = CliRunner().invoke(app, ["config", *arguments, "-c", str(config)], input=given)
    assert result.exit_code == code, result.output
    return result.output


def test_what_a_change_changes_is_told_before_it_is_made_and_taken_back_after(config: Path) -> None:
    before = config.read_text()
    (kept,) = json.loads(said(config, "history", "--json"))["configurations"]
    assert (kept["number"], kept["files"]) == (1, ["gateway.yaml"])
    assert "nothing changes" in said(config, "plan")
    config.write_text(
        before.replace("127.0.0.1:1", "127.0.0.1:2").replace("canary-7f3a91", "canary-0b52cc")
        + "  - {name: more, protocol: mqtt, endpoint: 'mqtt://127.0.0.1:3'}\n"
    )
    found = json.loads(said(config, "plan", "--json"))
    assert found["against"] == 1
    more, broker = found["changes"]
    assert (more["what"], more["kind"], more["name"], more["place"]) == ("added", "source", "more", f"{config}:11:5")
    assert broker["keys"]["endpoint"] == {"before": "mqtt://127.0.0.1:1", "now": "mqtt://127.0.0.1:2"}
    assert broker["keys"]["password"] == {"before": "(a secret)", "now": "(a secret)"}
    shown = said(config, "plan")
    assert "1 added, 1 changed" in shown
    assert "canary" not in shown
    changed = config.read_text()
    assert said(config, "rollback", "1", given="n\n", code=1)
    assert config.read_text() == changed
    assert "Put back: gateway.yaml" in said(config, "rollback", "1", given="y\n")
    assert config.read_text() == before


def test_a_number_that_is_not_kept_is_told_with_those_that_are(config: Path) -> None:
    assert "kept are 1 to 1" in said(config, "rollback", "7", "-y", code=1)
    assert "kept are 1 to 1" in said(config, "plan", "--against", "7", code=1)


def test_a_gateway_that_has_not_run_has_no_history(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(TEXT.format(directory=tmp_path, port=1))
    assert "has not run" in said(path, "plan", code=1)
    assert json.loads(said(path, "history", "--json")) == {"configurations": []}
    assert not (tmp_path / "data").exists()


def test_the_configuration_is_shown_with_its_defaults_and_without_secrets(config: Path) -> None:
    text = said(config, "show")
    shown = yaml.safe_load(text)
    assert shown["sources"][0]["keepalive"] > 0
    assert shown["targets"]["files"]["type"] == "file"
    assert "canary" not in text
    assert json.loads(said(config, "show", "--json")) == shown


def test_the_schema_is_that_of_the_docs() -> None:
    result = CliRunner().invoke(app, ["config", "schema"])
    documented = Path(__file__).parent.parent.parent / "docs" / "reference" / "gateway.schema.json"
    assert json.loads(result.output) == json.loads(documented.read_text())
