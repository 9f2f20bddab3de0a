import asyncio
import math
import os
import random
import threading
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings

from delivery import journal as journal_module
from delivery.disk import StoreError
from delivery.journal import SHARDS, Journal, shard_of
from delivery.outcome import Outcome
from delivery.spool import Spool
from normalization.reading import Columns, TagTable
from tests.delivery.stores import (
    GATEWAY,
    as_stream,
    columns,
    journal_missing,
    nothing_told,
    own,
    tag_table,
    until,
    until_async,
)
from tests.delivery.test_entry import plain, readings

INDEX = 5


@pytest.fixture
async def closing() -> AsyncIterator[list[Journal]]:
    journals: list[Journal] = []
    yield journals
    for journal in journals:
        await asyncio.to_thread(journal.close)


def opened(directory: Path, closing: list[Journal], table: TagTable | None = None, **options: Any) -> Journal:
    journal = Journal(directory, GATEWAY, table or tag_table(), **{"linger": 0.0, **options})
    closing.append(journal)
    return journal


def attach(journal: Journal, offset: int | None = None, indices: range | list[int] = range(len(SHARDS))) -> None:
    for index in indices:
        journal.attach(index, offset, nothing_told)


def read(journal: Journal, index: int = INDEX) -> list[tuple[int, Any]]:
    """Take everything of a shard: (sequence, value) of each reading."""
    found = []
    while (entries := journal.take(index, 100)) or journal._behind is not None:
        for entry in entries:
            batch = entry.batch
            found += zip(batch.column("sequence").to_pylist(), batch.column("value_int").to_pylist(), strict=True)
    return found


def give_up(journal: Journal) -> None:
    """Leave a journal as a killed process does: nothing is written any more."""
    journal._log._write = _refuse  # type: ignore[method-assign]
    journal._log._failed = StoreError("killed")


def _refuse(*args: object, **options: object) -> int:
    raise StoreError("killed")


