"""Modbus: libmodbus, a device in C, and modbus-serial, one in JavaScript, over Modbus TCP; the tests' own for RTU over TCP.

All hold in each holding register its address times 3, and -1234.5677490234375 at 100 as float32; what is known of the other
types follows from that. The number lies at 200.
"""

import asyncio
import atexit
import functools
import json
import struct
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

from connectors.settings import SourceConfig
from connectors.sources.modbus import ModbusConfig
from normalization.reading import ValueType
from tests.connectors.sources.modbus.device import Request, running
from tests.contract.device import NUMBER, Device, Known, Provider
from tests.contract.relay import Relay

ROOT = Path(__file__).parents[3]
AT, NUMBER_AT = 1000, 200


def held(address: int, count: int = 1) -> bytes:
    """What the registers from `address` on hold."""
    return struct.pack(f">{count}H", *(register * 3 & 0xFFFF for register in range(address, address + count)))


FORMATS = {"int16": ">h", "uint16": ">H", "int32": ">i", "uint32": ">I", "int64": ">q", "uint64": ">Q", "float64": ">d"}
TEXT = held(8000, 2).decode("latin-1")


def _known() -> tuple[list[Known], list[dict[str, Any]]]:
    known: list[Known] = []
    registers: list[dict[str, Any]] = []
    for number, (name, code) in enumerate(FORMATS.items()):
        address, size = AT + 10 * number, struct.calcsize(code) // 2
        kind = {"uint64": ValueType.UINT64, "float64": ValueType.DOUBLE}.get(name, ValueType.INT64)
        known.append(Known(name, kind, struct.unpack(code, held(address, size))[0]))
        registers.append({"name": name, "address": address, "type": name})
    known += [
        Known("float32", ValueType.DOUBLE, -1234.5677490234375),
        Known("bit", ValueType.BOOLEAN, bool(AT * 3 & 8)),
        Known("string", ValueType.TEXT, TEXT),
    ]
    registers += [
        {"name": "float32", "address": 100, "type": "float32"},
        {"name": "bit", "address": AT, "bit": 3},
        {"name": "string", "address": 8000, "type": "string", "length": 4, "encoding": "latin-1"},
        {"name": NUMBER, "address": NUMBER_AT},
    ]
    return known, registers


class Registers:
    """What the devices have in common."""

    pushes = False
    patience: ClassVar[dict[str, Any]] = {"timeout": 30.0}
    known: ClassVar[list[Known]]
    registers: ClassVar[list[dict[str, Any]]]
    known, registers = _known()

    def __init__(self, relay: Relay, scheme: str) -> None:
        self.relay = relay
        self.scheme = scheme

    def config(self, **settings: Any) -> SourceConfig:
        own = {
            "name": "source",
            "endpoint": f"{self.scheme}://127.0.0.1:{self.relay.port}",
            "interval": 0.02,
            "timeout": 0.2,
            "probe_interval": 0.1,
            "registers": self.registers,
        }
        return ModbusConfig.model_validate(own | settings)

    async def welcome(self) -> None:
        pass

    async def corrupt(self) -> bytes:
        done: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        def lie(data: bytes) -> bytes:
            """A reply with another function code than the request's."""
            at = 1 if self.scheme == "rtu+tcp" else 7
            broken = data[:at] + b"\x10" + data[at + 1 :]
            self.relay.alter = lambda data: data
            done.set_result(broken[at : at + 20])
            return broken

        self.relay.alter = lie
        return await asyncio.wait_for(done, 5)

    def acknowledged(self) -> int | None:
        return None

    def login(self, password: str) -> dict[str, Any] | None:
        return None

    def wrong(self) -> tuple[dict[str, Any], str]:
        return {"registers": [{"address": 1}, {"name": "beyond", "unit_id": 3, "address": 20_000}]}, "20000"


class Writable(Registers):
    """A device whose register is written by the test."""

    def __init__(self, relay: Relay, port: int) -> None:
        super().__init__(relay, "tcp")
        self._port = port

    async def show(self, number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        frame = struct.pack(">HHHBBHH", 1, 0, 6, 1, 6, NUMBER_AT, number)
        writer.write(frame)
        assert await asyncio.wait_for(reader.readexactly(12), 5) == frame
        writer.close()
        await writer.wait_closed()


class RtuDevice(Registers):
    number = NUMBER_AT * 3

    def answer(self, request: Request) -> bytes:
        if request.address + request.count > 10_000:
            return bytes([request.function | 0x80, 2])
        cells = bytearray(held(request.address, request.count))
        for at, data in ((100, struct.pack(">f", -1234.5677490234375)), (NUMBER_AT, struct.pack(">H", self.number))):
            for offset, octet in enumerate(data):
                place = 2 * (at - request.address) + offset
                if 0 <= place < len(cells):
                    cells[place] = octet
        return bytes([request.function, len(cells)]) + cells

    async def show(self, number: int) -> None:
        self.number = number


@functools.cache
def libmodbus() -> int:
    """The port of the C program, which ends with the tests."""
    return int(_started("modbus-c", [ROOT / "build/counterparts/modbus-c/server"]))


@functools.cache
def modbus_serial() -> int:
    """The port of the JavaScript program, which ends with the tests."""
    said = _started("modbus-node", ["node", ROOT / "tests/counterparts/modbus-node/server.js"])
    return int(json.loads(said)["serial"])


def _started(counterpart: str, command: list[str | Path]) -> str:
    """The first line that a counterpart prints."""
    subprocess.run([ROOT / "tests/counterparts" / counterpart / "install.sh"], check=True, timeout=300)
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()

    def end() -> None:
        process.communicate(timeout=10)

    atexit.register(end)
    return line


@asynccontextmanager
async def tcp(_: Path) -> AsyncIterator[Device]:
    port = await asyncio.to_thread(libmodbus)
    async with Relay(port) as relay:
        yield Writable(relay, port)


@asynccontextmanager
async def node(_: Path) -> AsyncIterator[Device]:
    port = await asyncio.to_thread(modbus_serial)
    async with Relay(port) as relay:
        yield Writable(relay, port)


@asynccontextmanager
async def rtu(_: Path) -> AsyncIterator[Device]:
    async with running(rtu=True) as device, Relay(int(device.endpoint.rpartition(":")[2])) as relay:
        made = RtuDevice(relay, "rtu+tcp")
        device.answer = made.answer
        yield made


PROVIDERS = [
    Provider("modbus", "modbus tcp, libmodbus", tcp),
    Provider("modbus", "modbus tcp, modbus-serial", node),
    Provider("modbus", "modbus rtu+tcp", rtu),
]
