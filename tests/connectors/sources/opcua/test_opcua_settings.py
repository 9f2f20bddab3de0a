"""What a subscription asks for, what servers make of it, and nodes that a server does not take at first."""

import asyncio
import logging
from collections.abc import Iterator

import pytest
from asyncua import ua
from pydantic import ValidationError

from connectors.contract import SourceState
from connectors.sources.opcua import monitoring
from connectors.sources.opcua.items import monitored, revisions
from connectors.sources.opcua.nodes import Described, Variable
from normalization.reading import Quality, Tag
from tests.connectors.sources.opcua.conftest import MACHINE, PlantServer, Reading, source
from tests.connectors.sources.opcua.test_opcua_interop import NodeServer, installed, node  # noqa: F401 - fixtures
from tests.ports import free_port

SPEED = f"nsu={MACHINE};s=Speed"


def extra(endpoint, *names, **more):
    nodes = [{"id": f"ns=1;s={name}", "tag_name": name} for name in names]
    return source(endpoint, **{"nodes": nodes, "queue_size": 100, **more})


@pytest.mark.interop("node-opcua", "absolute deadband and deadband in percent of the range are kept by the server")
@pytest.mark.parametrize("deadband", [10, "5%"])
async def test_changes_within_the_deadband_do_not_come(node, tmp_path, deadband):  # noqa: F811
    node.command(set=["Analog", 100])
    async with Reading(extra(node.endpoint, "Analog", server_deadband=deadband), tmp_path) as intake:
        await intake.until(lambda: intake.last("Analog") and intake.last("Analog").value == 100, 10)
        for value in (104, 109, 125, 128, 50):
            node.command(set=["Analog", value])
            await asyncio.sleep(0.15)  # the server's sampling
        await intake.until(lambda: intake.last("Analog").value == 50)
        assert [r.value for r in intake.readings("Analog")] == [100, 125, 50]


@pytest.mark.interop("node-opcua", "deadband in percent without a range is said, and all changes are read")
async def test_percent_without_a_range_is_said_and_read_without(node, tmp_path, caplog):  # noqa: F811
    nodes = [{"id": "ns=1;s=Analog", "server_deadband": "50%"}, {"id": "ns=1;s=Level", "server_deadband": "50%"}]
    async with Reading(source(node.endpoint, nodes=nodes), tmp_path) as intake:
        await intake.until(lambda: intake.last("Level"), 10)
        node.command(set=["Level", 51])
        await intake.until(lambda: intake.last("Level").value == 51)
    assert "which 1 nodes do not state; all their changes are read: ns=1;s=Level" in caplog.text


@pytest.mark.interop("node-opcua", "a filter that the server refuses is said, and all changes are read")
async def test_a_filter_that_is_refused_is_left_out(node, tmp_path, caplog):  # noqa: F811
    config = extra(node.endpoint, "Text", "Analog", server_deadband=1)
    async with Reading(config, tmp_path) as intake:
        await intake.until(lambda: intake.last("Text") and intake.last("Analog"), 10)
        assert intake.last("Text").value == "grün"
    assert "the server filters no changes of 1 nodes, all are read: ns=1;s=Text" in caplog.text


@pytest.mark.interop("node-opcua", "trigger: changes of the status alone, or of the time too")
@pytest.mark.parametrize(
    ("trigger", "expected"), [("status", []), ("status_value", []), ("status_value_timestamp", [7])]
)
async def test_the_trigger_says_what_a_change_is(node, tmp_path, trigger, expected):  # noqa: F811
    node.command(set=["Analog", 7])
    async with Reading(extra(node.endpoint, "Analog", trigger=trigger), tmp_path) as intake:
        await intake.until(lambda: intake.last("Analog") and intake.last("Analog").value == 7, 10)
        node.command(set=["Analog", 7])  # with a new time
        await asyncio.sleep(0.3)
        assert [r.value for r in intake.readings("Analog")][1:] == expected
        node.command(set=["Analog", 8])
        await asyncio.sleep(0.3)
        node.command(bad=["Analog"])
        await intake.until(lambda: intake.last("Analog").quality == Quality.BAD)
        assert (8 in [r.value for r in intake.readings("Analog")]) == (trigger != "status")
    node.command(set=["Analog", 10])


@pytest.mark.interop("node-opcua", "the newest value is replaced when the queue is full and discard_oldest is off")
async def test_a_full_queue_keeps_its_oldest_values_when_told_so(node, tmp_path):  # noqa: F811
    config = extra(node.endpoint, "Analog", queue_size=3, discard_oldest=False, publishing_interval=1.0)
    node.command(set=["Analog", 0])
    async with Reading(config, tmp_path) as intake:
        await intake.until(lambda: intake.last("Analog"), 10)
        node.command(burst=["Analog", 1, 9, 60])
        await intake.until(lambda: intake.last("Analog").value == 8)
        arrived = [r.value for r in intake.readings("Analog") if r.value]
        assert arrived[:2] == [1, 2]
        assert len(arrived) < 8


