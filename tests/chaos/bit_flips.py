"""Every single-bit flip, cut and zeroed block of a small journal and a small spool: what they give is what was put in.

A store is filled, left as a kill leaves it, and its files are kept. Then one bit after the other is turned in a copy (and the
file cut off, a block zeroed, a file removed), the store is opened on it, and every reading that it still gives is compared with what was appended.
"""

import asyncio
import multiprocessing
import os
import random
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import pyarrow as pa
import structlog

from delivery.journal import Journal
from delivery.spool import Spool
from tests.chaos.scenario import Scenario
from tests.delivery.stores import GATEWAY, as_stream, columns, nothing_told, own, stream, tag_table

Store = Literal["journal", "spool"]
STORES: Final[tuple[Store, ...]] = ("journal", "spool")
_SHARD: Final = 5  # of the journal
_RECORDS: Final = 4
_ROWS: Final = 4  # readings in one record
_BLOCK: Final = 512
_STRIDE: Final = 8
_COLUMNS: Final = ("sequence", "value_int", "tag_name", "source", "quality", "path")
_MEMORY: Final = Path("/dev/shm")

Reading = tuple[object, ...]


@dataclass
class Found:
    """What a share of the flips led to."""

    flips: int = 0
    cuts: int = 0
    blocks: int = 0
    started: int = 0
    not_started: int = 0
    wrong_values: int = 0
    lost_more_than_record: int = 0
    flips_that_lost: int = 0
    failed_threads: int = 0
    examples: list[str] = field(default_factory=list)

    def note_thread(self, words: str) -> None:
        """A thread of a store ended by an error that nobody caught: the store would stand still."""
        self.failed_threads += 1
        self.examples.append(words)


def run(
    scenario: Scenario, load: Mapping[str, Any], directory: Path, chance: random.Random, say: Callable[[str], None]
) -> dict[str, Any]:
    """Turn every `step`-th bit of each store, beginning at a random one; all of them with a step of 1."""
    step, jobs = int(load.get("step", 1)), []
    cores = os.cpu_count() or 1
    for store in STORES:
        first = chance.randrange(step)
        jobs += [(store, first + step * core, step * cores) for core in range(cores)]
    began = time.monotonic()
    with multiprocessing.get_context("spawn").Pool(cores) as pool:
        shares = pool.starmap(flip, jobs)
    figures: dict[str, Any] = dict.fromkeys([name for name in Found.__dataclass_fields__ if name != "examples"], 0)
    for share in shares:
        for name in figures:
            figures[name] += getattr(share, name)
        for example in share.examples[:5]:
            say(f"    {example}")
    say(f"    {figures['flips']:,} flips in {time.monotonic() - began:.0f} s")
    return figures


