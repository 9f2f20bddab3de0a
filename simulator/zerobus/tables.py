"""The Delta tables, and the thread that fills them from the log.

A table is a directory ``<data>/tables/<catalog.schema.table>`` and its Delta schema is the contract: nothing else about
it is stored. The writer thread reads the log behind the acknowledgements, turns requests into columns and appends about
once a second. Each commit records the LSN that it reaches as the transaction version of the log's identity, so that after
a crash the log is read again and what the table has is left out: every acknowledged record is in the table exactly once.
"""

import asyncio
import os
import shutil
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake.exceptions import TableNotFoundError
from typing_extensions import override

from simulator.zerobus import schema
from simulator.zerobus.formats import RowFormat, open_format
from simulator.zerobus.log import CommitLog, Declaration, Entry, LogReader
from simulator.zerobus.schema import Column, SchemaError, TableSchema

_COMMIT_BYTES: Final = 64 << 20  # log bytes that one commit may carry
_READ_BYTES: Final = 128 << 20  # log bytes held in memory by the writer
_COMPACT_AFTER: Final = 40  # small commits


class TableExistsError(Exception):
    """A table of that name is there already."""


class UnknownTableError(Exception):
    """There is no table of that name."""


@dataclass
class Table:
    """A Delta table. `lock` is held by whoever commits to it or changes it."""

    name: str
    path: Path
    app_id: str
    delta: DeltaTable = field(init=False)
    schema: TableSchema = field(init=False)
    table_id: str = field(init=False)
    written: int = field(init=False)  # LSN up to which the log is in the table
    generation: int = 0  # grows with each change of the schema
    unfrozen: asyncio.Event = field(default_factory=asyncio.Event)  # clear while the schema changes: senders wait
    dropped: bool = False
    rows_written: int = 0
    commits: int = 0
    small_commits: int = 0
    compactions: int = 0
    error: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.unfrozen.set()
        self.reload()

    def reload(self) -> None:
        """Take over what the table itself says."""
        self.delta = DeltaTable(self.path)
        metadata = self.delta.metadata()
        self.table_id = str(metadata.id)
        self.schema = schema.from_delta(self.delta.schema(), metadata.partition_columns)
        self.written = self.delta.transaction_version(self.app_id) or 0


class Catalog:
    """The tables by name. Its methods block and are safe to call from any thread."""

    def __init__(self, directory: Path, log_identity: str) -> None:
        self._directory = directory
        self._app_id = f"zerobus-emulator-{log_identity}"
        self._lock = threading.Lock()
        self._tables: dict[str, Table] = {}
        directory.mkdir(parents=True, exist_ok=True)
        for path in sorted(directory.iterdir()):
            if path.is_dir() and schema.is_table_name(path.name):
                try:
                    self._tables[path.name] = Table(path.name, path, self._app_id)
                except TableNotFoundError:  # killed while it was created or dropped
                    shutil.rmtree(path)

    def __iter__(self) -> Iterator[Table]:
        return iter(list(self._tables.values()))

    def get(self, name: str) -> Table | None:
        """The table of that name."""
        return self._tables.get(name)

    def __getitem__(self, name: str) -> Table:
        table = self._tables.get(name)
        if table is None:
            raise UnknownTableError(name)
        return table

    def create(self, name: str, table_schema: TableSchema) -> Table:
        """Create an empty table.

        Raises:
            SchemaError: the name is not ``catalog.schema.table``.
            TableExistsError: it is there already.
        """
        if not schema.is_table_name(name):
            raise SchemaError(f"{name!r} is not catalog.schema.table of ASCII letters, digits and underscore")
        with self._lock:
            if name in self._tables:
                raise TableExistsError(name)
            path = self._directory / name
            DeltaTable.create(
                path, table_schema.delta(), name=name.rpartition(".")[2], partition_by=list(table_schema.partition_by)
            )
            self._tables[name] = Table(name, path, self._app_id)
            return self._tables[name]

    def drop(self, name: str) -> None:
        """Remove a table and its data; what the log still holds for it goes with it."""
        table = self[name]
        with self._lock, table.lock:
            del self._tables[name]
            table.dropped = True
            table.generation += 1
            shutil.rmtree(table.path)

    def alter(self, table: Table, add: list[Column], drop: list[str]) -> None:
        """Add nullable columns and drop columns; the caller has seen to it that the log is in the table.

        Raises:
            SchemaError: a column cannot be added or dropped.
        """
        for column in add:
            if column.name in table.schema.by_name:
                raise SchemaError(f"column {column.name!r} is there already")
            if not column.nullable:
                raise SchemaError(f"column {column.name!r}: a column that is added must be nullable")
        for name in drop:
            if name not in table.schema.by_name or name in table.schema.partition_by:
                raise SchemaError(f"column {name!r} is no column that can be dropped")
        TableSchema((*(c for c in table.schema.columns if c.name not in drop), *add))  # names and number
        with table.lock:
            if drop:
                kept = table.delta.to_pyarrow_table().drop_columns(drop)
                partition_by = list(table.schema.partition_by) or None
                write_deltalake(table.delta, kept, mode="overwrite", schema_mode="overwrite", partition_by=partition_by)
            if add:
                table.delta.alter.add_columns([column.field for column in add])
            table.reload()
            table.generation += 1


