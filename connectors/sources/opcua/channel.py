"""The secure channel: asyncua's, with bounded messages, and a shorter way for the messages of a subscription.

Where the channel neither signs nor encrypts, a message in one chunk is taken from the bytes received, and not passed through
asyncua's objects. PublishRequests are encoded here, and their answers stay bytes. Everything else, and everything that is not as
it should be, goes asyncua's way.
"""

import asyncio
import contextlib
import logging
import struct
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

from asyncua import ua
from asyncua.client.ua_client import UaClient, UaClientState, UASocketProtocol
from asyncua.common.connection import TransportLimits
from asyncua.common.utils import Buffer, wait_for
from asyncua.ua.ua_binary import nodeid_to_binary, uatcp_to_binary
from asyncua.ua.uaerrors import UaError
from cryptography.exceptions import InvalidSignature
from typing_extensions import override

from connectors.sources.opcua.binary import EPOCH

_log = logging.getLogger(__name__)
_requests_log = logging.getLogger(f"{__name__}.requests")

CHUNK: Final = 65_536
POLICY_NONE: Final = "http://opcfoundation.org/UA/SecurityPolicy#None"
_HEADER: Final = struct.Struct("<4sIIIII")  # message and chunk type, size, channel, token, sequence number, request
_WHOLE: Final = b"MSGF"
PUBLISH_REQUEST: Final = 826  # encoding ids
READ_REQUEST: Final = 631
_PUBLISH_RESPONSE: Final = b"\x01\x00\x3d\x03"
_REQUEST_HEADER: Final = struct.Struct(
    "<qIIiI3x"
)  # time, handle, no diagnostics, no audit entry, time-out, no more header
_ACKNOWLEDGEMENT: Final = struct.Struct("<II")

Acknowledgement = tuple[int, int]
"""Subscription and sequence number."""


class Limits(TransportLimits):
    """What we take is ours to say: asyncua would replace it by what the server answers, 0 for no limit."""

    @override
    def is_msg_size_within_limit(self, sz: int) -> bool:
        if sz > self.max_message_size:
            msg = f"the server sends a message of more than {self.max_message_size} bytes; see max_message_size"
            raise UaError(msg)
        return True

    @override
    def is_chunk_count_within_limit(self, sz: int) -> bool:
        if sz > self.max_chunk_count:
            msg = f"the server sends a message of more than {self.max_chunk_count} chunks; see max_chunk_count"
            raise UaError(msg)
        return True

    @override
    def update_client_limits(self, msg: ua.Acknowledge) -> None:
        self.max_send_buffer = min(self.max_send_buffer, max(msg.ReceiveBufferSize, 8192))


class _Reasons(logging.Logger):
    """Keeps why asyncua gives a connection up, where it would log that with a traceback and say no more than that it is lost."""

    def __init__(self) -> None:
        super().__init__(_requests_log.name)
        self.parent = _requests_log
        self.setLevel(logging.WARNING)  # below it asyncua writes requests out, with the password in the end
        self.failure = ""

    @override
    def exception(self, msg: object, *args: object, **_: Any) -> None:
        self.failure = f"what the server sends makes no sense: {sys.exc_info()[1] or msg}"


