"""Every YAML that is shown loads: config/, config/examples/ and each block of the docs.

A block that is not a whole configuration is marked: it begins with ```` ```yaml fragment ```` and is only read as YAML.
"""

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from config import models
from config.loader import load
from config.reference import EXAMPLES, choices, example_of
from config.secrets import variable
from connectors.settings import SourceConfig
from connectors.sources.modbus import ModbusConfig
from connectors.sources.mqtt import MqttConfig
from connectors.sources.mqtt.payload import topic_matches
from connectors.sources.opcua import OpcUaConfig
from connectors.sources.opcua.names import PathFilter
from simulator.plant import build_plant, describe
from tests.loaded_config import Load

ROOT = Path(__file__).parent.parent.parent
FILES = sorted((ROOT / "config").rglob("*.yaml"))
BLOCK = re.compile(r"^(?P<indent>[ ]*)```ya?ml(?P<mark>[^\n]*)\n(?P<text>.*?)^(?P=indent)```", re.MULTILINE | re.DOTALL)


def _blocks() -> Iterator[tuple[str, str, str]]:
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        text = page.read_text(encoding="utf-8")
        for block in BLOCK.finditer(text):
            line = text.count("\n", 0, block.start()) + 1
            yield f"{page.relative_to(ROOT)}:{line}", block["mark"].strip(), textwrap.dedent(block["text"])


BLOCKS = list(_blocks())


@pytest.fixture(autouse=True)
def _secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = [file.read_text(encoding="utf-8") for file in FILES] + [text for _, _, text in BLOCKS]
    for name in sorted({name for text in shown for name in re.findall(r"\$\{env:(\w+)\}", text)}):
        monkeypatch.setenv(name, "1234567890")
    for name in sorted({name for text in shown for name in re.findall(r"\$\{secret:([\w.-]+)\}", text)}):
        monkeypatch.setenv(variable(name), "1234567890")


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_file_loads(file: Path) -> None:
    assert load(file).warnings == ()


@pytest.mark.parametrize(("where", "mark", "text"), BLOCKS, ids=[where for where, _, _ in BLOCKS])
def test_every_block_of_the_docs_loads(loaded: Load, where: str, mark: str, text: str) -> None:
    assert mark in ("", "fragment"), f"{where}: `yaml {mark}` is no mark; there is `yaml fragment`"
    if mark == "fragment":
        assert yaml.safe_load(text) is not None
    else:
        loaded(text)


def test_there_is_a_minimal_example_of_every_source_and_target() -> None:
    wanted = {*choices(models.Source), *map(example_of, choices(models.Target)), "source_targets"}
    assert {file.stem for file in EXAMPLES.glob("*.yaml")} == wanted
    for name, model in choices(models.Source).items():
        assert [type(source) for source in load(EXAMPLES / f"{name}.yaml").sources] == [model]
    for name, model in choices(models.Target).items():
        assert [type(target) for target in load(EXAMPLES / f"{example_of(name)}.yaml").targets.values()] == [model]


def test_the_default_configuration_reads_what_the_simulator_serves() -> None:
    sources = {source.name: source for source in load(ROOT / "config" / "gateway.yaml").sources}
    plant = build_plant()
    ports = {"opcua": "opc.tcp://127.0.0.1:4840", "mqtt": "mqtt://127.0.0.1:1883", "modbus": "tcp://127.0.0.1:5020"}
    ports["sparkplug"] = ports["mqtt"]
    described = describe(plant, {source.name: ports[source.protocol] for source in plant.sources})
    assert sources.keys() == {source["name"] for source in described["sources"]}
    for source in described["sources"]:
        mine = sources[source["name"]]
        places = tuple(getattr(mine, place) or "" for place in ("site", "area", "line"))
        assert (_endpoint(mine), *places) == (source["endpoint"], source["site"], source["area"], source["line"])
    for tag in described["tags"]:
        mine = sources[tag["source"]]
        if isinstance(mine, OpcUaConfig):
            assert mine.browse is not None
            path = "/".join(tag["browse_path"])
            assert PathFilter(mine.browse.include, mine.browse.exclude).selects(path)
            mapping = mine.mapping([path, tag["tag_name"]])
            assert (mapping and mapping.equipment) == tag["equipment"]
        elif isinstance(mine, MqttConfig):
            topic = tag.get("topic") or f"spBv1.0/{tag['group_id']}/DDATA/{tag['edge_node_id']}/{tag['device_id']}"
            assert [topic_matches(wanted.topic, topic) for wanted in mine.subscriptions].count(True) == 1
    modbus = sources["modbus1"]
    assert isinstance(modbus, ModbusConfig)
    registers = {(t["unit_id"], t["tag_name"]): t for t in described["tags"] if t["source"] == "modbus1"}
    for register, name, point in modbus.values:
        served = registers[point.unit_id, name]
        table = {"coil": "bit", "discrete": "bit"}
        assert (register.kind, point.address, point.type) == (
            served["table"], served["register"], table.get(served["table"], served["type"]),
        )  # fmt: skip
        assert point.size == served["length"]
        assert register.scale in (served["scale"], None if served["scale"] == 1.0 else 0.0)
        if point.size > 1:
            assert (point.byte_order, point.word_order) == (served["byte_order"], served["word_order"])


def _endpoint(source: SourceConfig) -> str:
    assert isinstance(source, OpcUaConfig | MqttConfig | ModbusConfig)
    return source.endpoint
