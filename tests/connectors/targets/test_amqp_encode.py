"""Frames of AMQP 0.9.1, taken apart by pamqp; and where each error has its place."""

import random
from typing import Any

import pytest
from pamqp import body, commands, frame, header
from pydantic import ValidationError

from connectors.contract import AuthError, CapacityError, ConfigError, DeliveryError, RejectedRecords, TransientError
from connectors.targets.amqp import AmqpConfig, AmqpSettings
from connectors.targets.amqp.config import addresses, vhost_of
from connectors.targets.amqp.connection import Closed, Returned
from connectors.targets.amqp.encode import FrameEncoder
from connectors.targets.amqp.errors import delivery_error, largest, unroutable
from connectors.wire.json_lines import JsonLinesEncoder
from tests.contract.readings import Source


def messages(batch: Any, frame_max: int = 131_072, **own: Any) -> list[tuple[commands.Basic.Publish, Any, bytes]]:
    """What a server would see: the method, the properties, the body of each message."""
    encoder = FrameEncoder(AmqpSettings.model_validate(own))
    made = encoder.messages.encode(batch)
    assert not made.rejected
    found: list[tuple[commands.Basic.Publish, Any, bytes]] = []
    for chunk in encoder.frames(batch, made, 3, frame_max):
        data, count = bytes(chunk.frames), 0
        while data:
            size, channel, one = frame.unmarshal(data)
            assert channel == 3
            assert size <= frame_max
            match one:
                case commands.Basic.Publish():
                    method, count = one, count + 1
                case header.ContentHeader():
                    properties, left, parts = one.properties, one.body_size, b""
                case body.ContentBody():
                    parts += one.value
                    left -= len(one.value)
                    if not left:
                        found.append((method, properties, parts))
                case _:
                    raise AssertionError(one)
            data = data[size:]
        assert count == chunk.count
    return found


def test_every_value_is_a_message_of_its_own() -> None:
    source = Source()
    batch = source.samples()
    found = messages(batch, exchange="plant")
    assert [parts for _, _, parts in found] == [text.encode() for text in JsonLinesEncoder().objects(batch).to_pylist()]
    assert [properties.headers["sequence"] for _, properties, _ in found] == list(range(len(batch)))
    assert {(method.exchange, method.mandatory) for method, _, _ in found} == {("plant", True)}


def test_random_names_and_sizes_are_cut_into_sound_frames() -> None:
    chance, source = random.Random(7), Source()
    alphabet = "aä雪𝄞/. {}\0\n"
    tags = [source.tag(i, path="".join(chance.choices(alphabet, k=chance.randint(0, 40)))) for i in range(50)]
    values = ["x" * chance.choice([0, 1, 300, 3_500, 3_700, 9_000]) for _ in range(300)]
    batch = source.batch(values, tags=chance.choices(tags, k=300))
    found = messages(batch, 4096, headers=["path", "unit"], persistent=False, mandatory=False)
    paths = [path.as_py() for path in batch.column("path")]
    assert [properties.headers.get("path", "") for _, properties, _ in found] == paths
    assert [method.routing_key for method, _, _ in found] == [
        path.replace(".", "_").replace("/", ".") for path in paths
    ]
    assert [parts for _, _, parts in found] == [text.encode() for text in JsonLinesEncoder().objects(batch).to_pylist()]
    assert {properties.delivery_mode for _, properties, _ in found} == {1}


def test_names_may_hold_the_gateway_and_stay_right_from_batch_to_batch() -> None:
    source, encoder = Source(), FrameEncoder(AmqpSettings.model_validate({"routing_key": "{gateway}.{source}"}))
    for _ in range(2):
        batch = source.batch([1.0, 2.0])
        made = encoder.messages.encode(batch)
        (chunk,) = encoder.frames(batch, made, 1, 4096)
        assert b"gateway 1.plc0" in bytes(chunk.frames)
        assert b"gateway 1.plc1" in bytes(chunk.frames)


