"""An OPC UA server for a source of the plant: a folder per source, an object per group, a variable per tag.

Values are set straight in the address space of asyncua's server, which then notifies its subscriptions; a write through the
client API would cost several times as much. Bad readings have status BadSensorFailure and no value; before its first
reading a variable is BadWaitingForInitialData. The first equipment has an enumeration, an array of doubles and a structure
(unless the plant is a ledger). SecurityPolicy None, anonymous. A session is kept for 30 s after its client has gone.

Faults: `drop_connections`, `pause` / `resume`, `set_bad`.
"""

import asyncio
import contextlib
import gc
from collections.abc import Iterator
from datetime import UTC
from typing import Any, Final

from asyncua import ua
from asyncua.common.node import Node
from asyncua.common.structures104 import new_enum, new_struct, new_struct_field
from asyncua.server.server import Server
from asyncua.ua.attribute_ids import AttributeIds
from asyncua.ua.status_codes import StatusCodes

from simulator.ledger import SENT, SERVED, Ledger
from simulator.listen import check
from simulator.pace import Pace
from simulator.plant import STATES, Group, OpcUaNode, Plant, Source, Tag, namespace_uri, value

_TYPES: Final = {
    "bool": ua.VariantType.Boolean,
    "int32": ua.VariantType.Int32,
    "int64": ua.VariantType.Int64,
    "uint64": ua.VariantType.UInt64,
    "float32": ua.VariantType.Float,
    "float64": ua.VariantType.Double,
    "string": ua.VariantType.String,
    "enum": ua.VariantType.Int32,
    "float64[]": ua.VariantType.Double,
    "structure": ua.VariantType.ExtensionObject,
}
_LONGEST_SESSION: Final = 30_000  # ms; the subscriptions of a client that died cost time until then
_EMPTY: Final = {"bool": False, "string": "", "float32": 0.0, "float64": 0.0, "float64[]": [0.0] * 8}
_BAD: Final = ua.StatusCode(ua.UInt32(StatusCodes.BadSensorFailure))
_WAITING: Final = ua.StatusCode(ua.UInt32(StatusCodes.BadWaitingForInitialData))
_GOOD: Final = ua.StatusCode(ua.UInt32(StatusCodes.Good))
_NULL: Final = ua.Variant(None, ua.VariantType.Null)


