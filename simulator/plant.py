"""One plant, described once: sites, lines, equipment, tags, their signals and where each protocol keeps them.

Everything here is pure: a `Plant` is a frozen value, `build_plant` makes one from a few numbers, `value` says what reading
number `n` of a tag is, and `describe` turns the plant into JSON that tells a gateway how to read it and which ISA-95 path
each tag must get. The servers (`simulator.opcua`, `simulator.mqtt`, `simulator.sparkplug`, `simulator.modbus`) bring a plant
to life; the same plant gives the same readings on every machine.

A reading is numbered: the n-th reading of a tag (n = 1, 2, 3 …) is `value(tag, n)`. In a *ledger* plant that value is n itself,
in a type that holds it exactly, so that a test can account for every single one (see `simulator.ledger`).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

Protocol = Literal["opcua", "mqtt", "sparkplug", "modbus"]
PROTOCOLS: Final[tuple[Protocol, ...]] = ("opcua", "mqtt", "sparkplug", "modbus")
TEMPLATE: Final = "{site}/{area}/{line}/{equipment}/{signal_type}/{tag_name}"
EDGE_NODE: Final = "edge1"
STATES: Final = ("stopped", "starting", "running", "stopping", "fault")

_GROUP_SIZE: Final = 24
_MOST_UNITS: Final = 247  # the highest unit id of Modbus
_SINGLES: Final = 8
_SINGLES_WEIGHT: Final = 4.0
_SHORTEST_PERIOD: Final = 0.02


@dataclass(frozen=True, slots=True)
class Signal:
    """What a tag does over its readings.

    Attributes:
        kind: ``analog``, ``counter``, ``state``, ``alarm``, ``text``, ``array``, ``structure`` or ``number`` (ledger).
        base: Middle of an analog signal, in the tag's unit; first value of a counter.
        swing: Amplitude of an analog signal, in the tag's unit.
        period: Seconds of one oscillation of an analog signal, or of one state.
        seed: Makes signals of the same kind differ.
        bad_every: Every so many readings one is bad; 0 means never.
    """

    kind: str
    base: float = 0.0
    swing: float = 0.0
    period: float = 60.0
    seed: int = 0
    bad_every: int = 0


@dataclass(frozen=True, slots=True)
class OpcUaNode:
    """Address in an OPC UA server: a string identifier in the plant's namespace."""

    identifier: str


@dataclass(frozen=True, slots=True)
class MqttField:
    """Address in JSON messages: a topic, and the key in a flat object of many tags (None: the message is the one tag)."""

    topic: str
    key: str | None


@dataclass(frozen=True, slots=True)
class SparkplugMetric:
    """Address in Sparkplug B: a metric of a device, or of the edge node itself when `device` is empty."""

    device: str
    metric: str
    alias: int


@dataclass(frozen=True, slots=True)
class ModbusRegister:
    """Address in a Modbus unit.

    Attributes:
        unit_id: 1 to 247.
        table: ``coil``, ``discrete``, ``input`` or ``holding``.
        register: Address in the request, from 0.
        length: Registers taken (1 for a coil or discrete input).
        byte_order: ``big`` or ``little`` (bytes swapped inside each register).
        word_order: ``big`` (most significant register first) or ``little``.
        scale: The tag's value is the register's number times this.
    """

    unit_id: int
    table: str
    register: int
    length: int = 1
    byte_order: str = "big"
    word_order: str = "big"
    scale: float = 1.0


Address = OpcUaNode | MqttField | SparkplugMetric | ModbusRegister


@dataclass(frozen=True, slots=True)
class Tag:
    """One tag: its name, unit, signal, type at its source and address.

    `type` is one of bool, int16, uint16, int32, uint32, int64, uint64, float32, float64, string, enum, float64[] and
    structure; which of them occur depends on the protocol.
    """

    name: str
    equipment: str
    signal_type: str
    unit: str
    type: str
    signal: Signal
    address: Address


@dataclass(frozen=True, slots=True)
class Group:
    """Tags that are read or sent together: an OPC UA object, an MQTT message, a Sparkplug device, a Modbus unit.

    Attributes:
        name: Unique in its source.
        tags: At least one.
        period: Seconds between two readings of each tag.
    """

    name: str
    tags: tuple[Tag, ...]
    period: float


