"""The command line as a user meets it: as a process, with its exit codes and what stands on which stream."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

VERBS = [
    [],
    ["run"],
    ["demo"],
    ["check"],
    ["status"],
    ["ledger"],
    ["test"],
    ["sim"],
    ["sim", "all"],
    ["sim", "opcua"],
    ["sim", "mqtt"],
    ["sim", "modbus"],
    ["sim", "zerobus"],
    ["zerobus"],
    ["zerobus", "ddl"],
]


def bifrost(*arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bifrost", *arguments],
        capture_output=True,
        text=True,
        timeout=90,
        cwd=cwd,
        env={**os.environ, "NO_COLOR": "1", "COLUMNS": "200", **environment},
        check=False,
    )


def write_config(directory: Path, *, sources: str = "") -> Path:
    path = directory / "gateway.yaml"
    path.write_text(f"gateway:\n  name: gw\n  directory: {directory / 'data'}\n  port: 1\n{sources}")
    return path


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_every_verb_has_help(verb):
    answer = bifrost(*verb, "--help")
    assert answer.returncode == 0
    assert "Usage: bifrost" in answer.stdout
    assert len(answer.stdout.splitlines()) > 5


def test_a_wrong_configuration_ends_with_code_2_and_opens_nothing(tmp_path):
    path = write_config(tmp_path, sources="sources:\n  - name: a\n    protocol: opcua\n    endpont: x\n")
    for verb in ("check", "run", "status", "ledger"):
        answer = bifrost(verb, "-c", str(path))
        assert answer.returncode == 2, verb
        assert f"{path}:8:5: sources.0.endpont: there is no key `endpont`; did you mean `endpoint`?" in answer.stderr
        assert answer.stdout == ""
    assert not (tmp_path / "data").exists()


def test_check_says_what_a_configuration_holds(tmp_path):
    answer = bifrost("check", "-c", str(write_config(tmp_path)))
    assert answer.returncode == 0
    assert "delta (delta)" in answer.stdout


def test_status_of_a_gateway_that_does_not_run_ends_with_code_1(tmp_path):
    answer = bifrost("status", "-c", str(write_config(tmp_path)))
    assert (answer.returncode, answer.stdout) == (1, "")
    assert "no gateway answers" in answer.stderr


def test_the_ledger_of_a_gateway_that_does_not_run_comes_from_its_stores(tmp_path):
    answer = bifrost("ledger", "--json", "-c", str(write_config(tmp_path)))
    assert answer.returncode == 0
    assert json.loads(answer.stdout) == {"sources": {}, "targets": {"delta": {}}, "unaccounted": 0}


def test_a_source_that_is_not_there_is_named(tmp_path):
    answer = bifrost("test", "-s", "nope", "-c", str(write_config(tmp_path)))
    assert answer.returncode == 2
    assert "there is no source `nope`" in answer.stderr


def test_a_source_that_does_not_answer_ends_with_code_1(tmp_path):
    source = "sources:\n  - {name: a, protocol: mqtt, endpoint: 'mqtt://127.0.0.1:1'}\n"
    answer = bifrost("test", "-s", "a", "--seconds", "1", "-c", str(write_config(tmp_path, sources=source)))
    assert (answer.returncode, answer.stdout) == (1, "")
    assert "127.0.0.1:1" in answer.stderr


def test_ddl_prints_the_table_and_the_view_that_shows_each_reading_once():
    answer = bifrost("zerobus", "ddl", "main.plant.readings")
    assert answer.returncode == 0
    assert "CREATE TABLE IF NOT EXISTS `main`.`plant`.`readings`" in answer.stdout
    assert "COMMENT" in answer.stdout
    assert "CREATE OR REPLACE VIEW" in answer.stdout
    assert bifrost("zerobus", "ddl", "readings").returncode == 2


def test_completion_is_offered():
    answer = bifrost("--show-completion", "bash", SHELL="/bin/bash")
    assert answer.returncode == 0
    assert "complete" in answer.stdout


def test_the_demo_delivers_everything_under_the_right_paths_and_goes_on_after_a_restart(tmp_path):
    for _ in range(2):
        answer = bifrost("demo", "--for", "5s", "--json", "--data-dir", str(tmp_path / "demo"))
        assert answer.returncode == 0, answer.stderr[-2000:]
        summary = json.loads(answer.stdout.splitlines()[-1])
        assert set(summary) == {"seconds", "sources", "targets", "wrong_paths", "unaccounted", "delta"}
        assert summary["wrong_paths"] == summary["unaccounted"] == 0
        assert {line["protocol"] for line in summary["sources"].values()} == {"opcua", "mqtt", "sparkplug", "modbus"}
        assert all(line["received"] > 300 for line in summary["sources"].values())
        assert len(summary["targets"]) == 5
        assert all(line["delivered"] > 300 and line["stored"] == 0 for line in summary["targets"].values())
        assert Path(summary["delta"], "_delta_log").is_dir()
