"""`bifrost drain`: a gateway that goes for good leaves nothing behind, or says what, and where that can go."""

import json
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from bifrost.cli import app
from bifrost.run import ask
from config.loader import load
from flows.process import Process
from tests.command_in_process import quiet  # noqa: F401 - a fixture that holds for every test here
from tests.ports import free_port
from web.access.cli_token import cli_token

TEXT = """\
gateway:
  name: plant1
  members: {members}
  member: 1
  directory: {directory}/data
  port: {port}
  cloud:
    default_connector: {first}
    connectors: {{{first}: {{type: mqtt, endpoint: "mqtt://127.0.0.1:1"}}}}
sources:
  - {{name: broker, protocol: mqtt, endpoint: "mqtt://127.0.0.1:1", member: 1}}
"""


def until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    deadline, pause = time.monotonic() + seconds, threading.Event()
    while not condition():
        assert time.monotonic() < deadline
        pause.wait(0.05)


def write(folder: Path, first: str = "files", members: int = 2) -> Path:
    path = folder / "gateway.yaml"
    port = load(path).port if path.exists() else free_port()
    path.write_text(TEXT.format(directory=folder, port=port, first=first, members=members))
    return path


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Runs, and must end well."""
    path = write(tmp_path)
    command = [sys.executable, "-m", "bifrost", "run", "-c", str(path)]
    with (tmp_path / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            until(lambda: ask(load(path), "/api/status") is not None)
            yield process
            process.terminate()
            assert process.wait(60) == 0, (tmp_path / "log").read_text()
        finally:
            process.kill()


@pytest.fixture
def path(gateway: "subprocess.Popen[bytes]", tmp_path: Path) -> Path:
    """The configuration of a gateway that runs."""
    return tmp_path / "gateway.yaml"


@contextmanager
def open_stores(path: Path) -> Iterator[Process]:
    process = Process(load(path))
    process.open_stores()
    try:
        yield process
    finally:
        process.close()


def post(path: Path, *values: float) -> int:
    config = load(path)
    readings = [{"device_id": "d", "tag_name": "t", "value": value} for value in values]
    headers = {"content-type": "application/json", "authorization": f"Bearer {cli_token(config.directory)}"}
    url, body = f"http://127.0.0.1:{config.port}/api/data", json.dumps(readings).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def drain(path: Path, *more: str) -> tuple[int, dict[str, Any]]:
    found = CliRunner().invoke(app, ["drain", "-c", str(path), "--json", *more])
    return found.exit_code, json.loads(found.stdout) if found.stdout else {"said": found.stderr}


def sources(path: Path) -> list[str]:
    answer = ask(load(path), "/api/status")
    assert answer is not None
    return [line["state"] for line in answer["sources"].values() if line["protocol"] == "mqtt"]


def test_a_gateway_that_is_drained_reads_nothing_and_holds_nothing_until_it_is_told_otherwise(path: Path) -> None:
    found = CliRunner().invoke(app, ["drain", "-c", str(path), "--if-leaving"])
    assert (found.exit_code, found.stdout, sources(path) == ["stopped"]) == (0, "", False)
    code, answer = drain(path, "--timeout", "30s")
    assert (code, answer["empty"], answer["held"], answer["readings"]) == (0, True, True, 0)
    assert sources(path) == ["stopped"]
    status = ask(load(path), "/api/status")
    assert status is not None
    assert (status["gateway"], status["member"], status["members"]) == ("plant1-1", 1, 2)
    said = CliRunner().invoke(app, ["drain", "-c", str(path), "--undo"])
    assert (said.exit_code, said.stdout) == (0, "The sources are read again.\n")
    until(lambda: sources(path)[0] in ("connecting", "down"))


def test_what_a_dead_target_left_is_told_and_goes_to_another_gateway(
    path: Path, gateway: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    assert post(path, 1.5, 2.5, 3.5) == 200
    until(lambda: (ask(load(path), "/api/drain") or {}).get("readings") == 3)
    code, answer = drain(path, "--timeout", "1s")
    assert (code, answer["empty"], answer["targets"]["files"]["readings"]) == (1, False, 3)
    assert post(path, 4.5) == 503, "nothing new is taken meanwhile"
    said = CliRunner().invoke(app, ["drain", "-c", str(path), "--timeout", "1s"])
    assert said.exit_code == 1
    assert "3 readings wait for files: " in said.stderr
    assert "bifrost spool attach --from DIRECTORY OLD NEW" in said.stderr
    config = write(other, first="lake")
    with open_stores(config):
        pass
    attach = ["spool", "attach", "--from", str(tmp_path / "data"), "files", "lake", "-c", str(config), "--json"]
    refused = CliRunner().invoke(app, attach)
    assert (refused.exit_code, "belongs to process" in refused.stderr) == (1, True), "it runs still"
    gateway.terminate()
    gateway.wait(60)
    assert drain(path)[1]["readings"] == 3, "the stores tell it too"
    assert json.loads(CliRunner().invoke(app, attach).stdout)["moved"] == 3
    assert json.loads(CliRunner().invoke(app, attach).stdout)["moved"] == 0
    assert drain(path, "--timeout", "0")[0] == 0
    with open_stores(config) as process:
        unit = process.spools["lake"].take(100, 2**30)
        assert unit is not None
        assert unit.batch().column("value_double").to_pylist() == [1.5, 2.5, 3.5]
        assert process.account().unaccounted == 0
    with open_stores(path) as process:
        assert process.account().unaccounted == 0


def test_a_gateway_that_does_not_run_is_drained_when_its_stores_are_empty(tmp_path: Path) -> None:
    path = write(tmp_path)
    assert drain(path) == (0, {"gateway": "plant1-1", "flow": False, "targets": {}, "kept": {}, "readings": 0, "dead_letters": 0, "empty": True})  # fmt: skip
    with open_stores(path):
        pass
    assert drain(path)[0] == 0
    code, answer = drain(path, "--undo")
    assert (code, answer["said"].startswith("no gateway `plant1-1` answers")) == (1, True)


def test_a_source_that_goes_to_another_member_goes_live(path: Path, tmp_path: Path) -> None:
    path.write_text(path.read_text().replace("member: 1}", "member: 0}"))
    applied = CliRunner().invoke(app, ["config", "apply", "-c", str(path)])
    assert (applied.exit_code, "removed  source broker" in applied.stdout) == (0, True)
    assert sources(path) == []
    write(tmp_path, members=3)
    applied = CliRunner().invoke(app, ["config", "apply", "-c", str(path)])
    assert (applied.exit_code, "added    source broker" in applied.stdout) == (0, True)
    assert len(sources(path)) == 1
