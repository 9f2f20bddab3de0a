"""The flow's own operators: total whatever a batch holds, and lossless on the way to single readings and back."""

import itertools
import pickle
from collections import Counter
from dataclasses import replace as replaced
from datetime import UTC, datetime, timedelta

import bytewax.operators as op
import bytewax.operators.windowing as win
import numpy as np
import pyarrow as pa
import pytest
from bytewax.dataflow import Dataflow
from bytewax.testing import TestingSink, TestingSource, run_main
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from config.models import Configuration
from connectors.settings import TargetConfig
from delivery.journal import Journal
from flows.operators import (
    collect,
    event_clock,
    explode_by_tag,
    isolate,
    localize,
    normalize,
    refused,
    route,
    rows_of,
    summarize,
)
from flows.process import Process
from normalization.reading import FACTS, Columns, Flags, Quality, Tag, ValueType, repeat
from normalization.rules import Rule

MAPPINGS = [
    '{"site": "plant1", "area": "press"}',
    '{"site": "plant1", "scale": 0.5, "offset": 1.0, "type": "number"}',
    '{"site": "plant1", "type": "integer", "alarm": true}',
    '{"site": "plant1", "type": "boolean"}',
    '{"site": "plant1", "type": "text"}',
    '{"template": "{nonsense}"}',
    "not JSON",
    "[]",
]
RULES = (
    Rule("hot", "value > 80 AND quality = 'GOOD'", ("a",), 2),
    Rule("texts", "value_text LIKE '%x%' OR unit IN ('bar', '°C')", ("b",), 1),
    Rule("press", "path LIKE 'plant1/press/%'", ("a", "b"), 3),
)


@pytest.fixture
def process(tmp_path):
    """A process whose flow can run, with a journal and without any other store."""
    made = Process(
        Configuration(
            gateway="gw",
            directory=tmp_path,
            targets={name: TargetConfig(type=name) for name in ("a", "b")},
            rules=RULES,
            source_targets={"press": "b"},
            port=None,
        )
    )
    made.journal = Journal(tmp_path / "journal", "gw", made.tags)
    yield made
    made.journal.close()


def tag(number: int = 0, mapping: str = MAPPINGS[0], source: str = "press") -> Tag:
    return Tag(source, "mqtt", "dev", f"a{number}", f"tag_{number}", mapping=mapping)


def batch_of(facts: pa.RecordBatch, shards: list[str]) -> pa.RecordBatch:
    names = [repeat("gw", len(facts)), pa.array(shards, pa.string()).dictionary_encode()]
    if not shards:
        names[1] = repeat("mqtt-0-x", 0)
    return pa.RecordBatch.from_arrays([*facts.columns, *names], names=[*FACTS.names, "gateway", "shard"])


def run(
    process: Process, batches: list[pa.RecordBatch]
) -> tuple[dict[str, list[pa.RecordBatch]], list[pa.RecordBatch]]:
    """What `normalize` and `route` give to the targets and the dead letters."""
    flow = Dataflow("gateway")
    targets: dict[str, list] = {"a": [], "b": []}
    dead: list = []
    routes = route("route", normalize("normalize", op.input("in", flow, TestingSource(batches)), process), process)
    for name, stream in routes.targets.items():
        op.output(name, op.map(f"of_{name}", stream, lambda keyed: keyed[1]), TestingSink(targets[name]))
    op.output("dead", op.map("of_dead", routes.dead_letters, lambda keyed: keyed[1]), TestingSink(dead))
    run_main(flow)
    return targets, dead


def identities(batches: list[pa.RecordBatch]) -> list[tuple[str, int]]:
    columns = [(b.column("shard").to_pylist(), b.column("sequence").to_pylist()) for b in batches]
    return [pair for shards, sequences in columns for pair in zip(shards, sequences, strict=True)]


