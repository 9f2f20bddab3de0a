import asyncio
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from typing_extensions import override

from connectors.contract import AuthError, ConfigError, Limits, RejectedRecords, TransientError, Writer
from delivery.breaker import BreakerState
from delivery.dead_letters import DeadLetterStore
from delivery.disk import StoreError
from delivery.forwarder import Forwarder
from delivery.journal import Journal
from delivery.pace import RateLimit
from delivery.retry import RetryPolicy
from delivery.spool import Spool
from normalization.reading import TagTable
from tests.delivery.stores import (
    GATEWAY,
    columns,
    content,
    new_spool,
    own,
    sequences_of,
    stream,
    tag_table,
    unaccounted,
    until,
)

FAST = RetryPolicy(first=0.001, cap=0.01, slow=0.01)


class Target(Writer):
    """A target in memory; `answer` decides what becomes of a write: it raises, or the readings are taken."""

    def __init__(self, limits: Limits | None = None, answer: Callable[["Target", pa.RecordBatch, int], None] = print):
        self.limits = limits or Limits(rows=10)
        self.calls: list[tuple[int, list[int], float]] = []  # unit, sequences, when
        self.taken: list[int] = []
        self.opened = self.closed = self.under_way = self.most_under_way = 0
        self.hang: asyncio.Event | None = None
        self.hanging = threading.Event()
        self._answer = answer

    @override
    async def open(self) -> None:
        self.opened += 1

    @override
    async def write(self, batch: pa.RecordBatch, unit: int) -> None:
        assert self.opened == self.closed + 1, "a write to a closed writer"
        self.calls.append((unit, sequences_of(batch), time.monotonic()))
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            if self.hang is not None:
                self.hanging.set()
                await self.hang.wait()
            await asyncio.sleep(0.001)
            if self._answer is not print:
                self._answer(self, batch, unit)
            self.taken += sequences_of(batch)
        finally:
            self.under_way -= 1

    @override
    async def close(self) -> None:
        self.closed += 1


