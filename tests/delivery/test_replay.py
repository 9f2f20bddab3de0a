"""Dead letters that are sent again or deleted: each reading is in one place, whatever ends the process in between."""

import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from delivery import spool as spool_module
from delivery.account import settle_accounts
from delivery.dead_letters import NO_RULE, PURGED, REPLAYED, DeadLetterStore, LetterPolicy
from delivery.disk import StoreFullError
from delivery.letter import FLOW, FLOW_WORD, DeadLetters, Selection, grouped
from delivery.origin import Origin
from delivery.outcome import JournalAccount
from delivery.overflow import BufferPolicy, Overflow
from delivery.replay import Replayed, finish, purge, replay
from delivery.spool import Spool
from normalization.reading import TagTable
from tests.delivery.power import Disk
from tests.delivery.stores import (
    SHARD,
    content,
    deliver_all,
    new_spool,
    own,
    sequences_of,
    stream,
    tag_table,
    unaccounted,
    until,
)
from tests.delivery.test_dead_letters import reopened as letters_reopened
from tests.delivery.test_spool import reopened as spool_reopened

TARGET = "cloud"


def opened(directory: Path, table: TagTable, **options: Any) -> tuple[DeadLetterStore, Spool]:
    return DeadLetterStore(directory / "letters", table, own), new_spool(directory / "spool", table, **options)


def refuse(store: DeadLetterStore, spool: Spool, bad: set[int]) -> list[int]:
    """A target that takes all that waits but for `bad`; returns what it took."""
    taken: list[int] = []
    while (unit := spool.take(1000, 2**30)) is not None:
        batch = unit.batch()
        rows = [row for row, sequence in enumerate(sequences_of(batch)) if sequence in bad]
        taken += [sequence for sequence in sequences_of(batch) if sequence not in bad]
        if rows:
            letters = batch.take(pa.array(rows))
            store.append(letters, [f"no {n}" for n in rows], TARGET, 1, first=5.0, places=unit.places(rows))
            store.wait()
            spool.reject(unit, rows, rest_delivered=True)
        else:
            spool.settle(unit)
    return taken


def kept(store: DeadLetterStore, target: str = TARGET) -> list[int]:
    return sorted(n for letters in store.letters() if letters.target == target for n in sequences_of(letters.batch))


def chosen(store: DeadLetterStore, **selection: Any) -> list[DeadLetters]:
    return list(Selection(**selection).among(store.letters()))


def send_again(store: DeadLetterStore, spool: Spool, **selection: Any) -> Replayed:
    done = Replayed()
    replay(store, spool, chosen(store, target=TARGET, **selection), done)
    return done


def target_line(store: DeadLetterStore, spool: Spool) -> Any:
    (line,) = settle_accounts(JournalAccount(), {TARGET: spool.account()}, store.removed()).targets[TARGET].values()
    return line


def test_a_replayed_letter_is_delivered_under_its_identity_and_leaves(tmp_path: Path, table: TagTable) -> None:
    store, spool = opened(tmp_path, table)
    sent = stream(table, range(1, 101))
    spool.append(sent)
    refuse(store, spool, {7, 40})
    assert send_again(store, spool) == Replayed(moved=2)
    assert kept(store) == []
    assert not unaccounted(spool)
    unit = spool.take(1000, 2**30)
    assert unit is not None
    assert content(unit.batch()) == content(sent.take([6, 39]))
    spool.settle(unit)
    assert not unaccounted(spool)
    assert spool.account().delivered.total() == 100
    assert spool.account().dead.total() == 0
    store.close()
    spool.close()


def test_what_is_refused_again_is_a_dead_letter_again(tmp_path: Path, table: TagTable) -> None:
    store, spool = opened(tmp_path, table)
    spool.append(stream(table, range(1, 11)))
    refuse(store, spool, {3})
    for _ in range(3):
        send_again(store, spool)
        assert refuse(store, spool, {3}) == []
        assert kept(store) == [3]
        assert spool.account().dead.total() == 1
    store, spool = letters_reopened(store), spool_reopened(spool)
    assert kept(store) == [3]
    assert spool.account().dead == store.counts(TARGET)
    store.close()
    spool.close()


def test_a_letter_that_is_sent_again_twice_is_delivered_once(tmp_path: Path, table: TagTable) -> None:
    store, spool = opened(tmp_path, table)
    spool.append(stream(table, range(1, 11)))
    refuse(store, spool, {3, 4})
    before = chosen(store)
    done = Replayed()
    replay(store, spool, before, done)
    replay(store, spool, chosen(store), done)
    assert deliver_all(spool) == [3, 4]
    store.close()
    spool.close()


