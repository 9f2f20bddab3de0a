"""Reading one source to the screen."""

import asyncio
import json
import sys
from collections.abc import Sequence

from typing_extensions import override

from bifrost.screen import Listing, console
from config.logs import escaped
from config.models import Configuration
from connectors.contract import SourceState
from flows.trial import Trial, read_for


def _say(text: str) -> None:
    print(escaped(text), file=sys.stderr)  # noqa: T201 - the answer to a command


class _Screen(Trial):
    @override
    def gap(self, tags: Sequence[int], start: int, end: int, reason: str) -> None:
        _say(f"gap of {len(tags)} tags: {reason}")

    @override
    def state(self, state: SourceState, detail: str = "") -> None:
        _say(f"{state} {detail}".strip())


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
    readings = screen.readings(config)
    if as_json:
        for reading in readings:
            print(json.dumps(reading, ensure_ascii=False, separators=(",", ":")))  # noqa: T201
        return
    shown = Listing(
        ["path", "address", "type"], ["value"], ["unit", "quality", "time"], title=f"{screen.count:,} readings"
    )
    for reading in readings:
        value = reading["value"]
        shown.add_row(
            reading.get("path", ""),
            reading.get("address", ""),
            reading["type"],
            reading.get("reject") or (value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)),
            reading.get("unit", ""),
            reading["quality"],
            reading.get("source_time", reading["received_time"])[11:23],
        )
    console().print(shown)
