"""The examples that the project grew from, as files in tests/seeds: they load as written, or say why not yet."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from config.loader import load
from connectors.sources.modbus import ModbusConfig
from connectors.sources.mqtt import MqttConfig
from connectors.sources.opcua import OpcUaConfig
from connectors.targets.aws_iot import AwsIotConfig
from connectors.targets.influxdb import InfluxConfig
from connectors.targets.mqtt import MqttTargetConfig
from normalization.normalizer import Normalizer
from normalization.reading import FACTS, Columns, Tag, TagTable, repeat
from normalization.rules import compile_condition
from tests.loaded_config import Load, Problems

SEEDS = Path(__file__).parent.parent / "seeds"


def seed(name: str) -> str:
    return (SEEDS / f"{name}.yaml").read_text(encoding="utf-8")


def test_the_minimal_local_example_loads_as_written() -> None:
    found = load(SEEDS / "minimal_local_dev.yaml")
    assert (found.log_level, found.port, found.sources) == ("debug", 8080, ())
    assert {name: target.type for name, target in found.targets.items()} == {"delta": "delta"}
    assert (found.discovery.enabled, found.discovery.network.subnets) == (True, ["192.168.1.0/24"])
    assert found.warnings == ()


def test_the_production_example_loads_as_written() -> None:
    found = load(SEEDS / "production_multi_source.yaml")
    opcua, mqtt = found.sources
    assert isinstance(opcua, OpcUaConfig)
    assert isinstance(mqtt, MqttConfig)
    assert (opcua.endpoint, opcua.site, opcua.area, opcua.line) == (
        "opc.tcp://10.1.1.100:4840", "plant1", "production", "line1",
    )  # fmt: skip
    assert (mqtt.endpoint, mqtt.line) == ("mqtt://10.1.1.101:1883", "line2")
    assert {name: target.type for name, target in found.targets.items()} == {
        "zerobus:manufacturing.plant1.opcua_data": "zerobus",
        "zerobus:manufacturing.plant1.mqtt_data": "zerobus",
    }
    assert found.source_targets == {
        "plant1_opcua": "zerobus:manufacturing.plant1.opcua_data",
        "plant1_mqtt": "zerobus:manufacturing.plant1.mqtt_data",
    }
    assert found.default == ()
    (warning,) = found.warnings
    assert warning.partition(": ")[2] == (
        "zerobus: endpoint, workspace_url, client_id, client_secret not set; readings for these tables wait on disk "
        "until they are"
    )


def test_debug_logging_loads_as_written() -> None:
    assert load(SEEDS / "cloud_debug_logging.yaml").log_level == "debug"


@pytest.mark.parametrize("name", ["minimal_local_dev", "production_multi_source", "cloud_debug_logging"])
def test_an_example_that_loads_runs(tmp_path: Path, name: str) -> None:
    """Their plants are not here: the gateway keeps trying, and ends when it is told to."""
    done = subprocess.run(
        [sys.executable, "-m", "bifrost", "run", "-c", str(SEEDS / f"{name}.yaml"), "--for", "2s"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(SEEDS.parents[1])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert all(isinstance(json.loads(line), dict) for line in done.stderr.splitlines())
    assert (tmp_path / "data" / "journal").is_dir()


PATHS = """
sources:
  - name: plant1_opcua
    protocol: opcua
    endpoint: opc.tcp://10.1.1.100:4840
    site: plant1
    area: production
    line: line1
    nodes:
      - {id: ns=2;s=Reactor.Temp, tag_name: reactor_temp, equipment: plc1, unit: °C}
  - name: plant1_mqtt
    protocol: mqtt
    endpoint: mqtt://10.1.1.101:1883
    site: plant1
    area: production
    line: line2
    tags:
      - {match: "*/conveyor_speed", equipment: robot1, unit: m/min}
  - name: site2_boilers
    protocol: modbus
    endpoint: tcp://10.2.1.20:502
    site: site2
    area: utilities
    equipment: boiler1
    registers:
      - {name: steam_pressure, address: 0, type: float32, unit: bar}
