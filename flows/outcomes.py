"""Telling the journal what becomes of readings in the flow, for the account; a step may have merged several shards."""

from collections import Counter
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from delivery import metrics
from delivery.outcome import Outcome
from flows.process import Process
from normalization.passing import DOOR, REASONS
from normalization.reading import TagTable
from normalization.report import LATE, left_out
from normalization.rules import Routed

_Mask = npt.NDArray[np.bool_]


def note_routed(routed: Routed, process: Process) -> None:
    """Note where readings go; those that were held back before are no longer left out."""
    metrics.DEFAULTED.inc(routed.defaulted)
    if len(routed.unmatched):
        metrics.DROPPED.labels("no rule").inc(len(routed.unmatched))
    ids = routed.batch.column("tag").to_numpy()
    for shard, last, inside in _shards(routed.batch):
        outcome = _routed(routed, ids, process.tags, inside)
        if shard.endswith(LATE):
            held = Counter(process.tags.count_sources(ids if inside is None else ids[inside]))
            outcome.filtered[REASONS[DOOR]] = Counter({source: -count for source, count in held.items()})
        process.journal.note(shard.removesuffix(LATE), last, outcome)


Told = tuple[str, int, Outcome]  # shard, its newest sequence, and what became of its readings up to there


def of_others(routed: Routed, process: Process) -> list[tuple[str, Told]]:
    """What became of readings that came through a keyed step from other members of the cluster, keyed by the member.

    Only the journal that they came from has to know.
    """
    batch, own, cluster = routed.batch, process.config.gateway, process.cluster
    names = batch.column("gateway")
    if cluster is None or not {*names.dictionary.to_pylist()} & ({*cluster.members.names} - {own}):
        return []
    found, ids = [], batch.column("tag").to_numpy()
    for shard, last, inside in _shards(batch):  # its name is one gateway's alone
        gateway = names[0 if inside is None else int(inside.argmax())].as_py()
        if gateway in cluster.members.names and gateway != own and "/" not in shard:
            found.append((gateway, (shard, last, _routed(routed, ids, process.tags, inside))))
    return found


def note_left_out(batch: pa.RecordBatch, reasons: npt.NDArray[np.int8], process: Process) -> None:
    """Note the readings of a batch that report by exception leaves out.

    Args:
        batch: The batch.
        reasons: For each reading its place in ``REASONS``; 0 for those that go on.
        process: What the flow lives on.
    """
    ids = batch.column("tag").to_numpy()
    sequences = batch.column("sequence").to_numpy()
    for shard, _, inside in _shards(batch):
        outcome = Outcome()
        out = reasons > 0 if inside is None else inside & (reasons > 0)
        for number in np.unique(reasons[out]).tolist():
            counts = process.tags.count_sources(ids[out & (reasons == number)])
            outcome.filtered[REASONS[number]] = Counter(counts)
            for source, count in counts.items():
                metrics.FILTERED.labels(source, REASONS[number]).inc(count)
        if outcome.filtered:
            process.journal.note(shard, int(sequences[out].max()), outcome)


def _shards(batch: pa.RecordBatch) -> Iterator[tuple[str, int, _Mask | None]]:
    """The shards of a batch, each with its largest sequence and its rows; None for all rows."""
    if not len(batch):
        return
    shard, sequences = batch.column("shard"), batch.column("sequence").to_numpy()
    if len(shard.dictionary) == 1:
        yield shard.dictionary[0].as_py(), int(sequences.max()), None
        return
    codes = shard.indices.to_numpy()
    for code in np.unique(codes):
        inside = codes == code
        yield shard.dictionary[int(code)].as_py(), int(sequences[inside].max()), inside


def _routed(routed: Routed, ids: npt.NDArray[np.int32], tags: TagTable, inside: _Mask | None) -> Outcome:
    def count(rows: npt.NDArray[np.intp] | None) -> Counter[str]:
        if inside is not None:
            rows = np.flatnonzero(inside) if rows is None else rows[inside[rows]]
        return Counter(tags.count_sources(ids if rows is None else ids[rows]))

    outcome = Outcome(targets={name: count(rows) for name, rows in routed.targets.items()})
    outcome.routed.update(count(None))
    if len(routed.dead):
        outcome.dead.update(count(routed.dead))
        outcome.routed.subtract(outcome.dead)
    if len(routed.unmatched):
        outcome.filtered["no rule"] = count(routed.unmatched)
        outcome.routed.subtract(outcome.filtered["no rule"])
    return outcome


def settled(process: Process, batch: pa.RecordBatch) -> Outcome:
    """What became of readings that the flow finished before the process ended, told by the stores."""
    shard = batch.column("shard")[0].as_py()
    sequences = batch.column("sequence").to_numpy()
    ids = batch.column("tag").to_numpy()
    outcome = Outcome()
    routed = np.zeros(len(batch), bool)
    for name, spool in process.spools.items():
        had = spool.had(shard, sequences)
        if had is not None:
            routed |= had
            outcome.targets[name] = Counter(process.tags.count_sources(ids[had]))
    dead = process.dead_letters.had(shard, sequences)
    if dead is None:
        dead = np.zeros(len(batch), bool)
    # What is in a spool as well was a dead letter that was sent again, and the store of dead letters counts it.
    outcome.dead.update(process.tags.count_sources(ids[dead]))
    outcome.routed.update(process.tags.count_sources(ids[routed & ~dead]))
    known = routed | dead
    if not known.all():
        for number, count in Counter(ids[~known].tolist()).items():
            tag = process.tags[number]
            outcome.filtered.setdefault(left_out(tag), Counter())[tag.source] += count
    return outcome
