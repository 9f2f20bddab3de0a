"""A Sparkplug B 3.0 edge node for a source of the plant: the first group is the node's own metrics, the others are devices.

Births carry name, alias, type, value, engineering unit and quality of every metric; data carries alias, time and value only
(spec 3.0 §6.4.5: a receiver needs the birth). A birth is a reading like any other and has its own number. Data is QoS 0 as the
specification demands, so the ledger of this source knows SENT but no PUBACK. A rebirth is given when an NCMD asks for
``Node Control/Rebirth``; the will is the NDEATH with the bdSeq of the connection.

The payload's protobuf messages are built here from the field numbers of the public specification (§6.4.1).

Faults: `kill_device` / `revive_device` (DDEATH, DBIRTH), `skip_sequence` (a lost message), `send_unknown_alias`,
`session.drop` (the broker sends the NDEATH), `pause` / `resume`, `set_bad`.
"""

import asyncio
import contextlib
import time
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from simulator.ledger import SENT, Ledger
from simulator.mqtt import Session, without_user
from simulator.pace import Pace
from simulator.plant import EDGE_NODE, Group, Plant, Source, SparkplugMetric, Tag, value

REBIRTH: Final = "Node Control/Rebirth"
_INT32, _INT64, _UINT64, _FLOAT, _DOUBLE, _BOOLEAN, _STRING = 3, 4, 8, 9, 10, 11, 12
_TYPES: Final = {
    "int32": _INT32,
    "int64": _INT64,
    "uint64": _UINT64,
    "float32": _FLOAT,
    "float64": _DOUBLE,
    "bool": _BOOLEAN,
    "string": _STRING,
}
_VALUE_FIELDS: Final = {
    _INT32: "int_value",
    _INT64: "long_value",
    _UINT64: "long_value",
    _FLOAT: "float_value",
    _DOUBLE: "double_value",
    _BOOLEAN: "boolean_value",
    _STRING: "string_value",
}
_GOOD, _BAD = 192, 0


def _payload_class() -> type[Any]:
    """The protobuf class of a payload, in a pool of its own."""
    field = descriptor_pb2.FieldDescriptorProto
    scalar = {
        "u64": field.TYPE_UINT64,
        "u32": field.TYPE_UINT32,
        "str": field.TYPE_STRING,
        "bytes": field.TYPE_BYTES,
        "bool": field.TYPE_BOOL,
        "f": field.TYPE_FLOAT,
        "d": field.TYPE_DOUBLE,
    }
    messages = {
        "PropertyValue": "type:u32:1 is_null:bool:2 int_value:u32:3 long_value:u64:4 float_value:f:5 double_value:d:6 "
        "boolean_value:bool:7 string_value:str:8",
        "PropertySet": "keys:*str:1 values:*PropertyValue:2",
        "Metric": "name:str:1 alias:u64:2 timestamp:u64:3 datatype:u32:4 is_historical:bool:5 is_transient:bool:6 "
        "is_null:bool:7 properties:PropertySet:9 int_value:u32:10 long_value:u64:11 float_value:f:12 double_value:d:13 "
        "boolean_value:bool:14 string_value:str:15 bytes_value:bytes:16",
        "Payload": "timestamp:u64:1 metrics:*Metric:2 seq:u64:3 uuid:str:4 body:bytes:5",
    }
    file = descriptor_pb2.FileDescriptorProto(name="payload.proto", package="simulator.sparkplug", syntax="proto2")
    for name, fields in messages.items():
        message = file.message_type.add(name=name)
        for entry in fields.split():
            label, kind, number = entry.split(":")
            one = message.field.add(name=label, number=int(number))
            one.label = field.LABEL_REPEATED if kind.startswith("*") else field.LABEL_OPTIONAL
            kind = kind.lstrip("*")
            if kind in scalar:
                one.type = scalar[kind]
            else:
                one.type, one.type_name = field.TYPE_MESSAGE, f".simulator.sparkplug.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("simulator.sparkplug.Payload"))