@pytest.mark.parametrize("both", [False, True])
def test_a_crash_between_the_spool_and_the_store_neither_loses_nor_doubles(
    tmp_path: Path, table: TagTable, both: bool
) -> None:
    store, spool = opened(tmp_path, table)
    spool.append(stream(table, range(1, 11)))
    refuse(store, spool, {3, 4})
    (letters,) = chosen(store)
    assert spool.replay(letters.batch.slice(0, 1), Origin(store.id, letters.numbers[:1]))
    spool.sync()
    if both:
        store, spool = letters_reopened(store), spool_reopened(spool)
    assert not finish(store, {TARGET: spool}).to_list()
    assert kept(store) == [4]
    send_again(store, spool)
    assert deliver_all(spool) == [3, 4]
    assert not unaccounted(spool)
    assert spool.account().dead.total() == 0
    store.close()
    spool.close()


def test_marks_of_a_store_that_was_begun_anew_mean_nothing(tmp_path: Path, table: TagTable) -> None:
    store, spool = opened(tmp_path, table)
    spool.append(stream(table, range(1, 11)))
    refuse(store, spool, {3})
    (letters,) = chosen(store)
    assert spool.replay(letters.batch, Origin(store.id, letters.numbers))
    other = DeadLetterStore(tmp_path / "others", table, own)
    other.append(stream(table, [99]), ["x"], TARGET)
    finish(other, {TARGET: spool})
    assert kept(other) == [99]
    for each in (store, other, spool):
        each.close()


def test_a_letter_that_its_spool_still_holds_is_not_sent_again(tmp_path: Path, table: TagTable) -> None:
    """The process ended between the dead letter and the spool's word of it: the target will be asked again anyway."""
    store, spool = opened(tmp_path, table)
    spool.append(stream(table, range(1, 11)))
    unit = spool.take(1000, 2**30)
    assert unit is not None
    store.append(unit.batch().take([2]), ["no"], TARGET, 1, places=unit.places([2]))
    assert send_again(store, spool) == Replayed(under_way=1)
    spool.reject(unit, [2], rest_delivered=True)
    assert send_again(store, spool) == Replayed(moved=1)
    assert deliver_all(spool) == [3]
    store.close()
    spool.close()


def test_a_full_spool_discards_nothing_for_letters(tmp_path: Path, table: TagTable) -> None:
    full = BufferPolicy(rows=5, overflow=Overflow.DROP_OLDEST)
    store, spool = opened(tmp_path, table, policy=full)
    spool.append(stream(table, [1, 2]))
    refuse(store, spool, {1})
    spool.append(stream(table, range(10, 16)))
    assert send_again(store, spool) == Replayed(no_room=1)
    assert kept(store) == [1]
    assert deliver_all(spool) == list(range(10, 16))
    assert send_again(store, spool) == Replayed(moved=1)
    store.close()
    spool.close()


def test_the_flow_may_bring_again_what_was_sent_again_and_it_is_left_out(tmp_path: Path, table: TagTable) -> None:
    store, spool = opened(tmp_path, table)
    batch = stream(table, [1, 2, 3])
    store.append(batch, ["no path"] * 3)
    (letters,) = chosen(store, target=FLOW_WORD)
    assert spool.replay(letters.batch, Origin(store.id, letters.numbers, from_flow=True, untrimmed=True))
    store.remove([letters], REPLAYED)
    spool = spool_reopened(spool)
    spool.append(stream(spool._tags, [2, 3, 4]))
    store.append(stream(table, [2]), ["no path"])
    assert sorted(deliver_all(spool)) == [1, 2, 3, 4]
    assert kept(store, FLOW) == []
    store.close()
    spool.close()


def test_purged_letters_go_for_good_and_stay_in_the_account(tmp_path: Path, table: TagTable) -> None:
    store, spool = opened(tmp_path, table, entry_rows=1000)
    spool.append(stream(table, range(1, 11)))
    refuse(store, spool, {2, 4, 6})
    assert store.remove(chosen(store, reason="NO 3"), PURGED) == 1
    store, spool = letters_reopened(store), spool_reopened(spool)
    assert kept(store) == [2, 6]
    lines = settle_accounts(JournalAccount(), {TARGET: spool.account()}, store.removed()).targets[TARGET]
    assert sum(line.dead_letters for line in lines.values()) == 2
    assert sum(line.discarded.get("dead letters purged", 0) for line in lines.values()) == 1
    assert not any(line.unaccounted for line in lines.values())
    store.close()
    spool.close()


