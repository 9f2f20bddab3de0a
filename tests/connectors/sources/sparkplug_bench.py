"""A Sparkplug host with a tag table, fed by topic and metrics, for tests of the state machine by itself."""

import json
from typing import Any

from connectors.sources.sparkplug import RebirthRequest, SparkplugHost
from connectors.wire.sparkplug import parse_topic
from connectors.wire.sparkplug_messages import message_class
from connectors.wire.sparkplug_values import DataType, set_value
from normalization.reading import Columns, Tag
from tests.recording_intake import Recorded, RecordingIntake

T0 = 1_700_000_000_000


class Bench:
    """A host with a tag table, fed by topic and metrics."""

    def __init__(self, state: tuple[bytes, bytes] | None = None, **settings: Any) -> None:
        self.intake = RecordingIntake()
        self.rejects = self.intake.tag(Tag("s", "sparkplug", "s", "", "unreadable"))
        self.host = SparkplugHost(self.tag_of, lambda: self.rejects, **settings)
        if state is not None:
            self.host.restore(*state)

    def tag_of(self, device_id: str, address: str, name: str, unit: str, metadata: dict[str, str]) -> int:
        return self.intake.tag(Tag("s", "sparkplug", device_id, address, name, unit, json.dumps(metadata)))

    def receive(
        self, topic: str, payload: bytes, now: float = 0.0, head: int = 0
    ) -> tuple[list[Recorded], list[RebirthRequest]]:
        parsed = parse_topic(f"spBv1.0/{topic}")
        assert parsed is not None
        rows = Columns()
        asked = self.host.receive(parsed, payload, head, now, rows)
        return self._new(rows), asked

    def expire(self, now: float) -> tuple[list[Recorded], list[RebirthRequest]]:
        """The time of what is held is over."""
        rows = Columns()
        asked = self.host.expire(now, rows)
        return self._new(rows), asked

    def lose_connection(self, now: float = 0.0) -> list[Recorded]:
        rows = Columns()
        self.host.disconnected(now, rows)
        return self._new(rows)

    def _new(self, rows: Columns) -> list[Recorded]:
        before = len(self.intake.readings())
        self.intake.appended.append((rows, None))
        return self.intake.readings()[before:]

    def state(self) -> tuple[bytes, bytes]:
        """What is kept of it."""
        return self.host.state(), self.host.progress()

    def values(self, topic: str, payload: bytes, now: float = 0.0) -> list[Any]:
        """The values of the sound readings."""
        return [r.value for r in self.receive(topic, payload, now)[0] if r.reject is None]


def metric(kind: DataType, value: Any, name: str = "", alias: int | None = None, **fields: Any) -> Any:
    out = message_class("Metric")(**({"name": name} if name else {}), **fields)
    if alias is not None:
        out.alias = alias
    set_value(out, kind, value)
    return out


def properties(out: Any, **given: Any) -> Any:
    for key, value in given.items():
        out.properties.keys.append(key)
        item = out.properties.values.add()
        set_value(item, DataType.STRING if isinstance(value, str) else DataType.INT32, value)
    return out


def payload(seq: int | None, *metrics: Any, timestamp: int = T0) -> bytes:
    out = message_class()(timestamp=timestamp, metrics=metrics)
    if seq is not None:
        out.seq = seq
    return bytes(out.SerializeToString())


def bdseq(number: int) -> Any:
    return metric(DataType.UINT64, number, "bdSeq")


def born(bench: Bench, number: int = 0) -> None:
    """Edge node G/N with metric `up` (alias 1), device D with `temp` (alias 7) and `cnt` (alias 8)."""
    up = metric(DataType.INT32, 1, "up", 1)
    rebirth = metric(DataType.BOOLEAN, False, "Node Control/Rebirth")
    assert bench.values("G/NBIRTH/N", payload(0, bdseq(number), rebirth, up)) == [1]
    temp = properties(metric(DataType.DOUBLE, 20.5, "temp", 7, timestamp=T0 + 5), engUnit="°C", Place="oven")
    assert bench.values("G/DBIRTH/N/D", payload(1, temp, metric(DataType.UINT64, 2**63, "cnt", 8))) == [20.5, 2**63]


def data(seq: int | None, value: float = 1.0, alias: int = 7) -> bytes:
    """A DDATA of device D, as `born` made it."""
    return payload(seq, metric(DataType.DOUBLE, value, alias=alias))
