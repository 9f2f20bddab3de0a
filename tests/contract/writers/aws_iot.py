"""AWS IoT Core: a stand-in that enforces the service's limits, see `tests.iot_clouds`; the service was not reached."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from typing_extensions import override

from connectors.settings import TargetConfig
from connectors.targets.aws_iot import AwsIotConfig
from tests.certificates import Authority
from tests.contract.cloud import Cloud
from tests.contract.counterpart import Counterpart, Provider
from tests.iot_clouds import AwsIot


class Account(Cloud):
    def __init__(self, folder: Path) -> None:
        certificates = Authority(folder)
        service = AwsIot(certificates)
        service.connect_pace = 0.0  # the suite opens writers of one name one after the other
        super().__init__(certificates, service)

    @override
    def through(self, port: int, **settings: Any) -> TargetConfig:
        given = {"endpoint": f"127.0.0.1:{port}", "timeout": "10s", "provider_config": {"thing_name": "gateway-1"}}
        return AwsIotConfig.model_validate(given | self.certificates.client() | settings)

    def stranger(self) -> TargetConfig:
        """The certificate of somebody else; the name of its file is all that could be told."""
        cert, key = self.certificates.stranger("wrong-secret")
        return self.config(cert_file=str(cert), key_file=str(key))


@contextmanager
def account(folder: Path) -> Iterator[Counterpart]:
    running = Account(folder / "aws")
    try:
        yield running
    finally:
        running.service.end()


PROVIDERS = [
    Provider(
        "aws-iot",
        "aws-iot",
        account,
        counterpart="a stand-in for AWS IoT Core",
        able=frozenset({"network", "credentials", "certificates"}),
        ordered=True,
        largest=128 * 1024,
    )
]
