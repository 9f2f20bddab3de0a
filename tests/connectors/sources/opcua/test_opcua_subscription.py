"""The publish loop against a server of asyncua that loses messages, forgets them, ends or goes silent."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from asyncua import ua
from asyncua.common.utils import ServiceError
from asyncua.server.uaprocessor import UaProcessor

from connectors.contract import Context, SourceState
from connectors.sources.opcua.notification import DATA_CHANGE, STATUS_CHANGE, Notification
from connectors.sources.opcua.session import Session
from connectors.sources.opcua.state import Position
from connectors.sources.opcua.subscription import Subscription
from normalization.reading import Quality
from tests.connectors.sources.opcua.conftest import MACHINE, PRODUCT_URI, PlantServer, Reading, Relay, source
from tests.ports import free_port
from tests.recording_intake import RecordingIntake

SPEED = f"nsu={MACHINE};s=Speed"


@pytest.fixture(scope="module")
def server() -> Iterator[PlantServer]:
    running = PlantServer(free_port()).start()
    yield running
    running.stop()


class ServerSide:
    """The newest subscription that a client has at the server, and what is done to it. Its loop is not that of the test."""

    def __init__(self, server: PlantServer) -> None:
        self._server = server
        subscriptions = server.server.iserver.subscription_service.subscriptions
        self.subscription = [sub for sub in subscriptions.values() if sub.pub_request_callback is not None][-1]
        self.processor = self.subscription.pub_request_callback.__self__

    def unacknowledged(self) -> list[int]:
        return sorted(self.subscription._not_acknowledged_results)

    def lose(self, count: int, *, forget: bool = False, late: bool = False) -> None:
        """The next messages do not reach the client: the server can send them again, unless it forgets them.

        Late ones come after the one that follows them.
        """
        forward, held = self.subscription.pub_result_callback, []

        async def losing(result: Any, request: Any) -> None:
            nonlocal count
            if count and result.NotificationMessage.NotificationData:
                count -= 1
                if forget:
                    del self.subscription._not_acknowledged_results[result.NotificationMessage.SequenceNumber]
                if late:
                    held.append((result, request))
                else:
                    self.processor._publish_requests.appendleft(request)  # its request is answered by another one
                return
            await forward(result, request)
            while held:
                await forward(*held.pop())

        self.subscription.pub_result_callback = losing


@asynccontextmanager
async def reading(
    server: PlantServer, directory: Path, *, hold: bool = False, **more: Any
) -> AsyncIterator[tuple[RecordingIntake, ServerSide]]:
    given = {"nodes": [SPEED], "publishing_interval": 0.02, "queue_size": 1000, **more}
    run = Reading(source(given.pop("endpoint", server.endpoint), **given), directory, RecordingIntake(hold=hold))
    async with run as intake:
        await intake.until(lambda: intake.readings("Speed"))
        yield intake, await asyncio.to_thread(ServerSide, server)


async def write(server: PlantServer, intake: RecordingIntake, *values: int, wait: bool = True) -> None:
    """Set values one after the other, each in a message of its own."""
    for value in values:
        before = len(intake.appended)
        await asyncio.to_thread(server.write, "Speed", value, ua.VariantType.Int32)
        if wait:
            await intake.until(lambda n=before: len(intake.appended) > n)
        else:
            await asyncio.sleep(0.1)


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.01)


def clients_subscriptions(server: PlantServer) -> list[Any]:
    subscriptions = server.server.iserver.subscription_service.subscriptions
    return [sub for sub in list(subscriptions.values()) if sub.pub_request_callback is not None]


def speeds(intake: RecordingIntake) -> list[Any]:
    return [reading.value for reading in intake.readings("Speed")]


async def test_several_publish_requests_are_open(server, tmp_path):
    for wanted in (1, 4):
        async with reading(server, tmp_path, publish_requests=wanted) as (intake, side):
            await write(server, intake, 1, 2, 3)
            await until(lambda side=side, wanted=wanted: len(side.processor._publish_requests) == wanted)


async def test_a_server_that_takes_fewer_publish_requests_gets_fewer(server, tmp_path):
    async with reading(server, tmp_path, publish_requests=20) as (intake, side):
        side.processor.publish_request_limit = lambda _: 3
        await write(server, intake, *range(10, 30))
        await until(lambda: len(side.processor._publish_requests) <= 3)
        assert speeds(intake)[1:] == list(range(10, 30))


async def test_a_message_is_acknowledged_once_its_values_are_on_disk(server, tmp_path):
    async with reading(server, tmp_path, hold=True, publish_requests=4) as (intake, side):
        await write(server, intake, 1, 2, 3)
        first, *_ = side.unacknowledged()
        assert side.unacknowledged() == [first, first + 1, first + 2, first + 3]
        intake.release(2)
        await write(server, intake, 4)
        await until(lambda: side.unacknowledged()[0] == first + 2)
        intake.hold = False
        intake.release()
        await write(server, intake, 5)
        await until(lambda: not side.unacknowledged())


async def test_a_message_that_was_lost_is_asked_for_again_and_comes_in_its_place(server, tmp_path):
    async with reading(server, tmp_path) as (intake, side):
        side.lose(3)
        await write(server, intake, 11, 12, 13, wait=False)
        await write(server, intake, 14)
        await intake.until(lambda: speeds(intake)[-1] == 14)
        assert speeds(intake)[1:] == [11, 12, 13, 14]
        assert not intake.gaps


async def test_messages_that_come_late_are_taken_once_and_in_order(server, tmp_path):
    async with reading(server, tmp_path) as (intake, side):
        side.lose(1, late=True)
        await write(server, intake, 21, wait=False)
        await write(server, intake, 22)
        await intake.until(lambda: speeds(intake)[-1] == 22)
        await write(server, intake, 23)
        await intake.until(lambda: speeds(intake)[-1] == 23)
        assert speeds(intake)[1:] == [21, 22, 23]
        assert not intake.gaps


async def test_a_message_that_nobody_has_any_more_is_a_gap_between_its_neighbors(server, tmp_path):
    async with reading(server, tmp_path) as (intake, side):
        await write(server, intake, 30)
        side.lose(2, forget=True)
        await write(server, intake, 31, 32, wait=False)
        await write(server, intake, 33)
        await intake.until(lambda: speeds(intake)[-1] == 33)
        assert speeds(intake)[1:] == [30, 33]
        (gap,) = intake.gaps
        assert gap.reason.endswith("of the subscription did not come")
        assert [tag.tag_name for tag in gap.tags] == ["Speed"]


async def test_a_loss_shows_with_the_next_keep_alive_when_nothing_else_comes(server, tmp_path):
    async with reading(server, tmp_path, keep_alive_interval=0.2) as (intake, side):
        side.lose(1)
        await write(server, intake, 41, wait=False)
        await intake.until(lambda: speeds(intake)[-1] == 41)
        assert not intake.gaps


async def mute(*_: Any) -> None:
    return


async def test_a_subscription_that_says_nothing_is_replaced_within_twice_its_keep_alive(server, tmp_path, caplog):
    """The connection is well and reads are answered: a zombie."""
    async with reading(server, tmp_path, keep_alive_interval=0.4, publish_requests=8) as (intake, side):
        clock = asyncio.get_running_loop().time
        side.subscription.pub_result_callback = mute
        muted = clock()
        await write(server, intake, 45, wait=False)
        await intake.until(lambda: speeds(intake)[-1] == 45)
        assert clock() - muted < 2 * 0.4 + 0.3, "a busy machine takes its time"
        assert [gap.reason for gap in intake.gaps] == ["the subscription was silent"]
        await write(server, intake, 46)
        assert speeds(intake)[-1] == 46
        await until(lambda: side.subscription not in clients_subscriptions(server))
        assert [state for state, _ in intake.states] == [SourceState.CONNECTING, SourceState.CONNECTED]


async def test_a_server_whose_subscriptions_never_speak_ends_the_run(server, tmp_path):
    service = server.server.iserver.subscription_service
    create = service.create_subscription
    service.create_subscription = lambda params, _, *more, **named: create(params, mute, *more, **named)
    try:
        run = Reading(source(server.endpoint, nodes=[SPEED], keep_alive_interval=0.2), tmp_path)
        with pytest.raises(ConnectionError, match="subscription has been silent"):
            await asyncio.wait_for(run.start(), 5)
    finally:
        service.create_subscription = create


async def test_a_subscription_that_the_server_forgot_ends_the_run(server, tmp_path):
    run = Reading(source(server.endpoint, nodes=[SPEED]), tmp_path)
    task = run.start()
    await run.intake.until(lambda: run.intake.readings("Speed"))
    side = await asyncio.to_thread(ServerSide, server)
    server.call(side.subscription.monitored_item_srv.trigger_statuschange(ua.StatusCode(0x800A0000)))
    await asyncio.to_thread(server.write, "Speed", 51, ua.VariantType.Int32)
    with pytest.raises(ConnectionError, match="ended the subscription with status 0x800A0000"):
        await asyncio.wait_for(task, 5)


# -- numbers


class Taken:
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.reasons: list[str] = []
        self.quiets = 0

    async def take(self, _: bytes, message: Notification, __: int) -> None:
        self.numbers.append(message.sequence)

    def lost(self, _: int, __: int, reason: str) -> None:
        self.reasons.append(reason)

    def quiet(self) -> None:
        self.quiets += 1


@asynccontextmanager
async def fed(server: PlantServer, directory: Path, messages: list[tuple[int, bool]]) -> AsyncIterator[Taken]:
    """What becomes of messages with these numbers, some of them keep-alives, when the server has none of the others."""
    config = source(server.endpoint, nodes=[SPEED])
    session = Session(config, Context("g", directory))
    await session.open()
    try:
        taken = Taken()
        subscription = await Subscription.create(session, taken)
        for number, has_data in messages:
            parts = [(DATA_CHANGE, 0, 0)] if has_data else []
            await subscription.take(b"", Notification(subscription.id, number, False, parts))
        yield taken
    finally:
        await session.close()


async def test_numbers_that_are_missing_are_said_and_begin_again_behind_the_last(server, tmp_path):
    last = 0xFFFFFFFF
    numbers = [1, 2, 5, 6, last - 1, last, 1, 2, 4]
    async with fed(server, tmp_path, [(number, True) for number in numbers]) as taken:
        assert taken.numbers == numbers
        assert taken.reasons == [
            "notifications 3 to 4 of the subscription did not come",
            f"the subscription goes on with notification {last - 1} after 6",
            "notifications 3 to 3 of the subscription did not come",
        ]


async def test_a_keep_alive_has_the_number_of_the_next_message(server, tmp_path):
    async with fed(server, tmp_path, [(1, False), (1, True), (2, False), (2, True), (2, False), (5, False)]) as taken:
        assert taken.numbers == [1, 2]
        assert taken.reasons == ["notifications 3 to 4 of the subscription did not come"]
        assert taken.quiets == 4


async def test_the_end_of_a_subscription_ends_the_run(server, tmp_path):
    session = Session(source(server.endpoint, nodes=[SPEED]), Context("g", tmp_path))
    subscription = Subscription(session, Taken(), 7, ua.CreateSubscriptionResult())
    body = (0x800A0000).to_bytes(4, "little") + b"\0"
    with pytest.raises(ConnectionError, match="0x800A0000"):
        await subscription.take(body, Notification(7, 1, False, [(STATUS_CHANGE, 0, 5)]))


@pytest.mark.parametrize(
    "said",
    [
        None,
        1,
        [],
        [1, 2, "a"],
        [1, 2, "a", "b", 3],
        [1, 2, "a", "b", 1, 2],
        [1, 2, "a", "b", 3, "4"],
        ["1", 2, "a", "b"],
        [0, 1, "a", "b"],
        [2**32, 1, "a", "b"],
        [1, -1, "a", "b"],
    ],
)
def test_a_position_that_makes_no_sense_is_none(said):
    assert Position.from_json(said) is None


# -- from one session to the next


@pytest.mark.parametrize("limit", [10, 1])
async def test_what_was_not_on_disk_comes_again_although_the_server_forgets_the_subscription(
    server, tmp_path, monkeypatch, limit
):
    """asyncua's server hands a subscription over and then sends nothing: it is replaced, and that much is a gap.

    What was asked for the silent one is still with the server, which may take no more.
    """
    monkeypatch.setattr(UaProcessor, "publish_request_limit", lambda *_: limit)
    async with reading(server, tmp_path, hold=True, keep_alive_interval=0.3) as (intake, _):
        intake.release(1)
        state = intake.appended[0][1]
        await write(server, intake, 61, 62, 63)
    config = source(server.endpoint, nodes=[SPEED], publishing_interval=0.02, queue_size=1000, keep_alive_interval=0.3)
    run = Reading(config, tmp_path)
    run.start(state)
    try:
        await run.intake.until(lambda: len(speeds(run.intake)) >= 4)
        assert speeds(run.intake) == [61, 62, 63, 63]  # the last one is what the new subscription begins with
        assert [gap.reason for gap in run.intake.gaps] == ["the subscription was silent"]
        assert run.intake.gaps[0].start == json.loads(state)["last_reading"]
        number = json.loads(state)["subscription"][0]
        await until(lambda: number not in {sub.data.SubscriptionId for sub in clients_subscriptions(server)})
        assert SourceState.DOWN not in [state for state, _ in run.intake.states]
    finally:
        await run.stop()


@pytest.mark.parametrize("spoilt", ["server", "items", "id"])
async def test_a_subscription_of_another_server_or_of_other_nodes_is_not_taken_over(server, tmp_path, spoilt):
    async with reading(server, tmp_path) as (intake, _):
        state = json.loads(intake.appended[-1][1])
    number, sequence, started, items = state["subscription"]
    state["subscription"] = {
        "server": [number, sequence, "2001-01-01T00:00:00", items],
        "items": [number, sequence, started, "0" * 16],
        "id": [number + 1000, sequence, started, items],
    }[spoilt]
    run = Reading(source(server.endpoint, nodes=[SPEED]), tmp_path)
    run.start(json.dumps(state).encode())
    try:
        await run.intake.until(lambda: speeds(run.intake))
        assert [gap.reason for gap in run.intake.gaps] == ["not connected"]
    finally:
        await run.stop()


async def test_a_server_that_cannot_hand_over_is_asked_once_and_no_subscription_is_left_there(server, tmp_path):
    service, before_all = server.server.iserver.subscription_service, clients_subscriptions(server)
    asked = []

    async def refuse(*_: Any) -> None:
        asked.append(1)
        raise ServiceError(ua.StatusCodes.BadServiceUnsupported)

    transfer, service.transfer_subscriptions = service.transfer_subscriptions, refuse
    run = Reading(source(server.endpoint, nodes=[SPEED]), tmp_path)
    try:
        for _ in range(4):
            before = len(run.intake.appended)
            run.start(run.intake.appended[-1][1] if before else None)
            await run.intake.until(lambda before=before: len(run.intake.appended) > before)
            await run.stop()
        assert len(asked) == 1
        left = [sub for sub in clients_subscriptions(server) if sub not in before_all]
        assert len(left) == 1, "the first, which was kept before anybody knew"
        assert len(run.intake.gaps) == 3
    finally:
        service.transfer_subscriptions = transfer
        await run.stop()


async def test_a_server_that_is_known_to_forget_what_it_hands_over_is_not_asked(server, tmp_path):
    """asyncua's own server says yes and then says nothing; a kill would cost twice the keep-alive each time."""
    before_all = clients_subscriptions(server)
    product = server.server.get_node(ua.NodeId(ua.ObjectIds.Server_ServerStatus_BuildInfo_ProductUri))
    server.call(product.write_value("urn:freeopcua.github.io:python:server"))
    run = Reading(source(server.endpoint, nodes=[SPEED], keep_alive_interval=30), tmp_path)
    try:
        for value in (1, 2, 3):
            await asyncio.to_thread(server.write, "Speed", value, ua.VariantType.Int32)
            run.start(run.intake.appended[-1][1] if run.intake.appended else None)
            await run.intake.until(lambda value=value: speeds(run.intake)[-1:] == [value])
            await run.stop()
        left = [sub for sub in clients_subscriptions(server) if sub not in before_all]
        assert not left, "subscriptions stay at the server that nobody will take over"
    finally:
        server.call(product.write_value(PRODUCT_URI))
        await run.stop()


