"""Writing to a real PostgreSQL: the table, its key, what it refuses, and what becomes of a unit when things go wrong."""

import asyncio
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from connectors.contract import (
    AuthError,
    CapacityError,
    ConfigError,
    DeliveryError,
    Pooled,
    RejectedRecords,
)
from tests.connectors.targets.timescaledb_writers import opened, sequences, until, writing
from tests.contract.readings import Source, rows
from tests.contract.writers.timescaledb import Database


@pytest.fixture
def database() -> Database:
    return Database({})


@pytest.fixture
def source() -> Source:
    return Source()


# ---------------------------------------------------------------------- the table


async def test_a_table_is_made_with_its_key_and_says_what_its_columns_are(database: Database, tmp_path: Path) -> None:
    async with opened(database, tmp_path, schema="plant", table="line_1"):
        pass
    found = database.server.run(
        "SELECT a.attname, col_description(a.attrelid, a.attnum) FROM pg_attribute a "
        "WHERE a.attrelid = 'plant.line_1'::regclass AND a.attnum > 0",
        database=database.name,
    )
    assert len(found) == 30
    assert [name for name, comment in found if not comment] == []
    keys = database.server.run(
        "SELECT indexdef FROM pg_indexes WHERE schemaname = 'plant' ORDER BY 1", database=database.name
    )
    assert [definition.partition("USING btree ")[2] for (definition,) in keys] == [
        '(path, "time" DESC)',
        '("time", sequence, shard, gateway)',
    ]


async def test_paths_below_a_place_are_found_by_the_index_whatever_the_order_of_letters(tmp_path: Path) -> None:
    database = Database({}, "LOCALE 'C.UTF-8' TEMPLATE template0")
    async with opened(database, tmp_path):
        pass
    with database.server.connect(database.name) as connection:
        connection.execute("SET enable_seqscan = off")
        plan = connection.execute("EXPLAIN SELECT * FROM readings WHERE path LIKE 'plant1/area2/%'").fetchall()
    assert "Index Cond: ((path >= 'plant1/area2/'::text)" in "".join(line for (line,) in plan)


async def test_gateways_that_begin_together_make_one_table(database: Database, tmp_path: Path) -> None:
    writers = [writing(database, tmp_path, schema="plant") for _ in range(4)]
    await asyncio.gather(*(writer.open() for writer in writers))
    await asyncio.gather(*(writer.close() for writer in writers))


async def test_a_table_that_lacks_a_column_says_what_to_run_and_then_takes_all(
    database: Database, tmp_path: Path, source: Source
) -> None:
    async with opened(database, tmp_path) as writer:
        await writer.write(source.batch([1.0]), 1)
    database.server.run("ALTER TABLE readings DROP COLUMN value_uint, DROP COLUMN metadata", database=database.name)
    with pytest.raises(ConfigError, match="it lacks value_uint, metadata; run: ALTER TABLE") as caught:
        async with opened(database, tmp_path):
            pass
    database.server.run(str(caught.value).partition("run: ")[2], database=database.name)
    async with opened(database, tmp_path) as writer:
        await writer.write(source.batch([2**64 - 1], unsigned=[True]), 2)
    assert [row.value for row in sorted(database.rows(), key=lambda r: r.sequence)] == [1.0, 2**64 - 1]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("ALTER TABLE readings ALTER COLUMN value TYPE real", "column value is real, readings need double precision"),
        ("ALTER TABLE readings ADD COLUMN shift text NOT NULL", "column shift is NOT NULL and readings do not have it"),
        ("ALTER TABLE readings ALTER COLUMN unit SET NOT NULL", "column unit is NOT NULL and some readings"),
        ("ALTER TABLE readings DROP CONSTRAINT readings_pkey", r"no unique key \(time, sequence, shard, gateway\)"),
        ("ALTER TABLE readings SET UNLOGGED", "it is UNLOGGED"),
        ("ALTER TABLE readings RENAME TO r; CREATE VIEW readings AS SELECT * FROM r", "it is no table"),
    ],
)
async def test_a_table_that_would_lose_something_is_not_written_to(
    database: Database, tmp_path: Path, change: str, said: str
) -> None:
    async with opened(database, tmp_path):
        pass
    database.server.run(change, database=database.name)
    with pytest.raises(ConfigError, match=said):
        async with opened(database, tmp_path):
            pass
    assert [finding.ok for finding in await writing(database, tmp_path).check()].count(False) == 1


