"""Reads the values of a Modbus source on a schedule, and keeps what fails from touching what does not.

Blocks and units that fail are asked again after a growing pause, at most `probe_interval`. Healthy units are read first,
those that answer slowly after them and one request a cycle; of the failing ones as many are probed in a cycle as answer, and
one. What a failing block or unit cannot tell is said once, as readings without value, and again every minute.
"""

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from typing_extensions import override

from connectors.contract import Checks, Finding, Intake, Reader
from connectors.sources.modbus.config import ModbusConfig
from connectors.sources.modbus.outlet import LINGER, Outlet
from connectors.sources.modbus.plan import Point, plan
from connectors.sources.modbus.protocol import BadReplyError, RefusedError, ask
from connectors.sources.modbus.schedule import Schedule
from connectors.sources.modbus.units import Poll, Unit, last_answers
from normalization.quality import modbus_quality
from normalization.reading import Quality

if TYPE_CHECKING:
    from connectors.sources.modbus.line import Line

_SPLITS: Final = 16  # refused blocks of a unit that are split in one turn; the others wait for the next
_RETRIES: Final = 4  # blocks of a healthy unit that failed and are tried again in one turn
_SILENT: Final = 3  # cycles in a row without any answer on the line, after which the connection is given up
_FULL: Final = 0.1  # seconds of waiting for the journal that are more than the time of a disk
_BURST: Final = 64  # requests that are handed to the line at once
_SLOWER: Final = 4  # times the pace of the fastest unit that a slow one takes

_DIVISIBLE: Final = {2, 3}  # illegal address; illegal value, which is how some devices refuse a count
_BUSY: Final = {5, 6}
_NO_WAY: Final = {10, 11}  # the gateway does not reach the unit
_NO_ANSWER: Final = 11  # it asked the unit, and no answer came


@dataclass(slots=True, eq=False)
class _Turn:
    """What one unit is asked in one cycle.

    Attributes:
        queue: The blocks that are still to be asked.
        whole: How many there were.
        answered: Whether the unit has answered in this turn.
        repeated: Whether a request was repeated because it may have been lost or not understood.
    """

    unit: Unit
    queue: deque[Poll]
    whole: int = 0
    answered: bool = False
    repeated: bool = False
    splits: int = 0
    retries: int = 0


