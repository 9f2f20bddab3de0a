"""The core path: readings per CPU-second from a source's batch to the lines that a target would send.

A source's columns → journal (fsync) → Bytewax → normalize → 5 rules → spool (fsync) → trim → read back → line protocol. It is
the gateway's own flow with its recovery store and 1-second epochs; only the two ends are ours: a reader that appends columns
it has ready, each batch after the one before is on disk, so that a batch is a group commit; and writers that encode line
protocol and throw the bytes away. One run is one process: ``python -m benchmarks.core_path ROWS BATCHES live DIRECTORY``.

CPU-seconds are those of the whole process, all threads, user and system, from the first measured append until every
reading is encoded and the journal is trimmed; the tags are known by then. A rule of report by exception, as JSON, may follow.
"""

import asyncio
import gc
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, Final, Literal

import pyarrow as pa
from typing_extensions import override

from config.models import Configuration
from connectors.contract import Context, Intake, Limits, Reader, SourceState, Writer
from connectors.settings import SourceConfig, TargetConfig
from connectors.wire.line_protocol import LineEncoder
from normalization.reading import Columns, Quality, ValueType
from normalization.rules import Rule

TAGS: Final = 1_000
SIZES: Final = {1: 3_000, 10: 3_000, 100: 2_000, 1_000: 1_000, 10_000: 120}  # readings per batch: batches of a run
RULES: Final = (
    Rule("plant", "path LIKE 'plant1/%'", ("lines",), 0),
    Rule("packaging", "equipment IN ('packer1', 'packer2')", ("lines",), 1),
    Rule("bad", "quality = 'BAD' OR quality = 'ALARM'", ("lines",), 2),
    Rule("high", "signal_type = 'temperature' AND value > 90", ("alarms",), 3),
    Rule("low", "signal_type <> 'temperature' AND value < 2.5", ("alarms",), 3),
)
BEHIND: Final = "behind"
LIVE: Final = "live"
_VARIANTS: Final = 8
_SIGNALS: Final = (("temp", "°C"), ("pressure", "bar"), ("speed", "rpm"), ("level", "%"))


class SyntheticSource(SourceConfig):
    """A source whose readings are ready before the clock starts."""

    protocol: Literal["opcua"] = "opcua"
    rows: int
    batches: int

    @override
    def reader(self, context: Context) -> Reader:
        return _Synthetic(self)


class LinesTarget(TargetConfig):
    """A target that encodes line protocol and throws it away."""

    type: Literal["lines"] = "lines"

    @override
    def writer(self, context: Context) -> Writer:
        return _Lines()


class _Lines(Writer):
    limits = Limits()
    encoded = 0
    bytes = 0
    held = False  # the target does not answer

    def __init__(self) -> None:
        self._encoder = LineEncoder()

    @override
    async def open(self) -> None:
        pass

    @override
    async def write(self, batch: pa.RecordBatch, unit: int) -> None:
        while _Lines.held:  # noqa: ASYNC110 - set from another thread's loop
            await asyncio.sleep(0.1)
        lines = self._encoder.encode(batch)
        if lines.rejected:
            raise RuntimeError(lines.reasons[0])
        _Lines.encoded += len(batch)
        _Lines.bytes += len(lines.payload)

    @override
    async def close(self) -> None:
        pass


def prepare(config: SourceConfig, intake: Intake, rows: int) -> list[Columns]:
    """Different batches of `rows` readings over 1,000 tags: nine in ten are doubles, the rest integers, booleans, texts."""
    tags = []
    for number in range(TAGS):
        signal, unit = _SIGNALS[number % len(_SIGNALS)]
        places = {
            "site": "plant1",
            "area": "hall2",
            "line": f"line{number // 200}",
            "equipment": f"packer{number // 50}",
        }
        tags.append(intake.tag(config.tag("plc", f"ns=2;s={number}", f"{signal}_{number}", unit, places=places)))
    variants = []
    now = time.time_ns() // 1000
    for variant in range(_VARIANTS):
        made = Columns()
        for row in range(rows):
            number = (variant * rows + row) % TAGS
            drawn = (number * 7919 + variant * 104_729) % 10_000 / 100.0
            value: Any = drawn
            match number % 50:
                case 10 | 11:
                    value = round(drawn)
                case 20 | 21:
                    value = drawn > 50
                case 30:
                    value = f"recipe {number}"
            quality = Quality.BAD if number % 97 == 0 else Quality.GOOD
            # With a rule, no reading may be older than another.
            when = None if config.report else now + variant * 1000 + row
            made.add(tags[number], value, quality=quality, status=0, source_time=when)
        variants.append(made)
    if sum(kind != ValueType.DOUBLE for made in variants for kind in made.type) == 0 and rows * _VARIANTS > TAGS:
        raise RuntimeError("the readings are meant to be of several types")
    return variants


