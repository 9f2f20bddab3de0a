"""MQTT in both versions and Sparkplug B: mosquitto, with mosquitto_pub as the foreign publisher."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from typing_extensions import override

from connectors.settings import SourceConfig
from connectors.sources.mqtt import MqttConfig
from normalization.reading import Quality, ValueType
from simulator.sparkplug import Payload, set_property, set_value
from tests.contract.device import NUMBER, Device, Known, Provider
from tests.contract.relay import Relay
from tests.mosquitto_broker import Broker, program


class Topics:
    """Tags of which each has its topic, as JSON."""

    scheme = "mqtt"
    patience: ClassVar[dict[str, Any]] = {"connect_timeout": 30.0}
    subscriptions: ClassVar[list[dict[str, Any]]] = [{"topic": "plant/#"}]
    pushes = True
    qos = 1
    known: ClassVar[list[Known]] = [
        Known("double", ValueType.DOUBLE, 21.5),
        Known("nan", ValueType.DOUBLE, float("nan")),
        Known("integer", ValueType.INT64, -(2**63)),
        Known("unsigned", ValueType.UINT64, 2**64 - 1),
        Known("boolean", ValueType.BOOLEAN, True),
        Known("text", ValueType.TEXT, "läuft ✓"),
        Known("array", ValueType.JSON, [1, 2.5, "x"]),
        Known("null", ValueType.NULL, None, Quality.BAD),
        Known("uncertain", ValueType.DOUBLE, 1.5, Quality.UNCERTAIN),
    ]

    def __init__(self, broker: Broker, relay: Relay, version: str) -> None:
        self.relay = relay
        self._broker = broker
        self._version = version

    def config(self, **settings: Any) -> SourceConfig:
        own = {
            "name": "source",
            "endpoint": f"mqtt://127.0.0.1:{self.relay.port}",
            "version": self._version,
            "keepalive": 1,
            "connect_timeout": 0.5,
            "max_unacknowledged": 20,
            "subscriptions": self.subscriptions,
        }
        return MqttConfig.model_validate(own | settings)

    async def _publish(self, topic: str, message: str | bytes) -> None:
        await self._broker.publish(topic, message, options=["-q", str(self.qos)])

    async def welcome(self) -> None:
        for known in self.known:
            content = {"value": known.value, "quality": known.quality.name.lower()}
            await self._publish(f"plant/{known.tag_name}", json.dumps(content))

    async def show(self, number: int) -> None:
        await self._publish(f"plant/{NUMBER}", json.dumps({"value": number}))

    async def corrupt(self) -> bytes:
        broken = b'{"value": 1, \xff'
        await self._publish(f"plant/{NUMBER}", broken)
        return broken

    def acknowledged(self) -> int | None:
        return self._broker.log().count("Received PUBACK from") if self.qos else None

    def login(self, password: str) -> dict[str, Any] | None:
        return {"username": "operator", "password": password}

    def wrong(self) -> tuple[dict[str, Any], str]:
        return {"username": "nobody"}, "refused"


class AtMostOnce(Topics):
    """What is sent at QoS 0: nothing is kept, so that a disconnection is a gap."""

    qos = 0


class EdgeNode(Topics):
    """An edge node with one device, as Sparkplug B."""

    subscriptions: ClassVar[list[dict[str, Any]]] = [{"topic": "spBv1.0/#", "format": "sparkplug"}]

    known: ClassVar[list[Known]] = [
        Known("double", ValueType.DOUBLE, 21.5),
        Known("float", ValueType.DOUBLE, 0.5),
        Known("integer", ValueType.INT64, -5),
        Known("long", ValueType.INT64, -(2**63)),
        Known("unsigned", ValueType.UINT64, 2**64 - 1),
        Known("boolean", ValueType.BOOLEAN, True),
        Known("text", ValueType.TEXT, "läuft ✓"),
        Known("null", ValueType.NULL, None, Quality.BAD),
        Known("stale", ValueType.DOUBLE, 1.5, Quality.STALE),
    ]
    _types: ClassVar[dict[str, int]] = {
        "double": 10,
        "float": 9,
        "integer": 3,
        "long": 4,
        "unsigned": 8,
        "boolean": 11,
        "text": 12,
        "null": 10,
    }
    _time = 1_790_000_000_000
    _sequence = 0

    async def _send(self, kind: str, payload: Any, device: str = "/device") -> None:
        payload.timestamp, payload.seq = self._time, self._sequence
        self._sequence = (self._sequence + 1) % 256
        await self._publish(f"spBv1.0/plant/{kind}/edge{device}", payload.SerializeToString())

    @override
    async def welcome(self) -> None:
        self._sequence = 0
        birth = Payload()
        birth.metrics.add(name="bdSeq", datatype=4, long_value=0)
        await self._send("NBIRTH", birth, "")
        birth = Payload()
        for alias, known in enumerate(self.known, 1):
            datatype = self._types.get(known.tag_name, 10)
            metric = birth.metrics.add(name=known.tag_name, alias=alias, datatype=datatype)
            set_value(metric, datatype, known.value)
            if known.quality == Quality.STALE:
                set_property(metric, "Quality", 500)
        birth.metrics.add(name=NUMBER, alias=100, datatype=4, is_null=True)
        await self._send("DBIRTH", birth)

    @override
    async def show(self, number: int) -> None:
        data = Payload()
        data.metrics.add(alias=100, long_value=number)
        await self._send("DDATA", data)

    @override
    async def corrupt(self) -> bytes:
        broken = b"\x12\xff\xff no protobuf"
        await self._publish("spBv1.0/plant/DDATA/edge/device", broken)
        return broken


class EdgeNodeAtMostOnce(EdgeNode):
    """Births and data at QoS 0, as the specification says."""

    qos = 0


@asynccontextmanager
async def broker(folder: Path, *, made: type[Topics], version: str) -> AsyncIterator[Device]:
    program()
    users = folder / "users"
    command = ("mosquitto_passwd", "-c", "-b", str(users), "operator", "correct")
    assert await (await asyncio.create_subprocess_exec(*command)).wait() == 0
    settings = ["allow_anonymous true", f"password_file {users}"]
    async with Broker(folder, settings) as running, Relay(running.port) as relay:
        yield made(running, relay, version)


PROVIDERS = [
    Provider("mqtt", "mqtt 3.1.1", partial(broker, made=Topics, version="3.1.1")),
    Provider("mqtt", "mqtt 5", partial(broker, made=Topics, version="5")),
    Provider("mqtt", "mqtt, QoS 0", partial(broker, made=AtMostOnce, version="5")),
    Provider("mqtt", "mqtt, sparkplug", partial(broker, made=EdgeNode, version="3.1.1")),
    Provider("mqtt", "mqtt, sparkplug as specified", partial(broker, made=EdgeNodeAtMostOnce, version="5")),
]
