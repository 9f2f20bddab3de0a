"""MQTT packets as bytes: PUBLISH taken out of what was read, acknowledgements made, and where a packet ends. Pure."""

import sys
from array import array
from collections.abc import Sequence
from struct import Struct
from typing import Final, NamedTuple

RETAIN, QOS, DUP, TRUNCATED = 0x01, 0x06, 0x08, 0x10
KEPT_OF_OVERSIZE = 128 * 1024
_BEGINNING: Final = Struct(">BBH").unpack_from  # head, length and size of the topic, if the length is one byte
_NUMBER: Final = Struct(">H").unpack_from
PUBACK: Final = 0x4002_0000
"""An acknowledgement is these four bytes with the packet id in the last two: as a number, ``PUBACK | packet_id``."""
PUBREC: Final = 0x5002_0000
PUBCOMP: Final = 0x7002_0000


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


class Publishes:
    """PUBLISH packets in the order they came, one list for each attribute of `Publish`."""

    __slots__ = ("heads", "packet_ids", "payloads", "properties", "topics")

    def __init__(self) -> None:
        """None yet."""
        self.topics: list[bytes] = []
        self.payloads: list[bytes] = []
        self.heads: list[int] = []
        self.packet_ids: list[int] = []
        self.properties: list[bytes] = []

    def __len__(self) -> int:
        return len(self.topics)

    def __getitem__(self, at: int) -> Publish:
        return Publish(self.topics[at], self.payloads[at], self.heads[at], self.packet_ids[at], self.properties[at])

    def add(self, packet: Publish) -> None:
        """Append one."""
        self.topics.append(packet.topic)
        self.payloads.append(packet.payload)
        self.heads.append(packet.head)
        self.packet_ids.append(packet.packet_id)
        self.properties.append(packet.properties)

    def level(self, head: int) -> None:
        """Make all lists as long as that of the topics; `head` is what the last packets have in common."""
        count = len(self.topics)
        self.heads.extend([head & 0x0F] * (count - len(self.heads)))
        self.packet_ids.extend([0] * (count - len(self.packet_ids)))
        self.properties.extend([b""] * (count - len(self.properties)))
        del self.packet_ids[count:], self.properties[count:]  # of a packet that turned out to be broken

    def pick(self, wanted: Sequence[int]) -> "Publishes":
        """Those at the places given."""
        found = Publishes()
        for name in self.__slots__:
            column = getattr(self, name)
            setattr(found, name, [column[at] for at in wanted])
        return found


class MalformedPacketError(ConnectionError):
    """The broker sent bytes that are not MQTT; the connection is of no further use."""


def walk(data: bytes, at: int, v5: bool, found: Publishes) -> int:
    """Take the PUBLISH packets that begin at `at`, up to the first other or incomplete packet.

    Args:
        data: What the broker sent, at a packet's first byte.
        at: Where to begin.
        v5: Whether packets carry properties (MQTT 5).
        found: The packets are appended here.

    Returns:
        Where the first packet begins that was not taken.

    Raises:
        MalformedPacketError: Lengths within a packet contradict each other, or its QoS is 3 (MQTT 5.0 §3.3).
    """
    end = len(data)
    add_topic, add_payload = found.topics.append, found.payloads.append
    add_packet_id, add_properties = found.packet_ids.append, found.properties.append
    head = qos = 0
    try:
        while end - at >= 4:  # the shortest has a topic without a letter
            first, stop, size = _BEGINNING(data, at)
            if first != head:
                found.level(head)
                head = first
                if head & 0xF0 != 0x30:
                    return at
                qos = head & QOS
                if qos == QOS:
                    raise MalformedPacketError("PUBLISH with QoS 3")
            if stop < 128:
                start = at + 4
                stop += at + 2
            else:
                frame = packet_bounds(data, at)
                if frame is None:
                    return at
                start, stop = frame[0] + 2, frame[1]
                if stop < start:
                    break
                if stop <= end:
                    size = data[start - 2] << 8 | data[start - 1]
            if stop > end:
                return at
            split = start + size
            topic = data[start:split]
            if qos:
                split += 2
                if split > stop:
                    raise MalformedPacketError("PUBLISH whose parts are longer than the packet")
                (packet_id,) = _NUMBER(data, split - 2)
                if not packet_id:
                    raise MalformedPacketError("PUBLISH with packet id 0")
                add_packet_id(packet_id)
            if v5:
                if split < stop and data[split] < 0x80:
                    size = data[split]
                    split += 1
                else:
                    size, split = _varint(data, split, stop)
                add_properties(data[split : split + size])
                split += size
            if split > stop:
                raise MalformedPacketError("PUBLISH whose parts are longer than the packet")
            add_topic(topic)
            add_payload(data[split:stop])
            at = stop
        frame = packet_bounds(data, at) if at < end and data[at] & 0xF0 == 0x30 else None
        if frame is not None and frame[1] - frame[0] < 2:
            raise MalformedPacketError("PUBLISH without a topic")
        return at
    finally:
        found.level(head)


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
    found = Publishes()
    walk(data[at : at + 1] + length + kept, 0, v5, found)
    return found[0]._replace(head=found[0].head | TRUNCATED)


def released(packet: bytes) -> int:
    """The packet id of a PUBREL (MQTT 5.0 §3.6).

    Raises:
        MalformedPacketError: It has none.
    """
    frame = packet_bounds(packet, 0)
    if packet[0] != 0x62 or frame is None or len(packet) - frame[0] < 2:
        raise MalformedPacketError("PUBREL that is broken")
    return packet[frame[0]] << 8 | packet[frame[0] + 1]


def acknowledgements(words: Sequence[int]) -> bytes:
    """The packets that `words` stand for (see `PUBACK`), in their order."""
    packets = array("I", words)
    if sys.byteorder == "little":
        packets.byteswap()
    return packets.tobytes()
