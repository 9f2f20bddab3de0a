"""``python -m benchmarks.ui [PAIRS [SECONDS]]``: what five open pages cost the data path, into build/evidence/ui.json.

Two gateways run in turn, A B A B: one without UI, and one with five pages open, which are event streams of real clients in a
process of their own. Cost is CPU-seconds of the gateway's process per reading, all threads; each pair gives a ratio, and the
figure is their median with its 95 % interval. It is measured at full speed, and at 5,000 readings/s. Beside it stands how long
the list of tags takes with 10,000 and 100,000 of them.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from math import comb
from typing import Any, Final

import numpy as np

from benchmarks import evidence
from tests.ports import free_port

UI: Final = evidence.BENCH.with_name("ui.json")
LOADS: Final = {"full": 0, "paced": 5_000}  # readings per second; 0 for as many as it can take
AIM: Final = 1.02
PAIRS: Final = 20
_SECONDS: Final = 12.0


def _child(*arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", *arguments], cwd=evidence.ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def _line(child: "subprocess.Popen[str]") -> str:
    assert child.stdout is not None
    said = child.stdout.readline().strip()
    if not said:
        raise RuntimeError(f"{child.args} ended with code {child.wait(20)}")
    return said


def run(rate: int, seconds: float, *, pages: bool) -> dict[str, Any]:
    """One gateway: its readings and CPU-seconds, and what its pages got."""
    directory = tempfile.mkdtemp(prefix="bifrost-bench-")
    port = free_port() if pages else 0
    gateway = _child("benchmarks.watched", str(rate), str(seconds), str(port), directory)
    browser = None
    try:
        _line(gateway)
        if pages:
            browser = _child("benchmarks.pages", str(port), directory)
            _line(browser)
        assert gateway.stdin is not None
        gateway.stdin.write("go\n")
        gateway.stdin.flush()
        found: dict[str, Any] = json.loads(_line(gateway))
        if browser is not None:
            told, _ = browser.communicate(timeout=20)
            found |= json.loads(told.strip().splitlines()[-1])
        gateway.communicate(timeout=60)
        return found
    finally:
        for child in (gateway, browser):
            if child is not None and child.poll() is None:
                child.kill()
                child.wait()
        shutil.rmtree(directory, ignore_errors=True)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of the median of values, by their order; all of them where they are too few for one."""
    ordered, count = sorted(values), len(values)
    low, chance = 0, 2 * 0.5**count
    while low + 1 < count / 2 and chance + 2 * comb(count, low + 1) * 0.5**count <= 0.05:
        low += 1
        chance += 2 * comb(count, low) * 0.5**count
    return ordered[low], ordered[count - 1 - low]


def cost(load: str, pairs: int, seconds: float) -> dict[str, Any]:
    """The cost of five pages at a load."""
    rate = LOADS[load]
    made = []
    for number in range(pairs):
        off, five = (run(rate, seconds, pages=pages) for pages in (False, True))
        each = [1e6 * found["cpu_s"] / found["readings"] for found in (off, five)]
        made.append({"off": off, "pages": five, "ratio": round(each[1] / each[0], 4)})
        print(
            f"{load}, pair {number + 1}: {each[0]:.3f} and {each[1]:.3f} µs a reading, {made[-1]['ratio']}", flush=True
        )
    ratios = [pair["ratio"] for pair in made]
    low, high = interval(ratios)
    resolved = pairs >= PAIRS and (high <= AIM or low > AIM)
    return {
        "readings_per_s": rate or round(np.median([pair["off"]["readings"] / pair["off"]["wall_s"] for pair in made])),
        "cpu_us_per_reading": round(
            float(np.median([1e6 * p["off"]["cpu_s"] / p["off"]["readings"] for p in made])), 3
        ),
        "ratio": round(float(np.median(ratios)), 4),
        "interval": [low, high],
        "resolved": resolved,
        "pairs": made,
    }


def tags(count: int) -> dict[str, float]:
    """Milliseconds that finding among so many tags takes, the median of several, each after new readings of all."""
    from benchmarks.tags import measure

    return measure(count)


def main(arguments: list[str]) -> None:
    """Measure all and keep the figures."""
    pairs = int(arguments[0]) if arguments else PAIRS
    seconds = float(arguments[1]) if len(arguments) > 1 else _SECONDS
    before, began = os.getloadavg(), time.monotonic()
    costs = {load: cost(load, pairs, seconds) for load in LOADS}
    listed = {str(count): tags(count) for count in (10_000, 100_000)}
    described = evidence.conditions(before, fsync=True, pages=5, aim=AIM, seconds_a_run=seconds)
    found = {"cost": costs, "tags_ms": listed, "conditions": described, "took_s": round(time.monotonic() - began)}
    UI.parent.mkdir(parents=True, exist_ok=True)
    draft = UI.with_suffix(".new")
    draft.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    draft.replace(UI)
    for load, one in costs.items():
        print(f"{load}: {one['ratio']} of the CPU-seconds, {one['interval']}, resolved: {one['resolved']}")


if __name__ == "__main__":
    main(sys.argv[1:])
