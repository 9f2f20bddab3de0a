import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.settings import SourceConfig
from normalization.normalizer import NotNormalizableError, normalize_tag
from normalization.path import DEFAULT_TEMPLATE, level, path_template, signal_type
from normalization.reading import Tag

SEEDS = [
    (
        {"name": "plant1_opcua", "protocol": "opcua", "site": "plant1", "area": "production", "line": "line1"}
        | {"tags": [{"match": "ns=2;s=Reactor.Temp", "equipment": "plc1", "tag_name": "reactor_temp", "unit": "°C"}]},
        ("ns=2;s=Reactor.Temp", "Temp"),
        "plant1/production/line1/plc1/temperature/reactor_temp",
    ),
    (
        {"name": "plant1_mqtt", "protocol": "mqtt", "site": "plant1", "area": "production", "line": "line2"}
        | {"tags": [{"match": "robots/*", "equipment": "robot1"}]},
        ("robots/1/conveyor", "conveyor_speed"),
        "plant1/production/line2/robot1/speed/conveyor_speed",
    ),
    (
        {"name": "site2_modbus", "protocol": "modbus", "site": "site2", "equipment": "boiler1"}
        | {"tags": [{"match": "steam_pressure", "area": "utilities", "unit": "bar", "scale": 0.1}]},
        ("unit 1 holding 40001", "steam_pressure"),
        "site2/utilities/boiler1/pressure/steam_pressure",
    ),
]


@pytest.mark.parametrize(("source", "tag", "path"), SEEDS, ids=[path for *_, path in SEEDS])
def test_the_example_paths_of_the_seeds(source: Any, tag: Any, path: Any) -> None:
    address, name = tag
    normalized = normalize_tag(SourceConfig(**source).tag("device", address, name), DEFAULT_TEMPLATE)
    assert normalized.path == path
    assert path.split("/")[-2:] == [normalized.signal_type, normalized.tag_name]


def tag(name: Any = "t", *, mapping: Any = "{}", **more: Any) -> Any:
    return Tag("src", "opcua", "dev", "addr", name, mapping=mapping, **more)


def test_the_tags_mapping_wins_over_the_source_and_a_sources_template_over_the_general_one() -> None:
    source = SourceConfig(
        name="s", protocol="opcua", site="a", line="l", path_template="{site}/{line}-{equipment}/{tag_name}",
        tags=[{"match": "x", "site": "b", "equipment": "e"}],
    )  # fmt: skip
    normalized = normalize_tag(source.tag("d", "x", "x"), DEFAULT_TEMPLATE)
    assert (normalized.path, normalized.site, normalized.equipment) == ("b/l-e/x", "b", "e")
    assert normalize_tag(source.tag("d", "y", "y"), DEFAULT_TEMPLATE).path == "a/y"


def test_a_mapped_signal_type_wins_over_unit_and_name() -> None:
    normalized = normalize_tag(tag("temp", unit="°C", mapping='{"signal_type": "setpoint"}'), DEFAULT_TEMPLATE)
    assert normalized.path == "setpoint/temp"


def test_metadata_and_identity_can_be_part_of_a_path() -> None:
    found = normalize_tag(
        tag(metadata='{"batch": 7, "x": [1]}'), "{source}/{device_id}/{metadata.batch}/{metadata.x}/{tag_name}"
    )
    assert found.path == "src/dev/7/t"


