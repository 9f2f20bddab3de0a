"""PUBLISH packets in bulk against paho's own encoder, the broker's answers in every form, and the window."""

import asyncio
import io
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paho.mqtt.client import Client, MQTTv5, MQTTv311
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from connectors.wire.mqtt_outbox import FIRST_ID, Outbox
from connectors.wire.mqtt_outgoing import (
    PUBACK_KIND,
    PUBREC_KIND,
    Answers,
    Outgoing,
    encode,
    properties,
    take_answers,
    topic_fields,
    varint,
    varints,
    with_user_properties,
)
from connectors.wire.mqtt_packets import MalformedPacketError


def by_paho(topic: str, payload: bytes, qos: int, retain: bool, mid: int, props: Any) -> bytes:
    """The packet that paho sends."""
    client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTv5 if props is not None else MQTTv311)
    sent: list[bytes] = []
    client._sock = io.BytesIO()  # type: ignore[assignment]
    client._packet_queue = lambda command, packet, *_: sent.append(bytes(packet))  # type: ignore[assignment, return-value]
    client._send_publish(mid, topic.encode(), payload, qos, retain, properties=props)
    client._sock = None
    return sent[0]


topics = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=200)
message = st.tuples(st.integers(0, 2), st.one_of(st.binary(max_size=300), st.integers(0, 20_000).map(bytes)))


@settings(deadline=None)
@given(
    st.lists(topics, min_size=3, max_size=3), st.lists(message, min_size=1, max_size=12), st.integers(0, 2), st.booleans(),
    st.none() | st.tuples(st.text(max_size=20).filter(lambda t: "\0" not in t), st.none() | st.integers(1, 2**32 - 1)),
)  # fmt: skip
def test_packets_are_those_of_paho(
    names: list[str],
    sent: list[tuple[int, bytes]],
    qos: int,
    retain: bool,
    extra: tuple[str, int | None] | None,
) -> None:
    index = np.array([at for at, _ in sent])
    payloads = pa.array([payload for _, payload in sent], pa.binary())
    ids = range(60_000, 60_000 + len(sent))
    users = [f"n{i}" for i in range(len(sent))]
    common = properties(content_type=extra[0], expiry=extra[1], user=[("g", "ü")], text=False) if extra else b""
    own = with_user_properties(common, [("sequence", pa.array(users))]) if extra else None
    packets = encode(topic_fields(names), index, payloads, qos=qos, retain=retain, properties=own)
    data = bytes(packets.numbered(0, ids) if qos else packets.cut(0, len(packets)))
    expected = b""
    for at, (topic, payload) in enumerate(sent):
        props = None
        if extra is not None:
            props = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            if extra[1] is not None:
                props.MessageExpiryInterval = extra[1]
            if extra[0]:
                props.ContentType = extra[0]
            props.UserProperty = [("g", "ü"), ("sequence", users[at])]
        expected += by_paho(names[topic], payload, qos, retain, ids[at], props)
    assert data == expected


@given(st.lists(st.integers(0, 2**28 - 1), min_size=1))
def test_lengths_in_bulk_are_those_one_by_one(numbers: list[int]) -> None:
    assert varints(np.array(numbers)).to_pylist() == [varint(number) for number in numbers]


def test_a_slice_of_payloads_is_encoded_as_what_it_is() -> None:
    payloads = pa.array(["a", "bb", "ccc", "dddd"]).slice(1, 2)
    packets = encode(topic_fields(["t"]), np.array([0, 0]), payloads, qos=0)
    assert bytes(packets.data) == b"\x30\x05\x00\x01tbb" + b"\x30\x06\x00\x01tccc"


