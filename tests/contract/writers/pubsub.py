"""Google Cloud Pub/Sub: a fake that speaks the official gRPC service, one process that all tests share, a project for each.

With one of the payloads it is reached over TLS by a service account, see `tests.pubsub_guard`.
"""

import atexit
import functools
import itertools
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from connectors.settings import TargetConfig
from connectors.targets.pubsub import PubSubConfig
from tests.certificates import Authority
from tests.contract.counterpart import Counterpart, Provider
from tests.contract.readings import Row
from tests.contract.writers.file import json_row
from tests.pubsub_guard import PubSubGuard, key_file, new_key
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


@functools.cache
def guard() -> PubSubGuard:
    folder = Path(tempfile.mkdtemp(prefix="bifrost-guard-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    before = PubSubGuard(service().port, authority(), folder)
    atexit.register(before.end)
    return before


@functools.cache
def authority() -> Authority:
    folder = Path(tempfile.mkdtemp(prefix="bifrost-certificates-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Authority(folder)


class GuardedProject(Project):
    """A project that only the service account is let into."""

    def __init__(self, folder: Path, **own: Any) -> None:
        super().__init__(**own)
        self.port, self.folder = guard().port, folder
        self.own |= {"credentials_file": str(guard().account), "ca_file": str(authority().ca)}

    def through(self, port: int, **settings: Any) -> TargetConfig:
        return super().through(port, **({"endpoint": f"127.0.0.1:{port}"} | settings))

    @contextmanager
    def outage(self) -> Iterator[None]:
        with super().outage():
            yield
        guard().wait()

    def stranger(self) -> TargetConfig:
        file = key_file(self.folder / "stranger.json", new_key(), "wrong-secret")
        return self.config(provider_config=self.own | {"credentials_file": str(file)})

    def certify(self, *, expired: bool = False) -> None:
        authority().issue(expired=expired)


@contextmanager
def guarded(folder: Path) -> Iterator[Counterpart]:
    yield GuardedProject(folder, payload="reading")


@contextmanager
def packed(_: Path) -> Iterator[Counterpart]:
    yield Project(payload="array")


PROVIDERS = [
    Provider(
        "google-pubsub",
        "google-pubsub, reading, service account over TLS",
        guarded,
        counterpart="Google Pub/Sub fake",
        able=frozenset({"network", "credentials", "certificates"}),
        ordered=True,
        largest=10_000_000,
    ),
    Provider(
        "google-pubsub",
        "google-pubsub, array",
        packed,
        counterpart="Google Pub/Sub fake",
        able=frozenset({"network"}),
        ordered=True,
        largest=10_000_000,
    ),
]
