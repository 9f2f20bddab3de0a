"""A subscription and its publish loop (OPC 10000-4 clauses 5.13 and 5.14).

Several PublishRequests are open at once. A message is acknowledged only when its values are on disk, so that the server can be
asked for it again; messages whose numbers are missing are asked for before they are called lost. A subscription outlives its
session: the next one takes it over, and asks for what was not on disk.
"""

import asyncio
import contextlib
import logging
import math
import time
from collections import deque
from collections.abc import Sequence
from typing import Final, Protocol

from asyncua import ua
from asyncua.ua.status_codes import StatusCodes
from asyncua.ua.uaerrors import UaError, UaStatusCodeError

from connectors.sources.opcua import services
from connectors.sources.opcua.binary import response_header
from connectors.sources.opcua.channel import Acknowledgement
from connectors.sources.opcua.config import OpcUaConfig
from connectors.sources.opcua.notification import STATUS_CHANGE, Notification, notification
from connectors.sources.opcua.session import Session
from connectors.sources.opcua.state import NUMBERS, Position

_log = logging.getLogger(__name__)

_MOST_MISSING: Final = 100  # messages that are asked for again without the server having said that it has them
_FIRST: Final = 100  # a first message with a number below it means that those before it did not come
_LATE = 1.0  # seconds that the oldest message is not on disk, before we stop asking for more
_BYTES: Final = 1024 * 1024  # of messages that are not on disk, as well
_NEVER: Final = {  # why a server hands no subscription over, and will not next time
    StatusCodes.BadServiceUnsupported,
    StatusCodes.BadNotImplemented,
    StatusCodes.BadNotSupported,
}


class Taker(Protocol):
    """What becomes of a subscription's messages."""

    async def take(self, data: bytes, message: Notification) -> "asyncio.Future[None] | None":
        """Take a message; what is returned is done when it is on disk, None for at once."""

    def lost(self, reason: str) -> None:
        """Messages will never come."""

    def quiet(self) -> None:
        """The server says that there is nothing new."""


