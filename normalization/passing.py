"""Which readings of a batch pass, by the rules that `normalization.report` describes, and what is remembered per tag.

A batch is decided in rounds, each with one reading of every tag, as whole columns. Where a round would be of few tags, the
rest of each tag is decided reading by reading instead: an array of three costs what one of a thousand costs.
"""

import math
from hashlib import blake2b
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from normalization.reading import Flags, ValueType, raw_numbers

REASONS: Final = ("", "unchanged", "deadband", "min_interval", "swinging_door")
PASSED, UNCHANGED, DEADBAND, SOON, DOOR = range(len(REASONS))
NO_TIME: Final = np.iinfo(np.int64).max

_FEW: Final = 24  # tags in a round that is not worth whole columns
_NUMBER: Final = 1
_OTHER: Final = 2  # and above: this + type

_COLUMNS: Final = [
    "type", "quality", "flags", "source_time", "received_time", "value", "value_int", "value_text", "value_bytes",
]  # fmt: skip
_LAST: Final = ("kind", "quality", "time", "value", "code")  # what is known of the last reading that passed

Rows = npt.NDArray[np.intp]


class States:
    """By slot: the rule, what passed last, and the door."""

    SAVED: Final = ("idle", *_LAST)
    OF_HELD: Final = ("low", "high", "held_time", "held_value", "held_code")

    def __init__(self, room: int) -> None:
        self.tag = np.zeros(room, np.int32)
        self.idle = np.zeros(room, np.int8)  # starts of the flow since the tag was last seen
        self.kind = np.zeros(room, np.int8)  # 0 while nothing has passed
        self.quality = np.zeros(room, np.int8)
        self.time = np.zeros(room, np.int64)
        self.value = np.zeros(room)
        self.code = np.zeros(room, np.int64)  # equal for equal values of one kind
        self.deadband, self.percent, self.door = np.zeros(room), np.zeros(room), np.zeros(room)
        self.soonest, self.latest = np.zeros(room, np.int64), np.full(room, NO_TIME)
        self.low, self.high = np.full(room, -np.inf), np.full(room, np.inf)  # slopes that the held numbers allow
        self.held = np.full(room, -1, np.int64)  # row that is held back: of those kept, then of the batch
        self.held_time, self.held_code = np.zeros(room, np.int64), np.zeros(room, np.int64)
        self.held_value = np.zeros(room)

    def with_room(self, size: int) -> "States":
        """These, or a copy with more room."""
        have = len(self.tag)
        return self if size <= have else self.only(np.arange(have), 2 * size)

    def only(self, slots: Rows, room: int = 0) -> "States":
        """A copy with some of the slots, in their order, and room for more."""
        made = States(max(room, 64, 2 * len(slots)))
        for name, values in vars(self).items():
            getattr(made, name)[: len(slots)] = values[slots]
        return made


