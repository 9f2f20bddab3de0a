"""The reader: one MQTT session, messages into the intake, acknowledgements out of it."""

import asyncio
import logging
import time
import zlib
from collections import deque
from dataclasses import replace
from typing import Final

import msgspec
from typing_extensions import override

from connectors.contract import Context, Finding, Intake, Reader, SourceState
from connectors.sources.mqtt.config import MqttConfig
from connectors.sources.mqtt.known import KnownTags
from connectors.sources.mqtt.payload import Decoder
from connectors.sources.mqtt.repeated import Received, Unreleased
from connectors.sources.sparkplug import RebirthRequest, SparkplugHost
from connectors.wire.mqtt import MqttSession, RefusedError
from connectors.wire.mqtt_packets import PUBACK, PUBCOMP, PUBREC, QOS, Publishes
from connectors.wire.mqtt_settings import SessionSettings
from connectors.wire.sparkplug import parse_topic, rebirth_command
from normalization.reading import Columns

_log = logging.getLogger(__name__)

_MAX_BYTES_WAITING = 64 * 1024 * 1024
_ANSWERS: Final = {2: PUBACK, 4: PUBREC}  # by QoS, as it stands in a packet's head
_SLICE = 100  # topics that are looked up before the loop has its turn
_PACE = 1.0  # seconds after which the state goes along with readings, so that a gap has a beginning
_PACE_PER_TOPIC = 50e-6  # seconds after which new tags do, for each topic; to write them takes a fiftieth of that


class _Stored(msgspec.Struct, array_like=True):
    """The reader's state as it is committed, what changes most at its beginning: the rest is not written again then.

    `heard` is when the broker last spoke, µs since the epoch, 0 for never; `unreleased` has the packet ids of QoS 2.
    """

    heard: int = 0
    next_slot: int = 0
    ring: bytes = b""
    subscriptions: list[tuple[str, int]] = []
    client_id: str = ""
    births: bytes = b""
    known: bytes = b""
    unreleased: bytes = b""


class MqttReader(Reader):
    """Reads one broker."""

    def __init__(self, config: MqttConfig, context: Context) -> None:
        """A reader of the source `config`."""
        self.config: Final = config
        self._client_id = config.client_id or f"{context.gateway}-{config.name}"

    @override
    async def run(self, intake: Intake, state: bytes | None) -> None:
        connection = _Connection(self.config, self._client_id, intake, state)
        await connection.run()

    async def check(self) -> list[Finding]:
        """Connect beside the running session, subscribe and leave again."""
        settings = replace(_session_settings(self.config, f"{self._client_id}-check"), clean=True)
        wanted = _subscriptions(self.config)
        session = MqttSession(settings, lambda _: None, lambda _, __: None)
        try:
            await session.open()
            findings = [Finding(True, self.config.endpoint, f"answers as MQTT {self.config.version}")]
            for (name, qos), answer in zip(wanted, await session.subscribe(wanted), strict=False):
                granted = not answer.is_failure
                detail = (
                    f"granted at QoS {answer.value}" if granted else f"refused: {answer}; ask for the right to read it"
                )
                findings.append(Finding(granted and answer.value >= qos, f"subscription `{name}`", detail))
            return findings
        except ConnectionError as error:
            return [Finding(False, self.config.endpoint, str(error))]
        finally:
            await session.close()


def _subscriptions(config: MqttConfig) -> list[tuple[str, int]]:
    return [(s.topic, int(s.qos)) for s in config.subscriptions] or [("#", 1)]


def _session_settings(config: MqttConfig, client_id: str) -> SessionSettings:
    return SessionSettings(
        endpoint=config.endpoint,
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


class _Connection:
    """One connection: its messages, the rows on their way to the disk, and what is to be acknowledged then."""

    def __init__(self, config: MqttConfig, client_id: str, intake: Intake, state: bytes | None) -> None:
        self._config = config
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
        self._decoder.on_sparkplug = self._sparkplug
        try:
            self._restore(client_id, state)
        except (msgspec.MsgspecError, zlib.error, ValueError) as error:
            _log.warning("source %s: its state cannot be read and is begun anew: %s", config.name, error)
            self._restore(client_id, None)
        self._session = MqttSession(_session_settings(config, client_id), self._begin, self._take)

    def _restore(self, client_id: str, state: bytes | None) -> None:
        """Begin with what was committed last."""
        config, decoder = self._config, self._decoder
        stored = msgspec.msgpack.decode(state, type=_Stored) if state else _Stored()
        if stored.client_id != client_id:  # another session: what is known of the old one says nothing
            stored = _Stored(births=stored.births, client_id=client_id, known=stored.known, heard=stored.heard)
        self._stored = stored
        self._received = Received(config.receive_maximum, bound=config.version == "5")
        self._received.load(stored.ring, stored.next_slot)
        self._unreleased = Unreleased(stored.unreleased)
        self._host = SparkplugHost(decoder.sparkplug_tag, decoder.reject_tag, config.sparkplug.rebirth_interval)
        if stored.births:
            self._host.restore(stored.births)
        self._known = KnownTags(stored.known)

    async def run(self) -> None:
        """Read until the connection is lost or the task cancelled."""
        intake, session = self._intake, self._session
        intake.state(SourceState.CONNECTING)
        try:
            present = await session.open()
            trouble = await self._subscribe(present)
            await self._tell_gaps(present)
            self._send(self._host.unborn(time.monotonic()))
            intake.state(SourceState.CONNECTED, trouble)
            await asyncio.shield(session.lost)
        except asyncio.CancelledError:
            self._flush_all()
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

    def _begin(self, present: bool) -> None:
        """The broker has accepted; no message has come yet."""
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
        if any(s.format == "sparkplug" for s in self._config.subscriptions):
            lost += self._host.tags()  # births and data have to be QoS 0 (tck-id-payloads-ndata-qos)
        if lost and 0 < start <= end:  # else it is the first connection, or the clock was set back
            self._intake.gap(lost, start, end, reason)
        self._told = True

    async def _subscribe(self, present: bool) -> str:
        """Subscribe to what is new, unsubscribe what is gone; returns what the broker refused, in words."""
        wanted = _subscriptions(self._config)
        known = [(name, qos) for name, qos in self._stored.subscriptions] if present else []
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
            raise RefusedError(f"{self._config.endpoint}: {'; '.join(trouble)}")
        if granted != self._stored.subscriptions:
            self._stored.subscriptions = granted
            self._dirty = True
            self._flush()
        return "; ".join(trouble)

    def _take(self, messages: Publishes, releases: list[int]) -> None:
        """The messages of one network read, and the packet ids that the broker releases."""
        if messages:
            messages = self._news(messages)
            self._decoder.decode(messages, self._rows)
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

    def _sparkplug(self, topic: str, payload: bytes, head: int, rows: Columns) -> None:
        parsed = parse_topic(topic)
        if parsed is None:
            return  # STATE of a host, or a topic that is not Sparkplug's
        now = time.monotonic()
        self._send(self._host.receive(parsed, payload, head, now, rows))
        for missed in self._host.missed:
            end = time.time_ns() // 1000
            self._intake.gap(missed.tags, end - round((now - missed.since) * 1e6), end, missed.reason)
        self._dirty = self._dirty or self._host.changed

    def _send(self, requests: list[RebirthRequest]) -> None:
        if self._config.sparkplug.rebirth:
            for request in requests:
                self._session.publish(request.topic, rebirth_command(time.time_ns() // 1_000_000))

    def _flush_all(self) -> None:
        """The last rows of a connection, with a state that says until when it lasted."""
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
