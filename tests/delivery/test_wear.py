import subprocess
import sys
from pathlib import Path

import pytest

from delivery.wear import years


def test_a_disk_lasts_as_long_as_its_endurance_at_the_present_pace() -> None:
    day = 86_400
    assert years(40 * 10**12, 10 * 10**9, day) == pytest.approx(4000 / 365.25)
    assert years(40 * 10**12, 0, day) is None


WRITES = """
import sys
from pathlib import Path
from delivery.wear import written_bytes
before = written_bytes()
Path(sys.argv[1]).write_bytes(b"x" * 10_000)
print(written_bytes() - before)
"""


def test_what_is_written_is_counted_as_the_disk_writes_it(tmp_path: Path) -> None:
    """In a process of its own, in which nothing else writes."""
    command = [sys.executable, "-B", "-c", WRITES, str(tmp_path / "file")]
    counted = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert int(counted) in (0, 12_288, 16_384), "whole pages and at times one of the folder's, unless it lies in memory"
