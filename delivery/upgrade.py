"""Stores that an earlier version wrote become what this one writes, when they are opened and before anything else is done.

A journal needs none of this: it reads the commits of every format, and its next segment is of the newest. A spool and a
store of dead letters are written anew beside the old one, under a name that no store has; that copy gets its name when all
of it is on disk, and only then the old one goes. A process that ends in between, at whatever instruction, leaves the old
one or the new one for certain, and the next start goes on from there. Whatever the old one gives up is in the copy.

The first format, of version 0.1: the entries of a spool lay in its folder, in one lane and with one list of settled ones;
dead letters had no numbers and never left.
"""

import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import structlog

from delivery.disk import sync_directory
from delivery.entry import COLUMNS, TagReader, decode, unpack
from delivery.identities import Identities
from delivery.lane import Lane
from delivery.log import HEAD, QUARANTINE, Log
from delivery.outcome import LaneAccount
from delivery.overflow import BufferPolicy
from delivery.unit import Entry, Unit
from normalization.reading import TagTable

if TYPE_CHECKING:
    from delivery.dead_letters import DeadLetterStore

_TAGS, _ENTRY, _CLOSE, _UNIT = 1, 2, 3, 4  # records of a spool of the first format
_LETTERS: Final = 2  # of dead letters of the first format
_SEQUENCE: Final = COLUMNS.get_field_index("sequence")
_PART, _WHOLE, _OLD = ".part", ".whole", ".old"  # a copy that is being written, one that is whole, and what it replaces
_ANY_SIZE: Final = 2**62
_SEGMENT: Final = 16 * 1024 * 1024
DAMAGED: Final = "damaged before an upgrade"

log = structlog.get_logger()


def _nothing() -> bytes:
    return b""


def _move(origin: Path, destination: Path) -> None:
    origin.rename(destination)
    sync_directory(destination.parent)


# ---------------------------------------------------------------------- spools


@dataclass
class _FirstSpool:
    """What a spool of the first format knows."""

    next_unit: int = 1
    open: tuple[int, list[int]] | None = None
    done: int = 0
    settled: set[int] = field(default_factory=set)
    dead: dict[int, np.ndarray] = field(default_factory=dict)
    dead_sources: dict[int, Counter[str]] = field(default_factory=dict)
    account: LaneAccount = field(default_factory=LaneAccount)
    known: Identities = field(default_factory=Identities)
    derived: Identities = field(default_factory=Identities)
    last: int = 0

    def load(self, payload: memoryview) -> None:
        _, self.next_unit, opened, self.done, settled, dead, counts, known, derived = unpack(payload)
        self.open = (opened[0], opened[1]) if opened else None
        self.settled = set(settled)
        self.dead = {number: np.array(rows, np.int64) for number, rows, _ in dead}
        self.dead_sources = {number: Counter(sources) for number, _, sources in dead}
        routed, delivered, dead_letters = (Counter(count) for count in counts[:3])
        discarded = {reason: Counter(sources) for reason, sources in counts[3].items()}
        self.account = LaneAccount(routed, delivered, dead_letters, discarded)
        self.known, self.derived = Identities.from_list(known), Identities.from_list(derived)

    def enter(self, payload: memoryview, own_shard: Callable[[str], bool]) -> None:
        gateway, shard, _, _, _, sources, _, mask, raw_size, body = unpack(payload)
        sequences = decode(mask, raw_size, memoryview(body))[_SEQUENCE].to_numpy()
        if own_shard(shard):
            self.known.add(shard, sequences)
        else:
            self.derived.add(f"{gateway}/{shard}", sequences)
        self.account.routed.update(sources)

    def close(self, unit: int, entries: list[int], delivered: dict[str, int], dead: list[list[Any]]) -> None:
        for number, rows, sources in dead:
            known = self.dead.get(number, np.empty(0, np.int64))
            self.dead[number] = np.union1d(known, np.array(rows, np.int64))
            self.dead_sources.setdefault(number, Counter()).update(sources)
            self.account.dead.update(sources)
        self.settled.update(entries)
        for number in entries:
            self.dead.pop(number, None)
            self.dead_sources.pop(number, None)
        self.account.delivered.update(delivered)
        self.next_unit = max(self.next_unit, unit + 1)
        if self.open is not None and self.open[0] == unit:
            self.open = None

    def waits(self, number: int) -> bool:
        """Whether an entry is not settled."""
        return self.done < number <= self.last and number not in self.settled


def spool(directory: Path, tags: TagTable, own_shard: Callable[[str], bool]) -> None:
    """Make the lane of the least urgent readings of a spool of the first format; it goes out before all that comes.

    Raises:
        StoreError: The disk is full or fails; the old spool is as it was.
    """
    old = [path for path in directory.glob("*.log") if path.is_file()] if directory.is_dir() else []
    if not old:
        return
    lane, part = directory / "p0", directory / f"p0{_PART}"
    if not lane.exists():  # else only the old files are left to go
        shutil.rmtree(part, ignore_errors=True)
        _write_lane(directory, part, tags, own_shard)
        _move(part, lane)
    for path in [*old, directory / "reserve"]:
        path.unlink(missing_ok=True)
    sync_directory(directory)