class Subscription:
    """The subscription of one session.

    Args:
        config: The source.
        session: Its session.
        taker: Gets the messages, in order.

    Attributes:
        id: Its id; 0 until it is there.
        keep_alive: Seconds within which the server says something.
        publishing_interval: Time between its messages, in ms, as the server revised it.
        heard: When it last did, by the monotonic clock.
        sequence: Number of the last message that was taken.
        cannot_be_taken_over: The server hands no subscription over to us.
        denied: The server did not hand the subscription over to our user; some do from a session that is still open.
        created: It is of this session, not taken over.
        has_spoken: A message of it came.
        is_empty: No item was created in it yet.
    """

    def __init__(self, config: OpcUaConfig, session: Session, taker: Taker) -> None:
        self._config = config
        self._session = session
        self._taker = taker
        self.id = 0
        self.keep_alive = math.inf
        self.publishing_interval = 1000 * config.publishing_interval
        self.heard = time.monotonic()
        self.sequence = 0
        self.cannot_be_taken_over, self.denied = not session.hands_over, False
        self.has_spoken = False
        self._begun = False  # the number of the last message is known
        self.created = False
        self._resent: deque[int] = deque(maxlen=1000)  # messages that came because they were asked for again
        self._requests = config.publish_requests
        self._answers: deque[asyncio.Future[bytes]] = deque()
        self._open = 0
        self._wake = asyncio.Event()
        self.is_empty = True
        self._further: dict[int, Subscription] = {}  # by id
        self._acknowledge: deque[tuple[asyncio.Future[None] | None, int]] = deque()
        self._under_way: deque[tuple[asyncio.Future[None], int, float]] = deque()
        self._bytes_under_way = 0
        self._waiting_since: float | None = None

    # -- begin

    def _revised(self, result: ua.CreateSubscriptionResult | ua.ModifySubscriptionResult) -> None:
        self.publishing_interval = result.RevisedPublishingInterval
        self.keep_alive = result.RevisedPublishingInterval / 1000 * result.RevisedMaxKeepAliveCount
        if self.publishing_interval > 1000 * self._config.publishing_interval:
            said = self._config.name, self.publishing_interval / 1000, self._config.publishing_interval
            _log.info("source %s: the server publishes every %g s, not %g s", *said)

    async def create(
        self, items: Sequence[ua.MonitoredItemCreateRequest], timestamps: ua.TimestampsToReturn
    ) -> list[ua.MonitoredItemCreateResult]:
        """Create it, with its items; returns what the server says to each of them."""
        result = await services.create(self._session)
        self.id = result.SubscriptionId
        self._revised(result)
        self.created, self._waiting_since = True, None
        return await self.add(items, timestamps)

    async def add(
        self, items: Sequence[ua.MonitoredItemCreateRequest], timestamps: ua.TimestampsToReturn
    ) -> list[ua.MonitoredItemCreateResult]:
        """Create items in it, and in further ones as far as it is full; returns what the server says to each of them."""
        results = await self._add_here(items, timestamps)
        full = [at for at, result in enumerate(results) if result.StatusCode.value == services.FULL]
        at_last = next(reversed(self._further.values()), None)
        while full:
            into = at_last or await self._another()
            at_last = None
            if into is None:
                break
            more = await into._add_here([items[at] for at in full], timestamps)  # noqa: SLF001 - one of its own class
            for at, result in zip(full, more, strict=True):
                results[at] = result
            if all(result.StatusCode.value == services.FULL for result in more) and into.is_empty:
                break
            full = [at for at in full if results[at].StatusCode.value == services.FULL]
        return results

    async def _another(self) -> "Subscription | None":
        """One more subscription of the same session, whose messages come by the requests of this one."""
        further = Subscription(self._config, self._session, self._taker)
        try:
            await further.create([], ua.TimestampsToReturn.Source)
        except UaStatusCodeError as error:
            _log.warning("source %s: no further subscription: %s", self._config.name, error)
            return None
        self._further[further.id] = further
        _log.info("source %s: the server wants %d subscriptions", self._config.name, len(self._further) + 1)
        return further

    @property
    def is_split(self) -> bool:
        """Whether there are further ones, since the server takes no more items in one."""
        return bool(self._further)

    async def _add_here(
        self, items: Sequence[ua.MonitoredItemCreateRequest], timestamps: ua.TimestampsToReturn
    ) -> list[ua.MonitoredItemCreateResult]:
        results = await services.add_items(self._session, self.id, items, timestamps)
        self.is_empty &= all(result.StatusCode.value == services.FULL for result in results)
        return results

    async def remove(self, ids: Sequence[int]) -> None:
        """Delete items of it, given their ids; not when it is split: ids are of one of them."""
        if self.is_split:
            return
        await services.remove_items(self._session, self.id, ids)

    async def not_monitored(self, handles: Sequence[int]) -> list[int]:
        """Which of these client handles have no item (OPC 10000-5 clause 9.1); none where the server does not say."""
        there = await services.client_handles(self._session, self.id)
        return [] if there is None else [handle for handle in handles if handle not in there]

    async def take_over(self, position: Position, *, initial: bool) -> bool:
        """Take over a subscription of an earlier session (clause 5.14.7).

        Args:
            position: Where it stands.
            initial: Have the server send the current values too.

        Returns:
            Whether it could be; if not, there is none.
        """
        if self.cannot_be_taken_over:
            return False
        try:
            available = await services.transfer(self._session, position.subscription, initial=initial)
            revised = await services.modify(self._session, position.subscription)
        except (UaError, ValueError) as error:
            code = error.code if isinstance(error, UaStatusCodeError) else 0
            self.cannot_be_taken_over, self.denied = code in _NEVER, code == StatusCodes.BadUserAccessDenied
            said = str(error) or type(error).__name__
            _log.info("source %s: subscription %d not taken over: %s", self._config.name, position.subscription, said)
            return False
        self._revised(revised)
        self.id, self.sequence, self._begun = position.subscription, position.sequence, True
        steps_to = {_behind(position.sequence, number): number for number in available}
        ahead = [steps_to[steps] for steps in sorted(steps_to) if 0 < steps < NUMBERS // 2]
        self._acknowledge.extend((None, number) for number in set(steps_to.values()).difference(ahead))
        if ahead:
            await self._catch_up(ahead[-1], ahead)
        return True

    async def renew(
        self, items: Sequence[ua.MonitoredItemCreateRequest], timestamps: ua.TimestampsToReturn
    ) -> list[ua.MonitoredItemCreateResult]:
        """Create another one in the place of one that is silent."""
        self.cannot_be_taken_over |= not self.created  # some servers hand over a subscription and then forget it
        abandoned = self.id
        self.id, self.sequence, self._open = 0, 0, 0
        self.has_spoken = self._begun = False
        self._acknowledge.clear()
        further, self._further = list(self._further), {}
        said = await self.create(items, timestamps)
        with contextlib.suppress(UaStatusCodeError):  # not before: without a subscription our requests are refused
            await self._session.uaclient.delete_subscriptions([abandoned, *further])
        return said

    # -- publish

    async def run(self) -> None:
        """Take messages until something fails.

        Raises:
            ConnectionError: The connection is lost, or the server ended the subscription.
        """
        self._session.channel.stray = self._stray
        while True:
            await self._settle()
            for further in self._further.values():
                await further._settle()  # noqa: SLF001 - one of its own class
            self._ask()
            while not self._answers:
                self._wake.clear()
                await self._wake.wait()
            while self._answers:
                answer = self._answers.popleft()
                data = answer.result()
                _, status, pos = response_header(data)
                if status & 0x80000000:
                    self._refused(status)
                else:
                    message = notification(data, pos)
                    taking = self._further.get(message.subscription, self)
                    await taking._take_in_order(data, message)  # noqa: SLF001 - one of its own class

    def silent(self) -> float:
        """For how many seconds the server has left our requests without an answer."""
        return time.monotonic() - self._waiting_since if self._waiting_since is not None else 0.0

    def _ask(self) -> None:
        wanted = self._requests - self._open
        if wanted <= 0:
            return
        asked: list[list[Acknowledgement]] = [[] for _ in range(wanted)]
        asked[0] = self._on_disk()
        for further in self._further.values():
            asked[0] += further._on_disk()  # noqa: SLF001 - one of its own class
        for answer in self._session.channel.publish(asked):
            answer.add_done_callback(self._answered)
        if self._waiting_since is None:
            self._waiting_since = time.monotonic()
        self._open += wanted

    def _answered(self, answer: "asyncio.Future[bytes]") -> None:
        if answer.cancelled():
            return
        answer.exception()  # it is seen, also when nobody goes on
        self._open = max(0, self._open - 1)
        self._heard(answer)

    def _stray(self, data: bytes) -> None:
        if len(self._answers) > 2 * self._requests:
            return  # if it is a message of ours, its number will be missing
        answer = asyncio.get_running_loop().create_future()
        answer.set_result(data)
        self._heard(answer)

    def _heard(self, answer: "asyncio.Future[bytes]") -> None:
        self._answers.append(answer)
        self.heard = time.monotonic()
        self._waiting_since = self.heard if self._open else None
        self._wake.set()

    def _refused(self, status: int) -> None:
        if status == StatusCodes.BadTooManyPublishRequests and self._requests > 1:
            self._requests = max(1, min(self._requests - 1, self._open))
            _log.info("source %s: the server takes %d publish requests", self._config.name, self._requests)
        elif status == StatusCodes.BadNoSubscription:
            msg = "the server has no subscription of ours any more"
            raise ConnectionError(msg)
        elif status not in (StatusCodes.BadTimeout, StatusCodes.BadRequestTimeout):
            ua.StatusCode(ua.UInt32(status)).check()

    def _on_disk(self) -> list[Acknowledgement]:
        """The messages whose values are on disk since the last request."""
        out = []
        while self._acknowledge:
            future, number = self._acknowledge[0]
            if future is not None and (not future.done() or future.cancelled() or future.exception() is not None):
                break
            self._acknowledge.popleft()
            out.append((self.id, number))
        return out

    async def _settle(self) -> None:
        """Wait while too much is on the way to the disk; the server's queues take the strain."""
        while self._under_way:
            future, size, since = self._under_way[0]
            if not future.done() and self._bytes_under_way <= _BYTES and self.heard - since <= _LATE:
                return
            await future
            self._under_way.popleft()
            self._bytes_under_way -= size

    async def _take_in_order(self, data: bytes, message: Notification) -> None:
        if message.subscription != self.id:
            return  # a leftover
        self.has_spoken = True
        number = message.sequence
        if not self._begun:
            self._begun = True
            self.sequence = 0 if number <= _FIRST else number - 1
        if message.parts:
            if number in self._resent:
                self._resent.remove(number)  # it was late, not lost
                return
            await self._catch_up((number - 2) % NUMBERS + 1, message.available)
            await self._take(data, message)
        else:  # a keep-alive; it has the number of the next message
            if number != self.sequence:  # as some servers say
                await self._catch_up((number - 2) % NUMBERS + 1, message.available)
            self._taker.quiet()

    async def _take(self, data: bytes, message: Notification) -> None:
        for kind, start, _ in message.parts:
            if kind == STATUS_CHANGE:
                status = int.from_bytes(data[start : start + 4], "little")
                if not status & 0xC0000000:
                    continue  # it was handed over; some servers say so to the session that has it now
                msg = f"the server ended the subscription with status 0x{status:08X}"
                raise ConnectionError(msg)
        before, self.sequence = self.sequence, message.sequence  # the taker's state says so
        try:
            future = await self._taker.take(data, message)
        except BaseException:
            self.sequence = before
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
            self._taker.lost(f"the subscription goes on with notification {last + 1} after {self.sequence}")
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
            await self._settle()
        self._say_lost(before, taken, missing + 1)
        self.sequence = last

    def _say_lost(self, before: int, taken: int, steps: int) -> None:
        if steps > taken + 1:
            first, last = ((before + at - 1) % NUMBERS + 1 for at in (taken + 1, steps - 1))
            self._taker.lost(f"notifications {first} to {last} of the subscription did not come")


def _behind(number: int, other: int) -> int:
    """How many messages after `number` the `other` comes."""
    return (other - number) % NUMBERS