@dataclass(frozen=True, slots=True)
class Source:
    """One server, publisher or edge node. `line` may be empty, as in the path of a utility."""

    name: str
    protocol: Protocol
    site: str
    area: str
    line: str
    groups: tuple[Group, ...]

    def tags(self) -> Iterator[Tag]:
        """All tags, group by group: a tag's position here is its number in the source's ledger."""
        for group in self.groups:
            yield from group.tags

    @property
    def rate(self) -> float:
        """Readings per second."""
        return sum(len(group.tags) / group.period for group in self.groups)

    def path(self, tag: Tag) -> str:
        """The ISA-95 path of a tag: `TEMPLATE` without the places that are empty."""
        places = (self.site, self.area, self.line, tag.equipment, tag.signal_type, tag.name)
        return "/".join(place for place in places if place)


@dataclass(frozen=True, slots=True)
class Plant:
    """A whole plant. `ledger`: the value of each reading is its number."""

    name: str
    sources: tuple[Source, ...]
    ledger: bool = False

    @property
    def rate(self) -> float:
        """Readings per second in sum."""
        return sum(source.rate for source in self.sources)

    def only(self, protocols: Sequence[str]) -> "Plant":
        """The plant with the sources of some protocols."""
        return replace(self, sources=tuple(source for source in self.sources if source.protocol in protocols))


# What stands in the plant: per protocol a place and the instruments of one piece of equipment, in order.
_Instrument = tuple[str, str, str, str, float, float]
_DRIVES: Final[tuple[_Instrument, ...]] = (
    ("motor_power", "power", "kW", "analog", 22.0, 4.0),
    ("gearbox_vibration", "vibration", "mm/s", "analog", 2.1, 0.6),
    ("cycle_count", "counter", "", "counter", 0.0, 0.0),
    ("state", "state", "", "state", 0.0, 0.0),
    ("overheat_alarm", "alarm", "", "alarm", 0.0, 0.0),
    ("batch_id", "text", "", "text", 0.0, 0.0),
)
_INSTRUMENTS: Final[dict[Protocol, tuple[_Instrument, ...]]] = {
    "opcua": (
        ("reactor_temp", "temperature", "°C", "analog", 120.0, 15.0),
        ("vessel_pressure", "pressure", "bar", "analog", 4.0, 0.8),
        ("agitator_speed", "speed", "rpm", "analog", 450.0, 60.0),
        ("fill_level", "level", "%", "analog", 55.0, 30.0),
        ("feed_flow", "flow", "m³/h", "analog", 12.0, 3.0),
        ("jacket_temp", "temperature", "°C", "analog", 95.0, 10.0),
        *_DRIVES,
    ),
    "mqtt": (
        ("conveyor_speed", "speed", "m/min", "analog", 18.0, 4.0),
        ("gripper_pressure", "pressure", "bar", "analog", 6.0, 0.5),
        ("axis1_temp", "temperature", "°C", "analog", 48.0, 6.0),
        ("axis2_temp", "temperature", "°C", "analog", 51.0, 6.0),
        ("torque", "torque", "N·m", "analog", 140.0, 35.0),
        ("bus_voltage", "voltage", "V", "analog", 48.0, 0.7),
        *_DRIVES,
    ),
    "sparkplug": (
        ("film_tension", "force", "N", "analog", 85.0, 12.0),
        ("sealing_temp", "temperature", "°C", "analog", 165.0, 5.0),
        ("vacuum", "pressure", "mbar", "analog", 320.0, 40.0),
        ("belt_speed", "speed", "m/min", "analog", 32.0, 3.0),
        ("glue_level", "level", "%", "analog", 62.0, 25.0),
        ("compressed_air", "flow", "m³/h", "analog", 41.0, 8.0),
        *_DRIVES,
    ),
    "modbus": (
        ("steam_pressure", "pressure", "bar", "analog", 9.5, 0.9),
        ("steam_temp", "temperature", "°C", "analog", 182.0, 6.0),
        ("feedwater_flow", "flow", "m³/h", "analog", 7.4, 1.8),
        ("drum_level", "level", "%", "analog", 50.0, 12.0),
        ("flue_temp", "temperature", "°C", "analog", 215.0, 14.0),
        ("fan_speed", "speed", "rpm", "analog", 1450.0, 120.0),
        *_DRIVES,
    ),
}
_EQUIPMENT: Final[dict[Protocol, str]] = {"opcua": "plc", "mqtt": "robot", "sparkplug": "packer", "modbus": "boiler"}


def _place(protocol: Protocol, number: int) -> tuple[str, str, str]:
    """Site, area and line of the `number`-th source (from 1) of a protocol; no two sources share a place."""
    match protocol:
        case "opcua":
            return "plant1", "production", f"line{2 * number - 1}"
        case "mqtt":
            return "plant1", "production", f"line{2 * number}"
        case "sparkplug":
            return "plant1", "packaging", f"line{number}"
        case "modbus":
            return f"site{number + 1}", "utilities", ""


