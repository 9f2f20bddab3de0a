"""Publishing to a fake that speaks the official service, and receiving with Google's own client."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest
from google.pubsub_v1 import SubscriberClient
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport

from connectors.contract import AuthError, CapacityError, ConfigError, DeliveryError, RejectedRecords, TransientError
from connectors.targets.pubsub import PubSubConfig
from connectors.targets.pubsub.writer import PubSubWriter
from tests.contract.readings import Source
from tests.contract.writers.pubsub import Project, message_rows

pytestmark = pytest.mark.interop("Google Pub/Sub fake")


@pytest.fixture
def project() -> Iterator[Project]:
    found = Project()
    yield found
    found.server.fail()


@contextlib.asynccontextmanager
async def opened(project: Project, **own: Any) -> AsyncIterator[PubSubWriter]:
    config = project.config(provider_config=project.own | own)
    assert isinstance(config, PubSubConfig)
    writer = PubSubWriter(config)
    try:
        await writer.open()
        yield writer
    finally:
        await writer.close()


async def test_a_subscriber_gets_the_readings_of_a_tag_in_order(project: Project) -> None:
    source = Source()
    async with opened(project) as writer:
        channel = grpc.insecure_channel(f"127.0.0.1:{project.port}")
        subscriber = SubscriberClient(transport=SubscriberGrpcTransport(channel=channel))
        name = f"projects/{project.name}/subscriptions/all"
        topic = f"projects/{project.name}/topics/readings"
        subscriber.create_subscription(
            request={"name": name, "topic": topic, "enable_message_ordering": True, "ack_deadline_seconds": 60}
        )
        for unit in range(3):
            await writer.write(source.batch([float(i) for i in range(70)]), unit)
        last: dict[str, int] = {}
        count = 0
        while count < 210:
            answer = await asyncio.to_thread(subscriber.pull, request={"subscription": name, "max_messages": 500})
            for received in answer.received_messages:
                (row,) = message_rows(received.message.data)
                assert row.sequence > last.get(row.path, -1)
                assert received.message.attributes["sequence"] == str(row.sequence)
                last[received.message.ordering_key] = row.sequence
                count += 1
            subscriber.acknowledge(
                request={"subscription": name, "ack_ids": [received.ack_id for received in answer.received_messages]}
            )
        assert len(last) == 7
        channel.close()


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (14, TransientError),
        (13, TransientError),
        (4, TransientError),
        (8, CapacityError),
        (7, AuthError),
        (16, AuthError),
        (9, ConfigError),
    ],
)
async def test_what_a_publish_ends_with_has_its_place_and_the_next_one_goes_on(
    project: Project, code: int, kind: type[DeliveryError]
) -> None:
    source = Source()
    async with opened(project) as writer:
        project.server.fail({"method": "Publisher/Publish", "code": code, "text": "not now", "times": 1})
        batch = source.batch([1.0])
        with pytest.raises(kind, match="not now"):
            await writer.write(batch, 1)
        await writer.write(batch, 1)
    assert [row.value for row in project.rows()] == [1.0]


async def test_a_message_that_the_service_refuses_is_found_and_the_others_keep_their_order(project: Project) -> None:
    source = Source()
    async with opened(project) as writer:
        fault = {
            "method": "Publisher/Publish",
            "code": 3,
            "text": "does not fit the schema",
            "times": 100,
            "part": "poison",
        }
        project.server.fail(fault)
        batch = source.batch([*range(20), "poison", *range(21, 50), "poison too"])
        with pytest.raises(RejectedRecords) as caught:
            await writer.write(batch, 1)
    assert (caught.value.indices, caught.value.rest_written) == ([20, 50], True)
    assert caught.value.reasons == ["does not fit the schema"] * 2
    found = project.rows()
    assert sorted(row.sequence for row in found) == [*range(20), *range(21, 50)]
    for path in {row.path for row in found}:
        of_tag = [row.sequence for row in found if row.path == path]
        assert of_tag == sorted(of_tag)


async def test_a_lane_ends_with_the_request_that_failed_so_that_a_key_keeps_its_order(project: Project) -> None:
    source = Source()
    tag = source.tag(0)
    batch = source.batch([float(i) for i in range(2_500)], tags=[tag] * 2_500)
    async with opened(project) as writer:
        project.server.fail(
            {"method": "Publisher/Publish", "code": 14, "text": "broken", "times": 1, "part": '"sequence":1500,'}
        )
        with pytest.raises(TransientError):
            await writer.write(batch, 1)
        assert len(project.rows()) == 1_000
        await writer.write(batch, 1)
    assert [row.sequence for row in project.rows()] == [*range(1_000), *range(2_500)]


async def test_a_topic_that_is_missing_is_made_or_is_a_config_error(project: Project) -> None:
    source = Source()
    batch = source.batch([1.0, 2.0], tags=[source.tag(0, site="a"), source.tag(1, site="b")])
    with pytest.raises(ConfigError, match=r"topics/readings: NOT_FOUND.*`create: auto`"):
        async with opened(project, create="never"):
            pass
    async with opened(project, create="never", topic="plant-{site}") as writer:
        with pytest.raises(ConfigError, match="topics/plant-a"):
            await writer.write(batch, 1)
    async with opened(project, topic="plant-{site}") as writer:
        await writer.write(batch, 1)
    assert {message.topic for message in project.server.messages(project.name)} == {"plant-a", "plant-b"}


async def test_two_gateways_that_make_one_topic_do_not_disturb_each_other(project: Project) -> None:
    async with opened(project, topic="x-{site}") as one, opened(project, topic="x-{site}") as other:
        source = Source()
        await asyncio.gather(*(writer.write(source.batch([1.0]), 1) for writer in (one, other)))
    assert len(project.rows()) == 2


async def test_an_account_that_may_publish_and_nothing_else_can_publish(project: Project) -> None:
    source = Source()
    async with opened(project):
        pass
    project.server.fail({"method": "Publisher/GetTopic", "code": 7, "text": "no", "times": 100})
    async with opened(project) as writer:
        await writer.write(source.batch([1.0]), 1)
        assert [finding.ok for finding in await writer.check()] == [True, True, True]
    assert len(project.rows()) == 1


async def test_check_says_what_it_finds_and_publishes_nothing(project: Project) -> None:
    config = project.config()
    assert isinstance(config, PubSubConfig)
    before = {finding.subject: finding.detail for finding in await PubSubWriter(config).check()}
    assert "it will be made" in before["topic"]
    async with opened(project) as writer:
        after = {finding.subject: finding.detail for finding in await writer.check()}
    assert after["topic"].endswith("is there")
    assert "emulator" in after["credentials"]
    never = project.config(provider_config=project.own | {"create": "never", "topic": "other"})
    assert isinstance(never, PubSubConfig)
    assert [finding.ok for finding in await PubSubWriter(never).check()] == [True, True, False]
    assert project.rows() == []


async def test_a_writer_that_is_not_open_says_so() -> None:
    writer = PubSubWriter(PubSubConfig.model_validate({}))
    with pytest.raises(TransientError, match="not open"):
        await writer.write(Source().batch([1.0]), 1)
    await writer.close()


async def test_the_readings_are_json_as_the_other_targets_have_it(project: Project) -> None:
    async with opened(project) as writer:
        await writer.write(Source().batch([7]), 1)
    (message,) = project.server.messages(project.name)
    item = json.loads(message.data)
    assert (item["type"], item["value"], item["quality"], item["sequence"]) == ("INT64", 7, "GOOD", 0)
