"""A source that numbers its readings and notes which were acknowledged, and a target that writes identities to a file."""

import asyncio
import json
import time
from pathlib import Path
from typing import Literal

import pyarrow as pa
from pydantic import Field
from typing_extensions import override

from config.models import Configuration
from config.telemetry import TelemetrySection
from connectors.contract import Context, Intake, Limits, Reader, SourceState, TransientError, Writer
from connectors.settings import SourceConfig, TagMapping, TargetConfig
from normalization.reading import Columns
from normalization.rules import Rule
from tests.appending import Appender


class NumberedConfig(SourceConfig):
    protocol: Literal["mqtt", "modbus", "opcua"] = "mqtt"
    rate: int = Field(2000, description="readings per second")
    tag_count: int = Field(50, description="tags")
    fold: int = Field(0, description="values begin again after so many numbers; 0: the value is the number")
    acked: Path = Field(description="file of acknowledged numbers")
    hang: Path | None = Field(None, description="while this file is there, the thread of all readers is held")

    @override
    def reader(self, context: Context) -> Reader:
        return NumberedReader(self)


class NumberedReader(Reader):
    """Gives n = 1, 2, 3 …; after a restart it goes on after the newest number that was committed, or acknowledged: what is
    lost in spite of that must not be given again."""

    def __init__(self, config: NumberedConfig) -> None:
        self._config = config

    @override
    async def run(self, intake: Intake, state: bytes | None) -> None:
        n = max(int(state or b"0"), _last(self._config.acked))
        tags = [intake.tag(self._config.tag("dev", f"a{i}", f"tag_{i}")) for i in range(self._config.tag_count)]
        intake.state(SourceState.CONNECTED)
        acked = Appender(self._config.acked)
        period, waiting, fold = 0.01, [], self._config.fold
        per_tick = max(1, round(self._config.rate * period))
        while True:
            while self._config.hang is not None and self._config.hang.exists():
                time.sleep(0.01)  # noqa: ASYNC251 - it is to hang
            rows = Columns()
            for _ in range(per_tick):
                n += 1
                rows.add(tags[n % len(tags)], n % fold if fold else n, source_time=n)
            done = intake.append(rows, str(n).encode())
            done.add_done_callback(lambda _, n=n: acked.append(f"{n}\n".encode()))
            waiting.append(done)
            if len(waiting) > 50:
                await waiting[0]
                waiting = [w for w in waiting if not w.done()]
            await asyncio.sleep(period)


def _last(acked: Path) -> int:
    numbers = acked.read_text().split("\n")[:-1] if acked.exists() else []
    return max(map(int, numbers), default=0)


class TellingConfig(TargetConfig):
    type: Literal["telling"] = "telling"
    path: Path = Field(description="file of identities")
    fail: bool = Field(False, description="refuse everything")
    hang: bool = Field(False, description="never answer to a write")

    @override
    def writer(self, context: Context) -> Writer:
        return TellingWriter(self)


class TellingWriter(Writer):
    """Appends [unit, shard, sequence, integer, path, number, µs since it was received] per reading to a file."""

    def __init__(self, config: TellingConfig) -> None:
        self.limits = Limits(rows=config.batch_size or 1000, linger=0.02)
        self._config = config

    @override
    async def open(self) -> None:
        if self._config.fail:
            raise TransientError("told to fail")
        self._file = Appender(self._config.path)

    @override
    async def write(self, batch: pa.RecordBatch, unit: int) -> None:
        if self._config.hang:
            await asyncio.Event().wait()
        columns = ("shard", "sequence", "value_int", "path", "value")
        rows = zip(*(batch.column(c).to_pylist() for c in columns), strict=True)
        received, now = batch.column("received_time").view(pa.int64()).to_pylist(), time.time_ns() // 1000
        lines = [json.dumps([unit, *row, now - then]) for row, then in zip(rows, received, strict=True)]
        self._file.append("".join(f"{line}\n" for line in lines).encode())

    @override
    async def close(self) -> None:
        pass


PROTOCOLS = ("mqtt", "modbus", "opcua")


def configuration(
    directory: Path,
    *,
    fail_second: bool = False,
    hang_second: bool = False,
    idle: bool = False,
    rate: int = 2000,
    port: int | None = None,
    gateway: str = "gw",
    celsius: bool = False,
    report: float | None = None,
    rule: dict | None = None,
    fold: int = 0,
    telemetry: dict | None = None,
) -> Configuration:
    """Three numbered sources, two telling targets."""
    tags = [TagMapping(match="*", unit="°C")] if celsius else []
    return Configuration(
        gateway=gateway,
        directory=directory / "data",
        sources=()
        if idle
        else tuple(
            NumberedConfig(
                name=f"{p}_line",
                protocol=p,
                acked=directory / f"{p}.acked",
                site="plant1",
                area=p,
                rate=rate,
                tags=tags,
                report=rule,
                fold=fold,
                hang=directory / "hang_reading",
            )
            for p in PROTOCOLS
        ),
        targets={
            "first": TellingConfig(path=directory / "first.jsonl"),
            "second": TellingConfig(
                path=directory / "second.jsonl", fail=fail_second, hang=hang_second, retry_delay=0.1, timeout=60
            ),
        },
        rules=(
            Rule("even", "value >= 0 AND tag_name LIKE 'tag_%'", ("first",), 1),
            Rule("reports", "protocol = 'gateway'", ("first",), 0),
        ),
        default=("second",),
        source_targets={f"{p}_line": "second" for p in PROTOCOLS},
        port=port,
        report_interval=report,
        telemetry=TelemetrySection.model_validate(telemetry or {}),
        log_level="warning",
    )


def read(path: Path) -> list[list]:
    """What a telling target wrote; a torn last line is left out."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().split("\n")[:-1] if line.endswith("]")]


if __name__ == "__main__":
    import sys

    from bifrost.run import run

    sys.exit(run(configuration(Path(sys.argv[1]), fail_second="--fail-second" in sys.argv)))
