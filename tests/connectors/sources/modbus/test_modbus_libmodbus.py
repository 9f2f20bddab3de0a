"""Against a device that is not made with our library: libmodbus, in C."""

import asyncio
import contextlib
import json
import os
import signal
import statistics
import struct
import subprocess
import time
import tty
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from connectors.contract import Context, SourceState
from connectors.sources.modbus import ModbusConfig
from connectors.sources.modbus.line import Line
from connectors.sources.modbus.plan import Kind
from connectors.sources.modbus.protocol import Ask
from normalization.reading import Quality
from tests.connectors.sources.modbus.harness import trying
from tests.connectors.sources.modbus.serial_pair import serial_pair
from tests.ports import free_port
from tests.recording_intake import RecordingIntake

ROOT = Path(__file__).parents[4]
pytestmark = pytest.mark.interop("libmodbus")


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    subprocess.run([ROOT / "tests/counterparts/modbus-c/install.sh"], check=True, timeout=300)
    server = ROOT / "build/counterparts/modbus-c/server"
    with subprocess.Popen([server], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield f"tcp://127.0.0.1:{process.stdout.readline().strip()}"
        process.stdin.close()


@contextlib.asynccontextmanager
async def serial_line() -> AsyncIterator[str]:
    """The endpoint of a device server: what comes by TCP goes to a serial line with a libmodbus RTU device, unit 5."""
    ours, theirs = os.openpty()
    tty.setraw(ours)
    tty.setraw(theirs)
    command = [ROOT / "build/counterparts/modbus-c/server", os.ttyname(theirs)]
    process = await asyncio.create_subprocess_exec(*command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    clients: set[asyncio.StreamWriter] = set()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        clients.add(writer)
        with contextlib.suppress(ConnectionError):
            while octets := await reader.read(256):
                os.write(ours, octets)
        clients.discard(writer)
        writer.close()

    def answered() -> None:
        octets = os.read(ours, 512)
        for writer in clients:
            writer.write(octets)

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    loop = asyncio.get_running_loop()
    loop.add_reader(ours, answered)
    try:
        assert await process.stdout.readline() == b"ready\n"
        yield f"rtu+tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        loop.remove_reader(ours)
        server.close()
        for writer in clients:
            writer.close()
        await asyncio.sleep(0)
        process.stdin.close()
        await process.wait()
        os.close(ours)
        os.close(theirs)


@pytest.fixture
def pty_line(endpoint: str) -> Iterator[str]:
    """One end of a serial line with a libmodbus RTU device, unit 5, at the other."""
    command = [ROOT / "build/counterparts/modbus-c/server"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with serial_pair() as (here, there), subprocess.Popen([*command, there], **pipes) as process:
        assert process.stdout.readline() == b"ready\n"
        yield here
        process.stdin.close()


async def read(endpoint: str, registers: list[dict], until, **more) -> RecordingIntake:
    """What a reader gives of `registers` until `until(intake)` holds."""
    given = {"name": "c", "endpoint": endpoint, "interval": 0.02, "timeout": 0.5, "registers": registers}
    intake = RecordingIntake()
    task = asyncio.create_task(ModbusConfig.model_validate(given | more).reader(Context("g", Path())).run(intake, None))
    try:
        await intake.until(lambda: task.done() or until(intake), within=20)
        assert not task.done(), task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    return intake


def values(intake: RecordingIntake) -> dict:
    return {r.tag.tag_name: r.value for r in intake.readings()}


async def test_all_tables_of_libmodbus(endpoint):
    registers = [
        {"name": "c{address}", "kind": "coil", "address": 0, "count": 3000},
        {"name": "d{address}", "kind": "discrete", "address": 0, "count": 3000},
        {"name": "i{address}", "kind": "input", "address": 0, "count": 2000},
        {"name": "h{address}", "kind": "holding", "address": 1000, "count": 2000, "type": "int16"},
    ]
    intake = await read(endpoint, registers, lambda intake: len(intake.readings("h2999")) >= 2)
    got = values(intake)
    assert len(got) == 10_000
    assert all(got[f"c{a}"] == (a % 3 == 0) and got[f"d{a}"] == (a % 5 == 0) for a in range(3000))
    assert all(got[f"i{a}"] == a for a in range(2000))
    assert all(got[f"h{a}"] == a * 3 for a in range(1000, 3000))
    assert {r.quality for r in intake.readings()} == {Quality.GOOD}


async def test_floats_in_the_orders_of_libmodbus_and_its_text(endpoint):
    orders = {
        "abcd": ("big", "big"),
        "dcba": ("little", "little"),
        "badc": ("little", "big"),
        "cdab": ("big", "little"),
    }
    registers = [
        {"name": name, "address": 100 + 2 * i, "type": "float32", "byte_order": byte, "word_order": word}
        for i, (name, (byte, word)) in enumerate(orders.items())
    ]
    registers.append({"name": "text", "address": 110, "type": "string", "length": 8})
    intake = await read(endpoint, registers, lambda intake: intake.readings("text"))
    assert values(intake) == dict.fromkeys(orders, -1234.5677490234375) | {"text": "BIFROST"}


async def test_all_types_of_libmodbus_registers(endpoint):
    """Holding registers hold three times their address; what the types make of that is worked out by `struct`."""
    layouts = {"int16": "h", "uint16": "H", "int32": "i", "uint32": "I", "int64": "q", "uint64": "Q", "float32": "f", "float64": "d"}  # fmt: skip
    registers = [
        {
            "name": f"{kind}_{order}_{{address}}",
            "address": at,
            "type": kind,
            "word_order": order,
            "step": 500,
            "count": 4,
        }
        for kind in layouts
        for order in ("big", "little")
        for at in (200, 8000)
    ]
    registers += [{"name": f"bit{bit}", "address": 1234, "bit": bit} for bit in range(16)]
    registers.append({"name": "scaled", "address": 2000, "scale": 0.1, "offset": -5})
    intake = await read(endpoint, registers, lambda intake: intake.readings("scaled") and len(values(intake)) == 145)
    for name, value in values(intake).items():
        kind, _, rest = name.partition("_")
        if kind in layouts:
            order, _, address = rest.partition("_")
            count = struct.calcsize(layouts[kind]) // 2
            words = [(int(address) + i) * 3 & 0xFFFF for i in range(count)]
            raw = struct.pack(f">{count}H", *(words if order == "big" else reversed(words)))
            assert value == struct.unpack(f">{layouts[kind]}", raw)[0], name
    assert [values(intake)[f"bit{bit}"] for bit in range(16)] == [bool(1234 * 3 >> bit & 1) for bit in range(16)]
    scaled = intake.last("scaled")
    assert (scaled.value, json.loads(scaled.tag.mapping)) == (
        6000,
        {"offset": -5.0, "scale": 0.1},
    )  # done by normalizing


async def test_addresses_that_libmodbus_does_not_have_do_not_lose_the_others(endpoint):
    registers = [{"name": "h{address}", "address": 9950, "count": 60}]
    intake = await read(endpoint, registers, lambda intake: len(intake.readings("h9999")) >= 5)
    assert {intake.last(f"h{a}").value for a in range(9950, 10_000)} == {a * 3 for a in range(9950, 10_000)}
    for address in range(10_000, 10_010):
        assert [(r.value, r.quality, r.status) for r in intake.readings(f"h{address}")] == [(None, Quality.BAD, 2)]


async def test_many_requests_at_once_do_not_wait_for_each_other_s_acknowledgement(endpoint):
    """libmodbus holds back an answer until the one before is acknowledged, which Linux does after 40 ms unless it is told."""
    line = Line(ModbusConfig(name="c", endpoint=endpoint, in_flight=16, registers=[{"name": "h", "address": 0}]))
    await line.open()
    asks = [Ask(1, Kind.HOLDING, address, 125) for address in range(1000, 3000, 125)]
    took = []
    for _ in range(30):
        began = time.monotonic()
        data, failure = await line.ask_all(asks, 5.0)
        took.append(time.monotonic() - began)
        assert failure is None
        assert [struct.unpack(">125H", each)[0] for each in data] == [3 * ask.address for ask in asks]
    line.abort()
    assert statistics.median(took) < 0.03


async def test_a_unit_behind_a_gateway_and_a_dead_one_do_not_lose_the_others(endpoint):
    registers = [{"name": f"u{unit}", "unit_id": unit, "kind": "input", "address": 7} for unit in (1, 8, 9, 10)]
    intake = await read(endpoint, registers, lambda intake: len(intake.readings("u10")) >= 10, timeout=0.1)
    assert {r.quality for r in intake.readings("u1") + intake.readings("u10")} == {Quality.GOOD}
    assert [(r.quality, r.status) for r in intake.readings("u8")] == [(Quality.STALE, 11)]
    assert [(r.quality, r.status) for r in intake.readings("u9")] == [(Quality.STALE, None)]


async def test_libmodbus_saw_no_function_code_but_those_that_read(endpoint):
    registers = [{"name": "f{n}", "kind": "input", "address": 9000, "count": 128}]
    intake = await read(endpoint, registers, lambda intake: intake.readings("f128"))
    seen = {code for code in range(128) if values(intake)[f"f{code + 1}"]}
    assert {4} <= seen <= {1, 2, 3, 4}


async def test_rtu_frames_reach_a_serial_line_of_libmodbus_and_a_dead_unit_does_not_lose_the_other(endpoint):
    registers = [
        {"name": "c{address}", "unit_id": 5, "kind": "coil", "address": 0, "count": 300},
        {"name": "d{address}", "unit_id": 5, "kind": "discrete", "address": 0, "count": 300},
        {"name": "i{address}", "unit_id": 5, "kind": "input", "address": 0, "count": 200},
        {"name": "h{address}", "unit_id": 5, "address": 9990, "count": 12},
        {"name": "dead", "unit_id": 6, "address": 1},
    ]
    async with serial_line() as line:
        intake = await read(
            line,
            registers,
            lambda intake: len(intake.readings("dead")) and len(intake.readings("i199")) >= 100,
            timeout=0.2,
            probe_interval=0.5,
        )
    got = values(intake)
    assert all(got[f"c{a}"] == (a % 3 == 0) and got[f"d{a}"] == (a % 5 == 0) for a in range(300))
    assert all(got[f"i{a}"] == a for a in range(200))
    assert [got[f"h{a}"] for a in range(9990, 10_002)] == [*((a * 3) & 0xFFFF for a in range(9990, 10_000)), None, None]
    assert (intake.last("h10000").quality, intake.last("h10000").status) == (Quality.BAD, 2)
    assert {r.quality for r in intake.readings("dead")} == {Quality.STALE}
    # after a request that nobody answers libmodbus takes the next one for the answer, and stays silent
    assert {r.quality for r in intake.readings("c0")} == {Quality.GOOD}
    assert intake.gaps == []


async def test_a_serial_line_of_libmodbus_is_read_itself(pty_line):
    registers = [
        {"name": "c{address}", "kind": "coil", "address": 0, "count": 300},
        {"name": "i{address}", "kind": "input", "address": 0, "count": 200},
        {"name": "h{address}", "address": 9990, "count": 12},
        {"name": "dead", "unit_id": 6, "address": 1},
    ]
    line = {"unit_id": 5, "serial": {"baud_rate": 115200, "parity": "none"}, "timeout": 0.2, "probe_interval": 0.5}
    intake = await read(
        f"rtu://{pty_line}",
        registers,
        lambda intake: len(intake.readings("dead")) and len(intake.readings("i199")) >= 50 and intake.last("h10001"),
        **line,
    )
    got = values(intake)
    assert all(got[f"c{a}"] == (a % 3 == 0) for a in range(300))
    assert all(got[f"i{a}"] == a for a in range(200))
    assert [got[f"h{a}"] for a in range(9990, 10_002)] == [*((a * 3) & 0xFFFF for a in range(9990, 10_000)), None, None]
    assert {r.quality for r in intake.readings("dead")} == {Quality.STALE}
    assert {r.quality for r in intake.readings("c0")} == {Quality.GOOD}


# The plug is pulled


@contextlib.contextmanager
def device_at(port: int) -> Iterator[subprocess.Popen]:
    server = ROOT / "build/counterparts/modbus-c/server"
    with subprocess.Popen([server, str(port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert int(process.stdout.readline()) == port
        try:
            yield process
        finally:
            process.kill()


def settings(port: int) -> ModbusConfig:
    registers = [{"name": "h{address}", "address": 200, "count": 300}]
    given = {
        "name": "c",
        "endpoint": f"tcp://127.0.0.1:{port}",
        "interval": 0.02,
        "timeout": 0.2,
        "registers": registers,
    }
    return ModbusConfig.model_validate(given)


async def test_a_libmodbus_that_is_killed_and_started_again_is_read_on_and_the_gap_is_recorded(endpoint):
    port = free_port()
    async with trying(settings(port)) as (intake, _):
        with device_at(port) as process:
            await intake.until(lambda: len(intake.readings("h499")) >= 3)
            process.kill()
            process.wait()
        await intake.until(lambda: [state for state, _ in intake.states].count(SourceState.CONNECTING) >= 2)
        count = len(intake.readings("h499"))
        with device_at(port):
            await intake.until(lambda: len(intake.readings("h499")) >= count + 3, within=10)
    (gap,) = intake.gaps
    assert len(gap.tags) == 300
    assert gap.reason == "connection lost"
    assert all(r.value == int(r.tag.tag_name[1:]) * 3 for r in intake.readings() if r.quality == Quality.GOOD)


async def test_a_libmodbus_that_is_frozen_and_goes_on_gives_no_late_value_and_a_gap(endpoint):
    port = free_port()
    with device_at(port) as process:
        async with trying(settings(port)) as (intake, _):
            await intake.until(lambda: len(intake.readings("h499")) >= 3)
            process.send_signal(signal.SIGSTOP)
            await intake.until(lambda: intake.last("h499").quality == Quality.STALE, within=10)
            process.send_signal(signal.SIGCONT)
            await intake.until(lambda: intake.last("h499").quality == Quality.GOOD, within=10)
    assert len(intake.gaps) == 1
    assert intake.gaps[0].end - intake.gaps[0].start >= 200_000
    assert all(r.value == int(r.tag.tag_name[1:]) * 3 for r in intake.readings() if r.quality == Quality.GOOD)
