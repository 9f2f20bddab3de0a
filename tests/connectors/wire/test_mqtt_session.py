"""The packet walker against paho's own decoder, and the session against brokers that misbehave."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paho.mqtt._packet import decode_publish
from paho.mqtt.enums import MQTTProtocolVersion

from connectors.wire.mqtt import MqttSession
from connectors.wire.mqtt_packets import (
    DUP,
    PUBACK,
    PUBCOMP,
    PUBREC,
    RETAIN,
    TRUNCATED,
    MalformedPacketError,
    Publish,
    Publishes,
    packet_bounds,
    released,
    walk,
)
from connectors.wire.mqtt_settings import SessionSettings, endpoint_address

CONNACK = b"\x20\x02\x00\x00"
DISCONNECT = b"\xe0\x00"


def varint(value: int) -> bytes:
    out = b""
    while True:
        value, low = value >> 7, value & 0x7F
        out += bytes([low | 0x80 if value else low])
        if not value:
            return out


def publish_packet(topic: bytes, payload: bytes, head: int, packet_id: int, properties: bytes | None) -> bytes:
    body = len(topic).to_bytes(2, "big") + topic
    if head & 0x06:
        body += packet_id.to_bytes(2, "big")
    if properties is not None:
        body += varint(len(properties)) + properties
    return bytes([0x30 | head]) + varint(len(body) + len(payload)) + body + payload


user_property = st.builds(
    lambda key, value: b"\x26" + len(key).to_bytes(2, "big") + key + len(value).to_bytes(2, "big") + value,
    st.text(st.characters(codec="ascii", exclude_characters="\0"), max_size=80).map(str.encode),
    st.text(st.characters(codec="ascii", exclude_characters="\0"), max_size=80).map(str.encode),
)
messages = st.lists(
    st.tuples(
        st.text(st.characters(codec="utf-8", exclude_characters="\0#+"), min_size=1, max_size=30).map(str.encode),
        st.one_of(st.binary(max_size=200), st.integers(0, 40_000).map(bytes)),
        st.sampled_from([0, RETAIN, 2, 2 | RETAIN, 2 | DUP, 4, 4 | DUP | RETAIN]),
        st.integers(1, 65535),
        st.lists(user_property, max_size=2).map(b"".join),
    ),
    max_size=6,
)


@settings(deadline=None)
@given(messages, st.booleans())
def test_the_walker_reads_what_paho_reads(sent: list[tuple[bytes, bytes, int, int, bytes]], v5: bool) -> None:
    data, expected = b"", []
    for topic, payload, head, packet_id, properties in sent:
        packet = publish_packet(topic, payload, head, packet_id, properties if v5 else None)
        version = MQTTProtocolVersion.MQTTv5 if v5 else MQTTProtocolVersion.MQTTv311
        bounds = packet_bounds(packet, 0)
        assert bounds is not None
        theirs = decode_publish(packet[0], packet[slice(*bounds)], version)
        expected.append((theirs.topic, bytes(theirs.payload), theirs.qos, theirs.mid, theirs.dup, theirs.retain))
        data += packet
    found = Publishes()
    assert walk(data, 0, v5, found) == len(data)
    ours = [
        (m.topic, m.payload, m.head >> 1 & 3, m.packet_id, bool(m.head & DUP), bool(m.head & RETAIN))
        for m in each(found)
    ]
    assert ours == expected
    assert [m.properties for m in each(found)] == [properties if v5 else b"" for *_, properties in sent]


def each(found: Publishes) -> list[Publish]:
    assert len({len(getattr(found, name)) for name in Publishes.__slots__}) == 1
    return [found[at] for at in range(len(found))]


@settings(deadline=None)
@given(
    st.binary(max_size=60) | st.lists(st.sampled_from([0x30, 0x32, 0x34, 0x36, 0, 1, 2, 3, 4, 0x80])).map(bytes),
    st.booleans(),
)
def test_no_bytes_break_the_walker(data: bytes, v5: bool) -> None:
    found = Publishes()
    try:
        at = walk(data, 0, v5, found)
        packet_bounds(data, at)
        assert 0 <= at <= len(data)
    except MalformedPacketError:
        pass
    assert sum(len(m.topic) + len(m.payload) + len(m.properties) for m in each(found)) <= len(data)


@pytest.mark.parametrize(
    "packet",
    [
        b"\x30\x00",  # nothing
        b"\x30\x01\x00",  # no room for a topic
        b"\x30\x01\x00\x00\x00\x00",  # the same, and more behind it
        b"\x30\x80\x00",  # a length of nothing in two bytes
        b"\x30\x81\x80\x80\x00\x00",  # a length of one in four bytes
        b"\x30\x03\x00\x05a",  # topic longer than the packet
        b"\x30\x04\xff\xffab",
        b"\x32\x04\x00\x01a\x00",  # no room for the packet id
        b"\x32\x05\x00\x01a\x00\x00",  # packet id 0
        b"\x36\x05\x00\x01a\x00\x01",  # QoS 3
        b"\x30\xff\xff\xff\xff\x7f",  # a length of five bytes
    ],
)
@pytest.mark.parametrize("before", [b"", b"\x32\x05\x00\x01a\x00\x07"])
def test_contradictions_are_malformed_and_what_came_before_is_kept(packet: bytes, before: bytes) -> None:
    found = Publishes()
    with pytest.raises(MalformedPacketError):
        walk(before + packet, 0, False, found)
    assert each(found) == ([Publish(b"a", b"", 2, 7, b"")] if before else [])


@pytest.mark.parametrize(
    "packet",
    [
        b"\x30\x04\x00\x01a\x05",  # properties longer than the packet
        b"\x30\x05\x00\x01a\x80\x80",  # a length that does not end
        b"\x30\x03\x00\x01a",  # no properties at all
    ],
)
def test_properties_that_contradict_their_packet_are_malformed(packet: bytes) -> None:
    with pytest.raises(MalformedPacketError):
        walk(packet, 0, True, Publishes())


def test_a_release_has_its_packet_id() -> None:
    assert released(b"\x62\x02\x01\x02") == 258
    assert released(b"\x62\x03\x01\x02\x92") == 258
    for broken in (b"\x62\x01\x01", b"\x60\x02\x01\x02", b"\x62\x00"):
        with pytest.raises(MalformedPacketError):
            released(broken)


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        ("mqtt://broker", ("broker", 1883, False)),
        ("tcp://10.0.0.1:1884/", ("10.0.0.1", 1884, False)),
        ("mqtts://broker", ("broker", 8883, True)),
        ("tls://[::1]:9883", ("::1", 9883, True)),
    ],
)
def test_endpoints(endpoint: str, expected: tuple[str, int, bool]) -> None:
    assert endpoint_address(endpoint) == expected


Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[None, None, None]]


@asynccontextmanager
async def broker(script: Script) -> AsyncIterator[str]:
    """A broker that reads CONNECT and then does what the script says; gives its endpoint."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly((await reader.readexactly(2))[1])
        try:
            await script(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"mqtt://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await server.wait_closed()


class Listener:
    """What a session hands over."""

    def __init__(self) -> None:
        self.present: list[bool] = []
        self.messages: list[Publish] = []
        self.releases: list[int] = []
        self.changed = asyncio.Event()

    def begin(self, present: bool) -> None:
        self.present.append(present)

    def take(self, messages: Publishes, releases: list[int]) -> None:
        assert self.present, "a message before the session began"
        self.messages += each(messages)
        self.releases += releases
        self.changed.set()

    async def until(self, count: int) -> None:
        async with asyncio.timeout(5):
            while len(self.messages) < count:
                self.changed.clear()
                await self.changed.wait()


async def forever(reader: asyncio.StreamReader) -> None:
    while data := await reader.read(65536):
        if data.endswith(DISCONNECT):
            return


async def test_messages_arrive_whole_from_every_split() -> None:
    packets = [publish_packet(b"t", bytes(n), 2, n, None) for n in (1, 127, 300, 20_000)]
    stream = CONNACK + b"".join(packets)

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        at = 0
        for size in [1] * 30 + [3, 5, 120, 100, 7, 1, 9_000, 1, 1, len(stream)]:
            writer.write(stream[at : at + size])
            await writer.drain()
            await asyncio.sleep(0)
            at += size
        await forever(reader)

    async with broker(script) as endpoint:
        listener = Listener()
        session = MqttSession(SessionSettings(endpoint, "c"), listener.begin, listener.take)
        assert await session.open() is False
        await listener.until(4)
        await session.close()
    assert [len(m.payload) for m in listener.messages] == [1, 127, 300, 20_000]


@settings(deadline=None)
@given(messages, st.booleans(), st.data())
async def test_data_is_cut_anywhere_and_read_the_same(
    sent: list[tuple[bytes, bytes, int, int, bytes]], v5: bool, data: st.DataObject
) -> None:
    """Control packets stand between the messages; the session has no connection, so that what it sends goes nowhere."""
    stream, expected = b"", []
    for topic, payload, head, packet_id, properties in sent:
        given_properties = properties if v5 else b""
        stream += publish_packet(topic, payload, head, packet_id, given_properties if v5 else None)
        expected.append(Publish(topic, payload, head, packet_id if head & 6 else 0, given_properties))
        stream += b"\xd0\x00" + b"\x62\x02" + packet_id.to_bytes(2, "big")
    cuts = data.draw(
        st.lists(st.integers(0, len(stream)), max_size=12).map(sorted) | st.just(list(range(0, len(stream), 7)))
    )
    listener = Listener()
    session = MqttSession(SessionSettings("mqtt://nowhere", "c", v5=v5), listener.begin, listener.take)
    session._accepted.set_result(True)
    listener.present.append(True)
    for start, stop in pairwise([0, *cuts, len(stream)]):
        session.data_received(stream[start:stop])
    assert not session.lost.done()
    assert listener.messages == expected
    assert listener.releases == [packet_id for *_, packet_id, _ in sent]


async def test_data_is_read_byte_by_byte() -> None:
    listener = Listener()
    session = MqttSession(SessionSettings("mqtt://nowhere", "c"), listener.begin, listener.take)
    session._accepted.set_result(True)
    listener.present.append(True)
    packets = [publish_packet(b"t", bytes(n), 2, n + 1, None) for n in (0, 5, 130, 200)]
    stream = b"".join(packets)
    for cut in range(1, len(stream)):
        session.data_received(stream[:cut])
        session.data_received(stream[cut:])
        assert [m.packet_id for m in listener.messages] == [1, 6, 131, 201], cut
        listener.messages.clear()
    for byte in stream:
        session.data_received(bytes([byte]))
    assert [m.packet_id for m in listener.messages] == [1, 6, 131, 201]


async def test_the_good_bye_arrives_also_when_the_broker_has_more_to_say() -> None:
    """A connection that is closed with something unread is reset, and the broker would publish the will."""
    heard: list[bytes] = []
    full, closing, over = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(CONNACK)
        await full.wait()
        for _ in range(20):
            writer.write(publish_packet(b"t", bytes(10_000), 2, 1, None))
        await writer.drain()
        closing.set()
        async with asyncio.timeout(5):
            while not heard or not heard[-1].endswith(DISCONNECT):
                heard.append(await reader.read(65536))
                writer.write(publish_packet(b"t", b"late", 2, 2, None))
                await writer.drain()
        over.set()

    async with broker(script) as endpoint:
        listener = Listener()
        session = MqttSession(SessionSettings(endpoint, "c"), listener.begin, listener.take)
        await session.open()
        session.pause()
        full.set()
        await closing.wait()
        await session.close()
        await asyncio.wait_for(over.wait(), 5)
    assert listener.messages == []


async def test_a_broker_that_does_not_hang_up_is_not_waited_for_at_length() -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(CONNACK)
        while await reader.read(65536):
            pass

    async with broker(script) as endpoint:
        session = MqttSession(SessionSettings(endpoint, "c"), Listener().begin, Listener().take)
        await session.open()
        async with asyncio.timeout(3):
            await session.close()


async def test_a_busy_broker_is_read_in_large_pieces() -> None:
    packet, count = publish_packet(b"t", bytes(40), 0, 0, None), 600
    received = asyncio.Event()

    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(CONNACK)
        for _ in range(count):
            writer.write(packet)
            await writer.drain()
            await asyncio.sleep(0)
        await received.wait()

    class Counting(Listener):
        reads = 0

        def take(self, messages: Publishes, releases: list[int]) -> None:
            super().take(messages, releases)
            self.reads += 1

    async with broker(script) as endpoint:
        listener = Counting()
        session = MqttSession(SessionSettings(endpoint, "c"), listener.begin, listener.take)
        await session.open()
        await listener.until(count)
        received.set()
        await session.close()
    assert listener.reads < count / 4


async def test_after_a_message_of_a_quiet_broker_nothing_is_put_off() -> None:
    asked = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(CONNACK)
        await asked.wait()
        writer.write(publish_packet(b"t", b"", 0, 0, None))
        await forever(reader)

    async with broker(script) as endpoint:
        listener = Listener()
        session = MqttSession(SessionSettings(endpoint, "c"), listener.begin, listener.take)
        await session.open()
        await asyncio.sleep(0.05)  # so long it says nothing
        asked.set()
        await listener.until(1)
        assert session._transport is not None
        assert session._transport.is_reading()
        await session.close()


async def test_of_an_oversize_message_the_beginning_is_kept_and_the_next_one_is_read() -> None:
    size = 2_000_000

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(CONNACK + publish_packet(b"big", b"x" * size, 2, 7, None) + publish_packet(b"t", b"1", 2, 8, None))
        await forever(reader)

    async with broker(script) as endpoint:
        listener = Listener()
        session = MqttSession(SessionSettings(endpoint, "c", max_packet=500_000), listener.begin, listener.take)
        await session.open()
        await listener.until(2)
        await session.close()
    big, small = listener.messages
    assert (big.topic, big.packet_id, big.head & TRUNCATED) == (b"big", 7, TRUNCATED)
    assert 100_000 < len(big.payload) < 500_000
    assert (small.payload, small.packet_id) == (b"1", 8)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"\x20\x02\x00\x05", "refused the connection: Not authorized"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "does not speak MQTT"),
        (b"\x30\x05\x00\x01tab", "does not speak MQTT"),
        (b"", "closed the connection|connection lost"),
        (CONNACK + b"\x30\x03\x00\x09t", "longer than the packet"),
        (CONNACK + b"\x90\xff\xff\xff\x7f", "control packet of"),
        (CONNACK + b"\xf0\x00", "not MQTT"),
        (CONNACK + b"\x36\x05\x00\x01a\x00\x01", "QoS 3"),
        (CONNACK + b"\x62\x01\x00", "PUBREL that is broken"),
    ],
)
async def test_what_is_wrong_with_the_broker_is_said(answer: bytes, reason: str) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await writer.drain()
        if answer:
            await forever(reader)

    async with broker(script) as endpoint:
        listener = Listener()
        session = MqttSession(SessionSettings(endpoint, "c", connect_timeout=3), listener.begin, listener.take)

        async def connect_and_lose() -> None:
            await session.open()
            await asyncio.wait_for(asyncio.shield(session.lost), 3)

        with pytest.raises(ConnectionError, match=reason):
            await connect_and_lose()
        await session.close()


