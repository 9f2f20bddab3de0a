"""The layout `wide` of Delta and ZeroBus: columns that come, that do not fit and that are reviewed; nothing lost, nothing twice."""

import asyncio
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable, Schema

from bifrost.signals import known
from config.loader import load
from connectors.contract import ConfigError, Context, DeliveryError, RejectedRecords
from connectors.sources.modbus import ModbusConfig
from connectors.targets.delta import DeltaConfig, DeltaWriter
from connectors.targets.zerobus import ddl
from connectors.targets.zerobus.schema import TableColumn, plan
from connectors.targets.zerobus.writer import ZeroBusWriter
from connectors.wire import wide_tables
from connectors.wire.wide_tables import WIDE
from normalization.normalizer import normalize_tag
from normalization.reading import TABLE
from tests.connectors.targets.delta_writers import MakeWriter, deliver, writers
from tests.connectors.targets.zerobus_emulator import Emulator, names
from tests.connectors.targets.zerobus_emulator import writer as zerobus_writer
from tests.contract.readings import BASE_TIME, Source

T0, T1 = BASE_TIME, BASE_TIME + 1_000_000
Reading = tuple[str, Any, int | None]


class Plant:
    """Readings of signals, each under its path."""

    def __init__(self, gateway: str = "line 1") -> None:
        self.source = Source(gateway)

    def batch(self, *readings: Reading, source: str = "plc") -> pa.RecordBatch:
        return self.of([source] * len(readings), *readings)

    def of(self, sources: list[str], *readings: Reading) -> pa.RecordBatch:
        paths = zip(sources, readings, strict=True)
        tags = [self.source.tag(0, path=path, source=source) for source, (path, _, _) in paths]
        return self.source.batch([v for _, v, _ in readings], tags=tags, source_times=[t for _, _, t in readings])


@pytest.fixture
def plant() -> Plant:
    return Plant()


@pytest.fixture
def make(tmp_path: Path) -> MakeWriter:
    plain = writers(tmp_path)
    return lambda **settings: plain(**{"layout": "wide", "table": "signals"} | settings)


def read(folder: Path, *columns: str, table: str = "signals") -> list[tuple[Any, ...]]:
    """Rows with the time, the path and some columns, the time as a number of seconds after T0."""
    found = DeltaTable(folder / "delta" / table).to_pyarrow_table()
    return sorted(tuples(found, *columns), key=repr)


