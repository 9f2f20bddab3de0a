"""What decodes bytes of strangers, each as a function of bytes that raises only when the decoder broke its promise.

A promise is: no exception but the decoder's own, no more rows than the bytes can hold, the end in bounded time.
"""

import contextlib
import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import cbor2
import msgspec
from pymodbus.framer import FramerRTU

from connectors.sources.modbus.datatypes import REGISTERS, DataType
from connectors.sources.modbus.decode import Decoder as RegisterDecoder
from connectors.sources.modbus.plan import Kind, Point, plan
from connectors.sources.modbus.protocol import (
    AsciiFraming,
    BadReplyError,
    Identify,
    RefusedError,
    RtuFraming,
    TcpFraming,
    ask,
    identity,
    reply_bytes,
    reply_data,
)
from connectors.sources.mqtt import MqttConfig
from connectors.sources.mqtt.payload import Decoder as PayloadDecoder
from connectors.sources.opcua.binary import Malformed, Types
from connectors.sources.opcua.decode import Item, ValueDecoder
from connectors.sources.opcua.notification import notification
from connectors.sources.sparkplug import SparkplugHost
from connectors.wire.mqtt_packets import MalformedPacketError, Publish, Publishes, walk
from connectors.wire.sparkplug import parse_topic
from connectors.wire.sparkplug_messages import message_class
from normalization.reading import Columns, TagTable

_SPARE: Final = 64  # rows that a decoder may make of nothing: what is known of a device goes stale


@dataclass(frozen=True, slots=True)
class FuzzTarget:
    """A decoder.

    Attributes:
        run: Decodes; raises AssertionError, or what the decoder lets out, when a promise is broken.
        seeds: Sound bytes, from which others are made.
    """

    run: Callable[[bytes], None]
    seeds: tuple[bytes, ...]


def _bounded(rows: Columns, data: bytes) -> None:
    assert rows.even
    assert len(rows) <= len(data) + _SPARE, f"{len(rows)} readings of {len(data)} bytes"
    rows.to_batch([0] * len(rows), 0)  # what a decoder appends can be journalled


# ---------------------------------------------------------------------- Modbus


@cache
def _registers() -> tuple[Any, RegisterDecoder]:
    types: tuple[DataType, ...] = ("int16", "uint32", "float32", "float64", "bcd32", "uint64")
    points = [Point(1, Kind.HOLDING, 4 * at, REGISTERS[type_], type_) for at, type_ in enumerate(types)]
    points.append(Point(1, Kind.HOLDING, 4 * len(points), 4, "string", length=8))
    (block,) = plan(points, max_gap=100)
    return block, RegisterDecoder([block], points, list(range(len(points))))


def modbus(data: bytes) -> None:
    """A stream of replies in each framing, and the values of those that are sound."""
    block, decoder = _registers()
    asked, size = ask(block), reply_bytes(block)
    for framing in (TcpFraming(), RtuFraming(FramerRTU.compute_CRC), AsciiFraming()):
        rest, rows = data, Columns()
        with contextlib.suppress(BadReplyError, RefusedError):
            framing.plain(data, 1, asked)
            while (frame := framing.unwrap(rest)).used:
                assert 0 < frame.used <= len(rest)
                rest = rest[frame.used :]
                decoder.decode(reply_data(frame.pdu, asked.kind.value, size), rows)
        _bounded(rows, data)
    with contextlib.suppress(BadReplyError, RefusedError):
        said, _ = identity(Identify(1).data_of(data))
        assert all(text.isprintable() for text in said.values())
        assert sum(map(len, said.values())) <= len(data)


def modbus_values(data: bytes) -> None:
    """Registers of any content."""
    block, decoder = _registers()
    rows = Columns()
    decoder.decode(data.ljust(reply_bytes(block), b"\0")[: reply_bytes(block)], rows)
    assert len(rows) == len(decoder.tags)
    _bounded(rows, data)


def _modbus_seeds() -> tuple[bytes, ...]:
    block, _ = _registers()
    asked, size = ask(block), reply_bytes(block)
    pdu = bytes([asked.kind.value, size]) + bytes(range(size))
    framings = (TcpFraming(), RtuFraming(FramerRTU.compute_CRC), AsciiFraming())
    said = b"\x2b\x0e\x01\x01\xff\x01\x02\x00\x04Acme\x01\x02PM"
    replies = tuple(framing.wrap(1, 1, reply) for framing in framings for reply in (pdu, b"\x83\x02", said))
    return (*replies, said)


# ---------------------------------------------------------------------- OPC UA


def opcua(data: bytes) -> None:
    """A PublishResponse behind its header: its parts, and the values of each."""
    with contextlib.suppress(Malformed):
        found = notification(data, 0)
        for _, start, end in found.parts:
            opcua_values(data[start:end])
    opcua_values(data)


def opcua_values(data: bytes) -> None:
    """The body of a DataChangeNotification."""
    rows = Columns()
    decoder = ValueDecoder([Item(at, {1: '"on"'} if at == 2 else None) for at in range(4)], Types(), server_time=False)
    decoder.data_change(data, rows)
    _bounded(rows, data)


