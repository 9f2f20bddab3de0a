"""Requests, replies and frames as bytes, by the three specifications.

They are MODBUS Application Protocol 1.1b3, MODBUS Messaging on TCP/IP 1.0b and MODBUS over Serial Line 1.02.

Every reply is treated as hostile: it counts only if transaction, unit, function and byte count are those of the request.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

from connectors.sources.modbus.plan import Block, Kind


class BadReplyError(Exception):
    """A reply that does not belong to its request or breaks the protocol; `raw` is what was received."""

    def __init__(self, reason: str, raw: bytes) -> None:
        super().__init__(reason)
        self.raw = raw


class RefusedError(Exception):
    """The device or a gateway answered with an exception; `code` is the exception code."""

    def __init__(self, code: int) -> None:
        super().__init__(f"exception {code}: {EXCEPTIONS.get(code, 'not a code of the specification')}")
        self.code = code


EXCEPTIONS = {
    1: "illegal function",
    2: "illegal data address",
    3: "illegal data value",
    4: "server device failure",
    5: "acknowledge",
    6: "server device busy",
    7: "negative acknowledge",
    8: "memory parity error",
    10: "gateway path unavailable",
    11: "gateway target device failed to respond",
}


@dataclass(frozen=True, slots=True)
class Ask:
    """A request to a unit. There is none but those that read: another function code cannot be made into one.

    Attributes:
        unit_id: The device on the line.
        kind: The table, whose number is the function code.
        address: First address.
        count: How many.
        pdu: The request from the function code on.
        size: Bytes of data in the reply.
        head: What the reply's PDU begins with: function code and byte count.
    """

    unit_id: int
    kind: Kind
    address: int
    count: int
    pdu: bytes = field(init=False)
    size: int = field(init=False)
    head: bytes = field(init=False)

    def __post_init__(self) -> None:
        kind = Kind(self.kind)  # raises for any other number
        size = (self.count + 7) // 8 if kind.is_bits else self.count * 2
        object.__setattr__(self, "pdu", struct.pack(">BHH", kind, self.address, self.count))
        object.__setattr__(self, "size", size)
        object.__setattr__(self, "head", bytes([kind, size]))

    def data_of(self, pdu: bytes) -> bytes:
        """The data of a reply; see `reply_data`."""
        return reply_data(pdu, self.kind, self.size)


_IDENTIFY: Final = bytes([0x2B, 14])  # function code, and kind of the request
_BASIC: Final = 1  # vendor, product and revision
IDENTITY: Final = {0: "vendor", 1: "product", 2: "revision"}


@dataclass(frozen=True, slots=True)
class Identify:
    """A request for what a unit says it is (function code 43 with 14): it reads, too.

    Attributes:
        unit_id: The device on the line.
        first: Number of the text to begin with.
        pdu: The request from the function code on.
        size: 0; how long the reply is, it says itself.
        head: What the reply's PDU begins with.
    """

    unit_id: int
    first: int = 0
    pdu: bytes = field(init=False)
    size: int = 0
    head: bytes = _IDENTIFY

    def __post_init__(self) -> None:
        object.__setattr__(self, "pdu", _IDENTIFY + bytes([_BASIC, self.first]))

    def data_of(self, pdu: bytes) -> bytes:
        """What follows the head of a reply.

        Raises:
            RefusedError: The reply is an exception.
            BadReplyError: The reply is not one to this request.
        """
        if len(pdu) == 2 and pdu[0] == _IDENTIFY[0] | 0x80 and pdu[1]:
            raise RefusedError(pdu[1])
        if len(pdu) < 7 or not pdu.startswith(_IDENTIFY):
            raise BadReplyError("no reply to a request for the identification", pdu)
        return pdu[2:]


def identity(data: bytes) -> tuple[dict[str, str], int | None]:
    """What a reply to `Identify` says, by name, and the number of the text to go on with; None when that is all.

    Raises:
        BadReplyError: It makes no sense.
    """
    said: dict[str, str] = {}
    more, following, count = data[2:5]
    at = 5
    for _ in range(count):
        number, length = data[at : at + 2] if len(data) >= at + 2 else (0, len(data))
        at += 2 + length
        if at > len(data):
            raise BadReplyError("an identification that is cut off", data)
        if number in IDENTITY:
            text = data[at - length : at].decode("utf-8", "replace")
            said[IDENTITY[number]] = "".join(c if c.isprintable() else "?" for c in text).strip()
    return said, following if more == 0xFF else None


def _identification_end(buffer: bytes) -> int | None:
    """Where a reply to `Identify` ends that begins after the first byte of `buffer`; None when that cannot be told yet.

    It says how many texts it has, and each how long it is.

    Raises:
        BadReplyError: It would be longer than a frame can be.
    """
    at = 8
    for _ in range(buffer[7] if len(buffer) > 7 else 0):
        if at > _RTU_MOST:
            raise BadReplyError("an identification that is longer than a frame", buffer[:_RTU_MOST])
        if len(buffer) < at + 2:
            return None
        at += 2 + buffer[at + 1]
    if at > _RTU_MOST - 2:
        raise BadReplyError("an identification that is longer than a frame", buffer[:_RTU_MOST])
    return at if len(buffer) > 7 else None


def ask(block: Block) -> Ask:
    """The request for a block."""
    return Ask(block.unit_id, block.kind, block.address, block.count)


def reply_bytes(block: Block) -> int:
    """Bytes of data in the reply to a block's request."""
    return (block.count + 7) // 8 if block.kind.is_bits else block.count * 2


