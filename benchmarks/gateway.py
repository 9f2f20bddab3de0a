"""The whole gateway as a process: latency, memory, idle CPU, start.

Around it run, as processes of their own on the same cores, the simulated plant (OPC UA, MQTT JSON, Sparkplug B, Modbus, an
MQTT broker) and the ZeroBus emulator, into one table of which every reading goes.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.evidence import ROOT
from benchmarks.timed_gateway import BINS, PER_MS
from bifrost.demo import source_config
from connectors.targets.zerobus import ddl
from simulator.plant import build_plant
from simulator.run import Options, Workers
from simulator.zerobus.process import EmulatorProcess
from tests.ports import free_port

RATE: Final = 5_000.0
OFFERED: Final = 5_400.0  # an OPC UA server is silent about values that have not changed
TAGS: Final = 1_000
SOURCES: Final = {"opcua": 1, "mqtt": 1, "sparkplug": 1, "modbus": 1}
_TABLE: Final = "main.bench.readings"
_SILENT: Final = 0.001  # readings per second of a plant that says nothing
_TICKS: Final = os.sysconf("SC_CLK_TCK")


def configured(description: Mapping[str, Any], emulator: EmulatorProcess, directory: Path, **more: Any) -> Path:
    """The gateway's configuration, and `more` of it; a new directory and a free port each time."""
    config = {
        "gateway": {
            "name": "bench",
            "directory": str(directory / "data"),
            "port": free_port(),
            "log_level": "warning",
            "cloud": {
                "connectors": {
                    "zerobus": {
                        "type": "zerobus",
                        "endpoint": emulator.endpoint,
                        "provider_config": {
                            "table": _TABLE,
                            "workspace_url": emulator.unity_catalog_url,
                            "client_id": emulator.client_id,
                            "client_secret": emulator.client_secret,
                        },
                    }
                }
            },
        },
        "sources": [source_config(source, dict(description)) for source in description["sources"]],
        "routing_rules": [{"name": "everything", "condition": "TRUE", "connectors": ["zerobus"]}],
        **more,
    }
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "gateway.yaml"
    path.write_text(json.dumps(config, indent=1, ensure_ascii=False))
    return path


@contextlib.contextmanager
def around(directory: Path, rate: float) -> Iterator[tuple[Workers, EmulatorProcess]]:
    declared = directory / "readings.sql"
    declared.write_text(ddl(_TABLE))
    plant = build_plant(tags=TAGS, rate=rate, sources=SOURCES)
    with EmulatorProcess(directory / "emulator", {_TABLE: declared}) as emulator, Workers(plant, Options()) as workers:
        yield workers, emulator


@contextlib.contextmanager
def running(*command: str, log: Path) -> "Iterator[subprocess.Popen[bytes]]":
    with log.open("wb") as output:
        process = subprocess.Popen([sys.executable, "-m", *command], cwd=ROOT, stdout=output, stderr=output)
    try:
        yield process
        if process.poll() is not None:
            raise RuntimeError(f"the gateway ended with code {process.returncode}: {log.read_text()[-2000:]}")
        process.send_signal(signal.SIGTERM)
        code = process.wait(15)
        if code != 0:
            raise RuntimeError(f"the gateway left with code {code}: {log.read_text()[-2000:]}")
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _rss_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("the gateway has gone")


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _disk(pid: int, port: int) -> tuple[int, int]:
    """Bytes that the gateway has made the disk write, and how often it made files durable."""
    lines = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        found = re.search(rb"^bifrost_disk_syncs_total (\S+)", answer.read(), re.MULTILINE)
    return int(lines["write_bytes"]) - int(lines["cancelled_write_bytes"]), int(float(found[1])) if found else 0


def _quantile(bins: Any, share: float) -> float:
    """Upper edge of the bin, ms."""
    total = np.cumsum(bins)
    return (int(np.searchsorted(total, share * total[-1])) + 1) / PER_MS


def load(seconds: float, settle: float = 8.0) -> dict[str, Any]:
    """Latency, memory, CPU and wear of the disk at 5,000 readings/s from all kinds of source."""
    with tempfile.TemporaryDirectory(prefix="bifrost-bench-") as name:
        directory = Path(name)
        bins_file = directory / "bins"
        bins_file.write_bytes(bytes(8 * BINS))
        with around(directory, OFFERED) as (workers, emulator):
            config = configured(workers.description, emulator, directory / "gateway")
            log = directory / "gateway.log"
            with running("benchmarks.timed_gateway", str(config), str(bins_file), log=log) as process:
                bins = np.memmap(bins_file, np.int64, "r", shape=(BINS,))
                time.sleep(settle)
                port = json.loads(config.read_text())["gateway"]["port"]
                before, cpu, began = np.array(bins), cpu_s(process.pid), time.monotonic()
                disk = _disk(process.pid, port)
                rss = []
                while time.monotonic() - began < seconds:
                    time.sleep(0.5)
                    rss.append(_rss_mb(process.pid))
                written, syncs = (now - then for now, then in zip(_disk(process.pid, port), disk, strict=True))
                found, cpu, took = np.array(bins) - before, cpu_s(process.pid) - cpu, time.monotonic() - began
            workers.check()
    return {
        "p50": _quantile(found, 0.5),
        "p95": _quantile(found, 0.95),
        "p99": _quantile(found, 0.99),
        "max": _quantile(found, 1.0),
        "readings_per_s": round(int(found.sum()) / took),
        "memory_mb": round(max(rss), 1),
        "cpu_percent": round(100 * cpu / took, 1),
        "written_bytes_per_reading": round(written / int(found.sum()), 1),
        "syncs_per_1000_readings": round(1000 * syncs / int(found.sum()), 1),
        "seconds": round(took, 1),
    }


def idle(seconds: float, settle: float = 6.0) -> float:
    """CPU of a gateway whose sources are connected and say nothing, percent of one core."""
    with tempfile.TemporaryDirectory(prefix="bifrost-bench-") as name:
        directory = Path(name)
        with around(directory, _SILENT) as (workers, emulator):
            config = configured(workers.description, emulator, directory / "gateway")
            with running("bifrost", "run", "-c", str(config), log=directory / "gateway.log") as process:
                time.sleep(settle)
                cpu, began = cpu_s(process.pid), time.monotonic()
                time.sleep(seconds)
                return round(100 * (cpu_s(process.pid) - cpu) / (time.monotonic() - began), 2)


def start(runs: int) -> list[float]:
    """Seconds from the start of `bifrost run` with nothing on disk to the first row that the emulator acknowledged."""
    found = []
    with tempfile.TemporaryDirectory(prefix="bifrost-bench-") as name:
        directory = Path(name)
        with around(directory, RATE / 5) as (workers, emulator):
            for run in range(runs):
                config = configured(workers.description, emulator, directory / f"gateway{run}")
                acked = emulator.counters().get("rows_acked", 0)
                began = time.monotonic()
                with running("bifrost", "run", "-c", str(config), log=directory / "gateway.log") as process:
                    while emulator.counters().get("rows_acked", 0) == acked:
                        if time.monotonic() - began > 30 or process.poll() is not None:
                            raise RuntimeError(f"nothing came: {(directory / 'gateway.log').read_text()[-2000:]}")
                        time.sleep(0.02)
                    found.append(round(time.monotonic() - began, 2))
    return found
