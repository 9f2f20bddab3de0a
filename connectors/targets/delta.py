"""Delta Lake in a local folder or an object store; every reading once.

A unit is committed together with two *application transactions*: its number, and the fingerprint of its readings. Delta
keeps the last of each per application, so before a commit the table itself says whether the unit is there:

* a smaller number, or none: the unit is new;
* the same number and fingerprint: the unit was committed before a crash or a lost answer;
* the same number with other readings, or a larger number: the numbers began anew (a new spool, or a restored one).
  The application id gets a new random part, and the unit is committed under that.

Delta refuses a commit by a handle that has not seen the last one of the same application, so that even two commits of
one unit at the same time leave it once. Local folders are synced here, because the library does not; what a power cut
tore before that was never acknowledged, and is taken out of the log when the table is opened.
"""

import asyncio
import contextlib
import json
import logging
import math
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field, SecretStr
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
from connectors.settings import Duration, Size, TargetConfig
from connectors.targets.delta_log import mend, sync, write_durably
from connectors.wire.rows import fingerprint
from normalization.reading import TABLE, table

if TYPE_CHECKING:
    from deltalake import DeltaTable, PostCommitHookProperties

_HOUR = 3600.0
_HANDLE_LIFE = 50  # commits by one handle: each makes its next one slower, after 1,000 of them 160 ms instead of 30
_TIDY_EVERY = 100  # commits after which the log gets a checkpoint, where files are not merged
_UNSURE = 20  # commits at the end of a log that may not be synced, where nothing says so: a write's and a merge's

log: Final = logging.getLogger(__name__)

_FIRST = int(np.datetime64("0001-01-01", "us").astype(np.int64))
_LAST = int(np.datetime64("9999-12-31T23:59:59.999999", "us").astype(np.int64))

# the first pattern that is found in an error's text decides; whatever none knows is worth another try
_ERRORS: Final[Sequence[tuple[str, type[DeliveryError], str]]] = (
    (r"No space left|os error 28\b|Disk quota|os error 122\b", CapacityError, "free some space"),
    (r"\b(429|507) |SlowDown|Too Many Requests|TooManyRequests", CapacityError, "the store is throttling"),
    (
        r"\b40[13] |Unauthorized|Forbidden|AccessDenied|Permission ?[Dd]enied|os error (1|13|30)\b|[Cc]redential",
        AuthError,
        "check credentials and permissions",
    ),
    (r"Unknown scheme|Invalid table location|[Uu]nable to (parse|recognise) URL", ConfigError, "check `endpoint`"),
    (r"NoSuchBucket|404 Not Found|[Nn]ot a ?[Dd]irectory|os error 20\b", ConfigError, "check `endpoint`"),
    (r"Could not create local|Missing .*(bucket|region|account)", ConfigError, "check `endpoint` and storage_options"),
    (
        r"Cannot cast|fields does not match|not found in schema|[Ss]chema.*mismatch",
        ConfigError,
        "check the table's schema",
    ),
)


