"""MQTT: mosquitto with users and with TLS, read back by mosquitto_sub in a session that outlives the broker."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from connectors.settings import TargetConfig
from connectors.targets.mqtt import MqttTargetConfig
from tests.certificates import Authority
from tests.contract.counterpart import Counterpart, Provider
from tests.contract.readings import Row
from tests.contract.writers.file import json_row
from tests.mosquitto_process import PASSWORD, USER, Mosquitto

_LARGEST = 100_000


class Topics:
    relay_port = 0

    def __init__(self, folder: Path, settings: dict[str, Any], tls: bool = False) -> None:
        self.certificates = Authority(folder / "certificates") if tls else None
        self.broker = Mosquitto(folder, self.certificates.mosquitto() if self.certificates else [])
        self.port = self.broker.port
        self.settings = settings

    def config(self, **settings: Any) -> TargetConfig:
        return self.through(self.port, **settings)

    def through(self, port: int, **settings: Any) -> TargetConfig:
        own = {"username": USER, "password": PASSWORD, "topic": "{source}", "max_packet_size": _LARGEST}
        given: dict[str, Any] = {
            "endpoint": f"mqtt://127.0.0.1:{port}",
            "timeout": "10s",
            "provider_config": own | self.settings,
        }
        if self.certificates is not None:
            given |= {"tls_enabled": True} | self.certificates.client()
        return MqttTargetConfig.model_validate(given | settings)

    def stranger(self) -> TargetConfig:
        return self.config(provider_config={"username": USER, "password": "wrong-secret"})

    def certify(self, *, expired: bool = False) -> None:
        assert self.certificates is not None
        self.certificates.issue(expired=expired)
        with self.outage():
            pass

    def rows(self) -> list[Row]:
        found: list[Row] = []
        for _, _, payload in self.broker.messages():
            items = json.loads(payload)
            found += [json_row(json.dumps(item)) for item in items] if isinstance(items, list) else [json_row(payload)]
        return found

    @contextmanager
    def outage(self) -> Iterator[None]:
        self.broker.stop()
        try:
            yield
        finally:
            self.broker.start()


@contextmanager
def singly(folder: Path) -> Iterator[Counterpart]:
    running = Topics(folder, {})
    try:
        yield running
    finally:
        running.broker.end()


@contextmanager
def packed(folder: Path) -> Iterator[Counterpart]:
    running = Topics(folder, {"version": "5", "readings_per_message": 50}, tls=True)
    try:
        yield running
    finally:
        running.broker.end()


PROVIDERS = [
    Provider(
        "mqtt",
        "mqtt, 3.1.1",
        singly,
        counterpart="mosquitto",
        able=frozenset({"network", "credentials"}),
        ordered=True,
        largest=_LARGEST,
    ),
    Provider(
        "mqtt",
        "mqtt, 5, packed, mutual TLS",
        packed,
        counterpart="mosquitto",
        able=frozenset({"network", "certificates"}),
        ordered=True,
        largest=_LARGEST,
    ),
]