class Channel(UASocketProtocol):
    """One connection.

    Args:
        timeout: Seconds for an answer.
        policy: Security policy.
        limits: Of what is taken.

    Attributes:
        stray: Gets PublishResponses to requests that are not open: after a subscription was handed over, some servers answer
            requests of the session before.
    """

    def __init__(self, timeout: float, policy: Any, limits: Limits) -> None:
        super().__init__(timeout, policy, limits)
        self._taken = limits
        self.logger = self._reasons = _Reasons()
        self._plain = policy.URI == POLICY_NONE
        self.stray: Callable[[bytes], None] | None = None
        self._raw: dict[int, asyncio.Future[bytes]] = {}  # requests whose answers stay bytes

    @override
    def data_received(self, data: bytes) -> None:
        if self.receive_buffer:
            data, self.receive_buffer = self.receive_buffer + data, None
        pos = self._take_plain(data) if self._plain else 0
        if pos < len(data):
            self._process_received_data(data[pos:] if pos else data)
        held = self.receive_buffer
        if held and len(held) >= 8 and int.from_bytes(held[4:8], "little") > self._taken.max_recv_buffer:
            self._reasons.failure = f"the server sends a chunk of more than the {CHUNK} bytes that were agreed"
            self.receive_buffer = None
            self.disconnect_socket()

    @property
    def failure(self) -> str:
        """Why we gave the connection up; empty when we did not."""
        return self._reasons.failure

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(ConnectionError(self.failure) if self.failure else exc)
        self.receive_buffer = None
        self._connection._drop_incoming_parts()  # noqa: SLF001 - what a limit has cut off would stay until it is collected

    def _take_plain(self, data: bytes) -> int:
        """Take the messages that are whole and as they should be; returns where the first other one begins."""
        connection = self._connection
        if connection._incoming_parts:  # noqa: SLF001 - asyncua has begun with a message of several chunks
            return 0
        channel, token = connection.security_token.ChannelId, connection.security_token.TokenId
        limit = min(self._taken.max_recv_buffer, self._taken.max_message_size)
        last = connection._peer_sequence_number  # noqa: SLF001
        pos, size = 0, len(data)
        while size - pos >= 24:
            kind, length, its_channel, its_token, number, request = _HEADER.unpack_from(data, pos)
            if (
                kind != _WHOLE
                or (its_channel, its_token) != (channel, token)
                or last is None
                or number != last + 1
                or not 24 <= length <= limit
                or pos + length > size
            ):
                break
            raw = self._raw.pop(request, None)
            if raw is None and request not in self._callbackmap:
                break
            body = data[pos + 24 : pos + length]
            pos += length
            last = connection._peer_sequence_number = number  # noqa: SLF001
            if raw is None:
                self._call_callback(request, Buffer(body))
            elif not raw.done():
                raw.set_result(body)
        return pos

    @override
    def _call_callback(self, request_id: int, body: Any) -> None:
        raw = self._raw.pop(request_id, None)
        if raw is not None:
            if not raw.done():
                raw.set_result(bytes(body))
        elif request_id in self._callbackmap:
            super()._call_callback(request_id, body)
        else:
            data = bytes(body)
            if data[:4] == _PUBLISH_RESPONSE and self.stray is not None:
                self.stray(data)
            else:
                _log.warning("the server answers request %d, which is none of ours that is open", request_id)

    @override
    def _fail_all_pending(self, exc: Exception) -> None:
        super()._fail_all_pending(exc)
        for raw in self._raw.values():
            if not raw.done():
                raw.set_exception(exc)
        self._raw.clear()

    def publish(self, requests: Sequence[Sequence[Acknowledgement]]) -> "list[asyncio.Future[bytes]]":
        """Send PublishRequests (OPC 10000-4 clause 5.14.5), one per list of acknowledgements; see `send`."""
        return self.send(
            PUBLISH_REQUEST,
            [
                b"".join(
                    [len(acknowledged).to_bytes(4, "little"), *(_ACKNOWLEDGEMENT.pack(*one) for one in acknowledged)]
                )
                for acknowledged in requests
            ],
        )

    def send(self, kind: int, parameters: Sequence[bytes], timeout: float = 0) -> "list[asyncio.Future[bytes]]":
        """Send requests whose parameters are encoded already, and give their answers to come.

        Args:
            kind: Encoding id of the requests.
            parameters: What follows the header, of each request.
            timeout: Seconds that the server is told the answer is waited for; 0 for no end.

        Raises:
            ConnectionError: The connection is lost.
        """
        if self.transport is None:
            msg = "the connection is lost"
            raise ConnectionError(msg)
        self.revolve_security_token()
        token = b"\x01\x00" + kind.to_bytes(2, "little") + nodeid_to_binary(self.authentication_token)
        now, hint = EPOCH + time.time_ns() // 100, int(timeout * 1000)
        loop = asyncio.get_running_loop()
        messages, answers = [], []
        for body in parameters:
            self._request_handle += 1
            self._request_id += 1
            header = _REQUEST_HEADER.pack(now, self._request_handle & 0xFFFFFFFF, 0, -1, hint)
            messages.append(self._message(token + header + body))
            self._raw[self._request_id] = answer = loop.create_future()
            answers.append(answer)
        self.transport.write(b"".join(messages))
        return answers

    def _message(self, body: bytes) -> bytes:
        connection = self._connection
        if not self._plain or len(body) + 24 > self._taken.max_send_buffer:
            kind = cast("ua.MessageType", ua.MessageType.SecureMessage)
            return connection.message_to_binary(body, message_type=kind, request_id=self._request_id)
        number = connection._sequence_number + 1 if connection._sequence_number < 0xFFFFFFFF else 1  # noqa: SLF001
        connection._sequence_number = number  # noqa: SLF001
        token = connection.security_token
        return _HEADER.pack(_WHOLE, len(body) + 24, token.ChannelId, token.TokenId, number, self._request_id) + body

    @override
    async def send_hello(self, url: str, max_messagesize: int = 0, max_chunkcount: int = 0) -> ua.Acknowledge:
        limits = self._taken
        hello = ua.Hello(
            ReceiveBufferSize=ua.UInt32(limits.max_recv_buffer),
            SendBufferSize=ua.UInt32(limits.max_send_buffer),
            MaxMessageSize=ua.UInt32(limits.max_message_size),
            MaxChunkCount=ua.UInt32(limits.max_chunk_count),
            EndpointUrl=ua.String(url),
        )
        answer: asyncio.Future[ua.Acknowledge] = asyncio.get_running_loop().create_future()
        self._callbackmap[0] = answer
        if self.transport is None:
            msg = "the connection is not open"
            raise ConnectionError(msg)
        self.transport.write(uatcp_to_binary(cast("ua.MessageType", ua.MessageType.Hello), hello))
        return await wait_for(answer, self.timeout)


