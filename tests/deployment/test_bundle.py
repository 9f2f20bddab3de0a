"""What goes into the offline bundle is decided rightly; `make bundle` makes it, `make bundle-test` installs it."""

import hashlib
import re
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest
from packaging.tags import cpython_tags
from packaging.utils import parse_wheel_filename

from deploy.bundle import (
    ARCHITECTURES,
    PYTHONS,
    BundleError,
    Fit,
    Platform,
    Wheel,
    bill_of,
    chosen,
    copied,
    for_platform,
    glibc,
    manifest,
    own_lock,
    pack,
    resolved,
    sha256_of,
    sums,
)
from tests.small_wheel import small_wheel

ROOT = Path(__file__).parents[2]
BOX = Platform("aarch64", "3.12")
OLDER = Platform("x86_64", "3.11")


def pinned(lock: str) -> dict[str, str]:
    return dict(re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", lock, re.MULTILINE))


@pytest.mark.parametrize("extras", ["all", "edge"])
def test_a_platform_gets_the_entries_that_count_there_and_each_once(extras: str) -> None:
    whole = (ROOT / "deploy" / f"{extras}.lock").read_text()
    newer, older = for_platform(whole, BOX), for_platform(whole, OLDER)
    assert pinned(newer)["numpy"] > pinned(older)["numpy"]
    assert set(pinned(older)) - set(pinned(newer)) and pinned(newer)["deprecated"] > pinned(older)["deprecated"]
    for lock in (newer, older):
        names = re.findall(r"^([A-Za-z0-9._-]+)==", lock, re.MULTILINE)
        assert len(names) == len(set(names)) > 30
        assert not {"colorama", "pywin32-ctypes"} & set(names) and ";" not in lock
        for entry in re.split(r"\n(?=[a-z])", lock.strip()):
            assert re.search(r"\\\n +--hash=sha256:[0-9a-f]{64}", entry), entry


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("python", PYTHONS)
def test_the_tags_of_a_platform_are_those_that_a_python_there_takes(architecture: str, python: str) -> None:
    platform = Platform(architecture, python)
    minor = int(python.split(".")[1])
    taken = {tag.platform for tag in cpython_tags((3, minor), platforms=platform.tags)}
    for file in (
        f"a-1-cp3{minor}-cp3{minor}-manylinux_2_28_{architecture}.whl",
        f"a-1-cp39-abi3-manylinux2014_{architecture}.manylinux_2_17_{architecture}.whl",
    ):
        assert any(tag.platform in taken for tag in parse_wheel_filename(file)[3]), file
    assert f"manylinux_2_35_{architecture}" not in taken and f"musllinux_1_2_{architecture}" not in taken


def test_the_oldest_glibc_is_that_of_the_wheel_that_wants_the_newest() -> None:
    pure, either = "a-1-py3-none-any.whl", "b-1-cp311-cp311-manylinux2014_x86_64.manylinux_2_28_x86_64.whl"
    assert glibc([pure, either]) == (2, 17)
    assert glibc([either, "c-1-cp39-abi3-manylinux_2_34_x86_64.whl"]) == (2, 34)


def report(requires: str) -> dict[str, object]:
    return {
        "install": [
            {
                "download_info": {"url": "file:///w/b-2%2Blocal-py3-none-any.whl", "archive_info": {"hashes": {"sha256": "2" * 64}}},
                "metadata": {"name": "b", "version": "2", "requires_python": requires},
            }
        ]
    }  # fmt: skip


def test_what_pip_would_install_is_taken_unless_it_is_for_another_python() -> None:
    assert chosen(report(">=3.12"), "3.12") == [Wheel("b-2+local-py3-none-any.whl", "2" * 64)]
    with pytest.raises(BundleError, match=r"b 2 is not for Python 3\.11"):
        chosen(report(">=3.12"), "3.11")


def test_the_manifest_tells_what_the_installer_asks_for() -> None:
    fits = [Fit(BOX, "edge", ("a-1-cp312-cp312-manylinux_2_28_aarch64.whl", "b-1-py3-none-any.whl"), 1_500_001)]
    said = manifest("0.2.0", "abc", "bifrost_gateway-0.2.0-py3-none-any.whl", "pip-1-py3-none-any.whl", fits)
    assert "version 0.2.0\n" in said and "wheel bifrost_gateway-0.2.0-py3-none-any.whl\n" in said
    assert said.endswith("platform aarch64 3.12 edge 2.28 2 2\n")


def test_hashes_are_such_as_sha256sum_checks(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / name).write_text(name)
    (tmp_path / "SHA256SUMS").write_text(sums({name: hashlib.sha256(name.encode()).hexdigest() for name in ("b", "a")}))
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=tmp_path, check=True, capture_output=True)
    (tmp_path / "a").write_text("changed")
    assert subprocess.run(["sha256sum", "--check", "SHA256SUMS"], cwd=tmp_path, capture_output=True).returncode == 1


