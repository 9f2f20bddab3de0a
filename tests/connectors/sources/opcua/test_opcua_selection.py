"""Nodes by browse path and by type, and nodes that come and go while others are read."""

import asyncio
import json
from collections.abc import Iterator

import pytest
from asyncua import ua
from pydantic import ValidationError

from connectors.contract import SourceState
from connectors.sources.opcua.names import parse_path
from normalization.reading import Quality
from tests.connectors.sources.opcua.conftest import MACHINE, PlantServer, Reading, source
from tests.connectors.sources.opcua.test_opcua_interop import NodeServer, installed, node  # noqa: F401 - fixtures
from tests.ports import free_port

HALL = "/Objects/Hall/Press 1"


def names(intake):
    return {r.tag.tag_name for r in intake.readings()}


@pytest.mark.parametrize(
    "path", [f"{HALL}/Speed", "/0:Objects/2:Hall/3:Press 1/3:Speed", "/Objects/2:Hall/Press 1/Speed"]
)
async def test_a_node_is_found_by_its_browse_path(plant, tmp_path, path):
    async with Reading(source(plant.endpoint, nodes=[path]), tmp_path) as intake:
        await intake.until(lambda: intake.readings("Speed"))
        (tag,) = {r.tag for r in intake.readings()}
        assert (tag.address, json.loads(tag.metadata)) == (path, {"browse_path": "Hall/Press 1/Speed"})
        assert intake.last("Speed").quality == Quality.GOOD


async def test_a_path_that_leads_nowhere_is_said_and_stops_no_other(plant, tmp_path, caplog):
    nodes = [f"{HALL}/Nowhere", "/0:Objects/2:Nowhere", {"path": f"{HALL}/Speed", "tag_name": "spindle", "unit": "rpm"}]
    async with Reading(source(plant.endpoint, nodes=nodes), tmp_path) as intake:
        await intake.until(lambda: names(intake) == {"Nowhere", "spindle"} and len(intake.readings()) >= 3)
        assert intake.last("Nowhere").status == 0x80340000
        assert intake.last("spindle").tag.unit == "rpm"
    assert f"node {HALL}/Nowhere: the server has no node at this path" in caplog.text


@pytest.mark.interop("node-opcua", "nodes are found by browse path, translated by the server")
async def test_paths_are_translated(node, tmp_path):  # noqa: F811
    nodes = ["/Objects/1:Device/1:Double", "/Objects/Device/Int32"]
    async with Reading(source(node.endpoint, nodes=nodes), tmp_path) as intake:
        await intake.until(lambda: names(intake) == {"Double", "Int32"}, 10)


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({"types": ["Double"]}, {"Temperature", "Profile", "Load"}),
        ({"types": ["Int32", "String"]}, {"Speed", "Order"}),
        ({"types": ["Integer"]}, {"Speed", "Matrix"}),
        ({"types": ["i=13", "Enumeration"]}, {"Stamp", "State"}),
        ({"type_definitions": ["BaseVariableType"], "types": ["Boolean"]}, {"Enabled"}),
    ],
)
async def test_a_browse_keeps_variables_of_some_types(plant, tmp_path, chosen, expected):
    config = source(plant.endpoint, browse={**chosen, "tag_name": "name"})
    async with Reading(config, tmp_path) as intake:
        await intake.until(lambda: len(names(intake)) >= len(expected))
        assert names(intake) == expected


@pytest.mark.interop("node-opcua", "a browse keeps variables of a type definition and its subtypes")
async def test_a_browse_keeps_analog_items(node, tmp_path):  # noqa: F811
    config = source(node.endpoint, browse={"type_definitions": ["AnalogItemType"], "tag_name": "name"})
    async with Reading(config, tmp_path) as intake:
        await intake.until(lambda: names(intake) == {"Analog"}, 10)
        assert intake.last("Analog").tag.unit == "°C"


@pytest.mark.interop("node-opcua", "nodes that come and go are taken at once where the server reports it")
@pytest.mark.parametrize("mode", ["subscription", "polling"])
async def test_nodes_that_come_and_go_interrupt_no_other(node, tmp_path, caplog, mode):  # noqa: F811
    browse = {"include": ["Extra/**"], "tag_name": "name"} | ({"rebrowse_interval": 0.5} if mode == "polling" else {})
    config = source(node.endpoint, browse=browse, mode=mode, polling_interval=0.1, queue_size=100)
    new = f"Grown{mode}"
    async with Reading(config, tmp_path) as intake:
        await intake.until(lambda: "Analog" in names(intake), 10)
        before = names(intake)
        node.command(add=new)
        await intake.until(lambda: intake.readings(new), 10)
        assert intake.last(new).value == 1
        assert names(intake) == before | {new}
        node.command(set=[new, 7])
        await intake.until(lambda: intake.last(new).value == 7, 10)
        node.command(set=["Analog", 33])
        await intake.until(lambda: intake.last("Analog").value == 33, 10)
        node.command(remove=new)
        await intake.until(lambda: intake.last(new).quality == Quality.BAD, 10)
        await intake.until(lambda: "it is not there any more" in caplog.text, 10)
        node.command(set=["Analog", 34])
        await intake.until(lambda: intake.last("Analog").value == 34, 10)
        assert SourceState.DOWN not in [state for state, _ in intake.states]
        assert not intake.gaps


@pytest.fixture
def growing() -> Iterator[PlantServer]:
    running = PlantServer(free_port()).start()
    yield running
    running.stop()


async def test_a_node_that_comes_is_found_by_looking_again_and_taken_over_with_the_others(growing, tmp_path):
    """Values of the new node that nobody heard come with the subscription that is taken over."""
    config = source(growing.endpoint, browse={"tag_name": "name", "rebrowse_interval": 0.2}, queue_size=100)
    reading = Reading(config, tmp_path)
    reading.start()
    intake = reading.intake
    try:
        await intake.until(lambda: len(names(intake)) == 11)
        index = growing.call(growing.server.get_namespace_index(MACHINE))
        folder = growing.server.nodes.objects
        made = growing.call(folder.add_variable(ua.NodeId("Late", index), f"{index}:Late", 4, ua.VariantType.Int32))
        growing.nodes["Late"] = made
        await intake.until(lambda: intake.readings("Late"))
        await asyncio.to_thread(growing.write, "Late", 5, ua.VariantType.Int32)
        await intake.until(lambda: intake.last("Late").value == 5)
        await reading.stop()
        await asyncio.to_thread(growing.write, "Late", 6, ua.VariantType.Int32)
        await asyncio.to_thread(growing.write, "Late", 7, ua.VariantType.Int32)
        reading.start(next(state for _, state in reversed(intake.appended) if state))
        await intake.until(lambda: intake.last("Late").value == 7)
    finally:
        await reading.stop()


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("/Objects/Plant/2:Line 1", [(0, "Objects"), (None, "Plant"), (2, "Line 1")]),
        (r"/Objects/a\/b", [(0, "Objects"), (None, "a/b")]),
        ("/Views/70000:x", [(None, "Views"), (None, "70000:x")]),
    ],
)
def test_a_path_is_names_with_their_namespaces(text, steps):
    assert parse_path(text) == steps


@pytest.mark.parametrize(
    "wrong", [{"path": "Objects/x"}, {"path": "/"}, {"path": "//x"}, {"id": "i=1", "path": "/x"}, {"tag_name": "x"}]
)
def test_a_node_without_a_sound_place_is_refused(wrong):
    with pytest.raises(ValidationError):
        source("opc.tcp://h", nodes=[wrong])
