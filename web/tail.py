"""The newest readings that match a condition, as they come."""

import time
from collections.abc import AsyncIterator, Iterator
from typing import Final

import anyio
import numpy as np
import pyarrow as pa

from connectors.wire.json_lines import JsonLinesEncoder
from normalization.rules import Router, Rule
from web.destinations import matching
from web.live import Live, Recent
from web.streams import ALIVE, pause

_ROWS: Final = 50
_TIME: Final = 0.004  # seconds of a core that a frame may take; what it has not come to by then is left out
_SILENT: Final = 15.0
_PIECE: Final = 2_000


class Tail:
    """The readings of one stream.

    Args:
        live: The readings.
        condition: Which of them; empty for all.

    Raises:
        RuleError: The condition is wrong.
    """

    def __init__(self, live: Live, condition: str) -> None:
        self._live = live
        self._router = Router([Rule("filter", condition, ("tail",))]) if condition.strip() else None
        self._encoder = JsonLinesEncoder()
        _, self._number = live.since(2**62)

    async def frames(self) -> AsyncIterator[bytes]:
        """Events `tail`: the readings as targets get them, the oldest first, and how many were left out."""
        yield ALIVE
        silent, wait = 0.0, pause(0.0)
        while True:
            await anyio.sleep(wait)
            began = time.thread_time()
            made = self._frame()
            wait = pause(time.thread_time() - began)
            silent = 0.0 if made else silent + wait
            if made:
                yield made
            elif silent >= _SILENT:
                silent = 0.0
                yield ALIVE

    def _frame(self) -> bytes:
        """The newest readings; empty when none came that match."""
        recent, self._number = self._live.since(self._number)
        shown: list[bytes] = []
        matched = not_looked_at = 0
        until = time.thread_time() + _TIME
        for piece in _pieces(recent):
            if time.thread_time() > until:
                not_looked_at += piece.num_rows
                continue
            lines, found = self._lines(piece, _ROWS - len(shown))
            matched += found
            shown += lines
        if not matched and not not_looked_at:
            return b""
        counts = f'],"left_out":{matched - len(shown)},"not_looked_at":{not_looked_at}}}'
        return b'event: tail\ndata: {"readings":[' + b",".join(reversed(shown)) + counts.encode() + b"\n\n"

    def _lines(self, raw: pa.RecordBatch, most: int) -> tuple[list[bytes], int]:
        """The last readings of some that match, the newest first, as JSON; and how many match."""
        batch = self._live.normalized_raw(raw)
        if self._router is None:
            rows = np.arange(batch.num_rows)
        else:
            ((_, matched),) = matching(self._router, batch)
            rows = np.flatnonzero(matched)
        chosen = rows[::-1][:most]
        if not len(chosen):
            return [], len(rows)
        return self._encoder.encode(batch.take(pa.array(chosen))).splitlines(), len(rows)


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
