"""ZeroBus: the official SDK against the emulator, a process of its own that all tests share, a table for each test.

What is read back is the Delta table that the emulator has filled, opened here with delta-rs.
"""

import atexit
import functools
import itertools
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pytest
from deltalake import DeltaTable
from typing_extensions import override

from connectors.contract import ConfigError, Context, Writer
from connectors.settings import TargetConfig
from connectors.targets.zerobus import ZeroBusConfig, ddl
from connectors.targets.zerobus.wide_writer import WideZeroBusWriter
from simulator.zerobus.process import EmulatorProcess
from tests.contract.counterpart import Counterpart, Provider
from tests.contract.readings import INEXACT, Row, table_rows, wide, wide_rows

_numbers = itertools.count()


class Service:
    """The emulator; it keeps its ports and its data when it is killed and started again."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._ports = (0, 0)
        self.start()
        atexit.register(self._end)

    def start(self) -> None:
        port, http_port = self._ports
        self.process = EmulatorProcess(
            Path(self._folder.name), port=port, http_port=http_port, options=["--commit-seconds=0.05"]
        )
        self._ports = (
            urlsplit(self.process.endpoint).port or 0,
            urlsplit(self.process.unity_catalog_url).port or 0,
        )

    def _end(self) -> None:
        self.process.kill()
        self._folder.cleanup()


@functools.cache
def service() -> Service:
    return Service()


class Owner(WideZeroBusWriter):
    """A writer whose table has an owner who adds the columns that it asks for, by the statement that it tells."""

    @override
    async def write(self, batch: pa.RecordBatch, unit: int) -> None:
        try:
            await super().write(batch, unit)
        except ConfigError as error:
            if not (asked := re.findall(r"`(\w+)` (\w+) COMMENT", str(error))):
                raise
            added = [{"name": name, "type_text": kind.lower()} for name, kind in asked]
            service().process.call("PATCH", f"/tables/{self._table}", {"add": added})
            await self.close()
            await self.open()
            await super().write(batch, unit)


class OwnedConfig(ZeroBusConfig):
    @override
    def writer(self, context: Context) -> Writer:
        return Owner(self, context)


class Table:
    def __init__(self, record_format: str, layout: str = "narrow") -> None:
        self.service = service()
        self.layout = layout
        self.record_format = record_format
        self.name = f"main.plant.contract_{next(_numbers)}"
        create = ddl(self.name, signals=None if layout == "narrow" else {}).split(";\n")[0] + ";"
        self.service.process.call("POST", "/tables", {"name": self.name, "ddl": create})

        self.port, self.relay_port = urlsplit(self.service.process.endpoint).port or 0, 0

    def config(self, **settings: Any) -> TargetConfig:
        return self.through(self.port, **settings)

    def stranger(self) -> TargetConfig:
        return self.through(self.port, secret="wrong-secret")

    def through(self, port: int, *, secret: str = "", **settings: Any) -> TargetConfig:
        emulator = self.service.process
        own = {
            "table": self.name,
            "workspace_url": emulator.unity_catalog_url,
            "client_id": emulator.client_id,
            "client_secret": secret or emulator.client_secret,
            "record_format": self.record_format,
            "ack_timeout": "10s",
            "layout": self.layout,
        }
        endpoint = emulator.endpoint.replace(f":{self.port}", f":{port}")
        whole = {"endpoint": endpoint, "timeout": "10s", "provider_config": own}
        model = ZeroBusConfig if self.layout == "narrow" else OwnedConfig
        return model.model_validate(whole | settings)

    def rows(self) -> list[Row]:
        self.service.process.count(self.name)  # returns when all that was acknowledged is in the table
        path = self.service.process.call("GET", f"/tables/{self.name}")["path"]
        read = table_rows if self.layout == "narrow" else wide_rows
        return read(DeltaTable(path).to_pyarrow_table().to_pylist())

    @contextmanager
    def outage(self) -> Iterator[None]:
        self.service.process.kill()
        try:
            yield
        finally:
            self.service.start()


@contextmanager
def _table(record_format: str, layout: str = "narrow") -> Iterator[Counterpart]:
    with pytest.MonkeyPatch.context() as patch:  # the SDK would go to loopback through a proxy
        for name in ("NO_PROXY", "no_proxy"):
            patch.setenv(name, "127.0.0.1,localhost")
        yield Table(record_format, layout)


@contextmanager
def protobuf(_: Path) -> Iterator[Counterpart]:
    with _table("protobuf") as running:
        yield running


@contextmanager
def arrow(_: Path) -> Iterator[Counterpart]:
    with _table("arrow") as running:
        yield running


@contextmanager
def wide_table(_: Path) -> Iterator[Counterpart]:
    with _table("protobuf", "wide") as running:
        yield running


PROVIDERS = [
    *(
        Provider(
            "zerobus",
            f"zerobus, {name}",
            start,
            counterpart="a stand-in for ZeroBus",
            able=frozenset({"network", "credentials"}),
        )
        for name, start in (("protobuf", protobuf), ("arrow", arrow))
    ),
    Provider(
        "zerobus",
        "zerobus, wide",
        wide_table,
        refuses=INEXACT,
        counterpart="a stand-in for ZeroBus",
        names=False,
        shows=wide,
        columns=True,
    ),
]
