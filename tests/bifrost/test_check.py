"""What `bifrost check` says of the tags that patterns take."""

import asyncio
import json
from pathlib import Path
from typing import Literal

import pytest
import typer.testing
from typing_extensions import override

from bifrost.check import Taken, plain, table, taken
from bifrost.cli import app
from bifrost.screen import console
from config.models import Configuration
from connectors.contract import Context, Intake, Reader
from connectors.settings import SourceConfig, TagMapping

CONFIG = """\
gateway: {name: g}
sources:
  - name: meter
    protocol: modbus
    endpoint: tcp://h
    registers:
      - {name: L1_voltage, address: 0, type: float32}
      - {name: L2_voltage, address: 2, type: float32}
      - {name: power, address: 4, type: float32}
    tags:
      - {match: "re:(?P<line>L\\\\d)_(?P<tag_name>.*)", unit: V}
      - {match: "*current", unit: A}
  - name: plc
    protocol: opcua
    endpoint: opc.tcp://h
    nodes:
      - ns=2;s=Oven/temp
      - path: /Objects/2:Line 1/2:temp
      - ns=2;s=Speed
    tags: [{match: "*/temp"}, {match: "*Pressure"}]
  - name: broker
    protocol: mqtt
    endpoint: mqtt://h
    subscriptions:
      - {topic: hall/oven/temp, format: plain}
      - {topic: $share/g/hall/press, value: {temp: a, force: b}}
      - {topic: hall/pump, value: "s[*].v"}
    tags: [{match: "*temp"}]
  - name: hall
    protocol: mqtt
    endpoint: mqtt://h
    tags: [{match: "*temp"}]
"""


class ToldConfig(SourceConfig):
    protocol: Literal["mqtt"] = "mqtt"
    fails: bool = False

    @override
    def reader(self, context: Context) -> Reader:
        return Told(self)


class Told(Reader):
    """Tells its tags and then waits, or fails."""

    def __init__(self, config: ToldConfig) -> None:
        self._config = config

    @override
    async def run(self, intake: Intake, state: bytes | None) -> None:
        for address in ("a/temp", "b/temp", "b/temp", "c"):
            intake.tag(self._config.tag("d", address, address))
        if self._config.fails:
            raise ConnectionError("no route")
        await asyncio.Event().wait()


def told(**more: bool) -> ToldConfig:
    return ToldConfig(name="told", tags=[TagMapping(match="*/temp"), TagMapping(match="x*")], **more)


def test_tags_that_the_configuration_names_are_counted_and_others_are_said_to_be_unknown(tmp_path: Path) -> None:
    (tmp_path / "g.yaml").write_text(CONFIG)
    command = ["check", "-c", str(tmp_path / "g.yaml")]
    answer = typer.testing.CliRunner().invoke(app, [*command, "--json"])
    assert answer.exit_code == 0
    regex = r"re:(?P<line>L\d)_(?P<tag_name>.*)"
    assert json.loads(answer.stdout) == {
        "gateway": "g",
        "certificates": [],
        "sources": [
            {
                "source": "meter",
                "patterns": [{"match": regex, "tags": 2}, {"match": "*current", "tags": 0}],
                "others": 1,
                "complete": True,
                "problem": None,
            },
            {
                "source": "plc",
                "patterns": [{"match": "*/temp", "tags": 2}, {"match": "*Pressure", "tags": None}],
                "others": 1,
                "complete": False,
                "problem": None,
            },
            {
                "source": "broker",
                "patterns": [{"match": "*temp", "tags": 2}],
                "others": 2,
                "complete": True,
                "problem": None,
            },
            {
                "source": "hall",
                "patterns": [{"match": "*temp", "tags": None}],
                "others": None,
                "complete": False,
                "problem": None,
            },
        ],
    }
    said = typer.testing.CliRunner().invoke(app, command).stdout
    assert "is sound" in said
    unknown = ["the", "device", "tells", "its", "tags;", "look", "with", "--read", "10s"]
    assert [line.split() for line in said.splitlines() if line.startswith((" meter", " plc", " hall"))] == [
        ["meter", regex, "2"],
        ["meter", "*current", "0", "takes", "no", "tag"],
        ["meter", "(no", "pattern)", "1"],
        ["plc", "*/temp", "≥", "2"],
        ["plc", "*Pressure", "?"],
        ["plc", "(no", "pattern)", "≥", "1", *unknown],
        ["hall", "*temp", "?"],
        ["hall", "(no", "pattern)", "?", *unknown],
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["g.yaml"]


def test_a_look_at_the_device_counts_its_tags_and_says_why_it_could_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = Configuration(gateway="g", directory=tmp_path, sources=(told(), told(fails=True)))
    found = taken(config, 0.2)
    assert found == [
        Taken("told", [("*/temp", 2), ("x*", 0)], 1),
        Taken("told", [("*/temp", 2), ("x*", 0)], 1, "ConnectionError: no route"),
    ]
    assert plain(found)[1]["problem"] == "ConnectionError: no route"
    console().print(table(found))
    assert "ConnectionError: no route" in capsys.readouterr().out
