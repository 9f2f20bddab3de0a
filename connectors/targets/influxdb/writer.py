"""Writes units as lines, several units at a time over a bounded pool of connections.

A unit larger than `body_size` is several requests. A point is known by its series and its time, so that a reading that is
sent again replaces itself. Lines that a server refuses without saying which are found by halving the request.
"""

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from typing_extensions import override

from connectors.contract import DeliveryError, Finding, Limits, RejectedRecords, Writer
from connectors.targets.influxdb import bucket, preflight
from connectors.targets.influxdb.config import InfluxConfig
from connectors.targets.influxdb.errors import delivery_error, fault
from connectors.targets.influxdb.server import Server
from connectors.wire.line_protocol import LineEncoder, Lines


@dataclass(frozen=True, slots=True)
class _Part:
    """Lines that one request carries.

    Attributes:
        lines: All lines of the unit.
        rows: The row of each of them in the batch.
        first: The first of the request.
        stop: The one after the last.
    """

    lines: Lines
    rows: np.ndarray
    first: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.first

    @property
    def payload(self) -> bytes:
        """The lines, one after the other."""
        if len(self) == len(self.lines.ends):
            return self.lines.payload
        return self.lines.payload[self._start(self.first) : int(self.lines.ends[self.stop - 1])]

    def each(self) -> list[bytes]:
        """The lines, one by one."""
        bounds = [self._start(self.first), *self.lines.ends[self.first : self.stop].tolist()]
        return [self.lines.payload[start:end] for start, end in itertools.pairwise(bounds)]

    def halves(self) -> "tuple[_Part, _Part]":
        """The same lines in two."""
        middle = (self.first + self.stop) // 2
        return replace(self, stop=middle), replace(self, first=middle)

    def _start(self, line: int) -> int:
        return int(self.lines.ends[line - 1]) if line else 0


class InfluxWriter(Writer):
    """Writes to one database or bucket; see the module."""

    def __init__(self, config: InfluxConfig) -> None:
        own = config.provider_config
        self.limits = Limits(
            rows=own.batch_size or config.batch_size or 10_000,
            bytes=16 * 1024**2,
            linger=0.1 if config.flush_interval is None else config.flush_interval,
            writes_in_flight=own.pool_size,
            has_key=own.version != "victoriametrics",
        )
        self._config = config
        self._encoder = LineEncoder(own.line_format)
        self._server = Server(config)
        self._names = {name: kind for kind, name in own.line_format.values.items()}

    @override
    async def open(self) -> None:
        """Connect, and make what is missing; see `Writer.open`."""
        await self.close()
        await self._server.connect()
        answer, _ = await self._server.ping()
        if answer.status == 401 or answer.status >= 500:
            raise delivery_error(answer, self._server.where)
        if self._config.provider_config.create == "auto":
            await bucket.make(self._server, self._config.provider_config)

    @override
    async def write(self, batch: pa.RecordBatch, unit: int) -> None:
        """Write the unit; return when the server has all of it. See `Writer.write`."""
        lines = self._encoder.encode(batch)
        rejected = dict(zip(lines.rejected, lines.reasons, strict=True))
        rows = np.delete(np.arange(len(batch)), lines.rejected)
        rest_written, waiting = True, [*_parts(lines, rows, self._config.provider_config.body_size)][::-1]
        while waiting:
            part = waiting.pop()
            answer = await self._server.write(part.payload)
            if answer.status == 204:
                continue
            found = fault(answer, part.each, functools.partial(self._with_field, batch, part))
            if found is None:
                raise delivery_error(answer, self._server.where)
            if not found.reasons:  # it does not say which lines, or whether they fit in smaller requests
                waiting += part.halves()[::-1]
                continue
            rejected |= {int(rows[part.first + line]): why for line, why in found.reasons.items()}
            rest_written = rest_written and (found.rest_written or len(found.reasons) == len(part))
        if rejected:
            indices = sorted(rejected)
            raise RejectedRecords(indices, [rejected[row] for row in indices], rest_written=rest_written)

    @override
    async def close(self) -> None:
        """Close the connections; see `Writer.close`."""
        await self._server.close()

    async def check(self) -> list[Finding]:
        """What stands between this gateway and the database; see `contract.Checks`. Writes nothing."""
        try:
            async with Server(self._config) as server:
                return await preflight.findings(server, self._config)
        except DeliveryError as problem:
            return [Finding(False, "connection", str(problem))]

    def _with_field(self, batch: pa.RecordBatch, part: _Part, name: str) -> Sequence[int]:
        """The lines of a part that have the field of this name."""
        kind = self._names.get(name)
        if kind is None:
            return range(len(part))
        kinds = batch.column("type").to_numpy()[part.rows[part.first : part.stop]]
        found: list[int] = np.flatnonzero(kinds == int(kind)).tolist()
        return found


def _parts(lines: Lines, rows: np.ndarray, most: int) -> Iterator[_Part]:
    """The requests that lines make, each of `most` bytes; a longer line is alone."""
    first, count = 0, len(lines.ends)
    while first < count:
        start = int(lines.ends[first - 1]) if first else 0
        stop = max(first + 1, int(np.searchsorted(lines.ends, start + most, side="right")))
        yield _Part(lines, rows, first, stop)
        first = stop
