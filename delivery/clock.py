"""The clock that stored readings age by: a step of the wall clock does not move it, and it goes on over restarts.

Within one boot of the machine it is the monotonic clock; what passed while the machine was off is told by the wall clock.
"""

import contextlib
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from delivery.disk import write_durably

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Moment:
    """One moment on all clocks.

    Attributes:
        age: The ageing clock, in seconds.
        boot: Names the machine's boot.
        since_boot: Seconds since then.
        wall: Seconds since the epoch.
    """

    age: float
    boot: str
    since_boot: float
    wall: float


def resumed(last: Moment | None, boot: str, since_boot: float, wall: float) -> float:
    """The ageing clock now, after `last` was noted."""
    if last is None:
        return 0.0
    if last.boot == boot:
        return last.age + max(0.0, since_boot - last.since_boot)
    return last.age + max(0.0, wall - last.wall)


def _boot() -> str:
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:  # a system that does not name its boots: each run counts as one
        return ""


class AgeClock:
    """Seconds that count on from run to run; call it to read it.

    Args:
        path: File that holds the last moment noted.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._boot = _boot()
        self._base = resumed(self._noted(), self._boot, _since_boot(), time.time()) - _since_boot()

    def __call__(self) -> float:
        """The time by this clock, in seconds."""
        return self._base + _since_boot()

    def _noted(self) -> Moment | None:
        with contextlib.suppress(OSError, ValueError, TypeError):
            return Moment(**json.loads(self._path.read_text()))
        return None

    def note(self) -> None:
        """Note this moment, durably, for the next run."""
        with contextlib.suppress(OSError):  # a full disk: the moment noted before does as well
            moment = Moment(self(), self._boot, _since_boot(), time.time())
            write_durably(self._path, json.dumps(asdict(moment)).encode())


def _since_boot() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)