@pytest.mark.interop("node-opcua", "what the server revises is said")
async def test_what_the_server_revises_is_said(node, tmp_path):  # noqa: F811
    async with Reading(extra(node.endpoint, "Analog", queue_size=1_000_000), tmp_path) as intake:
        await intake.until(lambda: intake.last("Analog"), 10)
        (said,) = [detail for state, detail in intake.states if state is SourceState.CONNECTED]
        assert said.startswith("1 nodes; the server ")
        assert "of 1 nodes, not 1000000" in said


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"sampling_interval": None}, 10),
        ({"sampling_interval": "100ms"}, 20),
        ({"sampling_interval": 0}, 200),
        ({"queue_size": 7, "sampling_interval": "10ms"}, 7),
    ],
)
def test_a_queue_holds_what_is_sampled_in_two_notifications(more, expected):
    config = source("opc.tcp://h", nodes=["ns=1;s=A"], publishing_interval=1.0, **more)
    described = Described(
        Variable(ua.NodeId("A", 1), "ns=1;s=A", config=config.nodes[0]), Tag("plant", "opcua", "d", "a", "A"), None
    )
    assert monitored(config, described, 0).RequestedParameters.QueueSize == expected


@pytest.mark.interop("node-opcua", "a queue holds what is sampled between two notifications")
async def test_what_is_sampled_between_two_notifications_is_kept(node, tmp_path):  # noqa: F811
    config = extra(node.endpoint, "Analog", queue_size=None, sampling_interval="50ms", publishing_interval=2.0)
    async with Reading(config, tmp_path) as intake:
        await intake.until(lambda: intake.last("Analog"), 10)
        node.command(burst=["Analog", 1000, 1025, 60])
        await intake.until(lambda: intake.last("Analog").value == 1024, 10)
        assert [r.value for r in intake.readings("Analog") if r.value >= 1000] == list(range(1000, 1025))
        assert not intake.gaps


def test_revisions_are_summed_up_in_one_sentence():
    asked = [
        ua.MonitoredItemCreateRequest(
            RequestedParameters=ua.MonitoringParameters(SamplingInterval=wanted, QueueSize=ua.Counter(10))
        )
        for wanted in (100.0, 100.0, -1.0, 500.0)
    ]
    answers = [
        ua.MonitoredItemCreateResult(RevisedSamplingInterval=1000.0, RevisedQueueSize=10),
        ua.MonitoredItemCreateResult(RevisedSamplingInterval=1000.0, RevisedQueueSize=1),
        ua.MonitoredItemCreateResult(RevisedSamplingInterval=500.0, RevisedQueueSize=10),
        ua.MonitoredItemCreateResult(RevisedSamplingInterval=500.0, RevisedQueueSize=10),
    ]
    said = "the server samples 2 nodes every 1 s, not 0.1 s, and keeps 1 values of 1 nodes, not 10"
    assert revisions(asked, answers, 500.0) == said
    assert revisions(asked[2:], answers[2:], 500.0) == ""


@pytest.fixture
def growing() -> Iterator[PlantServer]:
    """A server of one's own, which gets more nodes."""
    running = PlantServer(free_port()).start()
    yield running
    running.stop()


async def test_a_node_that_appears_later_is_taken_without_a_new_connection(growing, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(monitoring, "_FIRST_RETRY", 0.2)
    late = f"nsu={MACHINE};s=Late"
    with caplog.at_level(logging.INFO):
        async with Reading(source(growing.endpoint, nodes=[SPEED, late]), tmp_path) as intake:
            await intake.until(lambda: intake.readings("Late") and intake.readings("Speed"))
            assert intake.last("Late").status == 0x80340000
            index = growing.call(growing.server.get_namespace_index(MACHINE))
            folder = growing.server.nodes.objects
            growing.call(folder.add_variable(ua.NodeId("Late", index), f"{index}:Late", 4, ua.VariantType.Int32))
            await intake.until(lambda: intake.last("Late").value == 4)
            assert [state for state, _ in intake.states] == [SourceState.CONNECTING, SourceState.CONNECTED]
    assert f"1 nodes are there: {late}" in caplog.text


@pytest.mark.parametrize("wrong", ["-1", "101%", "much", True, "nan"])
def test_a_deadband_that_is_none_is_refused(wrong):
    with pytest.raises(ValidationError, match="is not a deadband"):
        source("opc.tcp://h", server_deadband=wrong)


@pytest.mark.parametrize(("given", "kept"), [(2, 2.0), ("0.5", 0.5), ("2%", "2%"), ("2.50 %", "2.5%"), (None, None)])
def test_a_deadband_is_a_number_or_percent(given, kept):
    assert source("opc.tcp://h", server_deadband=given).server_deadband == kept
