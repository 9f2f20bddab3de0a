"""Builds the image, runs it as an operator would, kills and restarts it: python -m tests.deployment.image [--built]. Minutes, as root.

Writes build/evidence/image.json. What is shown: the user and rights of the process, a root file system that cannot be written,
the time from start to ready, how long a stop takes, and that of numbered messages, each confirmed by a broker, none is missing
in the target after a kill, a stop and two restarts in between.
"""

import asyncio
import contextlib
import json
import os
import shutil
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Final

import paho.mqtt.client as mqtt
from deltalake import DeltaTable
from paho.mqtt.enums import CallbackAPIVersion

from tests import evidence
from tests.deployment.containers import base_image, build, inspected, installed, podman
from tests.deployment.materials import check_bill
from tests.mosquitto_broker import Broker
from tests.ports import free_port

IMAGE: Final = "localhost/bifrost"
NAME: Final = "bifrost-image-test"
USER: Final = 1000
LIMITS: Final = (
    "--ulimit",
    "nofile=1024:1024",
    "--ulimit",
    "nproc=1024:1024",
)  # a machine that is a container gives no more
_PER_SECOND: Final = 400
_MESSAGES: Final = 8000
_LARGEST: Final = (
    700_000_000  # bytes unpacked that the variant `all` may add to its base; half of it is Delta, Arrow and DuckDB
)
_STOPS_WITHIN: Final = 5.0

CONFIG: Final = """
gateway:
  name: image-test
  port: {port}
  log_format: json
  directory: /data/gateway
  cloud: {{connectors: {{lake: {{type: delta, endpoint: /data/delta, flush_interval: 0.5}}}}}}
sources:
  - name: cell
    protocol: mqtt
    endpoint: mqtt://127.0.0.1:{broker}
    client_id: image-test
    subscriptions:
      - {{topic: plant/+/+, pattern: "plant/{{device_id}}/{{tag_name}}"}}
"""


class Failed(AssertionError):
    """The image does not do what it must."""


def expect(holds: bool, what: str) -> None:
    """Say what was seen, and end when it was not."""
    print(f"  {'ok  ' if holds else 'FAIL'} {what}", flush=True)
    if not holds:
        raise Failed(what)


def answers(port: int, path: str) -> bool:
    """Whether the gateway says that all is well."""
    with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=2) as answer:
        return bool(answer.status == 200)
    return False


async def until(holds: Any, what: str, seconds: float = 90) -> float:
    """Seconds until a condition held."""
    began = time.monotonic()
    while not await asyncio.to_thread(holds):
        if time.monotonic() - began > seconds:
            raise Failed(f"{what}: not within {seconds} s\n{podman('logs', '--tail', '20', NAME, check=False)}")
        await asyncio.sleep(0.1)
    return time.monotonic() - began


def publish(client: mqtt.Client, first: int, last: int) -> None:
    """Send numbered messages evenly; returns when the broker has confirmed each."""
    began, sent = time.monotonic(), []
    for number in range(first, last):
        sent.append(client.publish(f"plant/m{number % 20}/count", str(number), qos=1))
        if (ahead := (number - first) / _PER_SECOND - (time.monotonic() - began)) > 0.01:
            time.sleep(ahead)
    for one in sent:
        one.wait_for_publish(60)


def arrived(table: Path) -> list[int]:
    """Numbers in the target."""
    if not DeltaTable.is_deltatable(str(table)):
        return []
    columns = DeltaTable(table).to_pyarrow_table(columns=["value_int"]) if _has(table, "value_int") else None
    if columns is None:
        return [int(value) for value in DeltaTable(table).to_pyarrow_table(columns=["value"])["value"].to_pylist()]
    return [int(value) for value in columns["value_int"].to_pylist()]


def _has(table: Path, name: str) -> bool:
    return name in {field.name for field in DeltaTable(table).schema().fields}


def process_facts() -> dict[str, str]:
    """What the kernel says of the gateway's process."""
    number = inspected("container", NAME)["State"]["Pid"]
    lines = Path(f"/proc/{number}/status").read_text().splitlines()
    facts = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    roots = [line.split() for line in Path(f"/proc/{number}/mounts").read_text().splitlines()]
    facts["root"] = next(line[3].split(",")[0] for line in roots if line[1] == "/")
    facts["writable"] = " ".join(
        sorted(
            line[1]
            for line in roots
            if line[3].startswith("rw") and not line[1].startswith(("/proc", "/sys", "/dev")) and line[2] != "proc"
        )
    )
    return facts


