"""Values of a server to readings: those of notifications and of read responses. Pure, no client library.

What a server may send wrong is of two kinds. A value whose extent is known but that makes no sense (a structure that does not
fit its definition) becomes a reject row, and decoding goes on behind it. Where the extent is lost too, the rest of the message
becomes one reject row.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from connectors.sources.opcua.binary import EPOCH, LAST, Malformed, Types, data_value, microseconds
from connectors.sources.opcua.heard import Heard
from connectors.sources.opcua.notification import (
    OVERFLOW,
    layouts,
    numbers_of,
    qualities,
    run_of,
    times_of,
)
from normalization.columns import NULL_TIME
from normalization.quality import opcua_quality
from normalization.reading import Columns, Flags, Quality

_NO_VALUE: Final = {0x809B0000, 0x80D70000, 0x80D80000}  # BadNoData, BadBoundNotFound, BadBoundNotSupported
_i32: Final = struct.Struct("<i").unpack_from
_u32: Final = struct.Struct("<I").unpack_from


@dataclass(frozen=True, slots=True)
class Item:
    """What decoding needs to know about one monitored or polled node.

    Attributes:
        tag: Row of the tag table.
        names: Properties (JSON) by value of an enumeration; None for other types.
    """

    tag: int
    names: dict[int, str] | None = None


@dataclass(frozen=True, slots=True)
class LostBefore:
    """Values of a node were lost in the server, between its last one and that of a time.

    Attributes:
        handle: Client handle of the node.
        time: µs since the epoch.
    """

    handle: int
    time: int


class ValueDecoder:
    """Values of one connection into `Columns`.

    Args:
        items: What is known about a node, by client handle.
        types: The server's structures.
        server_time: Take the server's timestamp instead of the source's.

    Attributes:
        seen: Handles and times of what was decoded, one by one or in arrays, until somebody takes them; None when nobody does.
            `LostBefore` stands before a value of a node in `fillable` whose queue overflowed.
        fillable: Whether what overflowed can be had otherwise, by client handle.
        heard: What was last heard of each node; None when nobody watches.
    """

    def __init__(self, items: Sequence[Item], types: Types, *, server_time: bool = False) -> None:
        self.types = types
        self._server_time = server_time
        self._layouts = layouts(server_time=server_time)
        self._read_layouts = layouts(server_time=server_time, handles=False)
        self.items: list[Item] = []
        self.heard: Heard | None = None
        self._tags, self._named, self._any_named = np.empty(0, np.int32), np.empty(0, np.bool_), False
        self.extend(items)
        self.seen: list[Any] | None = None
        self.fillable = np.empty(0, np.bool_)

    def extend(self, items: Sequence[Item]) -> None:
        """Know further nodes; their handles follow."""
        self.items += items
        self._tags = np.array([item.tag for item in self.items], np.int32)
        self._named = np.array([item.names is not None for item in self.items], np.bool_)
        self._any_named = bool(self._named.any())
        if self.heard is not None:
            self.heard.extend(len(self.items))

    def data_change(self, data: bytes, rows: Columns) -> list[int]:
        """Append the values of a DataChangeNotification (OPC 10000-4 clause 7.25.2), given its body.

        Returns:
            Tags whose queue overflowed in the server and is not `fillable`: values before the one in `rows` were lost.
        """
        items, layouts_, add = self.items, self._layouts, rows.add
        known = len(items)
        overflowed: list[int] = []
        handle = known
        pos = 4
        try:
            (left,) = _i32(data)
            while left > 0:
                layout = layouts_.get(data[pos + 4] << 8 | data[pos + 5])
                if layout is None:
                    pos, handle = self._other(data, pos, rows, overflowed)
                    left -= 1
                    continue
                run = run_of(data, pos, layout, left)
                if run is not None and (taken := self._take_run(run, run["handle"], rows, overflowed)):
                    pos += taken * layout.size
                    left -= taken
                    handle = int(run["handle"][taken - 1])
                    continue
                values = layout.unpack(data, pos)
                left -= 1
                handle = values[0]
                if handle >= known:
                    raw = data[pos : pos + layout.size]
                    self._reject(rows, handle, f"the server sent the unknown handle {handle}", raw)
                    pos += layout.size
                    continue
                pos += layout.size
                item = items[handle]
                status = values[layout.status] if layout.status else 0
                ticks = values[layout.time] if layout.time else 0
                when = (ticks - EPOCH) // 10 if 0 < ticks < LAST else None
                if status & OVERFLOW == OVERFLOW:
                    self._lost_before(handle, when, overflowed)
                if self.seen is not None and when is not None:
                    self.seen.append((handle, when))
                value = values[2]
                if self.heard is not None:
                    self.heard.one(handle, value, status)
                add(
                    item.tag,
                    value,
                    quality=opcua_quality(status) if status else 0,
                    status=status,
                    source_time=when,
                    properties=item.names.get(value) if item.names and isinstance(value, int) else None,
                    unsigned=layout.unsigned,
                )
        except (Malformed, struct.error, IndexError, RecursionError) as error:
            if pos + 4 <= len(data):
                (handle,) = _u32(data, pos)
            self._reject(rows, handle, f"the rest of a notification cannot be decoded: {error}", data[pos:])
        return overflowed

    def _lost_before(self, handle: int, when: int | None, overflowed: list[int] | None) -> None:
        """The queue of a node overflowed, before a value of that time."""
        if self.seen is not None and when is not None and self.fillable[handle]:
            self.seen.append(LostBefore(handle, when))
        elif overflowed is not None:
            overflowed.append(self.items[handle].tag)

    def _take_run(
        self, run: np.ndarray, handles: np.ndarray, rows: Columns, overflowed: list[int] | None, flags: int = 0
    ) -> int:
        """Append a run as far as its handles are known; returns how many rows that are."""
        unknown = handles >= len(self.items)
        first = int(unknown.argmax())
        if unknown[first]:
            if not first:
                return 0
            run, handles = run[:first], handles[:first]
        tags, values = self._tags[handles], numbers_of(run)
        status: int | np.ndarray = 0
        quality: int | np.ndarray = 0
        lost: list[int] = []  # rows before which values were lost
        if "status" in (run.dtype.names or ()) and run["status"].any():
            status = run["status"]
            quality = qualities(status)
            if overflowed is not None:
                lost = np.flatnonzero(status & OVERFLOW == OVERFLOW).tolist()
        names: list[str | None] | None = None
        if self._any_named and values.dtype.kind != "f":
            names = [None] * len(run)
            for at in np.flatnonzero(self._named[handles]).tolist():
                names[at] = (self.items[handles[at]].names or {}).get(values[at].item())
        times = times_of(run)
        if self.heard is not None and not flags:
            self.heard.many(handles, values, status)
        begin = 0
        for at in lost:
            if self.seen is not None and times is not None and at > begin:
                self.seen.append((handles[begin:at], times[begin:at]))
                begin = at
            when = int(times[at]) if times is not None and times[at] != NULL_TIME else None
            self._lost_before(int(handles[at]), when, overflowed)
        if self.seen is not None and times is not None and not flags:
            self.seen.append((handles[begin:], times[begin:]) if begin else (handles, times))
        rows.add_arrays(tags, values, quality=quality, status=status, source_time=times, flags=flags, properties=names)
        return len(run)

    def _other(self, data: bytes, pos: int, rows: Columns, overflowed: list[int]) -> tuple[int, int]:
        (handle,) = _u32(data, pos)
        start = pos
        result = data_value(data, pos + 4, self.types)
        pos = result[5]
        if handle >= len(self.items):
            self._reject(rows, handle, f"the server sent the unknown handle {handle}", data[start:pos])
        else:
            if result[2] & OVERFLOW == OVERFLOW:
                self._lost_before(handle, microseconds(result[4 if self._server_time else 3]), overflowed)
            self._append(rows, handle, result, data[start + 4 : pos])
        return pos, handle

    def read_results(self, data: bytes, pos: int, handles: np.ndarray, rows: Columns) -> None:
        """Append the values of a ReadResponse (OPC 10000-4 clause 5.11.2).

        Args:
            data: The message.
            pos: Where its header ended.
            handles: Of the nodes that were asked for, in the same order.
            rows: Where the values go.

        Raises:
            Malformed: The answer is not for as many nodes as were asked for; nothing is appended.
        """
        try:
            (count,) = _i32(data, pos)
        except struct.error as error:
            raise Malformed(str(error)) from None
        if count != len(handles):
            msg = f"{count} values for {len(handles)} nodes"
            raise Malformed(msg)
        pos += 4
        at = 0
        try:
            while at < count:
                layout = self._read_layouts.get(int.from_bytes(data[pos : pos + 2], "big"))
                run = run_of(data, pos, layout, count - at) if layout is not None else None
                if layout is not None and run is not None:
                    at += self._take_run(run, handles[at : at + len(run)], rows, None)
                    pos += len(run) * layout.size
                    continue
                start = pos
                result = data_value(data, pos, self.types)
                pos = result[5]
                self._append(rows, int(handles[at]), result, data[start:pos])
                at += 1
        except (Malformed, struct.error, IndexError, RecursionError) as error:
            raw = data[pos:]
            for handle in handles[at:].tolist():
                rows.add_reject(self.items[handle].tag, f"the rest of an answer cannot be decoded: {error}", raw)
                raw = b""

    def history(self, data: bytes, handle: int, after: int, before: int, rows: Columns) -> tuple[int, int]:
        """Append the values of a HistoryData (OPC 10000-11 clause 6.6.2) with source times between two others.

        Args:
            data: Its body.
            handle: Of the node that they are of.
            after: µs since the epoch; what has this very time is left out, too.
            before: The same for the other end.
            rows: Where the values go.

        Returns:
            How many values there are, and the time of the last one, 0 when there is none.

        Raises:
            Malformed: It cannot be decoded; what came before in it is appended.
        """
        pos = at = last = 0
        try:
            (count,) = _i32(data)
            pos = 4
            while at < count:
                layout = self._read_layouts.get(int.from_bytes(data[pos : pos + 2], "big"))
                run = run_of(data, pos, layout, count - at) if layout is not None else None
                if layout is not None and run is not None and (times := times_of(run)) is not None:
                    at, pos, last = at + len(run), pos + len(run) * layout.size, int(times[-1])
                    wanted = run[(times > after) & (times < before)]
                    if len(wanted):
                        self._take_run(wanted, np.full(len(wanted), handle), rows, None, Flags.HISTORICAL)
                    continue
                start = pos
                result = data_value(data, pos, self.types)
                pos, at = result[5], at + 1
                last = microseconds(result[3]) or last
                if after < last < before and result[2] & 0xFFFF0000 not in _NO_VALUE:
                    self._append(rows, handle, result, data[start:pos], Flags.HISTORICAL)
        except (struct.error, IndexError, RecursionError) as error:
            raise Malformed(str(error)) from None
        return max(0, count), last

    def _append(
        self, rows: Columns, handle: int, result: tuple[Any, int, int, int, int, int], raw: bytes, flags: int = 0
    ) -> None:
        item = self.items[handle]
        value, builtin, status, source, server, _ = result
        when = microseconds(server if self._server_time else source)
        if self.seen is not None and when is not None and not flags:
            self.seen.append((handle, when))
        if self.heard is not None and not flags:
            self.heard.one(handle, value, status)
        if self.types.problems:
            reason = "; ".join(self.types.problems)
            self.types.problems.clear()
            rows.add_reject(item.tag, reason, raw, source_time=when)
            return
        names = item.names
        rows.add(
            item.tag,
            value,
            quality=opcua_quality(status) if status else Quality.GOOD,
            status=status,
            source_time=when,
            flags=flags,
            properties=names.get(value) if names and isinstance(value, int) else None,
            unsigned=builtin == 9,
        )

    def _reject(self, rows: Columns, handle: int, reason: str, raw: bytes) -> None:
        item = self.items[handle if handle < len(self.items) else 0]
        rows.add_reject(item.tag, reason, raw)
