"""Runs of equal notifications, decoded column by column: as asyncua decodes them, and as they are decoded one by one."""

import math
import random
import struct
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from asyncua import ua
from asyncua.common.utils import Buffer
from asyncua.ua.ua_binary import struct_from_binary
from hypothesis import given, settings
from hypothesis import strategies as st
from typing_extensions import override

from connectors.sources.opcua.binary import LAST, NUMBERS, Types, microseconds
from connectors.sources.opcua.decode import Item, ValueDecoder
from connectors.sources.opcua.notification import SHORTEST, layouts, qualities, run_of
from normalization.quality import opcua_quality
from normalization.reading import Columns

HANDLES = 6
ENUMERATION = {0: '{"enum":"Off"}', 1: '{"enum":"On"}', 200: '{"enum":"Fault"}'}
STATUSES = [0, 0x40000000, 0x80340000, 0x480, 0x80000480, 0x408F0000, 0xFFFFFFFF]
ODD_TICKS = [0, -1, LAST, 2**63 - 1, -(2**63)]
TEXT, FLOATS = 12, 0x8B  # a String, an array of Double


@dataclass(frozen=True)
class Sent:
    """One MonitoredItemNotification."""

    handle: int
    mask: int
    builtin: int
    value: bytes
    status: int
    source: int
    server: int

    def bytes(self, *, as_asyncua: bool = False) -> bytes:
        """As the specification has it; asyncua 2.1 expects the picoseconds behind both times (against OPC 10000-6 5.2.2.17)."""
        mask = self.mask
        parts = [struct.pack("<IB", self.handle, mask)]
        if mask & 1:
            parts.append(bytes([self.builtin]) + self.value)
        if mask & 2:
            parts.append(struct.pack("<I", self.status))
        fields = [
            (4, struct.pack("<q", self.source)),
            (16, b"\x01\x00"),
            (8, struct.pack("<q", self.server)),
            (32, b"\x02\x00"),
        ]
        if as_asyncua:
            fields[1:3] = fields[2:0:-1]
        parts += [field for bit, field in fields if mask & bit]
        return b"".join(parts)


def body(sent: list[Sent], count: int | None = None, **more: Any) -> bytes:
    encoded = b"".join(one.bytes(**more) for one in sent)
    return struct.pack("<i", len(sent) if count is None else count) + encoded + struct.pack("<i", -1)


@st.composite
def notifications(draw: Any, *, odd_times: bool = True) -> list[Sent]:
    """Runs of some length, of any mask and type, between which there are others."""
    rng = random.Random(draw(st.integers(0, 2**32)))

    def ticks() -> int:
        return rng.choice(ODD_TICKS) if odd_times and rng.random() < 0.1 else rng.randrange(1, LAST)

    out = []
    for _ in range(draw(st.integers(1, 4))):
        mask = draw(st.sampled_from([13, 13, 15, 5, 9, 11]) | st.integers(0, 63))
        builtin = draw(st.sampled_from([11, 11, 1, *NUMBERS, TEXT, FLOATS]))
        status = draw(st.sampled_from(STATUSES))
        for _ in range(draw(st.sampled_from([1, 2, SHORTEST - 1, SHORTEST, SHORTEST + 1, 20]))):
            value = rng.randbytes(struct.calcsize(NUMBERS.get(builtin, "d")))
            if builtin == 1:
                value = bytes([value[0] & 1])
            elif builtin == TEXT:
                value = struct.pack("<i", 2) + b"ab"
            elif builtin == FLOATS:
                value = struct.pack("<i", 1) + value
            one = rng.choice(STATUSES) if rng.random() < 0.2 else status
            out.append(Sent(rng.randrange(HANDLES), mask, builtin, value, one, ticks(), ticks()))
    return out


def items() -> list[Item]:
    return [Item(100 + at, ENUMERATION if at == 2 else None) for at in range(HANDLES)]


class OneByOne(ValueDecoder):
    """Decodes without runs."""

    def __init__(self, *given_: Any, **more: Any) -> None:
        super().__init__(*given_, **more)
        self._read_layouts = {}

    @override
    def _take_run(self, *_: Any) -> int:
        return 0


def told_apart(rows: Columns) -> dict[str, list[Any]]:
    return {name: [repr(v) if isinstance(v, float) else v for v in getattr(rows, name)] for name in Columns.__slots__}


@given(notifications(odd_times=False), st.booleans())
@settings(max_examples=200, deadline=None)
def test_every_field_is_what_asyncua_decodes(sent: list[Sent], server_time: bool) -> None:
    rows = Columns()
    ValueDecoder(items(), Types(), server_time=server_time).data_change(body(sent), rows)
    theirs = struct_from_binary(ua.DataChangeNotification, Buffer(body(sent, as_asyncua=True))).MonitoredItems
    assert len(rows) == len(theirs) == len(sent)
    expected = Columns()
    for one, decoded in zip(sent, theirs, strict=True):
        data = decoded.Value
        assert decoded.ClientHandle == one.handle
        value = data.Value.Value if data.Value is not None else None
        status = int(data.StatusCode.value) if data.StatusCode is not None else 0
        ticks = (one.server if one.mask & 8 else 0) if server_time else (one.source if one.mask & 4 else 0)
        named = one.handle == 2 and isinstance(value, int)
        expected.add(
            100 + one.handle,
            value,
            quality=opcua_quality(status),
            status=status,
            source_time=microseconds(ticks),
            properties=ENUMERATION.get(value) if named else None,
            unsigned=one.builtin == 9,
        )
        when = data.ServerTimestamp if server_time else data.SourceTimestamp
        assert (when is None) == (ticks == 0)
        if when is not None:
            origin = when.replace(year=1970, month=1, day=1, hour=0, minute=0, second=0, microsecond=0)
            whole = when - origin
            found = (whole.days * 86_400 + whole.seconds) * 1_000_000 + whole.microseconds
            assert found == microseconds(ticks)
    assert told_apart(rows) == told_apart(expected)


