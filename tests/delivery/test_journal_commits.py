"""Commits that hold several shards, and what the journal remembers of them."""

import asyncio
import gc
import tracemalloc
from collections import Counter
from pathlib import Path

import pytest

from delivery import journal as journal_module
from delivery.journal import Journal
from delivery.outcome import Outcome
from tests.delivery.stores import columns, journal_missing, nothing_told, until_async
from tests.delivery.test_journal import INDEX, attach, closing, give_up, opened, read

__all__ = ["closing"]
SOME = range(4)
DELIVERY = f"{Path(journal_module.__file__).parent}/*"


async def one_commit(journal: Journal, start: int = 0) -> None:
    """A commit with readings of four shards, more of each than of the one before."""
    futures = [journal.append(f"s{i}", i, columns(range(start + 100 * i, start + 101 * i + 1)), None) for i in SOME]
    await asyncio.gather(*futures)


async def test_each_shard_of_a_commit_is_read_back_whole(tmp_path: Path, closing: list[Journal]) -> None:
    journal = opened(tmp_path, closing, linger=0.3)
    await one_commit(journal)
    await one_commit(journal, 50)
    give_up(journal)
    again = opened(tmp_path, closing)
    attach(again)
    for index in SOME:
        expected = [*range(100 * index, 101 * index + 1), *range(50 + 100 * index, 50 + 101 * index + 1)]
        assert read(again, index) == list(enumerate(expected, 1))
    assert again.waiting_rows == 0


async def test_a_shard_that_is_ahead_keeps_no_other_from_its_part_of_a_commit(
    tmp_path: Path, closing: list[Journal]
) -> None:
    journal = opened(tmp_path, closing, linger=0.3)
    attach(journal)
    await one_commit(journal)
    offset = journal.take(0, 100)[-1].number
    journal.trim(0, offset)
    await until_async(lambda: not journal.account().waiting["s0"])
    await asyncio.to_thread(journal.close)
    again = opened(tmp_path, closing)
    told: list[int] = []
    again.attach(2, offset, lambda batch: (told.append(len(batch)), Outcome(routed=Counter(s2=len(batch))))[1])
    assert told == [3], "what the flow knows of, told once"
    for index in (0, 1, 3):
        again.attach(index, offset if not index else None, nothing_told)
    assert [len(read(again, index)) for index in SOME] == [0, 2, 0, 4]
    assert again.account().waiting == Counter(s1=2, s3=4)


async def test_a_rebuild_of_the_flow_forgets_what_was_held_in_memory_for_it(
    tmp_path: Path, closing: list[Journal]
) -> None:
    journal = opened(tmp_path, closing)
    attach(journal)
    read(journal)
    for n in range(5):
        await journal.append("source0", INDEX, columns([n]), None)
        await journal.append("source1", INDEX + 1, columns([n]), None)
    assert journal.waiting_rows == 10
    journal.attach(INDEX, None, nothing_told)
    assert journal.waiting_rows == 5
    assert [value for _, value in read(journal)] == list(range(5))
    assert [value for _, value in read(journal, INDEX + 1)] == list(range(5))
    assert journal.waiting_rows == 0


async def test_not_everything_is_read_back_at_once(
    tmp_path: Path, closing: list[Journal], monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = opened(tmp_path, closing)
    for n in range(20):
        await journal.append("source0", INDEX, columns([n, n, n]), None)
    monkeypatch.setattr(journal_module, "_REFILL_ROWS", 12)
    attach(journal)
    assert len(journal.take(INDEX, 1)) == 1
    assert journal.waiting_rows == 9
    assert len(read(journal)) == 57


async def test_each_arrival_is_told_from_the_one_before(tmp_path: Path, closing: list[Journal]) -> None:
    journal = opened(tmp_path, closing)
    for n in range(3):
        await journal.append("source0", INDEX, columns([n]), None)
        assert journal.wait_arrival(-1, 0.0) == n + 1


async def test_what_was_trimmed_is_not_trimmed_again(tmp_path: Path, closing: list[Journal]) -> None:
    journal = opened(tmp_path, closing)
    attach(journal)
    await journal.append("source0", INDEX, columns([1]), None)
    number = journal.take(INDEX, 10)[-1].number
    journal.trim(INDEX, number)
    size = journal.size
    journal.trim(INDEX, number)
    journal.trim(INDEX, number - 1)
    assert journal.size == size
    assert journal.account().outcome.filtered == {"dropped by a step": Counter(source0=1)}


async def test_a_journal_restored_from_an_old_copy_twice_gives_no_sequence_twice(
    tmp_path: Path, closing: list[Journal]
) -> None:
    handed: list[int] = []
    for n in range(3):
        journal = opened(tmp_path, closing)
        journal.attach(INDEX, 5000 * n, lambda batch: Outcome(routed=Counter(source0=len(batch))))
        await journal.append("source0", INDEX, columns([n]), None)
        (entry,) = journal.take(INDEX, 10)
        assert entry.number > 5000 * n
        handed.append(entry.first)
        give_up(journal)
    assert handed == sorted(set(handed))
    assert handed[0] >= 1


async def test_what_is_remembered_of_a_segment_goes_with_it(
    tmp_path: Path, closing: list[Journal], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "_SEGMENT_BYTES", 2_000)
    journal = opened(tmp_path, closing)
    attach(journal)
    for n in range(60):
        await journal.append("source0", INDEX, columns([n]), None)
        journal.trim(INDEX, journal.take(INDEX, 10)[-1].number)
    await journal.append("source0", INDEX, columns([60]), None)
    await until_async(lambda: len(journal._log.segments()) <= 2)
    assert set(journal._in_segment) <= set(journal._log.segments())


async def test_the_account_adds_up_while_a_commit_is_written(
    tmp_path: Path, closing: list[Journal], monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = opened(tmp_path, closing)
    attach(journal)
    seen: list[Counter[str]] = []
    real = journal._log.append

    def append(kind: int, parts: list[bytes], *, urgent: bool = False) -> int:
        number = real(kind, parts, urgent=urgent)
        seen.append(journal_missing(journal))
        return number

    monkeypatch.setattr(journal._log, "append", append)
    for n in range(2):
        await journal.append("source0", INDEX, columns([n]), None)
    assert len(seen) >= 2
    assert not any(seen)


async def test_commits_that_are_behind_the_flow_leave_nothing_in_memory(tmp_path: Path, closing: list[Journal]) -> None:
    journal, commits = opened(tmp_path, closing), 300
    attach(journal)

    async def held_after(count: int) -> int:
        for value in range(count):
            await journal.append("source0", INDEX, columns([value]), None)
            journal.trim(INDEX, journal.take(INDEX, 10)[-1].number)
        gc.collect()
        held = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, DELIVERY)])
        return sum(trace.size for trace in held.traces)

    tracemalloc.start()
    try:
        before = await held_after(50)
        grown = await held_after(commits) - before
    finally:
        tracemalloc.stop()
    assert grown / commits < 20, "bytes per commit, with nobody who asks what is delivered"
