"""A new version is switched to, and back from. A small program stands for systemd: it starts what `current` leads to, and waits."""

import os
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bifrost.cli import app
from tests.small_wheel import small_wheel

# starts ExecStart of the unit in short: ready when the program has said so, failed when it ended before
SYSTEMCTL = """#!/bin/sh
cd {folder}
echo "$1 $(readlink opt/current)" >>orders
[ "$1" = start ] || exit 0
rm -f ready
opt/current/bin/bifrost run & program=$!
while kill -0 $program 2>/dev/null; do
    [ -e ready ] && {{ kill $program; exit 0; }}
    sleep 0.05
done
echo "bifrost.service failed" >&2
exit 1
"""
PROGRAM = """
import pathlib, sys, time
def main():
    if sys.argv[1] == "run":
        {run}
"""


def wheel(folder: Path, version: str, run: str) -> Path:
    """A version of the program that does `run`."""
    return small_wheel(folder, version, PROGRAM.format(run=run))


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    old = tmp_path / "opt" / "0.1.0" / "bin" / "bifrost"
    old.parent.mkdir(parents=True)
    old.write_text("#!/bin/sh\ntouch ready\nexec sleep 60\n")
    old.chmod(0o755)
    (tmp_path / "opt" / "current").symlink_to(tmp_path / "opt" / "0.1.0")
    (tmp_path / "bin").mkdir()
    systemctl = tmp_path / "bin" / "systemctl"
    systemctl.write_text(SYSTEMCTL.format(folder=tmp_path))
    systemctl.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return tmp_path


def upgraded(machine: Path, file: Path, within: str = "20s") -> tuple[int, str]:
    result = CliRunner().invoke(
        app,
        [
            "upgrade",
            str(file),
            "--extras",
            "",
            "--program",
            str(machine / "opt"),
            "--ready-within",
            within,
            "-c",
            "unused",
        ],
    )
    return result.exit_code, result.output


def test_a_version_that_gets_ready_runs_and_the_old_one_stays(machine: Path) -> None:
    code, said = upgraded(machine, wheel(machine, "0.2.0", "pathlib.Path('ready').touch(); time.sleep(60)"))
    assert code == 0, said
    assert (machine / "opt" / "current").readlink() == machine / "opt" / "0.2.0"
    assert (machine / "opt" / "0.1.0").is_dir()
    assert [line.split()[0] for line in (machine / "orders").read_text().splitlines()] == ["stop", "start"]


@pytest.mark.parametrize(("run", "within"), [("sys.exit(3)", "20s"), ("time.sleep(30)", "2s")])
def test_a_version_that_does_not_get_ready_is_taken_back(machine: Path, run: str, within: str) -> None:
    code, said = upgraded(machine, wheel(machine, "0.2.0", run), within)
    assert code == 1 and "0.1.0 runs again" in said
    assert (machine / "opt" / "current").readlink() == machine / "opt" / "0.1.0"
    assert (machine / "orders").read_text().splitlines()[-1] == f"start {machine / 'opt' / '0.1.0'}"


def test_what_cannot_be_installed_stops_nothing(machine: Path) -> None:
    broken = machine / "bifrost_gateway-0.3.0-py3-none-any.whl"
    broken.write_bytes(b"cut off")
    code, said = upgraded(machine, broken)
    assert code == 1 and "what ran before still runs" in said
    assert not (machine / "orders").exists() and not (machine / "opt" / "0.3.0").exists()
    assert subprocess.run(
        ["readlink", str(machine / "opt" / "current")], capture_output=True, check=True
    ).stdout.endswith(b"0.1.0\n")
