"""Dead letters that are sent again: those of a target to its spool, those of the flow through normalizing and routing.

What the flow could not normalize is mapped as the configuration says now. It does not pass the steps that a user has put
into the flow.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa

from connectors.settings import SourceConfig
from delivery import metrics
from delivery.dead_letters import NO_RULE, REPLAYED
from delivery.journal import RAW
from delivery.letter import DECODE, FLOW, DeadLetters, Selection
from delivery.origin import Origin
from delivery.replay import Replayed, chunks, finish, forget_marks, replay
from flows.isolation import isolate, refuse_routing, refused
from normalization.reading import FACTS, Tag
from normalization.rules import Routed, take

if TYPE_CHECKING:
    from flows.process import Process

_REJECT: Final = FACTS.get_field_index("reject")
_NAMES: Final = dict.fromkeys(("path", "site", "area", "line", "equipment", "signal_type"), "")


@dataclass(slots=True)
class Outcome(Replayed):
    """What became of dead letters that were to be sent again.

    Attributes:
        no_target: Stay, because their target is not in the configuration.
    """

    no_target: int = 0

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def replay_letters(process: "Process", selection: Selection) -> Outcome:
    """Send dead letters again, each with its identity, and at most once whatever happens meanwhile."""
    done = Outcome()
    store = process.dead_letters
    with store.moving:
        for chunk in chunks(selection.among(store.letters())):
            for target in dict.fromkeys(letters.target for letters in chunk):
                share = [letters for letters in chunk if letters.target == target]
                if target == FLOW:
                    _replay_flow(process, share, done)
                elif target in process.spools:
                    replay(store, process.spools[target], share, done)
                else:
                    done.no_target += sum(map(len, share))
    return done


def resume_replays(process: "Process") -> None:
    """End the moves that a crash interrupted; call when the stores are open, before anything else."""
    half = finish(process.dead_letters, process.spools)
    if not len(half):
        return
    store = process.dead_letters
    with store.moving:
        for chunk in chunks(store.letters()):
            left = [letters.take(np.flatnonzero(half.has(letters.numbers))) for letters in chunk if not letters.target]
            _replay_flow(process, [letters for letters in left if len(letters)], Outcome())


def _replay_flow(process: "Process", chosen: list[DeadLetters], done: Outcome) -> None:
    """Send dead letters of the flow again: every target that they go to has them before they leave their store."""
    store = process.dead_letters
    store.wait()
    routed: list[DeadLetters] = []
    unmatched: list[DeadLetters] = []
    with store.spared(chosen):
        for letters in chosen:
            if letters.error_class == DECODE:  # only a reader knows how
                done.refused += len(letters)
                continue
            sent, nowhere = _spread(process, letters, done)
            routed.append(letters.take(sent))
            unmatched.append(letters.take(nowhere))
        for spool in process.spools.values():
            spool.sync()
        done.moved += store.remove([letters for letters in routed if len(letters)], REPLAYED)
        done.no_rule += store.remove([letters for letters in unmatched if len(letters)], NO_RULE)
        store.wait()
    for spool in process.spools.values():
        forget_marks(store, spool)


def _spread(process: "Process", letters: DeadLetters, done: Outcome) -> tuple[np.ndarray, np.ndarray]:
    """Give letters to the spools of their targets; rows that all have that should, and rows that go nowhere."""
    sent: list[np.ndarray] = []
    nowhere: list[np.ndarray] = []
    start = 0
    for routed in _routed(process, letters.batch):
        rows = np.arange(start, start + len(routed.batch))
        start += len(routed.batch)
        done.refused += len(routed.dead)
        nowhere.append(rows[routed.unmatched])
        sound = np.setdiff1d(np.arange(len(rows)), np.union1d(routed.dead, routed.unmatched))
        if _enqueue(process, routed, letters, rows):
            sent.append(rows[sound])
        else:
            done.no_room += len(sound)
    empty = np.empty(0, np.int64)
    return np.concatenate([empty, *sent]), np.concatenate([empty, *nowhere])


def _enqueue(process: "Process", routed: Routed, letters: DeadLetters, rows: np.ndarray) -> bool:
    """Give routed readings, which are `rows` of the letters, to their targets; whether all had room."""
    store = process.dead_letters
    shard = letters.batch.column("shard")[0].as_py()
    untrimmed = store.had(shard, letters.batch.column("sequence").to_numpy()) is not None
    roomy = True
    for target, chosen in routed.targets.items():
        where = np.arange(len(rows)) if chosen is None else chosen
        origin = Origin(store.id, letters.numbers[rows[where]], from_flow=True, untrimmed=untrimmed)
        roomy = process.spools[target].replay(take(routed.batch, where), origin) and roomy
        metrics.ENQUEUED.labels(target).inc(len(where) if roomy else 0)
    return roomy


def _routed(process: "Process", batch: pa.RecordBatch) -> Iterable[Routed]:
    """Where readings go by the configuration as it is now, in their order."""
    tags = process.tags
    facts = [batch.column(name) for name in FACTS.names]
    ids = facts[0].to_numpy()
    sources = {source.name: source for source in process.config.sources}
    now = {int(i): tags.intern(mapped(tags[int(i)], sources.get(tags[int(i)].source))) for i in np.unique(ids)}
    facts[0] = pa.array([now[int(i)] for i in ids], pa.int32())
    facts[_REJECT] = pa.nulls(len(batch), pa.string())
    raw = pa.RecordBatch.from_arrays([*facts, batch.column("gateway"), batch.column("shard")], schema=RAW)
    for part in isolate(process.normalizer, lambda row, reason: refused(row, reason, tags), raw):
        yield from isolate(process.router, refuse_routing, part)


def mapped(tag: Tag, source: SourceConfig | None) -> Tag:
    """The raw row of a tag as its source describes it now; what the source says goes before what it said then.

    Args:
        tag: The row that a dead letter has.
        source: The source in the configuration; None when it is not there any more.
    """
    raw = replace(tag, **_NAMES)
    if source is None:
        return raw
    metadata, mapping = _object(tag.metadata), _object(tag.mapping)
    now = source.tag(tag.device_id, tag.address, tag.tag_name, tag.unit, metadata)
    merged = json.dumps(mapping | _object(now.mapping), ensure_ascii=False, sort_keys=True)
    return replace(now, protocol=tag.protocol, mapping=merged)


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
