"""MQTT packets as bytes: PUBLISH taken out of what was read, and where any packet begins and ends. Pure."""

from typing import NamedTuple

RETAIN, QOS, DUP, TRUNCATED = 0x01, 0x06, 0x08, 0x10
KEPT_OF_OVERSIZE = 128 * 1024


class Publish(NamedTuple):
    """A PUBLISH packet as it came.

    Attributes:
        topic: Topic name, UTF-8 as the broker sent it.
        payload: Application message.
        head: Bits of the fixed header (`RETAIN`, QoS << 1, `DUP`), or `TRUNCATED` when only the beginning was kept.
        packet_id: Packet identifier, 0 at QoS 0.
        properties: Encoded MQTT 5 properties without their length.
    """

    topic: bytes
    payload: bytes
    head: int
    packet_id: int
    properties: bytes


class MalformedPacketError(ConnectionError):
    """The broker sent bytes that are not MQTT; the connection is of no further use."""


def publishes(data: bytes, at: int, v5: bool, found: list[Publish]) -> int:
    """Take the PUBLISH packets that begin at `at`, up to the first other or incomplete packet.

    Args:
        data: What the broker sent, at a packet's first byte.
        at: Where to begin.
        v5: Whether packets carry properties (MQTT 5).
        found: The packets are appended here.

    Returns:
        Where the first packet begins that was not taken.

    Raises:
        MalformedPacketError: Lengths within a packet contradict each other (MQTT 5.0 §3.3).
    """
    end = len(data)
    add = found.append
    while end - at >= 2:
        head = data[at]
        if head & 0xF0 != 0x30:
            break
        length = data[at + 1]
        start = at + 2
        if length > 127:
            frame = packet_bounds(data, at)
            if frame is None:
                break
            start, stop = frame
        else:
            stop = start + length
        if stop > end:
            break
        if stop - start < 2:
            raise MalformedPacketError("PUBLISH without a topic")
        split = start + 2 + (data[start] << 8 | data[start + 1])
        topic = data[start + 2 : split]
        packet_id = 0
        if head & 0x06:
            split += 2
            if split > stop:
                raise MalformedPacketError("PUBLISH whose parts are longer than the packet")
            if head & 0x04:
                raise MalformedPacketError(
                    "a QoS 2 message, though nothing is subscribed to at QoS 2: the session is one of another program, "
                    "choose another client_id"
                )
            packet_id = data[split - 2] << 8 | data[split - 1]
        properties = b""
        if v5:
            if split < stop and data[split] < 0x80:
                size = data[split]
                split += 1
            else:
                size, split = _varint(data, split, stop)
            if size:
                properties = data[split : split + size]
                split += size
        if split > stop:
            raise MalformedPacketError("PUBLISH whose parts are longer than the packet")
        add(Publish(topic, data[split:stop], head & 0x0F, packet_id, properties))
        at = stop
    return at


def packet_bounds(data: bytes, at: int) -> tuple[int, int] | None:
    """Where the packet at `at` has its content, as start and stop; None when its length is not complete yet."""
    length = shift = 0
    for index in range(at + 1, min(at + 5, len(data))):
        byte = data[index]
        length |= (byte & 0x7F) << shift
        if byte < 0x80:
            return index + 1, index + 1 + length
        shift += 7
    if len(data) >= at + 5:
        raise MalformedPacketError("packet whose length has more than four bytes")
    return None


def _varint(data: bytes, at: int, stop: int) -> tuple[int, int]:
    value = shift = 0
    while at < stop and shift < 28:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise MalformedPacketError("PUBLISH whose property length is broken")


def beginning(data: bytes, at: int, start: int, v5: bool) -> Publish:
    """The beginning of a PUBLISH that is too large to be kept whole."""
    kept = data[start : start + KEPT_OF_OVERSIZE]
    length = bytes([len(kept) & 0x7F | 0x80, len(kept) >> 7 & 0x7F | 0x80, len(kept) >> 14])
    found: list[Publish] = []
    publishes(data[at : at + 1] + length + kept, 0, v5, found)
    return found[0]._replace(head=found[0].head | TRUNCATED)
