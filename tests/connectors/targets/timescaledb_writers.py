"""Writers to the tables of one database, and waiting for what they do."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from connectors.contract import Context
from connectors.targets.timescaledb import TimescaleConfig
from connectors.targets.timescaledb.writer import TimescaleWriter
from tests.contract.readings import Row
from tests.contract.writers.timescaledb import Database
from tests.postgres_server import PASSWORD, SUPERUSER


@contextlib.asynccontextmanager
async def opened(database: Database, tmp_path: Path, endpoint: str = "", **own: Any) -> AsyncIterator[TimescaleWriter]:
    """A writer that is open; its settings beside those of the database."""
    writer = writing(database, tmp_path, endpoint, **own)
    try:
        await writer.open()
        yield writer
    finally:
        await writer.close()


def writing(
    database: Database, tmp_path: Path, endpoint: str = "", *, timeout: float = 10, **own: Any
) -> TimescaleWriter:
    settings = {"username": SUPERUSER, "password": PASSWORD} | own
    config = TimescaleConfig.model_validate(
        {"endpoint": endpoint or database.server.url(database.name), "timeout": timeout, "provider_config": settings}
    )
    return TimescaleWriter(config, Context("gateway 1", tmp_path))


def sequences(found: list[Row]) -> list[int]:
    return sorted(row.sequence for row in found)


async def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)
