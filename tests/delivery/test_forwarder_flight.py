"""Several writes under way at once."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable

import pyarrow as pa
import pytest
from typing_extensions import override

from connectors.contract import Limits, TransientError
from delivery.pace import RateLimit
from tests.delivery.stores import new_spool, sequences_of, stream, unaccounted, until
from tests.delivery.test_forwarder import Delivery, Target, delivery, failing
from tests.delivery.test_forwarder_told import Panic

__all__ = ["delivery"]


def test_readings_linger_no_longer_because_another_write_is_under_way(delivery: Delivery) -> None:
    target = Target(Limits(rows=10, linger=0.2, writes_in_flight=2))
    target.hang = asyncio.Event()
    spool = delivery.start(target)
    spool.append(stream(delivery.tags, range(10)))
    until(target.hanging.is_set)
    began = time.monotonic()
    spool.append(stream(delivery.tags, [10]))
    until(lambda: len(target.calls) == 2, 5.0)
    assert target.calls[1][1] == [10]
    assert target.calls[1][2] - began >= 0.15
    delivery.forwarders["cloud"]._loop.call_soon_threadsafe(target.hang.set)  # type: ignore[union-attr]
    until(lambda: len(target.taken) == 11)


def test_appending_wakes_a_forwarder_only_when_a_unit_is_full(delivery: Delivery) -> None:
    target = Target(Limits(rows=100, linger=60.0))
    spool = delivery.start(target)
    forwarder = delivery.forwarders["cloud"]
    until(lambda: target.opened)
    spool.append(stream(delivery.tags, [0]))
    until(lambda: forwarder._enough == 100)
    spool.append(stream(delivery.tags, range(1, 50)))
    assert not forwarder._woken
    spool.append(stream(delivery.tags, range(50, 100)))
    until(lambda: len(target.taken) == 100)
    assert [sequences for _, sequences, _ in target.calls] == [list(range(100))]


def test_appending_does_not_wake_a_forwarder_whose_writes_are_all_under_way(delivery: Delivery) -> None:
    target = Target(Limits(rows=10))
    target.hang = asyncio.Event()
    spool = delivery.start(target)
    forwarder = delivery.forwarders["cloud"]
    spool.append(stream(delivery.tags, range(10)))
    until(target.hanging.is_set)
    until(lambda: forwarder._enough is None)
    spool.append(stream(delivery.tags, range(10, 30)))
    assert not forwarder._woken
    forwarder._loop.call_soon_threadsafe(target.hang.set)  # type: ignore[union-attr]
    until(lambda: len(target.taken) == 30)


def test_units_that_failed_together_are_sent_again_in_their_order(delivery: Delivery) -> None:
    class Later(Target):
        @override
        async def write(self, batch: pa.RecordBatch, unit: int) -> None:
            await super().write(batch, unit)
            if len(self.calls) <= 3:
                await asyncio.sleep(0.02 * (4 - unit))  # the last of them fails first
                raise TransientError("gone")

    target = Later(Limits(rows=10, writes_in_flight=3))
    spool = new_spool(delivery.directory / "cloud", delivery.tags, entry_rows=10)
    spool.append(stream(delivery.tags, range(40)))
    delivery.attach(target, spool)
    until(lambda: spool.account().delivered.total() == 40)
    assert [unit for unit, _, _ in target.calls] == [1, 2, 3, 1, 2, 3, 4]


def test_a_failure_while_the_rate_allows_nothing_yet_is_one_failure(delivery: Delivery) -> None:
    target = Target(answer=failing(1, lambda: TransientError("gone")))
    spool = new_spool(delivery.directory / "cloud", delivery.tags, entry_rows=10)
    spool.append(stream(delivery.tags, range(20)))
    began = time.monotonic()
    forwarder = delivery.attach(target, spool, rate=RateLimit(messages=5))
    until(lambda: spool.account().delivered.total() == 20)
    assert forwarder.status.errors == {"transient": 1}
    assert target.calls[1][2] - began >= 0.2  # the first was allowed before it was called


def test_an_idle_target_that_remembers_units_is_left_in_peace(delivery: Delivery) -> None:
    target = Target(Limits(rows=10, remembers_units=True))
    spool = delivery.start(target)
    for n in range(3):
        spool.append(stream(delivery.tags, [n]))
        until(lambda n=n: len(target.taken) == n + 1)
    assert (target.opened, delivery.forwarders["cloud"].status.errors) == (1, {})


@pytest.mark.parametrize("taken", [True, False])
def test_a_write_that_ends_soon_after_the_stop_counts(
    delivery: Delivery, monkeypatch: pytest.MonkeyPatch, taken: bool
) -> None:
    monkeypatch.setattr("delivery.forwarder._STOP_PATIENCE", 0.9)
    target = Target(answer=failing(0 if taken else 1, lambda: TransientError("gone")))
    target.hang = asyncio.Event()
    spool = delivery.start(target)
    spool.append(stream(delivery.tags, range(20)))
    until(target.hanging.is_set)
    forwarder = delivery.forwarders["cloud"]
    loop = forwarder._loop
    assert loop is not None
    forwarder.stop()
    threading.Event().wait(0.2)
    loop.call_soon_threadsafe(target.hang.set)
    forwarder.join(10.0)
    assert not forwarder._thread.is_alive()
    assert spool.account().delivered.total() == (10 if taken else 0), "nothing more is sent"
    assert forwarder.status.errors == ({} if taken else {"transient": 1})


class Stubborn(Target):
    """What it does when its write is cancelled the first time is up to `then`."""

    def __init__(self, then: Callable[[], Awaitable[object]]) -> None:
        super().__init__(Limits(rows=10, writes_in_flight=2))
        self._then = then

    @override
    async def write(self, batch: pa.RecordBatch, unit: int) -> None:
        self.calls.append((unit, sequences_of(batch), time.monotonic()))
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await self._then()


async def panic() -> None:
    raise Panic("cancelled in the middle")


async def wait() -> None:
    await asyncio.Event().wait()


async def finish() -> None:
    """As if the target had it after all."""


@pytest.mark.parametrize("then", [wait, panic, finish])
def test_a_write_that_does_not_heed_its_cancellation_loses_nothing_and_keeps_nobody(
    delivery: Delivery, monkeypatch: pytest.MonkeyPatch, then: Callable[[], Awaitable[object]]
) -> None:
    monkeypatch.setattr("delivery.forwarder._STOP_PATIENCE", 0.1)
    monkeypatch.setattr("delivery.forwarder._CANCEL_PATIENCE", 0.2)
    target = Stubborn(then)
    spool = delivery.start(target)
    spool.append(stream(delivery.tags, range(20)))
    until(lambda: len(target.calls) == 2)
    forwarder = delivery.forwarders["cloud"]
    forwarder.stop()
    forwarder.join(5.0)
    assert not forwarder._thread.is_alive()
    assert spool.account().delivered.total() == (20 if then is finish else 0)
    later = Target()
    delivery.attach(later, spool)
    until(lambda: spool.account().stored.total() == 0)
    assert sorted(later.taken) == ([] if then is finish else list(range(20)))
    assert not unaccounted(spool)


def test_a_writer_is_opened_anew_on_request_once_the_writes_under_way_are_settled(delivery: Delivery) -> None:
    target = Target(Limits(rows=10, writes_in_flight=2))
    target.hang = asyncio.Event()
    spool = delivery.start(target)
    forwarder = delivery.forwarders["cloud"]
    spool.append(stream(delivery.tags, range(20)))
    until(lambda: target.under_way == 2)
    forwarder.reopen()
    spool.append(stream(delivery.tags, range(20, 40)))
    threading.Event().wait(0.1)
    assert (target.opened, target.closed, len(target.calls)) == (1, 0, 2)
    forwarder._loop.call_soon_threadsafe(target.hang.set)  # type: ignore[union-attr]
    until(lambda: len(target.taken) == 40)
    assert sorted(target.taken) == list(range(40))
    assert (target.opened, target.closed) == (2, 1)
    assert forwarder.status.errors == {}
    until(lambda: spool.account().delivered.total() == 40)
    assert not unaccounted(spool)


def test_an_idle_writer_is_opened_anew_on_request_and_a_refused_one_without_waiting(delivery: Delivery) -> None:
    target = Target(answer=failing(1, lambda: TransientError("the certificate has expired", retry_after=60.0)))
    spool = delivery.start(target)
    until(lambda: target.opened == 1)
    delivery.forwarders["cloud"].reopen()
    until(lambda: target.opened == 2)
    spool.append(stream(delivery.tags, range(10)))
    until(lambda: delivery.forwarders["cloud"].status.last_error)
    delivery.forwarders["cloud"].reopen()
    until(lambda: len(target.taken) == 10, 5.0)
    assert (target.opened, target.closed) == (3, 2)
