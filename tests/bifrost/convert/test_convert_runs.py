"""What other gateways were configured with reads the same device with ours."""

import asyncio
import contextlib
import json
import struct
import subprocess
from pathlib import Path
from typing import Any

from bifrost.convert.kinds import convert, kind_of
from config.loader import load
from connectors.contract import Context
from tests.connectors.sources.modbus.device import Request, running
from tests.connectors.sources.opcua.conftest import PlantServer
from tests.mosquitto_broker import Broker, program
from tests.ports import free_port
from tests.recording_intake import RecordingIntake

HERE = Path(__file__).parent


async def values(text: str, folder: Path, wanted: int) -> dict[tuple[str, str], Any]:
    """The first values of each tag that a converted configuration reads, by device and name."""
    kind = kind_of(text)
    assert kind is not None
    file = folder / "gateway.yaml"
    file.write_text(convert(text, "old", kind).text)
    (source,) = load(file).sources
    intake = RecordingIntake()
    reader = asyncio.create_task(source.reader(Context("gw", folder / "kept")).run(intake, None))
    try:
        await intake.until(lambda: len({r.tag for r in intake.readings()}) >= wanted, 20)
    finally:
        reader.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await reader
    return {(r.tag.device_id, r.tag.tag_name): r.value for r in intake.readings()}


def holding(registers: dict[int, int]) -> Any:
    """A device's answers from its registers; a coil is on where the register of its number is odd."""

    def answer(request: Request) -> bytes:
        words = [registers.get(request.address + i, 0) for i in range(request.count)]
        octets = struct.pack(f">{len(words)}H", *words)
        if request.function < 3:
            octets = sum((word & 1) << i for i, word in enumerate(words)).to_bytes((len(words) + 7) // 8, "little")
        return bytes([request.function, len(octets)]) + octets

    return answer


HIGH, LOW = struct.unpack(">HH", struct.pack(">f", 12.5))


async def test_modbus_of_telegraf_gives_the_values_of_the_device(tmp_path: Path) -> None:
    async with running() as device:
        device.answer = holding({0: 0xFFFE, 2: LOW, 3: HIGH, 10: 1, 11: 4, 7: 1})
        text = f"""
            [[inputs.modbus]]
              controller = "{device.endpoint}"
              slave_id = 3
              interval = "50ms"
              coils = [ {{ name = "running", address = [7] }} ]
              holding_registers = [
                {{ name = "speed", byte_order = "AB", data_type = "INT16", scale = 1.0, address = [0] }},
                {{ name = "torque", byte_order = "CDAB", data_type = "FLOAT32-IEEE", scale = 1.0, address = [2, 3] }},
                {{ name = "energy", byte_order = "ABCD", data_type = "UFIXED", scale = 0.01, address = [10, 11] }},
              ]
        """
        found = await values(text, tmp_path, 4)
    assert found == {("3", "running"): True, ("3", "speed"): -2, ("3", "torque"): 12.5, ("3", "energy"): 65540}


async def test_modbus_of_thingsboard_reads_both_units_behind_one_address(tmp_path: Path) -> None:
    file = json.loads((HERE / "tb_modbus.json").read_text())
    async with running() as device:
        device.answer = holding({1: 1, 2: 2301, 20: LOW, 21: HIGH, 100: 0x4D37})
        for slave in file["master"]["slaves"]:
            slave |= {"host": "127.0.0.1", "port": int(device.endpoint.rpartition(":")[2])}
        found = await values(json.dumps(file), tmp_path, 5)
        assert device.connections == 1
    assert found == {
        ("7", "voltage"): 2301, ("7", "energy"): 12.5, ("7", "relay"): True, ("7", "serial"): "M7", ("8", "voltage"): 2301,
    }  # fmt: skip


async def test_a_tag_export_of_kepware_reads_the_device_that_is_written_into_it(tmp_path: Path) -> None:
    made = convert((HERE / "kepware.csv").read_text(), "kepware.csv", "kepware").text
    async with running() as device:
        device.answer = holding({100: LOW, 101: HIGH, 102: 13824, 109: 1 << 4, 119: 0x4142, 199: 77})
        file = tmp_path / "gateway.yaml"
        file.write_text(made.replace("tcp://127.0.0.1:502", device.endpoint))
        (source,) = load(file).sources
        intake = RecordingIntake()
        reader = asyncio.create_task(source.reader(Context("gw", tmp_path)).run(intake, None))
        await intake.until(lambda: len({r.tag for r in intake.readings()}) >= 5)
        reader.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await reader
    assert {r.tag.tag_name: r.value for r in intake.readings()} == {
        "Boiler.Temperature": 12.5, "Boiler.Level": 13824, "Boiler.On": True, "Boiler.Serial": "AB", "Boiler.Hex": 77,
    }  # fmt: skip


async def test_mqtt_of_telegraf_and_thingsboard_gives_the_values_of_the_broker(tmp_path: Path) -> None:
    program()
    async with Broker(tmp_path) as broker:
        for topic, payload in (("sensor/oven/data", '{"temp": 21.5}'), ("plant/a/temperature", "19.25")):
            command = ["mosquitto_pub", "-p", str(broker.port), "-r", "-q", "1", "-t", topic, "-m", payload]
            await asyncio.to_thread(subprocess.run, command, check=True)
        file = json.loads((HERE / "tb_mqtt.json").read_text())
        file["broker"] |= {"host": "127.0.0.1", "port": broker.port}
        assert await values(json.dumps(file), tmp_path, 1) == {("oven", "temperature"): 21.5}
        text = f"""
            [[inputs.mqtt_consumer]]
              servers = ["tcp://127.0.0.1:{broker.port}"]
              topics = ["plant/+/temperature"]
              data_format = "value"
              data_type = "float"
        """
        assert await values(text, tmp_path, 1) == {("plant/a", "temperature"): 19.25}


async def test_opcua_of_telegraf_and_thingsboard_gives_the_values_of_the_server(tmp_path: Path) -> None:
    server = await asyncio.to_thread(PlantServer(free_port()).start)
    try:
        for plugin, pace in (("opcua", 'interval = "50ms"'), ("opcua_listener", 'subscription_interval = "50ms"')):
            text = f"""
                [[inputs.{plugin}]]
                  endpoint = "{server.endpoint}"
                  {pace}
                  security_policy = "None"
                  security_mode = "None"
                  [[inputs.{plugin}.group]]
                    namespace = "3"
                    identifier_type = "s"
                    nodes = [ {{ name = "heat", identifier = "Temperature" }}, {{ name = "rpm", identifier = "Speed" }} ]
            """
            (tmp_path / plugin).mkdir()
            found = await values(text, tmp_path / plugin, 2)
            assert {name: value for (_, name), value in found.items()} == {"heat": 20.5, "rpm": 1500}
        file = json.loads((HERE / "tb_opcua.json").read_text())
        file["server"] |= {"url": server.endpoint, "identity": {"type": "anonymous"}}
        del file["mapping"][1]
        found = await values(json.dumps(file), tmp_path, 3)
    finally:
        await asyncio.to_thread(server.stop)
    assert {name: value for (_, name), value in found.items()} == {
        "temperature": 20.5, "speed": 1500, "order": "A-4711 ü",
    }  # fmt: skip
