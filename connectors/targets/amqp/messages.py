"""Readings as messages, whichever AMQP carries them: payloads, names, identities and times. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from connectors.targets.amqp.config import AmqpSettings
from connectors.wire.json_lines import JsonLinesEncoder
from connectors.wire.messages import Names, Template, pack
from normalization.reading import IDENTITY_COLUMNS

BINARY: Final = pa.binary()
EMPTY: Final = pa.scalar(b"", BINARY)

HeaderOf = Callable[[str, str], bytes]
Field = tuple[str, str, int | bytes | np.ndarray]


@dataclass(frozen=True, slots=True)
class Messages:
    """The messages of a batch; meaningless when there are rejects.

    Attributes:
        rejected: Rows that cannot be sent, ascending.
        reasons: Why, one for each.
        bodies: A payload per message.
        first, last: The rows of the batch that each begins and ends with.
        readings: How many it holds.
        rows: The rows of each, where they are more than one.
        names: For each template, its names and which of them each message has.
    """

    rejected: Sequence[int]
    reasons: Sequence[str]
    bodies: pa.Array
    first: np.ndarray
    last: np.ndarray
    readings: np.ndarray
    rows: Sequence[np.ndarray]
    names: Sequence[Names]

    def __len__(self) -> int:
        return len(self.bodies)


def routing_word(column: str, text: str) -> str:
    """A text of a column as it stands in a routing key, whose words are divided by dots."""
    if column == "path":
        return ".".join(routing_word("", part) for part in text.split("/"))
    return text.replace(".", "_")


class MessageEncoder:
    """Makes the payloads; keeps what is constant per tag, so use one for as long as possible.

    Attributes:
        largest: Bytes of a payload, at most; a reading that needs more is rejected.
    """

    def __init__(self, own: AmqpSettings, templates: Sequence[Template], longest_name: int | None = None) -> None:
        """Begin.

        Args:
            own: The target's settings.
            templates: What messages are named by; readings that differ in one share no message.
            longest_name: Bytes of a name, at most.
        """
        self.largest = own.max_message_bytes
        self._packed = own.message == "packed"
        self._pack_bytes = own.pack_bytes
        self._json = JsonLinesEncoder()
        self._templates = templates
        self._longest = longest_name

    def encode(self, batch: pa.RecordBatch) -> Messages:
        """The messages of a batch of `normalization.reading.stream_schema`."""
        objects = self._json.objects(batch)
        names = [template.render(batch) for template in self._templates]
        wrong = self._wrong(objects, names)
        rows = np.arange(len(batch))
        if wrong or not self._packed:
            rejected = sorted(wrong)
            reasons = [wrong[row] for row in rejected]
            ones = np.ones(len(batch), np.int64)
            return Messages(rejected, reasons, objects.cast(BINARY), rows, rows, ones, (), names)
        groups = names[0].index
        for more in names[1:]:
            groups = np.unique(np.stack([groups, more.index]), axis=1, return_inverse=True)[1].reshape(-1)
        packs = pack(objects, groups, most_bytes=min(self._pack_bytes, self.largest))
        packs.sort(key=lambda one: int(one.rows[0]))
        first = np.array([one.rows[0] for one in packs], np.int64)
        return Messages(
            (),
            (),
            pa.array([one.payload for one in packs], BINARY),
            first,
            np.array([one.rows[-1] for one in packs], np.int64),
            np.array([len(one.rows) for one in packs], np.int64),
            [one.rows for one in packs],
            [Names(found.names, found.index[first]) for found in names],
        )

    def _wrong(self, objects: pa.Array, names: Sequence[Names]) -> dict[int, str]:
        """Rows that cannot be sent, with the reason."""
        sizes = pc.binary_length(objects).to_numpy() + 2 * self._packed
        found = dict.fromkeys(
            np.flatnonzero(sizes > self.largest).tolist(),
            f"its message would have more than {self.largest} bytes, which the broker or `max_message_bytes` allows",
        )
        if self._longest is not None:
            for one in names:
                long = np.array([len(name.encode()) > self._longest for name in one.names], np.bool_)
                reason = f"its routing key has more than {self._longest} bytes; choose another `routing_key`"
                if long.any():
                    found |= dict.fromkeys(np.flatnonzero(long[one.index]).tolist(), reason)
        return found


def identities(batch: pa.RecordBatch, messages: Messages) -> pa.Array:
    """``gateway/shard/sequence``; of a packed message ``gateway/shard/first-last*count``."""
    at = pa.array(messages.first)
    sequence = batch.column("sequence")
    gateway, shard = (batch.column(name) for name in IDENTITY_COLUMNS)
    pieces = [
        gateway.dictionary.take(gateway.indices.take(at)), "/", shard.dictionary.take(shard.indices.take(at)),
        "/", sequence.take(at).cast(pa.string()),
    ]  # fmt: skip
    if messages.rows:
        last = sequence.take(pa.array(messages.last)).cast(pa.string())
        pieces += ["-", last, "*", pa.array(messages.readings).cast(pa.string())]
    return pc.binary_join_element_wise(*pieces, "").cast(BINARY)


def times(batch: pa.RecordBatch, messages: Messages) -> np.ndarray:
    """When each message's first reading was made, in µs since 1970; not before."""
    at = pa.array(messages.first)
    source, received = (batch.column(name).view(pa.int64()).take(at) for name in ("source_time", "received_time"))
    found: np.ndarray = np.maximum(pc.coalesce(source, received).to_numpy(), 0)
    return found


