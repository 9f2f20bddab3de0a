"""``python -m tests.chaos.soak [--hours H]``: a long life with faults, in which nothing may grow and nothing be lost.

The gateway delivers to two targets. Every few minutes one of them is away for a while, slow, or the gateway is killed.
Memory, threads, open files and disk are looked at all along; what they do is told by the slope over the lives of the
gateway, without each life's first minutes. ``build/evidence/soak.json`` has the figures.
"""

import argparse
import itertools
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil

from tests.chaos.gateway import Setup, SourceSetup, TargetSetup, control_file
from tests.chaos.lives import Life, account, living, pause, until
from tests.chaos.verdict import Numbers, judge, unexplained
from tests.evidence import conditions, record

_LOOK: Final = 5.0
_SETTLED: Final = 120.0
_QUIET: Final = 2.0  # seconds without a delivery after which it is looked whether all is there
_SILENT: Final = 30.0  # seconds after which nothing more will come
_WARM_UP: Final = 1200.0  # each fault but the kill has been once, and what an outage needs is there
_RATE: Final = 700  # of each of three sources
_WAYS: Final = ("bifrost_run", "bytewax_run")
FAULTS: Final = (*8 * ("refuse", "slow", "hang"), "kill")  # a life of two hours: in less, growth is not told from noise


@dataclass
class Watched:
    """What was seen of the gateway: time in its life, resident MB, threads, open files; and MB on disk.

    Attributes:
        lives: Rows of each life.
    """

    lives: list[list[tuple[float, float, int, int, float]]] = field(default_factory=list)

    def look(self, life: Life, stores: Path) -> None:
        """Add a row to the newest life."""
        process = psutil.Process(life.pid)
        size = sum(path.stat().st_size for path in stores.rglob("*") if path.is_file()) / 1e6
        seen = (process.memory_info().rss / 2**20, process.num_threads(), process.num_fds(), size)
        self.lives[-1].append((time.monotonic() - life.started, *seen))

    def told(self) -> str:
        """The newest row in words."""
        _, rss, threads, files, disk = self.lives[-1][-1]
        return f"{rss:.1f} MB, {threads} threads, {files} open files, {disk:.1f} MB on disk"

    def figures(self, warm_up: float) -> dict[str, float]:
        """Growth per hour of memory, threads and files, over all lives together, and the most on disk when idle."""
        found: dict[str, float] = {}
        warm = [np.array([row for row in life if row[0] >= warm_up]) for life in self.lives]
        warm = [rows for rows in warm if len(rows) > 2]
        for name, column in (("rss_mb", 1), ("threads", 2), ("fds", 3)):
            slopes = [np.polyfit(rows[:, 0], rows[:, column], 1)[0] * 3600 for rows in warm]
            weights = [float(rows[-1, 0] - rows[0, 0]) for rows in warm]
            found[f"{name}_per_hour"] = round(float(np.average(slopes, weights=weights)), 2) if slopes else 0.0
            found[f"{name}_most"] = round(max((float(rows[:, column].max()) for rows in warm), default=0.0), 1)
        found["disk_mb_most"] = round(max((row[4] for life in self.lives for row in life), default=0.0), 1)
        return found


def soak(
    directory: Path,
    seconds: float,
    every: float,
    away: float,
    warm_up: float = _WARM_UP,
    faults: Sequence[str] = FAULTS,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Run it.

    Args:
        directory: An empty folder.
        seconds: How long.
        every: Seconds between two faults.
        away: Seconds that a target is away.
        warm_up: Seconds of each life that say nothing about growth.
        faults: What goes wrong, again and again in this order.
        say: Told of each fault before it, and how the gateway stands.
    """
    (directory / "control").mkdir(parents=True)
    stores = directory / "data"
    sources = [SourceSetup(f"{protocol}_line", protocol, _RATE) for protocol in ("mqtt", "modbus", "opcua")]
    setup = Setup(str(stores), sources, [TargetSetup("units", remembers=True), TargetSetup("plain")])
    setup.save(directory)
    watched, ways, wrong = Watched(), itertools.cycle(_WAYS), itertools.cycle(faults)
    kills, end = 0, time.monotonic() + seconds
    life = _begin(directory, next(ways), watched)
    try:
        while time.monotonic() < end:
            _watch(life, watched, stores, min(every, max(0.0, end - time.monotonic())))
            fault = next(wrong)
            say(f"{(seconds + time.monotonic() - end) / 60:4.0f} min: {watched.told()}; next: {fault}")
            if fault == "kill":
                life.kill()
                kills += 1
                life = _begin(directory, next(ways), watched)
            else:
                control_file(directory, "plain").write_text(fault)
                _watch(life, watched, stores, away)
                control_file(directory, "plain").write_text("ok")
        before = life.taken("plain")
        until(lambda: life.taken("plain") > before, 60, "a target that takes readings again")
        code, took = life.stop()
    finally:
        if life.alive():
            life.kill()
    setup.idle = True
    setup.save(directory)
    numbers = _settle(directory, [source.name for source in sources])
    found = account(directory)
    return {
        "hours": round(seconds / 3600, 2),
        "kills": kills,
        "exit_code": code,
        "stopped_s": round(took, 2),
        "obligations": numbers.obligations,
        "lost": unexplained(numbers, {}),
        "visible_twice": numbers.visible_twice,
        "wrong_values": numbers.wrong_values,
        "unaccounted": found["unaccounted"],
        "disk_mb_idle": round(sum(p.stat().st_size for p in stores.rglob("*") if p.is_file()) / 1e6, 1),
        **watched.figures(warm_up),
    }


def _begin(directory: Path, way: Any, watched: Watched) -> Life:
    life = Life(directory, way)
    watched.lives.append([])
    life.wait_first_delivery()
    return life


def _watch(life: Life, watched: Watched, stores: Path, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert life.alive(), life.said()
        watched.look(life, stores)
        pause(min(_LOOK, max(0.05, end - time.monotonic())))


def _settle(directory: Path, sources: list[str]) -> Numbers:
    """A life with silent sources, until everything acknowledged is there, or nothing comes any more."""
    deadline, quiet, sizes = time.monotonic() + _SETTLED, 0.0, [-1, -1]
    with living(directory, "bifrost_run") as life:
        while time.monotonic() < deadline and quiet < _SILENT:
            pause(_QUIET)
            before, sizes = sizes, [life.taken(target) for target in ("units", "plain")]
            quiet = quiet + _QUIET if sizes == before else 0.0
            if quiet == _QUIET and not judge(directory, sources, ["units"], ["plain"]).lost:
                break
        life.stop()
    return judge(directory, sources, ["units"], ["plain"])


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(arguments: list[str]) -> int:
    """Run; the exit code is 1 when something was lost or grew."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.soak", description=__doc__)
    parser.add_argument("--hours", type=float, default=4.0, help="how long (default 4)")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="bifrost-soak-") as folder:
        found = soak(Path(folder) / "soak", given.hours * 3600, every=240.0, away=60.0, say=_say)
    record("soak", found | {"conditions": conditions(["bytewax", "pyarrow"])})
    for name, figure in found.items():
        _say(f"{name}: {figure}")
    sound = not (found["lost"] or found["visible_twice"] or found["wrong_values"] or found["unaccounted"])
    flat = given.hours < 1 or (
        found["rss_mb_per_hour"] < 1 and found["threads_per_hour"] < 1 and found["fds_per_hour"] < 1
    )
    return 0 if sound and flat else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
