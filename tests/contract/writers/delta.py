"""Delta tables in a local folder, read back with pyarrow through the table's own log."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
from deltalake import DeltaTable

from connectors.settings import TargetConfig
from connectors.targets.delta import DeltaConfig
from tests.connectors.targets.s3_store import S3Store, s3_store
from tests.contract.counterpart import Counterpart, Provider
from tests.contract.readings import INEXACT, Row, table_rows, wide, wide_rows


class Tables:
    def __init__(self, folder: Path, **own: str) -> None:
        self.folder = folder / "delta"
        self.own = own

    def config(self, **settings: Any) -> TargetConfig:
        return DeltaConfig.model_validate({"endpoint": str(self.folder)} | self.own | settings)

    def rows(self) -> list[Row]:
        tables = [DeltaTable(path) for path in sorted(self.folder.glob("*")) if DeltaTable.is_deltatable(str(path))]
        read = wide_rows if self.own.get("layout") == "wide" else table_rows
        return [row for table in tables for row in read(table.to_pyarrow_table().to_pylist())]

    @contextmanager
    def outage(self) -> Iterator[None]:
        aside = self.folder.with_name("aside")
        self.folder.rename(aside)
        self.folder.write_text("in the way")
        try:
            yield
        finally:
            self.folder.unlink()
            aside.rename(self.folder)


class Bucket:
    """Tables in an object store: a small S3 over HTTP."""

    def __init__(self, store: S3Store) -> None:
        self.store = store
        self.port, self.relay_port = store.server_port, 0

    def config(self, **settings: Any) -> TargetConfig:
        return self.through(self.port, **settings)

    def through(self, port: int, **settings: Any) -> TargetConfig:
        options = self.store.options | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
        own = {"endpoint": "s3://bucket/plant", "storage_options": options, "timeout": "5s"}
        return DeltaConfig.model_validate(own | settings)

    def rows(self) -> list[Row]:
        table = DeltaTable("s3://bucket/plant/readings", storage_options=self.store.options)
        return table_rows(pa.RecordBatchReader.from_stream(table.scan()).read_all().to_pylist())

    @contextmanager
    def outage(self) -> Iterator[None]:
        self.store.refuse = 503
        try:
            yield
        finally:
            self.store.refuse = None


@contextmanager
def object_store(_: Path) -> Iterator[Counterpart]:
    with s3_store() as store:
        yield Bucket(store)


@contextmanager
def one_table(folder: Path) -> Iterator[Counterpart]:
    yield Tables(folder)


@contextmanager
def table_per_source(folder: Path) -> Iterator[Counterpart]:
    yield Tables(folder, per="source")


@contextmanager
def wide_tables(folder: Path) -> Iterator[Counterpart]:
    yield Tables(folder, layout="wide", per="source")


PROVIDERS = [
    Provider("delta", "delta", one_table),
    Provider("delta", "delta, table per source", table_per_source),
    Provider("delta", "delta, object store", object_store, able=frozenset({"network"})),
    Provider("delta", "delta, wide", wide_tables, refuses=INEXACT, names=False, shows=wide, columns=True),
]
