"""Power cuts of the real stores: lives are recorded write by write, and any state that a disk may keep is started on.

The recorder, the lives and what is checked afterwards are those of `tests.delivery`; here they run by the thousand.
"""

import asyncio
import copy
import multiprocessing
import os
import random
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import structlog

from delivery import journal as journal_module
from tests.chaos.scenario import Scenario

_LIVES: Final = 3
_STATES: Final = 13
_SEGMENT: Final = 2500
_MEMORY: Final = Path("/dev/shm")


def run(
    scenario: Scenario, load: Mapping[str, Any], directory: Path, chance: random.Random, say: Callable[[str], None]
) -> dict[str, Any]:
    """As many states as the load asks for, in a process per core."""
    wanted = int(load["states"])
    campaigns = -(-wanted // (_LIVES * _STATES))
    seeds = [chance.randrange(2**31) for _ in range(campaigns)]
    found = {"states": 0, "lost": 0, "needed_operator": 0, "unaccounted": 0, "other": 0}
    began = told = time.monotonic()
    context = multiprocessing.get_context("spawn")
    with context.Pool(os.cpu_count() or 1) as pool:
        for done, (seed, states, broken) in enumerate(pool.imap_unordered(campaign, seeds), 1):
            found["states"] += states
            for kind, words in broken:
                found[kind] += 1
                say(f"    seed {seed}: {words}")
            if time.monotonic() - told > 20 or done == campaigns:
                told = time.monotonic()
                say(f"    {found['states']:,} states, {found['states'] / (told - began):.0f}/s")
    return found


def campaign(seed: int) -> tuple[int, int, list[tuple[str, str]]]:
    """Three lives on one disk, each cut off at any moment, and a start on some of the states that each can leave.

    Returns:
        The seed, how many states were started on, and what was wrong: its kind and words.
    """
    from tests.delivery.power import Disk, Remains
    from tests.delivery.test_power_cut import Promises, live, recover

    chance, states, broken = random.Random(seed), 0, list[tuple[str, str]]()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))  # what they say is meant
    root = Path(tempfile.mkdtemp(prefix="bifrost-power-", dir=_MEMORY if _MEMORY.is_dir() else None))
    patch = pytest.MonkeyPatch()
    threads: list[str] = []
    patch.setattr(threading, "excepthook", lambda failed: threads.append(f"a thread ended by {failed.exc_value!r}"))
    patch.setattr(journal_module, "_SEGMENT_BYTES", _SEGMENT)  # segments must come and go within a short life
    try:
        disk, promises = Disk(root), Promises()
        with disk.watched(patch):
            for life in range(_LIVES):
                moments: list[tuple[Remains, Promises]] = []
                asyncio.run(live(root, disk, promises, chance, moments))
                for number, (remains, told) in enumerate(chance.choices(moments, k=_STATES)):
                    disk.restore(remains.after_power_cut(chance))
                    states += 1
                    try:
                        asyncio.run(recover(root, copy.deepcopy(told), chance))
                    except AssertionError as wrong:
                        broken.append((_kind(str(wrong)), f"life {life}, state {number}: {str(wrong)[:300]}"))
                    except Exception as failed:  # noqa: BLE001 - a start that fails in any way would need an operator
                        broken.append(("needed_operator", f"life {life}, state {number}: {failed!r}"))
                remains, promises = moments[-1] if chance.random() < 0.3 else chance.choice(moments)
                if chance.random() < 0.5:
                    disk.restore(remains.files, remains)
                else:
                    disk.restore(remains.after_power_cut(chance))
    finally:
        patch.undo()
        shutil.rmtree(root, ignore_errors=True)
    return seed, states, broken + [("other", words) for words in threads]


def _kind(words: str) -> str:
    if "unaccounted" in words or "Account(" in words:
        return "unaccounted"
    return "lost" if "lost" in words or "arrived" in words else "other"
