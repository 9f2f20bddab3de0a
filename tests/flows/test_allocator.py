"""Memory that was freed goes back to the system (docs/decisions/0016)."""

import asyncio
import subprocess
import sys
import time
from pathlib import Path

import pytest

from config.models import Configuration
from flows import process as process_module
from flows.process import Process

SCRIPT = """
import psutil
from flows.allocator import give_back

resident = lambda: psutil.Process().memory_info().rss >> 20
waiting = [bytes(10_000) for _ in range(6_000)]
above = bytes(10_000)  # what stays keeps the heap from being given back
del waiting
before = resident()
give_back()
print(before - resident())
"""


def test_room_of_what_has_gone_is_given_back_though_something_lies_above_it() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 40, "of 57 MiB"


async def test_a_gateway_gives_back_again_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[float] = []
    monkeypatch.setattr(process_module, "_GIVE_BACK", 0.01)
    monkeypatch.setattr(process_module, "give_back", lambda: given.append(time.monotonic()))
    process = Process(Configuration(gateway="gw", directory=tmp_path, port=None))
    process.open_stores()
    reading = asyncio.create_task(process._read())
    async with asyncio.timeout(10):
        while len(given) < 3:
            await asyncio.sleep(0.01)
    reading.cancel()
    process.close()