def matrix(count: int, fields: Sequence[Field]) -> pa.Array:
    """Fields of a fixed width side by side, a row per message.

    Args:
        count: Messages.
        fields: For each a name, what it is as numpy calls it (``S3`` for three bytes), and its value or values.
    """
    made = np.empty(count, np.dtype([(name, kind) for name, kind, _ in fields]))
    width = made.dtype.itemsize
    view = made.view(np.uint8).reshape(count, width)
    at = 0
    for name, kind, value in fields:
        size = np.dtype(kind).itemsize
        if isinstance(value, bytes):  # numpy drops a NUL at the end of its own bytes, so they are copied as numbers
            view[:, at : at + size] = np.frombuffer(value, np.uint8)
        else:
            made[name] = value
        at += size
    offsets = pa.py_buffer(np.arange(0, (count + 1) * width, width, dtype=np.int32))
    return pa.Array.from_buffers(BINARY, count, [None, offsets, pa.py_buffer(made.tobytes())])


def lengths(pieces: Sequence[pa.Array]) -> np.ndarray:
    """Bytes of the rows that pieces make side by side."""
    found: np.ndarray = np.asarray(
        np.sum([pc.binary_length(piece).to_numpy() for piece in pieces], axis=0, dtype=np.int64)
    )
    return found


class TagHeaders:
    """Headers that are columns of the tag, rendered once per tag.

    Args:
        names: The columns.
        render: A header of a name and a text.
    """

    def __init__(self, names: Sequence[str], render: HeaderOf) -> None:
        self._names, self._render = tuple(names), render
        self._token = b""
        self._of_tag = pa.array([], BINARY)
        self._counts = np.array([], np.int64)

    def __bool__(self) -> bool:
        return bool(self._names)

    def take(self, batch: pa.RecordBatch, messages: Messages) -> tuple[pa.Array, np.ndarray]:
        """The headers of each message's first reading, and how many they are; empty texts are left out."""
        token = (batch.schema.metadata or {}).get(b"tags", b"")
        if token != self._token:
            self._token, self._of_tag, self._counts = token, pa.array([], BINARY), np.array([], np.int64)
        known = len(self._of_tag)
        columns = [batch.column(name).dictionary.slice(known).to_pylist() for name in self._names]
        texts = [
            [(name, text) for name, text in zip(self._names, row, strict=True) if text]
            for row in zip(*columns, strict=True)
        ]
        rendered = pa.array([b"".join(self._render(*one) for one in row) for row in texts], BINARY)
        self._of_tag = pa.concat_arrays([self._of_tag, rendered])
        self._counts = np.concatenate([self._counts, np.array([len(row) for row in texts], np.int64)])
        tags = batch.column("tag").take(pa.array(messages.first))
        return self._of_tag.take(tags), self._counts[tags.to_numpy()]
