"""Messages as deliveries of AMQP 1.0, thousands at once. Pure.

A delivery is a transfer frame with the sections of the message: header, properties, application properties, data. They are
put together as the frames of 0.9.1 are, see `connectors.targets.amqp.encode`.
"""

import struct
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from connectors.targets.amqp.config import AmqpSettings
from connectors.targets.amqp.messages import (
    BINARY,
    EMPTY,
    Field,
    MessageEncoder,
    Messages,
    TagHeaders,
    identities,
    lengths,
    matrix,
    routing_word,
    times,
)
from connectors.targets.amqp.version_1.types import Described, Symbol, Uint, encode, text
from connectors.wire.messages import Template
from normalization.reading import IDENTITY_COLUMNS, Quality

_HEADER, _PROPERTIES, _APPLICATION, _DATA, _TRANSFER = 0x70, 0x73, 0x74, 0x75, 0x14
_FRAME_HEAD: Final = 8
_TYPE: Final = encode(Symbol("application/json"))
_BEFORE_TIME: Final = b"\x40\x40" + _TYPE + b"\x40\x40\x83"  # reply-to, correlation-id, type, encoding, expiry
_BEFORE_SUBJECT: Final = b"\x40\x40"  # user-id, to
_HEAD: Final = 38  # bytes of a transfer before the message
_TAG: Final = 4


def _section(code: int, constructor: int) -> bytes:
    return bytes((0x00, 0x53, code, constructor))


def pair(name: str, value: str) -> bytes:
    """An application property that is a text."""
    return text(name) + text(value)


_QUALITIES: Final = pa.array([pair("quality", q.name) for q in Quality], BINARY)


@dataclass(frozen=True, slots=True)
class Transfers:
    """Deliveries of one link, one after the other.

    Attributes:
        data: Their frames.
        ends: Where each ends; one more than deliveries, from 0.
        frames: How many frames come before each; one more than deliveries.
    """

    data: memoryview
    ends: np.ndarray
    frames: np.ndarray


