"""The gateway becomes a service of a machine, here a folder that stands for one, and is taken away again."""

import os
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bifrost.cli import app


def said(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "passwd").write_text(
        "root:x:0:0:root:/root:/bin/sh\nbifrost:x:990:991::/var/lib/bifrost:/usr/sbin/nologin\n"
    )
    (tmp_path / "etc" / "group").write_text("root:x:0:\nbifrost:x:991:\n")
    return tmp_path


def mode(path: Path) -> str:
    return f"{path.stat().st_mode & 0o777:o}"


def test_a_machine_gets_folders_unit_and_a_configuration_and_nothing_twice(machine: Path) -> None:
    said("install", "--systemd", "--root", str(machine))
    assert mode(machine / "var/lib/bifrost") == "700" and mode(machine / "etc/bifrost") == "750"
    assert mode(machine / "etc/bifrost/gateway.yaml") == "640" and mode(machine / "etc/bifrost-key") == "700"
    if os.geteuid() == 0:
        assert (machine / "var/lib/bifrost").stat().st_uid == 990
        assert ((machine / "etc/bifrost").stat().st_uid, (machine / "etc/bifrost").stat().st_gid) == (0, 991)
    unit = machine / "etc/systemd/system/bifrost.service"
    assert "Type=notify" in unit.read_text()
    assert (machine / "opt/bifrost/current").is_symlink()
    assert (machine / "etc/systemd/system/multi-user.target.wants/bifrost.service").is_symlink()

    (machine / "etc/bifrost/gateway.yaml").write_text("# mine\n")
    again = said("install", "--systemd", "--root", str(machine))
    assert "unit" not in again and "gateway.yaml, to be" not in again
    assert (machine / "etc/bifrost/gateway.yaml").read_text() == "# mine\n"


def test_the_first_configuration_is_sound(machine: Path) -> None:
    said("install", "--systemd", "--root", str(machine))
    assert "is sound" in said("check", "-c", str(machine / "etc/bifrost/gateway.yaml"))


def test_a_dry_run_shows_all_and_does_nothing(machine: Path) -> None:
    before = sorted(machine.rglob("*"))
    shown = said("install", "--systemd", "--root", str(machine), "--dry-run")
    assert "would do: unit /etc/systemd/system/bifrost.service" in shown
    assert sorted(machine.rglob("*")) == before


def test_what_is_taken_away_leaves_readings_and_configuration_unless_they_are_to_go(machine: Path) -> None:
    said("install", "--systemd", "--root", str(machine))
    (machine / "var/lib/bifrost/data").mkdir()
    said("uninstall", "--systemd", "--root", str(machine))
    assert not (machine / "etc/systemd/system/bifrost.service").exists()
    assert (machine / "var/lib/bifrost/data").exists() and (machine / "etc/bifrost/gateway.yaml").exists()
    said("uninstall", "--systemd", "--root", str(machine), "--purge")
    assert not (machine / "var/lib/bifrost").exists() and not (machine / "etc/bifrost").exists()


def test_another_kind_of_service_is_not_guessed(machine: Path) -> None:
    assert "--systemd" in said("install", "--root", str(machine), code=2)


def test_a_user_is_made_where_there_is_none(tmp_path: Path) -> None:
    shown = said("install", "--systemd", "--root", str(tmp_path), "--dry-run")
    assert "would do: user bifrost" in shown
    assert subprocess.run(["useradd", "--help"], capture_output=True, check=False).returncode == 0


def test_another_folder_and_another_user_are_in_the_unit_and_on_the_machine(machine: Path) -> None:
    (machine / "etc" / "passwd").write_text("plant:x:992:993::/:/usr/sbin/nologin\n")
    said("install", "--systemd", "--root", str(machine), "--program", "/srv/gateway", "--user", "plant")
    unit = (machine / "etc/systemd/system/bifrost.service").read_text()
    assert "\nExecStart=/srv/gateway/current/bin/bifrost run " in unit and "/opt/" not in unit
    assert "\nUser=plant\n" in unit and "\nGroup=" not in unit
    assert (machine / "srv/gateway/current").is_symlink() and not (machine / "opt").exists()
    if os.geteuid() == 0:
        assert (machine / "var/lib/bifrost").stat().st_uid == 992


@pytest.mark.parametrize("folder", ["/home", "/root", "/tmp/bifrost", "relative", "/opt/my programs"])
def test_a_folder_that_the_service_would_not_see_is_refused(machine: Path, folder: str) -> None:
    assert "outside of /home, /root" in said(
        "install", "--systemd", "--root", str(machine), "--program", folder, code=1
    )
    assert not (machine / "etc/systemd").exists()
