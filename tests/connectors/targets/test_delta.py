"""The Delta target beyond the writers' contract: exactly once under kills, mending, merging, errors."""

import asyncio
import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import CommitProperties, DeltaTable, Schema, Transaction, write_deltalake
from deltalake.exceptions import CommitFailedError

from connectors.contract import ConfigError, Context, RejectedRecords, TransientError
from connectors.targets.delta import DeltaConfig
from connectors.targets.delta_log import mend
from connectors.targets.delta_table import Standing, misfits, split, standing, table_name
from connectors.wire.rows import fingerprint
from normalization.reading import TABLE
from tests.connectors.targets.delta_writers import MakeWriter, deliver, read, writers
from tests.contract.readings import Source, rows, table_rows


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def make(tmp_path: Path) -> MakeWriter:
    return writers(tmp_path)


# exactly once


@pytest.mark.parametrize(
    ("number", "mark", "unit", "readings", "expected"),
    [
        (None, None, 1, 77, Standing.NEW),
        (4, 70, 5, 77, Standing.NEW),
        (4, 77, 9, 77, Standing.NEW),
        (5, 77, 5, 77, Standing.TAKEN),
        (5, 70, 5, 77, Standing.FOREIGN),
        (5, None, 5, 77, Standing.FOREIGN),
        (6, 77, 5, 77, Standing.FOREIGN),
    ],
)
def test_a_unit_is_taken_only_by_its_number_and_its_readings(
    number: int | None, mark: int | None, unit: int, readings: int, expected: Standing
) -> None:
    assert standing(number, mark, unit, readings) is expected


