"""Nodes from a NodeSet2 file: the same as a browse finds, without a browse."""

from collections.abc import Iterator

import pytest

from connectors.contract import Context
from connectors.sources.opcua.nodeset import NodeSet
from connectors.sources.opcua.reader import OpcUaReader
from normalization.reading import Quality
from tests.connectors.sources.opcua.conftest import Reading, Relay, source
from tests.connectors.sources.opcua.test_opcua_interop import COUNTERPART, NodeServer, installed  # noqa: F401 - fixture

PLANT_FILE = COUNTERPART / "plant.xml"
BROWSE_REQUEST = b"\x01\x00\x0f\x02"  # i=527


class PlantServer(NodeServer):
    def start(self) -> None:
        command = ["node", str(COUNTERPART / "server.js"), str(self.port), str(self._pki), "0", "0", str(PLANT_FILE)]
        self.launch(command, "node-opcua", 60)


@pytest.fixture(scope="module")
def plant(installed: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlantServer]:  # noqa: F811
    server = PlantServer(tmp_path_factory.mktemp("pki"))
    yield server
    server.kill()


def browsing(endpoint, *files, **more):
    return source(endpoint, browse={"include": ["Plant/**"], "nodeset_files": [str(file) for file in files], **more})


@pytest.mark.interop("node-opcua", "nodes are found in a NodeSet2 file as a browse finds them, without a browse")
@pytest.mark.parametrize("more", [{}, {"properties": True, "tag_name": "name"}, {"exclude": ["**/Temp*"]}])
async def test_nodes_of_a_file_are_read_as_a_browse_would(plant, tmp_path, more):
    seen = []
    for files in ([], [PLANT_FILE]):
        async with Relay(plant.port) as relay:
            async with Reading(browsing(relay.endpoint, *files, **more), tmp_path / str(len(files))) as intake:
                wanted = 3 if "properties" in more else 1 if "exclude" in more else 2
                await intake.until(lambda intake=intake, wanted=wanted: len(intake.readings()) == wanted, 10)
                seen.append(sorted((r.tag.address, r.tag.tag_name, r.tag.metadata, r.value) for r in intake.readings()))
            assert (BROWSE_REQUEST in relay.sent) == (not files)
    assert seen[0] == seen[1]
    names = {name for _, name, _, _ in seen[1]}
    assert ("Serial" in names) == ("properties" in more)
    assert {value for *_, value in seen[1]} <= {181.5, 12.25, "A-17"}


async def test_a_node_that_the_file_has_and_the_server_has_not_is_a_bad_reading(plant, tmp_path):
    file = tmp_path / "more.xml"
    text = PLANT_FILE.read_text()
    file.write_text(text.replace("s=Oven/Temp", "s=Oven/Gone"))
    async with Reading(browsing(plant.endpoint, file), tmp_path) as intake:
        await intake.until(lambda: len(intake.readings()) == 2, 10)
        assert [r.value for r in intake.readings() if r.quality == Quality.GOOD] == [12.25]
        (bad,) = [r for r in intake.readings() if r.quality == Quality.BAD]
        assert (bad.tag.address, bad.status) == ("nsu=http://lab.test/plant;s=Oven/Gone", 0x80340000)


async def test_of_a_file_whose_namespace_the_server_lacks_each_node_is_a_bad_reading(plant, tmp_path):
    file = tmp_path / "other.xml"
    file.write_text(PLANT_FILE.read_text().replace("lab.test/plant", "lab.test/elsewhere"))
    async with Reading(browsing(plant.endpoint, file), tmp_path) as intake:
        await intake.until(lambda: len(intake.readings()) == 2, 10)
        assert {(r.quality, r.status) for r in intake.readings()} == {(Quality.BAD, 0x80340000)}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is no NodeSet2 file: no element found"),
        ("<html/>", "is no NodeSet2 file: it begins with html"),
        (PLANT_FILE.read_text().replace("ns=1;i=11", "ns=7;i=11"), "is no NodeSet2 file: "),
        (None, "cannot be read: No such file"),
    ],
)
async def test_a_file_that_cannot_be_used_is_named(plant, tmp_path, text, reason):
    file = tmp_path / "wrong.xml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ValueError, match=f"wrong.xml {reason}"):
        NodeSet.read([file])
    found = await OpcUaReader(browsing(plant.endpoint, file), Context("g", tmp_path)).check()
    assert f"wrong.xml {reason}" in found[-1].detail