# ---------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("code", "text", "kind"),
    [
        (320, "CONNECTION_FORCED - broker forced connection closure", TransientError),
        (541, "INTERNAL_ERROR", TransientError),
        (0, "the server has closed the connection", TransientError),
        (504, "CHANNEL_ERROR", TransientError),
        (403, "ACCESS_REFUSED - Login was refused", AuthError),
        (530, "NOT_ALLOWED - access to vhost '/' refused for user 'x'", AuthError),
        (530, "NOT_ALLOWED - vhost x not found", ConfigError),
        (530, "NOT_ALLOWED - connection limit (10) is reached", CapacityError),
        (404, "NOT_FOUND - no exchange 'x' in vhost '/'", ConfigError),
        (406, "PRECONDITION_FAILED - inequivalent arg 'type'", ConfigError),
        (406, "PRECONDITION_FAILED - message size 300001 is larger than configured max size 300000", RejectedRecords),
        (311, "CONTENT_TOO_LARGE", RejectedRecords),
        (506, "RESOURCE_ERROR", CapacityError),
        (540, "NOT_IMPLEMENTED", ConfigError),
        (0, "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: certificate has expired", ConfigError),
        (0, "[SSL: TLSV1_ALERT_UNKNOWN_CA] tlsv1 alert unknown ca", AuthError),
        (0, "the server speaks another protocol: b'AMQP'", ConfigError),
    ],
)
def test_an_error_has_its_place_in_the_tree(code: int, text: str, kind: type[DeliveryError]) -> None:
    found = delivery_error(Closed(code, text), "amqp://broker")
    assert type(found) is kind
    assert text in str(found)


def test_a_refused_size_tells_what_is_allowed() -> None:
    assert largest(Closed(406, "message size 300001 is larger than configured max size 300000")) == 300_000
    assert largest(Closed(406, "inequivalent arg")) is None


def test_what_came_back_is_named_once() -> None:
    found = unroutable([Returned(312, "NO_ROUTE", "x", "a"), Returned(312, "NO_ROUTE", "x", "a")], 9, "amqp://broker")
    assert isinstance(found, ConfigError)
    assert str(found).count("routing key `a`") == 1
    assert "9 messages" in str(found)
    assert "7 more" in str(found)
    assert isinstance(unroutable([Returned(313, "NO_CONSUMERS", "x", "a")], 1, "b"), TransientError)


# ---------------------------------------------------------------------- settings


def configured(endpoint: str = "amqp://broker", **own: Any) -> AmqpConfig:
    return AmqpConfig.model_validate({"endpoint": endpoint, "provider_config": own})


@pytest.mark.parametrize(
    ("endpoint", "hosts", "vhost"),
    [
        ("amqp://broker", [("broker", 5672)], "/"),
        ("amqps://broker/", [("broker", 5671)], "/"),
        ("amqp://a:1,b.plant/line%2F1", [("a", 1), ("b.plant", 5672)], "line/1"),
    ],
)
def test_an_endpoint_names_hosts_and_a_virtual_host(endpoint: str, hosts: list[tuple[str, int]], vhost: str) -> None:
    assert (addresses(configured(endpoint).endpoint), vhost_of(endpoint)) == (hosts, vhost)


@pytest.mark.parametrize(
    ("endpoint", "own", "said"),
    [
        ("amqp://user:secret@broker", {}, "user and password have settings of their own"),
        ("mqtt://broker", {}, "amqp://<host>:5672"),
        ("amqp://broker", {"address": "x"}, "address is not of version 0.9.1: use exchange and routing_key"),
        (
            "amqp://broker",
            {"version": "1.0", "exchange": "x"},
            "exchange is not of version 1.0: use address and subject",
        ),
        ("amqp://broker", {"mechanism": "external"}, "needs the client certificate"),
        ("amqp://broker", {"mechanism": "anonymous"}, "is of version 1.0"),
        ("amqp://broker", {"routing_key": "{nonsense}"}, "nonsense is no column"),
        ("amqp://broker", {"version": "1.0", "mechanism": "plain"}, "needs username and password"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(endpoint: str, own: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        configured(endpoint, **own)
