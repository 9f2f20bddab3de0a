"""One subscription at a server, and its messages in order (OPC 10000-4 clauses 5.13 and 5.14).

A message is acknowledged only when its values are on disk, so that the server can be asked for it again; messages whose numbers
are missing are asked for before they are called lost.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final, Protocol

from asyncua import ua

from connectors.sources.opcua import services
from connectors.sources.opcua.channel import Acknowledgement
from connectors.sources.opcua.notification import STATUS_CHANGE, Notification
from connectors.sources.opcua.session import Session
from connectors.sources.opcua.state import NUMBERS, microseconds_now

_log = logging.getLogger(__name__)

_MOST_MISSING: Final = 100  # messages that are asked for again without the server having said that it has them
_FIRST: Final = 100  # a first message with a number below it means that those before it did not come
_LATE = 1.0  # seconds that the oldest message is not on disk, before we stop asking for more
_BYTES: Final = 1024 * 1024  # of messages that are not on disk, as well


class Taker(Protocol):
    """What becomes of a subscription's messages."""

    async def take(self, data: bytes, message: Notification, since: int) -> "asyncio.Future[None] | None":
        """Take a message; what is returned is done when it is on disk, None for at once.

        Args:
            data: The message.
            message: Its parts.
            since: When the subscription had last said all that it had to say, µs since the epoch.
        """

    def lost(self, subscription: int, since: int, reason: str) -> None:
        """Messages of a subscription will never come."""

    def quiet(self) -> None:
        """The server says that there is nothing new."""


