"""Sparkplug B host: the state machine that turns an edge node's messages into readings (specification 3.0, §5 and §6).

Pure: payloads and a clock value in, readings and rebirth requests out; `link` does the I/O. Births give the metrics their
names, types and aliases; data refers to them; deaths make them STALE. Messages are read in the order of their sequence numbers.
What has to wait, for a message that is missing or for a birth, is held for the reorder time-out at most. Then it is read
as far as it can be, the rest becomes a reject row with the payload, and the edge node is asked for its births, at most
once in `rebirth_interval`.
"""

import zlib
from collections import Counter
from collections.abc import Callable
from typing import Any

from connectors.sources.sparkplug.columns import read_columns
from connectors.sources.sparkplug.decode import (
    RETAINED,
    Broken,
    TagOf,
    bd_seq,
    micros,
    read_birth,
    read_births,
    read_data,
    read_stale,
)
from connectors.sources.sparkplug.held import Waiting
from connectors.sources.sparkplug.kept import dump_births, dump_progress, load_births, load_progress
from connectors.sources.sparkplug.nodes import CYCLE, Held, Missed, Node, Owner, RebirthRequest
from connectors.wire.sparkplug import Topic
from connectors.wire.sparkplug_messages import decode_payload
from normalization.reading import Columns, to_json