def test_answers_of_every_form_are_taken_up_to_what_is_incomplete() -> None:
    data = (
        b"\x40\x02\x04\x00\x40\x02\x04\x01"  # two PUBACK of 3.1.1
        b"\x40\x03\x04\x02\x10"  # no subscribers
        b"\x40\x04\x04\x03\x87\x00"  # not authorized, without properties
        b"\x50\x02\x04\x04\x70\x02\x04\x04\x40\x02\x04"
    )
    found, at = take_answers(data, 0)
    assert [(one.kind, one.packet_ids, list(one.codes)) for one in found] == [
        (0x40, [1024, 1025], [0, 0]),
        (0x40, [1026], [0x10]),
        (0x40, [1027], [0x87]),
        (0x50, [1028], [0]),
        (0x70, [1028], [0]),
    ]
    assert data[at:] == b"\x40\x02\x04"
    with pytest.raises(MalformedPacketError, match="without a packet id"):
        take_answers(b"\x40\x01\x04", 0)


@given(st.binary(max_size=60))
def test_answers_of_any_bytes_are_taken_or_refused(data: bytes) -> None:
    try:
        found, at = take_answers(data, 0)
    except MalformedPacketError:
        return
    assert 0 <= at <= len(data)
    assert all(len(one.packet_ids) == len(one.codes) for one in found)


# ---------------------------------------------------------------------- the window


class Line:
    """What an outbox sends."""

    def __init__(self, window: int, rate: float | None = None) -> None:
        self.sent: list[int] = []
        self.released: list[int] = []
        self.room = True
        self.outbox = Outbox(self.write)
        self.outbox.bound(window, rate)

    def write(self, data: memoryview | bytes) -> bool:
        data, at = bytes(data), 0
        while at < len(data):
            if data[at] == 0x62:
                self.released.append(int.from_bytes(data[at + 2 : at + 4], "big"))
                at += 4
                continue
            if data[at] & 6:
                self.sent.append(int.from_bytes(data[at + 5 : at + 7], "big"))
            else:
                self.sent.append(0)
            at += 2 + data[at + 1]
        return self.room

    def answer(self, ids: list[int], code: int = 0, kind: int = PUBACK_KIND) -> None:
        self.outbox.take(Answers(kind, ids, bytes([code]) * len(ids)))


def messages(count: int, qos: int = 1) -> Outgoing:
    return encode(topic_fields(["t"]), np.zeros(count, np.int64), pa.array([b"x"] * count, pa.binary()), qos=qos)


async def test_no_more_messages_are_under_way_than_the_window_allows() -> None:
    line = Line(window=3)
    waiting = asyncio.create_task(line.outbox.deliver(messages(7), 1, 5))
    await asyncio.sleep(0)
    assert line.sent == [FIRST_ID, FIRST_ID + 1, FIRST_ID + 2]
    line.answer([FIRST_ID + 1])
    assert line.sent[3:] == [FIRST_ID + 3]
    line.answer(line.sent)
    line.answer(line.sent[4:])
    assert await waiting == {}
    assert line.outbox.in_flight == 0


async def test_a_wide_window_is_filled_by_halves() -> None:
    line = Line(window=20)
    waiting = asyncio.create_task(line.outbox.deliver(messages(45), 1, 5))
    await asyncio.sleep(0)
    assert len(line.sent) == 20
    line.answer(line.sent[:9])
    assert len(line.sent) == 20
    line.answer(line.sent[9:10])
    assert len(line.sent) == 30
    line.answer(line.sent[10:])
    assert len(line.sent) == 45
    line.answer(line.sent[30:])
    assert await waiting == {}


async def test_refusals_are_told_by_message_and_the_rest_is_delivered() -> None:
    line = Line(window=10)
    waiting = asyncio.create_task(line.outbox.deliver(messages(4), 1, 5))
    await asyncio.sleep(0)
    line.answer([line.sent[2]], 0x99)
    line.answer([line.sent[0]], 0x10)
    line.answer([line.sent[1], line.sent[3]])
    assert await waiting == {2: 0x99}


async def test_answers_for_nothing_and_twice_the_same_change_nothing() -> None:
    line = Line(window=2)
    waiting = asyncio.create_task(line.outbox.deliver(messages(3), 1, 5))
    await asyncio.sleep(0)
    line.answer([9999, line.sent[0], line.sent[0]])
    line.answer([line.sent[0]])
    assert (len(line.sent), line.outbox.in_flight) == (3, 2)
    line.answer(line.sent)
    assert await waiting == {}


