"""OPC UA: a server of asyncua in a thread of its own, subscribed to and polled; and node-opcua, which is not our library."""

import abc
import asyncio
import atexit
import functools
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
from asyncua import ua
from asyncua.common.utils import Buffer
from asyncua.ua.ua_binary import nodeid_from_binary, struct_from_binary
from typing_extensions import override

from connectors.settings import SourceConfig
from connectors.sources.opcua import OpcUaConfig
from normalization.reading import ValueType
from tests.connectors.sources.opcua.conftest import MACHINE, PlantServer
from tests.connectors.sources.opcua.test_opcua_interop import COUNTERPART, NodeServer
from tests.contract.device import NUMBER, Device, Known, Provider
from tests.contract.relay import Relay
from tests.ports import free_port

(MARK,) = struct.unpack(
    "<d", b"\xff\xff\xff\x7f\x40\x67\xb2\x40"
)  # about 4711.25; as a length it is longer than any message
_PUBLISH_REQUEST, _HEADER = 826, 24


def publish_requests(sent: bytes) -> list[ua.PublishRequest]:
    """The PublishRequests in what a client sent in clear (OPC 10000-6 clause 7.1)."""
    found = []
    at = 0
    while len(sent) - at >= 8:
        size = int.from_bytes(sent[at + 4 : at + 8], "little")
        if sent[at : at + 4] == b"MSGF":
            body = Buffer(bytes(sent[at + _HEADER : at + size]))
            if nodeid_from_binary(body).Identifier == _PUBLISH_REQUEST:
                request = ua.PublishRequest()
                request.RequestHeader = struct_from_binary(ua.RequestHeader, body)
                request.Parameters = struct_from_binary(ua.PublishParameters, body)
                found.append(request)
        at += size
    return found


class Server(abc.ABC):
    """What both servers have in common; `nodes` gives the node id of each tag."""

    scheme = "opc.tcp"
    patience: ClassVar[dict[str, Any]] = {"timeout": 30.0}
    nodes: ClassVar[dict[str, str]]
    known: ClassVar[list[Known]]
    path = ""

    def __init__(self, relay: Relay, mode: str) -> None:
        self.relay = relay
        self.pushes = mode == "subscription"
        self._mode = mode

    def config(self, **settings: Any) -> SourceConfig:
        own = {
            "name": "source",
            "endpoint": f"opc.tcp://127.0.0.1:{self.relay.port}{self.path}",
            "mode": self._mode,
            "publishing_interval": 0.02,
            "sampling_interval": 0,
            "polling_interval": 0.02,
            "queue_size": 10_000,
            "timeout": 2.0,
            "keep_alive_interval": 0.5,
            "nodes": [{"id": node, "tag_name": name} for name, node in self.nodes.items()],
        }
        return OpcUaConfig.model_validate(own | settings)

    async def welcome(self) -> None:
        await asyncio.sleep(0)

    @abc.abstractmethod
    async def show(self, number: int) -> None: ...

    @abc.abstractmethod
    def _mark(self, value: float) -> None:
        """Set the value that `corrupt` looks for."""

    async def corrupt(self) -> bytes:
        done = asyncio.Event()
        mark = struct.pack("<Bd", 11, MARK)

        def lie(data: bytes) -> bytes:
            """The mark becomes a ByteString (which is how a reserved type is read) that has no end."""
            if mark not in data:
                return data
            done.set()
            self.relay.alter = lambda data: data
            return data.replace(mark, b"\x3f" + mark[1:])

        self.relay.alter = lie
        await asyncio.to_thread(self._mark, MARK)
        await asyncio.wait_for(done.wait(), 5)
        return mark[1:]

    def acknowledged(self) -> int | None:
        if not self.pushes:
            return None
        requests = publish_requests(bytes(self.relay.sent))
        return sum(len(request.Parameters.SubscriptionAcknowledgements) for request in requests)

    def login(self, password: str) -> dict[str, Any] | None:
        return {"username": "operator", "password": password, "trust": "all", "allow_clear_password": True}

    def wrong(self) -> tuple[dict[str, Any], str]:
        nodes = [self.nodes["double"], self.nodes["double"] + "absent"]
        return {"nodes": nodes}, nodes[1]


