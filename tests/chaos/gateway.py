"""The gateway that chaos runs: the product's flow between numbered sources and targets of frames.

python -m tests.chaos.gateway DIRECTORY            as `bifrost run` does
python -m tests.chaos.gateway DIRECTORY --ledger   prints what `bifrost ledger --json` prints
python -m bytewax.run tests.chaos.gateway:flow -r DIRECTORY/data/recovery -s 1 -b 0     with CHAOS_DIRECTORY set
"""

import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

if __name__ == "__main__":
    from flows import leave_on_signals

    leave_on_signals()  # as the command line does before it imports anything else

from bytewax.dataflow import Dataflow

from config.models import Configuration
from flows import gateway
from normalization.rules import Rule
from tests.chaos.numbered import FramesConfig, NumberedConfig

OPTIONS = "options.json"


@dataclass
class SourceSetup:
    """One numbered source."""

    name: str
    protocol: Literal["mqtt", "modbus", "opcua"]
    rate: int = 700
    padding: int = 0


@dataclass
class TargetSetup:
    """One target of frames."""

    name: str
    remembers: bool = False
    rows: int = 2000


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
    """

    stores: str
    sources: list[SourceSetup]
    targets: list[TargetSetup]
    gateway: str = "chaos"
    idle: bool = False
    memory_rows: int = 100_000

    def save(self, directory: Path) -> None:
        """Write it where the gateway reads it."""
        (directory / OPTIONS).write_text(json.dumps(asdict(self), indent=1))

    @staticmethod
    def load(directory: Path) -> "Setup":
        """Read what `save` wrote."""
        known = json.loads((directory / OPTIONS).read_text())
        sources = [SourceSetup(**source) for source in known.pop("sources")]
        targets = [TargetSetup(**target) for target in known.pop("targets")]
        return Setup(**known, sources=sources, targets=targets)


def acked_file(directory: Path, source: str) -> Path:
    """Where the numbers of a source that were acknowledged are."""
    return directory / f"{source}.acked"


def frames_file(directory: Path, target: str) -> Path:
    """Where a target keeps its frames."""
    return directory / f"{target}.frames"


def control_file(directory: Path, target: str) -> Path:
    """What says how a target behaves."""
    return directory / "control" / f"{target}.way"


def configuration(directory: Path) -> Configuration:
    """The configuration of the gateway in `directory`."""
    setup = Setup.load(directory)
    targets = {
        target.name: FramesConfig(
            path=frames_file(directory, target.name),
            control=control_file(directory, target.name),
            remembers=target.remembers,
            rows=target.rows,
            retry_delay=0.1,
        )
        for target in setup.targets
    }
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
        rules=(Rule("everything", "TRUE", tuple(targets)),),
        default=tuple(targets),
        port=None,
        log_level="warning",
        memory_rows=setup.memory_rows,
        probe_interval=2.0,
    )


def flow() -> Dataflow:
    """What `bytewax.run` starts."""
    return gateway.flow(configuration(Path(os.environ["CHAOS_DIRECTORY"])))


def main(arguments: list[str]) -> int:
    """Run the gateway, or print its account."""
    from bifrost.run import account, run

    found = configuration(Path(arguments[0]))
    if "--ledger" in arguments:
        sys.stdout.write(json.dumps(account(found)) + "\n")
        return 0
    return run(found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
