"""Readings as rows of signals: whatever is pivoted comes out again, and the SQL shows each signal's last reading once."""

from collections import Counter
from datetime import UTC, datetime
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
import sqlglot
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.targets.timescaledb.wide import DIALECT as POSTGRES
from connectors.wire import wide_tables
from connectors.wire.pivot import Pivot, cells
from connectors.wire.wide_tables import DIALECT, KINDS, WIDE, column_name, merge, once, signal_fields, table_of
from normalization.reading import Quality
from tests.connectors.wire.test_lakehouse import run
from tests.contract.readings import BASE_TIME, Source

RECEIVED = BASE_TIME + 10**9
PATHS = ["p/press/temp", "p/press/load", "p/oven/temp", "temp", "p/press/Temp 1", "p/oven/name", "p/oven/raw"]
VALUES = st.one_of(
    st.none(), st.floats(allow_nan=False), st.integers(-(2**53), 2**53), st.text(max_size=5), st.binary(max_size=5)
)
READINGS = st.lists(
    st.tuples(st.sampled_from(PATHS), VALUES, st.one_of(st.none(), st.integers(0, 3).map(lambda i: BASE_TIME + i))),
    min_size=1,
    max_size=40,
)
Reading = tuple[str, Any, int | None]
Cell = tuple[str, int, Any, str]


def batch_of(source: Source, readings: list[Reading]) -> pa.RecordBatch:
    tags = [source.tag(0, path=path) for path, _, _ in readings]
    return source.batch([v for _, v, _ in readings], tags=tags, source_times=[t for _, _, t in readings])


def fitting(pivot: Pivot, batch: pa.RecordBatch, there: dict[str, str]) -> pa.RecordBatch:
    """What is left of a batch when what does not fit is taken out, as the forwarder does."""
    found = pivot.signals(batch, there)
    assert not found.unfit
    return batch.take(pa.array(sorted(set(range(len(batch))) - set(found.rejected)), pa.int64()))


def meant(batch: pa.RecordBatch) -> list[Cell]:
    """What a batch says, without any of the code that pivots."""
    made = []
    for item in batch.select(["path", "value", "value_text", "value_bytes", "quality"]).to_pylist():
        value = next((item[k] for k in ("value", "value_text", "value_bytes") if item[k] is not None), None)
        made.append((item["path"], value, Quality(item["quality"]).name))
    times = batch.column("source_time").view(pa.int64()).fill_null(RECEIVED).to_pylist()
    return [(path, time, value, quality) for (path, value, quality), time in zip(made, times, strict=True)]


def unpivoted(rows: pa.Table) -> list[Cell]:
    """The readings in rows of a wide table, under the names of their columns."""
    time = rows.column("time").cast(pa.int64()).to_pylist()
    made: list[Cell] = []
    for name in rows.column_names:
        if name.endswith("_quality"):
            own = name.removesuffix("_quality")
            values = rows.column(own).to_pylist() if own in rows.column_names else [None] * len(rows)
            for at, quality in enumerate(rows.column(name).to_pylist()):
                place = rows.column("path")[at].as_py()
                if quality is not None:
                    made.append((f"{place}/{own}" if place else own, time[at], values[at], quality))
    return made


def renamed(readings: list[Cell]) -> list[Cell]:
    split = [(*path.rpartition("/"), *rest) for path, *rest in readings]
    return [(f"{place}{slash}{column_name(last)}", *rest) for place, slash, last, *rest in split]


def rows_of(pivot: Pivot, batch: pa.RecordBatch, there: dict[str, str] | None = None) -> pa.Table:
    found = pivot.signals(batch, there or {})
    assert not found.rejected
    return pa.Table.from_batches(wide_tables.batches(batch, pivot.rows(batch), found.signals))


@settings(deadline=None)
@given(READINGS)
def test_what_is_pivoted_comes_out_again_every_reading_of_it(readings: list[Reading]) -> None:
    source, pivot = Source(), wide_tables.pivot("source_time")
    batch = fitting(pivot, batch_of(source, readings), {})
    rows = rows_of(pivot, batch)
    assert Counter(map(repr, unpivoted(rows))) == Counter(map(repr, renamed(meant(batch))))
    identities = list(zip(*(rows.column(name).to_pylist() for name in ("shard", "sequence")), strict=True))
    assert len(set(identities)) == len(identities)


