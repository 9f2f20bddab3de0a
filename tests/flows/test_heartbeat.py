"""What the service manager hears: ready once, a heartbeat that is the data's own, and that it stops."""

import asyncio
import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from running import running
from test_full_recovery import keep_full

from flows.heartbeat import Heartbeat, notify
from tests.ports import free_port

UNIT = Path(__file__).parents[2] / "deploy" / "bifrost.service"
PATIENCE = 1.5  # seconds after which the service manager would end it
QUIET = PATIENCE + 0.5


class ServiceManager:
    """The other end of the socket; notes what is told and when."""

    _MARK = b"MARK"

    def __init__(self, address: str) -> None:
        self.heard: list[tuple[float, str]] = []
        self._address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"\0{address[1:]}" if address.startswith("@") else address)
        self._through = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        while told := self._socket.recv(4096):
            now = time.monotonic()
            if told == self._MARK:
                self._through.set()
            else:
                self.heard += [(now, line) for line in told.decode().split("\n")]

    def count_of_all(self, line: str) -> int:
        """The count when all is heard that was told before."""
        self._through.clear()
        notify(self._MARK.decode(), {"NOTIFY_SOCKET": self._address})
        assert self._through.wait(20)
        return self.count(line)

    def count(self, line: str) -> int:
        return sum(told == line for _, told in self.heard)

    def silent_for(self) -> float:
        """Seconds since the last ping."""
        return time.monotonic() - max(at for at, told in self.heard if told == "WATCHDOG=1")

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RD)
        self._thread.join(5)
        self._socket.close()


