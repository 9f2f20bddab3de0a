"""Publish responses taken apart, and their values column by column where they can be. Pure, no client library.

A DataChangeNotification (OPC 10000-4 clause 7.25.2) of scalar numbers is rows of one fixed layout as long as the encoding mask
and the type stay the same: such a *run* is one structured array over the bytes of the message.
"""

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np

from connectors.sources.opcua.binary import EPOCH, LAST, NUMBERS, Malformed, node_id
from normalization.columns import NULL_TIME
from normalization.quality import opcua_quality

DATA_CHANGE: Final = "i=811"
STATUS_CHANGE: Final = "i=820"
_DATA_CHANGE: Final = b"\x01\x00\x2b\x03"  # as nearly everybody writes it
OVERFLOW: Final = 0x480  # info type DataValue and the overflow bit (OPC 10000-4 clause 7.39)
SHORTEST: Final = 8  # rows from which on a run costs less than its rows one by one
_LONGEST: Final = 4096  # rows that are looked at for one run: what is looked at in vain stays little

_MOST_AVAILABLE: Final = 10_000  # messages that a server can send again, as far as we look

_i32: Final = struct.Struct("<i").unpack_from
_u32: Final = struct.Struct("<I").unpack_from


@dataclass(frozen=True, slots=True)
class Notification:
    """A PublishResponse without its values (OPC 10000-4 clause 5.14.5).

    Attributes:
        subscription: Id of the subscription.
        sequence: Number of the message; of the next one when `parts` is empty (a keep-alive).
        more: The server has more notifications waiting.
        parts: Type of each notification (`DATA_CHANGE`, …), and where its body begins and ends.
        available: Numbers of the messages that the server can send again, the first of them at least.
    """

    subscription: int
    sequence: int
    more: bool
    parts: list[tuple[str, int, int]]
    available: tuple[int, ...] = ()


def notification(data: bytes, pos: int) -> Notification:
    """Take a PublishResponse apart.

    Args:
        data: The message.
        pos: Where the response header ended.

    Raises:
        Malformed: It is none.
    """
    try:
        (subscription,) = _u32(data, pos)
        (count,) = _i32(data, pos + 4)
        available = struct.unpack_from(f"<{min(max(0, count), _MOST_AVAILABLE)}I", data, pos + 8)
        pos += 8 + 4 * max(0, count)
        more = data[pos] != 0
        return republished(data, pos + 1, subscription, more=more, available=available)
    except (struct.error, IndexError) as error:
        raise Malformed(str(error)) from None


def republished(
    data: bytes, pos: int, subscription: int, *, more: bool = False, available: tuple[int, ...] = ()
) -> Notification:
    """Take a NotificationMessage apart (OPC 10000-4 clause 7.26), which is what a RepublishResponse holds.

    Args:
        data: The message.
        pos: Where the NotificationMessage begins.
        subscription: Id of its subscription.
        more: The server has more notifications waiting.
        available: Numbers of the messages that the server can send again.

    Raises:
        Malformed: It is none.
    """
    try:
        sequence, _, count = struct.unpack_from("<Iqi", data, pos)
        pos += 16
        parts = []
        for _ in range(count):
            if data[pos : pos + 4] == _DATA_CHANGE:
                kind, pos = DATA_CHANGE, pos + 4
            else:
                kind, pos = node_id(data, pos)
            if data[pos] == 0:
                pos += 1
                continue
            (length,) = _i32(data, pos + 1)
            pos += 5
            if not 0 <= length <= len(data) - pos:
                msg = f"a notification of {length} bytes, of which {len(data) - pos} are there"
                raise Malformed(msg)
            parts.append((kind, pos, pos + length))
            pos += length
    except (struct.error, IndexError) as error:
        raise Malformed(str(error)) from None
    return Notification(subscription, sequence, more, parts, available)


