from pathlib import Path

import pytest

from delivery.wear import written_bytes, years


def test_a_disk_lasts_as_long_as_its_endurance_at_the_present_pace() -> None:
    day = 86_400
    assert years(40 * 10**12, 10 * 10**9, day) == pytest.approx(4000 / 365.25)
    assert years(40 * 10**12, 0, day) is None


def test_what_is_written_is_counted_as_the_disk_writes_it(tmp_path: Path) -> None:
    before = written_bytes()
    file = tmp_path / "file"
    file.write_bytes(b"x" * 10_000)
    assert written_bytes() - before in (0, 12_288), "whole pages, unless the folder lies in memory"
