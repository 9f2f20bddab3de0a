"""How the flow waits for the journal, how appends are gathered into commits, and what the journal says of itself."""

import asyncio
import time
from collections import Counter
from pathlib import Path

import pytest

from delivery import journal as journal_module
from delivery.disk import StoreError
from delivery.journal import PROTOCOLS, RAW, SHARDS, Journal, shard_of
from delivery.outcome import Outcome
from normalization.reading import Columns
from tests.delivery.stores import GATEWAY, columns, journal_missing, nothing_told, tag_table, until, until_async
from tests.delivery.test_journal import INDEX, attach, closing, opened, read

__all__ = ["closing"]


async def waited(journal: Journal, seen: int, patience: float, not_before: float = 0.0) -> tuple[int, float]:
    """What `wait_arrival` returns, and the seconds it took."""
    began = time.monotonic()
    arrivals = await asyncio.to_thread(journal.wait_arrival, seen, patience, not_before)
    return arrivals, time.monotonic() - began


async def test_the_flow_waits_for_readings_as_long_as_it_says(tmp_path: Path, closing: list[Journal]) -> None:
    journal = opened(tmp_path, closing)
    attach(journal)
    read(journal)
    arrivals, took = await waited(journal, 0, 0.1)
    assert arrivals == 0
    assert 0.09 <= took < 3
    waiting = asyncio.create_task(waited(journal, 0, 10.0))
    await journal.append("source0", INDEX, columns([1]), None)
    arrivals, took = await waiting
    assert arrivals == 1
    assert took < 5
    assert await waited(journal, -1, 10.0) == (1, pytest.approx(0.0, abs=3)), "there have been others already"
    await journal.append("source0", INDEX, Columns(), b"only a state")
    arrivals, took = await waited(journal, 1, 0.05)
    assert arrivals == 1, "a state alone is nothing for the flow"


async def test_the_flow_lets_a_few_readings_gather_but_not_many(
    tmp_path: Path, closing: list[Journal], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "_PLENTY", 20)
    journal = opened(tmp_path, closing)
    attach(journal)
    read(journal)
    await journal.append("source0", INDEX, columns([1]), None)
    _, took = await waited(journal, 0, 10.0, time.monotonic() + 0.2)
    assert 0.15 <= took < 3
    waiting = asyncio.create_task(waited(journal, 0, 10.0, time.monotonic() + 10.0))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    await journal.append("source0", INDEX, columns(range(18)), None)
    await asyncio.sleep(0.1)
    assert not waiting.done(), "19 are few"
    await journal.append("source0", INDEX, columns([2]), None)
    _, took = await waiting
    assert took < 5
    assert journal.waiting_rows == 20
    _, took = await waited(journal, 0, 10.0, time.monotonic() + 10.0)
    assert took < 5, "many are there already"
    _, took = await waited(journal, 0, 10.0, time.monotonic() - 1.0)
    assert took < 5


async def test_a_flow_that_is_behind_does_not_wait_for_more(tmp_path: Path, closing: list[Journal]) -> None:
    journal = opened(tmp_path, closing)
    await journal.append("source0", INDEX, columns([1]), None)
    attach(journal)  # what is on disk has not been read back
    _, took = await waited(journal, 0, 10.0, time.monotonic() + 10.0)
    assert took < 5


