"""Messages that wait on disk until somebody far away has taken them, in order; bounded, the oldest go first.

What the gateway says of itself waits here: a message that is lost costs a point in a curve and not a reading, so nothing is synced
per message. A killed process loses nothing; a power cut may take what came since the last sync.
"""

import struct
import threading
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from delivery.disk import StoreError
from delivery.entry import pack, unpack
from delivery.log import HEAD, Cursor, Log, Record

_MESSAGE, _SETTLED = 1, 2
_FORMAT: Final = 1
_ABOUT: Final = struct.Struct("<dI")  # when it was made, seconds since the epoch; how many points it holds
_TAKEN: Final = struct.Struct("<QI")  # number and points of a message
_LEAST_SEGMENT, _SEGMENT = 64 * 1024, 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Message:
    """A message that waits.

    Attributes:
        number: Its number.
        time: When it was made, seconds since the epoch.
        points: How many points it holds: samples or events.
        body: Its bytes.
    """

    number: int
    time: float
    points: int
    body: bytes


@dataclass(slots=True)
class _Held:
    """A segment in which something waits: its last message, the points in it that were not taken, the time of its first message."""

    segment: int
    last: int
    points: int
    time: float


class Outbox:
    """Messages of one kind. One thread puts them in, another takes them out.

    Args:
        directory: Where they lie.
        quota: Bytes that they may take on disk.

    Attributes:
        newest: When the newest message was made, seconds since the epoch, also that of an earlier process; 0 for never.
        damaged: Places where messages were lost that were durable.
    """

    def __init__(self, directory: Path, quota: int) -> None:
        self.newest = 0.0
        self._quota = quota
        self._lock = threading.Lock()
        self._settled = 0
        self._held: deque[_Held] = deque()
        self._front: Message | None = None
        size = min(_SEGMENT, max(_LEAST_SEGMENT, quota // 16))
        self._log = Log(directory, self._head, size)
        for record in self._log.recover():
            self._recover(record)
        self.damaged = self._log.damaged
        there = set(self._log.segments())
        self._held = deque(held for held in self._held if held.segment in there and held.last > self._settled)
        self._cursor = Cursor(self._held[0].segment if self._held else self._log.next_number)
        self._log.begin()

    # ------------------------------------------------------------------ state

    def _head(self) -> bytes:
        held = [[held.segment, held.last, held.points, held.time] for held in self._held]
        return pack([_FORMAT, self._settled, self.newest, held])

    def _recover(self, record: Record) -> None:
        if record.kind == _MESSAGE:
            time, points = _ABOUT.unpack_from(record.payload)
            self._note(record.segment, record.number, points, time)
        elif record.kind == _SETTLED:
            self._leave(*_TAKEN.unpack_from(record.payload))
        elif record.kind == HEAD:
            version, settled, newest, held = unpack(record.payload)
            if version != _FORMAT:
                raise StoreError(f"{self._log.directory} was written by a newer version of Bifrost; start that version")
            self._settled, self.newest = settled, newest
            self._held = deque(_Held(*one) for one in held)

    def _note(self, segment: int, number: int, points: int, time: float) -> None:
        self.newest = max(self.newest, time)
        if self._held and self._held[-1].segment == segment:
            held = self._held[-1]
            held.last, held.points = number, held.points + points
        else:
            self._held.append(_Held(segment, number, points, time))

    def _leave(self, number: int, points: int) -> None:
        self._settled = number
        while self._held and self._held[0].last <= number:
            self._held.popleft()
        if self._held and self._held[0].segment <= number:
            self._held[0].points -= points

    # ------------------------------------------------------------------ looking

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return self._log.size

    @property
    def oldest(self) -> float | None:
        """When the oldest message that waits was made, seconds since the epoch; None when none does."""
        with self._lock:
            if self._front is not None:
                return self._front.time
            return self._held[0].time if self._held else None

    # ------------------------------------------------------------------ putting in

    def put(self, body: bytes, points: int, time: float) -> int:
        """Put a message in; it is in the system's memory then, and safe from a kill.

        Args:
            body: Its bytes.
            points: How many points it holds.
            time: When it was made, seconds since the epoch.

        Returns:
            Points of the oldest messages that went to make room.

        Raises:
            StoreFullError: The disk is full.
            StoreError: The disk fails.
        """
        with self._lock:
            before = self._log.segments()[-1]
            segment = self._log.segment()
            number = self._log.append(_MESSAGE, [_ABOUT.pack(time, points), body])
            self._note(segment, number, points, time)
            if segment == before and self._log.size <= self._quota:
                return 0
        for _ in range(2):  # a segment may go when it is durable that the newest says that all before it is
            self._log.sync()
        with self._lock:
            return self._make_room()

    def _make_room(self) -> int:
        """Remove segments from which all was taken, and the oldest ones while there are too many bytes."""
        lost = 0
        for segment in self._log.segments()[:-1]:
            waits = bool(self._held) and self._held[0].segment <= segment
            if waits and self._log.size <= self._quota:
                break
            if not self._log.drop(segment):
                break
            if waits and self._held[0].segment == segment:
                held = self._held.popleft()
                lost += held.points
                if self._front is not None and held.segment <= self._front.number <= held.last:
                    lost -= self._front.points  # it is in memory and on its way
        return lost

    def sync(self) -> None:
        """Make durable what was put in.

        Raises:
            StoreError: The disk refused.
        """
        self._log.sync()

    # ------------------------------------------------------------------ taking out

    def front(self) -> Message | None:
        """The oldest message that waits; None when none does. It stays until it is settled."""
        with self._lock:
            if self._front is not None or not self._held:
                return self._front
            last = self._held[-1].last
            for record in self._log.read(self._cursor, last):
                if record.kind == _MESSAGE and record.number > self._settled:
                    time, points = _ABOUT.unpack_from(record.payload)
                    body = bytes(record.payload[_ABOUT.size :])
                    self._front = Message(record.number, time, points, body)
                    return self._front
            self._leave(last, 0)  # what should wait up to there cannot be read any more
            return None

    def settle(self, message: Message) -> None:
        """The message that `front` gave waits no longer.

        Raises:
            StoreFullError: The disk is full, and who took it gets it again after a restart.
            StoreError: The disk fails.
        """
        with self._lock:
            self._front = None
            self._leave(message.number, message.points)
            self._log.append(_SETTLED, [_TAKEN.pack(message.number, message.points)], urgent=True)

    def close(self) -> None:
        """Make all durable and close.

        Raises:
            StoreError: The disk refused.
        """
        self._log.close()