def test_a_tag_without_a_name_is_known_by_its_address() -> None:
    assert normalize_tag(tag(" "), "{site}/{tag_name}").path == "addr"
    nameless = Tag("s", "opcua", "d", "", "")
    with pytest.raises(NotNormalizableError, match="neither a name nor an address"):
        normalize_tag(nameless, DEFAULT_TEMPLATE)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (tag(mapping="[]"), "mapping is not a JSON object"),
        (tag(mapping="{"), "mapping is not a JSON object"),
        (tag(mapping="[" * 100_000), "mapping is not a JSON object"),
        (tag(mapping='{"site": 5}'), "site is not a text"),
        (tag(mapping='{"template": "{nope}"}'), "`{nope}` is not known"),
        (tag(mapping='{"template": "{site}"}'), "no placeholder"),
        (tag(mapping='{"template": "{metadata.a}/x"}', metadata="7"), "metadata is not a JSON object"),
    ],
)
def test_a_tag_that_cannot_be_normalized_says_why(bad: Any, reason: Any) -> None:
    with pytest.raises(NotNormalizableError, match=reason):
        normalize_tag(bad, DEFAULT_TEMPLATE)


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("", "empty"),
        ("///", "empty"),
        ("{site}/{tag}", "`{tag}` is not known"),
        ("{metadata.}", "not known"),
        ("{site", "brace without its other"),
        ("a#b/{site}", "cannot hold"),
        ("{site} {line}", "cannot hold"),
    ],
)
def test_a_wrong_template_is_refused(template: Any, problem: Any) -> None:
    with pytest.raises(ValueError, match=problem):
        path_template(template)


def test_a_level_with_several_placeholders_goes_when_one_has_no_value() -> None:
    template = path_template("plant/{line}-{equipment}/{tag_name}")
    assert template.fill({"line": "1", "equipment": "2", "tag_name": "x"}) == "plant/1-2/x"
    assert template.fill({"line": "1", "tag_name": "x"}) == "plant/x"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Motor 1", "Motor_1"),
        ("a/b+c#d", "a_b_c_d"),
        ("  (Temp)  ", "Temp"),
        ("100%", "100"),
        ("50 % rel.", "50_rel"),
        ("..", "_"),
        ("///", "_"),
        ("_x_", "_x_"),
        ("v1.2", "v1.2"),
        ("a\x00\nb", "a_b"),
        ("Kühlwasser-Zulauf", "Kühlwasser-Zulauf"),
        ("温度", "温度"),
        ("नमस्ते", "नमस्ते"),
        ("e\u0301", "é"),
        ("zero\u200bwidth", "zero_width"),
        ("O'Brien", "O_Brien"),
    ],
)
def test_characters_that_a_path_cannot_hold(text: Any, expected: Any) -> None:
    assert level(text) == expected


@given(st.text(max_size=400))
def test_a_level_is_sound_whatever_it_is_made_of(text: Any) -> None:
    out = level(text)
    assert out
    assert level(out) == out
    assert len(out.encode()) <= 255
    assert unicodedata.is_normalized("NFC", out)
    assert not set(out) & set("/+#$%\\\"'`*?<>|:;, \t\n\0")
    assert out[0] != "." != out[-1]


@given(st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=60))
def test_letters_and_digits_of_any_script_stay(text: Any) -> None:
    assert level(text) == unicodedata.normalize("NFC", text)


def test_long_levels_stay_distinct() -> None:
    a, b = level("x" * 300 + "a"), level("x" * 300 + "b")
    assert a != b
    assert len(a) == len(b) == 255


@pytest.mark.parametrize(
    ("unit", "name", "kind"),
    [
        ("°C", "", "temperature"),
        ("º F", "", "temperature"),
        ("K", "", "temperature"),
        ("bar", "", "pressure"),
        ("MBAR", "", "pressure"),
        ("rpm", "", "speed"),
        ("m/s", "", "speed"),
        ("μS/cm", "", "conductivity"),
        ("m³/h", "", "flow"),
        ("kWh", "", "energy"),
        ("mW", "", "power"),
        ("bar", "reactor_temp", "pressure"),
        ("", "reactor_temp", "temperature"),
        ("?", "conveyor-speed", "speed"),
        ("", "ReactorTemp1", "temperature"),
        ("", "pump.motorRPM", "speed"),
        ("", "pump_temp_alarm", "alarm"),
        ("", "HTTPStatus", "state"),
        ("", "boiler/steam pressure", "pressure"),
        ("", "Füllstand", "level"),
        ("", "template", ""),
        ("", "TIC101", ""),
        ("", "", ""),
    ],
)
def test_kind_of_signal(unit: Any, name: Any, kind: Any) -> None:
    assert signal_type(unit, name) == kind


@given(st.text(), st.text())
def test_any_unit_and_name_have_a_kind_of_signal_that_a_path_can_hold(unit: Any, name: Any) -> None:
    kind = signal_type(unit, name)
    assert not kind or level(kind) == kind
