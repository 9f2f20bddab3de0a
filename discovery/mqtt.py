"""What an MQTT broker says to somebody it does not know: whether it lets them in, and whether Sparkplug B is spoken there.

CONNECT without a user, one subscription to listen to, DISCONNECT. Nothing is published, and there is no will.
"""

import asyncio
import contextlib
import secrets
import socket
import ssl
import struct
from typing import Any, Final, NamedTuple

from connectors.wire.mqtt_packets import MalformedPacketError, Publishes, packet_bounds, walk
from discovery.talk import MOST, Detail, Manner, NotSpokenError, certificate, stream, text

_KEEPALIVE: Final = 30
_MOST_BYTES: Final = 65_536  # of a packet, and of all that is kept while listening
SPARKPLUG: Final = "spBv1.0/#"
_TAKING_LEAVE: Final = 0.3  # seconds
_DISCONNECT: Final = b"\xe0\x00"

REASONS: Final = {  # MQTT 5.0 §3.2.2.2
    0: "accepted", 128: "unspecified error", 129: "malformed packet", 130: "protocol error", 131: "implementation specific error",
    132: "unsupported protocol version", 133: "client identifier not valid", 134: "bad user name or password",
    135: "not authorized", 136: "server unavailable", 137: "server busy", 138: "banned", 140: "bad authentication method",
    144: "topic name invalid", 149: "packet too large", 151: "quota exceeded", 154: "retain not supported",
    155: "QoS not supported", 156: "use another server", 157: "server moved", 159: "connection rate exceeded",
}  # fmt: skip
_OLDER: Final = {1: 132, 2: 133, 3: 136, 4: 134, 5: 135}  # return codes of MQTT 3.1.1 §3.2.2.3
_OTHER_VERSION: Final = 132
_NEEDS_LOGIN: Final = (134, 135, 140)


def connect_packet(client_id: str, *, v5: bool) -> bytes:
    """CONNECT without user, password and will, for a session that ends with the connection."""
    body = _utf8("MQTT") + bytes([5 if v5 else 4, 0x02]) + struct.pack(">H", _KEEPALIVE)
    # without a property even a broker that knows 3.1.1 only gets as far as to refuse the version
    return _packet(0x10, body + (b"\x00" if v5 else b"") + _utf8(client_id))


def subscribe_packet(topic: str, *, v5: bool) -> bytes:
    """SUBSCRIBE to one topic with QoS 0."""
    return _packet(0x82, b"\x00\x01" + (b"\x00" if v5 else b"") + _utf8(topic) + b"\x00")


def _utf8(value: str) -> bytes:
    encoded = value.encode()
    return struct.pack(">H", len(encoded)) + encoded


def _packet(head: int, body: bytes) -> bytes:
    return bytes([head, len(body)]) + body  # none of ours is longer than 127 bytes


class Connack(NamedTuple):
    """What a broker answers to CONNECT.

    Attributes:
        code: Reason code of MQTT 5.
        v5: Whether it speaks MQTT 5.
        properties: What it grants, by name.
    """

    code: int
    v5: bool
    properties: dict[str, Any]


_PROPERTIES: Final = {  # MQTT 5.0 §2.2.2.2, those of CONNACK: how they are written, and by which name they are shown
    0x11: ("I", ""), 0x12: ("s", ""), 0x13: ("H", "keepalive"), 0x15: ("s", "authentication_method"), 0x16: ("s", ""),
    0x1A: ("s", ""), 0x1C: ("s", "other_server"), 0x1F: ("s", "reason"), 0x21: ("H", "receive_maximum"),
    0x22: ("H", ""), 0x24: ("B", "max_qos"), 0x25: ("B", "retain"), 0x26: ("ss", ""), 0x27: ("I", "max_packet"),
    0x28: ("B", "wildcards"), 0x29: ("B", ""), 0x2A: ("B", "shared_subscriptions"),
}  # fmt: skip


def connack(body: bytes) -> Connack:
    """The content of a CONNACK packet.

    Raises:
        NotSpokenError: It is none.
    """
    if len(body) == 2 and body[0] <= 1:
        code = body[1] if body[1] >= 128 or not body[1] else _OLDER.get(body[1], 128)
        return Connack(code, False, {})
    if len(body) < 3 or body[0] > 1 or (body[2] >= 128 and len(body) < 4):
        raise NotSpokenError("it does not speak MQTT: its answer to CONNECT is no CONNACK")
    try:
        return Connack(body[1], True, _properties(body))
    except (IndexError, KeyError, struct.error):
        raise NotSpokenError("it does not speak MQTT in order: the properties of its CONNACK are broken") from None


def _properties(body: bytes) -> dict[str, Any]:
    at = 4 if body[2] >= 128 else 3
    end = at + (body[2] & 127 | (body[3] << 7 if at == 4 else 0))
    if end > len(body):
        raise IndexError
    found: dict[str, Any] = {}
    while at < end:
        form, name = _PROPERTIES[body[at]]
        at += 1
        value: Any = ""
        if form.startswith("s"):
            for _ in form:
                (size,) = struct.unpack_from(">H", body, at)
                value = text(body[at + 2 : at + 2 + size].decode("utf-8", "replace"))
                at += 2 + size
        else:
            (value,) = struct.unpack_from(f">{form}", body, at)
            at += struct.calcsize(f">{form}")
        if name:
            found[name] = value
    return found


