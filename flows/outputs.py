"""The flow's outputs: a target's spool, and the dead letters, as Bytewax partitions.

Every output is partitioned, because only those hold an epoch until what they were given is durable.
"""

import pyarrow as pa
from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition
from typing_extensions import override

from delivery.disk import StoreError
from flows.process import Process


class _SpoolPartition(StatefulSinkPartition[pa.RecordBatch, None]):
    def __init__(self, process: Process, target: str) -> None:
        self._process = process
        self._spool = process.spools[target]

    @override
    def write_batch(self, values: list[pa.RecordBatch]) -> None:
        try:
            for batch in values:
                self._spool.append(batch)
        except StoreError as error:
            self._process.fail(error)

    @override
    def snapshot(self) -> None:
        try:
            self._spool.snapshot()
        except StoreError as error:
            self._process.fail(error)


class SpoolSink(FixedPartitionedSink[pa.RecordBatch, None]):
    """The spool of one target.

    One partition per gateway. Readings that come again are left out.
    """

    def __init__(self, process: Process, target: str) -> None:
        self._process = process
        self._target = target

    @override
    def list_parts(self) -> list[str]:
        return [self._process.config.gateway]

    @override
    def build_part(self, step_id: str, for_part: str, resume_state: None) -> _SpoolPartition:
        self._process.start()
        return _SpoolPartition(self._process, self._target)

    @override
    def part_fn(self, item_key: str) -> int:
        return 0


class _DeadLetterPartition(StatefulSinkPartition[pa.RecordBatch, None]):
    def __init__(self, process: Process) -> None:
        self._process = process
        self._store = process.dead_letters

    @override
    def write_batch(self, values: list[pa.RecordBatch]) -> None:
        try:
            for batch in values:
                self._store.append(batch, batch.column("reject").to_pylist())
        except StoreError as error:
            self._process.fail(error)

    @override
    def snapshot(self) -> None:
        try:
            self._store.wait()
        except StoreError as error:
            self._process.fail(error)


class DeadLetterSink(FixedPartitionedSink[pa.RecordBatch, None]):
    """Readings that could not be decoded or normalized.

    One partition per gateway. Readings that come again are left out.
    """

    def __init__(self, process: Process) -> None:
        self._process = process

    @override
    def list_parts(self) -> list[str]:
        return [self._process.config.gateway]

    @override
    def build_part(self, step_id: str, for_part: str, resume_state: None) -> _DeadLetterPartition:
        self._process.start()
        return _DeadLetterPartition(self._process)

    @override
    def part_fn(self, item_key: str) -> int:
        return 0