def copied(made: Columns) -> Columns:
    """The same readings, for a reader to hand over."""
    rows = Columns()
    rows.extend(made)
    return rows


class _Synthetic(Reader):
    def __init__(self, config: SyntheticSource) -> None:
        self._config = config

    @override
    async def run(self, intake: Intake, state: bytes | None) -> None:
        rows, batches = self._config.rows, self._config.batches
        variants = prepare(self._config, intake, rows)
        intake.state(SourceState.CONNECTED)
        warm = max(20, min(batches // 10, 200), -(-2 * TAGS // rows) if rows >= 10 else 1)
        await self._feed(intake, [copied(variants[number % _VARIANTS]) for number in range(warm)])
        await self._finished(warm * rows)
        ready = [copied(variants[number % _VARIANTS]) for number in range(batches)]
        gc.collect()
        gc.freeze()  # what waits here is no part of the gateway: the collector shall not look at it
        cpu, wall, began = time.process_time(), time.monotonic(), os.times()
        encoded, size = _Lines.encoded, _Lines.bytes
        _Lines.held = BEHIND in sys.argv
        await self._feed(intake, ready)
        if _Lines.held:
            await self._trimmed((warm + batches) * rows)
            _Lines.held = False
        await self._finished((warm + batches) * rows)
        cpu, wall, ended = time.process_time() - cpu, time.monotonic() - wall, os.times()
        self._check((warm + batches) * rows)
        print(
            json.dumps(
                {
                    "rows_per_batch": rows,
                    "readings_per_cpu_s": round(batches * rows / cpu),
                    "readings": batches * rows,
                    "delivered": _Lines.encoded - encoded,
                    "bytes": _Lines.bytes - size,
                    "cpu_s": round(cpu, 3),
                    "user_s": round(ended.user - began.user, 3),
                    "system_s": round(ended.system - began.system, 3),
                    "wall_s": round(wall, 3),
                }
            ),
            flush=True,
        )
        PROCESS[0].drain()
        await asyncio.sleep(60)

    async def _feed(self, intake: Intake, ready: list[Columns]) -> None:
        """Append each when the one before is on disk, and let go of it, as a reader does."""
        ready.reverse()
        while ready:
            await intake.append(ready.pop())

    async def _trimmed(self, readings: int) -> None:
        """Wait until the journal has let go of `readings` (the account itself would scan it)."""
        outcome = PROCESS[0].journal._outcome  # noqa: SLF001
        while outcome.routed.total() + sum(left.total() for left in outcome.filtered.values()) < readings:  # noqa: ASYNC110
            await asyncio.sleep(0.1)

    async def _finished(self, readings: int) -> None:
        """Wait until the journal is trimmed and the targets have settled everything."""
        await self._trimmed(readings)
        while any(spool.stored_rows for spool in PROCESS[0].spools.values()):  # noqa: ASYNC110
            await asyncio.sleep(0.1)

    def _check(self, readings: int) -> None:
        account = PROCESS[0].account()
        journalled = sum(line.journalled for line in account.sources.values())
        if journalled != readings or account.unaccounted:
            raise RuntimeError(f"{readings} readings went in, the account says {account}")


PROCESS: Final[list[Any]] = []


def main() -> None:
    """Measure one batch size in this process."""
    import bifrost.run
    from flows.process import Process

    class Watched(Process):
        """The gateway's process, which the reader asks for the account."""

        def __init__(self, config: Configuration) -> None:
            super().__init__(config)
            PROCESS.append(self)

        @override
        def open_stores(self) -> None:
            super().open_stores()
            self.journal._commit_rows = rows  # noqa: SLF001 - a batch is a group commit at once, without the linger

    bifrost.run.Process = Watched  # type: ignore[attr-defined]
    rows, batches, mode, directory = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], Path(sys.argv[4])
    rule = json.loads(sys.argv[5]) if len(sys.argv) > 5 else None
    config = Configuration(
        gateway="bench",
        directory=directory,
        sources=(SyntheticSource(name="synthetic", rows=rows, batches=batches, report=rule),),
        targets={"lines": LinesTarget(name="lines"), "alarms": LinesTarget(name="alarms")},
        rules=RULES,
        port=None,
        log_level="warning",
        memory_rows=1 if mode == BEHIND else 100_000,
    )
    sys.exit(bifrost.run.run(config))


if __name__ == "__main__":
    main()
