"""RabbitMQ, one server that all tests share, a queue for each; read back with pika, which is not what writes."""

import atexit
import functools
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from connectors.settings import TargetConfig
from connectors.targets.amqp import AmqpConfig
from tests.contract.counterpart import Counterpart, Provider
from tests.contract.readings import Row
from tests.contract.writers.file import json_row
from tests.rabbitmq_server import LARGEST, PASSWORD, USER, RabbitServer

_numbers = itertools.count()


@functools.cache
def service() -> RabbitServer:
    """The server; it keeps its ports and its data when it is killed and started again."""
    server = RabbitServer()
    server.start()
    atexit.register(server.end)
    return server


class Queue:
    """A durable queue, and what was read from it."""

    def __init__(self, settings: dict[str, Any], *, tls: bool = False) -> None:
        self.server = service()
        self.port, self.relay_port = self.server.tls_port if tls else self.server.port, 0
        self.scheme = "amqps" if tls else "amqp"
        self.name = f"contract_{next(_numbers)}"
        self.settings = settings
        self.read: list[bytes] = []

    def config(self, **settings: Any) -> TargetConfig:
        return self.through(self.port, **settings)

    def through(self, port: int, **settings: Any) -> TargetConfig:
        own = (
            {"username": USER, "password": PASSWORD, "max_message_bytes": LARGEST} | self.destination() | self.settings
        )
        whole = {"endpoint": f"{self.scheme}://127.0.0.1:{port}", "timeout": "10s", "provider_config": own}
        return AmqpConfig.model_validate(whole | settings)

    def destination(self) -> dict[str, Any]:
        return {"exchange": self.name, "queue": self.name, "queue_type": "classic"}

    def stranger(self) -> TargetConfig:
        own = self.destination() | self.settings
        return self.config(provider_config=own | {"username": USER, "password": "wrong-secret"})

    def certify(self, *, expired: bool = False) -> None:
        self.server.certify(expired=expired)

    def rows(self) -> list[Row]:
        self.read += self.server.take(self.name)
        return [row for body in self.read for row in self.rows_of(body)]

    def rows_of(self, body: bytes) -> list[Row]:
        return [json_row(body.decode())]

    @contextmanager
    def outage(self) -> Iterator[None]:
        self.server.settle()
        self.server.kill()
        try:
            yield
        finally:
            self.server.start()


class Address(Queue):
    """The same by AMQP 1.0, which RabbitMQ's plugin hands on to an exchange."""

    def __init__(self) -> None:
        super().__init__({"version": "1.0", "tls": {"ca_file": str(service().folder / "ca.crt")}}, tls=True)

    def destination(self) -> dict[str, Any]:
        return {"address": f"/queue/{self.name}"}


@contextmanager
def version_1(_: Path) -> Iterator[Counterpart]:
    yield Address()


@contextmanager
def classic(_: Path) -> Iterator[Counterpart]:
    yield Queue({"tls": {"ca_file": str(service().folder / "ca.crt")}}, tls=True)


PROVIDERS = [
    Provider(
        "amqp",
        "amqp 0.9.1",
        classic,
        counterpart="RabbitMQ",
        able=frozenset({"network", "credentials", "certificates"}),
        ordered=True,
        largest=LARGEST,
    ),
    Provider(
        "amqp",
        "amqp 1.0",
        version_1,
        counterpart="RabbitMQ",
        able=frozenset({"network", "credentials", "certificates"}),
        ordered=True,
        largest=LARGEST,
    ),
]
