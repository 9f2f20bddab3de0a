"""Events, alarms and conditions of node-opcua as readings."""

import asyncio
import json
from typing import Any

import pytest
from asyncua import ua
from pydantic import ValidationError

from connectors.contract import SourceState
from connectors.sources.opcua.events import _where
from normalization.reading import Flags, Quality
from tests.connectors.sources.opcua.conftest import Reading, source
from tests.connectors.sources.opcua.test_opcua_interop import NodeServer, installed, node  # noqa: F401 - fixtures
from tests.recording_intake import Recorded, RecordingIntake


def events(endpoint: str, *entries: dict[str, Any], **more: Any) -> Any:
    return source(endpoint, events=list(entries) or [{}], **more)


def connected(intake: RecordingIntake) -> bool:
    return bool(intake.states) and intake.states[-1][0] == SourceState.CONNECTED


def alarms(intake: RecordingIntake) -> list[tuple[Recorded, dict[str, Any]]]:
    return [(r, json.loads(r.properties or "")) for r in intake.readings() if r.tag.address.endswith("/LevelAlarm")]


def last_alarm(intake: RecordingIntake) -> tuple[Quality, Any] | None:
    found = alarms(intake)
    return (found[-1][0].quality, found[-1][1].get("active")) if found else None


@pytest.fixture
def quiet(node: NodeServer) -> Any:  # noqa: F811
    """The server with its level where nothing is wrong."""
    node.command(set=["Level", 50])
    yield node
    node.command(set=["Level", 50])


@pytest.mark.interop("node-opcua", "an alarm is a reading with quality ALARM while it is active, with its state")
async def test_an_alarm_comes_and_goes(quiet, tmp_path):
    async with Reading(events(quiet.endpoint, {"types": ["AlarmConditionType"]}), tmp_path) as intake:
        await intake.until(lambda: connected(intake), 10)
        quiet.command(set=["Level", 85])
        await intake.until(lambda: last_alarm(intake) == (Quality.ALARM, True), 10)
        reading, said = alarms(intake)[-1]
        assert reading.tag.address.endswith("/LevelAlarm")
        assert reading.value
        assert reading.source_time is not None
        assert said["event_type"] == "NonExclusiveLimitAlarmType"
        assert said["severity"] > 0
        assert (said["acked"], said["retain"], said["enabled"]) == (False, True, True)
        assert said["condition_id"].endswith("s=LevelAlarm")
        quiet.command(set=["Level", 50])
        await intake.until(lambda: last_alarm(intake) == (Quality.GOOD, False), 10)


@pytest.mark.interop("node-opcua", "the state of conditions is asked for at connect (ConditionRefresh)")
async def test_an_alarm_that_is_active_already_is_said_at_connect(quiet, tmp_path):
    quiet.command(set=["Level", 99])
    for _ in range(2):
        async with Reading(events(quiet.endpoint), tmp_path) as intake:
            await intake.until(lambda intake=intake: last_alarm(intake) == (Quality.ALARM, True), 10)
            assert alarms(intake)[-1][0].flags == Flags.RESENT


@pytest.mark.interop("node-opcua", "events are filtered by severity at the server, and come with message and severity")
async def test_events_of_little_severity_stay_away(quiet, tmp_path):
    entry = {"severity_min": 500, "types": ["BaseEventType"]}
    async with Reading(events(quiet.endpoint, entry, nodes=["ns=1;s=Level"]), tmp_path) as intake:
        await intake.until(lambda: intake.readings("Level"), 10)
        quiet.command(event=[100, "a door opened"])
        quiet.command(event=[900, "the hall is on fire"])
        await intake.until(lambda: [r for r in intake.readings() if r.value == "the hall is on fire"], 10)
        assert not [r for r in intake.readings() if r.value == "a door opened"]
        (fire,) = [r for r in intake.readings() if r.value == "the hall is on fire"]
        assert json.loads(fire.properties or "")["severity"] == 900
        assert (fire.quality, fire.tag.tag_name) == (Quality.GOOD, "Server.BaseEventType")


