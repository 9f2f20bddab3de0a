"""`bifrost doctor` looks at everything, says what is wrong in plain words, and writes nothing unless told to."""

import json
from pathlib import Path

import pytest
from deltalake import DeltaTable
from typer.testing import CliRunner, Result

from bifrost.cli import app
from tests.command_in_process import quiet
from tests.ports import free_port

__all__ = ["quiet"]


def configuration(folder: Path, *, plc: int) -> Path:
    file = folder / "gateway.yaml"
    file.write_text(
        f"""
gateway:
  name: line-4
  directory: {folder}/data
  cloud:
    default_connector: lake
    connectors:
      lake: {{type: delta, endpoint: "{folder}/delta"}}
      files: {{type: file, endpoint: "{folder}/files"}}
sources:
  - {{name: plc, protocol: modbus, endpoint: "tcp://127.0.0.1:{plc}", registers: [{{name: speed, address: 1}}]}}
"""
    )
    return file


def doctor(file: Path, *options: str) -> Result:
    return CliRunner().invoke(app, ["doctor", "-c", str(file), *options])


def test_what_cannot_be_reached_is_named_and_the_rest_is_looked_at(tmp_path: Path) -> None:
    port = free_port()
    done = doctor(configuration(tmp_path, plc=port))
    assert done.exit_code == 1
    [wrong] = [line for line in done.stdout.splitlines() if "WRONG" in line]
    assert "plc (modbus)" in wrong
    assert f"127.0.0.1:{port}" in wrong
    assert "is the device on" in wrong
    assert "the table will be made" in done.stdout
    assert "the folder will be made" in done.stdout
    assert not (tmp_path / "delta").exists()
    assert not (tmp_path / "files").exists()


def test_a_test_record_is_written_when_asked_for_and_says_what_it_is(tmp_path: Path) -> None:
    done = doctor(configuration(tmp_path, plc=free_port()), "--write", "--json")
    assert done.exit_code == 1
    answer = json.loads(done.stdout)
    assert [(one["kind"], one["name"], one["ok"]) for one in answer["connectors"]] == [
        ("source", "plc", False),
        ("target", "lake", True),
        ("target", "files", True),
    ]
    [row] = DeltaTable(tmp_path / "delta" / "readings").to_pyarrow_table().to_pylist()
    [file] = (tmp_path / "files").iterdir()
    line = json.loads(file.read_text())
    for found in (row, line):
        assert (found["gateway"], found["shard"], found["source"]) == ("line-4", "doctor", "bifrost-doctor")
        assert "to be ignored" in found["metadata"]


def test_a_target_that_refuses_says_why(tmp_path: Path) -> None:
    file = configuration(tmp_path, plc=free_port())
    (tmp_path / "files").write_text("in the way")
    answer = json.loads(doctor(file, "--write", "--json").stdout)
    [files] = [one for one in answer["connectors"] if one["name"] == "files"]
    assert not files["ok"]
    assert [finding["subject"] for finding in files["findings"]] == [str(tmp_path / "files")]
    assert "give a folder" in files["findings"][0]["detail"]


@pytest.mark.parametrize("option", [[], ["--write"]])
def test_all_is_well_has_exit_code_0(tmp_path: Path, option: list[str]) -> None:
    file = configuration(tmp_path, plc=1)
    file.write_text(file.read_text().partition("sources:")[0])
    done = doctor(file, *option)
    assert done.exit_code == 0, done.output
    assert "WRONG" not in done.stdout
