"""The step of report by exception: total whatever a batch holds, and each reading passes, is counted, or comes late."""

import itertools
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bytewax.operators as op
import numpy as np
import pyarrow as pa
import pytest
from bytewax.dataflow import Dataflow
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import TestingSink, TestingSource, run_main
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_operators import batch_of, identities, odd_rows

from config.models import Configuration
from connectors.settings import TargetConfig
from delivery import metrics
from delivery.journal import Journal
from delivery.outcome import Outcome
from flows.by_exception import report_by_exception
from flows.operators import normalize, route
from flows.process import Process
from normalization.passing import REASONS
from normalization.reading import FACTS, Columns, Quality, Tag
from normalization.report import LATE

RULES: list[dict[str, Any] | str | None] = [
    None,
    "all",
    {},
    {"deadband": 0.5, "min_interval": 0.1},
    {"swinging_door": 0.5, "max_interval": 60},
]
Noted = list[tuple[str, int, Outcome]]


def tag(number: int) -> Tag:
    rule = RULES[number % len(RULES)]
    mapping = {"site": "plant1"} if rule is None else {"site": "plant1", "report": rule}
    return Tag("press", "mqtt", "dev", f"a{number}", f"tag_{number}", mapping=json.dumps(mapping))


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Process]:
    """A process with ten tags and a journal, and without any other store."""
    made = Process(
        Configuration(
            gateway="gw", directory=tmp_path, targets={"a": TargetConfig(type="a")}, default=("a",), port=None
        )
    )
    made.journal = Journal(tmp_path / "journal", "gw", made.tags)
    for number in range(10):
        made.tags.intern(tag(number))
    yield made
    made.journal.close()


@pytest.fixture
def noted(gateway: Process, monkeypatch: pytest.MonkeyPatch) -> Noted:
    """What the journal is told."""
    told: Noted = []
    monkeypatch.setattr(gateway.journal, "note", lambda shard, last, outcome: told.append((shard, last, outcome)))
    return told


def run(process: Process, batches: list[Any], recovery: RecoveryConfig | None = None) -> list[pa.RecordBatch]:
    """What goes to the target and to the dead letters."""
    flow = Dataflow("gateway")
    out: list[pa.RecordBatch] = []
    normalized = normalize("normalize", op.input("in", flow, TestingSource(batches, 1)), process)
    routes = route("route", report_by_exception("report", normalized, process), process)
    op.output("a", op.map("of_a", routes.targets["a"], lambda keyed: keyed[1]), TestingSink(out))
    op.output("dead", op.map("of_dead", routes.dead_letters, lambda keyed: keyed[1]), TestingSink(out))
    run_main(flow, recovery_config=recovery)  # type: ignore[no-untyped-call]
    return out


def wave(process: Process, first: int, count: int) -> pa.RecordBatch:
    """Numbers of a tag behind a deadband and of one behind a swinging door, in turn."""
    rows = Columns()
    for n in range(first, first + count):
        rows.add(3 + n % 2, abs(n % 20 - 10) / 4, source_time=n * 100_000)
    return batch_of(rows.to_batch(np.zeros(count, np.int64), first), [process.journal.shard_name(4)] * count)


def left_out(noted: Noted) -> Counter[str]:
    found: Counter[str] = Counter()
    for _, _, outcome in noted:
        for reason, counts in outcome.filtered.items():
            found[reason] += counts.total()
    return found


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(odd_rows, max_size=12), max_size=3))
def test_whatever_a_batch_holds_each_reading_passes_is_counted_or_comes_late(
    gateway: Process, noted: Noted, lists: list[list[dict[str, Any]]]
) -> None:
    noted.clear()
    batches, sequence = [], 0
    for rows in lists:
        columns = {name: [row.get(name) for row in rows] for name in FACTS.names}
        columns["sequence"] = list(range(sequence + 1, sequence + len(rows) + 1))
        columns["received_time"] = columns["flags"] = [0] * len(rows)
        sequence += len(rows)
        facts = pa.RecordBatch.from_arrays([pa.array(columns[f.name], f.type) for f in FACTS], schema=FACTS)
        batches.append(batch_of(facts, [row["shard"] for row in rows]))
    out = identities(run(gateway, batches))
    assert len(out) == len(set(out))
    arrived = {(shard.removesuffix(LATE), number) for shard, number in out}
    assert len(arrived) == len(out), "a reading that came late did not pass before"
    every = set(identities(batches))
    assert arrived <= every
    assert left_out(noted).total() == len(every) - len(arrived)
    free = {
        identity
        for identity, row in zip(identities(batches), itertools.chain.from_iterable(lists), strict=True)
        if row["tag"] not in range(10) or row["tag"] % 5 < 2
    }
    assert free <= set(out)


def test_a_flow_that_is_resumed_decides_as_one_that_was_not(gateway: Process, noted: Noted, tmp_path: Path) -> None:
    batches = [wave(gateway, first, 17) for first in range(0, 340, 17)]
    want = identities(run(gateway, batches))
    whole = left_out(noted)
    assert any(shard.endswith(LATE) for shard, _ in want)
    assert whole["deadband"] > 50
    assert whole["swinging_door"] > 50
    noted.clear()
    (tmp_path / "recovery").mkdir()
    init_db_dir(tmp_path / "recovery", 1)  # type: ignore[no-untyped-call]
    recovery = RecoveryConfig(tmp_path / "recovery")  # type: ignore[no-untyped-call]
    cut: list[Any] = []
    for number, batch in enumerate(batches):
        cut += [TestingSource.EOF(), batch] if number in (5, 6, 13) else [batch]
    got = [identity for _ in range(4) for identity in identities(run(gateway, cut, recovery))]
    assert got == want
    assert left_out(noted) == whole


def test_metrics_count_by_reason_and_batches_without_a_rule_go_past(gateway: Process, noted: Noted) -> None:
    def counted(reason: str) -> float:
        return float(metrics.FILTERED.labels("press", reason)._value.get())

    before = {reason: counted(reason) for reason in REASONS[1:]}
    late = metrics.PASSED_LATE._value.get()
    out = identities(run(gateway, [wave(gateway, 0, 100)]))
    came_late = sum(shard.endswith(LATE) for shard, _ in out)
    assert metrics.PASSED_LATE._value.get() - late == came_late > 0
    held = counted("swinging_door") - before["swinging_door"]
    assert held - came_late == left_out(noted)["swinging_door"]
    assert counted("deadband") - before["deadband"] == left_out(noted)["deadband"]

    rows = Columns()
    for _ in range(3):
        rows.add(0, 1.0, quality=Quality.GOOD)
    plain = batch_of(rows.to_batch(np.zeros(3, np.int64), 1), [gateway.journal.shard_name(4)] * 3)
    (passed,) = run(gateway, [plain])
    assert len(passed) == 3


def test_what_cannot_be_decided_passes(gateway: Process, noted: Noted, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: object) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr("normalization.passing.Turn.decide", broken)
    batch = wave(gateway, 0, 9)
    assert sorted(identities(run(gateway, [batch]))) == sorted(identities([batch]))
    assert not left_out(noted)
