"""The contract of writers, over every writer: `connectors.contract.Writer` and `Limits`.

What a target can promise is a field of its `Limits`; what its format cannot say is listed by its provider.
"""

import asyncio
import contextlib
import functools
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pytest
from structlog.testing import capture_logs

from config import models
from config.reference import choices
from connectors.contract import AuthError, Checks, Context, DeliveryError, RejectedRecords, TransientError, Writer
from connectors.settings import TargetConfig
from delivery.dead_letters import DeadLetterStore
from delivery.forwarder import Forwarder
from delivery.metrics import REGISTRY
from delivery.retry import RetryPolicy
from tests.contract.counterpart import (
    Ability,
    Certified,
    Counterpart,
    Guarded,
    Networked,
    Provider,
    providers,
    target_types,
)
from tests.contract.readings import SAMPLES, Row, Source, rows
from tests.contract.relay import Relay
from tests.delivery.stores import new_spool

PROVIDERS = providers()


def of(chosen: list[Provider]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("provider", chosen, ids=lambda p: p.name, scope="function")


def able(ability: Ability) -> pytest.MarkDecorator:
    return of([p for p in PROVIDERS if ability in p.able])


@pytest.fixture(params=PROVIDERS, ids=lambda p: p.name)
def provider(request: pytest.FixtureRequest) -> Provider:
    return request.param


@pytest.fixture
def counterpart(provider: Provider, tmp_path: Path) -> Iterator[Counterpart]:
    with provider.start(tmp_path) as running:
        yield running


@pytest.fixture(autouse=True)
def logs() -> Iterator[list[Any]]:
    """What is logged; it is not printed: the console's provider closes standard output for a while."""
    with capture_logs() as entries:
        yield entries


@pytest.fixture
def source() -> Source:
    return Source()


class Attached:
    """A target's folder, and the writers that are made in it one after the other."""

    def __init__(self, counterpart: Counterpart, folder: Path) -> None:
        self.counterpart = counterpart
        self.context = Context("gateway 1", folder)
        folder.mkdir(parents=True)

    def writer(self, **settings: Any) -> Writer:
        return self.of(self.counterpart.config(**settings))

    def of(self, config: TargetConfig) -> Writer:
        return config.writer(self.context)


@pytest.fixture
def attached(counterpart: Counterpart, tmp_path: Path) -> Attached:
    return Attached(counterpart, tmp_path / "context")


def assert_same(provider: Provider, readings: list[Row], found: list[Row]) -> None:
    expected = [provider.shows(row) for row in readings]
    assert sorted(r.sequence for r in found) == sorted(r.sequence for r in expected)
    by_sequence = {row.sequence: row for row in found}
    wrong = [(row, by_sequence[row.sequence]) for row in expected if not row.same(by_sequence[row.sequence])]
    assert wrong == []


def assert_there(expected: list[Row], found: list[Row], writer: Writer) -> None:
    """All of `expected` is there; once where the target can tell."""
    counts = Counter(row.sequence for row in found)
    assert {row.sequence for row in expected} - set(counts) == set()
    if writer.limits.remembers_units or writer.limits.has_key:
        assert {sequence: count for sequence, count in counts.items() if count > 1} == {}


async def take(writer: Writer, batch: pa.RecordBatch, unit: int) -> set[int]:
    """Write a batch but for what the target refuses; returns which rows those are."""
    rejected = RejectedRecords([], [], rest_written=True)
    try:
        await writer.write(batch, unit)
    except RejectedRecords as error:
        rejected = error
    assert sorted(set(rejected.indices)) == rejected.indices
    assert len(rejected.reasons) == len(rejected.indices)
    if not rejected.rest_written:
        kept = sorted(set(range(len(batch))) - set(rejected.indices))
        await writer.write(batch.take(pa.array(kept, pa.int64())), unit + 1)
    return set(rejected.indices)


async def write_on(writer: Writer, batch: pa.RecordBatch, unit: int, patience: float = 60.0) -> None:
    """Write a unit until it is taken, as the forwarder does."""
    until = time.monotonic() + patience
    while True:
        try:
            await writer.write(batch, unit)
        except RejectedRecords:
            raise
        except DeliveryError:
            if time.monotonic() > until:
                raise
            await writer.close()
            await asyncio.sleep(0.05)
            with contextlib.suppress(DeliveryError):
                await writer.open()
        else:
            return


def test_every_target_has_a_provider() -> None:
    assert {p.type for p in PROVIDERS} == target_types()
    assert set(choices(models.Target)) <= target_types()


async def test_every_kind_of_value_comes_back_equal(
    provider: Provider, attached: Attached, counterpart: Counterpart, source: Source
) -> None:
    batch = source.samples(tag_each=provider.columns)
    writer = attached.writer()
    await writer.open()
    refused = await take(writer, batch, 1)
    await writer.close()
    assert {SAMPLES[index].name for index in refused} == provider.refuses
    assert_same(provider, [row for i, row in enumerate(rows(batch)) if i not in refused], counterpart.rows())


async def test_a_reading_without_source_time_is_written(
    attached: Attached, counterpart: Counterpart, source: Source
) -> None:
    batch = source.batch([1.0, 2.0], source_times=[None, 1_790_000_000_000_000])
    writer = attached.writer()
    await writer.open()
    await writer.write(batch, 1)
    await writer.close()
    assert sorted(row.value for row in counterpart.rows()) == [1.0, 2.0]


async def test_a_full_batch_and_the_next_are_written(
    provider: Provider, attached: Attached, counterpart: Counterpart, source: Source
) -> None:
    writer = attached.writer(batch_size=3000)
    assert writer.limits.rows == 3000
    await writer.open()
    full = source.batch([float(i) for i in range(3000)])
    one = source.batch([4711])
    await writer.write(full, 1)
    await writer.write(one, 2)
    await writer.close()
    assert_same(provider, [*rows(full), *rows(one)], counterpart.rows())


async def test_an_empty_batch_is_taken(attached: Attached, counterpart: Counterpart, source: Source) -> None:
    writer = attached.writer()
    await writer.open()
    await writer.write(source.batch([1.0]).slice(0, 0), 1)
    await writer.write(source.batch([2.0]), 2)
    await writer.close()
    assert [row.value for row in counterpart.rows()] == [2.0]


async def test_limits_are_sound(attached: Attached) -> None:
    limits = attached.writer(batch_size=17, flush_interval="250ms").limits
    assert limits.rows == 17
    assert limits.linger == 0.25
    assert limits.bytes > 0
    assert limits.writes_in_flight >= 1
    if limits.remembers_units:
        assert limits.writes_in_flight == 1


async def test_as_many_writes_as_the_limits_allow_can_be_under_way(
    provider: Provider, attached: Attached, counterpart: Counterpart, source: Source
) -> None:
    writer = attached.writer()
    await writer.open()
    batches = [source.batch([float(i)] * 5) for i in range(min(writer.limits.writes_in_flight, 20))]
    await asyncio.gather(*(writer.write(batch, 1 + i) for i, batch in enumerate(batches)))
    await writer.close()
    assert_same(provider, [row for batch in batches for row in rows(batch)], counterpart.rows())


async def test_a_unit_that_is_sent_again_is_never_lost_and_seen_once_where_the_target_can_tell(
    attached: Attached, counterpart: Counterpart, source: Source
) -> None:
    first, second = source.batch([1.0, 2, "three"]), source.batch([4.0, 5, "six"])
    writer = attached.writer()
    await writer.open()
    await writer.write(first, 1)
    await writer.write(first, 1)
    await writer.write(second, 2)
    await writer.close()
    again = attached.writer()
    await again.open()
    await again.write(second, 2)
    await again.close()
    assert_there([*rows(first), *rows(second)], counterpart.rows(), writer)


async def test_a_write_that_was_given_up_does_not_disturb_the_next(
    attached: Attached, counterpart: Counterpart, source: Source
) -> None:
    writer = attached.writer()
    await writer.open()
    batch = source.batch([float(i) for i in range(500)])
    given_up = asyncio.create_task(writer.write(batch, 1))
    await asyncio.sleep(0)
    given_up.cancel()
    await asyncio.gather(given_up, return_exceptions=True)
    await writer.write(batch, 1)
    after = source.batch([-1.0])
    await writer.write(after, 2)
    await writer.close()
    assert_there([*rows(batch), *rows(after)], counterpart.rows(), writer)


async def test_other_readings_under_an_old_number_are_not_taken_for_a_repetition(
    attached: Attached, counterpart: Counterpart, source: Source
) -> None:
    """A spool that was begun anew numbers its units from 1 again."""
    writer = attached.writer()
    await writer.open()
    old = [source.batch([float(i)]) for i in range(3)]
    for number, batch in enumerate(old, 1):
        await writer.write(batch, number)
    await writer.close()
    anew = attached.writer()
    await anew.open()
    new = [source.batch([10.0 + i]) for i in range(4)]
    for number, batch in enumerate(new, 1):
        await anew.write(batch, number)
    await anew.close()
    assert_there([row for batch in (*old, *new) for row in rows(batch)], counterpart.rows(), writer)


async def test_after_an_outage_the_same_writer_opens_and_writes_again(
    attached: Attached, counterpart: Counterpart, source: Source
) -> None:
    before, during, after = source.batch([1.0]), source.batch([2.0]), source.batch([3.0])
    writer = attached.writer()
    await writer.open()
    await writer.write(before, 1)
    with counterpart.outage():
        with contextlib.suppress(DeliveryError):  # and no other; an open file may well take it
            await writer.write(during, 2)
        await writer.close()
    await writer.open()
    await writer.write(during, 2)
    await writer.write(after, 3)
    await writer.close()
    assert_there([*rows(before), *rows(during), *rows(after)], counterpart.rows(), writer)


async def test_a_writer_that_cannot_open_says_so_and_can_be_closed(
    attached: Attached, counterpart: Counterpart, source: Source
) -> None:
    early, late = source.batch([1.0]), source.batch([2.0])
    first = attached.writer()
    await first.open()
    await first.write(early, 1)
    await first.close()
    writer = attached.writer()
    with counterpart.outage():
        failed = False
        try:
            await writer.open()
            await writer.write(late, 2)
        except DeliveryError:
            failed = True
        assert failed
        await writer.close()
        await writer.close()
    await writer.open()
    await writer.write(late, 2)
    await writer.close()
    assert_there([*rows(early), *rows(late)], counterpart.rows(), writer)


@pytest.mark.threat(18)
async def test_hostile_names_stay_in_their_row(
    provider: Provider, attached: Attached, counterpart: Counterpart, source: Source
) -> None:
    names = ["a,b=c d", 'quo"te', "semi;colon'--", "$(x) `y` ${z}", "ünï ✓ 雪", "\u202egnirts", "back\\slash"]
    tags = [source.tag(i, path=name, tag_name=name, source=f"s{i % 2}") for i, name in enumerate(names)]
    batch = source.batch([float(i) for i in range(len(names))], tags=tags)
    writer = attached.writer()
    await writer.open()
    await writer.write(batch, 1)
    await writer.close()
    assert_same(provider, rows(batch), counterpart.rows())


@functools.cache
def random_texts() -> list[str]:
    """100,000 texts of up to 16 characters out of all of Unicode, half of them out of its first 2,048."""
    chance = np.random.default_rng(20261126)
    limits = chance.choice([0x7F, 0x800, 0x10000, 0x110000], (100_000, 16))
    points = (chance.random((100_000, 16)) * limits).astype(np.int64)
    points[(points >= 0xD800) & (points < 0xE000)] = 0xFFFD
    return [
        "".join(map(chr, row[:length]))
        for row, length in zip(points.tolist(), chance.integers(0, 17, 100_000).tolist(), strict=True)
    ]


async def write_random(
    provider: Provider, attached: Attached, counterpart: Counterpart, source: Source, count: int
) -> None:
    chance = random.Random(20261126)
    values = random_texts()[:count]

    def text(most: int, least: int = 0) -> str:
        return chance.choice(values)[:most] or "x" * least

    tags = [
        source.tag(i, path=text(24, 1), tag_name=text(12), source=f"s{i % 2}", unit=text(3))
        for i in range(16 if provider.columns else len(values))
    ]
    writer = attached.writer()
    await writer.open()
    expected, refused = [], 0
    step = min(writer.limits.rows, 10_000)
    for unit, start in enumerate(range(0, len(values), step)):
        part = values[start : start + step]
        batch = source.batch(part, tags=chance.choices(tags, k=len(part)))
        wrong = await take(writer, batch, 1 + 2 * unit)
        refused += len(wrong)
        expected += [row for at, row in enumerate(rows(batch)) if at not in wrong]
    await writer.close()
    assert_same(provider, expected, counterpart.rows())
    assert refused == 0 or not provider.names


@pytest.mark.threat(18)
async def test_random_values_under_random_names_come_back_equal_or_are_refused(
    provider: Provider, attached: Attached, counterpart: Counterpart, source: Source
) -> None:
    await write_random(provider, attached, counterpart, source, 5_000)


@pytest.mark.exhaustive
@pytest.mark.timeout(300)
@of(list({p.type: p for p in reversed(PROVIDERS)}.values()))  # one of each type
async def test_100_000_random_values_under_random_names_come_back_equal_or_are_refused(
    provider: Provider, attached: Attached, counterpart: Counterpart, source: Source
) -> None:
    await write_random(provider, attached, counterpart, source, 100_000)


@of([p for p in PROVIDERS if p.ordered])
async def test_the_readings_of_a_tag_arrive_in_order(
    attached: Attached, counterpart: Counterpart, source: Source
) -> None:
    writer = attached.writer()
    await writer.open()
    batches = [source.batch([float(i) for i in range(200)]) for _ in range(20)]
    for unit, batch in enumerate(batches, 1):
        await writer.write(batch, unit)
    await writer.close()
    found = counterpart.rows()
    for path in {row.path for row in found}:
        of_tag = [row.sequence for row in found if row.path == path]
        assert of_tag == sorted(of_tag)
    assert len(found) == 4_000


@of([p for p in PROVIDERS if p.largest is not None])
async def test_a_reading_that_is_too_large_is_refused_and_those_beside_it_are_written(
    provider: Provider, attached: Attached, counterpart: Counterpart, source: Source
) -> None:
    assert provider.largest is not None
    batch = source.batch([1.0, "x" * provider.largest, 3.0])
    writer = attached.writer()
    await writer.open()
    assert await take(writer, batch, 1) == {1}
    after = source.batch([4.0])
    await writer.write(after, 3)
    await writer.close()
    assert_same(
        provider, [*(row for row in rows(batch) if isinstance(row.value, float)), *rows(after)], counterpart.rows()
    )


async def test_a_target_that_is_gone_in_the_middle_of_the_stream_has_everything_in_the_end(
    attached: Attached, counterpart: Counterpart, source: Source
) -> None:
    writer = attached.writer(timeout="5s")
    await writer.open()
    batches = [source.batch([float(i) for i in range(400)]) for _ in range(40)]
    half = asyncio.Event()

    async def stream() -> None:
        for unit, batch in enumerate(batches, 1):
            await write_on(writer, batch, unit)
            if unit == len(batches) // 2:
                half.set()

    streaming = asyncio.create_task(stream())
    await half.wait()
    leaving = counterpart.outage()
    await asyncio.to_thread(leaving.__enter__)
    await asyncio.to_thread(leaving.__exit__, None, None, None)
    await streaming
    await writer.close()
    assert_there([row for batch in batches for row in rows(batch)], counterpart.rows(), writer)


async def test_a_check_finds_nothing_wrong_with_a_sound_target_and_writes_nothing(
    provider: Provider, attached: Attached, counterpart: Counterpart, source: Source
) -> None:
    writer = attached.writer(timeout="10s")
    assert isinstance(writer, Checks)
    before = await writer.check()
    batch = source.batch([1.0])
    await writer.open()
    await writer.write(batch, 1)
    await writer.close()
    after = await writer.check()
    for found in (before, after):
        assert found
        assert all(finding.subject and finding.detail for finding in found)
        assert [finding for finding in found if not finding.ok] == []
    assert_same(provider, rows(batch), counterpart.rows())


async def test_a_check_of_a_target_that_is_gone_says_so(
    attached: Attached, counterpart: Counterpart, source: Source
) -> None:
    writer = attached.writer(timeout="2s")
    assert isinstance(writer, Checks)
    await write_on(writer, source.batch([1.0]), 1)
    await writer.close()
    with counterpart.outage():
        found = await writer.check()
    assert [finding for finding in found if not finding.ok]


async def test_the_metrics_of_a_target_move_with_what_becomes_of_its_readings(
    provider: Provider, attached: Attached, counterpart: Counterpart, source: Source, tmp_path: Path, logs: list[Any]
) -> None:
    def told(metric: str, **labels: str) -> float:
        return REGISTRY.get_sample_value(f"bifrost_cloud_{metric}", {"connector": provider.name, **labels}) or 0

    async def until(holds: Callable[[], bool]) -> None:
        try:
            async with asyncio.timeout(60):
                while not holds():
                    await asyncio.sleep(0.01)
        except TimeoutError:
            raise AssertionError(f"not within 60 s; logged: {logs[-5:]}") from None

    def failures() -> float:
        results = ("transient", "auth", "config", "capacity", "unexpected")
        tried = sum(told("batch_operations_total", result=result) for result in results)
        return tried + told("connection_attempts_total", result="error")

    writer = attached.writer(timeout="5s", flush_interval="20ms")
    letters = DeadLetterStore(tmp_path / "dead", source.tags, lambda _: True)
    spool = new_spool(tmp_path / "spool", source.tags, entry_rows=writer.limits.rows)
    forwarder = Forwarder(provider.name, writer, spool, letters, policy=RetryPolicy(0.05, 0.2, 0.3), threshold=1)
    sent, refused = told("data_points_sent_total"), told("data_points_failed_total")
    taken, asked = told("batch_operations_total", result="ok"), told("response_time_seconds_count")
    forwarder.start()
    spool.append(source.samples(tag_each=provider.columns))
    await until(lambda: told("data_points_sent_total") - sent == len(SAMPLES) - len(provider.refuses))
    await until(lambda: told("data_points_failed_total") - refused == len(provider.refuses))
    assert told("connection_attempts_total", result="ok") >= 1
    before = failures()
    leaving = counterpart.outage()
    await asyncio.to_thread(leaving.__enter__)
    spool.append(source.batch([1.0, 2.0]))
    arrived = sent + len(SAMPLES) - len(provider.refuses) + 2
    await until(lambda: failures() > before or told("data_points_sent_total") == arrived)  # an open file may take it
    await until(lambda: failures() == before or told("circuit_breaker_state") > 0)
    await asyncio.to_thread(leaving.__exit__, None, None, None)
    await until(lambda: told("data_points_sent_total") == arrived)
    await until(lambda: told("circuit_breaker_state") == 0)
    assert told("batch_operations_total", result="ok") > taken
    assert told("response_time_seconds_count") > asked
    forwarder.stop()
    await asyncio.to_thread(forwarder.join, 10.0)
    spool.close()
    letters.close()


@able("network")
async def test_a_target_that_falls_silent_costs_a_time_out_and_no_reading(
    attached: Attached, counterpart: Counterpart, source: Source
) -> None:
    networked = cast("Networked", counterpart)
    async with Relay(networked.port, networked.relay_port) as relay:
        writer = attached.of(networked.through(relay.port, timeout="2s"))
        await writer.open()
        before, during = source.batch([1.0]), source.batch([2.0])
        await writer.write(before, 1)
        relay.freeze()
        async with asyncio.timeout(15):
            with pytest.raises(TransientError):
                await writer.write(during, 2)
            await writer.close()
        relay.cut()
        relay.thaw()
        await relay.restore()
        await write_on(writer, during, 2)
        await writer.close()
    assert_there([*rows(before), *rows(during)], counterpart.rows(), writer)


@able("network")
async def test_a_target_that_takes_connections_and_never_answers_is_told_when_opening(
    attached: Attached, counterpart: Counterpart, source: Source
) -> None:
    networked = cast("Networked", counterpart)
    async with Relay(networked.port, networked.relay_port) as relay:
        relay.freeze()
        writer = attached.of(networked.through(relay.port, timeout="1s"))
        async with asyncio.timeout(15):
            with pytest.raises(TransientError):
                await writer.open()
                await writer.write(source.batch([1.0]), 1)
            await writer.close()


@able("network")
async def test_a_target_behind_a_slow_line_gets_everything(
    provider: Provider, attached: Attached, counterpart: Counterpart, source: Source
) -> None:
    networked = cast("Networked", counterpart)
    async with Relay(networked.port, networked.relay_port) as relay:
        writer = attached.of(networked.through(relay.port, timeout="20s"))
        await writer.open()
        relay.pause = 0.05
        batch = source.batch([float(i) for i in range(500)])
        await writer.write(batch, 1)
        await writer.close()
    assert_same(provider, rows(batch), counterpart.rows())


@able("network")
@pytest.mark.parametrize("bytes_taken", [1, 700, 30_000])
async def test_a_connection_that_is_reset_in_the_middle_of_a_unit_loses_nothing(
    attached: Attached, counterpart: Counterpart, source: Source, bytes_taken: int
) -> None:
    networked = cast("Networked", counterpart)
    async with Relay(networked.port, networked.relay_port) as relay:
        writer = attached.of(networked.through(relay.port, timeout="10s"))
        await writer.open()
        batch = source.batch([float(i) for i in range(2_000)])
        relay.cut_after = bytes_taken
        await write_on(writer, batch, 1)
        await writer.close()
    assert_there(rows(batch), counterpart.rows(), writer)


@able("credentials")
async def test_wrong_credentials_are_said_and_no_secret_is_told(
    attached: Attached, counterpart: Counterpart, source: Source
) -> None:
    writer = attached.of(cast("Guarded", counterpart).stranger())
    with pytest.raises(AuthError) as caught:
        await writer.open()
        await writer.write(source.batch([1.0]), 1)
    await writer.close()
    assert "wrong-secret" not in str(caught.value)
    assert counterpart.rows() == []


@able("certificates")
async def test_an_expired_certificate_is_refused_and_a_new_one_taken_without_a_restart(
    attached: Attached, counterpart: Counterpart, source: Source
) -> None:
    certified = cast("Certified", counterpart)
    before, after = source.batch([1.0]), source.batch([2.0])
    writer = attached.writer(timeout="10s")
    await writer.open()
    await writer.write(before, 1)
    await writer.close()
    await asyncio.to_thread(certified.certify, expired=True)
    with pytest.raises(DeliveryError, match="certificate"):
        await writer.open()
        await writer.write(after, 2)
    await writer.close()
    await asyncio.to_thread(certified.certify)
    await write_on(writer, after, 2)
    await writer.close()
    assert_there([*rows(before), *rows(after)], counterpart.rows(), writer)
