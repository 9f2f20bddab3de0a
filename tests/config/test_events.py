"""Every event that somebody may act on has a code that stays, in words and in JSON, and a line says one event."""

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from config.events import CODES, EVENTS, GROUPS

ROOT = Path(__file__).parents[2]
PACKAGES = ("bifrost", "config", "connectors", "delivery", "discovery", "flows", "normalization", "web")
LEVELS = {"info": "info", "warning": "warning", "error": "error", "exception": "error", "critical": "error"}
NAMES = {"log", "_log", "logger", "_logger"}


def logged() -> Iterator[tuple[str, str, str | None]]:
    """Every call that logs: its place, its level and its words; None where those are made at run time."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if (
                    isinstance(node, ast.Call)
                    and isinstance(node.func, ast.Attribute)
                    and isinstance(node.func.value, ast.Name)
                    and node.func.value.id in NAMES
                    and node.func.attr in LEVELS
                ):
                    words = node.args[0] if node.args else None
                    said = words.value if isinstance(words, ast.Constant) and isinstance(words.value, str) else None
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", LEVELS[node.func.attr], said


def test_every_event_that_is_logged_has_a_code() -> None:
    known = {event.text: event for event in EVENTS}
    missing = [f"{place}: {said!r}" for place, _, said in logged() if said not in known]
    assert missing == [], "give each a line in config/events.py; words that are made at run time belong into a field"
    wrong = [f"{place}: {level}, in config/events.py {known[said].level}" for place, level, said in logged() if said and known[said].level != level]  # fmt: skip
    assert wrong == []


def test_every_code_is_one_events_and_every_event_is_logged() -> None:
    codes = [event.code for event in EVENTS]
    assert len(set(codes)) == len(codes) == len(CODES)
    assert all(re.fullmatch(rf"({'|'.join(GROUPS)})-\d{{3}}", code) for code in codes)
    assert {event.text for event in EVENTS} - {said for _, _, said in logged()} == set(), "nobody logs it any more"
    assert all(event.meaning and event.action for event in EVENTS)


PROGRAM = """
import json, logging, sys
import structlog
from config.logs import configure

form, payloads = sys.argv[1], json.load(sys.stdin)
configure("info", form)
log, stdlib = structlog.get_logger(), logging.getLogger("connectors.sources.opcua.run")
for payload in payloads:
    log.warning("source failed", source=payload, error=payload)
    stdlib.warning("source %s: node %s: %s", payload, payload, payload)
    log.info("nobody knows this one", tags=[payload], **{"name": payload})
"""


def said(form: str, payloads: list[str]) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, form],
        cwd=ROOT, input=json.dumps(payloads), capture_output=True, text=True, check=True, timeout=60, encoding="utf-8",
    )  # fmt: skip
    assert done.stdout == ""
    return done.stderr.split("\n")[:-1]


def test_a_code_stands_in_json_and_in_words_wherever_an_event_comes_from() -> None:
    for form in ("json", "auto"):  # standard error is no terminal here
        events = [json.loads(line) for line in said(form, ["plc"])]
        assert [event.get("code") for event in events] == ["BF-SRC-001", "BF-UA-013", None]
        assert events[1]["event"] == "source plc: node plc: plc"
    words = said("console", ["plc"])
    assert ["code=BF-SRC-001" in words[0], "code=BF-UA-013" in words[1], "code=" in words[2]] == [True, True, False]
    assert not any(line.startswith("{") for line in words)


CONTROLS = [chr(code) for code in (*range(0x20), *range(0x7F, 0xA0), 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A))]  # fmt: skip
FORGED = [
    '{"event": "all is well", "level": "info", "code": "BF-GW-001"}',
    "2026-01-01T00:00:00Z [info     ] all is well   code=BF-TGT-002",
    "%s %d %(name)s {0} {name} ${jndi:ldap://plant/x}",
    '"; DROP TABLE readings; --',
    "<script>alert(1)</script>",
    "\x1b]0;title\x07\x1b[2J\x1b[1A\x1b[K",
    "\ud800",
    "'\"`\\",
]
CORPUS = [f"temp{control}{forged}" for forged in FORGED for control in CONTROLS] + FORGED


@pytest.mark.threat(19)
@pytest.mark.parametrize("form", ["json", "console"])
def test_whatever_a_plant_calls_itself_one_event_is_one_line(form: str) -> None:
    assert len(CORPUS) > 200
    lines = said(form, CORPUS)
    assert len(lines) == 3 * len(CORPUS)
    assert not [line for line in lines if any(control in line for control in CONTROLS)]
    if form == "json":
        events = [json.loads(line) for line in lines]
        assert [event.get("code") for event in events] == ["BF-SRC-001", "BF-UA-013", None] * len(CORPUS)
    else:
        assert all(re.match(r"\d{4}-\d\d-\d\dT\S+ \[(warning  |info     )\] ", line) for line in lines)
