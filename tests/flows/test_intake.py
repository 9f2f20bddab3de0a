"""What a reader is handed, and the loop that keeps it running."""

import asyncio
import contextlib
import random
from collections import Counter
from pathlib import Path

import pytest
from pydantic import Field

from connectors.contract import Context, SourceState
from connectors.settings import SourceConfig
from delivery import metrics
from delivery.journal import Journal, shard_of
from delivery.outcome import Outcome
from flows.intake import Gap, SourceIntake, supervise
from normalization.reading import Columns, Flags, Quality, TagTable

CONTEXT = Context("gw", Path("unused"))


class Script(SourceConfig):
    """A source whose reader does what a test says."""

    protocol: str = "mqtt"
    steps: list = Field([], description="one coroutine function per start; the last one again and again")
    started: list = Field([], description="the state that each start was handed")

    def reader(self, context):
        return Reader(self)


class Reader:
    def __init__(self, config):
        self._config = config

    async def run(self, intake, state):
        self._config.started.append(state)
        step = self._config.steps[min(len(self._config.started), len(self._config.steps)) - 1]
        await step(intake)


@pytest.fixture
def tags():
    return TagTable()


@pytest.fixture
async def journal(tmp_path, tags):
    made = Journal(tmp_path, "gw", tags)
    for index in range(16):
        made.attach(index, None, lambda batch: Outcome())
    yield made
    made.close()


@contextlib.asynccontextmanager
async def supervised(config, journal, tags):
    intake = SourceIntake(config.name, config.protocol, journal, tags)
    task = asyncio.create_task(supervise(config, CONTEXT, intake, journal))
    try:
        yield intake
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 5)


async def eventually(condition, seconds=10.0):
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


def rows_in(journal, protocol, source):
    """What lies in the shard of a source, as (quality, value, properties, flags)."""
    found = []
    for entry in journal.take(shard_of(protocol, source), 10_000):
        names = ("quality", "value_int", "properties", "flags")
        found += list(zip(*(entry.batch.column(n).to_pylist() for n in names), strict=True))
    return found


async def hang(intake):
    await asyncio.Event().wait()


async def test_down_marks_the_tags_stale_once(journal, tags):
    config = Script(name="press")
    intake = SourceIntake("press", "mqtt", journal, tags)
    numbers = [intake.tag(config.tag("dev", f"a{n}", f"t{n}")) for n in range(3)]
    intake.state(SourceState.CONNECTED)
    intake.state(SourceState.CONNECTING, "by itself")
    for _ in range(3):
        intake.state(SourceState.DOWN, "cable cut")
        intake.state(SourceState.CONNECTING)
    await intake.append(Columns())
    marked = rows_in(journal, "gateway", "press")
    assert marked == [(Quality.STALE, None, '{"state":"down","detail":"cable cut"}', 0)] * len(numbers)
    intake.state(SourceState.CONNECTED)
    intake.state(SourceState.DOWN, "again")
    await intake.append(Columns())
    assert len(rows_in(journal, "gateway", "press")) == len(numbers)


async def test_a_device_that_is_gone_when_the_gateway_starts_leaves_no_tag_good(journal, tags):
    intake = SourceIntake("press", "mqtt", journal, tags)
    intake.tag(Script(name="press").tag("dev", "a", "t"))
    for _ in range(2):
        intake.state(SourceState.CONNECTING)
        intake.state(SourceState.DOWN, "no route")
    await intake.append(Columns())
    assert [row[0] for row in rows_in(journal, "gateway", "press")] == [Quality.STALE]


async def test_one_reader_makes_all_attempts_of_a_source(journal, tags):
    made = []

    class Learning(Script):
        def reader(self, context):
            made.append(super().reader(context))
            return made[-1]

    async def fail(intake):
        raise ConnectionError("no")

    config = Learning(name="press", steps=[fail, fail, hang])
    async with supervised(config, journal, tags):
        await eventually(lambda: len(config.started) == 3)
    assert len(made) == 1


async def test_what_a_reader_counts_and_measures_is_in_the_status(journal, tags):
    class Counting(Script):
        def reader(self, context):
            made = super().reader(context)
            made.counts = Counter({"rebirth: sequence gap": 2})
            made.measures = {"server_clock_ahead_seconds": 1.5}
            return made

    config = Counting(name="press", steps=[hang])
    async with supervised(config, journal, tags) as intake:
        await eventually(lambda: len(config.started) == 1)
        assert intake.status.counts == {"rebirth: sequence gap": 2}
        assert intake.status.measures == {"server_clock_ahead_seconds": 1.5}


async def test_every_connection_after_the_first_is_a_reconnection(journal, tags):
    intake = SourceIntake("counted", "mqtt", journal, tags)
    intake.state(SourceState.DOWN, "first try")
    intake.state(SourceState.CONNECTED)
    assert intake.status.reconnections == 0
    intake.state(SourceState.DOWN)
    intake.state(SourceState.CONNECTING)
    intake.state(SourceState.CONNECTED)
    intake.state(SourceState.CONNECTED)
    assert intake.status.reconnections == 1
    intake.state(SourceState.DOWN)
    intake.state(SourceState.CONNECTED)
    assert intake.status.reconnections == 2
    assert metrics.REGISTRY.get_sample_value("bifrost_bridge_reconnections_total", {"source": "counted"}) == 2.0


