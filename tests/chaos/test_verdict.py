"""The oracle of numbered sources finds what is wrong, and only that."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.chaos.gateway import acked_file, frames_file
from tests.chaos.numbered import FRAME, MAGIC, ROW, code, frames, sound_bytes, value_of
from tests.chaos.verdict import Numbers, judge
from tests.chaos.wire import waits

LAST = 100


def _rows(numbers: np.ndarray) -> np.ndarray:
    rows = np.zeros(len(numbers), ROW)
    rows["source"], rows["shard"] = code("line"), code("mqtt-0-abc")
    rows["sequence"] = rows["n"] = numbers
    rows["path"], rows["value"] = numbers % 40, value_of(numbers)
    return rows


def _frame(unit: int, rows: np.ndarray) -> bytes:
    import zlib

    head = FRAME.pack(MAGIC, 0, unit, 1, len(rows))
    checksum = zlib.crc32(rows.tobytes(), zlib.crc32(head[8:]))
    return MAGIC + checksum.to_bytes(4, "little") + head[8:] + rows.tobytes()


def _judge(directory: Path, change: Callable[[np.ndarray], np.ndarray], *, remembers: bool = False) -> Numbers:
    acked_file(directory, "line").write_bytes(b"".join(n.to_bytes(8, "little") for n in (40, LAST)))
    rows = change(_rows(np.arange(1, LAST + 1)))
    frames_file(directory, "t").write_bytes(_frame(1, rows[:50]) + _frame(2, rows[50:]))
    return judge(directory, ["line"], ["t"] if remembers else [], [] if remembers else ["t"])


def test_what_arrived_as_it_was_given_is_sound(tmp_path: Path) -> None:
    assert _judge(tmp_path, lambda rows: rows) == Numbers(obligations=LAST)


def test_a_hole_is_a_loss_and_what_was_not_acknowledged_is_none(tmp_path: Path) -> None:
    assert _judge(tmp_path, lambda rows: np.delete(rows, 30)).lost == 1
    assert _judge(tmp_path, lambda rows: np.concatenate([rows, _rows(np.array([101, 103]))])).lost == 0


def _again(rows: np.ndarray) -> np.ndarray:
    return np.concatenate([rows, rows[-3:]])


def test_what_comes_again_is_visible_only_where_the_target_remembers(tmp_path: Path) -> None:
    plain, remembering = _judge(tmp_path, _again), _judge(tmp_path, _again, remembers=True)
    assert (plain.duplicates, plain.visible_twice) == (3, 0)
    assert (remembering.duplicates, remembering.visible_twice) == (0, 3)


def _renamed(rows: np.ndarray) -> np.ndarray:
    again = rows[-1:].copy()
    again["sequence"] += 1000
    return np.concatenate([rows, again])


def test_a_reading_under_two_identities_is_visible_twice(tmp_path: Path) -> None:
    assert _judge(tmp_path, _renamed).visible_twice == 1


@pytest.mark.parametrize("column", ["value", "path", "source"])
def test_another_value_name_or_source_is_found(tmp_path: Path, column: str) -> None:
    def change(rows: np.ndarray) -> np.ndarray:
        rows[column][7] ^= 4
        return rows

    found = _judge(tmp_path, change)
    assert found.wrong_values + found.unknown == 1


def test_a_later_reading_that_comes_first_is_found(tmp_path: Path) -> None:
    def swap(rows: np.ndarray) -> np.ndarray:
        rows[[7, 8]] = rows[[8, 7]]
        return rows

    assert _judge(tmp_path, swap).disordered == 1


@pytest.mark.parametrize("cut", [1, 30, 100])
def test_a_frame_that_a_kill_cut_is_left_out_and_cut_away(tmp_path: Path, cut: int) -> None:
    path, first = tmp_path / "t.frames", _frame(1, _rows(np.arange(1, 5)))
    path.write_bytes(first + _frame(2, _rows(np.arange(5, 9))))
    os.truncate(path, path.stat().st_size - cut)
    assert [unit for unit, _, _ in frames(path)] == [1]
    assert sound_bytes(path) == (len(first), 1)


def _publish(packet_id: int) -> bytes:
    body = b"\x00\x01t" + packet_id.to_bytes(2, "big") + b"\x00{}"
    return b"\x32" + bytes([len(body)]) + body


def test_a_puback_is_timed_from_the_last_byte_of_its_publish() -> None:
    first, second = _publish(7), _publish(8)
    both = first + second
    segments = [
        (1_000, True, 10, both[:15]),  # the second is not complete yet
        (2_000, True, 10, both[:15]),  # sent again
        (5_000, True, 25, both[15:]),
        (9_000, False, 70, b"\x40\x02\x00\x08\x40\x02\x00\x07"),
        (9_500, False, 78, b"\x40\x02\x00\x09"),  # of nothing that was seen
    ]
    assert sorted((waits(segments) * 1e9).round().astype(int).tolist()) == [4_000, 8_000]
