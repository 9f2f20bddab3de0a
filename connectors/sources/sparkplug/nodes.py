"""What is known of an edge node and its devices, how it is kept between runs, and what is asked and told because of it."""

from dataclasses import dataclass, field

import msgspec


@dataclass(slots=True)
class Metric:
    """A metric as its birth described it; `tag` is its row of the tag table."""

    name: str
    datatype: int
    unit: str
    metadata: dict[str, str]
    tag: int


@dataclass(slots=True)
class Owner:
    """An edge node (device "") or one of its devices."""

    device: str
    metrics: dict[str, Metric] = field(default_factory=dict)
    born: bool = False
    live: bool = False


@dataclass(slots=True)
class Node:
    """An edge node as its messages show it.

    Attributes:
        bdseq: Number of the connection that its birth named.
        seq: Sequence number of its last message; None when the next may have any.
        heard: When its last message came, on the clock of `SparkplugHost.receive`; None before the first of a connection.
        aliases: Device and metric by alias.
        asked: When it was last asked for its births.
    """

    group: str
    node: str
    bdseq: int | None = None
    seq: int | None = None
    heard: float | None = None
    owners: dict[str, Owner] = field(default_factory=dict)
    aliases: dict[int, tuple[str, Metric]] = field(default_factory=dict)
    asked: float | None = None

    def owner(self, device: str) -> Owner:
        """The device, made if it is new; the edge node itself for ""."""
        found = self.owners.get(device)
        if found is None:
            found = self.owners[device] = Owner(device)
        return found

    def tags(self) -> list[int]:
        """Rows of the tag table of all its metrics."""
        return [m.tag for owner in self.owners.values() for m in owner.metrics.values() if m.tag >= 0]


@dataclass(frozen=True, slots=True)
class RebirthRequest:
    """An edge node that must be asked for its births, and why."""

    group: str
    node: str
    reason: str

    @property
    def topic(self) -> str:
        """Topic of the command (§4)."""
        return f"spBv1.0/{self.group}/NCMD/{self.node}"


@dataclass(frozen=True, slots=True)
class Missed:
    """Messages of an edge node that did not come: its tags, since when, on the clock of `receive`, and why."""

    tags: list[int]
    since: float
    reason: str


StoredMetric = tuple[str, int | None, int, str, dict[str, str]]
StoredOwner = tuple[str, bool, bool, list[StoredMetric]]


class StoredNode(msgspec.Struct, array_like=True):
    """An edge node as it is kept; each owner with whether it is born and live, and its metrics with their aliases."""

    group: str
    node: str
    bdseq: int | None
    owners: list[StoredOwner]
    seq: int | None = None
