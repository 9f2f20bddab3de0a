"""The encoders: readings per CPU-second, alone, in batches of 1,000 readings of 1,000 tags, nine in ten of them doubles.

``python -m benchmarks.encoders [SECONDS]`` prints one JSON line; the runs of all encoders are interleaved.
"""

import asyncio
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
from typing_extensions import override

from benchmarks import core_path, evidence
from connectors.contract import Intake, SourceState
from connectors.targets.timescaledb.encode import CopyEncoder
from connectors.targets.zerobus import encode
from connectors.targets.zerobus.schema import TableColumn, plan
from connectors.wire.avro import AvroEncoder
from connectors.wire.json_lines import JsonLinesEncoder
from connectors.wire.line_protocol import LineEncoder
from connectors.wire.messages import pack
from connectors.wire.protobuf import ProtobufEncoder, reading_columns
from normalization.normalizer import Normalizer
from normalization.reading import TABLE, Columns, Tag, TagTable, repeat

ROWS: Final = 1_000
AIMS: Final = {"line protocol": 800_000, "json": 600_000, "protobuf": 500_000, "copy": 500_000, "arrow": 2_000_000}
_ROUNDS: Final = 20
_SQL: Final = {
    pa.string(): "string",
    pa.int64(): "bigint",
    pa.int32(): "int",
    pa.float64(): "double",
    pa.binary(): "binary",
}


class _Tags(Intake):
    """An intake that is only asked for tags."""

    def __init__(self) -> None:
        self.table = TagTable()

    @override
    def tag(self, tag: Tag) -> int:
        return self.table.intern(tag)

    @override
    def append(self, rows: Columns, state: bytes | None = None) -> "asyncio.Future[None]":
        raise RuntimeError("nothing is appended here")

    @override
    def gap(self, tags: Sequence[int], start: int, end: int, reason: str) -> None:
        pass

    @override
    def state(self, state: SourceState, detail: str = "") -> None:
        pass


def batches() -> list[pa.RecordBatch]:
    """Stream items as the flow hands them to writers."""
    tags = _Tags()
    source = core_path.SyntheticSource(name="plc", rows=ROWS, batches=1)
    normalize = Normalizer(tags.table, "{site}/{area}/{line}/{equipment}/{signal_type}/{tag_name}")
    made = []
    for at, columns in enumerate(core_path.prepare(source, tags, ROWS)):
        now = time.time_ns() // 1000
        facts = columns.to_batch(np.full(ROWS, now, np.int64), at * ROWS)
        names = [*facts.schema.names, "gateway", "shard"]
        given = [*facts.columns, repeat("gateway-1", ROWS), repeat("opcua-0-a1b2", ROWS)]
        made.append(normalize(pa.RecordBatch.from_arrays(given, names=names)))
    return made


def encoders() -> dict[str, Callable[[pa.RecordBatch], Any]]:
    """What turns a batch into the bytes that a target is sent."""
    lines, objects, packs, copy = LineEncoder(), JsonLinesEncoder(), JsonLinesEncoder(), CopyEncoder("source_time")
    dates = {pa.date32(): "date", pa.timestamp("us", tz="UTC"): "timestamp"}
    fitting = plan([TableColumn(field.name, (_SQL | dates)[field.type], field.nullable) for field in TABLE])
    protobuf, avro = ProtobufEncoder(fitting.columns), AvroEncoder()
    one = np.zeros(ROWS, np.int64)

    def arrow(batch: pa.RecordBatch) -> Any:
        return encode.to_arrow(reading_columns(batch), fitting.columns, fitting.arrow).serialize()

    return {
        "line protocol": lines.encode,
        "json": objects.encode,
        "json, packed": lambda batch: pack(packs.objects(batch), one, most_bytes=128 * 1024),
        "protobuf": lambda batch: protobuf.encode(reading_columns(batch), len(batch)),
        "avro": avro.encode,
        "copy": copy.encode,
        "arrow": arrow,
    }


def measure(seconds: float = 6.0) -> dict[str, Any]:
    """Readings per CPU-second of each, the median of interleaved rounds."""
    work, ready = encoders(), batches()
    for act in work.values():
        for batch in ready:
            act(batch)
    found: dict[str, list[float]] = defaultdict(list)
    share = seconds / _ROUNDS / len(work)
    for _ in range(_ROUNDS):
        for name, act in work.items():
            began, done = time.process_time(), 0
            while time.process_time() - began < share:
                for batch in ready:
                    act(batch)
                done += len(ready) * ROWS
            found[name].append(done / (time.process_time() - began))
    return {
        name: {"readings_per_cpu_s": round(evidence.median(runs)), "aim": AIMS.get(name), "rows_per_batch": ROWS}
        for name, runs in found.items()
    }


if __name__ == "__main__":
    print(json.dumps(measure(float(sys.argv[1]) if len(sys.argv) > 1 else 6.0)))
