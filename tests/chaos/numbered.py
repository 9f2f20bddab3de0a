"""What the chaos gateway is made of: sources that number their readings, and targets that keep what they took in frames.

A source gives n = 1, 2, 3 … with a value that follows from n, and notes each n that the journal acknowledged. A target
appends one frame per write. How a target behaves is read from a file at every write, so that a runner in another process
can break it and mend it while the gateway lives.
"""

import asyncio
import contextlib
import os
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field
from typing_extensions import override

from connectors.contract import (
    CapacityError,
    Context,
    Intake,
    Limits,
    Reader,
    RejectedRecords,
    SourceState,
    TransientError,
    Writer,
)
from connectors.settings import SourceConfig, TargetConfig
from normalization.reading import Columns
from tests.appending import Appender, whole_numbers

ROW: Final = np.dtype(
    [
        ("source", "<u4"),
        ("shard", "<u4"),
        ("path", "<u4"),
        ("sequence", "<i8"),
        ("n", "<i8"),
        ("value", "<i8"),
        ("received", "<i8"),
    ]
)
FRAME: Final = struct.Struct("<4sIqqI")  # magic, checksum of all behind it, unit, µs since the epoch, rows
_CHECKED: Final = 8
MAGIC: Final = b"CHAO"
POISON: Final = 1000  # a rejecting target will never take every thousandth reading
TAGS: Final = 40
"""Tags of a source; reading `n` is of tag `n` modulo this."""
_PERIOD: Final = 0.01
_BURST: Final = 8 * 1024 * 1024  # bytes that a source gives at once, at most
_POOL: Final = 64 * 1024 * 1024
_MOST_WAITING: Final = 50
_HANGS: Final = 2.0  # seconds until a writer gives up on a target that does not answer

Way = Literal["ok", "refuse", "hang", "throttle", "reject", "partial", "forget", "slow"]


def value_of(n: Any) -> Any:
    """The value of reading `n`, an integer or an array of them: no other reading has it, and no flipped bit makes another."""
    return (n * 0x5851F42D4C957F2D) & 0x7FFFFFFFFFFFFFFF


def is_poison(n: Any) -> Any:
    """Whether a rejecting target refuses reading `n` for ever."""
    return n % POISON == 7


def code(name: str) -> int:
    """A name as 32 bits."""
    return zlib.crc32(name.encode())


class NumberedConfig(SourceConfig):
    protocol: Literal["mqtt", "modbus", "opcua"] = "mqtt"
    rate: int = Field(1000, description="readings per second")
    tag_count: int = Field(TAGS, description="tags")
    padding: int = Field(0, description="characters that each reading carries besides, which do not compress well")
    acked: Path = Field(description="file of acknowledged numbers")

    @override
    def reader(self, context: Context) -> Reader:
        return NumberedReader(self)


