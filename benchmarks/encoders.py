"""The encoders: readings per CPU-second, alone, in batches of 1,000 readings of 1,000 tags, nine in ten of them doubles.
Rows of the layout `wide` are of the same readings as 50 signals of 20 machines at one time.

``python -m benchmarks.encoders [SECONDS]`` prints one JSON line; the runs of all encoders are interleaved.
"""

import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import pyarrow as pa

from benchmarks import evidence
from benchmarks.targets import batches
from connectors.targets.timescaledb.encode import CopyEncoder
from connectors.targets.zerobus import encode
from connectors.targets.zerobus.schema import TableColumn, plan
from connectors.wire.avro import AvroEncoder
from connectors.wire.json_lines import JsonLinesEncoder
from connectors.wire.line_protocol import LineEncoder
from connectors.wire.messages import pack
from connectors.wire.pivot import Pivot
from connectors.wire.protobuf import ProtobufEncoder, reading_columns
from connectors.wire.wide_tables import batches as batches_of_rows
from connectors.wire.wide_tables import pivot as wide_pivot
from normalization.reading import FACTS, TABLE, Tag, TagTable, view

ROWS: Final = 1_000
AIMS: Final = {"line protocol": 800_000, "json": 600_000, "protobuf": 500_000, "copy": 500_000, "arrow": 2_000_000}
_ROUNDS: Final = 20
_VARIANTS: Final = 8
_SQL: Final = {
    pa.string(): "string",
    pa.int64(): "bigint",
    pa.int32(): "int",
    pa.float64(): "double",
    pa.binary(): "binary",
}


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


def machines(batch: pa.RecordBatch, tags: TagTable) -> pa.RecordBatch:
    """The same readings as those of 50 signals of 20 machines, all of one time."""
    paths = [f"plant1/packer{number // 50}/signal {number % 50}" for number in range(len(batch))]
    ids = [tags.intern(Tag("synthetic", "opcua", "plc", path, path, path=path)) for path in paths]
    facts = {name: batch.column(name) for name in FACTS.names} | {"tag": pa.array(ids, pa.int32())}
    facts["source_time"] = facts["source_time"].take(pa.array(np.zeros(len(batch), np.int64)))
    gateway, shard, value, priority = (batch.column(name) for name in ("gateway", "shard", "value", "priority"))
    return view(list(facts.values()), gateway, shard, tags, value, priority)


def wide(batch: pa.RecordBatch, pivot: Pivot) -> list[pa.RecordBatch]:
    """The rows of the layout `wide`, as Delta and ZeroBus have them."""
    found = pivot.signals(batch, {})
    return list(batches_of_rows(batch, pivot.rows(batch), found.signals))


def measure(seconds: float = 6.0) -> dict[str, Any]:
    """Readings per CPU-second of each, the median of interleaved rounds."""
    ready = list(batches(TagTable(), 0, _VARIANTS * ROWS, ROWS))
    tags, pivot = TagTable(), wide_pivot("source_time")
    work = {name: (act, ready) for name, act in encoders().items()}
    work["wide rows"] = (lambda batch: wide(batch, pivot)), [machines(batch, tags) for batch in ready]
    for act, given in work.values():
        for batch in given:
            act(batch)
    found: dict[str, list[float]] = defaultdict(list)
    share = seconds / _ROUNDS / len(work)
    for _ in range(_ROUNDS):
        for name, (act, given) in work.items():
            began, done = time.process_time(), 0
            while time.process_time() - began < share:
                for batch in given:
                    act(batch)
                done += len(given) * ROWS
            found[name].append(done / (time.process_time() - began))
    return {
        name: {"readings_per_cpu_s": round(evidence.median(runs)), "aim": AIMS.get(name), "rows_per_batch": ROWS}
        for name, runs in found.items()
    }


if __name__ == "__main__":
    print(json.dumps(measure(float(sys.argv[1]) if len(sys.argv) > 1 else 6.0)))