@pytest.mark.interop("node-opcua", "events of the sources that are named are read, and no others")
async def test_events_of_other_sources_stay_away(quiet, tmp_path):
    quiet.command(set=["Level", 50])
    async with Reading(events(quiet.endpoint, {"sources": ["Lev*"]}), tmp_path) as intake:
        await intake.until(lambda: connected(intake), 10)
        quiet.command(event=[900, "the hall is on fire"])
        quiet.command(set=["Level", 99])
        await intake.until(lambda: last_alarm(intake) == (Quality.ALARM, True), 10)
        assert {r.tag.tag_name.partition(".")[0] for r in intake.readings()} == {"1:Level"}


@pytest.mark.interop(
    "node-opcua", "after a lost connection active alarms are said again, and the time between is a gap"
)
async def test_alarms_are_said_again_after_a_lost_connection(quiet, tmp_path):
    reading = Reading(events(quiet.endpoint), tmp_path)
    try:
        reading.start()
        intake = reading.intake
        await intake.until(lambda: connected(intake), 10)
        quiet.command(set=["Level", 99])
        await intake.until(lambda: last_alarm(intake) == (Quality.ALARM, True), 10)
        state = json.loads(intake.appended[-1][1] or b"")
        await reading.stop()
        count = len(alarms(intake))
        reading.start(json.dumps({"last_reading": state["last_reading"]}).encode())
        await intake.until(lambda: len(alarms(intake)) > count, 10)
        assert last_alarm(intake) == (Quality.ALARM, True)
        assert "LevelAlarm" in " ".join(tag.tag_name for gap in intake.gaps for tag in gap.tags)
    finally:
        await reading.stop()


async def test_events_of_a_server_without_them_are_said_and_stop_nothing(plant, tmp_path, caplog):
    config = source(plant.endpoint, events=[{"node": "i=2258"}, {}], nodes=["i=2259"])
    async with Reading(config, tmp_path) as intake:
        await intake.until(lambda: intake.readings())
        await asyncio.to_thread(plant.call, _trigger(plant))
        await intake.until(lambda: [r for r in intake.readings() if r.value == "hello"])
    assert "no events of i=2258" in caplog.text


async def _trigger(plant: Any) -> None:
    event = await plant.server.get_event_generator()
    event.event.Severity = 7
    await event.trigger(message="hello")


async def test_an_event_type_that_nobody_knows_is_said(plant, tmp_path):
    reading = Reading(events(plant.endpoint, {"types": ["NobodyKnowsType"]}), tmp_path)
    with pytest.raises(LookupError, match="NobodyKnowsType"):
        await reading.start()


@pytest.mark.parametrize(
    ("types", "severity", "operators"),
    [
        (0, 1, []),
        (1, 1, ["OfType"]),
        (0, 500, ["GreaterThanOrEqual"]),
        (1, 500, ["And", "GreaterThanOrEqual", "OfType"]),
        (3, 500, ["And", "GreaterThanOrEqual", "Or", "OfType", "Or", "OfType", "OfType"]),
    ],
)
def test_a_filter_points_from_each_element_to_later_ones(types, severity, operators):
    elements = _where([ua.NodeId(at) for at in range(types)], severity).Elements
    assert [element.FilterOperator.name for element in elements] == operators
    pointed = [
        (at, operand.Index)
        for at, element in enumerate(elements)
        for operand in element.FilterOperands
        if isinstance(operand, ua.ElementOperand)
    ]
    assert sorted(to for _, to in pointed) == list(range(1, len(elements)))
    assert all(to > at for at, to in pointed)


def test_events_need_a_subscription():
    with pytest.raises(ValidationError, match="come by subscription only"):
        source("opc.tcp://h", mode="polling", events=[{}])
