"""Files, read back with Python's json, pyarrow's Parquet reader, and a line protocol parser of the tests' own."""

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from connectors.settings import TargetConfig
from connectors.targets.file import FileConfig
from normalization.reading import ValueType
from tests.connectors.wire.line_parser import parse_lines
from tests.contract.counterpart import Counterpart, Provider
from tests.contract.readings import Row, table_rows


def micros(text: str) -> int:
    since = datetime.fromisoformat(text) - datetime.fromisoformat("1970-01-01T00:00:00Z")
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def json_row(line: str) -> Row:
    item = json.loads(line)
    value = item["value"]
    match ValueType[item["type"]]:
        case ValueType.DOUBLE:
            value = float(value)
        case ValueType.BYTES:
            value = base64.b64decode(value)
        case _:
            pass
    when = item.get("source_time")
    return Row(
        *(item[name] for name in ("gateway", "shard", "sequence", "path", "type")),
        value,
        item["quality"],
        None if when is None else micros(when),
    )


TYPE_OF = {
    "value": ValueType.DOUBLE,
    "value_int": ValueType.INT64,
    "value_uint": ValueType.UINT64,
    "value_bool": ValueType.BOOLEAN,
    "value_text": ValueType.TEXT,
    "value_bytes": ValueType.BYTES,
    "value_json": ValueType.JSON,
}


def line_row(line: Any) -> Row:
    fields = dict(line.fields)
    quality, sequence = fields.pop("quality"), fields.pop("sequence")
    kind, value = ValueType.NULL, None
    for name, given in fields.items():
        kind, value = TYPE_OF[name], given
    if kind is ValueType.BYTES:
        value = base64.b64decode(str(value))
    if kind is ValueType.JSON:
        value = json.loads(str(value))
    tags = line.tags
    return Row(tags["gateway"], tags["shard"], sequence, tags["path"], kind.name, value, quality, line.time // 1000)


class Folder:
    def __init__(self, folder: Path, form: str) -> None:
        self.folder = folder / "files"
        self.form = form

    def config(self, **settings: Any) -> TargetConfig:
        return FileConfig.model_validate({"endpoint": str(self.folder), "format": self.form} | settings)

    def rows(self) -> list[Row]:
        if self.form == "parquet":
            files = sorted(self.folder.glob("*/*.parquet"))
            return [row for file in files for row in table_rows(pq.ParquetFile(file).read().to_pylist())]
        files = sorted(self.folder.glob("readings-*"))
        if self.form == "jsonl":
            return [json_row(line) for file in files for line in file.read_bytes().decode().split("\n")[:-1]]
        return [line_row(line) for file in files for line in parse_lines(file.read_bytes().decode())]

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


@contextmanager
def jsonl(folder: Path) -> Iterator[Counterpart]:
    yield Folder(folder, "jsonl")


@contextmanager
def line_protocol(folder: Path) -> Iterator[Counterpart]:
    yield Folder(folder, "line_protocol")


@contextmanager
def parquet(folder: Path) -> Iterator[Counterpart]:
    yield Folder(folder, "parquet")


PROVIDERS = [
    Provider("file", "file, jsonl", jsonl, ordered=True),
    Provider(
        "file",
        "file, line protocol",
        line_protocol,
        refuses=frozenset({"nan", "inf", "-inf"}),
        ordered=True,
        names=False,  # line breaks, and a backslash at the end
    ),
    Provider("file", "file, parquet", parquet),
]
