"""What a source has of each node is kept in files, and damaged ones cost no reading."""

from pathlib import Path

import numpy as np
import pytest

from connectors.sources.opcua.binary import Malformed
from connectors.sources.opcua.services import _results
from connectors.sources.opcua.watermarks import FILLED, OPEN, Missed, Watermarks, node_keys


def test_times_are_found_again_by_node_whatever_their_order(tmp_path: Path) -> None:
    first = Watermarks(tmp_path, node_keys(["a", "b", "c"]))
    first.times[:] = [1, 2, 3]
    second = Watermarks(tmp_path, node_keys(["c", "new", "a"]))
    assert second.times.tolist() == [3, 0, 1]
    second.times[1] = 9
    third = Watermarks(tmp_path, node_keys(["b", "new"]))  # one that was not there meanwhile
    assert third.times.tolist() == [2, 9]


def test_no_nodes_are_no_file_to_be_mapped(tmp_path: Path) -> None:
    assert Watermarks(tmp_path, node_keys([])).times.tolist() == []


@pytest.mark.parametrize("damaged", [b"", b"nonsense", b"\x93NUMPY\x01\x00"])
def test_a_damaged_file_begins_anew(tmp_path: Path, damaged: bytes) -> None:
    (tmp_path / "last.npy").write_bytes(damaged)
    assert Watermarks(tmp_path, node_keys(["a"])).times.tolist() == [0]


def test_a_gap_is_kept_until_it_is_done(tmp_path: Path) -> None:
    made = Missed.create(tmp_path, 5, 9, node_keys(["a", "b"]), np.array([1, 2]))
    made.rows["state"][0] = FILLED
    (again,) = Missed.all(tmp_path)
    assert (again.start, again.end) == (5, 9)
    assert again.rows["state"].tolist() == [FILLED, OPEN]
    assert again.rows["since"].tolist() == [1, 2]
    again.forget()
    assert Missed.all(tmp_path) == []


def test_a_damaged_gap_is_still_a_gap(tmp_path: Path) -> None:
    (tmp_path / "5-9.npy").write_bytes(b"nonsense")
    (tmp_path / "not-ours.npy").write_bytes(b"nonsense")
    (found,) = Missed.all(tmp_path)
    assert (found.start, found.end, found.rows) == (5, 9, None)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\x01\x00\x00\x00",
        b"\x01\x00\x00\x00" + b"\0" * 4 + b"\xff" * 4 + b"\x01\x00\x92\x02" + b"\x01" + b"\xff\xff\xff\x7f",
        b"\xff\xff\xff\x7f" + b"\0" * 40,
    ],
)
def test_an_answer_that_is_no_history_is_refused(answer: bytes) -> None:
    with pytest.raises(Malformed):
        _results(answer, 0)
