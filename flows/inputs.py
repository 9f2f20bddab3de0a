"""The flow's inputs: fixed shards of the journal as Bytewax partitions.

The set of partitions never changes, because Bytewax cannot start when one has gone; sources live inside a shard. After
`snapshot` of an epoch a partition's next call comes when that epoch is durable in every output: then the journal may let
its entries go.
"""

import time
from datetime import UTC, datetime
from functools import partial
from typing import Final

import pyarrow as pa
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from typing_extensions import override

from delivery.disk import StoreError
from delivery.journal import SHARDS
from delivery.spans import SPANS
from flows.clock import TOLERATED, EpochClock
from flows.outcomes import settled
from flows.process import Process

_ROWS: Final = 20_000
_LONG_AGO: Final = datetime.min.replace(tzinfo=UTC)

State = tuple[str, int]  # name of the shard, which a journal that was begun anew gives anew, and offset in it


class _ShardPartition(StatefulSourcePartition[pa.RecordBatch, State]):
    def __init__(self, process: Process, index: int, resume: State | None, began: float) -> None:
        self._process = process
        self._index = index
        self._journal = process.journal
        self._shard = self._journal.shard_name(index)
        offset = resume[1] if resume is not None and resume[0] == self._shard else None
        self._journal.attach(index, offset, partial(settled, process))
        self._offset = offset or 0  # newest commit given to the flow
        self._snapshot: int | None = None  # newest commit of an epoch that is closing
        self._durable = self._offset
        self._turn = -1
        self._clock = EpochClock(process.lead)
        self._asked = began
        self._given: tuple[float, int] | None = None  # when readings were given to the flow, and how many
        process.epochs.begin(index, began)
        process.count_partition()

    @override
    def next_batch(self) -> list[pa.RecordBatch]:
        self._asked = time.monotonic()
        if self._given is not None:
            given, self._given = self._given, None
            SPANS.note("flow turn", given[0], shard=self._shard, rows=given[1])
        self._process.leave_to_change()
        self._trim()
        late = self._clock.set_back()
        if late > TOLERATED:
            self._process.clock_set_back(late)
        if self._process.draining:
            if self._durable >= self._offset:
                self._process.drained(self._index)
            self._process.wait_idle(empty=True)
            return []
        if self._process.blocked:
            self._process.wait_idle(empty=True)
            return []
        try:
            turn = self._process.turn()
            entries = self._journal.take(self._index, _ROWS) if turn != self._turn else []
        except StoreError as error:
            self._process.fail(error)
            raise
        self._turn = turn
        if not entries:
            self._process.wait_idle(empty=True)
            return []
        rows = sum(entry.rows for entry in entries)
        self._process.wait_idle(empty=False, more=rows >= _ROWS)
        if SPANS.wanted:
            self._given = self._asked, rows
        self._offset = entries[-1].number
        batches = [entry.batch for entry in entries]
        return batches if len(batches) == 1 else [pa.concat_batches(batches)]

    @override
    def next_awake(self) -> datetime:
        # Always in the past: a step of the wall clock must not put a partition to sleep.
        return _LONG_AGO

    @override
    def snapshot(self) -> State:
        self._trim()
        self._clock.next_epoch()
        self._process.epochs.begin(self._index, self._asked)
        self._snapshot = self._offset
        return self._shard, self._offset

    def _trim(self) -> None:
        if self._snapshot is not None:
            try:
                self._journal.trim(self._index, self._snapshot)
            except StoreError as error:
                self._process.fail(error)
                raise
            self._durable, self._snapshot = self._snapshot, None


class _JournalSource(FixedPartitionedSource[pa.RecordBatch, State]):
    """Readings of one protocol.

    Partitions are the unit of parallelism. Nothing that the journal holds is lost, whatever ends the process.
    """

    protocol: str

    def __init__(self, process: Process) -> None:
        self._process = process

    @override
    def list_parts(self) -> list[str]:
        shards = [shard for shard in SHARDS if shard.startswith(f"{self.protocol}-")]
        return [f"{self._process.config.gateway}/{shard}" for shard in shards]

    @override
    def build_part(self, step_id: str, for_part: str, resume_state: State | None) -> _ShardPartition:
        began = time.monotonic()  # opening the stores may take a while
        self._process.start()
        return _ShardPartition(self._process, SHARDS.index(for_part.rsplit("/", 1)[1]), resume_state, began)


class OpcUaSource(_JournalSource):
    """Readings from OPC UA servers."""

    protocol = "opcua"


class MqttSource(_JournalSource):
    """Readings from MQTT brokers, Sparkplug B among them."""

    protocol = "mqtt"


class ModbusSource(_JournalSource):
    """Readings from Modbus devices."""

    protocol = "modbus"


class GatewaySource(_JournalSource):
    """Readings that the gateway makes itself: gaps, and tags whose device has gone."""

    protocol = "gateway"
