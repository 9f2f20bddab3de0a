"""The tags beside the readings: a Delta table with a row for each version of each tag, kept current by the writer.

A tag is known by its source, device and address (and its name, where a device gives one address to several). When anything
else of it changes, its row ends and another begins: `valid_from` is when the gateway received the first reading that had it,
`valid_to` when it received the first of the next version, null for the one in force. The rows of a gateway are a partition
and are written as a whole, before the readings that need them, by one commit; a unit that is sent again finds them there.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa

from connectors.targets.delta_log import mend, sync
from normalization.facts import TIMESTAMP, field_of
from normalization.reading import IDENTITY_COLUMNS, TAG_COLUMNS

KEY: Final = ("source", "device_id", "address", "tag_name")
_REST: Final = tuple(name for name in TAG_COLUMNS if name not in KEY)
_TIDY_EVERY: Final = 50
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)

TAGS: Final = pa.schema(
    [
        field_of("gateway", pa.string(), IDENTITY_COLUMNS["gateway"].split(";")[0], nullable=False),
        *(field_of(name, pa.string(), meaning, nullable=name not in KEY) for name, meaning in TAG_COLUMNS.items()),
        field_of(
            "valid_from", TIMESTAMP, "when the gateway received the first reading that had it, UTC", nullable=False
        ),
        field_of("valid_to", TIMESTAMP, "when it received the first reading of the next version; null when in force"),
    ]
)

Texts = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Version:
    """What a tag was from one time to another.

    Attributes:
        rest: Its columns but for the key, in the order of the table.
        start: When it began, µs since the epoch.
    """

    rest: Texts
    start: int


Chain = tuple[Version, ...]
"""The versions of a tag, each until the next begins."""


def seen(chain: Chain, rest: Texts, when: int) -> Chain:
    """The versions after a reading that was received at `when` has come with these columns.

    A reading of an older version that comes late changes nothing; one that comes before the rest of its version lets that
    begin earlier. Until when a version was seen is not kept: one of which every reading comes late, between two times of
    another, lasts too long.
    """
    at = bisect_right(chain, when, key=lambda version: version.start)
    if at and chain[at - 1].rest == rest:
        return chain
    if at < len(chain) and chain[at].rest == rest:
        return (*chain[:at], replace(chain[at], start=when), *chain[at + 1 :])
    return (*chain[:at], Version(rest, when), *chain[at:])


def to_table(gateway: str, chains: Mapping[Texts, Chain]) -> pa.Table:
    """The rows of a gateway."""
    rows: list[dict[str, Any]] = []
    for key, chain in chains.items():
        ends = [*(version.start for version in chain[1:]), None]
        for version, end in zip(chain, ends, strict=True):
            names = dict(zip(KEY, key, strict=True)) | dict(zip(_REST, version.rest, strict=True))
            rows.append({"gateway": gateway, **names, "valid_from": version.start, "valid_to": end})
    return pa.Table.from_pylist(rows, schema=TAGS)


def from_rows(rows: Iterable[Mapping[str, Any]]) -> dict[Texts, Chain]:
    """The versions in rows of the table."""
    chains: dict[Texts, Chain] = {}
    for row in sorted(rows, key=lambda row: row["valid_from"]):
        key = tuple(str(row[name]) for name in KEY)
        start = (row["valid_from"] - _EPOCH) // _MICROSECOND
        version = Version(tuple(str(row[name] or "") for name in _REST), start)
        chains[key] = (*chains.get(key, ()), version)
    return chains


class TagVersions:
    """The table of tags of one gateway.

    Args:
        uri: Its folder or URL.
        gateway: The gateway, whose rows it has to itself.
        options: Options of the object store; asked for each time.
        local: Whether it lies in a folder of this machine.
    """

    def __init__(self, uri: str, gateway: str, options: Callable[[], dict[str, str]], *, local: bool) -> None:
        self._uri, self._gateway, self._options, self._local = uri, gateway, options, local
        self._chains: dict[Texts, Chain] | None = None
        self._token = b""
        self._in_force = np.zeros(0, np.bool_)  # by tag id: its row is the one in force
        self._id_of: dict[Texts, int] = {}
        self._commits = 0

    def forget(self) -> None:
        """Read the table anew when it is needed next."""
        self._chains, self._token, self._in_force = None, b"", np.zeros(0, np.bool_)
        self._id_of.clear()

    def update(self, batch: pa.RecordBatch) -> None:
        """Bring the table up to the tags of a batch; it is durable when this returns."""
        token = (batch.schema.metadata or {}).get(b"tags", b"")
        if token != self._token:
            self._token, self._in_force = token, np.zeros(0, np.bool_)
            self._id_of.clear()
        size = len(batch.column("path").dictionary)
        self._in_force = np.concatenate([self._in_force, np.zeros(max(0, size - len(self._in_force)), np.bool_)])
        ids = batch.column("tag").to_numpy()
        asked = np.flatnonzero(~self._in_force[ids])
        if not len(asked):
            return
        received = batch.column("received_time").view(pa.int64()).to_numpy()
        distinct = np.unique(ids[asked])
        firsts = np.full(len(distinct), np.iinfo(np.int64).max)
        np.minimum.at(firsts, np.searchsorted(distinct, ids[asked]), received[asked])
        self._see(batch, [(int(firsts[at]), int(distinct[at])) for at in np.argsort(firsts, kind="stable")])

    def _see(self, batch: pa.RecordBatch, tags: list[tuple[int, int]]) -> None:
        known = self._read() if self._chains is None else self._chains
        columns = {name: batch.column(name).dictionary for name in TAG_COLUMNS}
        chains, current = dict(known), dict(self._id_of)
        for when, tag in tags:
            key, rest = (tuple(columns[name][tag].as_py() for name in names) for names in (KEY, _REST))
            chains[key] = seen(chains.get(key, ()), rest, when)
            if chains[key][-1].rest == rest:
                current[key] = tag
        if chains != known:
            self._write(chains)
        self._chains = chains
        for key, tag in current.items():
            if (before := self._id_of.get(key)) is not None:
                self._in_force[before] = False
            self._in_force[tag] = True
        self._id_of = current

    def _read(self) -> dict[Texts, Chain]:
        from deltalake import DeltaTable
        from deltalake.exceptions import TableNotFoundError

        if self._local:
            mend(Path(self._uri), None)
        try:
            found = DeltaTable(self._uri, storage_options=self._options())
        except TableNotFoundError:
            return {}
        rows = pa.RecordBatchReader.from_stream(found.scan()).read_all().to_pylist()
        return from_rows(row for row in rows if row["gateway"] == self._gateway)

    def _write(self, chains: dict[Texts, Chain]) -> None:
        from deltalake import DeltaTable, Schema, write_deltalake

        options = self._options()
        if self._local:
            Path(self._uri).mkdir(parents=True, exist_ok=True)
        DeltaTable.create(
            self._uri,
            Schema.from_arrow(TAGS),
            mode="ignore",
            partition_by=["gateway"],
            description="versions of the tags that readings have; source, device_id, address and tag_name identify one",
            storage_options=options,
        )
        found = DeltaTable(self._uri, storage_options=options)
        name = self._gateway.replace("'", "''")
        rows = to_table(self._gateway, chains)
        write_deltalake(found, rows, mode="overwrite", predicate=f"gateway = '{name}'")
        if self._local:
            sync(Path(self._uri), range(max(0, found.version() - 1), found.version() + 1))
        self._commits += 1
        if self._commits % _TIDY_EVERY == 0:
            found.vacuum(retention_hours=24, dry_run=False, enforce_retention_duration=False)
