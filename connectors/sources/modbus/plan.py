"""Which addresses are asked for in one request: values in, blocks out.

A block never splits a value, never asks for more than the device gives, and never reads over more than `max_gap` addresses
that nobody wants. An address that several values share is read once.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise

from connectors.sources.modbus.datatypes import PLAIN, DataType, Meaning, Order


class Kind(IntEnum):
    """The four tables of a Modbus device, numbered by the function code that reads them; nothing else is ever sent."""

    COIL = 1
    DISCRETE = 2
    HOLDING = 3
    INPUT = 4

    @property
    def is_bits(self) -> bool:
        """Whether an address of this table holds one bit, and not a register of 16."""
        return self <= 2


@dataclass(frozen=True, slots=True)
class Point:
    """One value of a device: where it is and how it is written there.

    Attributes:
        unit_id: The device on the line, 0 to 255.
        kind: The table.
        address: First address, from 0, as it is on the wire.
        size: Addresses that it takes: registers, or 1 for a bit of a bit table.
        type: How it is written.
        byte_order: Order of the two bytes of a register.
        word_order: Order of the registers of a number.
        bit: Bit of the register, 0 is the lowest; for type `bit` in a register table.
        length: Bytes of a string.
        encoding: Of a string.
        order: Order of the bytes of a number by letter, such as CDAB; what `byte_order` and `word_order` say when empty.
        meaning: What the raw value stands for.
        interval: Seconds from one reading to the next; 0 for the source's.
    """

    unit_id: int
    kind: Kind
    address: int
    size: int = 1
    type: DataType = "uint16"
    byte_order: Order = "big"
    word_order: Order = "big"
    bit: int = 0
    length: int = 0
    encoding: str = "utf-8"
    order: str = ""
    meaning: Meaning = PLAIN
    interval: float = 0.0

    @property
    def end(self) -> int:
        """The address after its last one."""
        return self.address + self.size


@dataclass(frozen=True, slots=True)
class Block:
    """One request: `count` addresses from `address` on, for the values `members` (positions in the list of points)."""

    unit_id: int
    kind: Kind
    address: int
    count: int
    members: tuple[int, ...]
    interval: float = 0.0

    @property
    def end(self) -> int:
        """The address after its last one."""
        return self.address + self.count


@dataclass(frozen=True, slots=True)
class Forbidden:
    """Addresses that must never be asked for, though they may lie between others; of all units, or of one."""

    kind: Kind
    first: int
    last: int
    unit_id: int | None = None

    def within(self, unit_id: int, kind: Kind, start: int, end: int) -> bool:
        """Whether the addresses from `start` to before `end` have one of these among them."""
        mine = self.kind is kind and self.unit_id in (None, unit_id)
        return mine and start <= self.last and self.first < end


def plan(
    points: Sequence[Point],
    max_gap: int = 0,
    max_registers: int = 125,
    max_bits: int = 2000,
    forbidden: Sequence[Forbidden] = (),
) -> list[Block]:
    """Blocks that read all of `points`, by unit, table, interval and address.

    Values that overlap stay in one block as long as they fit together, so that their addresses are read once.

    Args:
        points: The values; each must fit into one request.
        max_gap: Registers that nobody wants and that are read over to save a request; 16 bits count as a register.
        max_registers: Registers in one request, at most.
        max_bits: Bits in one request, at most.
        forbidden: Addresses that are never read over.
    """
    blocks = []
    order = sorted(range(len(points)), key=lambda i: (*_table(points[i]), points[i].address, points[i].end, i))
    for first, last in _runs(points, order):
        table = order[first:last]
        unit_id, kind, _ = _table(points[table[0]])
        closed = [f for f in forbidden if f.kind is kind and f.unit_id in (None, unit_id)]
        most = max_bits if kind.is_bits else max_registers
        gap = max_gap * 16 if kind.is_bits else max_gap
        start = end = -1
        members: list[int] = []
        for piece in _overlapping(points, table, most):
            begin, stop = points[piece[0]].address, max(points[i].end for i in piece)
            if members and (
                begin - end > gap
                or max(stop, end) - start > most
                or (begin > end and any(f.within(unit_id, kind, end, begin) for f in closed))
            ):
                blocks.append(_block(points, members))
                members = []
            if not members:
                start, end = begin, stop
            end = max(end, stop)
            members += piece
        blocks.append(_block(points, members))
    return blocks


def halves(points: Sequence[Point], block: Block) -> tuple[Block, Block] | None:
    """The block in two, cut beside the middle where no value is cut; None when all its values have the same addresses."""
    members = block.members
    cuts = [
        at
        for at, (left, right) in enumerate(pairwise(members), 1)
        if (points[left].address, points[left].end) != (points[right].address, points[right].end)
    ]
    if not cuts:
        return None
    ends, furthest = [], 0
    for member in members:
        furthest = max(furthest, points[member].end)
        ends.append(furthest)
    clean = [at for at in cuts if points[members[at]].address >= ends[at - 1]]  # else an address is read twice
    cut = min(clean or cuts, key=lambda at: abs(2 * at - len(members)))
    return _block(points, members[:cut]), _block(points, members[cut:])


def joined(points: Sequence[Point], left: Block, right: Block, most: int) -> Block | None:
    """Two blocks as one, if they touch and together ask for at most `most` addresses; None if not."""
    same = (left.unit_id, left.kind, left.interval) == (right.unit_id, right.kind, right.interval)
    if not same or not left.address <= right.address <= left.end or max(left.end, right.end) - left.address > most:
        return None
    return _block(points, (*left.members, *right.members))


def _table(point: Point) -> tuple[int, Kind, float]:
    """What values must have in common to be asked for together."""
    return point.unit_id, point.kind, point.interval


def _runs(points: Sequence[Point], order: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Where each table of each unit, at each interval, begins and ends in `order`."""
    first = 0
    for at in range(1, len(order) + 1):
        last, here = points[order[at - 1]], points[order[at]] if at < len(order) else None
        if here is None or _table(here) != _table(last):
            yield first, at
            first = at


def _overlapping(points: Sequence[Point], table: Sequence[int], most: int) -> Iterator[list[int]]:
    """Values that share addresses, directly or through others, together; one by one where they are too many."""
    piece: list[int] = []
    end = -1
    for i in [*table, None]:
        if piece and (i is None or points[i].address >= end):
            if end - points[piece[0]].address <= most:
                yield piece
            else:
                yield from ([single] for single in piece)
            piece = []
        if i is not None:
            end = max(end, points[i].end) if piece else points[i].end
            piece.append(i)


def _block(points: Sequence[Point], members: Sequence[int]) -> Block:
    ordered = sorted(members, key=lambda i: (points[i].address, points[i].end, i))
    first = points[ordered[0]]
    end = max(points[i].end for i in ordered)
    return Block(first.unit_id, first.kind, first.address, end - first.address, tuple(ordered), first.interval)
