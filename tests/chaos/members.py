"""A gateway of chaos that is one of several: it reads the sources that are its own, each with a file that only one may lock."""

import fcntl
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from typing_extensions import override

from config.members import Membership, own, owners
from config.models import Configuration, LeaseSection
from connectors.contract import Context, Intake, Reader
from tests.chaos.gateway import OPTIONS, Setup, SourceSetup, TargetSetup, acked_file, configuration
from tests.chaos.numbered import NumberedConfig, NumberedReader


@dataclass
class MemberSetup(Setup):
    """What one of several gateways is made of.

    Attributes:
        member: Its number.
        members: How many there are.
        shared: Where the files of the sources are.
        leases: Where sources are held; empty for nowhere.
    """

    member: int = 0
    members: int = 1
    shared: str = ""
    leases: dict[str, Any] = field(default_factory=dict)


def twice_file(directory: Path, source: str) -> Path:
    """Has a byte for each time that a source was read while another gateway read it."""
    return directory / f"{source}.twice"


class LockedConfig(NumberedConfig):
    """A numbered source that notices when two read it."""

    @override
    def reader(self, context: Context) -> Reader:
        return _LockedReader(self)


class _LockedReader(NumberedReader):
    def __init__(self, config: LockedConfig) -> None:
        super().__init__(config)
        self._place = config.acked

    @override
    async def run(self, intake: Intake, state: bytes | None) -> None:
        with self._place.with_suffix(".lock").open("ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # a killed process lets it go
            except BlockingIOError:
                with twice_file(self._place.parent, self._place.stem).open("ab") as noted:
                    noted.write(b"!")
            await super().run(intake, state)


def of_member(directory: Path) -> Configuration:
    """The configuration of the member in `directory`."""
    known = json.loads((directory / OPTIONS).read_text())
    known["sources"] = [SourceSetup(**source) for source in known["sources"]]
    known["targets"] = [TargetSetup(**target) for target in known["targets"]]
    setup = MemberSetup(**known)
    shared = Path(setup.shared)
    sources = [
        LockedConfig(
            name=source.name, protocol=source.protocol, rate=source.rate, acked=acked_file(shared, source.name)
        )
        for source in setup.sources
    ]
    membership = Membership(setup.member, setup.members, owners(sources, setup.members))
    return replace(
        configuration(directory, setup),
        sources=() if setup.idle else own(sources, membership),
        membership=membership,
        leases=LeaseSection.model_validate(setup.leases) if setup.leases else None,
    )