def _opcua_seeds() -> tuple[bytes, ...]:
    value = struct.pack("<IBBdq", 1, 0x05, 11, 21.5, 133_000_000_000_000_000)
    text = struct.pack("<IBBi", 2, 0x01, 12, 2) + b"ab"
    array = struct.pack("<IBBi", 3, 0x01, 0x8B, 1) + struct.pack("<d", 1.0)
    body = struct.pack("<i", 12) + value * 10 + text + array + struct.pack("<i", -1)
    whole = struct.pack("<IiIB", 7, 1, 3, 0) + struct.pack("<Iq", 3, 133_000_000_000_000_000)
    whole += struct.pack("<iBBHBi", 1, 1, 0, 811, 1, len(body)) + body
    return body, whole, struct.pack("<i", 1) + value


# ---------------------------------------------------------------------- MQTT


def mqtt_packets(data: bytes) -> None:
    """What a broker sends, of both versions."""
    for v5 in (False, True):
        found = Publishes()
        with contextlib.suppress(MalformedPacketError):
            assert 0 <= walk(data, 0, v5, found) <= len(data)
            _decode_payloads(found, data)


@cache
def _payload_formats() -> MqttConfig:
    named = ("auto", "json", "plain", "csv", "cbor", "msgpack")
    return MqttConfig.model_validate(
        {
            "name": "plant",
            "protocol": "mqtt",
            "endpoint": "mqtt://127.0.0.1",
            "subscriptions": [{"topic": f"{name}/#", "format": name} for name in named],
        }
    )


def mqtt_payload(data: bytes) -> None:
    """One payload in every format, twice, because the second time its topic is known."""
    for rule in _payload_formats().subscriptions:
        found = Publishes()
        for _ in range(2):
            found.add(Publish(rule.topic.replace("#", "tag").encode(), data, 0, 0x30, b""))
        _decode_payloads(found, data * 2)


def _decode_payloads(found: Publishes, data: bytes) -> None:
    rows = Columns()
    PayloadDecoder(_payload_formats(), TagTable().intern).decode(found, rows)
    _bounded(rows, data)


def _packet_seeds() -> tuple[bytes, ...]:
    body = b"\x00\x0aplain/tag1" + b"21.5"
    numbered = b"\x00\x0aplain/tag1" + b"\x00\x07" + b"21.5"
    return bytes([0x30, len(body)]) + body, bytes([0x32, len(numbered)]) + numbered, b"\x30\x00", b"\xd0\x00"


def _payload_seeds() -> tuple[bytes, ...]:
    sample = {"ts": 1_700_000_000_000, "value": 21.5, "quality": "good", "unit": "C"}
    many = [sample | {"value": at} for at in range(3)]
    documents = (sample, many, {"a": 1, "b": {"c": [1, 2, {"d": None}]}}, -1.5, "text", None)
    encoded = (encode(each) for each in documents for encode in (json.dumps, cbor2.dumps, msgspec.msgpack.encode))
    return (
        *(each.encode() if isinstance(each, str) else each for each in encoded),
        b"time,a,b\n1,2,3\n4,5,6\n",
        b"\xff\xfe",
    )


# ---------------------------------------------------------------------- Sparkplug B


def sparkplug(data: bytes) -> None:
    """A payload as each kind of message of an edge node, one after the other."""
    host = SparkplugHost(lambda *_: 1, lambda: 0)
    rows = Columns()
    for kind in ("NBIRTH", "DBIRTH", "NDATA", "DDATA", "DDEATH", "NDEATH", "DDATA"):
        topic = parse_topic(f"spBv1.0/G/{kind}/N" + ("/D" if kind.startswith("D") else ""))
        assert topic is not None
        host.receive(topic, data, 0, 0.0, rows)
    host.expire(1e6, rows)
    assert rows.even
    assert len(rows) <= 10 * (len(data) + _SPARE)
    SparkplugHost(lambda *_: 0, lambda: 0).restore(host.state(), host.progress())


def _sparkplug_seeds() -> tuple[bytes, ...]:
    payload, metric = message_class(), message_class("Metric")
    metrics = [
        metric(name="bdSeq", datatype=8, long_value=1),
        metric(name="a", alias=1, datatype=10, double_value=1.5),
        metric(name="b", alias=2, datatype=12, string_value="text"),
        metric(name="c", alias=3, datatype=32, bytes_value=b"\x01\x00\x02\x00"),
        metric(alias=1, double_value=2.5),
    ]
    return tuple(
        payload(timestamp=1_700_000_000_000, seq=seq, metrics=metrics[seq:]).SerializeToString() for seq in range(5)
    )


TARGETS: Final = {
    "modbus": FuzzTarget(modbus, _modbus_seeds()),
    "modbus_values": FuzzTarget(modbus_values, (bytes(56), b"\xff" * 56, b"\x7f\xf0\0\0\0\0\0\0" * 7)),
    "opcua": FuzzTarget(opcua, _opcua_seeds()),
    "mqtt_packets": FuzzTarget(mqtt_packets, _packet_seeds()),
    "mqtt_payload": FuzzTarget(mqtt_payload, _payload_seeds()),
    "sparkplug": FuzzTarget(sparkplug, _sparkplug_seeds()),
}
