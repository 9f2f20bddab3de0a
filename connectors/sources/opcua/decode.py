"""Messages of a server to readings: publish responses and read responses, column by column. Pure, no client library.

What a server may send wrong is of two kinds. A value whose extent is known but that makes no sense (a structure that does not
fit its definition) becomes a reject row, and decoding goes on behind it. Where the extent is lost too, the rest of the message
becomes one reject row.
"""

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from connectors.sources.opcua.binary import EPOCH, LAST, NUMBERS, Malformed, Types, data_value, microseconds, node_id
from normalization.quality import opcua_quality
from normalization.reading import Columns, Quality

_OVERFLOW: Final = 0x480  # info type DataValue and the overflow bit (OPC 10000-4 clause 7.39)
DATA_CHANGE: Final = "i=811"
STATUS_CHANGE: Final = "i=820"

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
class Notification:
    """A PublishResponse without its values (OPC 10000-4 clause 5.14.5).

    Attributes:
        subscription: Id of the subscription.
        sequence: Number of the message; of the next one when `parts` is empty (a keep-alive).
        more: The server has more notifications waiting.
        parts: Type of each notification (`DATA_CHANGE`, …), and where its body begins and ends.
    """

    subscription: int
    sequence: int
    more: bool
    parts: list[tuple[str, int, int]]


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
        (available,) = _i32(data, pos + 4)
        pos += 8 + 4 * max(0, available)
        more, sequence, _, count = struct.unpack_from("<?Iqi", data, pos)
        pos += 17
        parts = []
        for _ in range(count):
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
    return Notification(subscription, sequence, more, parts)


class ValueDecoder:
    """Values of one connection into `Columns`.

    Args:
        items: What is known about a node, by client handle.
        types: The server's structures.
        server_time: Take the server's timestamp instead of the source's.
    """

    def __init__(self, items: Sequence[Item], types: Types, *, server_time: bool = False) -> None:
        self.items = items
        self.types = types
        self._server_time = server_time
        # A scalar number with a given mask is one fixed layout: handle, mask, type, value, status, times.
        self._scalars: dict[int, tuple[Callable[[bytes, int], tuple[Any, ...]], int, int, int, bool]] = {}
        for mask in (1, 3, 5, 7, 9, 11, 13, 15):
            status = 4 if mask & 2 else 0
            at = 4 + bool(mask & 2)
            wanted, place = (8, at + bool(mask & 4)) if server_time else (4, at)
            time = place if mask & wanted else 0
            for builtin, code in NUMBERS.items():
                layout = struct.Struct(f"<IBB{code}{'I' * bool(mask & 2)}{'q' * bool(mask & 4)}{'q' * bool(mask & 8)}")
                self._scalars[mask << 8 | builtin] = (layout.unpack_from, layout.size, status, time, builtin == 9)

    def data_change(self, data: bytes, rows: Columns) -> list[int]:
        """Append the values of a DataChangeNotification (OPC 10000-4 clause 7.25.2), given its body.

        Returns:
            Tags whose queue overflowed in the server: values before the one in `rows` were lost.
        """
        items, scalars, add = self.items, self._scalars, rows.add
        known = len(items)
        overflowed: list[int] = []
        handle = known
        pos = 4
        try:
            (count,) = _i32(data)
            for _ in range(count):
                entry = scalars.get(data[pos + 4] << 8 | data[pos + 5])
                if entry is None:
                    pos, handle = self._other(data, pos, rows, overflowed)
                    continue
                unpack, size, at_status, at_time, unsigned = entry
                values = unpack(data, pos)
                handle = values[0]
                if handle >= known:
                    self._reject(rows, handle, f"the server sent the unknown handle {handle}", data[pos : pos + size])
                    pos += size
                    continue
                pos += size
                item = items[handle]
                status = values[at_status] if at_status else 0
                ticks = values[at_time] if at_time else 0
                value = values[3]
                add(
                    item.tag,
                    value,
                    quality=opcua_quality(status) if status else 0,
                    status=status,
                    source_time=(ticks - EPOCH) // 10 if 0 < ticks < LAST else None,
                    properties=item.names.get(value) if item.names else None,
                    unsigned=unsigned,
                )
                if status & _OVERFLOW == _OVERFLOW:
                    overflowed.append(item.tag)
        except (Malformed, struct.error, IndexError, RecursionError) as error:
            if pos + 4 <= len(data):
                (handle,) = _u32(data, pos)
            self._reject(rows, handle, f"the rest of a notification cannot be decoded: {error}", data[pos:])
        return overflowed

    def _other(self, data: bytes, pos: int, rows: Columns, overflowed: list[int]) -> tuple[int, int]:
        (handle,) = _u32(data, pos)
        start = pos
        result = data_value(data, pos + 4, self.types)
        pos = result[5]
        if handle >= len(self.items):
            self._reject(rows, handle, f"the server sent the unknown handle {handle}", data[start:pos])
        else:
            self._append(rows, self.items[handle], result, data[start + 4 : pos])
            if result[2] & _OVERFLOW == _OVERFLOW:
                overflowed.append(self.items[handle].tag)
        return pos, handle

    def read_results(self, data: bytes, pos: int, items: Sequence[Item], rows: Columns) -> None:
        """Append the values of a ReadResponse (OPC 10000-4 clause 5.11.2), one per item in the same order.

        Raises:
            Malformed: The answer is not for as many nodes as were asked for; nothing is appended.
        """
        try:
            (count,) = _i32(data, pos)
        except struct.error as error:
            raise Malformed(str(error)) from None
        if count != len(items):
            msg = f"{count} values for {len(items)} nodes"
            raise Malformed(msg)
        pos += 4
        for at, item in enumerate(items):
            start = pos
            try:
                result = data_value(data, pos, self.types)
            except (Malformed, struct.error, IndexError, RecursionError) as error:
                for lost in items[at:]:
                    rows.add_reject(lost.tag, f"the rest of an answer cannot be decoded: {error}", data[start:])
                    start = len(data)
                return
            pos = result[5]
            self._append(rows, item, result, data[start:pos])

    def _append(self, rows: Columns, item: Item, result: tuple[Any, int, int, int, int, int], raw: bytes) -> None:
        value, builtin, status, source, server, _ = result
        when = microseconds(server if self._server_time else source)
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
            properties=names.get(value) if names and isinstance(value, int) else None,
            unsigned=builtin == 9,
        )

    def _reject(self, rows: Columns, handle: int, reason: str, raw: bytes) -> None:
        item = self.items[handle if handle < len(self.items) else 0]
        rows.add_reject(item.tag, reason, raw)