class TableWriter(threading.Thread):
    """Fills the tables from the log.

    Args:
        catalog: the tables.
        log: the log.
        interval: seconds between commits.
        report: called with a sentence when a table could not be written (it is tried again, nothing is left out).
    """

    def __init__(self, catalog: Catalog, log: CommitLog, interval: float, report: Callable[[str], None]) -> None:
        super().__init__(name="tables", daemon=True)
        self._catalog = catalog
        self._log = log
        self._interval = interval
        self._report = report
        self._reader = LogReader(log)
        self._pending: dict[tuple[str, str], list[Entry]] = defaultdict(list)
        self._pending_bytes = 0
        self._formats: dict[tuple[Declaration, int], RowFormat] = {}
        self._wake = threading.Event()
        self._passed = threading.Condition()
        self._reached = 0  # LSN up to which the log was read and, where a table took it, written
        self._stopping = False

    @override
    def run(self) -> None:
        """Commit every interval, or at once when somebody waits, until `stop`."""
        while True:
            self._wake.wait(self._interval)
            self._wake.clear()
            stopping = self._stopping
            self._step()
            if stopping:
                return

    def stop(self) -> None:
        """Write what is left and end."""
        self._stopping = True
        self._wake.set()
        self.join()

    def drain(self, lsn: int, timeout: float) -> bool:
        """Wait until everything up to `lsn` has been taken into the tables; False when that did not happen in time."""
        deadline = time.monotonic() + timeout
        with self._passed:
            while self._reached < lsn:
                self._wake.set()
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    return False
                self._passed.wait(min(remaining, 0.25))
        return True

    def _step(self) -> None:
        up_to = self._log.durable
        reached = self._read(up_to)
        for key in list(self._pending):
            self._write(key)
        oldest = min((entries[0].lsn for entries in self._pending.values()), default=reached + 1)
        with self._passed:
            self._reached = max(self._reached, oldest - 1)
            self._passed.notify_all()
        segments = self._log.segments()
        if len(segments) > 1 and int(segments[1].stem) <= oldest:
            # Delta's files are not synced one by one, and until now the log was the only copy that was
            os.sync()
            self._log.trim(oldest - 1)
        if reached < up_to:
            self._wake.set()

    def _read(self, up_to: int) -> int:
        """Take entries from the log; returns the LSN up to which all have been taken."""
        room = _READ_BYTES - self._pending_bytes
        if room <= 0:
            return min(entries[-1].lsn for entries in self._pending.values())
        taken = 0
        last = 0
        for entry in self._reader.read(up_to, room):
            taken += len(entry.payload)
            last = entry.lsn
            table = self._catalog.get(entry.declaration.table)
            if table is None or table.table_id != entry.declaration.table_id or entry.lsn <= table.written:
                continue  # dropped since, or in the table already
            self._pending[entry.declaration.table, entry.declaration.table_id].append(entry)
            self._pending_bytes += len(entry.payload)
        return last if taken >= room else up_to

    def _write(self, key: tuple[str, str]) -> None:
        table = self._catalog.get(key[0])
        entries = self._pending[key]
        while entries:
            if table is None or table.table_id != key[1]:
                count = len(entries)
            else:
                size = 0
                for count, entry in enumerate(entries, 1):  # noqa: B007 - count is used after the loop
                    size += len(entry.payload)
                    if size >= _COMMIT_BYTES:
                        break
                try:
                    with table.lock:
                        if not table.dropped:
                            self._commit(table, entries[:count])
                    table.error = ""
                except Exception as error:  # noqa: BLE001 - whatever Delta raises: the log keeps the rows, next time again
                    table.error = f"{type(error).__name__}: {error}"
                    self._report(f"table {table.name} could not be written: {table.error}")
                    return
            self._pending_bytes -= sum(len(entry.payload) for entry in entries[:count])
            del entries[:count]
        del self._pending[key]

    def _commit(self, table: Table, entries: list[Entry]) -> None:
        last = entries[-1].lsn
        if table.error:
            # the commit that failed may have been made nevertheless
            table.reload()
            entries = [entry for entry in entries if entry.lsn > table.written]
            if not entries:
                return
        parts = [
            _fitted(self._format(declaration, table).columns([entry.payload for entry in group]), table.schema.arrow)
            for declaration, group in groupby(entries, key=lambda entry: entry.declaration)
        ]
        rows = pa.concat_tables(parts)
        transaction = CommitProperties(app_transactions=[Transaction(table.app_id, last)])
        write_deltalake(table.delta, rows, mode="append", commit_properties=transaction)
        table.written = last
        table.rows_written += rows.num_rows
        table.commits += 1
        table.small_commits += 1
        if table.small_commits >= _COMPACT_AFTER:
            table.small_commits = 0
            table.delta.optimize.compact()
            table.compactions += 1

    def _format(self, declaration: Declaration, table: Table) -> RowFormat:
        key = (declaration, table.generation)
        found = self._formats.get(key)
        if found is None:
            if len(self._formats) > 100:
                self._formats.clear()
            found = self._formats[key] = open_format(declaration.kind, declaration.spec, table.schema)
        return found


