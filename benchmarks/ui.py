"""``python -m benchmarks.ui [PAIRS [SECONDS]]``: what five open pages cost the data path, into build/evidence/ui.json.

Two gateways run in turn, A B A B: one without UI, and one with five pages open, which are event streams of real clients in a
process of their own. Cost is CPU-seconds of the gateway's process per reading, all threads; each pair gives a ratio, and the
figure is their median with its 95 % interval. *plant*: the whole gateway at 5,000 readings/s from the simulated plant (OPC UA,
MQTT, Sparkplug B, Modbus) into the ZeroBus emulator. *core path*: no protocol at all, as fast as journal, flow and spool take it.
Beside it stands how long finding takes among 10,000 and 100,000 tags.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from math import comb
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks import evidence, tags
from benchmarks.gateway import OFFERED, around, configured, cpu_s, running
from tests.ports import free_port

UI: Final = evidence.BENCH.with_name("ui.json")
AIM: Final = 1.02
PAIRS: Final = 20
_SECONDS: Final = 12.0
_SETTLE: Final = 6.0


def _child(*arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", *arguments], cwd=evidence.ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def _line(child: "subprocess.Popen[str]") -> str:
    assert child.stdout is not None
    said = child.stdout.readline().strip()
    if not said:
        raise RuntimeError(f"{child.args!r} ended with code {child.wait(20)}")
    return said


@contextlib.contextmanager
def _pages(port: int, directory: Path) -> Iterator[Callable[[], dict[str, Any]]]:
    """Five open pages; tells what they got."""
    browser = _child("benchmarks.pages", str(port), str(directory))
    try:
        _line(browser)
        yield lambda: json.loads(browser.communicate(timeout=20)[0].strip().splitlines()[-1])
    finally:
        if browser.poll() is None:
            browser.kill()
            browser.wait()


def core_path(seconds: float, *, pages: bool, rate: int = 0) -> dict[str, Any]:
    """A gateway without protocols: its readings and CPU-seconds, and what its pages got."""
    directory = tempfile.mkdtemp(prefix="bifrost-bench-")
    port = free_port() if pages else 0
    gateway = _child("benchmarks.watched", str(rate), str(seconds), str(port), directory)
    try:
        _line(gateway)
        with _pages(port, Path(directory)) if pages else contextlib.nullcontext(dict) as told:
            assert gateway.stdin is not None  # see `_child`
            gateway.stdin.write("go\n")
            gateway.stdin.flush()
            found: dict[str, Any] = json.loads(_line(gateway)) | told()
        gateway.communicate(timeout=60)
        return found
    finally:
        if gateway.poll() is None:
            gateway.kill()
            gateway.wait()
        shutil.rmtree(directory, ignore_errors=True)


def plant(seconds: float, *, pages: bool) -> dict[str, Any]:
    """The whole gateway on the simulated plant: its readings and CPU-seconds, and what its pages got."""
    with tempfile.TemporaryDirectory(prefix="bifrost-bench-") as name:
        directory = Path(name)
        with around(directory, OFFERED) as (workers, emulator):
            ui = {} if pages else {"web_ui": {"enabled": False}}
            config = configured(workers.description, emulator, directory / "gateway", **ui)
            port = json.loads(config.read_text())["gateway"]["port"]
            with running("bifrost", "run", "-c", str(config), log=directory / "gateway.log") as process:
                while not emulator.counters().get("rows_acked"):
                    if process.poll() is not None:
                        raise RuntimeError(f"the gateway ended: {(directory / 'gateway.log').read_text()[-2000:]}")
                    time.sleep(0.1)
                time.sleep(_SETTLE)
                data = directory / "gateway" / "data"
                with _pages(port, data) if pages else contextlib.nullcontext(dict) as told:
                    rows, cpu, began = emulator.counters()["rows_acked"], cpu_s(process.pid), time.monotonic()
                    time.sleep(seconds)
                    cpu, took = cpu_s(process.pid) - cpu, time.monotonic() - began
                    rows = emulator.counters()["rows_acked"] - rows
                    found = {"readings": rows, "cpu_s": round(cpu, 3), "wall_s": round(took, 2)} | told()
            workers.check()
            return found


LOADS: Final = {"plant": plant, "core_path": core_path}


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
    made = []
    for number in range(pairs):
        off, five = (LOADS[load](seconds, pages=pages) for pages in (False, True))
        each = [1e6 * found["cpu_s"] / found["readings"] for found in (off, five)]
        made.append({"off": off, "pages": five, "ratio": round(each[1] / each[0], 4)})
        print(
            f"{load}, pair {number + 1}: {each[0]:.3f} and {each[1]:.3f} µs a reading, {made[-1]['ratio']}", flush=True
        )
    ratios = [pair["ratio"] for pair in made]
    low, high = interval(ratios)
    resolved = pairs >= PAIRS and (high <= AIM or low > AIM)
    return {
        "readings_per_s": round(np.median([pair["off"]["readings"] / pair["off"]["wall_s"] for pair in made])),
        "cpu_us_per_reading": round(
            float(np.median([1e6 * p["off"]["cpu_s"] / p["off"]["readings"] for p in made])), 3
        ),
        "ratio": round(float(np.median(ratios)), 4),
        "interval": [low, high],
        "resolved": resolved,
        "pairs": made,
    }


def main(arguments: list[str]) -> None:
    """Measure all and keep the figures."""
    pairs = int(arguments[0]) if arguments else PAIRS
    seconds = float(arguments[1]) if len(arguments) > 1 else _SECONDS
    before, began = os.getloadavg(), time.monotonic()
    costs = {load: cost(load, pairs, seconds) for load in LOADS}
    listed = {str(count): tags.measure(count) for count in (10_000, 100_000)}
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
