"""install.sh of the offline bundle: what it refuses, and what it does with a small program in Bifrost's place.

It runs as root of a machine whose /srv is a folder of the test. `make bundle-test` installs the real bundle in an empty Debian.
"""

import ensurepip
import hashlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.bundle import Fit, Platform, Wheel, manifest, own_lock, sha256_of, sums
from tests.small_wheel import small_wheel

ROOT = Path(__file__).parents[2]
INSTALLER = ROOT / "deploy" / "install.sh"
PYTHON = "{}.{}".format(*sys.version_info)
# writes down what it is asked for, and does as much of it as the installer looks at
PROGRAM = """
import pathlib, sys
def main():
    with open("/srv/asked", "a") as asked:
        print("VERSION", *sys.argv[1:], file=asked)
    current, mine = pathlib.Path("/srv/gateway/current"), pathlib.Path(sys.prefix)
    if sys.argv[1] == "install" and not current.is_symlink():
        current.symlink_to(mine)
    if sys.argv[1] == "upgrade" and pathlib.Path("/srv/refuses").exists():
        sys.exit("it did not get ready; the old one runs again")
    if sys.argv[1] == "upgrade":
        current.unlink()
        current.symlink_to(mine)
"""


def bundle(folder: Path, version: str) -> Path:
    """A bundle for this machine, with a small program."""
    for part in ("wheels", "deploy", "docs"):
        (folder / part).mkdir(parents=True)
    shutil.copy(INSTALLER, folder)
    own = small_wheel(folder / "wheels", version, PROGRAM.replace("VERSION", version))
    places = (Path(ensurepip.__file__).parent / "_bundled", Path("/usr/share/python-wheels"))
    pip = next(wheel for place in places for wheel in place.glob("pip-*.whl"))
    shutil.copy(pip, folder / "wheels")
    (folder / "docs" / "edge-box.md").write_text(version)
    (folder / "deploy" / "own.lock").write_text(own_lock([Wheel(own.name, sha256_of(own))]))
    for extras in ("all", "edge"):
        (folder / "deploy" / f"{extras}.lock").write_text("")
    fits = [Fit(Platform(platform.machine(), PYTHON), extras, (own.name,), 10_000_000) for extras in ("all", "edge")]
    (folder / "MANIFEST").write_text(manifest(version, "abc", own.name, pip.name, fits))
    summed(folder)
    return folder


def summed(folder: Path) -> None:
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "SHA256SUMS"]
    (folder / "SHA256SUMS").write_text(sums({str(path.relative_to(folder)): sha256_of(path) for path in files}))


class Box:
    """A machine whose /srv is a folder of the test's, and some of whose programs say what the test wants."""

    def __init__(self, folder: Path, like: "Box | None" = None) -> None:
        self.srv, self._programs, self._units = folder / "srv", folder / "programs", folder / "units"
        for made in (self._programs, self._units):
            made.mkdir()
        if like is None:
            self.srv.mkdir()
        else:
            shutil.copytree(like.srv, self.srv, symlinks=True)
        self.says("systemctl", "echo offline; exit 1")

    def says(self, program: str, script: str) -> None:
        """Have a program of the machine do `script`."""
        place = self._programs / program
        place.write_text(f"#!/bin/sh\n{script}\n")
        place.chmod(0o755)

    def install(self, bundle: Path, *options: str, code: int = 0, prefix: str = "/srv/gateway") -> str:
        """Run its installer; what it says."""
        seen = 'mount --bind "$1" /srv && { [ ! -d /etc/systemd/system ] || mount --bind "$2" /etc/systemd/system; } && shift 2 && exec "$@"'
        chosen = ("--python", sys.executable, *(("--prefix", prefix) if prefix else ()))
        finished = subprocess.run(
            ["unshare", "--mount", "sh", "-c", seen, "sh", str(self.srv), str(self._units), "sh", str(bundle / "install.sh"), *chosen, *options],
            env={"PATH": f"{self._programs}:/usr/sbin:/usr/bin:/sbin:/bin", "PIP_INDEX_URL": "http://127.0.0.1:9/"},
            capture_output=True, text=True, check=False, timeout=100,
        )  # fmt: skip
        said = finished.stdout + finished.stderr
        assert finished.returncode == code, said
        return said

    @property
    def asked(self) -> list[str]:
        """What the small program was asked for."""
        place = self.srv / "asked"
        return [line for line in place.read_text().splitlines() if "--version" not in line] if place.exists() else []

    @property
    def untouched(self) -> bool:
        return not list(self.srv.iterdir())


