"""An OPC UA server of asyncua in a thread, and what starts a reader against it."""

import asyncio
import contextlib
import datetime
import threading
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from asyncua import Server, ua
from asyncua.common.structures104 import new_enum, new_struct, new_struct_field
from asyncua.crypto.cert_gen import setup_self_signed_certificate
from asyncua.crypto.permission_rules import SimpleRoleRuleset
from asyncua.server.user_managers import User, UserRole
from cryptography.x509.oid import ExtendedKeyUsageOID

from connectors.contract import Context
from connectors.sources.opcua import OpcUaConfig
from connectors.sources.opcua.reader import OpcUaReader
from tests.ports import free_port
from tests.recording_intake import RecordingIntake

PLANT = "http://plant.test/ns"
MACHINE = "http://machine.test/ns"
SERVER_URI = "urn:plant.test:server"
PRODUCT_URI = "urn:plant.test:product"  # what a reader knows of asyncua's own server does not hold


class _Users:
    def get_user(self, iserver: Any, username: Any = None, password: Any = None, certificate: Any = None) -> Any:
        if username is None:
            return User(role=UserRole.User)
        known = (username, password) == ("operator", "correct")
        return User(role=UserRole.User, name=username) if known else None


class PlantServer:
    """A server that is driven from the test: `call` runs a coroutine on its loop, `write` sets a value."""

    def __init__(
        self, port: int, certificates: Path | None = None, *, types: bool = False, swapped: bool = False
    ) -> None:
        self.port = port
        self.endpoint = f"opc.tcp://127.0.0.1:{port}/plant"
        self._certificates = certificates
        self._types = types  # asyncua keeps types in one registry, so one server of a process can have them
        self._swapped = swapped  # namespaces in another order
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.server: Server
        self.nodes: dict[str, Any] = {}

    def call(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def start(self) -> "PlantServer":
        self._thread.start()
        self.call(self._start())
        return self

    def stop(self) -> None:
        if self._thread.is_alive():
            self.call(self.server.stop())
            self.call(self._drain())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10)
            self._loop.close()

    async def _drain(self) -> None:
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def write(self, name: str, value: Any, kind: ua.VariantType | None = None, **more: Any) -> None:
        """Set a value; `more` goes into the DataValue."""
        data = ua.DataValue(ua.Variant(value, kind) if value is not None else ua.Variant(), **more)
        self.call(self.server.write_attribute_value(self.nodes[name].nodeid, data))

    async def _start(self) -> None:
        self.server = server = Server(user_manager=_Users())
        server.product_uri = PRODUCT_URI
        await server.init()
        server.set_endpoint(self.endpoint)
        await server.set_application_uri(SERVER_URI)
        policies = [ua.SecurityPolicyType.NoSecurity]
        if self._certificates is not None:
            key, certificate = self._certificates / "key.pem", self._certificates / "certificate.der"
            usage = [ExtendedKeyUsageOID.SERVER_AUTH]
            await setup_self_signed_certificate(key, certificate, SERVER_URI, "localhost", usage, {})
            await server.load_certificate(str(certificate))
            await server.load_private_key(str(key))
            policies += [ua.SecurityPolicyType.Basic256Sha256_Sign, ua.SecurityPolicyType.Basic256Sha256_SignAndEncrypt]
        server.set_security_policy(policies, permission_ruleset=SimpleRoleRuleset())
        for uri in (MACHINE, PLANT) if self._swapped else (PLANT, MACHINE):
            await server.register_namespace(uri)
        await self._fill(server)
        await server.start()

    async def _fill(self, server: Server) -> None:
        plant = await server.get_namespace_index(PLANT)
        machine = await server.get_namespace_index(MACHINE)
        hall = await server.nodes.objects.add_object(ua.NodeId("Hall", plant), f"{plant}:Hall")
        press = await hall.add_object(ua.NodeId("Press", machine), f"{machine}:Press 1")
        hidden = await hall.add_object(ua.NodeId("Diagnostics", plant), f"{plant}:Diagnostics")
        stamp = datetime.datetime(2025, 3, 4, 5, 6, 7, tzinfo=datetime.UTC)
        values: list[tuple[Any, str, Any, ua.VariantType]] = [
            (press, "Temperature", 20.5, ua.VariantType.Double),
            (press, "Speed", 1500, ua.VariantType.Int32),
            (press, "Total", 2**63 + 5, ua.VariantType.UInt64),
            (press, "Enabled", True, ua.VariantType.Boolean),
            (press, "Order", "A-4711 ü", ua.VariantType.String),
            (press, "Profile", [1.0, 2.0, 3.0], ua.VariantType.Double),
            (press, "Matrix", [[1, 2], [3, 4]], ua.VariantType.Int16),
            (press, "Blob", b"\x00\xff", ua.VariantType.ByteString),
            (press, "Stamp", stamp, ua.VariantType.DateTime),
            (press, "Text", ua.LocalizedText("läuft", "de"), ua.VariantType.LocalizedText),
            (hidden, "Load", 0.5, ua.VariantType.Double),
        ]
        for parent, name, value, kind in values:
            index = parent.nodeid.NamespaceIndex
            node = await parent.add_variable(ua.NodeId(name, index), f"{index}:{name}", value, kind)
            self.nodes[name] = node
        unit = ua.EUInformation("http://www.opcfoundation.org/UA/units/un/cefact", 4408652, ua.LocalizedText("°C"))
        await self.nodes["Temperature"].add_property(ua.NodeId("Unit", machine), "0:EngineeringUnits", unit)
        if self._types:
            await self._fill_types(server, plant, machine, press)

    async def _fill_types(self, server: Server, plant: int, machine: int, press: Any) -> None:
        point = (
            await new_struct(
                server,
                plant,
                "PlantPoint",
                [new_struct_field("x", ua.VariantType.Double), new_struct_field("label", ua.VariantType.String)],
            )
        )[0]
        await new_struct(
            server,
            plant,
            "PlantJob",
            [
                new_struct_field("order", ua.VariantType.Int32),
                new_struct_field("at", point),
                new_struct_field("path", point, array=True),
                new_struct_field("note", ua.VariantType.String, optional=True),
            ],
        )
        state = await new_enum(server, plant, "PlantState", ["Stopped", "Running", "Fault"])
        types = await server.load_data_type_definitions()
        job = types["PlantJob"](order=7, at=types["PlantPoint"](1.5, "a"), path=[types["PlantPoint"](2.5, "b")])
        index = f"{machine}:Job"
        self.nodes["Job"] = await press.add_variable(
            ua.NodeId("Job", machine), index, job, ua.VariantType.ExtensionObject
        )
        self.nodes["State"] = await press.add_variable(
            ua.NodeId("State", machine), f"{machine}:State", 1, ua.VariantType.Int32, state.nodeid
        )

    def limit(self, reads: int, browses: int, items: int) -> None:
        """State operation limits, and refuse requests that exceed them."""
        for name, value in (
            ("MaxNodesPerRead", reads),
            ("MaxNodesPerBrowse", browses),
            ("MaxMonitoredItemsPerCall", items),
        ):
            node = getattr(ua.ObjectIds, f"Server_ServerCapabilities_OperationLimits_{name}")
            self.call(
                self.server.write_attribute_value(
                    ua.NodeId(node), ua.DataValue(ua.Variant(value, ua.VariantType.UInt32))
                )
            )


