import json
import struct

import numpy as np
import pytest

from simulator.ledger import ACKED, SENT, SERVED, Ledger, read, read_all
from simulator.plant import build_plant, describe_tags


@pytest.fixture
def tags():
    plant = build_plant(tags=6, rate=6, sources={"mqtt": 1}, ledger=True)
    return describe_tags(plant, plant.sources[0])


def test_what_is_recorded_is_read_back(tmp_path, tags):
    ledger = Ledger(tmp_path, "mqtt1", "mqtt", tags)
    ledger.append(range(3), 1, SENT, 1_000_001)
    ledger.append([0, 2], 1, ACKED, 1_000_002)
    ledger.append_each([(4, 7), (5, 2**40)], SERVED, 1_000_003)
    account = read(tmp_path / "mqtt1.ledger")
    ledger.close()
    assert (account.source, account.protocol) == ("mqtt1", "mqtt")
    assert account.tags == tags
    assert account.records.tolist() == [
        (0, SENT, 1, 1_000_001),
        (1, SENT, 1, 1_000_001),
        (2, SENT, 1, 1_000_001),
        (0, ACKED, 1, 1_000_002),
        (2, ACKED, 1, 1_000_002),
        (4, SERVED, 7, 1_000_003),
        (5, SERVED, 2**40, 1_000_003),
    ]
    assert account.obligations()[["tag", "n"]].tolist() == [(0, 1), (2, 1), (4, 7), (5, 2**40)]
    assert account.issued()["tag"].tolist() == [0, 1, 2, 4, 5]


def test_the_file_is_what_the_documentation_says(tmp_path, tags):
    ledger = Ledger(tmp_path, "a", "mqtt", tags)
    ledger.append([3], 9, ACKED, 77)
    ledger.close()
    data = (tmp_path / "a.ledger").read_bytes()
    assert data[:8] == b"SIMLEDG1"
    (size,) = struct.unpack("<I", data[8:12])
    assert json.loads(data[12 : 12 + size])["tags"] == tags
    assert data[12 + size :] == struct.pack("<IIqq", 3, 2, 9, 77)


def test_a_ledger_goes_on_counting_and_cuts_a_torn_tail(tmp_path, tags):
    first = Ledger(tmp_path, "a", "mqtt", tags)
    first.append(range(6), 41, SENT, 1)
    first.append([2], 42, SENT, 2)
    first.close()
    with (tmp_path / "a.ledger").open("ab") as file:
        file.write(b"torn")
    second = Ledger(tmp_path, "a", "mqtt", tags)
    assert second.last == [41, 41, 42, 41, 41, 41]
    second.append([0], 42, SENT, 3)
    second.close()
    records = read_all(tmp_path)["a"].records
    assert len(records) == 8
    assert np.array_equal(records[-2:]["tag"], [2, 0])


def test_a_ledger_of_another_plant_is_not_continued(tmp_path, tags):
    Ledger(tmp_path, "a", "mqtt", tags).close()
    with pytest.raises(ValueError, match="other tags"):
        Ledger(tmp_path, "a", "mqtt", tags[:-1])


@pytest.mark.parametrize("content", [b"", b"SIMLEDG1\xff\0\0\0{}", b"something else entirely"])
def test_what_is_no_ledger_is_refused(tmp_path, content):
    path = tmp_path / "x.ledger"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.ledger"):
        read(path)
