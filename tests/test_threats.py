"""Every row of the threat model has a test, and what a run found is written down as it was."""

import json
import subprocess
import sys
from pathlib import Path

from tests import threats


def test_every_row_has_a_test() -> None:
    without = {number for number, tests in threats.marked().items() if not tests}
    assert not without
    assert [row.number for row in threats.ROWS] == list(range(1, 32))


INNER = """
import pytest
from tests.conftest import Threats, pytest_configure

def pytest_collection_modifyitems(items):
    for item in items:
        item.user_properties += [("threat", number) for mark in item.iter_markers("threat") for number in mark.args]
"""
TESTS = """
import pytest

@pytest.mark.threat(9)
@pytest.mark.parametrize("n", [0, 1, 2])
def test_a(n): assert n != 1

@pytest.mark.threat(12)
@pytest.mark.threat(13)
def test_b(): pass

@pytest.fixture
def broken(): raise OSError

@pytest.mark.threat(14)
def test_c(broken): pass

def test_d(): pass
"""


def test_a_run_of_two_processes_writes_what_it_found_of_whole_tests(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(INNER)
    (tmp_path / "test_x.py").write_text(TESTS)
    found = tmp_path / "threats.json"
    tests = ["test_x.py::test_a", "test_x.py::test_b", "test_x.py::test_c"]
    old = {"row": 1, "test": "gone.py::test", "result": "pass", "iec62443": []}
    found.write_text(json.dumps([old, old | {"row": 9, "test": tests[0]}]))
    script = (
        "import sys; from pathlib import Path; import pytest; from tests import threats\n"
        f"threats.marked = lambda: {{9: {tests!r}}}\n"
        f"record = threats.record; threats.record = lambda seen: record(seen, Path({str(found)!r}))\n"
        "sys.exit(pytest.main(sys.argv[1:]))\n"
    )
    command = [sys.executable, "-c", script, "-q", "-p", "no:cacheprovider"]
    root = Path(__file__).parents[1]
    options = ["--rootdir", str(tmp_path), "-c", "/dev/null", "-o", "markers=threat(row): a row"]
    environment = {"PYTHONPATH": str(root), "PATH": "/usr/bin:/bin"}
    for more in (["-n", "2"], ["-k", "test_b"]):  # the second run is not whole, and changes nothing
        run = subprocess.run(
            [*command, *options, *more, str(tmp_path)], cwd=tmp_path, env=environment, capture_output=True, text=True,
            check=False, timeout=60,
        )  # fmt: skip
        assert run.returncode == (0 if "-k" in more else 1), run.stdout + run.stderr
        assert json.loads(found.read_text()) == [
            {"row": 9, "test": tests[0], "result": "fail", "iec62443": ["CR 7.7", "CR 2.1"]},
            {"row": 12, "test": tests[1], "result": "pass", "iec62443": ["CR 4.1"]},
            {"row": 13, "test": tests[1], "result": "pass", "iec62443": ["CR 4.3"]},
            {"row": 14, "test": tests[2], "result": "fail", "iec62443": ["CR 7.1", "CR 3.5"]},
        ]
