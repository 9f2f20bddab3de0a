"""For the writer suite of Bifrost: an SQLite file, read back by SQL."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bifrost_sqlite import SqliteConfig
from connectors.settings import TargetConfig
from tests.contract.counterpart import Counterpart, Provider
from tests.contract.readings import Row, table_rows


class File:
    def __init__(self, folder: Path) -> None:
        self.path = folder / "readings.sqlite"

    def config(self, **settings: Any) -> TargetConfig:
        return SqliteConfig.model_validate({"endpoint": str(self.path)} | settings)

    def rows(self) -> list[Row]:
        with closing(sqlite3.connect(self.path)) as database:
            database.row_factory = sqlite3.Row
            found = [dict(row) for row in database.execute("SELECT * FROM readings")]
        for row in found:
            if row["source_time"] is not None:
                row["source_time"] = datetime.fromisoformat(row["source_time"]).astimezone(UTC)
        return table_rows(found)

    @contextmanager
    def outage(self) -> Iterator[None]:
        aside = self.path.with_name("aside")
        self.path.rename(aside)
        self.path.mkdir()
        try:
            yield
        finally:
            self.path.rmdir()
            aside.rename(self.path)


@contextmanager
def file(folder: Path) -> Iterator[Counterpart]:
    yield File(folder)


PROVIDERS = [
    Provider("sqlite", "sqlite, in a package of its own", file, refuses=frozenset({"nan"}), counterpart="SQLite")
]
