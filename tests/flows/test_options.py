"""What each option of `python -m bytewax.run` does to a gateway; docs/bytewax.md has the table."""

import ast
import os
import pickle
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing

import psutil
import pytest
from running import HERE, ROOT, WAYS, acknowledged, check_account, epochs, missing, recovery, repeated, running, settle

from flows.options import check_bytewax_options, prepare_recovery

SOUND = ["flows.gateway", "-s", "1", "-b", "0"]


def refusal(arguments, environment=None):
    with pytest.raises(SystemExit) as ended:
        check_bytewax_options(arguments, environment or {})
    assert isinstance(ended.value.code, str), "a message, hence exit code 1"
    return ended.value.code


def nothing_lost_or_repeated(directory):
    settle(directory)
    want = acknowledged(directory)
    assert min(want.values()) > 300
    for target in ("first", "second"):
        assert missing(directory, target, want) == {}
    check_account(directory)


def test_every_row_of_the_table_has_a_test():
    rows = [line for line in (ROOT / "docs/bytewax.md").read_text().split("\n") if line.startswith("| ")][1:]
    assert len(rows) == 12
    tests = {
        node.name
        for path in HERE.glob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
    }
    for row in rows:
        named = re.findall(r"`(test_\w+)`", row.split("|")[4])
        assert named, row
        assert set(named) <= tests, row
    # every option and variable that Bytewax has is in the table
    shown = subprocess.run(
        [sys.executable, "-m", "bytewax.run", "--help"], capture_output=True, text=True, check=True, timeout=30
    ).stdout
    options = set(re.findall(r"^  (-\w)", shown, re.MULTILINE)) - {"-h"}
    assert options == {"-r", "-s", "-b", "-w", "-i", "-a"}
    table = "\n".join(rows)
    assert all(f"`{option} " in table for option in options)
    assert all(f"`{name}`" in table for name in set(re.findall(r"env:\s+(BYTEWAX_\w+)", shown)))


def test_a_new_recovery_directory_is_made(tmp_path):
    for number, given in enumerate((["-r", "{}"], ["-r{}"], ["--recovery-directory={}"], ["--recovery", "{}"])):
        directory = tmp_path / "deep" / str(number)
        prepare_recovery(check_bytewax_options([*SOUND, *(part.format(directory) for part in given)], {}), "gw")
        assert [p.name for p in directory.iterdir()] == ["part-0.sqlite3"]
        assert directory.stat().st_mode & 0o777 == directory.parent.stat().st_mode & 0o777 == 0o700
    by_variable = tmp_path / "by_variable"
    prepare_recovery(check_bytewax_options(SOUND, {"BYTEWAX_RECOVERY_DIRECTORY": str(by_variable)}), "gw")
    assert (by_variable / "part-0.sqlite3").exists()
    made = (by_variable / "part-0.sqlite3").read_bytes()
    prepare_recovery(check_bytewax_options(SOUND, {"BYTEWAX_RECOVERY_DIRECTORY": str(by_variable)}), "gw")
    assert (by_variable / "part-0.sqlite3").read_bytes() == made


def test_a_recovery_store_that_was_cut_off_while_it_was_made_is_made_again(tmp_path):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "part-0.sqlite3").write_bytes(b"SQLite format 3")
    prepare_recovery(tmp_path, "gw")
    assert [p.name for p in tmp_path.iterdir()] == ["part-0.sqlite3"]
    with closing(sqlite3.connect(tmp_path / "part-0.sqlite3")) as store:
        assert store.execute("SELECT part_index, part_count FROM parts").fetchall() == [(0, 1)]


