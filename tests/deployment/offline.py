"""Installs the offline bundle in an empty Debian without a network, as an operator would: python -m tests.deployment.offline. As root.

Writes build/evidence/bundle.json. The box is a chroot made by debootstrap, in namespaces of its own: its network is the loopback
device, on which a broker listens that stands for the plant. The gateway is started by what the installed unit says: command line,
user, folder, environment, and the socket on which a unit of the type `notify` says that it is ready. What is shown: that it
installs, the seconds it takes, that of numbered messages, each confirmed by the broker, none is missing after a kill, a stop and
three starts, that taking it away leaves readings and configuration, and that pip finds every wheel for every platform.
"""

import asyncio
import contextlib
import fcntl
import json
import re
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tarfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from deploy.bundle import ARCHITECTURES, EXTRAS, FOLDER, PYTHONS, Platform, for_platform, resolved
from tests import evidence
from tests.deployment.containers import BASE_TAR, installed
from tests.deployment.image import Failed, answers, arrived, expect, publish
from tests.deployment.materials import check_bill
from tests.mosquitto_broker import Broker
from tests.orphans import Server
from tests.ports import free_port

BOX: Final = FOLDER / "box"
STICK: Final = Path("/media/stick")
UNIT: Final = Path("/etc/systemd/system/bifrost.service")
_MESSAGES: Final = 8000
_INSTALLED_WITHIN: Final = 600.0
_STOPS_WITHIN: Final = 20.0  # TimeoutStopSec of the unit

CONFIG: Final = """
gateway:
  name: offline-test
  port: {port}
  log_format: json
  directory: /var/lib/bifrost/data
  cloud: {{connectors: {{lake: {{type: delta, endpoint: /var/lib/bifrost/delta, flush_interval: 0.5}}}}}}
sources:
  - name: cell
    protocol: mqtt
    endpoint: mqtt://127.0.0.1:{broker}
    client_id: offline-test
    subscriptions:
      - {{topic: plant/+/+, pattern: "plant/{{device_id}}/{{tag_name}}"}}
"""


def in_box(*command: str, code: int = 0) -> str:
    """Run a program in the box as root; what it says."""
    clean = ["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"]
    finished = subprocess.run(
        ["chroot", str(BOX), *clean, *command],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=_INSTALLED_WITHIN,
    )  # fmt: skip
    if finished.returncode != code:
        raise Failed(f"{' '.join(command)}: exit code {finished.returncode}\n{finished.stdout[-3000:]}")
    return finished.stdout


def settings_of(unit: str) -> dict[str, list[str]]:
    """Settings of a unit."""
    found: dict[str, list[str]] = {}
    for line in unit.splitlines():
        if setting := re.match(r"([A-Za-z]+)=(.*)", line):
            found.setdefault(setting[1], []).append(setting[2])
    return found


