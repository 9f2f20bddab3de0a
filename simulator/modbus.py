"""A Modbus TCP server for a source of the plant: a unit per group, with coils, discrete inputs, input and holding registers.

A Modbus reading exists only when somebody asks for it: each request that covers a tag's registers wholly gets the tag's next
reading (number n + 1), so a device polled twice as fast gives twice as many. A request that cuts through a tag gets what the
registers hold and no new number. Registers between tags are readable zeros; half way through each table is a hole of
illegal addresses (exception 2). Units that do not exist do not answer, as on a serial line behind a gateway.

Faults: `silence`, `refuse`, `delay`, `restore` for one unit, `drop_connections` for all clients.
"""

import asyncio
import struct
import time
from dataclasses import dataclass
from typing import Any, Final

from pymodbus.constants import ExcCodes
from pymodbus.exceptions import NoSuchIdException
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice
from pymodbus.simulator.simcore import SimCore
from typing_extensions import override

from simulator.ledger import SERVED, Ledger
from simulator.listen import check
from simulator.plant import ILLEGAL_REGISTERS, ModbusRegister, Source, Tag, value

_FORMATS: Final = {
    "int16": ">h",
    "uint16": ">H",
    "int32": ">i",
    "uint32": ">I",
    "int64": ">q",
    "uint64": ">Q",
    "float32": ">f",
    "float64": ">d",
}
_TABLES: Final = {1: "coil", 2: "discrete", 3: "holding", 4: "input"}


def to_registers(reading: Any, type_: str, place: ModbusRegister) -> list[int]:
    """A value as the registers that hold it.

    Args:
        reading: A number or, for ``string``, text (UTF-8, padded with zero bytes, cut at the length).
        type_: One of the register types of `simulator.plant.Tag`.
        place: Length, orders and scale; integers are rounded to the nearest register value and clamped to the type.
    """
    if type_ == "string":
        data = str(reading).encode()[: 2 * place.length].ljust(2 * place.length, b"\0")
    elif "int" in type_:
        bits = 16 * place.length
        low, high = (0, 2**bits - 1) if type_.startswith("u") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        number = reading if place.scale == 1.0 else round(reading / place.scale)
        data = struct.pack(_FORMATS[type_], min(max(int(number), low), high))
    else:
        data = struct.pack(_FORMATS[type_], reading / place.scale)
    registers = list(struct.unpack(f"<{place.length}H" if place.byte_order == "little" else f">{place.length}H", data))
    return registers[::-1] if place.word_order == "little" else registers


@dataclass
class _Slot:
    """One tag in a table, with the number of its last reading."""

    tag: Tag
    place: ModbusRegister
    number: int
    period: float
    n: int


class _Table:
    """One of the four tables of a unit: what each address holds, and which addresses there are."""

    def __init__(self, slots: list[_Slot]) -> None:
        self.slots = slots
        self.cells: list[int] = [0] * max(slot.place.register + slot.place.length for slot in slots)
        self._stretches: list[tuple[int, int]] = []
        for slot in slots:
            start, end = slot.place.register, slot.place.register + slot.place.length
            if self._stretches and start - self._stretches[-1][1] < ILLEGAL_REGISTERS:
                self._stretches[-1] = (self._stretches[-1][0], end)
            else:
                self._stretches.append((start, end))

    def has(self, start: int, end: int) -> bool:
        """Whether all addresses from `start` to before `end` exist."""
        return any(first <= start and end <= last for first, last in self._stretches)


@dataclass
class _Unit:
    """One unit: its tables and what is wrong with it."""

    tables: dict[str, _Table]
    silent: bool = False
    exception: ExcCodes | None = None
    delay: float = 0.0


