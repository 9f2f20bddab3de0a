"""The wall clock of one process, to be set while it runs.

libfaketime is not used: under it, waits of Python threads on the monotonic clock failed or never ended.
"""

import os
import struct
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("wall_clock.c")
LIBRARY = SOURCE.parents[1] / "build" / "counterparts" / "wall_clock.so"


class WallClock:
    """A wall clock for the processes that are started with `environment`.

    Args:
        directory: Where a file for it may lie.
    """

    def __init__(self, directory: Path) -> None:
        if not LIBRARY.exists() or LIBRARY.stat().st_mtime < SOURCE.stat().st_mtime:
            LIBRARY.parent.mkdir(parents=True, exist_ok=True)
            made = LIBRARY.with_suffix(f".{os.getpid()}")
            options = ["-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
            subprocess.run(["cc", *options, str(SOURCE), "-o", str(made), "-ldl"], check=True)
            made.replace(LIBRARY)
        self._file = directory / "wall_clock"
        self._file.write_bytes(bytes(8))
        self.environment = {"LD_PRELOAD": str(LIBRARY), "WALL_CLOCK": str(self._file)}

    def set(self, seconds: int) -> None:
        """Set it to `seconds` away from what is right."""
        with self._file.open("r+b") as file:  # in place: the process has mapped it
            file.write(struct.pack("q", seconds))
