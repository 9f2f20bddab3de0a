"""The wide layout at a real PostgreSQL: a row per equipment and time, a column per signal."""

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from connectors.contract import ConfigError, Context, DeliveryError, RejectedRecords
from connectors.targets.timescaledb import TimescaleConfig
from connectors.targets.timescaledb.wide_writer import WideWriter
from tests.contract.readings import BASE_TIME, Source
from tests.contract.writers.timescaledb import Database
from tests.postgres_server import PASSWORD, SUPERUSER

T0, T1 = BASE_TIME, BASE_TIME + 1_000_000


class Plant:
    """Readings of signals, each under its path."""

    def __init__(self, gateway: str = "line 1") -> None:
        self.source = Source(gateway)
        self.tags: dict[str, int] = {}

    def batch(self, *readings: tuple[str, Any, int | None]) -> pa.RecordBatch:
        tags = [self.tags.setdefault(path, self.source.tag(len(self.tags), path=path)) for path, _, _ in readings]
        return self.source.batch([v for _, v, _ in readings], tags=tags, source_times=[t for _, _, t in readings])


@pytest.fixture
def database() -> Database:
    return Database({})


@pytest.fixture
def plant() -> Plant:
    return Plant()


def writing(database: Database, tmp_path: Path, **own: Any) -> WideWriter:
    settings = {"username": SUPERUSER, "password": PASSWORD, "layout": "wide", "table": "signals"} | own
    config = TimescaleConfig.model_validate(
        {"endpoint": database.server.url(database.name), "timeout": 10, "provider_config": settings}
    )
    writer = config.writer(Context("gateway 1", tmp_path))
    assert isinstance(writer, WideWriter)
    return writer


@contextlib.asynccontextmanager
async def opened(database: Database, tmp_path: Path, **own: Any) -> AsyncIterator[WideWriter]:
    writer = writing(database, tmp_path, **own)
    try:
        await writer.open()
        yield writer
    finally:
        await writer.close()


def read(database: Database, *columns: str) -> list[tuple[Any, ...]]:
    micros = "(extract(epoch FROM time) * 1000000)::bigint"
    named = ", ".join(f'"{column}"' for column in columns)
    return database.server.run(f"SELECT {micros}, path, {named} FROM signals ORDER BY 1, 2", database=database.name)


async def refused(writing_it: Any) -> DeliveryError:
    with pytest.raises(DeliveryError) as caught:
        await writing_it
    return caught.value


async def test_signals_of_one_equipment_and_time_share_a_row(database: Database, tmp_path: Path, plant: Plant) -> None:
    batch = plant.batch(
        ("p/press/temp", 21.5, T0), ("p/press/Press Name", "A", T0), ("p/oven/temp", 200, T0), ("p/press/on", True, T0),
        ("p/press/temp", 22, T1), ("alone", 5, T1), ("p/press/raw", b"\0\1", T1), ("p/press/shape", {"a": [1]}, T1),
    )  # fmt: skip
    async with opened(database, tmp_path) as writer:
        assert writer.limits.writes_in_flight == 1
        await writer.write(batch, 1)
    assert read(database, "temp", "Press Name", "on", "raw", "shape", "alone") == [
        (T0, "p/oven", 200.0, None, None, None, None, None),
        (T0, "p/press", 21.5, "A", 1.0, None, None, None),
        (T1, "", None, None, None, None, None, 5.0),
        (T1, "p/press", 22.0, None, None, b"\0\1", '{"a":[1]}', None),
    ]
    assert read(database, "temp_quality", "on_quality") == [
        (T0, "p/oven", "GOOD", None), (T0, "p/press", "GOOD", "GOOD"), (T1, "", None, None), (T1, "p/press", "GOOD", None),
    ]  # fmt: skip