class NumberedReader(Reader):
    """After a restart it goes on after the newest number whose state was committed."""

    def __init__(self, config: NumberedConfig) -> None:
        self._config = config

    @override
    async def run(self, intake: Intake, state: bytes | None) -> None:
        config = self._config
        n = max(
            int(state or b"0"), last_number(config.acked)
        )  # as a broker: what was acknowledged is never given again
        pool = os.urandom(_POOL // 2).hex() if config.padding else ""
        tags = [intake.tag(config.tag(config.name, f"a{i}", f"tag_{i}")) for i in range(config.tag_count)]
        most = min(config.rate, _BURST // (config.padding or 1))  # after a stall not more than a second's worth at once
        intake.state(SourceState.CONNECTED)
        with Appender(config.acked, whole_numbers) as acked:
            began, given, waiting = time.monotonic(), 0, list[asyncio.Future[None]]()
            while True:
                due = int((time.monotonic() - began) * config.rate)
                count = min(due - given, most)
                given = due
                if count:
                    rows = Columns()
                    for _ in range(count):
                        n += 1
                        at = n * config.padding % max(1, _POOL - config.padding)
                        more = f'{{"p":"{pool[at : at + config.padding]}"}}' if pool else None
                        rows.add(tags[n % len(tags)], value_of(n), source_time=n, properties=more)
                    done = intake.append(rows, str(n).encode())
                    done.add_done_callback(partial(_note, acked, n))
                    waiting.append(done)
                if len(waiting) > _MOST_WAITING:
                    await waiting[0]
                    waiting = [future for future in waiting if not future.done()]
                await asyncio.sleep(_PERIOD)


def last_number(acked: Path) -> int:
    """The newest number that was acknowledged; all before it are too."""
    numbers = np.fromfile(acked, "<i8") if acked.exists() else np.empty(0, np.int64)
    return int(numbers.max()) if len(numbers) else 0


def _note(acked: Appender, n: int, done: "asyncio.Future[None]") -> None:
    if not done.cancelled() and done.exception() is None:
        with contextlib.suppress(OSError):  # a fault hit this very write: then nobody was told
            acked.append(n.to_bytes(8, "little"))


class FramesConfig(TargetConfig):
    type: Literal["frames"] = "frames"
    path: Path = Field(description="file of frames")
    control: Path = Field(description="file that says how to behave")
    remembers: bool = Field(False, description="whether it knows the number of the last unit that it took")
    rows: int = Field(2000, description="readings in one write")

    @override
    def writer(self, context: Context) -> Writer:
        return FramesWriter(self)


class FramesWriter(Writer):
    """Appends frames; one that remembers units takes each number once."""

    def __init__(self, config: FramesConfig) -> None:
        self.limits = Limits(rows=config.rows, linger=0.02, remembers_units=config.remembers)
        self._config = config
        self._file: Appender | None = None
        self._last = 0
        self._whole = 0  # bytes of the file that an earlier opening found whole: a long outage must not read all again

    @override
    async def open(self) -> None:
        if self._way() in ("refuse", "hang"):
            raise TransientError("told to be away")
        config = self._config
        config.control.with_suffix(".thread").write_text(str(threading.get_native_id()))
        self._whole, last = sound_bytes(config.path, self._whole)
        self._last = max(self._last, last)
        self._file = Appender(config.path, lambda _: self._whole)

    def _way(self) -> Way:
        try:
            return self._config.control.read_text()  # type: ignore[return-value]
        except OSError:
            return "ok"

    @override
    async def write(self, batch: pa.RecordBatch, unit: int) -> None:
        way = self._way()
        match way:
            case "refuse":
                raise TransientError("told to refuse")
            case "throttle":
                raise CapacityError("told to throttle", retry_after=0.2)
            case "hang":
                await asyncio.sleep(_HANGS)
                raise TransientError("no answer")
            case "slow":
                await asyncio.sleep(0.2)
        if self._config.remembers and unit <= self._last:
            return
        rows = rows_of(batch)
        if way == "partial" and len(rows) > 1 and not self._config.remembers:
            self._append(unit, rows[: len(rows) // 2])
            raise TransientError("told to take half")
        poison = np.flatnonzero(is_poison(rows["n"])) if way == "reject" else np.empty(0, np.int64)
        if len(poison):
            indices = [int(row) for row in poison]
            if self._config.remembers:  # a unit is taken whole or not at all
                raise RejectedRecords(indices, ["poison"] * len(indices))
            self._append(unit, np.delete(rows, poison))
            raise RejectedRecords(indices, ["poison"] * len(indices), rest_written=True)
        self._append(unit, rows)
        if way == "forget":
            raise TransientError("taken, but the answer was lost")

    def _append(self, unit: int, rows: np.ndarray) -> None:
        assert self._file is not None
        try:
            self._file.append(frame(unit, rows))
        except OSError as error:
            raise TransientError(f"the target's disk: {error}") from error
        self._last = max(self._last, unit)

    @override
    async def close(self) -> None:
        if self._file is not None:
            self._file.close()


def rows_of(batch: pa.RecordBatch) -> np.ndarray:
    """The readings of a batch that sources gave; the gateway's own have no value."""
    rows = np.zeros(len(batch), ROW)
    for name, column in (("source", "source"), ("shard", "shard"), ("path", "path")):
        encoded = batch.column(column)
        encoded = encoded if isinstance(encoded, pa.DictionaryArray) else encoded.dictionary_encode()
        codes = np.array([code(text or "") for text in encoded.dictionary.to_pylist()] or [0], np.uint32)
        rows[name] = codes[encoded.indices.fill_null(0).to_numpy()]
    rows["sequence"] = batch.column("sequence").to_numpy()
    rows["n"] = batch.column("source_time").cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
    rows["value"] = batch.column("value_int").fill_null(0).to_numpy(zero_copy_only=False)
    rows["received"] = batch.column("received_time").cast(pa.int64()).to_numpy(zero_copy_only=False)
    return rows


def frame(unit: int, rows: np.ndarray) -> bytes:
    """What a target keeps of one write."""
    body = rows.tobytes()
    head = FRAME.pack(MAGIC, 0, unit, time.time_ns() // 1000, len(rows))
    checksum = zlib.crc32(body, zlib.crc32(memoryview(head)[_CHECKED:]))
    return MAGIC + checksum.to_bytes(4, "little") + head[_CHECKED:] + body


def frames(path: Path, start: int = 0) -> list[tuple[int, int, np.ndarray]]:
    """Unit, time and rows of each sound frame of a target from byte `start` on."""
    return [(unit, moment, np.frombuffer(body, ROW)) for unit, moment, body, _ in _scan(path, start)]


def sound_bytes(path: Path, start: int = 0) -> tuple[int, int]:
    """Bytes of the file up to which its frames are whole, and the largest unit there from byte `start` on."""
    largest, whole = 0, start
    for unit, _, _, end in _scan(path, start):
        largest, whole = max(largest, unit), end
    return whole, largest


def _scan(path: Path, start: int) -> Iterator[tuple[int, int, bytes, int]]:
    """Unit, time, body and end of each sound frame; one frame at a time is in memory, however large the file is."""
    if not path.exists():
        return
    with path.open("rb") as file:
        file.seek(start)
        while len(head := file.read(FRAME.size)) == FRAME.size:
            magic, checksum, unit, moment, rows = FRAME.unpack(head)
            body = file.read(rows * ROW.itemsize) if magic == MAGIC else b""
            if magic != MAGIC or zlib.crc32(body, zlib.crc32(head[_CHECKED:])) != checksum:
                return
            yield unit, moment, body, file.tell()
