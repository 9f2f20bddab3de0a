"""One session with one server: its namespaces and limits, and requests in batches that it takes."""

import asyncio
import contextlib
import datetime
import logging
import struct
import time
from collections.abc import Sequence
from typing import Any, Final

from asyncua import ua
from asyncua.common.shortcuts import Shortcuts
from asyncua.ua.attribute_ids import AttributeIds
from asyncua.ua.object_ids import ObjectIds
from asyncua.ua.status_codes import StatusCodes
from asyncua.ua.uaerrors import UaError

from connectors.contract import Context
from connectors.sources.opcua.binary import response_header
from connectors.sources.opcua.channel import READ_REQUEST
from connectors.sources.opcua.config import OpcUaConfig
from connectors.sources.opcua.handshake import Handshake
from connectors.sources.opcua.limits import OperationLimits
from connectors.sources.opcua.security import ServerRefusedError

_log = logging.getLogger(__name__)

_AHEAD: Final = "server_clock_ahead_seconds"
_MUCH: Final = 5.0  # seconds between two clocks
_CLOSING: Final = 0.5  # seconds for the server to take leave
# asyncua's server says yes to a transfer, and goes on to answer the requests of the old session only
_FORGETFUL: Final = {"urn:freeopcua.github.io:python:server"}

_NONSENSE: Final = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    struct.error,
)  # of asyncua, over a strange answer