class DeltaConfig(TargetConfig):
    """A Delta table, or one per source."""

    type: Literal["delta"] = Field("delta", description="type of the target")
    endpoint: str | None = Field(
        "data/delta", description="folder, or URL in an object store (s3://bucket/plant, az://…, gs://…), of the tables"
    )
    table: str = Field("readings", description="name of the table", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")
    per: Literal["target", "source"] = Field(
        "target", description="`target`: one table; `source`: a table for each source, named `<table>_<source>`"
    )
    storage_options: dict[str, SecretStr] = Field(
        {}, description="options of the object store as delta-rs names them, e.g. AWS_REGION, AZURE_STORAGE_ACCOUNT_KEY"
    )
    batch_size: int | None = Field(200_000, ge=1, description="readings in one commit, at most")
    flush_interval: Duration | None = Field(2.0, description="time that a reading may wait for a commit to fill")
    compact_every: int = Field(100, ge=0, description="commits after which small files are merged; 0 for never")
    file_size: Size = Field(64 * 1024**2, gt=0, description="size of a file that merging aims at, e.g. 64MiB")
    file_retention: Duration = Field(
        86400.0, ge=3600, description="time that a merged file stays for who is still reading it, at least 1h"
    )
    log_retention: Duration = Field(
        3600.0, ge=60, description="time that the table's history is kept; a long log makes every commit slower"
    )

    @override
    def writer(self, context: Context) -> Writer:
        return DeltaWriter(self, context)

    @property
    def location(self) -> str | Path:
        """The folder of the tables as an absolute path, or their URL."""
        endpoint = (self.endpoint or "data/delta").removeprefix("file://")
        return endpoint.rstrip("/") if "://" in endpoint else Path(endpoint).expanduser().absolute()


class Standing(Enum):
    """What a table says of a unit."""

    NEW = "the unit is not there"
    TAKEN = "the unit is there"
    FOREIGN = "its number was used for other readings"


def standing(number: int | None, mark: int | None, unit: int, readings: int) -> Standing:
    """Compare a unit with what its table has taken last.

    Args:
        number: Number of the last unit in the table, None when there was none.
        mark: Fingerprint of the last unit in the table.
        unit: Number of the unit in hand.
        readings: Fingerprint of the unit in hand.
    """
    if number is None or number < unit:
        return Standing.NEW
    return Standing.TAKEN if (number, mark) == (unit, readings) else Standing.FOREIGN


def table_name(config: DeltaConfig, source: str) -> str:
    """Name of the table for a source's readings: another source never has the same, and it is a name, not a path.

    Bytes other than letters, digits, `_`, `.` and `-` become ``~`` and two hexadecimal digits; not ``%``, because the
    library takes a local path for an URL and decodes that.
    """
    if config.per == "target":
        return config.table
    safe = re.sub(rb"[^A-Za-z0-9_.-]", lambda found: b"~%02x" % found[0][0], source.encode())
    return f"{config.table}_{safe.decode()}"


def split(batch: pa.RecordBatch, config: DeltaConfig) -> dict[str, pa.RecordBatch]:
    """The readings by table name, in their order."""
    if config.per == "target":
        return {config.table: batch}
    source = batch.column("source")
    tags = batch.column("tag").to_numpy()
    names = source.dictionary.dictionary_encode()
    per_row = names.indices.to_numpy()[tags]
    present = np.unique(per_row).tolist()
    if len(present) == 1:
        return {table_name(config, names.dictionary[present[0]].as_py()): batch}
    return {
        table_name(config, names.dictionary[code].as_py()): batch.take(pa.array(np.flatnonzero(per_row == code)))
        for code in present
    }


def _no_hooks() -> "PostCommitHookProperties":
    """No checkpoint and no cleaning of the log within a commit: both are done beside, in an order that is safe."""
    from deltalake import PostCommitHookProperties

    return PostCommitHookProperties(create_checkpoint=False, cleanup_expired_logs=False)


def unwritable(batch: pa.RecordBatch) -> RejectedRecords | None:
    """The readings whose date no Delta table can hold: years are 1 to 9999."""
    wrong = np.zeros(len(batch), np.bool_)
    for name in ("source_time", "received_time"):
        times = batch.column(name).view(pa.int64()).fill_null(0).to_numpy()
        wrong |= (times < _FIRST) | (times > _LAST)
    rows = np.flatnonzero(wrong).tolist()
    return RejectedRecords(rows, ["its time is outside the years 1 to 9999"] * len(rows)) if rows else None


def delivery_error(error: Exception, where: str) -> DeliveryError:
    """The place of an error of the deltalake library, or of the operating system, in the tree."""
    text = " ".join(re.sub(r"\x1b\[\d*m|↳", " ", str(error)).split())
    for pattern, kind, advice in _ERRORS:
        if re.search(pattern, text):
            return kind(f"{where}: {text[:600]} ({advice})")
    return TransientError(f"{where}: {text[:600]}")


class DeltaWriter(Writer):
    """Commits each unit once; merges small files beside it."""

    def __init__(self, config: DeltaConfig, context: Context) -> None:
        self.limits = Limits(
            rows=config.batch_size or 200_000,
            bytes=64 * 1024**2,
            linger=2.0 if config.flush_interval is None else config.flush_interval,
            remembers_units=True,
        )
        self._config = config
        self._context = context
        self._location = config.location
        self._local = isinstance(self._location, Path)
        self._app_id = ""
        self._lock = threading.Lock()  # a write that was given up may still be under way in its thread
        self._tables: dict[str, DeltaTable] = {}
        self._synced: dict[str, int] = {}
        self._age: dict[str, int] = {}
        self._commits: dict[str, int] = {}
        self._dates: dict[str, set[str]] = {}
        self._left_over: dict[str, set[str]] = {}
        self._vacuumed: dict[str, float] = {}
        self._tidying: asyncio.Task[None] | None = None

    @override
    async def open(self) -> None:
        """Read or make the application id, and open the table; see `Writer.open`."""
        await self._in_thread(self._open)

    @override
    async def write(self, batch: pa.RecordBatch, unit: int) -> None:
        """Commit the unit where it is not there already; see `Writer.write`."""
        if rejected := unwritable(batch):
            raise rejected
        if len(batch):
            await self._in_thread(self._write, split(batch, self._config), unit)
            self._tidy_when_due()

    @override
    async def close(self) -> None:
        """Leave the tables; a merge that is under way is given two seconds. See `Writer.close`."""
        if self._tidying is not None:
            await asyncio.wait({self._tidying}, timeout=2.0)

    async def check(self) -> list[Finding]:
        """Whether the place of the table can be reached; see `contract.Checks`."""
        uri = self._uri(self._config.table)
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError, TableNotFoundError

        try:
            await asyncio.to_thread(DeltaTable, uri, storage_options=self._options())
        except TableNotFoundError as error:
            if isinstance(problem := delivery_error(error, uri), ConfigError):
                return [Finding(False, uri, str(problem))]
            return [Finding(True, uri, "reachable; the table will be made")]
        except (DeltaError, OSError, ValueError) as error:
            return [Finding(False, uri, str(delivery_error(error, uri)))]
        return [Finding(True, uri, "the table is there")]

    async def _in_thread(self, act: Callable[..., None], *args: Any) -> None:
        await asyncio.to_thread(self._locked, act, *args)

    # everything below runs in a thread, but for what begins with `_tidy`

    def _locked(self, act: Callable[..., None], *args: Any) -> None:
        from deltalake.exceptions import DeltaError

        with self._lock:
            try:
                act(*args)
            except (DeltaError, OSError, ValueError) as error:
                self._forget()
                raise delivery_error(error, str(self._location)) from error

    def _forget(self) -> None:
        self._tables.clear()
        self._synced.clear()

    def _uri(self, name: str) -> str:
        return str(self._location / name) if isinstance(self._location, Path) else f"{self._location}/{name}"

    def _options(self) -> dict[str, str]:
        if self._local:
            return {}
        given = {key: value.get_secret_value() for key, value in self._config.storage_options.items()}
        # the forwarder owns retries: the store's own end before one request's time is over
        time_out = f"{max(1, round(self._config.timeout))}s"
        return {"timeout": time_out, "connect_timeout": "10s", "max_retries": "1", "retry_timeout": time_out} | given

    def _open(self) -> None:
        self._app_id = self._read_app_id() or self._new_app_id()
        self._forget()
        if self._config.per == "target":
            self._table(self._config.table)

    def _app_id_file(self) -> Path:
        return self._context.directory / "app_id"

    def _read_app_id(self) -> str:
        with contextlib.suppress(FileNotFoundError):
            return self._app_id_file().read_text("utf-8", "replace").strip()
        return ""

    def _new_app_id(self) -> str:
        app_id = f"bifrost/{self._context.gateway}/{uuid.uuid4().hex}"
        write_durably(self._app_id_file(), app_id + "\n")
        return app_id

    def _table(self, name: str) -> "DeltaTable":
        """The table as it is now; made when it is missing."""
        known = self._tables.get(name)
        if known is not None and self._age.get(name, 0) < _HANDLE_LIFE:
            known.update_incremental()
            return known
        from deltalake import DeltaTable, Schema
        from deltalake.exceptions import TableNotFoundError

        uri, options = self._uri(name), self._options()
        if self._local and known is None:
            for what in mend(Path(uri), self._read_durable().get(name)):
                log.warning("%s: a power cut tore %s, which nobody had been told of; it was set aside", uri, what)
        settings = self._settings()
        try:
            # never DeltaTable.is_deltatable: it asks the store without letting go of Python's global lock
            found = DeltaTable(uri, storage_options=options)
        except TableNotFoundError:
            if self._local:
                Path(uri).mkdir(parents=True, exist_ok=True)
            DeltaTable.create(
                uri,
                Schema.from_arrow(TABLE),
                mode="ignore",
                partition_by=["date"],
                name=name,
                description="readings of industrial devices; gateway, shard and sequence identify one",
                configuration=settings,
                storage_options=options,
            )
            found = DeltaTable(uri, storage_options=options)
        if self._local and any(found.metadata().configuration.get(key) != value for key, value in settings.items()):
            found.alter.set_table_properties(settings)  # locally alone: it does not let go of that lock either
        self._sync(name, found)
        self._tables[name] = found
        self._age[name] = 0
        return found

    def _settings(self) -> dict[str, str]:
        config = self._config
        return {
            "delta.logRetentionDuration": f"interval {round(config.log_retention)} seconds",
            "delta.deletedFileRetentionDuration": f"interval {round(config.file_retention)} seconds",
            "delta.targetFileSize": str(config.file_size),
        }

    def _sync(self, name: str, found: "DeltaTable") -> None:
        """Make every commit durable that may not be, also those of a merge that runs beside."""
        version = found.version()
        known = self._synced.get(name)
        if self._local and known != version:
            sync(Path(self._uri(name)), range(max(0, version - _UNSURE if known is None else known + 1), version + 1))
            self._synced[name] = version
            self._durable_file().write_text(json.dumps(self._read_durable() | self._synced), "utf-8")

    def _durable_file(self) -> Path:
        return self._context.directory / "durable.json"

    def _read_durable(self) -> dict[str, int]:
        """By table, a version up to which the log is known to be durable; after a power cut it may be an older one."""
        try:
            known = json.loads(self._durable_file().read_bytes())
        except (FileNotFoundError, ValueError):
            return {}
        return known if isinstance(known, dict) else {}

    def _write(self, parts: dict[str, pa.RecordBatch], unit: int) -> None:
        marks = {name: fingerprint(rows) for name, rows in parts.items()}
        stands = {name: self._standing(name, unit, marks[name]) for name in parts}
        if Standing.FOREIGN in stands.values():  # before any commit, so that the whole unit is under one id
            self._app_id = self._new_app_id()
        for name, rows in parts.items():
            if stands[name] is not Standing.TAKEN:
                self._commit(name, rows, unit, marks[name])

    def _standing(self, name: str, unit: int, mark: int) -> Standing:
        found = self._table(name)
        result = standing(
            found.transaction_version(self._app_id), found.transaction_version(self._app_id + "/readings"), unit, mark
        )
        self._sync(name, found)
        return result

    def _commit(self, name: str, batch: pa.RecordBatch, unit: int, mark: int) -> None:
        from deltalake import CommitProperties, Transaction, WriterProperties, write_deltalake

        found = self._tables[name]
        readings = table(batch)
        write_deltalake(
            found,
            readings,
            mode="append",
            schema_mode="merge",
            writer_properties=WriterProperties(compression="ZSTD", compression_level=1),
            commit_properties=CommitProperties(
                custom_metadata={"gateway": self._context.gateway, "unit": str(unit)},
                app_transactions=[
                    Transaction(self._app_id, unit),
                    Transaction(self._app_id + "/readings", mark),
                ],
            ),
            post_commithook_properties=_no_hooks(),
        )
        self._sync(name, found)
        self._age[name] += 1
        self._commits[name] = self._commits.get(name, 0) + 1
        dates = readings.column("date").unique().to_pylist()
        self._dates.setdefault(name, set()).update(date.isoformat() for date in dates)

    def _tidy_when_due(self) -> None:
        every = self._config.compact_every or _TIDY_EVERY
        if self._tidying is None or self._tidying.done():
            due = [name for name, commits in self._commits.items() if commits >= every]
            if due:
                self._tidying = asyncio.create_task(self._tidy(due), name="delta-tidy")

    async def _tidy(self, names: Iterable[str]) -> None:
        from deltalake.exceptions import DeltaError

        for name in names:
            dates: set[str] = set()
            try:
                dates = await asyncio.to_thread(self._take_dates, name)
                await asyncio.to_thread(self._tidy_table, name, sorted(dates))
            except (DeltaError, OSError, ValueError) as error:
                self._left_over[name] = dates
                log.warning("small files of %s were not merged: %s", self._uri(name), delivery_error(error, name))

    def _take_dates(self, name: str) -> set[str]:
        with self._lock:
            self._commits[name] = 0
            return self._dates.pop(name, set()) | self._left_over.pop(name, set())

    def _tidy_table(self, name: str, dates: list[str]) -> None:
        """Merge the small files of some dates, delete what was merged long ago, shorten the log; appends may go on."""
        from deltalake import DeltaTable, WriterProperties

        found = DeltaTable(self._uri(name), storage_options=self._options())
        if self._config.compact_every:
            found.optimize.compact(
                partition_filters=[("date", "in", dates)] if len(dates) <= 100 else None,
                target_size=self._config.file_size,
                max_concurrent_tasks=1,
                writer_properties=WriterProperties(compression="ZSTD", compression_level=3),
                post_commithook_properties=_no_hooks(),
            )
            now = time.monotonic()
            if now - self._vacuumed.get(name, -math.inf) >= max(_HOUR, self._config.file_retention):
                self._vacuumed[name] = now
                found.vacuum(dry_run=False, full=True, post_commithook_properties=_no_hooks())
        found.create_checkpoint()
        if self._local:
            sync(Path(self._uri(name)), [found.version()])
        found.cleanup_metadata()  # not before the checkpoint is durable, which stands for what this deletes