async def test_what_comes_later_fills_the_row_and_what_comes_again_changes_nothing(
    database: Database, tmp_path: Path, plant: Plant
) -> None:
    first = plant.batch(("p/press/temp", 1.0, T0), ("p/press/load", 2.0, T0))
    later = plant.batch(("p/press/speed", 3.0, T0), ("p/press/load", None, T0))
    async with opened(database, tmp_path) as writer:
        await writer.write(first, 1)
        await writer.write(later, 2)
        await writer.write(later, 2)
    async with opened(database, tmp_path) as again:
        await again.write(later, 2)
    assert read(database, "temp", "load", "load_quality", "speed") == [(T0, "p/press", 1.0, None, "BAD", 3.0)]


async def test_of_two_values_at_one_time_the_later_stays(database: Database, tmp_path: Path, plant: Plant) -> None:
    async with opened(database, tmp_path) as writer:
        await writer.write(plant.batch(("p/t", 1.0, T0), ("p/t", 2.0, T0)), 1)
        await writer.write(plant.batch(("p/t", 3.0, T1)), 2)
        await writer.write(plant.batch(("p/t", 4.0, T1)), 3)
    assert read(database, "t") == [(T0, "p", 2.0), (T1, "p", 4.0)]


async def test_numbers_are_exact_or_refused(database: Database, tmp_path: Path, plant: Plant) -> None:
    values: list[Any] = [0.1 + 0.2, math.inf, -0.0, 2**53, -(2**53), 2**53 + 1, -(2**53) - 1, 2**64 - 1, 5e-324]
    batch = plant.batch(*(("p/t", value, T0 + i) for i, value in enumerate(values)))
    async with opened(database, tmp_path) as writer:
        error = await refused(writer.write(batch, 1))
        assert isinstance(error, RejectedRecords)
        assert (error.indices, error.rest_written) == ([5, 6, 7], False)
        rest = [i for i in range(len(values)) if i not in error.indices]
        await writer.write(batch.take(pa.array(rest)), 2)
    assert [repr(value) for _, _, value in read(database, "t")] == [repr(float(values[i])) for i in rest]


async def test_a_value_of_another_kind_than_its_column_is_refused(
    database: Database, tmp_path: Path, plant: Plant
) -> None:
    async with opened(database, tmp_path) as writer:
        await writer.write(plant.batch(("p/t", 1.0, T0)), 1)
        mixed = plant.batch(("p/t", "hot", T0), ("p/t", None, T1), ("q/n", "x", T1), ("q/n", 5, T1), ("p/t", "a\0", T1))
        error = await refused(writer.write(mixed, 2))
        assert isinstance(error, RejectedRecords)
        assert error.indices == [0, 3, 4]
        assert "column t is double precision" in error.reasons[0]
        assert "column n is text" in error.reasons[1]


async def test_names_that_are_no_columns_are_refused(database: Database, tmp_path: Path, plant: Plant) -> None:
    names = ["time", "path", "t_quality", "x" * 56, "ü" * 28, "", "ctid", "a\0"]
    batch = plant.batch(*((f"p/{name}", 1.0, T0) for name in names), ("p\0/t", 1.0, T0), ("p/t", 1.0, T0))
    async with opened(database, tmp_path) as writer:
        error = await refused(writer.write(batch, 1))
        assert isinstance(error, RejectedRecords)
        assert error.indices == list(range(len(names) + 1))
        strange = ['quo"te', "semi;colon'--", "%s", "ü" * 27, "Temp", "temp"]
        await writer.write(plant.batch(*((f"p/{name}", 2.0, T0) for name in strange)), 2)
    columns = database.server.run(
        "SELECT attname FROM pg_attribute WHERE attrelid = 'signals'::regclass AND attnum > 0", database=database.name
    )
    assert {name for (name,) in columns} >= {*strange, *(f"{name}_quality" for name in strange)}
    assert read(database, "Temp", "temp") == [(T0, "p", 2.0, 2.0)]