def presence(messages: Publishes) -> Detail:
    """Who of a Sparkplug B plant was heard: groups with their edge nodes, and host applications. Pure."""
    nodes: dict[str, set[str]] = {}
    hosts: set[str] = set()
    for topic in messages.topics:
        levels = topic.decode("utf-8", "replace").split("/")
        if len(levels) == 3 and levels[1] == "STATE":
            hosts.add(text(levels[2]))
        elif len(levels) in (4, 5):
            nodes.setdefault(text(levels[1]), set()).add(text(levels[3]))
    return {
        "present": bool(nodes or hosts),
        "groups": {group: sorted(its)[:MOST] for group, its in sorted(nodes.items())[:MOST]},
        "hosts": sorted(hosts)[:MOST],
    }


async def probe(connection: socket.socket, host: str, port: int, manner: Manner) -> Detail:  # noqa: ARG001
    """Knock at a broker; see `talk.Probe`."""
    async with stream(connection) as (reader, writer):
        return await _Visit(reader, writer, manner).make()


async def probe_tls(connection: socket.socket, host: str, port: int, manner: Manner) -> Detail:  # noqa: ARG001
    """The same by TLS; the certificate is shown and not judged, because nothing secret is sent."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        async with stream(connection, context, host, 2 * manner.timeout) as (reader, writer):
            secured: Any = writer.get_extra_info("ssl_object")
            seen = certificate(secured.getpeercert(binary_form=True))
            shown = {"tls": {"version": secured.version(), "certificate": seen}}
            try:
                return shown | await _Visit(reader, writer, manner).make()
            except TimeoutError:
                return shown | {"problem": "it agrees on TLS, and does not answer"}
            except OSError:  # a certificate that is missing is told only after TLS was agreed on
                return shown | {
                    "problem": "it closes the connection after TLS was agreed on; it may want a certificate of its clients"
                }
            except NotSpokenError as error:
                return shown | {"problem": text(error)}
    except ssl.SSLError as error:
        msg = f"TLS is not agreed on: {text(error.reason)}"
        raise NotSpokenError(msg) from None


class _Visit:
    """One visit at a broker, from CONNECT to DISCONNECT."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, manner: Manner) -> None:
        self._reader, self._writer, self._manner = reader, writer, manner
        self._buffer = b""

    async def make(self) -> Detail:
        """What was seen."""
        v5 = self._manner.mqtt.version == "5"
        self._writer.write(connect_packet(f"bifrost{secrets.token_hex(4)}", v5=v5))
        async with asyncio.timeout(self._manner.timeout):
            packet = await self._packet()
        bounds = packet_bounds(packet, 0)
        if packet[0] != 0x20 or bounds is None:
            raise NotSpokenError("it does not speak MQTT: its answer to CONNECT is no CONNACK")
        answer = connack(packet[bounds[0] :])
        other = answer.code == _OTHER_VERSION
        detail: Detail = {
            "version": self._manner.mqtt.version if not other else "3.1.1" if v5 else "5",
            "anonymous": "unknown" if other else "accepted" if answer.code == 0 else "refused",
            "code": answer.code,
            "answer": f"does not take MQTT {self._manner.mqtt.version}"
            if other
            else REASONS.get(answer.code, "refused"),
            **({"broker": answer.properties} if answer.properties else {}),
        }
        if answer.code in _NEEDS_LOGIN:
            detail["login"] = "needed"
        if answer.code == 0:
            try:
                if self._manner.mqtt.sparkplug_wait:
                    detail["sparkplug"] = await self._listen(answer.v5)
            finally:
                self._writer.write(_DISCONNECT)
            with contextlib.suppress(
                OSError
            ):  # it closes the connection; what was under way would make that look like a fault
                async with asyncio.timeout(_TAKING_LEAVE):
                    while await self._reader.read(_MOST_BYTES):
                        pass
        return detail

    async def _packet(self) -> bytes:
        """The next whole packet.

        Raises:
            NotSpokenError: What comes is no packet, or too large.
        """
        while True:
            try:
                bounds = packet_bounds(self._buffer, 0) if self._buffer else None
            except MalformedPacketError:
                raise NotSpokenError("it does not speak MQTT: what it sends are no packets") from None
            if bounds is not None and bounds[1] > _MOST_BYTES:
                msg = f"it sends a packet of {bounds[1]} bytes"
                raise NotSpokenError(msg)
            if bounds is not None and len(self._buffer) >= bounds[1]:
                packet, self._buffer = self._buffer[: bounds[1]], self._buffer[bounds[1] :]
                return packet
            more = await self._reader.read(4096)
            if not more:
                raise ConnectionResetError("it closes the connection instead of answering")
            self._buffer += more

    async def _listen(self, v5: bool) -> Detail:
        heard, taken = Publishes(), 0
        self._writer.write(subscribe_packet(SPARKPLUG, v5=v5))
        try:
            async with asyncio.timeout(self._manner.mqtt.sparkplug_wait):
                while taken < _MOST_BYTES:
                    packet = await self._packet()
                    taken += len(packet)
                    if packet[0] & 0xF0 == 0x30:
                        walk(packet, 0, v5, heard)
                    elif packet[0] == 0x90 and packet[-1] >= 128:
                        return {"present": "unknown", "answer": REASONS.get(packet[-1], "the subscription is refused")}
        except TimeoutError:
            pass
        except (NotSpokenError, OSError) as error:
            return presence(heard) | {"problem": text(error)}
        return presence(heard)
