"""What is taken over, what is told, and that the result loads."""

import contextlib
import json
import re
import string
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from bifrost.cli import app
from bifrost.convert.draft import ConvertError, Ready, Section, named
from bifrost.convert.kinds import Converted, Kind, convert, kind_of
from bifrost.convert.telegraf import words
from bifrost.convert.telegraf_formats import path_of, time_format
from bifrost.convert.written import scalar, written
from config.loader import load
from config.models import Configuration
from config.yaml_nodes import construct

HERE = Path(__file__).parent
SAMPLES: list[tuple[str, Kind]] = [
    ("telegraf.conf", "telegraf"), ("kepware.csv", "kepware"), ("tb_gateway.json", "thingsboard"),
    ("tb_modbus.json", "thingsboard"), ("tb_opcua.json", "thingsboard"), ("tb_mqtt.json", "thingsboard"),
]  # fmt: skip
ENVIRONMENT = {
    "INFLUX_TOKEN": "word", "MQTT_USER": "word", "RABBIT_PASSWORD": "word", "BIFROST_SECRET_MQTT": "word",
    "BIFROST_SECRET_FILLER_PASSWORD": "word", "BIFROST_SECRET_KAFKA_SASL_PASSWORD": "word",
    "BIFROST_SECRET_POSTGRESQL_PASSWORD": "word", "BIFROST_SECRET_PRESS_PASSWORD": "word",
    "BIFROST_SECRET_TB_OPCUA_PASSWORD": "word",
}  # fmt: skip


def beside(name: str) -> str | None:
    path = HERE / name
    return path.read_text() if path.exists() else None


def sample(name: str) -> Converted:
    text = (HERE / name).read_text()
    kind = kind_of(text)
    assert kind is not None
    return convert(text, name, kind, beside)


def loaded(found: Converted, folder: Path) -> Configuration:
    file = folder / "gateway.yaml"
    file.write_text(found.text)
    return load(file)


def source(found: Converted, name: str) -> dict[str, Any]:
    return next(one for one in yaml.safe_load(found.text)["sources"] if one["name"] == name)


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize(("name", "kind"), SAMPLES)
def test_a_sample_is_recognized_and_loads_and_every_loss_is_a_comment(name: str, kind: Kind, tmp_path: Path) -> None:
    assert kind_of((HERE / name).read_text()) == kind
    found = sample(name)
    assert loaded(found, tmp_path).sources
    assert len(re.findall(r"^ *# not taken over: .+: .+", found.text, re.MULTILINE)) == len(found.lost)
    assert len(re.findall(r"^ *# to do: ", found.text, re.MULTILINE)) == len(found.to_do)


@pytest.mark.parametrize("name", [name for name, _ in SAMPLES])
def test_no_secret_gets_into_the_result(name: str) -> None:
    found = sample(name)
    assert "secret" in (HERE / name).read_text() or name in ("kepware.csv", "tb_modbus.json", "tb_mqtt.json")
    for line in [*found.text.splitlines(), *found.lost, *found.to_do]:
        assert not re.search(r"[\w-]+-secret\b", line), line


@pytest.mark.parametrize(
    "plugin",
    [
        'inputs.opcua]]\nendpoint = "opc.tcp://u:pw-secret@a:4840"\nnodes = [{ name = "a", id = "i=1" }]',
        'inputs.mqtt_consumer]]\nservers = ["tcp://u:pw-secret@b:1883"]\ntopics = ["a"]\ndata_format = "json"',
        'outputs.influxdb]]\nurls = ["http://u:pw-secret@c:8086", "http://u:pw-secret@d:8086"]\ndatabase = "x"',
        'outputs.amqp]]\nbrokers = ["amqp://u:pw-secret@c:5672/"]',
        'outputs.kafka]]\nbrokers = ["u:pw-secret@c:9092"]',
        'outputs.postgresql]]\nconnection = "postgres://u:pw-secret@c/db"',
        'outputs.nothing]]\nurl = "http://u:pw-secret@c"',
        'inputs.modbus]]\ncontroller = "tcp://u:pw-secret@c:502"\ncoils = [{ name = "a", address = [0] }]',
    ],
    ids=lambda plugin: plugin.partition("]")[0],
)
def test_no_password_of_a_url_gets_into_the_result(plugin: str) -> None:
    found = convert(f"[[{plugin}\n", "a.conf", "telegraf")
    assert "pw-secret" not in found.text + "".join(found.lost + found.to_do)
    assert found.lost or found.to_do


