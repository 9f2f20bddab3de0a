"""Listens on the loopback wire between an MQTT broker and the gateway, and tells how long each PUBACK took.

The kernel stamps every segment as it passes, so neither side is slowed or changed, and what waits in a socket's buffer
counts too. Only the listener's process needs the right to open a packet socket.
"""

import ctypes
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Final

import numpy as np

_ETH_P_IP: Final = 0x0800
_SO_ATTACH_FILTER: Final = 26
_SO_TIMESTAMPNS: Final = 35
_PACKET_HOST: Final = 0  # loopback shows every packet twice, as sent and as received
_STAMP: Final = struct.Struct("qq")
_LARGEST: Final = 70_000
_BUFFER: Final = 64 * 1024 * 1024

Segment = tuple[int, bool, int, bytes]  # ns, whether from the broker, sequence number, data


class Tap:
    """Keeps every TCP segment to and from a port of the loopback interface while it is open."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.segments: list[Segment] = []
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_IP))
        program = _port_filter(port)
        buffer = ctypes.create_string_buffer(program)
        self._socket.setsockopt(
            socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer))
        )
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, 33, _BUFFER)  # SO_RCVBUFFORCE
        self._socket.bind(("lo", _ETH_P_IP))
        self._socket.settimeout(0.2)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="tap", daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        while not self._ended.is_set():
            try:
                data, ancillary, _, address = self._socket.recvmsg(_LARGEST, 64)
            except TimeoutError:
                continue
            if address[2] != _PACKET_HOST:
                continue
            seconds, nanos = _STAMP.unpack(ancillary[0][2][: _STAMP.size])
            start = (data[0] & 15) * 4
            source, _, sequence = struct.unpack_from("!HHI", data, start)
            body = start + (data[start + 12] >> 4) * 4
            length = int.from_bytes(data[2:4], "big") or len(data)
            if length > body:
                self.segments.append((seconds * 10**9 + nanos, source == self.port, sequence, data[body:length]))

    def close(self) -> list[Segment]:
        """Stop, and give what passed."""
        self._ended.set()
        self._thread.join()
        self._socket.close()
        return self.segments


def _port_filter(port: int) -> bytes:
    """A BPF program: only TCP segments without IP options, to or from `port`."""
    steps = [
        (0x30, 0, 0, 9),  # protocol
        (0x15, 0, 5, 6),
        (0x28, 0, 0, 20),  # source port
        (0x15, 2, 0, port),
        (0x28, 0, 0, 22),  # destination port
        (0x15, 0, 1, port),
        (0x06, 0, 0, 0xFFFFFFFF),
        (0x06, 0, 0, 0),
    ]
    return b"".join(struct.pack("HBBI", *step) for step in steps)


def waits(segments: list[Segment], since: int = 0, until: int = 2**63) -> np.ndarray:
    """Seconds from the last byte of each QoS 1 PUBLISH to its PUBACK.

    Args:
        segments: Those of one connection, from its first byte on; one that was sent again counts when it first passed.
        since: PUBLISHes before this moment, ns since the epoch, do not count.
        until: Nor those from this moment on.
    """
    asked: dict[int, int] = {}
    found: list[float] = []
    events = [(moment, True, packet) for moment, packet in _packets(segments, from_broker=True)]
    events += [(moment, False, packet) for moment, packet in _packets(segments, from_broker=False)]
    for moment, from_broker, packet in sorted(events, key=lambda event: event[0]):
        kind = packet[0] >> 4
        if from_broker and kind == 3 and packet[0] & 0x06:
            asked[_packet_id(packet)] = moment
        elif not from_broker and kind == 4:
            then = asked.pop(int.from_bytes(packet[2:4], "big"), -1)
            if since <= then < until:
                found.append((moment - then) / 1e9)
    return np.array(found)


def _packet_id(publish: bytes) -> int:
    start = next(i for i in range(1, 5) if publish[i] < 0x80) + 1
    topic = int.from_bytes(publish[start : start + 2], "big")
    return int.from_bytes(publish[start + 2 + topic : start + 4 + topic], "big")


def _packets(segments: list[Segment], *, from_broker: bool) -> Iterator[tuple[int, bytes]]:
    """MQTT packets of one direction, each with the moment at which its last byte passed."""
    waiting, expected = bytearray(), -1
    for moment, direction, sequence, data in segments:
        if direction != from_broker:
            continue
        if expected >= 0 and (ahead := (expected - sequence) % 2**32) < 2**31:
            data = data[ahead:]  # what had passed before
        elif expected >= 0:
            waiting.clear()  # the tap missed something: begin anew at this segment
        if not data:
            continue
        expected = (
            (sequence + len(data)) % 2**32 if expected < 0 or sequence == expected else (expected + len(data)) % 2**32
        )
        waiting += data
        at = 0
        while at + 2 <= len(waiting):
            length = shift = 0
            index = at + 1
            while index < len(waiting):
                length |= (waiting[index] & 0x7F) << shift
                index += 1
                if waiting[index - 1] < 0x80:
                    break
                shift += 7
            else:
                break
            if index + length > len(waiting):
                break
            yield moment, bytes(waiting[at : index + length])
            at = index + length
        del waiting[:at]
