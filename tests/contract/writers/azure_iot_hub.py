"""Azure IoT Hub: a stand-in that enforces the service's limits, see `tests.iot_clouds`; the service was not reached."""

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from typing_extensions import override

from connectors.settings import TargetConfig
from connectors.targets.azure_iot_hub import AzureIotHubConfig
from tests.certificates import Authority
from tests.contract.cloud import Cloud
from tests.contract.counterpart import Counterpart, Provider
from tests.iot_clouds import AzureHub

KEY = base64.b64encode(b"right-secret").decode()
WRONG = base64.b64encode(b"wrong-secret").decode()


class Hub(Cloud):
    def __init__(self, folder: Path) -> None:
        certificates = Authority(folder)
        super().__init__(certificates, AzureHub({"press-1": KEY}, certificates))

    @override
    def through(self, port: int, **settings: Any) -> TargetConfig:
        own = {"connection_string": f"HostName=hub.example;DeviceId=press-1;SharedAccessKey={KEY}"}
        given = {"endpoint": f"localhost:{port}", "timeout": "10s", "provider_config": own}
        return AzureIotHubConfig.model_validate(given | {"ca_file": str(self.certificates.ca)} | settings)

    def stranger(self) -> TargetConfig:
        said = f"HostName=hub.example;DeviceId=press-1;SharedAccessKey={WRONG}"
        return self.config(provider_config={"connection_string": said})


@contextmanager
def hub(folder: Path) -> Iterator[Counterpart]:
    running = Hub(folder / "azure")
    try:
        yield running
    finally:
        running.service.end()


PROVIDERS = [
    Provider(
        "azure-iot-hub",
        "azure-iot-hub",
        hub,
        counterpart="a stand-in for Azure IoT Hub",
        able=frozenset({"network", "credentials", "certificates"}),
        ordered=True,
        largest=256 * 1024,
    )
]