def test_what_was_purged_does_not_wait_again_after_a_power_cut(
    tmp_path: Path, table: TagTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool_module, "_SYNC_INTERVAL", 60.0)  # nothing is synced by itself
    disk = Disk(tmp_path)
    with disk.watched(monkeypatch):
        store, spool = opened(tmp_path, table)
        spool.append(stream(table, range(10)))
        spool.snapshot()
        refuse(store, spool, {3, 4})
        with store.moving:
            assert purge(store, {TARGET: spool}, chosen(store, target=TARGET)) == 2
        store.wait()
        remains = disk.remains()
        disk.restore({path: data[: remains.synced.get(path, 0)] for path, data in remains.files.items()})
    store, spool = opened(tmp_path, tag_table())
    assert kept(store) == deliver_all(spool) == []
    assert spool.account().dead.total() == 2


def test_a_letter_that_its_spool_still_holds_is_not_purged(tmp_path: Path, table: TagTable) -> None:
    store, spool = opened(tmp_path, table)
    spool.append(stream(table, range(10)))
    unit = spool.take(100, 2**30)
    assert unit
    store.append(unit.batch().take(pa.array([4])), ["no"], TARGET, 1, places=unit.places([4]))
    store.wait()
    assert purge(store, {TARGET: spool}, chosen(store, target=TARGET)) == 0
    spool.reject(unit, [4], rest_delivered=True)
    assert purge(store, {TARGET: spool}, chosen(store, target=TARGET)) == 1


def test_the_sources_lines_follow_the_letters_of_the_flow(tmp_path: Path, table: TagTable) -> None:
    store = DeadLetterStore(tmp_path, table, own)
    store.append(stream(table, [0, 2, 4, 6]), list("abcd"))
    for reason, letter in ((REPLAYED, "a"), (PURGED, "b"), (NO_RULE, "c")):
        store.remove(chosen(store, reason=letter), reason)
    journal = JournalAccount()
    journal.journalled["source0"] = journal.outcome.dead["source0"] = 4
    line = settle_accounts(journal, {}, store.removed()).sources["source0"]
    assert (line.routed, line.dead_letters) == (1, 1)
    assert line.filtered == {"dead letters purged": 1, "no rule": 1}
    assert line.unaccounted == 0
    store.close()


def fill(store: DeadLetterStore, numbers: range) -> None:
    rng = random.Random(numbers.start)
    for start in range(numbers.start, numbers.stop, 50):
        part = range(start, start + 50)
        store.append(stream(store._tags, part), [rng.randbytes(200).hex() for _ in part], TARGET)


@pytest.mark.parametrize("oldest", [True, False])
def test_a_full_store_lets_letters_go_counted_and_with_an_alarm(tmp_path: Path, table: TagTable, oldest: bool) -> None:
    store = DeadLetterStore(tmp_path, table, own, LetterPolicy(2_000_000, drops_oldest=oldest))
    fill(store, range(20_000))
    left = kept(store)
    assert store.discarded == 20_000 - len(left)
    assert left == (list(range(20_000 - len(left), 20_000)) if oldest else list(range(len(left))))
    assert len(left) > 2000
    assert store.alarm == "dead letters are discarded"
    store.wait()
    until(lambda: store.size < 2_200_000)
    before = (store.total, store.removed(), left)
    store = letters_reopened(store)
    assert (store.total, store.removed(), kept(store)) == before
    store.close()


def test_what_was_purged_frees_the_disk(tmp_path: Path, table: TagTable) -> None:
    store = DeadLetterStore(tmp_path, table, own, LetterPolicy(16_000_000))
    fill(store, range(10_000))
    assert store.size > 2_000_000
    assert store.remove(chosen(store), PURGED) == 10_000
    store.wait()
    until(lambda: store.size < 200_000)
    assert (store.total, kept(store)) == (0, [])
    fill(store, range(20_000, 20_050))
    store = letters_reopened(store)
    assert kept(store) == list(range(20_000, 20_050))
    store.close()


