"""The SQL about tables of readings: read by sqlglot as Databricks's, run by DuckDB."""

import functools
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import duckdb
import pytest
import sqlglot

from connectors.wire.lakehouse import add_columns, delta_ddl, merge, once, quoted, tag_versions, text
from normalization.reading import TABLE

NOW = datetime.now(UTC).replace(microsecond=0)


@functools.cache
def in_duckdb(sql: str) -> list[str]:
    """Databricks's SQL as DuckDB's, but for what it has no word for."""
    plain = "\n".join(
        line for line in sql.splitlines() if not line.startswith(("COMMENT", "LOCATION", "PARTITIONED", "USING DELTA"))
    )
    return sqlglot.transpile(plain, read="databricks", write="duckdb")


def run(db: duckdb.DuckDBPyConnection, sql: str) -> None:
    """Run Databricks's SQL."""
    for statement in in_duckdb(sql):
        db.execute(statement)


@pytest.fixture
def db() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as made:
        made.execute("SET TimeZone = 'UTC'")
        run(made, delta_ddl("readings", "/lake/readings").split(";\n\n")[0])
        yield made


def put(db: duckdb.DuckDBPyConnection, sequence: int, received: datetime, date: datetime) -> None:
    db.execute(
        "INSERT INTO readings (gateway, shard, sequence, date, received_time, type, quality, flags, priority) "
        "VALUES ('g', 's', ?, ?, ?, 'NULL', 'GOOD', 0, 0)",
        [sequence, date.date(), received],
    )


def sequences(db: duckdb.DuckDBPyConnection, table: str) -> list[int]:
    return [row[0] for row in db.execute(f"SELECT sequence FROM {table} ORDER BY sequence").fetchall()]


def test_every_statement_is_databricks_sql_and_every_column_has_its_meaning() -> None:
    statements = sqlglot.parse(delta_ddl("main.plant.readings", "s3://plant/it's"), dialect="databricks")
    assert len(statements) == 4
    created = statements[0]
    assert created is not None
    columns = list(created.find_all(sqlglot.exp.ColumnDef))
    assert [column.name for column in columns] == TABLE.names
    comments = [column.find(sqlglot.exp.CommentColumnConstraint) for column in columns]
    assert [one.this.this for one in comments if one] == [field.metadata[b"comment"].decode() for field in TABLE]
    location = created.find(sqlglot.exp.LocationProperty)
    assert location is not None
    assert location.this.this == "s3://plant/it's"


def test_the_view_shows_each_reading_once(db: duckdb.DuckDBPyConnection) -> None:
    for sequence in (1, 2, 1, 3, 1):
        put(db, sequence, NOW, NOW)
    run(db, once("readings"))
    assert sequences(db, "readings_once") == [1, 2, 3]


def test_the_merge_takes_each_reading_once_however_often_it_runs(db: duckdb.DuckDBPyConnection) -> None:
    db.execute("CREATE TABLE readings_merged AS FROM readings")
    statement = merge("readings").split(";\n\n")[1]
    put(db, 1, NOW, NOW)
    put(db, 1, NOW, NOW)
    run(db, statement)
    run(db, statement)
    assert sequences(db, "readings_merged") == [1]
    put(db, 1, NOW, NOW)
    put(db, 2, NOW, NOW)
    run(db, statement)
    assert sequences(db, "readings_merged") == [1, 2]


def test_the_merge_finds_readings_that_were_measured_long_ago_and_came_just_now(db: duckdb.DuckDBPyConnection) -> None:
    db.execute("CREATE TABLE readings_merged AS FROM readings")
    statement = merge("readings", days=3).split(";\n\n")[1]
    put(db, 1, NOW, NOW - timedelta(days=400))
    put(db, 2, NOW - timedelta(days=5), NOW - timedelta(days=5))
    run(db, statement)
    assert sequences(db, "readings_merged") == [1]  # the other was merged when it came


def test_the_view_of_tags_has_a_row_for_each_time_that_a_tag_was_so(db: duckdb.DuckDBPyConnection) -> None:
    for sequence, unit in enumerate(["°C", "°C", "K", "K", "°C"]):
        put(db, sequence, NOW + timedelta(minutes=sequence), NOW)
        db.execute(
            "UPDATE readings SET source = 'plc', device_id = '1', address = 'a', tag_name = 't', unit = ? WHERE sequence = ?",
            [unit, sequence],
        )
    run(db, tag_versions("readings"))
    found = db.execute("SELECT unit, valid_from, valid_to FROM readings_tags ORDER BY valid_from").fetchall()
    times = [NOW + timedelta(minutes=minute) for minute in (0, 2, 4)]
    assert found == list(zip(["°C", "K", "°C"], times, [*times[1:], None], strict=True))


def test_columns_are_added_in_the_types_of_a_reading(db: duckdb.DuckDBPyConnection) -> None:
    assert add_columns(quoted("main.plant.readings"), ["priority", "unit"]) == (
        "ALTER TABLE `main`.`plant`.`readings` ADD COLUMNS (`unit` STRING COMMENT 'engineering unit of the value', "
        "`priority` INT COMMENT 'priority given by the routing rules, larger is more urgent');"
    )


def test_names_and_texts_stay_what_they_are() -> None:
    assert quoted("a`b.c") == "`a``b`.`c`"
    assert text("it's a \\") == r"'it\'s a \\'"