async def test_at_qos_2_a_message_is_delivered_with_the_last_answer() -> None:
    line = Line(window=2)
    waiting = asyncio.create_task(line.outbox.deliver(messages(2, 2), 2, 5))
    await asyncio.sleep(0)
    line.answer(line.sent, kind=PUBREC_KIND)
    assert line.released == line.sent
    await asyncio.sleep(0)
    assert not waiting.done()
    line.answer(line.sent, kind=0x70)
    assert await waiting == {}


async def test_what_was_given_up_stays_in_the_window_and_is_not_taken_for_what_follows() -> None:
    line = Line(window=4)
    given_up = asyncio.create_task(line.outbox.deliver(messages(9), 1, 5))
    await asyncio.sleep(0)
    given_up.cancel()
    await asyncio.gather(given_up, return_exceptions=True)
    old = line.sent.copy()
    waiting = asyncio.create_task(line.outbox.deliver(messages(2), 1, 5))
    await asyncio.sleep(0)
    assert line.sent == old  # no room
    line.answer(old, 0x97)
    line.answer(line.sent[4:])
    assert await waiting == {}
    assert len(line.sent) == 6


async def test_packet_ids_begin_again_and_none_is_used_twice_at_once() -> None:
    line = Line(window=60_000)
    slow = asyncio.create_task(line.outbox.deliver(messages(60_000), 1, 5))
    await asyncio.sleep(0)
    while len(line.sent) < 60_000:
        line.outbox.writable()
    line.answer(line.sent[5:])  # the first five stay open
    slow.cancel()
    await asyncio.gather(slow, return_exceptions=True)
    first = len(line.sent)
    waiting = asyncio.create_task(line.outbox.deliver(messages(5_000), 1, 5))
    await asyncio.sleep(0)
    assert not set(line.sent[first:]) & set(line.sent[:5])
    line.answer(line.sent[:5])
    line.answer(line.sent[first:])
    line.answer(line.sent[first:])
    assert await waiting == {}
    assert min(line.sent) == FIRST_ID
    assert max(line.sent) == 65_535


async def test_a_silent_broker_ends_the_wait_and_one_that_answers_slowly_does_not() -> None:
    line = Line(window=1)
    waiting = asyncio.create_task(line.outbox.deliver(messages(4), 1, 0.2))
    for _ in range(4):
        await asyncio.sleep(0.1)
        line.answer(line.sent)
    assert await waiting == {}
    with pytest.raises(TimeoutError):
        await line.outbox.deliver(messages(1), 1, 0.05)


async def test_a_lost_connection_is_told_at_once_and_to_all_that_come() -> None:
    line = Line(window=1)
    waiting = asyncio.create_task(line.outbox.deliver(messages(4), 1, 5))
    await asyncio.sleep(0)
    line.outbox.fail(ConnectionError("gone"))
    for delivery in (waiting, line.outbox.deliver(messages(1), 1, 5)):
        with pytest.raises(ConnectionError, match="gone"):
            await delivery


async def test_nothing_is_sent_while_the_transport_is_full() -> None:
    line = Line(window=1000)
    line.room = False
    waiting = asyncio.create_task(line.outbox.deliver(messages(60_000, 0), 0, 5))
    await asyncio.sleep(0)
    some = len(line.sent)
    assert 0 < some < 60_000
    line.room = True
    line.outbox.writable()
    assert await waiting == {}
    assert len(line.sent) == 60_000


async def test_a_rate_is_kept_within_a_unit() -> None:
    line = Line(window=1000, rate=100.0)
    loop = asyncio.get_running_loop()
    began = loop.time()
    assert await line.outbox.deliver(messages(31, 0), 0, 5) == {}
    assert 0.28 <= loop.time() - began < 2
