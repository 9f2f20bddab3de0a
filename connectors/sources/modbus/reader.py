"""Reads the values of a Modbus source on a schedule, and keeps what fails from touching what does not.

Blocks and units that fail are asked again after a growing pause, at most `probe_interval`. Healthy units are read first;
of the failing ones as many are probed in a cycle as answer, and one. What a failing block or unit cannot tell is said
once, as readings without value, and again every minute.
"""

import asyncio
import json
import time
from collections import deque
from typing import TYPE_CHECKING, Final

from typing_extensions import override

from connectors.contract import Checks, Finding, Intake, Reader, SourceState
from connectors.sources.modbus.config import ModbusConfig
from connectors.sources.modbus.decode import Decoder
from connectors.sources.modbus.plan import Block, Point, halves, joined, plan
from connectors.sources.modbus.protocol import BadReplyError, RefusedError, reply_bytes, reply_data, request
from connectors.sources.modbus.units import Poll, Unit, last_answers
from normalization.quality import modbus_quality
from normalization.reading import Columns, Quality, ValueType

if TYPE_CHECKING:
    from connectors.sources.modbus.line import Line

_REPEAT: Final = 60.0  # seconds after which a state that lasts is said again
_LINGER: Final = 0.02  # seconds that readings wait for others of their cycle: their time of receipt is when they go on
_IN_FLIGHT: Final = 4  # appends that may wait for the journal when a cycle begins
_SPLITS: Final = 16  # refused blocks of a unit that are split in one cycle; the others wait for the next
_RETRIES: Final = 4  # blocks of a healthy unit that failed and are tried again in one cycle
_SILENT: Final = 3  # cycles in a row without any answer on the line, after which the connection is given up

_DIVISIBLE: Final = {2, 3}  # illegal address; illegal value, which is how some devices refuse a count
_BUSY: Final = {5, 6}
_NO_WAY: Final = {10, 11}  # the gateway does not reach the unit


