"""Reading every source on trial at the same time, for a watch."""

import asyncio
import fcntl
import os
import time
from collections.abc import Callable, Sequence

from typing_extensions import override

from config.models import Configuration
from connectors.settings import SourceConfig
from flows.commission_watch import Watch
from flows.trial import Onlooker, read_for
from normalization.reading import Columns

_AGAIN: float = 2.0
"""Seconds until a source that failed is read again."""
_TOLD: float = 0.5
"""Seconds between two times that progress is told."""


class Watcher(Onlooker):
    """Gives what sources on trial read to a watch."""

    def __init__(self, config: Configuration) -> None:
        super().__init__()
        self.watch = Watch(self.tags, config.path_template, config.gateway)

    @override
    def see(self, rows: Columns) -> None:
        self.watch.add(rows, time.time_ns() // 1000)


def watch_sources(
    config: Configuration,
    sources: Sequence[SourceConfig],
    seconds: float,
    progress: Callable[[float, Watch], None],
) -> tuple[Watch, dict[str, str]]:
    """Read sources, which are on trial.

    Args:
        config: The configuration.
        sources: What to read.
        seconds: How long.
        progress: Told now and then how many seconds are over, and what has come.

    Returns:
        What came, and of each source what was wrong, empty for nothing.
    """
    return asyncio.run(_watch(config, sources, seconds, progress))


async def _watch(
    config: Configuration,
    sources: Sequence[SourceConfig],
    seconds: float,
    progress: Callable[[float, Watch], None],
) -> tuple[Watch, dict[str, str]]:
    watcher, began = Watcher(config), time.monotonic()

    async def tell() -> None:
        while True:
            progress(time.monotonic() - began, watcher.watch)
            await asyncio.sleep(_TOLD)

    telling = asyncio.create_task(tell())
    try:
        problems = await asyncio.gather(*(_read(config, source, began + seconds, watcher) for source in sources))
    finally:
        telling.cancel()
    progress(seconds, watcher.watch)
    return watcher.watch, {source.name: problem for source, problem in zip(sources, problems, strict=True)}


async def _read(config: Configuration, source: SourceConfig, end: float, watcher: Watcher) -> str:
    """Read a source until `end`, again when it fails; what was wrong."""
    problem, times = "", 0
    while (left := end - time.monotonic()) > 0:
        found = await read_for(left, source.trial(), config, watcher)
        if found:
            problem, times = found, times + 1
            await asyncio.sleep(min(_AGAIN, max(0.0, end - time.monotonic())))
    return f"{problem} ({times} times)" if times > 1 else problem


def owner(config: Configuration) -> str | None:
    """Number of the process of the gateway that runs with this directory; None when none does. Makes nothing."""
    try:
        lock = os.open(config.directory / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return os.pread(lock, 32, 0).decode(errors="replace").strip() or "?"
    finally:
        os.close(lock)
    return None
