"""When each node was last heard of, and what it said: for those who watch nodes that fall silent. Pure, no I/O."""

import time
from typing import Any, Final

import numpy as np

_CODE: Final = 0xFFFF0000  # of a status: without the bits that say how the value came


class Heard:
    """What was heard of nodes, by client handle.

    Attributes:
        at: When, by the monotonic clock; of a new node when it became known.
        status: Status codes without info bits; -1 where nothing was said.
    """

    def __init__(self) -> None:
        self.at = np.zeros(0)
        self.status = np.zeros(0, np.int64)
        self._number = np.zeros(0)
        self._other: dict[int, Any] = {}  # values that are no numbers

    def extend(self, size: int) -> None:
        """Know nodes up to this many."""
        new = size - len(self.at)
        self.at = np.concatenate([self.at, np.full(new, time.monotonic())])
        self.status = np.concatenate([self.status, np.full(new, -1)])
        self._number = np.concatenate([self._number, np.full(new, np.nan)])

    def many(self, handles: np.ndarray, values: np.ndarray, status: int | np.ndarray) -> None:
        """Nodes said numbers; of one that spoke several times the last counts."""
        self.at[handles] = time.monotonic()
        self.status[handles] = status if isinstance(status, int) else status.astype(np.int64) & _CODE
        self._number[handles] = values

    def one(self, handle: int, value: Any, status: int) -> None:
        """A node said something."""
        self.at[handle] = time.monotonic()
        self.status[handle] = status & _CODE
        if isinstance(value, int | float):
            self._number[handle] = float(value)
        else:
            self._other[handle] = value

    def take(self, handle: int, other: "Heard", place: int) -> None:
        """A node said what another said."""
        self.many(np.array([handle]), other._number[[place]], int(other.status[place]))  # noqa: SLF001 - one of its own class
        if place in other._other:  # noqa: SLF001 - the same
            self._other[handle] = other._other[place]  # noqa: SLF001 - the same

    def same(self, handle: int, other: "Heard", place: int) -> bool:
        """Whether a node said what another is known to have said."""
        one, two = self._number[handle], other._number[place]  # noqa: SLF001 - one of its own class
        if self.status[handle] != other.status[place]:
            return False
        if handle in self._other or place in other._other:  # noqa: SLF001 - the same
            return bool(self._other.get(handle) == other._other.get(place))  # noqa: SLF001 - the same
        return bool(one == two or (np.isnan(one) and np.isnan(two)))
