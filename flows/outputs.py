"""The flow's outputs: a target's spool, and the dead letters, as Bytewax partitions.

Every output is partitioned, because only those hold an epoch until what they were given is durable.
"""

import contextlib
import time
from collections import deque
from typing import Final, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition
from typing_extensions import override

from delivery.disk import StoreError, StoreFullError
from delivery.letter import DECODE, NORMALIZE
from flows.crossing import localize
from flows.outcomes import Told
from flows.process import Process
from normalization.normalizer import Normalizer
from normalization.reading import Quality, ValueType
from normalization.rules import take
from normalization.values import REASONS

_X = TypeVar("_X")
_RETRY_FULL: Final = 0.2


class _GatewaySink(FixedPartitionedSink[_X, None]):
    """A sink with one partition per gateway, keyed by the gateway's name."""

    def __init__(self, process: Process) -> None:
        self._process = process

    @override
    def list_parts(self) -> list[str]:
        return [self._process.config.gateway]

    @override
    def part_fn(self, item_key: str) -> int:
        cluster = self._process.cluster
        return 0 if cluster is None else cluster.members.place(item_key)


class _SpoolPartition(StatefulSinkPartition[pa.RecordBatch, None]):
    def __init__(self, process: Process, target: str) -> None:
        self._process = process
        self._spool = process.spools[target]

    @override
    def write_batch(self, values: list[pa.RecordBatch]) -> None:
        try:
            for batch in values:
                self._spool.append(localize(batch, self._process.tags))
        except StoreError as error:
            self._process.fail(error)

    @override
    def snapshot(self) -> None:
        try:
            self._spool.snapshot(self._process.waits_for_room)
        except StoreError as error:
            self._process.fail(error)


class SpoolSink(_GatewaySink[pa.RecordBatch]):
    """The spool of one target.

    One partition per gateway. Readings that come again are left out.
    """

    def __init__(self, process: Process, target: str) -> None:
        super().__init__(process)
        self._target = target

    @override
    def build_part(self, step_id: str, for_part: str, resume_state: None) -> _SpoolPartition:
        self._process.start()
        return _SpoolPartition(self._process, self._target)


class _DeadLetterPartition(StatefulSinkPartition[pa.RecordBatch, None]):
    def __init__(self, process: Process) -> None:
        self._process = process
        self._store = process.dead_letters

        self._waiting: deque[pa.RecordBatch] = deque()  # a full disk could not take them, nor a word about them

    @override
    def write_batch(self, values: list[pa.RecordBatch]) -> None:
        self._waiting.extend(localize(batch, self._process.tags) for batch in values)
        try:
            self._write()
        except StoreError as error:
            self._process.fail(error)

    def _write(self) -> None:
        with contextlib.suppress(StoreFullError):
            while self._waiting:
                for kind, batch in by_class(self._waiting[0], self._process.normalizer):
                    self._store.append(batch, batch.column("reject").to_pylist(), error_class=kind)
                self._waiting.popleft()

    @override
    def snapshot(self) -> None:
        try:
            while self._waiting:
                self._process.waits_for_room()
                time.sleep(_RETRY_FULL)  # the flow may not go on before this epoch is durable
                self._write()
            self._store.wait()
        except StoreError as error:
            self._process.fail(error)


def by_class(batch: pa.RecordBatch, normalizer: Normalizer) -> list[tuple[str, pa.RecordBatch]]:
    """Rejected readings apart by error class: what could not be decoded is bytes, and no step said why."""
    said = pa.array([*REASONS, *normalizer.rejected.values()])
    undecoded = pc.and_(
        pc.equal(batch.column("type"), ValueType.BYTES),
        pc.and_(
            pc.equal(batch.column("quality"), Quality.BAD),
            pc.invert(pc.is_in(batch.column("reject"), said)),
        ),
    ).to_numpy(zero_copy_only=False)
    parts = [(DECODE, np.flatnonzero(undecoded)), (NORMALIZE, np.flatnonzero(~undecoded))]
    return [(kind, take(batch, rows)) for kind, rows in parts if len(rows)]


class DeadLetterSink(_GatewaySink[pa.RecordBatch]):
    """Readings that could not be decoded or normalized.

    One partition per gateway. Readings that come again are left out.
    """

    @override
    def build_part(self, step_id: str, for_part: str, resume_state: None) -> _DeadLetterPartition:
        self._process.start()
        return _DeadLetterPartition(self._process)


class _OutcomePartition(StatefulSinkPartition[Told, None]):
    def __init__(self, process: Process) -> None:
        self._journal = process.journal

    @override
    def write_batch(self, values: list[Told]) -> None:
        for shard, last, outcome in values:
            self._journal.note(shard, last, outcome)

    @override
    def snapshot(self) -> None:
        """Nothing: the journal writes it when it lets the readings go, and the stores tell it after a crash."""


class OutcomeSink(_GatewaySink[Told]):
    """What became of readings that went through a step on another member of the cluster, for the journal they came from.

    One partition per gateway.
    """

    @override
    def build_part(self, step_id: str, for_part: str, resume_state: None) -> _OutcomePartition:
        self._process.start()
        return _OutcomePartition(self._process)