@dataclass(frozen=True, slots=True)
class Layout:
    """A DataValue that is a scalar number: mask, type, value, status, times; after its client handle in a notification.

    Attributes:
        start: Where the mask begins.
        unpack: Its fields from bytes.
        size: How many bytes it has.
        status: Place of the status among its fields; 0 for none.
        time: Place of the time that is wanted; 0 for none.
        unsigned: The number has 64 bits and no sign.
        rows: The same as a type of rows: `kind` (mask and type), `value`; `handle`, `status` and `time` where it has them.
    """

    start: int
    unpack: Callable[[bytes, int], tuple[Any, ...]]
    size: int
    status: int
    time: int
    unsigned: bool
    rows: np.dtype[Any]


@lru_cache(maxsize=4)
def layouts(*, server_time: bool, handles: bool = True) -> Mapping[int, Layout]:
    """All layouts, by mask * 256 + type; with the server's timestamp or the source's, with client handles or without."""
    out = {}
    for mask in range(1, 64, 2):
        if (mask & 16 and not mask & 4) or (mask & 32 and not mask & 8):
            continue  # picoseconds of a time that is not there: left to who reads field by field
        for builtin, code in NUMBERS.items():
            fields = [("handle", "u4", "I")] * handles
            fields += [("kind", "<u2", "H"), ("value", "u1" if code == "?" else code, code)]
            fields += [("status", "u4", "I")] * bool(mask & 2)
            fields += [("other" if server_time else "time", "i8", "q")] * bool(mask & 4)
            fields += [("source picoseconds", "u2", "H")] * bool(mask & 16)
            fields += [("time" if server_time else "other", "i8", "q")] * bool(mask & 8)
            fields += [("server picoseconds", "u2", "H")] * bool(mask & 32)
            names = [name for name, _, _ in fields]
            layout = struct.Struct("<" + "".join(code for _, _, code in fields))
            rows = np.dtype([(name, np.dtype(kind).newbyteorder("<")) for name, kind, _ in fields])
            at = {name: names.index(name) for name in ("status", "time") if name in names}
            out[mask << 8 | builtin] = Layout(
                4 * handles,
                layout.unpack_from,
                layout.size,
                at.get("status", 0),
                at.get("time", 0),
                builtin == 9,
                rows,
            )
    return out


def run_of(data: bytes, pos: int, layout: Layout, left: int) -> np.ndarray | None:
    """The rows from `pos` on that have this layout, which the first of them has; None when they are too few.

    Args:
        data: The bytes.
        pos: Where the first row begins.
        layout: Its layout.
        left: How many rows there are at most.
    """
    size = layout.size
    count = min(left, (len(data) - pos) // size, _LONGEST)
    if count < SHORTEST:
        return None
    kind = data[pos + layout.start : pos + layout.start + 2]
    for at in range(pos + size + layout.start, pos + SHORTEST * size, size):
        if data[at : at + 2] != kind:
            return None
    rows = np.frombuffer(data, layout.rows, count, pos)
    different = rows["kind"] != rows["kind"][0]
    first = int(different.argmax())
    return rows[:first] if different[first] else rows


def numbers_of(rows: np.ndarray) -> np.ndarray:
    """The values of a run."""
    values: np.ndarray = rows["value"]
    return values != 0 if rows["kind"][0] >> 8 == 1 else values


def times_of(rows: np.ndarray) -> np.ndarray | None:
    """The times of a run as µs since 1970, `NULL_TIME` where they say nothing (see `binary.microseconds`)."""
    if "time" not in (rows.dtype.names or ()):
        return None
    ticks = rows["time"]
    times: np.ndarray = (ticks - EPOCH) // 10
    if not 0 < int(ticks.min()) <= int(ticks.max()) < LAST:
        times[(ticks <= 0) | (ticks >= LAST)] = NULL_TIME
    return times


def qualities(status: np.ndarray) -> np.ndarray:
    """Quality of each status."""
    codes, places = np.unique(status, return_inverse=True)
    found: np.ndarray = np.array([opcua_quality(code) for code in codes.tolist()], np.int8)[places]
    return found
