"""Readings for the contract suites, and the plain rows that they must come back as."""

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from connectors.wire.wide_tables import column_name
from normalization.reading import Columns, Quality, Tag, TagTable, ValueType, numbers, repeat, view

BASE_TIME = 1_790_000_000_123_456
STEP = 1_001  # µs from one reading to the next


@dataclass(frozen=True)
class Row:
    """One reading as it is seen at a target; `value` is a Python value, exact."""

    gateway: str
    shard: str
    sequence: int
    path: str
    type: str
    value: Any
    quality: str
    source_time: int | None

    def same(self, other: "Row") -> bool:
        mine, theirs = self.value, other.value
        alike = mine == theirs and type(mine) is type(theirs)
        if isinstance(mine, float) and isinstance(theirs, float):
            alike = (math.isnan(mine) and math.isnan(theirs)) or (
                mine == theirs and math.copysign(1, mine) == math.copysign(1, theirs)
            )
        return alike and all(
            getattr(self, name) == getattr(other, name)
            for name in ("gateway", "shard", "sequence", "path", "type", "quality", "source_time")
        )


@dataclass(frozen=True)
class Sample:
    """A value that a source may send."""

    name: str
    value: Any
    unsigned: bool = False


SAMPLES = [
    Sample("double", 21.5),
    Sample("double of many digits", 0.1 + 0.2),
    Sample("largest double", 1.7976931348623157e308),
    Sample("smallest double", 5e-324),
    Sample("negative zero", -0.0),
    Sample("whole double", 3.0),
    Sample("nan", math.nan),
    Sample("inf", math.inf),
    Sample("-inf", -math.inf),
    Sample("largest integer", 2**63 - 1),
    Sample("smallest integer", -(2**63)),
    Sample("integer above 2^53", 2**53 + 1),
    Sample("small unsigned", 7, unsigned=True),
    Sample("largest unsigned", 2**64 - 1, unsigned=True),
    Sample("true", True),
    Sample("false", False),
    Sample("text", "läuft ✓"),
    Sample("empty text", ""),
    Sample("text of all sorts", "a,b=c d\\e\"f'g\th\\"),
    Sample("text of two lines", "one\ntwo"),
    Sample("bytes", b"\x00\xff\n\xfe"),
    Sample("no bytes", b""),
    Sample("array", [1, 2.5, "x", None, True]),
    Sample("structure", {"a": {"b": [1, 2]}, "ü": 'quo"te'}),
    Sample("null", None),
]
INEXACT = frozenset({"largest integer", "smallest integer", "integer above 2^53", "largest unsigned"})  # as doubles


class Source:
    """Makes stream items as the flow hands them to a writer, and the rows that they mean."""

    def __init__(self, gateway: str = "gateway 1", shard: str = "modbus-0-a1b2") -> None:
        self.gateway = gateway
        self.shard = shard
        self.tags = TagTable()
        self.next = 0

    def tag(self, number: int, **changes: str) -> int:
        names = {
            "source": f"plc{number % 2}",
            "protocol": "modbus",
            "device_id": "1",
            "address": f"4000{number}",
            "tag_name": f"temp {number}",
            "unit": "°C",
            "path": f"plant 1/area,A/line=1/press{number}/temperature/temp {number}",
            "site": "plant 1",
            "signal_type": "temperature",
        }
        return self.tags.intern(Tag(**names | changes))

    def batch(
        self,
        values: Sequence[Any],
        *,
        unsigned: Sequence[bool] | None = None,
        tags: Sequence[int] | None = None,
        source_times: Sequence[int | None] | None = None,
    ) -> pa.RecordBatch:
        """A stream item of `values`, a reading each, numbered on from the last."""
        count = len(values)
        columns = Columns()
        for row, value in enumerate(values):
            columns.add(
                self.tag(row % 7) if tags is None else tags[row],
                value,
                unsigned=bool(unsigned and unsigned[row]),
                quality=Quality.BAD if value is None else Quality.GOOD,
                status=0x80050000 if value is None else None,
                source_time=BASE_TIME + (self.next + row) * STEP if source_times is None else source_times[row],
            )
        facts = columns.to_batch(np.full(count, BASE_TIME + 10**9, np.int64), self.next)
        self.next += count
        value = numbers(facts.column("type"), facts.column("value_double"), facts.column("value_int"))
        priority = pa.array(np.ones(count, np.int32))
        return view(facts.columns, repeat(self.gateway, count), repeat(self.shard, count), self.tags, value, priority)

    def samples(self, *, tag_each: bool = False) -> pa.RecordBatch:
        tags = [self.tag(number) for number in range(len(SAMPLES))] if tag_each else None
        return self.batch([s.value for s in SAMPLES], unsigned=[s.unsigned for s in SAMPLES], tags=tags)


