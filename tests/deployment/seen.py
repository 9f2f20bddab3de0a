"""What the tests of the image look at: whether a gateway answers, what the kernel says of its process, what is in its target."""

import asyncio
import contextlib
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Final

import paho.mqtt.client as mqtt
from deltalake import DeltaTable

from tests.deployment.containers import inspected, podman

SUBSCRIBED: Final = "Sending SUBACK to"  # in the log of mosquitto
_PER_SECOND: Final = 400


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


async def until(holds: Callable[[], bool], what: str, container: str, seconds: float = 90) -> float:
    """Seconds until a condition held."""
    began = time.monotonic()
    while not await asyncio.to_thread(holds):
        if time.monotonic() - began > seconds:
            raise Failed(f"{what}: not within {seconds} s\n{podman('logs', '--tail', '20', container, check=False)}")
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


def process_facts(container: str) -> dict[str, str]:
    """What the kernel says of a container's process."""
    number = inspected("container", container)["State"]["Pid"]
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
