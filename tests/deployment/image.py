"""Builds the image, runs it as an operator would, kills and restarts it: python -m tests.deployment.image [--built]. Minutes, as root.

Writes build/evidence/image.json. What is shown of both variants: their size and what it is made of, and that readings arrive. Of
`all`: the user and rights of the process, a root file system that cannot be written, the time from start to ready, how long a stop
takes, that of numbered messages, each confirmed by a broker, none is missing in the target after a kill, a stop and two restarts in
between, that the demo's readings arrive, and that it runs in a pod as the chart renders it.
"""

import asyncio
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import paho.mqtt.client as mqtt
from deltalake import DeltaTable
from paho.mqtt.enums import CallbackAPIVersion

from tests import evidence
from tests.deployment import played
from tests.deployment.containers import base_image, build, bytes_of, inspected, installed, podman
from tests.deployment.materials import check_bill
from tests.deployment.seen import SUBSCRIBED, Failed, answers, arrived, expect, process_facts, publish, until
from tests.mosquitto_broker import Broker
from tests.ports import free_port

IMAGE: Final = "localhost/bifrost"
NAME: Final = "bifrost-image-test"
USER: Final = 1000
PAGES: Final = "/icon.svg"  # is there where the pages are
# nothing but the mounted folder can be written, not even /tmp
BARE: Final = ("--read-only", "--read-only-tmpfs=false", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")
_MESSAGES: Final = 8000
_FEW: Final = 500
_LARGEST: Final = {
    "all": 480,
    "edge": 425,
}  # MB unpacked that a variant may add to its base; docs/docker.md says what they are
_STOPS_WITHIN: Final = 5.0
_LARGE: Final = 4.0  # MB; packages that have more are named

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


def own(folder: Path) -> Path:
    """A folder in `folder` that the container's user may write."""
    data = folder / "data"
    data.mkdir(mode=0o700)
    os.chown(data, USER, USER)
    folder.chmod(0o755)
    return data


def connected(broker: Broker) -> mqtt.Client:
    """Somebody who publishes."""
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="counter")
    client.max_inflight_messages_set(500)
    client.connect("127.0.0.1", broker.port)
    client.loop_start()
    return client


async def start(image: str, folder: Path, data: Path, broker: Broker, port: int) -> float:
    """Make a container and start the gateway in it; returns the seconds from its start until it was ready."""
    config = folder / "gateway.yaml"
    config.write_text(CONFIG.format(port=port, broker=broker.port))
    config.chmod(0o444)
    await asyncio.to_thread(  # made before the clock starts: a store that copies each image is not what is measured
        podman, "create", "--log-driver", "k8s-file", "--name", NAME, "--network", "host", *BARE,
        "--env", f"BIFROST_HEALTH_URL=http://127.0.0.1:{port}/livez",
        "--volume", f"{data}:/data", "--volume", f"{config}:/etc/bifrost/gateway.yaml:ro", image,
    )  # fmt: skip
    began = time.monotonic()
    await asyncio.to_thread(podman, "start", NAME)
    await until(lambda: answers(port, "/readyz"), "ready", NAME)
    ready = time.monotonic() - began
    await until(lambda: SUBSCRIBED in broker.log(), "subscribed", NAME)  # what was sent before would be nobody's
    return ready


def stop() -> tuple[float, int]:
    """Stop it with SIGTERM; returns the seconds that it took and the exit code."""
    began = time.monotonic()
    podman("stop", "--time", "20", NAME)
    return time.monotonic() - began, int(inspected("container", NAME)["State"]["ExitCode"])