@pytest.fixture
def box(tmp_path: Path) -> Box:
    if os.geteuid() != 0:
        pytest.skip("a folder is put over /srv, which only root can do")
    return Box(tmp_path)


@pytest.fixture
def first(tmp_path: Path) -> Path:
    return bundle(tmp_path / "first", "0.1.0")


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Box, Path, str]:
    """A machine on which the first version was installed, its bundle, and what was said: an installation takes seconds."""
    if os.geteuid() != 0:
        pytest.skip("a folder is put over /srv, which only root can do")
    folder = tmp_path_factory.mktemp("once")
    box, first = Box(folder), bundle(folder / "first", "0.1.0")
    return box, first, box.install(first, "--user", "plant", "--no-start")


@pytest.fixture
def installed(once: tuple[Box, Path, str], tmp_path: Path) -> Box:
    return Box(tmp_path, like=once[0])


def no_file(name: str) -> Callable[[Box, Path], None]:
    return lambda box, folder: (folder / name).unlink()


def says(program: str, script: str) -> Callable[[Box, Path], None]:
    return lambda box, folder: box.says(program, script)


def changed(box: Box, folder: Path) -> None:
    (folder / "docs" / "edge-box.md").write_text("changed on the way")


@pytest.mark.parametrize(
    ("made", "why", "what_to_do"),
    [
        (says("id", "echo 1000"), "only root can install a service", "run: sudo "),
        (says("uname", '[ "$1" = -s ] && echo Linux || echo armv7l'), "this machine is armv7l; the bundle is for", "make bundle"),
        (says("uname", "echo Darwin"), "this is Darwin; the bundle is for Linux", "install it on a Linux"),
        (says("getconf", "exit 1"), "there is no glibc", "Debian 12"),
        (says("getconf", "echo glibc 2.3"), "the wheels need glibc 2.4, this machine has 2.3", "use a newer system"),
        (says("df", "echo head; echo /dev/x 9 9 20480 1% /"), "20 MB are free below /srv, 112 MB are needed", "--prefix"),
        (no_file("MANIFEST"), "MANIFEST is missing", "unpack the whole archive"),
        (no_file("docs/edge-box.md"), "not what they were when the bundle was made", "copy the archive anew"),
        (changed, "not what they were when the bundle was made", "copy the archive anew"),
    ],
    ids=["no root", "architecture", "system", "no glibc", "old glibc", "disk", "no manifest", "file missing", "file changed"],
)  # fmt: skip
def test_what_does_not_fit_is_refused_with_what_to_do_before_anything_is_changed(
    box: Box, first: Path, made: Callable[[Box, Path], None], why: str, what_to_do: str
) -> None:
    manifest = first / "MANIFEST"
    manifest.write_text(manifest.read_text().replace(" 2.0 1 ", " 2.4 1 "))
    summed(first)
    made(box, first)
    said = box.install(first, code=1)
    assert why in said and what_to_do in said
    assert box.untouched


def test_a_python_without_wheels_is_refused_and_another_one_is_taken(box: Box, first: Path) -> None:
    box.says("python3.13", "echo 3.13 64")
    said = box.install(first, "--python", "python3.13", code=1)
    assert "no Python that the bundle is for (3.11, 3.12); found: python3.13 3.13" in said and "--python" in said
    box.says("python3.12", "echo 3.12 32")
    assert "a program of 32 bits" in box.install(first, "--python=python3.12", code=1)
    assert box.untouched


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--prefix", "/var/tmp/bifrost"], "lies in /var/tmp, where the service does not see it"),
        (["--prefix", "srv/gateway"], "an absolute path"),
        (["--prefix", "/srv/my gateway"], "a plain path"),
        (["--user", "Plant One"], "a name of lower-case letters"),
        (["--extras", "some"], "all or edge"),
        (["--extras"], "wants a value"),
        (["--force"], "there is no option --force"),
    ],
)
def test_wrong_options_are_told(box: Box, first: Path, options: list[str], why: str) -> None:
    assert why in box.install(first, *options, code=2)
    assert box.untouched


def test_it_looks_without_changing_anything_and_explains_itself(box: Box, first: Path) -> None:
    assert "Bifrost 0.1.0 (all) fits" in box.install(first, "--check")
    assert "--ready-within TIME" in box.install(first, "--help")
    assert box.untouched


