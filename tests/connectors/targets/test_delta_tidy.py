"""Merging the Delta target's small files and shortening its log, alone and beside others."""

import asyncio
import contextlib
import os
from pathlib import Path

import pytest
from deltalake import DeltaTable, Schema, write_deltalake
from deltalake.exceptions import CommitFailedError

from connectors.contract import Context
from connectors.targets.delta import DeltaConfig
from connectors.targets.delta_tidy import claim
from normalization.reading import TABLE
from tests.connectors.targets.delta_writers import MakeWriter, deliver, read, rows_of, until, writers
from tests.contract.readings import Source


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def make(tmp_path: Path) -> MakeWriter:
    return writers(tmp_path)


async def test_small_files_are_merged_while_units_arrive_and_no_row_changes(
    make: MakeWriter, source: Source, tmp_path: Path
) -> None:
    writer = make(compact_every=5)
    await writer.open()
    for unit in range(1, 41):
        await writer.write(source.batch([float(unit)] * 10), unit)
    await writer.close()
    table = DeltaTable(tmp_path / "delta" / "readings")
    assert len(table.file_uris()) < 20
    assert read(tmp_path / "delta" / "readings") == {float(unit): 10 for unit in range(1, 41)}
    assert "OPTIMIZE" in {commit["operation"] for commit in table.history()}
    again = make()
    await again.open()
    await again.write(source.batch([41.0]), 41)
    await again.close()
    assert len(read(tmp_path / "delta" / "readings")) == 41


async def test_a_merge_that_fails_is_tried_again_and_disturbs_no_write(
    make: MakeWriter, source: Source, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    writer = make(compact_every=3)
    await writer.open()
    for unit in (1, 2):
        await writer.write(source.batch([float(unit)]), unit)
    data = min((tmp_path / "delta" / "readings").glob("date=*/*.parquet"))
    aside = tmp_path / "aside"
    data.rename(aside)
    await writer.write(source.batch([3.0]), 3)
    await until(lambda: "were not merged" in caplog.text)
    aside.rename(data)
    for unit in range(4, 8):
        await writer.write(source.batch([float(unit)]), unit)
    table = tmp_path / "delta" / "readings"
    await until(lambda: len(DeltaTable(table).file_uris()) < 5)
    await writer.close()
    assert read(table) == {float(unit): 1 for unit in range(1, 8)}


@pytest.mark.parametrize("compact_every", [0, 4])
async def test_the_log_gets_checkpoints_and_is_shortened(
    make: MakeWriter,
    source: Source,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    compact_every: int,
) -> None:
    monkeypatch.setattr("connectors.targets.delta._TIDY_EVERY", 4)
    writer = make(compact_every=compact_every, log_retention="60s")
    await writer.open()
    log = tmp_path / "delta" / "readings" / "_delta_log"
    for unit in range(1, 10):
        await writer.write(source.batch([float(unit)]), unit)
        for entry in log.glob("*.json"):
            os.utime(entry, (1_000_000_000, 1_000_000_000))
    await until(lambda: len(list(log.glob("*.json"))) < 9)
    await writer.close()
    again = make()
    await again.open()
    await again.write(source.batch([10.0]), 10)
    await again.close()
    assert len(list(log.glob("*.checkpoint.parquet"))) >= 1
    assert read(tmp_path / "delta" / "readings") == {float(unit): 1 for unit in range(1, 11)}


async def test_files_that_no_table_knows_any_more_are_deleted_and_young_ones_stay(
    make: MakeWriter, source: Source, tmp_path: Path
) -> None:
    """What a killed write or merge left behind; a young file may be of a commit that is under way."""
    folder = tmp_path / "delta" / "readings"
    writer = make(compact_every=2, file_retention="1h")
    await writer.open()
    await writer.write(source.batch([1.0]), 1)
    known = next(folder.glob("date=*/*.parquet"))
    old, young = known.with_name("part-old.parquet"), known.with_name("part-young.parquet")
    for orphan in (old, young):
        orphan.write_bytes(known.read_bytes())
    os.utime(old, (1_000_000_000, 1_000_000_000))
    await writer.write(source.batch([2.0]), 2)
    await until(lambda: not old.exists())
    await writer.close()
    assert young.exists()
    assert read(folder) == {1.0: 1, 2.0: 1}


async def test_others_may_append_and_delete_in_the_same_table_meanwhile(
    make: MakeWriter, source: Source, tmp_path: Path
) -> None:
    folder = tmp_path / "delta" / "readings"
    writer = make(compact_every=3)
    await writer.open()
    foreign = rows_of(source.batch([-1.0]))
    stop = asyncio.Event()

    def others() -> None:
        write_deltalake(folder, foreign, mode="append")
        with contextlib.suppress(CommitFailedError):  # the writer was first
            DeltaTable(folder).delete("value < 0")

    async def interfere() -> None:
        while not stop.is_set():
            await asyncio.to_thread(others)

    interfering = asyncio.create_task(interfere())
    for unit in range(1, 25):
        await deliver(writer, source.batch([float(unit)]), unit)
    stop.set()
    await interfering
    await writer.close()
    found = read(folder)
    assert {value: count for value, count in found.items() if value > 0} == {float(unit): 1 for unit in range(1, 25)}


async def test_two_gateways_that_merge_one_table_double_no_reading(source: Source, tmp_path: Path) -> None:
    """The library lets two merges at one time both succeed, and their rows are there twice then."""
    config = DeltaConfig.model_validate({"endpoint": str(tmp_path / "delta"), "compact_every": 2})

    async def gateway(number: int) -> None:
        writer = config.writer(Context(f"gateway {number}", tmp_path / str(number)))
        await deliver(writer, source.batch([number * 100.0]), 1)
        for unit in range(2, 21):
            await deliver(writer, source.batch([number * 100.0 + unit - 1]), unit)
        await writer.close()

    await asyncio.gather(gateway(0), gateway(1), gateway(2))
    table_ = DeltaTable(tmp_path / "delta" / "readings")
    assert read(tmp_path / "delta" / "readings") == {n * 100.0 + i: 1 for n in range(3) for i in range(20)}
    assert "OPTIMIZE" in {commit["operation"] for commit in table_.history()}


def test_a_claim_to_merge_is_one_writers_until_it_runs_out(tmp_path: Path) -> None:
    DeltaTable.create(tmp_path / "t", Schema.from_arrow(TABLE), partition_by=["date"])
    hour = 3_600_000_000
    held = claim(DeltaTable(tmp_path / "t"), None, 1_000)
    assert held == 1_000 + hour
    assert claim(DeltaTable(tmp_path / "t"), None, 2_000) is None
    renewed = claim(DeltaTable(tmp_path / "t"), held, 3_000)
    assert renewed == 3_000 + hour
    assert claim(DeltaTable(tmp_path / "t"), held, 4_000) is None  # the old one is nobody's any more
    late = [DeltaTable(tmp_path / "t"), DeltaTable(tmp_path / "t")]
    taken = [claim(table_, None, 3_001 + hour) for table_ in late]
    assert [one is None for one in taken] == [False, True]
    assert claim(DeltaTable(tmp_path / "t"), None, 1_000 - 2 * hour) == 1_000 - hour  # all were of a wrong clock
    assert DeltaTable(tmp_path / "t").count() == 0
