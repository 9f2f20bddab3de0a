"""The Delta table as ZeroBus sees it: which columns can be sent, the protobuf descriptor, the Arrow schema, the DDL.

Pure: the columns come from Unity Catalog's answer (`columns`) and are held against `normalization.reading.TABLE`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from connectors.targets.zerobus.errors import HttpError
from connectors.wire import lakehouse, wide_tables
from connectors.wire.lakehouse import quoted
from connectors.wire.wide_tables import KINDS, WIDE, signal_fields
from normalization.reading import TABLE

# FieldDescriptorProto.Type, spelt out so that configuration can be checked without protobuf.
_DOUBLE, _INT64, _INT32, _STRING, _BYTES = 1, 3, 5, 9, 12


@dataclass(frozen=True, slots=True)
class Kind:
    """A Delta type that readings can fill.

    Attributes:
        sql: Its name in SQL.
        arrow: The Arrow type that the service takes for it.
        proto: ``FieldDescriptorProto.Type``: DATE is int32 days, TIMESTAMP int64 µs since the epoch.
    """

    sql: str
    arrow: pa.DataType
    proto: int


_STRINGS: Final = Kind("STRING", pa.string(), _STRING)
_KINDS: Final = {
    "string": _STRINGS,
    "varchar": _STRINGS,
    "char": _STRINGS,
    "bigint": Kind("BIGINT", pa.int64(), _INT64),
    "long": Kind("BIGINT", pa.int64(), _INT64),
    "int": Kind("INT", pa.int32(), _INT32),
    "integer": Kind("INT", pa.int32(), _INT32),
    "double": Kind("DOUBLE", pa.float64(), _DOUBLE),
    "date": Kind("DATE", pa.date32(), _INT32),
    "timestamp": Kind("TIMESTAMP", pa.timestamp("us", tz="UTC"), _INT64),
    "timestamp_ntz": Kind("TIMESTAMP_NTZ", pa.timestamp("us"), _INT64),
    "binary": Kind("BINARY", pa.binary(), _BYTES),
}
# What a column of TABLE may be at the service; the first is what `ddl` makes it.
_FITS: Final[dict[pa.DataType, tuple[str, ...]]] = {
    pa.string(): ("STRING",),
    pa.int64(): ("BIGINT",),
    pa.int32(): ("INT", "BIGINT"),
    pa.float64(): ("DOUBLE",),
    pa.date32(): ("DATE",),
    pa.timestamp("us", tz="UTC"): ("TIMESTAMP", "TIMESTAMP_NTZ"),
    pa.binary(): ("BINARY",),
}
FULL_NAME: Final = r"[A-Za-z0-9_]+\.[A-Za-z0-9_]+\.[A-Za-z0-9_]+"


@dataclass(frozen=True, slots=True)
class TableColumn:
    """A column of the table at the service.

    Attributes:
        name: Name of the column.
        type: Its type as Unity Catalog writes it (``type_text``), lower case.
        nullable: Whether it may be null.
    """

    name: str
    type: str
    nullable: bool


@dataclass(frozen=True, slots=True)
class Column:
    """A column that is sent.

    Attributes:
        name: Name in ``TABLE`` and, but for case, at the service.
        field: Name at the service.
        kind: The Delta type.
        nullable: Whether the service takes a row without it.
        number: Field number in the protobuf message.
    """

    name: str
    field: str
    kind: Kind
    nullable: bool
    number: int


@dataclass(frozen=True, slots=True)
class Plan:
    """How readings fill the table at the service.

    Attributes:
        columns: What is sent, in the order of the table.
        left_out: Columns of ``TABLE`` that the table does not have; their values are not stored.
        not_ours: Nullable columns of the table that readings do not fill.
        problems: Why nothing can be sent; empty when all is well.
    """

    columns: tuple[Column, ...]
    left_out: tuple[str, ...]
    not_ours: tuple[str, ...]
    problems: tuple[str, ...]

    @property
    def arrow(self) -> pa.Schema:
        """The Arrow schema of what is sent."""
        return pa.schema([pa.field(c.field, c.kind.arrow, c.nullable) for c in self.columns])


def columns(answer: dict[str, Any]) -> tuple[TableColumn, ...]:
    """The columns in Unity Catalog's answer to ``GET /api/2.1/unity-catalog/tables/{name}``, in the table's order.

    Raises:
        HttpError: The answer does not say what columns there are.
    """
    try:
        rows = [
            (int(c.get("position", i)), TableColumn(c["name"], c["type_text"].strip().lower(), c.get("nullable", True)))
            for i, c in enumerate(answer["columns"])
        ]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise HttpError(502, f"Unity Catalog's answer names no columns ({type(error).__name__}: {error})") from error
    return tuple(column for _, column in sorted(rows, key=lambda row: row[0]))


def kind_of(column: TableColumn) -> Kind | None:
    """The type of a column, None for one that nothing here fills."""
    return _KINDS.get(re.split(r"[(<\s]", column.type, maxsplit=1)[0])


def sendable(table: Sequence[TableColumn], layout: str) -> pa.Schema:
    """What a table should have; in the layout `wide` also every column of it that can be a signal's."""
    if layout == "narrow":
        return TABLE
    kinds = {column.name.lower(): kind_of(column) for column in table if column.nullable}
    signals = {name: kind.sql.lower() for name, kind in kinds.items() if kind and name not in WIDE.names}
    return pa.schema([*WIDE, *signal_fields({name: kind for name, kind in signals.items() if kind in KINDS})])


