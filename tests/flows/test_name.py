"""A directory belongs to one gateway: a new host name must not make its readings another gateway's."""

from dataclasses import replace

import pytest

from config.loader import load
from config.models import Configuration
from connectors.targets.console import ConsoleConfig
from delivery.disk import StoreError
from flows.process import Process


def test_the_name_of_the_first_start_is_kept_when_the_configuration_names_none(tmp_path):
    file = tmp_path / "gateway.yaml"
    file.write_text(f"gateway: {{directory: {tmp_path / 'data'}}}\n")
    first = load(file)
    process = Process(replace(first, gateway="old-host-123abc"))
    process.open_stores()
    process.close()
    assert load(file).gateway == "old-host-123abc" != first.gateway


def test_a_gateway_of_another_name_is_refused_and_told_what_to_do(tmp_path):
    config = Configuration(gateway="press", directory=tmp_path, targets={"screen": ConsoleConfig()})
    process = Process(config)
    process.open_stores()
    process.close()
    with pytest.raises(StoreError, match="set gateway.name to `press`"):
        Process(replace(config, gateway="mill")).open_stores()