class SectionEncoder:
    """Encodes stream items; keeps what is constant per tag and per name, so use one for as long as possible."""

    def __init__(self, own: AmqpSettings) -> None:
        self.messages: Final = MessageEncoder(
            own, [Template(own.address, routing_word), Template(own.subject, routing_word)]
        )
        self._durable = encode(Described(_HEADER, [own.persistent]))
        self._headers = TagHeaders(own.headers, pair)

    def sections(self, batch: pa.RecordBatch, messages: Messages) -> pa.Array:
        """Each message as bytes."""
        at, count = pa.array(messages.first), len(messages)
        ids = identities(batch, messages)
        id_sizes = pc.binary_length(ids).to_numpy()
        subject = messages.names[1]
        subjects = pa.array([text(name) for name in subject.names], BINARY).take(pa.array(subject.index))
        properties = (
            4 + 2 + id_sizes + len(_BEFORE_SUBJECT) + pc.binary_length(subjects).to_numpy() + len(_BEFORE_TIME) + 8
        )
        numbers = [("sequence", batch.column("sequence").take(at).to_numpy())]
        if messages.rows:
            numbers.append(("readings", messages.readings))
        pairs, counts = self._pairs(batch, messages)
        application = 4 + sum(len(text(name)) + 9 for name, _ in numbers) + lengths(pairs)
        middle: list[Field] = [
            ("before time", f"S{len(_BEFORE_TIME)}", _BEFORE_TIME),
            ("time", ">i8", times(batch, messages) // 1_000),
            ("section", "S4", _section(_APPLICATION, 0xD1)),
            ("size", ">u4", application),
            ("count", ">u4", 2 * (len(numbers) + counts)),
        ]
        for name, values in numbers:
            key = text(name) + b"\x81"
            middle += [(f"{name} name", f"S{len(key)}", key), (name, ">i8", values)]
        pieces = [
            self._durable,
            matrix(
                count,
                [
                    ("section", "S4", _section(_PROPERTIES, 0xD0)),
                    ("size", ">u4", properties),
                    ("count", ">u4", 10),
                    ("string", "S1", b"\xa1"),
                    ("length", "u1", id_sizes),
                ],
            ),
            ids,
            _BEFORE_SUBJECT,
            subjects,
            matrix(count, middle),
            *pairs,
            matrix(
                count,
                [
                    ("section", "S4", _section(_DATA, 0xB0)),
                    ("size", ">u4", pc.binary_length(messages.bodies).to_numpy()),
                ],
            ),
            messages.bodies,
        ]
        return pc.binary_join_element_wise(*pieces, EMPTY)

    def _pairs(self, batch: pa.RecordBatch, messages: Messages) -> tuple[list[pa.Array], np.ndarray]:
        """The application properties that are texts, and how many they are."""
        at = pa.array(messages.first)
        pieces = []
        for name in IDENTITY_COLUMNS:
            column = batch.column(name)
            rendered = [pair(name, value) for value in column.dictionary.to_pylist()]
            pieces.append(pa.array(rendered, BINARY).take(column.indices.take(at)))
        if not messages.rows:
            pieces.append(_QUALITIES.take(batch.column("quality").take(at)))
        counts = np.full(len(messages), len(pieces), np.int64)
        if self._headers:
            rendered, more = self._headers.take(batch, messages)
            pieces.append(rendered)
            counts = counts + more
        return pieces, counts


def transfers(sections: pa.Array, handle: int, first: int, frame_max: int) -> Transfers:
    """Messages as the deliveries of one link.

    Args:
        sections: Each message as bytes.
        handle: Number of the link.
        first: Number of the first delivery.
        frame_max: Bytes of a frame, at most.
    """
    count = len(sections)
    numbers = (first + np.arange(count)) % 2**32
    sizes = pc.binary_length(sections).to_numpy()
    head = matrix(
        count,
        [
            ("size", ">u4", sizes + _HEAD),
            ("frame", "S4", b"\x02\x00\x00\x00"),
            ("transfer", "S4", _section(_TRANSFER, 0xD0)),
            ("list", ">u4", 22),
            ("count", ">u4", 5),
            ("handle", "S5", encode(Uint(handle))),
            ("uint", "S1", b"\x70"),
            ("id", ">u4", numbers),
            ("binary", "S2", bytes((0xA0, _TAG))),
            ("tag", ">u4", numbers),
            ("rest", "S2", b"\x43\x42"),  # format 0, not settled
        ],
    )
    frames = np.ones(count, np.int64)
    whole = pc.binary_join_element_wise(head, sections, EMPTY)
    if sizes.max() + _HEAD > frame_max:
        made = whole.to_pylist()
        for row in np.flatnonzero(sizes + _HEAD > frame_max).tolist():
            parts = _split(made[row][_HEAD:], handle, int(numbers[row]), frame_max)
            made[row], frames[row] = b"".join(parts), len(parts)
        whole = pa.array(made, BINARY)
    _, offsets, data = whole.buffers()
    ends = np.frombuffer(offsets, np.int32)[whole.offset : whole.offset + count + 1].astype(np.int64)
    return Transfers(memoryview(data), ends, np.concatenate([[0], np.cumsum(frames)]))


def _split(message: bytes, handle: int, number: int, frame_max: int) -> list[bytes]:
    """A message that does not fit into one frame."""
    most = frame_max - _HEAD - 1
    starts = range(0, len(message), most)
    made = []
    for start in starts:
        more = start != starts[-1]
        tag = struct.pack(">I", number)
        fields = encode(Described(_TRANSFER, [Uint(handle), Uint(number), tag, Uint(0), False, more]))
        part = message[start : start + most]
        made.append(struct.pack(">IBBH", _FRAME_HEAD + len(fields) + len(part), 2, 0, 0) + fields + part)
    return made
