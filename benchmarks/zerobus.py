"""ZeroBus: rows per second from a spool through its forwarder into the emulator, which acknowledges what is on its disk.

The spool is filled before the clock starts, more than it keeps in memory, so most of it is read back from disk. The
emulator is a process of its own, on the same cores; the rows are counted in its Delta table at the end.
One run is one process: ``python -m benchmarks.zerobus arrow|protobuf ROWS``.
"""

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa

from benchmarks.core_path import SyntheticSource, prepare
from connectors.contract import Context
from connectors.targets.zerobus import ZeroBusConfig, ddl
from delivery.dead_letters import DeadLetterStore
from delivery.forwarder import Forwarder
from delivery.journal import RAW
from delivery.spool import Spool
from normalization.normalizer import Normalizer
from normalization.path import DEFAULT_TEMPLATE
from normalization.reading import TagTable, repeat
from simulator.zerobus.process import EmulatorError, EmulatorProcess

TABLE: Final = "main.bench.readings"
ROWS: Final = {"arrow": 800_000, "protobuf": 400_000}
_BATCH: Final = 2_000  # readings in an entry of the spool
_PATIENCE: Final = 120.0


class _Tags:
    """The part of an intake that `prepare` needs."""

    def __init__(self, tags: TagTable) -> None:
        self.tag = tags.intern


def fill(spool: Spool, tags: TagTable, first: int, rows: int) -> None:
    """Put `rows` normalized readings into the spool, numbered from `first`."""
    config = SyntheticSource(name="synthetic", rows=_BATCH, batches=0)
    normalizer = Normalizer(tags, DEFAULT_TEMPLATE)
    received = np.full(_BATCH, time.time_ns() // 1000, np.int64)
    variants = prepare(config, _Tags(tags), _BATCH)  # type: ignore[arg-type]
    for number in range(rows // _BATCH):
        facts = variants[number % len(variants)].to_batch(received, first + number * _BATCH)
        names = [repeat("bench", _BATCH), repeat("opcua-0-bench", _BATCH)]
        spool.append(normalizer(pa.RecordBatch.from_arrays([*facts.columns, *names], schema=RAW)))
    spool.snapshot()


def _deliver(forwarder: Forwarder, rows: int) -> None:
    deadline = time.monotonic() + _PATIENCE
    while forwarder.status.delivered < rows:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{forwarder.status.delivered} of {rows} delivered: {forwarder.status.last_error}")
        time.sleep(0.005)


def _count(emulator: EmulatorProcess) -> int:
    """Rows in the Delta table, which the emulator fills in the background."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            return emulator.count(TABLE)
        except EmulatorError:  # still filling
            if time.monotonic() > deadline:
                raise


def measure(record_format: str, rows: int, directory: Path) -> dict[str, Any]:
    """One run."""
    declared = directory / "readings.sql"
    declared.write_text(ddl(TABLE))
    with EmulatorProcess(directory / "emulator", {TABLE: declared}) as emulator:
        config = ZeroBusConfig.model_validate(
            {
                "name": "zerobus",
                "endpoint": emulator.endpoint,
                "provider_config": {
                    "table": TABLE,
                    "workspace_url": emulator.unity_catalog_url,
                    "client_id": emulator.client_id,
                    "client_secret": emulator.client_secret,
                    "record_format": record_format,
                },
            }
        )
        tags = TagTable()
        writer = config.writer(Context("bench", directory))
        spool = Spool(
            directory / "spool", tags, lambda _: True, entry_rows=writer.limits.rows, entry_bytes=writer.limits.bytes
        )
        letters = DeadLetterStore(directory / "dead_letters", tags, lambda _: True)
        forwarder = Forwarder("zerobus", writer, spool, letters, zerobus=True)
        warm = 10 * _BATCH
        fill(spool, tags, 1, warm)
        forwarder.start()
        _deliver(forwarder, warm)
        forwarder.stop()
        forwarder.join(10)
        fill(spool, tags, warm + 1, rows)
        forwarder = Forwarder("zerobus", config.writer(Context("bench", directory)), spool, letters, zerobus=True)
        cpu, began = time.process_time(), time.monotonic()
        forwarder.start()
        _deliver(forwarder, rows)
        took, cpu = time.monotonic() - began, time.process_time() - cpu
        forwarder.stop()
        forwarder.join(10)
        spool.close()
        letters.close()
        found = _count(emulator)
        if found != warm + rows:
            raise RuntimeError(f"{warm + rows} rows were acknowledged, the table has {found}")
    return {
        "record_format": record_format,
        "rows": rows,
        "rows_per_s": round(rows / took),
        "rows_per_cpu_s_of_the_gateway": round(rows / cpu),
        "seconds": round(took, 3),
    }


def main() -> None:
    """Measure one record format in this process."""
    record_format = sys.argv[1]
    rows = int(sys.argv[2]) if len(sys.argv) > 2 else ROWS[record_format]
    with tempfile.TemporaryDirectory(prefix="bifrost-bench-") as directory:
        print(json.dumps(measure(record_format, rows, Path(directory))))


if __name__ == "__main__":
    main()
