"""Writes the stores of the version that runs it, with what must be found in them, for `test_upgrade`.

``PYTHONPATH=CHECKOUT python tests/delivery/make_stores.py OUT.tar.xz``: a checkout of that version; the first format is that
of commit c623de6. The stores are left as a kill leaves them.
"""

import asyncio
import inspect
import json
import os
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from delivery.dead_letters import DeadLetterStore
from delivery.journal import Journal
from delivery.spool import Spool
from tests.delivery.stores import GATEWAY, SHARD, as_stream, columns, content, own, stream, tag_table

try:
    from delivery.outcome import Outcome
except ImportError:
    from delivery.journal import Outcome

FIRST, SECOND = 5, 9  # shards of the journal
VALUES = [1, -(2**63), 2**64 - 1, 1.5, float("inf"), "text ✓", b"\x00\xff", True, None, [1, 2, 3], {"a": 1.0}]
STEP = "step/window"  # a shard of readings that a step made
_UNSEEN = ("flags",)  # says whether a reading may have been sent before, which formats do not agree on


def plain(batch: Any, unseen: Sequence[str] = _UNSEEN) -> list[dict[str, Any]]:
    """Readings as JSON holds them."""
    rows = [{key: value for key, value in row.items() if key not in unseen} for row in content(batch)]
    return json.loads(json.dumps(rows, default=lambda value: value.hex() if isinstance(value, bytes) else str(value)))


async def fill_journal(place: Path) -> None:
    """Commits in two shards, with states; of the first shard two are trimmed."""
    journal = Journal(place, GATEWAY, tag_table(), linger=0.0)
    for number in range(5):
        rows = columns(range(4 * number, 4 * number + 4))
        await journal.append("source1", FIRST, rows, b"the state of a reader, " * 5 + b"%d" % number)
    await journal.append("source0", SECOND, columns(VALUES), b"other")
    await journal.append("source0", SECOND, columns([]), b"last")
    journal.attach(FIRST, None, lambda batch: Outcome())
    taken = journal.take(FIRST, 8)
    for entry in taken:
        outcome = Outcome()
        outcome.routed.update(entry.sources)
        outcome.targets["target"] = outcome.routed
        journal.note(journal.shard_name(FIRST), entry.last, outcome)
    journal.trim(FIRST, taken[-1].number)
    await journal.append("source1", FIRST, columns([20]), b"the state of a reader, " * 5 + b"5")


def read_journal(place: Path) -> dict[str, Any]:
    """All that a journal holds."""
    table = tag_table(0)
    journal = Journal(place, GATEWAY, table, linger=0.0)
    found: dict[str, Any] = {}
    for index in (FIRST, SECOND):
        journal.attach(index, None, lambda batch: Outcome())
        rows = []
        while entries := journal.take(index, 3):
            rows += [row for entry in entries for row in plain(as_stream(entry.batch, table), ["priority"])]
        found[journal.shard_name(index)] = rows
    account = journal.account()
    states = {source: (journal.state(source) or b"").decode() for source in ("source0", "source1")}
    journal.close()
    counts = {"journalled": dict(account.journalled), "waiting": dict(account.waiting)}
    return found | {"states": states, **counts, "routed": dict(account.outcome.routed)}


def fill_spool(place: Path) -> None:
    """Some is delivered, some are dead letters, one unit is recorded and not settled, the rest waits."""
    table = tag_table()
    gathers = "gather_rows" in inspect.signature(Spool).parameters
    spool = Spool(place, table, own, **({"gather_rows": 1} if gathers else {}))
    for first in range(1, 61, 6):
        spool.append(stream(table, range(first, first + 6)))
    spool.append(stream(table, [1000, 1002, 1005]))
    spool.append(stream(table, range(5, 9), shard=STEP))
    spool.snapshot()
    delivered, rejected, opened = (spool.take(6, 2**30) for _ in range(3))
    spool.settle(delivered)
    spool.reject(rejected, [1, 4], rest_delivered=False)
    spool.record(opened)
    later = spool.take(6, 2**30)
    spool.settle(later)
    spool.append(stream(table, [2000, 2001], text="late"))
    spool.snapshot()


def read_spool(place: Path) -> dict[str, Any]:
    """All that a spool holds, in the units that it gives."""
    table = tag_table(0)
    spool = Spool(place, table, own)
    account = spool.account()
    told = {name: dict(getattr(account, name)) for name in ("routed", "delivered", "dead", "stored")}
    had = spool.had(SHARD, np.arange(2100))
    known = [] if had is None else np.flatnonzero(had).tolist()
    units = []
    while (unit := spool.take(6, 2**30)) is not None:
        units.append([unit.number, plain(unit.batch())])
        spool.settle(unit)
    spool.close()
    rows = sorted((row for _, unit in units for row in unit), key=lambda row: (row["shard"], row["sequence"]))
    return {"account": told, "had": known, "open": units[0], "rows": rows, "next": units[1][0]}


def fill_letters(place: Path) -> None:
    """Dead letters of the flow, of a step and of two targets, in two segments."""
    for number in range(2):
        table = tag_table()
        store = DeadLetterStore(place, table, own)
        start = 100 * number
        store.append(stream(table, range(start, start + 3)), [f"no unit {n}" for n in range(3)])
        store.append(stream(table, range(start + 5, start + 8)), ["too old"] * 3, "target", 3)
        store.append(stream(table, range(start + 5, start + 7), shard=STEP), ["no", "never"], "other", 1)
        store.wait()
        if not number:
            store.close()


def read_letters(place: Path) -> list[Any]:
    """All dead letters, in order."""
    store = DeadLetterStore(place, tag_table(0), own)
    found = [
        [letters.target, letters.attempts, reason, row]
        for letters in store.letters()
        for reason, row in zip(letters.reasons, plain(letters.batch), strict=True)
    ]
    store.close()
    return found


READERS = {"journal": read_journal, "spool": read_spool, "dead_letters": read_letters}


def main(out: Path) -> None:
    """Fill the stores in a process that is killed, and read copies of them."""
    root = Path(tempfile.mkdtemp())
    if os.fork() == 0:
        asyncio.run(fill_journal(root / "stores" / "journal"))
        fill_spool(root / "stores" / "spool")
        fill_letters(root / "stores" / "dead_letters")
        os._exit(0)
    assert os.wait()[1] == 0
    shutil.copytree(root / "stores", root / "copy")
    found = {name: read(root / "copy" / name) for name, read in READERS.items()}
    (root / "stores" / "found.json").write_text(json.dumps(found, indent=1, sort_keys=True))
    with tarfile.open(out, "w:xz") as archive:
        for name in ("found.json", *READERS):
            archive.add(root / "stores" / name, name, filter=lambda i: None if i.name.endswith("/reserve") else i)
    shutil.rmtree(root)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