class ModbusReader(Reader, Checks):
    """Reads one line. What it learns about units and addresses is kept when `run` is called again.

    The state that it commits is the time of each unit's last sound answer, so that the gap of a restart has a beginning.

    Attributes:
        skipped_cycles: Cycles that were left out because one took longer than the interval.
        requests: Requests sent.
    """

    def __init__(self, config: ModbusConfig) -> None:
        self.skipped_cycles = 0
        self.requests = 0
        self._config = config
        self._points: list[Point] = [point for _, _, point in config.values]
        self._tags: list[int] = []
        self._units: list[Unit] = []
        self._rows = Columns()
        self._in_flight: deque[asyncio.Future[None]] = deque()
        self._connected = False
        self._connections = 0
        self._silent = 0
        self._unanswered = False
        self._skips_told = 0
        self._skips_told_at = float("-inf")

    @override
    async def run(self, intake: Intake, state: bytes | None) -> None:
        from connectors.sources.modbus.line import Line

        self._loop = asyncio.get_running_loop()
        self._intake = intake
        if not self._units:
            self._tags = [intake.tag(row) for row in self._config.tag_rows()]
            self._units = self._plan(state)
        for unit in self._units:
            unit.due = 0.0
        self._rows, self._connected, self._silent = Columns(), False, 0
        self._in_flight.clear()
        intake.state(SourceState.CONNECTING, self._config.endpoint)
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

        line, endpoint = Line(self._config), self._config.endpoint
        try:
            await line.open()
            findings = [Finding(ok=True, subject=endpoint, detail="connected")]
            for unit_id in sorted({point.unit_id for point in self._points}):
                if line.broken:
                    await line.open()
                findings.append(await self._check_unit(line, unit_id))
        except OSError as error:
            return [Finding(ok=False, subject=endpoint, detail=f"{error}; is the device on, and is this its address?")]
        finally:
            line.abort()
        return findings

    async def _check_unit(self, line: "Line", unit_id: int) -> Finding:
        """Ask a unit for its first value."""
        (block,) = plan([next(point for point in self._points if point.unit_id == unit_id)])
        subject = f"unit {unit_id}, {block.kind.name.lower()} {block.address}"
        try:
            reply_data(await line.ask(unit_id, request(block)), block.kind, reply_bytes(block))
        except RefusedError as error:
            hint = "; is the address counted from 0?" if error.code in _DIVISIBLE else ""
            return Finding(ok=False, subject=subject, detail=f"{error}{hint}")
        except (BadReplyError, TimeoutError) as error:
            return Finding(ok=False, subject=subject, detail=f"{error}; is this the unit id of the device?")
        return Finding(ok=True, subject=subject, detail="answers")

    def _plan(self, state: bytes | None) -> list[Unit]:
        config = self._config
        answered = last_answers(state, time.time_ns() // 1000)
        units: dict[int, Unit] = {}
        for block in plan(self._points, config.max_gap, config.max_registers, config.max_bits):
            last = answered.get(block.unit_id)
            outage = None if last is None else "not connected"
            unit = units.setdefault(block.unit_id, Unit(block.unit_id, [], last_good=last, outage=outage))
            unit.polls.append(self._new_poll(block))
        return list(units.values())

    def _new_poll(self, block: Block) -> Poll:
        return Poll(block, request(block), reply_bytes(block), Decoder(block, self._points, self._tags))

    # The schedule

    async def _poll(self) -> None:
        """Cycle after cycle at their times; those that are missed by a whole interval are left out and counted."""
        interval = self._config.interval
        deadline = self._loop.time()
        while True:
            await self._wait_for_journal()
            try:
                await self._cycle()
            finally:
                self._flush()
            deadline += interval
            late = self._loop.time() - deadline
            if late >= interval:
                missed = int(late // interval)
                deadline += missed * interval
                late -= missed * interval
                self._tell_skipped(missed)
            await asyncio.sleep(max(0.0, -late))

    async def _wait_for_journal(self) -> None:
        start = self._loop.time()
        while self._in_flight and (self._in_flight[0].done() or len(self._in_flight) > _IN_FLIGHT):
            await self._in_flight.popleft()
        if self._loop.time() - start > self._config.interval:
            for unit in self._units:
                unit.outage = unit.outage or "the journal was full"

    def _tell_skipped(self, missed: int) -> None:
        self.skipped_cycles += missed
        if self._connected and self._loop.time() - self._skips_told_at > _REPEAT:
            count = self.skipped_cycles - self._skips_told
            self._skips_told, self._skips_told_at = self.skipped_cycles, self._loop.time()
            reason = f"reading takes longer than the interval of {self._config.interval:g} s"
            self._intake.state(SourceState.CONNECTED, f"{count} cycles left out: {reason}")

    async def _cycle(self) -> None:
        """Read every healthy unit; then probe the failing ones that are due, until one fails again."""
        now, requests, frames = self._loop.time(), self.requests, self._line.frames
        failing = sorted((u for u in self._units if u.failures and u.due <= now), key=lambda u: u.due)
        for unit in [u for u in self._units if not u.failures]:
            await self._read(unit)
        for unit in failing:
            await self._read(unit)
            if unit.failures:
                break
        if frames != self._line.frames:
            self._silent = 0
        elif requests != self.requests:
            self._silent += 1
            if self._silent >= _SILENT and all(unit.failures for unit in self._units):
                raise TimeoutError(f"{self._config.endpoint}: connected, but no unit answers")

    async def _read(self, unit: Unit) -> None:
        """Ask for the blocks of a unit; the first time-out ends its turn, so that the others wait for one at most."""
        unit.answered = repeated = False
        splits = retries = 0
        queue = deque(unit.polls)
        while queue:
            poll = queue.popleft()
            if poll.failures and not unit.failures:
                if poll.due > self._loop.time() or retries >= _RETRIES:
                    continue
                retries += 1
            if poll.trial and splits >= _SPLITS:
                continue
            if self._line.broken:  # the device may close it while nothing is asked: no reading is lost by that
                await self._line.open()
            self.requests += 1
            after_silence, self._unanswered = self._unanswered, False
            try:
                data = reply_data(await self._line.ask(unit.id, poll.request), poll.block.kind, poll.size)
            except RefusedError as error:
                self._tell_connected()
                if error.code in _NO_WAY:
                    self._failed(unit, poll, modbus_quality(error.code), error.code, str(error))
                    break
                unit.answered, unit.failures = True, 0
                pieces = self._split(unit, poll) if error.code in _DIVISIBLE and splits < _SPLITS else []
                splits += bool(pieces)
                queue.extendleft(reversed(pieces))
                if not pieces:
                    self._refused(poll, error.code)
            except TimeoutError as error:
                self._unanswered = True
                if after_silence and not (repeated or unit.failures or poll.failures):
                    repeated = True  # a device on a serial line may have taken this for the answer of the silent one
                    queue.appendleft(poll)
                    continue
                self._failed(unit, poll, modbus_quality(None), None, str(error))
                break
            except BadReplyError as error:
                self._reject(poll, error)
                self._failed(unit, poll, Quality.BAD, None, str(error))
                break
            except ConnectionError:
                if len(self._units) == 1:
                    raise
                await self._line.open()  # a unit that ends each connection must not cost the others their readings
                self._failed(unit, poll, modbus_quality(None), None, "the connection ends when it is asked")
                break
            else:
                self._sound(unit, poll, data)
        if unit.split:
            self._join(unit)

    # What an answer, or none, means

    def _sound(self, unit: Unit, poll: Poll, data: bytes) -> None:
        now = time.time_ns() // 1000
        self._tell_connected()
        if unit.outage is not None:
            if unit.last_good is not None:
                tags = [tag for each in unit.polls for tag in each.decoder.tags]
                self._intake.gap(tags, unit.last_good, now, unit.outage)
            unit.outage = None
        unit.last_good = now
        unit.answered, unit.failures = True, 0
        poll.failures, poll.said, poll.trial = 0, None, False
        poll.decoder.decode(data, self._buffer(), now if self._config.source_time == "received" else None)

    def _refused(self, poll: Poll, code: int) -> None:
        """The device answered that it will not give this block, or not now."""
        poll.trial = False
        self._say(poll, modbus_quality(code), code)
        if code not in _BUSY:
            self._back_off(poll)

    def _failed(self, unit: Unit, poll: Poll, quality: Quality, status: int | None, reason: str) -> None:
        """No usable answer: this block fails if the unit answered others in this cycle, else the unit does."""
        poll.trial = False
        self._back_off(poll)
        at = unit.polls.index(poll) + 1
        unit.polls = unit.polls[at:] + unit.polls[:at]  # the next turn begins with the blocks that lost theirs
        if unit.answered:
            self._say(poll, quality, status)
            return
        self._back_off(unit)
        unit.outage = unit.outage or f"unit {unit.id}: {reason}"
        for each in unit.polls:
            self._say(each, quality, status)

    def _back_off(self, what: Poll | Unit) -> None:
        pause = min(self._config.interval * 2.0 ** min(what.failures, 30), self._config.probe_interval)
        what.failures += 1
        what.due = self._loop.time() + pause

    def _split(self, unit: Unit, poll: Poll) -> list[Poll]:
        """Replace a refused block by the pieces that it joined, or by halves; none where all values share an address."""
        pieces = poll.parts
        if not pieces:
            pieces = [self._new_poll(block) for block in halves(self._points, poll.block) or ()]
            for piece in pieces:
                piece.trial = piece.piece = True
                piece.said, piece.said_at = poll.said, poll.said_at
            unit.split = unit.split or bool(pieces)
        if pieces:
            at = unit.polls.index(poll)
            unit.polls[at : at + 1] = pieces
        return pieces

    def _join(self, unit: Unit) -> None:
        """Once all pieces of refused blocks have their answer, join those that are sound and touch."""
        if any(poll.trial for poll in unit.polls):
            return
        unit.split = False
        polls: list[Poll] = []
        for poll in sorted(unit.polls, key=lambda p: (p.block.kind, p.block.address)):
            block, last = None, polls[-1] if polls else None
            if last is not None and last.piece and poll.piece and not last.failures and not poll.failures:
                most = self._config.max_bits if poll.block.kind.is_bits else self._config.max_registers
                block = joined(self._points, last.block, poll.block, most)
            if last is None or block is None:
                polls.append(poll)
            else:
                polls[-1] = self._new_poll(block)
                polls[-1].piece, polls[-1].parts = True, [*(last.parts or [last]), poll]
        for poll in polls:
            poll.piece = False
            for part in poll.parts:
                part.piece = False
        unit.polls = polls

    # What is told

    def _buffer(self) -> Columns:
        """Where readings are gathered; they go on when the cycle ends, and soon if it takes long."""
        if not self._rows.tag:
            rows = self._rows
            self._loop.call_later(_LINGER, lambda: self._flush() if rows is self._rows else None)
        return self._rows

    def _flush(self) -> None:
        if self._rows.tag:
            rows, self._rows = self._rows, Columns()
            answers = {unit.id: unit.last_good for unit in self._units if unit.last_good is not None}
            state = json.dumps(answers).encode() if answers else None
            self._in_flight.append(self._intake.append(rows, state))

    def _tell_connected(self) -> None:
        """Said with the first answer: a gateway that takes connections for a dead line is not connected."""
        if self._connected:
            return
        self._connected = True
        self._connections += 1
        if self._connections > 1:  # every tag was marked when the connection was lost
            for unit in self._units:
                for poll in unit.polls:
                    poll.said = None
        self._intake.state(SourceState.CONNECTED, self._config.endpoint)

    def _say(self, poll: Poll, quality: Quality, status: int | None) -> None:
        """Readings without value for all tags of a block: when this is new, and again when it lasts."""
        now = self._loop.time()
        if poll.said != (quality, status) or now - poll.said_at >= _REPEAT:
            poll.said, poll.said_at = (quality, status), now
            self._buffer().add_many(poll.decoder.tags, ValueType.NULL, quality=quality, status=status)

    def _reject(self, poll: Poll, error: BadReplyError) -> None:
        block = poll.block
        where = f"{block.kind.name.lower()} {block.address} to {block.end - 1} of unit {block.unit_id}"
        self._buffer().add_reject(poll.decoder.tags[0], f"answer to {where}: {error}", error.raw)
