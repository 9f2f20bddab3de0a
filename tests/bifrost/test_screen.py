"""Tables for people: numbers stay whole and names are never cut off, however narrow the terminal."""

import io
from typing import Any

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
                "protocol": "opcua", "state": "down", "received": 1, "tags": 1, "gaps": 0, "last_reading": None,
                "detail": "ns=2;s=[default]Tank :key: \x1b[2J",
            }
        },
        "targets": {},
    }  # fmt: skip
    text = shown(status.tables(answer), 250)
    assert "ns=2;s=[default]Tank :key: \\x1b[2J" in text
    assert "\x1b" not in text


def test_the_state_of_a_target_is_one_line_where_there_is_room() -> None:
    answer = {
        "status": "degraded",
        "sources": {},
        "targets": {
            NAME: {
                "connected": False, "breaker": "open", "delivered": 12_345_678, "stored": 600, "oldest_age": 5400.0,
                "full_in": 4 * 86_400.0, "response_time": {"p50": 0.01, "p99": 0.042}, "alarm": "readings are discarded",
                "last_error": "connection refused",
            }
        },
    }  # fmt: skip
    (line,) = [line for line in shown(status.tables(answer), 250).splitlines() if NAME in line]
    assert " ".join(line.split()) == (
        f"{NAME} no open 12,345,678 600 1.5 h 4.0 d 42 ms readings are discarded; connection refused"
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"),
        (0.0, "0 s"),
        (0.0042, "4.2 ms"),
        (0.042, "42 ms"),
        (59.9, "60 s"),
        (90, "1.5 min"),
        (3 * 86_400, "3.0 d"),
    ],
)
def test_spans_are_told_in_their_largest_unit(seconds: float | None, text: str) -> None:
    assert status.span(seconds) == text


def test_the_disk_is_told_how_long_it_lasts() -> None:
    answer: dict[str, Any] = {"uptime": 7200.0, "disk": {"written_bytes": 12_300_000, "years": None}}
    assert status.disk(answer) == ("disk: 12.3 MB written in 2.0 h; set gateway.endurance to learn how long it lasts")
    answer["disk"]["years"] = 41.23
    assert status.disk(answer).endswith("at this pace it lasts 41.2 years")
