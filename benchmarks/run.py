"""``python -m benchmarks.run [core_path] [encoders] [targets] [zerobus] [load] [idle] [sources] [start] [scale] [peers] [peers_modbus] …``: measure, and write
build/evidence/bench.json.

Everything but `peers`, which is `sources` with Telegraf beside, of one protocol or of all, is measured when nothing is named. Results
are merged by key, those of sources by protocol: what is not measured anew stays, with the conditions of its own time.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from benchmarks import (
    core_path,
    evidence,
    gateway,
    peers,
    scale,
    target_servers,
    wire,
    wire_modbus,
    wire_mqtt,
    wire_opcua,
    zerobus,
)

_RUNS: Final = 5
_LOAD_RUNS: Final = 3
_WIRE_SECONDS: Final = 6.0


def _child(*arguments: str) -> dict[str, Any]:
    """What a benchmark in a process of its own prints as its last line."""
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=evidence.ROOT,
        stdout=subprocess.PIPE,
        text=True,
        timeout=300,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)} ended with code {done.returncode}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def _core_path_run(rows: int, mode: str) -> int:
    directory = tempfile.mkdtemp(prefix="bifrost-bench-")
    try:
        answer = _child("benchmarks.core_path", str(rows), str(core_path.SIZES[rows]), mode, directory)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return int(answer["readings_per_cpu_s"])


def measure_core_path() -> None:
    """Readings per CPU-second of the core path, sizes interleaved; the median of the runs."""
    before = os.getloadavg()
    modes = (core_path.BEHIND, core_path.LIVE)
    runs = [
        {(rows, mode): _core_path_run(rows, mode) for rows in core_path.SIZES for mode in modes} for _ in range(_RUNS)
    ]
    found = []
    for rows in core_path.SIZES:
        behind, live = ([run[rows, mode] for run in runs] for mode in modes)
        found.append(
            {
                "rows_per_batch": rows,
                "readings_per_cpu_s": round(evidence.median(behind)),
                "live": round(evidence.median(live)),
                "runs": {"behind": behind, "live": live},
            }
        )
        print(f"core path, {rows:>6} rows a batch: {found[-1]['readings_per_cpu_s']:>9,} readings per CPU-second")
    evidence.merge(
        {"core_path": found},
        evidence.conditions(
            before, tags=core_path.TAGS, rules=[rule.condition for rule in core_path.RULES], fsync=True
        ),
    )


def measure_encoders() -> None:
    """Readings per CPU-second of each encoder."""
    before = os.getloadavg()
    found = _child("benchmarks.encoders", "12")
    for name, one in found.items():
        print(f"encoder, {name:>14}: {one['readings_per_cpu_s']:>9,} readings per CPU-second")
    evidence.merge({"encoders": found}, evidence.conditions(before))


def measure_targets() -> None:
    """Readings per second from a spool into the servers of targets."""
    before = os.getloadavg()
    found = {name: _child("benchmarks.target_servers", name)[name] for name in target_servers.there()}
    for name, one in found.items():
        print(f"target, {name:>12}: {one['rows_per_s']:>9,} readings/s")
    evidence.merge({"targets": found}, evidence.conditions(before))


def measure_zerobus() -> None:
    """Rows per second into the emulator."""
    before = os.getloadavg()
    found: dict[str, Any] = {}
    runs: dict[str, list[dict[str, Any]]] = {kind: [] for kind in zerobus.ROWS}
    for _ in range(_RUNS):
        for kind in zerobus.ROWS:
            runs[kind].append(_child("benchmarks.zerobus", kind))
    for kind, answers in runs.items():
        found[f"{kind}_rows_per_s"] = round(evidence.median([a["rows_per_s"] for a in answers]))
        print(f"zerobus, {kind:>8}: {found[f'{kind}_rows_per_s']:>9,} rows/s")
    evidence.merge({"zerobus": found}, evidence.conditions(before, runs=runs))


def measure_load() -> None:
    """Latency, memory and wear of the disk at 5,000 readings/s."""
    before = os.getloadavg()
    runs = [gateway.load(20.0) for _ in range(_LOAD_RUNS)]
    latency = {name: round(evidence.median([run[name] for run in runs]), 1) for name in ("p50", "p99")}
    memory = round(evidence.median([run["memory_mb"] for run in runs]), 1)
    print(f"latency at {gateway.RATE:,.0f} readings/s: p50 {latency['p50']} ms, p99 {latency['p99']} ms; {memory} MB")
    wear = {
        name: round(evidence.median([run[name] for run in runs]), 1)
        for name in ("written_bytes_per_reading", "syncs_per_1000_readings")
    }
    print(f"wear of the disk: {wear['written_bytes_per_reading']} bytes a reading")
    described = evidence.conditions(before, runs=runs, tags=gateway.TAGS, sources=gateway.SOURCES)
    evidence.merge({"latency_ms": latency, "memory_mb": memory, "wear": wear}, described)


def measure_idle() -> None:
    """CPU of a gateway with nothing to do."""
    before = os.getloadavg()
    runs = [gateway.idle(20.0) for _ in range(_LOAD_RUNS)]
    found = evidence.median(runs)
    print(f"idle: {found} % of a core")
    evidence.merge({"idle_cpu_percent": found}, evidence.conditions(before, runs=runs, sources=gateway.SOURCES))


def measure_start() -> None:
    """Start to first delivery."""
    before = os.getloadavg()
    runs = gateway.start(_RUNS)
    found = evidence.median(runs)
    print(f"start to first delivery: {found} s")
    evidence.merge({"start_s": found}, evidence.conditions(before, runs=runs))


def measure_scale() -> None:
    """One gateway, two workers, two gateways."""
    before = os.getloadavg()
    found = scale.measure(_LOAD_RUNS)
    for name, one in found.items():
        print(f"scale, {name}: {one['readings_per_s']:>9,} readings/s, x {one['times']}")
    evidence.merge({"scale": found}, evidence.conditions(before, aim=scale.AIM, rows_per_batch=scale.ROWS, fsync=True))


def measure_sources() -> None:
    """What readers take in per CPU-second, from foreign servers into the journal, and through to a file."""
    measures: dict[str, Callable[[], dict[str, Any]]] = {
        "mqtt": lambda: wire_mqtt.measure(wire.WORKS, _WIRE_SECONDS, _LOAD_RUNS),
        "opcua": lambda: wire_opcua.measure(wire.WORKS, _WIRE_SECONDS, _LOAD_RUNS, wire_opcua.HERTZ),
        "modbus": lambda: wire_modbus.measure(wire.WORKS, _WIRE_SECONDS, _LOAD_RUNS),
    }
    for protocol, measure in measures.items():
        before = os.getloadavg()
        evidence.merge_sources(protocol, measure(), evidence.conditions(before, fsync=True))


def measure_peers(*protocols: str) -> None:
    """The same with Telegraf on the same work, interleaved."""
    for protocol in protocols:
        before = os.getloadavg()
        found = peers.measure(protocol, _WIRE_SECONDS, _LOAD_RUNS)
        evidence.merge_sources(protocol, found, evidence.conditions(before, fsync=True, telegraf=peers.VERSION))


BENCHMARKS: Final[dict[str, Callable[[], None]]] = {
    "core_path": measure_core_path,
    "encoders": measure_encoders,
    "targets": measure_targets,
    "zerobus": measure_zerobus,
    "load": measure_load,
    "idle": measure_idle,
    "sources": measure_sources,
    "start": measure_start,
    "scale": measure_scale,
    "peers": lambda: measure_peers(*peers.UNITS),
    **{f"peers_{protocol}": partial(measure_peers, protocol) for protocol in peers.UNITS},
}
_UNASKED: Final = [name for name in BENCHMARKS if not name.startswith("peers")]  # they measure what sources does


def main(names: list[str]) -> int:
    """Measure what is named, or everything; returns the exit code."""
    if unknown := [name for name in names if name not in BENCHMARKS]:
        print(f"no such benchmark: {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    for name in names or _UNASKED:
        BENCHMARKS[name]()
    print(f"written to {evidence.BENCH.relative_to(evidence.ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
