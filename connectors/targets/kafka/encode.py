"""Readings as messages: topic, key, value, time and headers of each, made by columns. Pure."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from connectors.targets.kafka.config import KafkaSettings
from connectors.wire.avro import AvroEncoder
from connectors.wire.avro import schema as avro_schema
from connectors.wire.json_lines import JsonLinesEncoder
from connectors.wire.messages import Names, Template, singly
from connectors.wire.protobuf import ProtobufEncoder, reading_columns
from normalization.reading import IDENTITY_COLUMNS, TABLE, Quality

Header = tuple[str, str]

RECORD: Final = "bifrost.Reading"
_LONGEST_TOPIC: Final = 249
_NOT_IN_TOPICS: Final = re.compile(r"[^A-Za-z0-9._\-]")
_AHEAD: Final = 3_600_000_000  # µs that a device's clock may be ahead; by default brokers refuse what is further
_PROTO: Final = {pa.string(): "string", pa.binary(): "bytes", pa.float64(): "double", pa.int32(): "int32"}


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    number: int


# numbers never change; a new field gets the next
_FIELDS: Final = tuple(_Field(name, at) for at, name in enumerate((n for n in TABLE.names if n != "date"), 1))


def proto_schema() -> str:
    """The schema of a reading as a ``.proto`` file; what may be absent is `optional`."""
    lines = ['syntax = "proto3";', "package bifrost;", "", "// One value of one tag.", "message Reading {"]
    for field in _FIELDS:
        column = TABLE.field(field.name)
        comment = (column.metadata or {}).get(b"comment", b"").decode()
        if pa.types.is_timestamp(column.type):
            comment += "; µs since the epoch"
        kind = _PROTO.get(column.type, "int64")
        lines += [
            f"  // {comment}",
            f"  {'optional ' if column.nullable else ''}{kind} {field.name} = {field.number};",
        ]
    return "\n".join([*lines, "}", ""])


SCHEMAS: Final = {"avro": ("AVRO", avro_schema), "protobuf": ("PROTOBUF", proto_schema)}


def framing(kind: str, schema_id: int) -> bytes:
    """What stands before a value that was written by a schema of the registry, as Confluent defines it."""
    return b"\0" + schema_id.to_bytes(4, "big") + (b"\0" if kind == "protobuf" else b"")  # 0: the file's first message


def topic_text(column: str, text: str) -> str:  # noqa: ARG001 - see Template
    """A name as it may stand in a topic's."""
    return _NOT_IN_TOPICS.sub("_", text.replace("/", "."))


@dataclass(frozen=True, slots=True)
class Identity:
    """What the headers of messages say, a place in each list for each message."""

    gateways: list[Header]
    shards: list[Header]
    sequences: list[str]
    qualities: list[Header]


@dataclass(frozen=True, slots=True)
class Messages:
    """The messages of a batch, a place in each list for each reading.

    Attributes:
        topics: Their topics.
        keys: Their keys.
        values: Their values.
        times: When they happened, ms since the epoch.
        identity: What their headers say; None where there are none.
    """

    topics: list[str]
    keys: list[str]
    values: list[bytes]
    times: list[int]
    identity: Identity | None

    def __len__(self) -> int:
        return len(self.values)

    def headers(self) -> Iterable[list[Header] | None]:
        """The headers of each; made when they are asked for, because ten thousand lists at once cost more."""
        own = self.identity
        if own is None:
            return repeat(None, len(self))
        sequences = zip(repeat("sequence"), own.sequences, strict=False)
        return map(list, zip(own.gateways, own.shards, sequences, own.qualities, strict=True))

    def only(self, rows: Sequence[int]) -> "Messages":
        """Some of them, in that order."""
        own, at = self.identity, partial(_at, rows)
        if own is not None:
            own = Identity(at(own.gateways), at(own.shards), at(own.sequences), at(own.qualities))
        return Messages(at(self.topics), at(self.keys), at(self.values), at(self.times), own)


def _at(rows: Sequence[int], column: list[Any]) -> list[Any]:
    return [column[row] for row in rows]


