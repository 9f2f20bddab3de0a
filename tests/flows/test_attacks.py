"""A gateway whose servers mean harm: its memory stays, its other sources deliver, and its account is right."""

import asyncio
import contextlib
import struct
import textwrap
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from bifrost.run import ask
from config.loader import load
from config.models import Configuration
from tests.connectors.sources.modbus.device import running
from tests.connectors.sources.opcua.test_opcua_hostile import (
    Peer,
    Play,
    chunks_without_end,
    list_without_end,
    server,
    tiny_chunks_without_end,
)
from tests.ports import free_port
from tests.running_gateway import gateway, until

GROWTH = 64 * 1024 * 1024


class Memory:
    """The largest resident size of a process while it is watched, looked at every few milliseconds."""

    def __init__(self, process: psutil.Process) -> None:
        self._process = process
        self.before = self.largest = process.memory_info().rss
        self._over = threading.Event()

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        thread = threading.Thread(target=self._watch)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.005):
            self.largest = max(self.largest, self._process.memory_info().rss)

    @property
    def growth(self) -> int:
        return self.largest - self.before


def write(folder: Path, quiet: str, sources: str) -> Path:
    """The configuration of a gateway with a sound source beside hostile ones."""
    text = f"""\
        gateway:
          name: hall
          directory: {folder}/data
          cloud:
            default_connector: archive
            connectors: {{archive: {{type: file, endpoint: {folder}/files}}}}
        web_ui: {{enabled: true, port: {free_port()}}}
        sources:
          - {{name: quiet, protocol: modbus, endpoint: "{quiet}", interval: 50ms, registers: [{{name: force, address: 1}}]}}
        """
    file = folder / "gateway.yaml"
    file.write_text(textwrap.dedent(text) + textwrap.indent(textwrap.dedent(sources), "  "), encoding="utf-8")
    return file


def delivered(config: Configuration, source: str = "quiet") -> int:
    """How many readings of a source the target has."""
    found = ask(config, "/api/ledger") or {"targets": {}}
    return int(found["targets"].get("archive", {}).get(source, {}).get("delivered", 0))


def line(config: Configuration, source: str) -> dict[str, Any]:
    """The account's line of a source."""
    found = ask(config, "/api/ledger")
    assert found is not None
    return dict(found["sources"].get(source, {}))


# ---------------------------------------------------------------------- OPC UA


@pytest.mark.threat(14)
async def test_servers_that_send_chunks_without_end_cost_bounded_memory_and_no_reading_of_others(
    tmp_path: Path,
) -> None:
    attack = asyncio.Event()

    def held(play: Play) -> Play:
        async def then(peer: Peer) -> None:
            await attack.wait()
            await play(peer)

        return then

    async with contextlib.AsyncExitStack() as stack:
        quiet = await stack.enter_async_context(running())
        hostile = [
            await stack.enter_async_context(server(held(play)))
            for play in (chunks_without_end, tiny_chunks_without_end, list_without_end)
        ]
        sources = "".join(
            f'- {{name: hostile{n}, protocol: opcua, endpoint: "{endpoint}", security_policy: none, nodes: ["i=2258"]}}\n'
            for n, (endpoint, _) in enumerate(hostile)
        )
        file = write(tmp_path, quiet.endpoint, sources)
        config = load(file)
        with gateway(file) as process:
            await until(lambda: delivered(config) > 20, file)
            memory = Memory(psutil.Process(process.pid))
            with memory.watched():
                attack.set()
                before = delivered(config)
                await until(lambda: all(len(peers) >= 2 for _, peers in hostile), file)  # each has been tried again
                await until(lambda: delivered(config) >= before + 60, file)
        sent = [sum(peer.sent for peer in peers) for _, peers in hostile]
        assert sent[0] > 16 * 1024 * 1024, "the first one met the limit of the size"
        assert memory.growth < GROWTH, f"{memory.growth >> 20} MiB, {sent}"


# ---------------------------------------------------------------------- MQTT


HUGE = 255 * 1024 * 1024  # MQTT has no more
TOPICS, MOST_TAGS = 30_000, 1_000
RETAINED, SYSTEM = 5_000, 100


