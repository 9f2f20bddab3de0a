"""What tests of the Sparkplug host share: foreign edge nodes in processes of their own, and the reader at work."""

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

from connectors.sources.mqtt import MqttConfig
from tests.connectors.sources.mqtt_harness import reading
from tests.mosquitto_broker import Broker
from tests.recording_intake import RecordingIntake

_FOLDER = Path(__file__).parents[2] / "counterparts"
_BUILT = _FOLDER.parents[1] / "build" / "counterparts"


class Edge:
    """An edge node; see edge.js and EdgeNode.java for what it can be told, and what it says."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.said: list[str] = []

    async def until(self, line: str, count: int = 1) -> None:
        assert self.process.stdout is not None
        async with asyncio.timeout(30):
            while self.said.count(line) < count:
                read = await self.process.stdout.readline()
                assert read, f"the edge node ended; it said {self.said}"
                self.said.append(read.decode().strip())

    async def tell(self, word: str, argument: Any = None) -> None:
        assert self.process.stdin is not None
        done = self.said.count(f"done {word}")
        line = f"{word} {json.dumps(argument) if argument is not None else ''}".strip()
        self.process.stdin.write(line.encode() + b"\n")
        await self.until(f"done {word}", done + 1)


@asynccontextmanager
async def _started(*command: str) -> AsyncIterator[Edge]:
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    try:
        yield Edge(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def install(name: str) -> None:
    """Install a counterpart where it is missing."""
    subprocess.run(["sh", str(_FOLDER / name / "install.sh")], check=True, timeout=300)


def edge_node(port: int) -> AbstractAsyncContextManager[Edge]:
    """Edge node G/N with device D by sparkplug-client."""
    return _started("node", str(_FOLDER / "sparkplug" / "edge.js"), str(port))


def tahu_node(port: int, *primary_host: str) -> AbstractAsyncContextManager[Edge]:
    """Edge node G/T with device D by Eclipse Tahu."""
    classes = f"{_BUILT}/sparkplug-tahu/classes:{_BUILT}/sparkplug-tahu/lib/*"
    return _started("java", "-Xmx128m", "-XX:+UseSerialGC", "-cp", classes, "EdgeNode", str(port), *primary_host)


def host_config(port: int, sparkplug: dict[str, Any] | None = None, **more: Any) -> MqttConfig:
    settings = {
        "name": "plant",
        "endpoint": f"mqtt://127.0.0.1:{port}",
        "subscriptions": [{"topic": "spBv1.0/#", "format": "sparkplug"}],
        "sparkplug": sparkplug or {},
    }
    return MqttConfig.model_validate(settings | more)


@asynccontextmanager
async def host(
    broker: Broker, intake: RecordingIntake, tmp_path: Path, state: bytes | None = None, **more: Any
) -> AsyncIterator[None]:
    """The reader at work as a host, which stays well."""
    async with reading(host_config(broker.port, **more), intake, tmp_path, state) as task:
        yield
        assert not task.done()
