"""The bare ``DescriptorProto`` of a stream: held against the Delta table, and made into a message class.

The client's request message carries its records as ``bytes``; on the wire that is the same as sub-messages, so a request is
parsed with a message class of our own whose records are typed: one upb call checks a request of any number of records.
"""

import secrets
from collections.abc import Iterator
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from simulator.zerobus.errors import (
    FIELD_NOT_IN_TABLE,
    MISSING_REQUIRED_COLUMN,
    TYPE_MISMATCH,
    invalid,
    schema_mismatch,
)
from simulator.zerobus.schema import Column, ColumnType, TableSchema, part

_Field = descriptor_pb2.FieldDescriptorProto

# Unity Catalog's type -> the one protobuf type that the service takes for it
_PROTO: Final = {
    "tinyint": _Field.TYPE_INT32,
    "smallint": _Field.TYPE_INT32,
    "int": _Field.TYPE_INT32,
    "bigint": _Field.TYPE_INT64,
    "float": _Field.TYPE_FLOAT,
    "double": _Field.TYPE_DOUBLE,
    "string": _Field.TYPE_STRING,
    "varchar": _Field.TYPE_STRING,
    "variant": _Field.TYPE_STRING,
    "boolean": _Field.TYPE_BOOL,
    "binary": _Field.TYPE_BYTES,
    "date": _Field.TYPE_INT32,
    "timestamp": _Field.TYPE_INT64,
    "timestamp_ntz": _Field.TYPE_INT64,
}
# wire-compatible types for which every default is possible: a bool has no third value, a double no reliable NaN
_AS_READ: Final = {
    _Field.TYPE_INT32: _Field.TYPE_INT64,
    _Field.TYPE_INT64: _Field.TYPE_INT64,
    _Field.TYPE_BOOL: _Field.TYPE_INT64,
    _Field.TYPE_DOUBLE: _Field.TYPE_FIXED64,
    _Field.TYPE_FLOAT: _Field.TYPE_FIXED32,
    _Field.TYPE_STRING: _Field.TYPE_STRING,
    _Field.TYPE_BYTES: _Field.TYPE_BYTES,
}
# No client can know these: an absent column reads as one of them. The floats are signaling-free NaNs with a payload.
ABSENT_INT: Final = -(1 << 62) - secrets.randbits(61)
ABSENT_DOUBLE: Final = 0x7FF8_0000_0000_0000 | secrets.randbits(50) | 1
ABSENT_FLOAT: Final = 0x7FC0_0000 | secrets.randbits(21) | 1
ABSENT_TEXT: Final = "absent-" + secrets.token_hex(16)
_DEFAULTS: Final = {
    _Field.TYPE_INT64: str(ABSENT_INT),
    _Field.TYPE_FIXED64: str(ABSENT_DOUBLE),
    _Field.TYPE_FIXED32: str(ABSENT_FLOAT),
    _Field.TYPE_STRING: ABSENT_TEXT,
    _Field.TYPE_BYTES: ABSENT_TEXT,
}
_MAX_DEPTH: Final = 32


# ---- the descriptor against the table


def compare(row: Any, schema: TableSchema) -> list[tuple[int, Column]]:
    """Field number and column of each field of the row message; refuses with every finding at once."""
    findings: list[tuple[str, str]] = []
    columns: list[tuple[int, Column]] = []
    for field in row.field:
        column = schema.by_name.get(field.name)
        if column is None:
            findings.append((FIELD_NOT_IN_TABLE, f"Client field '{field.name}' does not exist in Delta schema"))
            continue
        wrong = _mismatch(field, column.type, row, 0)
        if wrong:
            findings.append(
                (TYPE_MISMATCH, f"Client field '{field.name}' {wrong}, but the column is {column.type.text.upper()}")
            )
        columns.append((field.number, column))
    sent = {column.name for _, column in columns}
    findings += [
        (MISSING_REQUIRED_COLUMN, f"Delta column '{column.name}' is NOT NULL and missing in the client's schema")
        for column in schema.columns
        if not column.nullable and column.name not in sent
    ]
    if len(sent) != len(columns):
        findings.append((TYPE_MISMATCH, "a field name occurs twice in the client's descriptor"))
    if findings:
        raise schema_mismatch(findings)
    return columns


def _mismatch(field: Any, type_: ColumnType, row: Any, depth: int) -> str:
    """Why a field cannot carry a Delta type; empty when it can."""
    repeated = field.label == _Field.LABEL_REPEATED
    if type_.name == "array":
        if not repeated:
            return "is not repeated"
        element = part(type_.element)
        if element.name in {"array", "map"}:
            return "has no protobuf form"
        return _single_mismatch(field, element, row, depth)
    if type_.name == "map":
        entry = _nested(field, row)
        if not repeated or entry is None or not entry.options.map_entry or len(entry.field) != 2:
            return "is not a map"
        fields = sorted(entry.field, key=lambda f: int(f.number))
        for item, expected in zip(fields, (part(type_.key), part(type_.element)), strict=True):
            if expected.name in {"array", "map"}:
                return "has no protobuf form"
            wrong = _single_mismatch(item, expected, row, depth + 1)
            if wrong:
                return f"has a map {item.name} that {wrong}"
        return ""
    if repeated:
        return "is repeated"
    return _single_mismatch(field, type_, row, depth)


def _single_mismatch(field: Any, type_: ColumnType, row: Any, depth: int) -> str:
    if type_.name == "struct":
        message = _nested(field, row)
        if message is None:
            return "is not a message nested in the row message"
        if depth > _MAX_DEPTH:
            return "is nested too deeply"
        parts = dict(type_.fields)
        for item in message.field:
            expected = parts.get(item.name)
            if expected is None:
                return f"has a field '{item.name}' that the column has not"
            wrong = _mismatch(item, expected, row, depth + 1)
            if wrong:
                return f"has a field '{item.name}' that {wrong}"
        return ""
    number = _PROTO.get(type_.name)
    if number is None:
        return "has no protobuf form"
    if field.type != number:
        return f"is {_type_name(field.type)} where {_type_name(number)} is needed"
    return ""