"""


def test_the_three_example_paths_come_out(loaded: Load) -> None:
    found = loaded(PATHS)
    opcua, mqtt, modbus = found.sources
    assert isinstance(opcua, OpcUaConfig)
    assert isinstance(modbus, ModbusConfig)
    node = opcua.nodes[0]
    rows: list[Tag] = [
        opcua.tag("plc", node.id or "", "Temp", own=node),
        mqtt.tag("robot1", "cell/robot1/conveyor_speed", "conveyor_speed"),
        *modbus.tag_rows(),
    ]
    tags, columns = TagTable(), Columns()
    for row in rows:
        columns.add(tags.intern(row), 1.0)
    facts = columns.to_batch(np.zeros(len(rows), np.int64), 0)
    raw = pa.RecordBatch.from_arrays(
        [*facts.columns, repeat("g", len(rows)), repeat("s", len(rows))], names=[*FACTS.names, "gateway", "shard"]
    )
    assert Normalizer(tags, found.path_template)(raw).column("path").to_pylist() == [
        "plant1/production/line1/plc1/temperature/reactor_temp",
        "plant1/production/line2/robot1/speed/conveyor_speed",
        "site2/utilities/boiler1/pressure/steam_pressure",
    ]


def moved(block: str) -> str:
    """A block of connectors where the gateway has them."""
    return "gateway:\n  cloud:\n    connectors:\n" + "".join(f"      {line}\n" for line in seed(block).splitlines())


def test_connectors_that_stand_on_top_are_told_where_they_belong(problems: Problems) -> None:
    for block in ("cloud_mqtt_connector", "cloud_aws_iot", "cloud_influxdb"):
        loose = seed(block)
        name = loose.partition(":")[0]
        (found,) = problems(loose)
        assert found == (
            f"gateway.yaml:1:1: {name}: there is no key `{name}`; connectors belong under gateway.cloud.connectors"
        )


@pytest.mark.parametrize("kind", ["google-cloud-iot", "gcp-iot", "google-iot-core", "google-cloud"])
def test_the_seeds_google_cloud_iot_is_told_what_takes_its_place(problems: Problems, kind: str) -> None:
    (found,) = problems(f"gateway: {{cloud: {{connectors: {{cloud: {{type: {kind}}}}}}}}}\n")
    assert found.endswith(f"`{kind}`: Google's IoT Core ended in August 2023; `google-pubsub` takes its place")


def test_the_influxdb_example_loads_under_the_connectors(loaded: Load) -> None:
    found = loaded(moved("cloud_influxdb"))
    target = found.targets["influxdb"]
    assert isinstance(target, InfluxConfig)
    own = target.provider_config
    assert (target.name, target.address) == ("InfluxDB Time Series", "http://localhost:8086")
    assert (own.version, own.database, own.retention_policy, own.username) == ("1.x", "bifrost", "autogen", "admin")
    assert (own.measurement, own.precision, own.batch_size) == ("industrial_data", "ns", 1000)
    assert found.warnings == ()


def test_a_url_that_is_not_the_endpoint_wins_with_a_warning(loaded: Load) -> None:
    text = moved("cloud_influxdb").replace('endpoint: "http://localhost:8086"', "endpoint: http://elsewhere:8086")
    found = loaded(text)
    assert [warning.partition(": ")[2] for warning in found.warnings] == [
        "gateway.cloud.connectors.influxdb.endpoint: differs from provider_config.url (http://localhost:8086), which wins"
    ]


def test_the_mqtt_example_loads_as_written(loaded: Load) -> None:
    target = loaded(moved("cloud_mqtt_connector")).targets["mqtt-connector"]
    assert isinstance(target, MqttTargetConfig)
    own = target.provider_config
    assert (target.name, target.url, own.client_id, own.username) == (
        "Production MQTT", "tls://mqtt.example.com:8883", "bifrost-gateway-001", "username",
    )  # fmt: skip
    assert own.topics == ("industrial/telemetry/{path}", "industrial/events/{path}", "industrial/alarms/{path}")
    tls = target.tls_settings(own.tls)
    assert (tls.ca_file, tls.cert_file, tls.key_file) == (
        Path("/etc/ssl/certs/ca.pem"), Path("/etc/ssl/certs/client.pem"), Path("/etc/ssl/private/client.key"),
    )  # fmt: skip


def test_the_aws_iot_example_loads_as_written(loaded: Load) -> None:
    target = loaded(moved("cloud_aws_iot")).targets["aws-iot"]
    assert isinstance(target, AwsIotConfig)
    own = target.provider_config
    assert (target.address, own.client_id, own.thing_name, own.shadow_update, own.qos) == (
        ("your-endpoint.iot.us-east-1.amazonaws.com", 8883), "bifrost-gateway", "bifrost-gateway-001", True, 1,
    )  # fmt: skip
    assert own.topics[0] == "bifrost/telemetry/{source}"
    assert (target.tls.ca_file, target.tls.cert_file) == (
        Path("/etc/ssl/certs/amazon-root-ca-1.pem"), Path("/etc/ssl/certs/device-cert.pem"),
    )  # fmt: skip


def test_the_gateway_example_loads_as_written(loaded: Load) -> None:
    found = loaded(seed("cloud_gateway"))
    target = found.targets["mqtt-local"]
    assert isinstance(target, MqttTargetConfig)
    assert (target.name, target.timeout, target.retry_count, target.retry_delay) == ("Local MQTT", 30.0, 5, 2.0)
    assert (target.url, target.provider_config.qos, target.provider_config.topic_prefix) == (
        "tcp://localhost:1883", 1, "bifrost/industrial",
    )  # fmt: skip
    assert (target.batch_size, target.flush_interval) == (100, 5.0)
    assert (found.directory, found.memory_rows, found.probe_interval) == (
        Path("/tmp/bifrost-cloud-buffer"),
        10_000,
        30.0,
    )
    assert found.default == ("mqtt-local",)
    assert [warning.partition(": ")[2][:51] for warning in found.warnings] == [
        "gateway.cloud.buffer.persistent_path: /tmp/bifrost-"
    ]


def test_the_routing_rules_load_as_written_beside_their_connectors(loaded: Load) -> None:
    connectors = ", ".join(f"{name}: {{type: console}}" for name in ("mqtt-local", "aws-iot", "influxdb"))
    found = loaded(
        f"gateway: {{cloud: {{default_connector: none, connectors: {{{connectors}}}}}}}\n",
        **{"conf.d__routing.yaml": seed("cloud_routing_rules")},
    )
    assert [(rule.condition, rule.connectors, rule.priority) for rule in found.rules] == [
        ("tag_name=temperature", ("mqtt-local", "influxdb"), 1),
        ("quality=ALARM", ("mqtt-local", "aws-iot"), 2),
        ("device_id=PLC001", ("aws-iot", "influxdb"), 3),
    ]
    for rule in found.rules:
        compile_condition(rule.condition)


@pytest.mark.parametrize("file", sorted(SEEDS.glob("*.yaml")), ids=lambda file: file.stem)
def test_no_seed_is_forgotten_here(file: Path) -> None:
    assert f'"{file.stem}' in Path(__file__).read_text(encoding="utf-8")
