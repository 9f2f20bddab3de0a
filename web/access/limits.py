"""How often and how much: logins, requests, bodies, connections. Waiting is the client's part; nothing sleeps here."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Final, Self

from config.models import WebSection

_MOST_KEYS: Final = 10_000


@dataclass(frozen=True, slots=True)
class Limits:
    """What a client may ask for.

    Attributes:
        body: Bytes of a request's body.
        read_timeout: Seconds that a request may take to come.
        head_timeout: Seconds that its first line and headers may take.
        connections: Connections at a time.
        at_once: Requests of one client under way at a time.
        rate: Requests per second of one client, in the long run.
        burst: Requests of one client that may come at once.
    """

    body: int = 1024 * 1024
    read_timeout: float = 30.0
    head_timeout: float = 10.0
    connections: int = 32
    at_once: int = 16
    rate: float = 100.0
    burst: float = 300.0

    @classmethod
    def of(cls, web: WebSection) -> Self:
        """What the configuration says."""
        return cls(rate=web.rate, burst=3 * web.rate)


class Rates:
    """A bucket of requests for each client.

    Args:
        rate: Requests per second that fill it.
        burst: How many it holds.
        now: The monotonic clock.
    """

    def __init__(self, rate: float, burst: float, now: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._now = rate, burst, now
        self._left: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, client: Hashable) -> float:
        """Take one request; 0, or the seconds until there is one."""
        with self._lock:
            now = self._now()
            left, last = self._left.pop(client, (self._burst, now))
            left = min(self._burst, left + (now - last) * self._rate)
            granted = left >= 1.0
            self._left[client] = (left - 1.0 if granted else left, now)
            if len(self._left) > _MOST_KEYS:
                self._left.popitem(last=False)
            return 0.0 if granted else (1.0 - left) / self._rate


@dataclass(slots=True)
class _Tries:
    times: list[float]
    failures: int = 0
    allowed: float = 0.0
    refused: int = 0


class LoginThrottle:
    """Bounds tries to log in: ten a minute for a user and address, thirty for an address; failures make it wait longer.

    Args:
        now: The monotonic clock.
    """

    OF_ONE: Final = 10
    OF_ADDRESS: Final = 30
    _MINUTE: Final = 60.0
    _FREE: Final = 3  # failures that cost no wait
    _LONGEST: Final = 300.0

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._tries: OrderedDict[tuple[str, str], _Tries] = OrderedDict()
        self._lock = threading.Lock()

    def wait(self, user: str, address: str) -> float:
        """Count a try: 0 when it may be evaluated, else seconds until the next one may."""
        with self._lock:
            now = self._now()
            keys = (((user, address), self.OF_ONE), (("", address), self.OF_ADDRESS))
            found = [(self._of(key), most) for key, most in keys]
            for tries, most in found:
                tries.times = [t for t in tries.times if now - t < self._MINUTE]
                until = max(tries.allowed, tries.times[-most] + self._MINUTE if len(tries.times) >= most else 0.0)
                if until > now:
                    tries.refused += 1
                    return until - now
            for tries, _ in found:
                tries.times.append(now)
            return 0.0

    def failed(self, user: str, address: str) -> None:
        """The try was wrong."""
        with self._lock:
            tries = self._of((user, address))
            tries.failures += 1
            if tries.failures > self._FREE:
                tries.allowed = self._now() + min(self._LONGEST, 2.0 ** min(tries.failures - self._FREE, 16))

    def succeeded(self, user: str, address: str) -> None:
        """The try was right."""
        with self._lock:
            self._tries.pop((user, address), None)

    def _of(self, key: tuple[str, str]) -> _Tries:
        tries = self._tries.pop(key, None) or _Tries([])
        self._tries[key] = tries
        if len(self._tries) > _MOST_KEYS:
            self._tries.popitem(last=False)
        return tries
