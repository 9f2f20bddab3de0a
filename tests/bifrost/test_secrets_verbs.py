"""`bifrost secrets`, as an engineer uses it."""

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bifrost.cli import app


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("BIFROST_")]:
        monkeypatch.delenv(name)
    (tmp_path / "etc").mkdir()
    file = tmp_path / "etc" / "gateway.yaml"
    file.write_text("gateway: {name: gw}\n")
    return file


def said(config: Path, *arguments: str, given: str = "", code: int = 0) -> str:
    result = CliRunner().invoke(app, ["secrets", *arguments, "-c", str(config)], input=given)
    assert result.exit_code == code, result.output
    return result.output


def test_a_key_is_made_secrets_are_kept_listed_shown_and_forgotten(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = tmp_path / "keys" / "bifrost"
    made = said(config, "new-key", str(key))
    assert f"export BIFROST_SECRETS_KEY_FILE={key}" in made
    assert key.read_text().strip() not in made
    monkeypatch.setenv("BIFROST_SECRETS_KEY_FILE", str(key))
    assert "${secret:broker}" in said(config, "set", "broker", given="s3cret\n")
    said(config, "set", "cloud", "--pbkdf2", given="t0ken\n")
    assert said(config, "get", "broker") == "s3cret\n"
    listed = json.loads(said(config, "list", "--json"))
    assert [one["name"] for one in listed["secrets"]] == ["broker", "cloud"]
    shown = said(config, "list")
    assert "broker" in shown
    assert "s3cret" not in shown
    before = key.read_text()
    assert "2 secrets sealed anew" in said(config, "rotate")
    assert key.read_text() != before
    assert said(config, "get", "cloud") == "t0ken\n"
    said(config, "rm", "cloud")
    assert "has no secret `cloud`" in said(config, "get", "cloud", code=1)


def test_a_key_is_never_written_over_or_beside_the_secrets(config: Path, tmp_path: Path) -> None:
    key = tmp_path / "keys" / "bifrost"
    said(config, "new-key", str(key))
    assert "exists already" in said(config, "new-key", str(key), code=1)
    assert "beside the secrets" in said(config, "new-key", str(config.parent / "key"), code=1)
    assert not (config.parent / "key").exists()


def test_without_a_key_it_is_said_what_to_do(config: Path) -> None:
    assert "bifrost secrets new-key" in said(config, "set", "broker", given="x\n", code=1)
    said(config, "new-key", code=2)
