"""Messages as frames of AMQP 0.9.1, thousands at once. Pure.

A message is three frames: the method ``basic.publish``, the properties and the body. They are put together from pieces that
are each made for all messages: what is constant per tag or per name is rendered once and looked up, numbers are written into
a matrix of bytes, texts keep their own buffers, and Arrow joins the pieces. There is no loop over readings.
"""

import struct
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from connectors.targets.amqp.config import AmqpSettings
from connectors.targets.amqp.connection import Chunk
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
from connectors.wire.messages import Template
from normalization.reading import IDENTITY_COLUMNS, Quality

_END: Final = b"\xce"
_SHORT: Final = 255  # bytes of a routing key
_CHUNK: Final = 128 * 1024
_BASIC: Final = 60
_PUBLISH: Final = struct.pack(">HHH", _BASIC, 40, 0)
_TYPE: Final = b"\x10application/json"
_APP: Final = b"\x07bifrost"
_FLAGS: Final = 0x8000 | 0x2000 | 0x1000 | 0x0080 | 0x0040 | 0x0008  # type, headers, mode, id, time, application


def text_header(name: str, text: str) -> bytes:
    """A header whose value is a text."""
    data = text.encode()
    return bytes([len(name)]) + name.encode() + b"S" + len(data).to_bytes(4, "big") + data


_QUALITIES: Final = pa.array([text_header("quality", q.name) for q in Quality], BINARY)


class FrameEncoder:
    """Encodes stream items; keeps what is constant per tag and per name, so use one for as long as possible."""

    def __init__(self, own: AmqpSettings) -> None:
        self.messages: Final = MessageEncoder(own, [Template(own.routing_key, routing_word)], _SHORT)
        self._exchange = own.exchange.encode()
        self._mandatory = own.mandatory
        self._mode = 2 if own.persistent else 1
        self._anew = any(f"{{{name}}}" in own.routing_key for name in IDENTITY_COLUMNS)  # names are made for each batch
        self._routes: list[bytes] = []
        self._headers = TagHeaders(own.headers, text_header)

    def frames(self, batch: pa.RecordBatch, messages: Messages, channel: int, frame_max: int) -> Iterator[Chunk]:
        """The messages as frames of one channel, in chunks that end with a message.

        Args:
            batch: What was encoded.
            messages: What `messages` made of it.
            channel: Number of the channel.
            frame_max: Bytes of a frame, at most.
        """
        if not len(messages):
            return
        number = channel.to_bytes(2, "big")
        names = messages.names[0]
        ids = identities(batch, messages)
        bodies, first_sizes = _bodies(messages.bodies, frame_max - 8, number)
        pieces = [
            b"\x01" + number,
            self._render(names.names).take(pa.array(names.index)),
            *self._properties(batch, messages, number, ids),
            matrix(
                len(messages),
                [
                    ("time", ">i8", times(batch, messages) // 1_000_000),
                    ("app", f"S{len(_APP)}", _APP),
                    ("end", "S1", _END),
                    ("frame", "S3", b"\x03" + number),
                    ("size", ">u4", first_sizes),
                ],
            ),
            bodies,
        ]
        yield from _chunks(pc.binary_join_element_wise(*pieces, _END, EMPTY))

    def _properties(self, batch: pa.RecordBatch, messages: Messages, number: bytes, ids: pa.Array) -> list[pa.Array]:
        """The frame of properties up to the time."""
        at = pa.array(messages.first)
        numbers = [("sequence", batch.column("sequence").take(at).to_numpy())]
        if messages.rows:
            numbers.append(("readings", messages.readings))
        texts = []
        for name in IDENTITY_COLUMNS:
            column = batch.column(name)
            rendered = [text_header(name, text) for text in column.dictionary.to_pylist()]
            texts.append(pa.array(rendered, BINARY).take(column.indices.take(at)))
        if not messages.rows:
            texts.append(_QUALITIES.take(batch.column("quality").take(at)))
        if self._headers:
            texts.append(self._headers.take(batch, messages)[0])
        id_sizes = pc.binary_length(ids).to_numpy()
        headers = sum(len(name) + 10 for name, _ in numbers) + lengths(texts)
        # class, weight, size, flags; type, headers, mode, id, time, application
        size = 2 + 2 + 8 + 2 + len(_TYPE) + 4 + headers + 1 + 1 + id_sizes + 8 + len(_APP)
        fields: list[Field] = [
            ("frame", "S3", b"\x02" + number),
            ("length", ">u4", size),
            ("class", ">u4", _BASIC << 16),
            ("body", ">u8", pc.binary_length(messages.bodies).to_numpy()),
            ("flags", ">u2", _FLAGS),
            ("type", f"S{len(_TYPE)}", _TYPE),
            ("table", ">u4", headers),
        ]
        for name, values in numbers:
            fields.append((f"{name} name", f"S{len(name) + 2}", bytes([len(name)]) + name.encode() + b"l"))
            fields.append((name, ">i8", values))
        middle = matrix(len(messages), [("mode", "u1", self._mode), ("size", "u1", id_sizes)])
        return [matrix(len(messages), fields), *texts, middle, ids]

    def _render(self, names: Sequence[str]) -> pa.Array:
        """The method of each name, from its length on."""
        if self._anew:
            self._routes = []
        for name in names[len(self._routes) :]:
            key = name.encode()[:_SHORT]  # a longer one was rejected
            method = b"".join(
                (
                    _PUBLISH,
                    bytes([len(self._exchange)]),
                    self._exchange,
                    bytes([len(key)]),
                    key,
                    bytes([self._mandatory]),
                )
            )
            self._routes.append(len(method).to_bytes(4, "big") + method + _END)
        return pa.array(self._routes, BINARY)


def _bodies(payloads: pa.Array, most: int, number: bytes) -> tuple[pa.Array, np.ndarray]:
    """Payloads as they stand in their frames, but for the first frame's head and the last one's end; size of the first."""
    sizes = pc.binary_length(payloads).to_numpy()
    if sizes.max() <= most:
        return payloads, sizes
    whole = payloads.to_pylist()
    for row in np.flatnonzero(sizes > most).tolist():
        parts = [whole[row][start : start + most] for start in range(0, len(whole[row]), most)]
        head = _END + b"\x03" + number
        whole[row] = parts[0] + b"".join(head + len(part).to_bytes(4, "big") + part for part in parts[1:])
    return pa.array(whole, BINARY), np.minimum(sizes, most)


def _chunks(messages: pa.Array) -> Iterator[Chunk]:
    _, offsets, data = messages.buffers()
    ends = np.frombuffer(offsets, np.int32)[messages.offset : messages.offset + len(messages) + 1]
    view = memoryview(data)
    start = 0
    while start < len(messages):
        stop = max(start + 1, int(np.searchsorted(ends, ends[start] + _CHUNK, side="right")) - 1)
        yield Chunk(view[ends[start] : ends[stop]], stop - start)
        start = stop
