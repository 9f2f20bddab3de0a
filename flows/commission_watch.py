"""What comes of each tag while sources are watched, summed as it comes: the memory is bounded by the tags, not by the time."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from connectors.wire.json_lines import JsonLinesEncoder
from flows.commission import Observed
from normalization.facts import Flags, Quality, ValueType
from normalization.normalizer import Normalizer
from normalization.reading import Columns, TagTable, repeat

_NOT_LIVE = Flags.RETAINED | Flags.HISTORICAL | Flags.GAP
_NO_VALUE = (Quality.BAD, Quality.STALE)
_NEVER = -(2**63)
_SHOWN = 200  # letters of a last value

_Identity = tuple[str, str, str, str]


class Watch:
    """Sums up readings by tag.

    Args:
        tags: The tag table that the readings' rows are of.
        template: The general path template.
        gateway: Name of the gateway.

    Attributes:
        readings: How many came.
    """

    def __init__(self, tags: TagTable, template: str, gateway: str) -> None:
        self.readings = 0
        self._tags = tags
        self._gateway = gateway
        self._normalize = Normalizer(tags, template)
        self._seen: dict[_Identity, _Sum] = {}
        self._of_row: dict[int, _Sum] = {}

    def __len__(self) -> int:
        return len(self._seen)

    def add(self, rows: Columns, now: int) -> None:
        """Take readings in.

        Args:
            rows: As a reader appends them.
            now: When they were received, µs since the epoch.
        """
        size = len(rows)
        self.readings += size
        facts = rows.to_batch(np.full(size, now, np.int64), 0)
        raw = pa.RecordBatch.from_arrays(
            [*facts.columns, repeat(self._gateway, size), repeat("watch", size)],
            names=[*facts.schema.names, "gateway", "shard"],
        )
        batch = self._normalize(raw)
        ids = batch.column("tag").to_numpy()
        order = np.argsort(ids, kind="stable")
        starts = np.flatnonzero(np.diff(ids[order], prepend=-1))
        last = order[np.append(starts[1:], size) - 1]
        parts = _parts(batch, order, starts, now)
        ending = batch.take(pa.array(last))
        units = ending.column("unit").to_pylist()
        for at, (row, part) in enumerate(zip(ids[last].tolist(), parts, strict=True)):
            self._sum(row).add(part, units[at], ending, at)

    def observed(self, now: int) -> list[Observed]:
        """What was seen of each tag, by source and path.

        Args:
            now: The end of the watch, µs since the epoch.
        """
        ending: dict[int, list[_Sum]] = {}
        for one in self._seen.values():
            ending.setdefault(id(one.ending), []).append(one)
        encoder = JsonLinesEncoder()
        for sums in ending.values():
            _show_last(sums, encoder)
        found = [one.observed(now) for one in self._seen.values()]
        return sorted(found, key=lambda one: (one.source, one.path, one.device, one.address))

    def _sum(self, row: int) -> "_Sum":
        known = self._of_row.get(row)
        if known is None:
            tag = self._tags[row]
            identity = (tag.source, tag.device_id, tag.address, tag.tag_name)
            known = self._seen.get(identity)
            if known is None:
                known = self._seen[identity] = _Sum(Observed(*identity))
            known.seen.path = tag.path or known.seen.path
            self._of_row[row] = known
        return known


@dataclass(frozen=True, slots=True)
class _Part:
    """What is summed of the readings of one tag in one batch; times are µs since the epoch."""

    count: int
    types: list[int]
    qualities: list[int]
    low: float
    high: float
    not_finite: int
    rejected: int
    reason: str
    now: int
    live: int
    first: int
    last: int
    step: int
    told: int


def _parts(batch: pa.RecordBatch, order: npt.NDArray[np.intp], starts: npt.NDArray[np.intp], now: int) -> list[_Part]:
    """The sums of a batch's tags; `order` puts readings of one tag side by side, `starts` says where each begins."""

    def column(name: str, fill: object = None) -> npt.NDArray[Any]:
        found = batch.column(name)
        filled = found if fill is None else found.fill_null(fill)
        ordered: npt.NDArray[Any] = filled.to_numpy(zero_copy_only=False)[order]
        return ordered

    def valid(name: str) -> npt.NDArray[np.bool_]:
        found: npt.NDArray[np.bool_] = batch.column(name).is_valid().to_numpy(zero_copy_only=False)[order]
        return found

    size = len(order)
    sizes = np.diff(starts, append=size)
    group = np.repeat(np.arange(len(starts)), sizes)

    def counts(column: npt.NDArray[Any], kinds: int) -> list[list[int]]:
        found: list[list[int]] = (
            np.bincount(group * kinds + column, minlength=len(starts) * kinds).reshape(-1, kinds).tolist()
        )
        return found

    quality, sound = column("quality"), ~valid("reject")
    values = column("value", np.nan)
    given = valid("value") & ~np.isin(quality, _NO_VALUE) & sound
    finite = given & np.isfinite(values)
    live = (column("flags").astype(np.int64) & int(_NOT_LIVE)) == 0
    told = valid("source_time")
    times = batch.column("source_time").view(pa.int64()).fill_null(now).to_numpy()[order]
    by_time = np.lexsort((times, ~live, group))  # the live ones of each tag first, in their order
    sorted_times, both_live = times[by_time], live[by_time]
    steps = np.diff(sorted_times, prepend=sorted_times[:1])
    steps[starts] = 0
    steps[~both_live] = 0
    reasons = batch.column("reject").take(pa.array(order)).to_pylist() if not sound.all() else None
    sums = zip(
        starts.tolist(),
        sizes.tolist(),
        counts(column("type"), len(ValueType)),
        counts(quality, len(Quality)),
        np.minimum.reduceat(np.where(finite, values, np.inf), starts).tolist(),
        np.maximum.reduceat(np.where(finite, values, -np.inf), starts).tolist(),
        np.add.reduceat((given & ~finite).astype(np.int64), starts).tolist(),
        np.add.reduceat((~sound).astype(np.int64), starts).tolist(),
        np.add.reduceat(live.astype(np.int64), starts).tolist(),
        sorted_times[starts].tolist(),
        np.maximum.reduceat(np.where(live, times, _NEVER), starts).tolist(),
        np.maximum.reduceat(steps, starts).tolist(),
        np.maximum.reduceat(np.where(live & told, times, _NEVER), starts).tolist(),
        strict=True,
    )
    return [
        _Part(
            count=count, types=types, qualities=qualities, low=low, high=high, not_finite=odd, rejected=rejected,
            reason=next((text for text in reversed(reasons[start : start + count]) if text), "") if reasons else "",
            now=now, live=alive, first=first, last=last, step=step, told=latest,
        )
        for start, count, types, qualities, low, high, odd, rejected, alive, first, last, step, latest in sums
    ]  # fmt: skip


