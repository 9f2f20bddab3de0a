"""A source whose items are split over several subscriptions: they go from session to session together, and each is watched."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from asyncua import ua

from connectors.sources.opcua.services import FULL
from tests.connectors.sources.opcua.conftest import MACHINE, PlantServer, Reading, Relay, source
from tests.connectors.sources.opcua.test_opcua_interop import COUNTERPART, NodeServer
from tests.connectors.sources.opcua.test_opcua_interop import installed as node_installed  # noqa: F401 - fixtures
from tests.connectors.sources.opcua.test_opcua_open62541 import (
    COUNT,
    HERTZ,
    CServer,
    counting,
    installed,  # noqa: F401 - a fixture
    numbers,
    without_gaps,
)
from tests.ports import free_port
from tests.recording_intake import RecordingIntake


def subscriptions(intake: RecordingIntake) -> list[int]:
    """Ids of the subscriptions in the newest state."""
    first, _, _, _, *further = json.loads(intake.appended[-1][1] or b"")["subscription"]
    return [first, *further[::2]]


# -- handed over


@pytest.fixture
def counter(installed: None) -> Iterator[CServer]:  # noqa: F811
    """50 items, of which 20 go into one subscription."""
    running = CServer(COUNT, HERTZ, items=20)
    yield running
    running.stop()


@pytest.mark.interop("open62541", "several subscriptions are handed over together, and nothing is missing")
async def test_all_are_handed_over_after_a_lost_connection_and_nothing_is_missing(counter, tmp_path):
    async with Relay(counter.port) as relay:
        reading = Reading(counting(relay.endpoint.removesuffix("/plant"), keep_alive_interval=0.6), tmp_path)
        task = reading.start()
        intake = reading.intake
        try:
            await intake.until(lambda: len(numbers(intake, tag=f"v{COUNT - 1}")) > 5, 10)
            before = subscriptions(intake)
            assert len(before) == 3
            relay.flowing.clear()
            with pytest.raises(ConnectionError):
                await asyncio.wait_for(task, 10)
            relay.flowing.set()
            counts = [len(numbers(intake, tag=f"v{at}")) for at in range(COUNT)]
            reading.start(intake.appended[-1][1])
            for at in range(COUNT):
                await intake.until(lambda at=at: len(numbers(intake, tag=f"v{at}")) > counts[at] + 20, 20)
            assert subscriptions(intake) == before
            assert all(without_gaps(sorted(set(numbers(intake, tag=f"v{at}")))) for at in range(COUNT))
            assert not intake.gaps
        finally:
            await reading.stop()


@pytest.mark.interop("open62541", "what was not on disk of several subscriptions comes again, each value once")
async def test_after_a_gateway_died_each_of_them_goes_on_from_what_is_on_disk(counter, tmp_path):
    async with Relay(counter.port) as relay:
        first = Reading(counting(relay.endpoint.removesuffix("/plant")), tmp_path, RecordingIntake(hold=True))
        task = first.start()
        await first.intake.until(lambda: len(numbers(first.intake, tag=f"v{COUNT - 1}")) > 8, 10)
    with pytest.raises(ConnectionError):
        await asyncio.wait_for(task, 10)
    on_disk = len(first.intake.appended) // 2
    survived = RecordingIntake(tags=first.intake.tags, appended=first.intake.appended[:on_disk])
    second = Reading(counting(counter.endpoint), tmp_path)
    second.start(survived.appended[-1][1])
    try:
        for at in range(COUNT):
            tag = f"v{at}"
            await second.intake.until(lambda tag=tag: len(numbers(second.intake, tag=tag)) > 30, 20)
            assert without_gaps(numbers(survived, second.intake, tag=tag))
        assert not second.intake.gaps
    finally:
        await second.stop()


class SmallNodeServer(NodeServer):
    """node-opcua with four items in a subscription at most."""

    def start(self) -> None:
        command = ["node", str(COUNTERPART / "server.js"), str(self.port), str(self._pki), "0", "4"]
        self.launch(command, "node-opcua", 60)


@pytest.mark.interop("node-opcua", "several subscriptions are handed over together, and nothing is missing")
async def test_node_opcua_hands_all_over(node_installed, tmp_path):  # noqa: F811
    server = SmallNodeServer(tmp_path / "pki")
    names = ["Double", "Text", "Flag", "UInt64", "State", "Array", "Matrix", "Job", "Int32"]
    nodes = [{"id": f"ns=1;s={name}", "tag_name": name} for name in names]
    reading = Reading(source(server.endpoint, nodes=nodes, queue_size=100), tmp_path)
    intake = reading.intake
    try:
        reading.start()
        await intake.until(lambda: {r.tag.tag_name for r in intake.readings()} == set(names), 10)
        before = subscriptions(intake)
        assert len(before) == 3
        await reading.stop()
        server.command(burst=["Int32", 1000, 1020, 60])
        server.command(set=["Double", 7])
        reading.start(intake.appended[-1][1])
        await intake.until(lambda: intake.last("Int32").value == 1019, 20)
        await intake.until(lambda: intake.last("Double").value == 7, 20)
        assert [value for value in numbers(intake, tag="Int32") if value >= 1000] == list(range(1000, 1020))
        assert subscriptions(intake) == before
        assert len(intake.readings("Text")) == 1, "what did not change is not sent again"
        assert not intake.gaps
    finally:
        await reading.stop()
        server.kill()


# -- a server that loses one of them

NAMES = ["Temperature", "Speed", "Total", "Enabled", "Order"]


@pytest.fixture
def plant_of_two() -> Iterator[PlantServer]:
    """asyncua's server, which takes two items in a subscription."""
    running = PlantServer(free_port()).start()
    service = running.server.iserver.subscription_service
    create, there = service.create_monitored_items, {}

    async def limited(params: Any, *more: Any, **named: Any) -> Any:
        count = there.get(params.SubscriptionId, 0)
        wanted, params.ItemsToCreate = params.ItemsToCreate, params.ItemsToCreate[: max(0, 2 - count)]
        there[params.SubscriptionId] = count + len(params.ItemsToCreate)
        results = await create(params, *more, **named) if params.ItemsToCreate else []
        full = ua.MonitoredItemCreateResult(StatusCode=ua.StatusCode(ua.UInt32(FULL)))
        return [*results, *(full for _ in wanted[len(results) :])]

    service.create_monitored_items = limited
    yield running
    running.stop()