def _write_lane(directory: Path, part: Path, tags: TagTable, own_shard: Callable[[str], bool]) -> None:
    known, source = _FirstSpool(), Log(directory, _nothing)
    for record in source.recover():
        known.last = record.number
        if record.kind == HEAD:
            known.load(record.payload)
        elif record.kind == _ENTRY:
            known.enter(record.payload, own_shard)
        elif record.kind == _CLOSE:
            known.close(*unpack(record.payload))
        elif record.kind == _UNIT:
            number, entries = unpack(record.payload)
            known.open, known.next_unit = (number, entries), number + 1
    appended = 0.0
    lane = Lane(
        part,
        tags,
        own_shard,
        BufferPolicy(),
        priority=0,
        entry_rows=_ANY_SIZE,
        entry_bytes=_ANY_SIZE,
        memory_rows=0,
        segment_bytes=_SEGMENT,
        marks_resent=False,
        now=lambda: appended,
    )
    numbers: dict[int, int] = {}
    stored: Counter[str] = Counter()
    for entry in _entries(source, known, tags):
        appended = entry.appended
        lane.append(entry.gateway, entry.shard, pa.RecordBatch.from_arrays(entry.columns, schema=COLUMNS))
        numbers[entry.number] = lane.ledger.newest
        stored.update(entry.sources)
        stored.subtract(known.dead_sources.get(entry.number, {}))
    account = known.account
    gone = sum([account.delivered, account.dead, *account.discarded.values()], Counter[str]())
    if lost := account.routed - gone - stored:
        account.discarded[DAMAGED] = lost
    lane.ledger.succeed(
        known.next_unit,
        known.open and (known.open[0], [numbers[number] for number in known.open[1] if number in numbers]),
        {numbers[n]: (rows, known.dead_sources[n]) for n, rows in known.dead.items() if n in numbers},
        account,
        known.known,
        known.derived,
    )
    lane.log.roll()  # the HEAD of the new segment says all that
    lane.close()
    log.warning("spool upgraded", spool=str(directory), readings=stored.total(), damaged=lost.total())


def _entries(source: Log, known: _FirstSpool, tags: TagTable) -> Iterator[Entry]:
    """What waits in a spool of the first format, in order; what is damaged is left out."""
    reader = TagReader(tags)
    for record in source.read(source.cursor(known.done + 1), known.last):
        if record.kind == _TAGS:
            reader.learn(record.segment, unpack(record.payload))
        elif record.kind == _ENTRY and known.waits(record.number):
            gateway, shard, _, _, rows, sources, appended, mask, raw_size, body = unpack(record.payload)
            columns = decode(mask, raw_size, memoryview(body))
            if reader.translate(record.segment, columns):
                place = (record.number, 0, record.segment)
                yield Entry(*place, gateway, shard, rows, raw_size, sources, appended, columns)


# ---------------------------------------------------------------------- dead letters


def dead_letters(directory: Path, tags: TagTable, begin: "Callable[[Path], DeadLetterStore]") -> None:
    """Write the dead letters of the first format anew.

    Args:
        directory: Where they lie.
        tags: The process's tag table.
        begin: Opens a store that nothing makes room in.

    Raises:
        StoreError: The disk is full or fails; the old store is as it was.
    """
    part, whole, old = (directory.with_name(directory.name + ending) for ending in (_PART, _WHOLE, _OLD))
    if not whole.exists() and not old.exists() and _format(directory) != 1:
        return
    if not old.exists() and not whole.exists():
        shutil.rmtree(part, ignore_errors=True)
        _write_letters(directory, part, tags, begin)
        _move(part, whole)
    if whole.exists():
        if directory.exists():
            _move(directory, old)
        if (old / QUARANTINE).exists():
            _move(old / QUARANTINE, whole / QUARANTINE)
        _move(whole, directory)
    shutil.rmtree(old, ignore_errors=True)
    sync_directory(directory.parent)


def _format(directory: Path) -> int:
    """What the newest HEAD says; 0 when there is none."""
    if not directory.is_dir() or not any(directory.glob("*.log")):
        return 0
    heads = (unpack(record.payload)[0] for record in Log(directory, _nothing).recover() if record.kind == HEAD)
    return int(next(heads, 0))


def _write_letters(directory: Path, part: Path, tags: TagTable, begin: "Callable[[Path], DeadLetterStore]") -> None:
    source, reader = Log(directory, _nothing), TagReader(tags)
    last = max((record.number for record in source.recover()), default=0)
    store, readings = begin(part), 0
    try:
        for record in source.read(source.cursor(1), last):
            if record.kind == _TAGS:
                reader.learn(record.segment, unpack(record.payload))
            elif record.kind == _LETTERS:
                target, gateway, shard, sources, when, attempts, reasons, mask, raw_size, body = unpack(record.payload)
                columns = decode(mask, raw_size, memoryview(body))
                if reader.translate(record.segment, columns):
                    entry = Entry(record.number, 0, 0, gateway, shard, len(reasons), raw_size, sources, when, columns)
                    batch = Unit(0, [entry], {}, tags).batch()
                    store.append(batch, reasons, target, attempts, first=when, last=when)
                    readings += len(reasons)
                else:
                    log.error("dead letters unreadable, their tags are damaged", readings=len(reasons))
        store.wait()
    finally:
        store.close()
    log.warning("dead letters upgraded", directory=str(directory), readings=readings)
