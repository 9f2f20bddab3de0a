"""A reader's state as what differs from the one before: most of it stays the same from commit to commit."""

import zlib

import numpy as np

Patch = tuple[int, int, int, bytes]
"""Checksum of the state before, bytes that stay at its beginning and at its end, and what stands between them now."""


def patch(before: bytes, after: bytes) -> Patch:
    """What makes `after` of `before`."""
    one, other = np.frombuffer(before, np.uint8), np.frombuffer(after, np.uint8)
    shorter = min(len(one), len(other))
    start = _equal(one[:shorter], other[:shorter])
    end = _equal(one[::-1][: shorter - start], other[::-1][: shorter - start])
    return zlib.crc32(before), start, end, after[start : len(after) - end]


def patched(before: bytes, change: Patch) -> bytes | None:
    """What `patch` was given; None when `before` is not what it was then, because a record between is lost."""
    checksum, start, end, middle = change
    if zlib.crc32(before) != checksum:
        return None
    return before[:start] + middle + before[len(before) - end :]


def _equal(one: np.ndarray, other: np.ndarray) -> int:
    """How many bytes are equal before the first that is not."""
    different = np.flatnonzero(one != other)
    return int(different[0]) if len(different) else len(one)
