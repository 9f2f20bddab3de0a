"""`bifrost discover`: scan, list, draft."""

import contextlib
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bifrost.cli import app
from config.loader import load
from tests.command_in_process import quiet  # noqa: F401 - a fixture
from tests.connectors.sources.modbus import node_devices
from tests.delivery.stores import until
from tests.discovery.silent import SilentListener
from tests.ports import free_port

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    node_devices.install()
    with node_devices.node() as (ports, _):
        yield ports["serial"]


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., Path]:
    def write(port: int, subnets: str = "[127.0.0.1/32]", enabled: str = "true") -> Path:
        path = tmp_path / "g.yaml"
        path.write_text(
            f"gateway: {{name: g1, directory: {tmp_path}/data}}\n"
            f"discovery: {{enabled: {enabled}, network: {{subnets: {subnets}, timeout: 200ms, "
            f"max_connections_per_second: 50, ports: {{opcua: [], mqtt: [], mqtts: [], modbus: [{port}]}}}}}}\n"
        )
        return path

    return write


def test_a_device_is_found_listed_and_drafted(config: Callable[..., Path], port: int, tmp_path: Path) -> None:
    path = config(port)
    run = CliRunner()
    found = run.invoke(app, ["discover", "-c", str(path), "--json"])
    assert found.exit_code == 0, found.output
    (server,) = json.loads(found.stdout)["servers"]
    assert (server["id"], server["state"]) == (f"modbus-127-0-0-1-{port}", "new")
    again = run.invoke(app, ["discover", "-c", str(path), "--subnet", "127.0.0.1"])
    assert f"modbus-127-0-0-1-{port}" in again.stdout
    assert "known" in again.stdout
    assert "unit 1" in run.invoke(app, ["discover", "list", "-c", str(path)]).stdout
    drafted = run.invoke(app, ["discover", "draft", server["id"], "-c", str(path)])
    assert drafted.exit_code == 0
    (tmp_path / "drafted.yaml").write_text(drafted.stdout)
    (source,) = load(tmp_path / "drafted.yaml").sources
    assert (source.name, source.protocol) == (server["id"], "modbus")
    told = json.loads(run.invoke(app, ["discover", "draft", server["id"], "-c", str(path), "--json"]).stdout)
    assert told["source"] == server["draft"]


@pytest.mark.threat(6)
@pytest.mark.parametrize("subnet", ["127.0.0.2", "10.0.0.0/24", "localhost", "0.0.0.0/0", "169.254.169.254"])
def test_a_network_that_is_not_listed_is_refused_with_code_2(config: Callable[..., Path], subnet: str) -> None:
    done = CliRunner().invoke(app, ["discover", "-c", str(config(free_port())), "--subnet", subnet])
    assert done.exit_code == 2
    assert "discovery.network.subnets" in done.output or "write one such as" in done.output


@pytest.mark.threat(7)
def test_nothing_is_scanned_where_it_is_off_or_nothing_is_listed(config: Callable[..., Path]) -> None:
    off = CliRunner().invoke(app, ["discover", "-c", str(config(free_port(), enabled="false"))])
    assert (off.exit_code, "discovery is off" in off.output) == (2, True)
    empty = CliRunner().invoke(app, ["discover", "-c", str(config(free_port(), subnets="[]"))])
    assert (empty.exit_code, "no network may be scanned" in empty.output) == (2, True)


def test_a_server_that_is_not_known_has_no_draft(config: Callable[..., Path]) -> None:
    done = CliRunner().invoke(app, ["discover", "draft", "opcua-10-0-0-1-4840", "-c", str(config(free_port()))])
    assert (done.exit_code, "is known" in done.output) == (1, True)


def test_ctrl_c_stops_a_scan_and_keeps_what_was_found(config: Callable[..., Path], tmp_path: Path) -> None:
    with SilentListener() as silent:
        path = config(silent.port)
        path.write_text(path.read_text().replace("200ms", "10s"))
        command = [sys.executable, "-m", "bifrost", "discover", "-c", str(path)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT) as scan:
            until(lambda: silent.taken, 60)
            scan.send_signal(signal.SIGINT)
            began = time.monotonic()
            until(lambda: not silent.open, 60)
            assert time.monotonic() - began < 1
            _, said = scan.communicate(timeout=20)
        assert (scan.returncode, "stopped; what was found is kept" in said) == (1, True), said
    assert (tmp_path / "data" / "discovery.json").exists()
    told = [json.loads(line) for line in (tmp_path / "data" / "audit.jsonl").read_text().splitlines()]
    assert [(entry["what"], entry["result"]) for entry in told] == [
        ("network scan began", "done"), ("network scan ended", "stopped"),
    ]  # fmt: skip


def test_a_directory_that_cannot_be_used_is_told_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    path = tmp_path / "g.yaml"
    path.write_text(
        f"gateway: {{directory: {tmp_path}/file/data}}\ndiscovery: {{enabled: true, network: {{subnets: [127.0.0.1]}}}}\n"
    )
    done = CliRunner().invoke(app, ["discover", "-c", str(path)])
    assert done.exit_code == 1
    assert "cannot" in done.output or "Not a directory" in done.output


def test_the_progress_is_told_on_a_terminal_only(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from bifrost.discover import _Progress
    from discovery.scan import Progress

    class Scan:
        progress = Progress(of=254, asked=12, hits=3)

    silent = _Progress()
    silent.begin(Scan())  # type: ignore[arg-type]
    silent.end()
    assert capsys.readouterr().err == ""
    told = threading.Event()
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(sys.stderr, "flush", told.set)
    shown = _Progress()
    shown.begin(Scan())  # type: ignore[arg-type]
    assert told.wait(10)
    with contextlib.suppress(KeyError):
        shown.end()
    assert "12 of 254 ports asked, 3 open" in capsys.readouterr().err