class _Sum:
    """What was seen of a tag so far.

    Attributes:
        seen: This.
        ending: The last readings of the tags of a batch, among them this tag's last one.
        at: Which of them it is.
    """

    def __init__(self, seen: Observed) -> None:
        self.seen = seen
        self.ending: pa.RecordBatch | None = None
        self.at = 0
        self._first = self._arrived = self._began = self._measured = _NEVER

    def add(self, part: _Part, unit: str, ending: pa.RecordBatch, at: int) -> None:
        """Take the readings of this tag in a batch.

        Args:
            part: Their sums.
            unit: The unit of the last one.
            ending: The last reading of each tag.
            at: Which of them is this tag's.
        """
        seen = self.seen
        seen.readings += part.count
        for kind, count in enumerate(part.types):
            if count:
                seen.types[ValueType(kind)] = seen.types.get(ValueType(kind), 0) + count
        for quality, count in enumerate(part.qualities):
            if count:
                seen.qualities[Quality(quality)] = seen.qualities.get(Quality(quality), 0) + count
        seen.not_finite += part.not_finite
        if part.low <= part.high:
            seen.low = part.low if seen.low is None else min(seen.low, part.low)
            seen.high = part.high if seen.high is None else max(seen.high, part.high)
        if part.rejected:
            seen.rejected += part.rejected
            seen.reason = part.reason
        if part.live:
            self._add_times(part)
        if seen.units[-1:] != [unit]:
            seen.units.append(unit)
        self.ending, self.at = ending, at

    def _add_times(self, part: _Part) -> None:
        seen, now = self.seen, part.now
        seen.live += part.live
        if self._first == _NEVER:
            self._first, self._began = now, part.first
        else:
            seen.arrival = max(seen.arrival, (now - self._arrived) / 1e6)
            seen.step = max(seen.step, (part.first - self._measured) / 1e6)
        self._arrived, self._measured = now, max(self._measured, part.last)
        seen.step = max(seen.step, part.step / 1e6)
        if part.told != _NEVER:
            seen.ahead = max(seen.ahead, (part.told - now) / 1e6)

    def observed(self, now: int) -> Observed:
        """What was seen until `now`."""
        seen = self.seen
        if self._first != _NEVER:
            seen.span, seen.silence = (now - self._first) / 1e6, (now - self._arrived) / 1e6
            seen.elapsed = (self._measured - self._began or self._arrived - self._first) / 1e6
        return seen


def _show_last(sums: Sequence[_Sum], encoder: JsonLinesEncoder) -> None:
    """Fill in the last readings of tags whose last readings are in one batch."""
    if sums[0].ending is None:
        return
    batch = sums[0].ending.take(pa.array([one.at for one in sums]))
    received = batch.column("received_time").view(pa.int64())
    times = batch.column("source_time").view(pa.int64()).fill_null(received).to_pylist()
    qualities, lines = batch.column("quality").to_pylist(), encoder.objects(batch).to_pylist()
    for one, time, quality, line in zip(sums, times, qualities, lines, strict=True):
        one.seen.time, one.seen.quality, one.seen.value = time, Quality(quality), _shown(line)


def _shown(line: str) -> str:
    """The value of a reading as it is shown: a text as it is, anything else as its JSON."""
    value = json.loads(line)["value"]
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
