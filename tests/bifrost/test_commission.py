"""`bifrost commission`: the simulated plant against a tag list, beside a gateway that runs, and the page that describes it."""

import asyncio
import csv
import io
import json
import re
import shlex
import struct
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import typer.testing
import yaml
from typing_extensions import override

from bifrost.cli import app
from bifrost.demo import source_config
from config.history import record
from config.loader import load
from simulator.plant import build_plant
from simulator.run import Simulation
from tests.command_in_process import quiet
from tests.connectors.sources.modbus.device import Device, Request, running
from tests.ports import free_port
from tests.running_gateway import gateway, until

__all__ = ["quiet"]

PAGE = (Path(__file__).parents[2] / "docs" / "commissioning.md").read_text(encoding="utf-8")
SECONDS = 3.5
TIMED = ("reactor_temp", "axis1_temp", "gripper_pressure", "steam_pressure")


def commission(*arguments: str) -> tuple[int, str, str]:
    answer = typer.testing.CliRunner().invoke(app, ["commission", *arguments])
    return answer.exit_code, answer.stdout, answer.stderr


class Page(HTMLParser):
    """The elements and the texts of a report."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    @override
    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    @override
    def handle_data(self, data: str) -> None:
        self.text += data


def type_of(tag: dict[str, Any]) -> str:
    """A scaled register becomes a number with a fraction; JSON does not tell 12.0 from 12."""
    if tag.get("scale", 1.0) != 1.0:
        return "REAL"
    return "number" if tag["source"] == "mqtt1" and tag["type"] == "float64" else str(tag["type"])


def lines(tags: list[dict[str, Any]]) -> list[dict[str, str]]:
    """What a planner would write about tags of the plant."""
    return [
        {
            "Source": tag["source"],
            "Path": tag["path"],
            "Data Type": type_of(tag),
            "Unit": tag["unit"],
            "Min": "",
            "Max": "",
            "Quality": "GOOD",
            "Interval": f"{tag['period_s']} s" if tag["tag_name"] in TIMED else "",
        }
        for tag in tags
    ]


def write(file: Path, rows: list[dict[str, str]], divider: str = ";") -> None:
    out = io.StringIO()
    table = csv.DictWriter(out, list(rows[0]), delimiter=divider)
    table.writeheader()
    table.writerows(rows)
    file.write_text(out.getvalue(), encoding="utf-8")


async def test_every_kind_of_verdict_on_a_plant_of_three_protocols(tmp_path: Path) -> None:
    plant = build_plant(tags=30, rate=60, sources={"opcua": 1, "mqtt": 1, "modbus": 1})
    async with Simulation(plant) as simulation:
        description = simulation.description()
        rows = lines(description["tags"])
        by_name = {tag["tag_name"]: row for tag, row in zip(description["tags"], rows, strict=True)}
        by_name["reactor_temp"].update(Min="0", Max="20,5")  # a German spreadsheet's number
        by_name["vessel_pressure"]["Unit"] = "psi"
        by_name["axis1_temp"]["Interval"] = "50 ms"
        by_name["torque"]["Data Type"] = "STRING"
        by_name["steam_temp"]["Path"] += "_2"
        simulation.servers["opcua1"].set_bad("agitator_speed", True)
        unlisted = by_name["fan_speed"]
        write(tmp_path / "tags.csv", [row for row in rows if row is not unlisted])
        config: dict[str, Any] = {
            "gateway": {"name": "hall", "directory": str(tmp_path / "data")},
            "sources": [source_config(source, description) for source in description["sources"]],
        }
        config["sources"].append(
            {"name": "lost", "protocol": "modbus", "endpoint": f"tcp://127.0.0.1:{free_port()}",
             "registers": [{"name": "x", "address": 0}]}
        )  # fmt: skip
        file = tmp_path / "gateway.yaml"
        file.write_text(yaml.safe_dump(config, allow_unicode=True), encoding="utf-8")
        record(file, load(file), 1_700_000_000)
        arguments = (
            "-c",
            str(file),
            "-t",
            str(tmp_path / "tags.csv"),
            "--for",
            f"{SECONDS}s",
            "-o",
            str(tmp_path / "out"),
        )
        code, said, wrong = await asyncio.to_thread(commission, *arguments, "--json")
    assert code == 1, wrong
    answer = json.loads(said)
    found = {one["tag"].rpartition("/")[2]: one for one in answer["tags"]}
    reasons = {name: one["reasons"] for name, one in found.items() if one["result"] == "fail"}
    assert set(reasons) == {"reactor_temp", "vessel_pressure", "axis1_temp", "torque", "agitator_speed"}, reasons
    assert re.fullmatch(r"value 1[0-9.]+ is above 20\.5", *reasons["reactor_temp"])
    assert reasons["vessel_pressure"] == ["unit is `bar`, expected `psi`"]
    assert "expected 50 ms" in reasons["axis1_temp"][0]
    assert reasons["torque"] == ["type is DOUBLE, expected string (TEXT)"]
    assert any(re.match(r"quality was not GOOD in \d+ of \d+ readings?: BAD", one) for one in reasons["agitator_speed"])
    assert [name for name, one in found.items() if one["result"] == "not seen"] == ["steam_temp_2"]
    assert sorted(one["tag_name"] for one in answer["unlisted"]) == ["fan_speed", "steam_temp"]
    assert answer["counts"] == {"pass": 23, "fail": 5, "not seen": 1, "unlisted": 2}
    (lost,) = [one for one in answer["sources"] if one["problem"]]
    assert lost["name"] == "lost"
    assert answer["configuration"]["number"] == 1
    seen = found["reactor_temp"]["seen"]
    assert 0 <= seen["age_s"] < 2
    assert seen["interval_s"] == pytest.approx(found["reactor_temp"]["expected"]["interval_s"], rel=0.25)
    page = Page((tmp_path / "out.html").read_text(encoding="utf-8"))
    assert "script" not in {tag for tag, _ in page.elements}
    assert not [attributes for _, attributes in page.elements if attributes.keys() & {"src", "href"}]
    for shown in ("Signature", "Accepted by", answer["configuration"]["sha256"], "number 1", "asyncua", "✕ fail"):
        assert shown in page.text, shown
    table = list(csv.DictReader(io.StringIO((tmp_path / "out.csv").read_text("utf-8-sig"))))
    assert len(table) == 31
    assert [row["expected_interval_s"] for row in table if row["tag"].endswith("axis1_temp")] == ["0.05"]


async def test_a_running_gateway_keeps_its_sources_to_itself_unless_it_is_said(tmp_path: Path) -> None:
    async with running() as device:
        port = free_port()
        file = tmp_path / "gateway.yaml"
        text = f"""\
            gateway: {{name: hall, directory: {tmp_path}/data}}
            web_ui: {{enabled: true, port: {port}}}
            sources:
              - {{name: press, protocol: modbus, endpoint: "{device.endpoint}", interval: 200ms,
                 registers: [{{name: force, address: 100}}]}}
            """
        file.write_text(text)
        (tmp_path / "tags.csv").write_text("tag,rate\nforce,5/s\n")
        command = ("-c", str(file), "-t", str(tmp_path / "tags.csv"), "--for", "1200ms", "-o", str(tmp_path / "out"))
        with gateway(file) as process:
            await until(lambda: bool(device.requests), file)
            connections = device.connections
            code, said, wrong = await asyncio.to_thread(commission, *command)
            assert (code, said) == (1, "")
            assert f"`hall` runs (process {process.pid})" in wrong
            assert "--beside" in wrong
            assert (device.connections, list(tmp_path.glob("out.*"))) == (connections, [])
            code, said, wrong = await asyncio.to_thread(commission, *command, "--beside")
            assert (code, device.connections) == (0, connections + 1), (said, wrong)
        assert "the running gateway read the same sources" in (tmp_path / "out.html").read_text(encoding="utf-8")
        code, said, wrong = await asyncio.to_thread(commission, *command)
        assert code == 0, (said, wrong)


def test_what_cannot_be_done_is_said_before_anything_is_read(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    source = '{name: press, protocol: modbus, endpoint: "tcp://127.0.0.1:9", registers: [{name: force, address: 1}]}'
    file.write_text(f"gateway: {{name: hall, directory: {tmp_path}/data}}\nsources: [{source}]\n")
    tags = tmp_path / "tags.csv"
    tags.write_text("tag,type,min,max\nforce,cheese,9,1\n,,,\nspeed,int,x,1\n")
    code, _, said = commission("-c", str(file), "-t", str(tags))
    assert code == 2
    assert f"{tags}:2: type: `cheese` is no type" in said
    assert f"{tags}:2: min: 9 is above the largest value 1" in said
    assert f"{tags}:4: min: `x` is no number" in said
    tags.write_text("tag\nforce\n")
    assert commission("-c", str(file), "-t", str(tags), "-s", "drill")[::2] == (
        2, "there is no source `drill`; the configuration has: press\n",
    )  # fmt: skip
    assert not (tmp_path / "data").exists()


# ---------------------------------------------------------------------- the page

(CONFIG,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
LISTED, REPORTED = re.findall(r"```csv\n(.*?)```", PAGE, re.DOTALL)
((COMMAND, SHOWN),) = re.findall(r"```console\n\$ bifrost ([^\n]*)\n(.*?)```", PAGE, re.DOTALL)


def registers(request: Request) -> bytes:
    """What the press of the page answers."""
    held = dict(enumerate((655, 1480, 0, 12), 100))
    words = [held.get(request.address + at, 0) for at in range(request.count)]
    return bytes([request.function, 2 * len(words)]) + struct.pack(f">{len(words)}H", *words)


async def test_the_page_shows_what_is_printed_and_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def answers(device: Device) -> None:
        device.answer = registers

    async with running() as device:
        answers(device)
        text = CONFIG.replace("tcp://192.168.1.20", device.endpoint).replace("/var/lib/bifrost", str(tmp_path / "data"))
        Path("gateway.yaml").write_text(text, encoding="utf-8")
        Path("tags.csv").write_text(LISTED, encoding="utf-8")
        _, *arguments = shlex.split(COMMAND.replace("60s", "2500ms"))
        code, said, wrong = await asyncio.to_thread(commission, *arguments)
    said = "".join(f"{line.rstrip()}\n" for line in said.splitlines())
    assert re.fullmatch(re.escape(SHOWN).replace("…", "[^\n]*"), said), f"{said}\n{wrong}"
    assert code == 1
    table = Path("press.csv").read_text("utf-8-sig")
    for line in REPORTED.splitlines():
        pattern = re.escape(line).replace("…", "[^\n]*")
        assert re.search(f"^{pattern}$", table.replace("\r", ""), re.MULTILINE), f"{line}\n{table}"
