"""Modbus connectors of ThingsBoard's gateway."""

from collections.abc import Mapping
from typing import Any, Final

from bifrost.convert.draft import WRITES_NOTHING, Origin, Section
from bifrost.convert.thingsboard_parts import reporting, writing

_TABLES: Final = {1: "coil", 2: "discrete", 3: "holding", 4: "input"}
_TYPES: Final = {
    "16int": "int16", "16uint": "uint16", "32int": "int32", "32uint": "uint32", "64int": "int64", "64uint": "uint64",
    "16float": "float16", "32float": "float32", "64float": "float64",
}  # fmt: skip
_BY_SIZE: Final = {"int": "int", "long": "int", "integer": "int", "double": "float", "float": "float"}  # of older files
_ORDERS: Final = {"big": "big", "little": "little"}
_PARITY: Final = {"n": "none", "none": "none", "e": "even", "even": "even", "o": "odd", "odd": "odd"}


def modbus(origin: Origin, name: str) -> None:
    """The devices of a connector; those behind one address are one source."""
    draft = origin.draft
    if "slave" in origin:
        origin.lost("slave", "the gateway is no Modbus device itself; send the readings to a target")
    sources: dict[str, Section] = {}
    origin.needless("log_level at the gateway says it", "logLevel", "enableRemoteLogging")
    origin.needless("a name is given to the source", "name", "id")
    reports = Section()
    reporting(origin, reports)
    for master in origin.sections("master"):
        for slave in master.sections("slaves"):
            _device(slave, name, sources, reports)
    for source in list(sources.values()):
        if not source["registers"]:
            draft.sources.remove(source)
            draft.root.remarks += source.remarks
            draft.root.lost(f"{origin.where}, {source['endpoint']}", "none of its values can be read")


def _device(slave: Origin, name: str, sources: dict[str, Section], reports: Section) -> None:
    draft = slave.draft
    endpoint, serial = _endpoint(slave)
    device = slave.text("deviceName")
    unit = slave.whole("unitId")
    unit = 1 if unit is None else unit
    first = endpoint not in sources
    if first:
        source = draft.source(name if not sources else f"{name}-{device or len(sources) + 1}", "modbus")
        source.put(endpoint=endpoint, serial=serial, unit_id=unit, registers=[])
        source.update(reports)
        sources[endpoint] = source
    source = sources[endpoint]
    slave.into = source
    timeout = slave.duration("timeout")
    period = slave.duration("pollPeriod", "ms") or "5s"
    order = slave.choice("byteOrder", _ORDERS, "is no order of bytes")
    words = slave.choice("wordOrder", _ORDERS, "is no order of registers")
    given = {"byte_order": order, "word_order": words or order, "interval": period}
    if first:
        source.put(timeout=timeout, **given)
    elif timeout and timeout != source.get("timeout"):
        source.lost(f"{slave.where}.timeout", "devices behind one address have one timeout")
    slave.needless(
        "a request that fails is asked again with the next cycle", "retries", "retryOnEmpty", "retryOnInvalid"
    )
    slave.needless("a lost connection is made anew; see probe_interval", "connectAttemptTimeMs", "connectAttemptCount",
        "waitAfterFailedAttemptsMs")  # fmt: skip
    profile = slave.text("deviceType")
    metadata = {"device_profile": profile} if profile and profile != "default" else {}
    reporting(slave, source)
    writing(slave)
    names = {(one.get("unit_id", source["unit_id"]), one["name"]) for one in source["registers"]}
    for part in ("timeseries", "attributes"):
        for value in slave.sections(part):
            register = _register(value, source)
            if register is None:
                continue
            if (unit, register["name"]) in names:
                register["name"] = f"{register['name']}_{part}_{register['address']}"
            names.add((unit, register["name"]))
            own = dict(metadata) | ({"kind": "attribute"} if part == "attributes" else {})
            register.put(equipment=device, metadata=own or None)
            if unit != source["unit_id"]:
                register["unit_id"] = unit
            for key, said in given.items():
                if said is not None and said != source.get(key):
                    register.setdefault(key, said)
            source["registers"].append(register)


def _endpoint(slave: Origin) -> tuple[str, Section | None]:
    kind, method = (slave.text("type") or "tcp").lower(), (slave.text("method") or "").lower()
    port = slave.text("port")
    if kind == "serial":
        serial = Section(baud_rate=slave.number("baudrate") or 9600)
        serial["parity"] = slave.choice("parity", _PARITY, "is no parity") or "none"
        serial.put(stop_bits=slave.number("stopbits") or 1, data_bits=slave.number("bytesize"))
        slave.needless("a serial line has no host", "host")
        slave.needless("the line's own pace counts", "strict")
        return f"{'ascii' if method == 'ascii' else 'rtu'}://{port or '/dev/ttyUSB0'}", serial
    slave.needless("it is for serial lines", "baudrate", "parity", "stopbits", "bytesize", "strict")
    host = slave.text("host") or "127.0.0.1"
    for security in slave.sections("security"):
        if security.where:
            security.drop("write endpoint: tls://HOST:802 and `tls` with the files", security.into)
    framed = {"rtu": "rtu+", "ascii": "ascii+"}.get(method, "")
    carrier = "udp" if kind == "udp" else "tls" if kind == "tls" else "tcp"
    return f"{framed if carrier != 'tls' else ''}{carrier}://{host}:{port or 502}", None


def _register(value: Origin, source: Section) -> Section | None:
    table = _TABLES.get(value.whole("functionCode") or 3)
    address = value.whole("address")
    name = value.text("tag") or value.text("key")
    if table is None:
        value.drop(WRITES_NOTHING, source)
        return None
    if address is None or name is None:
        value.drop("it has no address or no tag; write the register by hand", source)
        return None
    count = value.whole("objectsCount") or value.whole("registerCount") or 1
    kind = (value.text("type") or "16int").lower()
    given = _type(value, table, kind, count)
    if given is None:
        value.drop(f"the type {kind} of {count} objects is none that is read; see `type` in docs/modbus.md", source)
        return None
    made = Section(name=name, kind=table, address=address)
    made.put(**given)
    value.into = made
    for key, ours in (("byteOrder", "byte_order"), ("wordOrder", "word_order")):
        made.put(**{ours: value.choice(key, _ORDERS, "is no order")})
    divider, multiplier = value.number("divider"), value.number("multiplier")
    if isinstance(divider, int | float) and divider not in (0, 1):
        made["scale"] = float(f"{1 / divider:.15g}")
    if isinstance(multiplier, int | float) and multiplier != 1:
        made["scale"] = made.get("scale", 1.0) * multiplier
    reporting(value, made)
    value.needless("a bit is true or false", "bitTargetType")
    return made


def _type(value: Origin, table: str, kind: str, count: int) -> Mapping[str, Any] | None:
    bit = value.whole("bit")
    if table in ("coil", "discrete"):
        return {"count": count if count > 1 else None}
    if kind in ("bits", "bit", "bool", "boolean"):
        return None if bit is None or not 0 <= bit <= 15 else {"bit": bit}
    if kind == "string":
        return {"type": "string", "length": 2 * count}
    if kind in _BY_SIZE and count in (1, 2, 4):
        return {"type": f"{_BY_SIZE[kind]}{16 * count}"}
    return {"type": _TYPES[kind]} if kind in _TYPES else None
