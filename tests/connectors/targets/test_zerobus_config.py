"""ZeroBus settings: what is accepted, what is told, and how the section becomes one target per table."""

import subprocess
import sys

import pytest
import yaml
from pydantic import ValidationError

from connectors.targets.zerobus import ZeroBusConfig, ZeroBusSection, source_targets, targets

PRODUCTION = """
enabled: true
source_targets:
  plant1_opcua:
    catalog: "manufacturing"
    schema: "plant1"
    table: "opcua_data"
  plant1_mqtt:
    catalog: "manufacturing"
    schema: "plant1"
    table: "mqtt_data"
"""


def section(text: str) -> ZeroBusSection:
    return ZeroBusSection.model_validate(yaml.safe_load(text))


def test_the_seeds_section_becomes_one_target_per_table():
    made = targets(section(PRODUCTION))
    assert list(made) == ["zerobus:manufacturing.plant1.opcua_data", "zerobus:manufacturing.plant1.mqtt_data"]
    assert [c.provider_config.table for c in made.values()] == [
        "manufacturing.plant1.opcua_data",
        "manufacturing.plant1.mqtt_data",
    ]
    assert source_targets(section(PRODUCTION)) == {
        "plant1_opcua": "zerobus:manufacturing.plant1.opcua_data",
        "plant1_mqtt": "zerobus:manufacturing.plant1.mqtt_data",
    }


def test_the_disabled_section_of_the_seeds_has_no_targets():
    assert targets(section("enabled: false")) == {}


def test_targets_share_credentials_and_bounds():
    text = PRODUCTION + (
        "endpoint: 123.zerobus.eu-west-1.cloud.databricks.com\nworkspace_url: https://w.cloud.databricks.com/\n"
        "client_id: app\nclient_secret: hidden\nrecord_format: arrow\nbatch_size: 5000\nflush_interval: 20ms\n"
        "ack_timeout: 10s\nretry_count: 7\n"
    )
    for config in targets(section(text)).values():
        own = config.provider_config
        assert config.endpoint == "https://123.zerobus.eu-west-1.cloud.databricks.com"
        assert own.workspace_url == "https://w.cloud.databricks.com"
        assert (own.client_id, own.record_format, own.ack_timeout) == ("app", "arrow", 10.0)
        assert own.client_secret is not None
        assert own.client_secret.get_secret_value() == "hidden"
        assert (config.batch_size, config.flush_interval, config.retry_count) == (5000, 0.02, 7)
        assert "hidden" not in repr(config)


def test_two_sources_with_one_table_share_its_target_whatever_the_case():
    both = section("source_targets: {a: {catalog: Main, schema: s, table: t}, b: {catalog: main, schema: S, table: T}}")
    assert list(targets(both)) == ["zerobus:main.s.t"]
    assert set(source_targets(both).values()) == {"zerobus:main.s.t"}


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"provider_config": {"table": "just_a_table"}}, "provider_config.table"),
        ({"provider_config": {"table": "a.b.c-d"}}, "provider_config.table"),
        ({"provider_config": {"table": "a.b.c", "tabel": 1}}, "provider_config.tabel"),
        ({"provider_config": {"table": "a.b.c", "record_format": "json"}}, "provider_config.record_format"),
        ({"provider_config": {"table": "a.b.c", "workspace_url": "https://u:p@host"}}, "provider_config.workspace_url"),
        ({"endpoint": "grpc://host"}, "endpoint"),
        ({"batch_size": 100_001}, "batch_size"),
    ],
)
def test_a_wrong_setting_is_told_with_its_place(change, where):
    with pytest.raises(ValidationError) as error:
        ZeroBusConfig.model_validate({"provider_config": {"table": "a.b.c"}} | change)
    assert ".".join(map(str, error.value.errors()[0]["loc"])) == where


def test_configuration_needs_neither_the_sdk_nor_protobuf():
    code = (
        "import sys\n"
        "from connectors.targets.zerobus import ZeroBusSection, targets, ddl\n"
        "targets(ZeroBusSection.model_validate({'source_targets': {'a': {'catalog': 'a', 'schema': 'b', 'table': 'c'}}}))\n"
        "ddl('a.b.c')\n"
        "sys.exit(bool({'zerobus', 'google.protobuf', 'deltalake'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
