"""Reading one source to the screen."""

import asyncio
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
from typing_extensions import override

from bifrost.screen import Listing, console
from config.logs import escaped
from config.models import Configuration
from connectors.contract import Context, Intake, SourceState
from connectors.settings import SourceConfig
from connectors.wire.json_lines import JsonLinesEncoder
from normalization.normalizer import Normalizer
from normalization.reading import Columns, Tag, TagTable, repeat

_SHOWN = 1_000


def _say(text: str) -> None:
    print(escaped(text), file=sys.stderr)  # noqa: T201 - the answer to a command


class Onlooker(Intake):
    """An intake that keeps nothing: it is told of what a source on trial reads, and acknowledges it at once.

    Attributes:
        tags: The tags that were read.
    """

    def __init__(self) -> None:
        self.tags = TagTable()

    def see(self, rows: Columns) -> None:
        """Hear of readings."""

    @override
    def tag(self, tag: Tag) -> int:
        return self.tags.intern(tag)

    @override
    def append(self, rows: Columns, state: bytes | None = None) -> "asyncio.Future[None]":
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        if len(rows):
            self.see(rows)
        return done

    @override
    def gap(self, tags: Sequence[int], start: int, end: int, reason: str) -> None:
        pass

    @override
    def state(self, state: SourceState, detail: str = "") -> None:
        pass


class _Screen(Onlooker):
    def __init__(self) -> None:
        super().__init__()
        self.rows = Columns()
        self.received: list[int] = []
        self.count = 0

    @override
    def see(self, rows: Columns) -> None:
        self.count += len(rows)
        if len(self.rows) < _SHOWN:
            now = int(datetime.now(UTC).timestamp() * 1_000_000)
            self.received += [now] * len(rows)
            self.rows.extend(rows)

    @override
    def gap(self, tags: Sequence[int], start: int, end: int, reason: str) -> None:
        _say(f"gap of {len(tags)} tags: {reason}")

    @override
    def state(self, state: SourceState, detail: str = "") -> None:
        _say(f"{state} {detail}".strip())


async def read_for(seconds: float, source: SourceConfig, config: Configuration, intake: Intake) -> str:
    """Read a source that is on trial for `seconds`; why that ended early, empty when it did not."""
    context = Context(config.gateway, config.directory / "sources" / source.name)
    try:
        async with asyncio.timeout(seconds):
            await source.reader(context).run(intake, None)
    except TimeoutError:
        return ""
    except Exception as error:  # noqa: BLE001 - the edge of the reader's loop
        return f"{type(error).__name__}: {error}"
    return "the reader ended"


def try_source(config: Configuration, name: str, seconds: float, *, as_json: bool) -> int:
    """Read source `name` for `seconds` and print its readings; returns the exit code."""
    source = next((s for s in config.sources if s.name == name), None)
    if source is None:
        known = ", ".join(s.name for s in config.sources) or "none"
        _say(f"there is no source `{name}`; the configuration has: {known}")
        return 2
    screen = _Screen()
    problem = asyncio.run(read_for(seconds, source.trial(), config, screen))
    if problem:
        _say(problem)
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
    batch = Normalizer(screen.tags, config.path_template)(raw)
    lines = JsonLinesEncoder().encode(batch).decode().split("\n")[:-1]
    rejects = batch.column("reject").to_pylist()
    if as_json:
        for line, reject in zip(lines, rejects, strict=True):
            print(line if reject is None else f'{line[:-1]},"reject":{json.dumps(reject)}}}')  # noqa: T201
        return
    shown = Listing(
        ["path", "address", "type"], ["value"], ["unit", "quality", "time"], title=f"{screen.count:,} readings"
    )
    for line, reject in zip(lines, rejects, strict=True):
        reading = json.loads(line)
        value = reading["value"]
        shown.add_row(
            reading.get("path", ""),
            reading.get("address", ""),
            reading["type"],
            reject or (value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)),
            reading.get("unit", ""),
            reading["quality"],
            reading.get("source_time", reading["received_time"])[11:23],
        )
    console().print(shown)