odd_rows = st.fixed_dictionaries(
    {
        "tag": st.integers(0, 9) | st.sampled_from([-1, 10_000, 2**31 - 1, -(2**31)]),
        "type": st.sampled_from([*map(int, ValueType), -1, 8, 99]),
        "value_double": st.none() | st.floats(),
        "value_int": st.none() | st.integers(-(2**63), 2**63 - 1),
        "value_text": st.none() | st.text(st.characters(codec="utf-8"), max_size=5),
        "value_bytes": st.none() | st.binary(max_size=4),
        "quality": st.integers(-2, 9),
        "reject": st.sampled_from([None, None, None, "broken"]),
        "shard": st.sampled_from(["mqtt-0", "modbus-1", "elsewhere-0-x"]),
    }
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(odd_rows, max_size=12), max_size=3))
def test_whatever_a_batch_holds_each_reading_goes_to_a_target_or_becomes_a_dead_letter(process, lists):
    for number in range(10):
        process.tags.intern(tag(number, MAPPINGS[number % len(MAPPINGS)], "press" if number % 2 else "other"))
    incarnation = process.journal.shard_name(0).rsplit("-", 1)[1]
    batches, sequence = [], 0
    for rows in lists:
        columns = {name: [row.get(name) for row in rows] for name in FACTS.names}
        columns["sequence"] = list(range(sequence + 1, sequence + len(rows) + 1))
        columns["received_time"] = [0] * len(rows)
        columns["flags"] = [0] * len(rows)
        sequence += len(rows)
        facts = pa.RecordBatch.from_arrays([pa.array(columns[f.name], f.type) for f in FACTS], schema=FACTS)
        shards = [r["shard"] if "x" in r["shard"] else f"{r['shard']}-{incarnation}" for r in rows]
        batches.append(batch_of(facts, shards))

    targets, dead = run(process, batches)
    given_in = identities(batches)
    out = set(identities(targets["a"])) | set(identities(targets["b"]))
    letters = identities(dead)
    assert len(letters) == len(set(letters))
    assert not out & set(letters)
    every = list(zip(given_in, itertools.chain.from_iterable(lists), strict=True))
    press = {identity for identity, row in every if row["tag"] in range(1, 10, 2)}
    rejected = {identity for identity, row in every if row["reject"] is not None}
    assert rejected <= set(letters)
    assert press <= out | set(letters), "every reading of the source goes to its table or is a dead letter"
    for batch in dead:
        assert batch.column("reject").null_count == 0


def test_what_is_filtered_is_told_by_shard_also_when_a_step_has_merged_shards(process):
    number = process.tags.intern(tag())
    other = process.tags.intern(tag(1, MAPPINGS[0].replace("press", "mill"), "other"))
    made = Columns()
    for row in range(10):
        made.add(number if row < 6 else other, float(row), quality=Quality.GOOD)
    made.reject[0] = "broken"
    mqtt, modbus = process.journal.shard_name(4), process.journal.shard_name(8)
    shards = [mqtt, modbus] * 5
    noted: list = []
    process.journal.note = lambda shard, last, outcome: noted.append((shard, last, outcome))
    backwards = pa.array(range(9, -1, -1))  # as a keyed step may leave them
    run(process, [batch_of(made.to_batch([0] * 10, 101), shards).take(backwards)])

    assert [(shard, last) for shard, last, _ in noted] == [(mqtt, 109), (modbus, 110)]
    first, second = (outcome for *_, outcome in noted)
    run(process, [batch_of(made.to_batch([0] * 10, 1), [mqtt] * 10).take(backwards)])
    assert noted[2][:2] == (mqtt, 10)
    assert first.dead == Counter(press=1)
    assert first.routed == Counter(press=2, other=0)
    assert first.filtered == {"no rule": Counter(other=2)}
    assert first.targets == {"a": Counter(press=2), "b": Counter(press=2)}
    assert +second.routed == Counter(press=3)
    assert not second.dead
    assert second.filtered == {"no rule": Counter(other=2)}


def test_only_the_readings_at_fault_are_refused(process):
    made = Columns()
    for row in range(100):
        made.add(process.tags.intern(tag()), row)
    batch = batch_of(made.to_batch([0] * 100, 1), ["mqtt-0-x"] * 100)

    def work(part: pa.RecordBatch) -> pa.RecordBatch:
        if {13, 77} & set(part.column("value_int").to_pylist()):
            raise ZeroDivisionError("a bug")
        return part

    parts = isolate(work, lambda part, reason: refused(part, reason, process.tags), batch)
    assert [s for part in parts for s in part.column("sequence").to_pylist()] == list(range(1, 101))
    reasons = {
        s: r
        for p in parts
        for s, r in zip(p.column("sequence").to_pylist(), p.column("reject").to_pylist(), strict=True)
    }
    assert {s: r for s, r in reasons.items() if r} == {14: "ZeroDivisionError: a bug", 78: "ZeroDivisionError: a bug"}


