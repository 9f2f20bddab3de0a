"""What the API shows of readings: tags, streams, the tail, the pipeline, and rules that are tried."""

import itertools
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from tests.web.serving import Serving, gateway, until


@pytest.fixture(scope="module")
def reading(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with gateway(tmp_path_factory.mktemp("gateway"), "reading") as running:
        until(lambda: running.get("/api/tags")["total"] == 100)
        yield running


def test_tags_are_found_by_text_place_quality_and_source(reading: Serving) -> None:
    found = reading.get("/api/tags?limit=3")
    assert (found["total"], found["bad"], len(found["tags"])) == (100, 0, 3)
    first = found["tags"][0]
    assert first["path"] == "plant1/mqtt/temperature/tag_0"
    assert (first["source"], first["device"], first["tag_name"], first["address"]) == (
        "mqtt_line",
        "dev",
        "tag_0",
        "a0",
    )
    assert (first["unit"], first["quality"], first["type"], first["targets"]) == ("°C", "GOOD", "DOUBLE", ["second"])
    assert first["value"] == pytest.approx(first["raw"] / 10)
    assert reading.get("/api/tags?search=TAG_4")["total"] == 22
    assert reading.get("/api/tags?prefix=plant1/opcua")["total"] == 50
    assert reading.get("/api/tags?prefix=plant1/opc")["total"] == 0
    assert reading.get("/api/tags?source=opcua_line&search=a49")["tags"][0]["tag_name"] == "tag_49"
    assert reading.get("/api/tags?quality=not_good")["total"] == 0
    falling = reading.get("/api/tags?sort=-path&limit=500")["tags"]
    assert [tag["path"] for tag in falling] == sorted((tag["path"] for tag in falling), reverse=True)
    assert reading.get("/api/tags?offset=99&limit=500")["tags"][0]["id"] == falling[0]["id"]
    by_value = [tag["value"] for tag in reading.get("/api/tags?sort=value&limit=500")["tags"]]
    assert len(by_value) == 100
    wrong = reading.get("/api/tags?quality=FINE", 422)
    assert wrong["problems"][0]["where"] == "/query/quality"
    assert reading.client.get("/api/tags?limit=501").status_code == 422


def test_the_tree_counts_what_lies_below(reading: Serving) -> None:
    root = reading.get("/api/tags/tree")["children"]
    assert [(child["name"], child["tags"]) for child in root] == [("plant1", 100)]
    areas = reading.get("/api/tags/tree?prefix=plant1")["children"]
    assert [(child["path"], child["tags"], child["id"]) for child in areas] == [
        ("plant1/mqtt", 50, None),
        ("plant1/opcua", 50, None),
    ]
    leaves = reading.get("/api/tags/tree?prefix=plant1/mqtt/temperature")["children"]
    assert len(leaves) == 50
    some = reading.get("/api/tags/tree?prefix=plant1/mqtt/temperature&offset=10&limit=5")
    assert some == {"prefix": "plant1/mqtt/temperature", "total": 50, "children": some["children"]}
    assert [child["path"] for child in some["children"]] == [child["path"] for child in leaves[10:15]]
    assert reading.client.get("/api/tags/tree?limit=501").status_code == 422
    assert reading.get(f"/api/tags/{leaves[0]['id']}")["path"] == leaves[0]["path"]


def test_a_tag_is_shown_with_its_last_readings_and_where_it_goes(reading: Serving) -> None:
    number = reading.get("/api/tags?search=mqtt/temperature/tag_7")["tags"][0]["id"]
    until(lambda: len(reading.get(f"/api/tags/{number}")["samples"]) >= 20)
    one = reading.get(f"/api/tags/{number}")
    values = [sample["value"] for sample in one["samples"]]
    assert values == sorted(values)
    assert values[-1] == one["value"]
    assert one["rules"] == []
    assert one["places"] == {"site": "plant1", "area": "mqtt"}
    assert reading.get("/api/tags/99999", 404)["detail"].startswith("no tag with the number 99999")
    reading.post({"device_id": "PLC001", "tag_name": "temp9", "value": {"a": 1}, "quality": "BAD"})
    until(lambda: reading.get("/api/tags?quality=not_good")["total"] == 1)
    posted = reading.get("/api/tags?quality=BAD")["tags"][0]
    assert (posted["path"], posted["value"], posted["targets"]) == ("PLC001/temperature/temp9", {"a": 1}, ["first"])
    assert reading.get(f"/api/tags/{posted['id']}")["rules"] == ["warm"]
    reading.post({"device_id": "PLC001", "tag_name": "temp9", "value": 2})
    until(lambda: reading.get("/api/tags?quality=not_good")["total"] == 0)


def test_a_stream_tells_first_everything_and_then_what_has_changed(reading: Serving) -> None:
    tags = [tag["id"] for tag in reading.get("/api/tags?search=tag_&limit=5")["tags"]]
    with reading.client.events(f"/api/events?topics=status,tags:{','.join(map(str, tags))}") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        began = time.monotonic()
        told = list(itertools.islice(stream, 10))
        took = time.monotonic() - began
    assert took > 0.9, "at most four turns a second, of two events each"
    assert [name for name, _ in told[:2]] == ["status", "tags"]
    assert set(told[0][1]["sources"]) >= {"mqtt_line", "opcua_line"}
    assert [tag["id"] for tag in told[1][1]["tags"]] == sorted(tags)
    later = [data for name, data in told[2:] if name == "status"]
    assert later
    assert all(set(data["sources"]) <= {"mqtt_line", "opcua_line"} for data in later)
    assert all("dead_letters" not in data for data in later)
    of_tag = [tag["value"] for name, data in told if name == "tags" for tag in data["tags"] if tag["id"] == tags[0]]
    assert of_tag == sorted(of_tag)
    assert len(set(of_tag)) > 2


def test_what_everybody_watches_is_told_to_everybody(reading: Serving) -> None:
    with reading.client.events("/api/events?topics=status") as one, reading.client.events("/api/events") as other:
        ahead = [list(itertools.islice(stream, 3)) for stream in (one, other)]
    assert [[name for name, _ in told] for told in ahead] == [["status"] * 3] * 2


@pytest.mark.parametrize(
    "topics", ["", "tags:", "tags:x", "weather", "tags:-1", "tags:1,status,2", f"tags:{','.join(map(str, range(501)))}"]
)
def test_a_wrong_topic_is_refused(reading: Serving, topics: str) -> None:
    assert reading.get(f"/api/events?topics={topics}", 422)["problems"][0]["where"] == "/query/topics"


def test_the_tail_shows_the_newest_readings_that_match(reading: Serving) -> None:
    condition = quote("source = 'mqtt_line' AND tag_name LIKE 'tag_1%' AND value > 0.5")
    with reading.client.events(f"/api/tail?filter={condition}") as stream:
        frames = list(itertools.islice(stream, 3))
    shown: list[dict[str, Any]] = [one for _, data in frames for one in data["readings"]]
    assert {one["source"] for one in shown} == {"mqtt_line"}
    assert all(one["tag_name"].startswith("tag_1") for one in shown)
    sequences = [one["sequence"] for one in shown]
    assert sequences == sorted(set(sequences))
    assert all(len(data["readings"]) <= 50 for _, data in frames)
    with reading.client.events("/api/tail") as stream:
        everything = next(iter(stream))[1]
    assert len(everything["readings"]) == 50
    assert everything["left_out"] + everything["not_looked_at"] > 0
    assert everything["readings"][0]["shard"].startswith(("mqtt-", "opcua-"))


def test_a_wrong_filter_is_refused_with_its_place(reading: Serving) -> None:
    found = reading.get(f"/api/tail?filter={quote('value > 1 AND colour = 3')}", 422)
    assert found["problems"][0]["where"] == "/query/filter:1:15"
    assert "colour" in found["detail"]


def test_rules_are_tried_on_the_newest_readings(reading: Serving) -> None:
    rules = [
        {"name": "mqtt", "condition": "source = 'mqtt_line'", "connectors": ["first"], "priority": 1},
        {"name": "one", "condition": "tag_name = 'tag_1'", "connectors": ["first"]},
    ]
    found = reading.post({"rules": rules}, "/api/rules/test")
    mqtt, one = found["rules"]
    assert mqtt["of"] == one["of"] == found["of"] > 500
    assert 0.4 < mqtt["matched"] / mqtt["of"] < 0.6
    assert 0.01 < one["matched"] / one["of"] < 0.03
    assert found["of"] - mqtt["matched"] - one["matched"] <= found["unmatched"] < found["of"] - mqtt["matched"]
    wrong = reading.post(
        {"rules": [*rules, {"name": "x", "condition": "value >", "connectors": ["a"]}]}, "/api/rules/test"
    )
    assert wrong["rules"][2]["error"].startswith("1:")


def test_the_pipeline_is_drawn_with_rates(reading: Serving) -> None:
    def drawn() -> dict[str, Any]:
        found = reading.get("/api/pipeline")
        return {node["id"]: node for node in found["nodes"]} | {(e["from"], e["to"]): e for e in found["edges"]}

    until(lambda: (drawn()["source:mqtt_line"]["rate"] or 0) > 300)
    nodes = drawn()
    assert nodes["source:mqtt_line"]["health"] == "ok"
    assert nodes["target:second"]["health"] == "ok"
    assert nodes["dead_letters"]["health"] == "idle"
    assert 600 < nodes["step:normalize"]["rate"] < 1400
    assert nodes["step:route", "target:second"]["rate"] > 600
