"""What was missed is read from the server's history (OPC 10000-11), node by node, and nothing twice.

`Missing` knows what that is. What the server does not have stays a gap.
"""

import logging
from typing import Final

import numpy as np
from asyncua import ua
from asyncua.ua.status_codes import StatusCodes
from asyncua.ua.uaerrors import UaStatusCodeError

from connectors.sources.opcua import services
from connectors.sources.opcua.binary import Malformed
from connectors.sources.opcua.connection import Connection
from connectors.sources.opcua.limits import TOO_MUCH
from connectors.sources.opcua.missing import Missing
from connectors.sources.opcua.services import HistoryResult
from connectors.sources.opcua.watermarks import FILLED, OPEN, REFUSED, Missed
from normalization.reading import Columns

_log = logging.getLogger(__name__)

_VALUES: Final = 20_000  # in one answer, at most
_FEW: Final = 100
_NODES: Final = 100  # in one request, at most
_SPREAD: Final = 10_000_000  # µs between what nodes of one request begin with
_TOO_MUCH: Final = TOO_MUCH | {StatusCodes.BadTimeout}
_AGAIN: Final = {StatusCodes.BadNoContinuationPoints, StatusCodes.BadContinuationPointInvalid} | _TOO_MUCH
_NOTHING: Final = {StatusCodes.BadNoData}


