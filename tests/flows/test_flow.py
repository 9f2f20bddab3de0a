"""The gateway's dataflow as a whole: what building it does, and what a SIGKILL does to it."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from bytewax.visualize import to_mermaid
from numbered import TellingConfig, configuration, read
from running import ROOT, WAYS, acknowledged, check_account, missing, raw, recovery, repeated, running, settle

from flows import gateway, picture
from flows.process import Process, prepare_recovery

CONFIG = """
gateway: {name: press-shop, directory: stores, cloud: {connectors: {screen: {type: console, endpoint: "-"}}}}
sources: [{name: broker, protocol: mqtt, endpoint: "tcp://127.0.0.1:1"}]
"""


def python(code: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *code.split("\0")],
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", **environment},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_importing_and_building_the_flow_opens_no_socket_no_store_and_no_thread(tmp_path):
    (tmp_path / "gateway.yaml").write_text(CONFIG)
    code = """
import os, signal, threading, psutil
import flows.gateway
built = flows.gateway.flow()
here = psutil.Process()
print([built.flow_id, threading.active_count(), here.net_connections(kind="all"), os.listdir()])
print(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)
"""
    done = python(f"-c\0{code}", tmp_path, BIFROST_CONFIG="gateway.yaml")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:2] == ["['gateway', 1, [], ['gateway.yaml']]", "True"]


def test_under_bytewax_signals_are_handled_before_anything_is_imported(tmp_path):
    code = """
import os, signal, sys, types
sys.modules["__main__"].__spec__ = types.SimpleNamespace(name="bytewax.run")
import flows
assert not {"bytewax", "pyarrow", "numpy", "config"} & set(sys.modules)
os.kill(os.getpid(), signal.%s)
sys.exit("not ended")
"""
    for number in ("SIGTERM", "SIGINT"):
        done = python(f"-c\0{code % number}", tmp_path)
        assert (done.returncode, done.stderr) == (0, "")


def test_bytewax_visualize_draws_the_flow_of_a_configuration(tmp_path):
    (tmp_path / "gateway.yaml").write_text(CONFIG)
    done = python(
        "-m\0bytewax.visualize\0flows.gateway:flow\0-o\0mermaid",
        tmp_path,
        BIFROST_CONFIG=str(tmp_path / "gateway.yaml"),
    )
    assert done.returncode == 0, done.stderr
    assert 'gateway.for_screen -- "down → up" --> gateway.to_screen' in done.stdout
    assert [p.name for p in tmp_path.iterdir()] == ["gateway.yaml"]


def test_the_picture_in_the_readme_is_the_flow(tmp_path, monkeypatch, capsys):
    assert picture.main(["--check"]) == 0
    old = tmp_path / "README.md"
    old.write_text(picture.README.read_text().replace("normalize (normalize)", "something else"))
    monkeypatch.setattr(picture, "README", old)
    assert picture.main(["--check"]) == 1
    assert "draw it again" in capsys.readouterr().err
    assert picture.main([]) == 0
    assert picture.main(["--check"]) == 0


def test_the_gateway_is_steps_in_order_without_logic():
    tree = ast.parse(Path(gateway.__file__).read_text())
    logic = (ast.If, ast.Try, ast.While, ast.Lambda, ast.ListComp, ast.DictComp, ast.IfExp, ast.BoolOp, ast.Compare)
    assert not [node for node in ast.walk(tree) if isinstance(node, logic)]


def test_a_target_may_be_called_as_a_step_is(tmp_path):
    names = ("opcua", "mqtt", "own", "readings", "normalize", "route", "dead_letters", "rejected", "a.b")
    targets = {name: TellingConfig(path=tmp_path / name) for name in names}
    config = configuration(tmp_path)
    drawn = to_mermaid(gateway.gateway(Process(type(config)(gateway="gw", directory=tmp_path, targets=targets))))
    assert all(f"gateway.to_{name.replace('.', '/')}[" in drawn for name in names)


@pytest.mark.parametrize("way", WAYS)
def test_sigkill_loses_nothing_that_was_acknowledged(tmp_path, way):
    kills = 4
    for _ in range(kills):
        with running(tmp_path, way=way) as gateway:
            gateway.deliver(1500)
            gateway.kill()
        check_account(tmp_path)
    settle(tmp_path, way)

    want = acknowledged(tmp_path)
    assert min(want.values()) > 1500
    found = check_account(tmp_path)
    for target in ("first", "second"):
        assert missing(tmp_path, target, want) == {}
        # A unit that was written and not yet settled when the kill came is all that may come again.
        assert repeated(tmp_path, target) <= kills * 1000
        rows = read(tmp_path / f"{target}.jsonl")
        delivered = {(protocol, value) for protocol, value, *_ in raw(rows)}
        for protocol in want:
            line = found["sources"][f"{protocol}_line"]
            assert line["journalled"] == line["routed"] == sum(p == protocol for p, _ in delivered)
        units = [unit for unit, *_ in rows]
        assert units == sorted(units), "units go out in ascending order, over all runs"


def test_a_recovery_directory_of_another_gateway_is_refused_with_what_to_do(tmp_path):
    with running(tmp_path, idle=True) as gateway:
        gateway.opened()
        part = recovery(tmp_path) / "part-0.sqlite3"
        gateway.until(lambda: states(part), "the first snapshot")
        gateway.stop()
    for way in WAYS:
        with running(tmp_path, way=way, idle=True, gateway="renamed") as gateway:
            assert gateway.process.wait(30) == 1
            assert "holds the state of gateway `gw`, and this one is `renamed`" in gateway.said()
    prepare_recovery(recovery(tmp_path), "gw")


def states(part: Path) -> int:
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(f"file:{part}?mode=ro", uri=True)) as store:
        return int(store.execute("SELECT count(*) FROM snaps").fetchone()[0])


def test_a_journal_that_is_begun_anew_does_not_follow_the_old_offsets(tmp_path):
    with running(tmp_path, rate=2000) as gateway:
        gateway.deliver(3000)
        gateway.stop()
    shutil.rmtree(tmp_path / "data" / "journal")  # a new disk; the recovery directory lay elsewhere
    for file in tmp_path.glob("*.acked"):
        file.unlink()
    for file in tmp_path.glob("*.jsonl"):
        file.rename(file.with_suffix(".old"))
    for _ in range(2):
        with running(tmp_path) as gateway:
            gateway.deliver(500)
            gateway.kill()
    settle(tmp_path)
    want = acknowledged(tmp_path)
    assert min(want.values()) > 100
    assert missing(tmp_path, "first", want) == missing(tmp_path, "second", want) == {}


def test_sources_come_and_go_without_a_change_of_partitions(tmp_path):
    with running(tmp_path, idle=True) as gateway:
        gateway.opened().stop()
    with running(tmp_path) as gateway:
        gateway.deliver(500)
        gateway.stop()
    settle(tmp_path)  # has no sources
    assert missing(tmp_path, "first", acknowledged(tmp_path)) == {}
    assert repeated(tmp_path, "first") == 0
    check_account(tmp_path)