def reply_data(pdu: bytes, function: int, size: int) -> bytes:
    """The data of a reply PDU.

    Args:
        pdu: The reply, from the function code on.
        function: Function code of the request.
        size: Bytes of data that the request asked for.

    Raises:
        RefusedError: The reply is an exception.
        BadReplyError: The reply is not one to this request.
    """
    if len(pdu) == size + 2 and pdu[0] == function and pdu[1] == size:
        return pdu[2:]
    if len(pdu) == 2 and pdu[0] == function | 0x80 and pdu[1]:
        raise RefusedError(pdu[1])
    if not pdu or pdu[0] & 0x7F != function:
        msg = f"reply with function code {pdu[0] if pdu else 'missing'} to a request with {function}"
    elif pdu[0] & 0x80:
        msg = f"exception reply of {len(pdu)} bytes: {pdu.hex()}"
    else:
        msg = f"reply with {len(pdu) - 2} bytes of data, byte count {pdu[1] if len(pdu) > 1 else 'missing'}, not {size}"
    raise BadReplyError(msg, pdu)


class Frame(NamedTuple):
    """A reply taken out of its frame.

    Attributes:
        used: Bytes of the buffer that it took; 0 when it is not complete.
        transaction: Transaction id, 0 where the framing has none.
        unit_id: The device that answers.
        pdu: The reply from the function code on.
    """

    used: int
    transaction: int
    unit_id: int
    pdu: bytes


INCOMPLETE: Final = Frame(0, 0, 0, b"")


class Framing(Protocol):
    """How a PDU travels on a line.

    Attributes:
        numbered: A reply carries the number of its request, so that a late one is recognized and dropped.
    """

    numbered: bool

    def wrap(self, transaction: int, unit_id: int, pdu: bytes) -> bytes:
        """The frame of a request."""

    def unwrap(self, buffer: bytes) -> Frame:
        """The first reply in `buffer`, or `INCOMPLETE`.

        Raises:
            BadReplyError: What follows in the buffer cannot be trusted.
        """

    def length(self, asked: Ask | Identify) -> int:
        """Bytes of the frame of a sound reply, where its request says it."""

    def plain(self, buffer: bytes, transaction: int, asked: Ask | Identify) -> bytes | None:
        """The data of the reply, where `buffer` is the sound reply to `asked` and nothing else; None for all the rest.

        It says what `unwrap` and `reply_data` say, in one step for what comes all day.
        """


class TcpFraming:
    """MBAP header: transaction, protocol 0, length, unit."""

    numbered = True

    def wrap(self, transaction: int, unit_id: int, pdu: bytes) -> bytes:
        """The frame of a request."""
        return struct.pack(">HHHB", transaction, 0, len(pdu) + 1, unit_id) + pdu

    def unwrap(self, buffer: bytes) -> Frame:
        """The first reply in `buffer`; the length field must be that of a reply to a read (3 to 254)."""
        if len(buffer) < 7:
            return INCOMPLETE
        transaction, protocol, length, unit_id = struct.unpack_from(">HHHB", buffer)
        if protocol or not 3 <= length <= 254:
            raise BadReplyError(f"MBAP header with protocol {protocol} and length {length}", buffer[:260])
        end = 6 + length
        return Frame(end, transaction, unit_id, buffer[7:end]) if len(buffer) >= end else INCOMPLETE

    def length(self, asked: Ask | Identify) -> int:
        """Bytes of the frame of a sound reply."""
        return asked.size + 9

    def plain(self, buffer: bytes, transaction: int, asked: Ask | Identify) -> bytes | None:
        """The data of the reply when there is nothing else."""
        size = asked.size
        head = struct.pack(">HHHB", transaction, 0, size + 3, asked.unit_id) + asked.head
        return buffer[9:] if len(buffer) == size + 9 and buffer.startswith(head) else None


