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

from benchmarks.targets import WARM, deliver
from connectors.targets.zerobus import ZeroBusConfig, ddl
from simulator.zerobus.process import EmulatorError, EmulatorProcess

TABLE: Final = "main.bench.readings"
ROWS: Final = {"arrow": 800_000, "protobuf": 400_000}
_PATIENCE: Final = 120.0


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
        delivered = deliver(config, rows, directory)
        found = _count(emulator)
        if found != WARM + rows:
            raise RuntimeError(f"{WARM + rows} rows were acknowledged, the table has {found}")
    return {"record_format": record_format} | delivered


def main() -> None:
    """Measure one record format in this process."""
    record_format = sys.argv[1]
    rows = int(sys.argv[2]) if len(sys.argv) > 2 else ROWS[record_format]
    with tempfile.TemporaryDirectory(prefix="bifrost-bench-") as directory:
        print(json.dumps(measure(record_format, rows, Path(directory))))


if __name__ == "__main__":
    main()
