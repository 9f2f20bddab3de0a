"""Accounts for every numbered reading: what had to arrive, what did, and what arrived otherwise than it was given out.

*Due* (an obligation) is

* MQTT: every reading whose PUBACK the publisher saw, given out since the gateway's session at the broker existed. The
  broker keeps the session, so a kill excuses nothing.
* OPC UA: every value that was set while the gateway was subscribed. A kill excuses what its subscription had not reported
  yet and what was set until the next life was connected: nobody can give these back.
* Modbus: every value in an answer. A kill excuses the answers that were under way to the disk, and those that a busy
  server gives to the dead before the next life has its first one.

What a kill excuses is decided by order, not by a margin of time: a source's readings are journalled in the order in which
they were given out, so only what was given out *after the last one that arrived* from before the kill is excused, and only
as far back as `patience`, beyond which a reading was not under way but forgotten. A single hole is therefore a loss, also
in the last milliseconds. The end of the plant is an interruption like a kill.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from normalization.reading import TABLE, Flags
from simulator.ledger import ACKED, Account

IDENTITY: Final = ("gateway", "shard", "sequence")
COLUMNS: Final = (
    *IDENTITY,
    *("source", "device_id", "address", "path", "type", "value", "value_int", "quality", "flags"),
    *("source_time", "received_time"),
)
_SCHEMA: Final = pa.schema([TABLE.field(name) for name in COLUMNS]).remove_metadata()
_TYPES: Final = {"int64": "INT64", "float64": "DOUBLE"}
_FOREVER: Final = 2**62
_SHOWN: Final = 5


@dataclass(slots=True)
class Run:
    """One life of the gateway; all times in µs since the epoch.

    Attributes:
        start: When the process was started.
        end: When it was gone.
        connected: When each source was connected.
        lost: When each source lost its connection, other than by the end.
    """

    start: int
    end: int = _FOREVER
    connected: dict[str, list[int]] = field(default_factory=dict)
    lost: dict[str, list[int]] = field(default_factory=dict)

    def note(self, source: str, state: str, timestamp: str) -> None:
        """Take a line of the log: `state` of `source` at an ISO 8601 `timestamp`."""
        moment = round(datetime.fromisoformat(timestamp).timestamp() * 1e6)
        if state == "connected":
            self.connected.setdefault(source, []).append(moment)
        elif state == "down":
            self.lost.setdefault(source, []).append(moment)


@dataclass(slots=True)
class Verdict:
    """What the oracle found; the counts are of readings.

    Attributes:
        obligations: By protocol, readings that had to arrive.
        excluded: By protocol and reason, readings given out that did not have to.
        oldest_excused_ms: By protocol, how long before a kill the oldest reading that it excused was given out.
        lost: By target and protocol, obligations that did not arrive.
        visible_twice: In Delta: an identity twice, or a number of a tag twice.
        duplicates: By target, rows whose identity another row has.
        unequal: Rows with the identity of another row, in the same or the other target, that differ from it.
        one_sided: Identities that only one target has.
        holes: Sequences of a shard that are missing in Delta.
        altered: By target, rows whose value, type, time or quality is not what the plant gave out.
        misnamed: By target, rows of unknown tags or with another path than the plant says.
        disordered: Rows of Delta that come after a later reading of their tag.
        interruptions: Connections lost other than by a kill.
        rows: By target, all rows.
        examples: Some of what is wrong, in words.
    """

    obligations: dict[str, int] = field(default_factory=dict)
    excluded: dict[str, dict[str, int]] = field(default_factory=dict)
    oldest_excused_ms: dict[str, float] = field(default_factory=dict)
    lost: dict[str, dict[str, int]] = field(default_factory=dict)
    visible_twice: int = 0
    duplicates: dict[str, int] = field(default_factory=dict)
    unequal: int = 0
    one_sided: int = 0
    holes: int = 0
    altered: dict[str, int] = field(default_factory=dict)
    misnamed: dict[str, int] = field(default_factory=dict)
    disordered: int = 0
    interruptions: int = 0
    rows: dict[str, int] = field(default_factory=dict)
    examples: list[str] = field(default_factory=list)

    @property
    def total_lost(self) -> int:
        """Obligations that did not arrive, in either target."""
        return sum(sum(counts.values()) for counts in self.lost.values())

    @property
    def wrong(self) -> dict[str, int]:
        """Everything that must be 0, by name."""
        return {
            "lost": self.total_lost,
            "visible_twice": self.visible_twice,
            "unequal": self.unequal,
            "one_sided": self.one_sided,
            "holes": self.holes,
            "altered": sum(self.altered.values()),
            "misnamed": sum(self.misnamed.values()),
            "disordered": self.disordered,
        }


@dataclass(frozen=True, slots=True)
class _Given:
    """What a source gave out, in that order; keys are ascending in `lookup`.

    Attributes:
        keys: Tag and number, see `_key`.
        times: When, µs since the epoch.
        lookup: Positions that sort `keys`.
    """

    keys: np.ndarray
    times: np.ndarray
    lookup: np.ndarray

    @staticmethod
    def of(account: Account) -> "_Given":
        issued = account.issued()
        keys = _key(issued["tag"], issued["n"])
        return _Given(keys, issued["time"].astype(np.int64), np.argsort(keys, kind="stable"))

    def positions(self, keys: np.ndarray) -> np.ndarray:
        """Where each of `keys` was given out; -1 where it never was."""
        if not len(self.keys):
            return np.full(len(keys), -1)
        at = self.lookup[np.minimum(np.searchsorted(self.keys, keys, sorter=self.lookup), len(self.keys) - 1)]
        return np.where(self.keys[at] == keys, at, -1)


@dataclass(frozen=True, slots=True)
class _Arrived:
    """The numbered rows of one source in one target.

    Attributes:
        keys: Tag and number.
        positions: Where in `_Given`; -1 where the plant never gave it out.
        received: When the gateway received it, µs since the epoch.
        sequences: Sequence in the shard.
    """

    keys: np.ndarray
    positions: np.ndarray
    received: np.ndarray
    sequences: np.ndarray


def _key(tags: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    return (tags.astype(np.int64) << 40) | numbers.astype(np.int64)


def judge(
    ledgers: Mapping[str, Account],
    runs: Sequence[Run],
    stopped: int,
    delta: pa.Table,
    zerobus: pa.Table,
    patience: Mapping[str, float],
) -> Verdict:
    """Compare what a plant gave out with what two targets have.

    Args:
        ledgers: What each source gave out.
        runs: The lives of the gateway, in order.
        stopped: When the plant was stopped, µs since the epoch.
        delta: Rows of the Delta table (`COLUMNS`).
        zerobus: Rows of the emulator's tables.
        patience: By protocol, seconds that a reading may be under way to the journal.
    """
    verdict = Verdict()
    tables = {"delta": _plain(delta), "zerobus": _plain(zerobus)}
    arrived = {name: _read(name, table, ledgers, verdict) for name, table in tables.items()}
    for source, account in sorted(ledgers.items()):
        given = _Given.of(account)
        both = [arrived[name][source] for name in tables]
        due = _due(account, given, runs, stopped, both, patience.get(account.protocol, 0.0), verdict)
        for name in tables:
            missing = np.setdiff1d(given.keys[due], arrived[name][source].keys)
            _add(verdict.lost.setdefault(name, {}), account.protocol, len(missing))
            for key in missing[:_SHOWN]:
                verdict.examples.append(f"{name}: {_told(account, key)} is lost")
        _compare_order(account, arrived["delta"][source], runs, verdict)
    _compare_identities(tables["delta"], tables["zerobus"], verdict)
    return verdict


def _plain(rows: pa.Table) -> pa.Table:
    """The rows without the mark of what a target may get again: one may have had the reading before, another not."""
    at = rows.schema.get_field_index("flags")
    flags = pc.bit_wise_and(rows["flags"], pa.scalar(~int(Flags.RESENT), rows["flags"].type))
    return rows.set_column(at, "flags", flags).cast(_SCHEMA)


def _add(counts: dict[str, int], name: str, count: int) -> None:
    counts[name] = counts.get(name, 0) + count


def _told(account: Account, key: int) -> str:
    tag = account.tags[int(key) >> 40]
    return f"{account.source} {tag['address']} number {int(key) & (1 << 40) - 1}"


# ---------------------------------------------------------------------- what is due


def _due(
    account: Account,
    given: _Given,
    runs: Sequence[Run],
    stopped: int,
    arrived: Sequence[_Arrived],
    patience: float,
    verdict: Verdict,
) -> np.ndarray:
    """Which of the readings given out must have arrived, as booleans."""
    source, protocol = account.source, account.protocol
    connected = sorted(moment for run in runs for moment in run.connected.get(source, []))
    first = connected[0] if connected else _FOREVER
    excluded = verdict.excluded.setdefault(protocol, {})
    known = np.ones(len(given.keys), bool)
    if protocol == "mqtt":
        acknowledged = account.records[account.records["event"] == ACKED]
        known = np.isin(given.keys, _key(acknowledged["tag"], acknowledged["n"]))
        _add(excluded, "not acknowledged by the broker", int((~known).sum()))
    early = known & (given.times < first) if protocol != "modbus" else np.zeros(len(known), bool)
    _add(excluded, "before the first connection", int(early.sum()))
    due = known & ~early
    if protocol != "mqtt":
        for moment, resumed, reason in _interruptions(source, runs, stopped, connected, verdict):
            lost = _under_way(given, arrived, moment, resumed, patience) & due
            _add(excluded, reason, int(lost.sum()))
            before = moment - given.times[lost]
            oldest = max(float(before.max()) / 1000, 0.0) if len(before) else 0.0
            verdict.oldest_excused_ms[protocol] = max(verdict.oldest_excused_ms.get(protocol, 0.0), round(oldest, 1))
            due &= ~lost
    _add(verdict.obligations, protocol, int(due.sum()))
    return due


def _interruptions(
    source: str, runs: Sequence[Run], stopped: int, connected: list[int], verdict: Verdict
) -> list[tuple[int, int, str]]:
    """When the way to the gateway was cut, when it was whole again, and by what."""
    found = [(run.end, "at a kill") for run in runs[:-1]] + [(stopped, "at the end of the plant")]
    lost = [(moment, "at a lost connection") for run in runs for moment in run.lost.get(source, []) if moment < stopped]
    verdict.interruptions += len(lost)
    spans = []
    for moment, reason in sorted(found + lost):
        resumed = next((again for again in connected if again > moment), _FOREVER)
        spans.append((moment, _FOREVER if moment >= stopped else resumed, reason))
    return spans


def _under_way(given: _Given, arrived: Sequence[_Arrived], moment: int, resumed: int, patience: float) -> np.ndarray:
    """What was given out after the last reading that came before `moment`, at most `patience` seconds before it."""
    last = max((int(a.positions[a.received <= moment].max(initial=-1)) for a in arrived), default=-1)
    after = np.arange(len(given.keys)) > last
    return after & (given.times > moment - patience * 1e6) & (given.times < resumed)


# ---------------------------------------------------------------------- what arrived


def _read(name: str, table: pa.Table, ledgers: Mapping[str, Account], verdict: Verdict) -> dict[str, _Arrived]:
    """The numbered rows of each source; counts rows that are not as the plant gave them out."""
    verdict.rows[name] = len(table)
    verdict.altered[name] = verdict.misnamed[name] = 0
    found = {}
    unknown = pc.invert(pc.is_in(table["source"], pa.array(list(ledgers), pa.string())))
    verdict.misnamed[name] += pc.sum(unknown).as_py() or 0
    for source, account in ledgers.items():
        rows = table.filter(pc.equal(table["source"], source))
        tags = _tags(rows, account)
        paths = np.array([tag["path"] for tag in account.tags], object)
        misnamed = (tags < 0) | (paths[tags] != rows["path"].to_numpy(zero_copy_only=False))
        verdict.misnamed[name] += int(misnamed.sum())
        for row in np.flatnonzero(misnamed)[:_SHOWN]:
            verdict.examples.append(f"{name}: {rows.slice(row, 1).to_pylist()[0]} has the wrong name")
        numbered = np.asarray(pc.is_valid(rows["value"])) & (tags >= 0)
        rows, tags = rows.filter(pa.array(numbered)), tags[numbered]
        found[source] = _compare_rows(name, account, rows, tags, verdict)
    return found


def _tags(rows: pa.Table, account: Account) -> np.ndarray:
    """The tag of each row as its position in the account; -1 where it has none."""
    known = {
        f"{tag['unit_id']}/{tag['address']}" if "unit_id" in tag else tag["address"]: position
        for position, tag in enumerate(account.tags)
    }
    if any("unit_id" in tag for tag in account.tags):
        places = pc.binary_join_element_wise(rows["device_id"], rows["address"], "/")
    else:
        places = rows["address"]
    coded = places.combine_chunks().dictionary_encode()
    if isinstance(coded, pa.ChunkedArray):
        coded = coded.combine_chunks()
    positions = np.array([known.get(place, -1) for place in coded.dictionary.to_pylist()], np.int64)
    return positions[coded.indices.to_numpy()] if len(rows) else np.empty(0, np.int64)


def _compare_rows(name: str, account: Account, rows: pa.Table, tags: np.ndarray, verdict: Verdict) -> _Arrived:
    given = _Given.of(account)
    wanted = np.array([_TYPES[tag["type"]] for tag in account.tags], object)[tags]
    sound = rows["type"].to_numpy(zero_copy_only=False) == wanted
    sound &= rows["quality"].to_numpy(zero_copy_only=False) == "GOOD"
    values = rows["value"].to_numpy()
    numbers = values.astype(np.int64)
    sound &= numbers == values
    integers = wanted == "INT64"
    exact = pc.fill_null(rows["value_int"], -1).to_numpy()
    sound &= np.where(integers, exact == numbers, exact == -1)
    keys = _key(tags, numbers)
    positions = given.positions(keys)
    sound &= positions >= 0  # the plant gave this number out
    times = given.times[np.maximum(positions, 0)] if len(given.times) else np.zeros(len(keys), np.int64)
    received = _micros(rows["received_time"])
    sound &= received >= times
    if account.protocol == "modbus":
        sound &= ~np.asarray(pc.is_valid(rows["source_time"]))
    else:
        whole = np.array([1000 if tag.get("format") == "flat" else 1 for tag in account.tags], np.int64)[tags]
        sound &= _micros(rows["source_time"]) == times // whole * whole
    verdict.altered[name] += int((~sound).sum())
    for row in np.flatnonzero(~sound)[:_SHOWN]:
        verdict.examples.append(f"{name}: {rows.slice(row, 1).to_pylist()[0]} is not what the plant gave out")
    return _Arrived(keys, positions, received, rows["sequence"].to_numpy())


def _micros(times: pa.ChunkedArray) -> np.ndarray:
    return np.asarray(pc.fill_null(times.cast(pa.int64()), -1).to_numpy())


def _compare_order(account: Account, rows: _Arrived, runs: Sequence[Run], verdict: Verdict) -> None:
    """Each tag's numbers ascend with the sequence.

    None comes twice, but for OPC UA, whose subscription begins with the node's value as it is: there a number may be
    repeated by the first row of a connection.
    """
    connected = np.array(sorted(t for run in runs for t in run.connected.get(account.source, [])), np.int64)
    connection = np.searchsorted(connected, rows.received, "right")
    tags = rows.keys >> 40
    order = np.lexsort((rows.sequences, tags))
    order = order[np.insert(np.diff(rows.sequences[order]) != 0, 0, True)] if len(order) else order  # identities once
    same_tag = np.diff(tags[order]) == 0
    step = np.diff(rows.keys[order])
    repeated = same_tag & (step == 0)
    if account.protocol == "opcua":
        repeated &= np.diff(connection[order]) == 0
    verdict.visible_twice += int(repeated.sum())
    verdict.disordered += int((same_tag & (step < 0)).sum())
    for at in np.flatnonzero(repeated)[:_SHOWN]:
        pair = rows.sequences[order[at : at + 2]].tolist()
        verdict.examples.append(f"delta: {_told(account, rows.keys[order[at]])} is there as sequences {pair}")
    for at in np.flatnonzero(same_tag & (step < 0))[:_SHOWN]:
        verdict.examples.append(f"delta: {_told(account, rows.keys[order[at + 1]])} comes after a later one")


def _compare_identities(delta: pa.Table, zerobus: pa.Table, verdict: Verdict) -> None:
    """Identities are unique in Delta, the same readings are in both targets, and no sequence is missing."""
    distinct = {}
    for name, table in (("delta", delta), ("zerobus", zerobus)):
        distinct[name] = _distinct(table, IDENTITY)
        verdict.duplicates[name] = len(table) - len(distinct[name])
    verdict.visible_twice += verdict.duplicates["delta"]
    if verdict.duplicates["delta"]:
        counts = pa.TableGroupBy(delta, list(IDENTITY)).aggregate([([], "count_all")])
        for row in counts.filter(pc.greater(counts["count_all"], 1)).slice(0, _SHOWN).to_pylist():
            verdict.examples.append(f"delta: sequence {row['sequence']} of {row['shard']} has {row['count_all']} rows")
    together = pa.concat_tables([delta, zerobus])
    identities = len(_distinct(together, IDENTITY))
    verdict.unequal = len(_distinct(together, COLUMNS)) - identities
    verdict.one_sided = 2 * identities - len(distinct["delta"]) - len(distinct["zerobus"])
    shards = pa.TableGroupBy(distinct["delta"], ["gateway", "shard"]).aggregate(
        [("sequence", "max"), ([], "count_all")]
    )
    for shard in shards.to_pylist():
        holes = shard["sequence_max"] - shard["count_all"]
        verdict.holes += holes
        if holes:
            verdict.examples.append(f"delta: {holes} sequences of {shard['shard']} are missing")


def _distinct(table: pa.Table, names: Sequence[str]) -> pa.Table:
    return pa.TableGroupBy(table, list(names)).aggregate([])


def summary(verdict: Verdict) -> dict[str, Any]:
    """The verdict as plain values, for the evidence."""
    return {
        "obligations": verdict.obligations,
        "excluded": verdict.excluded,
        "oldest_excused_ms": verdict.oldest_excused_ms,
        "rows": verdict.rows,
        "interruptions": verdict.interruptions,
        **verdict.wrong,
        "zerobus_duplicates": verdict.duplicates["zerobus"],
    }
