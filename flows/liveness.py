"""Whether a process does its work: the flow takes its turns, and the I/O loop goes round."""

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Final

_LOOK: Final = 0.025


def stands_still(turns: Callable[[], int] | None, loop: asyncio.AbstractEventLoop | None, patience: float) -> str:
    """What stands still, empty when nothing does; not for a thread of either.

    Args:
        turns: How many turns the flow has taken; None when it waits for other processes, which ending this one would not mend.
        loop: The I/O loop.
        patience: Seconds that each may take.
    """
    deadline, pause, before = time.monotonic() + patience, threading.Event(), turns() if turns is not None else 0
    while turns is not None and turns() == before:
        if time.monotonic() > deadline:
            return "the flow takes no turn"
        pause.wait(_LOOK)
    if loop is None:
        return "the I/O loop has not begun"
    try:
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result(patience)
    except TimeoutError:
        return "the I/O loop does not go round"
    return ""
