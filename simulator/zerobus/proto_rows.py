"""Protobuf records: checked, and made into columns.

A column's presence is told by a default value that no client sends (`simulator.zerobus.proto_descriptor`), so that a column
is one ``map(attrgetter)`` and one vectorized comparison.
"""

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from google.protobuf import descriptor_pb2
from google.protobuf.message import DecodeError

from simulator.zerobus.errors import MISSING_REQUIRED_COLUMN, Refused, invalid
from simulator.zerobus.formats import Checked
from simulator.zerobus.proto_descriptor import (
    ABSENT_DOUBLE,
    ABSENT_FLOAT,
    ABSENT_INT,
    ABSENT_TEXT,
    compare,
    package_of,
    request_class,
)
from simulator.zerobus.schema import Column, ColumnType, TableSchema, part

_RANGES: Final = {
    "tinyint": (-(1 << 7), (1 << 7) - 1),
    "smallint": (-(1 << 15), (1 << 15) - 1),
    "date": (-719_162, 2_932_896),  # years 1 to 9999, as Spark reads them
}
_CHUNK: Final = 8192  # rows made into columns at a time: their values then stay in the processor's cache


class ProtoRows:
    """Protobuf records on one stream."""

    kind = "proto"

    def __init__(self, spec: bytes, schema: TableSchema) -> None:
        self.spec = spec
        self._schema = schema
        row = descriptor_pb2.DescriptorProto()
        try:
            row.ParseFromString(spec)
        except DecodeError as error:
            raise invalid(f"descriptor_proto is not a DescriptorProto: {error}") from error
        if not row.name or not row.field:
            raise invalid("descriptor_proto describes no message with fields")
        self._columns = compare(row, schema)
        package = package_of(row)
        self._request_class = request_class(row, package, self._columns)
        self._range_checks = [
            (f"f{number}", column) for number, column in self._columns if column.type.name in {*_RANGES, *_TEXT_CHECKS}
        ]

    def check(self, request: bytes) -> Checked:
        """See `RowFormat.check`."""
        try:
            message = self._request_class.FromString(request)
        except DecodeError as error:
            raise invalid(f"a record is not a message of the stream's descriptor: {error}") from error
        body, rows = _records(message)
        if not body.IsInitialized():
            raise self._missing(rows)
        for name, column in self._range_checks:
            for number, row in enumerate(rows):
                if row.HasField(name):
                    _check_value(getattr(row, name), column, number)
        return Checked(body.offset_id if body.HasField("offset_id") else None, len(rows))

    def columns(self, requests: Sequence[bytes]) -> pa.Table:
        """See `RowFormat.columns`."""
        parts: list[pa.Table] = []
        rows: list[Any] = []
        for request in requests:
            records = _records(self._request_class.FromString(request))[1]
            for start in range(0, len(records), _CHUNK):
                rows.extend(records[start : start + _CHUNK])
                if len(rows) >= _CHUNK:
                    parts.append(self._table(rows))
                    rows = []
        return pa.concat_tables([*parts, self._table(rows)])

    def _table(self, rows: list[Any]) -> pa.Table:
        arrays = [_column(rows, f"f{number}", column) for number, column in self._columns]
        return pa.table(arrays, names=[column.name for _, column in self._columns])

    def _missing(self, rows: Sequence[Any]) -> Refused:
        # not FindInitializationErrors: upb crashes when it writes a path through a repeated message
        for number, row in enumerate(rows):
            for field, column in self._columns:
                if not column.nullable and column.type.name not in {"array", "map"} and not row.HasField(f"f{field}"):
                    return invalid(
                        f"records[{number}]: no value for NOT NULL column '{column.name}'", [MISSING_REQUIRED_COLUMN]
                    )
        return invalid("a record misses a required field", [MISSING_REQUIRED_COLUMN])


def _records(message: Any) -> tuple[Any, Sequence[Any]]:
    """The request inside the envelope (it has ``offset_id``), and its rows."""
    payload = message.WhichOneof("payload")
    if payload == "ingest_record_batch":
        body = message.ingest_record_batch
        if body.WhichOneof("batch") != "proto_encoded_batch":
            raise invalid("this stream was created for protobuf records")
        return body, body.proto_encoded_batch.records
    if payload == "ingest_record":
        body = message.ingest_record
        if body.WhichOneof("record") != "proto_encoded_record":
            raise invalid("this stream was created for protobuf records")
        return body, (body.proto_encoded_record,)
    raise invalid("only ingest_record and ingest_record_batch may follow create_stream")


