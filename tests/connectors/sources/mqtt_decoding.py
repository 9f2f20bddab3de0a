"""What tests of payload formats share: one message decoded, and its readings told."""

import json
from typing import Any, NamedTuple

from connectors.sources.mqtt import MqttConfig
from connectors.sources.mqtt.payload import Decoder
from connectors.wire.mqtt_packets import Publish, Publishes
from normalization.reading import Columns, TagTable


class Told(NamedTuple):
    """One reading."""

    name: str
    value: Any
    time: int | None = None
    quality: int = 0
    unit: str = ""
    properties: dict[str, Any] | None = None


def columns(payload: bytes, **subscription: Any) -> tuple[Columns, TagTable]:
    """The readings of one message on a subscription of its own; they can be written."""
    tags, rows, sent = TagTable(), Columns(), Publishes()
    config = {"name": "s", "endpoint": "mqtt://b", "subscriptions": [{"topic": "#"} | subscription]}
    sent.add(Publish(b"hall/press", payload, 0, 0, b""))
    Decoder(MqttConfig.model_validate(config), tags.intern).decode(sent, rows)
    rows.to_batch([0] * len(rows), 0)
    return rows, tags


def told(payload: bytes, **subscription: Any) -> list[Told]:
    """The readings of one message that are no rejects."""
    rows, tags = columns(payload, **subscription)
    values = zip(rows.type, rows.value_double, rows.value_int, rows.value_text, rows.value_bytes, strict=True)
    found = [
        bool(integer)
        if kind == 1
        else next((value for value in (double, integer, text, raw) if value is not None), None)
        for kind, double, integer, text, raw in values
    ]
    return [
        Told(tags[tag].tag_name, value, when, quality, tags[tag].unit, json.loads(more) if more else None)
        for tag, value, when, quality, more, reject in zip(
            rows.tag, found, rows.source_time, rows.quality, rows.properties, rows.reject, strict=True
        )
        if reject is None
    ]


def rejects(payload: bytes, **subscription: Any) -> list[tuple[str, bytes | None]]:
    """Why what was not read is a reject, and its bytes."""
    rows, _ = columns(payload, **subscription)
    return [(why, raw) for why, raw in zip(rows.reject, rows.value_bytes, strict=True) if why is not None]
