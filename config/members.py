"""Which member of a plant's gateways owns which source. Pure, and the same in every member: nobody has to be asked.

By rendezvous hashing: each member draws a number for a source, and the largest owns it. So a member that comes takes sources
from the others and moves none between them, and one that goes (the last of them) gives its own away and moves no other.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from connectors.settings import SourceConfig

PODS: Final = ("POD_NAME", "BYTEWAX_POD_NAME")  # environment variables that name the pod of a StatefulSet, as `name-3`
_ORDINAL: Final = re.compile(r"-(0|[1-9]\d{0,3})$")


@dataclass(frozen=True, slots=True)
class Membership:
    """What a gateway is among its plant's gateways.

    Attributes:
        member: Its number, from 0.
        members: How many there are.
        owners: Every source of the plant with the member that owns it.
    """

    member: int
    members: int
    owners: Mapping[str, int] = field(default_factory=dict)

    @property
    def elsewhere(self) -> dict[str, int]:
        """The sources that other members own."""
        return {source: owner for source, owner in self.owners.items() if owner != self.member}

    @property
    def leaves(self) -> bool:
        """Whether it is beyond the members: it reads no source, and delivers what it holds."""
        return self.member >= self.members

    def told(self) -> str:
        """In a line."""
        if self.leaves:
            return f"member {self.member} of {self.members} (0 to {self.members - 1}): leaving, reads no source"
        return f"member {self.member} of {self.members}"


def owner(source: str, members: int) -> int:
    """The member that owns a source.

    Args:
        source: Name of the source.
        members: How many members there are.
    """
    return max(range(members), key=lambda member: hashlib.sha256(f"{member} {source}".encode()).digest())


def owners(sources: Iterable[SourceConfig], members: int) -> dict[str, int]:
    """The owner of every source: the member that it names itself, else by `owner`."""
    return {source.name: owner(source.name, members) if source.member is None else source.member for source in sources}


def own(sources: Sequence[SourceConfig], membership: Membership | None) -> tuple[SourceConfig, ...]:
    """The sources that a member reads; all of them where there are no members."""
    if membership is None:
        return tuple(sources)
    return tuple(source for source in sources if membership.owners[source.name] == membership.member)


def ordinal(environment: Mapping[str, str]) -> int | None:
    """The member's number by the name of its pod; None where there is none."""
    for variable in PODS:
        if (found := _ORDINAL.search(environment.get(variable, ""))) is not None:
            return int(found[1])
    return None


def member_name(name: str, member: int) -> str:
    """The name of a member, which no other member has."""
    return name if name.endswith(f"-{member}") else f"{name}-{member}"
