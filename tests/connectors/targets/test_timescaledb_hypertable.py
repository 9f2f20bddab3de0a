"""What the extension timescaledb adds: hypertables, compression, retention.

The server is the real extension in a PostgreSQL that is compiled to WebAssembly, because no package has it otherwise. It
takes one client and no COPY: readings get into the hypertable by the statement that takes them from a staging table.
"""

import itertools
import os
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from connectors.contract import ConfigError
from connectors.targets.timescaledb import TimescaleConfig, TimescaleSettings, wide
from connectors.targets.timescaledb.preflight import findings
from connectors.targets.timescaledb.schema import make_staging, merge
from connectors.targets.timescaledb.table import Connection, add_columns, look, prepare
from tests.ports import free_port

ROOT = Path(__file__).parents[3]
COUNTERPART = ROOT / "tests" / "counterparts" / "postgres-timescale"
pytestmark = [pytest.mark.interop("TimescaleDB"), pytest.mark.timeout(180)]

_POLICIES = (
    "SELECT proc_name, (config ->> 'compress_after')::interval, (config ->> 'drop_after')::interval "
    "FROM timescaledb_information.jobs WHERE hypertable_schema = %s ORDER BY 1"
)
_JOBS = "SELECT job_id FROM timescaledb_information.jobs WHERE hypertable_schema = %s ORDER BY 1"
_numbers = itertools.count()

