"""A target in a package of its own, `examples/sqlite_target`, joins by being installed, and passes the same suite."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which the example is installed."""
    place = tmp_path_factory.mktemp("installed")
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-index", "--no-build-isolation"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(place)]
    subprocess.run([*command, str(ROOT / "examples" / "sqlite_target")], check=True, timeout=100)
    return os.environ | {"PYTHONPATH": f"{place}{os.pathsep}{ROOT}"}


def run(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=ROOT, timeout=110)


def test_it_passes_the_suite_of_writers(environment: dict[str, str]) -> None:
    done = run(
        environment,
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "tests/contract/test_writers.py",
        "-k",
        "sqlite or test_every_target",
        "-m",
        "not exhaustive",
    )
    assert done.returncode == 0, done.stdout
    found = re.search(r"(\d+) passed", done.stdout)
    assert found is not None
    assert int(found[1]) >= 17


def test_it_is_a_target_like_any_other(environment: dict[str, str], tmp_path: Path) -> None:
    snippet = run(environment, "bifrost", "create", "target", "sqlite")
    assert snippet.returncode == 0, snippet.stderr
    assert "# endpoint: data/readings.sqlite" in snippet.stdout
    file = tmp_path / "gateway.yaml"
    file.write_text(
        snippet.stdout.replace("# endpoint: data/readings.sqlite", f"endpoint: {tmp_path}/plant.sqlite")
        + f"  directory: {tmp_path}/data\n"
    )
    done = run(environment, "bifrost", "doctor", "-c", str(file), "--write")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "it will be made" in done.stdout
    assert "written: path doctor" in done.stdout
