"""The host at work on one MQTT connection: its timers, its commands to edge nodes, and its own STATE."""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Protocol

from connectors.contract import Intake
from connectors.sources.sparkplug.host import SparkplugHost
from connectors.sources.sparkplug.nodes import RebirthRequest
from connectors.wire.sparkplug import parse_topic, rebirth_command, says_offline, state_payload, state_topic
from normalization.reading import Columns

_log = logging.getLogger(__name__)

_PACE = 0.05  # seconds after which progress is committed, so that a kill costs no births
_PACE_PER_BYTE = 4e-7  # the same for each byte of the births, which are compared then: a hundredth of a core at most


class Publish(Protocol):
    """Sends a message."""

    def __call__(self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False) -> None:
        """As `MqttSession.publish` does."""


class SparkplugLink:
    """Gives a host its messages and does what it asks for.

    Attributes:
        host: The state machine.
        state_topic: Topic of the STATE of this host application; None for none.
    """

    def __init__(
        self,
        source: str,
        host: SparkplugHost,
        intake: Intake,
        *,
        publish: Publish,
        commit: Callable[[bool], Columns],
        rebirth: bool,
        host_id: str | None,
    ) -> None:
        """A link that has no connection yet.

        Args:
            source: Name of the source.
            host: The state machine.
            intake: Where gaps are told.
            publish: Sends a message.
            commit: Hands over what was read, with the state if True; returns where readings go from then on.
            rebirth: Edge nodes may be asked for their births.
            host_id: Name of the host application whose STATE is published; None for none.
        """
        self.host = host
        self._source = source
        self._intake = intake
        self._publish = publish
        self._commit = commit
        self._rebirth = rebirth
        self.state_topic = state_topic(host_id) if host_id else None
        self._timestamp = 0
        self._begun = False
        self._asked: list[RebirthRequest] = []  # before the connection had begun
        self._loop = asyncio.get_running_loop()
        self._wait: asyncio.TimerHandle | None = None
        self._pace: asyncio.TimerHandle | None = None

    def will(self) -> tuple[str, bytes] | None:
        """Topic and payload of the will of the connection that is about to be made, QoS 1 and retained; None for none."""
        if self.state_topic is None:
            return None
        self._timestamp = _now_ms()
        return self.state_topic, state_payload(online=False, timestamp=self._timestamp)

    def begin(self) -> None:
        """The connection stands and all is subscribed to: say so, and ask those for births that may have missed us."""
        self._begun = True
        self._say_online()  # before anything else is published
        self._send([*self._asked, *self.host.unborn(time.monotonic())])
        self._wait_more()

    def take(self, name: str, payload: bytes, head: int, rows: Columns) -> None:
        """Take one message; its readings are appended to `rows`."""
        topic = parse_topic(name)
        if topic is not None:
            now = time.monotonic()
            self._send(self.host.receive(topic, payload, head, now, rows))
            self._tell_missed(now)
            if self._pace is None:
                self._pace = self._loop.call_later(_PACE + self.host.size * _PACE_PER_BYTE, self._settle)
            self._wait_more()
        elif self._begun and name == self.state_topic and says_offline(payload):
            _log.warning("source %s: somebody said that %s is offline", self._source, name)
            self._say_online()

    def end(self, rows: Columns) -> None:
        """The connection is lost or about to be ended: what waits is read; if it never stood, it waits for the next."""
        for timer in (self._wait, self._pace):
            if timer is not None:
                timer.cancel()
        self._wait = self._pace = None
        if self._begun:
            now = time.monotonic()
            self.host.disconnected(now, rows)
            self._tell_missed(now)

    def leave(self) -> None:
        """Say that the connection is about to be ended on purpose: the broker forgets the will then."""
        if self._begun and self.state_topic is not None:
            self._publish(self.state_topic, state_payload(online=False, timestamp=_now_ms()), qos=1, retain=True)

    def _say_online(self) -> None:
        if self.state_topic is not None:
            self._publish(self.state_topic, state_payload(online=True, timestamp=self._timestamp), qos=1, retain=True)

    def _wait_more(self) -> None:
        """See to it that what is held is not held for too long."""
        deadline = self.host.deadline() if self._wait is None else None
        if deadline is not None:
            self._wait = self._loop.call_later(max(0.0, deadline - time.monotonic()), self._expire)

    def _expire(self) -> None:
        self._wait = None
        now = time.monotonic()
        self._send(self.host.expire(now, self._commit(False)))
        self._tell_missed(now)
        self._commit(True)
        self._wait_more()

    def _settle(self) -> None:
        self._pace = None
        self._commit(True)

    def _send(self, requests: list[RebirthRequest]) -> None:
        if not self._rebirth:
            return
        if not self._begun:
            self._asked += requests
            return
        for request in requests:
            _log.info(
                "source %s: edge node %s/%s is asked for its births: %s",
                self._source,
                request.group,
                request.node,
                request.reason,
            )
            self._publish(request.topic, rebirth_command(_now_ms()))

    def _tell_missed(self, now: float) -> None:
        wall = time.time_ns() // 1000
        for missed in self.host.missed:
            start, end = (wall - round((now - moment) * 1e6) for moment in (missed.since, missed.until))
            self._intake.gap(missed.tags, start, end, missed.reason)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
