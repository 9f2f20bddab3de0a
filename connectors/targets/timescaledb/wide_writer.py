"""Writes units as rows of signals, one unit at a time, because a later value of a signal replaces an earlier one."""

from dataclasses import replace

import psycopg
import pyarrow as pa
from typing_extensions import override

from connectors.contract import ConfigError, Context, RejectedRecords, TransientError
from connectors.targets.timescaledb import wide
from connectors.targets.timescaledb.config import TimescaleConfig
from connectors.targets.timescaledb.schema import copy_into, make_staging
from connectors.targets.timescaledb.table import Connection, Table, add_columns, missing_columns, sql
from connectors.targets.timescaledb.writer import STAGING, TimescaleWriter


class WideWriter(TimescaleWriter):
    """Adds the signals of each unit to the rows of their times; see the module."""

    def __init__(self, config: TimescaleConfig, context: Context) -> None:
        super().__init__(config, context)
        self.limits = replace(self.limits, writes_in_flight=1)
        self._signals = wide.WideEncoder(config.provider_config.time)
        self._columns: dict[str, str] = {}

    @override
    def _found(self, table: Table) -> None:
        self._columns = {name: column.type for name, column in table.columns.items()}

    @override
    def _row_at_fault(self, error: Exception) -> int | None:
        return None  # the server names a row, which is of several readings

    @override
    async def write(self, batch: pa.RecordBatch, unit: int) -> None:
        """Merge the unit's signals into the table; return after COMMIT. See `Writer.write`."""
        if not len(batch):
            return
        rows = self._encode(batch)
        async with self._connection() as connection:
            if rows.missing:
                await self._make(connection, rows.missing)
                rows = self._encode(batch)
                if rows.missing:
                    raise TransientError(f"{self._where}: columns vanish as they are made")
            try:
                await self._merge(connection, rows)
            except psycopg.errors.UndefinedColumn:
                self._columns = {}  # somebody took it away: look again when opened again
                raise

    def _encode(self, batch: pa.RecordBatch) -> wide.Wide:
        rows = self._signals.encode(batch, self._columns)
        if rows.unfit:
            raise ConfigError(f"{self._table}: {'; '.join(rows.unfit)}")
        if rows.rejected:
            raise RejectedRecords(rows.rejected, rows.reasons)
        return rows

    async def _make(self, connection: Connection, missing: dict[str, str]) -> None:
        own = self._config.provider_config
        if own.create == "never":
            raise ConfigError(
                f"{self._table} lacks signals; run: {missing_columns(own, missing)}, or set `create: auto`"
            )
        self._found(await add_columns(connection, own, missing))

    async def _merge(self, connection: Connection, rows: wide.Wide) -> None:
        async with self._transaction(connection):
            await connection.execute(sql(make_staging("bifrost_staging", self._table, rows.columns)))
            async with connection.cursor() as cursor, cursor.copy(sql(copy_into(STAGING, rows.columns))) as copy:
                await copy.write(rows.payload)
            await connection.execute(sql(wide.merge(STAGING, self._table, rows.columns)))
