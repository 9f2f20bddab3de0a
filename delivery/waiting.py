"""Entries of a lane that wait in memory, and the order in which they go out."""

from collections import deque
from collections.abc import Callable, Iterable
from enum import StrEnum

from delivery.unit import Entry


class Drain(StrEnum):
    """In what order the readings of one priority go out when some have waited."""

    OLDEST_FIRST = "oldest_first"
    NEWEST_FIRST = "newest_first"
    LIVE_FIRST = "live_first"


class Queue:
    """Entries, oldest first."""

    def __init__(self) -> None:
        self.entries: deque[Entry] = deque()
        self.rows = 0

    def push(self, entry: Entry) -> None:
        """Put an entry behind the others."""
        self.entries.append(entry)
        self.rows += entry.rows

    def insert(self, entries: Iterable[Entry]) -> None:
        """Put entries where they belong by their numbers."""
        added = list(entries)
        self.entries = deque(sorted([*self.entries, *added], key=lambda entry: entry.number))
        self.rows += sum(entry.rows for entry in added)

    def pop(self, *, newest: bool = False) -> Entry:
        """Take the oldest entry, or the newest."""
        entry = self.entries.pop() if newest else self.entries.popleft()
        self.rows -= entry.rows
        return entry

    def remove(self, wanted: Callable[[Entry], bool]) -> list[Entry]:
        """Take the entries that are `wanted`."""
        removed = [entry for entry in self.entries if wanted(entry)]
        if removed:
            self.entries = deque(entry for entry in self.entries if not wanted(entry))
            self.rows -= sum(entry.rows for entry in removed)
        return removed


class Waiting:
    """What waits in memory.

    Args:
        drain: In what order readings go out.
        live_share: Share of the readings sent that are live ones while both wait, with `Drain.LIVE_FIRST`.

    Attributes:
        again: What was in a unit that was taken apart; goes first.
        backlog: What was read back from the log, or appended while nothing was left behind there; with
            `Drain.NEWEST_FIRST` all that waits.
        live: What was appended while something was.
    """

    def __init__(self, drain: Drain, live_share: float) -> None:
        self.drain, self._live_share = drain, live_share
        self.again, self.backlog, self.live = Queue(), Queue(), Queue()
        self._balance = 0.0  # readings that the backlog is owed

    @property
    def rows(self) -> int:
        """Readings that wait."""
        return self.again.rows + self.backlog.rows + self.live.rows

    @property
    def oldest(self) -> float | None:
        """When the oldest of them was appended."""
        queues = (self.again, self.backlog, self.live)
        return min((queue.entries[0].appended for queue in queues if queue.entries), default=None)

    @property
    def entries(self) -> list[Entry]:
        """All of them."""
        return [*self.again.entries, *self.backlog.entries, *self.live.entries]

    def wants(self, rows: int) -> bool:
        """Whether more should be read back before a unit of `rows` readings is taken."""
        return self.backlog.rows < rows

    def remove(self, wanted: Callable[[Entry], bool]) -> list[Entry]:
        """Take the entries that are `wanted`, but for those that go again."""
        return [*self.backlog.remove(wanted), *self.live.remove(wanted)]

    def take(self, rows: int, size: int, *, more: bool) -> list[Entry]:
        """The entries that go next: about `rows` readings and `size` bytes at most, but one entry at least.

        Args:
            rows: Readings.
            size: Bytes.
            more: Whether more of the backlog is in the log.
        """
        queue = self._choose()
        if not queue.entries:
            return []
        newest = self.drain is Drain.NEWEST_FIRST and queue is not self.again
        taken: list[Entry] = []
        while queue.entries:
            entry = queue.entries[-1 if newest else 0]
            rows, size = rows - entry.rows, size - entry.size
            if taken and (rows < 0 or size < 0):
                break
            taken.append(queue.pop(newest=newest))
        self._weigh(queue, sum(entry.rows for entry in taken), more=more)
        return taken[::-1] if newest else taken

    def _choose(self) -> Queue:
        if self.again.entries:
            return self.again
        if not self.live.entries:
            return self.backlog
        if self.drain is Drain.LIVE_FIRST and self.backlog.entries and self._balance > 0:
            return self.backlog
        return self.live

    def _weigh(self, queue: Queue, rows: int, *, more: bool) -> None:
        """Note what was taken, so that live readings and backlog each get their share."""
        if not self.live.entries or not (self.backlog.entries or more):
            self._balance = 0.0
        elif queue is self.live:
            self._balance += rows * (1 - self._live_share)
        else:
            self._balance -= rows * self._live_share
