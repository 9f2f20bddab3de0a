"""The flow's inputs and outputs as Bytewax calls them, one call at a time, on the stores of a process without a flow."""

import asyncio
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from config.models import Configuration
from delivery.disk import StoreError, StoreFullError
from delivery.journal import SHARDS, shard_of
from flows import inputs
from flows.clock import Epochs, lead
from flows.inputs import GatewaySource, ModbusSource, MqttSource, OpcUaSource
from flows.outputs import DeadLetterSink, SpoolSink, by_class
from flows.process import Process
from normalization.reading import Quality, Tag, ValueType
from normalization.values import REASONS
from tests.delivery.stores import columns, sequences_of, stream
from tests.delivery.test_overflow import put
from tests.flows.numbered import TellingConfig

SOURCES = (OpcUaSource, MqttSource, ModbusSource, GatewaySource)
SHARD = shard_of("mqtt", "line")
INTERVAL = 10.0


class Noted:
    """Stands before a method of an object and notes how it is called."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: object, name: str, real: Callable[..., Any]) -> None:
        self.calls: list[Any] = []
        self._real = real
        monkeypatch.setattr(owner, name, self)

    def __call__(self, *given: Any, **named: Any) -> Any:
        self.calls.append(named or given)
        return self._real(*given, **named)


@pytest.fixture
def processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Process]]:
    """Makes processes one after another on the same directory, which open their stores when they are started."""
    made: list[Process] = []

    def make() -> Process:
        close()
        targets = {name: TellingConfig(type="telling", path=tmp_path / name) for name in ("a", "b")}
        process = Process(Configuration(gateway="gw", directory=tmp_path / "data", targets=targets, port=None))
        process.epochs = Epochs(INTERVAL)
        monkeypatch.setattr(process, "start", lambda: process._opened or process.open_stores())
        made.append(process)
        return process

    def close() -> None:
        if made and made[-1]._opened:
            made.pop().close()

    yield make
    close()


@pytest.fixture
def process(processes: Callable[[], Process]) -> Process:
    return processes()


def opened(process: Process) -> Process:
    process.start()
    if not len(process.tags):
        process.tags.intern(Tag("line", "mqtt", "dev", "a0", "tag0"))
    return process


def part(process: Process, resume: Any = None) -> Any:
    """The partition of the shard that the tests use."""
    return MqttSource(process).build_part("step", f"gw/{SHARDS[SHARD]}", resume)


def give(process: Process, *numbers: int) -> None:
    """A commit of readings to the shard, which is durable when this returns."""

    async def append() -> None:
        await process.journal.append("line", SHARD, columns(numbers, 1), None)

    asyncio.run(append())


def taken(partition: Any) -> list[int]:
    """The values that a partition gives in its next turn."""
    found = partition.next_batch() or partition.next_batch()  # it may have been asked in this turn already
    assert len(found) <= 1
    return found[0].column("value_int").to_pylist() if found else []


# ---------------------------------------------------------------------- inputs


def test_each_shard_is_a_partition_of_one_source() -> None:
    process = Process(Configuration(gateway="gw", directory=Path("nowhere"), port=None))
    parts = [name for source in SOURCES for name in source(process).list_parts()]
    assert sorted(parts) == sorted(f"gw/{shard}" for shard in SHARDS)
    for source in SOURCES:
        assert all(name.startswith(f"gw/{source.protocol}-") for name in source(process).list_parts())


def test_the_first_partition_opens_the_stores_and_its_epoch_begins_before_that(process: Process) -> None:
    before = time.monotonic()
    real, opening = process.start, []
    process.start = lambda: (opening.append(time.monotonic()), real())  # type: ignore[method-assign]
    part(process)
    assert process._opened
    assert before <= process.epochs._began[SHARD][1] <= opening[0]
    assert process.epochs._began[SHARD][0] == 1
    assert [turn.partitions for turn in process._turns.values()] == [1]


def test_a_partition_gives_what_is_durable_at_once_and_once_a_turn(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.inputs._ROWS", 4)
    partition = part(opened(process))
    idle = Noted(monkeypatch, process, "wait_idle", process.wait_idle)
    give(process, 1, 2)
    give(process, 3)
    assert [batch.column("value_int").to_pylist() for batch in partition.next_batch()] == [[1, 2, 3]]
    give(process, 4, 5)
    give(process, 6, 7)
    give(process, 8)
    assert partition.next_batch() == [], "in this turn it has been asked"
    assert [batch.column("value_int").to_pylist() for batch in partition.next_batch()] == [[4, 5, 6, 7]]
    assert partition.next_batch() == []
    assert taken(partition) == [8]
    assert partition.next_batch() == []
    assert partition.next_batch() == [], "nothing is there"
    assert idle.calls == [
        {"empty": False, "more": False},
        {"empty": True},
        {"empty": False, "more": True},
        {"empty": True},
        {"empty": False, "more": False},
        {"empty": True},
        {"empty": True},
    ]
    assert partition.next_awake() < datetime.now(UTC)


def test_a_partition_goes_on_behind_its_snapshot_and_gives_again_what_came_later(
    processes: Callable[[], Process],
) -> None:
    first = opened(processes())
    partition = part(first)
    give(first, 1, 2)
    assert taken(partition) == [1, 2]
    shard, offset = state = partition.snapshot()
    assert shard == first.journal.shard_name(SHARD)
    assert offset > 0
    give(first, 3)
    assert taken(partition) == [3]
    second = opened(processes())
    again = part(second, state)
    assert again.snapshot() == state
    assert taken(again) == [3]
    assert again.snapshot()[1] > offset
    third = opened(processes())  # the second one ended before a call that would have told the journal
    other = part(third, (f"{SHARDS[SHARD]}-begun anew", offset + 1))
    assert other.snapshot() == (shard, 0), "of an earlier journal nothing is known"
    assert taken(other) == [3]


def test_what_was_durable_behind_the_flow_when_the_process_ended_is_told_by_the_stores_and_not_given_again(
    processes: Callable[[], Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = opened(processes())
    partition = part(first)
    output = SpoolSink(first, "a").build_part("step", "gw", None)
    give(first, 1, 2)
    (batch,) = partition.next_batch()
    output.write_batch([stream(first.tags, batch.column("sequence").to_pylist(), first.journal.shard_name(SHARD))])
    output.snapshot()
    state = partition.snapshot()
    give(first, 3)
    second = opened(processes())
    told = Noted(monkeypatch, inputs, "settled", inputs.settled)
    again = part(second, state)
    assert taken(again) == [3]
    assert [given[1].column("value_int").to_pylist() for given in told.calls] == [[1, 2]]
    assert second.account().unaccounted == 0


def test_a_partition_that_is_built_later_is_asked_in_the_turn_that_goes_on(process: Process) -> None:
    first = part(opened(process))
    assert first.next_batch() == []
    assert process.turn() == 1
    index = next(n for n, shard in enumerate(SHARDS) if shard.startswith("mqtt-") and n != SHARD)
    later = MqttSource(process).build_part("step", f"a/b/{SHARDS[index]}", None)

    async def append() -> None:
        await process.journal.append("other", index, columns([7], 1), None)

    asyncio.run(append())
    assert [batch.column("value_int").to_pylist() for batch in later.next_batch()] == [[7]]


def test_a_journal_lets_go_what_was_given_before_a_snapshot_once_the_next_call_comes(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    partition = part(opened(process))
    trims = Noted(monkeypatch, process.journal, "trim", process.journal.trim)
    give(process, 1)
    assert taken(partition) == [1]
    partition.next_batch()
    assert trims.calls == [], "it may not be durable behind the flow"
    _, first = partition.snapshot()
    assert trims.calls == []
    give(process, 2)
    assert taken(partition) == [2]
    assert trims.calls == [(SHARD, first)]
    _, second = partition.snapshot()
    partition.snapshot()
    assert trims.calls == [(SHARD, first), (SHARD, second)], "two epochs may end without a call between them"
    partition.next_batch()
    partition.next_batch()
    assert trims.calls == [(SHARD, first), (SHARD, second), (SHARD, second)]
    assert second > first


def test_a_partition_is_drained_when_what_it_gave_is_durable_and_gives_nothing_more(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    partition = part(opened(process))
    drained = Noted(monkeypatch, process, "drained", lambda index: None)
    idle = Noted(monkeypatch, process, "wait_idle", process.wait_idle)
    give(process, 1)
    assert taken(partition) == [1]
    process.draining = True
    give(process, 2)
    idle.calls.clear()
    assert partition.next_batch() == partition.next_batch() == []
    assert drained.calls == []
    partition.snapshot()
    assert partition.next_batch() == []
    assert drained.calls == [(SHARD,)]
    assert idle.calls == [{"empty": True}] * 3
    assert process.journal.take(SHARD, 10)[0].rows == 1, "it is there for the next start"


def test_a_partition_that_gave_nothing_is_drained_at_once(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    partition = part(opened(process))
    drained = Noted(monkeypatch, process, "drained", lambda index: None)
    process.draining = True
    partition.next_batch()
    assert drained.calls == [(SHARD,)]


def test_a_partition_waits_while_a_spool_wants_nothing_more(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    partition = part(opened(process))
    idle = Noted(monkeypatch, process, "wait_idle", process.wait_idle)
    give(process, 1)
    with monkeypatch.context() as full:
        full.setattr(process.spools["b"], "_no_room", True)
        assert partition.next_batch() == partition.next_batch() == []
    assert idle.calls == [{"empty": True}] * 2
    assert taken(partition) == [1]


@pytest.mark.parametrize("store", ["take", "trim"])
def test_a_journal_that_fails_ends_the_process_and_the_flow(
    process: Process, monkeypatch: pytest.MonkeyPatch, store: str
) -> None:
    partition = part(opened(process))
    give(process, 1)
    assert taken(partition) == [1]
    partition.snapshot()
    partition.next_batch()
    partition.snapshot()
    failed, error = Noted(monkeypatch, process, "fail", lambda error: None), StoreError("the disk fails")

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(process.journal, store, fail)
    with pytest.raises(StoreError, match="the disk fails"):
        taken(partition)
    assert failed.calls == [(error,)]


@pytest.mark.parametrize(("ahead", "told"), [(0.3, 0), (5.0, 2)])
def test_a_wall_clock_that_was_set_back_is_told_until_an_epoch_began_behind_it(
    process: Process, monkeypatch: pytest.MonkeyPatch, ahead: float, told: int
) -> None:
    process.lead = lead() + ahead
    partition = part(opened(process))
    back = Noted(monkeypatch, process, "clock_set_back", lambda seconds: None)
    for _ in range(4):
        partition.next_batch()
        partition.snapshot()
    assert len(back.calls) == told
    assert all(4.0 < seconds < 6.0 for (seconds,) in back.calls)


def test_an_epoch_begins_when_its_partition_was_asked_last(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    partition = part(opened(process))
    _, first = process.epochs._began[SHARD]
    partition.snapshot()
    assert process.epochs._began[SHARD] == (2, first)
    before, waited = time.monotonic(), []
    monkeypatch.setattr(process, "wait_idle", lambda **_: waited.append(time.monotonic()))
    partition.next_batch()
    partition.snapshot()
    number, began = process.epochs._began[SHARD]
    assert number == 3
    assert before <= began <= waited[0], "before it waits for something to come"


# ---------------------------------------------------------------------- outputs


def test_outputs_have_one_partition_which_is_the_gateways(process: Process) -> None:
    for sink in (SpoolSink(process, "b"), DeadLetterSink(process)):
        assert sink.list_parts() == ["gw"]
        assert sink.part_fn("whatever") == 0


def test_a_spool_takes_what_is_given_to_its_target_and_a_snapshot_makes_it_durable(process: Process) -> None:
    output = SpoolSink(process, "b").build_part("step", "gw", None)
    opened(process)
    spool = process.spools["b"]
    output.write_batch([stream(process.tags, [1, 2]), stream(process.tags, [3])])
    assert (spool.stored_rows, process.spools["a"].stored_rows) == (3, 0)
    assert output.snapshot() is None
    (lane,) = spool.lanes
    assert spool._flusher.durable(lane.log) >= lane.ledger.newest > 0
    unit = spool.take(10, 2**30)
    assert unit is not None
    assert sequences_of(unit.batch()) == [1, 2, 3]


@pytest.mark.parametrize("call", ["append", "snapshot"])
def test_a_spool_that_fails_ends_the_process(process: Process, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    output = SpoolSink(process, "a").build_part("step", "gw", None)
    opened(process)
    failed, error = Noted(monkeypatch, process, "fail", lambda error: None), StoreError("the disk fails")

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(process.spools["a"], call, fail)
    output.write_batch([stream(process.tags, [1])])
    output.snapshot()
    assert failed.calls == [(error,)]


def rejects(process: Process, numbers: list[int], reason: str = "no number") -> pa.RecordBatch:
    return put(stream(process.tags, numbers), "reject", [reason] * len(numbers))


def kept(process: Process) -> list[tuple[str, list[int], list[str]]]:
    store = process.dead_letters
    return [(letters.error_class, sequences_of(letters.batch), letters.reasons) for letters in store.letters()]


def test_dead_letters_are_kept_with_class_and_reason_and_a_snapshot_makes_them_durable(process: Process) -> None:
    output = DeadLetterSink(process).build_part("step", "gw", None)
    opened(process)
    bytes_ = put(rejects(process, [4], "no JSON"), "type", [ValueType.BYTES])
    output.write_batch([rejects(process, [1, 2]), put(bytes_, "quality", [Quality.BAD])])
    output.write_batch([rejects(process, [3], REASONS[1])])
    assert output.snapshot() is None
    assert kept(process) == [
        ("normalize", [1, 2], ["no number"] * 2),
        ("decode", [4], ["no JSON"]),
        ("normalize", [3], [REASONS[1]]),
    ]
    log = process.dead_letters._log
    assert log._synced >= log.next_number - 2


def test_dead_letters_that_a_full_disk_refuses_wait_in_their_order_and_hold_the_snapshot(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.outputs._RETRY_FULL", 0.001)
    output = DeadLetterSink(process).build_part("step", "gw", None)
    opened(process)
    store, tries = process.dead_letters, []
    real = store.append

    def append(batch: pa.RecordBatch, *given: Any, **named: Any) -> None:
        tries.append(sequences_of(batch))
        if len(tries) in (1, 2, 3, 5):
            raise StoreFullError("the disk is full")
        real(batch, *given, **named)

    monkeypatch.setattr(store, "append", append)
    failed = Noted(monkeypatch, process, "fail", lambda error: None)
    output.write_batch([rejects(process, [1])])
    output.write_batch([rejects(process, [2])])
    assert tries == [[1], [1]]
    output.snapshot()
    assert tries == [[1], [1], [1], [1], [2], [2]]
    assert [sequences for _, sequences, _ in kept(process)] == [[1], [2]]
    assert failed.calls == []
    assert not output._waiting


@pytest.mark.parametrize("call", ["append", "wait"])
def test_a_store_of_dead_letters_that_fails_ends_the_process(
    process: Process, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    output = DeadLetterSink(process).build_part("step", "gw", None)
    opened(process)
    failed, error = Noted(monkeypatch, process, "fail", lambda error: None), StoreError("the disk fails")

    def fail(*_: object, **__: object) -> None:
        raise error

    with monkeypatch.context() as broken:
        broken.setattr(process.dead_letters, call, fail)
        output.write_batch([rejects(process, [1])])
        assert failed.calls == ([(error,)] if call == "append" else [])
        if call == "wait":
            output.snapshot()
    assert failed.calls == [(error,)]


def test_only_bad_bytes_of_which_no_step_said_why_could_not_be_decoded(process: Process) -> None:
    opened(process)
    process.normalizer.rejected[process.tags[0]] = "no such template"
    given = [
        (ValueType.BYTES, Quality.BAD, "no JSON"),
        (ValueType.BYTES, Quality.GOOD, "no JSON"),
        (ValueType.DOUBLE, Quality.BAD, "no JSON"),
        (ValueType.BYTES, Quality.BAD, REASONS[2]),
        (ValueType.BYTES, Quality.BAD, "no such template"),
        (ValueType.BYTES, Quality.BAD, "cut short"),
    ]
    batch = stream(process.tags, range(len(given)))
    for name, values in zip(("type", "quality", "reject"), zip(*given, strict=True), strict=True):
        batch = put(batch, name, list(values))
    found = [(kind, sequences_of(part)) for kind, part in by_class(batch, process.normalizer)]
    assert found == [("decode", [0, 5]), ("normalize", [1, 2, 3, 4])]
    assert [kind for kind, _ in by_class(batch.slice(0, 1), process.normalizer)] == ["decode"]
    assert [kind for kind, _ in by_class(batch.slice(1, 2), process.normalizer)] == ["normalize"]
