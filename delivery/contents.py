"""What waits in a spool, read without taking it, and moved from the spool of one target to another's."""

from collections.abc import Iterator
from typing import Final

import numpy as np
import pyarrow as pa

from delivery.entry import COLUMNS, TagReader, decode, unpack
from delivery.lane import ENTRY, TAGS, Lane
from delivery.letter import DeadLetters
from delivery.origin import Origin
from delivery.spool import Spool
from delivery.unit import Entry, Unit
from normalization.reading import TagTable

ATTACHED: Final = "attached to another target"
_ROWS, _BYTES = 10_000, 32 * 1024 * 1024
_SEQUENCE: Final = COLUMNS.get_field_index("sequence")
_MOST_ROWS: Final = 2**32  # in one entry


def stored(spool: Spool, tags: TagTable) -> Iterator[pa.RecordBatch]:
    """The readings that wait or are under way: the most urgent first, then in the order in which they came."""
    for lane in reversed(spool.lanes):
        yield from _stored(lane, tags)


def _stored(lane: Lane, tags: TagTable) -> Iterator[pa.RecordBatch]:
    reader = TagReader(tags)
    with lane.log.held():
        upto = lane.log.next_number - 1
        for record in lane.log.read(lane.log.cursor(lane.ledger.done + 1), upto):
            if record.kind == TAGS:
                reader.learn(record.segment, unpack(record.payload))
            elif record.kind == ENTRY:
                _, gateway, shard, _, _, rows, sources, appended, mask, raw_size, body, *_ = unpack(record.payload)
                left = lane.left(record.number, rows)
                if not len(left):
                    continue
                columns = decode(mask, raw_size, memoryview(body))
                if reader.translate(record.segment, columns):
                    place = (record.number, 0, record.segment)
                    entry = Entry(*place, gateway, shard, rows, raw_size, sources, appended, columns)
                    yield Unit(0, [entry], {}, tags).batch().take(pa.array(left))


def held_rows(spool: Spool, letters: DeadLetters) -> np.ndarray:
    """Rows of a target's dead letters that its spool holds still, because the process ended before it let go of them."""
    waiting = [row for row, place in enumerate(letters.places) if spool.waits(place)]
    entries = {letters.places[row][:2]: _identity(spool, *letters.places[row][:2]) for row in waiting}
    names = tuple(letters.batch.column(name)[0].as_py() for name in ("gateway", "shard"))
    sequences = letters.batch.column("sequence").to_pylist()
    held = []
    for row in waiting:  # a spool that was begun anew has other readings under the same numbers
        priority, number, place = letters.places[row]
        known = entries[priority, number]
        if known is not None and known[0] == names and place < len(known[1]) and known[1][place] == sequences[row]:
            held.append(row)
    return np.array(held, np.int64)


def _identity(spool: Spool, priority: int, number: int) -> tuple[tuple[str, str], list[int]] | None:
    """Gateway and shard of an entry, and its sequences; None when it is not there."""
    for lane in spool.lanes:
        if lane.priority == priority:
            for record in lane.log.read(lane.log.cursor(number), number):
                if record.number == number and record.kind == ENTRY:
                    _, gateway, shard, _, _, _, _, _, mask, raw_size, body, *_ = unpack(record.payload)
                    return (gateway, shard), decode(mask, raw_size, memoryview(body))[_SEQUENCE].to_pylist()
    return None


def move(name: str, origin: Spool, destination: Spool) -> tuple[int, bool]:
    """Move all that waits in one spool into another, each reading with its identity; nothing takes from either meanwhile.

    After a crash, moving again leaves out what the destination has.

    Args:
        name: Name of the spool that they leave.
        origin: That spool.
        destination: The spool that gets them.

    Returns:
        How many readings left, and whether there was room for all.
    """
    moved, roomy = 0, True
    known = f"spool {name}"
    while roomy and (unit := origin.take(_ROWS, _BYTES)) is not None:
        batch = unit.batch()
        numbers = [entry * _MOST_ROWS + row for _, entry, row in unit.places(range(len(batch)))]
        came = Origin(f"{known} {unit.priority}", np.array(numbers, np.int64), from_flow=True)
        roomy = destination.replay(batch, came)
        if not roomy:
            origin.release(unit)
            break
        destination.sync()
        origin.settle(unit, ATTACHED)
        moved += len(batch)
    origin.sync()
    for lane in origin.lanes if roomy else []:
        destination.forget_replayed(f"{known} {lane.priority}")
    return moved, roomy