class _Texts:
    """Names by number as Python texts, without a loop over readings."""

    def __init__(self) -> None:
        self._names: npt.NDArray[np.object_] = np.empty(0, object)

    def of(self, names: Names) -> list[str]:
        if len(self._names) != len(names.names) or (len(self._names) and self._names[-1] != names.names[-1]):
            self._names = np.array([*names.names, None], object)[:-1]
        found: list[str] = self._names[names.index].tolist()
        return found


class MessageEncoder:
    """Makes messages; keeps what is constant per tag, so use one for as long as possible."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._topic = Template(settings.topic, topic_text)
        self._key = Template(settings.key)
        self._topics, self._keys = _Texts(), _Texts()
        self._json = JsonLinesEncoder()
        self._avro = AvroEncoder()
        self._protobuf = ProtobufEncoder(_FIELDS)

    def topics(self, batch: pa.RecordBatch) -> tuple[list[str], dict[int, str]]:
        """The topics that a batch goes to, and the readings that have none, with the reason."""
        names = self._topic.render(batch)
        used = np.unique(names.index).tolist()
        wrong = [at for at in used if not 0 < len(names.names[at]) <= _LONGEST_TOPIC or names.names[at] in {".", ".."}]
        refused = {
            row: f"`{names.names[names.index[row]][:300]}` is no name of a topic: 1 to {_LONGEST_TOPIC} characters"
            for row in np.flatnonzero(np.isin(names.index, wrong)).tolist()
        }
        return [names.names[at] for at in used if at not in wrong], refused

    def encode(self, batch: pa.RecordBatch, schema_ids: Mapping[str, int]) -> Messages:
        """The messages of a batch of `normalization.reading.stream_schema`.

        Args:
            batch: The readings.
            schema_ids: Number of the schema for each topic; empty for JSON.
        """
        topics = self._topic.render(batch)
        return Messages(
            self._topics.of(topics),
            self._keys.of(self._key.render(batch)),
            self._values(batch, topics, schema_ids),
            self._times(batch),
            _identity(batch) if self._settings.headers == "identity" else None,
        )

    def _values(self, batch: pa.RecordBatch, topics: Names, schema_ids: Mapping[str, int]) -> list[bytes]:
        kind = self._settings.format
        if kind == "json":
            return singly(self._json.objects(batch))
        frames = {name: framing(kind, number) for name, number in schema_ids.items()}
        if kind == "avro":
            records = self._avro.encode(batch)
        else:
            records = self._protobuf.encode(reading_columns(batch), len(batch))
        if len(set(frames.values())) == 1:
            before = next(iter(frames.values()))
        else:
            by_number = pa.array([frames.get(name) for name in topics.names], pa.binary())
            before = by_number.take(pa.array(topics.index))
        values: list[bytes] = pc.binary_join_element_wise(before, records, b"").to_pylist()
        return values

    def _times(self, batch: pa.RecordBatch) -> list[int]:
        received = batch.column("received_time").view(pa.int64()).to_numpy()
        found = received
        column = batch.column("source_time")
        if self._settings.timestamp == "source_time" and column.null_count < len(column):
            source = column.view(pa.int64()).fill_null(0).to_numpy()
            found = np.where((source < 1_000) | (source > received + _AHEAD), received, source)
        times: list[int] = np.maximum(found // 1_000, 1).tolist()
        return times


def _identity(batch: pa.RecordBatch) -> Identity:
    gateways, shards = (_named(name, batch.column(name)) for name in IDENTITY_COLUMNS)
    sequences = batch.column("sequence").cast(pa.string()).to_pylist()
    return Identity(gateways, shards, sequences, _QUALITIES[batch.column("quality").to_numpy()].tolist())


def _named(name: str, column: pa.DictionaryArray) -> list[Header]:
    return _pairs(name, column.dictionary.to_pylist())[column.indices.to_numpy()].tolist()  # type: ignore[no-any-return]


def _pairs(name: str, texts: list[str]) -> npt.NDArray[np.object_]:
    pairs = np.empty(len(texts), object)
    pairs[:] = [(name, text) for text in texts]
    return pairs


_QUALITIES: Final = _pairs("quality", [quality.name for quality in Quality])
