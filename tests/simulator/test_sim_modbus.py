import asyncio
import struct
from collections.abc import AsyncIterator
from itertools import pairwise

import numpy as np
import pytest
import pytest_asyncio
from pymodbus.client import AsyncModbusTcpClient
from pymodbus.exceptions import ModbusException

from simulator.ledger import SERVED, Ledger, read
from simulator.modbus import ModbusServer, to_registers
from simulator.plant import ModbusRegister, Plant, build_plant, describe_tags, value

FORMATS = {"int16": "h", "uint16": "H", "int32": "i", "uint32": "I", "int64": "q", "uint64": "Q", "float32": "f"}
FORMATS |= {"float64": "d"}


def decode(registers: list[int], tag: dict[str, object]) -> object:
    """What the registers mean, by the description alone."""
    words = registers[::-1] if tag["word_order"] == "little" else registers
    order = "<" if tag["byte_order"] == "little" else ">"
    data = b"".join(struct.pack(f"{order}H", word) for word in words)
    if tag["type"] == "string":
        return data.rstrip(b"\0").decode()
    number = struct.unpack(">" + FORMATS[str(tag["type"])], data)[0]
    return number * tag["scale"]


async def ask(client: AsyncModbusTcpClient, tag: dict[str, object], count: int | None = None):
    read_table = {
        "coil": client.read_coils,
        "discrete": client.read_discrete_inputs,
        "holding": client.read_holding_registers,
        "input": client.read_input_registers,
    }[str(tag["table"])]
    return await read_table(tag["register"], count=count or tag["length"], device_id=tag["unit_id"])


async def connect(endpoint: str, within: float = 3.0) -> AsyncModbusTcpClient:
    host, _, port = endpoint.removeprefix("tcp://").partition(":")
    client = AsyncModbusTcpClient(host, port=int(port), timeout=within, retries=0)
    assert await client.connect()
    return client


@pytest.fixture
def plant() -> Plant:
    return build_plant(tags=48, rate=48, sources={"modbus": 1})


@pytest_asyncio.fixture
async def server(plant: Plant) -> AsyncIterator[ModbusServer]:
    async with ModbusServer(plant.sources[0]) as running:
        yield running


@pytest_asyncio.fixture
async def client(server: ModbusServer) -> AsyncIterator[AsyncModbusTcpClient]:
    connected = await connect(server.endpoint)
    yield connected
    connected.close()


async def test_every_tag_is_served_with_the_type_and_order_of_its_description(plant, client):
    tags = list(plant.sources[0].tags())
    described = describe_tags(plant, plant.sources[0])
    period = plant.sources[0].groups[0].period
    for tag, text in zip(tags, described, strict=True):
        answer = await ask(client, text)
        assert not answer.isError(), text
        expected = value(tag, 1, period)
        if tag.type == "bool":
            assert answer.bits[0] == expected
        elif tag.type == "float32":
            assert decode(answer.registers, text) == pytest.approx(expected, rel=1e-6)
        elif tag.type == "string":
            assert decode(answer.registers, text) == expected
        else:
            assert decode(answer.registers, text) == pytest.approx(expected, abs=text["scale"] / 2 + 1e-9)


@pytest.mark.parametrize(
    ("reading", "type_", "place", "expected"),
    [
        (-2, "int16", ModbusRegister(1, "holding", 0), [0xFFFE]),
        (0x12345678, "uint32", ModbusRegister(1, "holding", 0, 2), [0x1234, 0x5678]),
        (0x12345678, "uint32", ModbusRegister(1, "holding", 0, 2, "big", "little"), [0x5678, 0x1234]),
        (0x12345678, "uint32", ModbusRegister(1, "holding", 0, 2, "little", "big"), [0x3412, 0x7856]),
        (0x12345678, "uint32", ModbusRegister(1, "holding", 0, 2, "little", "little"), [0x7856, 0x3412]),
        (1.0, "float32", ModbusRegister(1, "input", 0, 2), [0x3F80, 0]),
        (2**53 + 1, "int64", ModbusRegister(1, "input", 0, 4), [0x20, 0, 0, 1]),
        (12.34, "uint16", ModbusRegister(1, "input", 0, scale=0.1), [123]),
        (99999, "uint16", ModbusRegister(1, "input", 0), [65535]),
        (-1, "uint16", ModbusRegister(1, "input", 0), [0]),
        ("Hé", "string", ModbusRegister(1, "input", 0, 2), [0x48C3, 0xA900]),
    ],
)
def test_values_become_registers(reading, type_, place, expected):
    assert to_registers(reading, type_, place) == expected


