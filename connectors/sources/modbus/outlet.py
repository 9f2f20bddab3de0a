"""What a reader tells: readings as they come, states that last once and again, gaps, and how the connection stands."""

import asyncio
import json
from collections import deque
from collections.abc import Sequence
from typing import Final

from connectors.contract import Intake, SourceState
from connectors.sources.modbus.protocol import BadReplyError
from connectors.sources.modbus.units import Poll, Unit
from normalization.reading import Columns, Quality

REPEAT: Final = 60.0  # seconds after which a state that lasts is said again
LINGER: Final = 0.02  # seconds that readings wait for others of their cycle: their time of receipt is when they go on
_APPENDS: Final = 64  # that may wait for the journal when a cycle begins: a slow disk costs no reading
_READINGS: Final = 50_000  # in them


class Outlet:
    """Between a reader and its intake, for one run.

    Attributes:
        connected: Whether the source is said to be connected: with the first answer, since a gateway that takes connections
            for a dead line is not.
    """

    def __init__(self, intake: Intake, units: Sequence[Unit], endpoint: str) -> None:
        self.connected = False
        self._intake, self._units, self._endpoint = intake, units, endpoint
        self._loop = asyncio.get_running_loop()
        self._rows = Columns()
        self._in_flight: deque[tuple[asyncio.Future[None], int]] = deque()
        self._readings = 0  # in flight
        self._told: dict[str, float] = {}
        intake.state(SourceState.CONNECTING, endpoint)

    def rows(self) -> Columns:
        """Where readings are gathered; they go on when the cycle ends, and soon if it takes long."""
        rows = self._rows
        if not len(rows):
            self._loop.call_later(LINGER, lambda: self.flush() if rows is self._rows else None)
        return rows

    def flush(self) -> None:
        """Hand on what was gathered."""
        if len(self._rows):
            rows, self._rows = self._rows, Columns()
            answers = {unit.id: unit.last_good for unit in self._units if unit.last_good is not None}
            state = json.dumps(answers).encode() if answers else None
            count = len(rows)
            self._readings += count
            self._in_flight.append((self._intake.append(rows, state), count))

    async def room(self) -> float:
        """Wait until the journal has taken most of what it was given; returns the seconds that it took."""
        began = self._loop.time()
        while self._in_flight:
            done, count = self._in_flight[0]
            if not (done.done() or len(self._in_flight) > _APPENDS or self._readings > _READINGS):
                break
            self._in_flight.popleft()
            self._readings -= count
            await done
        return self._loop.time() - began

    def answered(self, *, again: bool) -> None:
        """An answer came; `again`: there was a connection before this one, at whose end every tag was marked."""
        if self.connected:
            return
        self.connected = True
        if again:
            for unit in self._units:
                for poll in unit.polls:
                    poll.said = None
        self._intake.state(SourceState.CONNECTED, self._endpoint)

    def remark(self, about: str, detail: str) -> bool:
        """Say something about the connection, not too often; returns whether it was said."""
        now = self._loop.time()
        if not self.connected or now - self._told.get(about, float("-inf")) <= REPEAT:
            return False
        self._told[about] = now
        self._intake.state(SourceState.CONNECTED, detail)
        return True

    def take_back(self, about: str) -> None:
        """What was remarked is over."""
        if self._told.pop(about, None) is not None and self.connected:
            self._intake.state(SourceState.CONNECTED, self._endpoint)

    def gap(self, unit: Unit, end: int) -> None:
        """A unit answers again: what it did not tell will never come."""
        if unit.outage is not None and unit.last_good is not None:
            tags = [tag for poll in unit.polls for tag in poll.decoder.tags]
            self._intake.gap(tags, unit.last_good, end, unit.outage)
        unit.outage = None

    def say(self, poll: Poll, quality: Quality, status: int | None) -> None:
        """Readings without value for all tags of a block: when this is new, and again when it lasts."""
        now = self._loop.time()
        if poll.said != (quality, status) or now - poll.said_at >= REPEAT:
            poll.said, poll.said_at = (quality, status), now
            self.rows().add_arrays(poll.decoder.all_tags, None, quality=quality, status=status)

    def reject(self, poll: Poll, error: BadReplyError) -> None:
        """What came instead of an answer."""
        block = poll.block
        where = f"{block.kind.name.lower()} {block.address} to {block.end - 1} of unit {block.unit_id}"
        self.rows().add_reject(poll.decoder.tags[0], f"answer to {where}: {error}", error.raw)
