import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from pymodbus.client import AsyncModbusTcpClient

from simulator.ledger import SENT, SERVED, read_all
from simulator.plant import build_plant
from simulator.run import Options, Simulation, WorkerError, Workers

ROOT = Path(__file__).resolve().parents[2]


def wait_for(condition: Callable[[], object], timeout: float = 40.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.05)


@contextmanager
def command(*arguments: str) -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen(
        [sys.executable, "-m", "simulator.cli", *arguments], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


def test_the_command_runs_a_plant_and_ends_in_order(tmp_path):
    """All protocols at once: described when ready, numbered readings on disk, exit 0 on SIGTERM, nobody left."""
    description_file, ledgers = tmp_path / "plant.json", tmp_path / "ledgers"
    options = ("--tags", "60", "--rate", "240", "--ports", "0", "--ledger", str(ledgers))
    with command("all", *options, "--describe", str(description_file)) as process:
        wait_for(lambda: description_file.exists() or process.poll() is not None)
        description = json.loads(description_file.read_text())
        workers = psutil.Process(process.pid).children()
        assert len(workers) == 4
        wait_for(lambda: len(read_all(ledgers)["opcua1"].records) > 60)
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0
    assert not any(worker.is_running() for worker in workers)
    assert [source["protocol"] for source in description["sources"]] == ["opcua", "mqtt", "sparkplug", "modbus"]
    assert description["broker"] == description["sources"][1]["endpoint"]
    assert len({source["endpoint"] for source in description["sources"]}) == 3
    assert len(description["tags"]) == 60
    accounts = read_all(ledgers)
    assert set(accounts) == {"opcua1", "mqtt1", "sparkplug1", "modbus1"}
    mqtt = accounts["mqtt1"]
    assert len(mqtt.obligations()) == len(mqtt.issued()) > 15  # what was under way was acknowledged before the end
    assert set(accounts["sparkplug1"].records["event"].tolist()) == {SENT}
    assert len(accounts["modbus1"].records) == 0


def test_workers_do_not_outlive_a_parent_that_is_killed():
    script = (
        "import time; from simulator.plant import build_plant; from simulator.run import Workers\n"
        "with Workers(build_plant(tags=4, rate=4, sources={'modbus': 1})) as workers:\n"
        "    print(workers.pids['modbus'], flush=True); time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    worker = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    parent.stdout.close()
    worker.wait(10)
    assert not worker.is_running()


def test_the_command_says_when_a_worker_dies(tmp_path):
    ready = tmp_path / "plant.json"
    with command("modbus", "--tags", "4", "--rate", "4", "--ports", "0", "--describe", str(ready)) as process:
        wait_for(lambda: ready.exists() or process.poll() is not None)
        (worker,) = psutil.Process(process.pid).children()
        os.kill(worker.pid, signal.SIGKILL)
        assert process.wait(15) == 1
        assert process.stderr is not None
        assert "modbus process ended with code -9" in process.stderr.read()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["all", "--sources", "bacnet=1"], "bacnet"),
        (["all", "--tags", "3"], "too few"),
        (["mqtt", "--sources", "opcua=1"], "only mqtt and sparkplug"),
        (["modbus", "--ports", "modbus=x"], "protocol=number"),
        (["opcua", "--ports", "opcua=99999"], "99999 is no port"),
    ],
)
def test_wrong_options_are_refused(arguments, message):
    from typer.testing import CliRunner

    from simulator.cli import app

    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert message in result.output


@pytest.mark.parametrize(("protocol", "source"), [("opcua", "opcua"), ("mqtt", "sparkplug"), ("modbus", "modbus")])
def test_a_port_in_use_is_said_in_one_line(protocol, source, capfd):
    plant = build_plant(tags=4, rate=4, sources={source: 1})
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        words = f"process could not start: 127.0.0.1:{port} cannot be used: Address already in use$"
        with pytest.raises(WorkerError, match=words), Workers(plant, Options(ports={protocol: port})):
            pytest.fail("two servers listen on one port")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("moment", ["while it starts", "when it runs"])
def test_control_c_ends_it_in_order(moment, tmp_path):
    """The terminal sends SIGINT to the whole foreground group."""
    ready = tmp_path / "plant.json"
    arguments = [sys.executable, "-m", "simulator.cli", "mqtt", "--tags", "4", "--rate", "4", "--ports", "0"]
    with subprocess.Popen(
        [*arguments, "--describe", str(ready)], cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        parent = psutil.Process(process.pid)
        wait_for(lambda: ready.exists() if moment == "when it runs" else parent.children())
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(20) == 0
        assert process.stderr is not None
        said = process.stderr.read().splitlines()
    assert [line.split()[0] for line in said] == ["mqtt1", "sparkplug1", "in"]


def test_a_description_that_cannot_be_written_is_an_error_in_words(tmp_path):
    nowhere = tmp_path / "nowhere" / "plant.json"
    with command("modbus", "--tags", "4", "--rate", "4", "--ports", "0", "--describe", str(nowhere)) as process:
        assert process.wait(40) == 1
        assert process.stderr is not None
        said = process.stderr.read()
    assert said.splitlines()[-1].startswith("error: ")
    assert str(nowhere) in said
    assert "Traceback" not in said


@pytest.mark.parametrize("name", ["all", "opcua", "mqtt", "modbus"])
def test_the_help_tells_every_option_whole_on_a_small_screen(name):
    from typer.testing import CliRunner

    from simulator.cli import app

    result = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "80", "TERMINAL_WIDTH": "80"})
    assert result.exit_code == 0
    words = result.output.replace("N,…", "")
    assert "…" not in words
    for option in ("--tags", "--rate", "--sources", "--ports", "--host", "--ledger", "--describe", "--seconds"):
        assert option in words


async def test_a_simulation_runs_in_the_tests_own_loop_and_takes_faults(tmp_path):
    plant = build_plant(tags=8, rate=8, sources={"modbus": 2}, ledger=True)
    async with Simulation(plant, Options(ledger=tmp_path)) as simulation:
        assert set(simulation.servers) == {"modbus1", "modbus2"}
        simulation.servers["modbus1"].refuse(1)
        codes = []
        for source in simulation.description()["sources"]:
            host, _, port = source["endpoint"].removeprefix("tcp://").partition(":")
            client = AsyncModbusTcpClient(host, port=int(port))
            await client.connect()
            codes.append((await client.read_holding_registers(0, count=4, device_id=1)).isError())
            client.close()
        assert codes == [True, False]
    accounts = read_all(tmp_path)
    assert len(accounts["modbus1"].records) == 0
    assert accounts["modbus2"].records[["event", "n"]].tolist() == [(SERVED, 1)]
