"""Every target at once, each killed once; `python -m tests.targets_together` is the same for two minutes."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.timeout(300)
def test_no_target_loses_a_reading_when_each_is_killed_beside_the_others() -> None:
    command = [sys.executable, "-m", "tests.targets_together", "20", "500"]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False, timeout=280
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