@settings(deadline=None)
@given(READINGS)
def test_where_signals_share_a_row_the_later_of_two_readings_stays(readings: list[Reading]) -> None:
    pivot = Pivot(POSTGRES, "source_time")
    batch = fitting(pivot, batch_of(Source(), readings), {})
    found, rows = pivot.signals(batch, {}), pivot.rows(batch)
    last = {(path, time): (value, quality) for path, time, value, quality in meant(batch)}
    seen: dict[tuple[str, int], Any] = {}
    for signal in found.signals:
        values, qualities = cells(batch, rows, signal, 0, len(rows.first))
        for at, quality in enumerate(qualities.to_pylist()):
            if quality is not None:
                place = rows.place[at].as_py()
                key = (f"{place}/{signal.name}" if place else signal.name, int(rows.time[at]))
                seen[key] = (None if values is None else values[at].as_py(), quality)
    assert repr(sorted(seen.items())) == repr(sorted(last.items()))


def test_rows_are_made_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    source, pivot = Source(), wide_tables.pivot("source_time")
    batch = batch_of(source, [(PATHS[i % 2], float(i), BASE_TIME + i // 3) for i in range(500)])
    whole = rows_of(pivot, batch)
    monkeypatch.setattr(wide_tables, "_CELLS", 50)
    pieces = rows_of(pivot, batch)
    assert pieces.column(0).num_chunks > 10
    assert pieces.combine_chunks() == whole.combine_chunks()


def test_a_row_has_the_identity_and_the_time_of_its_first_reading() -> None:
    source, pivot = Source(), wide_tables.pivot("source_time")
    batch = batch_of(
        source, [("p/a", 1.0, BASE_TIME + 1), ("p/b", 2.0, BASE_TIME), ("p/a", 3.0, BASE_TIME), ("q", 4, None)]
    )
    rows = rows_of(pivot, batch).select(["path", "sequence", "shard", "date", "a", "b"]).to_pylist()
    day, shard = datetime.fromtimestamp(BASE_TIME / 1e6, UTC).date(), source.shard
    assert sorted(rows, key=lambda row: row["sequence"]) == [
        {"path": "p", "sequence": 0, "shard": shard, "date": day, "a": 1.0, "b": None},
        {"path": "p", "sequence": 1, "shard": shard, "date": day, "a": 3.0, "b": 2.0},
        {"path": "", "sequence": 3, "shard": shard, "date": day, "a": None, "b": None},
    ]


def test_two_signals_of_one_equipment_do_not_share_a_column() -> None:
    source, pivot = Source(), wide_tables.pivot("source_time")
    batch = batch_of(source, [(path, 1.0, BASE_TIME) for path in ("p/Temp 1", "p/temp_1", "q/TEMP 1", "p/Temp 1")])
    found = pivot.signals(batch, {})
    assert found.rejected == {1: "column temp_1 is that of 'Temp 1', another signal of its equipment"}
    later = pivot.signals(batch_of(source, [("p/temp-1", 1.0, None), ("q/temp 1", 1.0, None), ("r/new", 1, None)]), {})
    assert list(later.rejected) == [0, 1]
    assert set(later.missing) == {"temp_1", "temp_1_quality", "new", "new_quality"}


@pytest.mark.parametrize(
    ("signal", "column"),
    [
        ("temp", "temp"), ("Oil Temp/°C", "oil_temp__b0c"), ("1st", "_1st"), ("a.b-c", "a_b_c"), ("温度", "_6e29_5ea6"),
        ("", ""), ("`x`; DROP TABLE y; --", "_x___drop_table_y____"),
    ],
)  # fmt: skip
def test_the_column_of_a_signal_is_small_letters_digits_and_underscores(signal: str, column: str) -> None:
    assert column_name(signal) == column
    assert DIALECT.name(signal) == column


@pytest.mark.parametrize("signal", ["", "Date", "sequence", "temp_quality", "x" * 248])
def test_a_signal_that_can_have_no_column_is_refused(signal: str) -> None:
    batch = batch_of(Source(), [(f"p/{signal}", 1.0, None), ("p/t", 1.0, None)])
    assert list(wide_tables.pivot("source_time").signals(batch, {}).rejected) == [0]


# ---------------------------------------------------------------------- the SQL


SIGNALS = {"temp": "double", "load": "double", "temp_1": "double", "name": "string", "raw": "binary"}


def put(db: duckdb.DuckDBPyConnection, rows: pa.Table) -> None:
    db.register("rows", rows)
    db.execute("INSERT INTO signals BY NAME FROM rows")


def latest(readings: list[Cell]) -> dict[tuple[str, int], tuple[Any, str]]:
    return {(path, time): (value, quality) for path, time, value, quality in readings}


def shown(db: duckdb.DuckDBPyConnection, table: str) -> dict[tuple[str, int], tuple[Any, str]]:
    rows = db.sql(f"SELECT * FROM {table}").to_arrow_table()
    found = unpivoted(rows)
    assert len(found) == len(latest(found))
    assert len(rows) == len({path.rpartition("/")[0] + str(time) for path, time, _, _ in found})
    return latest(found)


@settings(deadline=None, max_examples=15)
@given(READINGS, st.lists(st.integers(0, 40), max_size=4), st.randoms(use_true_random=False))
def test_the_view_and_the_merge_show_the_last_reading_of_each_signal_however_units_were_cut_and_repeated(
    readings: list[Reading], cuts: list[int], chance: Any
) -> None:
    source, pivot = Source(), wide_tables.pivot("source_time")
    batch = fitting(pivot, batch_of(source, readings), SIGNALS)
    # received one after the other, as the journal numbers them
    received = pa.array(np.arange(len(batch)) + RECEIVED).cast(batch.schema.field("received_time").type)
    at = batch.schema.get_field_index("received_time")
    batch = batch.set_column(at, batch.schema.field(at), received)
    ends = sorted({min(cut, len(batch)) for cut in cuts} | {0, len(batch)})
    units = [rows_of(pivot, batch.slice(a, b - a), SIGNALS) for a, b in zip(ends, ends[1:], strict=False)]
    with duckdb.connect() as db:
        db.execute("SET TimeZone = 'UTC'")
        run(db, wide_tables.delta_ddl("signals", "/lake", SIGNALS).split(";\n\n")[0])
        run(db, once("signals", SIGNALS))
        db.execute("CREATE TABLE signals_merged AS FROM signals")
        statement = merge("signals", SIGNALS, days=100_000).split(";\n\n")[1]
        for unit in units:
            for _ in range(chance.choice([1, 1, 2, 3])):
                put(db, unit)
            if chance.random() < 0.5:
                run(db, statement)
        put(db, chance.choice(units)) if units else None
        run(db, statement)
        run(db, statement)
        times = batch.column("source_time").view(pa.int64()).to_pylist()
        when = [RECEIVED + row if time is None else time for row, time in enumerate(times)]
        expected = latest([(p, t, v, q) for (p, _, v, q), t in zip(renamed(meant(batch)), when, strict=True)])
        assert repr(sorted(shown(db, "signals_once").items())) == repr(sorted(expected.items()))
        assert repr(sorted(shown(db, "signals_merged").items())) == repr(sorted(expected.items()))


def test_every_statement_is_databricks_sql_and_every_column_has_its_meaning() -> None:
    statements = sqlglot.parse(
        wide_tables.delta_ddl("main.plant.signals", "s3://plant/it's", SIGNALS), dialect="databricks"
    )
    assert [type(one).__name__ for one in statements] == ["Create", "Create", "Create", "Merge"]
    created = statements[0]
    assert created is not None
    made = list(created.find_all(sqlglot.exp.ColumnDef))
    assert [column.name for column in made] == table_of(SIGNALS).names
    assert all(column.find(sqlglot.exp.CommentColumnConstraint) for column in made)
    assert WIDE.names == table_of({}).names
    assert signal_fields({"a": KINDS[1]}).field("a").type == pa.string()