@pytest.mark.usefixtures("environment")
def test_telegraf_becomes_sources_targets_and_one_rule_for_all(tmp_path: Path) -> None:
    configuration = loaded(sample("telegraf.conf"), tmp_path)
    assert configuration.gateway == "hall-7"
    assert [(one.name, one.protocol) for one in configuration.sources] == [
        ("mixer", "modbus"), ("meters", "modbus"), ("filler", "opcua"), ("opcua-10-20-0-6", "opcua"),
        ("broker-example", "mqtt"), ("mqtt-127-0-0-1", "mqtt"),
    ]  # fmt: skip
    assert [one.type for one in configuration.targets.values()] == [
        "influxdb", "kafka", "timescaledb", "mqtt", "amqp", "console", "file", "google-pubsub",
    ]  # fmt: skip
    (rule,) = configuration.rules
    assert rule.connectors == (*configuration.targets,)


def test_telegraf_registers_keep_type_order_scale_and_unit() -> None:
    found = sample("telegraf.conf")
    by_name = {one["name"]: one for one in source(found, "mixer")["registers"]}
    assert by_name["torque"] == {
        "name": "torque", "kind": "holding", "address": 2, "type": "float32", "word_order": "little",
    }  # fmt: skip
    assert by_name["energy"] == {"name": "energy", "kind": "holding", "address": 10, "type": "uint32", "scale": 0.01}
    assert "scattered" not in by_name
    meters = source(found, "meters")
    assert (meters["endpoint"], meters["serial"]["parity"], meters["unit_id"]) == ("rtu:///dev/ttyUSB0", "even", 11)
    assert [one.get("unit_id") for one in meters["registers"]] == [None, None, 12]


def test_telegraf_metric_style_reads_bits_texts_and_bytes() -> None:
    found = convert(
        """
        [[inputs.modbus]]
          controller = "tcp://10.0.0.9:502"
          transmission_mode = "RTUoverTCP"
          configuration_type = "metric"
          [[inputs.modbus.metric]]
            slave_id = 4
            byte_order = "CDAB"
            fields = [
              { register = "coil", address = 0, name = "door", output = "BOOL" },
              { address = 9, name = "firmware", type = "STRING", length = 8 },
              { address = 20, name = "fault", type = "BIT", bit = 3 },
              { address = 21, name = "low", type = "UINT8L" },
              { address = 30, name = "big", type = "FLOAT64" },
              { address = 40, name = "big", type = "INT16", measurement = "other" },
            ]
        """,
        "a.conf",
        "telegraf",
    )
    assert found.lost == []
    (one,) = yaml.safe_load(found.text)["sources"]
    assert one["endpoint"] == "rtu+tcp://10.0.0.9:502"
    assert one["registers"] == [
        {"name": "door", "kind": "coil", "address": 0, "convert": "boolean"},
        {"name": "firmware", "kind": "holding", "address": 9, "type": "string", "length": 16},
        {"name": "fault", "kind": "holding", "address": 20, "bit": 3},
        {"name": "low", "kind": "holding", "address": 21, "type": "uint8_low"},
        {"name": "big", "kind": "holding", "address": 30, "type": "float64", "word_order": "little"},
        {"name": "other_big", "kind": "holding", "address": 40, "type": "int16", "metadata": {"measurement": "other"}},
    ]


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("plain", "plain"), ("$HOST", "${env:HOST}"), ("tcp://${HOST}:502", "tcp://${env:HOST}:502"),
        ("${A:-1}$B", "${env:A:-1}${env:B}"), ("${A:?needed}", "${env:A}"), ("@{vault:my_key}", "${secret:my_key}"),
        ("5 $", "5 $"),
    ],
)  # fmt: skip
def test_references_to_the_environment_become_ours(theirs: str, ours: str) -> None:
    assert words(theirs) == ours
    assert isinstance(words(theirs), Ready) == ("{" in ours)