async def test_columns_of_the_owners_own_are_left_to_their_defaults(
    database: Database, tmp_path: Path, source: Source
) -> None:
    async with opened(database, tmp_path):
        pass
    database.server.run(
        "ALTER TABLE readings ADD COLUMN shift text NOT NULL DEFAULT 'early', "
        "ADD COLUMN doubled float8 GENERATED ALWAYS AS (value * 2) STORED, ADD COLUMN number bigserial",
        database=database.name,
    )
    batch = source.batch([1.5, 2.5])
    async with opened(database, tmp_path) as writer:
        await writer.write(batch, 1)
        await writer.write(batch, 1)
    found = database.server.run("SELECT shift, doubled FROM readings ORDER BY value", database=database.name)
    assert found == [("early", 3.0), ("early", 5.0)]


async def test_a_plain_server_is_enough_and_says_what_it_lacks(database: Database, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"compress_after": "7d", "retention": "30d"}
    async with opened(database, tmp_path, **settings):
        pass
    said = [f"{finding.ok} {finding.detail}" for finding in await writing(database, tmp_path, **settings).check()]
    assert any(
        "True the table will be no hypertable and `compress_after` and `retention` have no effect" in s for s in said
    )
    with pytest.raises(ConfigError, match="it is no hypertable; run: SELECT create_hypertable"):
        async with opened(database, tmp_path, hypertable="always"):
            pass
    with pytest.raises(ConfigError, match="CREATE EXTENSION timescaledb"):
        async with opened(database, tmp_path, hypertable="always", table="other"):
            pass


async def test_check_writes_nothing_and_says_that_all_is_well(
    database: Database, tmp_path: Path, source: Source
) -> None:
    before = await writing(database, tmp_path).check()
    assert all(finding.ok for finding in before)
    assert before[-1].detail.endswith("will be made")
    assert database.server.run("SELECT to_regclass('readings')", database=database.name) == [(None,)]
    async with opened(database, tmp_path) as writer:
        await writer.write(source.batch([1.0]), 1)
    after = await writing(database, tmp_path).check()
    assert all(finding.ok for finding in after)
    assert after[-1].detail.endswith("is there, a table")


# ---------------------------------------------------------------------- who may, and what is named wrongly


async def refusal(database: Database, tmp_path: Path, **own: Any) -> DeliveryError:
    with pytest.raises(DeliveryError) as caught:
        async with opened(database, tmp_path, **own):
            pass
    (finding,) = [f for f in await writing(database, tmp_path, **own).check() if not f.ok]
    assert finding.detail
    return caught.value


async def test_a_wrong_password_is_an_error_of_authentication_and_does_not_show_it(
    database: Database, tmp_path: Path
) -> None:
    error = await refusal(database, tmp_path, password="not the password")
    assert type(error) is AuthError
    assert "not the password" not in str(error)
    assert type(await refusal(database, tmp_path, username="nobody")) is AuthError


async def test_a_database_or_table_that_is_not_there_is_an_error_of_configuration(
    database: Database, tmp_path: Path
) -> None:
    assert type(await refusal(database, tmp_path, endpoint=database.server.url("nowhere"))) is ConfigError
    error = await refusal(database, tmp_path, create="never")
    assert type(error) is ConfigError
    assert "is missing" in str(error)


async def test_missing_grants_are_told_with_what_to_run(database: Database, tmp_path: Path, source: Source) -> None:
    user = f"writer_of_{database.name}"
    database.server.run(f"CREATE ROLE {user} LOGIN PASSWORD 'x'")
    own: dict[str, Any] = {"username": user, "password": "x"}
    assert type(await refusal(database, tmp_path, **own)) is AuthError
    async with opened(database, tmp_path):
        pass
    writer = writing(database, tmp_path, **own)
    await writer.open()
    with pytest.raises(AuthError, match="permission denied for table readings"):
        await writer.write(source.batch([1.0]), 1)
    await writer.close()
    (finding,) = [finding for finding in await writer.check() if not finding.ok]
    database.server.run(finding.detail.partition("run: ")[2], database=database.name)
    assert all(finding.ok for finding in await writer.check())
    batch = source.batch([2.0])
    async with opened(database, tmp_path, **own) as granted:
        await granted.write(batch, 1)
        await granted.write(batch, 1)  # by way of a temporary table
    assert [row.value for row in database.rows()] == [2.0]


