"""What a Modbus TCP device says of itself: one unit after the other, on one connection, reading only.

A unit is asked for its identification (function code 43/14). That is the request which harms a device least: it names no
address, changes nothing, and a device that does not know it answers with an exception, which says that it speaks Modbus. A
register is read only where the configuration names one. After two silent units no more are asked, because behind a gateway
each of them holds up the serial line.
"""

import asyncio
import socket
from typing import Final

from connectors.sources.modbus.plan import Kind
from connectors.sources.modbus.protocol import Ask, BadReplyError, Identify, RefusedError, TcpFraming, identity
from discovery.talk import Detail, Manner, NotSpokenError, stream, text

_FRAMING: Final = TcpFraming()
_SILENT: Final = 2  # units in a row
_TEXTS: Final = 4  # requests for one unit's identification
_GATEWAY: Final = (10, 11)  # exceptions of a gateway: nobody there
_PAUSE: Final = 0.05  # seconds between two requests


class _Asking:
    """Requests on one connection, each with a number of its own, so that a late answer is nobody's."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, timeout: float) -> None:
        self._reader, self._writer, self._timeout = reader, writer, timeout
        self._transaction, self._buffer = 0, b""
        self.answered = False

    async def ask(self, request: Ask | Identify) -> bytes:
        """The data of the answer.

        Raises:
            RefusedError: The unit or a gateway answers with an exception.
            BadReplyError: What comes is not Modbus, or not the answer.
            OSError: No answer in time, or the connection is lost.
        """
        if self._transaction:
            await asyncio.sleep(_PAUSE)
        self._transaction += 1
        self._writer.write(_FRAMING.wrap(self._transaction, request.unit_id, request.pdu))
        async with asyncio.timeout(self._timeout):
            while True:
                frame = _FRAMING.unwrap(self._buffer)
                if not frame.used:
                    more = await self._reader.read(4096)
                    if not more:
                        raise ConnectionResetError("it closes the connection")
                    self._buffer += more
                    continue
                self._buffer = self._buffer[frame.used :]
                if frame.transaction == self._transaction:
                    self.answered = True
                    return request.data_of(frame.pdu)


async def probe(connection: socket.socket, host: str, port: int, manner: Manner) -> Detail:  # noqa: ARG001
    """Ask each unit who it is; see `talk.Probe`."""
    units: Detail = {}
    lost = ""
    silent = 0
    async with stream(connection) as (reader, writer):
        asking = _Asking(reader, writer, manner.timeout)
        for unit in manner.modbus.units:
            try:
                units[str(unit)] = await _unit(asking, unit, manner.modbus.register_address)
                silent = 0
            except BadReplyError as error:
                if not asking.answered:
                    msg = f"it does not speak Modbus: {text(error)}"
                    raise NotSpokenError(msg) from None
                lost = text(error)
            except TimeoutError:
                units[str(unit)] = {"answers": "nothing"}
                silent += 1
            except OSError as error:
                lost = text(error) or "the connection is lost"
            if lost or silent == _SILENT:
                break
    if not asking.answered:
        msg = f"it does not speak Modbus: {lost}" if lost else "it takes connections and answers no unit id asked for"
        raise NotSpokenError(msg)
    return {"units": units} | ({"problem": lost} if lost else {})


async def _unit(asking: _Asking, unit: int, register: int | None) -> Detail:
    said: dict[str, str] = {}
    following: int | None = 0
    try:
        for _ in range(_TEXTS):
            if following is None:
                break
            more, following = identity(await asking.ask(Identify(unit, following)))
            said |= more
    except RefusedError as error:
        if said:
            pass
        elif error.code in _GATEWAY:
            return {"answers": "nobody behind this gateway", "exception": error.code}
        elif register is None:
            return {"answers": "yes, but not who it is", "exception": error.code}
    except (IndexError, ValueError):  # an identification that is cut off before its first text
        return {"answers": "yes, but not in order"}
    if said:
        return {"answers": "yes", **{key: text(value) for key, value in said.items()}}
    if register is None:
        return {"answers": "yes"}
    try:
        value = int.from_bytes(await asking.ask(Ask(unit, Kind.HOLDING, register, 1)), "big")
    except RefusedError as error:
        return {"answers": "yes, but not who it is", "exception": error.code}
    return {"answers": "yes, but not who it is", "register": {"address": register, "value": value}}