@pytest.mark.kill
def test_no_row_is_twice_or_missing_after_twenty_kills(tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    command = [sys.executable, "-m", "tests.connectors.targets.delta_killed", str(folder), "20"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["last_exit"] == 0
    assert result["kills"] >= 20
    assert result["sent_again_though_there"] >= 3  # else the kills fell between commits and proved nothing
    found: Counter[tuple[int, float]] = Counter()
    for place in (folder / "delta").glob("readings_*"):
        rows_ = DeltaTable(place).to_pyarrow_table(columns=["sequence", "value"]).to_pylist()
        found.update((row["sequence"], row["value"]) for row in rows_)
    expected = Counter((unit * 40 + row, float(unit)) for unit in range(1, result["units"] + 1) for row in range(40))
    assert found == expected


async def test_two_commits_of_one_unit_at_the_same_time_leave_it_once(
    make: MakeWriter, source: Source, tmp_path: Path
) -> None:
    first, second = make(), make()
    await first.open()
    await second.open()
    for unit in range(1, 6):
        batch = source.batch([float(unit)] * 3)
        results = await asyncio.gather(first.write(batch, unit), second.write(batch, unit), return_exceptions=True)
        assert all(result is None or isinstance(result, TransientError) for result in results)
        assert None in results
    await first.close()
    await second.close()
    assert read(tmp_path / "delta" / "readings") == {float(unit): 3 for unit in range(1, 6)}


def test_delta_refuses_a_commit_that_did_not_see_the_last_one_of_its_application(tmp_path: Path) -> None:
    """The library's promise that the writer stands on."""
    DeltaTable.create(tmp_path / "t", Schema.from_arrow(pa.schema([("x", pa.int64())])))
    one, two = DeltaTable(tmp_path / "t"), DeltaTable(tmp_path / "t")
    data = pa.table({"x": [1]})
    mark = CommitProperties(app_transactions=[Transaction("app", 1)])
    write_deltalake(one, data, mode="append", commit_properties=mark)
    with pytest.raises(CommitFailedError, match="Concurrent transaction"):
        write_deltalake(two, data, mode="append", commit_properties=mark)
    two.update_incremental()
    assert two.transaction_version("app") == 1


async def test_the_application_id_is_kept_between_runs_and_renewed_when_the_table_is_ahead(
    make: MakeWriter, source: Source, tmp_path: Path
) -> None:
    file = tmp_path / "context" / "app_id"
    writer = make()
    await writer.open()
    before = file.read_text()
    await writer.write(source.batch([1.0]), 7)
    await writer.close()
    again = make()
    await again.open()
    assert file.read_text() == before
    await again.write(source.batch([2.0]), 3)
    assert file.read_text() != before
    await again.write(source.batch([3.0]), 4)
    await again.close()
    assert read(tmp_path / "delta" / "readings") == {1.0: 1, 2.0: 1, 3.0: 1}


async def test_a_target_with_an_older_copy_of_its_folder_loses_nothing(
    make: MakeWriter, source: Source, tmp_path: Path
) -> None:
    """A restored backup: the application id is the old one, and the numbers lag behind the table's."""
    writer = make(per="source")
    await writer.open()
    await writer.write(source.batch([1.0] * 4), 1)
    shutil.copytree(tmp_path / "context", tmp_path / "backup")
    for unit in range(2, 6):
        await writer.write(source.batch([float(unit)] * 4), unit)
    await writer.close()
    shutil.rmtree(tmp_path / "context")
    (tmp_path / "backup").rename(tmp_path / "context")
    restored = make(per="source")
    await restored.open()
    for unit in range(2, 8):
        await restored.write(source.batch([100.0 + unit] * 4), unit)
    await restored.close()
    found = read(tmp_path / "delta" / "readings_plc0") + read(tmp_path / "delta" / "readings_plc1")
    assert found == {float(u): 4 for u in range(1, 6)} | {100.0 + u: 4 for u in range(2, 8)}


async def test_a_unit_of_several_tables_of_which_one_has_it_is_completed(
    make: MakeWriter, source: Source, tmp_path: Path
) -> None:
    writer = make(per="source")
    await writer.open()
    await writer.write(source.batch([1.0] * 4), 1)
    batch = source.batch([2.0] * 4)
    parts = split(batch, "readings")
    await writer.write(parts["readings_plc0"], 2)  # as far as a crash between the two commits came
    await writer.close()
    again = make(per="source")
    await again.open()
    await again.write(batch, 2)
    await again.close()
    assert read(tmp_path / "delta" / "readings_plc0") == {1.0: 2, 2.0: 2}
    assert read(tmp_path / "delta" / "readings_plc1") == {1.0: 2, 2.0: 2}


# fingerprints


def test_a_fingerprint_is_of_the_readings_and_not_of_their_order_or_encoding(source: Source) -> None:
    batch = source.batch([float(i) for i in range(50)])
    shuffled = batch.take(pa.array(list(range(49, -1, -1))))
    assert fingerprint(shuffled) == fingerprint(batch)
    position = batch.schema.get_field_index("shard")
    other_codes = pa.DictionaryArray.from_arrays(pa.array([2] * 50, pa.int32()), pa.array(["x", "y", source.shard]))
    recoded = batch.set_column(position, batch.schema.field(position), other_codes)
    assert fingerprint(recoded) == fingerprint(batch)
    assert 0 <= fingerprint(batch) < 2**63


def test_other_readings_have_another_fingerprint(source: Source) -> None:
    batch = source.batch([1.0] * 20)
    marks = {fingerprint(batch), fingerprint(batch.slice(0, 19)), fingerprint(batch.slice(1)), fingerprint(batch[:0])}
    other = [Source("gateway 2"), Source(shard="modbus-0-other")]
    marks |= {fingerprint(one.batch([1.0] * 20)) for one in other}
    assert len(marks) == 6


# tables


async def test_the_table_has_the_schema_of_readings_with_comments_and_is_partitioned_by_date(
    make: MakeWriter, source: Source, tmp_path: Path
) -> None:
    writer = make()
    await writer.open()
    await writer.write(source.samples(), 1)
    await writer.close()
    table = DeltaTable(tmp_path / "delta" / "readings")
    assert [field.name for field in table.schema().fields] == TABLE.names
    comments = {field.name: field.metadata["comment"] for field in table.schema().fields}
    assert comments == {field.name: field.metadata[b"comment"].decode() for field in TABLE}
    assert [field.nullable for field in table.schema().fields] == [field.nullable for field in TABLE]
    assert table.metadata().partition_columns == ["date"]


async def test_a_table_per_source_holds_the_readings_of_its_source_alone(
    make: MakeWriter, source: Source, tmp_path: Path
) -> None:
    tags = [source.tag(0, source="line 1/oven"), source.tag(1, source="../escape"), source.tag(2, source="plain")]
    writer = make(per="source")
    await writer.open()
    await writer.write(source.batch([1.0, 2.0, 3.0, 4.0], tags=[*tags, tags[0]]), 1)
    await writer.close()
    found = {p.name: dict(read(p)) for p in (tmp_path / "delta").iterdir()}
    assert found == {
        "readings_line~201~2foven": {1.0: 1, 4.0: 1},
        "readings_..~2fescape": {2.0: 1},
        "readings_plain": {3.0: 1},
    }


async def test_targets_with_a_table_each_and_targets_with_one_table_do_not_disturb_each_other(
    source: Source, tmp_path: Path
) -> None:
    """A table per rule: each rule names its target; all number their units from 1."""
    for target, name, value in (("hot", "hot", 1.0), ("all", "all", 2.0), ("more", "all", 3.0)):
        config = DeltaConfig.model_validate({"endpoint": str(tmp_path / "delta"), "table": name})
        writer = config.writer(Context("gateway 1", tmp_path / target))
        await writer.open()
        await writer.write(source.batch([value]), 1)
        await writer.close()
    assert read(tmp_path / "delta" / "hot") == {1.0: 1}
    assert read(tmp_path / "delta" / "all") == {2.0: 1, 3.0: 1}


def test_a_commit_waits_some_seconds_for_readings_unless_told_otherwise(make: MakeWriter) -> None:
    assert make().limits.linger == 2.0
    assert make(flush_interval="5s").limits.linger == 5.0


def test_names_of_tables_never_clash() -> None:
    assert len({table_name("t", source) for source in ("a/b", "a~2fb", "a b", "a_b", "a.b", "A/b")}) == 6


async def test_a_table_that_lacks_a_column_gets_it_and_one_that_has_more_keeps_it(
    make: MakeWriter, source: Source, tmp_path: Path
) -> None:
    older = pa.schema([f for f in TABLE if f.name != "properties"]).append(pa.field("site_code", pa.string()))
    DeltaTable.create(tmp_path / "delta" / "readings", Schema.from_arrow(older), partition_by=["date"])
    writer = make()
    await writer.open()
    batch = source.batch([1.0])
    await writer.write(batch, 1)
    await writer.close()
    table = DeltaTable(tmp_path / "delta" / "readings")
    assert {field.name for field in table.schema().fields} == {*TABLE.names, "site_code"}
    [found] = table_rows(table.to_pyarrow_table().to_pylist())
    assert found.same(rows(batch)[0])


async def test_a_table_of_another_shape_is_a_config_error(make: MakeWriter, source: Source, tmp_path: Path) -> None:
    other = pa.schema([pa.field("gateway", pa.int64()), pa.field("date", pa.date32())])
    DeltaTable.create(tmp_path / "delta" / "readings", Schema.from_arrow(other), partition_by=["date"])
    writer = make()
    with pytest.raises(ConfigError, match="column `gateway` is long, readings need string"):
        await writer.open()
    assert [(finding.ok, "`gateway`" in finding.detail) for finding in await writer.check()] == [(False, True)]
    await writer.close()


@pytest.mark.parametrize(
    ("column", "words"),
    [
        (pa.field("value", pa.float32()), "`value` is float, readings need double"),
        (pa.field("value_int", pa.int32()), "`value_int` is integer, readings need long"),
        (pa.field("sequence", pa.string()), "`sequence` is string, readings need long"),
        (pa.field("metadata", pa.list_(pa.string())), "`metadata` is array, readings need string"),
        (pa.field("Value", pa.float64()), "`Value` must be spelt `value`"),
        (pa.field("value", pa.float64(), nullable=False), "`value` is NOT NULL and some readings"),
        (pa.field("tenant", pa.string(), nullable=False), "`tenant` is NOT NULL and readings do not have it"),
    ],
)
async def test_a_table_that_would_lose_or_refuse_values_is_a_config_error_as_soon_as_it_is_altered(
    make: MakeWriter, source: Source, tmp_path: Path, column: pa.Field, words: str
) -> None:
    """The library would store 1.1 in a FLOAT as 1.100000023841858 and say nothing."""
    writer = make()
    await writer.open()
    await writer.write(source.batch([1.0]), 1)
    folder = tmp_path / "delta" / "readings"
    altered = Schema.from_arrow(pa.schema([f for f in TABLE if f.name != column.name.lower()]).append(column))
    empty_ = pa.Table.from_batches([], pa.schema(altered))
    write_deltalake(folder, empty_, mode="overwrite", schema_mode="overwrite", partition_by=["date"])
    with pytest.raises(ConfigError, match=words):
        await writer.write(source.batch([1.1]), 2)
    assert DeltaTable(folder).count() == 0
    await writer.close()


def test_a_table_may_hold_more_than_readings_need() -> None:
    assert misfits([("flags", "long", False), ("source_time", "timestamp_ntz", True), ("note", "map", True)]) == []


async def test_the_date_is_that_of_the_source_time_in_utc_also_across_midnight(
    make: MakeWriter, source: Source, tmp_path: Path
) -> None:
    day = 86_400_000_000
    midnight = 20_000 * day
    writer = make()
    await writer.open()
    await writer.write(source.batch([1.0, 2.0, 3.0, 4.0], source_times=[midnight - 1, midnight, -1, 0]), 1)
    await writer.close()
    found = DeltaTable(tmp_path / "delta" / "readings").to_pyarrow_table(columns=["value", "date"]).to_pylist()
    dates = {row["value"]: row["date"].isoformat() for row in found}
    assert dates == {1.0: "2024-10-03", 2.0: "2024-10-04", 3.0: "1969-12-31", 4.0: "1970-01-01"}
    folders = {path.name for path in (tmp_path / "delta" / "readings").glob("date=*")}
    assert folders == {f"date={date}" for date in dates.values()}


async def test_readings_of_many_megabytes_and_of_nothing_but_null_are_kept(
    make: MakeWriter, source: Source, tmp_path: Path
) -> None:
    large, nulls = source.batch(["x" * 5_000_000, b"y" * 5_000_000]), source.batch([None] * 3)
    writer = make()
    await writer.open()
    await writer.write(large, 1)
    await writer.write(nulls, 2)
    await writer.close()
    found = {
        row.sequence: row
        for row in table_rows(DeltaTable(tmp_path / "delta" / "readings").to_pyarrow_table().to_pylist())
    }
    assert len(found) == 5
    assert all(found[row.sequence].same(row) for row in [*rows(large), *rows(nulls)])


@pytest.mark.parametrize("replaced", [False, True])
async def test_a_table_that_was_deleted_under_the_writer_is_made_anew_and_goes_on_with_the_unit_in_hand(
    make: MakeWriter, source: Source, tmp_path: Path, *, replaced: bool
) -> None:
    folder = tmp_path / "delta" / "readings"
    writer = make()
    await writer.open()
    for unit in range(1, 5):
        await writer.write(source.batch([float(unit)]), unit)
    shutil.rmtree(folder)
    if replaced:
        DeltaTable.create(folder, Schema.from_arrow(TABLE), partition_by=["date"])
    batch = source.batch([5.0])
    await deliver(writer, batch, 5)
    await writer.write(batch, 5)
    await writer.close()
    assert read(folder) == {5.0: 1}


async def test_readings_outside_the_years_that_delta_knows_are_rejected_one_by_one(
    make: MakeWriter, source: Source, tmp_path: Path
) -> None:
    times = [-(2**63) + 1, -62_135_596_800_000_001, -62_135_596_800_000_000, 253_402_300_799_999_999, 2**63 - 1]
    batch = source.batch([0.0, 1.0, 2.0, 3.0, 4.0], source_times=times)
    writer = make()
    await writer.open()
    with pytest.raises(RejectedRecords) as rejected:
        await writer.write(batch, 1)
    assert rejected.value.indices == [0, 1, 4]
    assert not rejected.value.rest_written
    await writer.write(batch.take(pa.array([2, 3])), 2)
    await writer.close()
    table = DeltaTable(tmp_path / "delta" / "readings")
    assert sorted(table.to_pyarrow_table(columns=["value"])["value"].to_pylist()) == [2.0, 3.0]


async def test_settings_of_an_existing_table_follow_the_configuration(make: MakeWriter, tmp_path: Path) -> None:
    for hours in (2, 3):
        writer = make(file_retention=f"{hours}h")
        await writer.open()
        await writer.close()
        settings = DeltaTable(tmp_path / "delta" / "readings").metadata().configuration
        assert settings["delta.deletedFileRetentionDuration"] == f"interval {hours * 3600} seconds"


# after a power cut


def empty(path: Path) -> None:
    path.write_bytes(b"")


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


@pytest.mark.parametrize("tear", [empty, halve, zero, Path.unlink])
@pytest.mark.parametrize("what", ["log", "data"])
async def test_a_commit_that_a_power_cut_tore_is_undone_and_written_again(
    make: MakeWriter, source: Source, tmp_path: Path, what: str, tear: Callable[[Path], None]
) -> None:
    writer = make()
    await writer.open()
    await writer.write(source.batch([1.0]), 1)
    table = tmp_path / "delta" / "readings"
    before = set(table.glob("date=*/*.parquet"))
    last = source.batch([2.0])
    await writer.write(last, 2)
    await writer.close()
    [data] = set(table.glob("date=*/*.parquet")) - before
    entry = max((table / "_delta_log").glob("*.json"))
    tear(entry if what == "log" else data)
    (tmp_path / "context" / "durable.json").write_text(json.dumps({"readings": 1}))  # the power went before it was
    again = make()
    await again.open()
    await again.write(last, 2)
    await again.close()
    assert read(table) == {1.0: 1, 2.0: 1}


def appended(folder: Path, count: int) -> list[Path]:
    """A table of `count` commits of a row; the data files in their order."""
    files: list[Path] = []
    for value in range(count):
        write_deltalake(folder, pa.table({"x": [value]}), mode="append")
        files += [file for file in folder.glob("*.parquet") if file not in files]
    return files


def test_all_that_came_after_a_torn_commit_is_undone_with_it(tmp_path: Path) -> None:
    files = appended(tmp_path / "t", 5)
    empty(files[2])
    assert mend(tmp_path / "t", 1) == ["commit 4", "commit 3", "commit 2"]
    assert sorted(DeltaTable(tmp_path / "t").to_pyarrow_table()["x"].to_pylist()) == [0, 1]
    assert len(list((tmp_path / "t" / "_torn").iterdir())) == 3


def test_commits_that_are_known_to_be_durable_are_never_undone(tmp_path: Path) -> None:
    files = appended(tmp_path / "t", 4)
    files[3].unlink()
    assert mend(tmp_path / "t", 3) == []
    assert DeltaTable(tmp_path / "t").version() == 3


def test_files_that_were_merged_and_deleted_since_are_not_missed(tmp_path: Path) -> None:
    files = appended(tmp_path / "t", 4)
    table = DeltaTable(tmp_path / "t")
    table.optimize.compact()
    table.vacuum(retention_hours=0, dry_run=False, enforce_retention_duration=False)
    assert not any(file.exists() for file in files)
    assert mend(tmp_path / "t", None) == []
    assert DeltaTable(tmp_path / "t").count() == 4


async def test_a_torn_checkpoint_is_removed_and_the_table_opens(
    make: MakeWriter, source: Source, tmp_path: Path
) -> None:
    writer = make()
    await writer.open()
    await writer.write(source.batch([1.0]), 1)
    await writer.close()
    table = tmp_path / "delta" / "readings"
    DeltaTable(table).create_checkpoint()
    [checkpoint] = (table / "_delta_log").glob("*.checkpoint.parquet")
    halve(checkpoint)
    assert mend(table, None) == [f"checkpoint {checkpoint.name}"]
    again = make()
    await again.open()
    await again.write(source.batch([2.0]), 2)
    await again.close()
    assert read(table) == {1.0: 1, 2.0: 1}


def test_a_sound_table_and_no_table_need_no_mending(tmp_path: Path) -> None:
    write_deltalake(tmp_path / "t", pa.table({"x": [1, 2]}))
    write_deltalake(tmp_path / "t", pa.table({"x": [3]}), mode="append")
    DeltaTable(tmp_path / "t").create_checkpoint()
    assert mend(tmp_path / "t", None) == []
    assert mend(tmp_path / "nothing", None) == []
    assert DeltaTable(tmp_path / "t").count() == 3


def test_a_commit_of_files_elsewhere_is_left_alone(tmp_path: Path) -> None:
    """Other engines may name files by absolute paths or URLs, which are not ours to judge."""
    log = tmp_path / "_delta_log"
    log.mkdir()
    adds = [{"add": {"path": path, "size": 1}} for path in ("s3://other/x.parquet", "/mnt/x.parquet")]
    (log / f"{0:020}.json").write_text("\n".join(json.dumps(add) for add in adds))
    assert mend(tmp_path, None) == []


# what stands in the way


async def test_a_constraint_that_refuses_readings_is_a_config_error(
    make: MakeWriter, source: Source, tmp_path: Path
) -> None:
    writer = make()
    await writer.open()
    await writer.write(source.batch([1.0]), 1)
    folder = tmp_path / "delta" / "readings"
    DeltaTable(folder).alter.add_constraint({"small": "value < 5"})
    with pytest.raises(ConfigError, match="a constraint of the table"):
        await writer.write(source.batch([4711.0]), 2)
    await writer.close()


async def test_a_check_says_what_it_found(make: MakeWriter, tmp_path: Path) -> None:
    writer = make()
    assert [finding.ok for finding in await writer.check()] == [True]
    assert not (tmp_path / "delta").exists()
    unknown = make(endpoint="foo://bucket/x")
    [finding] = await unknown.check()
    assert not finding.ok
    assert "Unknown scheme" in finding.detail