@pytest.fixture
def manager() -> Iterator[tuple[ServiceManager, dict[str, str]]]:
    with tempfile.TemporaryDirectory() as folder:  # a socket's path is short
        address = f"{folder}/notify"
        service = ServiceManager(address)
        yield service, {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": str(int(PATIENCE * 1e6))}
        service.close()


def test_a_gateway_that_hangs_has_no_heartbeat_and_one_whose_target_hangs_has(tmp_path, manager):
    service, environment = manager
    port = free_port()
    with running(tmp_path, flow="held", hang_second=True, port=port, environment=environment) as gateway:
        gateway.until(lambda: service.count("READY=1"), "ready")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
            assert answer.read().decode().count("bifrost_source_connected{") == 3
        gateway.until(lambda: service.count("WATCHDOG=1") > 2, "a heartbeat")
        for hang in ("hang_flow", "hang_reading"):
            (tmp_path / hang).touch()
            gateway.until(lambda: service.silent_for() > QUIET, f"silence while {hang}")
            (tmp_path / hang).unlink()
            gateway.until(lambda: service.silent_for() < PATIENCE, "a heartbeat again")
        assert service.count("STOPPING=1") == 0
        gateway.stop()
    assert (service.count("READY=1"), service.count("STOPPING=1")) == (1, 1)


def test_a_gateway_that_idles_soundly_is_alive(tmp_path, manager):
    service, environment = manager
    with running(tmp_path, way="bifrost_run", idle=True, environment=environment) as gateway:
        gateway.until(lambda: service.count("WATCHDOG=1") > 4, "a heartbeat")
        assert service.silent_for() < PATIENCE
        gateway.stop()


def test_a_gateway_that_waits_for_room_on_its_disk_is_alive(tmp_path, manager):
    service, environment = manager
    place = tmp_path / "data" / "targets"
    place.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", str(place)], check=True)
    ended = threading.Event()
    filling = threading.Thread(target=keep_full, args=(place / "filler", ended))
    try:
        with running(tmp_path, hang_second=True, environment=environment) as gateway:
            gateway.until(lambda: service.count("WATCHDOG=1"), "a heartbeat")
            filling.start()
            gateway.until(lambda: "disk full, the flow waits" in gateway.said(), "the log")
            before, began = service.count("WATCHDOG=1"), time.monotonic()
            gateway.until(lambda: time.monotonic() - began > 2 * PATIENCE, "some time")
            assert service.count("WATCHDOG=1") > before + 2
    finally:
        ended.set()
        filling.join()
        subprocess.run(["umount", "-l", str(place)], check=True)


# ---------------------------------------------------------------------- the heartbeat alone


class Beating:
    """A heartbeat whose surroundings are told."""

    def __init__(self, environment: dict[str, str], patience: float = 0.03) -> None:
        self.ready, self.waits = True, False
        environment = environment | {"WATCHDOG_USEC": str(int(patience * 1e6))}
        self.heart = Heartbeat(lambda: self.ready, lambda: self.waits, environment)

    async def turn(self, seconds: float = 0.2, workers: tuple[int, ...] = (1,), *, took: bool = False) -> None:
        """Have the workers turn for a while, with the I/O loop beside."""
        reading = asyncio.create_task(self.heart.reads())
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            await asyncio.sleep(0.005)
            if took:
                self.heart.took()
            for worker in workers:
                self.heart.turn(worker)
        reading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await reading


async def test_readings_that_wait_and_are_not_taken_are_no_progress(manager):
    service, environment = manager
    beating = Beating(environment)
    await beating.turn()
    assert service.count_of_all("WATCHDOG=1") > 2
    beating.waits = True
    before = service.count_of_all("WATCHDOG=1")
    await beating.turn()
    assert service.count_of_all("WATCHDOG=1") <= before + 1
    before = service.count_of_all("WATCHDOG=1")
    await beating.turn(took=True)
    assert service.count_of_all("WATCHDOG=1") > before + 2


async def test_one_worker_that_hangs_is_enough(manager):
    service, environment = manager
    beating = Beating(environment)
    await beating.turn(workers=(1, 2))
    before = service.count_of_all("WATCHDOG=1")
    assert before > 2
    await beating.turn(workers=(1,))
    assert service.count_of_all("WATCHDOG=1") <= before + 1
    beating.heart.begin()  # the flow is run again, with one worker
    await beating.turn(workers=(1,))
    assert service.count_of_all("WATCHDOG=1") > before + 2


async def test_nothing_is_told_before_it_is_ready(manager):
    service, environment = manager
    beating = Beating(environment)
    beating.ready = False
    await beating.turn(0.1)
    assert service.heard == []


@pytest.mark.parametrize(
    ("environment", "wanted"), [({}, False), ({"NOTIFY_SOCKET": "@x"}, True), ({"WATCHDOG_USEC": "1"}, False)]
)
def test_without_a_service_manager_nothing_is_done(environment, wanted):
    assert Heartbeat(lambda: True, lambda: False, environment).wanted is wanted
    notify("READY=1", environment)  # nobody listens


async def test_a_watchdog_that_is_meant_for_another_process_gets_nothing(manager):
    service, environment = manager
    beating = Beating(environment | {"WATCHDOG_PID": str(os.getpid() + 1)})
    await beating.turn(0.1)
    assert [told for _, told in service.heard] == ["READY=1", "STATUS=Reading"]


def test_an_abstract_socket_is_told_too():
    address = f"@bifrost-test-{os.getpid()}"
    service = ServiceManager(address)
    notify("READY=1", {"NOTIFY_SOCKET": address})
    service.close()
    assert service.count("READY=1") == 1


# ---------------------------------------------------------------------- the unit


def analyzed(tmp_path: Path, *verb: str) -> "subprocess.CompletedProcess[str]":
    """What systemd says of the unit; the program is another one, which is there."""
    file = tmp_path / "bifrost.service"
    file.write_text(UNIT.read_text().replace("/opt/bifrost/current/bin/bifrost", sys.executable))
    program = shutil.which("systemd-analyze")
    assert program is not None, "sh tests/counterparts/tools.sh installs it"
    return subprocess.run(
        [program, *verb, str(file)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={"PATH": os.environ["PATH"]},
    )


def test_systemd_understands_the_unit(tmp_path):
    done = analyzed(tmp_path, "verify", "--man=no")
    ours = [line for line in done.stderr.splitlines() if "bifrost.service" in line]
    assert (done.returncode, ours) == (0, [])


def test_systemd_finds_the_unit_closed(tmp_path):
    done = analyzed(tmp_path, "security", "--offline=true", "--no-pager")
    level = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    assert level, done.stdout + done.stderr
    assert float(level[1]) <= 2.0, done.stdout


def test_the_unit_starts_the_gateway_with_a_watchdog_and_ends_it_as_it_can():
    unit = UNIT.read_text()
    for line in ("Type=notify", "User=bifrost", "WatchdogSec=60s", "Restart=always", "NoNewPrivileges=yes"):
        assert line in unit.splitlines()
