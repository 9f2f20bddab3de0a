"""Ctrl-C and SIGTERM: a scenario that goes in rounds ends behind the present one and is judged, any other ends at once."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType


class Interruption:
    """Whether a run is to end early.

    Attributes:
        asked: Somebody wants it to.
    """

    def __init__(self) -> None:
        self.asked = False
        self._in_rounds = False

    @contextlib.contextmanager
    def heard(self) -> Iterator[None]:
        """Hear the signals."""
        self.asked = False
        before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextlib.contextmanager
    def rounds(self) -> Iterator[None]:
        """Who is in the block looks at `asked` between rounds; only asked again it is left at once."""
        self._in_rounds = True
        try:
            yield
        finally:
            self._in_rounds = False

    def _ask(self, number: int, frame: FrameType | None) -> None:
        at_once = self.asked or not self._in_rounds
        self.asked = True
        if at_once:
            raise KeyboardInterrupt


INTERRUPTION = Interruption()