def rows(batch: pa.RecordBatch) -> list[Row]:
    """What a batch means, read without any of the code that encodes it."""
    return [
        Row(
            gateway=item["gateway"],
            shard=item["shard"],
            sequence=item["sequence"],
            path=item["path"],
            type=ValueType(item["type"]).name,
            value=_value(item),
            quality=Quality(item["quality"]).name,
            source_time=_micros(item["source_time"]),
        )
        for item in batch.to_pylist()
    ]


def table_rows(items: Iterable[dict[str, Any]]) -> list[Row]:
    """Rows of a table of `normalization.reading.TABLE`, as `to_pylist` gives them."""
    made = []
    for item in items:
        kind = ValueType[item["type"]]
        given = item | {"type": int(kind), "value_double": item["value"]}
        made.append(
            Row(
                gateway=item["gateway"],
                shard=item["shard"],
                sequence=item["sequence"],
                path=item["path"],
                type=kind.name,
                value=_value(given),
                quality=item["quality"],
                source_time=_micros(item["source_time"]),
            )
        )
    return made


def wide(row: Row, name: Callable[[str], str] = column_name) -> Row:
    """What the layout `wide` keeps of a reading: numbers are doubles, JSON is text, and the last place of its path a column."""
    place, slash, last = row.path.rpartition("/")
    kept, kind = row.value, row.type
    if kind in {"BOOLEAN", "INT64", "UINT64"}:
        kept, kind = float(row.value), "DOUBLE"
    elif kind == "JSON":
        kept, kind = json.dumps(row.value, ensure_ascii=False, separators=(",", ":")), "TEXT"
    return replace(row, path=f"{place}{slash}{name(last)}", value=kept, type=kind)


def wide_rows(items: Iterable[dict[str, Any]]) -> list[Row]:
    """The readings in rows of a wide table, where each has a row to itself, whose identity is its own then."""
    kinds = {type(None): "NULL", float: "DOUBLE", str: "TEXT", bytes: "BYTES"}
    made = []
    for item in items:
        (name,) = [name.removesuffix("_quality") for name in item if name.endswith("_quality") and item[name]]
        value = item.get(name)
        made.append(
            Row(
                gateway=item["gateway"],
                shard=item["shard"],
                sequence=item["sequence"],
                path="/".join(part for part in (item["path"], name) if part),
                type=kinds[type(value)],
                value=value,
                quality=item[f"{name}_quality"],
                source_time=_micros(item["time"]),
            )
        )
    return made


def _value(item: dict[str, Any]) -> Any:
    match ValueType(item["type"]):
        case ValueType.NULL:
            return None
        case ValueType.BOOLEAN:
            return bool(item["value_int"])
        case ValueType.INT64:
            return item["value_int"]
        case ValueType.UINT64:
            return item["value_int"] % 2**64
        case ValueType.DOUBLE:
            return item["value_double"]
        case ValueType.TEXT:
            return item["value_text"]
        case ValueType.BYTES:
            return item["value_bytes"]
        case ValueType.JSON:
            return json.loads(item["value_text"])


def _micros(when: Any) -> int | None:
    return None if when is None else int(np.datetime64(when.replace(tzinfo=None), "us").astype(np.int64))
