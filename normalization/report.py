"""Report by exception: which readings of a tag go on, by the rule in its mapping.

A reading is compared with the last one of its tag that passed, in the order of the journal, by its own time (the time of
receipt where the device gives none). In this order:

1. What cannot be used (`reject`) and what is historical passes and changes nothing.
2. The first reading of a tag, a gap, and a change of quality or of the kind of value pass.
3. A reading that is older than the last one passes and changes nothing.
4. A reading passes when the last one is `max_interval` old.
5. A number passes when it differs by more than the deadband and the last one is `min_interval` old; what is no finite number
   passes when it differs at all.

With a *swinging door* a number is held back while one straight line from the last number that passed to it comes within the
deviation of every number between them. When the next one breaks that, the one that was held back passes, late: it is a
reading of its own, whose shard ends in ``LATE``, and which of a tag's readings pass does not depend on how they were cut into
batches. The number that broke the line is held back in turn.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from hashlib import blake2b
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from normalization.passing import DOOR, NO_TIME, REASONS, States, Turn
from normalization.reading import (
    FACTS,
    Flags,
    Tag,
    TagTable,
    numbers,
    view,
)

LATE: Final = "/report"  # what the shard of a reading ends in that was held back

_HELD: Final = pa.schema([*FACTS, pa.field("gateway", pa.string()), pa.field("shard", pa.string())])
_NOTHING: Final = pa.RecordBatch.from_arrays([pa.array([], field.type) for field in _HELD], schema=_HELD)
_STATES: Final = pa.schema(
    [
        ("key", pa.uint64()), ("idle", pa.int8()), ("kind", pa.int8()), ("quality", pa.int8()),
        ("time", pa.int64()), ("value", pa.float64()), ("code", pa.int64()),
    ]
)  # fmt: skip
_DOORS: Final = pa.schema(
    [
        *_HELD, ("low", pa.float64()), ("high", pa.float64()),
        ("held_time", pa.int64()), ("held_value", pa.float64()), ("held_code", pa.int64()),
    ]
)  # fmt: skip
_FORMAT: Final = 1
_CODEC: Final = pa.Codec("zstd")
_LOOSE: Final = 16  # batches of rows, some of which are not held back any more
_MOST_IDLE: Final = 8  # starts of the flow without a reading of a tag, after which it is forgotten


@dataclass(frozen=True, slots=True)
class Exceptions:
    """When a reading of a tag passes; times in µs.

    Attributes:
        deadband: Difference that does not count, in the tag's unit.
        percent: The same in percent of the last value.
        soonest: Time from one number to the next, at least.
        latest: Time from one reading to the next, at most.
        door: Deviation of the swinging door; 0 for none.
    """

    deadband: float = 0.0
    percent: float = 0.0
    soonest: int = 0
    latest: int = NO_TIME
    door: float = 0.0

    @staticmethod
    def of(tag: Tag) -> "Exceptions | None":
        """The rule in a tag's mapping; None where every reading passes."""
        if '"report"' not in tag.mapping:
            return None
        try:
            said = json.loads(tag.mapping).get("report")
            if not isinstance(said, Mapping):
                return None
            latest = said.get("max_interval")
            return Exceptions(
                float(said.get("deadband", 0.0)),
                float(said.get("deadband_percent", 0.0)),
                round(said.get("min_interval", 0.0) * 1e6),
                NO_TIME if latest is None else round(latest * 1e6),
                float(said.get("swinging_door", 0.0)),
            )
        except (ValueError, TypeError, AttributeError, RecursionError):
            return None  # a mapping that cannot be read is told of by normalizing


def left_out(tag: Tag) -> str:
    """Why a reading of a tag went nowhere, when nothing else is known of it."""
    rule = Exceptions.of(tag)
    if rule is None:
        return "no rule"
    return REASONS[DOOR] if rule.door else "report by exception"


