"""Telegraf's Modbus input, in its three styles, as a source."""

import re
from collections.abc import Mapping
from typing import Any, Final

from bifrost.convert.draft import Origin, Ready, Section
from bifrost.convert.telegraf_inputs import begin, host_of

_TYPES: Final = {
    "INT8L": "int8_low", "INT8H": "int8_high", "UINT8L": "uint8_low", "UINT8H": "uint8_high", "INT16": "int16",
    "UINT16": "uint16", "INT32": "int32", "UINT32": "uint32", "INT64": "int64", "UINT64": "uint64", "FLOAT16": "float16",
    "FLOAT32": "float32", "FLOAT64": "float64", "FLOAT16-IEEE": "float16", "FLOAT32-IEEE": "float32",
    "FLOAT64-IEEE": "float64", "STRING": "string", "BIT": "bit",
}  # fmt: skip
_FIXED: Final = {"FIXED": "int", "UFIXED": "uint", "FLOAT32": "uint"}  # of the style `register`
_ORDERS: Final = {
    "AB": ("big", "big"), "ABCD": ("big", "big"), "BA": ("little", "big"), "DCBA": ("little", "little"),
    "BADC": ("little", "big"), "CDAB": ("big", "little"),
}  # fmt: skip
_TABLES: Final = {
    "discrete_inputs": "discrete",
    "coils": "coil",
    "holding_registers": "holding",
    "input_registers": "input",
}
_OUTPUTS: Final = {"INT64": "integer", "UINT64": "integer", "UINT16": "integer", "FLOAT64": "number", "BOOL": "boolean",
    "STRING": "text"}  # fmt: skip
_MODES: Final = {"tcp": "tcp", "rtuovertcp": "rtu+tcp", "asciiovertcp": "ascii+tcp", "rtu": "rtu", "ascii": "ascii"}


def modbus(origin: Origin, tags: Mapping[str, str], interval: str) -> None:
    """A device, or several on one line."""
    controller = origin.text("controller") or ""
    source = begin(origin, "modbus", tags, origin.text("name") or host_of(controller))
    _connection(origin, source, controller)
    source.put(interval=origin.duration("interval") or interval, timeout=origin.duration("timeout") or "1s")
    source.put(busy_retries=origin.whole("busy_retries") or 0, busy_pause=origin.duration("busy_retries_wait"))
    unit = origin.whole("slave_id")
    for workarounds in origin.sections("workarounds"):
        workarounds.into = source
        source.put(connect_pause=workarounds.duration("pause_after_connect"))
        source.put(pause=workarounds.duration("pause_between_requests"))
        if workarounds.flag("one_request_per_field"):
            source["max_gap"] = 0
            workarounds.lost(
                "one_request_per_field", "neighbors are still asked for together; max_registers: 2 comes near"
            )
        if not workarounds.flag("close_connection_after_gather"):
            workarounds.needless("it is off", "close_connection_after_gather")
        else:
            workarounds.lost("close_connection_after_gather", "the connection stays open; a device takes few of them")
        if not workarounds.flag("read_coils_starting_at_zero"):
            workarounds.needless("it is off", "read_coils_starting_at_zero")
        else:
            workarounds.lost("read_coils_starting_at_zero", "coils are asked for from the first one that is wanted")
    origin.needless("log_level: debug tells it", "debug_connection")
    _optimization(origin, source)
    registers = _Registers(source, unit or 0)
    style = (origin.text("configuration_type") or "register").lower()
    if style == "register":
        source.put(unit_id=unit or 0)
        for key, table in _TABLES.items():
            for field in origin.sections(key):
                registers.of_style_register(field, table)
    elif style in ("request", "metric"):
        for request in origin.sections(style):
            registers.of_request(request, fixed_table=style == "request")
        units = [register["unit_id"] for register in registers.made]
        source.put(unit_id=units[0] if units else unit)
    else:
        origin.lost("configuration_type", "is no style that there is: register, request or metric")
    if registers.made:
        for register in registers.made:
            if register.get("unit_id") == source.get("unit_id"):
                register.pop("unit_id", None)
        source["registers"] = registers.made
        return
    origin.draft.sources.remove(source)
    origin.into = origin.draft.root
    origin.draft.root.remarks += source.remarks
    origin.draft.root.lost(origin.where, "no field of it can be read; a Modbus source needs registers")


def _optimization(origin: Origin, source: Section) -> None:
    if (origin.text("optimization") or "") == "max_insert" and (fill := origin.whole("optimization_max_register_fill")):
        source["max_gap"] = min(fill, 124)
    origin.needless("requests are planned by themselves, see max_gap", "optimization", "optimization_max_register_fill")


def _connection(origin: Origin, source: Section, controller: str) -> None:
    scheme, divider, rest = controller.partition("://")
    mode = origin.choice("transmission_mode", {**_MODES, "auto": None}, "is no way to send; the usual one is taken")
    if scheme in ("file", "serial"):
        device = rest if rest.startswith("/") or isinstance(rest, Ready) else "/" + rest
        source["endpoint"] = _as(controller, f"{mode if mode in ('rtu', 'ascii') else 'rtu'}://{device}")
        parity = origin.choice(
            "parity",
            {"n": "none", "none": "none", "e": "even", "even": "even", "o": "odd", "odd": "odd"},
            "is no parity",
        )
        serial = Section(baud_rate=origin.number("baud_rate") or 9600, parity=parity or "none")
        serial.put(stop_bits=origin.number("stop_bits") or 1, data_bits=origin.number("data_bits"))
        source["serial"] = serial
        origin.lost("rs485", "see `serial.rs485` and `serial.rts_delay` for how a sender is switched on")
        return
    for key in ("baud_rate", "parity", "stop_bits", "data_bits"):
        origin.needless("it is for serial lines", key)
    if scheme in ("tcp", "tcp4", "tcp6") and divider:
        source["endpoint"] = _as(controller, f"{mode if mode in ('rtu+tcp', 'ascii+tcp') else 'tcp'}://{rest}")
    else:
        source["endpoint"] = controller


