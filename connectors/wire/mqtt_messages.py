"""Readings as MQTT messages with JSON payloads, one each or packed. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa

from connectors.wire.json_lines import JsonLinesEncoder
from connectors.wire.messages import pack
from connectors.wire.mqtt_names import KindTopics, Topics, clean, fault
from connectors.wire.mqtt_outgoing import lengths, with_user_properties
from connectors.wire.mqtt_publisher import Messages

_BESIDE: Final = 16  # bytes of a packet besides topic, properties and payload, at most


@dataclass(frozen=True, slots=True)
class MessageForm:
    """How readings become messages.

    Attributes:
        topics: Templates of the topics of data, events and alarms, or one for all.
        readings: Readings in a message, at most; 1 for a message per reading that is no array.
        arrays: Whether a message is an array even when it holds one reading.
        properties: Properties of all messages, see `mqtt_outgoing.properties`; None for MQTT 3.1.1.
        identity: Whether each message has the identity of its reading as user properties.
        clean: What may stand in a topic, see `messages.Template`.
        fault: Why a topic cannot be used.
    """

    topics: Sequence[str]
    readings: int = 1
    arrays: bool = False
    properties: bytes | None = None
    identity: bool = False
    clean: Callable[[str, str], str] = clean
    fault: Callable[[str], str | None] = fault


class MessageEncoder:
    """Encodes stream items; keeps what is constant per tag, so use one for as long as possible."""

    def __init__(self, form: MessageForm) -> None:
        self._form = form
        self._topics = KindTopics(form.topics, form.fault, form.clean)
        self._json = JsonLinesEncoder()

    def encode(
        self, batch: pa.RecordBatch, most_bytes: int, *, singly: bool = False
    ) -> tuple[Messages, dict[int, str]]:
        """Messages of a batch of `normalization.reading.stream_schema`, and why some rows have none.

        Args:
            batch: The batch.
            most_bytes: Bytes of the largest packet.
            singly: Whether no message may hold more than one reading.
        """
        topics = self._topics.render(batch)
        wrong: dict[int, str] = {}
        rows: np.ndarray | None = None
        if topics.wrong:
            bad = np.isin(topics.index, np.fromiter(topics.wrong, np.int64))
            wrong = {row: topics.wrong[int(topics.index[row])] for row in np.flatnonzero(bad).tolist()}
            if wrong:
                rows = np.flatnonzero(~bad)
                batch = batch.take(pa.array(rows))
                topics = Topics(topics.names, topics.fields, topics.index[rows], {})
        objects = self._json.objects(batch)
        if self._form.readings > 1 or self._form.arrays:
            return self._packed(objects, topics, rows, most_bytes, 1 if singly else self._form.readings), wrong
        return Messages(topics.fields, topics.names, topics.index, objects, rows, self._properties_of(batch)), wrong

    def _packed(
        self, objects: pa.Array, topics: Topics, rows: np.ndarray | None, most_bytes: int, most: int
    ) -> Messages:
        common = self._form.properties
        beside = _BESIDE + len(common or b"") + int(lengths(topics.fields).max(initial=0))
        packs = pack(objects, topics.index, most_bytes=max(1, most_bytes - beside), most_readings=most)
        return Messages(
            topics.fields,
            topics.names,
            np.array([one.group for one in packs], np.int64),
            pa.array([one.payload for one in packs], pa.binary()),
            [one.rows if rows is None else rows[one.rows] for one in packs],
            None if common is None else pa.scalar(common, pa.binary()),
        )

    def _properties_of(self, batch: pa.RecordBatch) -> pa.Array | pa.Scalar | None:
        common = self._form.properties
        if common is None or not self._form.identity:
            return None if common is None else pa.scalar(common, pa.binary())
        user = [(name, batch.column(name).dictionary_decode()) for name in ("gateway", "shard")]
        return with_user_properties(common, [*user, ("sequence", batch.column("sequence").cast(pa.string()))])
