"""A gateway that stands still for the moment in which its files are looked at.

Its stores belong together: journal, spools and the flow's snapshots copied one after the other would be of three different
times, and no order of copying mends that. So the process is stopped as a whole (SIGSTOP): what its files hold at that moment is
what they would hold after a kill, which every start is made for.
"""

import contextlib
import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from delivery.disk import DirectoryLock, StoreError, StoreLockedError

_STANDS_WITHIN: Final = 10.0  # a thread that waits for the disk stands when the disk has answered


@contextlib.contextmanager
def standing_still(directory: Path) -> Iterator[bool]:
    """Nothing changes in `directory` meanwhile; gives whether a gateway runs there.

    Raises:
        StoreError: Its process cannot be stopped for a moment, and goes on as before.
    """
    try:
        lock = DirectoryLock(directory)
    except StoreLockedError as held:
        with _stopped(_owner(directory, held.owner)):
            yield True
        return
    try:
        yield False
    finally:
        lock.release()


def _owner(directory: Path, said: str) -> int:
    """The process that holds the lock, seen from here."""
    path = directory / "lock"
    wanted = path.stat()
    with contextlib.suppress(OSError, ValueError):
        number = int(said)
        for name in Path(f"/proc/{number}/fd").iterdir():
            with contextlib.suppress(OSError):
                found = name.stat()
                if (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino) and number != os.getpid():
                    return number
    raise StoreError(
        f"{directory} belongs to process {said}, which is not to be seen from here: run this as the gateway's user or as "
        "root, and where the gateway runs in a container, in that container"
    )


@contextlib.contextmanager
def _stopped(number: int) -> Iterator[None]:
    # it goes on also when this process is killed: the pipe closes then
    guard = subprocess.Popen(  # noqa: S603 - a number of our own
        ["/bin/sh", "-c", f"read -r _; kill -CONT {number}"], stdin=subprocess.PIPE, start_new_session=True
    )
    try:
        os.kill(number, signal.SIGSTOP)
        _wait(number)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, signal.SIGCONT)
        guard.communicate()


def _wait(number: int) -> None:
    """Until every thread stands."""
    until = time.monotonic() + _STANDS_WITHIN
    while True:
        states = set()
        for task in Path(f"/proc/{number}/task").iterdir():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ended
                states.add((task / "stat").read_text().rpartition(")")[2].split()[0])
        if states <= {"T", "t", "Z", "X"}:
            return
        if time.monotonic() > until:
            raise StoreError(
                f"process {number} did not stand still within {_STANDS_WITHIN:.0f} s: the disk is too slow; try later"
            )
        time.sleep(0.001)


def is_locked(directory: Path) -> bool:
    """Whether a process has the directory."""
    try:
        fd = os.open(directory / "lock", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False
