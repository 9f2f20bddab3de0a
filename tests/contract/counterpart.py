"""What the writer suite needs to know of a target: how to start its real counterpart, and how to read back from it.

A target takes part by a module in `tests/contract/writers/` that has a list ``PROVIDERS``; the suite finds it by itself.
"""

import pkgutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Literal, Protocol

import connectors.targets
from connectors.settings import TargetConfig
from tests.contract.readings import Row


class Counterpart(Protocol):
    """A running system that a writer writes to."""

    def config(self, **settings: Any) -> TargetConfig:
        """A configuration of the target with this counterpart as its endpoint; `settings` are set on top."""

    def rows(self) -> list[Row]:
        """Every reading that the counterpart has, as often as it has it, read by other means than ours."""

    def outage(self) -> AbstractContextManager[None]:
        """Nothing can be written meanwhile; what was written before is there again afterwards."""


class Networked(Counterpart, Protocol):
    """A counterpart that is reached over TCP.

    Attributes:
        port: Where it listens on 127.0.0.1; a relay passes on to it.
        relay_port: Where that relay must listen, because the counterpart tells its clients so; 0 for anywhere.
    """

    port: int
    relay_port: int

    def through(self, port: int, **settings: Any) -> TargetConfig:
        """As `config`, with the counterpart at this port of 127.0.0.1."""


class Guarded(Counterpart, Protocol):
    """A counterpart that knows its users."""

    def stranger(self) -> TargetConfig:
        """As `config`, with credentials that are wrong; a secret in them is or holds ``wrong-secret``."""


class Certified(Counterpart, Protocol):
    """A counterpart with TLS, whose certificate and authority, and those of the client, are files that `config` names."""

    def certify(self, *, expired: bool = False) -> None:
        """Replace authority and certificates by new ones; with `expired`, the counterpart's own has run out."""


Ability = Literal["network", "credentials", "certificates"]


@dataclass(frozen=True)
class Provider:
    """One way to use a target.

    Attributes:
        type: `type` of the target's configuration.
        name: Name shown for the tests; the type and what is special.
        start: Starts the counterpart with files in the given folder.
        refuses: Names of the `readings.SAMPLES` that the target's own format has no way to say; each must come back as
            a rejected record, and no other may.
        counterpart: Name of the software that the target is tested against, as `tests.interop.version` knows it.
        able: What the counterpart can do: `Networked`, `Guarded`, `Certified`.
        ordered: Whether `Counterpart.rows` gives the readings of a tag in the order in which the target took them.
        largest: Bytes that a reading can never have in this target; None where there is no such limit.
        names: Whether every name can be written; else some are refused.
        shows: What of a reading can be seen in the target.
        columns: Whether a tag has a column of its own: then its values are of one kind, and there are not many.
    """

    type: str
    name: str
    start: Callable[[Path], AbstractContextManager[Counterpart]]
    refuses: frozenset[str] = frozenset()
    counterpart: str = ""
    able: frozenset[Ability] = field(default_factory=frozenset)
    ordered: bool = False
    largest: int | None = None
    names: bool = True
    shows: Callable[[Row], Row] = lambda row: row
    columns: bool = False


def providers() -> list[Provider]:
    """The providers of all modules in `writers/`, and those that installed packages bring."""
    modules = sorted(path.stem for path in (Path(__file__).parent / "writers").glob("*.py"))
    own = [one for module in modules for one in import_module(f"tests.contract.writers.{module}").PROVIDERS]
    brought = [one for entry in entry_points(group="bifrost.contract_providers") for one in entry.load()]
    return own + brought


def target_types() -> set[str]:
    """The types of all targets there are: each `TargetConfig` under `connectors.targets`, or in an installed package."""
    brought = tuple(entry.load() for entry in entry_points(group="bifrost.connectors"))
    for module in pkgutil.walk_packages(connectors.targets.__path__, "connectors.targets."):
        import_module(module.name)
    types: set[str] = set()
    waiting: list[type[TargetConfig]] = [TargetConfig]
    while waiting:
        config = waiting.pop()
        waiting += config.__subclasses__()
        default = config.model_fields["type"].default
        if (config.__module__.startswith("connectors.targets") or config in brought) and isinstance(default, str):
            types.add(default)
    return types
