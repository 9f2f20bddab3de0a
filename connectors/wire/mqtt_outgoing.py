"""PUBLISH packets of many messages made at once, and the broker's answers to them taken out of what was read. Pure.

The packets lie one after the other in one buffer, as columns put side by side by Arrow; their packet ids are filled in when
they are sent.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from connectors.wire.mqtt_packets import MalformedPacketError, packet_bounds

PUBACK_KIND, PUBREC_KIND, PUBCOMP_KIND = 0x40, 0x50, 0x70
PUBREL: Final = 0x6202_0000
"""As `mqtt_packets.PUBACK`: the packet with the packet id in the last two of its four bytes."""
MAX_TOPIC: Final = 65_535
MAX_PACKET: Final = 5 + 268_435_455
_ANSWERS: Final = frozenset({PUBACK_KIND, PUBREC_KIND, PUBCOMP_KIND})
_NOTHING: Final = pa.scalar(b"", pa.binary())
_PAYLOAD_FORMAT, _EXPIRY, _CONTENT_TYPE, _USER = 0x01, 0x02, 0x03, 0x26


@dataclass(frozen=True, slots=True)
class Outgoing:
    """PUBLISH packets, one after the other.

    Attributes:
        data: The packets.
        bounds: Where each begins, and where the last ends.
        ids: Where the packet id of each stands; empty at QoS 0.
    """

    data: bytearray
    bounds: np.ndarray
    ids: np.ndarray

    def __len__(self) -> int:
        return len(self.bounds) - 1

    @property
    def sizes(self) -> np.ndarray:
        """Bytes of each packet."""
        return np.diff(self.bounds)

    def numbered(self, first: int, packet_ids: range) -> memoryview:
        """The packets from the one at `first` on, with these packet ids.

        Args:
            first: Number of a packet.
            packet_ids: One for each that is wanted, in a row.
        """
        last = first + len(packet_ids)
        view, numbers = np.frombuffer(self.data, np.uint8), np.arange(packet_ids.start, packet_ids.stop)
        view[self.ids[first:last]] = numbers >> 8
        view[self.ids[first:last] + 1] = numbers & 0xFF
        return self.cut(first, last)

    def cut(self, first: int, last: int) -> memoryview:
        """The packets from `first` up to, without, `last`."""
        return memoryview(self.data)[int(self.bounds[first]) : int(self.bounds[last])]


def topic_fields(topics: Sequence[str]) -> pa.Array:
    """Topics as PUBLISH carries them: UTF-8 with its length before it; each has 65,535 bytes at most."""
    encoded = [topic.encode() for topic in topics]
    return pa.array([len(one).to_bytes(2, "big") + one for one in encoded], pa.binary())


def encode(
    topics: pa.Array,
    index: np.ndarray,
    payloads: pa.Array,
    *,
    qos: int,
    retain: bool = False,
    properties: pa.Array | pa.Scalar | None = None,
) -> Outgoing:
    """A PUBLISH packet for each payload (MQTT 5.0 §3.3, 3.1.1 §3.3).

    Args:
        topics: See `topic_fields`.
        index: Which of the topics each message has.
        payloads: A text or bytes for each message.
        qos: Their quality of service.
        retain: Whether the broker is to keep each as the last of its topic.
        properties: Their properties (MQTT 5), without the length before them, for each or for all; None for 3.1.1.
    """
    count = len(payloads)
    if not count:
        return Outgoing(bytearray(), np.zeros(1, np.int64), np.zeros(0, np.int64))
    names = topics.take(pa.array(index))
    name_sizes = lengths(names)
    content = payloads.cast(pa.binary())
    parts: list[pa.Array | pa.Scalar] = [pa.scalar(bytes([0x30 | qos << 1 | int(retain)]), pa.binary())]
    rest: list[pa.Array | pa.Scalar] = [names]
    size = name_sizes + lengths(content)
    if qos:
        rest.append(pa.scalar(b"\0\0", pa.binary()))
        size += 2
    if isinstance(properties, pa.Array):
        before = varints(lengths(properties))
        rest += [before, properties]
        size += lengths(before) + lengths(properties)
    elif properties is not None:
        block = properties.as_py()
        block = varint(len(block)) + block
        rest.append(pa.scalar(block, pa.binary()))
        size += len(block)
    head = varints(size)
    packets = pc.binary_join_element_wise(*parts, head, *rest, content, _NOTHING)
    _, offsets, data = packets.buffers()
    bounds = np.frombuffer(offsets, np.int32)[packets.offset : packets.offset + count + 1].astype(np.int64)
    start, stop = int(bounds[0]), int(bounds[-1])
    bounds -= start
    ids = bounds[:-1] + 1 + lengths(head) + name_sizes if qos else np.zeros(0, np.int64)
    return Outgoing(bytearray(memoryview(data)[start:stop]), bounds, ids)


def lengths(values: pa.Array) -> np.ndarray:
    """Bytes of each text or byte string; there are no nulls."""
    _, offsets, _ = values.buffers()
    ends = np.frombuffer(offsets, np.int32)[values.offset : values.offset + len(values) + 1]
    return np.diff(ends).astype(np.int64)


def varint(number: int) -> bytes:
    """A variable byte integer (MQTT 5.0 §1.5.5)."""
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def varints(numbers: np.ndarray) -> pa.Array:
    """Variable byte integers, one for each of the numbers, which are below 2^28."""
    width = 1 + (numbers >= 1 << 7) + (numbers >= 1 << 14) + (numbers >= 1 << 21)
    places = np.arange(4)
    cells = numbers[:, None] >> 7 * places & 0x7F
    cells |= (places < width[:, None] - 1) << 7
    data = cells[places < width[:, None]].astype(np.uint8)
    offsets = np.concatenate([[0], np.cumsum(width)]).astype(np.int32)
    return pa.Array.from_buffers(pa.binary(), len(numbers), [None, pa.py_buffer(offsets), pa.py_buffer(data)])


def properties(
    *, content_type: str = "", expiry: int | None = None, user: Sequence[tuple[str, str]] = (), text: bool = True
) -> bytes:
    """Properties that all messages have (MQTT 5.0 §3.3.2.3).

    Args:
        content_type: What the payload is, e.g. ``application/json``.
        expiry: Seconds after which the broker drops the message.
        user: Names and values.
        text: Whether the payload is UTF-8.
    """
    out = bytes([_PAYLOAD_FORMAT, 1]) if text else b""
    if expiry is not None:
        out += bytes([_EXPIRY]) + min(expiry, 0xFFFF_FFFF).to_bytes(4, "big")
    if content_type:
        out += bytes([_CONTENT_TYPE]) + _text(content_type)
    return out + b"".join(bytes([_USER]) + _text(name) + _text(value) for name, value in user)


def with_user_properties(common: bytes, user: Sequence[tuple[str, pa.Array]]) -> pa.Array:
    """Properties of each message: those that all have, and user properties of its own.

    Args:
        common: See `properties`.
        user: Names, and a text for each message.
    """
    parts: list[pa.Array | pa.Scalar] = []
    for name, values in user:
        content = values.cast(pa.binary())
        parts += [pa.scalar(bytes([_USER]) + _text(name), pa.binary()), _sizes(content), content]
    return pc.binary_join_element_wise(pa.scalar(common, pa.binary()), *parts, _NOTHING)


def _text(text: str) -> bytes:
    encoded = text.encode()
    return len(encoded).to_bytes(2, "big") + encoded


def _sizes(values: pa.Array) -> pa.Array:
    """The two bytes before each text that say how long it is."""
    data = lengths(values).astype(">u2").tobytes()
    fixed = pa.Array.from_buffers(pa.binary(2), len(values), [None, pa.py_buffer(data)])
    return fixed.cast(pa.binary())


class Answers(NamedTuple):
    """Answers of one kind to messages.

    Attributes:
        kind: PUBACK, PUBREC or PUBCOMP, as the first byte of the packet.
        packet_ids: Whose they are.
        codes: Their reason codes; below 0x80 all is well.
    """

    kind: int
    packet_ids: Sequence[int]
    codes: bytes


def take_answers(data: bytes, at: int) -> tuple[list[Answers], int]:
    """The answers that begin at `at`, up to the first other or incomplete packet.

    Returns:
        The answers in their order, and where the first packet begins that was not taken.

    Raises:
        MalformedPacketError: One has no packet id.
    """
    found: list[Answers] = []
    while at < len(data) and data[at] & 0xF0 in _ANSWERS:
        kind = data[at] & 0xF0
        if data[at + 1 : at + 2] == b"\x02" and len(data) - at >= 4:
            heads, sizes = data[at : len(data) - 3 : 4], data[at + 1 : len(data) - 2 : 4]
            same = min(len(heads) - len(heads.lstrip(heads[:1])), len(sizes) - len(sizes.lstrip(b"\x02")))
            stop = at + 4 * same
            packet_ids = [
                high << 8 | low for high, low in zip(data[at + 2 : stop : 4], data[at + 3 : stop : 4], strict=True)
            ]
            found.append(Answers(kind, packet_ids, bytes(same)))
            at = stop
            continue
        bounds = packet_bounds(data, at)
        if bounds is None or bounds[1] > len(data):
            break
        start, stop = bounds
        if stop - start < 2:
            raise MalformedPacketError("an acknowledgement without a packet id")
        code = data[start + 2] if stop - start > 2 else 0
        packet_id = data[start] << 8 | data[start + 1]
        found.append(Answers(kind, [packet_id], bytes([code])))
        at = stop
    return found, at