async def test_a_reading_without_a_value_yet_leaves_its_quality(
    database: Database, tmp_path: Path, plant: Plant
) -> None:
    async with opened(database, tmp_path) as writer:
        await writer.write(plant.batch(("p/t", None, T0)), 1)
        await writer.write(plant.batch(("p/t", 5.5, T1)), 2)
        await writer.write(plant.batch(("p/t", None, None)), 3)
    found = read(database, "t", "t_quality")
    assert found[:2] == [(T0, "p", None, "BAD"), (T1, "p", 5.5, "GOOD")]
    assert found[2][1:] == ("p", None, "BAD")


async def test_gateways_add_columns_together_and_keep_rows_apart(database: Database, tmp_path: Path) -> None:
    plants = [Plant(f"line {i}") for i in range(3)]
    async with contextlib.AsyncExitStack() as stack:
        writers = [await stack.enter_async_context(opened(database, tmp_path)) for _ in plants]
        for turn in range(3):
            await asyncio.gather(
                *(
                    writer.write(plant.batch(*((f"p/s{turn}{i}", float(i), T0) for i in range(5))), turn)
                    for writer, plant in zip(writers, plants, strict=True)
                )
            )
    assert len(read(database, "s00", "s24")) == 3


async def test_without_leave_to_make_columns_the_statement_is_told(
    database: Database, tmp_path: Path, plant: Plant
) -> None:
    async with opened(database, tmp_path):
        pass
    batch = plant.batch(("p/t", 1.0, T0))
    async with opened(database, tmp_path, create="never") as writer:
        error = await refused(writer.write(batch, 1))
    assert isinstance(error, ConfigError)
    database.server.run(str(error).partition("run: ")[2].partition(", or set")[0], database=database.name)
    async with opened(database, tmp_path, create="never") as writer:
        await writer.write(batch, 1)
    assert read(database, "t") == [(T0, "p", 1.0)]


async def test_a_column_that_cannot_hold_its_signal_stops_the_target_and_loses_nothing(
    database: Database, tmp_path: Path, plant: Plant
) -> None:
    async with opened(database, tmp_path) as writer:
        await writer.write(plant.batch(("p/other", 1.0, T0)), 1)
    database.server.run("ALTER TABLE signals ADD COLUMN t integer", database=database.name)
    batch = plant.batch(("p/t", 1.0, T0))
    async with opened(database, tmp_path) as writer:
        error = await refused(writer.write(batch, 1))
        assert isinstance(error, ConfigError)
        assert "column t is integer, signals need double precision" in str(error)
        database.server.run("ALTER TABLE signals DROP COLUMN t", database=database.name)
    async with opened(database, tmp_path) as writer:
        await writer.write(batch, 1)
        database.server.run("ALTER TABLE signals DROP COLUMN t", database=database.name)
        assert isinstance(await refused(writer.write(batch, 1)), ConfigError)
        await writer.close()
        await writer.open()
        await writer.write(batch, 1)
    assert read(database, "t") == [(T0, "p", 1.0)]


async def test_more_signals_than_a_table_can_have_stop_the_target(
    database: Database, tmp_path: Path, plant: Plant
) -> None:
    async with opened(database, tmp_path) as writer:
        batch = plant.batch(*((f"p/signal {i}", 1.0, T0) for i in range(900)))
        error = await refused(writer.write(batch, 1))
    assert isinstance(error, ConfigError)
    assert "layout: narrow" in str(error)


async def test_a_wide_table_is_not_taken_for_a_narrow_one(database: Database, tmp_path: Path) -> None:
    async with opened(database, tmp_path):
        pass
    own = {"username": SUPERUSER, "password": PASSWORD, "table": "signals"}
    narrow = TimescaleConfig.model_validate({"endpoint": database.server.url(database.name), "provider_config": own})
    writer = narrow.writer(Context("gateway 1", tmp_path))
    error = await refused(writer.open())
    assert isinstance(error, ConfigError)
    assert "it lacks value, value_int" in str(error)
    await writer.close()
