"""What comes of each tag while sources are watched, summed as it comes: the memory is bounded by the tags, not by the time."""

import json

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

_Ints = npt.NDArray[np.int64]
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
        self._encoder = JsonLinesEncoder()

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
        ends = np.append(starts[1:], size)
        last = order[ends - 1]
        columns = _Numbers(batch, order, now)
        ending = batch.take(pa.array(last))
        for at, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
            self._sum(int(ids[last[at]])).add(columns, start, end, ending, at)

    def observed(self, now: int) -> list[Observed]:
        """What was seen of each tag, by source and path.

        Args:
            now: The end of the watch, µs since the epoch.
        """
        found = [one.observed(now, self._encoder) for one in self._seen.values()]
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


class _Numbers:
    """What is summed of a batch, ordered by tag."""

    def __init__(self, batch: pa.RecordBatch, order: npt.NDArray[np.intp], now: int) -> None:
        def column(name: str) -> npt.NDArray[np.generic]:
            found: npt.NDArray[np.generic] = batch.column(name).to_numpy(zero_copy_only=False)[order]
            return found

        self.type, self.quality, self.now = column("type"), column("quality"), now
        times = batch.column("source_time").view(pa.int64())
        self.told = times.is_valid().to_numpy(zero_copy_only=False)[order]
        self.time = times.fill_null(now).to_numpy()[order]
        self.live = (column("flags").astype(np.int64) & int(_NOT_LIVE)) == 0
        self.value = batch.column("value").fill_null(np.nan).to_numpy()[order]
        self.given = batch.column("value").is_valid().to_numpy(zero_copy_only=False)[order]
        self.given &= ~np.isin(self.quality, _NO_VALUE)
        self.reject = batch.column("reject").take(pa.array(order))
        self.sound = self.reject.is_null().to_numpy(zero_copy_only=False)
        self.given &= self.sound


class _Sum:
    """What was seen of a tag so far."""

    def __init__(self, seen: Observed) -> None:
        self.seen = seen
        self._batch: pa.RecordBatch | None = None
        self._at = 0
        self._first = self._arrived = self._began = self._measured = _NEVER

    def add(self, numbers: _Numbers, start: int, end: int, ending: pa.RecordBatch, at: int) -> None:
        """Take the readings of this tag in a batch.

        Args:
            numbers: Those of all tags.
            start: The first of this tag.
            end: Behind the last.
            ending: The last reading of each tag.
            at: Which of them is this tag's.
        """
        seen, here = self.seen, slice(start, end)
        seen.readings += end - start
        for kind, count in zip(*np.unique(numbers.type[here], return_counts=True), strict=True):
            seen.types[ValueType(kind)] = seen.types.get(ValueType(kind), 0) + int(count)
        for quality, count in zip(*np.unique(numbers.quality[here], return_counts=True), strict=True):
            seen.qualities[Quality(quality)] = seen.qualities.get(Quality(quality), 0) + int(count)
        values = numbers.value[here][numbers.given[here]]
        finite = values[np.isfinite(values)]
        seen.not_finite += len(values) - len(finite)
        if len(finite):
            low, high = float(finite.min()), float(finite.max())
            seen.low = low if seen.low is None else min(seen.low, low)
            seen.high = high if seen.high is None else max(seen.high, high)
        if not numbers.sound[here].all():
            seen.rejected += int((~numbers.sound[here]).sum())
            seen.reason = next(text for text in reversed(numbers.reject[here].to_pylist()) if text is not None)
        self._add_times(numbers, here)
        unit = ending.column("unit")
        text = unit.dictionary[unit.indices[at].as_py()].as_py()
        if seen.units[-1:] != [text]:
            seen.units.append(text)
        self._batch, self._at = ending, at

    def _add_times(self, numbers: _Numbers, here: slice) -> None:
        live = numbers.live[here]
        count = int(live.sum())
        if not count:
            return
        seen, now = self.seen, numbers.now
        seen.live += count
        if self._first == _NEVER:
            self._first = now
        else:
            seen.arrival = max(seen.arrival, (now - self._arrived) / 1e6)
        self._arrived = now
        times: _Ints = np.sort(numbers.time[here][live])
        if self._measured == _NEVER:
            self._began = int(times[0])
        else:
            times = np.concatenate([[self._measured], times])
        seen.step = max(seen.step, float(np.diff(times).max(initial=0)) / 1e6)
        self._measured = int(times[-1])
        told = numbers.told[here][live]
        if told.any():
            seen.ahead = max(seen.ahead, (int(numbers.time[here][live][told].max()) - now) / 1e6)

    def observed(self, now: int, encoder: JsonLinesEncoder) -> Observed:
        """What was seen until `now`."""
        seen = self.seen
        if self._first != _NEVER:
            seen.span, seen.silence = (now - self._first) / 1e6, (now - self._arrived) / 1e6
            seen.elapsed = (self._measured - self._began or self._arrived - self._first) / 1e6
        if self._batch is not None:
            last = self._batch.slice(self._at, 1)
            seen.quality = Quality(last.column("quality")[0].as_py())
            time = last.column("source_time").view(pa.int64())[0].as_py()
            seen.time = time if time is not None else last.column("received_time").view(pa.int64())[0].as_py()
            seen.value = _shown(last, encoder)
        return seen


def _shown(reading: pa.RecordBatch, encoder: JsonLinesEncoder) -> str:
    """The value of a reading as it is shown: a text as it is, anything else as its JSON."""
    line = json.loads(encoder.encode(reading))
    value = line["value"]
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
