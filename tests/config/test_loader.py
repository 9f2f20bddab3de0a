"""What a configuration means, and every kind of problem with its place."""

import time
from pathlib import Path

import pytest

from config.loader import load, machine_name
from config.yaml_nodes import ProblemsError
from connectors.sources.modbus import ModbusConfig
from connectors.sources.mqtt import MqttConfig
from connectors.sources.opcua import OpcUaConfig
from connectors.targets.mqtt import MqttTargetConfig
from tests.contract.counterpart import target_types
from tests.loaded_config import Load, Problems

OPCUA = "{name: plc, protocol: opcua, endpoint: opc.tcp://h}"


def test_an_empty_file_is_a_gateway_with_the_embedded_delta_table(loaded: Load) -> None:
    for text in ("", "# nothing\n", "{}"):
        found = loaded(text)
        assert found.gateway == machine_name()
        assert found.sources == ()
        assert {name: (t.type, t.endpoint) for name, t in found.targets.items()} == {"delta": ("delta", "data/delta")}
        assert found.default == ("delta",)
        assert (found.listen, found.port, found.log_level, found.directory) == ("127.0.0.1", 8080, "info", Path("data"))
        assert found.warnings == ()


def test_the_embedded_table_lies_in_the_directory_of_the_gateway(loaded: Load) -> None:
    found = loaded("gateway: {directory: store}\n")
    assert found.directory == Path("store")
    assert found.targets["delta"].endpoint == "store/delta"


def test_every_problem_is_reported_at_once(problems: Problems) -> None:
    text = """\
gateway:
  prt: 8080
  port: 80800
  log_level: inf
  cloud:
    batch_size: 0
    default_connector: alrams
    connectors:
      lake: {type: delta, tabel: x}
      alarms: {type: flie}
      a b: {type: console, format: jsnl}
      empty:
sources:
  - name: broker
    protocol: mqtt
    endpoint: mqtt://h
    timout: 4
    qos: 1
    subscriptions:
      - topc: a
      - {topic: b, qos: 3}
  - {name: x, protocol: mqt}
  - {name: y}
  - 7
  - name: broker
    protocol: opcua
    endpoint: http://h
    password: [1]
    browse: {max_depth: many}
    path_template: "{sit}/a"
routing_rules:
  - name: hot
    condition: tag_name=temperature AND valu > 3
    connectors: [lake, lak]
  - name: twice
    condition: |
      quality = 'BAD'
        AND vlue = 3
    connectors: lake
    priority: 99999999999
normalization: {enabled: false}
web_ui: {port: 80}
"""
    found = problems(text)
    expected = [
        ("2:3: gateway.prt", "there is no key `prt`; did you mean `port`?"),
        ("3:9: gateway.port", "should be less than or equal to 65535, not `80800`"),
        ("4:14: gateway.log_level", "should be 'debug', 'info', 'warning' or 'error', not `inf`; did you mean `info`?"),
        ("6:17: gateway.cloud.batch_size", "should be greater than or equal to 1, not `0`"),
        ("7:24: gateway.cloud.default_connector", "there is no connector `alrams`; did you mean `alarms`?"),
        ("9:27: gateway.cloud.connectors.lake.tabel", "there is no key `tabel`; did you mean `table`?"),
        (
            "10:22: gateway.cloud.connectors.alarms.type",
            f"`flie` is not known; there are {', '.join(sorted(target_types()))}; did you mean `file`?",
        ),
        (
            "11:12: gateway.cloud.connectors.a b",
            "should be up to 63 letters, digits, `_`, `-` and `.`, and begin with a letter or digit",
        ),
        (
            "11:36: gateway.cloud.connectors.a b.format",
            "should be 'table' or 'jsonl', not `jsnl`; did you mean `jsonl`?",
        ),
        ("12:13: gateway.cloud.connectors.empty", "is empty; write a value or remove the key"),
        ("14:11: sources.0.name", "two sources are called `broker`"),
        ("17:5: sources.0.timout", "there is no key `timout`; did you mean `connect_timeout`?"),
        ("18:5: sources.0.qos", "there is no key `qos`; it belongs into `subscriptions`"),
        ("20:9: sources.0.subscriptions.0.topc", "there is no key `topc`; did you mean `topic`?"),
        (
            "20:9: sources.0.subscriptions.0.topic",
            "is needed: topic filter; `+` stands for one level, `#` for the rest",
        ),
        ("21:25: sources.0.subscriptions.1.qos", "should be 0, 1 or 2, not `3`"),
        ("22:25: sources.1.protocol", "`mqt` is not known; there are modbus, mqtt, opcua; did you mean `mqtt`?"),
        ("23:5: sources.2.protocol", "is needed: one of modbus, mqtt, opcua"),
        ("24:5: sources.3", "should be a mapping of keys, not `7`"),
        ("25:11: sources.4.name", "two sources are called `broker`"),
        ("27:15: sources.4.endpoint", "`http://h` is not the URL of an OPC UA server; write opc.tcp://HOST:PORT/PATH"),
        ("28:15: sources.4.password", "should be a valid string"),
        (
            "29:25: sources.4.browse.max_depth",
            "should be a valid integer, unable to parse string as an integer, not `many`",
        ),
        ("30:20: sources.4.path_template", "path template `{sit}/a`: `{sit}` is not known; known are {site} {area}"),
        ("33:41: routing_rules.0.condition", "there is no column `valu`; did you mean `value`?"),
        ("34:24: routing_rules.0.connectors.1", "there is no connector `lak`; did you mean `lake`?"),
        ("38:13: routing_rules.1.condition", "there is no column `vlue`; did you mean `value`?"),
        ("39:17: routing_rules.1.connectors", "should be a list, each item with a dash, not `lake`"),
        ("40:15: routing_rules.1.priority", "should be less than 2147483648, not `99999999999`"),
        ("41:26: normalization.enabled", "every reading is normalized; remove this key or set it to true"),
        ("42:16: web_ui.port", "differs from gateway.port (80800); they are one setting, keep one"),
    ]
    wanted = [f"gateway.yaml:{place}: {message}" for place, message in expected]
    assert [line[: len(want)] for line, want in zip(found, wanted, strict=True)] == wanted