class ModbusReader(Reader, Checks):
    """Reads one line. What it learns about units and addresses is kept when `run` is called again.

    The state that it commits is the time of each unit's last sound answer, so that the gap of a restart has a beginning.

    Attributes:
        requests: Requests sent.
    """

    def __init__(self, config: ModbusConfig) -> None:
        self.requests = 0
        self._config = config
        self._points: list[Point] = [point for _, _, point in config.values]
        self._units: list[Unit] = []
        self._schedule = Schedule([config.interval], 0.0)
        self._skipped = 0
        self._skips_told = 0
        self._connections = 0
        self._silent = 0
        self._unanswered = False
        self._busy: list[tuple[Unit, Poll, int]] = []  # what is asked again before the cycle ends

    @property
    def skipped_cycles(self) -> int:
        """Cycles that were left out because one took longer than the interval."""
        return self._skipped

    @override
    async def run(self, intake: Intake, state: bytes | None) -> None:
        from connectors.sources.modbus.line import Line

        self._loop = asyncio.get_running_loop()
        if not self._units:
            self._units = self._plan([intake.tag(row) for row in self._config.tag_rows()], state)
        for unit in self._units:
            unit.due = 0.0
        self._silent = 0
        self._busy = []
        self._outlet = Outlet(intake, self._units, self._config.endpoint)
        self._line: Line = Line(self._config)
        try:
            await self._line.open()
            await self._poll()
        finally:
            self._line.abort()
            for unit in self._units:
                unit.outage = unit.outage or "connection lost"

    @override
    async def check(self) -> list[Finding]:
        from connectors.sources.modbus.line import Line

        endpoint, line = self._config.endpoint, None
        try:
            line = Line(self._config)
            await line.open()
            findings = [Finding(ok=True, subject=endpoint, detail="connected")]
            for unit_id in sorted({point.unit_id for point in self._points}):
                if line.broken:
                    await line.open()
                findings.append(await self._check_unit(line, unit_id))
        except OSError as error:
            return [Finding(ok=False, subject=endpoint, detail=f"{error}; is the device on, and is this its address?")]
        finally:
            if line is not None:
                line.abort()
        return findings

    async def _check_unit(self, line: "Line", unit_id: int) -> Finding:
        """Ask a unit for its first value."""
        (block,) = plan([next(point for point in self._points if point.unit_id == unit_id)])
        subject = f"unit {unit_id}, {block.kind.name.lower()} {block.address}"
        try:
            await line.ask(ask(block))
        except RefusedError as error:
            hint = "; is the address counted from 0?" if error.code in _DIVISIBLE else ""
            return Finding(ok=False, subject=subject, detail=f"{error}{hint}")
        except (BadReplyError, TimeoutError) as error:
            return Finding(ok=False, subject=subject, detail=f"{error}; is this the unit id of the device?")
        return Finding(ok=True, subject=subject, detail="answers")

    def _plan(self, tags: Sequence[int], state: bytes | None) -> list[Unit]:
        config = self._config
        answered = last_answers(state, time.time_ns() // 1000)
        units: dict[int, Unit] = {}
        for block in plan(self._points, config.max_gap, config.max_registers, config.max_bits, config.closed):
            unit = units.get(block.unit_id)
            if unit is None:
                last = answered.get(block.unit_id)
                unit = Unit(block.unit_id, self._points, tags, last_good=last)
                unit.outage = None if last is None else "not connected"
                units[block.unit_id] = unit
            unit.polls.append(unit.new_poll(block))
        return list(units.values())

    # The schedule

    async def _poll(self) -> None:
        """Cycle after cycle at their times; those that are missed by a whole interval are left out and counted."""
        intervals = {self._interval(poll) for unit in self._units for poll in unit.polls}
        self._schedule = Schedule(intervals, self._loop.time())
        while True:
            if await self._outlet.room() > max(self._config.interval, _FULL):
                for unit in self._units:
                    unit.outage = unit.outage or "the journal was full"
            for interval in self._schedule.begin(self._loop.time()):
                await self._cycle(interval)
            await asyncio.sleep(max(0.0, self._schedule.next() - self._loop.time()))

    def _interval(self, poll: Poll) -> float:
        return poll.block.interval or self._config.interval

    def _tell_skipped(self, missed: int, interval: float) -> None:
        self._skipped += missed
        count, reason = self._skipped - self._skips_told, f"reading takes longer than the interval of {interval:g} s"
        if self._outlet.remark("skipped", f"{count} cycles left out: {reason}"):
            self._skips_told = self._skipped

    async def _cycle(self, interval: float) -> None:
        """Read what has this interval of every healthy unit; then probe the failing ones that are due, until one fails."""
        now, requests, frames = self._loop.time(), self.requests, self._line.frames
        try:
            failing = sorted((u for u in self._units if u.failures and u.due <= now), key=lambda u: u.due)
            for unit in sorted((u for u in self._units if not u.failures), key=lambda u: u.slow):
                await self._read(unit, interval)
            for unit in failing:
                if await self._read(unit, interval) and unit.failures:
                    break
            await self._ask_busy_again()
        finally:
            self._outlet.flush()
            missed = self._schedule.end(interval, self._loop.time())
            if missed:
                self._tell_skipped(missed, interval)
        self._weigh_paces()
        if frames != self._line.frames:
            self._silent = 0
        elif requests != self.requests:
            self._silent += 1
            if self._silent >= _SILENT and all(unit.failures for unit in self._units):
                raise TimeoutError(f"{self._config.endpoint}: connected, but no unit answers")

    def _weigh_paces(self) -> None:
        """Find the units that others would have to wait for."""
        paces = [unit.pace for unit in self._units if unit.pace and not unit.failures]
        if len(paces) < 2:
            return
        limit = max(min(self._schedule.skipped) * self._config.slow_share, _SLOWER * min(paces))
        for unit in self._units:
            slow, about = unit.pace > limit, f"slow {unit.id}"
            if slow and not unit.slow:
                took = f"unit {unit.id} takes {unit.pace:.3g} s for an answer"
                self._outlet.remark(about, f"{took}: it is read after the others, a request a cycle")
            elif unit.slow and not slow:
                self._outlet.take_back(about)
            unit.slow = slow

    async def _give_way(self, turn: _Turn, interval: float) -> None:
        """Read what has a shorter interval and has become due meanwhile."""
        if len(self._schedule.skipped) < 2:
            return
        healthy = not turn.unit.failures
        shorter = self._schedule.begin(self._loop.time(), interval)
        for each in shorter:
            await self._cycle(each)
        if shorter:  # it may have found the unit dead, or have joined blocks
            known = set() if healthy and turn.unit.failures else set(turn.unit.polls)
            turn.queue = deque(poll for poll in turn.queue if poll in known)

    async def _read(self, unit: Unit, interval: float) -> bool:
        """Ask for the blocks of a unit; the first time-out ends its turn, so that the others wait for one at most.

        Returns whether there were any of this interval.
        """
        polls = unit.polls
        if len(self._schedule.skipped) > 1:
            polls = [poll for poll in polls if self._interval(poll) == interval]
        turn = _Turn(unit, deque(polls), len(polls))
        most = 1 if unit.slow else _BURST
        while turn.queue:
            await self._give_way(turn, interval)
            batch = self._batch(turn, most)
            if not batch:
                continue
            if self._line.broken:  # the device may close it while nothing is asked: no reading is lost by that
                await self._line.open()
            began, after_silence, self._unanswered = self._loop.time(), self._unanswered, False
            data, failure = await self._line.ask_all([poll.ask for poll in batch], LINGER)
            self.requests += len(data) + (failure is not None)
            if data:
                unit.took((self._loop.time() - began) / len(data))
                self._sound(turn, batch[: len(data)], data)
            turn.queue.extendleft(reversed(batch[len(data) + (failure is not None) :]))
            if failure is not None and not await self._go_on(turn, batch[len(data)], failure, after_silence):
                break
            if unit.slow:
                unit.put_last(batch[-1])
                break
        unit.join(self._config.max_registers, self._config.max_bits)
        return bool(polls)

    def _batch(self, turn: _Turn, most: int) -> list[Poll]:
        """What is asked next: blocks that are as they should be together, one of the others alone, or none of it now."""
        batch: list[Poll] = []
        unit, queue = turn.unit, turn.queue
        while queue and len(batch) < most:
            poll = queue[0]
            doubtful = poll.trial or poll.failures or unit.failures
            if doubtful and batch:
                break
            queue.popleft()
            if poll.failures and not unit.failures:
                if poll.due > self._loop.time() or turn.retries >= _RETRIES:
                    continue
                turn.retries += 1
            if poll.trial and turn.splits >= _SPLITS:
                continue
            batch.append(poll)
            if doubtful:
                break
        return batch

    # What an answer, or none, means

    async def _go_on(self, turn: _Turn, poll: Poll, failure: Exception, after_silence: bool) -> bool:
        """See to a request that was not answered as it should be; returns whether the unit is asked for more now."""
        unit = turn.unit
        match failure:
            case RefusedError():
                return self._refused(turn, poll, failure)
            case TimeoutError():
                self._unanswered = True
                # a device on a serial line may have taken this for the answer of the silent one; a datagram may be lost
                excused = after_silence or self._config.at.transport == "udp"
                if excused and not (turn.repeated or unit.failures or poll.failures):
                    turn.repeated = True
                    turn.queue.appendleft(poll)
                    return True
                self._failed(turn, poll, modbus_quality(None), None, str(failure))
            case BadReplyError():
                self._outlet.reject(poll, failure)
                self._failed(turn, poll, Quality.BAD, None, str(failure))
            case ConnectionError() if len(self._units) > 1:
                await self._line.open()  # a unit that ends each connection must not cost the others their readings
                self._failed(turn, poll, modbus_quality(None), None, "the connection ends when it is asked")
            case _:
                raise failure
        return False

    def _answered(self) -> None:
        if not self._outlet.connected:
            self._connections += 1
            self._outlet.answered(again=self._connections > 1)

    def _sound(self, turn: _Turn, polls: Sequence[Poll], data: Sequence[bytes]) -> None:
        now = time.time_ns() // 1000
        unit = turn.unit
        self._answered()
        if unit.outage is not None:
            self._outlet.gap(unit, now)
        unit.last_good = now
        turn.answered, unit.failures = True, 0
        for poll in polls:
            poll.failures, poll.said, poll.trial = 0, None, False
        source_time = now if self._config.source_time == "received" else None
        answers, rows = b"".join(data), self._outlet.rows()
        for decoder, size in unit.decoders(polls, turn.whole):
            decoder.decode(answers[:size], rows, source_time)
            answers = answers[size:]

    def _refused(self, turn: _Turn, poll: Poll, error: RefusedError) -> bool:
        """The device or a gateway answered that it will not give this block, or not now."""
        unit, code = turn.unit, error.code
        self._answered()
        if code in _NO_WAY:
            if code == _NO_ANSWER and unit.last_good is not None and not (turn.repeated or unit.failures):
                turn.repeated = True  # it may have missed one request
                turn.queue.appendleft(poll)
                return True
            self._failed(turn, poll, modbus_quality(code), code, str(error))
            return False
        turn.answered, unit.failures = True, 0
        if code in _BUSY and self._config.busy_retries and not poll.trial:
            self._busy.append((unit, poll, code))
            return True
        pieces = unit.split_up(poll) if code in _DIVISIBLE and turn.splits < _SPLITS else []
        turn.splits += bool(pieces)
        turn.queue.extendleft(reversed(pieces))
        if not pieces:
            self._refuse(poll, code)
        return True

    def _refuse(self, poll: Poll, code: int) -> None:
        poll.trial = False
        self._outlet.say(poll, modbus_quality(code), code)
        if code not in _BUSY:
            self._back_off(poll)

    async def _ask_busy_again(self) -> None:
        """A busy device deserves a moment and another try; whoever was not busy has been read by then."""
        config = self._config
        budget = (
            min(self._schedule.skipped) / 2
        )  # of the shortest interval: what waits longer is asked in the next cycle
        for left in range(config.busy_retries - 1, -1, -1):
            busy, self._busy = self._busy, []
            if not busy:
                return
            budget -= config.busy_pause
            if budget < 0:
                for _, poll, code in busy:
                    self._refuse(poll, code)
                return
            await asyncio.sleep(config.busy_pause)
            for unit, poll, code in busy:
                if unit.failures or poll not in unit.polls:
                    continue
                turn = _Turn(unit, deque())
                if self._line.broken:
                    await self._line.open()
                data, failure = await self._line.ask_all([poll.ask])
                self.requests += 1
                if data:
                    self._sound(turn, [poll], data)
                elif isinstance(failure, RefusedError) and failure.code in _BUSY and not left:
                    self._refuse(poll, code)
                elif failure is not None:
                    await self._go_on(turn, poll, failure, after_silence=False)

    def _failed(self, turn: _Turn, poll: Poll, quality: Quality, status: int | None, reason: str) -> None:
        """No usable answer: this block fails if the unit answered others in this turn, else the unit does."""
        unit = turn.unit
        poll.trial = False
        self._back_off(poll)
        unit.put_last(poll)  # the next turn begins with the blocks that lost theirs
        if turn.answered:
            self._outlet.say(poll, quality, status)
            return
        self._back_off(unit)
        unit.outage = unit.outage or f"unit {unit.id}: {reason}"
        for each in unit.polls:
            self._outlet.say(each, quality, status)

    def _back_off(self, what: Poll | Unit) -> None:
        pause = min(self._config.interval * 2.0 ** min(what.failures, 30), self._config.probe_interval)
        what.failures += 1
        what.due = self._loop.time() + pause