def published(topic: str, payload: bytes, *, retained: bool = False, size: int | None = None) -> bytes:
    """A PUBLISH of MQTT 5 at QoS 0; `size` of the payload where it is not `payload` alone."""
    name = topic.encode()
    body = struct.pack(">H", len(name)) + name + b"\0" + payload
    left, length = len(body) + (0 if size is None else size - len(payload)), bytearray()
    while True:
        left, rest = left >> 7, left & 0x7F
        length.append(rest | (0x80 if left else 0))
        if not left:
            return bytes([0x31 if retained else 0x30]) + bytes(length) + body


class Flood:
    """A broker that keeps to the protocol until it is told to flood whoever subscribes."""

    def __init__(self) -> None:
        self.attack, self.subscribed, self.over = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.endpoint = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        flooding: asyncio.Task[None] | None = None
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                (kind,) = await reader.readexactly(1)
                size, shift = 0, 0
                while True:
                    (octet,) = await reader.readexactly(1)
                    size, shift = size | (octet & 0x7F) << shift, shift + 7
                    if octet < 0x80:
                        break
                body = await reader.readexactly(size)
                match kind >> 4:
                    case 1:
                        writer.write(b"\x20\x03\x00\x00\x00")
                    case 8:
                        writer.write(b"\x90\x04" + body[:2] + b"\x00\x00")
                        self.subscribed.set()
                        flooding = flooding or asyncio.create_task(self._flood(writer))
                    case 12:
                        writer.write(b"\xd0\x00")
        if flooding is not None:
            flooding.cancel()
        writer.close()

    async def _flood(self, writer: asyncio.StreamWriter) -> None:
        await self.attack.wait()
        piece = bytes(1 << 20)
        writer.write(published("huge", b"", size=HUGE))
        for _ in range(HUGE // len(piece)):
            writer.write(piece)
            await writer.drain()
        for first in range(0, TOPICS, 500):
            writer.write(b"".join(published(f"flood/{n}", b"1.5") for n in range(first, first + 500)))
            await writer.drain()
        for first in range(0, RETAINED, 500):
            messages = (published(f"kept/{n}", b"x" * 1000, retained=True) for n in range(first, first + 500))
            writer.write(b"".join(messages))
            await writer.drain()
        writer.write(b"".join(published(f"$SYS/broker/{n}", b"1") for n in range(SYSTEM)))
        await writer.drain()
        self.over.set()


@contextlib.asynccontextmanager
async def flood() -> AsyncIterator[Flood]:
    broker = Flood()
    listening = await asyncio.start_server(broker.serve, "127.0.0.1", 0)
    broker.endpoint = f"mqtt://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    try:
        yield broker
    finally:
        listening.close()


@pytest.mark.threat(16)
async def test_a_broker_that_floods_costs_bounded_memory_and_every_message_is_accounted_for(tmp_path: Path) -> None:
    async with running() as quiet, flood() as broker:
        source = f"""\
            - name: hostile
              protocol: mqtt
              version: 5
              endpoint: {broker.endpoint}
              max_tags: {MOST_TAGS}
              subscriptions: [{{topic: "#", qos: 0}}]
            """
        file = write(tmp_path, quiet.endpoint, source)
        config = load(file)
        with gateway(file) as process:
            await until(lambda: delivered(config) > 20, file)
            await asyncio.wait_for(broker.subscribed.wait(), 20)
            memory = Memory(psutil.Process(process.pid))
            with memory.watched():
                broker.attack.set()
                before = delivered(config)
                await asyncio.wait_for(broker.over.wait(), 60)
                sent = 1 + TOPICS + RETAINED + SYSTEM
                await until(lambda: line(config, "hostile").get("journalled", 0) >= sent, file)
                await until(lambda: line(config, "hostile").get("waiting") == 0, file)
                assert delivered(config) > before
            found = line(config, "hostile")
            account = ask(config, "/api/ledger")
            assert account is not None
        assert (found["routed"], found["dead_letters"]) == (MOST_TAGS - 1, sent - MOST_TAGS + 1)  # one topic was huge
        assert account["unaccounted"] == 0
        assert memory.growth < GROWTH, f"{memory.growth >> 20} MiB"