class Turn:
    """The decision on one batch.

    Attributes:
        slots: Of each of the rows that are decided on.
        late: Rows that pass late, numbered as `States.held`.
        late_slots: Their slots.
        held_changed: Whether a reading was held back or is not any more.
    """

    def __init__(
        self,
        batch: pa.RecordBatch,
        rows: Rows,
        slots: npt.NDArray[np.int32],
        state: States,
        reasons: npt.NDArray[np.int8],
        kept: int,
    ) -> None:
        part = batch.select(_COLUMNS) if len(rows) == len(batch) else batch.select(_COLUMNS).take(pa.array(rows))
        self.slots = slots
        self.late: list[int] = []
        self.late_slots: list[int] = []
        self.held_changed = False
        self._rows, self._state, self._reasons, self._kept = rows, state, reasons, kept
        self._quality = part.column("quality").to_numpy()
        self._time = _times(part)
        self._value, self._code, self._kind = _values(part)
        self._gap = (part.column("flags").to_numpy() & Flags.GAP) != 0
        self._doors = bool(state.door[slots].any())

    def decide(self) -> None:
        """Decide on all rows."""
        order = np.argsort(self.slots, kind="stable")
        ordered = self.slots[order]
        first = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
        counts = np.diff(np.append(first, len(ordered)))
        done = 0
        while np.count_nonzero(left := counts > done) >= _FEW:
            self._decide_round(order[first[left] + done])
            done += 1
        for position in np.flatnonzero(left).tolist():
            begin = first[position]
            self._decide_tag(int(ordered[begin]), order[begin + done : begin + counts[position]])

    def _decide_round(self, at: Rows) -> None:
        """Decide on some of the rows, no two of them of one tag."""
        state, slot = self._state, self.slots[at]
        value, kind, code = self._value[at], self._kind[at], self._code[at]
        time, quality = self._time[at], self._quality[at]
        before = state.time[slot]
        new = (state.kind[slot] != kind) | (state.quality[slot] != quality) | self._gap[at]
        number = kind == _NUMBER
        held = state.held[slot] >= 0
        old = ~new & (time < (np.where(held, state.held_time[slot], before) if self._doors else before))
        same = code == state.code[slot]
        since = time - before
        last = state.value[slot]
        band = np.maximum(state.deadband[slot], state.percent[slot] / 100 * np.abs(last))
        with np.errstate(over="ignore"):
            differs = np.where(number & (band > 0), np.abs(value - last) > band, ~same)
        soon = number & (since < state.soonest[slot])
        passes = new | (since >= state.latest[slot]) | (differs & ~soon)
        reason = np.where(same, UNCHANGED, np.where(differs, SOON, DEADBAND))
        if self._doors:
            door = state.door[slot] > 0
            swings = door & number & ~new & ~old
            if swings.any():
                self._swing(at, np.flatnonzero(swings), passes, reason)
            ends = np.flatnonzero(new & held)
            if len(ends):
                self._let_out(slot[ends])
            closed = slot[passes & ~old & door]
            state.held[closed], state.low[closed], state.high[closed] = -1, -np.inf, np.inf
        self._reasons[self._rows[at]] = np.where(passes | old, PASSED, reason)
        keep = np.flatnonzero(passes & ~old)
        if len(keep):
            to = slot[keep]
            state.kind[to], state.quality[to], state.time[to] = kind[keep], quality[keep], time[keep]
            state.value[to], state.code[to] = value[keep], code[keep]

    def _swing(self, at: Rows, chosen: Rows, passes: npt.NDArray[np.bool_], reason: npt.NDArray[Any]) -> None:
        """Decide on numbers behind a swinging door."""
        state, self.held_changed = self._state, True
        at = at[chosen]
        slot, time, value = self.slots[at], self._time[at], self._value[at]
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            slope = (value - state.value[slot]) / (time - state.time[slot])
            broken = (state.held[slot] >= 0) & ~((slope >= state.low[slot]) & (slope <= state.high[slot]))
            if broken.any():
                self._let_out(slot[broken])
            since, rise, door = time - state.time[slot], value - state.value[slot], state.door[slot]
            due = since >= state.latest[slot]
            at_once = since == 0  # a second value of the same moment
            passes[chosen] = due | (at_once & (np.abs(rise) > door))
            hold = ~due & ~at_once
            to = slot[hold]
            state.low[to] = np.maximum(state.low[to], (rise[hold] - door[hold]) / since[hold])
            state.high[to] = np.minimum(state.high[to], (rise[hold] + door[hold]) / since[hold])
        state.held[to] = self._rows[at[hold]] + self._kept
        state.held_time[to], state.held_value[to], state.held_code[to] = time[hold], value[hold], self._code[at[hold]]
        reason[chosen] = DOOR

    def _decide_tag(self, slot: int, at: Rows) -> None:
        """Decide on some of the rows, all of one tag, one by one."""
        state = self._state
        kind, quality, time, value, code = (getattr(state, name)[slot].item() for name in _LAST)
        held, low, high, *of_held = (getattr(state, name)[slot].item() for name in ("held", *States.OF_HELD))
        latest, soonest = state.latest[slot].item(), state.soonest[slot].item()
        deadband, percent, door = state.deadband[slot].item(), state.percent[slot].item() / 100, state.door[slot].item()
        reasons = []
        columns = (self._rows, self._kind, self._quality, self._time, self._value, self._code, self._gap)
        for row, k, q, t, v, c, gap in zip(*(column[at].tolist() for column in columns), strict=True):
            since, reason = t - time, PASSED
            if k != kind or q != quality or gap:
                if held >= 0:
                    self._late(slot, held)
            elif t < (of_held[0] if held >= 0 else time):
                reasons.append(PASSED)
                continue
            elif door and k == _NUMBER:
                if held >= 0 and not low <= (v - value) / since <= high:
                    self._late(slot, held)
                    time, value, code = of_held
                    held, low, high, since = -1, -math.inf, math.inf, t - time
                if since < latest and (since or abs(v - value) <= door):
                    reason = DOOR
                if reason and since:
                    low, high = max(low, (v - value - door) / since), min(high, (v - value + door) / since)
                    held, of_held = row + self._kept, [t, v, c]
            elif since < latest:
                band = max(deadband, percent * abs(value)) if k == _NUMBER else 0.0
                if (abs(v - value) <= band) if band else c == code:
                    reason = UNCHANGED if c == code else DEADBAND
                elif k == _NUMBER and since < soonest:
                    reason = SOON
            reasons.append(reason)
            if not reason:
                kind, quality, time, value, code = k, q, t, v, c
                held, low, high = -1, -math.inf, math.inf
        self._reasons[self._rows[at]] = reasons
        for name, now in zip(_LAST, (kind, quality, time, value, code), strict=True):
            getattr(state, name)[slot] = now
        if door:
            self.held_changed = True
            for name, now in zip(("held", *States.OF_HELD), (held, low, high, *of_held), strict=True):
                getattr(state, name)[slot] = now

    def _late(self, slot: int, held: int) -> None:
        self.late.append(held)
        self.late_slots.append(slot)

    def _let_out(self, slot: npt.NDArray[np.int32]) -> None:
        """What these slots hold back passes, and is the last that passed."""
        state, self.held_changed = self._state, True
        self.late += state.held[slot].tolist()
        self.late_slots += slot.tolist()
        state.time[slot], state.value[slot] = state.held_time[slot], state.held_value[slot]
        state.code[slot] = state.held_code[slot]
        state.held[slot], state.low[slot], state.high[slot] = -1, -np.inf, np.inf


