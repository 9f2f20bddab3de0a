"""Requests for Pub/Sub, read back with the service's own protobuf classes."""

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from google.pubsub_v1.types import PublishRequest

from connectors.targets.pubsub import PubSubSettings
from connectors.targets.pubsub.config import MOST_BYTES
from connectors.targets.pubsub.encode import MessageEncoder
from tests.contract.readings import Source, rows
from tests.contract.writers.pubsub import message_rows

PATH = "plant 1/area,A/line=1/press0/temperature/temp 0"


def encoder(**own: Any) -> MessageEncoder:
    return MessageEncoder(PubSubSettings.model_validate(own))


def lanes(encoder: MessageEncoder, batch: pa.RecordBatch) -> list[list[Any]]:
    """The requests of each lane, as the service reads them."""
    parse = PublishRequest.pb().FromString
    return [[parse(request.message("p")) for request in lane] for lane in encoder.encode(batch).lanes]


def messages(encoder: MessageEncoder, batch: pa.RecordBatch) -> list[Any]:
    return [message for lane in lanes(encoder, batch) for request in lane for message in request.messages]


def test_a_reading_is_a_message_with_its_identity_and_quality() -> None:
    source = Source()
    ((request,),) = lanes(encoder(attributes=["path", "unit"]), source.batch([21.5]))
    (message,) = request.messages
    assert request.topic == "projects/p/topics/readings"
    assert message.ordering_key == PATH
    assert dict(message.attributes) == {
        "gateway": "gateway 1",
        "shard": "modbus-0-a1b2",
        "sequence": "0",
        "quality": "GOOD",
        "path": PATH,
        "unit": "°C",
    }
    assert json.loads(message.data)["value"] == 21.5


@pytest.mark.parametrize("payload", ["reading", "array"])
def test_every_sample_comes_back_equal(payload: str) -> None:
    batch = Source().samples()
    found = [row for message in messages(encoder(payload=payload), batch) for row in message_rows(message.data)]
    by_sequence = {row.sequence: row for row in found}
    assert all(row.same(by_sequence[row.sequence]) for row in rows(batch))
    assert len(found) == len(batch)


def test_messages_of_one_key_are_in_one_lane_in_order() -> None:
    source = Source()
    tags = [source.tag(i, path=f"p{i}") for i in range(50)]
    chance = np.random.default_rng(1)
    batch = source.batch([1.0] * 5_000, tags=[tags[i] for i in chance.integers(0, 50, 5_000)])
    found = lanes(encoder(requests_in_flight=4), batch)
    keys = [{m.ordering_key for request in lane for m in request.messages} for lane in found]
    assert len(keys) == 4
    assert sum(len(key) for key in keys) == 50
    for lane in found:
        last: dict[str, int] = {}
        for request in lane:
            assert len(request.messages) <= 1_000
            for message in request.messages:
                sequence = int(message.attributes["sequence"])
                assert sequence > last.get(message.ordering_key, -1)
                last[message.ordering_key] = sequence


def test_an_array_holds_readings_of_one_key_and_says_which() -> None:
    source = Source()
    batch = source.batch([float(i) for i in range(70)])
    found = messages(encoder(payload="array"), batch)
    assert len(found) == 7
    for message in found:
        held = message_rows(message.data)
        assert {row.path for row in held} == {message.ordering_key}
        attributes = dict(message.attributes)
        assert attributes["readings"] == "10"
        assert (attributes["sequence"], attributes["last_sequence"]) == (str(held[0].sequence), str(held[-1].sequence))
        assert "quality" not in attributes
    small = messages(encoder(payload="array", message_size=1024), batch)
    assert len(small) > 7
    assert max(len(message.data) for message in small) <= 1024


def test_requests_are_cut_by_bytes_and_by_topic() -> None:
    source = Source()
    tags = [source.tag(i, path=f"p{i}", site=f"site {i % 3}") for i in range(6)]
    batch = source.batch(["x" * 2_000] * 600, tags=tags * 100)
    found = encoder(topic="plant-{site}", request_size="64KiB", ordering_key="").encode(batch)
    requests = [request for lane in found.lanes for request in lane]
    assert {request.topic for request in requests} == {"plant-site-0", "plant-site-1", "plant-site-2"}
    assert max(len(request.message("p")) for request in requests) <= 64 * 1024 + 100
    assert sorted(
        int(row) for request in requests for at in range(request.first, request.stop) for row in request.rows[at]
    ) == list(range(600))


def test_what_the_service_cannot_take_is_rejected_with_a_reason_and_its_neighbors_are_not() -> None:
    source = Source()
    tags = [
        source.tag(0),
        source.tag(1, path="ü" * 600),
        source.tag(2, site="x" * 300),
        source.tag(3),
        source.tag(4, path="long/" * 300),
    ]
    batch = source.batch([1.0, 2.0, 3.0, "x" * MOST_BYTES, 5.0], tags=tags)
    made = encoder(topic="plant-{site}")
    found = made.encode(batch)
    assert sorted(found.rejected) == [1, 2, 3, 4]
    assert "ordering key has 1200 bytes" in found.rejected[1]
    assert "cannot be the name of a topic" in found.rejected[2]
    assert "10000" in found.rejected[3]
    assert [row.sequence for message in messages(made, batch) for row in message_rows(message.data)] == [0]


def test_an_attribute_that_is_too_long_or_empty_is_left_out() -> None:
    source = Source()
    batch = source.batch([1.0], tags=[source.tag(0, unit="u" * 1025, tag_name="")])
    (message,) = messages(encoder(attributes=["unit", "tag_name", "path"]), batch)
    assert set(message.attributes) == {"gateway", "shard", "sequence", "quality", "path"}


def test_tags_that_are_new_in_a_later_batch_are_learned() -> None:
    source, made = Source(), encoder()
    for count in (1, 3, 2, 6):
        tags = [source.tag(i, path=f"p{i}") for i in range(count)]
        found = messages(made, source.batch([1.0] * count, tags=tags))
        assert sorted(message.attributes["path"] for message in found) == [f"p{i}" for i in range(count)]
    assert made.encode(source.batch([1.0]).slice(0, 0)).lanes == []