class History:
    """The history of the nodes of one connection.

    Args:
        connection: The connection.
        missing: What its nodes miss.
    """

    def __init__(self, connection: Connection, missing: Missing) -> None:
        self._name = connection.config.name
        self._session = connection.session
        self._intake = connection.intake
        self._described = connection.described
        self._tags = connection.tags
        self._decoder = connection.decoder
        self._types = connection.types
        self._missing = missing
        self._reasons: dict[tuple[int, int], str] = {}
        self._at_once = min(_NODES, connection.session.limits.size("history"))
        self._values = _VALUES

    async def run(self) -> None:
        """Fill what was missed, the oldest first; values that come meanwhile are not held up."""
        while True:
            self._missing.more.clear()
            await self._fill_all()
            await self._missing.more.wait()

    async def _fill_all(self) -> None:
        await self._missing.wait_for_ends()
        gaps = [one for one in list(self._missing.gaps) if self._sound(one)]
        at = self._missing.handles()
        for one in gaps:
            for row in np.flatnonzero(one.rows["state"] == OPEN).tolist():
                handle = at.get(int(one.rows["node"][row]), -1)
                if handle < 0 or not self._missing.readable[handle]:
                    self._refuse(one, row, "the server keeps no history of the node")
        for one in gaps:
            await self._fill(one, at)
            self._finish(one, at)
            self._forget(one)

    def _sound(self, missed: Missed) -> bool:
        if missed.rows is not None:
            return True
        self._intake.gap(list(self._tags), missed.start, missed.end, "what was missed is not known any more")
        self._forget(missed)
        return False

    def _forget(self, missed: Missed) -> None:
        missed.forget()
        self._missing.gaps.remove(missed)

    async def _fill(self, missed: Missed, at: dict[int, int]) -> None:
        rows = missed.rows
        rows["state"][(rows["state"] == OPEN) & (rows["until"] <= rows["since"] + 1)] = FILLED  # nothing lies between
        alone: set[int] = set()  # nodes that are asked for one by one
        while len(left := np.flatnonzero(rows["state"] == OPEN)):
            order = left[np.argsort(rows["since"][left], kind="stable")].tolist()
            begins = rows["since"][order].tolist()
            batch = [
                row
                for row, begin in zip(order[: self._at_once], begins, strict=False)
                if begin <= begins[0] + _SPREAD and row not in alone
            ]
            await self._read(missed, batch if batch and order[0] not in alone else order[:1], at, alone)

    async def _read(self, missed: Missed, batch: list[int], at: dict[int, int], alone: set[int]) -> None:
        """Read the history of some rows to its end, or as far as it can be read together."""
        rows = missed.rows
        handles = {row: at[int(rows["node"][row])] for row in batch}
        most = max(1, self._values // len(batch))
        start, end = int(rows["since"][batch].min()), int(rows["until"][batch].max())
        points: dict[int, bytes | None] = dict.fromkeys(batch)
        while points:
            asked = list(points)
            try:
                nodes = [(self._described[handles[row]].variable.id, points[row]) for row in asked]
                answer = await services.read_history(self._session, nodes, start, end, most)
            except (UaStatusCodeError, TimeoutError, Malformed) as error:
                code = error.code if isinstance(error, UaStatusCodeError) else 0
                code = int(StatusCodes.BadTimeout) if isinstance(error, TimeoutError) else code
                if code in _TOO_MUCH and (len(batch) > 1 or self._values > _FEW):
                    self._at_once, self._values = max(1, len(batch) // 2), max(_FEW, self._values // 2)
                    return
                for row in asked:
                    self._refuse(missed, row, f"the server's history cannot be read: {type(error).__name__}")
                return
            data, results = answer
            columns = Columns()
            done: list[tuple[int, int, bool]] = []  # row, time of the last value, whether it is all
            for row, result in zip(asked, results, strict=True):
                done += self._take(data, result, missed, row, handles[row], most, columns, points, alone)
            if self._types.types.missing and await self._types.learn_missing():
                columns = Columns()
                for row, result in zip(asked, results, strict=True):
                    self._decode(data, result, missed, row, handles[row], columns)
            await self._intake.append(columns)  # the journal's pace is ours
            for row, last, is_all in done:
                rows["since"][row] = max(int(rows["since"][row]), min(last, int(rows["until"][row])))
                if is_all:
                    rows["state"][row] = FILLED

    def _take(
        self,
        data: bytes,
        result: HistoryResult,
        missed: Missed,
        row: int,
        handle: int,
        most: int,
        columns: Columns,
        points: dict[int, bytes | None],
        alone: set[int],
    ) -> list[tuple[int, int, bool]]:
        """Take what the server says to one node; returns row, time of its last value, and whether it is all."""
        points.pop(row)
        if result.status & 0x80000000 and result.status not in _NOTHING:
            if result.status in _AGAIN and row not in alone:
                alone.add(row)
            else:
                self._refuse(missed, row, f"the server's history says {ua.StatusCode(ua.UInt32(result.status)).name}")
            return []
        try:
            count, last = self._decode(data, result, missed, row, handle, columns)
        except Malformed as error:
            self._refuse(missed, row, f"the server's history cannot be decoded: {error}")
            return []
        if result.more is not None:
            points[row] = result.more
            return [(row, last, False)]
        if count < most:
            return [(row, last, True)]
        alone.add(row)  # it gave what we asked for at most, and no way to go on: from the last value, then
        return [(row, max(last, int(missed.rows["since"][row]) + 1), False)]

    def _decode(
        self, data: bytes, result: HistoryResult, missed: Missed, row: int, handle: int, columns: Columns
    ) -> tuple[int, int]:
        if result.start == result.end:
            return 0, 0
        since, until = int(missed.rows["since"][row]), int(missed.rows["until"][row])
        return self._decoder.history(data[result.start : result.end], handle, since, until, columns)

    def _refuse(self, missed: Missed, row: int, reason: str) -> None:
        missed.rows["state"][row] = REFUSED
        self._reasons[missed.end, row] = reason

    def _finish(self, missed: Missed, at: dict[int, int]) -> None:
        """Record what stays a gap."""
        refused: dict[str, list[int]] = {}
        if not missed.start:
            for row in np.flatnonzero(missed.rows["state"] == FILLED).tolist():
                handle = at.get(int(missed.rows["node"][row]), -1)
                if handle >= 0 and not self._missing.last[handle]:
                    self._missing.last[handle] = missed.rows["until"][row]  # its past is read once
        for row in np.flatnonzero(missed.rows["state"] == REFUSED).tolist():
            place = at.get(int(missed.rows["node"][row]))
            reason = self._reasons.pop((missed.end, row), "the server's history could not be read")
            if place is not None:
                refused.setdefault(reason, []).append(self._tags[place])
        for reason, tags in refused.items():
            _log.warning("source %s: history of %d nodes: %s", self._name, len(tags), reason)
            if missed.start:
                self._intake.gap(tags, missed.start, missed.end, f"{missed.reason}, and {reason}")
        filled = int((missed.rows["state"] == FILLED).sum())
        _log.info("source %s: history of %d nodes is complete", self._name, filled)