class ChannelClient(UaClient):
    """asyncua's services over a `Channel`.

    Args:
        timeout: Seconds for an answer.
        limits: Of what is taken.
    """

    def __init__(self, timeout: float, limits: Limits) -> None:
        super().__init__(timeout)
        self._bounds = limits
        self.channel: Channel | None = None

    @override
    async def connect_socket(self, host: str, port: int) -> None:
        # asyncua uses asyncio.wait_for, which before Python 3.12 loses a cancellation that comes when it is done
        self._set_state(UaClientState.CONNECTING)
        try:
            async with asyncio.timeout(self._timeout):
                await asyncio.get_running_loop().create_connection(self._make_protocol, host, port)
        except BaseException:
            self._set_state(UaClientState.DISCONNECTED)
            raise
        self._set_state(UaClientState.SOCKET_OPEN)

    @override
    async def create_session(self, parameters: ua.CreateSessionParameters) -> ua.CreateSessionResult:
        policy: Any = self.security_policy
        if not policy.host_certificate or not policy.host_certificate_chain:
            return await super().create_session(parameters)
        # the issuers as in the channel: Milo takes neither without the other
        chain = parameters.ClientCertificate = b"".join([policy.host_certificate, *policy.host_certificate_chain])
        result = await super().create_session(parameters)
        with contextlib.suppress(InvalidSignature):  # asyncua looks whether the server signed the certificate alone
            policy.asymmetric_cryptography.verify(chain + parameters.ClientNonce, result.ServerSignature.Signature)
            policy.host_certificate, policy.host_certificate_chain = chain, []  # it signed all, as open62541 does
        return result

    @override
    def _make_protocol(self) -> UASocketProtocol:
        self.protocol = self.channel = channel = Channel(self._timeout, self.security_policy, self._bounds)
        channel.pre_request_hook = self._pre_request_hook
        channel.on_connection_lost = self._on_transport_lost
        channel.is_session_closing = self._is_session_closing
        return channel
