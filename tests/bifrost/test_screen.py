"""Tables for people: numbers stay whole and names are never cut off, however narrow the terminal."""

import io

import pytest
from rich.console import Console
from rich.table import Table

from bifrost import ledger, status

NAME = "zerobus:main.demo.sparkplug1"
ACCOUNT = {
    "sources": {
        "sparkplug1": {
            "journalled": 12_345_678, "waiting": 1, "filtered": {"no rule": 2, "other": 3}, "routed": 12_345_670,
            "dead_letters": 2, "unaccounted": 0,
        }
    },
    "targets": {
        NAME: {
            "sparkplug1": {
                "routed": 12_345_670, "delivered": 12_345_000, "stored": 600, "discarded": {"age": 60, "space": 9},
                "dead_letters": 1, "unaccounted": 0,
            }
        }
    },
}  # fmt: skip


def shown(tables: list[Table], width: int) -> str:
    out = io.StringIO()
    for table in tables:
        Console(file=out, width=width, markup=False, emoji=False).print(table)
    return out.getvalue()


@pytest.mark.parametrize("width", [80, 100, 250])
def test_the_ledger_cuts_nothing_off(width: int) -> None:
    text = shown(ledger.tables(ACCOUNT), width)
    assert "…" not in text
    for number in ("12,345,678", "12,345,670", "12,345,000", "600", "69", "5"):
        assert number in text.split()


def test_the_ledger_is_one_line_per_target_and_source_where_there_is_room() -> None:
    (line,) = [line for line in shown(ledger.tables(ACCOUNT), 250).splitlines() if NAME in line]
    assert line.split() == [NAME, "sparkplug1", "12,345,670", "12,345,000", "600", "69", "1", "0"]


def test_what_a_plant_says_is_no_markup_and_no_control_sequence() -> None:
    answer = {
        "status": "ok",
        "sources": {
            "a": {
                "protocol": "opcua", "state": "down", "received": 1, "tags": 1, "last_reading": None,
                "detail": "ns=2;s=[default]Tank :key: \x1b[2J",
            }
        },
        "targets": {},
    }  # fmt: skip
    text = shown(status.tables(answer), 250)
    assert "ns=2;s=[default]Tank :key: \\x1b[2J" in text
    assert "\x1b" not in text
