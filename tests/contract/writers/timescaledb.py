"""PostgreSQL with SCRAM, servers that all tests share, a database for each; read back as text by COPY.

The suite runs as a user whom the server lets in only over TLS, with the client certificate of that name beside the password.

There is no package of the extension timescaledb: what it adds to the table is tested in
`tests/connectors/targets/test_timescaledb_hypertable.py`.
"""

import atexit
import functools
import itertools
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from connectors.settings import TargetConfig
from connectors.targets.timescaledb import TimescaleConfig
from normalization.reading import ValueType
from tests.certificates import IDENTITY, Authority
from tests.contract.counterpart import Counterpart, Provider
from tests.contract.readings import BASE_TIME, INEXACT, STEP, Row, Source, table_rows, wide, wide_rows
from tests.postgres_server import PASSWORD, SUPERUSER, PostgresServer

_numbers = itertools.count()
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_READ = (
    "SELECT gateway, shard, sequence, path, type, value, value_int, value_uint, value_text, value_bytes, quality, "
    "CASE WHEN source_time IS NULL THEN NULL ELSE (extract(epoch FROM source_time) * 1000000)::bigint END FROM "
)
_NAMES = (
    "SELECT array_agg(attname::text) FROM pg_attribute WHERE attrelid = 'public.readings'::regclass AND attnum > 0 "
    "AND NOT attisdropped AND attname <> 'time'"
)
_MICROS = "(extract(epoch FROM time) * 1000000)::bigint"


@functools.cache
def authority() -> Authority:
    """Who certifies the server and the user `IDENTITY`."""
    folder = Path(tempfile.mkdtemp(prefix="bifrost-certificates-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Authority(folder)


def _started(*options: Any, **files: bytes) -> PostgresServer:
    server = PostgresServer(*options)
    for name, content in files.items():
        server.replace(name, content)
    server.start()
    atexit.register(server.end)
    return server


@functools.cache
def service() -> PostgresServer:
    """The server; it keeps its port and its data when it is killed and started again."""
    return _started()


@functools.cache
def secured() -> PostgresServer:
    """The same with TLS, where the user `IDENTITY` needs a certificate."""
    files = authority()
    access = [
        f'hostssl all "{IDENTITY}" 127.0.0.1/32 scram-sha-256 clientcert=verify-full',
        f'host all "{IDENTITY}" 127.0.0.1/32 reject',
    ]
    tls = files.server_cert.read_bytes(), files.server_key.read_bytes()
    server = _started(["ssl_ca_file = 'authority.crt'"], tls, access, **{"authority.crt": files.ca.read_bytes()})
    server.run(f"CREATE ROLE \"{IDENTITY}\" LOGIN PASSWORD '{PASSWORD}'")
    return server


def read_rows(server: PostgresServer, database: str, table: str = "public.readings") -> list[Row]:
    """Every reading in a table."""
    names = ("gateway", "shard", "sequence", "path", "type", "value", "value_int", "value_uint", "value_text",
             "value_bytes", "quality", "source_time")  # fmt: skip
    found = []
    for values in server.run(_READ + table, database=database):
        item = dict(zip(names, values, strict=True))
        unsigned, micros = item.pop("value_uint"), item["source_time"]
        if item["type"] == ValueType.UINT64.name:
            assert item["value_int"] is None
            item["value_int"] = int(unsigned)
        if item["type"] == ValueType.TEXT.name and item["value_text"] is None:
            item["value_text"] = item["value_bytes"].decode()  # a text with a NUL
        item["source_time"] = None if micros is None else _EPOCH + timedelta(microseconds=micros)
        found.append(item)
    return table_rows(found)


class Database:
    def __init__(self, settings: dict[str, Any], options: str = "", server: PostgresServer | None = None) -> None:
        self.server = server or service()
        self.port, self.relay_port = self.server.port, 0
        self.name = f"contract_{next(_numbers)}"
        self.settings = settings
        self.server.run(f"CREATE DATABASE {self.name} {options}")

    def config(self, **settings: Any) -> TargetConfig:
        return self.through(self.port, **settings)

    def through(self, port: int, **settings: Any) -> TargetConfig:
        own = {"username": SUPERUSER, "password": PASSWORD} | self.settings
        endpoint = f"postgresql://127.0.0.1:{port}/{self.name}"
        return TimescaleConfig.model_validate(
            {"endpoint": endpoint, "timeout": "10s", "provider_config": own} | settings
        )

    def stranger(self) -> TargetConfig:
        return self.config(provider_config={"username": SUPERUSER, "password": "wrong-secret"})

    def rows(self) -> list[Row]:
        if not self.server.run("SELECT 1 FROM pg_tables WHERE tablename = 'readings'", database=self.name):
            return []
        return read_rows(self.server, self.name)

    @contextmanager
    def outage(self) -> Iterator[None]:
        self.server.kill()
        try:
            yield
        finally:
            self.server.start()


class WideDatabase(Database):
    """A row per equipment and time: it keeps no identity, but the suite's readings have a time each that tells it."""

    def rows(self) -> list[Row]:
        if not self.server.run("SELECT 1 FROM pg_tables WHERE tablename = 'readings'", database=self.name):
            return []
        (names,) = self.server.run(_NAMES, database=self.name)
        read = ", ".join('"' + name.replace('"', '""') + '"' for name in names[0])
        found = self.server.run(f"SELECT {_MICROS}, {read} FROM public.readings", database=self.name)
        items = [dict(zip(("time", *names[0]), values, strict=True)) for values in found]
        for item in items:
            at = item["time"]
            item |= {
                "shard": Source().shard,
                "sequence": (at - BASE_TIME) // STEP,
                "time": _EPOCH + timedelta(microseconds=at),
            }
        return wide_rows(items)


@contextmanager
def wide_table(_: Path) -> Iterator[Counterpart]:
    yield WideDatabase({"layout": "wide"})


class SecuredDatabase(Database):
    """A database of the user who must show a certificate, which the server's is checked as well."""

    def __init__(self) -> None:
        super().__init__({"username": IDENTITY, "tls": authority().client()}, f'OWNER "{IDENTITY}"', secured())

    def stranger(self) -> TargetConfig:
        return self.config(provider_config=self.settings | {"password": "wrong-secret"})

    def certify(self, *, expired: bool = False) -> None:
        files = authority()
        files.issue(expired=expired)
        self.server.replace("authority.crt", files.ca.read_bytes())
        self.server.present(files.server_cert.read_bytes(), files.server_key.read_bytes())


@contextmanager
def database(_: Path) -> Iterator[Counterpart]:
    yield SecuredDatabase()


PROVIDERS = [
    Provider(
        "timescaledb",
        "timescaledb, PostgreSQL with certificates",
        database,
        counterpart="PostgreSQL",
        able=frozenset({"network", "credentials", "certificates"}),
        names=False,  # NUL
    ),
    Provider(
        "timescaledb",
        "timescaledb, wide, plain PostgreSQL",
        wide_table,
        counterpart="PostgreSQL",
        refuses=INEXACT,
        names=False,
        shows=lambda row: wide(row, str),
        columns=True,
    ),
]
