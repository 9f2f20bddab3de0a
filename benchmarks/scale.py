"""Two gateways, two workers, one gateway: ``python -m benchmarks.scale WORKERS SOURCES BATCHES CORE DIRECTORY`` is one gateway.

The core path of `benchmarks.core_path` as fast as it goes, all sources together BATCHES batches of 1,000 readings, some of each on
their way into the journal at any time, so that no core waits for a disk. CORE pins the process to a core; -1 leaves it all. It prints ``ready`` when its tags are known, waits for a line, and prints what it took when
every reading is encoded and the journal is trimmed.
"""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, Literal

from typing_extensions import override

from benchmarks import evidence
from benchmarks.core_path import PROCESS, RULES, LinesTarget, copied, prepare
from benchmarks.watched import Ahead, finished
from config.models import Configuration
from connectors.contract import Context, Intake, Reader, SourceState
from connectors.settings import SourceConfig

ROWS: Final = 1_000
BATCHES: Final = 10_000  # many epochs of a second, at whose end the journal is trimmed
AIM: Final = 1.7
_WARM: Final = 4_000  # readings of each source
CASES: Final[dict[str, tuple[tuple[int, int, int, int], ...]]] = {  # workers, sources, batches and core of each gateway
    "one gateway on one core": ((1, 2, BATCHES, 0),),
    "one gateway on two cores": ((1, 2, BATCHES, -1),),
    "one gateway with -w 2 on two cores": ((2, 2, BATCHES, -1),),
    "two gateways on two cores": ((1, 1, BATCHES // 2, 0), (1, 1, BATCHES // 2, 1)),
}


class ScaledSource(SourceConfig):
    """One of several sources that begin together."""

    protocol: Literal["opcua"] = "opcua"
    sources: int
    batches: int

    @override
    def reader(self, context: Context) -> Reader:
        return _Scaled(self)


class _Scaled(Reader):
    _ready = 0
    _begun = asyncio.Event()

    def __init__(self, config: ScaledSource) -> None:
        self._config = config

    @override
    async def run(self, intake: Intake, state: bytes | None) -> None:
        config, warm = self._config, _WARM // ROWS
        variants = prepare(config, intake, ROWS)
        intake.state(SourceState.CONNECTED)
        for number in range(warm):
            await intake.append(copied(variants[number % len(variants)]))
        _Scaled._ready += 1
        last = _Scaled._ready == config.sources
        if last:
            await finished(config.sources * warm * ROWS)
            print("ready", flush=True)
            await asyncio.to_thread(sys.stdin.readline)
            _Scaled._begun.set()
        await _Scaled._begun.wait()
        cpu, began = time.process_time(), time.monotonic()
        ahead = Ahead(intake)
        for number in range(config.batches):
            await ahead.append(copied(variants[number % len(variants)]))
        if last:
            await finished(config.sources * (warm + config.batches) * ROWS)
            cpu, wall = time.process_time() - cpu, time.monotonic() - began
            readings = config.sources * config.batches * ROWS
            print(json.dumps({"readings": readings, "cpu_s": round(cpu, 3), "wall_s": round(wall, 3)}), flush=True)
            PROCESS[0].drain()
        await asyncio.sleep(60)


def measure(runs: int) -> dict[str, Any]:
    """Readings per second of each case, interleaved, the median of the runs; each as so many times that of the first."""
    made: dict[str, list[float]] = {name: [] for name in CASES}
    for number in range(runs):
        for name, gateways in CASES.items():
            made[name].append(_together(gateways))
        print(f"scale, run {number + 1}: " + ", ".join(f"{name} {rates[-1]:,.0f}" for name, rates in made.items()))
    base = made["one gateway on one core"]
    return {
        name: {
            "readings_per_s": round(evidence.median(rates)),
            "times": round(evidence.median([rate / of for rate, of in zip(rates, base, strict=True)]), 2),
            "runs": [round(rate) for rate in rates],
        }
        for name, rates in made.items()
    }


def _together(gateways: tuple[tuple[int, int, int, int], ...]) -> float:
    """Readings per second of gateways that begin at once, until the slower one is done."""
    directories = [tempfile.mkdtemp(prefix="bifrost-bench-") for _ in gateways]
    children = [
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.scale", *map(str, gateway), directory],
            cwd=evidence.ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for gateway, directory in zip(gateways, directories, strict=True)
    ]
    try:
        for child in children:
            _line(child)
        for child in children:
            child.stdin.write("go\n")  # type: ignore[union-attr]
            child.stdin.flush()  # type: ignore[union-attr]
        found = [json.loads(_line(child)) for child in children]
        for child in children:
            child.communicate(timeout=60)
    finally:
        for child in children:
            child.kill()
            child.wait()
        for directory in directories:
            shutil.rmtree(directory, ignore_errors=True)
    return float(sum(one["readings"] for one in found) / max(one["wall_s"] for one in found))


def _line(child: "subprocess.Popen[str]") -> str:
    said = child.stdout.readline().strip()  # type: ignore[union-attr]
    if not said:
        raise RuntimeError(f"{child.args!r} ended with code {child.wait(20)}")
    return said


def main() -> None:
    """Run one gateway."""
    workers, sources, batches, core = map(int, sys.argv[1:5])
    if core >= 0:
        os.sched_setaffinity(0, {core})
    from bytewax.recovery import RecoveryConfig
    from bytewax.run import cli_main

    from flows.gateway import gateway
    from flows.options import prepare_recovery
    from flows.process import Process, recovery_directory

    names = [f"synthetic{number}" for number in range(sources)]
    listed: Any = tuple(ScaledSource(name=name, sources=sources, batches=batches // sources) for name in names)
    config = Configuration(
        gateway="bench",
        directory=Path(sys.argv[5]),
        sources=listed,
        targets={"lines": LinesTarget(name="lines"), "alarms": LinesTarget(name="alarms")},
        rules=RULES,
        port=None,
        log_level="error",
        memory_rows=100_000,
    )
    process = Process(config)
    PROCESS.append(process)
    process.claim()
    prepare_recovery(recovery_directory(config), config.gateway)
    recovery = RecoveryConfig(recovery_directory(config), timedelta(0))  # type: ignore[no-untyped-call]
    process.run(
        lambda: cli_main(  # type: ignore[no-untyped-call]
            gateway(process),
            workers_per_process=workers,
            epoch_interval=timedelta(seconds=1),
            recovery_config=recovery,
        ),
        1.0,
    )


if __name__ == "__main__":
    main()