def test_two_rules_of_one_name_are_told_at_both_places(problems: Problems) -> None:
    rules = "".join(f"  - {{name: hot, condition: value > {limit}, connectors: [delta]}}\n" for limit in (1, 2))
    assert problems(f"routing_rules:\n{rules}") == [
        "gateway.yaml:2:12: routing_rules.0.name: two rules are called `hot`",
        "gateway.yaml:3:12: routing_rules.1.name: two rules are called `hot`",
    ]


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        (
            "sources: {plc: {protocol: opcua}}",
            "1:10: sources: should be a list, each item with a dash",
        ),
        ("sources: [{name: a, protocol: opcua}]", "1:11: sources.0.endpoint: is needed: URL of the server"),
        ("sources: [{name: a b, protocol: mqtt, endpoint: mqtt://h}]", "1:18: sources.0.name: should be up to 63"),
        (
            "sources: [{name: a, protocol: mqtt, endpoint: mqtt://h, user: x}]",
            "1:57: sources.0.user: there is no key `user`; did you mean `username`?",
        ),
        (
            "sources: [{name: a, protocol: modbus, url: tcp://h, registers: [{address: 1}]}]",
            "1:11: sources.0.endpoint: is needed",
        ),
        (
            "sources: [{name: a, protocol: mqtt, endpoint: mqtt://h, mqtt: {topic: x}}]",
            "1:57: sources.0.mqtt: there is no key `mqtt`; known are",
        ),
        (
            "sources: [{name: a, protocol: opcua, endpoint: opc.tcp://h, timeout: -5s}]",
            "1:70: sources.0.timeout: `-5s` is not a duration; write a number with a unit",
        ),
        (
            "sources: [{name: a, protocol: opcua, endpoint: opc.tcp://h, timeout: .inf}]",
            "1:70: sources.0.timeout: should be a finite number",
        ),
        (
            "sources: [{name: a, protocol: opcua, endpoint: opc.tcp://h, max_message_size: 1QB}]",
            "1:79: sources.0.max_message_size: `1QB` is not a size",
        ),
        (
            "sources: [{name: a, protocol: opcua, endpoint: opc.tcp://h, nodes: [{id: 'ns=2;x=5'}]}]",
            "1:74: sources.0.nodes.0.id: ",
        ),
        (
            "sources: [{name: a, protocol: modbus, endpoint: tcp://h}]",
            "1:11: sources.0: a Modbus source needs `registers` or `registers_file`",
        ),
        ("gateway: {port: eighty}", "1:17: gateway.port: should be a valid integer"),
        ("gateway: {name: 'a/b'}", "1:17: gateway.name: should be up to 63"),
        ("gateway: {port: 80}\nweb_ui: {port: 81}", "2:16: web_ui.port: differs from gateway.port (80)"),
        (
            "gateway: {log_level: info}\nconnector: {log_level: DEBUG}",
            "2:24: connector.log_level: differs from gateway.log_level (info); they are one setting, keep one",
        ),
        (
            "gateway: {directory: a, cloud: {buffer: {persistent_path: b}}}",
            "1:59: gateway.cloud.buffer.persistent_path: differs from gateway.directory (a)",
        ),
        ("normalization: {path_template: '{site'}", "1:32: normalization.path_template: path template `{site`"),
        (
            "gateway: {cloud: {connectors: {z: {type: zerobus, table: a.b.c}}}}",
            "1:35: gateway.cloud.connectors.z.provider_config: is needed",
        ),
        (
            """gateway: {cloud: {connectors: {c: {type: console, enabled: false}}}}
routing_rules: [{name: r, condition: value > 1, connectors: [c]}]""",
            "2:62: routing_rules.0.connectors.0: the connector `c` is not enabled; enable it, or take it out here",
        ),
        (
            "gateway: {cloud: {connectors: {a: {type: console}, b: {type: file}}}}",
            "1:31: gateway.cloud.connectors: 2 connectors, and nothing says which readings go where",
        ),
        (
            f"sources: [{OPCUA}]\nzerobus: {{source_targets: {{pls: {{catalog: c, schema: s, table: t}}}}}}",
            "2:33: zerobus.source_targets.pls: there is no source `pls`; did you mean `plc`?",
        ),
        (
            f"""sources: [{OPCUA}, {{name: b, protocol: mqtt, endpoint: mqtt://h}}]
zerobus: {{source_targets: {{plc: {{catalog: c, schema: s, table: t}}}}}}""",
            "1:71: sources.1.name: `b` has no table in zerobus.source_targets, no rule and no default_connector",
        ),
        (
            "gateway: {cloud: {batch_size: 200000, connectors: {z: {type: zerobus, provider_config: {table: a.b.c}}}}}",
            "1:31: gateway.cloud.batch_size: for the connector `z`: should be less than or equal to 100000",
        ),
        ("5", "1:1: the file must be a mapping: gateway:, sources: …"),
        ("- a", "1:1: the file must be a mapping"),
        (
            "plc: {protocol: opcua, endpoint: opc.tcp://h}",
            "1:1: plc: there is no key `plc`; a source is an item of the list `sources`",
        ),
    ],
)
def test_a_problem_says_where_it_is_and_what_would_be_right(problems: Problems, written: str, problem: str) -> None:
    assert any(found.startswith(f"gateway.yaml:{problem}") for found in problems(written)), problems(written)


