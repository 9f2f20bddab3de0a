"""A gateway on the core path whose pages may be open: ``python -m benchmarks.watched RATE SECONDS PORT DIRECTORY``.

The flow, the stores and the targets are those of `benchmarks.core_path`. RATE readings per second come for SECONDS; with 0 as many
as it can take, a thousand at a time, some of them on their way into the journal at any time, so that no core waits for a disk. PORT 0 is a gateway without UI. It prints ``ready`` when its tags are known, waits for a line,
and then measures: CPU-seconds of the whole process, all threads, until every reading is encoded and the journal is trimmed.
"""

import asyncio
import json
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any, Final, Literal

from typing_extensions import override

from benchmarks.core_path import PROCESS, RULES, LinesTarget, copied, prepare
from config.models import Configuration
from connectors.contract import Context, Intake, Reader, SourceState
from connectors.settings import SourceConfig
from normalization.reading import Columns

IN_FLIGHT: Final = 8  # batches of a source that are not durable yet
_EVERY = 0.02  # seconds between two batches of a paced run
_WARM = 2_000
_FULL = 1_000


class WatchedSource(SourceConfig):
    """A source of readings at a pace."""

    protocol: Literal["opcua"] = "opcua"
    rate: int
    seconds: float

    @override
    def reader(self, context: Context) -> Reader:
        return _Watched(self)


class _Watched(Reader):
    def __init__(self, config: WatchedSource) -> None:
        self._config = config

    @override
    async def run(self, intake: Intake, state: bytes | None) -> None:
        config = self._config
        rows = max(1, round(config.rate * _EVERY)) if config.rate else _FULL
        variants = prepare(config, intake, rows)
        intake.state(SourceState.CONNECTED)
        warm = -(-_WARM // rows)
        for number in range(warm):
            await intake.append(copied(variants[number % len(variants)]))
        await finished(warm * rows)
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        cpu, began, ui = time.process_time(), time.monotonic(), _ui_cpu()
        ahead = Ahead(intake)
        given = 0
        while (now := time.monotonic()) < began + config.seconds:
            if config.rate and now < began + given * _EVERY:
                await asyncio.sleep(began + given * _EVERY - now)
                continue
            await ahead.append(copied(variants[given % len(variants)]))
            given += 1
        await finished((warm + given) * rows)
        cpu, wall, ui = time.process_time() - cpu, time.monotonic() - began, _ui_cpu() - ui
        found = {"readings": given * rows, "cpu_s": round(cpu, 3), "wall_s": round(wall, 2), "ui_cpu_s": round(ui, 3)}
        print(json.dumps(found), flush=True)
        PROCESS[0].drain()
        await asyncio.sleep(60)


class Ahead:
    """Appends batches, some before the one before them is durable."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def append(self, rows: Columns) -> None:
        self._waiting.append(self._intake.append(rows))
        if len(self._waiting) > IN_FLIGHT:
            await self._waiting.popleft()


def _ui_cpu() -> float:
    """CPU-seconds of the threads that serve pages and look at readings for them."""
    of_ui = [t for t in threading.enumerate() if t.name in ("port", "live") or t.name.startswith("AnyIO worker")]
    used = [Path(f"/proc/self/task/{thread.native_id}/schedstat").read_text().split()[0] for thread in of_ui]
    return sum(map(int, used)) / 1e9


async def finished(readings: int) -> None:
    """Wait until the journal has let go of so many readings, and the targets have settled everything."""
    outcome = PROCESS[0].journal._outcome  # noqa: SLF001
    while outcome.routed.total() < readings or any(s.stored_rows for s in PROCESS[0].spools.values()):  # noqa: ASYNC110
        await asyncio.sleep(0.05)


def main() -> None:
    """Run one gateway."""
    import bifrost.run
    from flows.process import Process

    class Watched(Process):
        """The gateway's process, which the reader asks for its stores."""

        def __init__(self, config: Configuration) -> None:
            super().__init__(config)
            PROCESS.append(self)

        @override
        def open_stores(self) -> None:
            super().open_stores()
            if not rate:
                self.journal._commit_rows = _FULL  # noqa: SLF001 - a batch is a group commit at once

    rate, seconds, port, directory = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    bifrost.run.Process = Watched  # type: ignore[attr-defined]
    source: Any = WatchedSource(name="synthetic", rate=rate, seconds=seconds)
    config = Configuration(
        gateway="bench",
        directory=directory,
        sources=(source,),
        targets={"lines": LinesTarget(name="lines"), "alarms": LinesTarget(name="alarms")},
        rules=RULES,
        port=port or None,
        log_level="warning",
        memory_rows=100_000,
    )
    sys.exit(bifrost.run.run(config))


if __name__ == "__main__":
    main()