@given(notifications(), st.booleans(), st.data())
@settings(max_examples=300, deadline=None)
def test_damaged_bytes_are_what_they_are_one_by_one(sent: list[Sent], server_time: bool, data: Any) -> None:
    damaged = bytearray(body(sent, data.draw(st.none() | st.integers(-1, 2**31 - 1))))
    for _ in range(data.draw(st.integers(0, 3))):
        damaged[data.draw(st.integers(4, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del damaged[data.draw(st.integers(0, len(damaged))) :]
    runs, singles = Columns(), Columns()
    overflowed = ValueDecoder(items(), Types(), server_time=server_time).data_change(bytes(damaged), runs)
    again = OneByOne(items(), Types(), server_time=server_time).data_change(bytes(damaged), singles)
    assert overflowed == again
    assert told_apart(runs) == told_apart(singles)


@given(notifications(), st.booleans(), st.data())
@settings(max_examples=200, deadline=None)
def test_answers_of_a_poll_are_what_they_are_one_by_one(sent: list[Sent], server_time: bool, data: Any) -> None:
    answer = bytearray(struct.pack("<i", len(sent)) + b"".join(one.bytes()[4:] for one in sent))
    handles = np.array([one.handle for one in sent])
    for _ in range(data.draw(st.integers(0, 2))):
        answer[data.draw(st.integers(4, len(answer) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del answer[data.draw(st.integers(4, len(answer))) :]
    runs, singles = Columns(), Columns()
    ValueDecoder(items(), Types(), server_time=server_time).read_results(bytes(answer), 0, handles, runs)
    OneByOne(items(), Types(), server_time=server_time).read_results(bytes(answer), 0, handles, singles)
    assert told_apart(runs) == told_apart(singles)
    assert len(runs) == len(sent)


def test_a_run_ends_where_mask_or_type_change() -> None:
    layout = layouts(server_time=False)[13 << 8 | 11]
    value = struct.pack("<d", math.pi)
    doubles = [Sent(at, 13, 11, value, 0, 7, 8) for at in range(SHORTEST + 2)]
    for other in (Sent(99, 15, 11, value, 0, 7, 8), Sent(99, 13, 8, value, 0, 7, 8)):
        data = body([*doubles, other, *doubles])
        run = run_of(data, 4, layout, 2 * len(doubles) + 1)
        assert run is not None
        assert run["handle"].tolist() == list(range(SHORTEST + 2))
        assert run["value"].tolist() == [math.pi] * (SHORTEST + 2)
    assert run_of(body(doubles), 4, layout, SHORTEST - 1) is None
    assert run_of(body(doubles)[: 4 + SHORTEST * layout.size - 1], 4, layout, len(doubles)) is None


def test_a_run_of_doubles_is_not_gone_through_one_by_one() -> None:
    rows = Columns()
    sent = [Sent(at % HANDLES, 15, 11, struct.pack("<d", at), 0x480 * (at == 77), 116_444_736_000_000_010 + at * 10, 0) for at in range(1000)]  # fmt: skip

    class Watched(ValueDecoder):
        taken = 0

        @override
        def _take_run(self, *arguments: Any) -> int:
            found = super()._take_run(*arguments)
            self.taken += found
            return found

    decoder = Watched([Item(100 + at) for at in range(HANDLES)], Types())
    assert decoder.data_change(body(sent), rows) == [100 + 77 % HANDLES]
    assert decoder.taken == 1000
    assert rows.value_double == [float(at) for at in range(1000)]
    assert rows.source_time == [at + 1 for at in range(1000)]
    assert rows.status[77] == 0x480


@pytest.mark.parametrize("hostile", ["unknown handles", "short runs", "a count without values"])
def test_hostile_notifications_cost_no_more_than_their_bytes(hostile: str) -> None:
    """Each row could make the decoder look at all the rows behind it: 3 MB would take minutes."""
    value = struct.pack("<d", 1)
    unknown = Sent(99, 13, 11, value, 0, 7, 8).bytes()
    known, other = Sent(1, 13, 11, value, 0, 7, 8).bytes(), Sent(1, 13, 8, value, 0, 7, 8).bytes()
    rows, count = 100_000, 100_000
    encoded = unknown * rows
    if hostile == "short runs":
        encoded = (known * SHORTEST + other) * (rows // (SHORTEST + 1))
    elif hostile == "a count without values":
        encoded, count = known, 2**31 - 1
    taken = Columns()
    began = time.process_time()
    ValueDecoder(items(), Types()).data_change(struct.pack("<i", count) + encoded, taken)
    assert time.process_time() - began < 10
    assert len(taken) == (2 if hostile.startswith("a count") else rows)


@given(st.lists(st.integers(0, 2**32 - 1) | st.sampled_from(STATUSES), min_size=1, max_size=30))
def test_qualities_of_many_are_those_of_each(codes: list[int]) -> None:
    assert qualities(np.array(codes, np.uint32)).tolist() == [opcua_quality(code) for code in codes]
