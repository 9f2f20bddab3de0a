"""What a test of a configuration says when something is not as it was expected."""

from pathlib import Path
from typing import Any

import pytest

from config.cases import Case, CasesFile
from config.models import Configuration
from connectors.sources.modbus import ModbusConfig
from connectors.sources.mqtt import MqttConfig
from connectors.targets.delta import DeltaConfig
from connectors.targets.file import FileConfig
from flows.cases import run

MQTT = MqttConfig.model_validate({"name": "lab", "endpoint": "mqtt://h", "subscriptions": [{"topic": "a/#"}]})
MODBUS = ModbusConfig.model_validate(
    {"name": "press", "endpoint": "tcp://h", "registers": [{"name": "speed", "address": 1, "type": "int16"}]}
)
CONFIG = Configuration(
    "gw",
    Path("data"),
    sources=(MQTT, MODBUS),
    targets={"f": FileConfig(name="f"), "d": DeltaConfig(name="d")},
    default=("f", "d"),
)


def said(given: dict[str, Any], expect: Any, *before: dict[str, Any]) -> list[str]:
    case = Case.model_validate({"name": "c", "given": given, "before": list(before), "expect": expect})
    return [".".join(map(str, one.path)) + ": " + one.message for one in run(CONFIG, case)]


def message(payload: Any) -> dict[str, Any]:
    return {"source": "lab", "topic": "a/b", "payload": payload}


SPEED = {"tag": "speed", "value": 12}


@pytest.mark.parametrize(
    ("expect", "found"),
    [
        ({"value": 12, "type": "INT64", "unit": "", "quality": "GOOD", "priority": 0, "rules": []}, []),
        ({"value": 12.0000000001}, []),
        ({"value": 13}, ["expect.value: expected 13, found 12"]),
        ({"value": True}, ["expect.value: expected true, found 12"]),
        ({"value": None}, ["expect.value: expected null, found 12"]),
        ({"unit": "bar"}, ['expect.unit: expected "bar", found ""']),
        ({"targets": ["d", "f"]}, []),
        ({"targets": ["f"]}, ['expect.targets: expected ["f"], found ["d", "f"]']),
        ({"rules": ["hot"]}, ['expect.rules: expected ["hot"], found []']),
        ({"time": "2026-01-01T00:00:00Z"}, ["expect.time: expected 2026-01-01T00:00:00+00:00, found null"]),
        ({"pattern": "*"}, ['expect.pattern: expected "*", found null']),
        ({"dead_letter": "x"}, ['expect.dead_letter: expected a reason with "x", found null']),
        ({"left_out": ""}, ['expect.left_out: expected a reason with "", found null']),
        ({"written": {"f": {"payload": {"value": 12, "tag_name": "speed"}}}}, []),
        ({"written": {"d": {"fields": {"value": 12, "quality": "GOOD"}}}}, []),
        ({"written": {"d": {"fields": {"value": 13}}}}, ["expect.written.d.fields.value: expected 13, found 12.0"]),
        ({"written": {"x": {}}}, ["expect.written.x: the target does not get the reading"]),
        ({"written": {"f": {"place": "x"}}}, ['expect.written.f.place: expected "x", found "data/files"']),
        ({"refused": {"f": "x"}}, ['expect.refused.f: expected a reason with "x", found null']),
        ([], ["expect: expected 0 readings, found 1 reading (speed)"]),
    ],
)
def test_what_differs_is_said_with_what_was_expected_and_what_was_found(expect: Any, found: list[str]) -> None:
    assert said(SPEED, expect) == found


def test_a_field_that_is_not_there_is_told_with_those_that_are() -> None:
    (found,) = said(SPEED, {"written": {"d": {"fields": {"valu": 1}}}})
    assert "found no such field; there are gateway, shard, sequence" in found


def test_a_dead_letter_that_nobody_expects_fails_the_test() -> None:
    (found,) = said(message("{"), {})
    assert found.startswith("expect: the reading is a dead letter: not JSON")
    assert said(message("{"), {"dead_letter": "not JSON", "targets": []}) == []


def test_each_reading_of_a_message_has_its_expectation() -> None:
    both = message({"x": 1, "y": 2})
    assert said(both, [{"value": 1}, {"value": 2}]) == []
    assert said(both, [{"value": 1}, {"value": 3}]) == ["expect.1.value: expected 3, found 2"]
    assert said(both, {"value": 1}) == ["expect: expected 1 reading, found 2 readings (x, y)"]


def test_the_same_bytes_come_at_every_run() -> None:
    line = (
        '{"gateway":"gw","shard":"modbus-1","sequence":0,"received_time":"2026-01-01T00:00:00.000000Z","source":"press",'
        '"protocol":"modbus","device_id":"1","address":"holding:1","tag_name":"speed","path":"speed/speed",'
        '"signal_type":"speed","type":"INT64","value":12,"quality":"GOOD"}'
    )
    assert said(SPEED, {"written": {"f": {"payload": line}}}) == []


def test_a_payload_is_text_json_base64_or_a_file(tmp_path: Path) -> None:
    file = tmp_path / "m.json"
    file.write_text('{"value": 5}')
    for payload in (
        {"payload": {"value": 5}},
        {"payload": "5"},
        {"payload_base64": "NQ=="},
        {"payload_file": str(file)},
    ):
        assert said({"source": "lab", "topic": "a/b", **payload}, {"value": 5}) == []
    (found,) = said({"source": "lab", "topic": "a/b", "payload_file": str(tmp_path / "no")}, {})
    assert "No such file" in found


def test_what_is_not_a_number_is_expected_as_yaml_writes_it() -> None:
    assert said({"tag": "speed", "value": float("nan")}, {"value": float("nan")}) == []
    assert said({"tag": "speed", "value": float("inf")}, {"value": float("-inf")}) == [
        'expect.value: expected -Infinity, found "Infinity"'
    ]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"tag": "nothing", "value": 1}, "no source reads `nothing`"),
        (
            {"source": "nobody", "tag": "speed", "value": 1},
            "there is no source `nobody`; the configuration has: lab, press",
        ),
        ({"topic": "a/b", "payload": 1}, "name the `source`; the configuration has: lab, press"),
        ({"source": "press", "topic": "a/b", "payload": 1}, "a tag and a value"),
        ({"source": "lab", "registers": {"first": 1, "words": [1]}}, "a topic and a payload"),
    ],
)
def test_what_cannot_come_in_fails_the_test_in_words(given: dict[str, Any], words: str) -> None:
    (found,) = said(given, {})
    assert found.startswith("given: ")
    assert words in found


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"tag": "x"},
        {"value": 1},
        {"topic": "a"},
        {"topic": "a", "payload": 1, "payload_base64": "NQ=="},
        {"topic": "a", "payload_base64": "?"},
        {"tag": "x", "value": 1, "topic": "a", "payload": 1},
    ],
)
def test_what_says_too_much_or_too_little_is_no_input(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"needs one of|goes with|has one of|not base64"):
        Case.model_validate({"name": "c", "given": given, "expect": {}})


def test_every_key_of_a_file_of_tests_has_a_description() -> None:
    schema = CasesFile.model_json_schema()
    lacking = [
        f"{name}.{key}"
        for name, model in {**schema["$defs"], "CasesFile": schema}.items()
        for key, field in model.get("properties", {}).items()
        if "description" not in field
    ]
    assert lacking == []