class Service:
    """What systemd would do with the installed unit, as far as a program notices: who, where, with what, and when it is ready."""

    def __init__(self) -> None:
        said = settings_of((BOX / UNIT.relative_to("/")).read_text())
        (self.user,), (self.group,), (folder,), (mask,), (command,) = (
            said[key] for key in ("User", "Group", "WorkingDirectory", "UMask", "ExecStart")
        )
        self._mask = int(mask, 8)
        place = BOX / "run" / "notify"
        place.unlink(missing_ok=True)
        self._told = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._told.bind(str(place))
        place.chmod(0o777)
        self.command = shlex.split(command)
        as_user = (
            "--reuid",
            self.user,
            "--regid",
            self.group,
            "--init-groups",
            "--no-new-privs",
            "--bounding-set=-all",
            "--inh-caps=-all",
        )
        environment = (
            "PATH=/usr/local/bin:/usr/bin:/bin",
            f"HOME={folder}",
            f"USER={self.user}",
            *said.get("Environment", ()),
        )
        self._prefix = ["chroot", str(BOX), "setpriv", *as_user, "env", "-i", f"--chdir={folder}", *environment]  # fmt: skip
        self._process: Server | None = None

    def as_user(self, *command: str) -> str:
        """Run a program as the service's user; what it prints."""
        finished = subprocess.run([*self._prefix, *command], capture_output=True, text=True, check=False, timeout=120)
        if finished.returncode != 0:
            raise Failed(f"{' '.join(command)}\n{finished.stdout}{finished.stderr}")
        return finished.stdout

    def start(self, within: float = 120) -> float:
        """Start it; seconds until it has said that it is ready."""
        began = time.monotonic()
        with (FOLDER / "service.log").open("ab") as log:
            self._process = Server(
                [*self._prefix, "NOTIFY_SOCKET=/run/notify", *self.command], stdout=log, stderr=log, umask=self._mask
            )
        self._told.settimeout(1)
        while time.monotonic() - began < within:
            with contextlib.suppress(TimeoutError):
                if b"READY=1" in self._told.recv(4096).split(b"\n"):
                    return time.monotonic() - began
            if self._process.poll() is not None:
                break
        raise Failed(f"not ready within {within} s\n{(FOLDER / 'service.log').read_text()[-3000:]}")

    def owner(self) -> str:
        """Who the process is, by its number."""
        assert self._process is not None
        facts = Path(f"/proc/{self._process.pid}/status").read_text()
        return re.search(r"^Uid:\t(\d+)", facts, re.MULTILINE)[1]  # type: ignore[index]

    def end(self, how: signal.Signals) -> tuple[float, int]:
        """End it by a signal; seconds that it took, and the exit code."""
        assert self._process is not None
        began = time.monotonic()
        self._process.send_signal(how)
        code = self._process.wait(_STOPS_WITHIN)
        with contextlib.suppress(
            TimeoutError, BlockingIOError
        ):  # what it said before does not count for the next start
            self._told.setblocking(False)
            while self._told.recv(4096):
                pass
        self._told.setblocking(True)
        return time.monotonic() - began, code


@contextlib.contextmanager
def mounted() -> Iterator[None]:
    """The kernel's folders in the box; the namespace takes them along when it ends."""
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["mount", "--rbind", "/dev", str(BOX / "dev")], check=True)
    subprocess.run(["mount", "-t", "proc", "proc", str(BOX / "proc")], check=True)
    yield


def only_loopback() -> None:
    """Switch the loopback device on, and see that there is no other way out."""
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh", b"lo", 1))  # SIOCSIFFLAGS, IFF_UP
    names = [name for _, name in socket.if_nameindex()]
    expect(names == ["lo"], f"network devices: {', '.join(names)}")
    try:
        socket.create_connection(("198.51.100.1", 443), timeout=2).close()
    except OSError as none:
        expect(True, f"the network is off: {none.strerror}")
    else:
        raise Failed("an address outside is reached")


async def until(holds: Any, what: str, seconds: float = 120) -> None:
    """Wait for a condition."""
    began = time.monotonic()
    while not await asyncio.to_thread(holds):
        if time.monotonic() - began > seconds:
            raise Failed(f"{what}: not within {seconds} s\n{(FOLDER / 'service.log').read_text()[-3000:]}")
        await asyncio.sleep(0.2)


