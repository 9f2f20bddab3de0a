"""Reading one source to the screen."""

import asyncio
import json
from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Table
from typing_extensions import override

from config.models import Configuration
from connectors.contract import Context, Intake, SourceState
from normalization.normalizer import Normalizer
from normalization.reading import Columns, Tag, TagTable, repeat, table

_SHOWN = 1_000


class _Screen(Intake):
    def __init__(self) -> None:
        self.tags = TagTable()
        self.rows = Columns()
        self.received: list[int] = []
        self.count = 0

    @override
    def tag(self, tag: Tag) -> int:
        return self.tags.intern(tag)

    @override
    def append(self, rows: Columns, state: bytes | None = None) -> "asyncio.Future[None]":
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        self.count += len(rows)
        if len(self.rows) < _SHOWN:
            now = int(datetime.now(UTC).timestamp() * 1_000_000)
            self.received += [now] * len(rows)
            self.rows.extend(rows)
        return done

    @override
    def gap(self, tags: Sequence[int], start: int, end: int, reason: str) -> None:
        Console(stderr=True).print(f"gap of {len(tags)} tags: {reason}")

    @override
    def state(self, state: SourceState, detail: str = "") -> None:
        Console(stderr=True).print(f"{state} {detail}".strip())


def try_source(config: Configuration, name: str, seconds: float, *, as_json: bool) -> int:
    """Read source `name` for `seconds` and print its readings; returns the exit code."""
    source = next((s for s in config.sources if s.name == name), None)
    if source is None:
        known = ", ".join(s.name for s in config.sources) or "none"
        Console(stderr=True).print(f"there is no source `{name}`; the configuration has: {known}")
        return 2
    screen = _Screen()

    async def read() -> str:
        context = Context(config.gateway, config.directory / "sources" / source.name)
        try:
            async with asyncio.timeout(seconds):
                await source.trial().reader(context).run(screen, None)
        except TimeoutError:
            return ""
        except Exception as error:  # noqa: BLE001 - the edge of the reader's loop
            return f"{type(error).__name__}: {error}"
        return "the reader ended"

    problem = asyncio.run(read())
    if problem:
        Console(stderr=True).print(problem)
    if not screen.count:
        return 1
    _show(config, screen, as_json=as_json)
    return 1 if problem else 0


def _show(config: Configuration, screen: _Screen, *, as_json: bool) -> None:
    facts = screen.rows.to_batch(np.array(screen.received, np.int64), 0)
    size = len(facts)
    raw = pa.RecordBatch.from_arrays(
        [*facts.columns, repeat(config.gateway, size), repeat("test", size)],
        names=[*facts.schema.names, "gateway", "shard"],
    )
    readings = table(Normalizer(screen.tags, config.path_template)(raw)).to_pylist()
    rejects = raw.column("reject").to_pylist()
    if as_json:
        for reading, reject in zip(readings, rejects, strict=True):
            print(json.dumps(reading | {"reject": reject}, default=str, ensure_ascii=False))  # noqa: T201
        return
    shown = Table("path", "address", "type", "value", "unit", "quality", "time", title=f"{screen.count:,} readings")
    for reading, reject in zip(readings, rejects, strict=True):
        value = next(
            (v for k in ("value_text", "value_bytes", "value_int", "value") if (v := reading[k]) is not None), None
        )
        when = reading["source_time"] or reading["received_time"]
        shown.add_row(
            reading["path"],
            reading["address"],
            reading["type"],
            reject or str(value),
            reading["unit"],
            reading["quality"],
            when.strftime("%H:%M:%S.%f")[:-3],
        )
    Console().print(shown)
