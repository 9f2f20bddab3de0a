"""What every store asks of the disk: directories that survive a power cut and belong to one process, and its errors."""

import fcntl
import os
from pathlib import Path
from typing import Final

RESTORED: Final = "restored"  # a file in the journal that says that the directory comes from a backup


class StoreError(Exception):
    """A store cannot do what it must; the message says where and what to do."""


class StoreFullError(StoreError):
    """The disk under a store is full."""


class StoreLockedError(StoreError):
    """Another process has the directory of a store.

    Attributes:
        directory: The directory.
        owner: Number of the process.
    """

    def __init__(self, directory: Path, owner: str) -> None:
        super().__init__(f"{directory} belongs to process {owner}; stop it, or give this gateway its own directory")
        self.directory, self.owner = directory, owner


class DirectoryLock:
    """Holds a directory for this process; a second process is refused."""

    def __init__(self, directory: Path) -> None:
        make_directory(directory)
        self._fd = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.pread(self._fd, 32, 0).decode(errors="replace").strip()
            os.close(self._fd)
            raise StoreLockedError(directory, owner) from error
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, str(os.getpid()).encode(), 0)

    def release(self) -> None:
        """Give the directory back."""
        os.close(self._fd)


def make_directory(directory: Path) -> None:
    """Make `directory` and its parents where they are missing, durably: a power cut must not take them back."""
    if not directory.is_dir():
        make_directory(directory.parent)
        directory.mkdir(exist_ok=True, mode=0o700)
        sync_directory(directory.parent)


def sync_directory(directory: Path) -> None:
    """Make created, renamed and removed names of `directory` durable."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_durably(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Replace the file `path` by `data`; after a crash it holds the old bytes or the new ones."""
    temporary = path.with_name(path.name + ".new")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        left = memoryview(data)
        while left:
            left = left[os.write(fd, left) :]
        os.fchmod(fd, mode)
        os.fsync(fd)
    finally:
        os.close(fd)
    temporary.rename(path)
    sync_directory(path.parent)