class OpcUaServer:
    """Serves one source. Use as ``async with``; `endpoint` is known then.

    Args:
        plant: The plant, for the namespace.
        source: A source with protocol ``opcua``.
        host: Address to listen on.
        port: TCP port; 0 takes a free one.
        ledger: Where to record what was set.
    """

    def __init__(
        self, plant: Plant, source: Source, host: str = "127.0.0.1", port: int = 0, ledger: Ledger | None = None
    ) -> None:
        self.endpoint = ""
        self._plant, self._source, self._host, self._port, self._ledger = plant, source, host, port, ledger
        self._server = Server()
        self._pace = Pace(source, ledger)
        self._attributes: dict[str, list[Any]] = {}
        self._bad: set[str] = set()
        self._structure: Any = None
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "OpcUaServer":
        check(self._host, self._port)
        with _collector_off():
            await self._start()
        self._task = asyncio.create_task(self._pace.run(self._emit))
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self._server.stop()

    def pause(self) -> None:
        """Set no more values; the server goes on answering."""
        self._pace.pause()

    def resume(self) -> None:
        """Go on setting values."""
        self._pace.resume()

    def drop_connections(self) -> None:
        """Close every client's connection; the clients may come back at once."""
        binary = self._server.bserver
        for client in list(binary.clients) if binary is not None else []:
            if client.transport is not None:
                client.transport.abort()

    def set_bad(self, tag_name: str, bad: bool) -> None:
        """Make all readings of the tags of a name bad, or good again. Not for a ledger: a bad reading has no number."""
        (self._bad.add if bad else self._bad.discard)(tag_name)

    async def _start(self) -> None:
        server = self._server
        server.set_endpoint(f"opc.tcp://{self._host}:{self._port}")
        server.set_server_name(f"{self._plant.name} {self._source.name}")
        server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
        server.set_identity_tokens([ua.AnonymousIdentityToken])
        server.iserver.max_session_timeout_ms = _LONGEST_SESSION
        await server.init()
        await server.set_application_uri(f"urn:simulator:{self._plant.name}:{self._source.name}")
        await self._build()
        await server.start()
        binary = server.bserver
        assert binary is not None  # noqa: S101  (start() made it)
        self.endpoint = f"opc.tcp://{self._host}:{binary.port}"
        for described in server.iserver.endpoints:
            described.EndpointUrl = self.endpoint
            described.Server.DiscoveryUrls = [self.endpoint]

    async def _build(self) -> None:
        """Make the nodes, and remember the attribute of each variable's value."""
        server = self._server
        index = await server.register_namespace(namespace_uri(self._plant.name))
        types = {tag.type for tag in self._source.tags()}
        enum_type: Node | None = None
        structure_type: Node | None = None
        if "enum" in types:
            enum_type = await new_enum(server, index, "MachineState", list(STATES))
        if "structure" in types:
            structure_type, _ = await new_struct(
                server,
                index,
                "Recipe",
                [
                    new_struct_field("id", ua.VariantType.UInt32),
                    new_struct_field("name", ua.VariantType.String),
                    new_struct_field("target", ua.VariantType.Double),
                ],
            )
        if enum_type is not None or structure_type is not None:
            await server.load_data_type_definitions()
            self._structure = getattr(ua, "Recipe", None)
        root = await server.nodes.objects.add_folder(
            _node_id(self._source.name, index), ua.QualifiedName(self._source.name, ua.UInt16(index))
        )
        data_types = {"enum": enum_type, "structure": structure_type}
        for group in self._source.groups:
            name = f"{self._source.name}.{group.name}"
            parent = await root.add_object(_node_id(name, index), ua.QualifiedName(group.name, index))
            attributes = []
            for tag in group.tags:
                node = await self._add_variable(parent, index, tag, data_types.get(tag.type))
                attribute = server.iserver.aspace[node.nodeid].attributes[AttributeIds.Value]
                attribute.value = ua.DataValue(_NULL, _WAITING)
                attributes.append(attribute)
            self._attributes[group.name] = attributes

    async def _add_variable(self, parent: Node, index: int, tag: Tag, data_type: Node | None) -> Node:
        assert isinstance(tag.address, OpcUaNode)  # noqa: S101  (by construction of the plant)
        empty = self._structure() if tag.type == "structure" else _EMPTY.get(tag.type, 0)
        node: Node = await parent.add_variable(
            _node_id(f"{self._source.name}.{tag.address.identifier}", index),
            ua.QualifiedName(tag.name, index),
            ua.Variant(empty, _TYPES[tag.type]),
            datatype=data_type.nodeid if data_type is not None else None,
        )
        if tag.unit:
            await node.add_property(
                index,
                "EngineeringUnits",
                ua.EUInformation("", -1, ua.LocalizedText(tag.unit), ua.LocalizedText(tag.unit)),
            )
        return node

    async def _emit(self, group: Group, first: int, n: int, time: int) -> bool:
        stamp = ua.DateTime.fromtimestamp(time // 1_000_000, UTC).replace(microsecond=time % 1_000_000, tzinfo=None)
        connected = self._connected_sessions()
        served: list[int] = []
        sent: list[int] = []
        for number, (tag, attribute) in enumerate(
            zip(group.tags, self._attributes[group.name], strict=True), start=first
        ):
            data = self._data_value(tag, value(tag, n, group.period), stamp)
            attribute.value = data
            monitored = False
            for handle, callback in list(attribute.datachange_callbacks.items()):
                monitored = monitored or callback.__self__.isub.session_id in connected
                await callback(handle, data)
            (served if monitored else sent).append(number)
        if self._ledger is not None:
            self._ledger.append(served, n, SERVED, time)
            self._ledger.append(sent, n, SENT, time)
        return True

    def _connected_sessions(self) -> set[Any]:
        """Ids of the sessions that have a connection: a session outlives its connection until its time-out."""
        binary = self._server.bserver
        processors = [client.processor for client in binary.clients] if binary is not None else []
        return {one.session.session_id for one in processors if one is not None and one.session is not None}

    def _data_value(self, tag: Tag, reading: Any, stamp: ua.DateTime) -> ua.DataValue:
        if reading is None or (self._bad and tag.name in self._bad):
            return ua.DataValue(_NULL, _BAD, stamp, stamp)
        if tag.type == "structure":
            reading = self._structure(**reading)
        return ua.DataValue(ua.Variant(reading, _TYPES[tag.type]), _GOOD, stamp, stamp)


@contextlib.contextmanager
def _collector_off() -> Iterator[None]:
    """The standard address space is a million small objects: with the cyclic collector on, making them takes thrice as long."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _node_id(identifier: str, index: int) -> ua.NodeId:
    return ua.NodeId(ua.String(identifier), ua.Int16(index))