def test_a_number_may_be_a_variable_without_quotes() -> None:
    text = '[[inputs.modbus]]\ncontroller = "file:///dev/ttyS0"\nbaud_rate = $BAUD # of the line\ncoils = [{name="a", address=[0]}]'
    found = convert(text, "a.conf", "telegraf")
    assert "baud_rate: ${env:BAUD}" in found.text
    assert (found.unseen, found.lost) == (["$BAUD is not set here"], [])


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("unix_ms", "ms"), ("2006-01-02T15:04:05Z07:00", "iso"), ("02.01.2006 15:04:05", "%d.%m.%Y %H:%M:%S"),
        ("Jan 02 2006 03:04:05.000 PM", "%b %d %Y %I:%M:%S.%f %p"), ("what?", None),
    ],
)  # fmt: skip
def test_time_formats_become_ours(theirs: str, ours: str | None) -> None:
    assert time_format(theirs) == ours


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [("a.b", "a.b"), ("a.0.v", "a[0].v"), ("a.#.v", "a[*].v"), ("a b.c", '["a b"].c'), ("a.#(x==1).v", None)],
)
def test_paths_into_json_become_ours(theirs: str, ours: str | None) -> None:
    assert path_of(theirs) == ours


def test_kepware_tells_each_line_that_is_no_register_and_takes_the_others() -> None:
    found = sample("kepware.csv")
    (one,) = yaml.safe_load(found.text)["sources"]
    assert [(r["name"], r["address"]) for r in one["registers"]] == [
        ("Boiler.Temperature", "400101"), ("Boiler.Level", "40103"), ("Boiler.On", "400110"), ("Boiler.Serial", "400120"),
        ("Boiler.Hex", "400200"),
    ]  # fmt: skip
    for line in (
        "line 3, Boiler.Level, clamp low",
        "line 7",
        "line 8",
        "line 9, Mixer.Speed: `DB10.DBW4` is no Modbus",
    ):
        assert sum(line in lost for lost in found.lost) == 1


def test_thingsboard_joins_the_units_of_one_address_and_browses_for_patterns() -> None:
    found = sample("tb_gateway.json")
    meters = source(found, "Meters")
    assert [(r["name"], r.get("unit_id"), r["equipment"]) for r in meters["registers"]][-2:] == [
        ("serial", None, "Meter 7"), ("voltage", 8, "Meter 8"),
    ]  # fmt: skip
    press = source(found, "Press")
    assert press["browse"] == {"include": ["Tank*/Level"]}
    assert press["nodes"][0]["path"] == "/Objects/Hall/Press 1/Temperature"


def test_what_the_loader_refuses_goes_and_is_told() -> None:
    found = convert(
        """
        [[inputs.opcua]]
          endpoint = "opc.tcp://a:4840"
          security_policy = "None"
          nodes = [ { name = "good", id = "ns=2;s=Good" }, { name = "bad", id = "nonsense" } ]
        [[inputs.opcua]]
          endpoint = "opc.tcp://b:4840"
          security_policy = "None"
          nodes = [ { name = "bad", id = "nonsense" } ]
        [[outputs.influxdb_v2]]
          organization = "acme"
        [[outputs.file]]
          files = ["/var/lib/metrics.out"]
          rotation_max_size = "many"
        """,
        "a.conf",
        "telegraf",
    )
    configuration = yaml.safe_load(found.text)
    assert [one["nodes"] for one in configuration["sources"]] == [[{"id": "ns=2;s=Good", "tag_name": "good"}]]
    assert [*configuration["gateway"]["cloud"]["connectors"]] == ["file"]
    assert "rotate_size" not in configuration["gateway"]["cloud"]["connectors"]["file"]
    assert any("nonsense" in line for line in found.lost)
    assert any("bucket" in line for line in found.lost)
    assert any("rotate_size" in line for line in found.lost)


