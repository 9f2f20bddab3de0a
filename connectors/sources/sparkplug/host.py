"""Sparkplug B host: the state machine that turns an edge node's messages into readings (specification 3.0, §5 and §6).

Pure: payloads and a clock value in, readings and rebirth requests out; `connectors.sources.mqtt` does the I/O. Births give
the metrics their names, types and aliases; data refers to them; deaths make them STALE. What cannot be told without a birth
becomes a reject row with the payload, and the edge node is asked for its births, at most once in `rebirth_interval`.
"""

import zlib
from collections.abc import Callable
from typing import Any, Final

import msgspec

from connectors.sources.sparkplug.nodes import Metric, Missed, Node, Owner, RebirthRequest, StoredNode
from connectors.wire.sparkplug import (
    REBIRTH,
    Topic,
    metric_name,
    metric_value,
    properties_of,
    quality_of,
)
from connectors.wire.sparkplug_messages import decode_payload
from normalization.reading import Columns, Flags, Quality, to_json

_NOT_READINGS: Final = frozenset({REBIRTH, "bdSeq"})
_RETAINED = 1

TagOf = Callable[[str, str, str, str, dict[str, str]], int]
"""Row of the tag table for device_id, address, tag name, unit and metadata."""


class SparkplugHost:
    """What is known of all edge nodes of one source.

    Attributes:
        changed: Births or deaths have come since `state` was last called, so that it should be committed again.
        rebirths: Requests by reason, for people and metrics.
        missed: What the message received last showed to be missing.
    """

    def __init__(
        self,
        tag_of: TagOf,
        reject_tag: Callable[[], int],
        rebirth_interval: float = 30.0,
        max_nodes: int = 10_000,
        max_devices: int = 100_000,
    ) -> None:
        """An empty table.

        Args:
            tag_of: Gives a metric its row of the tag table, once per metric and birth; raises ValueError to refuse it.
            reject_tag: Gives the row of the tag table for what cannot be told; its `properties` name the topic.
            rebirth_interval: Seconds between two rebirth requests to one edge node.
            max_nodes: Edge nodes that are followed; messages of further ones become reject rows.
            max_devices: Edge nodes and devices that are followed; births of further ones become reject rows.
        """
        self._tag_of = tag_of
        self._reject_tag = reject_tag
        self._interval = rebirth_interval
        self._max_nodes = max_nodes
        self._max_devices, self._devices = max_devices, 0
        self._nodes: dict[tuple[str, str], Node] = {}
        self._requests: list[RebirthRequest] = []
        self.changed = False
        self.rebirths: dict[str, int] = {}
        self.missed: list[Missed] = []

    def receive(self, topic: Topic, payload: bytes, head: int, now: float, rows: Columns) -> list[RebirthRequest]:
        """Take one message.

        Args:
            topic: Its parsed topic.
            payload: Its bytes.
            head: Bits of the MQTT header; 1 is retained.
            now: Seconds of a monotonic clock.
            rows: Its readings are appended here.

        Returns:
            Edge nodes to be asked for their births now.
        """
        self._requests, self.missed = [], []
        if topic.kind in {"NCMD", "DCMD"}:
            return []
        try:
            message = decode_payload(payload)
            node = self._node(topic)
            match topic.kind:
                case "NBIRTH" | "DBIRTH":
                    self._birth(node, topic, message, payload, head, now, rows)
                case "NDEATH":
                    self._node_death(node, message, rows)
                case "DDEATH":
                    self._sequence(node, message, now)
                    owner = node.owners.get(topic.device)
                    if owner is not None:
                        self._stale(owner, rows, _micros(message.timestamp) if message.HasField("timestamp") else None)
                        owner.born = False
                        self.changed = True
                case _:
                    self._data(node, topic, message, payload, head, now, rows)
            node.heard = now
        except ValueError as error:
            self._reject(topic, payload, str(error), rows)
        return self._requests

    def _node(self, topic: Topic) -> Node:
        node = self._nodes.get((topic.group, topic.node))
        if node is None:
            if len(self._nodes) >= self._max_nodes:
                raise ValueError(f"more than {self._max_nodes} edge nodes")
            node = self._nodes[topic.group, topic.node] = Node(topic.group, topic.node)
        return node

    def _birth(
        self, node: Node, topic: Topic, message: Any, payload: bytes, head: int, now: float, rows: Columns
    ) -> None:
        if topic.kind == "NBIRTH":
            for owner in node.owners.values():
                owner.born = False  # each device has to be born again, its metrics are kept until then
            node.aliases.clear()
            node.seq = message.seq % 256 if message.HasField("seq") else 0
            node.bdseq = next((int(m.long_value or m.int_value) for m in message.metrics if m.name == "bdSeq"), None)
        else:
            if not node.owner("").born:
                self._ask(node, "DBIRTH before NBIRTH", now)
            self._sequence(node, message, now)
        if topic.device not in node.owners:
            if self._devices >= self._max_devices:
                raise ValueError(f"more than {self._max_devices} edge nodes and devices")
            self._devices += 1
        self.changed = True
        owner = node.owner(topic.device)
        before, owner.metrics = owner.metrics, {}
        owner.born = owner.live = True
        broken: list[str] = []
        for item in message.metrics:
            try:
                metric = self._describe(node, owner, item)
                self._reading(metric, item, message, head, rows, birth=True)
            except ValueError as error:
                broken.append(str(error))
        gone = [metric for name, metric in before.items() if name not in owner.metrics]
        _add_stale(gone, rows, None)
        if broken:
            self._reject(topic, payload, "; ".join(broken[:5]), rows)

    def _describe(self, node: Node, owner: Owner, item: Any) -> Metric:
        name = metric_name(item)
        if not name:
            raise ValueError("a metric of a birth has no name")
        properties = properties_of(item)
        unit = properties.pop("engUnit", None)
        properties.pop("Quality", None)
        metadata = {
            key: value if isinstance(value, str) else to_json(value)
            for key, value in properties.items()
            if value is not None
        }
        description = item.metadata.description if item.HasField("metadata") else ""
        if description and isinstance(description, str):
            metadata["description"] = description
        metric = self._metric(node, owner, name, item.datatype, unit if isinstance(unit, str) else "", metadata)
        if item.HasField("alias"):
            node.aliases[item.alias] = (owner.device, metric)
        return metric

    def _metric(
        self, node: Node, owner: Owner, name: str, datatype: int, unit: str, metadata: dict[str, str]
    ) -> Metric:
        device_id = "/".join(filter(None, (node.group, node.node, owner.device)))
        address = f"{owner.device}/{name}" if owner.device else name
        tag = -1 if name in _NOT_READINGS else self._tag_of(device_id, address, name, unit, metadata)
        metric = owner.metrics[name] = Metric(name, datatype, unit, metadata, tag)
        return metric

    def _data(
        self, node: Node, topic: Topic, message: Any, payload: bytes, head: int, now: float, rows: Columns
    ) -> None:
        self._sequence(node, message, now)
        owner = node.owners.get(topic.device)
        unborn = owner is None or not owner.born or not node.owner("").born
        if unborn:
            self._ask(node, "data before birth", now)
        broken: list[str] = []
        aliases = node.aliases
        for item in message.metrics:
            try:
                metric = None
                if not unborn and owner is not None:
                    if item.HasField("alias"):
                        device, metric = aliases.get(item.alias, ("", None))
                        if metric is not None and device != topic.device:
                            metric = None
                    if metric is None and item.name:
                        metric = owner.metrics.get(metric_name(item))
                if metric is None:
                    what = f"alias {item.alias}" if item.HasField("alias") else f"metric `{item.name}`"
                    broken.append(f"{what} has no birth")
                    if not unborn:
                        self._ask(node, "unknown alias" if item.HasField("alias") else "unknown metric", now)
                    continue
                self._reading(metric, item, message, head, rows)
            except ValueError as error:
                broken.append(str(error))
        if broken:
            more = f" and {len(broken) - 5} more" if len(broken) > 5 else ""
            self._reject(topic, payload, "; ".join(broken[:5]) + more, rows)

    def _reading(
        self, metric: Metric, item: Any, message: Any, head: int, rows: Columns, *, birth: bool = False
    ) -> None:
        if metric.tag < 0:
            return
        datatype = item.datatype or metric.datatype
        try:
            value = metric_value(item, datatype)
        except ValueError as error:
            raise ValueError(f"metric `{metric.name}`: {error}") from None
        quality: int = Quality.GOOD
        status: int | None = None
        properties: str | None = None
        if item.HasField("properties"):
            given = properties_of(item)
            quality, status = quality_of(given)
            given.pop("Quality", None)
            given.pop("engUnit", None)
            if given and not birth:  # those of a birth are the tag's metadata
                properties = to_json(given)
        if value is None and quality == Quality.GOOD:
            quality = Quality.BAD  # there is no value, whatever its quality is said to be
        flags = head & _RETAINED
        if item.is_historical:
            flags |= Flags.HISTORICAL
        stamp = item.timestamp or message.timestamp
        rows.add(
            metric.tag,
            value,
            quality=quality,
            status=status,
            source_time=_micros(stamp) if stamp else None,
            flags=flags,
            properties=properties,
            unsigned=datatype == 8,
        )

    def _node_death(self, node: Node, message: Any, rows: Columns) -> None:
        if not any(owner.live for owner in node.owners.values()):
            return
        said = next((int(m.long_value or m.int_value) for m in message.metrics if m.name == "bdSeq"), None)
        if said is not None and node.bdseq is not None and said != node.bdseq:
            return  # the will of an earlier connection (tck-id-operational-behavior-host-application-death…)
        for owner in node.owners.values():
            # its timestamp is from when the will was registered and says nothing about now
            self._stale(owner, rows, None)
            owner.born = False
        node.aliases.clear()
        node.seq = None
        self.changed = True

    def _stale(self, owner: Owner, rows: Columns, source_time: int | None) -> None:
        if owner.live:
            owner.live = False
            _add_stale(list(owner.metrics.values()), rows, source_time)

    def _sequence(self, node: Node, message: Any, now: float) -> None:
        if not message.HasField("seq"):
            return
        got = message.seq % 256
        if node.seq is not None and got != (node.seq + 1) % 256 and node.owner("").born:
            if node.heard is not None:  # else it was while there was no connection, which is a gap already
                reason = f"edge node {node.group}/{node.node}: sequence number {got} after {node.seq}"
                self.missed.append(Missed(node.tags(), node.heard, reason))
            self._ask(node, "sequence gap", now)
        node.seq = got

    def _ask(self, node: Node, reason: str, now: float) -> None:
        if node.asked is None or now - node.asked >= self._interval:
            node.asked = now
            self.rebirths[reason] = self.rebirths.get(reason, 0) + 1
            self._requests.append(RebirthRequest(node.group, node.node, reason))

    def _reject(self, topic: Topic, payload: bytes, reason: str, rows: Columns) -> None:
        rows.add_reject(self._reject_tag(), reason, payload, properties=to_json({"topic": str(topic)}))

    def reconnected(self, session_present: bool) -> None:
        """Say that there is a new connection to the broker.

        With the session, deaths (QoS 1) have been kept for us, and the births still hold if the sequence goes on. Without
        it, deaths and births may have been missed: every edge node has to be born again before its aliases are believed.
        """
        if session_present:
            return
        for node in self._nodes.values():
            node.aliases.clear()
            node.seq = None
            for owner in node.owners.values():
                owner.born = False
        self.changed = bool(self._nodes)

    def unborn(self, now: float) -> list[RebirthRequest]:
        """Edge nodes that were alive and whose births may have been missed, to be asked for them now."""
        self._requests = []
        for node in self._nodes.values():
            if not node.owner("").born and any(owner.live for owner in node.owners.values()):
                self._ask(node, "session lost", now)
        return self._requests

    def tags(self) -> list[int]:
        """Rows of the tag table of all metrics that were ever born."""
        return [tag for node in self._nodes.values() for tag in node.tags()]

    def state(self) -> bytes:
        """The births, to be restored with `restore`."""
        self.changed = False
        nodes = []
        for node in self._nodes.values():
            alias_of = {id(metric): alias for alias, (_, metric) in node.aliases.items()}
            owners = [
                [
                    owner.device,
                    owner.born,
                    owner.live,
                    [[m.name, alias_of.get(id(m)), m.datatype, m.unit, m.metadata] for m in owner.metrics.values()],
                ]
                for owner in node.owners.values()
            ]
            nodes.append([node.group, node.node, node.bdseq, owners, node.seq])
        return zlib.compress(msgspec.msgpack.encode(nodes), 1)

    def restore(self, state: bytes) -> None:
        """Take over what `state` returned; an edge node whose sequence does not go on from there is asked for its births.

        Raises:
            ValueError: `state` is not what `state` returned; also as ``zlib.error``.
        """
        for stored in msgspec.msgpack.decode(zlib.decompress(state), type=list[StoredNode]):
            node = Node(stored.group, stored.node, stored.bdseq, stored.seq)
            self._nodes[stored.group, stored.node] = node
            for device, born, live, metrics in stored.owners:
                owner = node.owners[device] = Owner(device, {}, born, live)
                self._devices += 1
                for label, alias, datatype, unit, metadata in metrics:
                    metric = self._metric(node, owner, label, datatype, unit, metadata)
                    if alias is not None:
                        node.aliases[alias] = (device, metric)
        self.changed = False


def _micros(milliseconds: int) -> int | None:
    """µs since the epoch; None where the calendar ends."""
    return milliseconds * 1000 if milliseconds < 253_402_300_800_000 else None


def _add_stale(metrics: list[Metric], rows: Columns, source_time: int | None) -> None:
    for metric in metrics:
        if metric.tag >= 0:
            rows.add(metric.tag, None, quality=Quality.STALE, source_time=source_time)