def _type_name(number: int) -> str:
    try:
        return _Field.Type.Name(number)[len("TYPE_") :].lower()  # type: ignore[arg-type]
    except ValueError:
        return f"type {number}"


def _nested_path(type_name: str, row_name: str, row: Any) -> tuple[str, Any] | None:
    """Package and message that a full type name means if it is nested in the row message."""
    parts = type_name.lstrip(".").split(".")
    for index, word in enumerate(parts[:-1]):
        if word != row_name:
            continue
        message = row
        for name in parts[index + 1 :]:
            message = next((nested for nested in message.nested_type if nested.name == name), None)
            if message is None:
                break
        if message is not None:
            return ".".join(parts[:index]), message
    return None


def _nested(field: Any, row: Any) -> Any | None:
    if field.type != _Field.TYPE_MESSAGE:
        return None
    found = _nested_path(field.type_name, row.name, row)
    return found[1] if found else None


def package_of(row: Any) -> str:
    """The package that the client's type names speak of; empty when there is none to be seen."""

    def type_names(message: Any) -> Iterator[str]:
        for field in message.field:
            if field.type == _Field.TYPE_MESSAGE:
                yield field.type_name
        for nested in message.nested_type:
            yield from type_names(nested)

    packages = {found[0] for name in type_names(row) if (found := _nested_path(name, row.name, row))}
    if len(packages) > 1:
        raise invalid(f"descriptor_proto names nested messages in several packages: {sorted(packages)}")
    return packages.pop() if packages else ""


# ---- our own message class


def request_class(row: Any, package: str, columns: list[tuple[int, Column]]) -> Any:
    """A class for ``EphemeralStreamRequest`` whose records are the row message."""
    file = _edition_file("row.proto", package)
    _copy(row, file.message_type.add(name=row.name))
    by_number = dict(columns)
    for field in file.message_type[0].field:
        column = by_number[field.number]
        if field.label == _Field.LABEL_REPEATED:
            continue
        if not column.nullable:
            field.options.features.field_presence = descriptor_pb2.FeatureSet.LEGACY_REQUIRED
        if field.type in _AS_READ:
            field.type = _AS_READ[field.type]
            if column.nullable:
                field.default_value = _DEFAULTS[field.type]
    full_name = f"{package}.{row.name}" if package else row.name
    envelope = _edition_file("zerobus_emulator_request.proto", "zerobus_emulator_request")
    envelope.dependency.append(file.name)
    own = ".zerobus_emulator_request."

    def message(name: str, oneof: str | None, *fields: tuple[str, int, str | None, bool]) -> None:
        added = envelope.message_type.add(name=name)
        if oneof:
            added.oneof_decl.add(name=oneof)
        for field_name, number, type_name, repeated in fields:
            field = added.field.add(
                name=field_name,
                number=number,
                label=_Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL,
                type=_Field.TYPE_MESSAGE if type_name else _Field.TYPE_BYTES,
                type_name=type_name,
            )
            if field_name == "offset_id":
                field.type = _Field.TYPE_INT64
            elif oneof:
                field.oneof_index = 0

    message("Batch", None, ("records", 1, f".{full_name}", True))
    message(
        "Record",
        "record",
        ("offset_id", 1, None, False),
        ("proto_encoded_record", 2, f".{full_name}", False),
        ("json_record", 3, None, False),
        ("avro_record", 4, None, False),
    )
    message(
        "Records",
        "batch",
        ("offset_id", 1, None, False),
        ("proto_encoded_batch", 2, f"{own}Batch", False),
        ("json_batch", 3, None, False),
        ("avro_batch", 4, None, False),
    )
    message(
        "Request",
        "payload",
        ("create_stream", 1, None, False),
        ("ingest_record", 2, f"{own}Record", False),
        ("ingest_record_batch", 3, f"{own}Records", False),
    )
    pool = descriptor_pool.DescriptorPool()
    try:
        pool.Add(file)
        pool.Add(envelope)
        return message_factory.GetMessageClass(pool.FindMessageTypeByName("zerobus_emulator_request.Request"))
    except (TypeError, KeyError) as error:  # what the pool raises for a descriptor that makes no sense
        raise invalid(f"descriptor_proto cannot be used: {error}") from error


def _edition_file(name: str, package: str) -> descriptor_pb2.FileDescriptorProto:
    """A file in which defaults, required fields and checked UTF-8 go together: neither proto2 nor proto3 has all."""
    file = descriptor_pb2.FileDescriptorProto(
        name=name, package=package, syntax="editions", edition=descriptor_pb2.Edition.EDITION_2023
    )
    file.options.features.utf8_validation = descriptor_pb2.FeatureSet.VERIFY
    return file


def _copy(source: Any, target: Any) -> None:
    """Copy numbers and types; fields are called f1, f2 … so that no column's name can hide a method of the class."""
    for field in source.field:
        target.field.add(
            name=f"f{field.number}" if not source.options.map_entry else field.name,
            json_name=field.name,
            number=field.number,
            type=field.type,
            type_name=field.type_name or None,
            label=_Field.LABEL_REPEATED if field.label == _Field.LABEL_REPEATED else _Field.LABEL_OPTIONAL,
        )
    if source.options.map_entry:
        target.options.map_entry = True
    for nested in source.nested_type:
        _copy(nested, target.nested_type.add(name=nested.name))
