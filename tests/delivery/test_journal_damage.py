"""What a journal makes of damage: no sequence twice, no state that nobody committed, and a clear word."""

import asyncio
import os
import threading
from pathlib import Path

import pytest

from delivery.journal import Journal
from tests.delivery.stores import columns, until_async
from tests.delivery.test_journal import INDEX, attach, closing, give_up, opened, read

__all__ = ["closing"]


def newest(directory: Path) -> Path:
    return max(directory.glob("*.log"))


async def test_no_sequence_is_given_twice_however_often_the_journal_is_damaged(
    tmp_path: Path, closing: list[Journal]
) -> None:
    handed: list[int] = []
    for n in range(3):
        journal = opened(tmp_path, closing)
        attach(journal)
        read(journal)
        for value in range(2):
            await journal.append("source0", INDEX, columns([n * 10 + value]), None)
        handed += [sequence for sequence, _ in read(journal)]
        give_up(journal)
        path = newest(tmp_path)
        data = bytearray(path.read_bytes())
        data[-3] ^= 4
        path.write_bytes(data)
    assert len(set(handed)) == 6
    assert handed == sorted(handed)
    assert min(handed) >= 1


async def test_a_state_of_which_a_change_is_lost_is_no_state(tmp_path: Path, closing: list[Journal]) -> None:
    journal = opened(tmp_path, closing)
    large = bytes(range(256)) * 8
    for name in ("source0", "source1"):
        await journal.append(name, INDEX, columns([0]), large)
    path = newest(tmp_path)
    await journal.append("source0", INDEX, columns([1]), b"THE CHANGE" + large)
    await journal.append("source0", INDEX, columns([2]), b"later THE CHANGE" + large)
    await journal.append("source1", INDEX, columns([3]), b"sound" + large)
    give_up(journal)
    data = path.read_bytes()
    assert data.count(b"THE CHANGE") == 1
    path.write_bytes(data.replace(b"THE CHANGE", b"THE DAMAGE"))
    again = opened(tmp_path, closing)
    assert again.state("source0") is None
    assert again.state("source1") == b"sound" + large
    await again.append("source0", INDEX, columns([4]), b"new")
    await asyncio.to_thread(again.close)
    assert opened(tmp_path, closing).state("source0") == b"new"


async def test_a_failed_disk_is_told_in_its_own_words(
    tmp_path: Path, closing: list[Journal], monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = opened(tmp_path, closing)

    def refuse(fd: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", refuse)
    journal.append("source0", INDEX, columns([1]), None)
    await until_async(lambda: journal.failed)
    assert str(journal.failed).startswith(f"{tmp_path}: fsync failed (Input/output error)")


def hold_syncs(monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, threading.Event]:
    """Have each sync wait for the first of these; the second says that one waits."""
    gate, reached, real = threading.Event(), threading.Event(), os.fdatasync

    def slow(fd: int) -> None:
        reached.set()
        gate.wait(10)
        real(fd)

    monkeypatch.setattr(os, "fdatasync", slow)
    return gate, reached


async def test_readings_whose_commit_is_under_way_wait_too(
    tmp_path: Path, closing: list[Journal], monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = opened(tmp_path, closing)
    attach(journal)
    gate, reached = hold_syncs(monkeypatch)
    future = journal.append("source0", INDEX, columns([1]), None)
    came = journal.oldest_received()
    assert isinstance(came, int)
    await until_async(reached.is_set)
    assert journal.oldest_received() == came
    journal.append("source0", INDEX, columns([2]), None)
    assert journal.oldest_received() == came
    gate.set()
    await future
    assert journal.oldest_received() == came


async def test_what_is_not_durable_is_not_read_back_for_a_flow_that_begins_anew(
    tmp_path: Path, closing: list[Journal], monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = opened(tmp_path, closing)
    await journal.append("source0", INDEX, columns([1]), None)
    gate, reached = hold_syncs(monkeypatch)
    future = journal.append("source0", INDEX, columns([2]), None)
    await until_async(reached.is_set)
    attach(journal)
    assert [value for _, value in read(journal)] == [1]
    gate.set()
    await future
    assert [value for _, value in read(journal)] == [2]
