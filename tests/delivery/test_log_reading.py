"""What is found in a log again: after damage, after a torn end, and by a cursor that goes on."""

import errno
from itertools import pairwise
from pathlib import Path

import pytest

from delivery import log as log_module
from delivery.log import HEAD, Cursor, Log
from tests.delivery.test_log import filled, newest, opened, payloads, reread


def two_segments(directory: Path) -> tuple[Path, Path]:
    """A log with three records in each of two segments, all durable; left by a killed process."""
    log, _ = opened(directory, head=b"first head")
    for n in range(3):
        log.append(1, [b"record %d " % n * 5])
    log._head = lambda: b"second head"
    log.roll()
    for n in range(3, 6):
        log.sync()
        log.append(1, [b"record %d " % n * 5])
    log.sync()
    log.append(2, [b"tells that all is durable"])
    log.sync()
    old, new = sorted(directory.glob("*.log"))
    return old, new


def test_a_segment_whose_heads_are_damaged_is_read_after_the_one_before(tmp_path: Path) -> None:
    _, new = two_segments(tmp_path)
    new.write_bytes(new.read_bytes().replace(b"second head", b"second dead"))
    log, found = opened(tmp_path)
    assert [bytes(r.payload) for r in found if r.kind == HEAD] == [b"first head"] * 2
    assert payloads(found) == [b"record %d " % n * 5 for n in range(6)]
    assert (log.damaged, log.torn) == (1, False)
    log.close()


def test_a_tail_that_was_cut_off_is_cut_off_on_disk_too_and_nothing_else(tmp_path: Path) -> None:
    old, new = two_segments(tmp_path)
    before, sound = old.read_bytes(), new.read_bytes()
    new.write_bytes(sound[:-5])
    log, found = opened(tmp_path)
    assert payloads(found) == [b"record %d " % n * 5 for n in range(3, 6)]
    assert log.torn
    assert old.read_bytes() == before
    assert new.read_bytes() == sound[: -32 - len(b"tells that all is durable")]
    assert log.size == sum(path.stat().st_size for path in tmp_path.glob("*.log"))
    log.close()


def test_a_log_that_was_closed_is_whole_when_it_is_opened(tmp_path: Path) -> None:
    log, _ = opened(tmp_path)
    log.append(1, [b"one"])
    log.close()
    for _ in range(2):
        log, _ = opened(tmp_path)
        assert (log.torn, log.damaged) == (False, 0)
        log.close()


def test_a_hole_in_what_nobody_was_promised_is_a_torn_end(tmp_path: Path) -> None:
    log, _ = opened(tmp_path)
    log.append(1, [b"synced"])
    log.sync()
    log.append(1, [b"in the hole"])
    log.append(1, [b"speaks of it"])
    path = newest(tmp_path)
    path.write_bytes(path.read_bytes().replace(b"in the hole", b"in the dark"))
    log, found = opened(tmp_path)
    assert payloads(found) == [b"synced"]
    assert (log.torn, log.damaged) == (True, 0)
    log.close()


def test_damage_is_survived_when_there_is_no_room_to_keep_it_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = filled(tmp_path, 5, size=100)
    path = newest(tmp_path)
    path.write_bytes(path.read_bytes().replace(b"record 2 ", b"record X "))

    def full(self: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "hardlink_to", full)
    log, found = opened(tmp_path)
    assert payloads(found) == [*said[:2], *said[3:]]
    assert log.damaged == 1
    log.close()


def numbers(log: Log, cursor: Cursor) -> list[int]:
    return [record.number for record in log.read(cursor)]


def test_a_cursor_goes_on_where_it_was_also_in_the_middle_of_a_segment(tmp_path: Path) -> None:
    log, _ = opened(tmp_path)
    for _ in range(3):
        log.append(1, [b"x"])
    cursor = log.cursor(1)
    assert numbers(log, cursor) == [1, 2, 3, 4, 5]
    assert numbers(log, cursor) == []
    log.append(1, [b"x"])
    log.append(1, [b"x"])
    assert numbers(log, cursor) == [6, 7]
    log.roll()
    log.append(1, [b"x"])
    log.roll()
    assert numbers(log, cursor) == [8, 9, 10, 11, 12]
    assert numbers(log, cursor) == []
    log.append(1, [b"x"])
    assert numbers(log, cursor) == [13]
    assert [record.number for record in log.read(log.cursor(9), 10)] == [8, 9, 10]
    log.close()


def test_a_cursor_in_a_segment_that_has_gone_goes_on_with_the_next_from_its_beginning(tmp_path: Path) -> None:
    log, _ = opened(tmp_path)
    log.append(1, [b"x"])
    cursor = log.cursor(1)
    numbers(log, cursor)
    log.append(1, [b"never read"])
    for _ in range(2):
        log.roll()
        log.append(1, [b"x"])
    log.sync()
    log.sync()
    assert log.drop(1)
    assert numbers(log, cursor) == list(range(5, log.next_number))
    log.close()


def test_behind_the_newest_segment_there_is_nothing(tmp_path: Path) -> None:
    log, _ = opened(tmp_path)
    assert numbers(log, Cursor(1000)) == []
    log.close()


def test_a_record_may_be_empty_and_the_last(tmp_path: Path) -> None:
    log, _ = opened(tmp_path)
    log.append(1, [b"one"])
    log.append(1, [])
    log.sync()
    assert payloads(list(log.read(log.cursor(1)))) == [b"one", b""]
    assert reread(tmp_path) == [b"one", b""]


@pytest.mark.parametrize("extra", [1, 2, 3, 4, 7, 31, 32, 33, 100])
def test_bytes_that_do_not_belong_there_cost_no_record(tmp_path: Path, extra: int) -> None:
    said = filled(tmp_path, 5)
    path = newest(tmp_path)
    data = path.read_bytes()
    at = data.index(said[3]) - 32
    path.write_bytes(data[:at] + b"?" * extra + data[at:])
    log, found = opened(tmp_path)
    assert payloads(found) == said
    log.close()


def test_damage_costs_one_record_wherever_it_lies_in_what_is_read_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = filled(tmp_path / "whole", 8, size=4)
    path = newest(tmp_path / "whole")
    data = path.read_bytes()
    starts = [data.index(payload) - 32 for payload in said]
    for chunk in range(33, 140):
        monkeypatch.setattr(log_module, "_CHUNK", chunk)
        log = Log(tmp_path / "whole", lambda: b"")
        assert payloads(list(log.recover())) == said
    for (start, end), lost in zip(pairwise(starts), range(7), strict=True):
        for at in (start, start + 20, end - 1):
            changed = bytearray(data)
            changed[at] ^= 1
            path.write_bytes(changed)
            for chunk in range(33, 140, 3):
                monkeypatch.setattr(log_module, "_CHUNK", chunk)
                log = Log(tmp_path / "whole", lambda: b"")
                assert payloads(list(log.recover())) == said[:lost] + said[lost + 1 :]
                assert (log.damaged, log.torn) == (1, False)
