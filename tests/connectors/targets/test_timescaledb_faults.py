"""What becomes of a unit when a real PostgreSQL is killed, falls silent, is full, or shows another certificate."""

import asyncio
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from connectors.contract import (
    CapacityError,
    ConfigError,
    Context,
    TransientError,
    Writer,
)
from connectors.targets.timescaledb import TimescaleConfig
from tests.connectors.targets.timescaledb_writers import opened, sequences, until, writing
from tests.contract.readings import Source
from tests.contract.relay import Relay
from tests.contract.writers.timescaledb import Database, read_rows
from tests.ports import free_port
from tests.postgres_server import PASSWORD, SUPERUSER, PostgresServer


@pytest.fixture
def database() -> Database:
    return Database({})


@pytest.fixture
def source() -> Source:
    return Source()


# ---------------------------------------------------------------------- the server and the way to it


async def fails(write: Any) -> TransientError:
    with pytest.raises(TransientError) as caught:
        await write
    return caught.value


async def test_a_server_that_is_killed_in_the_middle_of_a_write_has_each_reading_once_in_the_end(
    database: Database, tmp_path: Path, source: Source
) -> None:
    done, under_way = source.batch([1.0] * 100), source.batch([float(i) for i in range(200_000)])
    writer = writing(database, tmp_path, timeout=60)
    await writer.open()
    await writer.write(done, 1)
    writing_now = asyncio.create_task(writer.write(under_way, 2))
    with database.server.connect(database.name) as watching:
        seen = "SELECT count(*) FROM pg_stat_progress_copy WHERE tuples_processed > 1000"

        def copying() -> bool:
            row = watching.execute(seen).fetchone()
            return bool(row and row[0])

        await until(copying)
    database.server.kill()
    await fails(writing_now)
    await writer.close()
    database.server.start()
    counts = "SELECT count(*), count(DISTINCT sequence) FROM readings"
    assert database.server.run(counts, database=database.name) == [(100, 100)]
    await writer.open()
    await writer.write(under_way, 2)
    await writer.close()
    assert database.server.run(counts, database=database.name) == [(200_100, 200_100)]


async def test_a_unit_whose_answer_is_lost_is_there_once_after_it_is_sent_again(
    database: Database, tmp_path: Path, source: Source
) -> None:
    async with Relay(database.server.port) as relay:
        endpoint = f"postgresql://127.0.0.1:{relay.port}/{database.name}"
        writer = writing(database, tmp_path, endpoint)
        await writer.open()
        batch = source.batch([1.0, 2.0])

        def lose(data: bytes) -> bytes:
            if b"COMMIT\0" in data:
                relay.cut()
                return b""
            return data

        relay.alter = lose
        await fails(writer.write(batch, 1))
        assert sequences(database.rows()) == [0, 1]
        await writer.close()
        relay.alter = lambda data: data
        await relay.restore()
        await writer.open()
        await writer.write(batch, 1)
        await writer.close()
    assert sequences(database.rows()) == [0, 1]


async def test_a_server_that_falls_silent_costs_a_timeout_and_no_reading(
    database: Database, tmp_path: Path, source: Source
) -> None:
    async with Relay(database.server.port) as relay:
        endpoint = f"postgresql://127.0.0.1:{relay.port}/{database.name}"
        writer = writing(database, tmp_path, endpoint, timeout=1)
        await writer.open()
        relay.freeze()
        batch = source.batch([1.0])
        error = await fails(writer.write(batch, 1))
        assert "no answer in 1 s" in str(error)
        await writer.close()
        relay.cut()
        relay.thaw()
        await relay.restore()
        await writer.open()
        await writer.write(batch, 1)
        await writer.close()
    assert sequences(database.rows()) == [0]


async def test_a_connection_that_the_server_ends_is_an_error_that_passes(
    database: Database, tmp_path: Path, source: Source
) -> None:
    async with opened(database, tmp_path) as writer:
        await writer.write(source.batch([1.0]), 1)
        ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'bifrost gateway 1'"
        database.server.run(ended, database=database.name)
        batch = source.batch([2.0])
        await fails(writer.write(batch, 2))
        await writer.close()
        await writer.open()
        await writer.write(batch, 2)
    assert sequences(database.rows()) == [0, 1]


async def test_of_several_hosts_one_that_answers_is_enough(database: Database, tmp_path: Path, source: Source) -> None:
    nobody, port = free_port(), database.server.port
    endpoint = f"postgresql://127.0.0.1:{nobody},127.0.0.1:{port}/{database.name}"
    async with opened(database, tmp_path, endpoint) as writer:
        await writer.write(source.batch([1.0]), 1)
    assert sequences(database.rows()) == [0]