def test_a_condition_is_pointed_at_inside_its_scalar(problems: Problems) -> None:
    for condition, place in [
        ("value > 1 AND nope = 2", "3:30"),
        ("'value > 1 AND nope = 2'", "3:31"),
        ('"value > 1 AND nope = 2"', "3:31"),
        ("|\n      value > 1\n      AND nope = 2", "5:11"),
        (">\n      value > 1\n      AND nope = 2", "3:16"),
    ]:
        text = f"routing_rules:\n  - name: r\n    condition: {condition}\n    connectors: [delta]\n"
        (found,) = problems(text)
        assert found.startswith(f"gateway.yaml:{place}: routing_rules.0.condition: there is no column `nope`")


# ---------------------------------------------------------------------- values


def test_text_is_taken_as_it_is_written_and_numbers_are_numbers(loaded: Load) -> None:
    found = loaded(
        "gateway: {name: 0x10, port: 012}\n"
        "sources:\n"
        "  - {name: 012, protocol: mqtt, endpoint: mqtt://h, username: no, password: 0070, client_id: 12:30:00, version: 5,\n"
        "     metadata: {serial: 1.10, valid: true, since: 2026-01-21, my_file: a.txt}, keepalive: 30}\n"
    )
    (source,) = found.sources
    assert isinstance(source, MqttConfig)
    assert (found.gateway, found.port) == ("0x10", 12)
    assert (source.name, source.username, source.client_id, source.version) == ("012", "no", "12:30:00", "5")
    assert source.password is not None
    assert source.password.get_secret_value() == "0070"
    assert source.metadata == {"serial": "1.10", "valid": "true", "since": "2026-01-21", "my_file": "a.txt"}
    assert source.keepalive == 30.0


