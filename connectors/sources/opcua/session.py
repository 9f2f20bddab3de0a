"""The connection: asyncua's client with bounded messages, checked servers, and passwords that are never sent in clear."""

import asyncio
import contextlib
import datetime
import logging
from collections.abc import Sequence
from typing import Any, Final

from asyncua import ua
from asyncua.client.client import Client
from asyncua.common.shortcuts import Shortcuts
from asyncua.crypto.security_policies import SecurityPolicyBasic256Sha256
from asyncua.ua.attribute_ids import AttributeIds
from asyncua.ua.object_ids import ObjectIds
from asyncua.ua.status_codes import StatusCodes
from asyncua.ua.uaerrors import UaError
from typing_extensions import override

from connectors.contract import Context
from connectors.sources.opcua import security
from connectors.sources.opcua.binary import response_header
from connectors.sources.opcua.channel import CHUNK, POLICY_NONE, READ_REQUEST, Channel, ChannelClient, Limits
from connectors.sources.opcua.config import OpcUaConfig

_log = logging.getLogger(__name__)

_CLOSING: Final = 0.5  # seconds for the server to take leave
_DEFAULT_BATCH: Final = 1_000  # nodes in one request to a server that states no limit
# asyncua's server says yes to a transfer, and goes on to answer the requests of the old session only
_FORGETFUL: Final = {"urn:freeopcua.github.io:python:server"}
_STRONG: Final = {  # policies that may encrypt a password; the older ones use broken padding or hashes
    "http://opcfoundation.org/UA/SecurityPolicy#Basic256Sha256",
    "http://opcfoundation.org/UA/SecurityPolicy#Aes128_Sha256_RsaOaep",
    "http://opcfoundation.org/UA/SecurityPolicy#Aes256_Sha256_RsaPss",
}


class ServerRefusedError(Exception):
    """The server cannot be used as it is configured; the message says why."""


