"""What the writer suite needs of a stand-in for an IoT cloud, see `tests.iot_clouds`."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from connectors.settings import TargetConfig
from tests.certificates import Authority
from tests.contract.readings import Row
from tests.contract.writers.file import json_row
from tests.iot_clouds import IotService


class Cloud:
    """A running stand-in; `through` is each service's own."""

    relay_port = 0

    def __init__(self, certificates: Authority, service: IotService) -> None:
        self.certificates, self.service, self.port = certificates, service, service.port

    def through(self, port: int, **settings: Any) -> TargetConfig:
        raise AssertionError

    def config(self, **settings: Any) -> TargetConfig:
        return self.through(self.port, **settings)

    def certify(self, *, expired: bool = False) -> None:
        self.certificates.issue(expired=expired)
        with self.outage():
            pass

    def rows(self) -> list[Row]:
        assert self.service.broken == []
        items = [item for message in list(self.service.published) for item in json.loads(message.payload)]
        return [json_row(json.dumps(item)) for item in items]

    @contextmanager
    def outage(self) -> Iterator[None]:
        self.service.stop()
        try:
            yield
        finally:
            self.service.start()