def build_plant(
    *,
    tags: int = 400,
    rate: float = 2400.0,
    sources: Mapping[str, int] | None = None,
    ledger: bool = False,
    name: str = "plant",
) -> Plant:
    """Build a plant.

    Args:
        tags: Tags in sum, shared out evenly among the sources.
        rate: Readings per second in sum. Modbus gives as many as it is polled for; its share says how fast to poll.
        sources: How many sources of each protocol: opcua, mqtt, sparkplug, modbus. One of each if not given.
        ledger: The value of each reading is its number (int64 and float64 tags only).
        name: Name of the plant; prefix of MQTT topics and part of the OPC UA namespace.

    Raises:
        ValueError: A number is out of range or a protocol unknown.
    """
    counts = dict.fromkeys(PROTOCOLS, 1) if sources is None else dict(sources)
    unknown = sorted(set(counts) - set(PROTOCOLS))
    if unknown:
        raise ValueError(f"unknown protocol {unknown[0]!r}: use {', '.join(PROTOCOLS)}")
    wanted = [(protocol, number) for protocol in PROTOCOLS for number in range(1, counts.get(protocol, 0) + 1)]
    if not wanted:
        raise ValueError("a plant needs at least one source")
    if tags < 2 * len(wanted):
        raise ValueError(f"{tags} tags are too few for {len(wanted)} sources: each has at least 2")
    if not 0 < rate <= tags / _SHORTEST_PERIOD:
        raise ValueError(f"{rate:g} readings/s of {tags} tags: a tag gives at most {1 / _SHORTEST_PERIOD:g} readings/s")
    share, more = divmod(tags, len(wanted))
    most = _MOST_UNITS * _GROUP_SIZE
    if counts.get("modbus", 0) and share + (more > 0) > most:
        raise ValueError(
            f"{share} tags are too many for one Modbus source: {_MOST_UNITS} units hold {most}; use more sources"
        )
    return Plant(
        name,
        tuple(
            _build_source(name, protocol, number, share + (index < more), rate / tags, ledger)
            for index, (protocol, number) in enumerate(wanted)
        ),
        ledger,
    )


