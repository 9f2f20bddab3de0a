"""The publish loop of a session: its subscriptions, and the requests that their messages come by (OPC 10000-4 clause 5.14).

A server that takes no more items in one subscription gets further ones. Several PublishRequests are open at once, for all of them.
Subscriptions outlive their session: the next one takes them over, and asks for what was not on disk.
"""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Iterable, Sequence

from asyncua import ua
from asyncua.ua.status_codes import StatusCodes
from asyncua.ua.uaerrors import UaError, UaStatusCodeError

from connectors.sources.opcua import services
from connectors.sources.opcua.binary import response_header
from connectors.sources.opcua.channel import Acknowledgement
from connectors.sources.opcua.notification import notification
from connectors.sources.opcua.session import Session
from connectors.sources.opcua.state import Position
from connectors.sources.opcua.subscription import Subscription, Taker

_log = logging.getLogger(__name__)

_NEVER = {  # why a server hands no subscription over, and will not next time
    StatusCodes.BadServiceUnsupported,
    StatusCodes.BadNotImplemented,
    StatusCodes.BadNotSupported,
}
Placed = tuple[int, ua.MonitoredItemCreateResult]
"""What the server says to an item, and the id of the subscription that it was to be created in."""


class Publishing:
    """The subscriptions of one session.

    Args:
        session: The session.
        taker: Gets the messages, in order.

    Attributes:
        subscriptions: By id.
        heard: When the server last answered, by the monotonic clock.
        cannot_be_taken_over: The server hands no subscription over to us.
        denied: The server did not hand the subscriptions over to our user; some do from a session that is still open.
    """

    def __init__(self, session: Session, taker: Taker) -> None:
        self._config = session.config
        self._session = session
        self._taker = taker
        self.subscriptions: dict[int, Subscription] = {}
        self.heard = time.monotonic()
        self.cannot_be_taken_over, self.denied = not session.hands_over, False
        self._requests = self._config.publish_requests
        self._answers: deque[asyncio.Future[bytes]] = deque()
        self._open = 0
        self._deaf_since = self.heard  # as long as no request is open
        self._wake = asyncio.Event()

    # -- begin

    async def _another(self) -> Subscription:
        """One more subscription."""
        new = await Subscription.create(self._session, self._taker)
        self.subscriptions[new.id] = new
        wanted = self._config.publishing_interval
        if new.publishing_interval > 1000 * wanted:
            said = self._config.name, new.publishing_interval / 1000, wanted
            _log.info("source %s: the server publishes every %g s, not %g s", *said)
        return new

    async def add(
        self, items: Sequence[ua.MonitoredItemCreateRequest], timestamps: ua.TimestampsToReturn
    ) -> list[Placed]:
        """Create items, in further subscriptions as far as the last one is full; returns what the server says to each of them."""
        into = next(reversed(self.subscriptions.values()), None) or await self._another()
        placed = await self._add_to(into, items, timestamps)
        while full := [at for at, (_, result) in enumerate(placed) if result.StatusCode.value == services.FULL]:
            if into.is_empty:
                break
            try:
                into = await self._another()
            except UaStatusCodeError as error:
                _log.warning("source %s: no further subscription: %s", self._config.name, error)
                break
            _log.info("source %s: the server wants %d subscriptions", self._config.name, len(self.subscriptions))
            for at, again in zip(full, await self._add_to(into, [items[at] for at in full], timestamps), strict=True):
                placed[at] = again
        return placed

    async def _add_to(
        self, into: Subscription, items: Sequence[ua.MonitoredItemCreateRequest], timestamps: ua.TimestampsToReturn
    ) -> list[Placed]:
        results = await services.add_items(self._session, into.id, items, timestamps)
        into.is_empty &= all(result.StatusCode.value == services.FULL for result in results)
        return [(into.id, result) for result in results]

    async def take_over(self, position: Position, *, initial: bool, up_to: int | None) -> bool:
        """Take over the subscriptions of an earlier session (clause 5.14.7), all of them or none.

        Args:
            position: Where they stand.
            initial: Have the server send the current values too.
            up_to: Until when nothing is missing, µs since the epoch.

        Returns:
            Whether they could be; if not, there is none.
        """
        if self.cannot_be_taken_over:
            return False
        ids = [subscription for subscription, _ in position.subscriptions]
        available: list[Sequence[int]] = []
        try:
            results = await services.transfer(self._session, ids, initial=initial)
            for (id_, sequence), result in zip(position.subscriptions, results, strict=True):
                result.StatusCode.check()
                subscription = Subscription(self._session, self._taker, id_, await services.modify(self._session, id_))
                subscription.goes_on(sequence, up_to)
                self.subscriptions[id_] = subscription
                available.append(result.AvailableSequenceNumbers or ())
        except (UaError, ValueError) as error:
            code = error.code if isinstance(error, UaStatusCodeError) else 0
            self.cannot_be_taken_over, self.denied = code in _NEVER, code == StatusCodes.BadUserAccessDenied
            said = str(error) or type(error).__name__
            _log.info("source %s: subscriptions %s not taken over: %s", self._config.name, ids, said)
            if self.subscriptions:
                self.subscriptions.clear()
                await self.delete(ids)
            return False
        for subscription, numbers in zip(list(self.subscriptions.values()), available, strict=True):
            await subscription.catch_up_with(numbers)
        return True

    def abandon(self, ids: Iterable[int]) -> None:
        """Listen no more to subscriptions that are silent."""
        for id_ in ids:  # some servers hand over a subscription and then forget it
            self.cannot_be_taken_over |= not self.subscriptions.pop(id_).created
        if not self.subscriptions:
            self._open = 0

    async def delete(self, ids: Sequence[int]) -> None:
        """Have the server forget subscriptions; not before there are others: without one our requests are refused."""
        with contextlib.suppress(UaStatusCodeError):
            await self._session.uaclient.delete_subscriptions(list(ids))

    # -- publish

    async def run(self) -> None:
        """Take messages until something fails.

        Raises:
            ConnectionError: The connection is lost, or the server ended a subscription.
        """
        self._session.channel.stray = self._stray
        while True:
            for subscription in list(self.subscriptions.values()):
                await subscription.settle()
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
                    taking = self.subscriptions.get(message.subscription)
                    if taking is not None:  # else a leftover
                        await taking.take(data, message)

    def silence(self) -> dict[int, float]:
        """For how many seconds each subscription has said nothing although it could."""
        if self._answers:
            return dict.fromkeys(self.subscriptions, 0.0)
        until = time.monotonic() if self._open else self._deaf_since
        return {id_: max(0.0, until - subscription.heard) for id_, subscription in self.subscriptions.items()}

    def _ask(self) -> None:
        wanted = self._requests - self._open
        if wanted <= 0:
            return
        if not self._open:
            now = time.monotonic()
            for subscription in self.subscriptions.values():  # nobody could hear it
                subscription.heard += now - max(self._deaf_since, subscription.heard)
        asked: list[list[Acknowledgement]] = [[] for _ in range(wanted)]
        for subscription in self.subscriptions.values():
            asked[0] += subscription.on_disk()
        for answer in self._session.channel.publish(asked):
            answer.add_done_callback(self._answered)
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
        if not self._open:
            self._deaf_since = self.heard
        self._wake.set()

    def _refused(self, status: int) -> None:
        if status == StatusCodes.BadTooManyPublishRequests:
            self._open = max(1, self._open)  # the oldest was let go of for the newest, which is open (clause 5.14.5)
            if self._requests > 1:
                self._requests = max(1, min(self._requests - 1, self._open))
                _log.info("source %s: the server takes %d publish requests", self._config.name, self._requests)
        elif status == StatusCodes.BadNoSubscription:
            msg = "the server has no subscription of ours any more"
            raise ConnectionError(msg)
        elif status not in (StatusCodes.BadTimeout, StatusCodes.BadRequestTimeout):
            ua.StatusCode(ua.UInt32(status)).check()
