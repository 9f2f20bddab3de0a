"""The example's pure parts: what a batch adds to which windows, and what is said of readings that no window took."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import bytewax.operators as op
import pyarrow as pa
import structlog
from bytewax.dataflow import Dataflow
from bytewax.testing import TestingSink, TestingSource, run_main

from config.models import Configuration
from connectors.settings import SourceConfig, TagMapping
from flows.examples.plant_average import Line, Share, average, only_celsius, shares_of
from flows.operators import Row
from flows.process import Process
from normalization.reading import Columns, Quality, repeat

MINUTE = timedelta(minutes=1)
START = datetime(2026, 1, 1, tzinfo=UTC)
PRESS = Line("site", "", "press")


def source(name: str, line: str | None = "press") -> SourceConfig:
    return SourceConfig(name=name, protocol="mqtt", site="site", line=line, tags=[TagMapping(match="*", unit="°C")])


def share(name: str, minutes: float, total: float, count: int = 1) -> tuple[str, Share]:
    time = START + minutes * MINUTE
    return PRESS.path, Share(PRESS, name, time, time, total, count)


def test_a_batch_adds_to_each_window_and_line_what_is_theirs(tmp_path: Path) -> None:
    process = Process(Configuration(gateway="gw", directory=tmp_path))
    tags = {
        one.name: process.tags.intern(one.tag("dev", "a", "t")) for one in (source("a"), source("b"), source("c", None))
    }
    made, base = Columns(), (START - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    for name, value, second in (("a", 1.0, 0), ("b", 5, 61), ("a", 2.0, 59), ("a", 4.0, 60), ("c", 9.0, 0)):
        made.add(tags[name], value, source_time=base + second * 1_000_000)
    made.add(tags["a"], 100.0, quality=Quality.BAD, source_time=base)
    facts = made.to_batch([base + 90_000_000] * 6, 1)
    names = [repeat("gw", 6), repeat("mqtt-0-abc", 6)]
    raw = pa.RecordBatch.from_arrays([*facts.columns, *names], names=[*facts.schema.names, "gateway", "shard"])
    found = [one for _, one in shares_of(only_celsius(process.normalizer(raw)), MINUTE)]
    said = {(one.source, one.time - START): (one.total, one.readings, one.received - START) for one in found}
    second, received = timedelta(seconds=1), timedelta(seconds=90)
    assert said == {
        ("a", 59 * second): (3.0, 2, received),
        ("a", 60 * second): (4.0, 1, received),
        ("b", 61 * second): (5.0, 1, received),
    }
    assert found[0].time == min(one.time for one in found), "the oldest window first"
    assert {one.line for one in found} == {PRESS}


def test_windows_wait_for_all_sources_of_their_line_and_what_is_too_late_is_said(tmp_path: Path) -> None:
    sources = (source("a"), source("b"), source("elsewhere", "mixer"))
    process = Process(Configuration(gateway="gw", directory=tmp_path, sources=sources))
    given = [
        share("a", 0, 10),
        share("a", 1.5, 20),  # past the first window, which waits for b
        share("b", 0.5, 50, 3),
        share("b", 1.6, 60),  # now both are past it
        share("a", 30, 1),  # b has been silent for longer than ten minutes
        share("b", 2, 7, 2),
    ]
    made: list[tuple[str, Row]] = []
    flow = Dataflow("gateway")
    shares = op.input("shares", flow, TestingSource(given))
    averages = average("averages", shares, MINUTE, timedelta(0), 10 * MINUTE, process)
    op.output("out", averages, TestingSink(made))
    with structlog.testing.capture_logs() as said:
        run_main(flow)
    # The end of the stream closes nothing early: the clock does not move with it.
    assert [(row.time - START, row.value) for _, row in made] == [(0 * MINUTE, 60 / 4), (MINUTE, 40.0)]
    assert {row.gateway for _, row in made} == {"gw"}
    assert {row.tag.path for _, row in made} == {"site/press/temperature_average"}
    (late,) = [one for one in said if one["event"] == "readings came too late for a window"]
    assert (late["line"], late["source"], late["readings"]) == ("site/press", "b", 2)
