"""The gateway that chaos runs: the product's flow between numbered sources and targets of frames.

python -m tests.chaos.gateway DIRECTORY            as `bifrost run` does
python -m tests.chaos.gateway DIRECTORY --ledger   prints what `bifrost ledger --json` prints
python -m bytewax.run tests.chaos.gateway:flow -r DIRECTORY/data/recovery -s 1 -b 0     with CHAOS_DIRECTORY set
"""

import json
import os
import sys
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Literal

if __name__ == "__main__":
    from flows import leave_on_signals

    leave_on_signals()  # as the command line does before it imports anything else

from bytewax.dataflow import Dataflow
from typing_extensions import override

from config.models import Configuration
from connectors.settings import TargetConfig
from delivery.overflow import BufferPolicy, Overflow
from flows import gateway
from flows.process import Process
from normalization.rules import Rule
from tests.chaos.network import RemoteConfig
from tests.chaos.numbered import FramesConfig, NumberedConfig

OPTIONS: Final = "options.json"
_TIMEOUT: Final = 2.0  # seconds that a target in the network has to answer


@dataclass
class SourceSetup:
    """One numbered source."""

    name: str
    protocol: Literal["mqtt", "modbus", "opcua"]
    rate: int = 700
    padding: int = 0


@dataclass
class TargetSetup:
    """One target of frames.

    Attributes:
        name: Its name.
        remembers: Whether it knows the number of the last unit that it took.
        rows: Readings in one write.
        port: Where its station listens; 0 when it is a file.
        overflow: What happens when its spool is full; empty for the default.
        quota_readings: How many readings its spool holds; None for no bound.
    """

    name: str
    remembers: bool = False
    rows: int = 2000
    port: int = 0
    overflow: str = ""
    quota_readings: int | None = None


@dataclass
class RuleSetup:
    """A rule beside the one that sends everything everywhere: readings that match go to `targets`, with a priority."""

    name: str
    condition: str
    targets: list[str]
    priority: int


@dataclass
class Setup:
    """What the gateway is made of; kept as JSON beside its stores.

    Attributes:
        stores: Its directory.
        sources: Its sources.
        targets: Its targets.
        gateway: Its name.
        idle: Whether the sources are left out.
        memory_rows: Readings held in memory per target.
        rules: More rules.
    """

    stores: str
    sources: list[SourceSetup]
    targets: list[TargetSetup]
    gateway: str = "chaos"
    idle: bool = False
    memory_rows: int = 100_000
    rules: list[RuleSetup] = field(default_factory=list)

    def save(self, directory: Path) -> None:
        """Write it where the gateway reads it."""
        (directory / OPTIONS).write_text(json.dumps(asdict(self), indent=1))

    @staticmethod
    def load(directory: Path) -> "Setup":
        """Read what `save` wrote."""
        known = json.loads((directory / OPTIONS).read_text())
        sources = [SourceSetup(**source) for source in known.pop("sources")]
        targets = [TargetSetup(**target) for target in known.pop("targets")]
        rules = [RuleSetup(**rule) for rule in known.pop("rules")]
        rest = {each.name: known[each.name] for each in fields(Setup) if each.name in known}
        return Setup(**rest, sources=sources, targets=targets, rules=rules)


def acked_file(directory: Path, source: str) -> Path:
    """Where the numbers of a source that were acknowledged are."""
    return directory / f"{source}.acked"


def frames_file(directory: Path, target: str) -> Path:
    """Where a target keeps its frames."""
    return directory / f"{target}.frames"


def applied_file(directory: Path) -> Path:
    """Where a line is written when the gateway runs as its options say now."""
    return directory / "applied"


def control_file(directory: Path, target: str) -> Path:
    """What says how a target behaves."""
    return directory / "control" / f"{target}.way"


def _target(directory: Path, target: TargetSetup) -> TargetConfig:
    common: dict[str, Any] = {"remembers": target.remembers, "rows": target.rows, "retry_delay": 0.1}
    if target.port:
        return RemoteConfig(port=target.port, timeout=_TIMEOUT, **common)
    return FramesConfig(
        path=frames_file(directory, target.name), control=control_file(directory, target.name), **common
    )


def configuration(directory: Path, known: Setup | None = None) -> Configuration:
    """The configuration of the gateway in `directory`."""
    if known is None and "CHAOS_MEMBER" in os.environ:
        from tests.chaos.members import of_member

        return of_member(directory)
    setup = known or Setup.load(directory)
    targets = {target.name: _target(directory, target) for target in setup.targets}
    more = [
        Rule(rule.name, rule.condition, there, rule.priority)
        for rule in setup.rules
        if (there := tuple(name for name in rule.targets if name in targets))
    ]
    return Configuration(
        gateway=setup.gateway,
        directory=Path(setup.stores),
        sources=()
        if setup.idle
        else tuple(
            NumberedConfig(
                name=source.name,
                protocol=source.protocol,
                rate=source.rate,
                padding=source.padding,
                acked=acked_file(directory, source.name),
            )
            for source in setup.sources
        ),
        targets=targets,
        rules=(Rule("everything", "TRUE", tuple(targets)), *more),
        default=tuple(targets),
        port=None,
        log_level="warning",
        memory_rows=setup.memory_rows,
        probe_interval=2.0,
        buffers={
            target.name: BufferPolicy(overflow=Overflow(target.overflow), rows=target.quota_readings)
            for target in setup.targets
            if target.overflow
        },
    )


def flow() -> Dataflow:
    """What `bytewax.run` starts."""
    return gateway.flow(configuration(Path(os.environ["CHAOS_DIRECTORY"])))


class _Process(Process):
    """Its options are what its files would be."""

    def __init__(self, directory: Path) -> None:
        super().__init__(configuration(directory))
        self._folder = directory

    @override
    def reload(self) -> None:
        self.apply(configuration(self._folder))
        with applied_file(self._folder).open("a") as done:
            done.write("applied\n")


def main(arguments: list[str]) -> int:
    """Run the gateway, or print its account."""
    from bifrost.run import account, run_process

    directory = Path(arguments[0])
    if "--ledger" in arguments:
        sys.stdout.write(json.dumps(account(configuration(directory))) + "\n")
        return 0
    return run_process(_Process(directory))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