def tuples(found: pa.Table, *columns: str) -> list[tuple[Any, ...]]:
    times = [(time - T0) // 1_000_000 for time in found.column("time").cast(pa.int64()).to_pylist()]
    return list(zip(times, *(found.column(name).to_pylist() for name in ("path", *columns)), strict=True))


async def refused(writing: Any) -> DeliveryError:
    with pytest.raises(DeliveryError) as caught:
        await writing
    return caught.value


# ---------------------------------------------------------------------- Delta


async def test_signals_of_one_equipment_and_time_share_a_row(make: MakeWriter, tmp_path: Path, plant: Plant) -> None:
    writer = make()
    await writer.open()
    await writer.write(
        plant.batch(
            ("p/press/temp", 21.5, T0), ("p/press/Press Name", "A", T0), ("p/oven/temp", 200, T0), ("p/press/on", True, T0),
            ("p/press/temp", 22, T1), ("alone", 5, T1), ("p/press/raw", b"\0\1", T1), ("p/press/shape", {"a": [1]}, T1),
        ),
        1,
    )  # fmt: skip
    await writer.close()
    assert read(tmp_path, "temp", "press_name", "on", "raw", "shape", "alone") == [
        (0, "p/oven", 200.0, None, None, None, None, None),
        (0, "p/press", 21.5, "A", 1.0, None, None, None),
        (1, "", None, None, None, None, None, 5.0),
        (1, "p/press", 22.0, None, None, b"\0\1", '{"a":[1]}', None),
    ]
    assert read(tmp_path, "temp_quality", "on_quality") == [
        (0, "p/oven", "GOOD", None), (0, "p/press", "GOOD", "GOOD"), (1, "", None, None), (1, "p/press", "GOOD", None),
    ]  # fmt: skip
    table = DeltaTable(tmp_path / "delta" / "signals")
    assert table.metadata().partition_columns == ["date"]
    assert {field.name: field.nullable for field in table.schema().fields if not field.nullable} == dict.fromkeys(
        WIDE.names, False
    )


async def test_units_fill_rows_of_their_own_and_a_unit_that_is_sent_again_adds_none(
    make: MakeWriter, tmp_path: Path, plant: Plant
) -> None:
    first = plant.batch(("p/temp", 1.0, T0), ("p/load", None, T0), ("p/temp", 2.0, T0))
    later = plant.batch(("p/speed", 3.0, T0))
    for units in ([(first, 1), (first, 1), (later, 2)], [(later, 2)]):
        writer = make()
        await writer.open()
        for batch, number in units:
            await writer.write(batch, number)
        await writer.close()
    with pytest.raises(KeyError):
        read(tmp_path, "load")  # of which no value was ever seen
    assert read(tmp_path, "temp", "load_quality", "speed", "sequence") == [
        (0, "p", 1.0, "BAD", None, 0),
        (0, "p", 2.0, None, None, 2),
        (0, "p", None, None, 3.0, 3),
    ]


async def test_a_value_of_another_kind_than_its_column_is_refused_and_the_rest_is_written(
    make: MakeWriter, tmp_path: Path, plant: Plant
) -> None:
    writer = make()
    await writer.open()
    await writer.write(plant.batch(("p/t", 1.0, T0)), 1)
    mixed = plant.batch(("p/t", "hot", T1), ("p/n", 2**53 + 1, T1), ("p/sequence", 1.0, T1), ("p/n", 2**53, T1))
    error = await refused(writer.write(mixed, 2))
    assert isinstance(error, RejectedRecords)
    assert (error.indices, error.rest_written) == ([0, 1, 2], False)
    assert [reason.split(",")[0] for reason in error.reasons] == [
        "column t is double",
        "it is an integer that a column of double cannot hold exactly",
        "the last place of its path",
    ]
    await writer.write(mixed.slice(3), 3)
    await writer.close()
    assert read(tmp_path, "t", "n") == [(0, "p", 1.0, None), (1, "p", None, float(2**53))]


async def test_of_a_unit_for_several_tables_the_right_readings_are_refused_before_any_is_written(
    make: MakeWriter, tmp_path: Path, plant: Plant
) -> None:
    writer = make(per="source")
    await writer.open()
    await writer.write(plant.batch(("p/t", 1.0, T0), source="b"), 1)
    sources = ["a", "b", "a", "b"]
    unit = plant.of(sources, ("p/t", "x", T1), ("p/n", 1.0, T1), ("p/n", "y", T1), ("p/t", "z", T1))
    error = await refused(writer.write(unit, 2))
    assert isinstance(error, RejectedRecords)
    assert error.indices == [3]
    assert read(tmp_path, table="signals_a") == []
    await writer.write(unit.slice(0, 3), 3)
    assert read(tmp_path, "t", "n", table="signals_a") == [(1, "p", "x", "y")]

    # one table has its part already: a rejection would send that part again under another number
    half = plant.of(["a"], ("p/t", "again", T1))
    await writer.write(half, 4)
    whole = pa.concat_batches([half, plant.of(["b"], ("p/t", "no number", T1))])
    error = await refused(writer.write(whole, 4))
    assert isinstance(error, ConfigError)
    assert "a part of the same unit is written already" in str(error)
    await writer.close()
    assert len(read(tmp_path, table="signals_a")) == 2


async def test_new_signals_wait_where_columns_are_reviewed_and_the_statement_is_said(
    make: MakeWriter, tmp_path: Path, plant: Plant
) -> None:
    writer: DeltaWriter = make(schema_evolution="review")
    await writer.open()
    batch = plant.batch(("p/Temp 1", 1.0, T0), ("p/name", "A", T0), ("p/Temp 1", 2.0, T1))
    error = await refused(writer.write(batch, 1))
    assert isinstance(error, ConfigError)
    assert "`temp_1` (2 of 3)" in str(error)
    assert "ADD COLUMNS (`temp_1` DOUBLE COMMENT 'the signal temp_1', `temp_1_quality` STRING COMMENT" in str(error)
    assert read(tmp_path) == []
    kinds = {"DOUBLE": pa.float64(), "STRING": pa.string()}
    added = [pa.field(name, kinds[kind]) for name, kind in re.findall(r"`(\w+)` ([A-Z]+) COMMENT", str(error))]
    DeltaTable(tmp_path / "delta" / "signals").alter.add_columns(Schema.from_arrow(pa.schema(added)).fields)
    await writer.open()
    await writer.write(batch, 1)
    assert [finding.ok for finding in await writer.check()] == [True]
    await writer.close()
    assert read(tmp_path, "temp_1", "name") == [(0, "p", 1.0, "A"), (1, "p", 2.0, None)]


@pytest.mark.parametrize(
    ("column", "said"),
    [
        (pa.field("t", pa.int32()), "column t is integer, signals need double or string or binary"),
        (pa.field("t_quality", pa.int32()), "column t_quality is integer, signals need string"),
        (pa.field("T", pa.float64()), "column T must be spelt t"),
    ],
    ids=lambda value: value.name if isinstance(value, pa.Field) else "",
)
async def test_a_column_that_cannot_hold_its_signal_stops_the_target_and_loses_nothing(
    make: MakeWriter, tmp_path: Path, plant: Plant, column: pa.Field, said: str
) -> None:
    uri = tmp_path / "delta" / "signals"
    DeltaTable.create(uri, Schema.from_arrow(pa.schema([*WIDE, column])), partition_by=["date"])
    writer = make()
    await writer.open()
    error = await refused(writer.write(plant.batch(("p/t", 1.0, T0)), 1))
    assert isinstance(error, ConfigError)
    assert said in str(error)
    await writer.write(plant.batch(("p/other", 1.0, T0)), 2)
    await writer.close()
    assert read(tmp_path, "other") == [(0, "p", 1.0)]


@pytest.mark.parametrize(("layout", "columns"), [("wide", TABLE), ("narrow", WIDE)])
async def test_a_table_of_one_layout_is_not_taken_for_the_other(
    make: MakeWriter, tmp_path: Path, layout: str, columns: pa.Schema
) -> None:
    DeltaTable.create(tmp_path / "delta" / "signals", Schema.from_arrow(columns), partition_by=["date"])
    error = await refused(make(layout=layout).open())
    assert isinstance(error, ConfigError)
    assert "is NOT NULL and readings do not have it" in str(error)


async def test_gateways_add_columns_together_and_keep_their_rows_apart(tmp_path: Path) -> None:
    plants = [Plant(f"line {number}") for number in range(3)]
    config = DeltaConfig(endpoint=str(tmp_path / "delta"), table="signals", layout="wide")
    made = [config.writer(Context(plant.source.gateway, tmp_path / plant.source.gateway)) for plant in plants]
    for writer, plant in zip(made, plants, strict=True):
        (tmp_path / plant.source.gateway).mkdir()
        await writer.open()
    for turn in range(1, 4):
        units = [plant.batch(*((f"p/s{turn}{i}", float(i), T0) for i in range(4))) for plant in plants]
        await asyncio.gather(*(deliver(writer, unit, turn) for writer, unit in zip(made, units, strict=True)))
    for writer in made:
        await writer.close()
    found = read(tmp_path, "gateway", "s10", "s33")
    assert Counter(gateway for _, _, gateway, _, _ in found) == {plant.source.gateway: 3 for plant in plants}
    assert sum(row[4] == 3.0 for row in found) == 3


async def test_small_files_of_other_columns_are_merged(make: MakeWriter, tmp_path: Path, plant: Plant) -> None:
    writer: DeltaWriter = make(compact_every=4)
    await writer.open()
    for unit in range(1, 5):
        await writer.write(plant.batch((f"p/s{unit}", float(unit), T0), ("p/text", "x", T0)), unit)
    if writer._tidying is not None:
        await writer._tidying
    await writer.write(plant.batch(("p/s5", 5.0, T1)), 5)
    await writer.close()
    assert len(DeltaTable(tmp_path / "delta" / "signals").file_uris()) == 2
    assert read(tmp_path, "s1", "s4", "s5", "text") == [
        (0, "p", 1.0, None, None, "x"), (0, "p", None, 4.0, None, "x"), (0, "p", None, None, None, "x"),
        (0, "p", None, None, None, "x"), (1, "p", None, None, 5.0, None),
    ]  # fmt: skip


async def test_rows_can_be_of_the_time_of_receiving_and_tags_are_kept_beside_them(
    make: MakeWriter, tmp_path: Path, plant: Plant
) -> None:
    writer = make(partition_time="received_time", tags_table="tags")
    await writer.open()
    await writer.write(plant.batch(("p/t", 1.0, T0), ("p/n", 2.0, T1), ("p/m", 3.0, None)), 1)
    await writer.close()
    assert read(tmp_path, "t", "n", "m") == [(1000, "p", 1.0, 2.0, 3.0)]
    assert DeltaTable(tmp_path / "delta" / "tags").to_pyarrow_table().num_rows == 3


EXAMPLE = Path(__file__).parents[3] / "config" / "examples" / "lakehouse_wide.yaml"


async def test_the_example_makes_a_row_per_machine_with_the_columns_that_its_ddl_says(tmp_path: Path) -> None:
    config = load(EXAMPLE)
    (target,), (press,) = config.targets.values(), config.sources
    assert isinstance(target, DeltaConfig)
    assert isinstance(press, ModbusConfig)
    plant = Source()
    tags = [plant.tags.intern(normalize_tag(tag, config.path_template)) for tag in press.tag_rows()]
    writer = target.model_copy(update={"endpoint": str(tmp_path / "delta")}).writer(Context("g", tmp_path))
    await writer.open()
    await writer.write(plant.batch([61.5, 7, "A4"], tags=tags, source_times=[T0] * 3), 1)
    await writer.close()
    found = read(tmp_path, "oil_temp", "stroke_count", "recipe", table="machines")
    assert found == [(0, "plant1/pressing/line2/press4", 61.5, 7.0, "A4")]
    columns = DeltaTable(tmp_path / "delta" / "machines").schema().fields
    declared = wide_tables.table_of(known(config))
    assert {field.name: field.type.type for field in columns if field.name not in WIDE.names} == {
        field.name: str(field.type) for field in declared if field.name not in WIDE.names
    }


# ---------------------------------------------------------------------- ZeroBus


def wide(emulator: Emulator, signals: dict[str, str], **settings: Any) -> tuple[str, ZeroBusWriter]:
    """A table with these signals, and its writer."""
    name = next(names)
    emulator.call("POST", "/tables", {"name": name, "ddl": ddl(name, signals=signals).split(";\n")[0] + ";"})
    return name, zerobus_writer(emulator, name, layout="wide", **settings)


@pytest.mark.parametrize("record_format", ["protobuf", "arrow"])
async def test_zerobus_fills_rows_and_waits_for_the_columns_of_new_signals(
    emulator: Emulator, plant: Plant, record_format: str
) -> None:
    name, writer = wide(emulator, {"temp": "double", "name": "string", "raw": "binary"}, record_format=record_format)
    await writer.open()
    await writer.write(
        plant.batch(("p/Temp", 1.0, T0), ("p/name", "A", T0), ("q/raw", b"\0", T1), ("q/temp", None, T1)), 1
    )
    batch = plant.batch(("p/load", 5, T1), ("p/Temp", 2.0, T1))
    error = await refused(writer.write(batch, 2))
    assert isinstance(error, ConfigError)
    assert "`load` (1 of 2)" in str(error)
    added = [{"name": n, "type_text": t.lower()} for n, t in re.findall(r"`(\w+)` ([A-Z]+) COMMENT", str(error))]
    assert [one["name"] for one in added] == ["load", "load_quality"]
    emulator.call("PATCH", f"/tables/{name}", {"add": added})
    await writer.close()
    await writer.open()
    await writer.write(batch, 2)
    assert [finding for finding in await writer.check() if not finding.ok and finding.subject != "encryption"] == []
    await writer.close()
    assert sorted(tuples(emulator.rows(name), "temp", "temp_quality", "name", "raw", "load"), key=repr) == [
        (0, "p", 1.0, "GOOD", "A", None, None), (1, "p", 2.0, "GOOD", None, None, 5.0), (1, "q", None, "BAD", None, b"\0", None),
    ]  # fmt: skip


async def test_zerobus_leaves_out_signals_that_it_is_told_to_and_refuses_what_fits_no_column(
    emulator: Emulator, plant: Plant
) -> None:
    name, writer = wide(emulator, {"temp": "double"}, schema_evolution="leave_out")
    await writer.open()
    batch = plant.batch(("p/temp", 1.0, T0), ("p/new", 1.0, T0), ("q/new", "only", T0), ("q/temp", "x", T0))
    error = await refused(writer.write(batch, 1))
    assert isinstance(error, RejectedRecords)
    assert (error.indices, error.rest_written) == ([3], False)
    await writer.write(batch.slice(0, 3), 2)
    await writer.write(batch.slice(2, 1), 3)
    await writer.close()
    found = emulator.rows(name)
    assert tuples(found, "temp") == [(0, "p", 1.0)]
    assert "new" not in found.column_names


async def test_a_row_that_is_too_large_for_zerobus_is_refused_with_all_of_its_readings(
    emulator: Emulator, plant: Plant
) -> None:
    name, writer = wide(emulator, {"a": "string", "b": "double"})
    await writer.open()
    batch = plant.batch(("p/b", 1.0, T0), ("p/a", "x" * 11_000_000, T1), ("p/b", 2.0, T1))
    error = await refused(writer.write(batch, 1))
    assert isinstance(error, RejectedRecords)
    assert (error.indices, error.rest_written) == ([1, 2], False)
    await writer.write(batch.slice(0, 1), 2)
    await writer.close()
    assert tuples(emulator.rows(name), "a", "b") == [(0, "p", None, 1.0)]


async def test_a_stream_that_ends_within_a_unit_costs_repetitions_and_no_reading(
    emulator: Emulator, plant: Plant
) -> None:
    name, writer = wide(emulator, {"a": "string"})
    emulator.faults(rotate_after_requests=2, rotate_grace_ms=50)
    await writer.open()
    batch = plant.batch(*((f"p{number}/a", str(number) * 4_000_000, T0) for number in range(5)))
    async with asyncio.timeout(60):
        while True:
            try:
                await writer.write(batch, 1)
                break
            except DeliveryError:
                emulator.faults(rotate_after_requests=None)
                await writer.open()
    emulator.faults(rotate_after_requests=None)
    await writer.close()
    rows = Counter(tuples(emulator.rows(name).select(["time", "path", "sequence"]), "sequence"))
    assert set(rows) == {(0, f"p{number}", number) for number in range(5)}


def test_the_plan_of_a_wide_table_sends_what_can_be_a_signals_column() -> None:
    base = [TableColumn(field.name, "string", field.nullable) for field in WIDE]
    kinds = {"date": "date", "time": "timestamp", "received_time": "timestamp_ntz", "sequence": "bigint"}
    base = [TableColumn(c.name, kinds.get(c.name, c.type), c.nullable) for c in base]
    more = [
        TableColumn("Temp", "double", True), TableColumn("temp_quality", "varchar(20)", True), TableColumn("n", "int", True),
        TableColumn("must", "double", False),
    ]  # fmt: skip
    found = plan([*base, *more], "wide")
    assert [column.name for column in found.columns] == [*WIDE.names, "temp", "temp_quality"]
    assert found.not_ours == ("n",)
    assert len(found.problems) == 1
    assert "column `must` is NOT NULL and readings do not have it" in found.problems[0]
    assert plan(base[:-1], "wide").left_out == ("sequence",)
