"""A Modbus device on a real socket that does what a test says: answer, refuse, stay silent, lie, hang up."""

import asyncio
import os
import ssl
import struct
import tty
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple

from pymodbus.framer import FramerAscii, FramerRTU
from pymodbus.pdu import DecodePDU

from tests.connectors.sources.modbus.serial_pair import own_name


class Request(NamedTuple):
    transaction: int
    unit: int
    function: int
    address: int
    count: int


HANG_UP = b"hang up"
IDENTIFY = 43
ASK_IDENTITY = bytes([IDENTIFY, 14, 1])


def word(request: Request, address: int) -> int:
    """What a register holds: different for each unit, table and address, so that a mix-up shows."""
    return (address * 7 + request.unit * 4099 + request.function * 257) & 0xFFFF


def data(request: Request) -> bytes:
    """The data of the right answer; bits are the lowest bits of the words."""
    words = [word(request, request.address + i) for i in range(request.count)]
    if request.function > 2:
        return struct.pack(f">{len(words)}H", *words)
    bits = sum((w & 1) << i for i, w in enumerate(words))
    return bits.to_bytes((len(words) + 7) // 8, "little")


def pdu(request: Request) -> bytes:
    """The right answer."""
    octets = data(request)
    return bytes([request.function, len(octets)]) + octets


def exception(request: Request, code: int) -> bytes:
    return bytes([request.function | 0x80, code])


def frame(request: Request, answer: bytes, *, rtu: bool = False, mode: str = "") -> bytes:
    """An answer's PDU in its frame."""
    if mode == "ascii":
        return FramerAscii(DecodePDU(True)).encode(answer, request.unit, 0)
    if rtu or mode == "rtu":
        body = bytes([request.unit]) + answer
        return body + FramerRTU.compute_CRC(body).to_bytes(2, "big")
    return struct.pack(">HHHB", request.transaction, 0, len(answer) + 1, request.unit) + answer


class Device:
    """Listens on a free port.

    Attributes:
        answer: PDU of the answer to a request; None for silence, `HANG_UP` to close the connection.
        identify: The same for a request for its identification, at whose `address` it is to begin.
        raw: Bytes to send for a request instead of a framed PDU; where it returns None, `answer` counts.
        delay: Seconds before an answer.
        requests: All requests, with the loop's time of their arrival in `times`.
    """

    def __init__(self, mode: str = "socket") -> None:
        self.mode = mode
        self.answer: Callable[[Request], bytes | None] = pdu
        self.identify: Callable[[Request], bytes | None] = lambda request: exception(request, 1)
        self.raw: Callable[[Request], bytes | None] = lambda request: None
        self.delay: Callable[[Request], float] = lambda request: 0.0
        self.requests: list[Request] = []
        self.times: list[float] = []
        self.connections = 0
        self.endpoint = ""
        self._writers: set[asyncio.StreamWriter] = set()

    def asked(self, unit: int) -> list[Request]:
        return [request for request in self.requests if request.unit == unit]

    def hang_up(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            while True:
                out = await self.reply(await self._read(reader))
                if out == HANG_UP:
                    return
                if out is not None:
                    writer.write(out)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> bytes:
        if self.mode == "ascii":
            return await reader.readuntil(b"\r\n")
        if self.mode == "rtu":
            head = await reader.readexactly(2)
            return head + await reader.readexactly(5 if head[1] == IDENTIFY else 6)
        head = await reader.readexactly(6)
        return head + await reader.readexactly(int.from_bytes(head[4:], "big"))

    async def reply(self, octets: bytes) -> bytes | None:
        """What is sent for a request; None for silence."""
        request = self._request(octets)
        self.requests.append(request)
        self.times.append(asyncio.get_running_loop().time())
        assert request.function in {1, 2, 3, 4, IDENTIFY}, "a function code that could write"
        await asyncio.sleep(self.delay(request))
        out = self.raw(request)
        if out is None:
            answer = self.identify(request) if request.function == IDENTIFY else self.answer(request)
            out = answer if answer in {None, HANG_UP} else frame(request, answer, mode=self.mode)
        return out

    def _request(self, octets: bytes) -> Request:
        if self.mode == "ascii":
            used, unit, _, pdu_ = FramerAscii(DecodePDU(True)).decode(octets)
            assert used == len(octets)
            if pdu_[:3] == ASK_IDENTITY:
                return Request(0, unit, IDENTIFY, pdu_[3], 0)
            return Request(0, unit, *struct.unpack(">BHH", pdu_))
        if self.mode == "socket" and octets[7:10] == ASK_IDENTITY:
            return Request(int.from_bytes(octets[:2], "big"), octets[6], IDENTIFY, octets[10], 0)
        if self.mode == "socket":
            transaction, protocol, length, unit, function, address, count = struct.unpack(">HHHBBHH", octets)
            assert (protocol, length) == (0, 6)
            return Request(transaction, unit, function, address, count)
        assert FramerRTU.compute_CRC(octets[:-2]).to_bytes(2, "big") == octets[-2:]
        if octets[1:4] == ASK_IDENTITY:
            return Request(0, octets[0], IDENTIFY, octets[4], 0)
        return Request(0, *struct.unpack(">BBHH", octets[:6]))


SCHEMES = {
    ("tcp", "socket"): "tcp",
    ("tcp", "rtu"): "rtu+tcp",
    ("tcp", "ascii"): "ascii+tcp",
    ("tls", "socket"): "tls",
    ("udp", "socket"): "udp",
    ("udp", "rtu"): "rtu+udp",
    ("serial", "rtu"): "rtu",
    ("serial", "ascii"): "ascii",
}


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, device: Device, wrong: list[BaseException]) -> None:
        self.device, self.wrong = device, wrong
        self.tasks: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        task = asyncio.ensure_future(self.reply(data, addr))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def reply(self, data: bytes, addr: tuple[str, int]) -> None:
        try:
            out = await self.device.reply(data)
        except AssertionError as error:
            self.wrong.append(error)
            return
        if out is not None and out != HANG_UP and not self.transport.is_closing():
            self.transport.sendto(out, addr)


async def _pty_streams(fd: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(os.dup(fd), "rb", 0))
    transport, protocol = await loop.connect_write_pipe(
        lambda: asyncio.streams.FlowControlMixin(loop=loop), os.fdopen(os.dup(fd), "wb", 0)
    )
    return reader, asyncio.StreamWriter(transport, protocol, None, loop)


@asynccontextmanager
async def running(
    *, rtu: bool = False, mode: str = "socket", over: str = "tcp", tls: ssl.SSLContext | None = None
) -> AsyncIterator[Device]:
    """A device that listens until the end of the block; what it did not expect fails the test."""
    device = Device("rtu" if rtu else mode)
    wrong: list[BaseException] = []
    try:
        async with _listening(device, over, tls, wrong):
            yield device
    except BaseException as error:
        error.add_note(f"the device has seen {len(device.requests)} requests, and did not expect {wrong}")
        raise
    assert not wrong, wrong


@asynccontextmanager
async def _listening(
    device: Device, over: str, tls: ssl.SSLContext | None, wrong: list[BaseException]
) -> AsyncIterator[None]:
    scheme = SCHEMES[over, device.mode]
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await device.serve(reader, writer)
        except AssertionError as error:
            wrong.append(error)

    if over == "serial":
        ours, theirs = os.openpty()
        tty.setraw(theirs)
        reader, writer = await _pty_streams(ours)
        serving = asyncio.create_task(serve(reader, writer))
        try:
            with own_name(theirs) as path:
                device.endpoint = f"{scheme}://{path}"
                yield
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)
            reader._transport.close()
            writer.close()
            os.close(ours)
            os.close(theirs)
    elif over == "udp":
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.create_datagram_endpoint(
            lambda: _Datagrams(device, wrong), local_addr=("127.0.0.1", 0)
        )
        device.endpoint = f"{scheme}://127.0.0.1:{transport.get_extra_info('sockname')[1]}"
        try:
            yield
        finally:
            transport.close()
            await asyncio.gather(*protocol.tasks)
    else:
        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
        host, port = server.sockets[0].getsockname()
        device.endpoint = f"{scheme}://{host}:{port}"
        try:
            yield
        finally:
            server.close()
            for _ in range(8):  # a connection that was accepted just now gets its task in some steps
                await asyncio.sleep(0)
            device.hang_up()
            await asyncio.gather(*tasks)
