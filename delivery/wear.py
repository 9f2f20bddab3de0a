"""What the gateway costs the disk it writes to."""

from pathlib import Path
from typing import Final

_IO: Final = Path("/proc/self/io")
_YEAR: Final = 365.25 * 86_400


def written_bytes() -> int:
    """Bytes that this process has made the disk write, whole pages, as the system counts them; 0 where it does not."""
    try:
        lines = dict(line.split(": ") for line in _IO.read_text().splitlines())
    except OSError:
        return 0
    return int(lines["write_bytes"]) - int(lines["cancelled_write_bytes"])


def years(endurance: int, written: int, seconds: float) -> float | None:
    """Years that a disk lasts at the pace of the last `seconds`; None when nothing was written.

    Args:
        endurance: Bytes that it may be written with.
        written: Bytes written.
        seconds: Time in which they were.
    """
    return endurance / (written / seconds) / _YEAR if written > 0 and seconds > 0 else None
