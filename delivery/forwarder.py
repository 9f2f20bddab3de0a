"""The forwarder: one thread per target that takes units from its spool and owns everything about retrying.

It keeps as many writes in flight as the writer allows and settles each by itself. After an error it waits for the
writes under way, closes the writer, backs off, opens it again and sends the same units again.
"""

import asyncio
import contextlib
import random
import threading
import time
from typing import Final

import pyarrow as pa
import structlog

from connectors.contract import (
    AuthError,
    ConfigError,
    DeliveryError,
    Limits,
    PoolUse,
    RejectedRecords,
    TransientError,
    Writer,
)
from delivery import metrics
from delivery.breaker import Breaker, BreakerState
from delivery.dead_letters import DeadLetterStore
from delivery.disk import StoreError, StoreFullError
from delivery.health import TargetStatus, pool_use
from delivery.pace import RateLimit
from delivery.retry import RetryPolicy, error_class
from delivery.spans import SPANS
from delivery.spool import Spool
from delivery.unit import Unit

log = structlog.get_logger()

_STOP_PATIENCE: Final = 3.0
_CANCEL_PATIENCE: Final = 0.5
_CANCELLED: Final = "the client library cancelled the write"


class Forwarder:
    """Delivers one spool to one writer.

    Args:
        name: Name of the target.
        writer: Its writer.
        spool: Its spool.
        dead_letters: Where rejected readings go.
        policy: Delays between attempts.
        threshold: Failures in a row that open the breaker.
        rate: Bounds of what the target gets per second.
        zerobus: Whether the target counts under the ZeroBus metrics too.
    """

    def __init__(
        self,
        name: str,
        writer: Writer,
        spool: Spool,
        dead_letters: DeadLetterStore,
        *,
        policy: RetryPolicy | None = None,
        threshold: int = 5,
        rate: RateLimit | None = None,
        zerobus: bool = False,
    ) -> None:
        self.name = name
        self.spool = spool
        self.status = TargetStatus()
        self._writer = writer
        self._dead_letters = dead_letters
        self._policy = policy or RetryPolicy()
        self._breaker = Breaker(threshold)
        self._rate = rate or RateLimit()
        self._not_before = 0.0  # by the monotonic clock: what was sent has used up the time until then
        self._zerobus = zerobus
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changed = asyncio.Event()
        self._woken = False
        self._enough: int | None = 1  # readings that have to wait before it is worth to look again; None: it is busy
        self._stopping = False
        self._reopening = False
        self._attempts: dict[int, int] = {}
        self._first: dict[int, float] = {}  # when a unit was tried first, seconds since the epoch
        self._retry: list[Unit] = []
        self._waiting_since: float | None = None
        self._thread = threading.Thread(target=self._run, name=f"forwarder {name}", daemon=True)
        metrics.begin_target(name, zerobus=zerobus)

    def start(self) -> None:
        """Begin to deliver."""
        self.spool.wake = self.wake
        self._thread.start()

    def wake(self) -> None:
        """Look again if that is worth it: something was appended. Safe from any thread."""
        enough = self._enough
        if not self._woken and enough is not None and self.spool.waiting(enough):
            self._look_again()

    def _look_again(self) -> None:
        if self._loop is not None:
            self._woken = True
            with contextlib.suppress(RuntimeError):  # the loop has just closed
                self._loop.call_soon_threadsafe(self._changed.set)

    def stop(self) -> None:
        """Send nothing more, wait a little for the writes under way; what was not sent stays in the spool."""
        self._stopping = True
        self._look_again()

    def reopen(self) -> None:
        """Open the writer anew, once the writes under way are settled: what it connects with has changed. From any thread."""
        self._reopening = True
        self._look_again()

    def join(self, timeout: float) -> None:
        """Wait for the thread, if it was started, `timeout` seconds at most."""
        if self._thread.ident is not None:
            self._thread.join(timeout)

    @property
    def started(self) -> bool:
        """Whether it has begun."""
        return self._thread.ident is not None

    @property
    def limits(self) -> Limits:
        """What the target's writer takes at once."""
        return self._writer.limits

    @property
    def linger(self) -> float:
        """Seconds that a reading may wait for others before it is sent."""
        return self._writer.limits.linger

    @property
    def pool(self) -> PoolUse | None:
        """How the target's pool of connections is used; None for a target without one."""
        return pool_use(self._writer)

    # ------------------------------------------------------------------ the forwarder's thread

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except StoreError as error:
            self.status.last_error = str(error)
            log.error("forwarder stopped, its store failed", target=self.name, error=str(error))

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        while not self._stopping:
            self._reopening = False
            try:
                await self._open()
                error = await self._pump()
            except Exception as unexpected:  # noqa: BLE001 - the edge of the forwarder's loop
                error = unexpected
            except asyncio.CancelledError:
                error = TransientError(_CANCELLED)
            await self._close()
            if isinstance(error, StoreError) and not isinstance(error, StoreFullError):
                raise error
            if error is not None:
                await self._back_off(error)
        for unit in self._retry:
            self.spool.release(unit)

    async def _open(self) -> None:
        try:
            await self._writer.open()
        except Exception:
            metrics.CONNECTIONS.labels(self.name, "error").inc()
            raise
        metrics.CONNECTIONS.labels(self.name, "ok").inc()
        self.status.connected = True

    async def _close(self) -> None:
        self.status.connected = False
        try:
            await self._writer.close()
        except Exception as error:
            log.error("a writer failed to close", target=self.name, exc_info=error)

    async def _back_off(self, error: Exception) -> None:
        self._breaker.failure()
        self._show(error)
        wait = self._policy.delay(self._breaker.failures, random.random(), error)  # noqa: S311 - jitter
        deadline = time.monotonic() + wait
        while not self._stopping and not self._reopening and (left := deadline - time.monotonic()) > 0:
            await self._sleep(left)
        self._breaker.probe()
        self._show_breaker()

    def _show(self, error: Exception) -> None:
        kind = error_class(error)
        self._tell_spool(error)
        if not isinstance(error, DeliveryError | StoreError):
            log.error("unexpected error from a writer", target=self.name, exc_info=error)
        if self.status.last_error != str(error):
            log.warning("target failed", target=self.name, error_class=kind, error=str(error))
        self.status.note_error(kind, str(error))
        self._show_breaker()

    def _tell_spool(self, error: Exception) -> None:
        """What was under way may have arrived; and readings do not expire while the target refuses the gateway."""
        if not self._writer.limits.remembers_units:
            self.spool.failed()
            for unit in self._retry:
                unit.resent = max(entry.number for entry in unit.entries)
        self.spool.keep(isinstance(error, AuthError | ConfigError))

    def _show_breaker(self) -> None:
        self.status.breaker = self._breaker.state
        metrics.BREAKER.labels(self.name).set(self._breaker.state)
        if self._zerobus:
            metrics.ZEROBUS_BREAKER.labels(self.name).set(self._breaker.state)

    async def _sleep(self, seconds: float | None) -> None:
        """Wait until something changes, or for `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            pass
        self._changed.clear()

    async def _pump(self) -> Exception | None:
        """Write units until the writer fails or the forwarder stops; returns the failure."""
        writing: dict[asyncio.Task[Exception | None], Unit] = {}
        self._waiting_since = None
        while True:
            self._woken, self._enough = False, 1  # before looking, so that what is appended while looking wakes again
            leaving = self._stopping or self._reopening
            while not leaving and len(writing) < self._in_flight() and (unit := self._next()) is not None:
                writing[asyncio.create_task(self._write(unit))] = unit
            self.status.in_flight = len(writing)
            if not writing:
                if leaving:
                    return None
                await self._sleep(self._patience())
                continue
            free = len(writing) < self._in_flight()
            if not free:
                self._enough = None
            failure = await self._settle_some(writing, self._patience() if free else None)
            if failure is not None or self._stopping or self._reopening:
                failure = await self._settle_all(writing) or failure
                self._retry.sort(key=lambda unit: unit.number)
                return failure

    def _in_flight(self) -> int:
        return 1 if self._breaker.state is BreakerState.HALF_OPEN else self._writer.limits.writes_in_flight

    def _next(self) -> Unit | None:
        if time.monotonic() < self._not_before:
            return None
        unit = self._retry.pop(0) if self._retry else self._take()
        if unit is not None:
            pause = self._rate.pause(unit.rows, sum(entry.size for entry in unit.entries))
            self._not_before = max(self._not_before, time.monotonic()) + pause if pause else 0.0
        return unit

    def _take(self) -> Unit | None:
        limits = self._writer.limits
        if limits.linger and not self.spool.waiting(limits.rows):
            if self.spool.oldest() is None:
                self._waiting_since = None
                return None
            now = time.monotonic()
            self._waiting_since = self._waiting_since or now
            if now - self._waiting_since < limits.linger:
                self._enough = limits.rows
                return None
        self._waiting_since = None
        unit = self.spool.take(*self._rate.most(limits.rows, limits.bytes))
        if unit is not None and limits.remembers_units:
            try:
                self.spool.record(unit)
            except StoreFullError:
                self.spool.release(unit)
                raise
        return unit

    def _patience(self) -> float | None:
        """Seconds until a unit may be taken that may not be yet; None when nothing but a change matters."""
        now, moments = time.monotonic(), []
        if self._waiting_since is not None:
            moments.append(self._waiting_since + self._writer.limits.linger)
        if self._not_before > now:
            moments.append(self._not_before)
        return max(0.0, max(moments) - now) if moments else None

    async def _settle_some(
        self, writing: "dict[asyncio.Task[Exception | None], Unit]", patience: float | None
    ) -> Exception | None:
        """Wait until a write is done, or something changes, `patience` seconds at most; returns a failure."""
        changed = asyncio.create_task(self._sleep(patience))
        done, _ = await asyncio.wait([*writing, changed], return_when=asyncio.FIRST_COMPLETED)
        if changed not in done:
            changed.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await changed
        failure: Exception | None = None
        for task in [task for task in writing if task in done]:
            unit = writing.pop(task)
            error = TransientError(_CANCELLED) if task.cancelled() else task.exception() or task.result()
            if error is not None:
                self._retry.append(unit)
                failure = error if isinstance(error, Exception) else RuntimeError(repr(error))
        return failure

    async def _settle_all(self, writing: "dict[asyncio.Task[Exception | None], Unit]") -> Exception | None:
        """Wait for the writes under way, not for long when the forwarder stops; returns a failure."""
        failure: Exception | None = None
        deadline = float("inf")
        while writing:
            if self._stopping:
                deadline = min(deadline, time.monotonic() + _STOP_PATIENCE)
            if (left := deadline - time.monotonic()) <= 0:
                break
            failure = await self._settle_some(writing, left if self._stopping else None) or failure
        for task in writing:
            task.cancel()
        if writing:
            await asyncio.wait(writing, timeout=_CANCEL_PATIENCE)
        for task, unit in writing.items():
            if not task.done() or task.cancelled() or task.exception() or task.result():
                self._retry.append(unit)
        return failure

    async def _write(self, unit: Unit) -> Exception | None:
        """Write one unit and settle it; returns what keeps it from being settled."""
        limits = self._writer.limits
        batch = unit.batch()
        began = time.monotonic()
        self._first.setdefault(unit.number, time.time())
        rejected = RejectedRecords([], [], rest_written=True)
        # entries made under a larger limit; a target that remembers units takes each number once only
        step = max(1, len(batch)) if limits.remembers_units else limits.rows
        try:
            for start in range(0, len(batch), step):
                await self._send(batch.slice(start, step), unit.number, start, rejected)
        except Exception as error:  # noqa: BLE001 - the edge of the forwarder's loop
            metrics.OPERATIONS.labels(self.name, error_class(error)).inc()
            if self._zerobus:
                metrics.ZEROBUS_FAILED.labels(self.name).inc()
            self._attempts[unit.number] = self._attempts.get(unit.number, 0) + 1
            self._note_write(began, unit, len(batch), error_class(error), str(error))
            return error
        self._note_write(began, unit, len(batch), "rejected" if rejected.indices else "ok")
        if rejected.indices:
            self._reject(unit, rejected)
        else:
            self.spool.settle(unit)
            self._succeeded(unit, len(batch), time.monotonic() - began)
        return None

    def _note_write(self, began: float, unit: Unit, rows: int, outcome: str, error: str = "") -> None:
        if SPANS.wanted:
            attempt = self._attempts.get(unit.number, 0) + (not error)
            SPANS.note(
                "write", began, error, target=self.name, rows=rows, unit=unit.number, attempt=attempt, outcome=outcome
            )

    async def _send(self, batch: pa.RecordBatch, number: int, start: int, rejected: RejectedRecords) -> None:
        """Write a part of a unit, and note what is rejected of it.

        A part that is rejected without a word about which readings are at fault is halved until they are found. A target
        that remembers units takes each number once, so that its writer must say which.
        """
        try:
            await self._writer.write(batch, number)
        except RejectedRecords as some:
            if some.indices or some.rest_written:
                rejected.indices += [start + row for row in some.indices]
                rejected.reasons += some.reasons
                rejected.rest_written = rejected.rest_written and some.rest_written
            elif self._writer.limits.remembers_units or not some.reasons:
                raise
            elif len(batch) == 1:
                rejected.indices.append(start)
                rejected.reasons.append(some.reasons[0])
            else:
                half = len(batch) // 2
                await self._send(batch.slice(0, half), number, start, rejected)
                await self._send(batch.slice(half), number, start + half, rejected)

    def _forget(self, unit: Unit) -> None:
        self._attempts.pop(unit.number, None)
        self._first.pop(unit.number, None)

    def _succeeded(self, unit: Unit, rows: int, took: float) -> None:
        self._forget(unit)
        self._answered()
        self.status.note_success(rows, took)
        metrics.SENT.labels(self.name).inc(rows)
        metrics.BATCHES_SENT.labels(self.name).inc()
        metrics.OPERATIONS.labels(self.name, "ok").inc()
        metrics.RESPONSE_TIME.labels(self.name).observe(took)
        if self._zerobus:
            metrics.ZEROBUS_SENT.labels(self.name).inc()

    def _answered(self) -> None:
        """The target works: it took readings, or said which it will not take."""
        self.spool.keep(False)
        if self._breaker.failures:
            log.info("target takes readings again", target=self.name)
            self._breaker.success()
            self._show_breaker()

    def _reject(self, unit: Unit, rejected: RejectedRecords) -> None:
        batch = unit.batch()
        letters = batch.take(rejected.indices)
        self.spool.sync()  # else a power cut could leave the dead letter, and the flow bring the reading again as a new one
        self._dead_letters.append(
            letters,
            rejected.reasons,
            self.name,
            self._attempts.get(unit.number, 0) + 1,
            first=self._first.get(unit.number),
            places=unit.places(rejected.indices),
        )
        self._dead_letters.wait()
        self.spool.reject(unit, rejected.indices, rest_delivered=rejected.rest_written)
        self._forget(unit)
        self._answered()
        metrics.OPERATIONS.labels(self.name, "rejected").inc()
        metrics.FAILED.labels(self.name).inc(len(rejected.indices))
        if rejected.rest_written:
            self.status.delivered += len(batch) - len(letters)
            metrics.SENT.labels(self.name).inc(len(batch) - len(letters))
