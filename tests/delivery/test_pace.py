"""What a target gets per second, how it stands, and how poison is found."""

import pyarrow as pa
import pytest

from connectors.contract import Limits, RejectedRecords, TransientError
from delivery.pace import RateLimit
from normalization.reading import Flags
from tests.delivery.stores import new_spool, sequences_of, stream, unaccounted, until
from tests.delivery.test_forwarder import Delivery, Target, delivery, failing

__all__ = ["delivery"]


def test_what_was_under_way_when_a_write_failed_says_so_when_it_goes_out_again(delivery: Delivery) -> None:
    marks: dict[int, int] = {}

    def answer(target: Target, batch: pa.RecordBatch, unit: int) -> None:
        if len(target.calls) < 3:
            raise TransientError("connection lost")
        marks.update(zip(sequences_of(batch), batch.column("flags").to_pylist(), strict=True))

    target = Target(answer=answer)
    spool = delivery.start(target)
    spool.append(stream(delivery.tags, range(10)))
    until(lambda: len(target.taken) == 10)
    spool.append(stream(delivery.tags, range(10, 20)))
    until(lambda: len(target.taken) == 20)
    assert marks == {n: Flags.RESENT if n < 10 else 0 for n in range(20)}


def test_health_tells_of_the_last_writes(delivery: Delivery) -> None:
    target = Target(answer=failing(3, lambda: TransientError("503")))
    spool = delivery.start(target)
    status = delivery.forwarders["cloud"].status
    assert (status.success_rate, status.response_time(0.5)) == (None, None)
    spool.append(stream(delivery.tags, range(90)))
    until(lambda: status.delivered == 90)
    assert status.success_rate == 9 / 12
    assert 0.001 <= (status.response_time(0.5) or 0) <= (status.response_time(0.99) or 0) < 5
    assert (status.errors, status.last_error) == ({"transient": 3}, "")


def test_a_batch_rejected_without_saying_which_is_halved_until_the_poison_is_found(delivery: Delivery) -> None:
    def answer(target: Target, batch: pa.RecordBatch, unit: int) -> None:
        if {100, 513} & set(sequences_of(batch)):
            raise RejectedRecords([], ["field type conflict"])

    target = Target(Limits(rows=1024), answer)
    spool = delivery.start(target)
    spool.append(stream(delivery.tags, range(1024)))
    until(lambda: spool.account().stored.total() == 0)
    assert sorted(target.taken) == [n for n in range(1024) if n not in (100, 513)]
    assert sorted(delivery.dead()) == [100, 513]
    assert {reason for letters in delivery.letters.letters() for reason in letters.reasons} == {"field type conflict"}
    assert len(target.calls) <= 1 + 4 * 10, "two a halving and poison"
    assert {unit for unit, _, _ in target.calls} == {1}
    assert not unaccounted(spool)


@pytest.mark.parametrize(
    ("rate", "pauses"),
    [
        (RateLimit(rows=500), 0.02),
        (RateLimit(messages=50), 0.02),
        (RateLimit(bytes=40_000), 0.01),
        (RateLimit(rows=500, messages=10), 0.1),
    ],
)
def test_a_target_gets_no_more_than_its_rate(delivery: Delivery, rate: RateLimit, pauses: float) -> None:
    target = Target()
    spool = new_spool(delivery.directory / "cloud", delivery.tags, entry_rows=10)
    spool.append(stream(delivery.tags, range(100)))
    delivery.attach(target, spool, rate=rate)
    until(lambda: len(target.taken) == 100)
    times = [when for _, _, when in target.calls]
    assert times[-1] - times[0] >= 9 * pauses * 0.95
    assert min(after - before for before, after in zip(times, times[1:], strict=False)) >= pauses * 0.8


def test_no_unit_uses_up_more_than_a_second_of_the_rate() -> None:
    assert RateLimit(rows=20).most(10_000, 10**7) == (20, 10**7)
    assert RateLimit(bytes=5_000).most(10_000, 10**7) == (10_000, 5_000)
    assert RateLimit(rows=0.5).most(10, 10) == (1, 10)
    assert RateLimit().pause(10_000, 10**7) == 0.0
    assert RateLimit(rows=0.5).pause(1, 100) == 2.0