class Session(Handshake):
    """One session with one server, used once: a lost connection is a new `Session`.

    Args:
        config: The source.
        context: Where its certificates lie.
        endpoint: URL of the server, instead of the source's first one.

    Attributes:
        namespaces: URIs of the server's namespaces, by index.
        server_name: URI of the server; None when it has none.
        started, started_at: When the server was started, as it says, and in µs since the epoch; empty and 0 when it does not.
        hands_over: Whether a subscription that the server hands over can be expected to go on.
        limits: How many nodes it takes in one request.
    """

    def __init__(self, config: OpcUaConfig, context: Context, endpoint: str | None = None) -> None:
        super().__init__(config, context, endpoint)
        self.nodes = Shortcuts(self.uaclient.session)
        self.namespaces: list[str] = []
        self.server_name: str | None = None
        self.started, self.started_at = "", 0
        self.hands_over = True
        self.limits = OperationLimits(self.directory)

    async def open(self) -> None:
        """Connect, check the server, log in, and learn its namespaces and limits.

        Raises:
            ServerRefusedError: It does not offer what is configured, or refuses certificate or user.
            UntrustedServerError: Its certificate is not accepted.
            CertificateError: A certificate or key of our own cannot be used.
            ConnectionError: It cannot be reached, or is no server; the message begins with the endpoint.
        """
        endpoint = self.endpoint
        try:
            await self.log_in()
            self._start_renew_loop()
            if self._renew_channel_task is not None:  # a failure shows in the next request, too
                self._renew_channel_task.add_done_callback(lambda task: task.cancelled() or task.exception())
            await self._learn()
        except TimeoutError:
            msg = f"{endpoint}: no answer within {self.config.timeout:g} s"
            raise ConnectionError(msg) from None
        except (OSError, UaError) as error:
            channel = self.uaclient.channel
            reason = channel.failure if channel is not None else ""
            msg = f"{endpoint}: {reason or str(error) or type(error).__name__}"
            raise ConnectionError(msg) from error
        except _NONSENSE as error:
            msg = f"{endpoint}: what the server answers makes no sense: {error}"
            raise ConnectionError(msg) from error

    async def close(self, *, keep_subscriptions: bool = False, keep_session: bool = False) -> None:
        """Close session and connection; never raises, and takes half a second at most.

        Args:
            keep_subscriptions: The server keeps them, for as long as they live without a client.
            keep_session: The session stays open until it times out: some servers hand a subscription over from one only.
        """
        protocol = self.uaclient.protocol
        transport = protocol.transport if protocol is not None else None
        self.uaclient.request_disconnect()
        self.uaclient.pre_request_hook = None
        await self._cancel_task(self._renew_channel_task)
        with contextlib.suppress(Exception):
            if transport is not None and not keep_session:
                async with asyncio.timeout(_CLOSING):
                    await self.uaclient.close_session(not keep_subscriptions)
                    await self.close_secure_channel()
        self.disconnect_socket()
        if transport is not None:
            transport.abort()  # a peer that is gone would keep what is not sent yet, and the socket, for minutes
            await asyncio.sleep(0)

    async def _learn(self) -> None:
        wanted = (
            ObjectIds.Server_NamespaceArray,
            ObjectIds.Server_ServerArray,
            ObjectIds.Server_ServerCapabilities_OperationLimits_MaxNodesPerRead,
            ObjectIds.Server_ServerCapabilities_OperationLimits_MaxNodesPerBrowse,
            ObjectIds.Server_ServerCapabilities_OperationLimits_MaxMonitoredItemsPerCall,
            ObjectIds.Server_ServerCapabilities_OperationLimits_MaxNodesPerHistoryReadData,
            ObjectIds.Server_ServerStatus_StartTime,
            ObjectIds.Server_ServerStatus_BuildInfo_ProductUri,
        )
        values = [await self.read_attributes_of([node_id(i)], AttributeIds.Value) for i in wanted]
        namespaces, servers, reads, browses, items, histories, started, product = (
            value[0].Value.Value if value[0].Value is not None and not _status(value[0]) & 0xC0000000 else None
            for value in values
        )
        if not isinstance(namespaces, list):
            msg = "the server does not say its namespaces"
            raise ServerRefusedError(msg)
        self.namespaces = namespaces
        self.server_name = servers[0] if isinstance(servers, list) and servers and servers[0] else None
        server = f"{self.server_name or self.endpoint} {product}"
        self.limits.stated(server, read=reads, browse=browses, items=items, history=histories)
        self.hands_over = product not in _FORGETFUL
        if isinstance(started, datetime.datetime):
            self.started, self.started_at = started.isoformat(), int(started.timestamp() * 1e6)

    async def compare_clocks(self) -> None:
        """Measure how far the server's clock is ahead of ours; say so when that is much."""
        before = time.time()
        node = node_id(ObjectIds.Server_ServerStatus_CurrentTime)
        (answer,) = await self.read_attributes_of([node], AttributeIds.Value)
        said = answer.Value.Value if answer.Value is not None else None
        if not isinstance(said, datetime.datetime):
            return
        ahead = said.replace(tzinfo=said.tzinfo or datetime.UTC).timestamp() - (before + time.time()) / 2
        much, was = abs(ahead) > _MUCH, abs(self.measures.get(_AHEAD, 0.0)) > _MUCH
        self.measures[_AHEAD] = ahead
        if much and not was:
            way = "ahead of" if ahead > 0 else "behind"
            _log.warning("source %s: the server's clock is %.1f s %s ours", self.config.name, abs(ahead), way)

    async def prove(self, wait: float) -> None:
        """Read the server's state, to prove the connection.

        Args:
            wait: Seconds for an answer.

        Raises:
            ConnectionError: No answer came in time, or the server says that it is going down.
        """
        node = node_id(ObjectIds.Server_ServerStatus_State)
        try:
            async with asyncio.timeout(wait):
                answer = await self.read_attributes_of([node], AttributeIds.Value)
        except TimeoutError:
            msg = f"the server did not answer within {wait:g} s"
            raise ConnectionError(msg) from None
        state = answer[0].Value.Value if answer and answer[0].Value is not None else None
        if state == ua.ServerState.Shutdown:
            msg = "the server says that it is shutting down"
            raise ConnectionError(msg)

    async def request(self, request: Any, wait: float | None = None) -> tuple[bytes, int]:
        """Send a request and give the answer's bytes, and where its header ends; a wait of 0 has no end.

        Raises:
            ua.UaStatusCodeError: The server answered with an error.
            ConnectionError: The connection is lost.
        """
        data = bytes(await self.channel.send_request(request, wait))
        _, status, pos = response_header(data)
        ua.StatusCode(ua.UInt32(status)).check()
        return data, pos

    async def read(self, parameters: bytes) -> tuple[bytes, int]:
        """Send a ReadRequest whose parameters are encoded already; see `request`.

        Raises:
            TimeoutError: No answer came in time.
            ua.UaStatusCodeError: The server answered with an error.
            ConnectionError: The connection is lost.
        """
        (answer,) = self.channel.send(READ_REQUEST, [parameters], self.config.timeout)
        async with asyncio.timeout(self.config.timeout):
            data = await answer
        _, status, pos = response_header(data)
        ua.StatusCode(ua.UInt32(status)).check()
        return data, pos

    async def read_attributes_of(self, nodes: Sequence[ua.NodeId], attribute: AttributeIds) -> list[ua.DataValue]:
        """One attribute of many nodes, in as many requests as the server's limit makes."""
        return await self.limits.ask("read", nodes, lambda part: self.uaclient.read_attributes(list(part), attribute))

    async def references(
        self,
        nodes: Sequence[ua.NodeId],
        reference: int = ObjectIds.HierarchicalReferences,
        direction: ua.BrowseDirection = ua.BrowseDirection.Forward,
        classes: int = 0,
    ) -> list[list[ua.ReferenceDescription]]:
        """The references of many nodes, with as many requests and continuations as the server makes necessary."""
        mask = ua.BrowseResultMask.ReferenceTypeId | ua.BrowseResultMask.NodeClass | ua.BrowseResultMask.BrowseName

        async def browse(part: Sequence[ua.NodeId]) -> list[list[ua.ReferenceDescription]]:
            found: list[list[ua.ReferenceDescription]] = []
            asked = [
                ua.BrowseDescription(
                    NodeId=node,
                    BrowseDirection=direction,
                    ReferenceTypeId=node_id(reference),
                    IncludeSubtypes=True,
                    NodeClassMask=ua.UInt32(classes),
                    ResultMask=mask,
                )
                for node in part
            ]
            results = await self.uaclient.browse(ua.BrowseParameters(View=ua.ViewDescription(), NodesToBrowse=asked))
            for description, result in zip(asked, results, strict=True):
                answer = result
                if _status(result) == StatusCodes.BadNoContinuationPoints:  # those before it have given theirs back
                    again = ua.BrowseParameters(View=ua.ViewDescription(), NodesToBrowse=[description])
                    (answer,) = await self.uaclient.browse(again)
                references = list(answer.References or [])
                more = answer.ContinuationPoint
                while more:
                    (next_result,) = await self.uaclient.browse_next(ua.BrowseNextParameters(ContinuationPoints=[more]))
                    references += next_result.References or []
                    more = next_result.ContinuationPoint
                found.append(references)
            return found

        return await self.limits.ask("browse", nodes, browse)


def node_id(identifier: Any, namespace: int = 0) -> ua.NodeId:
    """Asyncua's node id of plain values."""
    return ua.NodeId(identifier, ua.Int16(namespace))


def plain_id(node: ua.NodeId) -> ua.NodeId:
    """The node id alone, of one that may name a namespace's URI or another server, too."""
    return ua.NodeId(node.Identifier, node.NamespaceIndex, node.NodeIdType)


def _status(value: ua.DataValue | ua.BrowseResult) -> int:
    return int(value.StatusCode.value) if value.StatusCode is not None else 0


def batches(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    """`items` in parts of `size` at most."""
    return [items[at : at + size] for at in range(0, len(items), size)]