def _as(origin: str, text: str) -> str:
    return Ready(text) if isinstance(origin, Ready) else text


class _Registers:
    """Registers that are being collected; names are unique in a unit."""

    def __init__(self, source: Section, unit: int) -> None:
        self.made: list[Section] = []
        self._source = source
        self._unit = unit
        self._names: set[tuple[int, str]] = set()

    def _name(self, unit: int, name: str, measurement: str | None) -> str:
        first = name
        for number in range(1, 10_000):
            if (unit, name) not in self._names:
                break
            name = f"{measurement}_{first}" if number == 1 and measurement else f"{first}_{number + (not measurement)}"
        self._names.add((unit, name))
        return name

    def of_style_register(self, field: Origin, table: str) -> None:
        """A field of the style `register`, whose address is a list of all registers that it takes."""
        addresses = field.take("address")
        whole = isinstance(addresses, list) and all(isinstance(one, int) and one >= 0 for one in addresses)
        if not whole or not addresses:
            field.drop("its address is no list of numbers; write the register by hand", self._source)
            return
        kind = field.text("data_type") if table in ("coil", "discrete") else (field.text("data_type") or "UINT16")
        given: dict[str, Any] = {}
        if kind is None or table in ("coil", "discrete"):
            given["convert"] = "boolean" if kind == "BOOL" else None
            count = 1
        elif kind.upper() == "BIT":
            if len(addresses) != 2:
                field.drop("a BIT has an address and a bit; write the register by hand", self._source)
                return
            given, count = {"bit": addresses.pop()}, 1
        elif kind.upper() == "STRING":
            given, count = {"type": "string", "length": 2 * len(addresses)}, len(addresses)
        elif kind.upper() in _FIXED:
            given, count = {"type": f"{_FIXED[kind.upper()]}{16 * len(addresses)}"}, len(addresses)
        elif kind.upper() in _TYPES:
            given, count = {"type": _TYPES[kind.upper()]}, len(addresses)
        else:
            field.drop(f"there is no type {kind}; see `type` in docs/modbus.md", self._source)
            return
        if addresses != [*range(addresses[0], addresses[0] + count)]:
            field.drop("its registers do not follow one another; write the register by hand", self._source)
            return
        size = {"16": 1, "32": 2, "64": 4}.get(re.sub(r"\D", "", str(given.get("type", ""))), count)
        if "8" not in str(given.get("type", "8")) and size != count:
            field.drop(f"a {kind} takes {size} registers and not {count}", self._source)
            return
        self._add(field, self._unit, table, addresses[0], given, field.text("byte_order"), {}, None)

    def of_request(self, request: Origin, *, fixed_table: bool) -> None:
        """A request, or a metric."""
        request.into = self._source
        unit = request.whole("slave_id")
        unit = self._unit if unit is None else unit
        order = request.text("byte_order")
        measurement, metadata = request.text("measurement"), request.words("tags")
        table = (request.text("register") or "holding").lower() if fixed_table else "holding"
        _optimization(request, self._source)
        for field in request.sections("fields"):
            if field.flag("omit"):
                field.skip("nothing is read that is not wanted")
                continue
            own = table if fixed_table else (field.text("register") or "holding").lower()
            address = field.whole("address")
            if address is None or own not in _TABLES.values():
                field.drop("it has no address, or no table that there is; write the register by hand", self._source)
                continue
            given: dict[str, Any] = {}
            kind = (field.text("type") or "").upper()
            if own in ("coil", "discrete"):
                field.needless("a coil or discrete input is one bit", "scale", "length")
            elif kind == "BIT":
                given = {"bit": field.whole("bit") or 0}
            elif kind == "STRING":
                given = {"type": "string", "length": 2 * (field.whole("length") or 1)}
            elif kind in _TYPES:
                given = {"type": _TYPES[kind]}
            else:
                field.drop(f"there is no type {kind or 'said'}; see `type` in docs/modbus.md", self._source)
                continue
            self._add(field, unit, own, address, given, order, metadata, measurement)

    def _add(
        self,
        field: Origin,
        unit: int,
        table: str,
        address: int,
        given: Mapping[str, Any],
        order: str | None,
        metadata: Mapping[str, str],
        measurement: str | None,
    ) -> None:
        if order is not None and order.upper() not in _ORDERS:
            field.drop(f"{order} is no order of bytes that there is", self._source)
            return
        measurement = field.text("measurement") or measurement
        name = self._name(unit, field.text("name") or f"{table}_{address}", measurement)
        made = Section(name=name, unit_id=unit, kind=table, address=address)
        field.into = made
        made.put(**given)
        bytes_, words = _ORDERS[(order or "ABCD").upper()]
        size = re.sub(r"\D", "", str(given.get("type", "")))
        if bytes_ == "little" and table in ("holding", "input") and "8" not in size:
            made["byte_order"] = bytes_
        if words == "little" and size in ("32", "64"):
            made["word_order"] = words
        scale = field.number("scale")
        if table in ("holding", "input") and scale not in (None, 1, 1.0):
            made["scale"] = float(scale) if isinstance(scale, int) else scale
        output = field.text("output")
        if output is not None:
            made.put(convert=_OUTPUTS.get(output.upper()))
            if output.upper() not in _OUTPUTS:
                field.lost("output", "is no type that a value can be converted to; see `convert`")
        found = dict(metadata) | ({"measurement": measurement} if measurement else {})
        made.put(metadata=found or None)
        self.made.append(made)