class Asyncua(Server):
    nodes: ClassVar[dict[str, str]] = {
        name: f"nsu={MACHINE};s={node}"
        for name, node in {
            "double": "Temperature",
            "integer": "Speed",
            "unsigned": "Total",
            "boolean": "Enabled",
            "text": "Order",
            "array": "Profile",
            "matrix": "Matrix",
            "bytes": "Blob",
            "time": "Stamp",
        }.items()
    } | {NUMBER: "nsu=http://plant.test/ns;s=Load"}
    known: ClassVar[list[Known]] = [
        Known("double", ValueType.DOUBLE, 20.5),
        Known("integer", ValueType.INT64, 1500),
        Known("unsigned", ValueType.UINT64, 2**63 + 5),
        Known("boolean", ValueType.BOOLEAN, True),
        Known("text", ValueType.TEXT, "A-4711 ü"),
        Known("array", ValueType.JSON, [1.0, 2.0, 3.0]),
        Known("matrix", ValueType.JSON, [[1, 2], [3, 4]]),
        Known("bytes", ValueType.BYTES, b"\x00\xff"),
        Known("time", ValueType.TEXT, "2025-03-04T05:06:07Z"),
    ]
    path = "/plant"

    def __init__(self, relay: Relay, mode: str, server: PlantServer) -> None:
        super().__init__(relay, mode)
        self._server = server

    @override
    async def show(self, number: int) -> None:
        await asyncio.to_thread(self._server.write, "Load", float(number), ua.VariantType.Double)

    @override
    def _mark(self, value: float) -> None:
        self._server.write("Load", value, ua.VariantType.Double)


class NodeOpcua(Server):
    nodes: ClassVar[dict[str, str]] = {
        name: f"ns=1;s={node}"
        for name, node in {
            "double": "Double",
            "unsigned": "UInt64",
            "boolean": "Flag",
            "text": "Text",
            "array": "Array",
            "matrix": "Matrix",
            "structure": "Job",
            NUMBER: "Int32",
        }.items()
    }
    known: ClassVar[list[Known]] = [
        Known("double", ValueType.DOUBLE, 1.5),
        Known("unsigned", ValueType.UINT64, 2**63 + 5),
        Known("boolean", ValueType.BOOLEAN, True),
        Known("text", ValueType.TEXT, "grün"),
        Known("array", ValueType.JSON, [1.0, 2.0, 3.0]),
        Known("matrix", ValueType.JSON, [[1, 2, 3], [4, 5, 6]]),
        Known(
            "structure",
            ValueType.JSON,
            {
                "Order": "A-1",
                "Target": {"X": 1, "Y": 2},
                "Path": [{"X": 3, "Y": 4}, {"X": 5, "Y": 6}],
                "State": 2,
                "Count": 9,
            },
        ),
    ]
    path = "/lab"

    def __init__(self, relay: Relay, mode: str, server: NodeServer) -> None:
        super().__init__(relay, mode)
        self._server = server

    @override
    async def show(self, number: int) -> None:
        self._server.command(set=["Int32", number])
        await asyncio.sleep(0.06)  # it samples every 50 ms: what comes faster was never there

    @override
    def _mark(self, value: float) -> None:
        self._server.command(set=["Double", value])


@functools.cache
def plant() -> PlantServer:
    """The server, which ends with the tests."""
    server = PlantServer(free_port()).start()
    atexit.register(server.stop)
    return server


@functools.cache
def node_server() -> NodeServer:
    """The program, which ends with the tests."""
    subprocess.run(["/bin/sh", str(COUNTERPART / "install.sh")], check=True, timeout=300, stdout=sys.stderr)
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    server = NodeServer(Path(folder.name))
    atexit.register(server.kill)
    return server


@asynccontextmanager
async def asyncua(_: Path, *, mode: str) -> AsyncIterator[Device]:
    server = await asyncio.to_thread(plant)
    async with Relay(server.port) as relay:
        device = Asyncua(relay, mode, server)
        await device.show(0)
        yield device


@asynccontextmanager
async def node(_: Path) -> AsyncIterator[Device]:
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node is not installed")
    server = await asyncio.to_thread(node_server)
    async with Relay(server.port) as relay:
        device = NodeOpcua(relay, "subscription", server)
        server.command(set=["Double", 1.5])
        await device.show(0)
        yield device


PROVIDERS = [
    Provider("opcua", "opcua, subscription", partial(asyncua, mode="subscription")),
    Provider("opcua", "opcua, polling", partial(asyncua, mode="polling")),
    Provider("opcua", "opcua, node-opcua", node),
]
