"""What the reader suite needs to know of a protocol: how to start a real device or broker, and what it then does.

A protocol takes part by a module in `tests/contract/readers/` that has a list ``PROVIDERS``; the suite finds it by itself.
"""

import pkgutil
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Protocol, get_args

import connectors.sources
from config.models import Source
from connectors.settings import SourceConfig
from normalization.reading import Quality, ValueType
from tests.contract.relay import Relay

NUMBER = "number"
"""Name of the tag whose values are numbers that the test chooses."""


@dataclass(frozen=True)
class Known:
    """A reading that the device gives; the value of a JSON is what its text means."""

    tag_name: str
    type: ValueType
    value: Any
    quality: Quality = Quality.GOOD


class Device(Protocol):
    """A running system that a reader reads, reached through a relay.

    Attributes:
        relay: Between reader and device.
        scheme: What stands before host and port in an endpoint.
        known: The readings that it gives, one for each type of value that its protocol has.
        pushes: The device sends each value; otherwise the reader asks, and sees the values of those moments.
        patience: Settings with which the reader waits half a minute for an answer.
    """

    relay: Relay
    scheme: str
    known: ClassVar[list[Known]]
    pushes: bool
    patience: ClassVar[dict[str, Any]]

    def config(self, **settings: Any) -> SourceConfig:
        """A configuration of the source with the relay as its endpoint and short times; `settings` are set on top."""

    async def welcome(self) -> None:
        """A reader has connected: the device gives `known` (what it gives by itself needs nothing)."""

    async def show(self, number: int) -> None:
        """The tag `NUMBER` has this value from now on."""

    async def corrupt(self) -> bytes:
        """The device sends something that is broken, once; returns bytes that the raw content of the reject must have."""

    def acknowledged(self) -> int | None:
        """How many messages the reader has acknowledged; None where the protocol has no acknowledgement."""

    def login(self, password: str) -> dict[str, Any] | None:
        """Settings with a password that is wrong; None where the protocol knows no users."""

    def wrong(self) -> tuple[dict[str, Any], str]:
        """Settings that this device cannot satisfy, and a word that a finding of `check` must have for it."""


@dataclass(frozen=True)
class Provider:
    """One way to read a protocol.

    Attributes:
        protocol: `protocol` of the source's configuration.
        name: Name shown for the tests; the protocol and what is special.
        start: Starts the device with files in the given folder.
    """

    protocol: str
    name: str
    start: Callable[[Path], AbstractAsyncContextManager[Device]]


def providers() -> list[Provider]:
    """The providers of all modules in `readers/`."""
    modules = sorted(path.stem for path in (Path(__file__).parent / "readers").glob("*.py"))
    return [one for module in modules for one in import_module(f"tests.contract.readers.{module}").PROVIDERS]


def configured_protocols() -> set[str]:
    """The protocols that a configuration file can name: the members of the union of sources."""
    union, *_ = get_args(Source)
    return {str(member.model_fields["protocol"].default) for member in get_args(union)}


def implemented_protocols() -> set[str]:
    """The protocols of each `SourceConfig` under `connectors.sources`."""
    for module in pkgutil.walk_packages(connectors.sources.__path__, "connectors.sources."):
        import_module(module.name)
    protocols: set[str] = set()
    waiting: list[type[SourceConfig]] = [SourceConfig]
    while waiting:
        config = waiting.pop()
        waiting += config.__subclasses__()
        default = config.model_fields["protocol"].default
        if config.__module__.startswith("connectors.sources") and isinstance(default, str):
            protocols.add(default)
    return protocols
