"""What a reading is: the kinds of values, the quality scale, the flags, and the Arrow schema of the facts of a reading."""

from enum import IntEnum, IntFlag
from typing import Final

import pyarrow as pa


class ValueType(IntEnum):
    """What a value was at its source; says which value column holds it."""

    NULL = 0
    BOOLEAN = 1
    INT64 = 2
    UINT64 = 3
    DOUBLE = 4
    TEXT = 5
    BYTES = 6
    JSON = 7


class Quality(IntEnum):
    """One quality scale for all protocols; the protocol's own code stays in ``status``."""

    GOOD = 0
    UNCERTAIN = 1
    BAD = 2
    STALE = 3
    ALARM = 4


class Flags(IntFlag):
    """How a reading came to be, where that is not simply "live from its device"."""

    NONE = 0
    RETAINED = 1
    HISTORICAL = 2
    RESENT = 4
    DERIVED = 8
    GAP = 16


TIMESTAMP: Final = pa.timestamp("us", tz="UTC")


def field_of(name: str, type_: pa.DataType, meaning: str, *, nullable: bool = True) -> pa.Field:
    """A field of a schema, with what it means as its comment."""
    return pa.field(name, type_, nullable=nullable, metadata={"comment": meaning})


FACTS: Final = pa.schema(
    [
        field_of("tag", pa.int32(), "row of the tag table", nullable=False),
        field_of("type", pa.int8(), "ValueType: which value column holds the value", nullable=False),
        field_of("value_double", pa.float64(), "the value of a DOUBLE, in the tag's unit; NaN and infinities kept"),
        field_of("value_int", pa.int64(), "the value of an INT64, a BOOLEAN (0, 1) or a UINT64 (its bit pattern)"),
        field_of("value_text", pa.string(), "the value of a TEXT, or the JSON of an array or structure"),
        field_of("value_bytes", pa.binary(), "the value of BYTES, or what could not be decoded when `reject` is set"),
        field_of("quality", pa.int8(), "Quality: GOOD, UNCERTAIN, BAD, STALE or ALARM", nullable=False),
        field_of("status", pa.int64(), "the protocol's own status code (OPC UA StatusCode, Modbus exception …)"),
        field_of("source_time", TIMESTAMP, "when the device says it measured, UTC, µs; null when it does not say"),
        field_of("received_time", TIMESTAMP, "when the gateway received it, UTC, µs", nullable=False),
        field_of("sequence", pa.int64(), "number within gateway and shard, given by the journal", nullable=False),
        field_of("flags", pa.int16(), "Flags: retained, historical, re-sent, derived, gap", nullable=False),
        field_of("properties", pa.string(), "JSON object of what the protocol sent beside the value"),
        field_of("reject", pa.string(), "why this reading cannot be used; null when it is sound"),
    ]
)
