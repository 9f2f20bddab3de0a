"""What batches went through and how long it took, for who wants to trace it; nothing at all when nobody does.

A span is told when it is over, and only of a batch: a commit of the journal, a batch's way through the dataflow, a write to a target.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Span:
    """Something that was done with a batch.

    Attributes:
        name: What was done.
        began: When it began, ns since the epoch.
        ended: When it was over.
        attributes: What it was done with.
        error: Why it failed; empty when it did not.
    """

    name: str
    began: int
    ended: int
    attributes: dict[str, str | int]
    error: str = ""


class Spans:
    """Where spans are told, and who hears them."""

    def __init__(self) -> None:
        self._tell: Callable[[Span], None] | None = None
        self._end: Callable[[], None] | None = None

    @property
    def wanted(self) -> bool:
        """Whether anybody hears them."""
        return self._tell is not None

    def send_to(self, tell: Callable[[Span], None], end: Callable[[], None] | None = None) -> None:
        """Tell further spans to `tell`, which must not block; `end` is called when there will be no more."""
        self._tell, self._end = tell, end

    def note(self, name: str, began: float, error: str = "", **attributes: str | int) -> None:
        """Something is over now that began at `began` on the monotonic clock."""
        if self._tell is not None:
            now = time.time_ns()
            self._tell(Span(name, now - int((time.monotonic() - began) * 1e9), now, attributes, error))

    def close(self) -> None:
        """Nobody hears what comes from now on."""
        end, self._tell, self._end = self._end, None, None
        if end is not None:
            end()


SPANS: Final = Spans()
