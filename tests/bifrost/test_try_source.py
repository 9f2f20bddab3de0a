"""What `bifrost test` prints of readings, on a screen and for programs."""

import json
from pathlib import Path
from typing import Any

import pytest

from bifrost.try_source import _Screen, _show
from config.models import Configuration
from normalization.reading import Tag

VALUES: list[tuple[Any, Any]] = [
    (1.5, 1.5),
    (float("nan"), "NaN"),
    (float("-inf"), "-Infinity"),
    (True, True),
    (2**63 - 1, 2**63 - 1),
    ("zwei\u2028Zeilen\n[bold] \x1b[2J", "zwei\u2028Zeilen\n[bold] \x1b[2J"),
    (b"\x00\xff", "AP8="),
    ([1, {"a": None}], [1, {"a": None}]),
    (None, None),
]


@pytest.fixture
def screen() -> _Screen:
    """A screen that has received one reading of every type, and one that could not be decoded."""
    found = _Screen()
    tag = found.tag(Tag("plc", "opcua", "device", "ns=2;s=[default]Tank", "tank_temp", "°C"))
    for value, _ in VALUES:
        found.rows.add(tag, value)
    found.rows.add(tag, 2**64 - 1, unsigned=True)
    found.rows.add_reject(tag, 'no "birth"', b"raw")
    found.received = [1_700_000_000_123_456] * len(found.rows)
    found.count = len(found.rows)
    return found


CONFIG = Configuration(gateway="gw", directory=Path("data"))


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


def test_json_is_strict_exact_and_one_object_a_line(screen: _Screen, capsys: pytest.CaptureFixture[str]) -> None:
    _show(CONFIG, screen, as_json=True)
    rows = [json.loads(line, parse_constant=refuse) for line in capsys.readouterr().out.split("\n")[:-1]]
    assert [row["value"] for row in rows] == [*(shown for _, shown in VALUES), 2**64 - 1, "cmF3"]
    assert [row.get("reject") for row in rows] == [None] * (len(VALUES) + 1) + ['no "birth"']
    assert {row["path"] for row in rows} == {"temperature/tank_temp"}


def test_the_screen_shows_values_as_they_are_and_no_control_sequence(
    screen: _Screen, capsys: pytest.CaptureFixture[str]
) -> None:
    _show(CONFIG, screen, as_json=False)
    said = capsys.readouterr().out
    assert "\x1b" not in said
    assert said.count("ns=2;s=[default]Tank") == len(VALUES) + 2
    for shown in (
        "11 readings", "NaN", "true", str(2**64 - 1), "zwei\\u2028Zeilen\\n[bold] \\x1b[2J", 'no "birth"',
        "22:13:20.123",
    ):  # fmt: skip
        assert shown in said