def _times(batch: pa.RecordBatch) -> npt.NDArray[np.int64]:
    source, received = (batch.column(name).view(pa.int64()) for name in ("source_time", "received_time"))
    times: npt.NDArray[np.int64] = (source.fill_null(received) if source.null_count else source).to_numpy()
    return times


_INTEGER: Final = np.int64(0x1B56_C4E9_3A7F_2D61)  # an integer is not the double of the same bits, as 0 would be
_NAN: Final = np.float64(np.nan).view(np.int64)


def _values(batch: pa.RecordBatch) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64], npt.NDArray[np.int8]]:
    """Of each reading its number, a code that is equal for equal values, and its kind."""
    type_ = batch.column("type").to_numpy()
    number_column = batch.column("value")
    value = raw_numbers(number_column)
    double = type_ == ValueType.DOUBLE
    number = np.isfinite(value) & (double | (type_ == ValueType.INT64) | (type_ == ValueType.UINT64))
    if number_column.null_count:
        valid = number_column.is_valid().to_numpy(zero_copy_only=False)
        value, number = np.where(valid, value, 0.0), number & valid
    kind = np.where(number, _NUMBER, _OTHER + type_).astype(np.int8)
    usable = value if number.all() else np.where(number, value, 0.0)
    bits = (value + 0.0).view(np.int64)  # -0.0 is 0.0
    if usable is not value:
        bits[np.isnan(value)] = _NAN  # whatever its bits
    if double.all():
        return usable, bits, kind
    integers = raw_numbers(batch.column("value_int"))
    code = np.where(double, bits, integers ^ _INTEGER)
    for name, types in (("value_text", (ValueType.TEXT, ValueType.JSON)), ("value_bytes", (ValueType.BYTES,))):
        rows = np.flatnonzero(np.isin(type_, types))
        if len(rows):
            words = batch.column(name).take(pa.array(rows)).dictionary_encode()
            codes = [0 if word is None else _hash(word) for word in words.dictionary.to_pylist()]
            code[rows] = np.array([*codes, 0], np.int64)[words.indices.fill_null(len(codes)).to_numpy()]
    code[type_ == ValueType.NULL] = 0  # where it is null, anything may lie in the column
    return usable, code, kind


def _hash(word: str | bytes) -> int:
    data = word if isinstance(word, bytes) else word.encode()
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "big", signed=True)