async def run(folder: Path) -> dict[str, Any]:
    """Run `all` through a day's trouble."""
    data, port = own(folder), free_port()
    table = data / "delta" / "readings"
    (folder / "broker").mkdir()
    settings = ("allow_anonymous true", "max_queued_messages 0", "max_inflight_messages 1000")
    async with Broker(folder / "broker", settings) as broker:
        ready = await start(f"{IMAGE}:all", folder, data, broker, port)
        expect(ready < 60 and answers(port, PAGES), f"ready {ready:.1f} s after `podman start`, with pages")

        facts = process_facts(NAME)
        expect(facts["Uid"].split() == [str(USER)] * 4, f"user {facts['Uid'].split()[0]}")
        expect(int(facts["CapEff"], 16) == int(facts["CapBnd"], 16) == 0, "no capability, none to be gained")
        expect(facts["NoNewPrivs"] == "1", "no new privileges")
        expect(facts["root"] == "ro", f"the root file system cannot be written; what can: {facts['writable']}")
        podman("healthcheck", "run", NAME)
        expect(True, "the health check is healthy")

        client = connected(broker)
        sending = asyncio.create_task(asyncio.to_thread(publish, client, 0, _MESSAGES))
        await until(lambda: len(arrived(table)) > _FEW, "the first readings in the Delta table", NAME)
        expect(True, "readings arrive")

        podman("kill", "--signal", "KILL", NAME)
        await asyncio.sleep(2)  # messages come meanwhile
        podman("start", NAME)
        again = await until(lambda: answers(port, "/readyz"), "ready after the kill", NAME)
        stopped, code = await asyncio.to_thread(stop)
        expect(stopped < _STOPS_WITHIN and code == 0, f"stopped by SIGTERM in {stopped:.1f} s, exit code {code}")
        podman("start", NAME)
        await sending
        client.loop_stop()
        await until(lambda: len(set(arrived(table))) >= _MESSAGES, "all that was confirmed in the Delta table", NAME)
        found = arrived(table)
        lost, doubled = _MESSAGES - len(set(found)), len(found) - len(set(found))
        expect(lost == 0, f"{_MESSAGES} messages confirmed by the broker, {lost} lost, {doubled} doubled")
        account = json.loads(podman("exec", NAME, "bifrost", "ledger", "--json"))
        expect(account["unaccounted"] == 0, "the account adds up")
        await asyncio.to_thread(stop)
    return {
        "ready_s": round(ready, 1), "ready_after_kill_s": round(again, 1), "stop_s": round(stopped, 1), "stop_exit_code": code,
        "user": USER, "capabilities": 0, "root_read_only": True, "writable": facts["writable"].split(),
        "messages": _MESSAGES, "kills": 1, "stops": 1, "lost": lost, "doubled": doubled, "unaccounted": account["unaccounted"],
    }  # fmt: skip


async def run_edge(folder: Path) -> dict[str, Any]:
    """Run `edge`: readings arrive, and it has no pages."""
    data, port = own(folder), free_port()
    table = data / "delta" / "readings"
    (folder / "broker").mkdir()
    async with Broker(folder / "broker") as broker:
        ready = await start(f"{IMAGE}:edge", folder, data, broker, port)
        expect(not answers(port, PAGES), f"edge: ready {ready:.1f} s after `podman start`, without pages")
        client = connected(broker)
        await asyncio.to_thread(publish, client, 0, _FEW)
        client.loop_stop()
        await until(lambda: len(set(arrived(table))) >= _FEW, "all that was confirmed in the Delta table", NAME)
        stopped, code = await asyncio.to_thread(stop)
        expect(stopped < _STOPS_WITHIN and code == 0, f"edge: {_FEW} readings arrive, stopped in {stopped:.1f} s")
    return {"ready_s": round(ready, 1), "stop_s": round(stopped, 1), "messages": _FEW, "lost": 0}


def run_demo(folder: Path) -> dict[str, Any]:
    """Run the demo without a network: a plant with all protocols, the emulator of ZeroBus, and the gateway between them."""
    data = own(folder)
    said = podman(
        "run", "--rm", "--log-driver", "k8s-file", "--name", NAME, "--network", "none", "--no-healthcheck", *BARE,
        "--volume", f"{data}:/data", f"{IMAGE}:all", "demo", "--for", "15s", "--json", "--data-dir", "/data/demo", seconds=240,
    )  # fmt: skip
    summary = json.loads(said.splitlines()[-1])
    protocols = {line["protocol"] for line in summary["sources"].values()}
    received = sum(line["received"] for line in summary["sources"].values())
    rows = DeltaTable(str(data / Path(summary["delta"]).relative_to("/data"))).to_pyarrow_dataset().count_rows()
    expect(
        protocols == {"opcua", "mqtt", "sparkplug", "modbus"} and min(received, rows) > 1000,
        f"the demo's data arrive: {received} readings of {', '.join(sorted(protocols))}, {rows} rows in Delta",
    )
    expect(
        all(line["delivered"] > 0 for line in summary["targets"].values()),
        f"in each of {len(summary['targets'])} targets",
    )
    expect(summary["wrong_paths"] == summary["unaccounted"] == 0, "under the right paths, and the account adds up")
    return {
        "received": received, "rows": rows, "protocols": sorted(protocols), "targets": len(summary["targets"]),
        "wrong_paths": 0, "unaccounted": 0,
    }  # fmt: skip


