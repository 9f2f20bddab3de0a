"""Reading a source that is on trial: nothing is kept and nothing is delivered."""

import asyncio
import json
import time
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
from typing_extensions import override

from config.models import Configuration
from connectors.contract import Context, Intake, SourceState
from connectors.settings import SourceConfig
from connectors.wire.json_lines import JsonLinesEncoder
from normalization.normalizer import Normalizer
from normalization.reading import Columns, Tag, TagTable, repeat

_SHOWN: Final = 1_000


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


class Trial(Onlooker):
    """Keeps the first thousand readings of a source on trial.

    Attributes:
        count: How many came.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.rows = Columns()
        self.received: list[int] = []

    @override
    def see(self, rows: Columns) -> None:
        self.count += len(rows)
        if len(self.rows) < _SHOWN:
            self.received += [time.time_ns() // 1000] * len(rows)
            self.rows.extend(rows)

    def readings(self, config: Configuration) -> list[dict[str, Any]]:
        """What came, normalized, as targets get it; with `reject` where it is not sound."""
        facts = self.rows.to_batch(np.array(self.received, np.int64), 0)
        size = len(facts)
        raw = pa.RecordBatch.from_arrays(
            [*facts.columns, repeat(config.gateway, size), repeat("test", size)],
            names=[*facts.schema.names, "gateway", "shard"],
        )
        batch = Normalizer(self.tags, config.path_template)(raw)
        lines = JsonLinesEncoder().encode(batch).decode().split("\n")[:-1]
        rejects = batch.column("reject").to_pylist()
        return [
            json.loads(line) | ({} if reject is None else {"reject": reject})
            for line, reject in zip(lines, rejects, strict=True)
        ]


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