async def test_a_failure_wakes_a_flow_that_lets_readings_gather(
    tmp_path: Path, closing: list[Journal], monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = opened(tmp_path, closing)
    attach(journal)
    read(journal)
    await journal.append("source0", INDEX, columns([1]), None)
    waiting = asyncio.create_task(waited(journal, 0, 10.0, time.monotonic() + 10.0))
    await asyncio.sleep(0.05)

    def broken(*args: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(journal, "_commit", broken)
    journal.append("source0", INDEX, columns([2]), None)
    _, took = await waiting
    assert took < 5
    assert isinstance(journal.failed, StoreError)
    assert "RuntimeError('a bug')" in str(journal.failed)
    assert str(tmp_path) in str(journal.failed)
    with pytest.raises(StoreError, match="a bug"):
        journal.take(INDEX, 10)


async def test_appends_that_come_within_the_linger_are_one_commit(tmp_path: Path, closing: list[Journal]) -> None:
    journal = opened(tmp_path, closing, linger=0.3)
    attach(journal)
    began = time.monotonic()
    first = journal.append("source0", INDEX, columns([1]), None)
    await asyncio.sleep(0.05)
    second = journal.append("source1", INDEX, columns([2, 3]), None)
    await asyncio.gather(first, second)
    assert 0.25 <= time.monotonic() - began < 5
    (entry,) = journal.take(INDEX, 100)
    assert (entry.first, entry.rows, entry.last, entry.sources) == (1, 3, 3, {"source0": 1, "source1": 2})
    assert entry.batch is not None
    assert entry.batch.schema == RAW
    assert set(entry.batch.column("gateway").to_pylist()) == {GATEWAY}
    assert set(entry.batch.column("shard").to_pylist()) == {journal.shard_name(INDEX)}


async def test_enough_readings_do_not_wait_for_the_linger(tmp_path: Path, closing: list[Journal]) -> None:
    journal = opened(tmp_path, closing, linger=10.0, commit_rows=10)
    began = time.monotonic()
    first = journal.append("source0", INDEX, columns(range(9)), None)
    await asyncio.sleep(0.1)
    assert not first.done()
    await asyncio.gather(first, journal.append("source0", INDEX, columns([9]), None))
    assert time.monotonic() - began < 5
    journal._linger = 0.0


async def test_what_is_taken_is_about_what_was_asked_for(tmp_path: Path, closing: list[Journal]) -> None:
    journal = opened(tmp_path, closing)
    attach(journal)
    read(journal)
    for n in range(5):
        await journal.append("source0", INDEX, columns(range(n * 4, n * 4 + 4)), None)
    assert journal.waiting_rows == 20
    assert journal.take(INDEX, 0) == []
    assert [entry.rows for entry in journal.take(INDEX, 5)] == [4, 4]
    assert journal.waiting_rows == 12
    assert [entry.rows for entry in journal.take(INDEX, 4)] == [4]
    assert [entry.rows for entry in journal.take(INDEX, 100)] == [4, 4]
    assert journal.waiting_rows == 0
    assert journal.take(INDEX, 100) == []


async def test_what_went_to_a_target_is_told_by_source_when_it_is_done(tmp_path: Path, closing: list[Journal]) -> None:
    journal = opened(tmp_path, closing)
    attach(journal)
    await journal.append("source0", INDEX, columns([1, 2]), None)
    await journal.append("source1", INDEX, columns([3]), None)
    entries = journal.take(INDEX, 10)
    shard = journal.shard_name(INDEX)
    journal.note(shard, 2, Outcome(routed=Counter(source0=2), targets={"cloud": Counter(source0=2)}))
    journal.note(shard, 3, Outcome(routed=Counter(source1=1), targets={"cloud": Counter(source1=1)}))
    journal.note("another shard", 3, Outcome(routed=Counter(source1=1)))
    assert journal.settled("cloud") == Counter()
    journal.trim(INDEX, entries[0].number)
    assert journal.settled("cloud") == Counter(source0=2)
    assert journal.account().waiting == Counter(source1=1)
    journal.trim(INDEX, entries[0].number)
    journal.trim(INDEX, entries[1].number)
    assert journal.settled("cloud") == Counter(source0=2, source1=1)
    assert journal.settled("nowhere") == Counter()
    account = journal.account()
    assert (account.journalled, account.waiting) == (Counter(source0=2, source1=1), Counter())
    assert account.outcome.routed == Counter(source0=2, source1=1)
    assert not journal_missing(journal)


async def test_who_is_told_of_trims_is_told_once_each_is_durable(tmp_path: Path, closing: list[Journal]) -> None:
    journal = opened(tmp_path, closing)
    attach(journal)
    told: list[tuple[str, int]] = []
    journal.on_trimmed.append(lambda shard, last: told.append((shard, last)))
    await journal.append("source0", INDEX, columns([1, 2, 3]), None)
    journal.trim(INDEX, journal.take(INDEX, 10)[-1].number)
    await until_async(lambda: told)
    await journal.append("source0", INDEX, columns([4]), None)
    journal.trim(INDEX, journal.take(INDEX, 10)[-1].number)
    await until_async(lambda: len(told) == 2)
    shard = journal.shard_name(INDEX)
    assert told == [(shard, 3), (shard, 4)]


def test_names_of_shards_tell_the_protocol_its_number_and_the_incarnation(tmp_path: Path) -> None:
    journal = Journal(tmp_path, GATEWAY, tag_table())
    names = [journal.shard_name(index) for index in range(len(SHARDS))]
    assert [name.rpartition("-")[0] for name in names] == [
        f"{protocol}-{n}" for protocol in PROTOCOLS for n in range(4)
    ]
    (incarnation,) = {name.rpartition("-")[2] for name in names}
    assert len(incarnation) == 6
    journal.close()
    again = Journal(tmp_path, GATEWAY, tag_table())
    assert [again.shard_name(index) for index in range(len(SHARDS))] == names
    assert again._thread.name == "journal"
    assert again._thread.daemon, "a process can end though a disk hangs"
    again.close()


@pytest.mark.parametrize(
    ("protocol", "first"), [("opcua", 0), ("mqtt", 4), ("modbus", 8), ("gateway", 12), ("other", 12)]
)
def test_sources_are_spread_over_the_shards_of_their_protocol(protocol: str, first: int) -> None:
    found = {shard_of(protocol, f"source {n}") for n in range(50)}
    assert found == {first, first + 1, first + 2, first + 3}


async def test_the_size_is_what_lies_on_disk(tmp_path: Path, closing: list[Journal]) -> None:
    journal = opened(tmp_path, closing)
    before = journal.size
    await journal.append("source0", INDEX, columns(range(500)), None)
    assert journal.size > before
    until(lambda: journal.size == sum(path.stat().st_size for path in tmp_path.glob("*.log")))


async def test_readings_held_in_memory_are_bounded_and_the_rest_is_read_back(
    tmp_path: Path, closing: list[Journal]
) -> None:
    journal = opened(tmp_path, closing, memory_rows=20)
    for index in (INDEX, INDEX + 1):
        journal.attach(index, None, nothing_told)
    read(journal)
    for n in range(30):
        await journal.append("source0", INDEX + n % 2, columns(range(n * 4, n * 4 + 4)), None)
        assert journal.waiting_rows <= 24
    assert sorted(value for index in (INDEX, INDEX + 1) for _, value in read(journal, index)) == list(range(120))
    await journal.append("source0", INDEX, columns([999]), None)
    assert [value for _, value in read(journal)] == [999]


async def test_nobody_waits_long_for_an_acknowledgement_by_default(tmp_path: Path) -> None:
    journal = Journal(tmp_path, GATEWAY, tag_table())
    began = time.monotonic()
    for n in range(3):
        await journal.append("source0", INDEX, columns([n]), None)
    assert time.monotonic() - began < 2.5
    await asyncio.to_thread(journal.close)


async def test_readings_of_an_earlier_run_wait_though_the_flow_has_not_asked_for_them(
    tmp_path: Path, closing: list[Journal]
) -> None:
    journal = opened(tmp_path, closing)
    await journal.append("source0", INDEX, columns([1]), None)
    await asyncio.to_thread(journal.close)
    again = opened(tmp_path, closing)
    assert again.oldest_received() == 0
    attach(again)
    assert again.oldest_received() == 0