class Planted:
    """Unpickled, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return type(self.path).touch, (self.path,)


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """The recovery store of a gateway that ran, with code in the place of everything that it would get back."""
    directory = tmp_path_factory.mktemp("planted")
    with running(directory) as gateway:
        gateway.deliver(100)
        gateway.until(lambda: epochs(directory)[1] > 1, "snapshots")
        gateway.kill()
    store = recovery(directory) / "part-0.sqlite3"
    with closing(sqlite3.connect(store)) as opened, opened:
        code = pickle.dumps(Planted(directory / "planted code ran"))
        assert opened.execute("UPDATE snaps SET ser_change = ?", (code,)).rowcount > 0
    return directory


@pytest.mark.threat(23)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("writable", ["part-0.sqlite3", "."])
def test_a_recovery_store_that_others_may_write_is_refused_with_what_to_do(tmp_path, planted, way, writable):
    shutil.copytree(recovery(planted), recovery(tmp_path))
    open_to_others = recovery(tmp_path) / writable
    open_to_others.chmod(open_to_others.stat().st_mode | 0o020)
    with running(tmp_path, way=way, idle=True) as gateway:
        assert gateway.process.wait(30) == 1
        command = f"chmod -R go-rwx {recovery(tmp_path)}"
        assert f"others may write {open_to_others}" in gateway.said()
        assert command in gateway.said()
        assert "Traceback" not in gateway.said()
    assert not (tmp_path / "data" / "journal").exists()
    assert not (planted / "planted code ran").exists()
    shutil.rmtree(recovery(tmp_path))
    prepare_recovery(recovery(tmp_path), "gw")
    open_to_others.chmod(open_to_others.stat().st_mode | 0o020)
    subprocess.run(command.split(), check=True)
    with running(tmp_path, way=way, idle=True) as gateway:
        gateway.opened().stop()


@pytest.mark.threat(23)
def test_own_stores_hold_no_pickle():
    """None of the packages of the gateway imports what runs code when it is read (the simulator is none of them)."""
    packages = ("bifrost", "config", "connectors", "delivery", "flows", "normalization", "web")
    imports = re.compile(r"^\s*(import|from)\s+(pickle|marshal|shelve|dill|cloudpickle)\b", re.MULTILINE)
    files = [path for package in packages for path in (ROOT / package).rglob("*.py")]
    assert len(files) > 200
    assert [path for path in files if imports.search(path.read_text(encoding="utf-8"))] == []


@pytest.mark.threat(23)
def test_a_recovery_store_of_another_user_is_refused_with_what_to_do(tmp_path):
    directory = tmp_path / "recovery"
    prepare_recovery(directory, "gw")
    os.chown(directory, 12345, -1)
    with pytest.raises(SystemExit) as ended:
        prepare_recovery(directory, "gw")
    said = str(ended.value.code)
    assert f"{directory} belongs to user 12345" in said
    assert f"chown -R {os.geteuid()} {directory} && chmod -R go-rwx {directory}" in said


def test_without_a_recovery_directory_it_says_how_to_start(tmp_path):
    command = [sys.executable, "-m", "bytewax.run", "tests/flows/numbered_flow:flow"]
    environment = {"NUMBERED": f'{{"directory": "{tmp_path}"}}', "PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "python -m bytewax.run flows.gateway -r data/recovery -s 1 -b 0" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "variable", "reason"),
    [
        (["-s", "0"], ("BYTEWAX_SNAPSHOT_INTERVAL", "0"), "wait for the disk"),
        (["-s11"], ("BYTEWAX_SNAPSHOT_INTERVAL", "11"), "stay in the journal"),
        (["-w", "0"], ("BYTEWAX_WORKERS_PER_PROCESS", "0"), "one worker"),
        (["-b=-1"], ("BYTEWAX_RECOVERY_BACKUP_INTERVAL", "-1"), "cannot be negative"),
    ],
)
def test_unsound_options_are_refused_with_the_reason(tmp_path, arguments, variable, reason):
    directory = tmp_path / "recovery"
    assert reason in refusal(["flows.gateway", "-r", str(directory), *arguments])
    assert reason in refusal(["flows.gateway", "-r", str(directory)], dict([variable]))
    assert not directory.exists()


@pytest.mark.parametrize("given", [["-s", "0.2"], ["-p", "2"], ["-i", "0"]])
def test_what_bytewax_itself_refuses(given):
    command = [sys.executable, "-m", "bytewax.run", "flows.gateway", "-r", "nowhere", "-s", "1", "-b", "0", *given]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "error:" in done.stderr


def test_bytewax_testing_is_refused(tmp_path):
    options = ["-r", str(tmp_path / "recovery"), "-s", "1", "-b", "0"]
    command = [sys.executable, "-m", "bytewax.testing", "tests/flows/numbered_flow:flow", *options]
    environment = {"NUMBERED": f'{{"directory": "{tmp_path}"}}', "PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "a cluster has two members at least" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_two_workers_lose_and_repeat_nothing(tmp_path):
    two = ("-s", "1", "-b", "0", "-w", "2")
    for number in (signal.SIGTERM, signal.SIGINT):
        with running(tmp_path, arguments=two) as gateway:
            gateway.deliver(1000)
            workers = [t for t in psutil.Process(gateway.process.pid).threads() if t.user_time > 0.05]
            assert len(workers) >= 2
            assert gateway.stop(number) < 5.0
    assert repeated(tmp_path, "first") == repeated(tmp_path, "second") == 0
    for _ in range(2):
        with running(tmp_path, arguments=two) as gateway:
            gateway.deliver(1000)
            gateway.kill()
        check_account(tmp_path)
    nothing_lost_or_repeated(tmp_path)  # with one worker again
    assert repeated(tmp_path, "first") + repeated(tmp_path, "second") <= 2 * 2 * 1000


@pytest.mark.parametrize("arguments", [("-s", "5", "-b", "0"), ("-s", "1", "-b", "5")])
def test_longer_intervals_lose_and_repeat_nothing(tmp_path, arguments):
    with running(tmp_path, arguments=arguments) as gateway:
        gateway.deliver(1000)
        assert gateway.stop() < 5.0
    with running(tmp_path, arguments=arguments) as gateway:
        gateway.deliver(1000)
        assert repeated(tmp_path, "first") == repeated(tmp_path, "second") == 0
        gateway.kill()
    nothing_lost_or_repeated(tmp_path)
    assert repeated(tmp_path, "first") + repeated(tmp_path, "second") <= 2 * 1000


@pytest.mark.threat(24)
@pytest.mark.parametrize(("way", "value"), [("bytewax_run", "0"), ("bifrost_run", "false")])
def test_bytewax_opens_no_port_of_its_own(tmp_path, way, value):
    with running(tmp_path, way=way, environment={"BYTEWAX_DATAFLOW_API_ENABLED": value}) as gateway:
        gateway.deliver(300)
        assert psutil.Process(gateway.process.pid).net_connections(kind="inet") == []
    assert not (ROOT / "dataflow.json").exists()
    assert recovery(tmp_path).exists()