async def test_a_broker_that_says_nothing_is_given_up() -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await forever(reader)

    async with broker(script) as endpoint:
        session = MqttSession(SessionSettings(endpoint, "c", connect_timeout=0.2), lambda _: None, lambda *_: None)
        with pytest.raises(ConnectionError, match=r"no answer within 0.2 s"):
            await session.open()


async def test_a_broker_that_falls_silent_is_noticed_within_twice_the_keepalive() -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(CONNACK)
        await forever(reader)

    async with broker(script) as endpoint:
        session = MqttSession(SessionSettings(endpoint, "c", keepalive=1), lambda _: None, lambda *_: None)
        await session.open()
        with pytest.raises(ConnectionError, match=r"silent for 1.5 s"):
            await asyncio.wait_for(asyncio.shield(session.lost), 2.1)


async def test_acknowledgements_leave_in_order_in_one_write_and_a_ping_confirms_them() -> None:
    seen = bytearray()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(CONNACK)
        seen.extend(await reader.readexactly(4 * 5 + 2))
        writer.write(b"\xd0\x00" + publish_packet(b"t", b"", 0, 0, None))
        await forever(reader)

    async with broker(script) as endpoint:
        listener = Listener()
        session = MqttSession(SessionSettings(endpoint, "c"), listener.begin, listener.take)
        await session.open()
        session.acknowledge([PUBACK | 7, PUBREC | 3, PUBACK | 65535, PUBCOMP | 2, PUBACK | 256])
        session.ping()
        assert session.confirmed == 0
        await listener.until(1)
        assert session.confirmed == 3
        await session.close()
    answers = b"\x40\x02\x00\x07\x50\x02\x00\x03\x40\x02\xff\xff\x70\x02\x00\x02\x40\x02\x01\x00"
    assert bytes(seen) == answers + b"\xc0\x00"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"\x20\x03\x00\x87\x00", "refused the connection: Not authorized"),
        (b"\x20\x03\x00\x00\x00\xe0\x02\x8e\x00", "another client connected with the client id `c`"),
        (b"\x20\x03\x00\x00\x00\xe0\x00", "ended the connection"),
        (b"\x20\x06\x00\x00\x03\x13\x00\x01", r"silent for 1.5 s"),  # the broker wants a sign of life each second
    ],
)
async def test_reasons_of_version_5_are_said(answer: bytes, reason: str) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await forever(reader)

    async with broker(script) as endpoint:
        session = MqttSession(SessionSettings(endpoint, "c", v5=True, keepalive=60), lambda _: None, lambda *_: None)

        async def connect_and_lose() -> None:
            await session.open()
            await asyncio.wait_for(asyncio.shield(session.lost), 3)

        with pytest.raises(ConnectionError, match=reason):
            await connect_and_lose()
        await session.close()


async def test_the_time_of_the_last_word_is_that_of_the_broker_also_after_a_pause() -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(CONNACK)
        await forever(reader)

    async with broker(script) as endpoint:
        session = MqttSession(SessionSettings(endpoint, "c"), lambda _: None, lambda *_: None)
        await session.open()
        heard = session.heard
        session.pause()
        await asyncio.sleep(0.05)
        session.resume()
        assert session.heard == heard
        await session.close()