async def test_a_reader_that_failed_on_a_message_begins_anew(server, tmp_path):
    """What cannot be journalled would come again for ever."""
    run = Reading(source(server.endpoint, nodes=[SPEED]), tmp_path, RecordingIntake(hold=True))
    task = run.start()
    await run.intake.until(lambda: run.intake.open)
    state = run.intake.appended[0][1]
    assert state is not None
    run.intake.open[0].set_exception(ValueError("cannot be journalled"))
    await asyncio.to_thread(server.write, "Speed", 71, ua.VariantType.Int32)
    with pytest.raises(ValueError, match="cannot be journalled"):
        await asyncio.wait_for(task, 5)
    run.intake.hold = False
    run.start(state)
    try:
        await run.intake.until(lambda: run.intake.gaps)
        assert [gap.reason for gap in run.intake.gaps] == ["not connected"]
    finally:
        await run.stop()


async def test_a_cut_connection_is_stale_until_it_is_back(server, tmp_path):
    async with Relay(server.port) as relay:
        config = source(relay.endpoint, nodes=[SPEED], keep_alive_interval=0.2)
        run = Reading(config, tmp_path)
        task = run.start()
        await run.intake.until(lambda: run.intake.readings("Speed"))
        relay.flowing.clear()
        with pytest.raises(ConnectionError):
            await asyncio.wait_for(task, 5)
        state = run.intake.appended[-1][1]
        assert json.loads(state)["stale"] is True
        relay.flowing.set()
        before = len(run.intake.readings())
        run.start(state)
        try:
            await run.intake.until(lambda: len(run.intake.readings()) > before)
            assert run.intake.readings()[-1].quality == Quality.GOOD
        finally:
            await run.stop()


