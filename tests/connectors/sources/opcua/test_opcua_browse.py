"""`bifrost browse` against a server of asyncua, and against node-opcua."""

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from bifrost.cli import app
from connectors.sources.opcua import OpcUaConfig
from tests.connectors.sources.opcua.conftest import MACHINE, PlantServer
from tests.connectors.sources.opcua.test_opcua_interop import NodeServer, installed, node  # noqa: F401 - fixtures

BROWSE = CliRunner()


def browse(*arguments: str, code: int = 0) -> str:
    result = BROWSE.invoke(app, ["browse", *arguments])
    assert result.exit_code == code, result.output
    return " ".join(result.output.replace("│", " ").split()) if code else result.stdout


def test_the_tree_shows_types_values_units_and_node_ids(plant: PlantServer) -> None:
    lines = [line.split() for line in browse(plant.endpoint).splitlines()]
    assert ["Hall", "nsu=http://plant.test/ns;s=Hall"] in lines
    assert ["Temperature", "Double", "20.5", "°C", f"nsu={MACHINE};s=Temperature"] in lines
    assert ["Matrix", "Int16[][]", "[[1,2],[3,4]]", f"nsu={MACHINE};s=Matrix"] in lines
    assert ["State", "PlantState", "1", f"nsu={MACHINE};s=State"] in lines
    assert ["Blob", "ByteString", "00ff", f"nsu={MACHINE};s=Blob"] in lines


def test_patterns_and_depth_choose_what_is_shown(plant: PlantServer) -> None:
    chosen = browse(plant.endpoint, "--match", "Hall/*/T*", "--no-values")
    assert [line.split()[0] for line in chosen.splitlines()] == ["Hall", "Press", "Temperature", "Text", "Total"]
    assert "20.5" not in chosen
    flat = browse(plant.endpoint, "--depth", "1", code=1)
    assert "Hall" in flat
    assert "there is no variable" in flat
    assert "more than 2 variables" in BROWSE.invoke(app, ["browse", plant.endpoint, "--limit", "2"]).stderr


def test_what_is_to_be_pasted_is_a_sound_source(plant: PlantServer) -> None:
    pasted = yaml.safe_load(browse(plant.endpoint, "--match", "**/T*", "--yaml"))
    source = OpcUaConfig.model_validate(pasted["sources"][0])
    assert [n.id for n in source.nodes] == [f"nsu={MACHINE};s={name}" for name in ("Temperature", "Total", "Text")]
    assert source.nodes[0].tag_name == "Hall.Press 1.Temperature"


def test_programs_get_json(plant: PlantServer) -> None:
    found = json.loads(browse(plant.endpoint, "--match", "**/Total", "--json"))
    (total,) = found["variables"]
    assert (total["path"], total["value"], total["type"]) == ("Hall/Press 1/Total", 2**63 + 5, "UInt64")


@pytest.mark.parametrize(
    ("arguments", "said", "code"),
    [
        (["opc.tcp://127.0.0.1:1"], "127.0.0.1:1", 1),
        (["http://127.0.0.1:1"], "is not the URL of an OPC UA server", 2),
        (["opc.tcp://127.0.0.1:1", "--root", "nonsense"], "is not a node id", 2),
    ],
)
def test_what_is_wrong_is_said(arguments: list[str], said: str, code: int) -> None:
    assert said in browse(*arguments, code=code)


def test_a_source_of_the_configuration_is_browsed_as_it_is_configured(plant: PlantServer, tmp_path: Path) -> None:
    config = tmp_path / "gateway.yaml"
    user = {"username": "operator", "password": "wrong", "allow_clear_password": True, "trust": "all"}
    source = {"name": "press", "protocol": "opcua", "endpoint": plant.endpoint, **user}
    target = {"type": "file", "endpoint": str(tmp_path / "lines")}
    gateway = {"name": "g", "directory": str(tmp_path / "data"), "cloud": {"connectors": {"lines": target}}}
    config.write_text(json.dumps({"gateway": gateway, "web_ui": {"enabled": False}, "sources": [source]}))
    assert "refuses user operator" in browse("press", "-c", str(config), code=1)
    config.write_text(config.read_text().replace("wrong", "correct"))
    assert "Temperature" in browse("press", "-c", str(config))
    assert "the configuration has: press" in browse("other", "-c", str(config), code=2)


@pytest.mark.interop("node-opcua", "`bifrost browse` shows the tree with types, values and units")
def test_the_tree_of_a_foreign_server(node: NodeServer) -> None:  # noqa: F811
    lines = [line.split() for line in browse(node.endpoint, "--match", "Device/**").splitlines()]
    assert lines[0][0] == "Device"
    assert [line[:3] for line in lines if line[0] in ("Double", "Text")] == [
        ["Double", "Double", "1.5"],
        ["Text", "String", "grün"],
    ]
