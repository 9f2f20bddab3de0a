"""Google Cloud Pub/Sub: a fake that speaks the official gRPC service, one process that all tests share, a project for each."""

import atexit
import functools
import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from connectors.settings import TargetConfig
from connectors.targets.pubsub import PubSubConfig
from tests.contract.counterpart import Counterpart, Provider
from tests.contract.readings import Row
from tests.contract.writers.file import json_row
from tests.pubsub_server import PubSubServer

_numbers = itertools.count()


@functools.cache
def service() -> PubSubServer:
    server = PubSubServer()
    atexit.register(server.end)
    return server


class Project:
    """A project of the fake."""

    def __init__(self, **own: Any) -> None:
        self.server = service()
        self.port, self.relay_port = self.server.port, 0
        self.name = f"contract-{next(_numbers)}"
        self.own = {"project": self.name} | own

    def config(self, **settings: Any) -> TargetConfig:
        return self.through(self.port, **settings)

    def through(self, port: int, **settings: Any) -> TargetConfig:
        whole = {"endpoint": f"http://127.0.0.1:{port}", "timeout": "10s", "provider_config": self.own}
        return PubSubConfig.model_validate(whole | settings)

    def rows(self) -> list[Row]:
        return [row for message in self.server.messages(self.name) for row in message_rows(message.data)]

    @contextmanager
    def outage(self) -> Iterator[None]:
        self.server.kill()
        try:
            yield
        finally:
            self.server.start()


def message_rows(data: bytes) -> list[Row]:
    """The readings of a message."""
    text = data.decode()
    if not text.startswith("["):
        return [json_row(text)]
    return [json_row(json.dumps(item)) for item in json.loads(text)]


@contextmanager
def project(payload: str, _: Path) -> Iterator[Counterpart]:
    yield Project(payload=payload)


PROVIDERS = [
    Provider(
        "google-pubsub",
        f"google-pubsub, {payload}",
        functools.partial(project, payload),
        counterpart="Google Pub/Sub fake",
        able=frozenset({"network"}),
        ordered=True,
        largest=10_000_000,
    )
    for payload in ("reading", "array")
]
