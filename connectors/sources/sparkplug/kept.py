"""What is kept of the edge nodes between runs: births, which change rarely, and progress, which changes with each message."""

import struct
import zlib
from collections.abc import Iterable

import msgspec

from connectors.sources.sparkplug.decode import TagOf, describe
from connectors.sources.sparkplug.nodes import Held, Node, Owner
from connectors.wire.sparkplug import Topic

_NO_SEQ = 256

_StoredMetric = tuple[str, int | None, int, str, dict[str, str]]
_StoredOwner = tuple[str, bool, bool, list[_StoredMetric]]
_StoredHeld = tuple[Topic, bytes, int, int | None, list[int] | None]


class _StoredNode(msgspec.Struct, array_like=True):
    """An edge node; each owner with whether it is born and live, and its metrics with their aliases."""

    group: str
    node: str
    bdseq: int | None
    owners: list[_StoredOwner]
    seq: int | None = None


class _Progress(msgspec.Struct, array_like=True):
    """Two bytes a node, in the order of the births, for its sequence number; and the messages that are held."""

    seqs: bytes = b""
    held: list[_StoredHeld] = []


def _with_owners(nodes: Iterable[Node]) -> list[Node]:
    return [node for node in nodes if node.owners]  # nothing is known of the others


def dump_births(nodes: Iterable[Node]) -> bytes:
    """The births of all edge nodes."""
    stored = [
        _StoredNode(
            node.group, node.node, node.bdseq, [_dump_owner(node, owner) for owner in node.owners.values()], node.seq
        )
        for node in _with_owners(nodes)
    ]
    return zlib.compress(msgspec.msgpack.encode(stored), 1)


def _dump_owner(node: Node, owner: Owner) -> _StoredOwner:
    alias_of = {id(metric): alias for alias, metric in owner.aliases.items()}
    metrics = [(m.name, alias_of.get(id(m)), m.datatype, m.unit, m.metadata) for m in owner.metrics.values()]
    return owner.device, owner.born and node.trusted, owner.live, metrics


def load_births(data: bytes, tag_of: TagOf) -> list[Node]:
    """What `dump_births` was given.

    Raises:
        ValueError: `data` is not what it returned; also as ``zlib.error``.
    """
    nodes = []
    for stored in msgspec.msgpack.decode(zlib.decompress(data), type=list[_StoredNode]):
        node = Node(stored.group, stored.node, stored.bdseq, stored.seq)
        for device, born, live, metrics in stored.owners:
            owner = node.owners[device] = Owner(device, born=born, live=live)
            for name, alias, datatype, unit, metadata in metrics:
                metric = describe(node, owner, name, datatype, unit, metadata, tag_of)
                if alias is not None:
                    owner.aliases[alias] = metric
        nodes.append(node)
    return nodes


def dump_progress(nodes: Iterable[Node]) -> bytes:
    """How far the messages of each edge node have come, and those that are held; goes with the births last dumped."""
    known = list(nodes)
    sound = _with_owners(known)
    seqs = struct.pack(f"<{len(sound)}H", *[_NO_SEQ if node.seq is None else node.seq for node in sound])
    held = [
        (held.topic, held.payload, held.head, held.seq, held.places)
        for node in known
        if node.early or node.waiting
        for held in (*node.early.values(), *node.waiting)
    ]
    return msgspec.msgpack.encode(_Progress(seqs, held))


def load_progress(data: bytes, nodes: list[Node], now: float) -> list[Held]:
    """Bring `nodes`, just loaded, up to what was dumped.

    Returns:
        The messages that were held, as if they had come now.

    Raises:
        ValueError: `data` is not what `dump_progress` returned.
    """
    progress = msgspec.msgpack.decode(data, type=_Progress)
    if len(progress.seqs) == 2 * len(nodes):
        for node, seq in zip(nodes, struct.unpack(f"<{len(nodes)}H", progress.seqs), strict=True):
            node.seq = seq if seq < _NO_SEQ else None
    return [Held(topic, payload, head, now, seq, places) for topic, payload, head, seq, places in progress.held]
