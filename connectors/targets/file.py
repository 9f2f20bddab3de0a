"""Files: JSON lines, InfluxDB line protocol or Parquet in a folder, for looking and for comparing.

Text is appended and synced before a write returns; a line that a crash tore is cut when the folder is opened again, and
a unit that is sent again stands there twice. Parquet is a file per unit, named by the unit's number and its readings, made
under another name, synced and renamed: a unit that is sent again replaces its file.
"""

import asyncio
import errno
import os
import re
import shutil
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field
from typing_extensions import override

from connectors.contract import (
    AuthError,
    CapacityError,
    ConfigError,
    Context,
    DeliveryError,
    Finding,
    Limits,
    RejectedRecords,
    TransientError,
    Writer,
)
from connectors.dry_run import Written, columns_of, refuse
from connectors.settings import Duration, Size, TargetConfig
from connectors.wire import rows
from connectors.wire.json_lines import JsonLinesEncoder
from connectors.wire.line_protocol import LineEncoder, Lines
from connectors.wire.line_settings import LineProtocolSettings
from normalization.reading import table

_FULL: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN: Final = {errno.EACCES, errno.EPERM, errno.EROFS}
_MISPLACED: Final = {errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL}


class FileConfig(TargetConfig):
    """Files in a folder."""

    type: Literal["file"] = Field("file", description="type of the target")
    endpoint: str | None = Field("data/files", description="folder that the files go to; made when it is missing")
    format: Literal["jsonl", "line_protocol", "parquet"] = Field("jsonl", description="what the files hold")
    rotate_size: Size = Field(
        64 * 1024**2, gt=0, description="a text file that is larger is followed by a new one, e.g. 64MiB"
    )
    rotate_interval: Duration = Field(
        3600.0, gt=0, description="a text file that is older is followed by a new one, in seconds or as 1h"
    )
    line_protocol: LineProtocolSettings = Field(
        LineProtocolSettings.model_validate({}), description="what becomes what with format line_protocol"
    )

    @override
    def writer(self, context: Context) -> Writer:
        return ParquetWriter(self) if self.format == "parquet" else TextWriter(self)

    @override
    def written(self, batch: pa.RecordBatch, context: Context) -> list[Written]:
        place = str(self.endpoint)
        if self.format == "parquet":
            return columns_of(table(batch), place)
        lines = TextWriter.encoder(self)(batch)
        if lines.rejected:
            refuse(dict(zip(lines.rejected, lines.reasons, strict=True)))
        return [Written(place, lines.payload)]