Make = Callable[..., TimescaleSettings]


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    subprocess.run(["sh", str(COUNTERPART / "install.sh")], check=True, capture_output=True, timeout=120)
    port = free_port()
    modules = ROOT / "build" / "counterparts" / "postgres-timescale" / "node_modules"
    with subprocess.Popen(
        ["node", str(COUNTERPART / "server.js"), str(port)],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=os.environ | {"NODE_PATH": str(modules)},
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            yield port
        finally:
            process.kill()


@pytest.fixture
async def connection(port: int) -> AsyncIterator[Connection]:
    async with await psycopg.AsyncConnection.connect(
        f"postgresql://postgres:postgres@127.0.0.1:{port}/postgres?sslmode=disable",
        autocommit=True,
        prepare_threshold=None,
    ) as connected:
        yield connected


@pytest.fixture
def settings() -> Make:
    """Makes settings with the schema of this test."""
    schema = f"test_{next(_numbers)}"
    return lambda **own: TimescaleSettings.model_validate({"schema": schema} | own)


async def fetch(connection: Connection, statement: str, *given: object) -> list[tuple[Any, ...]]:
    return await (await connection.execute(statement, given)).fetchall()


async def test_a_hypertable_is_made_with_chunks_compression_and_retention_as_configured(
    connection: Connection, settings: Make
) -> None:
    own = settings(chunk_interval="12h", compress_after="7d", retention="365d")
    await prepare(connection, own)
    found = await look(connection, own)
    assert (found.problems, found.hypertable, found.compressed) == ([], True, True)
    assert await fetch(
        connection,
        "SELECT column_name, time_interval = '12 hours' FROM timescaledb_information.dimensions "
        "WHERE hypertable_schema = %s",
        own.schema_,
    ) == [("time", True)]
    days = [
        (name, compress and compress.days, drop and drop.days)
        for name, compress, drop in await fetch(connection, _POLICIES, own.schema_)
    ]
    assert days == [("policy_compression", 7, None), ("policy_retention", None, 365)]
    config = TimescaleConfig.model_validate({"endpoint": "postgresql://localhost"})
    said = await findings(connection, config.model_copy(update={"provider_config": own}))
    assert [finding.detail for finding in said if not finding.ok] == []
    assert said[-1].detail.endswith("is there, a hypertable")
    assert "TimescaleDB 2." in said[0].detail


async def test_policies_follow_the_settings_and_stay_where_there_are_none(
    connection: Connection, settings: Make
) -> None:
    await prepare(connection, settings())
    schema = settings().schema_
    assert await fetch(connection, _POLICIES, schema) == []
    await prepare(connection, settings(compress_after="7d", retention="30d"))
    first = await fetch(connection, _JOBS, schema)
    await prepare(connection, settings(compress_after="7d", retention="30d"))
    again = await fetch(connection, _JOBS, schema)
    assert first == again
    await prepare(connection, settings(compress_after="14d", retention="30d"))
    await prepare(connection, settings())
    changed = await fetch(connection, _POLICIES, schema)
    assert [(name, (compress or drop).days) for name, compress, drop in changed] == [
        ("policy_compression", 14),
        ("policy_retention", 30),
    ]


async def test_an_ordinary_table_stays_one_and_says_how_to_change_that(connection: Connection, settings: Make) -> None:
    await prepare(connection, settings(hypertable="never", compress_after="7d"))
    assert not (await look(connection, settings())).hypertable
    await prepare(connection, settings())
    with pytest.raises(ConfigError, match="run: SELECT create_hypertable") as caught:
        await prepare(connection, settings(hypertable="always"))
    statement = str(caught.value).partition("run: ")[2].partition(", or set")[0]
    await fetch(connection, statement)
    await prepare(connection, settings(hypertable="always"))


async def test_readings_that_come_twice_or_late_into_a_compressed_chunk_are_there_once(
    connection: Connection, settings: Make
) -> None:
    own = settings(compress_after="7d")
    await prepare(connection, own)
    name = (await look(connection, own)).name

    async def send(first: int, last: int, value: int) -> None:
        async with connection.transaction():
            await connection.execute(make_staging("bifrost_staging", name))
            await connection.execute(
                "INSERT INTO bifrost_staging (time, received_time, type, quality, flags, priority, gateway, shard, sequence, "
                "path, value) SELECT '2026-01-01Z'::timestamptz + i * INTERVAL '1 min', now(), 'DOUBLE', 'GOOD', 0, 0, 'g', "
                "'s', i, 'p' || (i %% 3), %s FROM generate_series(%s::int, %s) i",
                (value, first, last),
            )
            await connection.execute(merge("bifrost_staging", name))

    await send(0, 999, 1)
    assert await fetch(connection, "SELECT compress_chunk(c) FROM show_chunks(%s::regclass) c", name)
    await send(500, 1_099, 2)
    await send(0, 1_099, 3)
    counts = f"SELECT count(*), count(DISTINCT sequence), sum(value) FROM {name}"
    assert await fetch(connection, counts) == [(1_100, 1_100, 1_000 * 1 + 100 * 2)]


async def test_a_wide_hypertable_gets_signals_also_where_it_is_compressed(
    connection: Connection, settings: Make
) -> None:
    own = settings(layout="wide", compress_after="7d")
    await prepare(connection, own)
    found = await add_columns(connection, own, {"temp": "double precision", "temp_quality": "text"})
    assert (found.problems, found.hypertable, found.compressed) == ([], True, True)

    async def send(signal: str, value: int) -> None:
        columns = ["time", "path", "gateway", "received_time", signal, f"{signal}_quality"]
        async with connection.transaction():
            await connection.execute(make_staging("bifrost_staging", found.name, columns))
            await connection.execute(
                "INSERT INTO bifrost_staging SELECT '2026-01-01Z'::timestamptz + i * INTERVAL '1 min', 'p' || (i %% 3), "
                "'g', now(), %s, 'GOOD' FROM generate_series(0, 299) i",
                (value,),
            )
            await connection.execute(wide.merge("bifrost_staging", found.name, columns))

    await send("temp", 1)
    assert await fetch(connection, "SELECT compress_chunk(c) FROM show_chunks(%s::regclass) c", found.name)
    await add_columns(connection, own, {"load": "double precision", "load_quality": "text"})
    await send("load", 2)
    await send("temp", 3)
    sums = f"SELECT count(*), sum(temp), sum(load), count(load_quality) FROM {found.name}"
    assert await fetch(connection, sums) == [(300, 900, 600, 300)]