def at_server(server: PlantServer) -> dict[int, Any]:
    found = server.server.iserver.subscription_service.subscriptions
    return {id_: one for id_, one in list(found.items()) if one.pub_request_callback is not None}


def five(server: PlantServer, **more: Any) -> Any:
    nodes = [f"nsu={MACHINE};s={name}" for name in NAMES]
    return source(server.endpoint, nodes=nodes, publishing_interval=0.02, queue_size=100, **more)


def have_come(intake: RecordingIntake) -> bool:
    return {r.tag.tag_name for r in intake.readings()} == set(NAMES)


async def mute(*_: Any) -> None:
    return


async def test_one_of_several_that_falls_silent_is_replaced_and_the_others_go_on(plant_of_two, tmp_path):
    server = plant_of_two
    async with Reading(five(server, keep_alive_interval=1.0, publish_requests=8), tmp_path) as intake:
        await intake.until(lambda: have_come(intake), 10)
        before = subscriptions(intake)
        assert len(before) == 3
        silent = at_server(server)[before[1]]
        silent.pub_result_callback = mute
        await asyncio.to_thread(server.write, "Total", 7, ua.VariantType.UInt64)
        for value in range(1, 30):
            await asyncio.to_thread(server.write, "Speed", value, ua.VariantType.Int32)
            await intake.until(lambda value=value: intake.last("Speed").value == value, 10)
        await intake.until(lambda: intake.last("Total").value == 7, 10)
        (gap,) = intake.gaps
        assert (gap.reason, {tag.tag_name for tag in gap.tags}) == ("the subscription was silent", {"Total", "Enabled"})
        await intake.until(lambda: before[1] not in subscriptions(intake), 10)
        assert subscriptions(intake)[:2] == [before[0], before[2]]
        assert silent.data.SubscriptionId not in at_server(server)
        assert [r.value for r in intake.readings("Speed")] == [1500, *range(1, 30)]
        assert len(intake.readings("Order")) == 1
        await asyncio.to_thread(server.write, "Total", 8, ua.VariantType.UInt64)
        await intake.until(lambda: intake.last("Total").value == 8, 10)
        assert len(intake.gaps) == 1


async def test_messages_that_one_of_several_lost_are_a_gap_of_its_nodes_alone(plant_of_two, tmp_path):
    server = plant_of_two
    async with Reading(five(server), tmp_path) as intake:
        await intake.until(lambda: have_come(intake), 10)
        losing = at_server(server)[subscriptions(intake)[1]]
        forward, processor = losing.pub_result_callback, losing.pub_request_callback.__self__

        async def lose(result: Any, request: Any) -> None:
            if not result.NotificationMessage.NotificationData:
                await forward(result, request)
                return
            losing.pub_result_callback = forward
            del losing._not_acknowledged_results[result.NotificationMessage.SequenceNumber]
            processor._publish_requests.appendleft(request)

        losing.pub_result_callback = lose
        await asyncio.to_thread(server.write, "Total", 7, ua.VariantType.UInt64)
        async with asyncio.timeout(10):
            while losing.pub_result_callback is lose:
                await asyncio.sleep(0.01)
        await asyncio.to_thread(server.write, "Total", 8, ua.VariantType.UInt64)
        await intake.until(lambda: intake.last("Total").value == 8, 10)
        (gap,) = intake.gaps
        assert gap.reason.endswith("of the subscription did not come")
        assert {tag.tag_name for tag in gap.tags} == {"Total", "Enabled"}


async def test_all_are_created_anew_when_the_server_hands_only_some_over(plant_of_two, tmp_path):
    server = plant_of_two
    service = server.server.iserver.subscription_service
    transfer = service.transfer_subscriptions

    async def some(*given: Any, **named: Any) -> list[ua.TransferResult]:
        results = await transfer(*given, **named)
        results[1] = ua.TransferResult(StatusCode=ua.StatusCode(ua.StatusCodes.BadSubscriptionIdInvalid))
        return results

    reading = Reading(five(server), tmp_path)
    intake = reading.intake
    try:
        reading.start()
        await intake.until(lambda: have_come(intake), 10)
        before = subscriptions(intake)
        await reading.stop()
        await asyncio.to_thread(server.write, "Total", 9, ua.VariantType.UInt64)
        service.transfer_subscriptions = some
        reading.start(intake.appended[-1][1])
        await intake.until(lambda: intake.last("Total").value == 9, 10)
        assert not set(subscriptions(intake)) & set(before)
        assert set(at_server(server)) == set(subscriptions(intake)), "none is left at the server"
        assert [gap.reason for gap in intake.gaps] == ["not connected"]
    finally:
        service.transfer_subscriptions = transfer
        await reading.stop()
