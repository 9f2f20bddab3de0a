"""What the writer suite needs to know of a target: how to start its real counterpart, and how to read back from it.

A target takes part by a module in `tests/contract/writers/` that has a list ``PROVIDERS``; the suite finds it by itself.
"""

import pkgutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

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


@dataclass(frozen=True)
class Provider:
    """One way to use a target.

    Attributes:
        type: `type` of the target's configuration.
        name: Name shown for the tests; the type and what is special.
        start: Starts the counterpart with files in the given folder.
        refuses: Names of the `readings.SAMPLES` that the target's own format has no way to say; each must come back as
            a rejected record, and no other may.
    """

    type: str
    name: str
    start: Callable[[Path], AbstractContextManager[Counterpart]]
    refuses: frozenset[str] = frozenset()


def providers() -> list[Provider]:
    """The providers of all modules in `writers/`."""
    modules = sorted(path.stem for path in (Path(__file__).parent / "writers").glob("*.py"))
    return [one for module in modules for one in import_module(f"tests.contract.writers.{module}").PROVIDERS]


def target_types() -> set[str]:
    """The types of all targets there are: each `TargetConfig` under `connectors.targets` that fixes its `type`."""
    for module in pkgutil.walk_packages(connectors.targets.__path__, "connectors.targets."):
        import_module(module.name)
    types: set[str] = set()
    waiting: list[type[TargetConfig]] = [TargetConfig]
    while waiting:
        config = waiting.pop()
        waiting += config.__subclasses__()
        default = config.model_fields["type"].default
        if config.__module__.startswith("connectors.targets") and isinstance(default, str):
            types.add(default)
    return types
