"""Delta writers in one folder, and what tests of them have in common."""

import asyncio
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
from deltalake import DeltaTable

from connectors.contract import Context, TransientError, Writer
from connectors.targets.delta import DeltaConfig, DeltaWriter
from normalization.reading import table
from tests.contract.readings import table_rows

MakeWriter = Callable[..., DeltaWriter]


def writers(folder: Path) -> MakeWriter:
    """Makes writers in one folder, as one target after the other."""

    def writer(**settings: Any) -> DeltaWriter:
        config = DeltaConfig.model_validate({"endpoint": str(folder / "delta")} | settings)
        made = config.writer(Context("gateway 1", folder / "context"))
        assert isinstance(made, DeltaWriter)
        return made

    return writer


def read(table: Path) -> Counter[float]:
    return Counter(row.value for row in table_rows(DeltaTable(table).to_pyarrow_table().to_pylist()))


def rows_of(batch: pa.RecordBatch) -> pa.Table:
    """What the writer would commit of a batch."""
    return pa.Table.from_batches([table(batch)])


async def deliver(writer: Writer, batch: pa.RecordBatch, unit: int) -> None:
    """Write a unit as the forwarder does: the same again until it is taken."""
    async with asyncio.timeout(20):
        while True:
            try:
                await writer.write(batch, unit)
                break
            except TransientError:
                await writer.open()


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.02)
