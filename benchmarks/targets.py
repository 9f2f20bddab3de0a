"""What benchmarks of targets share: readings per second from a filled spool, through its forwarder, into a real server.

The spool is filled before the clock starts. Server and gateway share the machine's cores.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa

from benchmarks.core_path import TAGS, SyntheticSource, prepare
from connectors.contract import Context
from connectors.settings import TargetConfig
from delivery.dead_letters import DeadLetterStore
from delivery.forwarder import Forwarder
from delivery.journal import RAW
from delivery.spool import Spool
from normalization.normalizer import Normalizer
from normalization.path import DEFAULT_TEMPLATE
from normalization.reading import TagTable, repeat

WARM: Final = 20_000  # readings that go before the clock starts
_BATCH: Final = 2_000  # readings in an entry of the spool
_PATIENCE: Final = 240.0
_BEGIN: Final = 1_790_000_000_000_000  # time of the first reading, µs since the epoch


class _Tags:
    """The part of an intake that `prepare` needs."""

    def __init__(self, tags: TagTable) -> None:
        self.tag = tags.intern


def batches(tags: TagTable, first: int, rows: int, size: int = _BATCH) -> Iterator[pa.RecordBatch]:
    """`rows` normalized readings numbered from `first`, each at a time of its own."""
    source = SyntheticSource(name="synthetic", rows=size, batches=0)
    normalizer = Normalizer(tags, DEFAULT_TEMPLATE)
    received = np.full(size, time.time_ns() // 1000, np.int64)
    variants = prepare(source, _Tags(tags), size)  # type: ignore[arg-type]
    for number in range(rows // size):
        start = first + number * size
        facts = variants[number % len(variants)].to_batch(received, start)
        at = facts.schema.get_field_index("source_time")
        times = pa.array(_BEGIN + np.arange(start, start + size) * 100).cast(facts.schema.field(at).type)
        facts = facts.set_column(at, facts.schema.field(at), times)
        names = [repeat("bench", size), repeat("opcua-0-bench", size)]
        yield normalizer(pa.RecordBatch.from_arrays([*facts.columns, *names], schema=RAW))


def fill(spool: Spool, tags: TagTable, first: int, rows: int) -> None:
    """Put readings into the spool."""
    for batch in batches(tags, first, rows):
        spool.append(batch)
    spool.snapshot()


def _deliver(forwarder: Forwarder, rows: int) -> None:
    deadline = time.monotonic() + _PATIENCE
    while forwarder.status.delivered < rows:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{forwarder.status.delivered} of {rows} delivered: {forwarder.status.last_error}")
        time.sleep(0.005)


def deliver(config: TargetConfig, rows: int, directory: Path) -> dict[str, Any]:
    """Deliver `rows` readings; returns the rates. `WARM` more readings are delivered before.

    Args:
        config: The target.
        rows: Readings, a multiple of 2,000.
        directory: A folder for spool and dead letters.
    """
    tags, context = TagTable(), Context("bench", directory)
    limits = config.writer(context).limits
    spool = Spool(directory / "spool", tags, lambda _: True, entry_rows=limits.rows, entry_bytes=limits.bytes)
    letters = DeadLetterStore(directory / "dead_letters", tags, lambda _: True)
    fill(spool, tags, 1, WARM)
    forwarder = Forwarder(config.type, config.writer(context), spool, letters)
    forwarder.start()
    _deliver(forwarder, WARM)
    forwarder.stop()
    forwarder.join(10)
    fill(spool, tags, WARM + 1, rows)
    forwarder = Forwarder(config.type, config.writer(context), spool, letters)
    cpu, began = time.process_time(), time.monotonic()
    forwarder.start()
    _deliver(forwarder, rows)
    took, cpu = time.monotonic() - began, time.process_time() - cpu
    forwarder.stop()
    forwarder.join(10)
    spool.close()
    letters.close()
    return {
        "rows": rows,
        "tags": TAGS,
        "rows_per_s": round(rows / took),
        "rows_per_cpu_s_of_the_gateway": round(rows / cpu),
        "seconds": round(took, 3),
    }
