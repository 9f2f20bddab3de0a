"""When a real Apache Kafka is killed, silent or full: nothing is lost, nothing comes late, and the event loop goes on."""

import asyncio
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from connectors.contract import DeliveryError, TransientError
from connectors.targets.kafka import KafkaConfig
from connectors.targets.kafka.client import producing
from connectors.targets.kafka.encode import MessageEncoder
from connectors.targets.kafka.sender import Sender
from tests.connectors.targets.kafka_writers import opened, writing
from tests.contract.readings import Source
from tests.contract.relay import Relay
from tests.contract.writers.kafka import Topic

pytestmark = pytest.mark.interop("Apache Kafka")


@pytest.fixture
def topic() -> Topic:
    return Topic("json")


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.mark.parametrize("transactions", ["none", "unit"])
async def test_a_broker_that_is_killed_while_messages_are_under_way_costs_no_message_and_doubles_none(
    topic: Topic, source: Source, tmp_path: Path, transactions: str
) -> None:
    batches = [source.batch([float(i) for i in range(2_000)]) for _ in range(12)]
    async with opened(topic, tmp_path, timeout=60, transactions=transactions) as writer:

        async def stream() -> None:
            for unit, batch in enumerate(batches, 1):
                await writer.write(batch, unit)
                if unit == 3:
                    going.set()

        going = asyncio.Event()
        streaming = asyncio.create_task(stream())
        going_on = asyncio.create_task(going.wait())
        await asyncio.wait([going_on, streaming], return_when=asyncio.FIRST_COMPLETED)
        assert going.is_set(), streaming.exception()
        await asyncio.to_thread(topic.server.kill)
        await asyncio.to_thread(topic.server.start)
        await streaming
    counts = Counter(row.sequence for row in topic.rows())
    assert (len(counts), set(counts.values())) == (24_000, {1})


async def test_a_unit_that_was_given_up_is_not_sent_later(topic: Topic, source: Source, tmp_path: Path) -> None:
    async with (
        Relay(topic.port, topic.relay_port) as relay,
        opened(topic, tmp_path, f"127.0.0.1:{relay.port}", timeout=1.5) as writer,
    ):
        await writer.write(source.batch([1.0]), 1)
        relay.freeze()
        late = source.batch([float(i) for i in range(3_000)])
        began = time.monotonic()
        ticks = 0
        writing_late = asyncio.create_task(writer.write(late, 2))
        while not writing_late.done():
            await asyncio.sleep(0.01)
            ticks += 1
        assert isinstance(writing_late.exception(), TransientError)
        assert "3000 of 3000 readings not acknowledged in time" in str(writing_late.exception())
        assert time.monotonic() - began < 10
        assert ticks > 30  # the event loop went on
        relay.cut()
        relay.thaw()
        await relay.restore()
        await writer.write(source.batch([2.0]), 3)
    assert [row.value for row in sorted(topic.rows(), key=lambda row: row.sequence)] == [1.0, 2.0]


async def test_nobody_there_is_told_soon_and_with_the_reason(topic: Topic, tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(TransientError, match="Connection refused"):
        async with opened(topic, tmp_path, "127.0.0.1:1", timeout=30):
            pass
    assert time.monotonic() - began < 10
    writer = writing(topic, tmp_path)
    with pytest.raises(TransientError, match="not open"):
        await writer.write(Source().batch([1.0]), 1)
    await writer.close()


async def test_a_queue_that_is_full_is_waited_for(topic: Topic, source: Source, tmp_path: Path) -> None:
    topic.server.make_topic(topic.topic)
    config = KafkaConfig.model_validate({"endpoint": topic.address, "provider_config": topic.own})
    sender = Sender(producing(config, "g", 10_000) | {"queue.buffering.max.messages": 100}, topic.address)
    try:
        messages = MessageEncoder(config.provider_config).encode(source.batch([1.0] * 5_000), {})
        sent = sender.send(messages, time.monotonic() + 30, threading.Event())
    finally:
        sender.close()
    assert (sent.refused, sent.doubtful) == ({}, {})
    assert len(topic.rows()) == 5_000


async def test_a_gateway_that_stops_in_the_middle_of_a_write_stops_soon(
    topic: Topic, source: Source, tmp_path: Path
) -> None:
    async with Relay(topic.port, topic.relay_port) as relay:
        writer = writing(topic, tmp_path, f"127.0.0.1:{relay.port}", timeout=30)
        await writer.open()
        relay.freeze()
        under_way = asyncio.create_task(writer.write(source.batch([1.0]), 1))
        await asyncio.sleep(0.1)
        under_way.cancel()
        await asyncio.gather(under_way, return_exceptions=True)
        async with asyncio.timeout(5):
            await writer.close()


async def test_the_same_writer_goes_on_after_each_of_many_outages(topic: Topic, source: Source, tmp_path: Path) -> None:
    expected = 0
    async with Relay(topic.port, topic.relay_port) as relay:
        writer = writing(topic, tmp_path, f"127.0.0.1:{relay.port}", timeout=2)
        await writer.open()
        for _ in range(3):
            relay.cut()
            with pytest.raises(DeliveryError):
                await writer.write(source.batch([1.0]), 1)
            await writer.close()
            await relay.restore()
            await writer.open()
            await writer.write(source.batch([2.0]), 2)
            expected += 1
        await writer.close()
    assert [row.value for row in topic.rows()].count(2.0) == expected
    assert threading.active_count() < 40
