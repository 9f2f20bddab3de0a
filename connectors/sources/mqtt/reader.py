"""One connection to a broker: messages into the intake, acknowledgements out of it."""

import asyncio
import logging
import time
import zlib
from collections import Counter, deque
from typing import Any, Final

import msgspec

from connectors.contract import Intake, SourceState
from connectors.sources.mqtt.config import MqttConfig
from connectors.sources.mqtt.known import KnownTags
from connectors.sources.mqtt.payload import Decoder
from connectors.sources.mqtt.repeated import Received, Unreleased
from connectors.sources.sparkplug import SparkplugHost, SparkplugLink
from connectors.wire.mqtt import MqttSession, RefusedError
from connectors.wire.mqtt_packets import PUBACK, PUBCOMP, PUBREC, QOS, Publishes
from connectors.wire.mqtt_settings import SessionSettings
from connectors.wire.mqtt_status import OFFLINE, ONLINE
from normalization.reading import Columns

_log = logging.getLogger(__name__)

_MAX_BYTES_WAITING = 64 * 1024 * 1024
_ANSWERS: Final = {2: PUBACK, 4: PUBREC}  # by QoS, as it stands in a packet's head
_NO_RETAIN: Final = 0x9A  # reason code of CONNACK
_SLICE = 100  # topics that are looked up before the loop has its turn
_PACE = 1.0  # seconds after which the state goes along with readings, so that a gap has a beginning
_PACE_PER_TOPIC = 50e-6  # seconds after which new tags do, for each topic; to write them takes a fiftieth of that


class _Stored(msgspec.Struct, array_like=True):
    """The reader's state as it is committed, what changes most at its beginning: the rest is not written again then.

    `heard` is when the broker last spoke, µs since the epoch, 0 for never; `unreleased` has the packet ids of QoS 2;
    `births` and `progress` are the Sparkplug host's; `aside` has ring, next slot, subscriptions and packet ids of sessions at
    other brokers.
    """

    heard: int = 0
    next_slot: int = 0
    progress: bytes = b""
    ring: bytes = b""
    subscriptions: list[tuple[str, int]] = []
    client_id: str = ""
    births: bytes = b""
    known: bytes = b""
    unreleased: bytes = b""
    aside: dict[str, tuple[bytes, int, list[tuple[str, int]], bytes]] = {}

    @staticmethod
    def decode(state: bytes) -> "_Stored":
        """What was encoded; raises MsgspecError or ValueError for anything else."""
        fields = msgspec.msgpack.decode(state, type=list[Any])
        if len(fields) > 3 and isinstance(fields[3], list):  # written before there was `progress`
            fields.insert(2, b"")
        return msgspec.convert(fields, _Stored)


def subscriptions(config: MqttConfig) -> list[tuple[str, int]]:
    """Topic filters and their QoS."""
    return [(rule.topic, int(rule.qos)) for rule in config.rules()]


def session_settings(config: MqttConfig, endpoint: str, client_id: str) -> SessionSettings:
    """How to connect to one of the brokers."""
    return SessionSettings(
        endpoint=endpoint,
        client_id=client_id,
        v5=config.version == "5",
        clean=config.clean_session,
        username=config.username,
        password=config.password.get_secret_value() if config.password else None,
        tls=config.tls,
        keepalive=round(config.keepalive),
        session_expiry=round(config.session_expiry),
        receive_maximum=config.receive_maximum,
        max_packet=config.max_message_size,
        connect_timeout=config.connect_timeout,
    )


