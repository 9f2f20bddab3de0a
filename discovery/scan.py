"""One scan: every place once, so many new connections per second, one at a time per host; it can be stopped at any moment.

This is the only place of discovery that opens a connection, and it opens none that the guard does not let pass.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from discovery.coverage import Place, Protocol
from discovery.guard import Guard, RefusedAddressError
from discovery.talk import Detail, Manner, NotSpokenError, Probe, text

_AT_ONCE: Final = 32  # hosts
_ANSWERS: Final = 12  # a visit takes at most so many times the time for one answer, beside the listening


@dataclass(frozen=True, slots=True)
class Hit:
    """An open port.

    Attributes:
        place: Where.
        detail: What was found out.
    """

    place: Place
    detail: Detail


@dataclass(slots=True)
class Progress:
    """How far a scan is.

    Attributes:
        of: Places in sum.
        asked: Places that were asked.
        hits: Open ports among them.
    """

    of: int = 0
    asked: int = 0
    hits: int = 0


def probes() -> dict[Protocol, Probe]:
    """What is asked, by protocol; client libraries are imported only now."""
    from discovery import modbus, mqtt, opcua

    return {"opcua": opcua.probe, "mqtt": mqtt.probe, "mqtts": mqtt.probe_tls, "modbus": modbus.probe}


class Scan:
    """A scan, to be run once.

    Args:
        places: Where to look, in this order as far as hosts are free.
        guard: Judges every address again before it is connected to.
        manner: How servers are asked.
        rate: New connections per second.
        asking: What is asked, by protocol.
        tell: Gets each place when it was asked, and what was found there.

    Attributes:
        progress: How far it is.
    """

    def __init__(
        self,
        places: Sequence[Place],
        guard: Guard,
        manner: Manner,
        rate: float,
        asking: Mapping[Protocol, Probe],
        tell: Callable[[Place, Hit | None], None],
    ) -> None:
        self._guard, self._manner, self._rate = guard, manner, rate
        self._asking, self._tell = asking, tell
        self._waiting = dict.fromkeys(places)
        self._busy: set[object] = set()
        self._next = 0.0
        self.progress = Progress(of=len(self._waiting))

    async def run(self) -> None:
        """Ask every place. A cancellation ends all connections at once."""
        freed = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            while self._waiting:
                place = next((each for each in self._waiting if each.address not in self._busy), None)
                if place is None or len(self._busy) >= _AT_ONCE:
                    freed.clear()
                    await freed.wait()
                    continue
                del self._waiting[place]
                await self._pace()
                self._busy.add(place.address)
                task = group.create_task(self._look(place), name=f"discovery {place.address}:{place.port}")
                task.add_done_callback(lambda _: freed.set())

    async def _pace(self) -> None:
        """Wait until the next connection is due; what was missed is not made up for."""
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(0.0, self._next - loop.time()))
        self._next = loop.time() + 1 / self._rate

    async def _look(self, place: Place) -> None:
        try:
            hit = await self._visit(place)
        finally:
            self._busy.discard(place.address)
        self.progress.asked += 1
        self.progress.hits += hit is not None
        self._tell(place, hit)

    async def _visit(self, place: Place) -> Hit | None:
        try:
            connection = await self._connect(place)
        except (OSError, RefusedAddressError):
            return None
        manner = self._manner
        try:
            async with asyncio.timeout(_ANSWERS * manner.timeout + manner.mqtt.sparkplug_wait):
                detail = await self._asking[place.protocol](connection, str(place.address), place.port, manner)
            return Hit(place, {"speaks": "problem" not in detail, **detail})
        except NotSpokenError as error:
            problem = text(error)
        except OSError as error:  # a time-out, too
            silent = isinstance(error, TimeoutError)
            problem = "it takes connections and does not answer" if silent else text(error.strerror or error)
        except Exception as error:  # noqa: BLE001 - whatever a strange server makes of a client library, the scan goes on
            problem = f"what it answers makes no sense: {text(error) or type(error).__name__}"
        finally:
            _closed(connection)
        return Hit(place, {"speaks": False, "problem": problem or "the connection is lost"})

    async def _connect(self, place: Place) -> socket.socket:
        """The one connection to a place.

        Raises:
            OSError: There is none in time.
            RefusedAddressError: It must not be connected to.
        """
        address = self._guard.check(place.address, place.port)
        connection = socket.socket(socket.AF_INET6 if address.version == 6 else socket.AF_INET, socket.SOCK_STREAM)
        try:
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            async with asyncio.timeout(self._manner.timeout):
                await asyncio.get_running_loop().sock_connect(connection, (str(address), place.port))
        except BaseException:
            connection.close()
            raise
        return connection


def _closed(connection: socket.socket) -> None:
    """Close a connection that no transport has taken over; asyncio's transports close theirs themselves."""
    with contextlib.suppress(OSError):
        connection.close()
