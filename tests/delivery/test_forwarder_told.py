"""What a forwarder tells of its work: metrics, status, and what a dead letter says."""

import asyncio
import time
from collections.abc import Callable

import pyarrow as pa
import pytest
from structlog.testing import capture_logs
from typing_extensions import override

from connectors.contract import AuthError, Limits, RejectedRecords, TransientError
from delivery.breaker import BreakerState
from delivery.forwarder import Forwarder
from delivery.metrics import REGISTRY
from delivery.retry import RetryPolicy
from tests.delivery.stores import new_spool, sequences_of, stream, until
from tests.delivery.test_forwarder import FAST, Delivery, Target, delivery, failing

__all__ = ["delivery"]


def told(metric: str, target: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(f"bifrost_{metric}", {"connector": target, **labels})


def test_connections_writes_and_readings_are_counted_by_target(delivery: Delivery) -> None:
    class Once(Target):
        tries = 0

        @override
        async def open(self) -> None:
            self.tries += 1
            if self.tries == 1:
                raise TransientError("no route")
            await super().open()

        @override
        async def close(self) -> None:
            if self.opened > self.closed:
                await super().close()

    spool = delivery.start(Once(answer=failing(2, lambda: AuthError("expired"))), "counted")
    spool.append(stream(delivery.tags, range(10)))
    spool.append(stream(delivery.tags, range(10, 14)))
    until(lambda: told("cloud_data_points_sent_total", "counted") == 14)
    assert told("cloud_connection_attempts_total", "counted", result="error") == 1
    assert told("cloud_connection_attempts_total", "counted", result="ok") == 3
    assert told("cloud_batch_operations_total", "counted", result="auth") == 2
    assert told("cloud_batch_operations_total", "counted", result="ok") == 2
    assert told("bridge_batches_sent_total", "counted") == 2
    assert told("cloud_response_time_seconds_count", "counted") == 2
    assert 0.002 <= (told("cloud_response_time_seconds_sum", "counted") or 0) < 5
    assert told("zerobus_batches_sent_total", "counted") is None


@pytest.mark.parametrize("zerobus", [True, False])
def test_the_metrics_of_zerobus_are_for_zerobus_alone(delivery: Delivery, zerobus: bool) -> None:
    name = f"zero{zerobus}"
    spool = delivery.spools[name] = new_spool(delivery.directory / name, delivery.tags)
    target = Target(answer=failing(3, lambda: TransientError("gone")))
    forwarder = Forwarder(name, target, spool, delivery.letters, policy=FAST, threshold=2, zerobus=zerobus)
    delivery.forwarders[name] = forwarder
    forwarder.start()
    spool.append(stream(delivery.tags, range(10)))
    until(lambda: told("cloud_circuit_breaker_state", name) == 0 and target.taken)
    assert told("zerobus_batches_sent_total", name) == (1 if zerobus else None)
    assert told("zerobus_batches_failed_total", name) == (3 if zerobus else None)
    assert told("zerobus_circuit_breaker_state", name) == (0 if zerobus else None)


def test_the_breaker_shows_in_metrics_and_opens_after_five_failures_by_itself(delivery: Delivery) -> None:
    spool = delivery.spools["dark"] = new_spool(delivery.directory / "dark", delivery.tags)
    failures, wait = [4], [0.0]

    def answer(target: Target, batch: pa.RecordBatch, unit: int) -> None:
        if len(target.calls) <= failures[0]:
            raise TransientError("gone", retry_after=wait[0] if len(target.calls) == failures[0] else 0.0)

    target = Target(answer=answer)
    forwarder = Forwarder("dark", target, spool, delivery.letters, policy=RetryPolicy(first=0.0, cap=0.0))
    delivery.forwarders["dark"] = forwarder
    forwarder.start()
    spool.append(stream(delivery.tags, [1]))
    until(lambda: target.taken)
    assert forwarder.status.errors == {"transient": 4}
    until(lambda: told("cloud_circuit_breaker_state", "dark") == 0)
    target.calls.clear()
    failures[0], wait[0] = 5, 60.0
    spool.append(stream(delivery.tags, [2]))
    until(lambda: forwarder.status.breaker is BreakerState.OPEN)
    until(lambda: told("cloud_circuit_breaker_state", "dark") == 2)
    assert forwarder.status.errors == {"transient": 9}


def test_a_dead_letter_says_how_often_and_since_when_its_target_was_tried(delivery: Delivery) -> None:
    def answer(target: Target, batch: pa.RecordBatch, unit: int) -> None:
        if len(target.calls) < 3:
            raise TransientError("gone", retry_after=0.1)
        if 7 in sequences_of(batch):
            raise RejectedRecords([sequences_of(batch).index(7)], ["too large"])

    began = time.time()
    target = Target(answer=answer)
    spool = delivery.start(target)
    spool.append(stream(delivery.tags, range(10)))
    until(lambda: spool.account().stored.total() == 0)
    (letters,) = delivery.letters.letters()
    assert (letters.target, letters.error_class, letters.attempts) == ("cloud", "data", 3)
    assert (letters.reasons, sequences_of(letters.batch)) == (["too large"], [7])
    assert began <= letters.first <= letters.last - 0.2
    assert [row for _, _, row in letters.places] == [7]
    forwarder = delivery.forwarders["cloud"]
    until(lambda: not forwarder._attempts and not forwarder._first)  # what is settled takes no room


def test_what_is_under_way_and_whether_it_is_connected_show(delivery: Delivery) -> None:
    target = Target(Limits(rows=10, writes_in_flight=2), failing(99, lambda: TransientError("gone", retry_after=60.0)))
    spool = delivery.start(target)
    status = delivery.forwarders["cloud"].status
    until(lambda: status.connected)
    assert status.in_flight == 0
    spool.append(stream(delivery.tags, range(10)))
    until(lambda: status.last_error)
    assert (status.connected, status.last_error, status.error_class) == (False, "gone", "transient")
    assert target.closed == 1


def test_a_forwarder_that_was_never_started_can_be_stopped(delivery: Delivery) -> None:
    spool = delivery.spools["idle"] = new_spool(delivery.directory / "idle", delivery.tags)
    forwarder = Forwarder("idle", Target(), spool, delivery.letters)
    forwarder.wake()
    forwarder.stop()
    forwarder.join(0.1)
    assert forwarder._thread.name == "forwarder idle"


def test_a_forwarder_whose_target_hangs_keeps_neither_its_caller_nor_the_process(delivery: Delivery) -> None:
    target = Target()
    target.hang = asyncio.Event()
    spool = delivery.start(target)
    spool.append(stream(delivery.tags, range(10)))
    until(target.hanging.is_set)
    forwarder = delivery.forwarders["cloud"]
    began = time.monotonic()
    forwarder.join(0.05)
    assert 0.04 <= time.monotonic() - began < 1.0
    assert forwarder._thread.is_alive()
    assert forwarder._thread.daemon, "the process can end without it"
    forwarder._loop.call_soon_threadsafe(target.hang.set)  # type: ignore[union-attr]
    until(lambda: spool.account().delivered.total() == 10)


@pytest.mark.parametrize(
    ("error", "kept"), [(lambda: AuthError("expired"), True), (lambda: TransientError("gone"), False)]
)
def test_readings_do_not_expire_while_a_target_refuses_the_gateway(
    delivery: Delivery, error: Callable[[], Exception], kept: bool
) -> None:
    spool = new_spool(delivery.directory / "cloud", delivery.tags)
    told_to_keep: list[bool] = []
    real = spool.keep

    def keep(refused: bool) -> None:
        told_to_keep.append(refused)
        real(refused)

    spool.keep = keep  # type: ignore[method-assign]
    delivery.attach(Target(answer=failing(2, error)), spool)
    spool.append(stream(delivery.tags, range(10)))
    until(lambda: spool.account().delivered.total() == 10)
    until(lambda: told_to_keep == [kept, kept, False])


def test_a_failure_is_logged_once_as_long_as_it_stays_the_same(delivery: Delivery) -> None:
    errors = iter([TransientError("gone"), TransientError("gone"), TransientError("still gone"), KeyError("a bug")])

    def answer(target: Target, batch: pa.RecordBatch, unit: int) -> None:
        if (error := next(errors, None)) is not None:
            raise error

    with capture_logs() as logs:
        spool = delivery.start(Target(answer=answer))
        spool.append(stream(delivery.tags, range(10)))
        until(lambda: spool.account().delivered.total() == 10)
        until(lambda: logs[-1]["event"] == "target takes readings again")
    assert [entry["error"] for entry in logs if entry["event"] == "target failed"] == ["gone", "still gone", "'a bug'"]
    assert [type(entry["exc_info"]) for entry in logs if entry["event"].startswith("unexpected")] == [KeyError]
    assert {entry["target"] for entry in logs if "target" in entry} == {"cloud"}


class Panic(BaseException):
    """What a client library written in Rust raises when it has a bug."""


@pytest.mark.parametrize(
    ("error", "words", "kind"),
    [
        (lambda: asyncio.CancelledError(), "the client library cancelled the write", "transient"),
        (lambda: Panic("index out of range"), "Panic('index out of range')", "unexpected"),
        (lambda: ZeroDivisionError("a bug"), "a bug", "unexpected"),
    ],
)
def test_whatever_a_client_library_throws_is_told_and_the_unit_is_sent_again(
    delivery: Delivery, error: Callable[[], BaseException], words: str, kind: str
) -> None:
    with capture_logs() as logs:
        spool = delivery.start(Target(answer=failing(2, error)))
        spool.append(stream(delivery.tags, range(10)))
        until(lambda: spool.account().delivered.total() == 10)
    assert {entry["error"] for entry in logs if entry["event"] == "target failed"} == {words}
    assert delivery.forwarders["cloud"].status.errors == {kind: 2}


@pytest.mark.parametrize("rest_written", [True, False])
def test_readings_that_a_target_rejects_are_counted_apart_from_those_it_took(
    delivery: Delivery, rest_written: bool
) -> None:
    name = f"rejects{rest_written}"

    def answer(target: Target, batch: pa.RecordBatch, unit: int) -> None:
        bad = [row for row, n in enumerate(sequences_of(batch)) if n % 10 in (3, 4)]
        if bad:
            raise RejectedRecords(bad, ["no"] * len(bad), rest_written=rest_written)

    spool = delivery.start(Target(answer=answer), name)
    for n in range(3):
        spool.append(stream(delivery.tags, range(n * 10, n * 10 + 10)))
    until(lambda: spool.account().stored.total() == 0)
    until(lambda: delivery.forwarders[name].status.delivered == 24)
    until(lambda: told("cloud_data_points_sent_total", name) == 24)
    assert told("cloud_data_points_failed_total", name) == 6
    assert told("cloud_batch_operations_total", name, result="rejected") == 3
    assert told("cloud_batch_operations_total", name, result="ok") == (None if rest_written else 3)
