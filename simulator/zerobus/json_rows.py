"""JSON records: each one checked against the Delta table by a msgspec type that is made from the table's schema.

Integers are not taken for texts nor the other way round, and NaN is no JSON. DATE and TIMESTAMP are taken as the number
that protobuf uses (days, microseconds since 1970) or as ISO 8601 text, BINARY as base64, VARIANT as any JSON value.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Final

import msgspec
import pyarrow as pa
from google.protobuf.message import DecodeError

from simulator.zerobus import wire
from simulator.zerobus.errors import FIELD_NOT_IN_TABLE, MISSING_REQUIRED_COLUMN, TYPE_MISMATCH, invalid
from simulator.zerobus.formats import Checked
from simulator.zerobus.schema import Column, ColumnType, TableSchema, part

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_EPOCH_DAY: Final = date(1970, 1, 1).toordinal()


def _integer(bits: int) -> Any:
    return Annotated[int, msgspec.Meta(ge=-(1 << (bits - 1)), le=(1 << (bits - 1)) - 1)]


_TYPES: Final[dict[str, Any]] = {
    "tinyint": _integer(8),
    "smallint": _integer(16),
    "int": _integer(32),
    "bigint": _integer(64),
    "float": float,
    "double": float,
    "string": str,
    "variant": Any,
    "boolean": bool,
    "binary": bytes,
    "date": Annotated[int, msgspec.Meta(ge=-719_162, le=2_932_896)] | date,
    "timestamp": _integer(64) | datetime,
    "timestamp_ntz": _integer(64) | datetime,
    "decimal": Decimal,
}


class JsonRows:
    """JSON records on one stream; there is nothing to describe, so `spec` is empty."""

    kind = "json"

    def __init__(self, spec: bytes, schema: TableSchema) -> None:
        self.spec = spec
        self._schema = schema
        self._decoder = msgspec.json.Decoder(_struct("Row", schema.columns))
        self._decimals = [(f"f{i}", c) for i, c in enumerate(schema.columns) if c.type.name == "decimal"]

    def check(self, request: bytes) -> Checked:
        """See `RowFormat.check`."""
        body, records = _records(request)
        for number, record in enumerate(records):
            try:
                row = self._decoder.decode(record)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise invalid(f"records[{number}]: {error}", [_cause(str(error))]) from error
            for name, column in self._decimals:
                _check_decimal(getattr(row, name), column, number)
        return Checked(body.offset_id if body.HasField("offset_id") else None, len(records))

    def columns(self, requests: Sequence[bytes]) -> pa.Table:
        """See `RowFormat.columns`."""
        rows = [self._decoder.decode(record) for request in requests for record in _records(request)[1]]
        arrays = []
        for index, column in enumerate(self._schema.columns):
            convert = _converter(column.type)
            values = (getattr(row, f"f{index}") for row in rows)
            arrays.append(pa.array([None if v is None else convert(v) for v in values], column.type.arrow))
        return pa.table(arrays, names=[column.name for column in self._schema.columns])


def _records(request: bytes) -> tuple[Any, Sequence[bytes]]:
    """The request inside the envelope (it has ``offset_id``), and its records."""
    try:
        message = wire.EphemeralStreamRequest.FromString(request)
    except DecodeError as error:
        raise invalid(f"not an EphemeralStreamRequest: {error}") from error
    payload = message.WhichOneof("payload")
    if payload == "ingest_record_batch" and message.ingest_record_batch.HasField("json_batch"):
        return message.ingest_record_batch, message.ingest_record_batch.json_batch.records
    if payload == "ingest_record" and message.ingest_record.HasField("json_record"):
        return message.ingest_record, (message.ingest_record.json_record,)
    raise invalid("this stream was created for JSON records: only ingest_record and ingest_record_batch with JSON fit")


def _cause(message: str) -> str:
    if "unknown field" in message:
        return FIELD_NOT_IN_TABLE
    return MISSING_REQUIRED_COLUMN if "missing required" in message else TYPE_MISMATCH


def _struct(name: str, columns: Sequence[Column]) -> type[msgspec.Struct]:
    # attributes are called f0, f1 … so that no column's name can be one that Python or msgspec does not allow
    fields: list[Any] = []
    for index, column in enumerate(columns):
        type_ = _type(column.type, column.name)
        fields.append((f"f{index}", type_ | None, None) if column.nullable else (f"f{index}", type_))
    names = {f"f{index}": column.name for index, column in enumerate(columns)}
    return msgspec.defstruct(name, fields, kw_only=True, forbid_unknown_fields=True, rename=names)


def _type(type_: ColumnType, name: str) -> Any:
    if type_.name == "array":
        return list[_type(part(type_.element), name) | None]  # type: ignore[misc]
    if type_.name == "map":
        return dict[_type(part(type_.key), name), _type(part(type_.element), name) | None]  # type: ignore[misc]
    if type_.name == "struct":
        return _struct(name, [Column(field, part_type) for field, part_type in type_.fields])
    if type_.name == "varchar":
        return Annotated[str, msgspec.Meta(max_length=type_.args[0])]
    return _TYPES[type_.name]


def _check_decimal(value: Decimal | None, column: Column, row: int) -> None:
    if value is None:
        return
    precision, scale = column.type.args
    if not value.is_finite() or value != round(value, scale) or abs(value) >= Decimal(10) ** (precision - scale):
        raise invalid(f"records[{row}].{column.name}: {value} does not fit {column.type.text.upper()}", [TYPE_MISMATCH])


def _converter(type_: ColumnType) -> Callable[[Any], Any]:
    """A function from a decoded value to what pyarrow takes for the Delta type."""
    if type_.name == "array":
        element = _converter(part(type_.element))
        return lambda value: [None if item is None else element(item) for item in value]
    if type_.name == "map":
        item = _converter(part(type_.element))
        return lambda value: [(key, None if v is None else item(v)) for key, v in value.items()]
    if type_.name == "struct":
        parts = [(f"f{i}", name, _converter(part_type)) for i, (name, part_type) in enumerate(type_.fields)]

        def convert(row: Any) -> dict[str, Any]:
            values = [(name, convert_part, getattr(row, own)) for own, name, convert_part in parts]
            return {name: None if value is None else convert_part(value) for name, convert_part, value in values}

        return convert
    if type_.name == "variant":
        return lambda value: msgspec.json.encode(value).decode()
    if type_.name == "date":
        return lambda value: value if isinstance(value, int) else value.toordinal() - _EPOCH_DAY
    if type_.name in {"timestamp", "timestamp_ntz"}:
        return _microseconds
    if type_.name == "decimal":
        return lambda value: round(value, type_.args[1])
    return lambda value: value


def _microseconds(value: int | datetime) -> int:
    if isinstance(value, int):
        return value
    return ((value if value.tzinfo else value.replace(tzinfo=UTC)) - _EPOCH) // _MICROSECOND
