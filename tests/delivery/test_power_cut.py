"""Random lives of journal, spools and dead letters, each ended by a kill or a power cut at any moment.

Whatever is left of the disk: the stores open, every acknowledged reading arrives, no identity names two readings, a
target that remembers units gets each reading once, and the account adds up.
"""

import asyncio
import contextlib
import copy
import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from delivery import journal as journal_module
from delivery.account import settle_accounts
from delivery.dead_letters import REPLAYED, DeadLetterStore, LetterPolicy
from delivery.disk import StoreError
from delivery.journal import Journal
from delivery.letter import FLOW, FLOW_WORD, DeadLetters, Selection
from delivery.origin import Origin
from delivery.outcome import Outcome
from delivery.overflow import BufferPolicy
from delivery.replay import Replayed, finish, forget_marks, purge, replay
from delivery.spool import Spool
from delivery.unit import Unit
from delivery.waiting import Drain
from normalization.reading import TagTable
from tests.delivery.power import Disk, Remains
from tests.delivery.stores import GATEWAY, as_stream, columns, sequences_of, tag_table

SHARDS_USED = (0, 5)
REMEMBERING, PLAIN = "remembering", "plain"
Identity = tuple[str, int]

filtered = frozenset({3})
dead_in_flow = frozenset({7})
dead_at_target = frozenset({4})


@dataclass
class Promises:
    """What the world outside has been told, and has."""

    next_value: int = 0
    acked: set[int] = field(default_factory=set)
    state: int = -1
    offsets: dict[int, int | None] = field(default_factory=lambda: dict.fromkeys(SHARDS_USED))
    value_of: dict[Identity, int] = field(default_factory=dict)
    sent: dict[int, list[Identity]] = field(default_factory=dict)  # units that the remembering target has
    delivered: dict[str, Counter[Identity]] = field(default_factory=lambda: {REMEMBERING: Counter(), PLAIN: Counter()})
    purged: set[int] = field(default_factory=set)  # values that somebody has begun to purge

    def copied(self) -> "Promises":
        """As it is now; threads of the stores ask while the test goes on."""
        while True:
            with contextlib.suppress(RuntimeError):  # something was promised meanwhile
                return copy.deepcopy(self)

    def name(self, batch: pa.RecordBatch) -> list[Identity]:
        """Identities of a batch; no identity may have named another value before."""
        shards, values = batch.column("shard").to_pylist(), batch.column("value_int").to_pylist()
        found = list(zip(shards, sequences_of(batch), strict=True))
        for identity, value in zip(found, values, strict=True):
            assert self.value_of.setdefault(identity, value) == value, "an identity that names two readings"
        return found

    def send(self, unit: Unit) -> None:
        """The target that remembers units takes a unit, or has it."""
        batch = self.name(unit.batch())
        if unit.number in self.sent:
            assert self.sent[unit.number] == batch, "a unit was sent again with other readings"
            return
        assert unit.number > max(self.sent, default=0), "numbers of units ascend"
        self.sent[unit.number] = batch
        self.delivered[REMEMBERING].update(batch)


