"""Memory that was freed goes back to the system (docs/decisions/0016).

What waits for a target that is away is in memory as far as its spool's bounds allow. When it goes, the C library keeps most of
the room: something that stays lies above it in the heap, and only the top of a heap is given back by itself.
"""

import ctypes
from functools import cache
from typing import Any


@cache
def _trim() -> Any:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError):
        return None  # only glibc keeps what was freed, and only glibc has this


def give_back() -> None:
    """Give the pages that nothing lies in back to the system; takes some milliseconds, other threads go on."""
    trim = _trim()
    if trim is not None:
        trim(0)
