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
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import pyarrow as pa
from pydantic import Field, SecretStr, model_validator
from typing_extensions import override

from connectors.contract import ConfigError, Context, DeliveryError, Finding, Limits, Writer
from connectors.dry_run import Written, columns_of
from connectors.settings import Duration, Size, TargetConfig
from connectors.targets.delta_errors import contract_errors
from connectors.targets.delta_log import mend, sync, write_durably
from connectors.targets.delta_table import Standing, misfits, split, standing, unwritable
from connectors.targets.delta_tags import TagVersions
from connectors.targets.delta_tidy import claim, merge, no_hooks, sweep
from connectors.wire import wide_tables
from connectors.wire.lakehouse import add_columns, review, unstored
from connectors.wire.rows import fingerprint
from normalization.reading import TABLE, table

if TYPE_CHECKING:
    from deltalake import DeltaTable

_HOUR = 3600.0
_HANDLE_LIFE = 50  # commits by one handle: each makes its next one slower, after 1,000 of them 160 ms instead of 30
_TIDY_EVERY = 100  # commits after which the log gets a checkpoint, where files are not merged
_UNSURE = 20  # commits at the end of a log that may not be synced, where nothing says so: a write's and a merge's

log: Final = logging.getLogger(__name__)


class DeltaConfig(TargetConfig):
    """A Delta table, or one per source."""

    type: Literal["delta"] = Field("delta", description="type of the target")
    endpoint: str | None = Field(
        "data/delta", description="folder, or URL in an object store (s3://bucket/plant, az://…, gs://…), of the tables"
    )
    table: str = Field("readings", description="name of the table", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")
    layout: Literal["narrow", "wide"] = Field(
        "narrow",
        description="`narrow`: a row per reading, with all that is known of it; `wide`: a row per equipment and time, with a "
        "column per signal and its quality",
    )
    per: Literal["target", "source"] = Field(
        "target", description="`target`: one table; `source`: a table for each source, named `<table>_<source>`"
    )
    tags_table: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$",
        description="name of a table beside it with a row for each version of each tag, from when to when it was so (default: none)",
    )
    partition_time: Literal["source_time", "received_time"] = Field(
        "source_time",
        description="what the partition column `date` is the UTC date of: when the device says it measured (received_time "
        "where it does not say), or when the gateway received it, which puts late readings into the newest partition; in the "
        "layout `wide` the column `time` is made from the same",
    )
    schema_evolution: Literal["auto", "review"] = Field(
        "auto",
        description="when a table lacks columns of a reading: the commit adds them (`auto`), or readings that have values for "
        "them wait, and the ALTER TABLE that is needed is said (`review`)",
    )
    storage_options: dict[str, SecretStr] = Field(
        {}, description="options of the object store as delta-rs names them, e.g. AWS_REGION, AZURE_STORAGE_ACCOUNT_KEY"
    )
    batch_size: int | None = Field(200_000, ge=1, description="readings in one commit, at most")
    flush_interval: Duration | None = Field(2.0, description="time that a reading may wait for a commit to fill")
    compact_every: int = Field(
        100,
        ge=0,
        description="commits after which small files are merged; 0 for never, which is needed where another engine optimizes "
        "the table: two merges at a time double rows",
    )
    file_size: Size = Field(64 * 1024**2, gt=0, description="size of a file that merging aims at, e.g. 64MiB")
    file_retention: Duration = Field(
        86400.0, ge=3600, description="time that a merged file stays for who is still reading it, at least 1h"
    )
    log_retention: Duration = Field(
        3600.0, ge=60, description="time that the table's history is kept; a long log makes every commit slower"
    )

    @model_validator(mode="after")
    def _tags_have_a_table_of_their_own(self) -> "DeltaConfig":
        own = self.tags_table
        if own is not None and (own == self.table or (self.per == "source" and own.startswith(f"{self.table}_"))):
            raise ValueError(f"tags_table `{own}` may be a table of readings; choose another name")
        return self

    @override
    def writer(self, context: Context) -> Writer:
        if self.layout == "wide":
            from connectors.targets.delta_wide import WideDeltaWriter

            return WideDeltaWriter(self, context)
        return DeltaWriter(self, context)

    @override
    def written(self, batch: pa.RecordBatch, context: Context) -> list[Written]:
        """The rows; with the layout `wide`, as they are in a table that has no signals yet."""
        if (wrong := unwritable(batch)) is not None:
            raise wrong
        parts = split(batch, self.table) if self.per == "source" else {self.table: batch}
        if self.layout == "wide":
            return [one for name, part in parts.items() for one in wide_tables.written(part, self.partition_time, name)]
        return [one for name, part in parts.items() for one in columns_of(table(part, self.partition_time), name)]

    @property
    def location(self) -> str | Path:
        """The folder of the tables as an absolute path, or their URL."""
        endpoint = (self.endpoint or "data/delta").removeprefix("file://")
        return endpoint.rstrip("/") if "://" in endpoint else Path(endpoint).expanduser().absolute()