def _fitted(rows: pa.Table, target: pa.Schema) -> pa.Table:
    """Rows with exactly the table's columns, in its order; columns that were not sent are null."""
    columns = [
        rows.column(item.name) if item.name in rows.schema.names else pa.nulls(rows.num_rows, item.type)
        for item in target
    ]
    return pa.table(columns, schema=target)


def read_rows(table: Table, limit: int) -> tuple[int, list[dict[str, Any]]]:
    """The number of rows in a table, and the first `limit` of them with values that JSON can carry."""
    with table.lock:
        delta = DeltaTable(table.path)
        dataset = delta.to_pyarrow_dataset()
        count = int(delta.count())
        rows = dataset.head(limit) if limit else dataset.schema.empty_table()
    columns = []
    for column in rows.columns:
        if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
            columns.append(pc.cast(column, pa.string()))
        else:
            columns.append(column)
    return count, [_jsonable(row) for row in pa.table(columns, names=rows.schema.names).to_pylist()]


def _jsonable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _jsonable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_jsonable(item) for item in value]
    if isinstance(value, tuple):  # an entry of a map
        return [_jsonable(item) for item in value]
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, float) and (value != value or value in {float("inf"), float("-inf")}):  # noqa: PLR0124 - NaN
        return str(value)
    return value if isinstance(value, bool | int | float | str | None) else str(value)
