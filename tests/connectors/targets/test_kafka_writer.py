"""Messages in a real Apache Kafka: topic, key, time and headers, what is refused, transactions."""

import json
from pathlib import Path

import pyarrow as pa
import pytest
from confluent_kafka import Producer

from connectors.contract import ConfigError, RejectedRecords, TransientError
from connectors.wire.json_lines import JsonLinesEncoder
from tests.connectors.targets.kafka_writers import headers, opened, writing
from tests.contract.readings import BASE_TIME, Source
from tests.contract.writers.kafka import Topic

pytestmark = pytest.mark.interop("Apache Kafka")
NOW = BASE_TIME + 10**9  # when readings of `Source` are received, µs
DAY = 86_400_000


@pytest.fixture
def topic() -> Topic:
    return Topic("json")


@pytest.fixture
def source() -> Source:
    return Source()


# ---------------------------------------------------------------------- a message


async def test_a_message_has_its_reading_its_path_its_time_and_its_identity(
    topic: Topic, source: Source, tmp_path: Path
) -> None:
    batch = source.batch([21.5, None])
    async with opened(topic, tmp_path) as writer:
        await writer.write(batch, 1)
    found = sorted(topic.server.read(topic.topic), key=lambda message: headers(message)["sequence"])
    lines = JsonLinesEncoder().encode(batch).splitlines()
    assert [message.value() for message in found] == lines
    assert [(message.key() or b"").decode() for message in found] == batch.column("path").to_pylist()
    assert [message.timestamp()[1] for message in found] == [BASE_TIME // 1000, (BASE_TIME + 1_001) // 1000]
    identity = {"gateway": "gateway 1", "shard": "modbus-0-a1b2"}
    assert [headers(message) for message in found] == [
        identity | {"sequence": "0", "quality": "GOOD"},
        identity | {"sequence": "1", "quality": "BAD"},
    ]


async def test_a_device_without_a_believable_clock_gives_a_message_the_time_of_its_receipt(
    topic: Topic, source: Source, tmp_path: Path
) -> None:
    times = [None, -5_000_000, 0, NOW + 2 * 3600 * 10**6, NOW + 60 * 10**6]
    batch = source.batch([float(i) for i in range(5)], source_times=times, tags=[source.tag(0)] * 5)
    async with opened(topic, tmp_path) as writer:
        await writer.write(batch, 1)
    found = [message.timestamp()[1] for message in topic.server.read(topic.topic)]
    assert found == [NOW // 1000] * 4 + [NOW // 1000 + 60_000]
    assert [row.source_time for row in topic.rows()] == times


async def test_times_of_receipt_and_no_headers_if_that_is_wanted(topic: Topic, source: Source, tmp_path: Path) -> None:
    async with opened(topic, tmp_path, timestamp="received_time", headers="none") as writer:
        await writer.write(source.batch([1.0]), 1)
    (message,) = topic.server.read(topic.topic)
    assert (message.timestamp()[1], message.headers()) == (NOW // 1000, None)


async def test_topics_and_keys_are_made_from_what_is_known_of_a_tag(
    topic: Topic, source: Source, tmp_path: Path
) -> None:
    tags = [source.tag(i, site=site) for i, site in enumerate(["north", "south hall/2"])]
    async with opened(topic, tmp_path, topic=f"{topic.topic}.{{site}}", key="{source}:{tag_name}") as writer:
        await writer.write(source.batch([1.0, 2.0, 3.0], tags=[tags[0], tags[1], tags[0]]), 1)
    found = {
        name: [(message.key(), json.loads(message.value() or b"")["value"]) for message in topic.server.read(name)]
        for name in (f"{topic.topic}.north", f"{topic.topic}.south_hall.2")
    }
    assert list(found.values()) == [[(b"plc0:temp 0", 1.0), (b"plc0:temp 0", 3.0)], [(b"plc1:temp 1", 2.0)]]


async def test_a_tag_whose_topic_has_no_possible_name_is_refused_alone(
    topic: Topic, source: Source, tmp_path: Path
) -> None:
    tags = [source.tag(0), source.tag(1, site="x" * 300), source.tag(2, site="")]
    async with opened(topic, tmp_path, topic="{site}") as writer:
        with pytest.raises(RejectedRecords, match="is no name of a topic") as caught:
            await writer.write(source.batch([1.0, 2.0, 3.0, 4.0], tags=[tags[1], tags[0], tags[2], tags[0]]), 1)
    assert (caught.value.indices, caught.value.rest_written) == ([0, 2], True)
    assert [json.loads(m.value() or b"")["value"] for m in topic.server.read("plant_1")] == [2.0, 4.0]


@pytest.mark.parametrize(("compression", "code"), [("none", 0), ("gzip", 1), ("snappy", 2), ("lz4", 3), ("zstd", 4)])
async def test_batches_are_compressed_as_it_is_told(
    topic: Topic, source: Source, tmp_path: Path, compression: str, code: int
) -> None:
    async with opened(topic, tmp_path, compression=compression, partitions=1) as writer:
        await writer.write(source.batch([float(i) for i in range(100)]), 1)
    assert len(topic.rows()) == 100
    (segment,) = (topic.server.folder / "data" / f"{topic.topic}-0").glob("*0.log")
    attributes = segment.read_bytes()[21:23]  # of the first batch: offset, length, epoch, magic and CRC go before
    assert attributes[1] & 7 == code


# ---------------------------------------------------------------------- the topic


async def test_a_topic_is_made_as_it_is_told(topic: Topic, tmp_path: Path) -> None:
    async with opened(topic, tmp_path, partitions=3, replication=1, topic_config={"retention.ms": "1000000"}) as writer:
        found = {finding.subject: finding.detail for finding in await writer.check()}
    assert found["topic"] == f"{topic.topic} is there, 3 partitions, 1 replicas of each"


async def test_a_topic_that_is_missing_is_a_config_error_where_none_is_to_be_made(
    topic: Topic, source: Source, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=rf"there is no topic {topic.topic} \(make it, or set `create: auto`\)"):
        async with opened(topic, tmp_path, create="never"):
            pass
    async with opened(topic, tmp_path, create="never", topic=f"{topic.topic}.{{site}}") as writer:
        with pytest.raises(ConfigError, match="there is no topic"):
            await writer.write(source.batch([1.0]), 1)
    assert not [name for name in topic.server.admin_topics() if name.startswith(topic.topic)]


async def test_a_topic_that_cannot_be_made_is_a_config_error(topic: Topic, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="replication"):
        async with opened(topic, tmp_path, replication=3):
            pass


async def test_a_topic_that_is_deleted_is_told_and_made_again(topic: Topic, source: Source, tmp_path: Path) -> None:
    async with opened(topic, tmp_path, timeout=3) as writer:
        await writer.write(source.batch([1.0]), 1)
        admin = topic.server.admin()
        admin.delete_topics([topic.topic])[topic.topic].result(30)
        batch = source.batch([2.0])
        with pytest.raises(TransientError, match="it has been deleted"):
            await writer.write(batch, 2)
        await writer.close()
        await writer.open()
        await writer.write(batch, 2)
    assert [row.value for row in topic.rows()] == [2.0]


# ---------------------------------------------------------------------- what is refused


async def test_a_reading_that_the_topic_has_no_room_for_is_refused_alone(
    topic: Topic, source: Source, tmp_path: Path
) -> None:
    topic.server.make_topic(topic.topic, max_message_bytes=20_000)
    values = [float(i) for i in range(500)]
    batch = source.batch([*values[:300], "x" * 30_000, *values[300:], "y" * 40_000])
    async with opened(topic, tmp_path, compression="none") as writer:
        with pytest.raises(RejectedRecords, match="max.message.bytes") as caught:
            await writer.write(batch, 1)
        assert (caught.value.indices, caught.value.rest_written) == ([300, 501], True)
        await writer.write(source.batch([-1.0]), 2)
    assert sorted(row.value for row in topic.rows()) == [-1.0, *values]


async def test_a_time_that_the_topic_does_not_take_is_refused_alone(
    topic: Topic, source: Source, tmp_path: Path
) -> None:
    topic.server.make_topic(topic.topic, message_timestamp_before_max_ms=400 * DAY)
    ancient = BASE_TIME - 1_000 * DAY * 1000
    batch = source.batch([1.0, 2.0, 3.0], source_times=[BASE_TIME, ancient, BASE_TIME])
    async with opened(topic, tmp_path) as writer:
        with pytest.raises(RejectedRecords, match="timestamp") as caught:
            await writer.write(batch, 1)
    assert caught.value.indices == [1]
    assert sorted(row.value for row in topic.rows()) == [1.0, 3.0]


async def test_hundreds_of_refused_readings_cost_the_others_nothing(
    topic: Topic, source: Source, tmp_path: Path
) -> None:
    topic.server.make_topic(topic.topic, message_timestamp_before_max_ms=400 * DAY, max_message_bytes=20_000)
    times = [BASE_TIME - (1_000 * DAY * 1000 if i % 3 == 0 else 0) for i in range(1_000)]
    values = [float(i) for i in range(999)]
    async with opened(topic, tmp_path, compression="none") as writer:
        with pytest.raises(RejectedRecords) as caught:
            await writer.write(source.batch([*values, "x" * 30_000], source_times=times), 1)
    assert caught.value.indices == [*range(0, 999, 3), 999]
    assert "timestamp" in caught.value.reasons[0]
    assert "max.message.bytes" in caught.value.reasons[-1]
    assert sorted(row.value for row in topic.rows()) == [value for i, value in enumerate(values) if i % 3]


async def test_more_refused_readings_than_there_is_time_for_are_left_to_be_halved(
    topic: Topic, source: Source, tmp_path: Path
) -> None:
    topic.server.make_topic(topic.topic, message_timestamp_before_max_ms=400 * DAY)
    ancient = [BASE_TIME - 1_000 * DAY * 1000] * 50_000
    async with opened(topic, tmp_path, timeout=5) as writer:
        with pytest.raises(RejectedRecords, match="does not take such a record") as caught:
            await writer.write(source.batch([1.0] * 50_000, source_times=ancient), 1)
    assert (caught.value.indices, caught.value.rest_written) == ([], False)


# ---------------------------------------------------------------------- transactions


async def test_a_unit_of_which_a_part_is_refused_is_not_seen_by_who_reads_committed(
    topic: Topic, source: Source, tmp_path: Path
) -> None:
    topic.server.make_topic(topic.topic, max_message_bytes=20_000)
    batch = source.batch([1.0, "x" * 30_000])
    async with opened(topic, tmp_path, transactions="unit", compression="none") as writer:
        with pytest.raises(RejectedRecords) as caught:
            await writer.write(batch, 1)
        assert caught.value.indices in ([1], [])
        assert not caught.value.rest_written
        assert topic.rows() == []
        await writer.write(batch.slice(0, 1), 2)
    assert [row.value for row in topic.rows()] == [1.0]


async def test_what_a_killed_gateway_left_open_is_aborted_by_the_next(
    topic: Topic, source: Source, tmp_path: Path
) -> None:
    topic.server.make_topic(topic.topic)
    left = Producer({"bootstrap.servers": topic.address, "transactional.id": "bifrost-gateway_1-events"})
    left.init_transactions(30)
    left.begin_transaction()
    left.produce(topic.topic, b"half of a unit")
    assert left.flush(30) == 0
    async with opened(topic, tmp_path, transactions="unit") as writer:
        await writer.write(source.batch([1.0]), 1)
    assert [row.value for row in topic.rows()] == [1.0]
    assert next(m.value() for m in topic.server.read(topic.topic, committed=False)) == b"half of a unit"


async def test_a_gateway_that_another_one_has_fenced_says_so_and_gets_a_new_producer(
    topic: Topic, source: Source, tmp_path: Path
) -> None:
    older, newer = (writing(topic, tmp_path, transactions="unit", transactional_id=topic.topic) for _ in range(2))
    await older.open()
    await older.write(source.batch([1.0]), 1)
    await newer.open()
    await newer.write(source.batch([2.0]), 1)
    third = source.batch([3.0])
    with pytest.raises(ConfigError, match="another producer uses this `transactional_id`"):
        await older.write(third, 2)
    await newer.close()
    await older.write(third, 2)
    await older.close()
    assert sorted(row.value for row in topic.rows()) == [1.0, 2.0, 3.0]


# ---------------------------------------------------------------------- before the first write


async def test_a_check_says_what_there_is_and_writes_nothing(topic: Topic, tmp_path: Path) -> None:
    missing = await writing(topic, tmp_path).check()
    assert [finding.ok for finding in missing] == [True, True]
    assert missing[1].detail == f"{topic.topic} will be made"
    (brokers, never) = await writing(topic, tmp_path, create="never").check()
    assert brokers.detail == f"1 reached: {topic.address}"
    assert (never.ok, never.detail) == (False, f"{topic.topic} is missing; make it, or set `create: auto`")

    topic.server.make_topic(
        topic.topic, partitions=2, min_insync_replicas=2, max_message_bytes=50_000, retention_ms=7 * DAY
    )
    found = {finding.subject: finding for finding in await writing(topic, tmp_path).check()}
    assert found["topic"].detail == f"{topic.topic} is there, 2 partitions, 1 replicas of each"
    assert (found["min.insync.replicas"].ok, found["max.message.bytes"].ok) == (False, False)
    assert "nothing can be written" in found["min.insync.replicas"].detail
    assert found["retention"].detail.startswith("messages go 7 days after their time")
    assert topic.rows() == []


async def test_a_check_of_brokers_that_are_not_there_says_so(topic: Topic, tmp_path: Path) -> None:
    (finding,) = await writing(topic, tmp_path, "127.0.0.1:1", timeout=3).check()
    assert not finding.ok
    assert "127.0.0.1:1: " in finding.detail
    assert "Connection refused" in finding.detail


async def test_an_empty_slice_and_a_slice_of_a_batch_are_themselves(
    topic: Topic, source: Source, tmp_path: Path
) -> None:
    batch: pa.RecordBatch = source.batch([float(i) for i in range(10)])
    async with opened(topic, tmp_path) as writer:
        await writer.write(batch.slice(3, 2), 1)
    found = topic.server.read(topic.topic)
    assert sorted(headers(message)["sequence"] for message in found) == ["3", "4"]
    assert sorted(row.value for row in topic.rows()) == [3.0, 4.0]