class Ruled:
    """Tells which tags have a rule. Safe to use from several threads."""

    def __init__(self, tags: TagTable) -> None:
        self._tags = tags
        self._ruled = np.zeros(0, bool)
        self._any = False

    def __call__(self, batch: pa.RecordBatch) -> bool:
        """Whether a batch holds a reading of a tag that has a rule."""
        ruled = self._ruled
        if len(ruled) < len(self._tags):
            new = [Exceptions.of(self._tags[row]) is not None for row in range(len(ruled), len(self._tags))]
            self._any = self._any or any(new)
            self._ruled = ruled = np.concatenate([ruled, np.array(new, bool)])
        return self._any and bool(ruled[batch.column("tag").to_numpy()].any())


@dataclass(frozen=True, slots=True)
class Reported:
    """What becomes of a batch.

    Attributes:
        reasons: For each reading its place in ``REASONS``; 0 for those that pass.
        late: Readings that were held back before and pass now; None for none.
    """

    reasons: npt.NDArray[np.int8]
    late: pa.RecordBatch | None


class Reporter:
    """Decides batch by batch, and remembers of each tag what passed last. Not shared between threads.

    Args:
        tags: The process's tag table.
        state: What `snapshot` gave, of this process or an earlier one.
    """

    def __init__(self, tags: TagTable, state: Sequence[Any] | None = None) -> None:
        self._tags = tags
        self._slot_of = np.empty(0, np.int32)  # by tag: where its state is, -1 for a tag without a rule
        self._slots: dict[int, int] = {}  # by the hash of a tag's row, which is the same in every process
        self._size = 0
        self._state = States(64)
        self._held: list[pa.RecordBatch] = [_NOTHING]  # what is held back, and some of what was
        self._kept = 0  # rows of it
        if state is not None:
            self._load(state)

    def __call__(self, batch: pa.RecordBatch) -> Reported:
        """Decide on a batch of `stream_schema`, whose tags are of this process's table."""
        slots = self._known_slots(batch.column("tag").to_numpy())
        rows = np.flatnonzero((slots >= 0) & _usual(batch))
        reasons = np.zeros(len(batch), np.int8)
        if not len(rows):
            return Reported(reasons, None)
        turn = Turn(batch, rows, slots[rows], self._state, reasons, self._kept)
        turn.decide()
        return Reported(reasons, self._hold(batch, turn) if turn.held_changed else None)

    def __len__(self) -> int:
        """Of how many tags something is remembered."""
        return self._size

    def snapshot(self) -> Sequence[Any]:
        """All that is remembered, as plain values that never change."""
        slots = self._tidy()
        keys = np.fromiter(self._slots, np.uint64, self._size)
        last = [pa.array(getattr(self._state, name)[: self._size]) for name in States.SAVED]
        doors = [pa.array(getattr(self._state, name)[slots]) for name in States.OF_HELD]
        states = pa.RecordBatch.from_arrays([pa.array(keys), *last], schema=_STATES)
        held = pa.RecordBatch.from_arrays([*self._held[0].columns, *doors], schema=_DOORS)
        return _FORMAT, _packed(states), _packed(held)

    def _load(self, saved: Sequence[Any]) -> None:
        version, *packed = saved
        if version != _FORMAT:
            return  # the first reading of each tag passes again
        states, held = (_unpacked(part, schema) for part, schema in zip(packed, (_STATES, _DOORS), strict=True))
        state = States(len(states))
        for name in States.SAVED:
            getattr(state, name)[:] = states.column(name).to_numpy()
        slots = held.column("tag").to_numpy()
        for name in States.OF_HELD:
            getattr(state, name)[slots] = held.column(name).to_numpy()
        state.held[slots] = np.arange(len(slots))
        state.idle += 1
        kept = np.flatnonzero((state.idle <= _MOST_IDLE) | (state.held >= 0))
        keys = states.column("key").to_numpy()[kept].tolist()
        self._slots = {key: slot for slot, key in enumerate(keys)}
        self._size, self._state = len(kept), state.only(kept)
        self._held, self._kept = [held.select(_HELD.names)], len(held)

    def _known_slots(self, ids: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        known = len(self._slot_of)
        if known < len(self._tags):
            new = [self._slot(row) for row in range(known, len(self._tags))]
            self._slot_of = np.concatenate([self._slot_of, np.array(new, np.int32)])
        return self._slot_of[ids]

    def _slot(self, row: int) -> int:
        tag = self._tags[row]
        rule = Exceptions.of(tag) if tag.path else None
        if rule is None:
            return -1
        key = int.from_bytes(blake2b(tag.to_json(), digest_size=8).digest(), "big")
        slot = self._slots.setdefault(key, self._size)
        self._size = max(self._size, slot + 1)
        self._state = self._state.with_room(self._size)
        self._state.tag[slot], self._state.idle[slot] = row, 0
        for field in fields(rule):
            getattr(self._state, field.name)[slot] = getattr(rule, field.name)
        return slot

    def _hold(self, batch: pa.RecordBatch, turn: Turn) -> pa.RecordBatch | None:
        """Keep what is held back now, and give what passes late."""
        state, before = self._state, self._kept
        new = np.flatnonzero(state.held[: self._size] >= before)
        late = np.array(turn.late, np.int64)
        of_batch = late >= before
        added = _rows_of(batch, np.concatenate([state.held[new], late[of_batch]]) - before)
        state.held[new] = np.arange(before, before + len(new))
        late[of_batch] = np.arange(before + len(new), before + len(added))
        self._held.append(added)
        passed = self._taken(late, state.tag[turn.late_slots]) if len(late) else None
        self._held[-1] = added.slice(0, len(new))
        self._kept += len(new)
        if len(self._held) > _LOOSE:
            self._tidy()
        return None if passed is None else _viewed(passed, self._tags)

    def _tidy(self) -> npt.NDArray[np.intp]:
        """Let go of rows that are not held back any more; the slots of those that are, in their order."""
        slots = np.flatnonzero(self._state.held[: self._size] >= 0)
        self._held, self._kept = [self._taken(self._state.held[slots], slots)], len(slots)
        self._state.held[slots] = np.arange(len(slots))
        return slots

    def _taken(self, rows: npt.NDArray[np.int64], tags: npt.NDArray[Any]) -> pa.RecordBatch:
        """Some of the rows that are kept, under these tags."""
        pool = self._held[0] if len(self._held) == 1 else pa.concat_batches(self._held)
        _, *others = pool.take(pa.array(rows)).columns
        return pa.RecordBatch.from_arrays([pa.array(tags.astype(np.int32)), *others], schema=_HELD)


def _usual(batch: pa.RecordBatch) -> npt.NDArray[np.bool_]:
    usual: npt.NDArray[np.bool_] = (batch.column("flags").to_numpy() & Flags.HISTORICAL) == 0
    reject = batch.column("reject")
    if reject.null_count < len(batch):
        usual &= reject.is_null().to_numpy(zero_copy_only=False)
    return usual


def _packed(batch: pa.RecordBatch) -> tuple[int, bytes]:
    data = batch.serialize()
    return data.size, _CODEC.compress(data, asbytes=True)


def _unpacked(packed: tuple[int, bytes], schema: pa.Schema) -> pa.RecordBatch:
    size, data = packed
    return pa.ipc.read_record_batch(_CODEC.decompress(data, size), schema)


def _rows_of(batch: pa.RecordBatch, rows: npt.NDArray[np.int64]) -> pa.RecordBatch:
    """Rows of a batch as they are kept."""
    index = pa.array(rows)
    columns = [batch.column(name).take(index) for name in _HELD.names]
    plain = [c.dictionary_decode() if pa.types.is_dictionary(c.type) else c for c in columns]
    return pa.RecordBatch.from_arrays(plain, schema=_HELD)


def _viewed(rows: pa.RecordBatch, tags: TagTable) -> pa.RecordBatch:
    """Kept rows as a batch of `stream_schema`, under the identities of readings that pass late."""
    *facts, gateway, shard = rows.columns
    kinds, doubles, integers = (rows.column(name) for name in ("type", "value_double", "value_int"))
    shards = pa.array([f"{name}{LATE}" for name in shard.to_pylist()], pa.string())
    return view(
        facts,
        gateway.dictionary_encode(),
        shards.dictionary_encode(),
        tags,
        numbers(kinds, doubles, integers),
        pa.array(np.zeros(len(rows), np.int32)),
    )
