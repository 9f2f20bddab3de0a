"""Looks at the table at the server, and makes what is missing of it. Raises what psycopg raises, and `ConfigError`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, LiteralString

from psycopg import AsyncConnection

from connectors.contract import ConfigError
from connectors.targets.timescaledb.config import TimescaleSettings
from connectors.targets.timescaledb.schema import (
    NARROW,
    WIDE,
    Column,
    Layout,
    create_table,
    interval,
    literal,
    misfits,
    quoted,
)

Connection = AsyncConnection[tuple[Any, ...]]

_EXTENSION: Final = "SELECT extversion FROM pg_catalog.pg_extension WHERE extname = 'timescaledb'"
_RELATION: Final = (
    "SELECT c.oid, c.relkind, c.relpersistence FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n "
    "ON n.oid = c.relnamespace WHERE n.nspname = %s AND c.relname = %s"
)
_COLUMNS: Final = (
    "SELECT attname, pg_catalog.format_type(atttypid, atttypmod), NOT attnotnull, "
    "atthasdef OR attidentity <> '' OR attgenerated <> '' "
    "FROM pg_catalog.pg_attribute WHERE attrelid = %s AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
)
_KEYS: Final = (
    "SELECT i.indexrelid, a.attname FROM pg_catalog.pg_index i "
    "JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid "
    "AND a.attnum = ANY ((i.indkey::int2[])[0 : i.indnkeyatts - 1]) "
    "WHERE i.indrelid = %s AND i.indisunique AND i.indimmediate AND i.indisvalid "
    "AND i.indpred IS NULL AND i.indexprs IS NULL"
)
_HYPERTABLE: Final = (
    "SELECT compression_enabled FROM timescaledb_information.hypertables "
    "WHERE hypertable_schema = %s AND hypertable_name = %s"
)
_POLICY: Final = (
    "SELECT (config ->> %s)::interval = %s::interval FROM timescaledb_information.jobs "
    "WHERE proc_name = %s AND hypertable_schema = %s AND hypertable_name = %s"
)


@dataclass(frozen=True, slots=True)
class Table:
    """A table as it is at the server.

    Attributes:
        name: Its name, quoted.
        extension: Version of the extension timescaledb in its database, empty for none.
        there: Whether it is there.
        problems: Why it cannot take every reading; see `schema.misfits`.
        hypertable: Whether it is a hypertable.
        compressed: Whether that can be compressed.
        columns: Its columns.
    """

    name: str
    extension: str = ""
    there: bool = False
    problems: list[str] = field(default_factory=list)
    hypertable: bool = False
    compressed: bool = False
    columns: dict[str, Column] = field(default_factory=dict)


def layout(own: TimescaleSettings) -> Layout:
    """What the table should have."""
    return WIDE if own.layout == "wide" else NARROW


def sql(text: str) -> LiteralString:
    """A statement that was put together here, from quoted names and literals."""
    return text


async def _rows(connection: Connection, statement: LiteralString, *given: object) -> list[tuple[Any, ...]]:
    return await (await connection.execute(statement, given)).fetchall()


async def look(connection: Connection, own: TimescaleSettings) -> Table:
    """The table as it is; changes nothing."""
    name = quoted(own.schema_, own.table)
    extension = await _rows(connection, _EXTENSION)
    version = str(extension[0][0]) if extension else ""
    relation = await _rows(connection, _RELATION, own.schema_, own.table)
    if not relation:
        return Table(name, version)
    oid, kind, persistence = relation[0]
    if kind not in {"r", "p"}:
        return Table(name, version, there=True, problems=["it is no table, but a view, a foreign table or the like"])
    columns = {row[0]: Column(row[1], row[2], row[3]) for row in await _rows(connection, _COLUMNS, oid)}
    keys: dict[int, set[str]] = {}
    for index, column in await _rows(connection, _KEYS, oid):
        keys.setdefault(index, set()).add(column)
    problems = misfits(layout(own), name, columns, [frozenset(key) for key in keys.values()], persistence)
    hyper = await _rows(connection, _HYPERTABLE, own.schema_, own.table) if version else []
    return Table(name, version, True, problems, bool(hyper), bool(hyper and hyper[0][0]), columns)


async def prepare(connection: Connection, own: TimescaleSettings) -> Table:
    """Make what is missing of schema, table and policies, where that is allowed; in one transaction, one gateway at a time.

    Returns:
        The table as it is then.

    Raises:
        ConfigError: The table is missing and may not be made, or cannot take readings.
    """
    found = await look(connection, own)
    if not (found.there and _has_policies(own, found)) and own.create == "auto":
        async with connection.transaction():
            await connection.execute(_ALONE, (_LOCK,))
            found = await look(connection, own)
            if not found.there:
                await _make(connection, own, found)
                found = await look(connection, own)
            if found.hypertable and not found.problems:
                await _set_policies(connection, own, found)
    if not found.there:
        raise ConfigError(f"{found.name} is missing; make it, or set `create: auto`")
    if problems := unfit(own, found):
        raise ConfigError(f"{found.name}: {'; '.join(problems)}")
    return found


_ALONE: Final = "SELECT pg_catalog.pg_advisory_xact_lock(%s)"
_LOCK: Final = 0x62_69_66_72_6F_73_74  # the word bifrost; of the making of tables


def _has_policies(own: TimescaleSettings, found: Table) -> bool:
    return not found.hypertable or (own.compress_after is None and own.retention is None)


def unfit(own: TimescaleSettings, found: Table) -> list[str]:
    """Why a table that is there cannot be used as it is configured."""
    problems = list(found.problems)
    if own.hypertable == "always" and not found.hypertable:
        problems.append(
            "it is no hypertable; run: SELECT create_hypertable("
            f"{literal(found.name)}, 'time', migrate_data => true), or set `hypertable: auto`"
        )
    return problems


def missing_columns(own: TimescaleSettings, missing: Mapping[str, str]) -> str:
    """The statement that adds columns."""
    added = ", ".join(f"ADD COLUMN IF NOT EXISTS {quoted(name)} {kind}" for name, kind in missing.items())
    return f"ALTER TABLE {quoted(own.schema_, own.table)} {added}"


async def add_columns(connection: Connection, own: TimescaleSettings, missing: Mapping[str, str]) -> Table:
    """Add columns, one gateway at a time; returns the table as it is then."""
    async with connection.transaction():
        await connection.execute(_ALONE, (_LOCK,))
        await connection.execute(sql(missing_columns(own, missing)))
    return await look(connection, own)


async def _make(connection: Connection, own: TimescaleSettings, found: Table) -> None:
    if own.hypertable == "always" and not found.extension:
        raise ConfigError("the database has no extension timescaledb; run there: CREATE EXTENSION timescaledb")
    if not await _rows(connection, "SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = %s", own.schema_):
        await connection.execute(sql(f"CREATE SCHEMA {quoted(own.schema_)}"))
    for statement in create_table(layout(own), own.schema_, own.table):
        await connection.execute(sql(statement))
    if found.extension and own.hypertable != "never":
        await connection.execute(
            sql(
                f"SELECT create_hypertable({literal(found.name)}, 'time', create_default_indexes => false, "
                f"chunk_time_interval => {interval(own.chunk_interval)})"
            )
        )


async def _set_policies(connection: Connection, own: TimescaleSettings, found: Table) -> None:
    name = literal(found.name)
    if own.compress_after is not None:
        if not found.compressed:
            # the columns of the key must be among those that it is ordered or segmented by
            await connection.execute(
                sql(
                    f"ALTER TABLE {found.name} SET (timescaledb.compress, timescaledb.compress_segmentby = 'path', "
                    f"timescaledb.compress_orderby = {literal(layout(own).order_by)})"
                )
            )
        after = interval(own.compress_after)
        if not await _is_set(connection, own, "policy_compression", "compress_after", own.compress_after):
            await connection.execute(sql(f"SELECT remove_compression_policy({name}, if_exists => true)"))
            await connection.execute(sql(f"SELECT add_compression_policy({name}, {after})"))
    if own.retention is not None:
        after = interval(own.retention)
        if not await _is_set(connection, own, "policy_retention", "drop_after", own.retention):
            await connection.execute(sql(f"SELECT remove_retention_policy({name}, if_exists => true)"))
            await connection.execute(sql(f"SELECT add_retention_policy({name}, {after})"))


async def _is_set(connection: Connection, own: TimescaleSettings, job: str, key: str, seconds: float) -> bool:
    found = await _rows(connection, _POLICY, key, f"{seconds:.6f} seconds", job, own.schema_, own.table)
    return bool(found and found[0][0])
