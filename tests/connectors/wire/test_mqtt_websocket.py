"""MQTT over WebSocket: frames in every split, and servers that do not behave."""

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typing_extensions import override

from connectors.wire.mqtt import MqttSession
from connectors.wire.mqtt_settings import SessionSettings, endpoint_address, websocket_url
from connectors.wire.mqtt_websocket import WebSocketTransport

CONNACK = b"\x20\x02\x00\x00"


@pytest.mark.parametrize(
    ("endpoint", "address", "url"),
    [
        ("ws://b", ("b", 80, False), "ws://b/mqtt"),
        ("wss://b", ("b", 443, True), "wss://b/mqtt"),
        ("ws://b:9001/", ("b", 9001, False), "ws://b:9001/"),
        ("wss://b:8443/a/b?token=1", ("b", 8443, True), "wss://b:8443/a/b?token=1"),
        ("ws://[::1]:9001", ("::1", 9001, False), "ws://[::1]:9001/mqtt"),
        ("mqtts://b", ("b", 8883, True), None),
    ],
)
def test_endpoints(endpoint: str, address: tuple[str, int, bool], url: str | None) -> None:
    assert endpoint_address(endpoint) == address
    assert websocket_url(endpoint) == url


@pytest.mark.parametrize("endpoint", ["mqtt://b/path", "ws://user@b/mqtt", "ws://b/mqtt#part", "ws:///mqtt"])
def test_endpoints_that_say_too_much_or_too_little_are_refused(endpoint: str) -> None:
    with pytest.raises(ValueError, match="endpoint|more than host and port"):
        endpoint_address(endpoint)


def agreement(request: bytes, **headers: str) -> bytes:
    """What a server answers that agrees."""
    key = next(line[18:].strip() for line in request.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key:"))
    accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
    said = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Accept": accept.decode()}
    said |= {"Sec-WebSocket-Protocol": "mqtt"} | {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"{name}: {value}" for name, value in said.items() if value]
    return "\r\n".join(["HTTP/1.1 101 Switching Protocols", *lines, "", ""]).encode()


def frame(payload: bytes, opcode: int = 2, last: bool = True) -> bytes:
    """A frame as a server sends it."""
    head = bytes([opcode | (0x80 if last else 0)])
    if len(payload) < 126:
        return head + bytes([len(payload)]) + payload
    if len(payload) < 65536:
        return head + b"\x7e" + len(payload).to_bytes(2, "big") + payload
    return head + b"\x7f" + len(payload).to_bytes(8, "big") + payload


@asynccontextmanager
async def serving(answer: Callable[[bytes], list[bytes]]) -> AsyncIterator[tuple[SessionSettings, list[bytes]]]:
    """A server that sends what `answer` makes of the request, one part a write; and the messages that a session read."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        try:
            agreed, *parts = answer(request)
            writer.write(agreed)
            if parts:
                await reader.readexactly(20)  # as much of CONNECT as is always there
            for part in parts:
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(0)
            while await reader.read(65536):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        endpoint = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield SessionSettings(endpoint=endpoint, client_id="c", connect_timeout=5), []


def publish(payload: bytes) -> bytes:
    size, length = len(payload) + 3, b""
    while size > 127:
        length, size = length + bytes([size & 127 | 128]), size >> 7
    return b"\x30" + length + bytes([size]) + b"\x00\x01t" + payload


@pytest.mark.parametrize("size", [1, 7, 1000, 10**6])
async def test_packets_are_read_from_frames_however_they_are_cut(size: int) -> None:
    sent = [b"a", b"b" * 200, b"c" * 70_000, b"", b"d"]
    stream = CONNACK + b"".join(map(publish, sent))
    cut = [stream[at : at + 5003] for at in range(0, len(stream), 5003)]
    frames = [frame(part, 2 if at == 0 else 0, at == len(cut) - 1) for at, part in enumerate(cut)]
    data = frame(b"", 9) + frame(b"hello", 9) + b"".join(frames[:3]) + frame(b"x", 10) + b"".join(frames[3:])
    read: list[bytes] = []
    parts = [data[at : at + size] for at in range(0, min(len(data), 4000 * size), size)]
    parts.append(data[len(parts) * size :])
    async with serving(lambda request: [agreement(request), *parts]) as (settings, _):
        session = MqttSession(settings, lambda _: None, lambda found, _: read.extend(found.payloads))
        assert await session.open() is False
        async with asyncio.timeout(20):
            while len(read) < len(sent):
                await asyncio.sleep(0.005)
        await session.close()
    assert read == sent


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (lambda _: [b"\x20\x02\x00\x00"], "no WebSocket for MQTT|no answer"),
        (lambda _: [b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"], "HTTP 404"),
        (lambda _: [b"HTTP/1.1 101 x\r\n" + b"a: b\r\n" * 500], "did not receive a valid HTTP response"),
        (lambda _: [b"x" * 100_000], "did not receive a valid HTTP response"),
        (lambda request: [agreement(request, Sec_WebSocket_Accept="wrong")], "no WebSocket for MQTT"),
        (lambda request: [agreement(request, Sec_WebSocket_Protocol="")], "does not offer the subprotocol mqtt"),
        (lambda request: [agreement(request), frame(b"\x16\x03\x01")], "does not speak MQTT"),
        (lambda request: [agreement(request), b"\x82\xff"], "incorrect masking"),
        (lambda request: [agreement(request), b"\x82\x7f\x00\x00\x00\xff\xff\xff\xff\xff"], "frame|closed"),
        (lambda request: [agreement(request), b"\xf2\x01x"], "reserved|closed"),
        (lambda request: [agreement(request), frame(b"\x03\xe8bye", 8)], "closed the connection"),
        (lambda request: [agreement(request), frame(b"text", 1)], "closed the connection"),
        (lambda request: [agreement(request), frame(CONNACK, 0)], "continuation|closed"),
    ],
)
async def test_what_is_wrong_with_the_server_is_said(answer: Callable[[bytes], list[bytes]], reason: str) -> None:
    async with serving(answer) as (settings, _):
        session = MqttSession(settings, lambda _: None, lambda _, __: None)
        with pytest.raises(ConnectionError, match=reason):
            await session.open()
        await session.close()


class _Inner(asyncio.Protocol):
    """Takes anything."""

    def __init__(self) -> None:
        self.read = b""

    @override
    def data_received(self, data: bytes) -> None:
        self.read += data


class _Outer(asyncio.Transport):
    """Remembers what was written, and whether it was closed."""

    def __init__(self) -> None:
        super().__init__()
        self.written, self.closed = b"", False

    @override
    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    @override
    def close(self) -> None:
        self.closed = True

    abort = close

    @override
    def is_closing(self) -> bool:
        return self.closed


@settings(deadline=None)
@given(st.lists(st.binary(max_size=40), max_size=6), st.booleans())
def test_no_bytes_break_the_transport(parts: list[bytes], agreed: bool) -> None:
    async def feed() -> None:
        inner, outer = _Inner(), _Outer()
        transport = WebSocketTransport(inner, "ws://b/mqtt")
        transport.connection_made(outer)
        if agreed:
            transport.data_received(agreement(outer.written))
            await transport.opened
        for part in parts:
            transport.data_received(part)
        transport.write(b"x")
        transport.connection_lost(None)
        assert transport.opened.done()

    asyncio.run(feed())
