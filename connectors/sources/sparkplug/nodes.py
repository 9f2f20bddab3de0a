"""What is known of an edge node and its devices, and what is asked and told because of it."""

from dataclasses import dataclass, field
from typing import Any, Final

from connectors.wire.sparkplug import Topic

CYCLE: Final = 256
"""How many sequence numbers there are."""

_INCOMPLETE: Final = frozenset({"unknown alias", "unknown metric"})
_MOST_FUTILE: Final = 7  # 128 intervals


@dataclass(slots=True)
class Metric:
    """A metric as its birth described it; `tag` is its row of the tag table, -1 for what is no reading."""

    name: str
    datatype: int
    unit: str
    metadata: dict[str, str]
    tag: int


@dataclass(slots=True)
class Owner:
    """An edge node (device "") or one of its devices.

    Attributes:
        born: Its birth holds, so that data can refer to it.
        live: Its tags are not stale.
        metrics: By name, of its last birth.
        aliases: Metrics by the alias of its last birth; None for an alias that it gave to two of them. All of an edge node
            share one space, but as every message names its device, one that is used twice there is no harm.
        remembered: What `columns` has learnt of it since its last birth.
    """

    device: str
    metrics: dict[str, Metric] = field(default_factory=dict)
    born: bool = False
    live: bool = False
    aliases: dict[int, Metric | None] = field(default_factory=dict)
    remembered: dict[bytes, Any] = field(default_factory=dict)

    def tags(self) -> list[int]:
        """Rows of the tag table of its metrics."""
        return [metric.tag for metric in self.metrics.values() if metric.tag >= 0]


@dataclass(slots=True, eq=False)
class Held:
    """A message that is not read yet, or not all of it.

    Attributes:
        topic: Its topic.
        payload: Its bytes.
        head: Bits of its MQTT header.
        since: When it came, on the clock of `SparkplugHost.receive`.
        seq: Its sequence number, None when it has none.
        places: Its metrics that wait for their birth, by place; None while the whole message waits for its turn.
    """

    topic: Topic
    payload: bytes
    head: int
    since: float
    seq: int | None = None
    places: list[int] | None = None


@dataclass(slots=True)
class Node:
    """An edge node as its messages show it.

    Attributes:
        bdseq: Number of the connection that its birth named.
        seq: Sequence number of its last message; None when the next may have any.
        heard: When its last message came, on the clock of `SparkplugHost.receive`; None before the first of a connection.
        owners: Itself and its devices, by device.
        asked: When it was last asked for its births.
        futile: How often in a row it was asked because of metrics that its births leave out.
        trusted: No birth can have been missed since the last one known.
        early: Messages by sequence number that came before one that is missing.
        lost: Sequence numbers that were waited for in vain, so that they are late and not early when they come.
        waiting: Messages that wait for a birth, oldest first.
        hasty: Devices, by sequence number, whose birth came before that of the edge node.
        hasty_since: When the first of them came.
    """

    group: str
    node: str
    bdseq: int | None = None
    seq: int | None = None
    heard: float | None = None
    owners: dict[str, Owner] = field(default_factory=dict)
    asked: float | None = None
    futile: int = 0
    trusted: bool = True
    early: dict[int, Held] = field(default_factory=dict)
    lost: set[int] = field(default_factory=set)
    waiting: list[Held] = field(default_factory=list)
    hasty: dict[int, str] = field(default_factory=dict)
    hasty_since: float = 0.0

    def owner(self, device: str) -> Owner:
        """The device, made if it is new; the edge node itself for ""."""
        found = self.owners.get(device)
        if found is None:
            found = self.owners[device] = Owner(device)
        return found

    @property
    def born(self) -> bool:
        """Whether the birth of the edge node itself holds."""
        owner = self.owners.get("")
        return owner is not None and owner.born

    def tags(self) -> list[int]:
        """Rows of the tag table of all its metrics."""
        return [tag for owner in self.owners.values() for tag in owner.tags()]

    def unborn(self) -> None:
        """Believe no birth any more; the metrics are kept, so that they can be told to be stale."""
        for owner in self.owners.values():
            owner.born = False
        self.hasty.clear()
        self.lost.clear()
        self.seq = None
        self.trusted = True

    def may_be_asked(self, reason: str, now: float, interval: float) -> bool:
        """Whether it is time to ask it for its births; if so, it counts as asked now."""
        if self.asked is not None and now - self.asked < interval * 2**self.futile:
            return False
        again = self.asked is not None and reason in _INCOMPLETE
        self.asked, self.futile = now, min(self.futile + 1, _MOST_FUTILE) if again else 0
        return True

    def since(self) -> float | None:
        """When that which is waited for longest began; None when nothing is waited for."""
        moments = [held.since for held in self.early.values()]
        if self.waiting:
            moments.append(self.waiting[0].since)
        if self.hasty:
            moments.append(self.hasty_since)
        return min(moments, default=None)


@dataclass(frozen=True, slots=True)
class RebirthRequest:
    """An edge node that must be asked for its births, and why."""

    group: str
    node: str
    reason: str

    @property
    def topic(self) -> str:
        """Topic of the command (§4)."""
        return str(Topic(self.group, "NCMD", self.node, ""))


@dataclass(frozen=True, slots=True)
class Missed:
    """Messages of an edge node that did not come: its tags, from when until when on the clock of `receive`, and why."""

    tags: list[int]
    since: float
    until: float
    reason: str