async def test_a_user_that_is_denied_although_the_session_was_open_is_denied_for_good(server, tmp_path):
    """Some servers hand over from a session that is still open only; so it is left open when the connection fails."""
    service = server.server.iserver.subscription_service
    asked = []

    async def deny(*_: Any) -> list[ua.TransferResult]:
        asked.append(1)
        return [ua.TransferResult(StatusCode=ua.StatusCode(ua.StatusCodes.BadUserAccessDenied))]

    transfer, service.transfer_subscriptions = service.transfer_subscriptions, deny
    try:
        async with Relay(server.port) as relay:
            run = Reading(source(relay.endpoint, nodes=[SPEED], keep_alive_interval=0.3), tmp_path)
            for ends in ("stop", "freeze", "stop", "stop"):
                before = len(run.intake.readings("Speed"))
                task = run.start(run.intake.appended[-1][1] if before else None)
                await run.intake.until(lambda before=before: len(run.intake.readings("Speed")) > before)
                if ends == "freeze":
                    relay.flowing.clear()
                    with pytest.raises(ConnectionError):
                        await asyncio.wait_for(task, 5)
                    relay.flowing.set()
                else:
                    await run.stop()
            assert len(asked) == 2, "after the stop, and after the freeze"
    finally:
        service.transfer_subscriptions = transfer