async def test_a_server_that_only_reads_is_an_error_that_passes_when_another_takes_over(
    database: Database, tmp_path: Path, source: Source
) -> None:
    async with opened(database, tmp_path):
        pass
    database.server.run(f"ALTER DATABASE {database.name} SET default_transaction_read_only = on")
    batch = source.batch([1.0])
    async with opened(database, tmp_path) as writer:
        assert "target_session_attrs" in str(await fails(writer.write(batch, 1)))
        (finding,) = [finding for finding in await writer.check() if not finding.ok]
        assert "target_session_attrs" in finding.detail
    database.server.run(f"ALTER DATABASE {database.name} RESET default_transaction_read_only")
    async with opened(database, tmp_path) as writer:
        await writer.write(batch, 1)
    assert sequences(database.rows()) == [0]


async def test_writers_that_wait_for_each_other_are_an_error_that_passes(
    database: Database, tmp_path: Path, source: Source
) -> None:
    """An open transaction of a client that has vanished holds the rows that are sent again."""
    batch = source.batch([1.0])
    async with opened(database, tmp_path) as writer:
        await writer.write(batch, 1)
    async with opened(database, tmp_path, timeout=1) as impatient:
        with database.server.connect(database.name) as vanished:
            vanished.execute("BEGIN")
            vanished.execute("LOCK TABLE readings IN ACCESS EXCLUSIVE MODE")
            await fails(impatient.write(batch, 1))
            vanished.execute("ROLLBACK")
        await impatient.write(batch, 1)
    assert sequences(database.rows()) == [0]


@pytest.fixture
def small_place(database: Database, tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MiB that the server may use."""
    place = Path("/tmp") / f"bifrost-{database.name}-{random.randrange(10**9)}"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mounted.returncode:
        place.rmdir()
        pytest.skip("only root can mount a small disk")
    (place / "data").mkdir(mode=0o700)
    subprocess.run(["chown", "-R", database.server.owner, str(place)], check=True)
    yield place
    database.server.run(f"DROP DATABASE {database.name} WITH (FORCE)", "DROP TABLESPACE small")
    subprocess.run(["umount", "-l", str(place)], check=True)
    place.rmdir()


async def test_a_full_disk_is_an_error_of_capacity_and_passes_with_more_room(
    database: Database, tmp_path: Path, source: Source, small_place: Path
) -> None:
    async with opened(database, tmp_path) as writer:
        database.server.run(f"CREATE TABLESPACE small LOCATION '{small_place}/data'")
        database.server.run("ALTER TABLE readings SET TABLESPACE small", database=database.name)
        batch = source.batch([float(i) for i in range(10_000)])
        with pytest.raises(CapacityError, match="lacks room"):
            await writer.write(batch, 1)
        remount = ["mount", "-o", "remount,size=64m", str(small_place)]
        await asyncio.to_thread(subprocess.run, remount, check=True)
        await writer.write(batch, 1)
    assert len(database.rows()) == 10_000


# ---------------------------------------------------------------------- TLS


async def test_certificates_are_checked_and_a_renewed_one_is_picked_up(tmp_path: Path, source: Source) -> None:
    authority, other = trustme.CA(), trustme.CA()
    ca_file = tmp_path / "ca.pem"

    def files(of: trustme.CA) -> tuple[bytes, bytes]:
        made = of.issue_cert("db.plant")
        return made.cert_chain_pems[0].bytes(), made.private_key_pem.bytes()

    with PostgresServer(tls=files(authority)) as server:

        def writer(**tls: Any) -> Writer:
            own = {"username": SUPERUSER, "password": PASSWORD, "tls": {"ca_file": str(ca_file)} | tls}
            config = TimescaleConfig.model_validate({"endpoint": server.url(), "timeout": 10, "provider_config": own})
            return config.writer(Context("gateway 1", tmp_path))

        authority.cert_pem.write_to_path(ca_file)
        good = writer(server_name="db.plant")
        await good.open()
        await good.write(source.batch([1.0]), 1)
        with pytest.raises(ConfigError, match="does not match host name"):
            await writer().open()
        server.present(*files(other))
        await good.close()
        with pytest.raises(ConfigError, match="certificate verify failed"):
            await good.open()
        other.cert_pem.write_to_path(ca_file)
        await good.open()
        await good.write(source.batch([2.0]), 2)
        await good.close()
        assert len(read_rows(server, "postgres")) == 2