class SparkplugHost:
    """What is known of all edge nodes of one source.

    Attributes:
        changed: Births or deaths have come since `state` was last called, so that it should be committed again.
        size: Bytes of the births, as they were last kept.
        counts: Rebirth requests and oddities by reason, for people and metrics.
        missed: What the call before showed to be missing.
    """

    def __init__(
        self,
        tag_of: TagOf,
        reject_tag: Callable[[], int],
        rebirth_interval: float = 30.0,
        reorder_timeout: float = 2.0,
        max_nodes: int = 10_000,
        max_devices: int = 100_000,
        max_held: int = 4 * 1024 * 1024,
        counts: Counter[str] | None = None,
    ) -> None:
        """An empty table.

        Args:
            tag_of: Gives a metric its row of the tag table, once per metric and birth; raises ValueError to refuse it.
            reject_tag: Gives the row of the tag table for what cannot be told; its `properties` name the topic.
            rebirth_interval: Seconds between two rebirth requests to one edge node; each one because of metrics that its
                births leave out again and again doubles it, up to 128 times.
            reorder_timeout: Seconds for which a message may be waited for.
            max_nodes: Edge nodes that are followed; messages of further ones become reject rows.
            max_devices: Edge nodes and devices that are followed; births of further ones become reject rows.
            max_held: Bytes of messages that may wait; further ones are read as if their time was over.
            counts: Where to count; a counter of its own by default.
        """
        self._tag_of = tag_of
        self._reject_tag = reject_tag
        self._interval = rebirth_interval
        self._waiting = Waiting(reorder_timeout, max_held)
        self._max_nodes = max_nodes
        self._max_devices, self._devices = max_devices, 0
        self._nodes: dict[tuple[str, str], Node] = {}
        self._requests: list[RebirthRequest] = []
        self.changed, self.size = False, 0
        self.counts: Counter[str] = Counter() if counts is None else counts
        self.missed: list[Missed] = []

    @property
    def holding(self) -> bool:
        """Whether messages were held or let go since `progress` was last called; their bytes are nowhere else."""
        return self._waiting.changed

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
        if topic.kind in {"NDEATH", "DDEATH"} and head & RETAINED:
            self.counts["retained death"] += 1  # of any time; deaths are not to be retained
            return []
        known = self._nodes.get((topic.group, topic.node))
        if topic.kind in {"DDATA", "NDATA"} and read_columns(known, topic.device, payload, head, now, rows):
            return []
        held = Held(topic, payload, head, now)
        try:
            message = decode_payload(payload)
            node = self._node(topic)
            if topic.kind == "NDEATH":
                self._node_death(node, message, now, rows)
            elif topic.kind == "NBIRTH":
                self._node_birth(node, held, message, now, rows)
            else:
                held.seq = message.seq % CYCLE if message.HasField("seq") else None
                self._in_turn(node, held, message, now, rows)
        except ValueError as error:
            self._reject(held, str(error), rows)
        return self._requests

    def expire(self, now: float, rows: Columns) -> list[RebirthRequest]:
        """Read what has waited for the reorder time-out, as far as it can be read; returns as `receive` does."""
        self._requests, self.missed = [], []
        due = self._waiting.due(now)
        for key, node in list(self._waiting.pending.items()):
            if node.hasty and node.hasty_since <= due:
                node.hasty.clear()
                self._ask(node, "DBIRTH before NBIRTH", now)
            if any(held.since <= due for held in node.early.values()):
                self._give_up(node, now, rows)
            self._conclude(node, lambda held: held.since <= due, rows)
            if not node.trusted and not node.waiting:
                node.trusted = self.changed = True  # nobody said otherwise: the births that are known hold
            if node.since() is None:
                del self._waiting.pending[key]
        return self._requests

    def deadline(self) -> float | None:
        """When `expire` should be called, on the clock of `receive`; None when nothing is waited for."""
        return self._waiting.deadline()

    # births and deaths

    def _node(self, topic: Topic) -> Node:
        node = self._nodes.get((topic.group, topic.node))
        if node is None:
            if len(self._nodes) >= self._max_nodes:
                raise ValueError(f"more than {self._max_nodes} edge nodes")
            node = self._nodes[topic.group, topic.node] = Node(topic.group, topic.node)
        return node

    def _node_birth(self, node: Node, held: Held, message: Any, now: float, rows: Columns) -> None:
        self._read_early(node, now, rows)  # they belong to the birth before
        number, before = bd_seq(message), node.bdseq
        seq = message.seq % CYCLE if message.HasField("seq") else 0
        overtaking = {held.seq: "" for held in node.waiting if node.hasty} | node.hasty
        node.unborn()
        while (device := overtaking.pop((seq + 1) % CYCLE, None)) is not None:
            seq = (seq + 1) % CYCLE
            if device:
                node.owner(device).born = True
        node.seq, node.bdseq, node.heard = seq, number, now
        if before is not None and number != before:
            # another connection of the edge node, and the death of the one before did not reach us
            for owner in node.owners.values():
                if owner.device and not owner.born:
                    self._stale(owner, rows, None)
        self._birth(node, held, message, rows)
        self._conclude(node, lambda held: held.topic.device in node.owners and node.owner(held.topic.device).born, rows)

    def _device_birth(self, node: Node, held: Held, message: Any, now: float, rows: Columns) -> None:
        if not node.born and held.seq is not None:
            node.hasty_since = node.hasty_since if node.hasty else now
            node.hasty[held.seq] = held.topic.device
            self._waiting.watch(node)
        self._birth(node, held, message, rows)

    def _birth(self, node: Node, held: Held, message: Any, rows: Columns) -> None:
        device = held.topic.device
        if device not in node.owners:
            if self._devices >= self._max_devices:
                raise ValueError(f"more than {self._max_devices} edge nodes and devices")
            self._devices += 1
        self.changed = True
        owner = node.owner(device)
        before = owner.metrics
        found, broken = read_birth(node, owner, message, self._tag_of)
        owner.born = owner.live = True
        if node.born:  # before the values of the birth, which are newer
            self._conclude(node, lambda held: held.topic.device == device, rows)
        read_births(found, message, held.head, rows, broken)
        gone = [metric.tag for name, metric in before.items() if name not in owner.metrics and metric.tag >= 0]
        read_stale(gone, rows, None)
        if broken.count:
            self._reject(held, str(broken), rows)

    def _node_death(self, node: Node, message: Any, now: float, rows: Columns) -> None:
        said = bd_seq(message)
        if said is not None and node.bdseq is not None and said != node.bdseq:
            self.counts["death of an earlier connection"] += 1
            return
        if not any(owner.live for owner in node.owners.values()):
            return
        self._read_early(node, now, rows)
        for owner in node.owners.values():
            self._stale(owner, rows, None)  # the will's own time is that of the connection, and says nothing about now
        node.unborn()
        self.changed = True

    def _device_death(self, node: Node, device: str, message: Any, rows: Columns) -> None:
        owner = node.owners.get(device)
        if owner is not None:
            self._stale(owner, rows, micros(message.timestamp) if message.HasField("timestamp") else None)
            owner.born = False
            self.changed = True

    def _stale(self, owner: Owner, rows: Columns, source_time: int | None) -> None:
        if owner.live:
            owner.live = False
            read_stale(owner.tags(), rows, source_time)

    # order

    def _in_turn(self, node: Node, held: Held, message: Any, now: float, rows: Columns) -> None:
        """Read a message now if it is its turn, else hold it."""
        seq = held.seq
        if seq is None:
            self.counts["no sequence number"] += 1
            self._read(node, held, message, now, rows)
        elif not node.born or node.seq is None or seq == (node.seq + 1) % CYCLE:
            node.seq, node.heard = seq if node.born else None, now
            node.lost.discard(seq)
            self._read(node, held, message, now, rows)
            while node.early and node.seq is not None and (following := node.early.pop((node.seq + 1) % CYCLE, None)):
                self._waiting.release(following)
                node.seq = following.seq
                self._read(node, following, decode_payload(following.payload), now, rows)
        elif seq in node.lost:
            node.lost.discard(seq)
            self.counts["late"] += 1
            self._read(node, held, message, now, rows)
        elif node.heard is None and not node.early:
            # messages, births perhaps too, went by while there was no connection; that gap is recorded already
            node.seq, node.heard = seq, now
            node.trusted, self.changed = not self._waiting.waits, True
            self._waiting.watch(node)
            self._ask(node, "sequence gap", now)
            self._read(node, held, message, now, rows)
        elif seq not in node.early and self._waiting.hold(node, held):
            node.early[seq] = held
            self.counts["early"] += 1
        else:
            self._give_up(node, now, rows, held)

    def _give_up(self, node: Node, now: float, rows: Columns, last: Held | None = None) -> None:
        """Wait no longer for the messages that are missing: ask for births, and read those that came after."""
        first = ((node.seq or 0) + 1) % CYCLE
        arrived = min([held.since for held in node.early.values()], default=now)
        order = sorted(node.early, key=lambda seq: (seq - first) % CYCLE)
        following = order[0] if order else last.seq if last is not None and last.seq is not None else first
        count = (following - first) % CYCLE
        if node.heard is not None and count < CYCLE // 2:  # else it is one that came before, or other numbers began
            reason = f"edge node {node.group}/{node.node}: sequence number {following} after {(first - 1) % CYCLE}"
            self.missed.append(Missed(node.tags(), node.heard, arrived, reason))
            node.lost.update((first + step) % CYCLE for step in range(count))
        self._read_early(node, now, rows)
        self._ask(node, "sequence gap", now)
        if last is not None:
            node.seq, node.heard = last.seq, now
            self._read(node, last, decode_payload(last.payload), now, rows)

    def _read_early(self, node: Node, now: float, rows: Columns) -> None:
        """Read what came early, in its order."""
        first = ((node.seq or 0) + 1) % CYCLE
        for seq in sorted(node.early, key=lambda seq: (seq - first) % CYCLE):
            held = node.early.pop(seq)
            self._waiting.release(held)
            if (seq - first) % CYCLE < CYCLE // 2:
                node.seq, node.heard = seq, held.since
            self._read(node, held, decode_payload(held.payload), now, rows)

    # reading

    def _read(self, node: Node, held: Held, message: Any, now: float, rows: Columns) -> None:
        """Read a message whose turn it is."""
        try:
            if held.topic.kind == "DDEATH":
                self._device_death(node, held.topic.device, message, rows)
            elif held.topic.kind == "DBIRTH":
                self._device_birth(node, held, message, now, rows)
            else:
                self._data(node, held, message, now, rows)
        except ValueError as error:
            self._reject(held, str(error), rows)

    def _data(self, node: Node, held: Held, message: Any, now: float, rows: Columns) -> None:
        owner = node.owners.get(held.topic.device)
        unborn = owner is None or not owner.born or not node.born
        broken = Broken()
        unknown = read_data(None if unborn or not node.trusted else owner, message, held.head, rows, broken)
        if (unborn or unknown.places) and not node.hasty:
            self._ask(node, "data before birth" if unborn else unknown.reason, now)
        if unknown.places:
            held.places, held.since = unknown.places, now
            if self._waiting.hold(node, held):
                node.waiting.append(held)
            else:
                self._finish(node, held, message, rows, broken)
        if broken.count:
            self._reject(held, str(broken), rows)

    def _conclude(self, node: Node, over: Callable[[Held], bool], rows: Columns) -> None:
        """Read what waited for a birth, which has come or will not."""
        due = [held for held in node.waiting if over(held)]
        if due:
            node.waiting = [held for held in node.waiting if not over(held)]
        for held in due:
            self._waiting.release(held)
            broken = Broken()
            self._finish(node, held, decode_payload(held.payload), rows, broken)
            if broken.count:
                self._reject(held, str(broken), rows)

    def _finish(self, node: Node, held: Held, message: Any, rows: Columns, broken: Broken) -> None:
        owner = node.owners.get(held.topic.device)
        known = owner if owner is not None and owner.born and node.born else None
        unknown = read_data(known, message, held.head, rows, broken, held.places)
        broken.extend(unknown.broken)

    def _ask(self, node: Node, reason: str, now: float) -> None:
        if node.may_be_asked(reason, now, self._interval):
            self.counts[f"rebirth: {reason}"] += 1
            self._requests.append(RebirthRequest(node.group, node.node, reason))

    def _reject(self, held: Held, reason: str, rows: Columns) -> None:
        self.counts["reject"] += 1
        rows.add_reject(self._reject_tag(), reason, held.payload, properties=to_json({"topic": str(held.topic)}))

    # connections and restarts

    def reconnected(self, session_present: bool) -> None:
        """Say that there is a new connection to the broker.

        With the session, deaths (QoS 1) have been kept for us, and the births still hold if the sequence goes on. Without
        it, deaths and births may have been missed: every edge node has to be born again before its aliases are believed.
        """
        if session_present:
            return
        for node in self._nodes.values():
            node.unborn()
        self.changed = bool(self._nodes)

    def disconnected(self, now: float, rows: Columns) -> None:
        """Say that the connection is gone, so that nothing that is waited for will come any more."""
        self._requests, self.missed = [], []
        for node in self._waiting.pending.values():
            self._read_early(node, now, rows)
            self._conclude(node, lambda _: True, rows)
            node.hasty.clear()
        self._waiting.pending.clear()

    def unborn(self, now: float) -> list[RebirthRequest]:
        """Edge nodes that were alive and whose births may have been missed, to be asked for them now."""
        self._requests = []
        for node in self._nodes.values():
            if not node.born and any(owner.live for owner in node.owners.values()):
                self._ask(node, "session lost", now)
        return self._requests

    def tags(self) -> list[int]:
        """Rows of the tag table of all metrics that were ever born."""
        return [tag for node in self._nodes.values() for tag in node.tags()]

    def state(self) -> bytes:
        """The births, to be restored with `restore`."""
        births = dump_births(self._nodes.values())
        self.changed, self.size = False, len(births)
        return births

    def progress(self) -> bytes:
        """How far the messages have come, and those that are held; goes with the `state` before."""
        self._waiting.changed = False
        return dump_progress(self._nodes.values())

    def restore(self, births: bytes, progress: bytes = b"", now: float = 0.0) -> None:
        """Take over what `state` and `progress` returned; to be called once, on an empty table.

        Raises:
            ValueError: They are not what was returned.
        """
        try:
            nodes = load_births(births, self._tag_of) if births else []
        except zlib.error as error:
            raise ValueError(str(error)) from None
        self.size = len(births)
        self._nodes = {(node.group, node.node): node for node in nodes}
        self._devices = sum(len(node.owners) for node in nodes)
        for held in load_progress(progress, nodes, now) if progress else []:
            node = self._node(held.topic)
            if self._waiting.hold(node, held):
                if held.places is None and held.seq is not None:
                    node.early[held.seq] = held
                else:
                    node.waiting.append(held)
