"""Rate limits: how soon a target may get the next unit."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RateLimit:
    """Bounds of what a target gets per second; None for no bound.

    Attributes:
        rows: Readings.
        bytes: Bytes of the readings, uncompressed Arrow.
        messages: Writes.
    """

    rows: float | None = None
    bytes: float | None = None
    messages: float | None = None

    def pause(self, rows: int, size: int) -> float:
        """Seconds that a unit uses up.

        Args:
            rows: Its readings.
            size: Its bytes.
        """
        shares = ((rows, self.rows), (size, self.bytes), (1, self.messages))
        return max((used / allowed for used, allowed in shares if allowed), default=0.0)

    def most(self, rows: int, size: int) -> tuple[int, int]:
        """Readings and bytes of one unit, at most: no unit uses up more than a second."""
        if self.rows:
            rows = max(1, min(rows, int(self.rows)))
        if self.bytes:
            size = max(1, min(size, int(self.bytes)))
        return rows, size