async def test_acknowledgements_come_in_order_and_only_after_a_sync(
    tmp_path: Path, closing: list[Journal], monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = opened(tmp_path, closing)
    gate, real = threading.Event(), os.fdatasync

    def slow(fd: int) -> None:
        if str(tmp_path) in os.readlink(f"/proc/self/fd/{fd}"):
            gate.wait(10)
        real(fd)

    monkeypatch.setattr(os, "fdatasync", slow)
    done: list[int] = []
    futures = []
    for n in range(50):
        future = journal.append("source0", INDEX, columns([n]), None)
        future.add_done_callback(lambda _, n=n: done.append(n))
        futures.append(future)
        await asyncio.sleep(0)
    await until_async(lambda: journal._pending.rows < 50)
    await asyncio.sleep(0.05)
    assert done == []
    attach(journal)
    assert read(journal) == [], "what is not durable is not handed out"
    gate.set()
    await asyncio.gather(*futures)
    assert done == list(range(50))
    assert read(journal) == [(n + 1, n) for n in range(50)]


async def test_readings_and_state_are_committed_as_one(tmp_path: Path, closing: list[Journal]) -> None:
    journal = opened(tmp_path, closing)
    await journal.append("source0", INDEX, columns([1, 2]), b"two")
    await journal.append("source1", INDEX, Columns(), b"only state")
    pending = journal.append("source0", INDEX, columns([3]), b"three")
    give_up(journal)
    again = opened(tmp_path, closing)
    attach(again)
    values = [value for _, value in read(again)]
    assert (values, again.state("source0")) in (([1, 2], b"two"), ([1, 2, 3], b"three"))
    assert again.state("source1") == b"only state"
    assert again.state("nobody") is None
    pending.cancel()


async def test_an_append_of_nothing_is_acknowledged(tmp_path: Path, closing: list[Journal]) -> None:
    journal = opened(tmp_path, closing)
    async with asyncio.timeout(5):
        await journal.append("source0", INDEX, Columns(), None)


async def test_a_flow_that_remembers_nothing_gets_everything_again(tmp_path: Path, closing: list[Journal]) -> None:
    journal = opened(tmp_path, closing)
    await journal.append("source0", INDEX, columns(range(10)), None)
    attach(journal)
    expected = [(n + 1, n) for n in range(10)]
    assert read(journal) == expected
    give_up(journal)
    again = opened(tmp_path, closing)
    attach(again)
    assert read(again) == expected


async def test_a_flow_resumes_after_its_offset(tmp_path: Path, closing: list[Journal]) -> None:
    journal = opened(tmp_path, closing)
    attach(journal)
    offsets = []
    for n in range(5):
        await journal.append("source0", INDEX, columns([n]), None)
        offsets += [entry.number for entry in journal.take(INDEX, 10)]
    give_up(journal)
    again = opened(tmp_path, closing)
    told: list[int] = []

    def settle(batch: pa.RecordBatch) -> Outcome:
        told.extend(batch.column("sequence").to_pylist())
        return Outcome(routed=Counter(source0=len(batch)))

    again.attach(INDEX, offsets[2], settle)
    assert told == [1, 2, 3]
    assert read(again) == [(4, 3), (5, 4)]
    assert not journal_missing(again)


async def test_a_rebuild_of_the_flow_in_the_process_goes_on_at_its_offset(
    tmp_path: Path, closing: list[Journal]
) -> None:
    journal = opened(tmp_path, closing)
    attach(journal)
    offsets = []
    for n in range(6):
        await journal.append("source0", INDEX, columns([n]), None)
        if n < 4:
            offsets += [entry.number for entry in journal.take(INDEX, 10)]
    journal.trim(INDEX, offsets[0])

    def settle(batch: pa.RecordBatch) -> Outcome:
        return Outcome(routed=Counter(source0=len(batch)))

    journal.attach(INDEX, offsets[1], settle)
    assert [value for _, value in read(journal)] == [2, 3, 4, 5]
    await journal.append("source0", INDEX, columns([6]), None)
    assert [value for _, value in read(journal)] == [6]
    assert not journal_missing(journal)


@pytest.mark.parametrize("memory_rows", [0, 1, 20, 100])
async def test_a_flow_that_is_behind_gets_every_entry_once_and_in_order(
    tmp_path: Path, closing: list[Journal], memory_rows: int
) -> None:
    journal = opened(tmp_path, closing, memory_rows=memory_rows)
    attach(journal)
    rng = random.Random(memory_rows)
    given_: dict[int, list[int]] = {index: [] for index in range(4)}
    found: dict[int, list[int]] = {index: [] for index in range(4)}
    n = 0
    for _ in range(150):
        for _ in range(rng.randrange(4)):
            index, count = rng.randrange(4), rng.randrange(1, 8)
            given_[index] += range(n, n + count)
            await journal.append("source0", index, columns(range(n, n + count)), None)
            n += count
        if rng.random() < 0.5:
            for index in rng.sample(range(4), 2):
                found[index] += [v for e in journal.take(index, 5) for v in e.batch.column("value_int").to_pylist()]
        assert journal.waiting_rows <= memory_rows + 8 * 5
    for index in range(4):
        found[index] += [value for _, value in read(journal, index)]
    assert found == given_


async def test_no_shard_waits_for_one_that_nobody_takes(tmp_path: Path, closing: list[Journal]) -> None:
    journal = opened(tmp_path, closing, memory_rows=10)
    attach(journal)
    for n in range(100):
        await journal.append("source0", n % 2, columns([n]), None)
    assert [value for _, value in read(journal, 0)] == list(range(0, 100, 2))


async def test_a_backlog_in_several_segments_survives_the_first_trim_after_a_restart(
    tmp_path: Path, closing: list[Journal], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "_SEGMENT_BYTES", 2000)
    journal = opened(tmp_path, closing)
    for n in range(100):
        await journal.append("source0", INDEX, columns(range(n * 10, n * 10 + 10)), None)
    assert len(journal._log.segments()) > 5
    give_up(journal)
    again = opened(tmp_path, closing)
    attach(again)
    first = again.take(INDEX, 1)
    again.trim(INDEX, first[0].number)
    await again.append("source0", INDEX, columns([1000]), None)
    again.attach(INDEX, first[0].number, nothing_told)
    assert [value for _, value in read(again)] == list(range(10, 1001))


async def test_trimming_lets_segments_go_but_none_that_a_shard_still_needs(
    tmp_path: Path, closing: list[Journal], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "_SEGMENT_BYTES", 2000)
    journal = opened(tmp_path, closing)
    attach(journal)
    await journal.append("source1", 0, columns([7]), None)
    last = 0
    for n in range(100):
        await journal.append("source0", INDEX, columns(range(n, n + 10)), None)
        for entry in journal.take(INDEX, 100):
            last = entry.number
        journal.trim(INDEX, last)
    before = journal.size
    assert journal._log.segments()[0] == 1, "shard 0 still needs the first"
    [entry] = journal.take(0, 10)
    journal.trim(0, entry.number)
    await until_async(lambda: len(journal._log.segments()) == 1)
    assert journal.size < before / 5
    assert not journal_missing(journal)


async def test_a_segment_goes_only_when_its_trim_is_durable(
    tmp_path: Path, closing: list[Journal], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a power cut would leave readings of which no store knows what became."""
    monkeypatch.setattr(journal_module, "_SEGMENT_BYTES", 500)
    journal = opened(tmp_path, closing)
    attach(journal)
    for n in range(20):
        await journal.append("source0", INDEX, columns(range(n, n + 10)), None)
    last = [entry.number for entry in journal.take(INDEX, 10_000)][-1]
    gate, real = threading.Event(), os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda fd: (gate.wait(10), real(fd))[1])
    segments = len(journal._log.segments())
    told: list[tuple[str, int]] = []
    journal.on_trimmed.append(lambda shard, upto: told.append((shard, upto)))
    journal.trim(INDEX, last)
    await asyncio.sleep(0.05)
    assert len(journal._log.segments()) == segments
    assert told == []
    gate.set()
    await until_async(lambda: len(journal._log.segments()) == 1)
    await until_async(lambda: told == [(journal.shard_name(INDEX), 200)])


async def test_identities_go_on_after_everything_was_trimmed(tmp_path: Path, closing: list[Journal]) -> None:
    names, seen = set(), []
    offset = None
    for _ in range(4):
        journal = opened(tmp_path, closing)
        journal.attach(INDEX, offset, nothing_told)
        await journal.append("source0", INDEX, columns([1, 2, 3]), None)
        entries = journal.take(INDEX, 10)
        seen += [s for e in entries for s in e.batch.column("sequence").to_pylist()]
        assert offset is None or entries[0].number > offset
        offset = entries[-1].number
        journal.trim(INDEX, offset)
        names.add(journal.shard_name(INDEX))
        await asyncio.to_thread(journal.close)
    assert seen == list(range(1, 13))
    assert len(names) == 1


async def test_a_journal_begun_anew_has_another_incarnation(tmp_path: Path, closing: list[Journal]) -> None:
    names = {opened(tmp_path / str(n), closing).shard_name(0) for n in range(3)}
    assert len(names) == 3


async def test_the_account_adds_up_when_trims_were_lost(tmp_path: Path, closing: list[Journal]) -> None:
    """The flow's epoch was durable, the process ended before the journal knew it."""
    journal = opened(tmp_path, closing)
    attach(journal)
    for n in range(4):
        await journal.append(f"source{n % 2}", INDEX, columns([n] * 5), None)
    entries = journal.take(INDEX, 100)
    assert not journal_missing(journal)
    give_up(journal)
    again = opened(tmp_path, closing)

    def settle(batch: pa.RecordBatch) -> Outcome:
        outcome = Outcome(routed=Counter(), targets={"a": Counter()})
        source = f"source{batch.column('value_int')[0].as_py() % 2}"
        outcome.routed[source] += 4
        outcome.dead[source] += 1
        outcome.targets["a"][source] += 4
        return outcome

    again.attach(INDEX, entries[2].number, settle)
    account = again.account()
    assert account.outcome.routed == {"source0": 8, "source1": 4}
    assert account.outcome.dead == {"source0": 2, "source1": 1}
    assert account.outcome.targets == {"a": {"source0": 8, "source1": 4}}
    assert account.waiting == {"source1": 5}
    assert not journal_missing(again)


async def test_what_a_step_drops_is_accounted_for(tmp_path: Path, closing: list[Journal]) -> None:
    journal = opened(tmp_path, closing)
    attach(journal)
    await journal.append("source0", INDEX, columns(range(10)), None)
    await journal.append("source0", INDEX, columns(range(5)), None)
    first, second = journal.take(INDEX, 100)
    journal.note(journal.shard_name(INDEX), first.last, Outcome(routed=Counter(source0=7)))
    journal.note("another-shard", first.last, Outcome(routed=Counter(source0=7)))
    journal.trim(INDEX, first.number)
    journal.trim(INDEX, second.number)
    account = journal.account()
    assert account.outcome.routed == {"source0": 7}
    assert account.outcome.filtered == {"dropped by a step": {"source0": 8}}
    assert not journal_missing(journal)


async def test_a_full_journal_makes_its_sources_wait_and_loses_nothing(tmp_path: Path, closing: list[Journal]) -> None:
    journal = opened(tmp_path, closing, quota=20_000)
    attach(journal)
    futures = [journal.append("source0", INDEX, columns([str(n) * 50]), None) for n in range(20)]
    n = 20
    while not journal.size >= 20_000:
        futures.append(journal.append("source0", INDEX, columns([str(n) * 50]), None))
        await asyncio.sleep(0.001)
        n += 1
    late = [journal.append("source0", INDEX, columns([f"late{i}"]), None) for i in range(5)]
    await asyncio.sleep(0.1)
    assert not any(future.done() for future in late)
    found: list[str] = []
    async with asyncio.timeout(20):
        while len(found) < n + 5:
            for entry in journal.take(INDEX, 50):
                found += entry.batch.column("value_text").to_pylist()
                journal.trim(INDEX, entry.number)
            await asyncio.sleep(0.005)
        await asyncio.gather(*futures, *late)
    assert found == [*(str(i) * 50 for i in range(n)), *(f"late{i}" for i in range(5))]
    await until_async(lambda: journal.size < 20_000)
    assert not journal_missing(journal)


async def test_a_full_disk_makes_sources_wait_and_is_left_by_trimming(
    small_disk: Path, closing: list[Journal], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is smaller than a segment: even the newest one has to go."""
    monkeypatch.setattr(journal_module, "_RETRY_FULL", 0.02)
    journal = opened(small_disk / "journal", closing)
    attach(journal)
    rng = random.Random(1)
    sent, found, futures, n = [], [], [], 0
    while True:
        value = rng.randbytes(30_000)
        sent.append(value)
        future = journal.append("source0", INDEX, columns([value]), None)
        futures.append(future)
        n += 1
        done, _ = await asyncio.wait([future], timeout=0.2)
        if not done:
            break
    assert n > 10
    async with asyncio.timeout(20):
        for _ in range(4):  # two disks full
            for value in (rng.randbytes(30_000) for _ in range(n // 2)):
                sent.append(value)
                futures.append(journal.append("source0", INDEX, columns([value]), None))
            while len(found) < len(sent):
                entries = journal.take(INDEX, 5)
                for entry in entries:
                    found += entry.batch.column("value_bytes").to_pylist()
                if entries:
                    journal.trim(INDEX, entries[-1].number)
                await asyncio.sleep(0.005)
        await asyncio.gather(*futures)
    assert found == sent
    assert not journal_missing(journal)


async def test_a_journal_on_a_full_disk_can_be_closed(
    small_disk: Path, closing: list[Journal], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "_RETRY_FULL", 0.02)
    journal = opened(small_disk / "journal", closing)
    await journal.append("source0", INDEX, columns([1]), None)
    pending = journal.append("source0", INDEX, columns([b"x" * 2_000_000]), b"state")
    rng = random.Random(1)
    pending = journal.append("source0", INDEX, columns([rng.randbytes(2_000_000)]), b"state")
    async with asyncio.timeout(5):
        await asyncio.to_thread(journal.close)
    await asyncio.sleep(0.01)
    assert not pending.done()
    again = opened(small_disk / "journal", closing)
    attach(again)
    assert read(again)[0] == (1, 1)


async def test_closing_commits_what_is_pending(tmp_path: Path, closing: list[Journal]) -> None:
    journal = opened(tmp_path, closing, linger=0.2)
    futures = [journal.append("source0", INDEX, columns([n]), None) for n in range(10)]
    await asyncio.to_thread(journal.close)
    await asyncio.gather(*futures)
    again = opened(tmp_path, closing)
    attach(again)
    assert [value for _, value in read(again)] == list(range(10))


async def test_readings_that_fit_no_column_are_refused_and_the_others_go_on(
    tmp_path: Path, closing: list[Journal]
) -> None:
    journal = opened(tmp_path, closing, linger=0.05)
    attach(journal)
    poison = columns([2])
    poison.status[0] = 2**70
    unknown = columns([3])
    unknown.tag[0] = 999
    good = [journal.append("source0", INDEX, columns([n]), b"good") for n in (0, 1)]
    bad = [journal.append(f"bad{i}", INDEX, rows, b"bad") for i, rows in enumerate((poison, unknown))]
    good.append(journal.append("source0", INDEX, columns([4]), None))
    alone = journal.append("bad2", 1, poison, b"bad")
    for future in (*bad, alone):
        with pytest.raises(ValueError, match="readings of bad"):
            await future
    await asyncio.gather(*good)
    assert read(journal) == [(1, 0), (2, 1), (3, 4)]
    assert read(journal, 1) == []
    assert journal.state("bad0") is None
    assert journal.state("source0") == b"good"
    assert journal.failed is None
    assert journal.account().journalled == {"source0": 3}
    assert not journal_missing(journal)


async def test_readings_with_columns_of_different_length_are_refused_at_once(
    tmp_path: Path, closing: list[Journal]
) -> None:
    journal = opened(tmp_path, closing)
    rows = columns([1, 2])
    rows.value_int.pop()
    with pytest.raises(ValueError, match="columns of different length"):
        journal.append("source0", INDEX, rows, None)


async def test_a_loop_that_was_closed_does_not_stop_the_journal(tmp_path: Path, closing: list[Journal]) -> None:
    journal = opened(tmp_path, closing, linger=0.05)

    async def append() -> None:
        journal.append("source0", INDEX, columns([1]), None)

    await asyncio.to_thread(asyncio.run, append())
    await journal.append("source0", INDEX, columns([2]), None)
    attach(journal)
    assert [value for _, value in read(journal)] == [1, 2]


async def test_a_failed_disk_is_told_to_the_flow_and_acknowledges_nothing(
    tmp_path: Path, closing: list[Journal], monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = opened(tmp_path, closing)
    attach(journal)

    def refuse(fd: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", refuse)
    future = journal.append("source0", INDEX, columns([1]), None)
    await until_async(lambda: journal.failed)
    with pytest.raises(StoreError, match="fsync failed"):
        journal.take(INDEX, 1)
    assert not future.done()


async def test_a_large_state_costs_its_changes_only_and_survives_segments(
    tmp_path: Path, closing: list[Journal], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "_SEGMENT_BYTES", 200_000)
    journal = opened(tmp_path, closing)
    known = random.Random(1).randbytes(30_000)
    for n in range(200):
        await journal.append("source0", INDEX, columns([n]), b"%d" % n + known)
    assert journal.size < 200 * 1000 + 2 * len(known)
    await asyncio.to_thread(journal.close)
    again = opened(tmp_path, closing)
    assert again.state("source0") == b"199" + known


async def test_an_unexpected_failure_of_the_journal_is_told_to_the_flow(tmp_path: Path, closing: list[Journal]) -> None:
    journal = opened(tmp_path, closing)
    attach(journal)

    def fails(shard: str, last: int) -> None:
        raise ZeroDivisionError("of a listener")

    journal.on_trimmed.append(fails)
    await journal.append("source0", INDEX, columns([1]), None)
    journal.trim(INDEX, journal.take(INDEX, 10)[-1].number)
    await until_async(lambda: journal.failed is not None)
    with pytest.raises(StoreError, match=r"ZeroDivisionError.*of a listener"):
        journal.take(INDEX, 10)


async def test_no_sequence_is_given_twice_after_the_newest_commit_was_damaged(
    tmp_path: Path, closing: list[Journal]
) -> None:
    """It had been handed out: under its sequences the spools would take new readings for old ones."""
    journal = opened(tmp_path, closing)
    attach(journal)
    for n in range(3):
        await journal.append("source0", INDEX, columns([n]), None)
    handed = {sequence for sequence, _ in read(journal)}
    give_up(journal)
    path = max((tmp_path).glob("*.log"))
    data = bytearray(path.read_bytes())
    data[-3] ^= 4
    path.write_bytes(data)
    again = opened(tmp_path, closing)
    attach(again)
    await again.append("source0", INDEX, columns([9]), None)
    kept = read(again)
    assert [value for _, value in kept] == [0, 1, 9]
    assert kept[-1][0] not in handed


async def test_a_journal_that_is_older_than_the_flow_loses_nothing_new(tmp_path: Path, closing: list[Journal]) -> None:
    """Its newest segment has gone, or it was restored: the flow's offset must not hide new commits."""
    journal = opened(tmp_path, closing)
    attach(journal)
    await journal.append("source0", INDEX, columns([0]), None)
    handed = {sequence for sequence, _ in read(journal)}
    again = opened(tmp_path, closing)
    offset = 5000
    again.attach(INDEX, offset, lambda batch: Outcome(routed=Counter(source0=len(batch))))
    await again.append("source0", INDEX, columns([1]), None)
    [entry] = again.take(INDEX, 10)
    assert entry.number > offset
    assert entry.first not in handed
    third = opened(tmp_path, closing)
    third.attach(INDEX, offset, lambda batch: Outcome(routed=Counter(source0=len(batch))))
    assert [value for _, value in read(third)] == [1]


async def test_a_newer_format_is_refused_with_what_to_do(tmp_path: Path, closing: list[Journal]) -> None:
    journal = opened(tmp_path, closing)
    real = journal._head
    journal._log._head = lambda: real().replace(b"\x97\x02", b"\x97\x09", 1)
    journal._log.roll()
    await asyncio.to_thread(journal.close)
    with pytest.raises(StoreError, match="newer version of Bifrost; start that version"):
        Journal(tmp_path, GATEWAY, tag_table())


def test_a_source_lives_in_one_shard_of_its_protocol() -> None:
    for source in ("line1", "line2", "ümlaut"):
        assert SHARDS[shard_of("modbus", source)].startswith("modbus-")
        assert shard_of("modbus", source) == shard_of("modbus", source)


@given(rows=readings())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_value_is_the_same_from_journal_to_unit(tmp_path_factory: pytest.TempPathFactory, rows: Columns) -> None:
    """Reader's columns, journal's batch, the batch read back from disk, the spool's unit from memory and from disk."""
    directory = tmp_path_factory.mktemp("way")
    table = tag_table()
    sent = {name: getattr(rows, name)[:] for name in Columns.__slots__}

    async def way() -> None:
        journal = Journal(directory / "journal", GATEWAY, table, linger=0.0)
        attach(journal)
        await journal.append("source0", INDEX, rows, None)
        await asyncio.to_thread(journal.close)
        batches = [journal.take(INDEX, 100)[0].batch]
        again = Journal(directory / "journal", GATEWAY, table, linger=0.0)
        attach(again)
        batches.append(again.take(INDEX, 100)[0].batch)
        again.close()
        spool = Spool(directory / "spool", table, own)
        spool.append(as_stream(batches[1], table))
        unit = spool.take(10_000, 2**30)
        assert unit is not None
        batches.append(unit.batch())
        spool.close()
        later = TagTable()
        spool = Spool(directory / "spool", later, own, marks_resent=False)
        unit = spool.take(10_000, 2**30)
        assert unit is not None
        batches.append(unit.batch())
        spool.close()
        for batch, tags in zip(batches, (table, table, table, later), strict=True):
            for name in Columns.__slots__:
                column = plain(batch.column(name))
                if name == "tag":
                    assert [tags[i] for i in column] == [table[i] for i in sent["tag"]]
                else:
                    assert column == [repr(v) if isinstance(v, float) else v for v in sent[name]]
            assert batch.column("sequence").to_pylist() == list(range(1, len(sent["tag"]) + 1))
            assert set(batch.column("gateway").to_pylist()) == {GATEWAY}

    asyncio.run(way())


def test_a_nan_is_not_a_null() -> None:
    assert plain(pa.array([math.nan, None, -0.0])) == ["nan", None, "-0.0"]


async def test_readers_flow_and_account_at_once(tmp_path: Path, closing: list[Journal]) -> None:
    """Appends, takes, trims and scans from several threads; then everything is there once and adds up."""
    journal = opened(tmp_path, closing, linger=0.001, quota=300_000, memory_rows=500)
    attach(journal)
    stop, found, problems = threading.Event(), {i: [] for i in range(4)}, []
    sent = dict.fromkeys(range(4), 0)

    def flow(index: int) -> None:
        rng = random.Random(index)
        while not (stop.is_set() and len(found[index]) == sent[index]):
            entries = journal.take(index, rng.randrange(1, 400))
            for entry in entries:
                found[index] += entry.batch.column("value_int").to_pylist()
                journal.note(journal.shard_name(index), entry.last, Outcome(routed=Counter(entry.sources)))
            if entries and rng.random() < 0.7:
                journal.trim(index, entries[-1].number)
            elif not entries:
                journal.wait_arrival(-1, 0.001)

    def account() -> None:
        while not stop.is_set():
            if missing := journal_missing(journal):
                problems.append(missing)
            stop.wait(0.01)

    threads = [threading.Thread(target=flow, args=(i,)) for i in range(4)] + [threading.Thread(target=account)]
    for thread in threads:
        thread.start()
    rng = random.Random(9)
    for _ in range(800):
        index, count = rng.randrange(4), rng.randrange(1, 60)
        rows = columns(range(sent[index], sent[index] + count))
        sent[index] += count
        future = journal.append(f"source{index}", index, rows, None)
        if rng.random() < 0.3:
            await future
    await future
    stop.set()
    await asyncio.to_thread(lambda: [thread.join(30) for thread in threads])
    assert found == {i: list(range(sent[i])) for i in range(4)}
    assert problems == []
    assert not journal_missing(journal)
    until(lambda: journal.size < 300_000)
