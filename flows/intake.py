"""What a reader is handed, and the loop that keeps a reader running."""

import asyncio
import contextlib
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import structlog
from typing_extensions import override

from connectors.contract import Context, Counts, Intake, Measures, Reader, SourceState
from connectors.settings import SourceConfig
from delivery import metrics
from delivery.journal import Journal, shard_of
from delivery.retry import RetryPolicy
from normalization.reading import Columns, Flags, Quality, Tag, TagTable, to_json

log = structlog.get_logger()

_STEADY: float = 30.0  # seconds of running after which a failure counts as the first again


@dataclass(frozen=True, slots=True)
class Gap:
    """Readings that will never come.

    Attributes:
        start: When they begin, µs since the epoch, UTC.
        end: When they end.
        reason: Why they will not come.
        tags: Of how many tags.
    """

    start: int
    end: int
    reason: str
    tags: int


@dataclass(slots=True)
class SourceStatus:
    """How a source stands.

    Attributes:
        protocol: Its protocol.
        state: Where its connection stands.
        detail: Why, in the device's or the library's words.
        received: Readings since the process began.
        reconnections: Times it was connected again since the process began.
        last_reading: When it last gave a reading, seconds since the epoch.
        gaps: Gaps since the process began.
        last_gap: The newest of them.
        counts: How often its reader has met what it counts, by what it is.
        measures: What its reader measures, by what it is.
    """

    protocol: str
    state: SourceState = SourceState.CONNECTING
    detail: str = ""
    received: int = 0
    reconnections: int = 0
    last_reading: float | None = None
    gaps: int = 0
    last_gap: Gap | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    measures: Mapping[str, float] = field(default_factory=dict)
    tags: set[int] = field(default_factory=set)


class SourceIntake(Intake):
    """The intake of one source: into its shard of the journal."""

    def __init__(self, source: str, protocol: str, journal: Journal, tags: TagTable) -> None:
        self.status = SourceStatus(protocol)
        self._connected_before = False
        self._fresh = True  # no device has been lost since its tags were last marked stale
        self._source = source
        self._journal = journal
        self._shard = shard_of(protocol, source)
        self._gateway_shard = shard_of("gateway", source)
        self._tags = tags
        self._received = metrics.RECEIVED.labels(source)
        self._up = metrics.SOURCE_UP.labels(source)
        self._gaps = metrics.GAPS.labels(source)
        self._last = metrics.LAST_READING.labels(source)
        self._reconnections = metrics.RECONNECTIONS.labels(source)
        self.attempt: asyncio.Future[None] | None = None  # the reader, while it runs
        self.again = asyncio.Event()

    def reopen(self) -> None:
        """Connect anew and at once: what the reader connects with has changed. Call in the loop that it runs in."""
        self.again.set()
        if self.attempt is not None:
            self.attempt.cancel()

    @override
    def tag(self, tag: Tag) -> int:
        known = self._tags.intern(tag)
        if tag.address:  # not the one that stands for what could not be read
            self.status.tags.add(known)
        return known

    @override
    def append(self, rows: Columns, state: bytes | None = None) -> "asyncio.Future[None]":
        count = len(rows)
        if count:
            self.status.received += count
            self.status.last_reading = time.time()
            self._received.inc(count)
            self._last.set(self.status.last_reading)
        return self._journal.append(self._source, self._shard, rows, state)

    @override
    def gap(self, tags: Sequence[int], start: int, end: int, reason: str) -> None:
        self.status.gaps += 1
        self.status.last_gap = Gap(start, end, reason, len(tags))
        self._gaps.inc()
        described = to_json({"gap": {"start": start, "end": end, "reason": reason}})
        rows = Columns()
        rows.add_arrays(
            np.array(tags, np.int32),
            None,
            quality=Quality.STALE,
            source_time=start,
            flags=Flags.GAP,
            properties=described,
        )
        self._journal.append(self._source, self._gateway_shard, rows, None)

    @override
    def state(self, state: SourceState, detail: str = "") -> None:
        before = self.status.state
        self.status.state, self.status.detail = state, detail
        self._up.set(state is SourceState.CONNECTED)
        if state is before:
            return
        log.info("source", source=self._source, state=str(state), detail=detail)
        if state is SourceState.CONNECTED:
            if self._connected_before:
                self.status.reconnections += 1
                self._reconnections.inc()
            self._connected_before = self._fresh = True
        elif state is SourceState.DOWN and self._fresh:
            self._fresh = False
            self._mark_stale(detail)

    def _mark_stale(self, detail: str) -> None:
        rows = Columns()
        why = to_json({"state": "down", "detail": detail})
        rows.add_arrays(np.array(sorted(self.status.tags), np.int32), None, quality=Quality.STALE, properties=why)
        if len(rows):
            self._journal.append(self._source, self._gateway_shard, rows, None)


async def supervise(config: SourceConfig, context: Context, intake: SourceIntake, journal: Journal) -> None:
    """Run the reader of a source until cancelled; start it again with jittered exponential back-off."""
    policy = RetryPolicy(first=0.5, cap=30.0)
    failures, said = 0, ""
    reader: Reader | None = None  # one for all attempts: it keeps what it learns of its devices
    while True:
        began = time.monotonic()
        intake.state(SourceState.CONNECTING)
        failure: BaseException | None = None
        try:
            if reader is None:
                reader = config.reader(context)
                if isinstance(reader, Counts):
                    intake.status.counts = reader.counts
                if isinstance(reader, Measures):
                    intake.status.measures = reader.measures
            intake.attempt = asyncio.ensure_future(reader.run(intake, journal.state(config.name)))
            await intake.attempt
        except Exception as error:  # noqa: BLE001 - the edge of the reader's loop
            failure = error
        except asyncio.CancelledError as error:
            failure = error  # `SourceIntake.reopen`, or a library's own, unless this task is meant
        intake.attempt = None
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise asyncio.CancelledError
        if intake.again.is_set() and (failure is None or isinstance(failure, asyncio.CancelledError)):
            intake.again.clear()
            failures, said = 0, ""
            await intake.append(Columns())
            continue
        failures = 1 if time.monotonic() - began > _STEADY else failures + 1
        detail = f"{type(failure).__name__}: {failure}" if failure else "the reader ended"
        if failures == 1 or detail != said:
            log.warning("source failed", source=config.name, error=detail)
            said = detail
        intake.state(SourceState.DOWN, detail)
        await intake.append(Columns())  # what was appended is durable: the next reader goes on from its state
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(policy.delay(failures, random.random())):  # noqa: S311 - jitter
                await intake.again.wait()
        intake.again.clear()
