"""How long finding among many tags takes, as the routes of the API do it; see `benchmarks.ui`."""

import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import numpy as np
import pyarrow as pa

from benchmarks.evidence import median
from config.models import Configuration
from delivery.journal import RAW
from normalization.normalizer import Normalizer
from normalization.reading import Columns, Tag, TagTable, repeat
from web.destinations import Destinations
from web.live import Live
from web.routes.tags import tags_router

_RUNS: Final = 5
_ROWS: Final = 1_000
_EVERYTHING: Final[dict[str, Any]] = {
    "search": "", "prefix": "", "quality": "", "source": "", "offset": 0, "limit": 500, "sort": "path",
}  # fmt: skip
_QUESTIONS: Final[dict[str, dict[str, Any]]] = {
    "first page of 500": {},
    "search": {"search": "TEMP_77"},
    "prefix": {"prefix": "s1/a0/l3"},
    "quality": {"quality": "NOT_GOOD"},
    "by value": {"sort": "-value"},
}


def measure(count: int) -> dict[str, float]:
    """Milliseconds by question, the median of several; before each, every tag has a new reading."""
    process, tags = _plant(count)
    live = Live(process)
    find, tree, one = (route.endpoint for route in tags_router(live, Destinations(process)).routes)  # type: ignore[attr-defined]
    _feed(process, live, tags)
    find(**_EVERYTHING)
    asked: dict[str, Callable[[], Any]] = {
        name: partial(find, **(_EVERYTHING | question)) for name, question in _QUESTIONS.items()
    }
    asked |= {"tree": partial(tree, prefix="s1/a0", offset=0, limit=500), "one tag": partial(one, tag_id=tags[77])}
    found = {name: _median(ask, partial(_feed, process, live, tags)) for name, ask in asked.items()}
    process, tags = _plant(count, spread=False)
    live = Live(process)
    _, tree, _ = (route.endpoint for route in tags_router(live, Destinations(process)).routes)  # type: ignore[attr-defined]
    beside = partial(tree, prefix="s1", offset=0, limit=500)
    _feed(process, live, tags)
    beside()
    found["tree, all side by side"] = _median(beside, partial(_feed, process, live, tags))
    for name, took in found.items():
        print(f"{count:,} tags, {name}: {took} ms", flush=True)
    return found


def _median(ask: Callable[[], Any], before: Callable[[], None]) -> float:
    took = []
    for _ in range(_RUNS):
        before()
        began = time.perf_counter()
        ask()
        took.append(1000 * (time.perf_counter() - began))
    return round(median(took), 1)


def _plant(count: int, spread: bool = True) -> tuple[Any, list[int]]:
    table = TagTable()
    config = Configuration(gateway="bench", directory=Path())
    process = SimpleNamespace(config=config, tags=table, live=None, normalizer=Normalizer(table, config.path_template))
    places = (
        {"site": "s1", "area": f"a{n // 10_000}", "line": f"l{n // 1000}", "equipment": f"e{n // 50}"}
        if spread
        else {"site": "s1"}
        for n in range(count)
    )
    tags = [
        table.intern(Tag(f"plc{n % 7}", "opcua", "d", f"ns=2;s=t{n}", f"temp_{n}", "°C", mapping=json.dumps(place)))
        for n, place in enumerate(places)
    ]
    return process, tags


def _feed(process: Any, live: Live, tags: list[int]) -> None:
    for start in range(0, len(tags), _ROWS):
        made = Columns()
        for tag in tags[start : start + _ROWS]:
            made.add(tag, tag * 1.1, source_time=tag)
        facts = made.to_batch(np.full(len(made), 5, np.int64), 1).columns
        names = [repeat("bench", len(made)), repeat("opcua-0-x", len(made))]
        batch = pa.RecordBatch.from_arrays([*facts, *names], schema=RAW)
        process.normalizer(batch)
        live.show(batch)
