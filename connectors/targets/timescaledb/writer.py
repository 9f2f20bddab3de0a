"""Writes units by COPY, several at a time over a bounded pool of connections; each reading is there once.

A unit is copied straight into the table, in a transaction of its own. Only where the server says that a row is there
already, because the unit was sent before, is it copied into a temporary table instead, and what is missing is taken from
there: that costs half as much again, and is needed only after a crash or a lost answer.
"""

import asyncio
import logging
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import psycopg
import pyarrow as pa
from psycopg.conninfo import make_conninfo
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout, TooManyRequests
from typing_extensions import override

from connectors.contract import (
    ConfigError,
    Context,
    DeliveryError,
    Finding,
    Limits,
    PoolUse,
    RejectedRecords,
    TransientError,
    Writer,
)
from connectors.targets.timescaledb import preflight
from connectors.targets.timescaledb.config import TimescaleConfig, database, hosts
from connectors.targets.timescaledb.encode import CopyEncoder
from connectors.targets.timescaledb.errors import copied_row, rejected
from connectors.targets.timescaledb.schema import copy_into, make_staging, merge, quoted
from connectors.targets.timescaledb.table import Connection, Table, prepare, sql

logging.getLogger("psycopg.pool").setLevel(logging.ERROR)  # the forwarder tells what fails, once
STAGING: Final = "pg_temp.bifrost_staging"
_CLOSE_PATIENCE: Final = 2.0
# nothing is prepared, because behind PgBouncer the next transaction may be another server process's
_CONNECTION: Final[dict[str, Any]] = {"autocommit": True, "prepare_threshold": None}

# A server whose client has vanished must end the transaction soon: as long as it is open, the rows that are sent again wait.
_SESSION: Final = (
    "SELECT set_config('tcp_keepalives_idle', '10', false), set_config('tcp_keepalives_interval', '5', false), "
    "set_config('tcp_keepalives_count', '3', false), set_config('idle_in_transaction_session_timeout', '60s', false)"
)
_UNSYNCED: Final = "SELECT current_setting('synchronous_commit') = 'off'"
_SYNCED: Final = "SET LOCAL synchronous_commit = on"


def conninfo(config: TimescaleConfig, gateway: str) -> str:
    """What libpq is told; reads the certificates' names, and resolves the host where a name of its own is expected of it."""
    own, url = config.provider_config, config.endpoint
    names, ports = hosts(url)
    timeout = max(2, round(config.timeout))
    given: dict[str, Any] = {
        "dbname": own.database or database(url) or "postgres",
        "user": own.username,
        "password": own.password.get_secret_value() if own.password else None,
        "application_name": f"bifrost {gateway}"[:63],
        "connect_timeout": timeout,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": timeout * 1000,
    }
    if names:
        given |= {"host": names, "port": ports}
    if own.tls is not None:
        given |= {
            "sslmode": "verify-full" if own.tls.verify else "require",
            "sslcert": own.tls.cert_file,
            "sslkey": own.tls.key_file,
        }
        if own.tls.verify:
            given["sslrootcert"] = own.tls.ca_file or _system_authorities()
        if own.tls.server_name and names:
            given |= {"host": own.tls.server_name, "hostaddr": _address(names, ports)}
    given |= own.parameters
    return make_conninfo("", **{key: str(value) for key, value in given.items() if value is not None})


def _system_authorities() -> str:
    """The authorities that the system trusts: the file that Python knows, which need not be where libpq looks."""
    known = ssl.get_default_verify_paths()
    places = [known.cafile, "/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"]
    return next((place for place in places if place and Path(place).exists()), "system")


def _address(host: str, port: str) -> str:
    if "," in host:
        raise ConfigError("`tls.server_name` goes with one host only; leave it out, or name one")
    try:
        return str(socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)[0][4][0])
    except OSError as error:
        raise TransientError(f"{host}: {error.strerror} (check `endpoint` and DNS)") from error


