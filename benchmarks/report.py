"""``python -m benchmarks.report``: what mapping by patterns and report by exception cost, into build/evidence/bench.json.

- *mapping*: CPU-seconds to give 50,000 tags their rows with 200 patterns, by kind of pattern; in turn each pattern takes tags.
- *report*: readings per CPU-second of the decision alone, on batches that are ready.
- *core path*: readings per CPU-second of `benchmarks.core_path` with a rule on every tag and without, interleaved.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from typing import Any, Final

import numpy as np
import pyarrow as pa

from benchmarks import evidence
from connectors.settings import SourceConfig, TagMapping
from normalization.reading import Columns, Tag, TagTable, numbers, repeat, view
from normalization.report import Reporter

_TAGS: Final = 50_000
_PATTERNS: Final = {
    "glob": "L{n}_*",
    "places": "L{n}/{{equipment}}/{{tag_name}}",
    "regular expression": r"re:^(?P<line>L{n})_(?P<equipment>[A-Z]+\d+)\.(?P<tag_name>.*)$",
    "glob that takes nothing": "*_L{n}_x",
}
_RULES: Final[dict[str, dict[str, float]]] = {
    "deadband": {"deadband": 0.5},
    "swinging door": {"swinging_door": 0.5, "max_interval": 600},
}
_CORE_RULES: Final[dict[str, dict[str, float] | None]] = {
    "no rule": None,
    "deadband, all pass": {"deadband": 0.001},
    "deadband, none passes": {"deadband": 1000},
    "swinging door, none passes": {"swinging_door": 1000, "max_interval": 3600},
    "swinging door, all pass": {"swinging_door": 0.01, "max_interval": 3600},
}
_SIZES: Final = ((1_000, 100), (1_000, 1_000), (1_000, 10_000), (50_000, 1_000), (10, 200), (1, 10_000))  # tags, rows
_RUNS: Final = 5
_BATCHES: Final = 600  # of a run of the core path


def mapping() -> dict[str, float]:
    """CPU-seconds by kind of pattern."""
    found = {}
    for kind, pattern in _PATTERNS.items():
        tags = [TagMapping(match=pattern.format(n=n), unit="bar") for n in range(200)]
        config = SourceConfig(name="plc", protocol="opcua", tags=tags)
        divider = "/" if kind == "places" else "_"
        names = [f"L{n % 200}{divider}PRESS{n % 7}{divider if divider == '/' else '.'}temp{n}" for n in range(_TAGS)]
        began = time.process_time()
        taken = sum(config.tag("plc", f"ns=2;s={name}", name).unit == "bar" for name in names)
        found[kind] = round(time.process_time() - began, 2)
        if taken != (0 if kind == "glob that takes nothing" else _TAGS):
            raise RuntimeError(f"{kind}: {taken} tags were taken")
        print(f"mapping, {kind:<26} {found[kind]:>6} CPU-s for {_TAGS:,} tags with 200 patterns")
    return found


def _batches(table: TagTable, ids: list[int], rows: int, count: int) -> list[pa.RecordBatch]:
    """Slow waves with noise, each tag every 100 ms."""
    chance, made = np.random.default_rng(1), []
    for batch in range(count):
        position = np.arange(batch * rows, (batch + 1) * rows)
        times = position // len(ids) * 100_000
        values = 20 + np.sin(times / 3e7 + position % len(ids)) * 5 + chance.normal(0, 0.1, rows)
        columns = Columns()
        for at, value, when in zip(position.tolist(), values.tolist(), times.tolist(), strict=True):
            columns.add(ids[at % len(ids)], value, source_time=when)
        facts = columns.to_batch(np.zeros(rows, np.int64), int(position[0]))
        value = numbers(*(facts.column(name) for name in ("type", "value_double", "value_int")))
        priority = pa.array(np.zeros(rows, np.int32))
        made.append(view(facts.columns, repeat("gw", rows), repeat("opcua-0", rows), table, value, priority))
    return made


def report() -> list[dict[str, Any]]:
    """Readings per CPU-second of the decision, and bytes of its state, by rule, tags and rows in a batch."""
    found = []
    for name, rule in _RULES.items():
        for tags, rows in _SIZES:
            table, described = TagTable(), json.dumps({"report": rule})
            rest = ("t", "", "{}", described)
            ids = [table.intern(Tag("plc", "opcua", "d", f"a{n}", *rest, path=f"p/{n}")) for n in range(tags)]
            first, *batches = _batches(table, ids, rows, max(5, min(200, 200_000 // rows)))
            reporter = Reporter(table)
            reporter(first)
            began = time.process_time()
            decided = [reporter(batch) for batch in batches]
            speed = round(rows * len(batches) / (time.process_time() - began))
            passed = sum(int((one.reasons == 0).sum()) + (len(one.late) if one.late else 0) for one in decided)
            state = sum(len(part) for part in _bytes(reporter.snapshot()))
            share = round(passed / rows / len(batches), 3)
            found.append(
                {"rule": name, "tags": tags, "rows_per_batch": rows, "readings_per_cpu_s": speed}
                | {"share_that_passes": share, "state_bytes": state}
            )
            print(
                f"report, {name:<14} {tags:>6} tags, {rows:>6} rows a batch: {speed:>10,}/CPU-s, {share:.1%} pass, {state:,} B"
            )
    return found


def _bytes(value: Any) -> list[bytes]:
    """All that a snapshot holds."""
    if isinstance(value, np.ndarray):
        return [value.tobytes()]
    if isinstance(value, dict):
        return [part for one in value.values() for part in _bytes(one)]
    if isinstance(value, tuple):
        return [part for one in value for part in _bytes(one)]
    return [value] if isinstance(value, bytes) else []


def core() -> list[dict[str, Any]]:
    """Readings per CPU-second of the core path, 1,000 readings a batch; the median of interleaved runs."""
    runs = [{name: _core_run(rule) for name, rule in _CORE_RULES.items()} for _ in range(_RUNS)]
    found = []
    for name in _CORE_RULES:
        each = [run[name] for run in runs]
        found.append({"rule": name, "readings_per_cpu_s": round(evidence.median(each)), "runs": each})
        print(f"core path, {name:<28} {found[-1]['readings_per_cpu_s']:>9,} readings per CPU-second")
    return found


def _core_run(rule: dict[str, float] | None) -> int:
    directory = tempfile.mkdtemp(prefix="bifrost-bench-")
    command = [sys.executable, "-m", "benchmarks.core_path", "1000", str(_BATCHES), "live", directory, json.dumps(rule)]
    try:
        done = subprocess.run(command, cwd=evidence.ROOT, stdout=subprocess.PIPE, text=True, timeout=300, check=True)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return int(json.loads(done.stdout.splitlines()[-1])["readings_per_cpu_s"])


def main() -> None:
    """Measure all and keep the figures."""
    before = os.getloadavg()
    results = {"mapping": mapping(), "report_by_exception": report(), "core_path_with_rules": core()}
    evidence.merge(results, evidence.conditions(before, fsync=True))


if __name__ == "__main__":
    main()