async def run(folder: Path) -> dict[str, Any]:
    """Run the image through a day's trouble."""
    data, port = folder / "data", free_port()
    data.mkdir(mode=0o700)
    os.chown(data, USER, USER)
    (folder / "broker").mkdir()
    async with Broker(
        folder / "broker", ("allow_anonymous true", "max_queued_messages 0", "max_inflight_messages 1000")
    ) as broker:
        config = folder / "gateway.yaml"
        config.write_text(CONFIG.format(port=port, broker=broker.port))
        config.chmod(0o444)
        folder.chmod(0o755)
        began = time.monotonic()
        await asyncio.to_thread(
            podman, "run", "--detach", "--log-driver", "k8s-file", "--name", NAME, "--network", "host", "--read-only", "--read-only-tmpfs=false",
            "--cap-drop", "ALL", "--security-opt", "no-new-privileges", *LIMITS,
            "--env", f"BIFROST_HEALTH_URL=http://127.0.0.1:{port}/livez",
            "--volume", f"{data}:/data", "--volume", f"{config}:/etc/bifrost/gateway.yaml:ro", IMAGE,
        )  # fmt: skip
        await until(lambda: answers(port, "/readyz"), "ready")
        ready = time.monotonic() - began
        expect(ready < 60, f"ready {ready:.1f} s after `podman run`")

        facts = process_facts()
        expect(facts["Uid"].split() == [str(USER)] * 4, f"user {facts['Uid'].split()[0]}")
        expect(int(facts["CapEff"], 16) == int(facts["CapBnd"], 16) == 0, "no capability, none to be gained")
        expect(facts["NoNewPrivs"] == "1", "no new privileges")
        expect(facts["root"] == "ro", f"the root file system cannot be written; what can: {facts['writable']}")
        podman("healthcheck", "run", NAME)
        expect(True, "the health check is healthy")

        client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="counter")
        client.max_inflight_messages_set(500)
        client.connect("127.0.0.1", broker.port)
        client.loop_start()
        sending = asyncio.create_task(asyncio.to_thread(publish, client, 0, _MESSAGES))
        table = data / "delta" / "readings"
        await until(lambda: len(arrived(table)) > 500, "the first readings in the Delta table")
        expect(True, "readings arrive")

        podman("kill", "--signal", "KILL", NAME)
        await asyncio.sleep(2)  # messages come meanwhile
        podman("start", NAME)
        again = await until(lambda: answers(port, "/readyz"), "ready after the kill")
        began = time.monotonic()
        podman("stop", "--time", "20", NAME)
        stopped = time.monotonic() - began
        code = inspected("container", NAME)["State"]["ExitCode"]
        expect(stopped < _STOPS_WITHIN and code == 0, f"stopped by SIGTERM in {stopped:.1f} s, exit code {code}")
        podman("start", NAME)
        await sending
        client.loop_stop()
        await until(lambda: len(set(arrived(table))) >= _MESSAGES, "all that was confirmed in the Delta table", 60)
        found = arrived(table)
        lost, doubled = _MESSAGES - len(set(found)), len(found) - len(set(found))
        expect(lost == 0, f"{_MESSAGES} messages confirmed by the broker, {lost} lost, {doubled} doubled")
        account = json.loads(podman("exec", NAME, "bifrost", "ledger", "--json"))
        expect(account["unaccounted"] == 0, "the account adds up")
        podman("stop", "--time", "20", NAME)
    return {
        "ready_s": round(ready, 1), "ready_after_kill_s": round(again, 1), "stop_s": round(stopped, 1), "stop_exit_code": code,
        "user": USER, "capabilities": 0, "root_read_only": True, "writable": facts["writable"].split(),
        "messages": _MESSAGES, "kills": 1, "stops": 1, "lost": lost, "doubled": doubled, "unaccounted": account["unaccounted"],
    }  # fmt: skip


def facts_of(image: str, base: str) -> dict[str, Any]:
    """Size and layers."""
    about, below = inspected("image", image), inspected("image", base)
    return {
        "size_mb": round(about["Size"] / 1e6),
        "base_mb": round(below["Size"] / 1e6),
        "own_mb": round((about["Size"] - below["Size"]) / 1e6),
        "layers": len(about["RootFS"]["Layers"]),
    }


def main() -> None:
    """Build, run, write down."""
    installed()
    base = base_image()
    figures: dict[str, Any] = {}
    for variant in ("all",) if "--built" in sys.argv else ("edge", "all"):
        began = time.monotonic()
        name = f"{IMAGE}:{variant}"
        if "--built" in sys.argv:  # run what is there
            figures[variant] = facts_of(name, base)
            continue
        # the package index may be behind a proxy with a certificate of its own; what pip has fetched before is not fetched again
        mounts = (
            "--volume",
            "/etc/ssl/certs:/etc/ssl/certs:ro",
            "--volume",
            f"{Path.home()}/.cache/pip:/cache/pip",
        )
        build(name, base=base, extras=variant, arguments=mounts)
        figures[variant] = facts_of(name, base) | {"build_s": round(time.monotonic() - began)}
        print(f"{name}: {figures[variant]}", flush=True)
    podman("tag", f"{IMAGE}:all", f"{IMAGE}:latest")
    expect(figures["all"]["own_mb"] * 1e6 <= _LARGEST, f"{figures['all']['own_mb']} MB on top of the base")
    bill = json.loads(
        podman(
            "run",
            "--rm",
            "--no-healthcheck",
            *LIMITS,
            "--network",
            "none",
            "--entrypoint",
            "cat",
            IMAGE,
            "/opt/bifrost/sbom.cdx.json",
        )
    )
    check_bill(bill)
    expect(True, f"bill of materials: {len(bill['components'])} packages, valid CycloneDX {bill['specVersion']}")
    folder = Path(tempfile.mkdtemp(prefix="bifrost-image-"))
    try:
        figures["run"] = asyncio.run(run(folder))
    finally:
        podman("rm", "--force", NAME, check=False)
        shutil.rmtree(folder, ignore_errors=True)
    print(evidence.record("image", figures | {"conditions": evidence.conditions(["pyarrow", "deltalake"])}))


if __name__ == "__main__":
    try:
        main()
    except Failed as failed:
        sys.exit(f"failed: {failed}")