async def test_addresses_that_do_not_exist_and_writes_are_answered_with_exceptions(plant, client):
    described = describe_tags(plant, plant.sources[0])
    holding = [tag for tag in described if tag["table"] == "holding" and tag["unit_id"] == 1]
    gaps = [(a["register"] + a["length"], b["register"]) for a, b in pairwise(holding)]
    hole = next(start for start, end in gaps if end - start >= 200)
    across = await client.read_holding_registers(hole - 1, count=2, device_id=1)
    assert across.exception_code == 2
    assert (await client.read_holding_registers(hole, count=1, device_id=1)).exception_code == 2
    assert not (await client.read_holding_registers(hole - 1, count=1, device_id=1)).isError()
    assert (await client.write_register(holding[0]["register"], 1, device_id=1)).exception_code == 1


async def test_a_dead_unit_does_not_stop_the_others(plant, server, client):
    described = describe_tags(plant, plant.sources[0])
    first = next(tag for tag in described if tag["unit_id"] == 1)
    second = next(tag for tag in described if tag["unit_id"] == 2)
    impatient = await connect(server.endpoint, within=0.2)
    server.silence(1)
    with pytest.raises(ModbusException):
        await ask(impatient, first)
    impatient.close()
    assert not (await ask(client, second)).isError()
    server.restore(1)
    assert not (await ask(client, first)).isError()
    server.refuse(1)
    assert (await ask(client, first)).exception_code == 11
    assert not (await ask(client, second)).isError()
    server.restore(1)
    server.delay(1, 0.1)
    begin = asyncio.get_running_loop().time()
    assert not (await ask(client, first)).isError()
    assert asyncio.get_running_loop().time() - begin >= 0.1


async def test_a_unit_that_does_not_exist_does_not_answer(server):
    impatient = await connect(server.endpoint, within=0.2)
    with pytest.raises(ModbusException):
        await impatient.read_holding_registers(0, count=1, device_id=99)
    impatient.close()


async def test_dropped_clients_can_come_back(plant, server, client, until):
    server.drop_connections()
    await until(lambda: not client.connected)
    again = await connect(server.endpoint)
    assert not (await ask(again, describe_tags(plant, plant.sources[0])[0])).isError()
    again.close()


async def test_every_value_served_is_a_new_number_and_in_the_ledger(tmp_path):
    plant = build_plant(tags=24, rate=24, sources={"modbus": 1}, ledger=True)
    source = plant.sources[0]
    described = describe_tags(plant, source)
    ledger = Ledger(tmp_path, source.name, source.protocol, described)
    seen = []
    async with ModbusServer(source, ledger=ledger) as server:
        client = await connect(server.endpoint)
        for _ in range(5):
            for position, tag in enumerate(described):
                answer = await ask(client, tag)
                seen.append((position, decode(answer.registers, tag)))
        client.close()
        assert server.served == len(seen)
    ledger.close()
    assert sorted({number for _, number in seen}) == [1, 2, 3, 4, 5]
    records = read(tmp_path / "modbus1.ledger").records
    assert np.all(records["event"] == SERVED)
    assert records[["tag", "n"]].tolist() == seen


async def test_a_request_that_cuts_a_value_gives_no_number(tmp_path):
    plant = build_plant(tags=24, rate=24, sources={"modbus": 1}, ledger=True)
    source = plant.sources[0]
    ledger = Ledger(tmp_path, source.name, source.protocol, describe_tags(plant, source))
    async with ModbusServer(source, ledger=ledger) as server:
        client = await connect(server.endpoint)
        answer = await client.read_holding_registers(0, count=7, device_id=1)  # one whole value of 4 and a part
        assert len(answer.registers) == 7
        client.close()
    ledger.close()
    assert read(tmp_path / "modbus1.ledger").records[["tag", "n"]].tolist() == [(0, 1)]