@pytest.mark.parametrize(
    ("text", "kind", "said"),
    [
        ("a = = 1", "telegraf", "not TOML"),
        ("{,", "thingsboard", "line 1, column 2"),
        ("{}", "thingsboard", "neither"),
        (f"a = {'1' * 5000}", "telegraf", "not TOML"),
        (f'{{"a": {"1" * 5000}}}', "thingsboard", "not JSON"),
        ("a = " + "[" * 5000, "telegraf", "not TOML"),
        ("[" * 100_000, "thingsboard", "not JSON"),
    ],
    ids=lambda value: value[:12],
)
def test_a_file_that_is_something_else_is_told(text: str, kind: Kind, said: str) -> None:
    with pytest.raises(ConvertError, match=said):
        convert(text, "file", kind)


# ---------------------------------------------------------------------- nothing gets lost unsaid

KEYS = st.text(string.ascii_lowercase, min_size=4, max_size=12).map(lambda key: f"zz_{key}")
VALUES = st.one_of(
    st.integers(-(2**40), 2**40), st.booleans(), st.text(max_size=80), st.lists(st.integers(), max_size=3),
    st.dictionaries(KEYS, st.integers(), max_size=2),
)  # fmt: skip


def holders(value: Any) -> list[dict[str, Any]]:
    """Every mapping that keys can be put into: not those whose keys are free."""
    found = []
    if isinstance(value, dict):
        found.append(value)
        found += [one for key, inner in value.items() if "tags" not in key for one in holders(inner)]
    elif isinstance(value, list):
        found += [one for inner in value for one in holders(inner)]
    return found


@given(st.sampled_from(["tb_modbus.json", "tb_opcua.json", "tb_mqtt.json"]), st.integers(0), KEYS, VALUES)
def test_an_unknown_key_in_a_file_of_thingsboard_is_always_told(name: str, at: int, key: str, value: Any) -> None:
    values = json.loads((HERE / name).read_text())
    every = [one for one in holders(values) if "arguments" not in one]
    told_as_a_whole = json.dumps(every[at % len(every)])
    every[at % len(every)][key] = value
    found = convert(json.dumps(values), name, "thingsboard")
    # of these it is told that they are not taken over, with all that they hold
    dropped = ("setRelay", "multiply", '"bytes"', "[4:]", "oneWay", "${a} and ${b}")
    assert any(key in line for line in found.lost) or any(mark in told_as_a_whole for mark in dropped)


INPUT = """
[agent]
%s
[[inputs.modbus]]
controller = "tcp://10.0.0.1:502"
coils = [{ name = "a", address = [0] }]
%s
[[inputs.opcua]]
endpoint = "opc.tcp://a:4840"
nodes = [{ name = "a", id = "i=2258" }]
%s
[[inputs.mqtt_consumer]]
servers = ["tcp://a:1883"]
topics = ["a"]
data_format = "value"
%s
[[outputs.kafka]]
brokers = ["k:9092"]
%s
[[outputs.nothing]]
%s
"""


@given(st.integers(0, 5), KEYS, st.one_of(st.integers(-(2**60), 2**60), st.booleans(), st.text(string.printable)))
def test_an_unknown_key_in_a_file_of_telegraf_is_always_told(at: int, key: str, value: Any) -> None:
    lines = [""] * 6
    lines[at] = f"{key} = {json.dumps(value)}".replace("\\u007f", "\\u007F")
    found = convert(INPUT % tuple(lines), "a.conf", "telegraf")
    assert any(key in line for line in found.lost) or at == 5
    assert any("outputs.nothing[1]" in line for line in found.lost)