class _Store(SimCore):
    """What pymodbus's server asks for values: a unit's registers are filled at the moment they are read.

    pymodbus's own store knows of a bit request only how many words of 16 bits it touches, which is too coarse to count by.
    """

    def __init__(self, units: dict[int, _Unit], ledger: Ledger | None) -> None:
        super().__init__(SimDevice(0, simdata=[SimData(0, datatype=DataType.REGISTERS)]))
        self.served = 0
        self._units, self._ledger = units, ledger

    @override
    def device_ids(self) -> list[int]:
        return list(self._units)

    @override
    async def async_getValues(
        self, device_id: int, func_code: int, address: int, count: int = 1
    ) -> list[int] | list[bool] | ExcCodes:
        unit = await self._unit(device_id)
        if unit.exception is not None:
            return unit.exception
        if func_code not in _TABLES:
            return ExcCodes.ILLEGAL_FUNCTION
        table, end = unit.tables.get(_TABLES[func_code]), address + count
        if table is None or not table.has(address, end):
            return ExcCodes.ILLEGAL_ADDRESS
        given: list[tuple[int, int]] = []
        for slot in table.slots:
            place = slot.place
            if place.register < address or place.register + place.length > end:
                continue
            slot.n += 1
            reading = value(slot.tag, slot.n, slot.period)
            cells = [int(reading)] if slot.tag.type == "bool" else to_registers(reading, slot.tag.type, place)
            table.cells[place.register : place.register + place.length] = cells
            given.append((slot.number, slot.n))
        self.served += len(given)
        if self._ledger is not None and given:
            self._ledger.append_each(given, SERVED, time.time_ns() // 1000)
        cells = table.cells[address:end]
        return [bool(cell) for cell in cells] if func_code in (1, 2) else cells

    @override
    async def async_setValues(
        self, device_id: int, func_code: int, address: int, values: list[int] | list[bool]
    ) -> ExcCodes | None:
        unit = await self._unit(device_id)
        return unit.exception or ExcCodes.ILLEGAL_FUNCTION  # the plant is read only

    async def _unit(self, unit_id: int) -> _Unit:
        """The unit, when it answers at all."""
        unit = self._units.get(unit_id)
        if unit is not None and unit.delay:
            await asyncio.sleep(unit.delay)
        if unit is None or unit.silent:
            raise NoSuchIdException(f"unit {unit_id} does not answer")
        return unit


class ModbusServer:
    """Serves one source. Use as ``async with``; `endpoint` is known then.

    Args:
        source: A source with protocol ``modbus``.
        host: Address to listen on.
        port: TCP port; 0 takes a free one.
        ledger: Where to record what was served.
    """

    def __init__(self, source: Source, host: str = "127.0.0.1", port: int = 0, ledger: Ledger | None = None) -> None:
        self.endpoint = ""
        self._host, self._port = host, port
        self._units = _units(source, ledger)
        self._store = _Store(self._units, ledger)
        self._server: ModbusTcpServer | None = None

    async def __aenter__(self) -> "ModbusServer":
        check(self._host, self._port)
        nobody = SimDevice(0, simdata=[SimData(0, datatype=DataType.REGISTERS)])
        server = ModbusTcpServer(nobody, address=(self._host, self._port), ignore_missing_devices=True)
        server.context = self._store
        await server.serve_forever(background=True)
        self._server = server
        assert isinstance(server.transport, asyncio.Server)  # noqa: S101  (a TCP server listens by one)
        self.endpoint = f"tcp://{self._host}:{server.transport.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self.drop_connections()
            await self._server.shutdown()  # type: ignore[no-untyped-call]

    @property
    def served(self) -> int:
        """Readings given out since the start."""
        return self._store.served

    def silence(self, unit_id: int) -> None:
        """The unit does not answer any more: the client runs into its time-out."""
        self._units[unit_id].silent = True

    def refuse(self, unit_id: int, exception: int = ExcCodes.GATEWAY_NO_RESPONSE) -> None:
        """Every request to the unit is answered with an exception code (11 if not given: gateway target no response)."""
        self._units[unit_id].exception = ExcCodes(exception)

    def delay(self, unit_id: int, seconds: float) -> None:
        """The unit answers late."""
        self._units[unit_id].delay = seconds

    def restore(self, unit_id: int) -> None:
        """The unit works again."""
        unit = self._units[unit_id]
        unit.silent, unit.exception, unit.delay = False, None, 0.0

    def drop_connections(self) -> None:
        """Close every client's connection; the clients may come back at once."""
        if self._server is not None:
            for connection in list(self._server.active_connections.values()):
                connection.close()


def _units(source: Source, ledger: Ledger | None) -> dict[int, _Unit]:
    """The units of a source by id, a table only where it has tags."""
    tables: dict[int, dict[str, list[_Slot]]] = {}
    number = 0
    for group in source.groups:
        for tag in group.tags:
            place = tag.address
            assert isinstance(place, ModbusRegister)  # noqa: S101  (by construction of the plant)
            slot = _Slot(tag, place, number, group.period, ledger.last[number] if ledger is not None else 0)
            tables.setdefault(place.unit_id, {}).setdefault(place.table, []).append(slot)
            number += 1
    return {unit: _Unit({name: _Table(slots) for name, slots in held.items()}) for unit, held in tables.items()}
