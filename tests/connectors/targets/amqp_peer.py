"""A peer of AMQP 1.0 that gives the outcomes and the credit that it is told to; what RabbitMQ 3.10 never does."""

import asyncio
import struct
from collections.abc import Callable
from typing import Any, Self

from connectors.targets.amqp.version_1.connection import ATTACH, BEGIN, CLOSE, DISPOSITION, FLOW, OPEN, TRANSFER
from connectors.targets.amqp.version_1.types import Described, Symbol, Ubyte, Uint, decode, encode

ACCEPTED = Described(0x24, [])


class Peer:
    """Listens on a port of 127.0.0.1.

    Args:
        outcome: Says what becomes of a message, by its number among those of the connection; None for nothing yet.
        credit: Messages that are taken before more credit is given, which is done when they are settled.
        about: What it says of itself.
    """

    def __init__(
        self,
        outcome: Callable[[int], Described | None] = lambda _: ACCEPTED,
        credit: int = 1000,
        about: dict[Any, Any] | None = None,
    ) -> None:
        self._about = about or {}
        self.port = 0
        self.mechanisms: list[str] = []
        self.responses: list[bytes] = []
        self.targets: list[str] = []
        self.taken: list[tuple[int, bytes]] = []
        self._outcome, self._credit = outcome, credit
        self._tasks: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)

        def send(code: int, fields: list[Any], kind: int = 0) -> None:
            body = encode(Described(code, fields))
            writer.write(struct.pack(">IBBH", 8 + len(body), 2, kind, 0) + body)

        try:
            writer.write(await reader.readexactly(8))
            send(0x40, [[Symbol("PLAIN"), Symbol("ANONYMOUS"), Symbol("EXTERNAL")]], 1)
            init, _ = await self._next(reader)
            self.mechanisms.append(init.field(0))
            self.responses.append(init.field(1))
            send(0x44, [Ubyte(0)], 1)
            writer.write(await reader.readexactly(8))
            await self._session(reader, send)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _next(self, reader: asyncio.StreamReader) -> tuple[Described, bytes]:
        while True:
            size, offset, _, _ = struct.unpack(">IBBH", await reader.readexactly(8))
            data = await reader.readexactly(size - 8)
            if data:
                found = decode(data, 4 * offset - 8)
                return found, data

    async def _session(self, reader: asyncio.StreamReader, send: Callable[..., None]) -> None:
        taken, credit = 0, {}
        while True:
            found, data = await self._next(reader)
            match found.code:
                case code if code == OPEN:
                    send(OPEN, ["peer", None, Uint(4096), None, Uint(60_000), None, None, None, None, self._about])
                case code if code == BEGIN:
                    send(BEGIN, [Uint(0), Uint(0), Uint(2048), Uint(2048)])
                case code if code == ATTACH:
                    name, handle = found.field(0), found.field(1)
                    self.targets.append(found.field(6).field(0))
                    ends = [Described(0x28, []), Described(0x29, [found.field(6).field(0)])]
                    send(ATTACH, [name, Uint(handle), True, Ubyte(0), Ubyte(0), *ends])
                    credit[handle] = 0
                    send(FLOW, [Uint(0), Uint(2048), Uint(0), Uint(2048), Uint(handle), Uint(0), Uint(self._credit)])
                case code if code == TRANSFER:
                    self.taken.append((found.field(0), data))
                    if found.field(5):
                        continue
                    number = found.field(1)
                    credit[found.field(0)] += 1
                    outcome = self._outcome(taken)
                    taken += 1
                    if outcome is not None:
                        send(DISPOSITION, [True, Uint(number), Uint(number), True, outcome])
                        given = [Uint(found.field(0)), Uint(credit[found.field(0)]), Uint(self._credit)]
                        send(FLOW, [Uint(len(self.taken)), Uint(2048), Uint(0), Uint(2048), *given])
                case code if code == CLOSE:
                    send(CLOSE, [])
                    return
                case _:
                    pass