ODD = [None, True, -1, 3.5, 1e300, "", "${", "${A}", [], ["a"], [[1]], {}, {"a": 1}, "16int", "ns=9;i=x", 10**30]


def spots(value: Any) -> list[tuple[Any, Any]]:
    """Every place of a document, as its holder and key."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else []
    return [spot for key in keys for spot in [(value, key), *spots(value[key])]]


@given(
    st.sampled_from(["tb_modbus.json", "tb_opcua.json", "tb_mqtt.json", "tb_gateway.json"]),
    st.lists(st.tuples(st.integers(0, 500), st.sampled_from(ODD)), min_size=1, max_size=3),
)
def test_whatever_stands_in_a_file_it_is_converted_or_refused_in_words(
    name: str, changes: list[tuple[int, Any]]
) -> None:
    values = json.loads((HERE / name).read_text())
    for at, odd in changes:
        every = spots(values)
        holder, key = every[at % len(every)]
        holder[key] = json.loads(json.dumps(odd))
    found = None
    with contextlib.suppress(ConvertError):
        found = convert(json.dumps(values), name, "thingsboard", beside)
    text = "" if found is None else found.text
    assert isinstance(yaml.safe_load(text), dict | None)


def test_an_unknown_column_of_a_tag_export_is_told() -> None:
    text = "Tag Name,Address,Data Type,Colour\na,40001,Word,red\n"
    assert any("Colour" in line for line in convert(text, "a.csv", "kepware").lost)


# ---------------------------------------------------------------------- YAML


@given(st.one_of(st.text(), st.integers(), st.floats(allow_nan=False), st.booleans()))
def test_a_scalar_reads_as_what_it_is(value: Any) -> None:
    root = yaml.compose(f"- {scalar(value)}\n")
    assert isinstance(root, yaml.SequenceNode)
    found, problems = construct(root.value[0])
    assert problems == []
    assert found == value
    assert type(found) is type(value)


@given(st.text())
def test_a_comment_stays_one_line(text: str) -> None:
    section = Section(key=1)
    section.lost("what", text)
    assert yaml.safe_load(written(section)) == {"key": 1}


def test_names_are_names_and_unique() -> None:
    assert named("Kessel Süd/1", otherwise="device") == "Kessel-S-d-1"
    assert named("10.0.0.1", otherwise="modbus") == "modbus-10-0-0-1"
    assert named("a", ["a", "a-2"]) == "a-3"


# ---------------------------------------------------------------------- the verb


def test_the_verb_prints_and_tells_with_its_exit_code(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["convert", str(HERE / "kepware.csv")])
    assert done.exit_code == 1
    assert yaml.safe_load(done.stdout)["sources"]
    assert "4 not taken over, 2 to do" in done.stderr
    whole = tmp_path / "whole.conf"
    whole.write_text('[[inputs.modbus]]\ncontroller = "tcp://a:502"\ncoils = [{name = "a", address = [0]}]\n')
    assert CliRunner().invoke(app, ["convert", str(whole)]).exit_code == 0


def test_the_verb_writes_over_nothing_unless_it_is_told_to(tmp_path: Path) -> None:
    out = tmp_path / "gateway.yaml"
    out.write_text("mine")
    arguments = ["convert", str(HERE / "tb_modbus.json"), "-o", str(out)]
    done = CliRunner().invoke(app, arguments)
    assert (done.exit_code, out.read_text()) == (2, "mine")
    assert CliRunner().invoke(app, [*arguments, "--force"]).exit_code == 1
    assert "# From tb_modbus.json" in out.read_text()


def test_the_verb_says_what_a_file_is_not(tmp_path: Path) -> None:
    file = tmp_path / "what"
    file.write_text("hello")
    done = CliRunner().invoke(app, ["convert", str(file)])
    assert (done.exit_code, "--from" in done.stderr) == (2, True)
    done = CliRunner().invoke(app, ["convert", str(file), "--from", "telegraf"])
    assert (done.exit_code, "not TOML" in done.stderr) == (2, True)
