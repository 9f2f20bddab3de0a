"""The newest readings that match a condition, as they come."""

import time
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import pyarrow as pa
from typing_extensions import override

from normalization.rules import Router, Rule
from web.destinations import matching
from web.live import Live, Recent
from web.streams import Feed, event
from web.values import micros, qualities, values, words

_ROWS: Final = 50
_NAMES: Final = ("path", "source", "device_id", "tag_name", "unit", "gateway", "shard")
_TIME: Final = 0.002  # seconds of a core that a frame may take; what it has not come to by then is left out
_PIECE: Final = 2_000


def filter_of(condition: str) -> Router | None:
    """What tells the readings of a condition; None for an empty one, which means all.

    Raises:
        RuleError: The condition is wrong.
    """
    return Router([Rule("filter", condition, ("tail",))]) if condition.strip() else None


class Tail(Feed):
    """The readings of one filter: events `tail`, each with the newest, and how many were left out.

    Args:
        live: The readings.
        chosen: Which of them, see `filter_of`; None for all.
    """

    def __init__(self, live: Live, chosen: Router | None) -> None:
        self._live = live
        self._router = chosen
        _, self._number = live.since(2**62)

    @override
    def whole(self) -> bytes:
        """Nothing: who comes sees what comes."""
        return b""

    @override
    def changes(self) -> bytes:
        """The newest readings; empty when none came that match."""
        recent, self._number = self._live.since(self._number)
        shown: list[dict[str, Any]] = []
        matched = not_looked_at = 0
        until = time.thread_time() + _TIME
        for piece in _pieces(recent):
            if time.thread_time() > until:
                not_looked_at += piece.num_rows
                continue
            rows, found = self._rows_of(piece, _ROWS - len(shown))
            matched += found
            shown += rows
        if not matched and not not_looked_at:
            return b""
        counts = {"left_out": matched - len(shown), "not_looked_at": not_looked_at}
        return event("tail", {"readings": shown[::-1], **counts})

    def _rows_of(self, raw: pa.RecordBatch, most: int) -> tuple[list[dict[str, Any]], int]:
        """The last readings of some that match, the newest first, as plain values; and how many match."""
        batch = self._live.normalized_raw(raw)
        if self._router is None:
            rows = np.arange(batch.num_rows)
        else:
            ((_, matched),) = matching(self._router, batch)
            rows = np.flatnonzero(matched)
        chosen = rows[::-1][:most]
        return (plain(batch.take(pa.array(chosen))) if len(chosen) else []), len(rows)


def plain(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """Readings as plain values, each with its identity."""
    columns: dict[str, list[Any]] = {name: words(batch, name) for name in _NAMES}
    columns["device"] = columns.pop("device_id")
    columns |= {
        "value": values(batch),
        "quality": qualities(batch),
        "time_us": micros(batch, "source_time"),
        "received_us": micros(batch, "received_time"),
        **{name: batch.column(name).to_pylist() for name in ("sequence", "flags", "properties", "reject")},
    }
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _pieces(recent: list[Recent]) -> Iterator[pa.RecordBatch]:
    """Batches, the newest first, in pieces that are worth looking at."""
    gathered: list[pa.RecordBatch] = []
    rows = 0
    for one in recent:
        for end in range(one.raw.num_rows, 0, -_PIECE):
            start = max(0, end - _PIECE)
            gathered.append(one.raw.slice(start, end - start))
            rows += end - start
            if rows >= _PIECE:
                yield _joined(gathered)
                gathered, rows = [], 0
    if gathered:
        yield _joined(gathered)


def _joined(newest_first: list[pa.RecordBatch]) -> pa.RecordBatch:
    return newest_first[0] if len(newest_first) == 1 else pa.concat_batches(newest_first[::-1])
