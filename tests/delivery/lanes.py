"""Single lanes of a spool, with nobody who syncs or keeps house but the test: every step is at a moment that it knows."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from delivery.disk import StoreFullError
from delivery.entry import COLUMNS
from delivery.lane import ENTRY, Lane
from delivery.origin import Origin
from delivery.overflow import BufferPolicy
from delivery.unit import Unit
from normalization.reading import TagTable
from tests.delivery.stores import GATEWAY, SHARD, Clock, own, sequences_of, stream, tag_table

BIG = 2**30
OPEN: list[Lane] = []
"""Lanes that a fixture closes at the end of a test."""


def new_lane(directory: Path, table: TagTable, **options: Any) -> Lane:
    """A lane with entries of ten readings."""
    settings: dict[str, Any] = {
        "policy": BufferPolicy(),
        "priority": 0,
        "entry_rows": 10,
        "entry_bytes": 2**22,
        "memory_rows": 1000,
        "segment_bytes": 2**22,
        "marks_resent": True,
        "now": Clock(100.0),
    }
    settings |= options
    lane = Lane(directory, table, own, settings.pop("policy"), **settings)
    OPEN.append(lane)
    return lane


def reopened(lane: Lane, **options: Any) -> Lane:
    """The lane in the next process."""
    OPEN.remove(lane)
    lane.close()
    return new_lane(lane.directory, tag_table(), **options)


def put(lane: Lane, numbers: range | list[int], origin: Origin | None = None, **options: Any) -> None:
    lane.append(GATEWAY, SHARD, stream(lane._tags, numbers, **options).select(COLUMNS.names), origin)


def put_segments(lane: Lane, count: int) -> list[int]:
    """Entries 0 to 9, 10 to 19 and so on, each in a segment of its own; returns the segments."""
    for n in range(count):
        if n:
            lane.log.roll()
        put(lane, range(10 * n, 10 * n + 10))
    return lane.log.segments()[-count:]


def take(lane: Lane, rows: int = 10, not_before: float = 0.0) -> Unit:
    unit = lane.take(rows, BIG, not_before)
    assert unit is not None
    return unit


def readings(unit: Unit) -> list[int]:
    return sequences_of(unit.batch())


def drained(lane: Lane, rows: int = 10) -> list[list[int]]:
    """Take and settle all units; returns the sequences of each."""
    found = []
    while (unit := lane.take(rows, BIG)) is not None:
        found.append(readings(unit))
        lane.settle(unit)
    return found


def keep_house(lane: Lane) -> list[int]:
    """Sync, and let go what may go; returns the segments that are left."""
    lane.log.sync()  # the newest segment says then that nothing before it is missing
    lane.drop_segments(lane.log.sync())
    return lane.log.segments()


def tens(*starts: int) -> list[list[int]]:
    return [list(range(start, start + 10)) for start in starts]


def fill_disk(lane: Lane, monkeypatch: pytest.MonkeyPatch, after: int = 0) -> None:
    """From now on the disk takes `after` entries more and nothing else, however urgent."""
    real, taken = lane.log._write, Counter[str]()

    def write(kind: int, parts: list[bytes], *, urgent: bool = False) -> int:
        if taken["entries"] == after:
            raise StoreFullError("the disk is full")
        taken["entries"] += kind == ENTRY
        return real(kind, parts, urgent=urgent)

    monkeypatch.setattr(lane.log, "_write", write)
