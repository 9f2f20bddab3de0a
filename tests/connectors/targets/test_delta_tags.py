"""The table of tags beside the readings: what a tag was from when to when, whatever is late, killed or sent again."""

import asyncio
import random
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable
from pydantic import ValidationError

from connectors.contract import Context
from connectors.targets.delta import DeltaConfig, DeltaWriter
from connectors.targets.delta_tags import Chain, Version, from_rows, seen, to_table
from tests.connectors.targets.delta_writers import MakeWriter, read, writers
from tests.contract.readings import BASE_TIME, Source

ROOT = Path(__file__).parents[3]


def when(micros: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=micros)


RECEIVED = when(BASE_TIME + 10**9)


@pytest.fixture
def make(tmp_path: Path) -> MakeWriter:
    def writer(**settings: Any) -> DeltaWriter:
        return writers(tmp_path)(**{"tags_table": "tags"} | settings)

    return writer


@pytest.fixture
def source() -> Source:
    return Source()


def tags(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = DeltaTable(folder / "delta" / "tags").to_pyarrow_table().to_pylist()
    return sorted(found, key=lambda row: (row["gateway"], row["address"], row["valid_from"]))


def later(batch: pa.RecordBatch, seconds: int) -> pa.RecordBatch:
    """The batch as if it had been received later."""
    at = batch.schema.get_field_index("received_time")
    moved = pa.array(
        [time + timedelta(seconds=seconds) for time in batch.column(at).to_pylist()], batch.schema.field(at).type
    )
    return batch.set_column(at, batch.schema.field(at), moved)


# ---------------------------------------------------------------------- versions of one tag

A, B = ("°C",), ("K",)


@pytest.mark.parametrize(
    ("chain", "rest", "at", "expected"),
    [
        ((), A, 10, (Version(A, 10),)),
        ((Version(A, 10),), A, 20, (Version(A, 10),)),
        ((Version(A, 10),), B, 20, (Version(A, 10), Version(B, 20))),
        ((Version(A, 10), Version(B, 20)), A, 15, (Version(A, 10), Version(B, 20))),
        ((Version(A, 10), Version(B, 20)), A, 30, (Version(A, 10), Version(B, 20), Version(A, 30))),
        ((Version(B, 20),), A, 15, (Version(A, 15), Version(B, 20))),
        ((Version(A, 10),), A, 5, (Version(A, 5),)),
    ],
)
def test_a_reading_has_its_place_among_the_versions(
    chain: Chain, rest: tuple[str, ...], at: int, expected: Chain
) -> None:
    assert seen(chain, rest, at) == expected


def test_readings_that_come_again_or_late_in_any_order_change_no_version() -> None:
    chance = random.Random(3)
    for _ in range(300):
        history = [(chance.choice([A, B, ("bar",)]), 10 * at) for at in range(8)]
        chain: Chain = ()
        for rest, at in history:
            chain = seen(chain, rest, at)
        for rest, at in history:
            assert max((version for version in chain if version.start <= at), key=lambda v: v.start).rest == rest
        assert all(one.rest != after.rest for one, after in zip(chain, chain[1:], strict=False))
        known = chain
        for rest, at in chance.sample(history, len(history)):
            chain = seen(chain, rest, at)
        assert chain == known


def test_versions_are_read_as_they_were_written() -> None:
    key = ("plc", "1", "40001", "temp")
    rest = ("modbus", "°C", "{}", "a/b", "site", "", "", "", "temperature")
    chains = {key: (Version(rest, 5), Version(("modbus", "K", *rest[2:]), 9))}
    rows = to_table("g", chains).to_pylist()
    assert [(row["unit"], row["valid_to"]) for row in rows] == [("°C", when(9)), ("K", None)]
    assert from_rows(rows) == chains


# ---------------------------------------------------------------------- the table


async def test_each_tag_has_a_row_with_what_is_known_of_it(make: MakeWriter, source: Source, tmp_path: Path) -> None:
    writer = make()
    await writer.open()
    await writer.write(source.batch([1.0] * 14), 1)
    await writer.write(source.batch([2.0] * 14), 2)
    await writer.close()
    rows = tags(tmp_path)
    assert [row["address"] for row in rows] == [f"4000{number}" for number in range(7)]
    assert {(row["gateway"], row["unit"], row["site"]) for row in rows} == {("gateway 1", "°C", "plant 1")}
    assert {(row["valid_from"], row["valid_to"]) for row in rows} == {(RECEIVED, None)}
    assert DeltaTable(tmp_path / "delta" / "tags").version() == 1  # made, and filled once
    assert len(read(tmp_path / "delta" / "readings")) == 2


async def test_a_tag_that_changes_and_changes_back_has_a_row_for_each_time(
    make: MakeWriter, source: Source, tmp_path: Path
) -> None:
    writer = make()
    await writer.open()
    units = ["°C", "K", "°C"]
    for unit, name in enumerate(units, 1):
        batch = source.batch([1.0], tags=[source.tag(1, unit=name)])
        await writer.write(later(batch, 100 * unit), unit)
    await writer.close()
    times = [RECEIVED + timedelta(seconds=100 * unit) for unit in (1, 2, 3)]
    expected = list(zip(units, times, [*times[1:], None], strict=True))
    assert [(row["unit"], row["valid_from"], row["valid_to"]) for row in tags(tmp_path)] == expected


async def test_readings_that_waited_and_units_that_come_again_change_nothing(
    make: MakeWriter, source: Source, tmp_path: Path
) -> None:
    old = source.batch([1.0], tags=[source.tag(1, unit="°C")])
    new = later(source.batch([2.0], tags=[source.tag(1, unit="K")]), 100)
    writer = make()
    await writer.open()
    await writer.write(old, 1)
    await writer.write(new, 2)
    before = tags(tmp_path)
    await writer.write(later(source.batch([3.0], tags=[source.tag(1, unit="°C")]), 50), 3)  # had waited
    await writer.close()
    again = make()
    await again.open()
    await again.write(new, 4)
    await again.write(old, 5)
    await again.close()
    assert tags(tmp_path) == before
    assert DeltaTable(tmp_path / "delta" / "tags").version() == 2


async def test_gateways_keep_their_rows_beside_each_other(make: MakeWriter, source: Source, tmp_path: Path) -> None:
    config = DeltaConfig.model_validate({"endpoint": str(tmp_path / "delta"), "tags_table": "tags"})
    for unit, gateway in enumerate(["line's 1", "line 2", "line's 1"], 1):
        writer = config.writer(Context(gateway, tmp_path / gateway))
        await writer.open()
        await writer.write(source.batch([1.0], tags=[source.tag(unit)]), unit)
        await writer.close()
    assert [(row["gateway"], row["address"]) for row in tags(tmp_path)] == [
        ("line 2", "40002"),
        ("line's 1", "40001"),
        ("line's 1", "40003"),
    ]


KILLED = """
import asyncio, os, sys
from pathlib import Path
from connectors.targets.delta import DeltaWriter
from tests.connectors.targets.delta_writers import writers
from tests.contract.readings import Source

DeltaWriter._commit = lambda *_: os._exit(9)

async def main():
    writer = writers(Path(sys.argv[1]))(tags_table="tags")
    await writer.open()
    await writer.write(Source().batch([1.0] * 7), 1)

asyncio.run(main())
"""


async def test_a_kill_between_tags_and_readings_leaves_each_row_once(
    make: MakeWriter, source: Source, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    done = await asyncio.to_thread(subprocess.run, command, cwd=ROOT, check=False, timeout=60)
    assert done.returncode == 9
    assert len(tags(tmp_path)) == 7
    writer = make()
    await writer.open()
    await writer.write(source.batch([1.0] * 7), 1)
    await writer.close()
    assert len(tags(tmp_path)) == 7
    assert sum(read(tmp_path / "delta" / "readings").values()) == 7


@pytest.mark.parametrize(
    "settings", [{"table": "a", "tags_table": "a"}, {"per": "source", "tags_table": "readings_tags"}]
)
def test_tags_and_readings_do_not_share_a_table(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="choose another name"):
        DeltaConfig.model_validate(settings)
