"""ZeroBus: the official SDK against the emulator, a process of its own that all tests share, a table for each test.

What is read back is the Delta table that the emulator has filled, opened here with delta-rs.
"""

import atexit
import functools
import itertools
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from deltalake import DeltaTable

from connectors.settings import TargetConfig
from connectors.targets.zerobus import ZeroBusConfig, ddl
from simulator.zerobus.process import EmulatorProcess
from tests.contract.counterpart import Counterpart, Provider
from tests.contract.readings import Row, table_rows

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


class Table:
    def __init__(self, record_format: str) -> None:
        self.service = service()
        self.record_format = record_format
        self.name = f"main.plant.contract_{next(_numbers)}"
        create = ddl(self.name).split(";\n")[0] + ";"
        self.service.process.call("POST", "/tables", {"name": self.name, "ddl": create})

    def config(self, **settings: Any) -> TargetConfig:
        emulator = self.service.process
        own = {
            "table": self.name,
            "workspace_url": emulator.unity_catalog_url,
            "client_id": emulator.client_id,
            "client_secret": emulator.client_secret,
            "record_format": self.record_format,
            "ack_timeout": "10s",
        }
        whole = {"endpoint": emulator.endpoint, "timeout": "10s", "provider_config": own}
        return ZeroBusConfig.model_validate(whole | settings)

    def rows(self) -> list[Row]:
        self.service.process.count(self.name)  # returns when all that was acknowledged is in the table
        path = self.service.process.call("GET", f"/tables/{self.name}")["path"]
        return table_rows(DeltaTable(path).to_pyarrow_table().to_pylist())

    @contextmanager
    def outage(self) -> Iterator[None]:
        self.service.process.kill()
        try:
            yield
        finally:
            self.service.start()


@contextmanager
def _table(record_format: str) -> Iterator[Counterpart]:
    with pytest.MonkeyPatch.context() as patch:  # the SDK would go to loopback through a proxy
        for name in ("NO_PROXY", "no_proxy"):
            patch.setenv(name, "127.0.0.1,localhost")
        yield Table(record_format)


@contextmanager
def protobuf(_: Path) -> Iterator[Counterpart]:
    with _table("protobuf") as running:
        yield running


@contextmanager
def arrow(_: Path) -> Iterator[Counterpart]:
    with _table("arrow") as running:
        yield running


PROVIDERS = [
    Provider("zerobus", "zerobus, protobuf", protobuf, counterpart="a stand-in for ZeroBus"),
    Provider("zerobus", "zerobus, arrow", arrow, counterpart="a stand-in for ZeroBus"),
]
