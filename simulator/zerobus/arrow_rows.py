"""Arrow records: the stream's Arrow schema against the Delta table, and Flight messages into columns.

A request is one ``FlightData`` message with the IPC header and body of one record batch. Texts may also come as large or
view arrays and lists as large lists; every other type is the column's own. Dictionaries are not taken on the wire (the
official SDK sends their values).
"""

import json
from collections.abc import Sequence
from typing import Any, Final

import pyarrow as pa
from google.protobuf.message import DecodeError

from simulator.zerobus import wire
from simulator.zerobus.errors import (
    FIELD_NOT_IN_TABLE,
    MISSING_REQUIRED_COLUMN,
    TYPE_MISMATCH,
    invalid,
    schema_mismatch,
)
from simulator.zerobus.formats import Checked
from simulator.zerobus.schema import ColumnType, TableSchema, part

_TEXTS: Final = (pa.string(), pa.large_string(), pa.string_view())
_BINARIES: Final = (pa.binary(), pa.large_binary(), pa.binary_view())
_UTC: Final = {"UTC", "Etc/UTC", "+00:00", "Z"}


class ArrowRows:
    """Arrow records on one stream; `spec` is the IPC schema message."""

    kind = "arrow"

    def __init__(self, spec: bytes, schema: TableSchema) -> None:
        self.spec = spec
        try:
            self._sent = pa.ipc.read_schema(pa.BufferReader(_encapsulated(spec)))
        except (pa.ArrowException, OSError, EOFError) as error:
            raise invalid(f"the first message carries no Arrow schema: {error}") from error
        findings: list[tuple[str, str]] = []
        names = self._sent.names
        for field in self._sent:
            column = schema.by_name.get(field.name)
            if column is None:
                findings.append((FIELD_NOT_IN_TABLE, f"Client field '{field.name}' does not exist in Delta schema"))
            elif not _fits(field.type, column.type):
                findings.append(
                    (
                        TYPE_MISMATCH,
                        f"Client field '{field.name}' is {field.type}, but the column is {column.type.text.upper()}",
                    )
                )
        findings += [
            (MISSING_REQUIRED_COLUMN, f"Delta column '{c.name}' is NOT NULL and missing in the client's schema")
            for c in schema.columns
            if not c.nullable and c.name not in names
        ]
        if len(set(names)) != len(names):
            findings.append((TYPE_MISMATCH, "a field name occurs twice in the client's schema"))
        if findings:
            raise schema_mismatch(findings)
        self._target = pa.schema([pa.field(name, schema.by_name[name].type.arrow) for name in names])
        self._not_null = [i for i, name in enumerate(names) if not schema.by_name[name].nullable]

    def check(self, request: bytes) -> Checked:
        """See `RowFormat.check`."""
        try:
            message = wire.FlightData.FromString(request)
            offset = _offset(message.app_metadata)
            batch = self._batch(message)
            # full: a wrong offset or invalid UTF-8 must not come up when the table is written
            batch.validate(full=True)
        except (DecodeError, pa.ArrowException, OSError, EOFError) as error:
            raise invalid(f"not a record batch of the stream's schema: {error}") from error
        for index in self._not_null:
            if batch.column(index).null_count:
                name = batch.schema.names[index]
                raise invalid(f"record has no value for NOT NULL column: {name}", [MISSING_REQUIRED_COLUMN])
        return Checked(offset, batch.num_rows)

    def columns(self, requests: Sequence[bytes]) -> pa.Table:
        """See `RowFormat.columns`."""
        batches = [self._batch(wire.FlightData.FromString(request)) for request in requests]
        table = pa.Table.from_batches(batches, self._sent)
        return table if table.schema.equals(self._target) else table.cast(self._target)

    def _batch(self, message: Any) -> pa.RecordBatch:
        ipc = pa.ipc.read_message(pa.py_buffer(_encapsulated(message.data_header, message.data_body)))
        if ipc.type != "record batch":
            raise pa.ArrowInvalid(f"a {ipc.type} message, only record batches may follow the schema")
        return pa.ipc.read_record_batch(ipc, self._sent)


def schema_of(request: bytes) -> bytes:
    """The IPC schema message that the first request of a stream carries.

    Raises:
        Refused: it carries none.
    """
    try:
        return bytes(wire.FlightData.FromString(request).data_header)
    except DecodeError as error:
        raise invalid(f"not a FlightData message: {error}") from error


def _encapsulated(header: bytes, body: bytes = b"") -> bytes:
    """An IPC message as a stream has it: continuation mark, padded header length, header, body."""
    padding = -len(header) % 8
    length = (len(header) + padding).to_bytes(4, "little")
    return b"".join((b"\xff\xff\xff\xff", length, header, bytes(padding), body))


def _offset(metadata: bytes) -> int | None:
    """The client's offset in a message's ``app_metadata``, a JSON object."""
    if not metadata:
        return None
    try:
        offset = json.loads(metadata)["offset_id"]
    except (ValueError, KeyError, TypeError) as error:
        raise invalid(f"app_metadata is not {{'offset_id': n}}: {metadata[:80]!r}") from error
    if not isinstance(offset, int):
        raise invalid(f"offset_id is not a number: {offset!r}")
    return offset


def _fits(sent: pa.DataType, column: ColumnType) -> bool:
    """Whether an Arrow type may be sent for a Delta type."""
    if column.name == "array":
        is_list = pa.types.is_list(sent) or pa.types.is_large_list(sent)
        return is_list and _fits(sent.value_type, part(column.element))
    if column.name == "map":
        return (
            pa.types.is_map(sent)
            and _fits(sent.key_type, part(column.key))
            and _fits(sent.item_type, part(column.element))
        )
    if column.name == "struct":
        if not pa.types.is_struct(sent) or sent.num_fields != len(column.fields):
            return False
        return all(
            sent.field(i).name == name and _fits(sent.field(i).type, type_)
            for i, (name, type_) in enumerate(column.fields)
        )
    if column.name in {"string", "varchar", "variant"}:
        return sent in _TEXTS
    if column.name == "binary":
        return sent in _BINARIES
    if column.name == "timestamp":
        return pa.types.is_timestamp(sent) and sent.unit == "us" and sent.tz in _UTC
    return bool(sent == column.arrow)