def _build_source(
    plant: str, protocol: Protocol, number: int, tags: int, readings_per_tag: float, ledger: bool
) -> Source:
    """A source of `tags` tags that gives `readings_per_tag` readings/s for each of them on average."""
    source = f"{protocol}{number}"
    size = min(_GROUP_SIZE, -(-tags // 2)) if protocol == "sparkplug" else _GROUP_SIZE
    equipment = [range(start, min(start + size, tags)) for start in range(0, tags, size)]
    drafts: list[tuple[str, list[Tag], float]] = []
    for unit, members in enumerate(equipment, start=1):
        machine = f"{_EQUIPMENT[protocol]}{unit}"
        made = [_build_tag(protocol, machine, index, position, ledger) for index, position in enumerate(members)]
        if protocol == "mqtt" and unit == 1:  # some tags have a message of their own, as sensors do
            singles = [
                replace(tag, address=MqttField(f"{plant}/{source}/tag/{machine}/{tag.name}", None))
                for tag in made[:_SINGLES]
            ]
            drafts.append((f"{machine}-single", singles, _SINGLES_WEIGHT))
            made = made[_SINGLES:]
        if made:
            drafts.append((machine, _address(plant, source, protocol, unit, machine, made), 1.0))
    period = sum(len(made) / weight for _, made, weight in drafts) / (readings_per_tag * tags)
    groups = tuple(Group(label, tuple(made), period * weight) for label, made, weight in drafts)
    site, area, line = _place(protocol, number)
    return Source(source, protocol, site, area, line, groups)


_REGISTER_TYPES: Final = ("float32", "int16", "float64", "uint16", "int32", "uint32", "int64", "uint64")


def _build_tag(protocol: Protocol, machine: str, index: int, position: int, ledger: bool) -> Tag:
    """The `index`-th tag of a machine, `position`-th of its source; its address comes later."""
    instruments = _INSTRUMENTS[protocol]
    label, signal_type, unit, kind, base, swing = instruments[index % len(instruments)]
    again = index // len(instruments)
    name = f"{label}_{again + 1}" if again else label
    bad_every = 97 if kind == "analog" and protocol != "modbus" and index % 5 == 1 else 0
    signal = Signal(kind, base, swing, 40.0 + 7.0 * (position % 11), position, bad_every)
    type_ = {"counter": "uint64", "state": "int32", "alarm": "bool", "text": "string"}.get(kind, "float64")
    if ledger:
        signal, type_ = Signal("number"), "float64" if index % 2 else "int64"
    elif protocol == "opcua" and machine == "plc1":
        if name == "state":
            type_ = "enum"
        elif name == "gearbox_vibration_2":
            name, signal, type_ = "vibration_spectrum", replace(signal, kind="array"), "float64[]"
        elif name == "batch_id_2":
            name, signal, type_ = "recipe", replace(signal, kind="structure"), "structure"
        elif name == "motor_power":
            type_ = "float32"
    elif protocol == "sparkplug" and name == "motor_power":
        type_ = "float32"
    elif protocol == "modbus":
        type_ = {"counter": "uint32", "state": "uint16"}.get(kind, type_)
        if kind == "analog":
            type_ = _REGISTER_TYPES[index % len(_REGISTER_TYPES)]
    return Tag(name, machine, signal_type, unit, type_, signal, OpcUaNode(f"{machine}.{name}"))


REGISTERS: Final = {
    "int16": 1,
    "uint16": 1,
    "int32": 2,
    "uint32": 2,
    "float32": 2,
    "int64": 4,
    "uint64": 4,
    "float64": 4,
    "string": 8,
}
ILLEGAL_REGISTERS: Final = 200
"""Registers of the hole in each table of a unit; a request that touches it is answered with exception 2."""
_ORDERS: Final = (("big", "big"), ("big", "little"), ("little", "big"), ("little", "little"))


def _address(plant: str, source: str, protocol: Protocol, unit: int, machine: str, tags: list[Tag]) -> list[Tag]:
    """The tags of one group with their addresses."""
    match protocol:
        case "opcua":
            return tags
        case "mqtt":
            return [replace(tag, address=MqttField(f"{plant}/{source}/flat/{machine}", tag.name)) for tag in tags]
        case "sparkplug":
            device = "" if unit == 1 else machine  # the first machine's metrics are the edge node's own
            first = (unit - 1) * _GROUP_SIZE + 1
            return [
                replace(tag, address=SparkplugMetric(device, tag.name, alias)) for alias, tag in enumerate(tags, first)
            ]
        case "modbus":
            return _lay_out(unit, tags)


def _lay_out(unit: int, tags: list[Tag]) -> list[Tag]:
    """Put tags into the four tables of a unit, with small readable gaps and, half way, a hole of illegal addresses."""
    next_free = {"coil": 0, "discrete": 0, "input": 0, "holding": 0}
    placed: list[Tag] = []
    for index, tag in enumerate(tags):
        table = ("coil", "discrete") if tag.type == "bool" else ("holding", "input")
        name = table[(index // 2 + index // 12) % 2]
        register = next_free[name]
        length = 1 if tag.type == "bool" else REGISTERS[tag.type]
        byte_order, word_order = _ORDERS[index % 4] if length > 1 and tag.type != "string" else ("big", "big")
        scale = 1.0
        if tag.signal.kind == "analog" and "int" in tag.type:
            scale = 0.1 if length == 1 else 0.01
        address = ModbusRegister(unit, name, register, length, byte_order, word_order, scale)
        placed.append(replace(tag, address=address))
        gap = 2 if index % 4 == 3 else 0
        next_free[name] = register + length + gap
        if index == len(tags) // 2:
            next_free = {key: free + ILLEGAL_REGISTERS if free else 0 for key, free in next_free.items()}
    return placed


# -- signals ----------------------------------------------------------------------------------------------------------


def value(tag: Tag, n: int, period: float) -> Any:
    """The n-th reading of a tag: float, int, bool, str, list, dict, or None when it is bad.

    Args:
        tag: The tag.
        n: Number of the reading, from 1.
        period: Seconds between two readings of the tag (`Group.period`).
    """
    signal = tag.signal
    kind = signal.kind
    if kind == "number":
        return float(n) if tag.type == "float64" else n
    if signal.bad_every and (n + signal.seed) % signal.bad_every == 0:
        return None
    if kind == "analog":
        turn = math.sin(6.283185307179586 * (n * period / signal.period + signal.seed * 0.137))
        noise = ((n * 2654435761 + signal.seed * 40503) & 0xFFFF) / 65536.0 - 0.5
        return round(signal.base + signal.swing * (0.9 * turn + 0.1 * noise), 3)
    step = int(n * period / signal.period) + signal.seed
    match kind:
        case "counter":
            return int(signal.base) + n
        case "state":
            return step % len(STATES)
        case "alarm":
            return step % 7 == 0
        case "text":
            return f"B{100000 + step:06d}"
        case "array":
            return [round(signal.base / (k + 1) + 0.01 * ((n + k) % 10), 3) for k in range(8)]
        case _:
            return {"id": step, "name": f"R-{step % 40:02d}", "target": round(signal.base + step % 9, 1)}


# -- description ------------------------------------------------------------------------------------------------------


def namespace_uri(plant: str) -> str:
    """Namespace of the plant's OPC UA nodes."""
    return f"urn:simulator:{plant}"


def describe(plant: Plant, endpoints: Mapping[str, str]) -> dict[str, Any]:
    """The plant as JSON: what a gateway needs to read it, and the path that it must give to each tag.

    Args:
        plant: The plant.
        endpoints: URL of each source by name; sources without one are left out.

    Returns:
        ``{"plant", "template", "ledger", "sources": […], "tags": […]}``. A source has name, protocol, endpoint, site,
        area, line, readings_per_s and what its protocol needs; a tag has source, address (as the protocol writes it),
        tag_name, unit, equipment, signal_type, type, path and its address in parts. An
        address is unique in its source, in Modbus together with unit_id.
    """
    sources: list[dict[str, Any]] = []
    tags: list[dict[str, Any]] = []
    for source in plant.sources:
        if source.name not in endpoints:
            continue
        sources.append(
            {
                "name": source.name,
                "protocol": source.protocol,
                "endpoint": endpoints[source.name],
                "site": source.site,
                "area": source.area,
                "line": source.line,
                "readings_per_s": round(source.rate, 3),
                **_describe_source(plant, source),
            }
        )
        tags += describe_tags(plant, source)
    return {"plant": plant.name, "template": TEMPLATE, "ledger": plant.ledger, "sources": sources, "tags": tags}


def _describe_source(plant: Plant, source: Source) -> dict[str, Any]:
    periods = [group.period for group in source.groups]
    match source.protocol:
        case "opcua":
            return {
                "namespace_uri": namespace_uri(plant.name),
                "root": source.name,
                "period_s": min(periods),
                "security_policy": "none",
            }
        case "mqtt":
            prefix = f"{plant.name}/{source.name}"
            return {
                "subscriptions": [
                    {
                        "topic": f"{prefix}/tag/#",
                        "qos": 1,
                        "format": "value",
                        "value": "value",
                        "timestamp": "timestamp",
                        "timestamp_format": "iso",
                        "quality": "quality",
                        "unit": "unit",
                    },
                    {
                        "topic": f"{prefix}/flat/#",
                        "qos": 1,
                        "format": "flat",
                        "timestamp": "timestamp",
                        "timestamp_format": "ms",
                    },
                ]
            }
        case "sparkplug":
            return {
                "group_id": source.name,
                "edge_node_id": EDGE_NODE,
                "subscriptions": [{"topic": f"spBv1.0/{source.name}/#", "qos": 1, "format": "sparkplug"}],
            }
        case "modbus":
            units = sorted({tag.address.unit_id for tag in source.tags() if isinstance(tag.address, ModbusRegister)})
            return {"poll_interval_s": min(periods), "unit_ids": units}


def describe_tags(plant: Plant, source: Source) -> list[dict[str, Any]]:
    """The tags of a source as in `describe`, in the order of `Source.tags`."""
    tags: list[dict[str, Any]] = []
    for group in source.groups:
        for tag in group.tags:
            text, parts = _describe_address(plant, source, tag)
            tags.append(
                {
                    "source": source.name,
                    "address": text,
                    "tag_name": tag.name,
                    "unit": tag.unit,
                    "equipment": tag.equipment,
                    "signal_type": tag.signal_type,
                    "type": tag.type,
                    "period_s": group.period,
                    "path": source.path(tag),
                    **parts,
                }
            )
    return tags


def _describe_address(plant: Plant, source: Source, tag: Tag) -> tuple[str, dict[str, Any]]:
    match tag.address:
        case OpcUaNode(identifier):
            node_id = f"nsu={namespace_uri(plant.name)};s={source.name}.{identifier}"
            return node_id, {"node_id": node_id, "browse_path": [source.name, tag.equipment, tag.name]}
        case MqttField(topic, key):
            text = topic if key is None else f"{topic}#{key}"
            return text, {"topic": topic, "key": key, "format": "value" if key is None else "flat"}
        case SparkplugMetric(device, metric, alias):
            return f"{device}/{metric}" if device else metric, {
                "group_id": source.name,
                "edge_node_id": EDGE_NODE,
                "device_id": device,
                "metric": metric,
                "alias": alias,
            }
        case ModbusRegister() as place:
            return f"{place.table}:{place.register}", {
                "unit_id": place.unit_id,
                "table": place.table,
                "register": place.register,
                "length": place.length,
                "byte_order": place.byte_order,
                "word_order": place.word_order,
                "scale": place.scale,
            }
