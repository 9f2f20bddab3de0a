"""`bifrost run` in a process of its own, for tests; what it prints and logs is beside its configuration."""

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]
CELL = """
sources:
  - name: cell
    protocol: mqtt
    endpoint: mqtt://127.0.0.1:{port}
    subscriptions:
      - {{topic: plant/+/+, pattern: "plant/{{device_id}}/{{tag_name}}"}}
"""


@contextmanager
def gateway(file: Path) -> "Iterator[subprocess.Popen[bytes]]":
    """Runs meanwhile, and must end well: `file` is the configuration, `out` and `log` are written beside it."""
    with (file.parent / "log").open("wb") as log, (file.parent / "out").open("wb") as out:
        command = [sys.executable, "-m", "bifrost", "run", "-c", str(file)]
        process = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=log)
        try:
            yield process
            process.terminate()
            assert process.wait(60) == 0, (file.parent / "log").read_text()
        finally:
            process.kill()
            process.wait()


async def until(holds: Callable[[], bool], file: Path, seconds: float = 60) -> None:
    """Wait until a condition holds; fails with the gateway's log."""
    try:
        async with asyncio.timeout(seconds):
            while not await asyncio.to_thread(holds):
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise AssertionError((file.parent / "log").read_text()) from None