# ---------------------------------------------------------------------- what is written


async def test_of_a_unit_that_is_partly_there_the_rest_is_written(
    database: Database, tmp_path: Path, source: Source
) -> None:
    first, second = source.batch([1.0, 2.0]), source.batch([3.0, 4.0])
    both = pa.concat_batches([first, second])
    async with opened(database, tmp_path) as writer:
        await writer.write(first, 1)
        await writer.write(both, 2)
        await writer.write(both, 2)
    assert sequences(database.rows()) == [0, 1, 2, 3]


async def test_texts_with_a_nul_come_back(database: Database, tmp_path: Path, source: Source) -> None:
    batch = source.batch(["a\0b", "c", ["x\0y"]])
    async with opened(database, tmp_path) as writer:
        await writer.write(batch, 1)
    found = sorted(database.rows(), key=lambda row: row.sequence)
    assert [row.value for row in found] == ["a\0b", "c", ["x\0y"]]


async def test_random_names_and_values_are_equal_or_refused(database: Database, tmp_path: Path, source: Source) -> None:
    dice = random.Random(6)
    alphabet = [*map(chr, range(0x180)), "\u2028", "\u202e", "雪", "🏭", "\ufffd", "\ufeff", "\\N", "\\."]

    def text(most: int) -> str:
        return "".join(dice.choices(alphabet, k=dice.randrange(most)))

    tags = [source.tag(i, path=text(40), tag_name=text(10), source=text(10), unit=text(3)) for i in range(2_000)]
    values: list[Any] = [
        dice.choice(
            (lambda: text(30), dice.random, lambda: dice.randrange(-(2**63), 2**63), lambda: text(9).encode())
        )()
        for _ in range(20_000)
    ]
    batch = source.batch(values, tags=[dice.choice(tags) for _ in values])
    refused: set[int] = set()
    async with opened(database, tmp_path) as writer:
        try:
            await writer.write(batch, 1)
        except RejectedRecords as error:
            refused = set(error.indices)
        left = [i for i in range(len(batch)) if i not in refused]
        await writer.write(batch.take(pa.array(left)), 2)
    wanted = rows(batch)
    named = batch.select(["path", "tag_name", "source", "unit"]).to_pylist()
    assert refused == {i for i, names in enumerate(named) if any("\0" in name for name in names.values())}
    found = {row.sequence: row for row in database.rows()}
    assert [wanted[i] for i in left if not wanted[i].same(found[wanted[i].sequence])] == []
    assert len(found) == len(left)


async def test_a_constraint_of_the_table_refuses_the_reading_that_it_is_about(
    database: Database, tmp_path: Path, source: Source
) -> None:
    async with opened(database, tmp_path) as writer:
        database.server.run("ALTER TABLE readings ADD CHECK (value < 100)", database=database.name)
        batch = source.batch([1.0, 2.0, 300.0, 4.0])
        with pytest.raises(RejectedRecords) as caught:
            await writer.write(batch, 1)
        assert (caught.value.indices, caught.value.rest_written) == ([2], False)
        assert "readings_value_check" in caught.value.reasons[0]
        assert database.rows() == []
        await writer.write(batch.take(pa.array([0, 1, 3])), 2)
    assert sequences(database.rows()) == [0, 1, 3]


async def test_a_trigger_that_refuses_at_the_end_names_no_reading_and_nothing_is_written(
    database: Database, tmp_path: Path, source: Source
) -> None:
    async with opened(database, tmp_path) as writer:
        database.server.run(
            "CREATE FUNCTION no_sevens() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN IF NEW.value = 7 THEN RAISE EXCEPTION 'no sevens'; END IF; RETURN NEW; END $$",
            "CREATE TRIGGER t AFTER INSERT ON readings FOR EACH ROW EXECUTE FUNCTION no_sevens()",
            database=database.name,
        )
        with pytest.raises(RejectedRecords) as caught:
            await writer.write(source.batch([1.0, 7.0, 2.0]), 1)
    assert (caught.value.indices, caught.value.rest_written) == ([], False)
    assert "no sevens" in caught.value.reasons[0]
    assert database.rows() == []


