"""Readings as the requests that Pub/Sub takes, cut to its limits and dealt out to lanes. Pure.

The messages of a batch are made as columns of protobuf fields (`connectors.wire.protobuf`): the ordering key and the
attributes of a tag once per tag, the rest by Arrow's kernels. What stands in one lane is sent one request after the other,
and all messages of one ordering key are in one lane, so that they keep their order.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from connectors.targets.pubsub.config import MOST_BYTES, MOST_MESSAGES, PubSubSettings, topic_fault
from connectors.wire import rows
from connectors.wire.json_lines import JsonLinesEncoder
from connectors.wire.messages import Names, Template, pack
from connectors.wire.protobuf import field, fields
from normalization.reading import IDENTITY_COLUMNS, Quality

# fields of google.pubsub.v1: PublishRequest, PubsubMessage, and an entry of its attributes
_TOPIC, _MESSAGES = 1, 2
_DATA, _ATTRIBUTES, _ORDERING_KEY = 1, 2, 5
_KEY, _VALUE = 1, 2

_MOST_VALUE: Final = 1024  # bytes of an attribute's value, and of an ordering key
_ROOM: Final = 1024  # of a request, for the topic's name
_EMPTY: Final = pa.array([], pa.binary())


@dataclass(frozen=True, slots=True)
class Request:
    """Messages for one topic.

    Attributes:
        topic: Name of the topic.
        frames: The messages of a batch as they stand in requests, one after the other.
        ends: Where in it each ends.
        rows: The rows of the batch that each carries.
        first: The first message of this request.
        stop: The one after the last.
    """

    topic: str
    frames: bytes
    ends: np.ndarray
    rows: list[np.ndarray]
    first: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.first

    def message(self, project: str) -> bytes:
        """The `PublishRequest`."""
        start = int(self.ends[self.first - 1]) if self.first else 0
        name = field(_TOPIC, f"projects/{project}/topics/{self.topic}".encode())
        return name + self.frames[start : int(self.ends[self.stop - 1])]

    def halves(self) -> "tuple[Request, Request]":
        """The same messages in two."""
        middle = (self.first + self.stop) // 2
        return replace(self, stop=middle), replace(self, first=middle)


@dataclass(frozen=True, slots=True)
class Requests:
    """What a batch becomes.

    Attributes:
        lanes: Requests that are sent one after the other, by lane.
        rejected: Why a row cannot be a message, by row.
    """

    lanes: list[list[Request]]
    rejected: dict[int, str]


class MessageEncoder:
    """Encodes stream items; keeps what is constant per tag, so use one for as long as possible."""

    def __init__(self, own: PubSubSettings) -> None:
        self._own = own
        self._json = JsonLinesEncoder()
        self._topics = Template(own.topic, _topic_text)
        self._keys = Template(own.ordering_key) if own.ordering_key else None
        self._token = b""
        self._attributes = _EMPTY

    def encode(self, batch: pa.RecordBatch) -> Requests:
        """The requests of a batch of `normalization.reading.stream_schema`."""
        rejected: dict[int, str] = {}
        if not len(batch):
            return Requests([], rejected)
        self._learn(batch)
        topics = self._topics.render(batch)
        keys = self._keys.render(batch) if self._keys is not None else Names([""], np.zeros(len(batch), np.int64))
        objects = self._json.objects(batch)
        if self._own.payload == "array":
            members, payloads = self._packed(batch, objects, topics, keys)
        else:
            members, payloads = list(np.arange(len(batch)).reshape(-1, 1)), objects.cast(pa.binary())
        first = np.array([rows[0] for rows in members], np.int64)
        messages = fields(_MESSAGES, self._messages(batch, members, first, payloads, keys))
        sizes = pc.binary_length(messages).to_numpy()
        fits = self._sound(topics, keys, first, sizes, members, rejected)
        topic, key = topics.index[first], keys.index[first]
        lane = key % self._own.requests_in_flight
        if self._keys is None:
            lane = np.arange(len(first)) * self._own.requests_in_flight // len(first)
        order = np.lexsort((np.arange(len(first)), topic, lane))
        order = order[fits[order]]
        frames, ends = rows.laid_out(messages.take(pa.array(order)))
        whole = Request("", frames, ends, [members[at] for at in order.tolist()], 0, 0)
        return Requests(list(self._lanes(whole, lane[order], topic[order], topics.names)), rejected)

    def _packed(
        self, batch: pa.RecordBatch, objects: pa.Array, topics: Names, keys: Names
    ) -> tuple[list[np.ndarray], pa.Array]:
        """Readings of one topic, ordering key and shard as JSON arrays; the rows of each."""
        shared = [
            topics.index,
            keys.index,
            *(batch.column(name).indices.to_numpy() for name in IDENTITY_COLUMNS if name != "sequence"),
        ]
        _, groups = np.unique(np.stack([column.astype(np.int64) for column in shared]), axis=1, return_inverse=True)
        packs = pack(objects, groups.reshape(-1), most_bytes=self._own.message_size)
        return [one.rows for one in packs], pa.array([one.payload for one in packs], pa.binary())

    def _messages(
        self, batch: pa.RecordBatch, members: list[np.ndarray], first: np.ndarray, payloads: pa.Array, keys: Names
    ) -> pa.Array:
        """The messages, without what stands before each in a request."""
        at = pa.array(first)
        sequence = batch.column("sequence")
        parts = [fields(_DATA, payloads), self._attributes.take(batch.column("tag").take(at))]
        for name in ("gateway", "shard"):
            column = batch.column(name)
            parts.append(_entries(name, column.dictionary).take(column.indices.take(at)))
        parts.append(_entries("sequence", sequence.take(at).cast(pa.string())))
        if self._own.payload == "array":
            last = pa.array([int(rows[-1]) for rows in members])
            parts.append(_entries("last_sequence", sequence.take(last).cast(pa.string())))
            parts.append(_entries("readings", pa.array([str(len(rows)) for rows in members])))
        else:
            parts.append(_qualities().take(batch.column("quality").take(at)))
        if self._keys is not None:
            used, index = np.unique(keys.index[first], return_inverse=True)
            texts = pa.array([keys.names[name] or None for name in used.tolist()], pa.string())
            parts.append(fields(_ORDERING_KEY, texts).take(pa.array(index)))
        return pc.binary_join_element_wise(*parts, b"")

    def _sound(
        self,
        topics: Names,
        keys: Names,
        first: np.ndarray,
        sizes: np.ndarray,
        members: list[np.ndarray],
        rejected: dict[int, str],
    ) -> np.ndarray:
        """Which messages the service can take; why it cannot take the others goes to `rejected`."""
        fits: np.ndarray = sizes <= MOST_BYTES - _ROOM
        wrong = {
            at: f"the message has {sizes[at]} bytes, the service takes {MOST_BYTES}"
            for at in np.flatnonzero(~fits).tolist()
        }
        for names, fault in ((topics, topic_fault), (keys, _key_fault)):
            used = names.index[first]
            for name in np.unique(used).tolist():
                if why := fault(names.names[name]):
                    wrong |= dict.fromkeys(np.flatnonzero(used == name).tolist(), why)
        for at, why in wrong.items():
            fits[at] = False
            rejected |= dict.fromkeys(members[at].tolist(), why)
        return fits

    def _lanes(self, whole: Request, lane: np.ndarray, topic: np.ndarray, names: list[str]) -> Iterator[list[Request]]:
        """The requests of each lane that has any, each of one topic and within the limits."""
        bounds = np.flatnonzero(np.diff(lane)) + 1
        for start, stop in zip([0, *bounds.tolist()], [*bounds.tolist(), len(lane)], strict=True):
            requests, first = [], start
            while first < stop:
                begin = int(whole.ends[first - 1]) if first else 0
                fit = int(np.searchsorted(whole.ends, begin + self._own.request_size, side="right"))
                last = min(max(fit, first + 1), first + MOST_MESSAGES, stop)
                others = np.flatnonzero(topic[first:last] != topic[first])
                last = first + int(others[0]) if len(others) else last
                requests.append(replace(whole, topic=names[topic[first]], first=first, stop=last))
                first = last
            if requests:
                yield requests

    def _learn(self, batch: pa.RecordBatch) -> None:
        """Render the attributes of the tags that are new."""
        token = (batch.schema.metadata or {}).get(b"tags", b"")
        if token != self._token:
            self._token, self._attributes = token, _EMPTY
        known = len(self._attributes)
        there = len(batch.column("path").dictionary)
        if known >= there:
            return
        empty = pa.array([b""], pa.binary()).take(pa.array(np.zeros(there - known, np.int32)))
        columns = [_entries(name, batch.column(name).dictionary.slice(known)) for name in self._own.attributes]
        self._attributes = pa.concat_arrays([self._attributes, pc.binary_join_element_wise(empty, *columns, b"")])


def _entries(name: str, values: pa.Array) -> pa.Array:
    """An attribute of many messages; an empty one, and one that is too long, is left out."""
    length = pc.binary_length(values)
    values = pc.if_else(pc.and_(pc.greater(length, 0), pc.less_equal(length, _MOST_VALUE)), values, None)
    head = pa.scalar(field(_KEY, name.encode()), pa.binary())
    entries = pc.binary_join_element_wise(head, fields(_VALUE, values), b"")
    return fields(_ATTRIBUTES, pc.if_else(values.is_valid(), entries, None))


def _qualities() -> pa.Array:
    return _entries("quality", pa.array([quality.name for quality in Quality], pa.string()))


def _topic_text(column: str, text: str) -> str:  # noqa: ARG001 - see Template
    """What of a text may stand in the name of a topic."""
    return re.sub(r"[^A-Za-z0-9\-_.~+%]", "-", text)


def _key_fault(name: str) -> str:
    size = len(name.encode())
    return f"its ordering key has {size} bytes, the service takes {_MOST_VALUE}" if size > _MOST_VALUE else ""
