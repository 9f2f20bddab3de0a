"""What gathers while a disk is slow may be more than one record holds."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from delivery import journal as journal_module
from delivery.journal import Journal
from tests.delivery.stores import columns, journal_missing
from tests.delivery.test_journal import INDEX, attach, opened, read

OTHER = 6


@pytest.fixture
async def closing() -> AsyncIterator[list[Journal]]:
    journals: list[Journal] = []
    yield journals
    for journal in journals:
        await asyncio.to_thread(journal.close)


async def test_much_that_gathered_is_committed_in_several_records(
    tmp_path: Path, closing: list[Journal], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "_COMMIT_BYTES", 20_000)
    journal = opened(tmp_path, closing)
    attach(journal)
    before = journal._log.next_number
    values = range(0, 8_000, 2)  # of source0
    async with asyncio.timeout(20):
        await asyncio.gather(
            journal.append("source0", INDEX, columns(values), b"one"),
            journal.append("source0", INDEX, columns(values), b"two"),
            journal.append("source0", OTHER, columns([0]), None),
        )
    assert journal._log.next_number - before > 8
    assert not journal_missing(journal)
    assert journal.account().journalled == Counter(source0=8_001)
    expected = list(enumerate([*values, *values], 1))
    assert read(journal) == expected
    assert read(journal, OTHER) == [(1, 0)]
    await asyncio.to_thread(journal.close)
    closing.clear()
    later = opened(tmp_path, closing)
    attach(later)
    assert read(later) == expected
    assert later.state("source0") == b"two"
    assert not journal_missing(later)


async def test_what_the_gateway_is_handed_and_its_state_are_one_record_however_much_else_gathered(
    tmp_path: Path, closing: list[Journal], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "_COMMIT_BYTES", 20_000)
    journal = opened(tmp_path, closing)
    attach(journal)
    handed = journal_module.shard_of("gateway", "api")
    async with asyncio.timeout(20):
        await asyncio.gather(
            journal.append("api", handed, columns([1, 2, 3]), b"ids"),
            journal.append("source0", INDEX, columns(range(0, 8_000, 2)), None),
        )
    commits = [
        journal_module.unpack(record.payload)
        for record in journal._log.read(journal._log.cursor(1), journal._log.next_number)
        if record.kind == journal_module._COMMIT
    ]
    assert len(commits) > 4
    of_state = [[index for index, *_ in entries] for entries, states, _ in commits if "api" in states]
    assert of_state in ([[handed]], [[INDEX, handed]])