def delivery_error(error: OSError) -> DeliveryError:
    """The place of an operating system's error in the tree."""
    text = f"{error.filename or 'file'}: {error.strerror or error}"
    if error.errno in _FULL:
        return CapacityError(f"{text}; free some space or send readings elsewhere")
    if error.errno in _FORBIDDEN:
        return AuthError(f"{text}; let the gateway's user write there")
    if error.errno in _MISPLACED:
        return ConfigError(f"{text}; give a folder as `endpoint`")
    return TransientError(text)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make_folder(folder: Path) -> None:
    """Make a folder and those above it, durably."""
    missing = [f for f in (folder, *folder.parents) if not f.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for made in missing:
        _sync_folder(made.parent)


def _found(folder: Path) -> list[Finding]:
    """Whether files can be made in the folder, or in the nearest one above it that there is."""
    there = next(f for f in (folder, *folder.absolute().parents) if f.exists())
    if not there.is_dir():
        return [Finding(False, str(folder), f"{there} is a file; give a folder as `endpoint`")]
    if not os.access(there, os.W_OK | os.X_OK):
        return [Finding(False, str(folder), f"{there} cannot be written to; let the gateway's user write there")]
    free = shutil.disk_usage(there).free // 1024**2
    made = "the folder is there" if there == folder else "the folder will be made"
    return [Finding(True, str(folder), f"{made}; {free:,} MiB are free")]


def whole_lines(size: int, read: Callable[[int, int], bytes], block: int = 65_536) -> int:
    """Bytes of a file of lines that end with a line feed, counted from its start.

    Args:
        size: Bytes of the file.
        read: Gives bytes by position and count.
        block: Bytes read at once, from the end towards the start.
    """
    stop = size
    while stop > 0:
        start = max(0, stop - block)
        found = read(start, stop - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        stop = start
    return 0


def _opened_whole(path: Path) -> int:
    """Open a file of lines for appending, without the part of a line that a crash may have left at its end."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            os.ftruncate(descriptor, whole_lines(size, lambda start, count: os.pread(descriptor, count, start)))
            os.fsync(descriptor)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


class TextWriter(Writer):
    """Appends lines to the newest file of a folder."""

    def __init__(self, config: FileConfig) -> None:
        self.limits = Limits(
            rows=config.batch_size or 20_000,
            bytes=16 * 1024**2,
            linger=0.5 if config.flush_interval is None else config.flush_interval,
        )
        self._config = config
        self._folder = Path(config.endpoint or "data/files")
        self._suffix = ".jsonl" if config.format == "jsonl" else ".lp"
        self._encode = self.encoder(config)
        self._lock = threading.Lock()  # a write that was given up may still be under way in its thread
        self._file: int | None = None
        self._born = 0.0

    @staticmethod
    def encoder(config: FileConfig) -> Callable[[pa.RecordBatch], Lines]:
        """What makes the lines of a batch."""
        if config.format == "jsonl":
            encoder = JsonLinesEncoder()
            return lambda batch: Lines(encoder.encode(batch), [], [])
        return LineEncoder(config.line_protocol.form(one_line=True)).encode

    @override
    async def open(self) -> None:
        """Make the folder and cut what a crash tore; see `Writer.open`."""
        try:
            await asyncio.to_thread(self._locked, self._open)
        except OSError as error:
            raise delivery_error(error) from error

    @override
    async def write(self, batch: pa.RecordBatch, unit: int) -> None:
        """Append and sync; see `Writer.write`."""
        lines = self._encode(batch)
        try:
            await asyncio.to_thread(self._locked, self._append, lines.payload)
        except OSError as error:
            raise delivery_error(error) from error
        if lines.rejected:
            raise RejectedRecords(lines.rejected, lines.reasons, rest_written=True)

    @override
    async def close(self) -> None:
        """Close the file; see `Writer.close`."""
        await asyncio.to_thread(self._locked, self._close)

    async def check(self) -> list[Finding]:
        """Whether the folder can be used; see `contract.Checks`."""
        return await asyncio.to_thread(_found, self._folder)

    def _locked(self, act: Callable[..., None], *args: bytes) -> None:
        with self._lock:
            act(*args)

    def _close(self) -> None:
        if self._file is not None:
            descriptor, self._file = self._file, None
            os.close(descriptor)

    def _open(self) -> None:
        self._close()
        _make_folder(self._folder)
        files = sorted(
            f
            for f in self._folder.iterdir()
            if re.fullmatch(r"readings-\d{8}T\d{12}Z" + re.escape(self._suffix), f.name)
        )
        if not files:
            return
        for file in files:  # not the newest alone: a clock that was set back gives newer files older names
            self._close()
            self._file = _opened_whole(file)
        stamp = files[-1].name.removeprefix("readings-").removesuffix(self._suffix)
        self._born = datetime.strptime(stamp, "%Y%m%dT%H%M%S%fZ").replace(tzinfo=UTC).timestamp()

    def _append(self, payload: bytes) -> None:
        if not payload:
            return
        descriptor = self._current()
        start = os.fstat(descriptor).st_size
        try:
            view = memoryview(payload)
            done = 0
            while done < len(view):
                done += os.pwrite(descriptor, view[done:], start + done)
        except OSError:
            os.ftruncate(descriptor, start)
            raise
        try:
            os.fsync(descriptor)
        except OSError:
            self._close()  # what a failed sync left on disk is unknown: open cuts torn lines, nothing is appended before
            raise

    def _current(self) -> int:
        """The file to append to; a new one when the last is too large, too old or missing."""
        now = time.time()
        if self._file is not None:
            stat = os.fstat(self._file)
            fits = stat.st_size < self._config.rotate_size and 0 <= now - self._born < self._config.rotate_interval
            if fits and stat.st_nlink:
                return self._file
            self._close()
        self._born = now
        stamp = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%S%f")
        path = self._folder / f"readings-{stamp}Z{self._suffix}"
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        _sync_folder(self._folder)
        return self._file


class ParquetWriter(Writer):
    """Writes a Parquet file per unit, under the date on which its first reading was received."""

    def __init__(self, config: FileConfig) -> None:
        self.limits = Limits(
            rows=config.batch_size or 200_000,
            bytes=64 * 1024**2,
            linger=10.0 if config.flush_interval is None else config.flush_interval,
            remembers_units=True,
        )
        self._folder = Path(config.endpoint or "data/files")
        self._lock = threading.Lock()  # a write that was given up may still be under way in its thread

    @override
    async def open(self) -> None:
        """Make the folder and remove what a crash left unfinished; see `Writer.open`."""
        try:
            await asyncio.to_thread(self._open)
        except OSError as error:
            raise delivery_error(error) from error

    @override
    async def write(self, batch: pa.RecordBatch, unit: int) -> None:
        """Write the unit's file; see `Writer.write`."""
        try:
            await asyncio.to_thread(self._locked_write, batch, unit)
        except OSError as error:
            raise delivery_error(error) from error

    @override
    async def close(self) -> None:
        """Nothing is open between writes; see `Writer.close`."""

    async def check(self) -> list[Finding]:
        """Whether the folder can be used; see `contract.Checks`."""
        return await asyncio.to_thread(_found, self._folder)

    def _open(self) -> None:
        _make_folder(self._folder)
        for torn in self._folder.glob("*/*.parquet.part"):
            torn.unlink(missing_ok=True)

    def _locked_write(self, batch: pa.RecordBatch, unit: int) -> None:
        with self._lock:
            self._write(batch, unit)

    def _write(self, batch: pa.RecordBatch, unit: int) -> None:
        import pyarrow.parquet as pq

        if not len(batch):
            return
        day = np.datetime_as_string(batch.column("received_time")[:1].to_numpy(zero_copy_only=False), unit="D")[0]
        folder = self._folder / str(day)
        if not folder.exists():
            _make_folder(folder)
        # the readings are part of the name: were numbers given anew, no other unit's file would be replaced
        final = folder / f"unit-{unit:012}-{rows.fingerprint(batch):016x}.parquet"
        part = final.with_suffix(".parquet.part")
        with part.open("wb") as out:
            pq.write_table(pa.Table.from_batches([table(batch)]), out, compression="zstd")
            out.flush()
            os.fsync(out.fileno())
        part.replace(final)
        _sync_folder(folder)
