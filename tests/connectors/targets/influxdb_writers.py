"""Writers to InfluxDB, their settings, and what comes of a write."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from connectors.contract import Context, RejectedRecords, Writer
from connectors.targets.influxdb import InfluxConfig
from connectors.targets.influxdb.writer import InfluxWriter
from tests.influx_server import PASSWORD, USER, Influx1


def config_1(server: Influx1, database: str, **own: Any) -> InfluxConfig:
    """The settings of a database of InfluxDB 1.x."""
    settings = {"version": "1.x", "database": database, "username": USER, "password": PASSWORD} | own
    return InfluxConfig.model_validate({"endpoint": server.url, "timeout": "10s", "provider_config": settings})


@contextlib.asynccontextmanager
async def opened(config: InfluxConfig) -> AsyncIterator[InfluxWriter]:
    """A writer that is open."""
    writer = config.writer(Context("gateway 1", Path()))
    assert isinstance(writer, InfluxWriter)
    try:
        await writer.open()
        yield writer
    finally:
        await writer.close()


async def rejected(writer: Writer, batch: pa.RecordBatch) -> RejectedRecords:
    """What a write says about the readings that were refused; empty when none were."""
    try:
        await writer.write(batch, 1)
    except RejectedRecords as error:
        return error
    return RejectedRecords([], [], rest_written=True)