def test_an_error_inside_normalize_and_route_becomes_a_dead_letter(process, monkeypatch):
    made = Columns()
    made.add(process.tags.intern(tag()), 1.0)
    batch = batch_of(made.to_batch([0], 1), ["mqtt-0-x"])

    class Broken:
        def __call__(self, batch):
            raise KeyError("no such thing")

        def new_collisions(self):
            return []

    sound, process.normalizer = process.normalizer, Broken()
    targets, dead = run(process, [batch])
    assert not targets["a"]
    assert dead[0].column("reject").to_pylist() == ["KeyError: 'no such thing'"]
    assert dead[0].column("value_double").to_pylist() == [1.0]

    process.normalizer = sound
    monkeypatch.setattr(Process, "router", property(lambda self: Broken()))
    targets, dead = run(process, [batch])
    assert not targets["a"]
    assert dead[0].column("reject").to_pylist() == ["KeyError: 'no such thing'"]
    assert dead[0].column("path").to_pylist() == ["plant1/press/tag_0"]


values = (
    st.none()
    | st.booleans()
    | st.floats(allow_nan=False)
    | st.integers(-(2**63), 2**64 - 1)
    | st.text(st.characters(codec="utf-8"), max_size=8)
    | st.binary(max_size=8)
    | st.lists(st.integers(), max_size=3)
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(values, st.booleans(), st.sampled_from([None, 0, 1_700_000_000_123_456])), min_size=1, max_size=8
    )
)
def test_single_readings_that_are_collected_again_are_equal(process, rows):
    made = Columns()
    for number, (value, unsigned, source_time) in enumerate(rows):
        made.add(
            process.tags.intern(tag(number % 3)),
            value,
            quality=number % 5,
            status=number or None,
            source_time=source_time,
            flags=number % 8,
            properties='{"a": 1}' if number % 2 else None,
            unsigned=unsigned,
        )
    facts = made.to_batch(np.arange(len(rows), dtype=np.int64) + 1_700_000_000_000_000, 1)
    batch = process.normalizer(batch_of(facts, ["mqtt-0-x"] * len(rows)))

    out: list[pa.RecordBatch] = []
    flow = Dataflow("gateway")
    keyed = explode_by_tag("rows", op.input("in", flow, TestingSource([batch])), process)
    op.output("out", collect("again", keyed, process), TestingSink(out))
    run_main(flow)

    together = pa.Table.from_batches(out).sort_by("sequence")
    for name in batch.schema.names:
        assert together.column(name).to_pylist() == batch.column(name).to_pylist(), name


def test_readings_that_cannot_be_used_are_not_exploded(process):
    made = Columns()
    made.add_reject(process.tags.intern(tag()), "broken", b"\x00")
    made.add(process.tags.intern(tag()), 2.0)
    batch = process.normalizer(batch_of(made.to_batch([0, 0], 1), ["mqtt-0-x"] * 2))
    assert [row.value for row in rows_of(batch, process.tags)] == [2.0]


def test_a_derived_reading_has_the_identity_of_its_origin_and_the_step_and_a_line_of_its_own(process):
    made = Columns()
    made.add(process.tags.intern(tag()), 2.0, source_time=5, properties='{"a": 1}')
    (row,) = rows_of(process.normalizer(batch_of(made.to_batch([0], 7), ["mqtt-0-x"])), process.tags)
    twice = row.derive("doubled", row.value * 2, tag_name="twice", unit="m")
    assert (twice.gateway, twice.shard, twice.sequence) == ("gw", "mqtt-0-x/doubled", 7)
    assert (twice.value, twice.time, twice.source_time, twice.flags) == (4.0, row.time, 5, Flags.DERIVED)
    assert twice.properties is None
    assert (twice.tag.source, twice.tag.path, twice.tag.unit) == ("press/doubled", "plant1/press/twice", "m")
    assert row.derive("d", 1, source="press", path="p").tag == replaced(row.tag, source="press", path="p")