async def test_another_unique_key_of_the_table_refuses_readings_and_drops_none_silently(
    database: Database, tmp_path: Path, source: Source
) -> None:
    async with opened(database, tmp_path) as writer:
        database.server.run("CREATE UNIQUE INDEX one_per_value ON readings (value)", database=database.name)
        first = source.batch([1.0])
        await writer.write(first, 1)
        with pytest.raises(RejectedRecords, match="one_per_value"):
            await writer.write(source.batch([1.0]), 2)
    assert sequences(database.rows()) == [0]


async def test_a_path_that_is_too_long_for_an_index_is_refused_by_row(
    database: Database, tmp_path: Path, source: Source
) -> None:
    dice = random.Random(6)
    long = "".join(chr(dice.randrange(0x4E00, 0x9FFF)) for _ in range(5_000))
    batch = source.batch([1.0, 2.0], tags=[source.tag(0), source.tag(1, path=long)])
    async with opened(database, tmp_path) as writer:
        with pytest.raises(RejectedRecords, match="maximum") as caught:
            await writer.write(batch, 1)
        assert caught.value.indices == [1]


async def test_a_commit_is_synced_also_where_the_database_would_not(
    database: Database, tmp_path: Path, source: Source
) -> None:
    async with opened(database, tmp_path):
        pass
    database.server.run(
        f"ALTER DATABASE {database.name} SET synchronous_commit = off",
    )
    database.server.run(
        "CREATE TABLE seen (said text)",
        "CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN INSERT INTO seen VALUES (current_setting('synchronous_commit')); RETURN NEW; END $$",
        "CREATE TRIGGER t BEFORE INSERT ON readings FOR EACH ROW EXECUTE FUNCTION look()",
        database=database.name,
    )
    async with opened(database, tmp_path) as writer:
        await writer.write(source.batch([1.0]), 1)
    assert database.server.run("SELECT said FROM seen", database=database.name) == [("on",)]
    assert database.server.run("SHOW synchronous_commit", database=database.name) == [("off",)]


# ---------------------------------------------------------------------- the pool


async def test_the_pool_is_bounded_and_shows_its_use(database: Database, tmp_path: Path, source: Source) -> None:
    async with opened(database, tmp_path, pool_size=2) as writer:
        assert isinstance(writer, Pooled)
        assert writer.limits.writes_in_flight == 2
        with database.server.connect(database.name) as blocking:
            blocking.execute("BEGIN")
            blocking.execute("LOCK TABLE readings IN ACCESS EXCLUSIVE MODE")
            batches = [source.batch([float(i)]) for i in range(5)]
            writes = [asyncio.create_task(writer.write(batch, i)) for i, batch in enumerate(batches)]
            await until(lambda: writer.pool().waiting == 3)
            use = writer.pool()
            connected = database.server.run(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'bifrost gateway 1' "
                f"AND datname = '{database.name}'"
            )
            assert (use.size, use.open, use.in_use) == (2, 2, 2)
            assert connected == [(2,)]
            blocking.execute("COMMIT")
        await asyncio.gather(*writes)
        await until(lambda: writer.pool().in_use == 0)
    assert writer.pool().open == 0
    assert sequences(database.rows()) == [0, 1, 2, 3, 4]


async def test_too_few_connections_are_an_error_of_capacity(database: Database, tmp_path: Path, source: Source) -> None:
    user = f"crowd_of_{database.name}"
    database.server.run(f"CREATE ROLE {user} LOGIN PASSWORD 'x' CONNECTION LIMIT 0")
    database.server.run(f"GRANT CREATE ON SCHEMA public TO {user}", database=database.name)
    error = await refusal(database, tmp_path, username=user, password="x")
    assert type(error) is CapacityError
    # with fewer than the pool may have, writes take turns
    database.server.run(f"ALTER ROLE {user} CONNECTION LIMIT 2")
    batches = [source.batch([float(i)] * 100) for i in range(8)]
    async with opened(database, tmp_path, username=user, password="x", pool_size=8) as writer:
        await asyncio.gather(*(writer.write(batch, i) for i, batch in enumerate(batches)))
    assert len(database.rows()) == 800