def page(port: int) -> str:
    """What a browser is given."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as answer:
        return str(answer.read().decode())


def whole() -> dict[str, int]:
    """Wheels that pip finds in the bundle, by platform and extras: each that the lock names, by its hash."""
    stick = BOX / STICK.relative_to("/")
    found = {}
    for platform in (Platform(one, python) for one in ARCHITECTURES for python in PYTHONS):
        for extras in EXTRAS:
            lock = FOLDER / "tried.lock"
            locks = (stick / "deploy" / name for name in (f"{extras}.lock", "own.lock"))
            lock.write_text("".join(for_platform(one.read_text(), platform) for one in locks))
            wheels = resolved(lock, platform, stick / "wheels")
            found[f"{platform.architecture} {platform.python} {extras}"] = len(wheels)
            expect(len(wheels) > 50, f"{platform.said}, {extras}: {len(wheels)} wheels, none missing")
    return found


async def lived_through(port: int, broker: Broker, figures: dict[str, Any]) -> None:
    """Numbered messages come in, while the gateway is killed, stopped and started."""
    table = BOX / "var" / "lib" / "bifrost" / "delta" / "readings"
    service = Service()
    expect(service.command[0].startswith("/opt/bifrost/current/"), f"started by the unit: {' '.join(service.command)}")
    ready = await asyncio.to_thread(service.start)
    wanted = next(
        line.split(":")[2]
        for line in (BOX / "etc/passwd").read_text().splitlines()
        if line.startswith(f"{service.user}:")
    )
    expect(
        service.owner() == wanted != "0", f"ready {ready:.1f} s after its start, as {service.user} ({service.owner()})"
    )
    await until(lambda: answers(port, "/readyz"), "/readyz")
    expect("<script" in await asyncio.to_thread(page, port), "the browser's pages are there")

    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="counter")
    client.max_inflight_messages_set(500)
    client.connect("127.0.0.1", broker.port)
    client.loop_start()
    sending = asyncio.create_task(asyncio.to_thread(publish, client, 0, _MESSAGES))
    await until(lambda: len(arrived(table)) > 500, "the first readings in the Delta table")
    expect(True, "readings arrive")
    service.end(signal.SIGKILL)
    await asyncio.sleep(2)  # messages come meanwhile
    again = await asyncio.to_thread(service.start)
    expect(True, f"killed; ready {again:.1f} s after the next start")
    stopped, code = await asyncio.to_thread(service.end, signal.SIGTERM)
    expect(code == 0, f"stopped in {stopped:.1f} s, exit code {code}")
    await asyncio.to_thread(service.start)
    await sending
    client.loop_stop()
    await until(lambda: len(set(arrived(table))) >= _MESSAGES, "all that was confirmed in the Delta table")
    found = arrived(table)
    lost, doubled = _MESSAGES - len(set(found)), len(found) - len(set(found))
    expect(lost == 0, f"{_MESSAGES} messages confirmed by the broker, {lost} lost, {doubled} doubled")
    account = json.loads(
        service.as_user("/opt/bifrost/current/bin/bifrost", "ledger", "--json", "-c", "/etc/bifrost/gateway.yaml")
    )
    expect(account["unaccounted"] == 0, "the account adds up")
    await asyncio.to_thread(service.end, signal.SIGTERM)

    in_box("/opt/bifrost/current/bin/bifrost", "uninstall", "--systemd")
    expect(not (BOX / UNIT.relative_to("/")).exists(), "taken away: no unit")
    kept = sorted(arrived(table)) == sorted(found) and "offline-test" in (BOX / "etc/bifrost/gateway.yaml").read_text()
    expect(kept and any((BOX / "var/lib/bifrost/data").iterdir()), "readings, stores and configuration are left")
    began = time.monotonic()
    expect(
        "is there" in in_box(f"{STICK}/install.sh"),
        f"installed again: only the service ({time.monotonic() - began:.0f} s)",
    )
    service = Service()
    await asyncio.to_thread(service.start)
    client.reconnect()
    client.loop_start()
    await asyncio.to_thread(publish, client, _MESSAGES, _MESSAGES + 100)
    client.loop_stop()
    await until(lambda: len(set(arrived(table))) >= _MESSAGES + 100, "readings after the second installation")
    expect(True, "it goes on where it was")
    await asyncio.to_thread(service.end, signal.SIGTERM)
    figures |= {
        "ready_s": round(ready, 1), "ready_after_kill_s": round(again, 1), "stop_s": round(stopped, 1), "stop_exit_code": code,
        "user": service.user, "command": service.command, "readings_delivered": len(set(arrived(table))),
        "kills": 1, "stops": 2, "lost": lost, "doubled": doubled, "unaccounted": account["unaccounted"],
        "left_after_uninstall": kept,
    }  # fmt: skip


async def inside() -> dict[str, Any]:
    """Everything, in the namespaces."""
    only_loopback()
    figures: dict[str, Any] = {"network": "loopback alone"}
    with mounted():
        in_box(f"{STICK}/install.sh", "--check")
        began = time.monotonic()
        said = in_box(f"{STICK}/install.sh")
        figures["install_s"] = round(time.monotonic() - began, 1)
        expect("What to do next" in said, f"installed in {figures['install_s']} s")
        version = (BOX / "opt/bifrost/current").readlink()
        size = sum(one.lstat().st_size for one in (BOX / version.relative_to("/")).rglob("*") if not one.is_dir())
        figures |= {
            "version": version.name,
            "installed_mb": round(size / 1e6),
            "python": in_box("python3", "-V").split()[1],
        }
        port, work = free_port(), FOLDER / "broker"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        settings = ("allow_anonymous true", "max_queued_messages 0", "max_inflight_messages 1000")
        async with Broker(work, settings) as broker:
            (BOX / "etc/bifrost/gateway.yaml").write_text(CONFIG.format(port=port, broker=broker.port))
            await lived_through(port, broker, figures)
        figures["wheels_by_platform"] = whole()
    return figures


def prepared(archive: Path) -> dict[str, Any]:
    """Make the box, put the bundle on its stick; what the bundle holds."""
    shutil.rmtree(BOX, ignore_errors=True)
    BOX.mkdir(parents=True)
    (FOLDER / "service.log").unlink(missing_ok=True)
    with tarfile.open(BASE_TAR) as base:
        base.extractall(BOX, filter="fully_trusted")
    stick = BOX / STICK.relative_to("/")
    subprocess.run(["sha256sum", "--check", "--quiet", archive.name + ".sha256"], cwd=FOLDER, check=True)
    with tarfile.open(archive) as opened:
        opened.extractall(stick.parent, filter="data")
    (stick.parent / archive.name.removesuffix(".tar")).rename(stick)
    bills = sorted((stick / "sbom").glob("*.json"))
    for one in bills:
        check_bill(json.loads(one.read_text()))
    expect(
        len(bills) == len(ARCHITECTURES) * len(PYTHONS) * len(EXTRAS),
        f"{len(bills)} bills of materials, valid CycloneDX",
    )
    manifest = (stick / "MANIFEST").read_text().splitlines()
    return {
        "size_mb": round(archive.stat().st_size / 1e6),
        "wheels": len(list((stick / "wheels").glob("*.whl"))),
        "files": sum(1 for one in stick.rglob("*") if one.is_file()),
        "manifest": [line for line in manifest if line.startswith("platform ")],
    }


def main() -> None:
    """Prepare outside, run inside, write down."""
    if "--inside" in sys.argv:
        print(json.dumps(asyncio.run(inside())), file=Path(sys.argv[-1]).open("w"))  # noqa: SIM115 - it ends here
        return
    installed()
    (archive,) = FOLDER.glob("bifrost-*-offline.tar")
    figures = prepared(archive)
    found = FOLDER / "found.json"
    found.unlink(missing_ok=True)
    apart = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    try:
        finished = subprocess.run(
            [*apart, sys.executable, "-m", "tests.deployment.offline", "--inside", str(found)], check=False
        )
        if finished.returncode != 0:
            raise Failed("see above")
    finally:
        if "--keep" not in sys.argv:
            shutil.rmtree(BOX, ignore_errors=True)
    figures |= json.loads(found.read_text())
    print(evidence.record("bundle", figures | {"conditions": evidence.conditions(["deltalake"])}))


if __name__ == "__main__":
    try:
        main()
    except Failed as failed:
        sys.exit(f"failed: {failed}")