def facts_of(variant: str, base: str) -> dict[str, Any]:
    """Size, and what it is made of."""
    image = f"{IMAGE}:{variant}"
    (whole, packages), (below, _) = bytes_of(image), bytes_of(base)
    large = {name: round(size / 1e6, 1) for name, size in packages.items() if size >= _LARGE * 1e6}
    return {
        "size_mb": round(whole / 1e6),
        "base_mb": round(below / 1e6),
        "own_mb": round((whole - below) / 1e6),
        "layers": len(inspected("image", image)["RootFS"]["Layers"]),
        "packages_mb": dict(sorted(large.items(), key=lambda item: -item[1])),
        "other_packages_mb": round(sum(packages.values()) / 1e6 - sum(large.values()), 1),
    }


def made(variant: str, base: str) -> dict[str, Any]:
    """Build a variant."""
    began = time.monotonic()
    # the package index may be behind a proxy with a certificate of its own; what pip has fetched before is not fetched again
    cache = Path.home() / ".cache" / "pip"
    cache.mkdir(parents=True, exist_ok=True)
    mounts = ("--volume", "/etc/ssl/certs:/etc/ssl/certs:ro", "--volume", f"{cache}:/cache/pip")
    build(f"{IMAGE}:{variant}", base=base, extras=variant, arguments=mounts)
    return {"build_s": round(time.monotonic() - began)}


def bill_of(variant: str) -> int:
    """Check the bill of materials; returns how many packages it names."""
    said = podman(
        "run", "--rm", "--no-healthcheck", "--network", "none", "--entrypoint", "cat", f"{IMAGE}:{variant}", "/opt/bifrost/sbom.cdx.json"
    )  # fmt: skip
    bill = json.loads(said)
    check_bill(bill)
    expect(
        True,
        f"{variant}: {len(bill['components'])} packages in the bill of materials, valid CycloneDX {bill['specVersion']}",
    )
    return len(bill["components"])


def in_folder(work: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """Do a work in a folder of its own; folder and container go when it ends."""
    folder = Path(tempfile.mkdtemp(prefix="bifrost-image-"))
    try:
        return work(folder)
    finally:
        podman("rm", "--force", NAME, check=False)
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    """Build, run, write down."""
    installed()
    base = base_image()
    figures: dict[str, Any] = {}
    for variant in ("edge", "all"):
        figures[variant] = {} if "--built" in sys.argv else made(variant, base)
        figures[variant] |= facts_of(variant, base) | {"bill_of_materials": bill_of(variant)}
        print(f"{variant}: {figures[variant]}", flush=True)
        expect(figures[variant]["own_mb"] <= _LARGEST[variant], f"{figures[variant]['own_mb']} MB on top of the base")
    podman("tag", f"{IMAGE}:all", f"{IMAGE}:latest")
    figures["edge"]["run"] = in_folder(lambda folder: asyncio.run(run_edge(folder)))
    figures["run"] = in_folder(lambda folder: asyncio.run(run(folder)))
    figures["demo"] = in_folder(run_demo)
    figures["pod"] = in_folder(lambda folder: asyncio.run(played.run(f"{IMAGE}:all", folder)))
    print(evidence.record("image", figures | {"conditions": evidence.conditions(["pyarrow", "deltalake"])}))


if __name__ == "__main__":
    try:
        main()
    except Failed as failed:
        sys.exit(f"failed: {failed}")