def test_a_full_disk_leaves_letters_of_the_flow_out_and_counts_them_and_a_target_s_come_again(
    tmp_path: Path, table: TagTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = DeadLetterStore(tmp_path, table, own)
    write = os.writev

    def nearly_full(fd: int, parts: list[bytes]) -> int:
        if sum(map(len, parts)) > 400:
            raise OSError(28, "No space left on device")
        return write(fd, parts)

    with monkeypatch.context() as small:
        small.setattr(os, "writev", nearly_full)
        store.append(stream(table, range(10)), ["a long reason " * 50] * 10)
        with pytest.raises(StoreFullError):
            store.append(stream(table, range(10)), ["a long reason " * 50] * 10, TARGET)
    assert (store.total, store.discarded, store.alarm) == (0, 10, "dead letters are discarded")
    store.append(stream(table, range(20)), ["short"] * 20)
    store.append(stream(table, range(10)), ["short"] * 10, TARGET)
    assert kept(store, FLOW) == list(range(10, 20)), "those that were left out are remembered"
    assert kept(store) == list(range(10))
    store = letters_reopened(store)
    assert (store.total, store.discarded) == (20, 10)
    store.close()


def test_numbers_are_given_once_and_select_one_reading(tmp_path: Path, table: TagTable) -> None:
    store = DeadLetterStore(tmp_path, table, own)
    store.append(stream(table, [5, 6]), ["a", "b"], TARGET)
    store.remove(chosen(store), PURGED)
    store = letters_reopened(store)
    store.append(stream(store._tags, [7, 8]), ["c", "d"], TARGET)
    assert [letters.numbers.tolist() for letters in store.letters()] == [[3, 4]]
    (found,) = chosen(store, number=4)
    assert (sequences_of(found.batch), found.reasons) == ([8], ["d"])
    assert store.have_gone(store_numbers(1, 2))
    assert not store.have_gone(store_numbers(2, 3))
    store.close()


def store_numbers(first: int, last: int) -> Any:
    from delivery.intervals import Intervals

    return Intervals([(first, last)])


def test_selections_and_groups(tmp_path: Path, table: TagTable) -> None:
    store = DeadLetterStore(tmp_path, table, own)
    store.append(stream(table, [1, 2, 3]), ["Too long", "too long", "bad type"], TARGET, 2, first=10.0)
    store.append(stream(table, [4]), ["no path"], error_class="normalize")
    assert [(g.target, g.error_class, g.reason, g.count) for g in grouped(store.letters())] == [
        (FLOW_WORD, "normalize", "no path", 1),
        (TARGET, "data", "Too long", 1),
        (TARGET, "data", "bad type", 1),
        (TARGET, "data", "too long", 1),
    ]
    assert grouped(store.letters())[1].first == 10.0

    def found(**selection: Any) -> list[int]:
        return [n for letters in chosen(store, **selection) for n in sequences_of(letters.batch)]

    assert found(reason="TOO") == [1, 2]
    assert found(source="source0") == [2, 4]
    assert found(target=FLOW_WORD) == [4]
    assert found(limit=2) == [1, 2]
    assert found(since=2**40) == found(until=5.0) == []
    assert np.array_equal(chosen(store)[0].numbers, [1, 2, 3])
    assert chosen(store)[0].attempts == 2
    assert found(target=TARGET, source="source1", reason="bad") == [3]
    assert store.had(SHARD, np.array([4])) is not None
    store.close()


@pytest.mark.parametrize("anew", [False, True])
def test_a_letter_that_the_spool_holds_after_a_crash_is_withdrawn(tmp_path: Path, table: TagTable, anew: bool) -> None:
    """The target is asked again, and may take what it refused; a spool that was begun anew holds other readings."""
    store, spool = opened(tmp_path, table)
    spool.append(stream(table, range(1, 11)))
    unit = spool.take(1000, 2**30)
    assert unit is not None
    store.append(unit.batch().take([2, 4]), ["no", "no"], TARGET, 1, places=unit.places([2, 4]))
    if anew:
        spool.close()
        spool = new_spool(tmp_path / "another", table)
        spool.append(stream(table, range(101, 111)))
    store, spool = letters_reopened(store), spool_reopened(spool)
    finish(store, {TARGET: spool})
    assert kept(store) == ([3, 5] if anew else [])
    assert store.removed() == {}
    if not anew:
        assert refuse(store, spool, {5}) == [1, 2, 3, 4, 6, 7, 8, 9, 10]
        assert kept(store) == [5]
        assert store.counts(TARGET) == spool.account().dead
    store.close()
    spool.close()