class TimescaleWriter(Writer):
    """Copies each unit into the table; see the module."""

    def __init__(self, config: TimescaleConfig, context: Context) -> None:
        own = config.provider_config
        self.limits = Limits(
            rows=config.batch_size or 10_000,
            bytes=16 * 1024**2,
            linger=0.1 if config.flush_interval is None else config.flush_interval,
            writes_in_flight=own.pool_size,
            has_key=True,
        )
        self._config = config
        self._context = context
        self._where = f"{config.endpoint} {own.schema_}.{own.table}"
        self._table = quoted(own.schema_, own.table)
        self._encoder = CopyEncoder(own.time)
        self._unsynced = False  # whether the server says that a commit is done before it is on disk
        self._pool: AsyncConnectionPool[Connection] | None = None

    @override
    async def open(self) -> None:
        """Connect, look at the table or make it, and open the pool; see `Writer.open`."""
        await self.close()
        async with self._delivery_errors(), asyncio.timeout(self._config.timeout):
            where = await asyncio.to_thread(conninfo, self._config, self._context.gateway)
            async with await psycopg.AsyncConnection.connect(where, **_CONNECTION) as connection:
                self._found(await prepare(connection, self._config.provider_config))
                unsynced = await (await connection.execute(_UNSYNCED)).fetchone()
                self._unsynced = bool(unsynced and unsynced[0])
            pool = AsyncConnectionPool(
                where,
                kwargs=_CONNECTION,
                min_size=1,
                max_size=self._config.provider_config.pool_size,
                open=False,
                configure=_configure,
                timeout=self._config.timeout,
                reconnect_timeout=self._config.timeout,  # the forwarder owns what comes after it
                num_workers=1,
                name=self._context.gateway,
            )
            self._pool = pool
            await pool.open(wait=True, timeout=self._config.timeout)

    @override
    async def write(self, batch: pa.RecordBatch, unit: int) -> None:
        """Copy the unit; return after COMMIT. See `Writer.write`."""
        if not len(batch):
            return
        rows = self._encoder.encode(batch)
        if rows.rejected:
            raise RejectedRecords(rows.rejected, rows.reasons)
        async with self._connection() as connection:
            try:
                await self._copy(connection, rows.payload)
            except psycopg.errors.UniqueViolation:
                await self._copy_missing(connection, rows.payload)

    @override
    async def close(self) -> None:
        """Close the pool; see `Writer.close`."""
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.close(_CLOSE_PATIENCE)

    def pool(self) -> PoolUse:
        """How the connections are used; see `contract.Pooled`. Safe from any thread."""
        pool = self._pool
        stats = pool.get_stats() if pool is not None else {}
        return PoolUse(
            size=self._config.provider_config.pool_size,
            open=stats.get("pool_size", 0),
            in_use=stats.get("pool_size", 0) - stats.get("pool_available", 0),
            waiting=stats.get("requests_waiting", 0),
        )

    async def check(self) -> list[Finding]:
        """What stands between this gateway and the table; see `contract.Checks`. Writes nothing."""
        try:
            async with self._delivery_errors(), asyncio.timeout(self._config.timeout):
                where = await asyncio.to_thread(conninfo, self._config, self._context.gateway)
                async with await psycopg.AsyncConnection.connect(where, **_CONNECTION) as connection:
                    return await preflight.findings(connection, self._config)
        except DeliveryError as problem:
            return [Finding(False, "connection", str(problem))]

    def _found(self, table: Table) -> None:
        """What the table was like when the writer was opened."""

    def _row_at_fault(self, error: Exception) -> int | None:
        return copied_row(error)

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        """A connection of the pool for one write, within its time."""
        pool = self._pool
        if pool is None:
            raise TransientError(f"{self._where}: not open")
        async with self._delivery_errors(), asyncio.timeout(self._config.timeout), pool.connection() as connection:
            yield connection

    @asynccontextmanager
    async def _transaction(self, connection: Connection) -> AsyncIterator[None]:
        """A transaction that is on disk when it ends."""
        async with connection.transaction():
            if self._unsynced:
                await connection.execute(_SYNCED)
            yield

    async def _copy(self, connection: Connection, payload: bytes) -> None:
        """Copy all of it, or nothing."""
        async with self._transaction(connection):
            await _send(connection, self._table, payload)

    async def _copy_missing(self, connection: Connection, payload: bytes) -> None:
        """Copy what the table does not have; the rest is there."""
        async with self._transaction(connection):
            await connection.execute(sql(make_staging("bifrost_staging", self._table)))
            await _send(connection, STAGING, payload)
            await connection.execute(sql(merge(STAGING, self._table)))

    @asynccontextmanager
    async def _delivery_errors(self) -> AsyncIterator[None]:
        """What psycopg or the operating system raises inside comes out as a `DeliveryError`."""
        try:
            yield
        except TimeoutError as error:
            raise TransientError(f"{self._where}: no answer in {self._config.timeout:g} s") from error
        except (PoolTimeout, PoolClosed, TooManyRequests) as error:
            raise TransientError(f"{self._where}: no connection free ({error})") from error
        except (psycopg.Error, OSError) as error:
            raise rejected(error, self._where, self._row_at_fault(error)) from error


async def _configure(connection: Connection) -> None:
    await connection.execute(_SESSION)


async def _send(connection: Connection, table: str, payload: bytes) -> None:
    async with connection.cursor() as cursor, cursor.copy(sql(copy_into(table))) as copy:
        await copy.write(payload)


__all__ = ["TimescaleWriter", "conninfo"]
