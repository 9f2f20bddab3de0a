"""A reader's state as what differs from the one before: most of it stays the same from commit to commit."""

import zlib

import numpy as np

Patch = tuple[int, int, int, bytes]
"""Checksum of the state before, bytes that stay at its beginning and at its end, and what stands between them now."""


def patch(before: bytes, after: bytes) -> Patch:
    """What makes `after` of `before`."""
    shorter = min(len(before), len(after))
    start = _equal(before[:shorter], after[:shorter])
    end = _equal(before[::-1][: shorter - start], after[::-1][: shorter - start])
    return zlib.crc32(before), start, end, after[start : len(after) - end]


def patched(before: bytes, change: Patch) -> bytes | None:
    """What `patch` was given; None when `before` is not what it was then, because a record between is lost."""
    checksum, start, end, middle = change
    if zlib.crc32(before) != checksum:
        return None
    return before[:start] + middle + before[len(before) - end :]


def _equal(one: bytes, other: bytes) -> int:
    """How many bytes are equal before the first that is not."""
    different = np.flatnonzero(np.frombuffer(one, np.uint8) != np.frombuffer(other, np.uint8))
    return int(different[0]) if len(different) else len(one)
