"""Report by exception as a step of the flow: what passes is decided by `normalization.report`, what is left out is counted.

What is remembered of the tags is one state, so that it comes back with the flow's snapshot, and what comes again after a
crash is decided as it was.
"""

from collections.abc import Iterable
from typing import Any

import bytewax.operators as op
import numpy as np
import pyarrow as pa
from bytewax.dataflow import Stream, operator
from bytewax.operators import StatefulBatchLogic
from typing_extensions import override

from delivery import metrics
from flows.isolation import isolate
from flows.outcomes import note_left_out
from flows.process import Process
from normalization.report import Reported, Reporter, Ruled
from normalization.rules import take

_Batches = Stream[pa.RecordBatch]


@operator
def report_by_exception(step_id: str, up: _Batches, process: Process) -> _Batches:  # noqa: ARG001 - Bytewax's operators have it
    """Leave out what the `report` of a tag's mapping leaves out; batches without such a tag go past.

    Args:
        step_id: Name of the step.
        up: Batches of `stream_schema`.
        process: What the flow lives on.
    """
    gateway = process.config.gateway
    split = op.branch("have_a_rule", up, Ruled(process.tags))
    keyed = op.map("keyed", split.trues, lambda batch: (gateway, batch))
    passed = op.stateful_batch("pass", keyed, lambda state: _Step(process, state))
    return op.merge("reported", split.falses, op.key_rm("passed", passed))


class _Step(StatefulBatchLogic[pa.RecordBatch, pa.RecordBatch, Any]):
    def __init__(self, process: Process, state: Any) -> None:
        self._process = process
        self._reporter = Reporter(process.tags, state)

    @override
    def on_batch(self, values: list[pa.RecordBatch]) -> tuple[Iterable[pa.RecordBatch], bool]:
        return [part for batch in values for part in self._pass(batch)], StatefulBatchLogic.RETAIN

    def _pass(self, batch: pa.RecordBatch) -> Iterable[pa.RecordBatch]:
        found = isolate(self._reporter, _pass_whole, batch)
        for part in found:
            if part.late is not None:
                metrics.PASSED_LATE.inc(len(part.late))
                yield part.late
        reasons = found[0].reasons if len(found) == 1 else np.concatenate([part.reasons for part in found])
        passing = np.flatnonzero(reasons == 0)
        if len(passing) == len(batch):
            yield batch
            return
        note_left_out(batch, reasons, self._process)
        if len(passing):
            yield take(batch, passing)

    @override
    def snapshot(self) -> Any:
        return self._reporter.snapshot()


def _pass_whole(batch: pa.RecordBatch, reason: str) -> Reported:  # noqa: ARG001 - why it cannot be decided on is logged
    return Reported(np.zeros(len(batch), np.int8), None)
