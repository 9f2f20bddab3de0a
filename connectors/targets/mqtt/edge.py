"""The Sparkplug B edge node that the gateway is: metrics and aliases, births, deaths and sequence numbers. Pure.

What has to outlive the process is in `Edge.state`: the number of the last session (bdSeq), and which metrics there are, so
that the birth after a restart is complete.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa

from connectors.wire.messages import Template
from connectors.wire.sparkplug import REBIRTH, Topic
from connectors.wire.sparkplug_encode import (
    Values,
    birth_metric,
    boolean_field,
    cut,
    long_field,
    metrics,
    payload,
    values,
)
from connectors.wire.sparkplug_messages import decode_payload
from connectors.wire.sparkplug_values import DataType
from normalization.reading import Flags, Quality

BDSEQ: Final = "bdSeq"
_MOST: Final = 500  # metrics in a data message
_MOST_BYTES: Final = 200_000
_DIVIDER: Final = "\x1f"
_UNNAMED: Final = "_"


@dataclass(slots=True)
class Metric:
    """A metric, whose alias is its place in the list.

    Attributes:
        device: Its device; empty for the node itself.
        name: Its name.
        datatype: Its `DataType`.
        field: Its newest value, see `sparkplug_encode.Values`; empty when it is not known.
        time: Of that value, milliseconds since the epoch.
        quality: Of that value.
    """

    device: str
    name: str
    datatype: int
    field: bytes = b""
    time: int = 0
    quality: int = Quality.STALE


@dataclass(frozen=True, slots=True)
class Outgo:
    """A message to publish.

    Attributes:
        topic: Its topic.
        payload: Its payload.
        rows: Rows of the batch that it holds; none for a birth.
    """

    topic: str
    payload: bytes
    rows: np.ndarray | None = None


def _device(text: str) -> str:
    return re.sub(r"[/+#\x00]", "_", text)


class Edge:
    """One edge node.

    Attributes:
        bdseq: Number of the session, 0 to 255.
        changed: Whether `state` is another than the last that was asked for.
    """

    def __init__(self, group: str, node: str, device: str, metric: str, state: bytes | None) -> None:
        """The node as it was left.

        Args:
            group: Group id.
            node: Edge node id.
            device: Template of device ids; empty for metrics of the node.
            metric: Template of the names of metrics.
            state: The last `state`; None at the first start.
        """
        self._group, self._node = group, node
        self._names = Template(f"{device}{_DIVIDER}{metric}")
        self._of_name = np.zeros(0, np.int64)  # alias by number of the name; -1 until it is used
        self._of_names: list[str] = []
        self._aliases: dict[tuple[str, str], int] = {}
        self._metrics: list[Metric] = []
        self._datatypes = np.zeros(0, np.int64)
        self._devices: dict[str, int] = {"": 0}
        self._of_device: dict[str, list[int]] = {}
        self._device_of = np.zeros(0, np.int64)
        self._born: set[str] = set()
        self._seq = 0
        self._birth_time = 0
        self.bdseq = -1
        self.changed = True
        if state:
            stored = json.loads(state)
            self.bdseq = int(stored["bdseq"])
            for device_name, name, datatype in stored["metrics"]:
                self._add(str(device_name), str(name), int(datatype))

    def state(self) -> bytes:
        """What has to be kept."""
        self.changed = False
        kept = [[one.device, one.name, one.datatype] for one in self._metrics]
        return json.dumps({"bdseq": self.bdseq, "metrics": kept}).encode()

    # ------------------------------------------------------------------ sessions, births and deaths

    def next_session(self) -> None:
        """A connection is about to be made; its will needs the next number."""
        self.bdseq = (self.bdseq + 1) % 256
        self.changed = True
        self._born = set()

    def death(self, now: int) -> Outgo:
        """NDEATH, the will of the session."""
        content = birth_metric(BDSEQ, None, now, DataType.INT64, long_field(self.bdseq), Quality.GOOD)
        return Outgo(self._topic("NDEATH"), payload(now, content, None))

    def births(self, now: int, *, first: bool = False) -> list[Outgo]:
        """NBIRTH, and DBIRTH of all devices.

        Args:
            now: Milliseconds since the epoch.
            first: Whether they are the first of the session: what was received before them is historical.
        """
        self._born, self._seq = {""}, 0
        self._birth_time = now if first else self._birth_time
        content = birth_metric(BDSEQ, None, now, DataType.INT64, long_field(self.bdseq), Quality.GOOD)
        content += birth_metric(REBIRTH, None, now, DataType.BOOLEAN, boolean_field(False), Quality.GOOD)
        out = [Outgo(self._topic("NBIRTH"), payload(now, content + self._content("", now), self._next_seq()))]
        return out + [self._device_birth(device, now) for device in self._devices if device]

    def _device_birth(self, device: str, now: int) -> Outgo:
        self._born.add(device)
        return Outgo(self._topic("DBIRTH", device), payload(now, self._content(device, now), self._next_seq()))

    def _content(self, device: str, now: int) -> bytes:
        out = []
        for alias in self._of_device.get(device, []):
            one = self._metrics[alias]
            out.append(birth_metric(one.name, alias, one.time or now, one.datatype, one.field, one.quality))
        return b"".join(out)

    def _topic(self, kind: str, device: str = "") -> str:
        return str(Topic(self._group, kind, self._node, device))

    def _next_seq(self) -> int:
        seq, self._seq = self._seq, (self._seq + 1) % 256
        return seq

    def wants_rebirth(self, topic: str, content: bytes) -> bool:
        """Whether a message is the command to publish the births again."""
        if topic != self._topic("NCMD"):
            return False
        try:
            found = decode_payload(content).metrics
        except ValueError:
            return False
        return any(one.name == REBIRTH and one.boolean_value for one in found)

    def commands(self) -> str:
        """Topic of the commands to this node."""
        return self._topic("NCMD")

    # ------------------------------------------------------------------ data

    def data(self, batch: pa.RecordBatch, now: int) -> Iterator[Outgo]:
        """The messages of a batch, with the births that new metrics and new types of metrics need before them.

        Args:
            batch: A batch of `normalization.reading.stream_schema`.
            now: Milliseconds since the epoch.
        """
        aliases = self._known(batch)
        found = values(batch)
        times = _times(batch)
        flags = batch.column("flags").to_numpy()
        received = batch.column("received_time").view(pa.int64()).to_numpy() // 1000
        historical = (flags & (Flags.HISTORICAL | Flags.RESENT) != 0) | (received < self._birth_time)
        quality = batch.column("quality").to_numpy()
        encoded = metrics(aliases, times, historical, quality, found.fields)
        first = 0
        while first < len(batch):
            last = self._same_types(aliases, found.datatypes, first)
            part = np.arange(first, last)
            self._remember(aliases[part], found, part, times, quality)
            yield from self._births_for(aliases[part], now)
            groups = self._device_of[aliases[part]]
            names = list(self._devices)
            for group, places, content in cut(encoded.slice(first, last - first), groups, _MOST, _MOST_BYTES):
                device = names[group]
                topic = self._topic("DDATA" if device else "NDATA", device)
                yield Outgo(topic, payload(now, content, self._next_seq()), part[places])
            first = last

    def _known(self, batch: pa.RecordBatch) -> np.ndarray:
        """The alias of each reading's metric; one that is new gets the next."""
        names = self._names.render(batch)
        if names.names is not self._of_names:
            self._of_names, self._of_name = names.names, np.zeros(0, np.int64)
        if len(self._of_name) < len(names.names):
            more = np.full(len(names.names) - len(self._of_name), -1, np.int64)
            self._of_name = np.concatenate([self._of_name, more])
        for number in np.unique(names.index).tolist():
            if self._of_name[number] < 0:
                device, _, name = names.names[number].partition(_DIVIDER)
                self._of_name[number] = self._alias(_device(device), name or _UNNAMED)
        found: np.ndarray = self._of_name[names.index]
        return found

    def _alias(self, device: str, name: str) -> int:
        alias = self._aliases.get((device, name))
        return self._add(device, name, DataType.UNKNOWN) if alias is None else alias

    def _add(self, device: str, name: str, datatype: int) -> int:
        alias = len(self._metrics)
        self._aliases[device, name] = alias
        self._of_device.setdefault(device, []).append(alias)
        self._metrics.append(Metric(device, name, datatype))
        number = self._devices.setdefault(device, len(self._devices))
        if alias == len(self._datatypes):  # room for as many more
            self._datatypes = np.concatenate([self._datatypes, np.zeros(alias + 64, np.int64)])
            self._device_of = np.concatenate([self._device_of, np.zeros(alias + 64, np.int64)])
        self._datatypes[alias], self._device_of[alias] = datatype, number
        return alias

    def _same_types(self, aliases: np.ndarray, datatypes: np.ndarray, first: int) -> int:
        """Up to where from `first` on no metric has two types; the metrics get these types."""
        rest, kinds = aliases[first:], datatypes[first:]
        said = np.flatnonzero(kinds != DataType.UNKNOWN)
        order = said[np.argsort(rest[said], kind="stable")]
        of, types = rest[order], kinds[order]
        changes = np.flatnonzero((of[1:] == of[:-1]) & (types[1:] != types[:-1])) + 1
        stop = int(order[changes].min()) if len(changes) else len(rest)
        kept = order < stop
        used, places = np.unique(of[kept], return_index=True)
        now = types[kept][places]
        other = now != self._datatypes[used]
        for alias, datatype in zip(used[other].tolist(), now[other].tolist(), strict=True):
            self._set_type(alias, datatype)
        unknown = np.unique(rest[:stop])
        for alias in unknown[self._datatypes[unknown] == DataType.UNKNOWN].tolist():
            self._set_type(alias, DataType.DOUBLE)  # of null alone nobody can tell
        return first + stop

    def _set_type(self, alias: int, datatype: int) -> None:
        metric = self._metrics[alias]
        metric.datatype, metric.field, metric.time = datatype, b"", 0
        self._datatypes[alias] = datatype
        self._born.discard(metric.device)
        self.changed = True

    def _remember(
        self, aliases: np.ndarray, found: Values, part: np.ndarray, times: np.ndarray, quality: np.ndarray
    ) -> None:
        """Keep the newest value of each metric for the births."""
        _, back = np.unique(aliases[::-1], return_index=True)
        for place in (len(aliases) - 1 - back).tolist():
            metric, row = self._metrics[int(aliases[place])], int(part[place])
            if int(times[row]) >= metric.time:
                metric.time, metric.quality = int(times[row]), int(quality[row])
                metric.field = found.fields[row].as_py() if found.datatypes[row] != DataType.UNKNOWN else b""

    def _births_for(self, aliases: np.ndarray, now: int) -> Iterator[Outgo]:
        """The births that have to come before data of these metrics."""
        names = list(self._devices)
        devices: Sequence[str] = [names[number] for number in np.unique(self._device_of[aliases]).tolist()]
        unborn = [device for device in devices if device not in self._born]
        if "" in unborn:
            yield from self.births(now)
        else:
            yield from (self._device_birth(device, now) for device in unborn)


def _times(batch: pa.RecordBatch) -> np.ndarray:
    source, received = (batch.column(name).view(pa.int64()) for name in ("source_time", "received_time"))
    micros = received.to_numpy() if source.null_count == len(source) else None
    if micros is None:
        filled = source.fill_null(0).to_numpy()
        micros = np.where(source.is_valid().to_numpy(zero_copy_only=False), filled, received.to_numpy())
    milliseconds: np.ndarray = micros // 1000
    return milliseconds
