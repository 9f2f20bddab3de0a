"""Writes a row per equipment and time, with a column per signal; see `connectors.wire.wide_tables`.

A unit becomes rows as a whole, and where a stream ends within it all of them are sent again.
"""

import numpy as np
import pyarrow as pa
from typing_extensions import override

from connectors.contract import ConfigError, Context, RejectedRecords
from connectors.targets.zerobus.config import ZeroBusConfig
from connectors.targets.zerobus.schema import Plan
from connectors.targets.zerobus.writer import LEAVE_OUT, Request, Stream, ZeroBusWriter, cut
from connectors.wire import wide_tables
from connectors.wire.lakehouse import quoted, review
from connectors.wire.pivot import Integers, Signals
from connectors.wire.wide_tables import ARROW, WIDE, signal_fields


class WideZeroBusWriter(ZeroBusWriter):
    """Writes signals to one Delta table through ZeroBus."""

    def __init__(self, config: ZeroBusConfig, context: Context) -> None:
        super().__init__(config, context)
        self._pivot = wide_tables.pivot(config.provider_config.partition_time)

    @override
    def _requests(self, stream: Stream, batch: pa.RecordBatch) -> tuple[list[Request], dict[int, str]]:
        if not batch.num_rows:
            return [], {}
        kept, batch, found = self._fitting(stream.plan, batch)
        rows = self._pivot.rows(batch)
        requests: list[Request] = []
        start = 0
        for some in wide_tables.batches(batch, rows, found.signals):
            values = dict(zip(some.schema.names, some.columns, strict=True))
            empty = {kind: pa.nulls(len(some), kind) for kind in ARROW.values()}
            values |= {c.name: empty[c.kind.arrow] for c in stream.plan.columns if c.name not in values}
            made, refused = cut(stream, values, len(some), np.zeros(len(some), np.int64))
            if refused:
                wrong = {
                    int(kept[at]): reason
                    for row, reason in refused.items()
                    for at in np.flatnonzero(rows.row == start + row).tolist()
                }
                raise RejectedRecords(sorted(wrong), [wrong[row] for row in sorted(wrong)])
            requests += made
            start += len(some)
        return requests, {}

    def _fitting(self, fitting: Plan, batch: pa.RecordBatch) -> tuple[Integers, pa.RecordBatch, Signals]:
        """The readings that are sent, with their rows in the batch and their signals; raises where some cannot be."""
        own, kept, there = self._own, np.arange(batch.num_rows), _there(fitting)
        found = self._pivot.signals(batch, there)
        if found.missing and own.schema_evolution == "leave_out":
            without = [signal.readings for signal in found.signals if wide_tables.lost(found.missing, [signal])]
            kept = np.delete(kept, np.concatenate(without))
            batch = batch.take(pa.array(kept))
            found = self._pivot.signals(batch, there)
        if found.unfit:
            raise ConfigError(f"{own.table}: {'; '.join(found.unfit)}")
        if found.rejected:
            wrong = sorted(found.rejected)
            raise RejectedRecords(kept[wrong].tolist(), [found.rejected[row] for row in wrong])
        lacking = [name for name in fitting.left_out if name != "date"]
        if own.schema_evolution == "review" and (lacking or found.missing):
            lost = dict.fromkeys(lacking, len(batch)) | wide_tables.lost(found.missing, found.signals)
            of = pa.schema([*WIDE, *signal_fields(found.missing)])
            raise ConfigError(review(own.table, quoted(own.table), lost, len(batch), LEAVE_OUT, of))
        return kept, batch, found


def _there(fitting: Plan) -> dict[str, str]:
    """The types of the columns that the table has, by their names in small letters."""
    others = dict.fromkeys((name.lower() for name in fitting.not_ours), "of a type that is no signal's")
    return others | {column.name: column.kind.sql.lower() for column in fitting.columns}