class Subscription:
    """One subscription of a session.

    Args:
        session: The session.
        taker: Gets the messages, in order.
        number: Its id.
        revised: What the server makes of its intervals.

    Attributes:
        id: Its id.
        keep_alive: Seconds within which the server says something.
        publishing_interval: Time between its messages, in ms, as the server revised it.
        sequence: Number of the last message that was taken.
        heard: When its last message came, by the monotonic clock.
        up_to: Until when nothing of it is missing, µs since the epoch.
        created: It is of this session, not taken over.
        has_spoken: A message of it came.
        is_empty: No item was created in it yet.
    """

    def __init__(
        self,
        session: Session,
        taker: Taker,
        number: int,
        revised: ua.CreateSubscriptionResult | ua.ModifySubscriptionResult,
    ) -> None:
        self._session = session
        self._taker = taker
        self.id = number
        self.publishing_interval = revised.RevisedPublishingInterval
        self.keep_alive = revised.RevisedPublishingInterval / 1000 * revised.RevisedMaxKeepAliveCount
        self.sequence = 0
        self.heard = time.monotonic()
        self.up_to = microseconds_now()
        self.created = self.is_empty = True
        self.has_spoken = False
        self._begun = False  # the number of the last message is known
        self._live = True  # what comes is of now, and nothing before it is missing
        self._resent: deque[int] = deque(maxlen=1000)  # messages that came because they were asked for again
        self._acknowledge: deque[tuple[asyncio.Future[None] | None, int]] = deque()
        self._under_way: deque[tuple[asyncio.Future[None], int, float]] = deque()
        self._bytes_under_way = 0

    @staticmethod
    async def create(session: Session, taker: Taker) -> "Subscription":
        """Create one without items."""
        result = await services.create(session)
        return Subscription(session, taker, result.SubscriptionId, result)

    def goes_on(self, sequence: int, up_to: int | None) -> None:
        """It is of an earlier session, which took its messages up to a number; what it says counts from its first values on."""
        self.created = self.is_empty = self._live = False
        self._begun, self.sequence = True, sequence
        if up_to is not None:
            self.up_to = up_to

    async def catch_up_with(self, available: Sequence[int]) -> None:
        """Ask for the messages that the session before did not take, given the numbers that the server still has."""
        steps_to = {_behind(self.sequence, number): number for number in available}
        ahead = [steps_to[steps] for steps in sorted(steps_to) if 0 < steps < NUMBERS // 2]
        self._acknowledge.extend((None, number) for number in set(steps_to.values()).difference(ahead))
        if ahead:
            await self._catch_up(ahead[-1], ahead)

    def on_disk(self) -> Iterable[Acknowledgement]:
        """The messages whose values are on disk since the last call."""
        while self._acknowledge:
            future, number = self._acknowledge[0]
            if future is not None and (not future.done() or future.cancelled() or future.exception() is not None):
                break
            self._acknowledge.popleft()
            yield self.id, number

    async def settle(self) -> None:
        """Wait while too much is on the way to the disk; the server's queues take the strain."""
        while self._under_way:
            future, size, since = self._under_way[0]
            if not future.done() and self._bytes_under_way <= _BYTES and self.heard - since <= _LATE:
                return
            await future
            self._under_way.popleft()
            self._bytes_under_way -= size

    async def take(self, data: bytes, message: Notification) -> None:
        """Take a message that came, after those before it.

        Raises:
            ConnectionError: The server ended the subscription.
        """
        self.has_spoken = True
        self.heard = time.monotonic()
        number = message.sequence
        if not self._begun:
            self._begun = True
            self.sequence = 0 if number <= _FIRST else number - 1
        if message.parts:
            if number in self._resent:
                self._resent.remove(number)  # it was late, not lost
                return
            await self._catch_up((number - 2) % NUMBERS + 1, message.available)
            self._live = True
            await self._take(data, message)
        else:  # a keep-alive; it has the number of the next message
            if number != self.sequence:  # as some servers say
                await self._catch_up((number - 2) % NUMBERS + 1, message.available)
            if self._live:
                self.up_to = microseconds_now()
            self._taker.quiet()

    async def _take(self, data: bytes, message: Notification) -> None:
        for kind, start, _ in message.parts:
            if kind == STATUS_CHANGE:
                status = int.from_bytes(data[start : start + 4], "little")
                if not status & 0xC0000000:
                    continue  # it was handed over; some servers say so to the session that has it now
                msg = f"the server ended the subscription with status 0x{status:08X}"
                raise ConnectionError(msg)
        before = self.sequence, self.up_to
        self.sequence = message.sequence  # the taker's state says so
        if self._live:
            self.up_to = microseconds_now()
        try:
            future = await self._taker.take(data, message, before[1])
        except BaseException:
            self.sequence, self.up_to = before
            raise
        if future is not None:
            self._under_way.append((future, len(data), self.heard))
            self._bytes_under_way += len(data)
        self._acknowledge.append((future, message.sequence))

    async def _catch_up(self, last: int, available: Sequence[int]) -> None:
        """Ask again for the messages up to `last` that did not come, and say which of them are lost."""
        missing = _behind(self.sequence, last)
        if not missing:
            return
        if missing > NUMBERS // 2:  # it began to count anew
            self._lost(f"the subscription goes on with notification {last + 1} after {self.sequence}")
            self.sequence = last
            return
        there = {steps for number in available if 0 < (steps := _behind(self.sequence, number)) <= missing}
        asked = sorted(there | set(range(1, min(missing, _MOST_MISSING) + 1)))
        before, taken = self.sequence, 0
        for steps in asked:
            number = (before + steps - 1) % NUMBERS + 1
            message = await services.republish(self._session, self.id, number)
            if message is None or message[1].sequence != number:
                continue
            self._say_lost(before, taken, steps)
            taken = steps
            self._resent.append(number)
            await self._take(*message)
            await self.settle()
        self._say_lost(before, taken, missing + 1)
        self.sequence = last

    def _say_lost(self, before: int, taken: int, steps: int) -> None:
        if steps > taken + 1:
            first, last = ((before + at - 1) % NUMBERS + 1 for at in (taken + 1, steps - 1))
            self._lost(f"notifications {first} to {last} of the subscription did not come")

    def _lost(self, reason: str) -> None:
        self._taker.lost(self.id, self.up_to, reason)


def _behind(number: int, other: int) -> int:
    """How many messages after `number` the `other` comes."""
    return (other - number) % NUMBERS
