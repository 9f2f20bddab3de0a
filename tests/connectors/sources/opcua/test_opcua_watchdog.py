"""Nodes that must change: silent ones are stale, and what a server forgot to report is asked for anew."""

import asyncio

import pytest
from pydantic import ValidationError

from normalization.reading import Quality
from tests.connectors.sources.opcua.conftest import Reading, source
from tests.connectors.sources.opcua.test_opcua_interop import installed, node  # noqa: F401 - fixtures


def watched(endpoint, *nodes, **more):
    names = [one if isinstance(one, dict) else {"id": f"ns=1;s={one}", "tag_name": one} for one in nodes]
    return source(
        endpoint, **{"nodes": names, "queue_size": 100, "watchdog": "600ms", "keep_alive_interval": 0.3, **more}
    )


@pytest.mark.interop("node-opcua", "a node that must change and does not is stale until it does")
async def test_a_node_that_does_not_change_is_stale_once_until_it_changes(node, tmp_path):  # noqa: F811
    free = {"id": "ns=1;s=Text", "tag_name": "Text", "watchdog": 0}
    reading = Reading(watched(node.endpoint, "Analog", "Level", free), tmp_path)
    async with reading as intake:
        await intake.until(lambda: len(intake.readings()) == 3, 10)
        for value in range(12):
            node.command(set=["Level", value])
            await asyncio.sleep(0.15)
        assert [r.quality for r in intake.readings("Analog")] == [Quality.GOOD, Quality.STALE]
        assert intake.last("Analog").properties == '{"watchdog":"no change within 0.6 s"}'
        assert {r.quality for r in intake.readings("Level")} == {Quality.GOOD}
        assert [r.quality for r in intake.readings("Text")] == [Quality.GOOD]
        node.command(set=["Analog", 11])
        await intake.until(lambda: intake.last("Analog").value == 11)
        assert intake.last("Analog").quality == Quality.GOOD
        await intake.until(lambda: intake.last("Analog").quality == Quality.STALE, 10)
        assert not intake.gaps
    assert reading.reader.counts["node that must change and does not"] >= 2


@pytest.mark.interop("node-opcua", "an item that the server forgot is created anew, and what it did not say is a gap")
async def test_an_item_that_the_server_forgot_is_created_anew(node, tmp_path, caplog):  # noqa: F811
    reading = Reading(watched(node.endpoint, "Analog", "Level"), tmp_path)
    async with reading as intake:
        await intake.until(lambda: len(intake.readings()) == 2, 10)
        node.command(forget="Analog")
        for value in (101, 102, 103):
            node.command(set=["Analog", value])
        await intake.until(lambda: intake.last("Analog").value == 103, 10)
        (gap,) = intake.gaps
        assert ([tag.tag_name for tag in gap.tags], gap.reason) == (
            ["Analog"],
            "the server did not report changes of the node",
        )
        node.command(set=["Analog", 104])
        await intake.until(lambda: intake.last("Analog").value == 104)
        assert [r.value for r in intake.readings("Analog") if r.quality == Quality.GOOD and r.value > 102] == [103, 104]
    assert reading.reader.counts["item that the server had forgotten"] == 1
    assert "the server reports no changes of 1 nodes: ns=1;s=Analog" in caplog.text


@pytest.mark.interop("node-opcua", "what an item that the server forgot did not say is read from history")
async def test_what_a_forgotten_item_did_not_say_is_read_from_history(node, tmp_path):  # noqa: F811
    async with Reading(watched(node.endpoint, "Int32"), tmp_path) as intake:
        node.command(set=["Int32", 1000])
        await intake.until(lambda: intake.last("Int32") and intake.last("Int32").value == 1000, 10)
        node.command(forget="Int32")
        node.command(burst=["Int32", 1001, 1011, 20])
        await intake.until(lambda: {r.value for r in intake.readings("Int32")}.issuperset(range(1000, 1011)), 15)
        values = [r.value for r in intake.readings("Int32") if r.value is not None and r.value >= 1000]
        assert sorted(values) == list(range(1000, 1011))
        assert not intake.gaps


async def test_a_value_that_moves_within_its_deadband_is_alive(node, tmp_path):  # noqa: F811
    async with Reading(watched(node.endpoint, "Analog", server_deadband=50), tmp_path) as intake:
        node.command(set=["Analog", 100])
        await intake.until(lambda: intake.last("Analog") and intake.last("Analog").value == 100, 10)
        for step in range(12):
            node.command(set=["Analog", 101 + step])
            await asyncio.sleep(0.15)
        assert [r.quality for r in intake.readings("Analog") if r.value == 100 or r.value is None] == [Quality.GOOD]
        await intake.until(lambda: intake.last("Analog").quality == Quality.STALE)
        assert not intake.gaps


def test_polls_are_not_watched():
    with pytest.raises(ValidationError, match="with mode: polling each poll is a reading"):
        source("opc.tcp://127.0.0.1", mode="polling", watchdog=1)