def test_the_same_files_make_the_same_archive_whole_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("from a file")
    files: dict[str, Path | bytes] = {"install.sh": b"#!/bin/sh\n", "docs/page.md": tmp_path / "file"}
    for name, order in (("one.tar", 1), ("two.tar", -1)):
        pack(tmp_path / name, "top", dict(list(files.items())[::order]), 1_700_000_000)
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()
    with tarfile.open(tmp_path / "one.tar") as opened:
        assert [(one.name, one.mode, one.uid) for one in opened] == [
            ("top/docs/page.md", 0o644, 0),
            ("top/install.sh", 0o755, 0),
        ]
    with pytest.raises(FileNotFoundError):
        pack(tmp_path / "three.tar", "top", {"gone": tmp_path / "gone"}, 0)
    assert not (tmp_path / "three.tar").exists()


def test_pages_units_and_examples_go_along() -> None:
    names = set(copied())
    assert {"docs/edge-box.md", "docs/deployment.md", "deploy/bifrost.service", "deploy/all.lock", "LICENSE"} <= names
    assert any(name.startswith("config/examples/") for name in names)
    assert any(name.startswith("k8s/observability/") for name in names)


def test_the_bill_of_a_platform_is_read_from_its_wheels(tmp_path: Path) -> None:
    own = small_wheel(tmp_path, "0.2.0", "")
    with zipfile.ZipFile(tmp_path / "part_one-1.5-py3-none-any.whl", "w") as made:
        made.writestr("part_one-1.5.dist-info/METADATA", "Metadata-Version: 2.1\nName: part-one\nVersion: 1.5\n")
    lock = own_lock([Wheel(own.name, "1" * 64), Wheel("part_one-1.5-py3-none-any.whl", "2" * 64)])
    assert pinned(lock) == {"bifrost-gateway": "0.2.0", "part-one": "1.5"}
    said = bill_of(sorted(tmp_path.glob("*.whl")), lock, "2026-01-01T00:00:00Z")
    assert said == bill_of(sorted(tmp_path.glob("*.whl"), reverse=True), lock, "2026-01-01T00:00:00Z")
    assert '"pkg:pypi/part-one@1.5"' in said and "2" * 64 in said


def test_the_pip_of_the_bundle_is_pinned_by_hash() -> None:
    assert set(pinned((ROOT / "deploy" / "bundle.lock").read_text())) == {"pip"}


def test_pip_finds_a_wheel_for_its_platform_alone_and_by_its_hash_alone(tmp_path: Path) -> None:
    wheel = tmp_path / "part-1.5-cp312-cp312-manylinux_2_28_aarch64.whl"
    with zipfile.ZipFile(wheel, "w") as made:
        made.writestr(
            "part-1.5.dist-info/METADATA", "Metadata-Version: 2.1\nName: part\nVersion: 1.5\nRequires-Python: >=3.12\n"
        )
        made.writestr(
            "part-1.5.dist-info/WHEEL",
            "Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: cp312-cp312-manylinux_2_28_aarch64\n",
        )
        made.writestr("part-1.5.dist-info/RECORD", "")
    lock = tmp_path / "part.lock"
    found = Wheel(wheel.name, sha256_of(wheel))
    lock.write_text(own_lock([found]))
    assert resolved(lock, BOX, tmp_path) == [found]
    with pytest.raises(BundleError, match=r"No matching distribution found for part==1\.5"):
        resolved(lock, OLDER, tmp_path)
    lock.write_text(own_lock([Wheel(wheel.name, "0" * 64)]))
    with pytest.raises(BundleError, match="DO NOT MATCH THE HASHES"):
        resolved(lock, BOX, tmp_path)
