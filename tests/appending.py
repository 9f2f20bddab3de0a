"""Files that a process appends to while it may be killed at any instruction, also inside the write."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Self


def whole_lines(path: Path) -> int:
    """Bytes of a file of lines without what stands after the last line feed."""
    return path.read_bytes().rfind(b"\n") + 1


def whole_numbers(path: Path) -> int:
    """Bytes of a file of numbers of eight bytes without a part of one at the end."""
    return path.stat().st_size // 8 * 8


class Appender:
    """Appends to a file; what an earlier process left torn at its end goes first, or the next record would continue it.

    Args:
        path: The file.
        whole: Tells the bytes of it that hold whole records.
    """

    def __init__(self, path: Path, whole: Callable[[Path], int] = whole_lines) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.ftruncate(self._fd, whole(path))

    def append(self, data: bytes) -> None:
        """Append a record, or leave the file as it was; after `close` this does nothing: nobody is there to be told.

        Raises:
            OSError: The disk refused.
        """
        if self._fd < 0:
            return
        size, rest = os.fstat(self._fd).st_size, memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except OSError:
            os.ftruncate(self._fd, size)
            raise

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