class Delivery:
    """A spool, a target, its forwarder, and where dead letters go."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.tags: TagTable = tag_table()
        self.letters = DeadLetterStore(directory / "dead", self.tags, own)
        self.spools: dict[str, Spool] = {}
        self.forwarders: dict[str, Forwarder] = {}

    def start(self, target: Writer, name: str = "cloud", policy: RetryPolicy = FAST, threshold: int = 5) -> Spool:
        spool = new_spool(self.directory / name, self.tags, entry_rows=target.limits.rows)
        self.attach(target, spool, name, policy, threshold)
        return spool

    def attach(
        self,
        target: Writer,
        spool: Spool,
        name: str = "cloud",
        policy: RetryPolicy = FAST,
        threshold: int = 5,
        rate: RateLimit | None = None,
    ) -> Forwarder:
        self.spools[name] = spool
        forwarder = Forwarder(name, target, spool, self.letters, policy=policy, threshold=threshold, rate=rate)
        self.forwarders[name] = forwarder
        forwarder.start()
        return forwarder

    def dead(self) -> list[int]:
        return [n for letters in self.letters.letters() for n in sequences_of(letters.batch)]

    def stop(self) -> None:
        for forwarder in self.forwarders.values():
            forwarder.stop()
        for forwarder in self.forwarders.values():
            forwarder.join(10.0)
            assert not forwarder._thread.is_alive()
        for spool in self.spools.values():
            spool.close()
        self.letters.close()


@pytest.fixture
def delivery(tmp_path: Path) -> Iterator[Delivery]:
    found = Delivery(tmp_path)
    yield found
    found.stop()


def failing(times: int, error: Callable[[], BaseException]) -> Callable[[Target, pa.RecordBatch, int], None]:
    left = [times]

    def answer(target: Target, batch: pa.RecordBatch, unit: int) -> None:
        if left[0] > 0:
            left[0] -= 1
            raise error()

    return answer


def test_readings_are_delivered_in_order_as_they_come(delivery: Delivery) -> None:
    target = Target()
    spool = delivery.start(target)
    for n in range(20):
        spool.append(stream(delivery.tags, range(n * 3, n * 3 + 3)))
    until(lambda: len(target.taken) == 60)
    assert target.taken == list(range(60))
    until(lambda: spool.account().delivered.total() == 60)
    assert not unaccounted(spool)
    assert [unit for unit, _, _ in target.calls] == sorted({unit for unit, _, _ in target.calls})
    assert delivery.forwarders["cloud"].status.delivered == 60
    assert delivery.forwarders["cloud"].status.connected


@pytest.mark.parametrize(
    "error",
    [
        lambda: TransientError("gone"),
        lambda: AuthError("expired"),
        lambda: ConfigError("no such table"),
        lambda: ZeroDivisionError("a bug in a writer"),
        lambda: asyncio.CancelledError(),  # what a gRPC channel does to its calls when it closes
        lambda: TimeoutError(),
        lambda: RejectedRecords([], []),  # a writer that rejects nothing must not be asked again at once for ever
    ],
)
def test_a_unit_is_sent_again_unchanged_until_it_is_taken(
    delivery: Delivery, error: Callable[[], BaseException]
) -> None:
    target = Target(answer=failing(3, error))
    spool = delivery.start(target)
    spool.append(stream(delivery.tags, range(10)))
    spool.append(stream(delivery.tags, range(10, 15)))
    until(lambda: len(target.taken) == 15)
    assert target.taken == list(range(15))
    first = target.calls[:4]
    assert len({unit for unit, _, _ in first}) == 1
    assert [sequences for _, sequences, _ in first] == [list(range(10))] * 4
    assert target.opened == 4, "opened again after each failure"
    until(lambda: spool.account().delivered.total() == 15)
    status = delivery.forwarders["cloud"].status
    assert (sum(status.errors.values()), status.last_error) == (3, "")


def test_a_writer_that_cannot_be_opened_or_closed_is_opened_again(delivery: Delivery) -> None:
    class Awkward(Target):
        tries = 0

        @override
        async def open(self) -> None:
            self.tries += 1
            if self.tries in (1, 2):
                raise ConnectionRefusedError("no")
            if self.tries == 3:
                raise asyncio.CancelledError
            await super().open()

        @override
        async def close(self) -> None:
            if self.opened:
                await super().close()
            raise RuntimeError("already closed")

    target = Awkward(answer=failing(1, lambda: TransientError("gone")))
    spool = delivery.start(target)
    spool.append(stream(delivery.tags, range(10)))
    until(lambda: len(target.taken) == 10)
    assert target.tries == 5
    assert delivery.forwarders["cloud"].status.errors == {"unexpected": 2, "transient": 2}


def test_retries_back_off(delivery: Delivery) -> None:
    target = Target(answer=failing(6, lambda: TransientError("gone")))
    spool = delivery.start(target, policy=RetryPolicy(first=0.02, cap=0.08))
    spool.append(stream(delivery.tags, range(10)))
    until(lambda: target.taken)
    times = [when for _, _, when in target.calls]
    assert len(times) == 7
    assert times[-1] - times[0] < 6 * 0.08 + 3.0


def test_a_target_that_says_when_is_asked_then(delivery: Delivery) -> None:
    target = Target(answer=failing(1, lambda: TransientError("busy", retry_after=0.3)))
    spool = delivery.start(target)
    spool.append(stream(delivery.tags, range(10)))
    until(lambda: target.taken)
    assert target.calls[1][2] - target.calls[0][2] >= 0.3


def test_credentials_and_settings_are_tried_slowly(delivery: Delivery) -> None:
    target = Target(answer=failing(10, lambda: AuthError("expired")))
    spool = delivery.start(target, policy=RetryPolicy(first=0.001, cap=0.01, slow=0.25))
    spool.append(stream(delivery.tags, range(10)))
    until(lambda: len(target.calls) == 3)
    times = [when for _, _, when in target.calls]
    assert min(b - a for a, b in zip(times, times[1:], strict=False)) >= 0.25
    assert delivery.forwarders["cloud"].status.error_class == "auth"


def test_an_open_breaker_lets_one_probe_through_and_closes_when_it_is_taken(delivery: Delivery) -> None:
    states, seen = [], []
    broken = threading.Event()
    broken.set()

    def answer(target: Target, batch: pa.RecordBatch, unit: int) -> None:
        status = delivery.forwarders["cloud"].status
        states.append((status.breaker, target.under_way))
        if broken.is_set():
            raise TransientError("gone")

    target = Target(Limits(rows=10, writes_in_flight=4), answer)
    spool = delivery.start(target, threshold=2)
    for n in range(20):
        spool.append(stream(delivery.tags, range(n * 10, n * 10 + 10)))
    until(lambda: len(states) > 12)
    assert any(state is BreakerState.HALF_OPEN for state, _ in states)
    assert all(count == 1 for state, count in states if state is BreakerState.HALF_OPEN)
    until(lambda: delivery.forwarders["cloud"].status.breaker is BreakerState.OPEN)
    seen.append(len(states))
    broken.clear()
    until(lambda: len(target.taken) == 200)
    assert sorted(target.taken) == list(range(200))
    assert delivery.forwarders["cloud"].status.breaker is BreakerState.CLOSED
    assert target.most_under_way > 1


def test_several_writes_are_under_way_at_once_and_each_is_settled_by_itself(delivery: Delivery) -> None:
    def answer(target: Target, batch: pa.RecordBatch, unit: int) -> None:
        if unit == 2 and len([u for u, _, _ in target.calls if u == 2]) == 1:
            raise TransientError("this one not")

    target = Target(Limits(rows=10, writes_in_flight=3), answer)
    spool = new_spool(delivery.directory / "cloud", delivery.tags, entry_rows=10)
    spool.append(stream(delivery.tags, range(100)))
    delivery.attach(target, spool)
    until(lambda: spool.account().delivered.total() == 100)
    assert target.most_under_way == 3
    assert Counter(target.taken) == Counter(range(100)), "what was taken is not sent again"
    assert not unaccounted(spool)


def test_rejected_readings_become_dead_letters_and_the_rest_is_delivered_once(delivery: Delivery) -> None:
    def answer(target: Target, batch: pa.RecordBatch, unit: int) -> None:
        bad = [i for i, n in enumerate(sequences_of(batch)) if n % 7 == 3]
        if bad:
            raise RejectedRecords(bad, [f"not {sequences_of(batch)[i]}" for i in bad])

    target = Target(answer=answer)
    spool = delivery.start(target)
    spool.append(stream(delivery.tags, range(100)))
    until(lambda: len(target.taken) == 86)
    assert sorted(target.taken) == [n for n in range(100) if n % 7 != 3]
    assert sorted(delivery.dead()) == [n for n in range(100) if n % 7 == 3]
    for letters in delivery.letters.letters():
        assert letters.reasons == [f"not {n}" for n in sequences_of(letters.batch)]
        assert (letters.target, letters.attempts) == ("cloud", 1)
    until(lambda: spool.account().stored.total() == 0)
    assert spool.account().dead.total() == 14
    assert not unaccounted(spool)


def test_a_target_may_take_the_rest_and_say_so(delivery: Delivery) -> None:
    def answer(target: Target, batch: pa.RecordBatch, unit: int) -> None:
        if 5 in sequences_of(batch):
            target.taken += [n for n in sequences_of(batch) if n != 5]
            raise RejectedRecords([5], ["no"], rest_written=True)

    target = Target(answer=answer)
    spool = delivery.start(target)
    spool.append(stream(delivery.tags, range(20)))
    until(lambda: spool.account().stored.total() == 0)
    assert sorted(target.taken) == [n for n in range(20) if n != 5]
    assert delivery.dead() == [5]
    assert delivery.forwarders["cloud"].status.delivered == 19
    assert not unaccounted(spool)


@pytest.mark.parametrize("rest_written", [False, True])
def test_rejections_in_an_entry_larger_than_the_limit_hit_the_right_readings(
    delivery: Delivery, rest_written: bool
) -> None:
    """The batch size was made smaller while entries waited."""

    def answer(target: Target, batch: pa.RecordBatch, unit: int) -> None:
        bad = [i for i, n in enumerate(sequences_of(batch)) if n in (17, 23, 24)]
        if bad:
            if rest_written:
                target.taken += [n for n in sequences_of(batch) if n not in (17, 23, 24)]
            raise RejectedRecords(bad, ["no"] * len(bad), rest_written=rest_written)

    spool = new_spool(delivery.directory / "cloud", delivery.tags, entry_rows=100)
    spool.append(stream(delivery.tags, range(40)))
    target = Target(Limits(rows=10), answer)
    delivery.attach(target, spool)
    until(lambda: spool.account().stored.total() == 0)
    assert all(len(sequences) <= 10 for _, sequences, _ in target.calls)
    assert sorted(set(target.taken)) == [n for n in range(40) if n not in (17, 23, 24)]
    assert sorted(delivery.dead()) == [17, 23, 24]
    if rest_written:
        assert len(target.taken) == 37
    assert not unaccounted(spool)


def test_a_target_that_remembers_units_gets_each_number_once(delivery: Delivery) -> None:
    spool = new_spool(delivery.directory / "cloud", delivery.tags, entry_rows=100)
    spool.append(stream(delivery.tags, range(40)))
    target = Target(Limits(rows=10, remembers_units=True))
    delivery.attach(target, spool)
    until(lambda: spool.account().delivered.total() == 40)
    assert len(target.calls) == 1


def test_units_that_are_remembered_ascend_and_are_repeated_only_unchanged(delivery: Delivery) -> None:
    rng = random.Random(5)

    def answer(target: Target, batch: pa.RecordBatch, unit: int) -> None:
        draw = rng.random()
        if draw < 0.3:
            raise TransientError("gone")
        if draw < 0.5 and len(batch) > 1:
            raise RejectedRecords([len(batch) // 2], ["no"])

    target = Target(Limits(rows=10, remembers_units=True), answer)
    spool = delivery.start(target)
    for n in range(40):
        spool.append(stream(delivery.tags, range(n * 5, n * 5 + 5)))
    until(lambda: spool.account().stored.total() == 0 and spool.account().routed.total() == 200, 30)
    numbers = [unit for unit, _, _ in target.calls]
    assert numbers == sorted(numbers)
    said: dict[int, list[int]] = {}
    for unit, sequences, _ in target.calls:
        assert said.setdefault(unit, sequences) == sequences
    assert sorted(target.taken + delivery.dead()) == list(range(200))


def test_readings_wait_for_a_unit_to_fill_but_not_longer_than_the_linger(delivery: Delivery) -> None:
    target = Target(Limits(rows=10, linger=0.3))
    spool = delivery.start(target)
    until(lambda: target.opened)
    spool.append(stream(delivery.tags, [0]))
    until(lambda: target.taken)
    target.calls.clear()
    began = time.monotonic()
    for n in range(1, 6):
        spool.append(stream(delivery.tags, [n]))
    until(lambda: len(target.taken) == 6)
    assert [sequences for _, sequences, _ in target.calls] == [[1, 2, 3, 4, 5]]
    assert target.calls[0][2] - began >= 0.25
    began = time.monotonic()
    spool.append(stream(delivery.tags, range(10, 30)))
    until(lambda: len(target.taken) == 26)
    assert target.calls[-1][2] - began < 0.25, "full units do not wait"


def test_a_forwarder_that_waits_for_its_target_uses_no_processor(delivery: Delivery) -> None:
    """Back-off while a linger runs, then one slow probe: nothing may spin."""
    target = Target(Limits(rows=10, linger=0.05, writes_in_flight=4), failing(1, lambda: TransientError("gone")))
    spool = delivery.start(target, threshold=1)
    spool.append(stream(delivery.tags, range(10)))
    spool.append(stream(delivery.tags, [10]))
    until(lambda: len(target.calls) >= 1)
    target.hang = asyncio.Event()
    until(target.hanging.is_set)
    began = time.process_time()
    threading.Event().wait(0.5)
    assert time.process_time() - began < 0.3
    delivery.forwarders["cloud"]._loop.call_soon_threadsafe(target.hang.set)  # type: ignore[union-attr]
    until(lambda: len(target.taken) == 11)


@pytest.mark.parametrize("in_flight", [1, 3])
def test_a_write_that_hangs_does_not_keep_the_forwarder_from_stopping(
    delivery: Delivery, monkeypatch: pytest.MonkeyPatch, in_flight: int
) -> None:
    monkeypatch.setattr("delivery.forwarder._STOP_PATIENCE", 0.2)
    target = Target(Limits(rows=10, writes_in_flight=in_flight))
    target.hang = asyncio.Event()
    spool = delivery.start(target)
    for n in range(4):
        spool.append(stream(delivery.tags, range(n * 10, n * 10 + 10)))
    until(target.hanging.is_set)
    until(lambda: len(target.calls) == in_flight)
    began = time.monotonic()
    delivery.forwarders["cloud"].stop()
    delivery.forwarders["cloud"].join(5.0)
    assert time.monotonic() - began < 2.0
    assert not unaccounted(spool)
    later = Target()
    delivery.attach(later, spool)  # what was not sent is still there, for whoever comes next
    until(lambda: len(later.taken) == 40)
    assert sorted(later.taken) == list(range(40))
    assert [unit for unit, _, _ in later.calls][:in_flight] == [unit for unit, _, _ in target.calls]
    until(lambda: spool.account().delivered.total() == 40)


def test_a_forwarder_stops_though_one_write_failed_and_another_hangs(
    delivery: Delivery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("delivery.forwarder._STOP_PATIENCE", 0.2)

    class Half(Target):
        @override
        async def write(self, batch: pa.RecordBatch, unit: int) -> None:
            if unit == 1:
                self.hanging.set()
                await asyncio.Event().wait()
            raise TransientError("gone")

    target = Half(Limits(rows=10, writes_in_flight=2))
    spool = delivery.start(target)
    spool.append(stream(delivery.tags, range(20)))
    until(target.hanging.is_set)
    forwarder = delivery.forwarders["cloud"]
    threading.Event().wait(0.1)
    forwarder.stop()
    forwarder.join(5.0)
    assert not forwarder._thread.is_alive()
    assert spool.account().stored.total() == 20


def test_a_forwarder_stops_in_the_middle_of_a_long_back_off(delivery: Delivery) -> None:
    target = Target(answer=failing(99, lambda: TransientError("busy", retry_after=60.0)))
    spool = delivery.start(target)
    spool.append(stream(delivery.tags, range(10)))
    until(lambda: target.calls)
    until(lambda: delivery.forwarders["cloud"].status.last_error)
    began = time.monotonic()
    delivery.forwarders["cloud"].stop()
    delivery.forwarders["cloud"].join(5.0)
    assert time.monotonic() - began < 1.0
    assert spool.account().stored.total() == 10


def test_a_failed_store_stops_its_forwarder_and_says_why(delivery: Delivery, monkeypatch: pytest.MonkeyPatch) -> None:
    target = Target(Limits(rows=10, remembers_units=True))
    spool = delivery.start(target)
    until(lambda: target.opened)
    real = os.fdatasync

    def refuse(fd: int) -> None:
        if "/cloud/" in os.readlink(f"/proc/self/fd/{fd}"):
            raise OSError(5, "Input/output error")
        real(fd)

    monkeypatch.setattr(os, "fdatasync", refuse)
    spool.append(stream(delivery.tags, range(10)))
    forwarder = delivery.forwarders["cloud"]
    until(lambda: not forwarder._thread.is_alive())
    assert "fsync failed" in forwarder.status.last_error
    assert target.calls == [], "a unit that may not be there after a crash is not sent"
    with pytest.raises(StoreError):
        spool.snapshot()


def test_a_full_disk_delays_a_recorded_unit_and_loses_nothing(
    delivery: Delivery, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = Target(Limits(rows=10, remembers_units=True))
    spool = new_spool(delivery.directory / "cloud", delivery.tags, entry_rows=10)
    spool.append(stream(delivery.tags, range(30)))

    def full(fd: int, parts: list[bytes]) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as small:
        small.setattr(os, "writev", full)
        delivery.attach(target, spool)
        until(lambda: sum(delivery.forwarders["cloud"].status.errors.values()) >= 3)
        assert target.calls == []
    until(lambda: spool.account().delivered.total() == 30)
    assert target.taken == list(range(30))
    assert not unaccounted(spool)


def test_a_full_disk_delays_dead_letters_and_loses_nothing(delivery: Delivery, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(target: Target, batch: pa.RecordBatch, unit: int) -> None:
        if 3 in sequences_of(batch):
            raise RejectedRecords([3], ["no"])

    target = Target(answer=answer)
    real = os.writev

    def full(fd: int, parts: list[bytes]) -> int:
        if "/dead/" in os.readlink(f"/proc/self/fd/{fd}"):
            raise OSError(28, "No space left on device")
        return real(fd, parts)

    spool = delivery.start(target)
    with monkeypatch.context() as small:
        small.setattr(os, "writev", full)
        spool.append(stream(delivery.tags, range(10)))
        until(lambda: sum(delivery.forwarders["cloud"].status.errors.values()) >= 3)
        assert spool.account().dead.total() == 0
    until(lambda: spool.account().delivered.total() == 9)
    assert delivery.dead() == [3]
    assert not unaccounted(spool)


def test_a_crash_between_dead_letter_and_spool_keeps_one_dead_letter(
    delivery: Delivery, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = new_spool(delivery.directory / "cloud", delivery.tags)
    spool.append(stream(delivery.tags, range(10)))
    spool.snapshot()
    unit = spool.take(10, 2**30)
    assert unit
    delivery.letters.append(unit.batch().take([3]), ["no"], "cloud", 1)
    delivery.letters.wait()
    spool.close()  # the process ended here
    again = new_spool(delivery.directory / "cloud", delivery.tags)

    def answer(target: Target, batch: pa.RecordBatch, unit: int) -> None:
        if 3 in sequences_of(batch):
            raise RejectedRecords([sequences_of(batch).index(3)], ["no"])

    delivery.attach(Target(answer=answer), again)
    until(lambda: again.account().delivered.total() == 9)
    assert delivery.dead() == [3]
    assert delivery.letters.counts("cloud") == again.account().dead == {"source1": 1}


def test_dead_target_does_not_delay_others(delivery: Delivery) -> None:
    class Dead(Target):
        @override
        async def open(self) -> None:
            await asyncio.Event().wait() if random.random() < 0.5 else None
            raise TransientError("no route")

    healthy = Target(Limits(rows=10))
    dead = [delivery.start(Dead(), f"dead{n}") for n in range(3)]
    spool = delivery.start(healthy, "healthy")
    late = []
    for n in range(200):
        began = time.monotonic()
        batch = stream(delivery.tags, range(n * 10, n * 10 + 10))
        for each in (*dead, spool):
            each.append(batch)
        until(lambda n=n: len(healthy.taken) == (n + 1) * 10)
        late.append(time.monotonic() - began)
    assert sorted(late)[100] < 0.05
    assert [each.stored_rows for each in dead] == [2000] * 3
    assert content(dead[0].take(10, 2**30).batch()) == content(stream(delivery.tags, range(10)))  # type: ignore[union-attr]
    for n in range(3):  # a writer that never opens is left behind at the end
        del delivery.forwarders[f"dead{n}"]


async def test_a_slow_disk_under_one_store_delays_no_other_and_no_forwarder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a sync that takes a second, acknowledgements of other stores and all forwarders go on."""
    delivery = Delivery(tmp_path)
    journal = Journal(tmp_path / "journal", GATEWAY, delivery.tags, linger=0.001)
    targets = {name: Target(Limits(rows=10)) for name in ("slow", "quick")}
    spools = {name: delivery.start(target, name) for name, target in targets.items()}
    journal.on_trimmed += [spool.forget for spool in spools.values()]
    real, slow_syncs = os.fdatasync, []

    def slow(fd: int) -> None:
        if "/slow/" in os.readlink(f"/proc/self/fd/{fd}"):
            slow_syncs.append(fd)
            time.sleep(1.0)
        real(fd)

    monkeypatch.setattr(os, "fdatasync", slow)
    acks, snapshots, deliveries = [], [], []
    waiting = threading.Thread(target=lambda: [spools["slow"].snapshot() for _ in range(2)])
    waiting.start()
    for n in range(150):
        began = time.monotonic()
        batch = stream(delivery.tags, range(n * 10, n * 10 + 10))
        await journal.append("source0", 0, columns([n]), None)
        acks.append(time.monotonic() - began)
        for spool in spools.values():
            spool.append(batch)
        while not all(len(target.taken) >= (n + 1) * 10 for target in targets.values()):
            await asyncio.sleep(0.001)
        deliveries.append(time.monotonic() - began)
        began = time.monotonic()
        await asyncio.to_thread(spools["quick"].snapshot)
        snapshots.append(time.monotonic() - began)
    assert slow_syncs, "the disk was slow meanwhile"
    assert max(acks) < 0.5
    assert max(snapshots) < 0.5
    assert max(deliveries) < 0.7
    monkeypatch.setattr(os, "fdatasync", real)
    await asyncio.to_thread(waiting.join, 10)
    await asyncio.to_thread(journal.close)
    await asyncio.to_thread(delivery.stop)
