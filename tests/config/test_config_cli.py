"""`bifrost check` and `bifrost run` with configurations that are wrong."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


def bifrost(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {key: value for key, value in os.environ.items() if key != "BIFROST_CONFIG"}
    return subprocess.run(
        [sys.executable, "-m", "bifrost", *arguments],
        cwd=folder,
        env={**inherited, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_check_tells_what_a_sound_configuration_is(tmp_path: Path) -> None:
    (tmp_path / "g.yaml").write_text(
        "gateway: {name: g1}\nsources: [{name: plc, protocol: opcua, endpoint: opc.tcp://h}]\ndiscovery: {enabled: true}\n"
    )
    done = bifrost(tmp_path, "check", "-c", "g.yaml")
    assert done.returncode == 0
    assert "g.yaml is sound." in done.stdout
    assert "plc (opcua)" in done.stdout
    assert "no network may be scanned" in done.stderr
    assert "discovery" not in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["g.yaml"]


@pytest.mark.parametrize("command", [["check"], ["run", "--for", "1s"], ["ledger"], ["status"]])
def test_a_wrong_configuration_ends_with_code_2_and_nothing_is_opened(tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "bad.yaml").write_text(
        "gateway:\n  prt: 1\n  directory: store\nsources:\n  - {name: a, protocol: opc}\n"
    )
    done = bifrost(tmp_path, *command, "-c", "bad.yaml")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        "bad.yaml:2:3: gateway.prt: there is no key `prt`; did you mean `port`?",
        "bad.yaml:5:25: sources.0.protocol: `opc` is not known; there are modbus, mqtt, opcua; did you mean `opcua`?",
        "2 problems in the configuration",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["bad.yaml"]


def test_a_missing_file_ends_with_code_2(tmp_path: Path) -> None:
    done = bifrost(tmp_path, "run")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        "config/gateway.yaml:1:1: cannot be read: No such file or directory",
        "1 problem in the configuration",
    ]


def test_the_flow_under_bytewax_ends_with_code_2_as_well(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("gateway: {prt: 1}\n")
    done = subprocess.run(
        [sys.executable, "-m", "bytewax.run", "flows.gateway", "-r", "recovery", "-s", "1", "-b", "0"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "BIFROST_CONFIG": "bad.yaml"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "bad.yaml:1:11: gateway.prt: there is no key `prt`" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["bad.yaml"]
