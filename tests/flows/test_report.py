"""What a gateway says of itself, as readings."""

import time

import pytest
from numbered import read
from running import running

from delivery.account import Account, SourceLine, TargetLine
from flows.report import columns, complete_up_to, rows
from normalization.reading import TagTable

ACCOUNT = Account(
    {"press": SourceLine(journalled=10, waiting=1, filtered={"no rule": 2}, routed=6, dead_letters=1)},
    {"lake": {"press": TargetLine(routed=6, settled=6, delivered=5, stored=1, discarded={}, dead_letters=0)}},
)


def test_a_report_tells_the_account_of_each_source_and_target() -> None:
    found = {tag.path: value for tag, value in rows(ACCOUNT, {"lake": 77}, "gw")}
    assert found["bifrost/gw/press/journalled"] == 10
    assert found["bifrost/gw/press/filtered"] == 2
    assert found["bifrost/gw/press/unaccounted"] == 0
    assert found["bifrost/gw/press/lake/delivered"] == 5
    assert found["bifrost/gw/press/lake/complete_up_to"] == 77
    assert "bifrost/gw/press/lake/complete_up_to" not in {t.path for t, _ in rows(ACCOUNT, {"lake": None}, "gw")}
    table = TagTable()
    made = columns(ACCOUNT, {"lake": 77}, "gw", table.intern, 5)
    assert {table[tag].protocol for tag in made.tag} == {"gateway"}
    assert set(made.source_time) == {5}


@pytest.mark.parametrize(
    ("journal", "spool", "complete"),
    [(None, None, 100), (90, None, 90), (None, 80, 80), (90, 80, 80), (0, 80, None), (90, 0, None)],
)
def test_a_target_is_complete_up_to_what_waits_for_it(
    journal: int | None, spool: int | None, complete: int | None
) -> None:
    assert complete_up_to(100, journal, spool) == complete


def told(directory, target):
    """Times up to which `target` was said to be complete, as they arrived at the target that gets reports."""
    path = f"bifrost/gw/mqtt_line/{target}/complete_up_to"
    return [row[3] for row in read(directory / "first.jsonl") if row[4] == path]


def test_a_job_downstream_learns_when_a_target_has_all(tmp_path):
    began = time.time() * 1e6
    with running(tmp_path, fail_second=True, report=0.3) as gateway:
        gateway.until(
            lambda: len(set(told(tmp_path, "first"))) > 3, "reports: the target that takes readings gets further"
        )
        first, second = told(tmp_path, "first"), told(tmp_path, "second")
        assert first == sorted(first)
        assert began < first[0] < first[-1] <= time.time() * 1e6
        assert second, "the other is told of too"
        assert second[-1] - second[0] < 0.2e6, "and does not: its oldest reading still waits"
        assert gateway.stop() < 5.0
