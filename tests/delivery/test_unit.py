"""What one write carries: the readings of its entries, less the dead ones, and where each lies in the spool."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from delivery.entry import COLUMNS
from delivery.unit import Entry, Unit
from normalization.reading import Flags, TagTable
from tests.delivery.stores import columns, raw_columns, sequences_of, stream, tag_table

TABLE: TagTable = tag_table()
FLAGS = COLUMNS.get_field_index("flags")
RECEIVED = COLUMNS.get_field_index("received_time")


def entry(number: int, sequences: list[int], shard: str = "a", gateway: str = "gw") -> Entry:
    batch = stream(TABLE, sequences, shard, gateway)
    sources = TABLE.count_sources(batch.column("tag").to_numpy()) if "tag" in batch.schema.names else {}
    return Entry(number, number - 1, 1, gateway, shard, len(batch), 100, sources, 0.0, raw_columns(batch))


ENTRIES = [entry(4, [10, 11, 12]), entry(7, [20, 21], "b", "other"), entry(9, [30, 31, 32, 33], "a", "other")]


def unit(dead: dict[int, list[int]] | None = None, entries: list[Entry] = ENTRIES, resent: int = 0) -> Unit:
    rows = {number: np.array(gone) for number, gone in (dead or {}).items()}
    return Unit(3, entries, rows, TABLE, resent, priority=2)


def test_a_unit_has_the_readings_of_its_entries_in_order_under_their_own_names() -> None:
    batch = unit().batch()
    assert sequences_of(batch) == [10, 11, 12, 20, 21, 30, 31, 32, 33]
    assert batch.column("shard").to_pylist() == [*"aaa", *"bb", *"aaaa"]
    assert batch.column("gateway").to_pylist() == ["gw"] * 3 + ["other"] * 6
    assert batch.column("value").to_pylist() == [float(n) for n in sequences_of(batch)]
    assert unit().rows == 9


@pytest.mark.parametrize("which", [0, 1])
def test_a_unit_of_one_entry_has_its_readings(which: int) -> None:
    batch = unit(entries=[ENTRIES[which]]).batch()
    assert sequences_of(batch) == ([10, 11, 12], [20, 21])[which]
    assert set(batch.column("shard").to_pylist()) == {"ab"[which]}
    assert set(batch.column("gateway").to_pylist()) == {("gw", "other")[which]}


def test_dead_rows_are_not_in_it_and_the_others_are_found_again() -> None:
    some = unit({4: [1], 9: [0, 3]})
    assert sequences_of(some.batch()) == [10, 12, 20, 21, 31, 32]
    assert some.rows == 6
    assert {n: rows.tolist() for n, rows in some.locate([0, 1, 3, 5]).items()} == {4: [0, 2], 7: [1], 9: [2]}
    assert some.places([0, 1, 2, 5]) == [(2, 4, 0), (2, 4, 2), (2, 7, 0), (2, 9, 2)]


def test_without_dead_rows_each_reading_is_found_where_it_lies() -> None:
    whole = unit()
    assert whole.places(range(9)) == [(2, e.number, row) for e in ENTRIES for row in range(e.rows)]
    assert {n: rows.tolist() for n, rows in whole.locate([2, 3, 4, 5]).items()} == {4: [2], 7: [0, 1], 9: [0]}
    assert whole.locate([3]).keys() == {7}


@pytest.mark.parametrize(("resent", "marked"), [(0, 0), (3, 0), (4, 3), (7, 5), (8, 5), (9, 9)])
def test_only_readings_of_entries_that_may_have_been_sent_say_so(resent: int, marked: int) -> None:
    before = [e.columns[FLAGS].to_pylist() for e in ENTRIES]
    flags = unit(resent=resent).batch().column("flags")
    assert flags.to_pylist() == [Flags.RESENT] * marked + [0] * (9 - marked)
    assert flags.type == COLUMNS.field(FLAGS).type
    assert [e.columns[FLAGS].to_pylist() for e in ENTRIES] == before, "the entry itself stays as it is"


def test_what_a_reading_says_already_is_kept_beside_the_mark() -> None:
    facts = [*ENTRIES[1].columns]
    facts[FLAGS] = pa.array([Flags.HISTORICAL, 0], facts[FLAGS].type)
    marked = unit(entries=[replace(ENTRIES[1], columns=facts)], resent=7).batch().column("flags").to_pylist()
    assert marked == [Flags.HISTORICAL | Flags.RESENT, Flags.RESENT]


def test_an_entry_was_received_when_its_first_reading_was() -> None:
    facts = [*ENTRIES[0].columns]
    facts[RECEIVED] = pa.array([30, 10, 20], facts[RECEIVED].type)
    assert replace(ENTRIES[0], columns=facts).received == 10


def test_a_batch_has_the_schema_and_the_values_of_the_stream() -> None:
    rows = columns([1.5, 2, True, None, "text"])
    facts = [*rows.to_batch(np.full(len(rows), 7), 1).columns, pa.array(np.zeros(len(rows), np.int32))]
    some = Entry(11, 10, 1, "gw", "a", len(rows), 100, {"source0": len(rows)}, 0.0, facts)
    for entries in ([some], [*ENTRIES, some]):
        batch = unit(entries=entries, resent=7).batch()
        assert batch.column("value").to_pylist()[-5:] == [1.5, 2.0, 1.0, None, None]
        assert batch.schema == stream(TABLE, [1]).schema
