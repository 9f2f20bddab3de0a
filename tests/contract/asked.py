"""What readers ask devices for, taken from the bytes that they send; and which of it only reads."""

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from asyncua import ua
from asyncua.common.utils import Buffer
from asyncua.ua.object_ids import ObjectIds
from asyncua.ua.ua_binary import nodeid_from_binary, struct_from_binary

from connectors.wire.sparkplug import rebirth_command
from connectors.wire.sparkplug_messages import decode_payload

_HEADER: Final = 24  # of an OPC UA message in clear: sizes, channel, token, sequence, request
_SERVICES: Final = {
    number: name.removesuffix("Request_Encoding_DefaultBinary")
    for name, number in vars(ObjectIds).items()
    if name.endswith("Request_Encoding_DefaultBinary")
}
_METHODS: Final = {
    ua.NodeId(ua.Int32(ObjectIds.Server_GetMonitoredItems)): "GetMonitoredItems",
    ua.NodeId(ua.Int32(ObjectIds.ConditionType_ConditionRefresh)): "ConditionRefresh",
}
"""Methods of the server itself that tell something; any other is a write."""
_PACKETS: Final = (
    "", "CONNECT", "CONNACK", "PUBLISH", "PUBACK", "PUBREC", "PUBREL", "PUBCOMP", "SUBSCRIBE", "SUBACK", "UNSUBSCRIBE",
    "UNSUBACK", "PINGREQ", "PINGRESP", "DISCONNECT", "AUTH",
)  # fmt: skip


def _words(text: str) -> list[str]:
    return text.split()


_READING: Final[Mapping[str, frozenset[str]]] = {
    "modbus": frozenset({"1", "2", "3", "4", "43/14"}),
    "opcua": frozenset(
        _words("""
        OpenSecureChannel CloseSecureChannel FindServers GetEndpoints CreateSession ActivateSession CloseSession Cancel
        Browse BrowseNext TranslateBrowsePathsToNodeIds RegisterNodes UnregisterNodes Read HistoryRead
        CreateMonitoredItems ModifyMonitoredItems SetMonitoringMode SetTriggering DeleteMonitoredItems
        CreateSubscription ModifySubscription SetPublishingMode Publish Republish TransferSubscriptions
        DeleteSubscriptions GetMonitoredItems ConditionRefresh
    """)
    ),
    "mqtt": frozenset(
        _words("CONNECT PUBACK PUBREC PUBREL PUBCOMP SUBSCRIBE UNSUBSCRIBE PINGREQ DISCONNECT AUTH rebirth state")
    ),
}
LEAST: Final[Mapping[str, set[str]]] = {
    "modbus": {"3"},
    "opcua": {"CreateSession", "ActivateSession", "Read"},
    "mqtt": {"CONNECT", "SUBSCRIBE"},
}
"""What a life of a reader asks for at least, so that something is looked at."""
WRITES: Final[Sequence[tuple[str, bytes]]] = (
    *(("modbus", struct.pack(">HHHBBHH", 1, 0, 6, 1, code, 1, 1)) for code in (5, 6, 15, 16, 22, 23, 8, 90)),
    *(
        ("opcua", struct.pack("<4sI16x", b"MSGF", _HEADER + 4) + struct.pack("<BBH", 1, 0, number))
        for number, name in _SERVICES.items()
        if name in {"Write", "Call", "HistoryUpdate", "AddNodes", "DeleteNodes"}
    ),
    ("mqtt", b"\x30\x06\x00\x03a/b1"),
    ("mqtt", b"\x30\x18\x00\x15spBv1.0/g/DCMD/e/dddd\x08"),
)
"""Requests that write."""


def functions(protocol: str, streams: Sequence[bytearray]) -> set[str]:
    """What devices were asked for, by function code, service or packet."""
    return {one for stream in streams for one in _ASKED[protocol](bytes(stream))}


def not_reading(protocol: str, streams: Sequence[bytearray]) -> list[str]:
    """What of it does more than read."""
    return sorted(functions(protocol, streams) - _READING[protocol])


def _modbus(sent: bytes) -> Iterator[str]:
    """Modbus TCP; RTU frames, which have no length, are told apart by the protocol number that is no 0."""
    at = 0
    while len(sent) - at >= 8:
        tcp = sent[at + 2 : at + 4] == b"\0\0" and sent[at + 4] == 0
        code = sent[at + 7] if tcp else sent[at + 1]
        identity = code == 43 and sent[at + 8 if tcp else at + 2 :][:1] == b"\x0e"
        yield "43/14" if identity else str(code)
        at += 6 + int.from_bytes(sent[at + 4 : at + 6], "big") if tcp else 7 if code == 43 else 8


def _opcua(sent: bytes) -> Iterator[str]:
    at, inside = 0, False
    while len(sent) - at >= 8:
        kind, final = sent[at : at + 3], sent[at + 3 : at + 4]
        size = int.from_bytes(sent[at + 4 : at + 8], "little")
        if kind == b"MSG":
            body = Buffer(sent[at + _HEADER : at + size])
            if not inside and len(body) >= 4:
                yield from _service(body, whole=final == b"F")
            inside = final == b"C"
        at += max(size, 8)


def _service(body: Buffer, *, whole: bool) -> Iterator[str]:
    """A service; of the methods that are called each one that changes nothing by its name."""
    number = int(str(nodeid_from_binary(body).Identifier))
    name = _SERVICES.get(number, f"service {number}")
    if name == "Call" and whole and len(body) > 4:
        struct_from_binary(ua.RequestHeader, body)
        for call in struct_from_binary(ua.CallParameters, body).MethodsToCall:
            yield _METHODS.get(call.MethodId, f"Call {call.MethodId}")
    else:
        yield name


def _mqtt(sent: bytes) -> Iterator[str]:
    at, version = 0, 4
    while at < len(sent):
        begin, (size, after) = at, _variable(sent, at + 1)
        kind, body = _PACKETS[sent[begin] >> 4], sent[after : after + size]
        at = after + size
        if kind == "CONNECT":
            version = body[2 + int.from_bytes(body[:2], "big")]
        yield kind if kind != "PUBLISH" else _published(body, sent[begin] >> 1 & 3, version)


def _published(body: bytes, qos: int, version: int) -> str:
    end = 2 + int.from_bytes(body[:2], "big")
    topic, at = body[2:end].decode(), end + (2 if qos else 0)
    if version == 5:
        length, at = _variable(body, at)
        at += length
    levels = topic.split("/")
    if levels[0] == "spBv1.0" and levels[1] == "STATE":
        return "state"
    if levels[0] == "spBv1.0" and levels[2] == "NCMD" and len(levels) == 4:
        payload = decode_payload(body[at:])
        if body[at:] == rebirth_command(payload.timestamp):
            return "rebirth"
    return f"PUBLISH {topic}"


def _variable(data: bytes, at: int) -> tuple[int, int]:
    """A length in one to four bytes, and where it ends."""
    value, shift = 0, 0
    while at < len(data):
        value |= (data[at] & 0x7F) << shift
        shift, at = shift + 7, at + 1
        if not data[at - 1] & 0x80:
            break
    return value, at


_ASKED: Final[Mapping[str, Callable[[bytes], Iterator[str]]]] = {"modbus": _modbus, "opcua": _opcua, "mqtt": _mqtt}