class Gateway:
    """The stores of a gateway, and a flow that Bytewax's epochs are played for."""

    def __init__(self, directory: Path, promises: Promises, rng: random.Random) -> None:
        self.promises, self.rng = promises, rng
        self.tags: TagTable = tag_table()
        self.journal = Journal(directory / "journal", GATEWAY, self.tags, linger=0.0, memory_rows=30)
        own = {self.journal.shard_name(index) for index in range(16)}.__contains__
        self.letters = DeadLetterStore(directory / "dead", self.tags, own, LetterPolicy(quota=200_000))
        self.mended = rng.random() < 0.3  # the plain target takes what it refused
        self.spools = {
            name: Spool(
                directory / name,
                self.tags,
                own,
                policy=BufferPolicy(drain=rng.choice(list(Drain))),
                priorities=(1, 2),
                entry_rows=6,
                memory_rows=20,
                segment_bytes=2500,
            )
            for name in (REMEMBERING, PLAIN)
        }
        self.journal.on_trimmed += [self.letters.forget, *(spool.forget for spool in self.spools.values())]
        self.handed: dict[int, int] = {}
        for index in SHARDS_USED:
            self.journal.attach(index, promises.offsets[index], self.settle)
            self.handed[index] = promises.offsets[index] or 0
        self.open: Unit | None = None
        self.under_way: list[Unit] = []
        self.half = finish(self.letters, self.spools)

    def settle(self, batch: pa.RecordBatch) -> Outcome:
        shard, sequences = batch.column("shard")[0].as_py(), batch.column("sequence").to_numpy()
        ids, outcome, known = batch.column("tag").to_numpy(), Outcome(), np.zeros(len(batch), bool)
        for name, spool in self.spools.items():
            had = spool.had(shard, sequences)
            if had is not None:
                known |= had
                outcome.targets[name] = Counter(self.tags.count_sources(ids[had]))
        dead = self.letters.had(shard, sequences)
        if dead is not None:
            outcome.dead.update(self.tags.count_sources(ids[dead]))
            known &= ~dead
        outcome.routed.update(self.tags.count_sources(ids[known]))
        known = known if dead is None else known | dead
        outcome.filtered["no rule"] = Counter(self.tags.count_sources(ids[~known]))
        return outcome

    def append(self) -> "asyncio.Future[None]":
        promises, count = self.promises, self.rng.randrange(1, 7)
        values = range(promises.next_value, promises.next_value + count)
        promises.next_value += count
        source = self.rng.randrange(2)
        rows, state = columns(values), promises.next_value
        rows.tag[:] = [2 * (value % 2) + source for value in values]  # tags of that source

        def acked(_: object) -> None:
            promises.acked |= set(values)
            promises.state = max(promises.state, state)

        future = self.journal.append(f"source{source}", SHARDS_USED[source], rows, str(state).encode())
        future.add_done_callback(acked)
        return future

    def flow(self, index: int, rows: int) -> bool:
        entries = self.journal.take(index, rows)
        for entry in entries:
            assert entry.batch is not None
            batch = as_stream(entry.batch, self.tags, 3)
            self.promises.name(batch)
            self.route(batch)
            self.handed[index] = entry.number
        return bool(entries) or self.journal._behind is not None

    def route(self, batch: pa.RecordBatch) -> None:
        values = batch.column("value_int").to_numpy()
        kind = values % 10
        dead, no_rule = np.isin(kind, list(dead_in_flow)), np.isin(kind, list(filtered))
        shares = {REMEMBERING: ~dead & ~no_rule, PLAIN: ~dead & ~no_rule & (values % 2 == 0)}
        ids, outcome = batch.column("tag").to_numpy(), Outcome()
        for name, share in shares.items():
            if share.any():
                self.spools[name].append(batch.take(pa.array(np.flatnonzero(share))))
                outcome.targets[name] = Counter(self.tags.count_sources(ids[share]))
        if dead.any():
            self.letters.append(batch.take(pa.array(np.flatnonzero(dead))), ["no"] * int(dead.sum()))
        outcome.routed.update(self.tags.count_sources(ids[~dead & ~no_rule]))
        outcome.dead.update(self.tags.count_sources(ids[dead]))
        outcome.filtered["no rule"] = Counter(self.tags.count_sources(ids[no_rule]))
        shard = batch.column("shard")[0].as_py()
        self.journal.note(shard, batch.column("sequence")[len(batch) - 1].as_py(), outcome)

    def epoch(self) -> None:
        for spool in self.spools.values():
            spool.snapshot()
        self.letters.wait()
        self.promises.offsets.update({index: number or None for index, number in self.handed.items()})

    def trim(self) -> None:
        for index, number in self.promises.offsets.items():
            self.journal.trim(index, number or 0)

    def forward_remembering(self, *, settle: bool) -> bool:
        spool = self.spools[REMEMBERING]
        if self.open is None:
            self.open = spool.take(12, 2**30)
            if self.open is None:
                return False
            spool.record(self.open)
            self.promises.send(self.open)
        if settle:
            spool.settle(self.open)
            self.open = None
        return True

    def forward_plain(self, *, settle: bool) -> bool:
        spool = self.spools[PLAIN]
        unit = spool.take(9, 2**30)
        if unit is not None:
            self.under_way.append(unit)
        while self.under_way and (settle or len(self.under_way) > 3):
            chosen = self.under_way.pop(self.rng.randrange(len(self.under_way)))
            batch = chosen.batch()
            refused = frozenset() if self.mended else dead_at_target
            bad = [i for i, value in enumerate(batch.column("value_int").to_pylist()) if value % 10 in refused]
            if bad:
                whole = self.rng.random() < 0.5
                if whole:
                    good = [i for i in range(len(batch)) if i not in bad]
                    self.promises.delivered[PLAIN].update(self.promises.name(batch.take(pa.array(good, pa.int64()))))
                places = chosen.places(bad)
                spool.sync()
                self.letters.append(batch.take(pa.array(bad)), ["no"] * len(bad), PLAIN, 1, places=places)
                self.letters.wait()
                spool.reject(chosen, bad, rest_delivered=whole)
            else:
                self.promises.delivered[PLAIN].update(self.promises.name(batch))
                spool.settle(chosen)
        return unit is not None

    def chosen(self, target: str) -> list[DeadLetters]:
        limit = self.rng.choice([1, 3, None])
        return list(Selection(target=target or FLOW_WORD, limit=limit).among(self.letters.letters()))

    def replay(self) -> None:
        """Dead letters of the plain target are sent again, and those of the flow go to both."""
        with self.letters.moving:
            replay(self.letters, self.spools[PLAIN], self.chosen(PLAIN), Replayed())
            for letters in self.chosen(FLOW) if self.rng.random() < 0.3 else []:
                self.replay_flow(letters)

    def replay_flow(self, letters: DeadLetters) -> None:
        self.letters.wait()
        shard, sequences = letters.batch.column("shard")[0].as_py(), letters.batch.column("sequence").to_numpy()
        untrimmed = self.letters.had(shard, sequences) is not None
        self.promises.name(letters.batch)
        for spool in self.spools.values():
            assert spool.replay(letters.batch, Origin(self.letters.id, letters.numbers, True, untrimmed))
        for spool in self.spools.values():
            spool.sync()
        self.letters.remove([letters], REPLAYED)
        self.letters.wait()
        for spool in self.spools.values():
            forget_marks(self.letters, spool)

    def purge(self) -> None:
        with self.letters.moving:
            chosen = self.chosen(self.rng.choice([FLOW, PLAIN]))
            for letters in chosen:
                self.promises.purged |= set(letters.batch.column("value_int").to_pylist())
            purge(self.letters, self.spools, chosen)
            self.letters.wait()

    def finish_flow(self) -> None:
        """What a crash left half-done goes on."""
        for letters in list(self.letters.letters()):
            rows = np.flatnonzero(self.half.has(letters.numbers))
            if letters.target == FLOW and len(rows):
                self.replay_flow(letters.take(rows))

    def finish(self) -> None:
        """Bring everything that is left to where it belongs."""
        self.finish_flow()
        for index in SHARDS_USED:
            while self.flow(index, 100):
                pass
        self.epoch()
        self.trim()
        while self.forward_remembering(settle=True):
            pass
        while self.forward_plain(settle=True):
            pass

    def check(self) -> None:
        promises = self.promises
        arrived = {value for identity, value in promises.value_of.items() if promises.delivered[REMEMBERING][identity]}
        expected = {n for n in promises.acked if n % 10 not in filtered | dead_in_flow}
        assert arrived >= expected, "acknowledged readings are lost"
        assert set(promises.delivered[REMEMBERING].values()) <= {1}, "a target that remembers units got a reading twice"
        arrived = {value for identity, value in promises.value_of.items() if promises.delivered[PLAIN][identity]}
        assert arrived >= {n for n in expected if n % 2 == 0 and n % 10 not in dead_at_target}
        dead: dict[str, Counter[int]] = {FLOW: Counter(), PLAIN: Counter()}
        for letters in self.letters.letters():
            promises.name(letters.batch)
            dead[letters.target].update(letters.batch.column("value_int").to_pylist())
        everywhere = set(promises.delivered[REMEMBERING]) & set(promises.delivered[PLAIN])
        replayed = {promises.value_of[identity] for identity in everywhere} - expected
        assert not set(dead[FLOW]) & replayed, "a reading was sent again and is a dead letter still"
        assert set(dead[FLOW]) | replayed | promises.purged >= {n for n in promises.acked if n % 10 in dead_in_flow}
        taken = {promises.value_of[identity] for identity in promises.delivered[PLAIN]}
        assert set(dead[PLAIN]) | taken | promises.purged >= {n for n in promises.acked if n % 10 in dead_at_target}
        for counts in dead.values():
            assert set(counts.values()) <= {1}, "a dead letter is kept twice"
        states = [int(self.journal.state(f"source{n}") or b"-1") for n in range(2)]
        assert max(states) >= promises.state
        spools = {name: spool.account() for name, spool in self.spools.items()}
        account = settle_accounts(self.journal.account(), spools, self.letters.removed())
        assert account.unaccounted == 0, account
        assert sum(line.waiting for line in account.sources.values()) == 0
        gone = Counter[str]()
        for reason, by_target in self.letters.removed().items():
            gone.update(by_target.get(PLAIN, {}) if reason != REPLAYED else {})
        assert self.letters.counts(PLAIN) + gone == spools[PLAIN].dead

    def stop(self) -> None:
        """Leave the files as they are."""
        killed = StoreError("killed")
        stores: list[Any] = [self.journal, self.letters, *self.spools.values()]
        lanes = [lane for spool in self.spools.values() for lane in spool.lanes]
        for store in [self.journal, self.letters, *lanes]:
            store._log._failed = killed
        for store in stores:
            store.close()