class Session(Client):
    """One session with one server, used once: a lost connection is a new `Session`.

    Args:
        config: The source.
        context: Where its certificates lie.

    Attributes:
        namespaces: URIs of the server's namespaces, by index.
        server_name: URI of the server; None when it has none.
        started: When the server was started; empty when it does not say.
        hands_over: Whether a subscription that the server hands over can be expected to go on.
        max_nodes_per_read, max_nodes_per_browse, max_items_per_call: How many nodes it takes in one request.
    """

    def __init__(self, config: OpcUaConfig, context: Context) -> None:
        super().__init__(config.endpoint, timeout=config.timeout)
        self.config = config
        self.directory = context.directory
        self.name = self.description = f"Bifrost {config.name}"
        self.application_uri = security.application_uri(context.gateway, config.name)
        self.product_uri = "urn:bifrost"
        self.session_timeout = 60_000
        limits = Limits(CHUNK, CHUNK, config.max_chunk_count, config.max_message_size)
        self.uaclient: ChannelClient = ChannelClient(config.timeout, limits)
        self.uaclient.pre_request_hook = self._wait_until_ready
        self.nodes = Shortcuts(self.uaclient.session)
        self.namespaces: list[str] = []
        self.server_name: str | None = None
        self.started = ""
        self.hands_over = True
        self.max_nodes_per_read = self.max_nodes_per_browse = self.max_items_per_call = _DEFAULT_BATCH
        if config.username is not None:
            self.set_user(config.username)
            self.set_password(config.password.get_secret_value() if config.password is not None else "")

    async def open(self) -> None:
        """Connect, check the server, log in, and learn its namespaces and limits.

        Raises:
            ServerRefusedError: It does not offer what is configured, or refuses the user.
            UntrustedServerError: Its certificate is not accepted.
            ConnectionError: It cannot be reached, or is no server; the message begins with the endpoint.
        """
        endpoint = self.config.endpoint
        try:
            await self._open()
        except TimeoutError:
            msg = f"{endpoint}: no answer within {self.config.timeout:g} s"
            raise ConnectionError(msg) from None
        except (OSError, UaError) as error:
            msg = f"{endpoint}: {str(error) or type(error).__name__}"
            raise ConnectionError(msg) from error

    async def _open(self) -> None:
        if self.config.security_policy != "none":
            await self._secure()
        if self._checks_server and (self.config.security_policy != "none" or self.config.username):
            self.certificate_validator = self._validate
        await self.connect_socket()
        await self.send_hello()
        await self.open_secure_channel()
        await self.create_session()
        try:
            await self.activate_session(self._username, self._password)
        except (
            ua.uaerrors.BadIdentityTokenRejected,
            ua.uaerrors.BadUserAccessDenied,
            ua.uaerrors.BadIdentityTokenInvalid,
        ) as error:
            user = f"user {self.config.username}" if self.config.username else "anonymous users"
            msg = f"the server refuses {user} ({type(error).__name__})"
            raise ServerRefusedError(msg) from error
        self._start_renew_loop()
        if self._renew_channel_task is not None:  # a failure shows in the next request, too
            self._renew_channel_task.add_done_callback(lambda task: task.cancelled() or task.exception())
        await self._learn()

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

    @property
    def channel(self) -> Channel:
        """The connection.

        Raises:
            ConnectionError: There is none.
        """
        if self.uaclient.channel is None:
            msg = "the connection is not open"
            raise ConnectionError(msg)
        return self.uaclient.channel

    @property
    def _checks_server(self) -> bool:
        return self.config.trust == "folder"

    async def _secure(self) -> None:
        config = self.config
        now = datetime.datetime.now(datetime.UTC)
        own = await asyncio.to_thread(security.own_certificate, self.directory, self.application_uri, now)
        mode = {
            "sign": ua.MessageSecurityMode.Sign,
            "sign_and_encrypt": ua.MessageSecurityMode.SignAndEncrypt,
        }[config.security_mode]
        endpoints = await self.connect_and_get_server_endpoints()
        wanted = (mode, SecurityPolicyBasic256Sha256.URI)
        endpoint = next((e for e in endpoints if (e.SecurityMode, e.SecurityPolicyUri) == wanted), None)
        if endpoint is None:
            offers = sorted({f"{e.SecurityPolicyUri.rpartition('#')[2]}/{e.SecurityMode.name}" for e in endpoints})
            msg = f"the server does not offer {config.security_policy} with {config.security_mode}, only {', '.join(offers)}"
            raise ServerRefusedError(msg)
        if self._checks_server:
            security.check_server(self.directory, endpoint.ServerCertificate, endpoint.Server.ApplicationUri, now)
        await self.set_security(
            SecurityPolicyBasic256Sha256,
            own.certificate,
            own.key,
            server_certificate=security.leaf(endpoint.ServerCertificate),
            mode=mode,
        )

    async def _validate(self, certificate: Any, application: ua.ApplicationDescription) -> None:
        from cryptography.hazmat.primitives.serialization import Encoding

        now = datetime.datetime.now(datetime.UTC)
        security.check_server(self.directory, certificate.public_bytes(Encoding.DER), application.ApplicationUri, now)

    @override
    def server_policy(self, token_type: ua.UserTokenType) -> ua.UserTokenPolicy:
        """The token policy to log in with; for a password, one that encrypts it."""
        if token_type != ua.UserTokenType.UserName:
            return super().server_policy(token_type)
        channel = self.security_policy.URI
        offered = [policy for policy in self._policy_ids if policy.TokenType == token_type]
        if not offered:
            msg = "the server takes no user names"
            raise ServerRefusedError(msg)
        for policy in offered:
            policy.SecurityPolicyUri = policy.SecurityPolicyUri or channel
        certified = self.security_policy.peer_certificate is not None
        encrypting = [policy for policy in offered if certified and policy.SecurityPolicyUri in _STRONG]
        if encrypting:
            return encrypting[0]
        in_clear = [policy for policy in offered if policy.SecurityPolicyUri == POLICY_NONE]
        encrypted_channel = self.security_policy.Mode == ua.MessageSecurityMode.SignAndEncrypt
        if not in_clear or not (encrypted_channel or self.config.allow_clear_password):
            msg = (
                "the password would travel in clear: use a security_policy, or write allow_clear_password: true"
                if in_clear
                else "the server would have the password encrypted by a broken policy only"
            )
            raise ServerRefusedError(msg)
        return in_clear[0]

    async def _learn(self) -> None:
        wanted = (
            ObjectIds.Server_NamespaceArray,
            ObjectIds.Server_ServerArray,
            ObjectIds.Server_ServerCapabilities_OperationLimits_MaxNodesPerRead,
            ObjectIds.Server_ServerCapabilities_OperationLimits_MaxNodesPerBrowse,
            ObjectIds.Server_ServerCapabilities_OperationLimits_MaxMonitoredItemsPerCall,
            ObjectIds.Server_ServerStatus_StartTime,
            ObjectIds.Server_ServerStatus_BuildInfo_ProductUri,
        )
        values = [await self.read_attributes_of([node_id(i)], AttributeIds.Value) for i in wanted]
        namespaces, servers, reads, browses, items, started, product = (
            value[0].Value.Value if value[0].Value is not None and not _status(value[0]) & 0xC0000000 else None
            for value in values
        )
        if not isinstance(namespaces, list):
            msg = "the server does not say its namespaces"
            raise ServerRefusedError(msg)
        self.namespaces = namespaces
        self.server_name = servers[0] if isinstance(servers, list) and servers and servers[0] else None
        self.max_nodes_per_read = _batch(reads)
        self.max_nodes_per_browse = _batch(browses)
        self.max_items_per_call = _batch(items)
        self.hands_over = product not in _FORGETFUL
        self.started = started.isoformat() if isinstance(started, datetime.datetime) else ""

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
        values: list[ua.DataValue] = []
        for part in batches(nodes, self.max_nodes_per_read):
            values += await self.uaclient.read_attributes(list(part), attribute)
        return values

    async def references(
        self,
        nodes: Sequence[ua.NodeId],
        reference: int = ObjectIds.HierarchicalReferences,
        direction: ua.BrowseDirection = ua.BrowseDirection.Forward,
        classes: int = 0,
    ) -> list[list[ua.ReferenceDescription]]:
        """The references of many nodes, with as many requests and continuations as the server makes necessary."""
        found: list[list[ua.ReferenceDescription]] = []
        mask = ua.BrowseResultMask.ReferenceTypeId | ua.BrowseResultMask.NodeClass | ua.BrowseResultMask.BrowseName
        for part in batches(nodes, self.max_nodes_per_browse):
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


def node_id(identifier: Any, namespace: int = 0) -> ua.NodeId:
    """Asyncua's node id of plain values."""
    return ua.NodeId(identifier, ua.Int16(namespace))


def _status(value: ua.DataValue | ua.BrowseResult) -> int:
    return int(value.StatusCode.value) if value.StatusCode is not None else 0


def _batch(limit: object) -> int:
    return min(limit, _DEFAULT_BATCH) if isinstance(limit, int) and limit > 0 else _DEFAULT_BATCH


def batches(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    """`items` in parts of `size` at most."""
    return [items[at : at + size] for at in range(0, len(items), size)]