def flip(store: Store, first: int, step: int) -> Found:
    """Turn bit `first` and every `step`-th after it, one at a time, and open the store each time."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))  # thousands of complaints are meant
    root = Path(tempfile.mkdtemp(prefix="bifrost-flips-", dir=_MEMORY if _MEMORY.is_dir() else None))
    found, hook = Found(), threading.excepthook
    threading.excepthook = lambda failed: found.note_thread(f"{store}: a thread ended by {failed.exc_value!r}")
    try:
        place = root / store
        expected = _fill(store, place)
        files = _files(place)
        for kind, where, damaged in _damages(files, first, step):
            _restore(place, damaged)
            setattr(found, kind, getattr(found, kind) + 1)
            try:
                given = _give(store, place)
            except Exception as error:  # noqa: BLE001 - the edge of one start: whatever kept it from opening counts
                found.not_started += 1
                found.examples.append(f"{store}, {where}: does not open: {error!r}")
                continue
            found.started += kind == "flips"
            _compare(found, given, expected, f"{store}, {where}", one_record=kind == "flips")
    finally:
        threading.excepthook = hook
        shutil.rmtree(root, ignore_errors=True)
    return found


def _damages(files: Mapping[str, bytes], first: int, step: int) -> Iterator[tuple[str, str, dict[str, bytes]]]:
    """Of all bits, each `step`-th turned; the file cut off at as many of its bytes; blocks of it zeroed; a file gone."""
    places = [(name, at) for name, data in files.items() for at in range(len(data))]
    for bit in range(first, 8 * len(places), step):
        name, at = places[bit // 8]
        damaged = bytearray(files[name])
        damaged[at] ^= 1 << bit % 8
        yield "flips", f"bit {bit % 8} of byte {at} of {name}", {**files, name: bytes(damaged)}
    for place in range(first, len(places), step):
        name, at = places[place]
        yield "cuts", f"{name} cut at byte {at}", {**files, name: files[name][:at]}
        if (place - first) // step % _STRIDE == 0:
            zeroed = files[name][:at] + bytes(min(_BLOCK, len(files[name]) - at)) + files[name][at + _BLOCK :]
            yield "blocks", f"a block of {name} from byte {at} is zeroes", {**files, name: zeroed}
    for name in files:
        yield "cuts", f"{name} is gone", {other: data for other, data in files.items() if other != name}


def _compare(found: Found, given: list[Reading], expected: set[Reading], where: str, *, one_record: bool) -> None:
    wrong, lost = [reading for reading in given if reading not in expected], len(expected - set(given))
    found.wrong_values += len(wrong)
    found.flips_that_lost += one_record and lost > 0
    found.lost_more_than_record += one_record and lost > _ROWS
    if wrong:
        found.examples.append(f"{where}: gives {wrong[:2]}")
    if one_record and lost > _ROWS:
        found.examples.append(f"{where}: {lost} readings are lost")


def _files(place: Path) -> dict[str, bytes]:
    """What a store wrote, by relative name; its reserve holds nothing."""
    paths = [path for path in sorted(place.rglob("*")) if path.is_file() and path.name != "reserve"]
    return {str(path.relative_to(place)): path.read_bytes() for path in paths}


def _restore(place: Path, files: Mapping[str, bytes]) -> None:
    for path in place.rglob("*"):
        if path.is_file() and path.name != "reserve" and str(path.relative_to(place)) not in files:
            path.unlink()
    for name, data in files.items():
        (place / name).write_bytes(data)


def _readings(batch: pa.RecordBatch) -> list[Reading]:
    return list(zip(*(batch.column(name).to_pylist() for name in _COLUMNS), strict=True))


def _fill(store: Store, place: Path) -> set[Reading]:
    """Make the store; returns what it holds."""
    match store:
        case "journal":
            asyncio.run(_fill_journal(place))
        case "spool":
            _fill_spool(place)
    files = _files(place)
    expected = set(_give(store, place))
    assert len(expected) == _RECORDS * _ROWS, "the undamaged store gives all that was put in"
    _restore(place, files)
    return expected


async def _fill_journal(place: Path) -> None:
    journal = Journal(place, GATEWAY, tag_table(), linger=0.0)
    for record in range(_RECORDS):
        await journal.append("source1", _SHARD, columns(range(record * _ROWS, (record + 1) * _ROWS)), b"state")
    journal.close()


def _fill_spool(place: Path) -> None:
    table = tag_table()
    spool = Spool(place, table, own, gather_rows=1)  # each batch becomes a record
    for record in range(_RECORDS):
        spool.append(stream(table, range(record * _ROWS + 1, (record + 1) * _ROWS + 1)))
    spool.snapshot()
    spool.close()


def _give(store: Store, place: Path) -> list[Reading]:
    """Open the store and take everything that it has."""
    table, given = tag_table(0), list[Reading]()
    match store:
        case "journal":
            journal = Journal(place, GATEWAY, table, linger=0.0)
            try:
                journal.attach(_SHARD, None, nothing_told)
                while entries := journal.take(_SHARD, 1000):
                    for entry in entries:
                        if entry.batch is not None:
                            given += _readings(as_stream(entry.batch, table))
                while journal._behind is not None:
                    for entry in journal.take(_SHARD, 1000):
                        if entry.batch is not None:
                            given += _readings(as_stream(entry.batch, table))
            finally:
                journal.close()
        case "spool":
            spool = Spool(place, table, own)
            try:
                while (unit := spool.take(1000, 2**30)) is not None:
                    given += _readings(unit.batch())
            finally:
                spool.close()
    return given