def test_secrets_come_from_references_and_are_never_shown(
    loaded: Load, problems: Problems, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PW", "12345")
    monkeypatch.setenv("URL", "http://user:hunter2@h")
    source = "sources:\n- {name: a, protocol: opcua, endpoint: opc.tcp://h}\n"
    for password in ("${env:PW}", "'${env:PW}'"):
        text = source.replace("{", "").replace("}", "").replace(", ", "\n  ")
        (found,) = loaded(f"{text}  username: u\n  password: {password}\n").sources
        assert isinstance(found, OpcUaConfig)
        assert found.password is not None
        assert found.password.get_secret_value() == "12345"
        assert "12345" not in repr(found)
    (problem,) = problems("sources: [{name: a, protocol: opcua, endpoint: '${env:URL}'}]")
    assert "hunter2" not in problem
    assert "`${env:URL}` is not the URL" in problem


def test_a_named_file_lies_beside_the_file_that_names_it(loaded: Load, tmp_path: Path) -> None:
    registers = "name,address\nspeed,7\n"
    source = "{{name: {}, protocol: modbus, endpoint: tcp://h, registers_file: r.csv}}"
    found = loaded(
        f"sources: [{source.format('a')}]\ngateway: {{directory: here}}\n",
        **{"r.csv": registers, "conf.d__b.yaml": f"sources: [{source.format('b')}]\n", "conf.d__r.csv": registers},
    )
    places = [s.registers_file for s in found.sources if isinstance(s, ModbusConfig)]
    assert places == [tmp_path / "r.csv", tmp_path / "conf.d" / "r.csv"]
    assert found.directory == Path("here")
    (broker,) = loaded(
        "sources: [{name: c, protocol: mqtt, endpoint: mqtts://h, tls: {ca_file: ca.pem, key_file: /etc/k.pem}}]",
        **{"conf.d__b.yaml": ""},
    ).sources
    assert isinstance(broker, MqttConfig)
    assert broker.tls is not None
    assert (broker.tls.ca_file, broker.tls.key_file) == (tmp_path / "ca.pem", Path("/etc/k.pem"))


def test_a_wrong_cell_of_a_named_file_is_told_with_its_place(problems: Problems) -> None:
    text = "sources:\n  - {name: a, protocol: modbus, endpoint: tcp://h, registers_file: r.csv}\n"
    (found,) = problems(text, {"r.csv": "name,address\na,70000\n"})
    assert found.startswith("gateway.yaml:2:5: sources.0: r.csv:2: address: ")


# ---------------------------------------------------------------------- several files


def test_files_beside_it_are_joined_in_the_order_of_their_names(loaded: Load) -> None:
    found = loaded(
        "sources:\n  - {name: a, protocol: opcua, endpoint: opc.tcp://h}\n",
        **{
            "conf.d__20.yml": "sources: [{name: c, protocol: opcua, endpoint: opc.tcp://h}]\n",
            "conf.d__10.yaml": "sources: [{name: b, protocol: opcua, endpoint: opc.tcp://h}]\ngateway: {port: 0}\n",
            "conf.d__30.yaml.bak": "nonsense",
        },
    )
    assert [source.name for source in found.sources] == ["a", "b", "c"]
    assert found.port == 0


def test_problems_of_all_files_are_told_with_their_file(problems: Problems) -> None:
    more = {
        "conf.d/a.yaml": "gateway: {port: 81}\nsources:\n  - {name: b, protocol: opcua}\n",
        "conf.d/b.yaml": "- x\n",
    }
    assert [line.split(": ")[0:3] for line in problems("gateway: {port: 80, x: 1}\n", more)] == [
        ["conf.d/a.yaml:1:11", "gateway.port", "is set in gateway.yaml:1:11 already; keep one"],
        ["conf.d/a.yaml:3:5", "sources.0.endpoint", "is needed"],
        ["conf.d/b.yaml:1:1", "the file must be a mapping", "gateway:, sources"],
        [
            "gateway.yaml:1:21",
            "gateway.x",
            "there is no key `x`; known are cloud, commit_interval, dead_letters, directory, endurance, leases, listen, log_format, log_level, member, members, name, port, report_interval, telemetry",
        ],
    ]
    broken = {"conf.d/a.yaml": "a: [\n", "conf.d/b.yaml": b"\xff"}
    found = problems("b: }\n", broken)
    assert [line.split(":")[0] for line in found] == ["conf.d/a.yaml", "conf.d/b.yaml", "gateway.yaml"]


# ---------------------------------------------------------------------- what follows from it


def test_the_only_connector_is_the_default_and_none_leaves_readings_out(loaded: Load) -> None:
    one = "gateway: {cloud: {connectors: {c: {type: console}}%s}}\n"
    rule = "routing_rules: [{name: r, condition: value > 1, connectors: [c], priority: 4}]\n"
    assert loaded(one % "").default == ("c",)
    found = loaded(one % "" + rule)
    assert found.default == ("c",)
    assert [(r.name, r.condition, r.connectors, r.priority) for r in found.rules] == [("r", "value > 1", ("c",), 4)]
    assert loaded(one % ", default_connector: none" + rule).default == ()
    both = "gateway: {cloud: {connectors: {c: {type: console}, d: {type: file}}, default_connector: d}}\n"
    assert loaded(both).default == ("d",)
    assert list(loaded(both).targets) == ["c", "d"]


def test_rules_without_a_default_among_several_connectors_are_warned_about(loaded: Load, tmp_path: Path) -> None:
    text = (
        "gateway: {cloud: {connectors: {c: {type: console}, d: {type: file}}%s}}\n"
        "routing_rules: [{name: r, condition: value > 1, connectors: [c]}]\n"
    )
    (warning,) = loaded(text % "").warnings
    assert warning == (
        f"{tmp_path}/gateway.yaml:2:16: routing_rules: readings that match no rule are left out; "
        "name a default_connector, or `none` if that is meant"
    )
    assert loaded(text % ", default_connector: none").warnings == ()


def test_a_table_per_source_is_a_target_of_its_own(loaded: Load) -> None:
    found = loaded(
        f"sources: [{OPCUA}, {{name: b, protocol: mqtt, endpoint: mqtt://h}}]\n"
        "gateway: {cloud: {batch_size: 500, batch_timeout: 250ms, connectors: {c: {type: console, batch_size: 7}}}}\n"
        "zerobus: {flush_interval: 1s, source_targets: {plc: {catalog: C, schema: s, table: t}}}\n"
    )
    assert found.source_targets == {"plc": "zerobus:c.s.t"}
    assert found.default == ("c",)
    limits = {name: (t.batch_size, t.flush_interval) for name, t in found.targets.items()}
    assert limits == {"c": (7, 0.25), "zerobus:c.s.t": (500, 1.0)}


def test_what_is_not_enabled_is_left_out(loaded: Load) -> None:
    found = loaded(
        "sources: [{name: a, protocol: opcua, endpoint: opc.tcp://h, enabled: no}]\n"
        "gateway: {cloud: {connectors: {c: {type: console, enabled: false}}}}\n"
        "zerobus: {enabled: false, source_targets: {a: {catalog: c, schema: s, table: t}}}\n"
        "web_ui: {enabled: false}\n"
    )
    assert (found.sources, list(found.targets), found.source_targets, found.port) == ((), ["delta"], {}, None)


def test_one_setting_may_stand_in_two_places_when_it_is_the_same(loaded: Load) -> None:
    found = loaded(
        "gateway: {port: 81, log_level: debug, directory: d, cloud: {buffer: {persistent_path: d}}}\n"
        "web_ui: {port: 81}\nconnector: {log_level: DEBUG}\n"
    )
    assert (found.port, found.log_level, found.directory) == (81, "debug", Path("d"))
    assert loaded("web_ui: {port: 82}\nconnector: {log_level: WARNING}\n").port == 82


def test_stores_under_tmp_are_warned_about(loaded: Load, tmp_path: Path) -> None:
    found = loaded("gateway:\n  cloud:\n    buffer: {persistent_path: /tmp/bifrost}\n")
    assert found.directory == Path("/tmp/bifrost")
    (warning,) = found.warnings
    assert warning == (
        f"{tmp_path}/gateway.yaml:3:31: gateway.cloud.buffer.persistent_path: /tmp/bifrost lies under /tmp, which a restart "
        "of the machine may empty: readings that wait there are lost"
    )
    assert loaded("gateway: {directory: /var/lib/bifrost}\n").warnings == ()


def test_the_general_path_template_is_that_of_sources_without_their_own(loaded: Load) -> None:
    found = loaded(
        "normalization: {path_template: '{site}/{tag_name}'}\n"
        "sources:\n"
        "  - {name: a, protocol: opcua, endpoint: opc.tcp://h}\n"
        "  - {name: b, protocol: opcua, endpoint: opc.tcp://h, path_template: 'x/{tag_name}'}\n"
    )
    assert [source.path_template for source in found.sources] == ["{site}/{tag_name}", "x/{tag_name}"]


def test_loading_opens_nothing_and_writes_nothing(
    loaded: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    loaded(f"sources: [{OPCUA}]\ngateway: {{directory: store}}\n")
    assert list(work.iterdir()) == []


def test_ten_thousand_tags_are_loaded_within_three_seconds(tmp_path: Path) -> None:
    tags = "".join(
        f"      - {{id: 'ns=2;s=Line{n % 40}.Motor{n}.Speed', tag_name: speed_{n}, unit: rpm, equipment: motor{n}}}\n"
        for n in range(10_000)
    )
    file = tmp_path / "gateway.yaml"
    file.write_text(f"sources:\n  - name: plc\n    protocol: opcua\n    endpoint: opc.tcp://h\n    nodes:\n{tags}")
    began = time.process_time()
    (source,) = load(file).sources
    seconds = time.process_time() - began
    assert isinstance(source, OpcUaConfig)
    assert len(source.nodes) == 10_000
    assert seconds < 3.0
    file.write_text(file.read_text().replace("tag_name", "tagname"))
    began = time.process_time()
    with pytest.raises(
        ProblemsError, match=r"sources.0.nodes.9999.tagname: there is no key `tagname`; did you mean `tag_name`"
    ):
        load(file)
    assert time.process_time() - began < 10.0


def test_two_different_brokers_are_a_warning(loaded: Load) -> None:
    text = """
gateway:
  cloud:
    connectors:
      one: {type: mqtt, endpoint: "mqtt://a", provider_config: {broker: "mqtt://b"}}
"""
    found = loaded(text)
    (warning,) = found.warnings
    assert warning.endswith(
        "gateway.cloud.connectors.one.endpoint: differs from provider_config.broker (mqtt://b), which wins"
    )
    target = found.targets["one"]
    assert isinstance(target, MqttTargetConfig)
    assert target.url == "mqtt://b"


def test_no_source_may_be_called_as_what_is_posted(problems: Problems) -> None:
    text = "sources:\n  - {name: api, protocol: mqtt, endpoint: 'mqtt://h'}\n"
    (said,) = problems(text)
    assert said.startswith("gateway.yaml:2:12: sources.0.name: `api` is the source of readings that are posted")
