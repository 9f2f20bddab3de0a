"""What the service manager is told: that the gateway is ready, that data goes on, that it stops (the protocol of sd_notify).

The watchdog is fed by the dataflow's own turns, and only when the I/O loop has turned as well and the flow has taken what waits
for it. No timer of its own keeps a gateway alive that does nothing.
"""

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Callable, Mapping
from typing import Final

_SHARE: Final = 3  # pings in the time after which the service manager ends the process


def notify(state: str, environment: Mapping[str, str] = os.environ) -> None:
    """Tell the service manager; nothing happens where there is none, or it does not listen."""
    address = environment.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
        out.setblocking(False)
        out.sendto(state.encode(), f"\0{address[1:]}" if address.startswith("@") else address)


def _patience(environment: Mapping[str, str]) -> float:
    """Seconds after which the service manager ends a process that is silent; infinite when it does not."""
    micros, pid = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", str(os.getpid()))
    return int(micros) / 1e6 if micros.isdigit() and int(micros) and pid == str(os.getpid()) else float("inf")


class Heartbeat:
    """The heartbeat of one process.

    Args:
        ready: Whether sources have begun and the port is open.
        waits: Whether readings wait for the flow that it may take.
        environment: Where the service manager says how it is reached.
    """

    def __init__(
        self, ready: Callable[[], bool], waits: Callable[[], bool], environment: Mapping[str, str] = os.environ
    ) -> None:
        self.wanted = bool(environment.get("NOTIFY_SOCKET"))  # else nobody listens, and nothing is done
        self._environment = environment
        self._ready, self._waits = ready, waits
        self._every = _patience(environment) / _SHARE
        self._is_ready = False
        self._pinged = self._read = self._took = 0.0
        self._turned: dict[int, float] = {}  # by worker

    def begin(self) -> None:
        """The flow begins, perhaps with other workers than before."""
        self._turned = {}

    def took(self) -> None:
        """The flow has taken readings."""
        self._took = time.monotonic()

    def turn(self, worker: int) -> None:
        """A worker of the flow has taken its turn."""
        if not self.wanted:
            return
        self._turned[worker] = now = time.monotonic()
        if not self._is_ready:
            if not self._ready():
                return
            self._is_ready = True
            notify("READY=1\nSTATUS=Reading", self._environment)
        if now - self._pinged < self._every:
            return
        alive = self._read > self._pinged and all(at > self._pinged for at in self._turned.values())
        if alive and (self._took > self._pinged or not self._waits()):
            self._pinged = now
            notify("WATCHDOG=1", self._environment)

    def waits(self, worker: int) -> None:
        """A worker of the flow stands still for a good reason, which ending the process would not mend."""
        self.took()
        self.turn(worker)

    async def reads(self) -> None:
        """Note for as long as it runs that the I/O loop turns."""
        while self.wanted:
            self._read = time.monotonic()
            await asyncio.sleep(min(self._every / 2, 1.0))

    def stops(self) -> None:
        """The process has been asked to end."""
        notify("STOPPING=1\nSTATUS=Finishing what is under way", self._environment)
