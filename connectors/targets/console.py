"""The console: readings on standard output, as a table for people or as JSON lines for programs."""

import asyncio
import sys
import threading
from typing import Final, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field
from typing_extensions import override

from connectors.contract import Context, Finding, Limits, TransientError, Writer
from connectors.dry_run import Written
from connectors.settings import TargetConfig
from connectors.wire import json_lines, rows
from connectors.wire.json_lines import JsonLinesEncoder
from normalization.reading import Quality

_QUALITIES: Final = pa.array([f"{q.name:<9} " for q in Quality], pa.string())
# what could move the cursor, color the screen or turn the direction of writing
_UNSAFE: Final = r"[\x00-\x1f\x7f-\x{9f}\x{200e}\x{200f}\x{202a}-\x{202e}\x{2066}-\x{2069}]"


class ConsoleConfig(TargetConfig):
    """Readings on standard output."""

    type: Literal["console"] = Field("console", description="type of the target")
    format: Literal["table", "jsonl"] = Field("table", description="a table for people, or JSON lines for programs")

    @override
    def writer(self, context: Context) -> Writer:
        return ConsoleWriter(self)

    @override
    def written(self, batch: pa.RecordBatch, context: Context) -> list[Written]:
        encode = encode_table if self.format == "table" else JsonLinesEncoder().encode
        return [Written("standard output", encode(batch))]


def encode_table(batch: pa.RecordBatch) -> bytes:
    """A line per reading: time, quality, path (or the tag's name), value and unit, in columns.

    Args:
        batch: A batch of `normalization.reading.stream_schema`.
    """
    when = pc.coalesce(batch.column("source_time"), batch.column("received_time")).view(pa.int64())
    path, name = (batch.column(column).dictionary_decode() for column in ("path", "tag_name"))
    place = pc.utf8_rpad(pc.if_else(pc.equal(path, ""), name, path), 56)
    unit = batch.column("unit").dictionary_decode()
    unit = pc.if_else(pc.equal(unit, ""), "", pc.binary_join_element_wise(" ", unit, ""))
    text = pc.binary_join_element_wise(
        json_lines.timestamps(when),
        "  ",
        _QUALITIES.take(batch.column("quality")),
        place,
        " ",
        rows.by_type(batch, json_lines.value),
        unit,
        "",
    )
    return rows.join([pc.replace_substring_regex(text, _UNSAFE, "�"), "\n"])


class ConsoleWriter(Writer):
    """Prints each unit at once."""

    def __init__(self, config: ConsoleConfig) -> None:
        self.limits = Limits(
            rows=config.batch_size or 1_000, linger=0.2 if config.flush_interval is None else config.flush_interval
        )
        self._encode = encode_table if config.format == "table" else JsonLinesEncoder().encode
        self._lock = threading.Lock()

    @override
    async def open(self) -> None:
        """There is nothing to connect; see `Writer.open`."""

    @override
    async def write(self, batch: pa.RecordBatch, unit: int) -> None:
        """Print; see `Writer.write`."""
        await asyncio.to_thread(self._print, self._encode(batch))

    @override
    async def close(self) -> None:
        """Standard output stays open; see `Writer.close`."""

    async def check(self) -> list[Finding]:
        """Whether anything can be printed; see `contract.Checks`."""
        if sys.stdout.closed:
            return [
                Finding(False, "standard output", "is closed; start the gateway with it open, or use a file target")
            ]
        return [Finding(True, "standard output", "open")]

    def _print(self, payload: bytes) -> None:
        try:
            with self._lock:
                sys.stdout.flush()
                sys.stdout.buffer.write(payload)
                sys.stdout.buffer.flush()
        except (OSError, ValueError) as error:  # ValueError: it was closed
            raise TransientError(f"standard output: {error}") from error
