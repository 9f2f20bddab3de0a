"""What a data engineer who owns the tables relies on: which partition a reading goes to, and that columns are never lost."""

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable, Schema

from connectors.contract import ConfigError
from connectors.targets.delta import DeltaWriter
from connectors.wire.lakehouse import unstored
from connectors.wire.protobuf import reading_columns
from normalization.reading import TABLE
from tests.connectors.targets.delta_writers import MakeWriter, writers
from tests.connectors.targets.zerobus_emulator import Emulator
from tests.connectors.targets.zerobus_emulator import writer as zerobus_writer
from tests.contract.readings import BASE_TIME, Source

RECEIVED = datetime.fromtimestamp((BASE_TIME + 10**9) / 1e6, UTC).date()
LONG_AGO = int(datetime(2019, 3, 1, tzinfo=UTC).timestamp() * 1e6)


@pytest.fixture
def make(tmp_path: Path) -> MakeWriter:
    return writers(tmp_path)


@pytest.fixture
def source() -> Source:
    return Source()


def found(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = DeltaTable(folder / "delta" / "readings").to_pyarrow_table().to_pylist()
    return sorted(rows, key=lambda row: row["sequence"])


# ---------------------------------------------------------------------- late readings


@pytest.mark.parametrize(
    ("partition_time", "dates"),
    [("source_time", [date(2019, 3, 1), RECEIVED, RECEIVED]), ("received_time", [RECEIVED] * 3)],
)
async def test_a_late_reading_goes_to_the_partition_of_the_time_that_is_chosen(
    make: MakeWriter, source: Source, tmp_path: Path, partition_time: str, dates: list[date]
) -> None:
    writer = make(partition_time=partition_time)
    await writer.open()
    await writer.write(source.batch([1.0, 2.0, 3.0], source_times=[LONG_AGO, BASE_TIME, None]), 1)
    await writer.close()
    assert [row["date"] for row in found(tmp_path)] == dates
    assert [row["source_time"] and row["source_time"].year for row in found(tmp_path)] == [2019, 2026, None]


@pytest.mark.parametrize("partition_time", ["source_time", "received_time"])
def test_zerobus_puts_it_into_the_same_partition(source: Source, partition_time: str) -> None:
    batch = source.batch([1.0, 2.0], source_times=[LONG_AGO, None])
    dates = reading_columns(batch, partition_time)["date"].to_pylist()
    assert dates == [date(2019, 3, 1) if partition_time == "source_time" else RECEIVED, RECEIVED]


async def test_late_readings_are_merged_into_the_files_of_their_old_partition(
    make: MakeWriter, source: Source, tmp_path: Path
) -> None:
    writer = make(compact_every=4)
    await writer.open()
    for unit in range(1, 5):
        await writer.write(source.batch([1.0], source_times=[LONG_AGO + unit]), unit)
    if writer._tidying is not None:
        await writer._tidying
    await writer.close()
    assert len(DeltaTable(tmp_path / "delta" / "readings").file_uris()) == 1
    assert len(found(tmp_path)) == 4


# ---------------------------------------------------------------------- columns that a table lacks


def table_without(folder: Path, *names: str) -> None:
    older = pa.schema([field for field in TABLE if field.name not in names])
    DeltaTable.create(folder / "delta" / "readings", Schema.from_arrow(older), partition_by=["date"])


async def test_readings_wait_for_a_column_that_is_to_be_reviewed_and_the_statement_is_said(
    make: MakeWriter, source: Source, tmp_path: Path
) -> None:
    table_without(tmp_path, "unit", "properties")
    writer: DeltaWriter = make(schema_evolution="review")
    await writer.open()
    batch = source.batch([1.0, 2.0])
    with pytest.raises(ConfigError) as caught:
        await writer.write(batch, 1)
    said = str(caught.value)
    assert "`unit` (2 of 2)" in said
    assert "ADD COLUMNS (`unit` STRING COMMENT 'engineering unit of the value')" in said
    assert "properties" not in said  # no reading has any
    (finding,) = await writer.check()
    assert (finding.ok, "lacks unit, properties" in finding.detail) == (False, True)
    assert found(tmp_path) == []

    DeltaTable(tmp_path / "delta" / "readings").alter.add_columns(
        Schema.from_arrow(pa.schema([TABLE.field("unit")])).fields
    )
    await writer.open()  # as the forwarder does
    await writer.write(batch, 1)
    await writer.close()
    assert [row["unit"] for row in found(tmp_path)] == ["°C", "°C"]
    assert "properties" not in DeltaTable(tmp_path / "delta" / "readings").to_pyarrow_table().column_names


async def test_a_table_that_is_not_reviewed_gets_the_column(make: MakeWriter, source: Source, tmp_path: Path) -> None:
    table_without(tmp_path, "unit")
    writer = make()
    await writer.open()
    await writer.write(source.batch([1.0]), 1)
    await writer.close()
    assert [row["unit"] for row in found(tmp_path)] == ["°C"]


@pytest.fixture
def lacking(emulator: Emulator) -> str:
    return emulator.create(drop=("unit", "properties"))


async def test_zerobus_waits_for_a_column_too(emulator: Emulator, lacking: str, source: Source) -> None:
    writer = zerobus_writer(emulator, lacking)
    await writer.open()
    batch = source.batch([1.0, 2.0, 3.0])
    with pytest.raises(ConfigError, match=r"`unit` \(3 of 3\).*ADD COLUMNS \(`unit` STRING"):
        await writer.write(batch, 1)
    assert emulator.rows(lacking).num_rows == 0
    emulator.call("PATCH", f"/tables/{lacking}", {"add": [{"name": "unit", "type_text": "string"}]})
    await writer.close()
    await writer.open()
    await writer.write(batch, 1)
    await writer.close()
    assert emulator.rows(lacking).column("unit").to_pylist() == ["°C"] * 3


async def test_zerobus_leaves_out_what_it_is_told_to(emulator: Emulator, lacking: str, source: Source) -> None:
    writer = zerobus_writer(emulator, lacking, schema_evolution="leave_out")
    await writer.open()
    await writer.write(source.batch([1.0]), 1)
    findings = await writer.check()
    await writer.close()
    assert emulator.rows(lacking).num_rows == 1
    assert [(one.ok, "these are not stored" in one.detail) for one in findings if one.subject == "columns"] == [
        (True, True)
    ]


def test_nothing_is_lost_with_what_says_nothing() -> None:
    values = {
        "unit": pa.array(["", None, "°C"]),
        "metadata": pa.array(["{}", '{"a":1}', "{}"]).dictionary_encode(),
        "flags": pa.array([0, 4, 0], pa.int32()),
        "date": pa.array([date(2026, 1, 1)] * 3),
        "value": pa.array([None, 0.0, None]),
        "status": pa.nulls(3, pa.int64()),
    }
    assert unstored(values, values) == {"unit": 1, "metadata": 1, "flags": 1, "value": 1}
