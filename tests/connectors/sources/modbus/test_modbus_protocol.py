"""Frames and replies as bytes, sound and mutated."""

import random
import struct
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymodbus.framer import FramerRTU, FramerSocket
from pymodbus.pdu import DecodePDU

from connectors.sources.modbus.plan import Block, Kind
from connectors.sources.modbus.protocol import (
    AsciiFraming,
    Ask,
    BadReplyError,
    Framing,
    RefusedError,
    RtuFraming,
    TcpFraming,
    ask,
    reply_bytes,
    reply_data,
)

FRAMINGS: list[Framing] = [TcpFraming(), RtuFraming(FramerRTU.compute_CRC)]
ALL: list[Framing] = [*FRAMINGS, AsciiFraming()]


def reply(function: int, data: bytes) -> bytes:
    return bytes([function, len(data)]) + data


@pytest.mark.parametrize(
    ("kind", "address", "count", "wire", "size"),
    [
        (Kind.COIL, 0x13, 0x25, "0100130025", 5),
        (Kind.DISCRETE, 0xC4, 0x16, "0200c40016", 3),
        (Kind.HOLDING, 0x6B, 3, "03006b0003", 6),
        (Kind.INPUT, 8, 1, "0400080001", 2),
        (Kind.HOLDING, 65411, 125, "03ff83007d", 250),
    ],
)
def test_requests_are_those_of_the_specification(kind, address, count, wire, size):
    block = Block(1, kind, address, count, (0,))
    assert ask(block).pdu.hex() == wire
    assert reply_bytes(block) == size


def test_frames_are_those_of_pymodbus():
    pdu = bytes.fromhex("03006b0003")
    ours = [framing.wrap(0x1501, 17, pdu) for framing in FRAMINGS]
    theirs = [framer(DecodePDU(False)).encode(pdu, 17, 0x1501) for framer in (FramerSocket, FramerRTU)]
    assert ours == theirs


@pytest.mark.parametrize("framing", FRAMINGS, ids=["tcp", "rtu"])
@settings(deadline=None)
@given(st.integers(1, 4), st.binary(min_size=1, max_size=250), st.integers(0, 255), st.binary(max_size=20))
def test_a_reply_is_found_when_its_last_byte_is_there_and_not_before(framing, function, data, unit, behind):
    pdu = reply(function, data)
    frame = framing.wrap(77, unit, pdu)
    for end in range(len(frame)):
        assert framing.unwrap(frame[:end]).used == 0
    assert framing.unwrap(frame + behind) == (len(frame), 77 if framing.numbered else 0, unit, pdu)
    assert reply_data(pdu, function, len(data)) == data


@pytest.mark.parametrize("framing", FRAMINGS, ids=["tcp", "rtu"])
def test_an_exception_reply_carries_its_code(framing):
    frame = framing.wrap(1, 1, b"\x83\x0b")
    with pytest.raises(RefusedError, match="exception 11: gateway target device failed to respond") as caught:
        reply_data(framing.unwrap(frame).pdu, 3, 10)
    assert caught.value.code == 11


@pytest.mark.parametrize(
    ("pdu", "says"),
    [
        (b"", "function code missing"),
        (b"\x03", "byte count missing"),
        (b"\x04\x02\0\0", "function code 4 to a request with 3"),
        (b"\x84\x02", "function code 132"),
        (b"\x03\x04\0\0\0\0", "4 bytes of data, byte count 4, not 2"),
        (b"\x03\x02\0\0\0", "3 bytes of data, byte count 2"),
        (b"\x03\x02\0", "1 bytes of data"),
        (b"\x83", "exception reply of 1 bytes"),
        (b"\x83\x02\x02", "exception reply of 3 bytes"),
        (b"\x83\0", "exception reply of 2 bytes"),
    ],
)
def test_a_reply_that_is_not_to_the_request_is_refused_with_its_bytes(pdu, says):
    with pytest.raises(BadReplyError, match=says) as caught:
        reply_data(pdu, 3, 2)
    assert caught.value.raw == pdu


@pytest.mark.parametrize("length", [0, 1, 2, 255, 256, 0xFFFF])
def test_a_header_that_cannot_be_one_is_refused_at_once_and_not_waited_for(length):
    with pytest.raises(BadReplyError, match=f"length {length}"):
        TcpFraming().unwrap(struct.pack(">HHHB", 1, 0, length, 1))
    with pytest.raises(BadReplyError, match="protocol 1"):
        TcpFraming().unwrap(struct.pack(">HHHB", 1, 1, 6, 1))
    with pytest.raises(BadReplyError, match="function code 16"):
        FRAMINGS[1].unwrap(b"\x01\x10\x00\x00\x00")


@settings(deadline=None)
@given(st.binary(max_size=600))
def test_any_bytes_are_a_frame_or_not_complete_or_refused(buffer):
    for framing in FRAMINGS:
        frame = None
        with suppress(BadReplyError):
            frame = framing.unwrap(buffer)
        if frame is None:
            continue
        assert 0 <= frame.used <= len(buffer)
        assert len(frame.pdu) <= 257
        for size in (2, 250):
            with suppress(RefusedError, BadReplyError):
                assert len(reply_data(frame.pdu, 3, size)) == size


def test_no_changed_byte_of_an_rtu_frame_goes_unseen():
    framing, chance = FRAMINGS[1], random.Random(7)
    frame = framing.wrap(0, 5, reply(3, bytes(range(40))))
    for _ in range(5000):
        changed = bytearray(frame)
        for _ in range(chance.randint(1, 2)):
            changed[chance.randrange(len(frame))] ^= 1 << chance.randrange(8)
        if changed != frame:
            try:
                got = framing.unwrap(bytes(changed))
                assert got.used == 0, "taken for a sound frame"
            except BadReplyError:
                pass


@pytest.mark.parametrize("framing", ALL, ids=["tcp", "rtu", "ascii"])
@settings(deadline=None)
@given(st.integers(0, 2**32))
def test_the_short_way_to_an_answer_says_what_the_long_way_says_or_nothing(framing, seed):
    chance = random.Random(seed)
    asked = Ask(chance.randrange(256), Kind(chance.randint(1, 4)), 7, chance.randint(1, 125))
    buffer = bytearray(framing.wrap(5, asked.unit_id, asked.head + chance.randbytes(asked.size)))
    match chance.randrange(6):
        case 0:
            buffer[chance.randrange(len(buffer))] ^= 1 << chance.randrange(8)
        case 1:
            buffer[chance.randrange(min(9, len(buffer)))] = chance.randrange(256)
        case 2:
            del buffer[chance.randrange(len(buffer)) :]
        case 3:
            buffer += chance.randbytes(3)
    found = framing.plain(bytes(buffer), 5, asked)
    expected = None
    with suppress(BadReplyError, RefusedError):
        frame = framing.unwrap(bytes(buffer))
        mine = frame.transaction == (5 if framing.numbered else 0) and frame.unit_id == asked.unit_id
        if frame.used == len(buffer) and mine:
            expected = reply_data(frame.pdu, asked.kind, asked.size)
    assert found == expected or (found is None and isinstance(framing, AsciiFraming))
    if expected is not None:
        assert framing.length(asked) == len(buffer)
