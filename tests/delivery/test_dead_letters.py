import os
from pathlib import Path

import pytest

from delivery import dead_letters as dead_letters_module
from delivery.dead_letters import DeadLetterStore
from delivery.disk import StoreError, StoreFullError
from delivery.letter import FLOW
from normalization.reading import TagTable
from tests.delivery.stores import SHARD, content, own, sequences_of, stream, tag_table


def reopened(store: DeadLetterStore) -> DeadLetterStore:
    store._flusher.close()
    store._log._failed = StoreError("killed")
    store._log.close()
    return DeadLetterStore(store._log.directory, tag_table(), own)


def kept(store: DeadLetterStore) -> list[tuple[str, int, str]]:
    return [
        (letters.target, sequence, reason)
        for letters in store.letters()
        for sequence, reason in zip(sequences_of(letters.batch), letters.reasons, strict=True)
    ]


def test_dead_letters_keep_readings_and_reasons(tmp_path: Path, table: TagTable) -> None:
    store = DeadLetterStore(tmp_path, table, own)
    flow, rejected = stream(table, [1, 2]), stream(table, [2, 5])
    store.append(flow, ["no number", "no path"])
    store.append(rejected, ["too long", "schema"], "cloud", attempts=3)
    store.wait()
    store = reopened(store)
    first, second = store.letters()
    assert (first.target, first.attempts, first.reasons) == (FLOW, 0, ["no number", "no path"])
    assert (second.target, second.attempts, second.reasons) == ("cloud", 3, ["too long", "schema"])
    assert content(first.batch) == content(flow)
    assert content(second.batch) == content(rejected)
    assert store.counts(FLOW) == store.counts("cloud") == {"source0": 1, "source1": 1}
    assert store.counts("nobody") == {}
    assert store.total == 4
    store.close()


@pytest.mark.parametrize("restart", [False, True])
def test_a_dead_letter_that_comes_again_is_not_kept_twice(tmp_path: Path, table: TagTable, restart: bool) -> None:
    """After a crash between the dead letter and the spool's note of it, the target rejects the reading again."""
    store = DeadLetterStore(tmp_path, table, own)
    for target in (FLOW, "cloud", "local"):
        store.append(stream(table, [1, 2]), ["a", "b"], target)
    store.append(stream(table, [7], f"{SHARD}/average"), ["c"])
    store.wait()
    if restart:
        store = reopened(store)
    for target in (FLOW, "cloud", "local"):
        store.append(stream(store._tags, [2, 3, 3, 1]), ["b", "c", "c", "a"], target)
    store.append(stream(store._tags, [7, 8], f"{SHARD}/average"), ["c", "d"])
    for target in (FLOW, "cloud", "local"):
        assert sorted((s, r) for t, s, r in kept(store) if t == target and r in "abc" and s < 4) == [
            (1, "a"),
            (2, "b"),
            (3, "c"),
        ]
    assert store.total == 9 + 2
    store.close()


def test_the_flow_may_bring_again_what_was_not_trimmed_and_no_more(tmp_path: Path, table: TagTable) -> None:
    store = DeadLetterStore(tmp_path, table, own)
    store.append(stream(table, range(1, 11)), ["x"] * 10)
    had = store.had(SHARD, stream(table, [0, 5, 11]).column("sequence").to_numpy())
    assert had is not None
    assert had.tolist() == [False, True, False]
    store.forget(SHARD, 10)
    assert store.had(SHARD, stream(table, [5]).column("sequence").to_numpy()) is None
    assert store.total == 10
    store.close()


def test_rejected_readings_are_remembered_in_a_bounded_window(
    tmp_path: Path, table: TagTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letters_module, "_REMEMBERED", 100)
    store = DeadLetterStore(tmp_path, table, own)
    for start in range(0, 1000, 10):
        store.append(stream(table, range(start, start + 10)), ["x"] * 10, "cloud")
    assert sum(i.count(f"cloud/gw/{SHARD}") for i in store._recent) <= 220
    store.append(stream(table, range(990, 1000)), ["x"] * 10, "cloud")
    assert store.total == 1000
    store.close()


def test_a_store_that_was_full_can_be_used_again(
    tmp_path: Path, table: TagTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = DeadLetterStore(tmp_path, table, own)

    def full(fd: int, parts: list[bytes]) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as small:
        small.setattr(os, "writev", full)
        with pytest.raises(StoreFullError):
            store.append(stream(table, [1, 2, 3]), ["a", "b", "c"])
    store.append(stream(table, [2, 3]), ["b", "c"])
    store.wait()
    store = reopened(store)
    assert kept(store) == [(FLOW, 2, "b"), (FLOW, 3, "c")]
    assert content(next(store.letters()).batch) == content(stream(table, [2, 3]))
    store.close()


def test_a_failed_disk_is_not_silent(tmp_path: Path, table: TagTable, monkeypatch: pytest.MonkeyPatch) -> None:
    store = DeadLetterStore(tmp_path, table, own)

    def refuse(fd: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", refuse)
    store.append(stream(table, [1]), ["a"])
    with pytest.raises(StoreError, match="fsync failed"):
        store.wait()
