"""Logs go to standard error, libraries are quiet, and no plant writes a line of its own."""

import json
import logging
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
EVIL = "down\n2026-01-01T00:00:00Z [info     ] all is well\r\x1b[2K\x1b[31m\x9b1m\u2028\u202e\x00"

PROGRAM = f"""
import logging, sys
import structlog
from config.logs import configure

configure(sys.argv[1])
log = structlog.get_logger()
evil = {EVIL!r}
log.debug("quiet")
log.info("source", detail=evil, error=ValueError(evil), tags=[evil])
log.warning(evil)
try:
    raise ValueError(evil)
except ValueError:
    log.exception("failed")
    logging.getLogger("asyncua.client").exception("lost %s", evil)
for name in ("asyncua", "paho.mqtt", "pymodbus.logging", "deltalake", "amqtt", "somebody"):
    logging.getLogger(name).info("chatter")
    logging.getLogger(name).warning("heard %s", name)
logging.getLogger("connectors.sources.opcua.reader").info("own")
logging.getLogger("connectors.sources.opcua.reader").debug("own detail")
configure(sys.argv[1])
logging.getLogger("once").error("once")
"""


def run(level: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, level],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )


def test_each_line_on_standard_error_is_one_json_object_and_standard_output_is_empty() -> None:
    done = run("info")
    assert done.stdout == ""
    events = [json.loads(line) for line in done.stderr.split("\n")[:-1]]
    said = [event["event"] for event in events]
    assert said[0] == "source"
    assert said[1].startswith("down\\n2026-01-01T00:00:00Z [info     ] all is well\\r\\x1b[2K")
    assert {event["level"] for event in events} == {"info", "warning", "error"}
    assert "Traceback" in events[2]["exception"]
    assert said[4:10] == [
        f"heard {name}" for name in ("asyncua", "paho.mqtt", "pymodbus.logging", "deltalake", "amqtt", "somebody")
    ]
    assert said[10:] == ["own", "once"]
    assert "chatter" not in done.stderr


def test_libraries_stay_at_warning_when_the_gateway_debugs() -> None:
    said = [json.loads(line)["event"] for line in run("debug").stderr.split("\n")[:-1]]
    assert said[0] == "quiet"
    assert "own detail" in said
    assert "chatter" not in said


def test_a_level_above_warning_holds_for_libraries_too() -> None:
    said = [json.loads(line)["event"] for line in run("error").stderr.split("\n")[:-1]]
    assert said[0] == "failed"
    assert said[-1] == "once"
    assert len(said) == 3


def test_no_control_character_of_a_plant_reaches_the_terminal_or_forges_a_line() -> None:
    leader, follower = pty.openpty()
    with os.fdopen(leader, "rb", buffering=0) as terminal:
        done = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, "info"], cwd=ROOT, stdout=subprocess.PIPE, stderr=follower
        )
        os.close(follower)
        written = b""
        while True:
            try:
                block = terminal.read(65536)
            except OSError:  # the other end is closed
                break
            if not block:
                break
            written += block
        assert done.communicate(timeout=60)[0] == b""
    text = written.decode()
    assert "all is well" in text
    for line in text.split("\r\n"):
        plain = line.lstrip("\x1b[0123456789;m")
        assert not plain.startswith("2026-01-01"), line
    for character in ("\x1b[2K", "\x1b[31m\x9b", "\x9b", "\u2028", "\u202e", "\x00"):
        assert character not in text
    assert text.count("\r") == text.count("\r\n") == text.count("\n")


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_every_level_of_the_configuration_is_one(level: str) -> None:
    assert level.upper() in logging.getLevelNamesMapping()