class RtuFraming:
    """Unit, PDU and CRC; how long a reply is follows from its function code and byte count, or the lengths of its texts."""

    numbered = False

    def __init__(self, crc: Callable[[bytes], int]) -> None:
        self._crc = crc

    def wrap(self, transaction: int, unit_id: int, pdu: bytes) -> bytes:  # noqa: ARG002  RTU has no transactions
        """The frame of a request."""
        frame = bytes([unit_id]) + pdu
        return frame + self._crc(frame).to_bytes(2, "big")

    def unwrap(self, buffer: bytes) -> Frame:
        """The first reply in `buffer`."""
        if len(buffer) < 5:
            return INCOMPLETE
        if buffer[1] & 0x80:
            end = 5
        elif 1 <= buffer[1] <= 4:
            end = 5 + buffer[2]
        elif buffer.startswith(_IDENTIFY, 1):
            found = _identification_end(buffer)
            if found is None:
                return INCOMPLETE
            end = found + 2
        else:
            raise BadReplyError(f"RTU frame with function code {buffer[1]}", buffer[:260])
        if len(buffer) < end:
            return INCOMPLETE
        if self._crc(buffer[: end - 2]).to_bytes(2, "big") != buffer[end - 2 : end]:
            raise BadReplyError("RTU frame with a wrong checksum", buffer[:end])
        return Frame(end, 0, buffer[0], buffer[1 : end - 2])

    def length(self, asked: Ask | Identify) -> int:
        """Bytes of the frame of a sound reply."""
        return asked.size + 5

    def plain(self, buffer: bytes, transaction: int, asked: Ask | Identify) -> bytes | None:  # noqa: ARG002
        """The data of the reply when there is nothing else."""
        if len(buffer) != asked.size + 5 or buffer[0] != asked.unit_id or not buffer.startswith(asked.head, 1):
            return None
        if not asked.size:
            return None  # the beginning of an identification
        sound = self._crc(buffer[:-2]).to_bytes(2, "big") == buffer[-2:]
        return buffer[3:-2] if sound else None


class AsciiFraming:
    """A colon, unit, PDU and LRC as hexadecimal digits, carriage return and line feed."""

    numbered = False

    def wrap(self, transaction: int, unit_id: int, pdu: bytes) -> bytes:  # noqa: ARG002  ASCII has no transactions
        """The frame of a request."""
        frame = bytes([unit_id]) + pdu
        return b":" + (frame + bytes([-sum(frame) & 0xFF])).hex().upper().encode() + b"\r\n"

    def unwrap(self, buffer: bytes) -> Frame:
        """The first reply in `buffer`; 255 bytes as digits at most."""
        end = buffer.find(b"\n", 0, _ASCII_MOST)
        if end < 0:
            if buffer[:1] not in {b"", b":"} or len(buffer) >= _ASCII_MOST:
                raise BadReplyError("no ASCII frame", buffer[:_ASCII_MOST])
            return INCOMPLETE
        end += 1
        line = buffer[:end]
        try:
            frame = bytes.fromhex(line[1:-2].decode("ascii")) if _is_ascii_frame(line) else b""
        except ValueError:
            frame = b""
        if len(frame) < 4:
            raise BadReplyError("no ASCII frame", line)
        if sum(frame) & 0xFF:
            raise BadReplyError("ASCII frame with a wrong checksum", line)
        return Frame(end, 0, frame[0], frame[1:-1])

    def length(self, asked: Ask | Identify) -> int:
        """Bytes of the frame of a sound reply."""
        return 2 * asked.size + 11

    def plain(self, buffer: bytes, transaction: int, asked: Ask | Identify) -> bytes | None:  # noqa: ARG002
        """Nothing: it is slow on the line anyway."""
        return None


_RTU_MOST: Final = 256
_ASCII_MOST: Final = 513
_HEX: Final = frozenset(b"0123456789ABCDEFabcdef")


def _is_ascii_frame(line: bytes) -> bool:
    """Whether it is a colon, digits and the end; `bytes.fromhex` would take spaces too."""
    return line.startswith(b":") and line.endswith(b"\r\n") and _HEX.issuperset(line[1:-2])