def plan(table: Sequence[TableColumn], layout: str = "narrow") -> Plan:
    """Hold the table's columns against those of a reading.

    Args:
        table: The columns at the service, in their order, which the service wants kept.
        layout: `narrow` or `wide`.
    """
    ours = {field.name.lower(): field for field in sendable(table, layout)}
    sent: list[Column] = []
    not_ours: list[str] = []
    problems: list[str] = []
    for column in table:
        field = ours.pop(column.name.lower(), None)
        kind = kind_of(column)
        if field is None:
            if column.nullable:
                not_ours.append(column.name)
            else:
                problems.append(
                    f"column `{column.name}` is NOT NULL and readings do not have it: "
                    f"ALTER TABLE … ALTER COLUMN `{column.name}` DROP NOT NULL"
                )
        elif kind is None or kind.sql not in _FITS[field.type]:
            wanted = " or ".join(_FITS[field.type])
            problems.append(f"column `{column.name}` is {column.type.upper()}, readings need {wanted}")
        else:
            number = len(sent) + 1
            sent.append(
                Column(field.name, column.name, kind, column.nullable, number if number < 19_000 else number + 1_000)
            )
    if not sent and not problems:
        problems.append("the table has none of the columns of a reading; `bifrost zerobus ddl` prints the right ones")
    return Plan(tuple(sent), tuple(f.name for f in ours.values()), tuple(not_ours), tuple(problems))


def descriptor(sent: Sequence[Column]) -> bytes:
    """The serialized ``FileDescriptorProto`` (proto2) whose one message is a row; the SDK sends that message's own."""
    from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto

    file = FileDescriptorProto(name="reading.proto", syntax="proto2")
    row = file.message_type.add(name="Reading")
    for column in sent:
        label = FieldDescriptorProto.LABEL_OPTIONAL if column.nullable else FieldDescriptorProto.LABEL_REQUIRED
        row.field.add(
            name=column.field,
            number=column.number,
            type=column.kind.proto,
            label=label,
        )
    return file.SerializeToString()


def grants(table: str, principal: str) -> list[str]:
    """The statements that give `principal` what ZeroBus asks for, outermost first."""
    catalog, schema, _ = table.split(".")
    return [
        f"GRANT USE CATALOG ON CATALOG `{catalog}` TO `{principal}`;",
        f"GRANT USE SCHEMA ON SCHEMA `{catalog}`.`{schema}` TO `{principal}`;",
        f"GRANT SELECT ON TABLE {quoted(table)} TO `{principal}`;",
        f"GRANT MODIFY ON TABLE {quoted(table)} TO `{principal}`;",
    ]


def ddl(table: str, principal: str | None = None, signals: Mapping[str, str] | None = None) -> str:
    """The SQL that makes the table, the view that shows each reading once, the merge into a table of its own, and the grants.

    ZeroBus takes managed Delta tables without liquid clustering and at most 1,000 partitions in 5 s, hence a partition
    per day. Delivery is at least once, hence the view, whose window begins with the partition column so that a filter
    on `date` reads those partitions only.

    Args:
        table: catalog.schema.table.
        principal: Application id of the service principal that writes; grants are left out when it is None.
        signals: Columns of the layout `wide`, and their types; None for the layout `narrow`.

    Raises:
        ValueError: `table` is not such a name.
    """
    if not re.fullmatch(FULL_NAME, table):
        msg = f"`{table}` is not catalog.schema.table, of ASCII letters, digits and underscores"
        raise ValueError(msg)
    once = "Delivery is at least once: the view with the suffix _once shows each once."
    if signals is None:
        made = lakehouse.create(table, TABLE, f"Readings from Bifrost. {once}")
        parts = [made, lakehouse.once(table), lakehouse.tag_versions(table), lakehouse.merge(table)]
    else:
        made = lakehouse.create(table, wide_tables.table_of(signals), f"Signals from Bifrost. {once}")
        parts = [made, *wide_tables.statements(table, signals)]
    if principal is not None:
        parts.append("\n".join(grants(table, principal)))
    return "\n\n".join(parts) + "\n"