def test_a_summary_has_the_same_identity_at_every_run_and_no_other_has_it(process):
    start = datetime(2026, 1, 1, tzinfo=UTC)
    first = tag()

    def made(**changes):
        given_in = {"step": "average", "gateway": "gw", "tag": first, "start": start, "value": 1.0} | changes
        row = summarize(**given_in)
        return row.shard, row.sequence

    assert made() == made(value=2.0)
    others = [
        made(start=start + timedelta(seconds=1)),
        made(tag=replaced(first, path="elsewhere")),
        made(tag=replaced(first, source="another")),
        made(tag=replaced(first, address="another")),
        made(tag_name="named"),
        made(ordinal=1),
        made(step="other"),
    ]
    assert len({made(), *others}) == 8
    assert all(0 <= sequence < 2**63 for _, sequence in others)
    assert summarize("average", "gw", first, start, 1.0).source_time == 1_767_225_600_000_000


def timed(process: Process, times: list[int]) -> pa.RecordBatch:
    made = Columns()
    number = process.tags.intern(tag())
    for seconds in times:
        made.add(number, float(seconds), source_time=seconds * 1_000_000)
    return process.normalizer(batch_of(made.to_batch([0] * len(times), 1), ["mqtt-0-x"] * len(times)))


def test_windows_hold_the_same_readings_however_the_batches_are_cut(process):
    batch = timed(process, [0, 4, 9, 11, 8, 13, 7, 24])

    def windows(cuts: list[int]) -> tuple[list, list]:
        closed: list = []
        late: list = []
        flow = Dataflow("gateway")
        edges = [0, *cuts, len(batch)]
        parts = [batch.slice(start, end - start) for start, end in itertools.pairwise(edges)]
        keyed = explode_by_tag("rows", op.input("in", flow, TestingSource(parts)), process)
        windower = win.TumblingWindower(length=timedelta(seconds=10), align_to=datetime(1970, 1, 1, tzinfo=UTC))
        out = win.collect_window("w", keyed, event_clock(timedelta(seconds=3)), windower)
        op.output("out", op.map("closed", out.down, lambda kv: [r.value for r in kv[1][1]]), TestingSink(closed))
        op.output("late", op.map("late_rows", out.late, lambda kv: kv[1][1].value), TestingSink(late))
        run_main(flow)
        return closed, late

    once = windows([])
    assert once == ([[0.0, 4.0, 8.0, 9.0], [11.0, 13.0], [24.0]], [7.0])
    assert windows([1, 2, 3, 4, 5, 6, 7]) == windows([3]) == windows([5, 7]) == once


def test_the_event_clock_stands_still_while_the_gateway_does(process):
    rows = list(rows_of(timed(process, [10, 8]), process.tags))
    clock = event_clock(timedelta(seconds=3))
    before = clock.build(None)
    before.before_batch()
    _, watermark = before.on_item(rows[0])
    assert watermark == rows[0].time - timedelta(seconds=3)
    after = clock.build(pickle.loads(pickle.dumps(before.snapshot())))  # long after, or with the wall clock set back
    after.before_batch()
    assert after.on_item(rows[1]) == (rows[1].time, watermark)
    assert after.on_notify() == watermark
    assert after.to_system_utc(watermark) is None


def test_batches_without_the_tags_of_this_process_get_them(process):
    made = Columns()
    made.add(process.tags.intern(tag()), 2.0)
    batch = process.normalizer(batch_of(made.to_batch([0], 1), ["mqtt-0-x"]))
    elsewhere = Process(process.config)
    elsewhere.tags.intern(tag(7))
    moved = localize(batch, elsewhere.tags)
    assert moved.column("path").to_pylist() == ["plant1/press/tag_0"]
    assert elsewhere.tags[moved.column("tag")[0].as_py()].tag_name == "tag_0"
    assert localize(batch.replace_schema_metadata(None), elsewhere.tags).column("path").to_pylist() == [
        "plant1/press/tag_0"
    ]
