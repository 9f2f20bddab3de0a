"""What is said in SQL about a table of readings in a lakehouse: to make it, to see each reading once, to keep a copy. Pure.

The SQL is that of Databricks and Spark. Readings are partitioned by `date`; whoever reads them filters by it, too.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from normalization.reading import TABLE, TAG_COLUMNS

IDENTITY: Final = ("gateway", "shard", "sequence")
_SPARK: Final = {
    pa.string(): "STRING",
    pa.int64(): "BIGINT",
    pa.int32(): "INT",
    pa.float64(): "DOUBLE",
    pa.bool_(): "BOOLEAN",
    pa.date32(): "DATE",
    pa.timestamp("us", tz="UTC"): "TIMESTAMP",
    pa.binary(): "BINARY",
}
_SAME: Final = "`date`, " + ", ".join(IDENTITY)

_FIRST: Final = f"QUALIFY ROW_NUMBER() OVER (PARTITION BY {_SAME} ORDER BY received_time) = 1"


def sql_type(kind: pa.DataType) -> str:
    """The type of a column, as SQL says it."""
    return _SPARK[kind]


def quoted(name: str) -> str:
    """A name of one or more parts, with each part in backticks."""
    return ".".join("`" + part.replace("`", "``") + "`" for part in name.split("."))


def text(value: str) -> str:
    """A text as SQL writes it."""
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def comment(field: pa.Field) -> str:
    """What a column holds."""
    said: bytes = (field.metadata or {}).get(b"comment", b"")
    return said.decode()


def columns(schema: pa.Schema, type_of: Callable[[pa.DataType], str] = sql_type) -> str:
    """The columns of a table, a line each, with their comments."""
    width = max(len(name) for name in schema.names) + 2
    lines = [
        f"  {f'`{field.name}`':<{width}} {type_of(field.type)}{'' if field.nullable else ' NOT NULL'} "
        f"COMMENT {text(comment(field))}"
        for field in schema
    ]
    return ",\n".join(lines)


def _read(table: str) -> str:
    return f"SELECT * FROM {quoted(table)}"  # noqa: S608 - the name is quoted


def once(table: str) -> str:
    """The view that shows each reading once; its window begins with the partition column, so that a filter on it prunes."""
    said = text(f"Each reading of {table} once, by its identity {', '.join(IDENTITY)}.")
    lines = [f"CREATE OR REPLACE VIEW {quoted(table + '_once')}", f"COMMENT {said}", f"AS {_read(table)}", f"{_FIRST};"]
    return "\n".join(lines)


def merge(table: str, days: int = 3) -> str:
    """The statement that brings readings into a table of their own, each once, however often it runs.

    It looks for what was received lately, not for what was measured lately: a reading that comes late is found all the same.

    Args:
        table: Name of the table of readings; the copy has the suffix ``_merged``.
        days: How far back it looks; longer than the statement may ever be left out.
    """
    same = " AND ".join(f"kept.{column} = come.{column}" for column in _SAME.split(", "))
    kept = quoted(table + "_merged")
    lines = [
        f"CREATE TABLE IF NOT EXISTS {kept} LIKE {quoted(table)};",
        "",
        f"MERGE INTO {kept} AS kept",
        "USING (",
        f"  {_read(table)}",
        f"  WHERE received_time >= current_timestamp() - INTERVAL {days} DAYS",
        f"  {_FIRST}",
        ") AS come",
        f"ON {same}",
        "WHEN NOT MATCHED THEN INSERT *;",
    ]
    return "\n".join(lines)


def tag_versions(table: str) -> str:
    """The view of tags: a row for each version of each tag, from when to when readings had it.

    It is made from the readings, because ZeroBus can only add rows; a Delta table of tags is kept by the gateway.
    """
    key = ["gateway", "source", "device_id", "address", "tag_name"]
    rest = [name for name in TAG_COLUMNS if name not in key]
    of_tag = f"PARTITION BY {', '.join(key)} ORDER BY"
    known = f"to_json(struct({', '.join(rest)}))"
    names = ", ".join(key + rest)
    lines = [
        f"CREATE OR REPLACE VIEW {quoted(table + '_tags')}",
        f"COMMENT {text(f'Versions of the tags of {table}; valid_to is null for the one in force.')}",
        f"AS SELECT {names}, valid_from, LEAD(valid_from) OVER ({of_tag} valid_from) AS valid_to",
        f"FROM (SELECT {names}, received_time AS valid_from, {known} AS known,",
        f"        LAG({known}) OVER ({of_tag} received_time) AS known_before",
        f"      FROM {quoted(table)}) AS seen",
        "WHERE known_before IS NULL OR known <> known_before;",
    ]
    return "\n".join(lines)


def add_columns(table: str, names: Iterable[str], of: pa.Schema = TABLE) -> str:
    """The statement that adds columns that a table lacks.

    Args:
        table: Its name as SQL writes it, see `quoted`.
        names: The columns.
        of: What they are.
    """
    lacking = set(names)
    wanted = [
        f"`{field.name}` {sql_type(field.type)} COMMENT {text(comment(field))}" for field in of if field.name in lacking
    ]
    return f"ALTER TABLE {table} ADD COLUMNS ({', '.join(wanted)});"


def unstored(values: Mapping[str, pa.Array], lacking: Iterable[str]) -> dict[str, int]:
    """How many readings would lose something, by the column that the table lacks.

    `date` is made from a time, so nothing is lost with it; nor is with a null, an empty text or object, or a zero among flags
    and priorities.

    Args:
        values: Columns of ``TABLE``, those of names may be dictionaries.
        lacking: The columns that the table lacks.
    """
    counts = {name: _said(values[name], name) for name in lacking if name != "date"}
    return {name: count for name, count in counts.items() if count}


def _said(column: pa.Array, name: str) -> int:
    if pa.types.is_dictionary(column.type):
        says = _says(column.dictionary, name)
        return int(pc.sum(says.take(column.indices)).as_py() or 0)
    return int(pc.sum(_says(column, name)).as_py() or 0)


def _says(column: pa.Array, name: str) -> pa.Array:
    if pa.types.is_string(column.type):
        return pc.fill_null(pc.and_(pc.not_equal(column, ""), pc.not_equal(column, "{}")), False)
    if name in {"flags", "priority"}:
        return pc.fill_null(pc.not_equal(column, 0), False)
    return column.is_valid()


def review(
    where: str, table: str, lost: Mapping[str, int], readings: int, otherwise: str, of: pa.Schema = TABLE
) -> str:
    """What is said while readings wait for columns that a table lacks.

    Args:
        where: The table, for people.
        table: Its name as SQL writes it.
        lost: See `unstored`.
        readings: How many there are in the unit.
        otherwise: What can be set instead.
        of: What the columns are.
    """
    counted = ", ".join(f"`{name}` ({count} of {readings})" for name, count in sorted(lost.items()))
    return (
        f"{where} lacks columns that readings have values for: {counted}; they wait until somebody runs "
        f"{add_columns(table, lost, of)} or sets {otherwise}"
    )


def create(table: str, of: pa.Schema, about: str, location: str = "") -> str:
    """The statement that makes a table, or makes one that lies at a folder or URL known to a catalog."""
    place = f"\nLOCATION {text(location)}" if location else ""
    return (
        f"CREATE TABLE IF NOT EXISTS {quoted(table)} (\n{columns(of)}\n)\n"
        "USING DELTA\n"
        "PARTITIONED BY (`date`)\n"
        f"COMMENT {text(about)}{place};"
    )


def delta_ddl(table: str, location: str) -> str:
    """What makes a Delta table that the gateway writes known to a catalog, and what shows and merges its readings.

    Args:
        table: Name that it is to have; of one, two or three parts.
        location: Its folder or URL.
    """
    made = create(table, TABLE, f"Readings from Bifrost; {', '.join(IDENTITY)} identify one.", location)
    return "\n\n".join((made, once(table), merge(table))) + "\n"
