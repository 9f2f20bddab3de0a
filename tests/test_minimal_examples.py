"""The smallest configuration of each target, as the reference shows it, runs: `bifrost run`, places and credentials apart."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel, SecretStr

from config import models
from config.reference import choices
from tests.contract.counterpart import Counterpart, Provider, providers
from tests.contract.writers.azure_iot_hub import KEY
from tests.contract.writers.kafka import SecuredTopic
from tests.mosquitto_broker import Broker
from tests.ports import free_port
from tests.running_gateway import CELL, gateway, until

EXAMPLES = Path(__file__).parents[1] / "config" / "examples" / "minimal"
SENT = {1.5, 2.5, 3.5}


@contextmanager
def secured_topic(_: Path) -> Iterator[Counterpart]:
    yield SecuredTopic("json")


CHOSEN = {"influxdb": "influxdb, stand-in for 2.x", "file": "file, parquet"}
SAID = {"azure-iot-hub": {"provider_config": {"hub": "hub.example", "device_id": "press-1", "shared_access_key": KEY}}}
OWN = {"kafka": Provider("kafka", "kafka, JSON over TLS and SCRAM", secured_topic)}


def provider(kind: str) -> Provider:
    """The counterpart that is like the example."""
    of_kind = [one for one in providers() if one.type == kind]
    return OWN.get(kind) or next(one for one in of_kind if one.name == CHOSEN.get(kind, one.name))


def example(kind: str) -> dict[str, Any]:
    """The example's connector."""
    names = [f"{kind}_target", kind]  # where a source has the same name
    file = next(EXAMPLES / f"{name}.yaml" for name in names if (EXAMPLES / f"{name}.yaml").exists())
    (found,) = yaml.safe_load(file.read_text())["gateway"]["cloud"]["connectors"].values()
    assert found["type"] == kind
    return dict(found)


def as_written(value: Any) -> Any:
    """Settings as a file has them."""
    if isinstance(value, BaseModel):
        fields = type(value).model_fields
        return {fields[name].alias or name: as_written(getattr(value, name)) for name in value.model_fields_set}
    if isinstance(value, dict):
        return {key: as_written(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [as_written(one) for one in value]
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return str(value) if isinstance(value, Path) else value


def merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    both = {key: merged(below[key], above[key]) for key in below.keys() & above.keys() if isinstance(below[key], dict)}
    return below | above | both


@pytest.mark.timeout(300)
async def test_the_smallest_configuration_of_each_target_delivers(tmp_path: Path) -> None:
    running: dict[str, Counterpart] = {}
    connectors: dict[str, Any] = {"console": example("console")}
    (tmp_path / "broker").mkdir()
    with ExitStack() as stack:
        for kind in choices(models.Target):
            if kind == "console":
                continue
            (tmp_path / kind).mkdir()
            running[kind] = stack.enter_context(provider(kind).start(tmp_path / kind))
            connectors[kind] = merged(example(kind), as_written(running[kind].config(**SAID.get(kind, {}))))
        async with Broker(tmp_path / "broker") as broker:
            rule = {"name": "all", "condition": "value > 0", "connectors": list(connectors)}
            section = {"directory": str(tmp_path / "data"), "port": free_port(), "cloud": {"connectors": connectors}}
            file = tmp_path / "gateway.yaml"
            written = yaml.safe_dump({"gateway": section, "routing_rules": [rule]}, allow_unicode=True)
            file.write_text(written + CELL.format(port=broker.port))

            def missing() -> dict[str, set[Any]]:
                found = {kind: {row.value for row in there.rows()} for kind, there in running.items()}
                shown = {value for value in SENT if f"{value}" in (tmp_path / "out").read_text()}
                return {kind: SENT - values for kind, values in (found | {"console": shown}).items() if SENT - values}

            with gateway(file):
                await until(lambda: "plant/+/+ (QoS" in broker.log(), file)
                for value in sorted(SENT):
                    await broker.publish("plant/press/temperature", json.dumps({"value": value}))
                await until(lambda: not missing(), file, 120)
