"""The shorter way of messages through the channel, against asyncua's own; and requests and answers in bytes."""

import asyncio
import datetime
import random
import struct
from typing import Any

import pytest
from asyncua import ua
from asyncua.client.ua_client import UASocketProtocol
from asyncua.common.utils import Buffer
from asyncua.crypto.security_policies import SecurityPolicyNone
from asyncua.ua.ua_binary import struct_from_binary, struct_to_binary
from hypothesis import given, settings
from hypothesis import strategies as st
from typing_extensions import override

from connectors.sources.opcua.binary import Malformed, response_header
from connectors.sources.opcua.channel import CHUNK, Channel, Limits
from tests.contract.readers.opcua import publish_requests

LIMITS = (CHUNK, CHUNK, 4, 4_000)  # of chunk sizes, chunks and message size
CHANNEL, TOKEN, FIRST = 7, 13, 100


def opened(protocol: UASocketProtocol) -> UASocketProtocol:
    """As after its secure channel was opened."""
    connection = protocol._connection
    connection.security_token = ua.ChannelSecurityToken(ChannelId=CHANNEL, TokenId=TOKEN)
    connection._peer_sequence_number = FIRST
    connection._open = True
    return protocol


def message(
    body: bytes, request: int, sequence: int, kind: bytes = b"MSGF", channel: int = CHANNEL, token: int = TOKEN
) -> bytes:
    return struct.pack("<4sIIIII", kind, 24 + len(body), channel, token, sequence, request) + body


@st.composite
def streams(draw: Any) -> tuple[list[bytes], list[int]]:
    """What a server sends, in pieces as the network hands them over, and the requests that are open."""
    rng = random.Random(draw(st.integers(0, 2**32)))
    data, sequence, requests = b"", FIRST, []
    for _ in range(draw(st.integers(1, 8))):
        request = len(requests) + 1
        requests.append(request)
        parts = draw(st.sampled_from([1, 1, 1, 2, 5]))
        for part in range(parts):
            sequence += 1 if rng.random() < 0.97 else 2
            kind = b"MSGF" if part == parts - 1 else b"MSGC"
            if rng.random() < 0.03:
                kind = rng.choice([b"MSGA", b"ERRF", b"MSGX"])
            body = rng.randbytes(rng.choice([0, 1, 30, 30, 200, 3_900, 5_000]))
            channel = CHANNEL if rng.random() < 0.97 else CHANNEL + 1
            token = TOKEN if rng.random() < 0.97 else TOKEN + 1
            data += message(body, request, sequence, kind, channel, token)
    if draw(st.integers(0, 9)) == 0:
        data = data[: draw(st.integers(0, len(data)))]
    cuts = sorted({rng.randrange(len(data) + 1) for _ in range(draw(st.integers(0, 6)))} | {0, len(data)})
    return [data[a:b] for a, b in zip(cuts, cuts[1:], strict=False)], requests


def outcome(future: "asyncio.Future[Any]") -> Any:
    if not future.done():
        return "open"
    error = future.exception()
    return type(error).__name__ if error is not None else bytes(future.result())


class Ours(Channel):
    ended = False

    @override
    def disconnect_socket(self) -> None:
        self.ended = True


class Theirs(UASocketProtocol):
    ended = False

    @override
    def disconnect_socket(self) -> None:
        self.ended = True


@given(streams(), st.booleans())
@settings(max_examples=400, deadline=None)
def test_messages_come_out_as_they_do_of_asyncua(stream: tuple[list[bytes], list[int]], raw: bool) -> None:
    pieces, requests = stream

    async def fed() -> tuple[list[Any], list[Any]]:
        loop = asyncio.get_running_loop()
        ours, theirs = (kind(1, SecurityPolicyNone(), Limits(*LIMITS)) for kind in (Ours, Theirs))
        opened(ours)
        opened(theirs)
        expected = {request: loop.create_future() for request in requests}
        found = {request: loop.create_future() for request in requests}
        theirs._callbackmap.update(expected)
        (ours._raw if raw else ours._callbackmap).update(found)
        for piece in pieces:
            for side in (theirs, ours):
                if not side.ended:
                    side.data_received(piece)
        assert ours.ended == theirs.ended
        assert ours.ended or (ours.receive_buffer or b"") == (theirs.receive_buffer or b"")
        assert ours._connection._peer_sequence_number == theirs._connection._peer_sequence_number
        return [outcome(found[request]) for request in requests], [outcome(expected[request]) for request in requests]

    ours, theirs = asyncio.run(fed())
    assert ours == theirs