def in_sql(uri: str) -> str:
    """A table as SQL writes it."""
    return "delta.`" + uri.replace("`", "``") + "`"


def _read_numbers(file: Path) -> dict[str, int]:
    try:
        known = json.loads(file.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


class DeltaWriter(Writer):
    """Commits each unit once; merges small files beside it."""

    columns = TABLE  # what every table must have
    about = "readings of industrial devices; gateway, shard and sequence identify one"

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
        self._swept: dict[str, float] = {}
        self._tidying: asyncio.Task[None] | None = None
        self._tags: TagVersions | None = None
        if config.tags_table is not None:
            uri = self._uri(config.tags_table)
            self._tags = TagVersions(uri, context.gateway, self._options, local=self._local)

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
            own = self._config
            parts = {own.table: batch} if own.per == "target" else split(batch, own.table)
            await self._in_thread(self._write, parts, batch, unit)
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
        from deltalake.exceptions import TableNotFoundError

        try:
            with contract_errors(uri):
                found = await asyncio.to_thread(DeltaTable, uri, storage_options=self._options())
        except DeliveryError as problem:
            if isinstance(problem.__cause__, TableNotFoundError) and not isinstance(problem, ConfigError):
                return [Finding(True, uri, "reachable; the table will be made")]
            return [Finding(False, uri, str(problem))]
        problems = self._misfits(found)
        if self._config.schema_evolution == "review" and (lacking := self._lacking(found)):
            problems.append(
                f"lacks {', '.join(lacking)}: readings that have values for them wait; run "
                f"{add_columns(in_sql(uri), lacking, self.columns)}"
            )
        return [Finding(False, uri, problem) for problem in problems] or [Finding(True, uri, "the table is there")]

    async def _in_thread(self, act: Callable[..., None], *args: Any) -> None:
        await asyncio.to_thread(self._locked, act, *args)

    # everything below runs in a thread, but for what begins with `_tidy`

    def _locked(self, act: Callable[..., None], *args: Any) -> None:
        with self._lock:
            try:
                with contract_errors(str(self._location)):
                    act(*args)
            except DeliveryError:
                self._forget()
                raise

    def _forget(self) -> None:
        self._tables.clear()
        self._synced.clear()
        if self._tags is not None:
            self._tags.forget()

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
        """The table as it is now; made when it is missing, and fit for readings."""
        found = self._latest(name)
        if problems := self._misfits(found):
            raise ConfigError(f"{self._uri(name)}: {'; '.join(problems)}")
        return found

    def _latest(self, name: str) -> "DeltaTable":
        from deltalake import DeltaTable, Schema
        from deltalake.exceptions import DeltaError, TableNotFoundError

        known = self._tables.get(name)
        if known is not None and self._age.get(name, 0) < _HANDLE_LIFE:
            # where it cannot follow, the log was shortened past it, or another table stands there now
            with contextlib.suppress(DeltaError):
                known.update_incremental()
                return known

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
                Schema.from_arrow(self.columns),
                mode="ignore",
                partition_by=["date"],
                name=name,
                description=self.about,
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

    def _claims_file(self) -> Path:
        return self._context.directory / "claims.json"

    def _read_durable(self) -> dict[str, int]:
        """By table, a version up to which the log is known to be durable; after a power cut it may be an older one."""
        return _read_numbers(self._durable_file())

    def _write(self, parts: dict[str, pa.RecordBatch], batch: pa.RecordBatch, unit: int) -> None:
        marks = {name: fingerprint(rows) for name, rows in parts.items()}
        stands = {name: self._standing(name, unit, marks[name]) for name in parts}
        due = {name: rows for name, rows in parts.items() if stands[name] is not Standing.TAKEN}
        made = self._made(due, batch)
        if Standing.FOREIGN in stands.values():  # before any commit, so that the whole unit is under one id
            self._app_id = self._new_app_id()
        if self._tags is not None:
            self._tags.update(batch)
        for name, rows in made.items():
            self._commit(name, rows, unit, marks[name])

    def _standing(self, name: str, unit: int, mark: int) -> Standing:
        found = self._table(name)
        result = standing(
            found.transaction_version(self._app_id), found.transaction_version(self._app_id + "/readings"), unit, mark
        )
        self._sync(name, found)
        return result

    def _made(
        self,
        parts: dict[str, pa.RecordBatch],
        unit: pa.RecordBatch,  # noqa: ARG002 - the layout `wide` says by it which readings it refuses
    ) -> "dict[str, pa.RecordBatch | pa.Table]":
        """The rows of each table. Refuses a unit that would lose values, before any of it is committed.

        Args:
            parts: The readings of each table that does not have them yet.
            unit: The readings of all tables.
        """
        made = {}
        for name, batch in parts.items():
            readings = table(batch, self._config.partition_time)
            if self._config.schema_evolution == "review" and (lacking := self._lacking(self._tables[name])):
                uri, values = self._uri(name), dict(zip(readings.schema.names, readings.columns, strict=True))
                if lost := unstored(values, lacking):
                    raise ConfigError(review(uri, in_sql(uri), lost, len(batch), "`schema_evolution: auto`"))
                readings = readings.drop_columns(lacking)
            made[name] = readings
        return made

    def _misfits(self, found: "DeltaTable") -> list[str]:
        return misfits(((field.name, field.type.type, field.nullable) for field in found.schema().fields), self.columns)

    def _lacking(self, found: "DeltaTable") -> list[str]:
        """The columns that every table must have and this one does not."""
        there = {field.name for field in found.schema().fields}
        return [name for name in self.columns.names if name not in there]

    def _commit(self, name: str, rows: "pa.RecordBatch | pa.Table", unit: int, mark: int) -> None:
        from deltalake import CommitProperties, Transaction, WriterProperties, write_deltalake

        found = self._tables[name]
        write_deltalake(
            found,
            rows,
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
            post_commithook_properties=no_hooks(),
        )
        self._sync(name, found)
        self._age[name] += 1
        self._commits[name] = self._commits.get(name, 0) + 1
        dates = rows.column("date").unique().to_pylist()
        self._dates.setdefault(name, set()).update(date.isoformat() for date in dates)

    def _tidy_when_due(self) -> None:
        every = self._config.compact_every or _TIDY_EVERY
        if self._tidying is None or self._tidying.done():
            due = [name for name, commits in self._commits.items() if commits >= every]
            if due:
                self._tidying = asyncio.create_task(self._tidy(due), name="delta-tidy")

    async def _tidy(self, names: Iterable[str]) -> None:
        for name in names:
            dates: set[str] = set()
            try:
                with contract_errors(name):
                    dates = await asyncio.to_thread(self._take_dates, name)
                    if not await asyncio.to_thread(self._tidy_table, name, sorted(dates)):
                        self._left_over[name] = dates  # another writer merges here, perhaps not these
            except DeliveryError as error:
                self._left_over[name] = dates
                log.warning("small files of %s were not merged: %s", self._uri(name), error)

    def _take_dates(self, name: str) -> set[str]:
        with self._lock:
            self._commits[name] = 0
            return self._dates.pop(name, set()) | self._left_over.pop(name, set())

    def _tidy_table(self, name: str, dates: list[str]) -> bool:
        """Merge small files, delete what was merged long ago, shorten the log; appends may go on.

        Returns:
            Whether files were merged, or need not be.
        """
        from deltalake import DeltaTable

        found = DeltaTable(self._uri(name), storage_options=self._options())
        claims = _read_numbers(self._claims_file())
        claimed = None
        if self._config.compact_every:
            claimed = claim(found, claims.get(name), time.time_ns() // 1000)
        if claimed is not None:
            self._claims_file().write_text(json.dumps(claims | {name: claimed}), "utf-8")
            now = time.monotonic()
            is_due = now - self._swept.get(name, -math.inf) >= max(_HOUR, self._config.file_retention)
            before = DeltaTable(self._uri(name), storage_options=self._options()) if is_due else None
            merge(found, dates, self._config.file_size)
            if before is not None:
                self._swept[name] = now
                self._sweep(name, before, found)
        found.create_checkpoint()
        if self._local:
            sync(Path(self._uri(name)), [found.version()])
        found.cleanup_metadata()  # not before the checkpoint is durable, which stands for what this deletes
        return claimed is not None or not self._config.compact_every

    def _sweep(self, name: str, before: "DeltaTable", found: "DeltaTable") -> None:
        with self._lock:
            found.update_incremental()
            if not sweep(before, found):
                log.warning(
                    "%s: files that were written just now look more than %g h old; nothing is deleted until the clocks "
                    "of this machine and of the store agree",
                    self._uri(name),
                    self._config.file_retention / 3600,
                )