Payload: Final = _payload_class()
"""Protobuf message ``Payload`` of Sparkplug B; metrics of types that the plant does not have are not decoded."""


def set_value(metric: Any, type_: int, reading: Any) -> None:
    """Put a value (None: null) of a Sparkplug type into a metric; negative integers as two's complement (§6.4.16)."""
    if reading is None:
        metric.is_null = True
    elif type_ == _INT32:
        metric.int_value = reading & 0xFFFFFFFF
    elif type_ == _INT64:
        metric.long_value = reading & 0xFFFFFFFFFFFFFFFF
    else:
        setattr(metric, _VALUE_FIELDS[type_], reading)


def set_property(metric: Any, key: str, content: int | str) -> None:
    """Add a property to a metric: an Int32 or a String."""
    metric.properties.keys.append(key)
    if isinstance(content, int):
        metric.properties.values.add(type=_INT32, int_value=content)
    else:
        metric.properties.values.add(type=_STRING, string_value=content)


class SparkplugNode:
    """Publishes one source. Use as ``async with``.

    Args:
        plant: The plant.
        source: A source with protocol ``sparkplug``; its name is the group id.
        broker: URL of the broker.
        ledger: Where to record what was published.

    Attributes:
        endpoint: URL of the broker, without user and password.
        session: The connection.
        births: NBIRTHs sent since the start.
    """

    def __init__(self, plant: Plant, source: Source, broker: str, ledger: Ledger | None = None) -> None:
        self.endpoint = without_user(broker)
        self.session = Session(
            broker,
            f"{plant.name}-{source.name}-{EDGE_NODE}",
            on_connect=self._on_connect,
            on_message=self._on_message,
            will=self._will,
        )
        self.births = 0
        self._source, self._ledger = source, ledger
        self._pace = Pace(source, ledger)
        self._sequence = 0
        self._session_number = -1  # bdSeq
        self._born = False
        self._dead: set[str] = set()
        self._bad: set[str] = set()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "SparkplugNode":
        await self.session.start()
        self._task = asyncio.create_task(self._pace.run(self._emit))
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        if self.session.connected:  # §5.4: who leaves in order says so, since the broker drops the will
            topic, payload = self._death()
            self.session.publish(topic, payload, qos=1)
        await self.session.stop()

    def pause(self) -> None:
        """Publish no data until `resume`; births are still given."""
        self._pace.pause()

    def resume(self) -> None:
        """Go on after `pause`."""
        self._pace.resume()

    def set_bad(self, tag_name: str, bad: bool) -> None:
        """Make all readings of the tags of a name bad, or good again. Not for a ledger: a bad reading has no number."""
        (self._bad.add if bad else self._bad.discard)(tag_name)

    def kill_device(self, device: str) -> None:
        """The device goes away: DDEATH, and no data until `revive_device`."""
        self._dead.add(device)
        self._publish("DDEATH", device, Payload(timestamp=_now() // 1000))

    def revive_device(self, device: str) -> None:
        """The device is back: DBIRTH, and data again."""
        self._dead.discard(device)
        for index, group in enumerate(self._source.groups):
            if _device(group) == device:
                self._birth_device(index)

    def skip_sequence(self) -> None:
        """A message gets lost: the next one's sequence number is one too far."""
        self._sequence = (self._sequence + 1) % 256

    def send_unknown_alias(self) -> None:
        """Send node data with an alias that no birth has named."""
        payload = Payload(timestamp=_now() // 1000)
        payload.metrics.add(alias=999_999, timestamp=_now() // 1000, double_value=1.0)
        self._publish("NDATA", "", payload)

    # -- births and deaths

    def _will(self) -> tuple[str, bytes]:
        self._session_number = (self._session_number + 1) % 256
        self._born = False
        return self._death()

    def _death(self) -> tuple[str, bytes]:
        payload = Payload(timestamp=_now() // 1000)
        payload.metrics.add(name="bdSeq", datatype=_INT64, long_value=self._session_number, timestamp=_now() // 1000)
        return self._topic("NDEATH"), payload.SerializeToString()

    def _on_connect(self) -> None:
        prefix = f"spBv1.0/{self._source.name}"
        self.session.subscribe(f"{prefix}/NCMD/{EDGE_NODE}", f"{prefix}/DCMD/{EDGE_NODE}/#")
        self._birth()

    def _on_message(self, topic: str, content: bytes) -> None:
        try:
            payload = Payload.FromString(content)
        except DecodeError:
            return  # not for us to judge who writes nonsense to our command topic
        if "/NCMD/" in topic and any(metric.name == REBIRTH and metric.boolean_value for metric in payload.metrics):
            self._birth()

    def _birth(self) -> None:
        """NBIRTH, then a DBIRTH for every device that lives."""
        now = _now()
        self._sequence = 0
        payload = Payload(timestamp=now // 1000)
        payload.metrics.add(name="bdSeq", datatype=_INT64, long_value=self._session_number, timestamp=now // 1000)
        payload.metrics.add(name=REBIRTH, datatype=_BOOLEAN, boolean_value=False, timestamp=now // 1000)
        for index, group in enumerate(self._source.groups):
            if not _device(group):
                self._add_births(payload, index, now)
        self._publish("NBIRTH", "", payload)
        self.births += 1
        for index, group in enumerate(self._source.groups):
            if _device(group) and _device(group) not in self._dead:
                self._birth_device(index)
        self._born = True

    def _birth_device(self, index: int) -> None:
        now = _now()
        payload = Payload(timestamp=now // 1000)
        self._add_births(payload, index, now)
        self._publish("DBIRTH", _device(self._source.groups[index]), payload)

    def _add_births(self, payload: Any, index: int, now: int) -> None:
        """Add the metrics of a group as they stand in a birth, with the group's next reading."""
        group = self._source.groups[index]
        first, n = self._pace.take(index)
        self._record(first, len(group.tags), n, now)
        for tag in group.tags:
            reading = self._reading(tag, n, group.period)
            type_ = _TYPES[tag.type]
            place = _place(tag)
            metric = payload.metrics.add(name=place.metric, alias=place.alias, datatype=type_, timestamp=now // 1000)
            set_value(metric, type_, reading)
            set_property(metric, "Quality", _BAD if reading is None else _GOOD)
            if tag.unit:
                set_property(metric, "engUnit", tag.unit)

    # -- data

    async def _emit(self, group: Group, first: int, n: int, time: int) -> bool:
        device = _device(group)
        if not self._born or not self.session.connected or device in self._dead:
            return False
        payload = Payload(timestamp=time // 1000)
        for tag in group.tags:
            reading = self._reading(tag, n, group.period)
            metric = payload.metrics.add(alias=_place(tag).alias, timestamp=time // 1000)
            set_value(metric, _TYPES[tag.type], reading)
            if reading is None:
                set_property(metric, "Quality", _BAD)
        self._record(first, len(group.tags), n, time)
        self._publish("DDATA" if device else "NDATA", device, payload)
        return True

    def _reading(self, tag: Tag, n: int, period: float) -> Any:
        return None if tag.name in self._bad else value(tag, n, period)

    def _record(self, first: int, count: int, n: int, time: int) -> None:
        if self._ledger is not None:
            self._ledger.append(range(first, first + count), n, SENT, time)

    def _publish(self, kind: str, device: str, payload: Any) -> None:
        payload.seq = self._sequence
        self._sequence = (self._sequence + 1) % 256
        self.session.publish(self._topic(kind, device), payload.SerializeToString(), qos=0)

    def _topic(self, kind: str, device: str = "") -> str:
        return f"spBv1.0/{self._source.name}/{kind}/{EDGE_NODE}" + (f"/{device}" if device else "")


def _place(tag: Tag) -> SparkplugMetric:
    assert isinstance(tag.address, SparkplugMetric)  # noqa: S101  (by construction of the plant)
    return tag.address


def _device(group: Group) -> str:
    return _place(group.tags[0]).device


def _now() -> int:
    return time.time_ns() // 1000