async def live(directory: Path, disk: Disk, promises: Promises, rng: random.Random, moments: list[Any]) -> None:
    """One life; some of its moments are kept: what is known of the disk, and what was promised."""
    tell = rng.uniform(0.02, 0.15)

    def noticed() -> None:
        if rng.random() < tell:
            told = promises.copied()  # before the disk is looked at: what is promised is there
            moments.append((disk.remains(), told))

    disk.noticed = noticed
    gateway = Gateway(directory, promises, rng)
    ready = False
    for _ in range(rng.randrange(20, 60)):
        draw = rng.random()
        if draw < 0.35:
            future = gateway.append()
            if rng.random() < 0.6:
                await future
        elif draw < 0.6:
            gateway.flow(rng.choice(SHARDS_USED), rng.randrange(1, 20))
        elif draw < 0.7:
            gateway.epoch()
            ready = True
        elif draw < 0.8 and ready:
            gateway.trim()
        elif draw < 0.9:
            gateway.forward_remembering(settle=rng.random() < 0.7)
        elif draw < 0.96:
            gateway.forward_plain(settle=rng.random() < 0.5)
        elif draw < 0.985:
            gateway.replay()
        else:
            gateway.purge()
        await asyncio.sleep(0)
        with disk.lock:
            noticed()
    disk.noticed = lambda: None
    with disk.lock:
        moments.append((disk.remains(), promises.copied()))
    gateway.stop()


