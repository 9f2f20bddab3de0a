"""A source or target in somebody else's package joins through an entry point."""

import os
import subprocess
import sys
from pathlib import Path

PACKAGE = '''
from typing import Literal
from pydantic import Field
from connectors.settings import SourceConfig, TargetConfig

class BacnetConfig(SourceConfig):
    """A BACnet device."""
    protocol: Literal["bacnet"] = Field("bacnet", description="protocol of the source")
    device: int = Field(description="device instance")

class PiConfig(TargetConfig):
    """A PI server."""
    type: Literal["pi"] = Field("pi", description="type of the target")
'''
CONFIG = """
gateway: {name: gw, cloud: {connectors: {archive: {type: pi}}}}
sources:
  - {name: hvac, protocol: bacnet, device: 7}
"""


def test_a_source_and_a_target_of_another_package_are_found(tmp_path: Path) -> None:
    (tmp_path / "plant_extras.py").write_text(PACKAGE)
    info = tmp_path / "plant_extras-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plant-extras\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[bifrost.connectors]\nbacnet = plant_extras:BacnetConfig\npi = plant_extras:PiConfig\n"
    )
    (tmp_path / "gateway.yaml").write_text(CONFIG)
    answer = subprocess.run(
        [sys.executable, "-m", "bifrost", "check", "-c", str(tmp_path / "gateway.yaml")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert answer.returncode == 0, answer.stderr
    assert "hvac (bacnet)" in answer.stdout
    assert "archive (pi)" in answer.stdout
