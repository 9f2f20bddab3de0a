"""Each step of `flows.explain`, by itself."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from config.loader import load
from config.models import Configuration
from config.reference import EXAMPLES
from config.secrets import variable
from connectors.dry_run import Captured, CapturedError, Message, Registers, Sample
from connectors.settings import SourceConfig
from connectors.sources.modbus import ModbusConfig
from connectors.sources.mqtt import MqttConfig
from connectors.sources.opcua import OpcUaConfig
from connectors.targets.console import ConsoleConfig
from connectors.targets.file import FileConfig
from connectors.targets.kafka import KafkaConfig
from connectors.wire.sparkplug_values import DataType
from flows.explain import Explanation, Reading, explain, plain, sources_of
from normalization.reading import Columns, TagTable
from normalization.rules import Rule
from tests.connectors.sources.sparkplug_bench import bdseq, metric, payload

NOW = 1_772_600_767_000_000
MQTT = MqttConfig.model_validate(
    {
        "name": "lab",
        "endpoint": "mqtt://h",
        "subscriptions": [{"topic": "a/#"}, {"topic": "spBv1.0/#", "format": "sparkplug"}],
        "tags": [
            {"match": "a/exact", "unit": "bar"},
            {"match": "a/{area}/{tag_name}", "report": {"swinging_door": 0.1, "max_interval": "1h"}},
        ],
    }
)
MODBUS = ModbusConfig.model_validate(
    {
        "name": "press",
        "endpoint": "tcp://h",
        "registers": [
            {"name": "speed", "address": 10, "type": "float32"},
            {"name": "ready", "address": 3, "type": "bit", "kind": "coil"},
            {"name": "digits", "address": 20, "type": "bcd16"},
        ],
    }
)
OPCUA = OpcUaConfig.model_validate(
    {"name": "plc", "endpoint": "opc.tcp://h", "nodes": [{"id": "ns=2;s=Heat", "unit": "°C", "tag_name": "heat"}]}
)
CONFIG = Configuration(
    "gw",
    Path("data"),
    sources=(MQTT, MODBUS, OPCUA),
    targets={"c": ConsoleConfig(name="c"), "f": FileConfig(name="f")},
    rules=(Rule("hot", "value > 5 AND unit = '°C'", ("c",), 7), Rule("bad", "quality = 'BAD'", ("f",), 2)),
    default=("f",),
)


def told(source: SourceConfig, *captured: Captured, config: Configuration = CONFIG) -> Explanation:
    return explain(config, source, captured, TagTable(), NOW)


def sample(tag: str, value: Any, quality: str | int = "", type: str = "") -> tuple[SourceConfig, Sample]:  # noqa: A002
    ((source, row),) = sources_of(CONFIG, tag)
    return source, Sample(row, value, quality, NOW, type)


def only(explanation: Explanation) -> Reading:
    (reading,) = explanation.readings
    return reading


def test_a_rule_tells_the_values_that_decided_and_what_it_gives() -> None:
    reading = only(told(*sample("heat", 6.5)))
    hot, bad = reading.rules
    assert (hot.matched, hot.values, hot.priority) == (True, {"value": 6.5, "unit": "°C"}, 7)
    assert (bad.matched, bad.values) == (False, {"quality": "GOOD"})
    assert [(one.name, one.because) for one in reading.targets] == [("c", ["rule hot"])]
    assert reading.normalized["priority"] == 7


def test_a_source_with_a_table_of_its_own_says_so() -> None:
    config = replace(CONFIG, source_targets={"plc": "f"})
    reading = only(explain(config, *_listed(sample("heat", 6.5)), TagTable(), NOW))
    assert {one.name: one.because for one in reading.targets} == {"c": ["rule hot"], "f": ["the source's own table"]}


def _listed(one: tuple[SourceConfig, Sample]) -> tuple[SourceConfig, list[Captured]]:
    return one[0], [one[1]]


def test_what_no_rule_matches_goes_to_the_default_or_is_left_out() -> None:
    source, one = sample("heat", 1.5)
    assert [(t.name, t.because) for t in only(told(source, one)).targets] == [("f", ["default_connector"])]
    without = only(told(source, one, config=replace(CONFIG, default=())))
    assert (without.targets, without.left_out) == ([], "no rule matches, and there is no default_connector")


@pytest.mark.parametrize(
    ("said", "quality", "status"),
    [
        ("", "GOOD", None),
        ("bad", "BAD", 0x80000000),
        ("BadNoCommunication", "STALE", 0x80310000),
        (0x40000000, "UNCERTAIN", 0x40000000),
    ],
)
def test_an_opcua_status_is_a_word_a_name_or_a_number(said: str | int, quality: str, status: int | None) -> None:
    reading = only(told(*sample("ns=2;s=Heat", 1.5, said)))
    assert reading.normalized["quality"] == quality
    assert reading.normalized.get("status") in ({status} if status else {None, 0})


@pytest.mark.parametrize(
    ("value", "type_", "kind", "seen"),
    [
        (True, "", "BOOLEAN", True),
        (7, "UInt64", "UINT64", 7),
        (1.5, "Float", "DOUBLE", 1.5),
        ("on", "", "TEXT", "on"),
        ([1, 2], "Int16", "JSON", [1, 2]),
        (None, "", "NULL", None),
    ],
)
def test_opcua_values_have_the_types_that_the_server_gives(value: Any, type_: str, kind: str, seen: Any) -> None:
    normalized = only(told(*sample("heat", value, type=type_))).normalized
    assert (normalized["type"], normalized["value"]) == (kind, seen)


def test_an_opcua_value_that_is_none_of_its_type_is_refused_in_words() -> None:
    for value, type_, said in (
        ("x", "Float", "'x' is no Float"),
        (1, "Nothing", "`Nothing` is no built-in type"),
        (70_000, "UInt16", "70000 is no UInt16"),
        ({"a": 1}, "", "is no value of a built-in type"),
    ):
        with pytest.raises(CapturedError, match=said):
            told(*sample("heat", value, type=type_))
    with pytest.raises(CapturedError, match="`BadNews` is no status"):
        told(*sample("heat", 1, "BadNews"))


def test_registers_are_read_as_the_reader_reads_them() -> None:
    assert only(told(MODBUS, Registers(9, (0, 0x41A0, 0, 0)))).normalized["value"] == 20.0
    assert only(told(MODBUS, Registers(0, (0, 0, 0, 1), "coil"))).normalized["value"] is True
    assert "not a number in BCD" in only(told(MODBUS, Registers(20, (0xFFFF,)))).dead_letter


def test_registers_without_a_whole_value_are_refused_in_words() -> None:
    for captured in (Registers(10, (1,)), Registers(10, (1, 2), unit_id=9), Registers(10, (1, 2), "input")):
        with pytest.raises(CapturedError, match="no value of the source lies in"):
            told(MODBUS, captured)


def test_the_pattern_that_took_a_tag_is_told() -> None:
    assert only(told(MQTT, Message("a/exact", b"1"))).path.pattern == "a/exact"
    assert only(told(MQTT, Message("a/x/y", b"1"))).path.pattern == "a/{area}/{tag_name}"
    assert only(told(MQTT, Message("a/x/y/z/é", b"1"))).path.pattern is None
    assert only(told(*sample("a/exact", 1))).path.pattern == "a/exact"


def test_a_topic_that_nothing_subscribes_to_is_refused_in_words() -> None:
    with pytest.raises(CapturedError, match="nothing subscribes to `b`; the source has a/#, spBv1.0/#"):
        told(MQTT, Message("b", b"1"))


def test_sparkplug_data_needs_its_birth_and_without_it_becomes_a_dead_letter() -> None:
    birth = Message("spBv1.0/G/NBIRTH/N", payload(0, bdseq(0), metric(DataType.INT32, 1, "up", 1)))
    data = Message("spBv1.0/G/NDATA/N", payload(1, metric(DataType.INT32, 5, alias=1)))
    known = only(told(MQTT, birth, data))
    assert (known.normalized["tag_name"], known.normalized["value"], known.dead_letter) == ("up", 5, "")
    assert "alias 1 has no birth" in only(told(MQTT, data)).dead_letter


def test_a_sparkplug_metric_is_a_tag_too() -> None:
    for source, row in sources_of(CONFIG, "G/N/D/D/temp"):
        reading = only(told(source, Sample(row, 2.5)))
        assert (reading.raw["device_id"], reading.raw["address"], reading.raw["tag_name"]) == (
            "G/N/D",
            "D/temp",
            "temp",
        )
        assert reading.raw["protocol"] == "sparkplug"


def test_what_a_swinging_door_held_back_is_explained_with_what_lets_it_go() -> None:
    def at(second: int, value: float) -> Message:
        return Message("a/x/y", f'{{"value": {value}, "timestamp": {1_772_600_000 + second}}}'.encode())

    held = only(told(MQTT, at(0, 0.0), at(1, 1.0)))
    assert held.left_out == "report by exception: swinging_door"
    released, now = told(MQTT, at(0, 0.0), at(1, 1.0), at(2, 0.0)).readings
    assert (released.released, released.normalized["value"], len(released.targets)) == (True, 1, 1)
    assert (now.released, now.left_out) == (False, "report by exception: swinging_door")


def test_a_target_that_refuses_says_why_and_the_others_are_not_touched() -> None:
    kafka = KafkaConfig.model_validate({"endpoint": "h:9092", "provider_config": {"topic": "{unit}"}})
    config = replace(CONFIG, targets={"k": kafka, "f": FileConfig(name="f")}, default=("k", "f"), rules=())
    refusing, fine = only(told(*sample("speed", 1.5), config=config)).targets
    assert (refusing.name, refusing.written, "no name of a topic" in refusing.refused) == ("k", [], True)
    assert (fine.name, fine.refused, len(fine.written)) == ("f", "", 1)


def test_a_source_in_use_is_not_disturbed() -> None:
    told(MQTT, Message("a/exact", b"1"))
    sources_of(CONFIG, "a/exact")
    assert MQTT.matcher.taken is None


def test_readings_that_a_reader_has_made_are_explained_as_they_are() -> None:
    tags, rows = TagTable(), Columns()
    rows.add(tags.intern(OPCUA.named_rows()[0]), 6.5)
    facts = rows.to_batch(np.array([NOW], np.int64), 0)
    reading = only(explain(CONFIG, OPCUA, [facts], tags, NOW))
    assert [one.name for one in reading.targets] == ["c"]


def test_a_protocol_that_another_package_brings_is_explained_by_tag_and_value() -> None:
    own = SourceConfig(name="own", protocol="mine")
    config = replace(CONFIG, sources=(own,))
    ((source, row),) = sources_of(config, "t1")
    reading = only(told(source, Sample(row, 3, "bad"), config=config))
    assert (reading.normalized["tag_name"], reading.normalized["quality"]) == ("t1", "BAD")
    with pytest.raises(CapturedError, match="a tag and a value"):
        told(source, Message("a", b""), config=config)


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_target_says_what_it_would_be_given(
    file: Path, monkeypatch: pytest.MonkeyPatch, outcome: Callable[[Configuration], Explanation]
) -> None:
    text = file.read_text(encoding="utf-8")
    for name in re.findall(r"\$\{env:(\w+)\}", text):
        monkeypatch.setenv(name, "1234567890")
    for name in re.findall(r"\$\{secret:([\w.-]+)\}", text):
        monkeypatch.setenv(variable(name), "1234567890")
    loaded = load(file)
    config = replace(
        loaded, sources=(*loaded.sources, OPCUA), rules=(), default=tuple(loaded.targets), source_targets={}
    )
    found = outcome(config)
    targets = only(found).targets
    assert [target.name for target in targets] == list(loaded.targets)
    for target in targets:
        assert target.refused == ""
        assert all(one.place and (one.payload or one.fields) for one in target.written), target
        assert target.written
    plain(found)


@pytest.fixture
def outcome() -> Callable[[Configuration], Explanation]:
    source, one = sample("heat", 6.5)
    return lambda config: explain(config, source, [one], TagTable(), NOW)


@pytest.mark.parametrize("layout", ["narrow", "wide"])
def test_tables_are_shown_in_the_layout_that_is_configured(layout: str) -> None:
    from connectors.targets.delta import DeltaConfig
    from connectors.targets.timescaledb import TimescaleConfig
    from connectors.targets.zerobus import ZeroBusConfig

    own = {"layout": layout, "table": "a.b.c"}
    targets = {
        "delta": DeltaConfig.model_validate({"layout": layout}),
        "zerobus": ZeroBusConfig.model_validate({"provider_config": own}),
        "timescaledb": TimescaleConfig.model_validate(
            {"endpoint": "postgresql://h:5432/d", "provider_config": {"layout": layout}}
        ),
    }
    config = replace(CONFIG, targets=targets, default=tuple(targets), rules=())
    for target in only(told(*sample("heat", 6.5), config=config)).targets:
        fields = target.written[0].fields
        columns = fields.get("columns", list(fields)) if layout == "wide" else list(fields)
        assert ("heat" in columns) == (layout == "wide"), target
        assert ("value" in columns) == (layout == "narrow"), target
