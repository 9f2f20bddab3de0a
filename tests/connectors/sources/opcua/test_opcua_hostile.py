"""What a hostile or broken server can do before there is a session: a clear error, in bounded time and memory."""

import asyncio
import contextlib
import gc
import struct
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from asyncua import ua
from asyncua.common.connection import MessageChunk, SecureConnection, TransportLimits
from asyncua.crypto.security_policies import SecurityPolicyNone
from asyncua.ua.ua_binary import struct_to_binary, uatcp_to_binary

from connectors.contract import Context
from connectors.sources.opcua.channel import CHUNK
from connectors.sources.opcua.security import ServerRefusedError
from connectors.sources.opcua.session import Session
from tests.connectors.sources.opcua.conftest import source

LARGEST = 256 * 1024  # message that the source takes
IN_FLIGHT = 8 * 1024 * 1024  # bytes that the kernel and asyncio hold between the two
CHANNEL, TOKEN = 7, 13
ACKNOWLEDGE = uatcp_to_binary(ua.MessageType.Acknowledge, ua.Acknowledge(0, CHUNK, CHUNK, 0, 0))


class Peer:
    """The server's side of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._connection = SecureConnection(SecurityPolicyNone(), TransportLimits())
        self.sequence = 1
        self.sent = 0

    async def request(self) -> bytes:
        """The next message of the client."""
        head = await self._reader.readexactly(8)
        return head + await self._reader.readexactly(int.from_bytes(head[4:8], "little") - 8)

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()
        self.sent += len(data)

    async def acknowledge(self) -> None:
        assert (await self.request())[:3] == b"HEL"
        await self.send(ACKNOWLEDGE)

    async def open_channel(self) -> None:
        await self.acknowledge()
        assert (await self.request())[:3] == b"OPN"
        token = ua.ChannelSecurityToken(CHANNEL, TOKEN, ua.DateTime.now(), 3_600_000)
        answer = ua.OpenSecureChannelResponse(
            Parameters=ua.OpenSecureChannelResult(0, token, b"0")
        )  # fmt: skip
        kind = ua.MessageType.SecureOpen
        await self.send(self._connection.message_to_binary(struct_to_binary(answer), message_type=kind, request_id=1))

    def message(self, body: bytes, kind: bytes = b"MSGF", request: int = 2, step: int = 1) -> bytes:
        """A chunk, the next in order."""
        self.sequence += step
        return struct.pack("<4sIIIII", kind, 24 + len(body), CHANNEL, TOKEN, self.sequence, request) + body


Play = Callable[[Peer], Awaitable[None]]


@contextlib.asynccontextmanager
async def server(play: Play) -> AsyncIterator[tuple[str, list[Peer]]]:
    """A server that plays its part on each connection, then waits for the client to leave."""
    peers: list[Peer] = []
    gone: list[asyncio.Event] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peers.append(peer := Peer(reader, writer))
        gone.append(ended := asyncio.Event())
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await play(peer)
            await reader.read()
        writer.transport.abort()
        ended.set()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"opc.tcp://127.0.0.1:{listening.sockets[0].getsockname()[1]}/plant", peers
    finally:
        listening.close()
        async with asyncio.timeout(30):
            for ended in gone:
                await ended.wait()


async def nothing(peer: Peer) -> None:
    await peer.request()


async def garbage(peer: Peer) -> None:
    await peer.send(bytes(range(256)) * 4)


async def web_page(peer: Peer) -> None:
    await peer.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")


async def refusal(peer: Peer) -> None:
    await peer.request()
    error = ua.ErrorMessage(ua.StatusCode(ua.StatusCodes.BadTcpServerTooBusy), "come back later")
    await peer.send(uatcp_to_binary(ua.MessageType.Error, error))


async def drops(peer: Peer) -> None:
    """A byte now and then of a message that never ends."""
    await peer.acknowledge()
    await peer.send(b"OPNF" + struct.pack("<I", 60_000))
    while True:
        await peer.send(b"x")
        await asyncio.sleep(0.05)


async def flood_without_a_message(peer: Peer) -> None:
    await peer.request()
    await peer.send(b"ACKF" + struct.pack("<I", 0x7FFFFFFF))
    while True:
        await peer.send(bytes(CHUNK))


async def chunk_that_is_too_large(peer: Peer) -> None:
    await peer.open_channel()
    await peer.request()
    await peer.send(struct.pack("<4sIIIII", b"MSGF", 0x40000000, CHANNEL, TOKEN, 2, 2))
    while True:
        await peer.send(bytes(CHUNK))


async def chunks_without_end(peer: Peer) -> None:
    await peer.open_channel()
    await peer.request()
    while True:
        await peer.send(peer.message(bytes(CHUNK - 24), b"MSGC"))


async def tiny_chunks_without_end(peer: Peer) -> None:
    await peer.open_channel()
    await peer.request()
    while True:
        await peer.send(b"".join(peer.message(b"x", b"MSGC") for _ in range(1000)))


async def chunks_without_end_before_the_channel(peer: Peer) -> None:
    await peer.acknowledge()
    while True:
        await peer.send(peer.message(bytes(CHUNK - 24), b"MSGC"))


async def second_acknowledgements_without_end(peer: Peer) -> None:
    while True:
        await peer.send(ACKNOWLEDGE)


async def wrong_sequence(peer: Peer) -> None:
    await peer.open_channel()
    await peer.request()
    await peer.send(peer.message(b"x", b"MSGC") + peer.message(b"x", step=5))


async def answer_to_another_request(peer: Peer) -> None:
    await peer.open_channel()
    await peer.request()
    await peer.send(peer.message(b"\x01\x00\xd0\x01", request=99))


async def answer_that_makes_no_sense(peer: Peer) -> None:
    await peer.open_channel()
    await peer.request()
    await peer.send(peer.message(b"\x01\x00\xd0\x01" + b"\xff" * 60))


async def list_without_end(peer: Peer) -> None:
    """A response that says that a list of four milliard endpoints follows."""
    await peer.open_channel()
    await peer.request()
    header = struct_to_binary(ua.ResponseHeader())
    await peer.send(peer.message(b"\x01\x00\xaf\x01" + header + b"\xff\xff\xff\x7f" + bytes(100)))


NONSENSE = "what the server sends makes no sense"
TOO_LARGE = "a chunk of more than the 65536 bytes that were agreed"
PLAYS = [
    (nothing, "no answer within 1 s"),
    (garbage, TOO_LARGE),
    (web_page, TOO_LARGE),
    (refusal, "BadTcpServerTooBusy"),
    (drops, "no answer within 1 s"),
    (flood_without_a_message, TOO_LARGE),
    (chunk_that_is_too_large, TOO_LARGE),
    (chunks_without_end, "a message of more than 262144 bytes; see max_message_size"),
    (tiny_chunks_without_end, "a message of more than 16 chunks; see max_chunk_count"),
    (chunks_without_end_before_the_channel, f"{NONSENSE}: Invalid security token id"),
    (second_acknowledgements_without_end, NONSENSE),
    (wrong_sequence, f"{NONSENSE}: Received chunk"),
    (answer_to_another_request, "no answer within 1 s"),
    (answer_that_makes_no_sense, "what the server answers makes no sense"),
    (list_without_end, ""),
]


@pytest.mark.threat(14)
@pytest.mark.parametrize("policy", ["none", "auto"])
@pytest.mark.parametrize(("play", "said"), PLAYS, ids=[play.__name__ for play, _ in PLAYS])
async def test_a_hostile_handshake_ends_soon_with_an_error_that_says_why(tmp_path, play, said, policy):
    async with server(play) as (endpoint, peers):
        timeout = 1 if said.startswith("no answer") else 30  # for one step of the handshake
        limits = {"max_message_size": LARGEST, "max_chunk_count": 16}
        config = source(endpoint, security_policy=policy, trust="all", timeout=timeout, **limits)
        session = Session(config, Context("g", tmp_path))
        try:
            async with asyncio.timeout(60):
                with pytest.raises((ConnectionError, ServerRefusedError)) as caught:
                    await session.open()
        finally:
            await session.close()
        assert endpoint in str(caught.value)
        assert said in str(caught.value)
        assert sum(peer.sent for peer in peers) < LARGEST + IN_FLIGHT


@pytest.mark.threat(14)
async def test_what_a_limit_has_cut_off_is_let_go_with_the_connection(tmp_path):
    """Not when the collector comes by: until then the next attempt would have brought as much again."""
    async with server(chunks_without_end) as (endpoint, _):
        limits = {"max_message_size": LARGEST * 4, "max_chunk_count": 64}
        session = Session(source(endpoint, security_policy="none", **limits), Context("g", tmp_path))
        gc.collect()
        gc.disable()
        try:
            with pytest.raises((ConnectionError, ServerRefusedError)):
                await session.open()
            await session.close()
            kept = [found for found in gc.get_objects() if isinstance(found, MessageChunk)]
            assert len(kept) <= 1  # the one that was too many may be in the error's traceback
        finally:
            gc.enable()