class Connection:
    """One connection: its messages, the rows on their way to the disk, and what is to be acknowledged then.

    Attributes:
        began: When the broker accepted, on the monotonic clock; None before.
    """

    def __init__(
        self,
        config: MqttConfig,
        endpoint: str,
        client_id: str,
        intake: Intake,
        state: bytes | None,
        counts: Counter[str],
        *,
        status: str | None = None,
    ) -> None:
        self._config = config
        self._endpoint = endpoint
        self._counts = counts
        self._status = status
        self._status_name = (status or "").encode()
        self.began: float | None = None
        self._intake = intake
        self._loop = asyncio.get_running_loop()
        self._rows = Columns()
        self._answers: list[int] = []  # see `PUBACK`
        self._bytes = 0
        self._waiting: deque[tuple[asyncio.Future[None], list[int], int, int]] = deque()
        self._rows_waiting = self._bytes_waiting = 0
        self._dirty = self._told = False
        self._stated, self._dumped = self._loop.time(), float("-inf")
        self._decoder = Decoder(config, intake.tag)
        names = {one: client_id if one == config.endpoint else f"{client_id} at {one}" for one in config.endpoints}
        try:
            self._restore(names[endpoint], set(names.values()), state)
        except (msgspec.MsgspecError, zlib.error, ValueError) as error:
            _log.warning("source %s: its state cannot be read and is begun anew: %s", config.name, error)
            self._restore(names[endpoint], set(), None)
        self._session = MqttSession(session_settings(config, endpoint, client_id), self._begin, self._take)
        self._sparkplug = SparkplugLink(
            config.name,
            self._host,
            intake,
            publish=self._session.publish,
            commit=self._commit,
            rebirth=config.sparkplug.rebirth,
            host_id=config.sparkplug.host_id,
        )
        self._decoder.on_sparkplug = self._sparkplug.take

    def _restore(self, name: str, names: set[str], state: bytes | None) -> None:
        """Begin with what was committed last; what is said of another session is put aside for when it is that one's turn.

        Args:
            name: The session: the client id, and at a fallback the broker.
            names: All sessions that the source has.
            state: What was committed.
        """
        config, decoder = self._config, self._decoder
        stored = _Stored.decode(state) if state else _Stored()
        if stored.client_id != name:
            aside = stored.aside | {
                stored.client_id: (stored.ring, stored.next_slot, stored.subscriptions, stored.unreleased)
            }
            ring, next_slot, subscriptions, unreleased = aside.pop(name, (b"", 0, [], b""))
            stored = _Stored(
                births=stored.births,
                progress=stored.progress,
                client_id=name,
                known=stored.known,
                heard=stored.heard,
                ring=ring,
                next_slot=next_slot,
                subscriptions=subscriptions,
                unreleased=unreleased,
                aside={one: kept for one, kept in aside.items() if one in names},
            )
        self._stored = stored
        self._received = Received(config.receive_maximum, bound=config.version == "5")
        self._received.load(stored.ring, stored.next_slot)
        self._unreleased = Unreleased(stored.unreleased)
        self._host = SparkplugHost(
            decoder.sparkplug_tag,
            decoder.reject_tag,
            rebirth_interval=config.sparkplug.rebirth_interval,
            reorder_timeout=config.sparkplug.reorder_timeout,
            counts=self._counts,
        )
        self._host.restore(stored.births, stored.progress, time.monotonic())
        self._known = KnownTags(stored.known)

    async def run(self) -> None:
        """Read until the connection is lost or the task cancelled."""
        intake, session = self._intake, self._session
        intake.state(SourceState.CONNECTING)
        try:
            will = self._sparkplug.will() if self._status is None else (self._status, OFFLINE)
            if will is not None:
                session.client.will_set(*will, qos=1, retain=True)
            present = await self._open()
            trouble = await self._subscribe(present)
            await self._tell_gaps(present)
            self._sparkplug.begin()
            self._say(ONLINE)
            intake.state(SourceState.CONNECTED, trouble)
            await asyncio.shield(session.lost)
        except asyncio.CancelledError:
            self._flush_all()
            self._sparkplug.leave()
            self._say(OFFLINE)  # the broker forgets the will
            await session.close()
            raise
        except Exception as error:
            session.fail(error)
            intake.state(SourceState.DOWN, str(error))
            self._flush_all()
            # the next connection starts from what was committed, so this one's rows have to be
            if self._waiting:
                await asyncio.wait([future for future, *_ in self._waiting])
            raise

    def end(self, reason: str) -> None:
        """Break the connection off; the session and what it holds stay at the broker."""
        self._session.fail(ConnectionError(reason))

    async def _open(self) -> bool:
        try:
            return await self._session.open()
        except RefusedError as error:
            if error.code != _NO_RETAIN:
                raise
            raise RefusedError(
                f"{error}: leave out `status_topic` (or `sparkplug.host_id`), which needs retained messages", error.code
            ) from error

    def _say(self, status: bytes) -> None:
        """Say in the status topic how this end is; not before the broker has accepted."""
        if self._status is not None and self.began is not None:
            self._session.publish(self._status, status, qos=1, retain=True)

    def _begin(self, present: bool) -> None:
        """The broker has accepted; no message has come yet."""
        self.began = time.monotonic()
        self._host.reconnected(present)
        if not present:
            self._received.load(b"", 0)
            self._unreleased = Unreleased()
            self._stored.subscriptions = []
            self._dirty = True

    async def _tell_gaps(self, present: bool) -> None:
        """Record what the broker did not keep for us: all without our session, with it what is sent at QoS 0."""
        start, end = self._stored.heard, time.time_ns() // 1000
        if present:
            reason = "not connected, and the broker keeps no messages of QoS 0"
        elif self._config.clean_session:
            reason = "not connected, with a clean session"
        else:
            reason = "not connected, and the broker had forgotten the session"
        lost: list[int] = []
        for at, (name, (kept, fields)) in enumerate(list(self._known.topics.items())):
            if at % _SLICE == _SLICE - 1:
                await asyncio.sleep(0)  # the loop has other sources
            tags = self._decoder.tags_of(name, fields)  # all of them, so that they go stale with the broker
            if not (present and kept):
                lost += tags
        if self._config.has_sparkplug:
            lost += self._host.tags()  # births and data have to be QoS 0 (tck-id-payloads-ndata-qos)
        if lost and 0 < start <= end:  # else it is the first connection, or the clock was set back
            self._intake.gap(lost, start, end, reason)
        self._told = True

    async def _subscribe(self, present: bool) -> str:
        """Subscribe to what is new, unsubscribe what is gone; returns what the broker refused, in words."""
        wanted = subscriptions(self._config)
        known = [(name, qos) for name, qos in self._stored.subscriptions] if present else []
        known = [pair for pair in known if pair[0] != self._sparkplug.state_topic]  # that is subscribed to each time
        gone = [name for name, _ in known if name not in dict(wanted)]
        if gone:
            await self._session.unsubscribe(gone)
        new = [pair for pair in wanted if pair not in known]
        granted, trouble = [pair for pair in wanted if pair in known], []
        if new:
            answers = await self._session.subscribe(new)
            for (name, qos), answer in zip(new, answers, strict=False):
                if answer.is_failure:
                    trouble.append(f"`{name}` is refused: {answer}")
                else:
                    granted.append((name, qos))
                    if answer.value < qos:
                        trouble.append(f"`{name}` is granted at QoS {answer.value} only")
        if not granted:
            raise RefusedError(f"{self._endpoint}: {'; '.join(trouble)}")
        if granted != self._stored.subscriptions:
            self._stored.subscriptions = granted
            self._dirty = True
            self._flush()
        for refusal in trouble:
            _log.warning("source %s: subscription %s", self._config.name, refusal)
        return "; ".join(trouble)

    def _take(self, messages: Publishes, releases: list[int]) -> None:
        """The messages of one network read, and the packet ids that the broker releases."""
        if messages:
            messages = self._news(messages)
            if self._status is not None and self._status_name in messages.topics:
                others = [at for at, topic in enumerate(messages.topics) if topic != self._status_name]
                messages = messages.pick(others)  # what it says of itself is no reading
            self._decoder.decode(messages, self._rows)
            self._dirty = self._dirty or self._host.changed or self._host.holding
            self._bytes += sum(map(len, messages.payloads))
        for packet_id in releases:
            self._unreleased.release(packet_id)
            self._answers.append(PUBCOMP | packet_id)
            self._dirty = True
        self._flush()

    def _news(self, messages: Publishes) -> Publishes:
        """Those that were not taken before; the others too are answered when what they repeat is on disk."""
        heads = messages.heads
        levels = {head & QOS for head in set(heads)}
        if levels == {0}:
            return messages
        if len(levels) == 1:
            kind = _ANSWERS[levels.pop()]
            self._answers += [kind | packet_id for packet_id in messages.packet_ids]
            again = set((self._received if kind == PUBACK else self._unreleased).take(messages))
        else:
            pairs = zip(heads, messages.packet_ids, strict=True)
            self._answers += [_ANSWERS[head & QOS] | packet_id for head, packet_id in pairs if packet_id]
            again = set()
            for level, taken in (2, self._received), (4, self._unreleased):
                places = [place for place, head in enumerate(heads) if head & QOS == level]
                if places:
                    again.update([places[place] for place in taken.take(messages.pick(places))])
        self._dirty = self._dirty or len(again) < len(heads)
        return messages.pick([place for place in range(len(heads)) if place not in again]) if again else messages

    def _commit(self, state: bool) -> Columns:
        """Hand the rows over, if `state` with the state; returns where rows go from then on."""
        if state:
            self._dirty = True
            self._flush()
        return self._rows

    def _flush_all(self) -> None:
        """The last rows of a connection, with a state that says until when it lasted."""
        self._sparkplug.end(self._rows)
        if self._told:
            self._dirty = self._host.changed = True
            self._dumped = float("-inf")
        self._flush()

    def _flush(self) -> None:
        """Hand the rows over; their messages are acknowledged when the intake has them on disk."""
        if not len(self._rows) and not self._answers and not self._dirty:
            return
        rows, answers, count, size = self._rows, self._answers, len(self._rows), self._bytes
        self._dirty = self._dirty or self._knows_more() or self._loop.time() - self._stated >= _PACE
        self._rows, self._answers, self._bytes = Columns(), [], 0
        if count or self._dirty:
            future = self._intake.append(rows, self._state() if self._dirty else None)
        elif self._waiting:
            future = self._waiting[-1][0]  # repetitions only: what they repeat may still be on its way
        else:
            self._session.acknowledge(answers)
            return
        self._waiting.append((future, answers, count, size))
        self._rows_waiting += count
        self._bytes_waiting += size
        if self._rows_waiting > self._config.max_unacknowledged or self._bytes_waiting > _MAX_BYTES_WAITING:
            self._session.pause()
        future.add_done_callback(self._settle)

    def _knows_more(self) -> bool:
        pace = _PACE_PER_TOPIC * len(self._known.topics)
        return self._decoder.grown and self._loop.time() - self._dumped >= pace

    def _state(self) -> bytes:
        self._dirty = False
        self._received.trim(self._session.confirmed)
        stored, now = self._stored, self._loop.time()
        stored.ring, stored.next_slot = self._received.dump()
        stored.unreleased = self._unreleased.dump()
        if self._told:  # until then a gap that is not recorded yet begins where it did
            stored.heard = time.time_ns() // 1000 - round((now - self._session.heard) * 1e6)
        if self._host.changed:
            stored.births = self._host.state()
        stored.progress = self._host.progress()
        if self._knows_more():
            self._decoder.grown, self._dumped = False, now
            self._known.update(self._decoder.seen())
            stored.known = self._known.dump()
        self._stated = now
        return msgspec.msgpack.encode(stored)

    def _settle(self, _done: "asyncio.Future[None]") -> None:
        """Acknowledge what is on disk, in receipt order, and only on the connection that it came by."""
        answers: list[int] = []
        while self._waiting and self._waiting[0][0].done():
            future, words, count, size = self._waiting[0]
            error = asyncio.CancelledError() if future.cancelled() else future.exception()
            if error is not None:
                self._session.fail(ConnectionError(f"the journal did not take the readings: {error!r}"))
                self._waiting.clear()
                return
            self._waiting.popleft()
            self._rows_waiting -= count
            self._bytes_waiting -= size
            answers += words
        self._session.acknowledge(answers)
        if not self._received.bound and len(self._received) > self._received.limit:
            self._session.ping()
        few = self._rows_waiting <= self._config.max_unacknowledged // 2
        if few and self._bytes_waiting <= _MAX_BYTES_WAITING // 2:
            self._session.resume()