async def test_an_answer_to_no_open_request_is_said_or_is_a_message_of_a_subscription(caplog):
    channel = opened(Channel(1, SecurityPolicyNone(), Limits(*LIMITS)))
    strays: list[bytes] = []
    channel.stray = strays.append
    publish_response = b"\x01\x00\x3d\x03 and the rest"
    channel.data_received(message(b"what?", 99, FIRST + 1) + message(publish_response, 98, FIRST + 2))
    assert "answers request 99" in caplog.text
    assert strays == [publish_response]


async def test_publish_requests_are_as_the_specification_has_them():
    sent = bytearray()
    got = asyncio.Event()

    async def keep(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            sent.extend(data)
            if len(publish_requests(bytes(sent))) == 3:
                got.set()
        writer.close()

    server = await asyncio.start_server(keep, "127.0.0.1", 0)
    channel = opened(Channel(1, SecurityPolicyNone(), Limits(*LIMITS)))
    assert isinstance(channel, Channel)
    try:
        await asyncio.get_running_loop().create_connection(lambda: channel, *server.sockets[0].getsockname())
        channel.authentication_token = ua.NodeId(b"\x01\x02\x03", 1, ua.NodeIdType.ByteString)
        answers = channel.publish([[(5, 9), (5, 10)], []]) + channel.publish([[]])
        async with asyncio.timeout(5):
            await got.wait()
        requests = publish_requests(bytes(sent))
        acknowledged = [
            [(one.SubscriptionId, one.SequenceNumber) for one in request.Parameters.SubscriptionAcknowledgements]
            for request in requests
        ]
        assert acknowledged == [[(5, 9), (5, 10)], [], []]
        assert {request.RequestHeader.AuthenticationToken for request in requests} == {channel.authentication_token}
        assert [request.RequestHeader.RequestHandle for request in requests] == [1, 2, 3]
        assert {request.RequestHeader.TimeoutHint for request in requests} == {0}
        age = datetime.datetime.now(datetime.UTC) - requests[0].RequestHeader.Timestamp.replace(tzinfo=datetime.UTC)
        assert abs(age) < datetime.timedelta(minutes=1)
        assert channel.transport is not None
        channel.transport.abort()
        async with asyncio.timeout(5):
            done = await asyncio.gather(*answers, return_exceptions=True)
        assert {type(error) for error in done} == {ConnectionError}
        with pytest.raises(ConnectionError):
            channel.publish([[]])
    finally:
        server.close()


HEADERS = st.builds(
    ua.ResponseHeader,
    RequestHandle=st.integers(0, 2**32 - 1),
    ServiceResult=st.sampled_from([0, 0x80780000, 0x80790000]).map(ua.StatusCode),
    ServiceDiagnostics=st.just(ua.DiagnosticInfo()) | st.builds(ua.DiagnosticInfo, AdditionalInfo=st.text(max_size=5)),
    StringTable=st.lists(st.text(max_size=5), max_size=3),
)


@given(HEADERS, st.sampled_from([397, 829, 634]), st.binary(max_size=20))
@settings(max_examples=200)
def test_a_response_header_ends_where_asyncua_says(header: ua.ResponseHeader, kind: int, rest: bytes) -> None:
    data = b"\x01\x00" + kind.to_bytes(2, "little") + struct_to_binary(header) + rest
    buffer = Buffer(data[4:])
    theirs = struct_from_binary(ua.ResponseHeader, buffer)
    assert response_header(data) == (kind, theirs.ServiceResult.value, len(data) - len(buffer))


@given(st.binary(max_size=80))
@settings(max_examples=300)
def test_any_bytes_are_a_response_header_or_refused(data: bytes) -> None:
    try:
        _, status, pos = response_header(data)
    except Malformed:
        return
    assert 0 <= status <= 0xFFFFFFFF
    assert pos <= len(data)
