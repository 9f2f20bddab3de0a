"""The tables of figures say what the evidence says, and say it plainly where an aim is not reached."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import tables
from benchmarks.tables import Figure, dead_target, faults, figures, main, page


def evidence(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((tables.EVIDENCE / f"{name}.json").read_text())
    return found


def test_the_tables_are_fresh(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check"]) == 0, capsys.readouterr().err


def test_check_tells_a_stale_table_and_writing_mends_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text(f"above\n\n{tables._BEGIN}old\n{tables._END}\n\nbelow\n")
    assert main(["--check"], tmp_path) == 1
    assert "README.md is stale; run `python -m benchmarks.tables`" in capsys.readouterr().err
    assert main([], tmp_path) == 0
    assert main(["--check"], tmp_path) == 0
    written = (tmp_path / "README.md").read_text()
    assert written.startswith("above\n\n")
    assert written.endswith("\n\nbelow\n")
    assert "old" not in written
    assert (tmp_path / "docs" / "figures.md").read_text().startswith("# Figures")


@pytest.mark.parametrize(
    ("figure", "row"),
    [
        (Figure("memory", 186.9, "MB", "≤", 150), ("memory", "186.9 MB", "≤ 150 MB: **not reached**")),
        (Figure("memory", 150, "MB", "≤", 150, "worst 151"), ("memory", "150 MB (worst 151)", "≤ 150 MB")),
        (Figure("speed", 1_234_567, "rows/s", "≥", 500_000), ("speed", "1,234,567 rows/s", "≥ 500,000 rows/s")),
        (Figure("restart", 5.0, "s", "<", 5), ("restart", "5.0 s", "< 5 s: **not reached**")),
        (Figure("lost", 0, "", "", 0), ("lost", "0", "0")),
        (Figure("lost", 1, "", "", 0), ("lost", "1", "0: **not reached**")),
        (Figure("live", 10), ("live", "10", "–")),
    ],
)
def test_a_figure_stands_beside_its_aim(figure: Figure, row: tuple[str, str, str]) -> None:
    assert figure.row() == row


def test_the_readme_has_every_figure_that_has_an_aim() -> None:
    bench, kill = evidence("bench"), evidence("kill")
    named = {figure.what: figure.value for figure in figures(bench, kill, evidence("ui"))}
    core = {found["rows_per_batch"]: found["readings_per_cpu_s"] for found in bench["core_path"]}
    assert named["core path, 1,000 readings a batch"] == core[1000]
    for value in (*bench["zerobus"].values(), bench["latency_ms"]["p99"], bench["memory_mb"], bench["idle_cpu_percent"],
                  bench["start_s"], kill["lost"], kill["visible_twice"], kill["restart_s"]["max"]):  # fmt: skip
        assert value in named.values()


def test_the_page_holds_every_batch_size_and_protocol() -> None:
    bench, kill = evidence("bench"), evidence("kill")
    text = page(bench, kill, evidence("dead_target"), evidence("ui"))
    for found in bench["core_path"]:
        assert f"| {found['rows_per_batch']:,} | {found['readings_per_cpu_s']:,} | " in text
    for protocol, count in kill["obligations"].items():
        assert f"| {protocol} | {count:,} | " in text


def test_a_reading_that_was_lost_shows() -> None:
    kill = copy.deepcopy(evidence("kill"))
    kill["lost"] = 3
    assert "3 readings lost" in page(evidence("bench"), kill, evidence("dead_target"), evidence("ui"))
    assert any(figure.row()[2] == "0: **not reached**" for figure in figures(evidence("bench"), kill, evidence("ui")))


def test_a_ratio_of_few_pairs_is_not_resolved() -> None:
    assert "**Not resolved**: fewer than 20 pairs" in dead_target({"cpu_ratios": [0.9, 1.1, 1.0]})


def test_a_ratio_of_many_pairs_has_an_interval() -> None:
    said = dead_target({"cpu_ratios": [1 + n / 100 for n in range(20)]})
    assert said.endswith("median 1.09 of 20 pairs, 95 % interval 1.05 to 1.14.") or "95 % interval" in said


def test_what_did_not_hold_under_faults_shows() -> None:
    chaos, soak = evidence("chaos"), evidence("soak")
    assert "**not reached**" not in faults(chaos, soak).partition("G2")[0]
    worse = copy.deepcopy(chaos)
    worse["scenarios"]["numbered_kills"]["figures"]["lost"] = 3
    worse["scenarios"]["sigterm"]["broken"] = ["lost is 3, expected 0 to 0"]
    told = faults(worse, soak)
    assert "3 of " in told
    assert "**not reached**" in told.partition("G2")[0]
    assert "lost is 3, expected 0 to 0" in told


def test_what_the_image_weighs_is_told_in_parts_that_are_the_whole() -> None:
    found = evidence("image")
    text = tables.image(found)
    for variant in ("all", "edge"):
        told = found[variant]
        assert told["size_mb"] == pytest.approx(told["base_mb"] + told["own_mb"], abs=1)
        assert told["own_mb"] == pytest.approx(sum(told["packages_mb"].values()) + told["other_packages_mb"], abs=3)
        assert f"| `{variant}` | {told['own_mb']} | {told['base_mb']} | {told['size_mb']} |" in text
    weights = [
        float(line.split("|")[2])
        for line in text.splitlines()
        if line.split("|")[1:2] and line.split("|")[1].strip() in found["all"]["packages_mb"]
    ]
    assert len(weights) == len(found["all"]["packages_mb"])
    assert weights == sorted(weights, reverse=True)