def _json_value(value: str) -> bool:
    try:
        msgspec.json.decode(value)
    except msgspec.DecodeError:
        return False
    return True


_TEXT_CHECKS: Final[dict[str, Callable[[str, ColumnType], bool]]] = {
    "varchar": lambda value, type_: len(value) <= type_.args[0],
    "variant": lambda value, _type: _json_value(value),
}


def _check_value(value: Any, column: Column, row: int) -> None:
    """Refuse a value that its protobuf type allows and its column does not."""
    kind = column.type.name
    if kind in _RANGES:
        low, high = _RANGES[kind]
        sound = low <= value <= high
    else:
        sound = _TEXT_CHECKS[kind](value, column.type)
    if not sound:
        raise invalid(f"records[{row}].{column.name}: {value!r} does not fit {column.type.text.upper()}")


# ---- messages into columns


def _column(rows: list[Any], name: str, column: Column) -> pa.Array:
    """One column of all rows; `name` is the field's name in our own class."""
    values = list(map(attrgetter(name), rows))
    kind = column.type.name
    if kind in {"array", "map"}:
        convert = _converter(column.type, _descriptor(rows, name))
        return pa.array([convert(value) for value in values], column.type.arrow)
    if kind == "struct":
        convert = _converter(column.type, _descriptor(rows, name))
        present = [row.HasField(name) for row in rows]
        return pa.array([convert(v) if p else None for v, p in zip(values, present, strict=True)], column.type.arrow)
    if kind in {"string", "varchar", "variant", "binary"}:
        if kind == "binary":
            array, absent = pa.array(values, pa.binary()), pa.scalar(ABSENT_TEXT.encode())
        else:
            array, absent = pa.array(values, pa.string()), pa.scalar(ABSENT_TEXT)
        if not column.nullable:
            return array
        return pc.if_else(pc.equal(array, absent), pa.scalar(None, array.type), array)
    if kind in {"double", "float"}:
        unsigned, float_type, absent_bits = (
            (np.uint64, np.float64, ABSENT_DOUBLE) if kind == "double" else (np.uint32, np.float32, ABSENT_FLOAT)
        )
        bits = np.array(values, unsigned)
        return pa.array(bits.view(float_type), column.type.arrow, mask=bits == absent_bits, from_pandas=False)
    numbers = np.array(values, np.int64)
    mask = numbers == ABSENT_INT if column.nullable else None
    if kind == "boolean":
        return pa.array(numbers != 0, pa.bool_(), mask=mask)
    if kind in {"bigint", "timestamp", "timestamp_ntz"}:
        return pa.array(numbers, pa.int64(), mask=mask).view(column.type.arrow)
    width = {"tinyint": np.int8, "smallint": np.int16}.get(kind, np.int32)
    array = pa.array(numbers.astype(width), mask=mask)
    return array.view(pa.date32()) if kind == "date" else array


def _descriptor(rows: list[Any], name: str) -> Any:
    return rows[0].DESCRIPTOR.fields_by_name[name] if rows else None


def _converter(type_: ColumnType, descriptor: Any) -> Callable[[Any], Any]:
    """A function from a field's value to what pyarrow takes for the Delta type. None as descriptor: there are no rows."""
    if descriptor is None:
        return lambda value: value
    if type_.name == "array":
        element = _single_converter(part(type_.element), descriptor)
        return lambda value: [element(item) for item in value]
    if type_.name == "map":
        item_descriptor = descriptor.message_type.fields_by_name["value"]
        item = _single_converter(part(type_.element), item_descriptor)
        return lambda value: [(key, item(value[key])) for key in value]
    return _single_converter(type_, descriptor)


def _single_converter(type_: ColumnType, descriptor: Any) -> Callable[[Any], Any]:
    if type_.name != "struct":
        return lambda value: value
    types = dict(type_.fields)
    parts = [
        (field.json_name, field.name, field.is_repeated, _converter(types[field.json_name], field))
        for field in descriptor.message_type.fields
    ]

    def convert(message: Any) -> dict[str, Any]:
        return {
            name: item(getattr(message, own)) if repeated or message.HasField(own) else None
            for name, own, repeated, item in parts
        }

    return convert