def test_it_installs_by_hash_once_and_run_again_changes_nothing(once: tuple[Box, Path, str], installed: Box) -> None:
    _, first, said = once
    box = installed
    assert "What to do next" in said and "systemd does not run here" in said
    assert box.asked == ["0.1.0 install --systemd --program /srv/gateway --user plant --no-start"]
    assert (box.srv / "gateway" / "docs").readlink() == Path("current/share/bifrost/docs")
    assert (box.srv / "gateway/0.1.0/share/bifrost/docs/edge-box.md").read_text() == "0.1.0"
    before = (box.srv / "gateway/0.1.0/bundle").stat().st_mtime_ns
    assert "/srv/gateway/0.1.0 is there" in box.install(first, "--user", "plant")
    assert (box.srv / "gateway/0.1.0/bundle").stat().st_mtime_ns == before


def test_a_wheel_that_is_not_the_one_of_the_lock_is_not_installed(box: Box, first: Path) -> None:
    small_wheel(first / "wheels", "0.1.0", "something = 'else'")
    summed(first)  # whoever changed it has made the sums anew, too
    said = box.install(first, code=1)
    assert "the wheels could not be installed" in said and "Expected sha256" in said
    assert not (box.srv / "gateway" / "0.1.0").exists() and box.asked == []


def test_what_was_cut_off_is_installed_anew(box: Box, first: Path) -> None:
    half = box.srv / "gateway" / "0.1.0" / "bin"
    half.mkdir(parents=True)
    (half / "python").write_text("cut off")
    box.install(first)
    assert [line.split()[1] for line in box.asked] == ["install"]


def test_another_build_of_the_version_that_runs_is_refused(installed: Box, tmp_path: Path) -> None:
    other = bundle(tmp_path / "other", "0.1.0")
    (other / "docs" / "more.md").write_text("another build")
    summed(other)
    said = installed.install(other, code=1)
    assert "was not installed from this bundle" in said and "remove /srv/gateway/0.1.0" in said
    assert len(installed.asked) == 1


def test_another_version_takes_over_by_the_upgrade_with_its_way_back(
    once: tuple[Box, Path, str], installed: Box, tmp_path: Path
) -> None:
    box = installed
    box.says("systemctl", "echo running")
    newer = bundle(tmp_path / "newer", "0.2.0")
    (box.srv / "refuses").touch()
    assert "the old one runs again" in box.install(newer, code=1)
    assert box.asked[-1].split()[:2] == ["0.2.0", "upgrade"]
    assert (box.srv / "gateway" / "current").readlink().name == "0.1.0"

    (box.srv / "refuses").unlink()
    box.install(newer, "--extras", "edge", "--ready-within", "5m")
    upgraded = (
        f"0.2.0 upgrade {newer}/wheels/bifrost_gateway-0.2.0-py3-none-any.whl --extras edge --program /srv/gateway "
        "--ready-within 5m -c /etc/bifrost/gateway.yaml"
    )
    assert box.asked[-2:] == [upgraded, "0.2.0 install --systemd --program /srv/gateway --user bifrost"]
    assert (box.srv / "gateway" / "current").readlink().name == "0.2.0"

    box.says("systemctl", "echo offline; exit 1")  # nobody who could be asked to start it
    said = box.install(once[1])
    assert "/srv/gateway/0.1.0 is there" in said and "it runs when the service is started again" in said
    assert [line.split()[:2] for line in box.asked[-2:]] == [["0.1.0", "check"], ["0.1.0", "install"]]
    assert (box.srv / "gateway" / "current").readlink() == Path("/srv/gateway/0.1.0")


def test_folder_and_user_stay_those_of_the_unit(once: tuple[Box, Path, str], installed: Box, tmp_path: Path) -> None:
    if not Path("/etc/systemd/system").is_dir():
        pytest.skip("no folder of units on this machine")
    (tmp_path / "units" / "bifrost.service").write_text(
        "[Service]\nUser=plant\nExecStart=/srv/gateway/current/bin/bifrost run -c /etc/bifrost/gateway.yaml\n"
    )
    installed.install(once[1], prefix="")
    assert installed.asked[-1] == "0.1.0 install --systemd --program /srv/gateway --user plant"


def test_shellcheck_finds_nothing() -> None:
    subprocess.run(
        ["sh", str(ROOT / "tests" / "counterparts" / "tools.sh")], check=True, capture_output=True, timeout=100
    )
    found = subprocess.run(["shellcheck", str(INSTALLER)], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout


def test_hashes_are_of_the_files_as_they_are(first: Path) -> None:
    for line in (first / "SHA256SUMS").read_text().splitlines():
        sha256, name = line.split("  ")
        assert hashlib.sha256((first / name).read_bytes()).hexdigest() == sha256
