"""Takes messages out of an outbox and sends them, in order: what fails is tried again, what is refused is left out and counted."""

import random
import threading
from collections.abc import Callable
from typing import Final

import structlog

from connectors.contract import TransientError
from delivery import metrics
from delivery.disk import StoreError
from delivery.outbox import Message, Outbox
from delivery.retry import RetryPolicy
from flows.telemetry.post import Answer, Post

log = structlog.get_logger()

_RETRY: Final = RetryPolicy(first=1.0, cap=60.0)
_LOOK: Final = 30.0  # seconds

Rejected = Callable[[bytes], tuple[int, str]]


def later(code: int) -> bool:
    """Whether remote write 1.0 wants a request that was answered so to be sent again."""
    return code >= 500 or code == 429


def later_otlp(code: int) -> bool:
    """Whether OTLP over HTTP wants a request that was answered so to be sent again."""
    return code in (429, 502, 503, 504)


class Sender:
    """Sends what waits in an outbox, in a thread of its own.

    Args:
        what: What is sent, in metrics and log.
        outbox: Where it waits.
        post: Sends it.
        again: Whether a request that was answered with this status is sent again.
        rejected: Reads from an answer how many points of a request were not taken, and why.
        retry: When to try again.
    """

    def __init__(
        self,
        what: str,
        outbox: Outbox,
        post: Post,
        again: Callable[[int], bool],
        rejected: Rejected = lambda _: (0, ""),
        retry: RetryPolicy = _RETRY,
    ) -> None:
        self.what, self.outbox = what, outbox
        self._post, self._again, self._rejected, self._retry = post, again, rejected, retry
        self._more, self._ends, self._empty = threading.Event(), threading.Event(), threading.Event()
        self._failures = 0
        self._refuses = self._full = False
        self._thread = threading.Thread(target=self._run, name=f"telemetry {what}", daemon=True)
        metrics.TELEMETRY_SENT.labels(what)
        for reason in ("refused", "overflow", "disk", "clock"):
            metrics.TELEMETRY_DROPPED.labels(what, reason)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    @property
    def works(self) -> bool:
        """Whether the last message was answered."""
        return not self._failures

    def put(self, body: bytes, points: int, time: float) -> None:
        """Have a message sent."""
        try:
            lost = self.outbox.put(body, points, time)
        except StoreError as error:
            metrics.TELEMETRY_DROPPED.labels(self.what, "disk").inc(points)
            if not self._full:
                log.warning("telemetry has no room", what=self.what, error=str(error))
            self._full = True
            return
        self._full = False
        if lost:
            metrics.TELEMETRY_DROPPED.labels(self.what, "overflow").inc(lost)
        self._empty.clear()
        self._more.set()

    def close(self, patience: float) -> None:
        """Send what waits, if that takes no longer than `patience` seconds and works at all, and stop."""
        if self.works and self.outbox.oldest is not None:
            self._empty.wait(patience)
        self._ends.set()
        self._more.set()
        self._post.end()
        self._thread.join(patience)
        if not self._thread.is_alive():
            self._post.close()
        self.outbox.close()

    def _run(self) -> None:
        try:
            while not self._ends.is_set():
                self._more.clear()
                message = self.outbox.front()
                if message is None:
                    self._empty.set()
                    self._more.wait(_LOOK)
                else:
                    self._try(message)
        except StoreError as error:
            if self._ends.is_set():
                return  # it has closed meanwhile
            log.error("telemetry stops, its disk fails", what=self.what, error=str(error))

    def _try(self, message: Message) -> None:
        try:
            answer = self._post.send(message.body)
            if self._again(answer.code):
                raise TransientError(answer.said, answer.retry_after)
        except TransientError as error:
            if self._ends.is_set():
                return
            self._failures += 1
            if self._failures == 1:
                log.warning("telemetry cannot be sent", what=self.what, endpoint=self._post.address, error=str(error))
            self._ends.wait(self._retry.delay(self._failures, random.random(), error))  # noqa: S311 - spreads attempts
            return
        if self._failures:
            log.info("telemetry is sent again", what=self.what, endpoint=self._post.address)
        self._failures = 0
        self._answered(message, answer)
        self.outbox.settle(message)

    def _answered(self, message: Message, answer: Answer) -> None:
        refused, reason = (message.points, answer.said) if answer.code >= 300 else self._rejected(answer.body)
        metrics.TELEMETRY_SENT.labels(self.what).inc(message.points - refused)
        metrics.TELEMETRY_DROPPED.labels(self.what, "refused").inc(refused)
        if refused and not self._refuses:
            log.warning(
                "telemetry was refused", what=self.what, endpoint=self._post.address, points=refused, error=reason
            )
        self._refuses = refused > 0