async def recover(directory: Path, promises: Promises, rng: random.Random) -> None:
    gateway = Gateway(directory, promises, rng)
    try:
        gateway.finish()
        gateway.check()
    finally:
        gateway.stop()


@pytest.mark.parametrize("seed", [*range(6), *(pytest.param(n, marks=pytest.mark.exhaustive) for n in range(6, 26))])
def test_nothing_that_was_promised_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    monkeypatch.setattr(journal_module, "_SEGMENT_BYTES", 2500)
    rng = random.Random(seed)
    root = tmp_path / "disk"
    root.mkdir()
    disk = Disk(root)
    promises, states = Promises(), 0
    with disk.watched(monkeypatch):
        for life in range(3):
            moments: list[tuple[Remains, Promises]] = []
            asyncio.run(live(root, disk, promises, rng, moments))
            chosen = rng.choices(moments, k=13)
            for number, (remains, told) in enumerate(chosen):
                left = remains.after_power_cut(rng)
                disk.restore(left)
                try:
                    asyncio.run(recover(root, told.copied(), rng))
                except AssertionError as wrong:
                    wrong.add_note(f"seed {seed}, life {life}, state {number}")
                    raise
                states += 1
            remains, promises = moments[-1] if rng.random() < 0.3 else rng.choice(moments)
            if rng.random() < 0.5:
                disk.restore(remains.files, remains)  # a kill: all is there, but not all is on the disk
            else:
                disk.restore(remains.after_power_cut(rng))
    assert states == 39
