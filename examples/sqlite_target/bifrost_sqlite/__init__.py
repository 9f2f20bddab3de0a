"""Readings in a table of an SQLite file: small enough to be read in one go, and complete.

A reading has a key (gateway, shard, sequence), so that a unit that is sent again changes nothing. The file is synced
before a write returns. SQLite has no NaN: such readings are refused.
"""

import asyncio
import os
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field
from typing_extensions import override

from connectors.contract import (
    AuthError,
    CapacityError,
    ConfigError,
    Context,
    DeliveryError,
    Finding,
    Limits,
    RejectedRecords,
    TransientError,
    Writer,
)
from connectors.settings import TargetConfig
from normalization.reading import TABLE, table

# numbers have no type: a column of REAL would make 0.0 of -0.0
_SQL_TYPES: Final = {pa.int32(): "INTEGER", pa.int64(): "INTEGER", pa.float64(): "", pa.binary(): "BLOB"}
_CREATE: Final = (
    "CREATE TABLE IF NOT EXISTS readings ({}, PRIMARY KEY (gateway, shard, sequence)) WITHOUT ROWID".format(
        ", ".join(f"{field.name} {_SQL_TYPES.get(field.type, 'TEXT')}" for field in TABLE)
    )
)
_INSERT: Final = " ".join(["INSERT OR IGNORE INTO readings VALUES (", ",".join("?" * len(TABLE)), ")"])


class SqliteConfig(TargetConfig):
    """A table `readings` in an SQLite file."""

    type: Literal["sqlite"] = Field("sqlite", description="type of the target")
    endpoint: str | None = Field("data/readings.sqlite", description="the file; made when it is missing")

    @override
    def writer(self, context: Context) -> Writer:
        return SqliteWriter(self)


def encode(batch: pa.RecordBatch) -> list[tuple[object, ...]]:
    """The rows of a batch, in the order of `normalization.reading.TABLE`; dates and times as ISO 8601 text."""
    whole = table(batch)
    columns = [
        column.cast(pa.string()) if pa.types.is_temporal(column.type) else column
        for column in (whole.column(field.name) for field in TABLE)
    ]
    return list(zip(*(column.to_pylist() for column in columns), strict=True))


def not_numbers(batch: pa.RecordBatch) -> list[int]:
    """The rows of a batch whose value is NaN."""
    found: list[int] = pc.indices_nonzero(pc.is_nan(batch.column("value_double")).fill_null(False)).to_pylist()
    return found


def delivery_error(error: sqlite3.Error, path: Path) -> DeliveryError:
    """The place of an error of SQLite in the tree of delivery errors."""
    text = f"{path}: {error}"
    match getattr(error, "sqlite_errorname", "").split("_")[:2]:
        case ["SQLITE", "FULL"]:
            return CapacityError(f"{text}; free some space")
        case ["SQLITE", "READONLY" | "PERM" | "AUTH"]:
            return AuthError(f"{text}; let the gateway's user write there")
        case ["SQLITE", "CANTOPEN" | "NOTADB"]:
            return ConfigError(f"{text}; give a file in a folder that there is as `endpoint`")
        case _:
            return TransientError(text)


class SqliteWriter(Writer):
    """Writes each unit in a transaction of its own."""

    def __init__(self, config: SqliteConfig) -> None:
        self.limits = Limits(
            rows=config.batch_size or 10_000,
            linger=0.1 if config.flush_interval is None else config.flush_interval,
            has_key=True,
        )
        self._path = Path(config.endpoint or "data/readings.sqlite")
        self._timeout = config.timeout
        self._lock = threading.Lock()  # a write that was given up may still be under way in its thread
        self._database: sqlite3.Connection | None = None

    @override
    async def open(self) -> None:
        """Open the file and make the table; see `Writer.open`."""
        await asyncio.to_thread(self._locked, self._open)

    @override
    async def write(self, batch: pa.RecordBatch, unit: int) -> None:
        """Insert what is not there yet, and commit; see `Writer.write`."""
        if rejected := not_numbers(batch):
            raise RejectedRecords(rejected, ["SQLite has no NaN"] * len(rejected))
        await asyncio.to_thread(self._locked, lambda: self._insert(encode(batch)))

    @override
    async def close(self) -> None:
        """Close the file; see `Writer.close`."""
        await asyncio.to_thread(self._locked, self._close)

    async def check(self) -> list[Finding]:
        """Whether the file can be used; see `contract.Checks`."""
        return await asyncio.to_thread(self._check)

    def _locked(self, act: Callable[[], None]) -> None:
        with self._lock:
            try:
                act()
            except sqlite3.Error as error:
                raise delivery_error(error, self._path) from error

    def _open(self) -> None:
        self._close()
        database = sqlite3.connect(self._path, timeout=self._timeout, check_same_thread=False, isolation_level=None)
        self._database = database
        database.execute("PRAGMA synchronous = FULL")
        database.execute(_CREATE)

    def _insert(self, rows: list[tuple[object, ...]]) -> None:
        if self._database is None or not self._path.exists():
            raise TransientError(f"{self._path}: not open, or no longer there")
        with self._database as database:
            database.execute("BEGIN")
            database.executemany(_INSERT, rows)

    def _close(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None

    def _check(self) -> list[Finding]:
        folder = self._path.absolute().parent
        if not folder.is_dir() or self._path.is_dir():
            return [Finding(False, str(self._path), "give a file in a folder that there is as `endpoint`")]
        if not os.access(folder, os.W_OK):
            return [Finding(False, str(self._path), "let the gateway's user write there")]
        return [Finding(True, str(self._path), "the table is there" if self._path.exists() else "it will be made")]
