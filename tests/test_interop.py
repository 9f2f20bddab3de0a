"""The evidence of what was seen of other people's software."""

import json
from pathlib import Path

import pytest

from tests.interop import merge, note, record, version

pytest_plugins = ["pytester"]


@pytest.mark.parametrize(
    ("outcomes", "result"),
    [(["passed", "passed"], "pass"), (["passed", "failed", "passed"], "fail"), (["skipped"], None)],
)
def test_a_behaviour_passes_when_all_of_its_tests_do(outcomes: list[str], result: str | None) -> None:
    seen: dict[tuple[str, str], str] = {}
    for outcome in outcomes:
        note(seen, "mosquitto", "goes on", outcome)
    assert seen.get(("mosquitto", "goes on")) == result


def test_a_later_run_replaces_what_it_saw_and_keeps_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "interop.json"
    record({("jsmodbus", "b"): "fail", ("jsmodbus", "a"): "pass"}, path)
    record({("jsmodbus", "b"): "pass"}, path)
    rows = json.loads(path.read_text())
    assert [(row["behaviour"], row["result"]) for row in rows] == [("a", "pass"), ("b", "pass")]
    assert {row["version"] for row in rows} == {version("jsmodbus")}


def test_rows_are_in_order_of_counterpart_and_behaviour() -> None:
    seen = {("b", "2"): "pass", ("A", "1"): "pass", ("b", "1"): "pass"}
    assert [row["counterpart"] + row["behaviour"] for row in merge([], seen, dict.fromkeys("Ab", "1"))] == [
        "A1",
        "b1",
        "b2",
    ]


@pytest.mark.parametrize(
    "counterpart",
    [
        "node-opcua",
        "jsmodbus",
        "mosquitto",
        "libmodbus",
        "open62541",
        "PostgreSQL",
        "Eclipse Milo",
        "Eclipse Tahu",
        "Apache Kafka",
        "Apicurio Registry",
        "TimescaleDB",
    ],
)
def test_the_version_of_a_counterpart_is_known(counterpart: str) -> None:
    assert version(counterpart)[0].isdigit()


def test_the_name_of_a_test_is_what_it_saw(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.evidence.FOLDER", pytester.path)
    pytester.makeini("[pytest]\nmarkers = interop\nasyncio_default_fixture_loop_scope = function\n")
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.interop("jsmodbus")
        @pytest.mark.parametrize("n", [1, 2])
        def test_it_goes_on(n): assert n == 1

        @pytest.mark.interop("jsmodbus", "in other words")
        def test_words(): pass

        def test_own(): pass
        """
    )
    pytester.runpytest_inprocess("-p", "tests.conftest").assert_outcomes(passed=3, failed=1)
    rows = json.loads((pytester.path / "interop.json").read_text())
    assert {row["behaviour"]: row["result"] for row in rows} == {"it goes on": "fail", "in other words": "pass"}