async def test_a_gap_is_a_reading_per_tag(journal, tags):
    intake = SourceIntake("press", "mqtt", journal, tags)
    numbers = [intake.tag(Script(name="press").tag("dev", f"a{n}", f"t{n}")) for n in range(2)]
    intake.gap(numbers, 1_000, 2_000, "buffer overflow")
    await intake.append(Columns())
    described = '{"gap":{"start":1000,"end":2000,"reason":"buffer overflow"}}'
    assert rows_in(journal, "gateway", "press") == [(Quality.STALE, None, described, Flags.GAP)] * 2
    assert (intake.status.gaps, intake.status.last_gap) == (1, Gap(1_000, 2_000, "buffer overflow", 2))


async def test_a_reader_that_raises_at_once_does_not_spin(journal, tags):
    async def fail(intake):
        raise ConnectionError("no route to host")

    config = Script(name="press", steps=[fail])
    async with supervised(config, journal, tags) as intake:
        await eventually(lambda: len(config.started) >= 3)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), 0.5)
        # Delays are drawn from up to 0.5, 1, 2 … s: that many starts are less likely than one in a million.
        assert len(config.started) < 14
        assert intake.status.state is SourceState.DOWN
        assert intake.status.detail == "ConnectionError: no route to host"


async def test_a_reader_that_returns_or_is_canceled_by_a_library_is_started_again(journal, tags):
    async def end(intake):
        return

    async def canceled(intake):
        raise asyncio.CancelledError

    config = Script(name="press", steps=[end, canceled, hang])
    async with supervised(config, journal, tags) as intake:
        await eventually(lambda: len(config.started) == 3)
        assert intake.status.state is SourceState.CONNECTING


async def test_a_reader_that_swallows_its_cancellation_is_not_started_again(journal, tags):
    async def stubborn(intake):
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()

    config = Script(name="press", steps=[stubborn])
    async with supervised(config, journal, tags):
        await eventually(lambda: config.started)
    assert config.started == [None]


async def test_the_next_reader_gets_the_state_of_all_that_was_appended(journal, tags, monkeypatch):
    monkeypatch.setattr(random, "random", lambda: 0.0)  # back-off without a pause

    async def read(intake):
        number = intake.tag(Script(name="press").tag("dev", "a", "t"))
        intake.state(SourceState.CONNECTED)
        for n in (1, 2):
            rows = Columns()
            rows.add(number, n)
            intake.append(rows, str(n).encode())  # and is gone before this is on disk
        raise ConnectionError("gone")

    config = Script(name="press", steps=[read, hang])
    async with supervised(config, journal, tags) as intake:
        await eventually(lambda: len(config.started) == 2)
        assert config.started == [None, b"2"]
        assert intake.status.received == 2
    assert [row[1] for row in rows_in(journal, "mqtt", "press")] == [1, 2]
    assert [row[0] for row in rows_in(journal, "gateway", "press")] == [Quality.STALE]


async def test_one_reader_that_fails_does_not_stop_the_others(journal, tags):
    async def fail(intake):
        raise RuntimeError("a bug")

    sick, well = Script(name="sick", steps=[fail]), Script(name="well", steps=[hang])
    async with supervised(sick, journal, tags), supervised(well, journal, tags):
        await eventually(lambda: len(sick.started) >= 2)
        assert well.started == [None]


async def test_a_source_connects_anew_on_request_without_a_failure_and_without_marking_its_tags(journal, tags):
    async def connect(intake):
        known = intake.tag(Script(name="press").tag("press", "t", "t"))
        rows = Columns()
        rows.add(known, 1)
        intake.state(SourceState.CONNECTED)
        intake.append(rows, b"as far as that")
        await asyncio.Event().wait()

    config = Script(name="press", steps=[connect])
    async with supervised(config, journal, tags) as intake:
        await eventually(lambda: intake.status.state is SourceState.CONNECTED)
        intake.reopen()
        await eventually(lambda: intake.status.reconnections == 1)
        assert config.started == [None, b"as far as that"]
        assert rows_in(journal, "gateway", "press") == []


async def test_a_source_that_waits_after_a_failure_tries_at_once_on_request(journal, tags, monkeypatch):
    monkeypatch.setattr("flows.intake.RetryPolicy.delay", lambda *_: 60.0)

    async def refused(intake):
        raise ConnectionError("certificate expired")

    config = Script(name="press", steps=[refused, hang])
    async with supervised(config, journal, tags) as intake:
        await eventually(lambda: intake.status.state is SourceState.DOWN)
        intake.reopen()
        await eventually(lambda: len(config.started) == 2)