@pytest.fixture(scope="session")
def plant() -> Iterator[PlantServer]:
    server = PlantServer(free_port(), types=True).start()
    yield server
    server.stop()


class Relay:
    """Passes everything on to a server and keeps what the client sent; with `flowing` cleared it goes silent."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._tasks: set[asyncio.Task[Any]] = set()
        self.sent = bytearray()
        self.flowing = asyncio.Event()
        self.flowing.set()

    async def __aenter__(self) -> "Relay":
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        self.endpoint = f"opc.tcp://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/plant"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tasks.add(asyncio.current_task())
        up, down = await asyncio.open_connection("127.0.0.1", self._port)

        async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter, kept: bytearray) -> None:
            while data := await source.read(65536):
                kept += data
                await self.flowing.wait()
                target.write(data)
            target.close()

        try:
            await asyncio.gather(pump(reader, down, self.sent), pump(up, writer, bytearray()), return_exceptions=True)
        finally:
            for side in (writer, down):
                side.transport.abort()


class Reading:
    """A reader that runs in the background of a test."""

    def __init__(self, config: OpcUaConfig, directory: Path, intake: RecordingIntake | None = None) -> None:
        self.config = config
        self.intake = intake or RecordingIntake()
        self.reader = OpcUaReader(config, Context("test-gateway", directory))
        self.task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> RecordingIntake:
        self.start()
        return self.intake

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def start(self, state: bytes | None = None) -> "asyncio.Task[None]":
        self.task = asyncio.get_running_loop().create_task(self.reader.run(self.intake, state))
        # A reader that fails wakes who waits for readings.
        self.task.add_done_callback(lambda _: self.intake._changed.set())
        return self.task

    async def stop(self) -> None:
        if self.task is not None:
            failed = self.task.done() and not self.task.cancelled()
            self.task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self.task if not failed else await asyncio.sleep(0)


def source(endpoint: str, **more: Any) -> OpcUaConfig:
    given = {"name": "plant", "endpoint": endpoint, "publishing_interval": 0.05, "sampling_interval": 0, **more}
    return OpcUaConfig.model_validate(given)
