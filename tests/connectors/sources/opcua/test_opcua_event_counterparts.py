"""Events and conditions of Eclipse Milo and open62541 as readings; none of the counterparts has a history of them."""

import datetime
import json
from collections.abc import Iterator
from typing import Any

import pytest
from asyncua import Client, ua
from asyncua.ua.object_ids import ObjectIds

from normalization.reading import Quality
from tests.connectors.sources.opcua.conftest import Reading
from tests.connectors.sources.opcua.milo_server import MiloServer, install
from tests.connectors.sources.opcua.test_opcua_events import connected, events
from tests.connectors.sources.opcua.test_opcua_interop import NodeServer, node  # noqa: F401 - fixtures
from tests.connectors.sources.opcua.test_opcua_interop import installed as node_installed  # noqa: F401
from tests.connectors.sources.opcua.test_opcua_open62541 import CServer, installed  # noqa: F401
from tests.recording_intake import Recorded, RecordingIntake

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def milo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MiloServer]:
    install()
    server = MiloServer(tmp_path_factory.mktemp("milo"))
    yield server
    server.kill()


@pytest.fixture(scope="module")
def counter(installed: None) -> Iterator[CServer]:  # noqa: F811
    server = CServer(1, 10)
    yield server
    server.stop()


def said(intake: RecordingIntake, message: str) -> list[Recorded]:
    return [r for r in intake.readings() if r.value == message]


@pytest.mark.interop("Eclipse Milo", "events are filtered by severity and come with message and severity")
async def test_events_of_milo(milo, tmp_path):
    async with Reading(events(milo.endpoint, {"severity_min": 500}, timeout=20), tmp_path) as intake:
        await intake.until(lambda: connected(intake), 60)
        milo.command("event 100 a door opened")
        milo.command("event 900 the hall is on fire")
        await intake.until(lambda: said(intake, "the hall is on fire"), 30)
        assert not said(intake, "a door opened")
        (fire,) = said(intake, "the hall is on fire")
        assert (json.loads(fire.properties or "")["severity"], fire.quality) == (900, Quality.GOOD)
        assert fire.tag.tag_name == "Server.BaseEventType"
        assert fire.source_time is not None


@pytest.mark.interop("Eclipse Milo", "a refusal of ConditionRefresh is said, and events come all the same")
async def test_milo_refuses_to_refresh_conditions(milo, tmp_path, caplog):
    """It wants the argument to be of a type that no value has: a UInt32 is not its IntegerId."""
    caplog.set_level("INFO")
    async with Reading(events(milo.endpoint, timeout=20), tmp_path) as intake:
        await intake.until(lambda: connected(intake), 60)
        milo.command("event 600 after the refusal")
        await intake.until(lambda: said(intake, "after the refusal"), 30)
        assert said(intake, "after the refusal")[0].flags == 0
    assert "refreshes no conditions: BadInvalidArgument" in caplog.text


@pytest.mark.interop("Eclipse Milo", "an alarm is a reading with quality ALARM while it is active, with its state")
async def test_an_alarm_of_milo_comes_and_goes(milo, tmp_path):
    async with Reading(events(milo.endpoint, {"types": ["AlarmConditionType"]}, timeout=20), tmp_path) as intake:
        await intake.until(lambda: connected(intake), 60)
        milo.command("alarm true too much")
        milo.command("alarm false enough")
        await intake.until(lambda: said(intake, "enough"), 30)
        (much,), (enough,) = said(intake, "too much"), said(intake, "enough")
        assert (much.quality, enough.quality) == (Quality.ALARM, Quality.GOOD)
        assert much.tag.tag_name == enough.tag.tag_name == "Server.Overfilled"
        state = json.loads(much.properties or "")
        assert (state["active"], state["acked"], state["retain"], state["state"]) == (True, False, True, "Active")


@pytest.mark.interop("open62541", "events are filtered by severity and come with message and severity")
async def test_events_of_open62541(counter, tmp_path):
    async with Reading(events(counter.endpoint, {"severity_min": 500}), tmp_path) as intake:
        await intake.until(lambda: connected(intake), 20)
        counter.say("event 100 a door opened")
        counter.say("event 900 the hall is on fire")
        await intake.until(lambda: said(intake, "the hall is on fire"), 20)
        assert not said(intake, "a door opened")
        (fire,) = said(intake, "the hall is on fire")
        assert json.loads(fire.properties or "")["severity"] == 900
        assert fire.tag.tag_name == "Server.BaseEventType"


@pytest.mark.interop("open62541", "a server without ConditionRefresh says so, and its events come")
async def test_open62541_refreshes_no_conditions(counter, tmp_path, caplog):
    caplog.set_level("INFO")
    async with Reading(events(counter.endpoint), tmp_path) as intake:
        await intake.until(lambda: connected(intake), 20)
        counter.say("event 1 hello")
        await intake.until(lambda: said(intake, "hello"), 20)
    assert "refreshes no conditions" in caplog.text


async def test_no_counterpart_has_a_history_of_events(milo, node, counter):  # noqa: F811
    """When this fails, one of them has learned it, and events can be filled from history, too."""
    now = datetime.datetime.now(datetime.UTC)
    field = ua.SimpleAttributeOperand(
        TypeDefinitionId=ua.NodeId(ObjectIds.BaseEventType),
        BrowsePath=[ua.QualifiedName("EventId")],
        AttributeId=ua.IntegerId(ua.AttributeIds.Value),
    )
    details = ua.ReadEventDetails(0, now - datetime.timedelta(hours=1), now, ua.EventFilter([field]))
    answers: list[Any] = []
    for server in (milo, node, counter):
        async with Client(server.endpoint, timeout=20) as client:
            place = client.get_node(ua.NodeId(ObjectIds.Server))
            notifier = await place.read_attribute(ua.AttributeIds.EventNotifier)
            assert not notifier.Value.Value & 4, "HistoryRead"
            try:
                answers.append((await place.history_read_events(details)).StatusCode.name)
            except ua.UaStatusCodeError as error:
                answers.append(type(error).__name__)
    assert answers == ["BadHistoryOperationUnsupported", "BadHistoryOperationInvalid", "BadNotSupported"]
