"""``bifrost run`` with a clock at its targets: ``python -m benchmarks.timed_gateway CONFIG BINS``.

Each target's writer is wrapped. When a write returns, which means that the target has acknowledged it as durable, the time
since each reading's `received_time` (set when its reader appended it) is counted in BINS, a file that whoever measures can
read at any time: 64-bit counts, one per tenth of a millisecond.
"""

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from typing_extensions import override

from connectors.contract import Context, RejectedRecords, Writer
from connectors.settings import TargetConfig

BINS: Final = 100_000
PER_MS: Final = 10


class Timed(Writer):
    """A writer and a clock."""

    def __init__(self, inner: Writer, bins: Any) -> None:
        self._inner, self._bins = inner, bins
        self.limits = inner.limits

    @override
    async def open(self) -> None:
        await self._inner.open()

    @override
    async def write(self, batch: pa.RecordBatch, unit: int) -> None:
        try:
            await self._inner.write(batch, unit)
        except RejectedRecords as error:
            raise RuntimeError(f"a reading was rejected: {error}") from error
        waited = time.time_ns() // 1000 - batch.column("received_time").cast(pa.int64()).to_numpy()
        index, counts = np.unique(np.clip(waited * PER_MS // 1000, 0, BINS - 1), return_counts=True)
        self._bins[index] += counts

    @override
    async def close(self) -> None:
        await self._inner.close()


def timed(target: TargetConfig, bins: Any) -> TargetConfig:
    """The target with a clock at its writer."""
    kind = type(target)

    def writer(self: TargetConfig, context: Context) -> Writer:
        return Timed(kind.writer(self, context), bins)

    clocked: Any = type(kind.__name__, (kind,), {"writer": writer, "__module__": kind.__module__})
    found: TargetConfig = clocked.model_construct(**{name: getattr(target, name) for name in kind.model_fields})
    return found


def main() -> None:
    """Run the gateway until SIGTERM."""
    from bifrost.run import run
    from config.loader import load_or_exit

    config = load_or_exit(Path(sys.argv[1]))
    bins = np.memmap(sys.argv[2], np.int64, "r+", shape=(BINS,))
    sys.exit(run(replace(config, targets={name: timed(target, bins) for name, target in config.targets.items()})))


if __name__ == "__main__":
    main()
