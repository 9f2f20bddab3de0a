"""A running gateway runs as its files say now, by the command line, the API and SIGHUP."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from bifrost.cli import app
from bifrost.run import ask
from config.loader import load
from tests.command_in_process import quiet  # noqa: F401 - a fixture that holds for every test here
from tests.ports import free_port

TEXT = """\
gateway:
  name: gw
  directory: {directory}/data
  port: {port}
  cloud:
    connectors:
      files: {{type: file, endpoint: {directory}/out}}
sources:
  - name: broker   # by the door
    protocol: mqtt
    endpoint: mqtt://127.0.0.1:1
"""
MORE = "  - {name: more, protocol: mqtt, endpoint: 'mqtt://127.0.0.1:2'}\n"


def until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    deadline, pause = time.monotonic() + seconds, threading.Event()
    while not condition():
        assert time.monotonic() < deadline
        pause.wait(0.05)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "gateway.yaml"
    path.write_text(TEXT.format(directory=tmp_path, port=free_port()))
    return path


@pytest.fixture
def gateway(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "bifrost", "run", "-c", str(path)]
    with (path.parent / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            until(lambda: ask(load(path), "/health") is not None)
            yield process
        finally:
            process.terminate()


def said(path: Path, *arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["config", *arguments, "-c", str(path)])
    assert result.exit_code == code, result.output
    return result.output


def sources(path: Path) -> list[str]:
    answer = ask(load(path), "/api/status")
    assert answer is not None
    return list(answer["sources"])


@pytest.mark.usefixtures("gateway")
def test_apply_and_rollback_change_the_running_gateway(path: Path) -> None:
    before = path.read_text()
    path.write_text(before + MORE)
    shown = said(path, "apply")
    assert "added    source more" in shown
    assert "configuration 2" in shown
    assert sources(path) == ["broker", "more"]
    assert "Applied" in said(path, "rollback", "1", "--yes")
    assert (path.read_text(), sources(path)) == (before, ["broker"])
    path.write_text(
        before.replace(
            "connectors:\n",
            f"default_connector: files\n    connectors:\n      others: {{type: file, endpoint: {path.parent}/b}}\n",
        )
    )
    answer = json.loads(said(path, "apply", "--json"))
    assert [(c["kind"], c["name"]) for c in answer["changes"]][-1] == ("target", "others")
    assert answer["took"] < 5
    assert list((ask(load(path), "/api/status") or {})["targets"]) == ["others", "files"]


def test_a_hangup_signal_applies_the_files_and_a_wrong_file_changes_nothing(
    path: Path, gateway: subprocess.Popen[bytes]
) -> None:
    before = path.read_text()
    path.write_text(before + MORE)
    os.kill(gateway.pid, signal.SIGHUP)
    until(lambda: sources(path) == ["broker", "more"])
    path.write_text(before + MORE + "nonsense: 1\n")
    os.kill(gateway.pid, signal.SIGHUP)
    log = path.parent / "log"
    until(lambda: "not applied" in log.read_text())
    assert "there is no key `nonsense`" in log.read_text()
    path.write_text(before)
    assert sources(path) == ["broker", "more"]


def test_without_a_gateway_apply_says_when_the_files_hold(path: Path) -> None:
    assert "from its next start on" in said(path, "apply", code=1)


@pytest.mark.usefixtures("gateway")
def test_a_source_put_by_the_api_leaves_the_comments_in_the_file(path: Path) -> None:
    token = (path.parent / "data" / "cli-token").read_text().strip()
    config = load(path)

    def call(method: str, route: str, body: Any = None) -> Any:
        request = urllib.request.Request(
            f"http://127.0.0.1:{config.port}{route}",
            None if body is None else json.dumps(body).encode(),
            {"authorization": f"Bearer {token}", "content-type": "application/json"},
            method=method,
        )
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.load(answer)

    call("POST", "/api/sources", {"name": "more", "protocol": "mqtt", "endpoint": "mqtt://127.0.0.1:2"})
    assert sources(path) == ["broker", "more"]
    assert "# by the door" in path.read_text()
    call("DELETE", "/api/sources/more")
    assert sources(path) == ["broker"]
    assert path.read_text() == TEXT.format(directory=path.parent, port=config.port)
