"""Delta column types, and how a table is declared: a JSON document or a ``CREATE TABLE`` statement.

A type is written as Unity Catalog's ``type_text`` (``bigint``, ``array<string>``, ``struct<a:int,b:map<string,double>>``);
SQL spellings (``LONG``, ``INTEGER``, ``VARCHAR(20)``) mean the same. VARIANT and VARCHAR are stored as Delta strings and
marked in the field's metadata.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

import deltalake.schema as delta
import pyarrow as pa

# Unity Catalog's name -> (Delta's primitive type, Arrow type)
_SCALARS: Final[dict[str, tuple[str, pa.DataType]]] = {
    "tinyint": ("byte", pa.int8()),
    "smallint": ("short", pa.int16()),
    "int": ("integer", pa.int32()),
    "bigint": ("long", pa.int64()),
    "float": ("float", pa.float32()),
    "double": ("double", pa.float64()),
    "string": ("string", pa.string()),
    "varchar": ("string", pa.string()),
    "variant": ("string", pa.string()),
    "boolean": ("boolean", pa.bool_()),
    "binary": ("binary", pa.binary()),
    "date": ("date", pa.date32()),
    "timestamp": ("timestamp", pa.timestamp("us", tz="UTC")),
    "timestamp_ntz": ("timestamp_ntz", pa.timestamp("us")),
}
_SYNONYMS: Final = {
    "byte": "tinyint",
    "short": "smallint",
    "integer": "int",
    "long": "bigint",
    "real": "float",
    "text": "string",
    "bool": "boolean",
    "dec": "decimal",
    "numeric": "decimal",
}
_NAME: Final = re.compile(r"[A-Za-z0-9_]+\Z")
_TABLE_NAME: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_]+\Z")
_VARCHAR_KEY: Final = "__CHAR_VARCHAR_TYPE_STRING"
_VARIANT_KEY: Final = "zerobus.type"
MAX_COLUMNS: Final = 2000


class SchemaError(ValueError):
    """A table declaration that cannot be used; the message says where and why."""


@dataclass(frozen=True, slots=True)
class ColumnType:
    """A Delta type. `name` is Unity Catalog's; the other fields are set for the types that have them."""

    name: str
    args: tuple[int, ...] = ()
    element: "ColumnType | None" = None
    key: "ColumnType | None" = None
    fields: "tuple[tuple[str, ColumnType], ...]" = ()

    @property
    def text(self) -> str:
        """Unity Catalog's ``type_text``."""
        if self.name == "array":
            return f"array<{part(self.element).text}>"
        if self.name == "map":
            return f"map<{part(self.key).text},{part(self.element).text}>"
        if self.name == "struct":
            return "struct<" + ",".join(f"{name}:{type_.text}" for name, type_ in self.fields) + ">"
        return self.name + (f"({','.join(map(str, self.args))})" if self.args else "")

    @property
    def arrow(self) -> pa.DataType:
        """The Arrow type of the column in the Delta table."""
        if self.name == "array":
            return pa.list_(pa.field("element", part(self.element).arrow))
        if self.name == "map":
            return pa.map_(part(self.key).arrow, part(self.element).arrow)
        if self.name == "struct":
            return pa.struct([pa.field(name, type_.arrow) for name, type_ in self.fields])
        if self.name == "decimal":
            return pa.decimal128(*self.args)
        return _SCALARS[self.name][1]

    @property
    def delta(self) -> delta.PrimitiveType | delta.ArrayType | delta.MapType | delta.StructType:
        """The type as the Delta protocol writes it."""
        if self.name == "array":
            return delta.ArrayType(part(self.element).delta, contains_null=True)
        if self.name == "map":
            return delta.MapType(part(self.key).delta, part(self.element).delta, value_contains_null=True)
        if self.name == "struct":
            return delta.StructType([delta.Field(name, type_.delta, nullable=True) for name, type_ in self.fields])
        return delta.PrimitiveType(self.text if self.name == "decimal" else _SCALARS[self.name][0])


def part(type_: ColumnType | None) -> ColumnType:
    """The element or key of a type that has one."""
    assert type_ is not None, "arrays have an element, maps a key and an element"  # noqa: S101
    return type_


class _TypeParser:
    """Recursive descent over a type text; every error names the text."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens: list[str] = re.findall(r"`[^`]*`|[A-Za-z0-9_]+|[<>(),:]|\S", text)
        self._at = 0

    def parse(self) -> ColumnType:
        type_ = self._type(0)
        if self._at != len(self._tokens):
            raise self._error()
        return type_

    def _error(self) -> SchemaError:
        return SchemaError(f"{self._text!r} is not a Delta type")

    def _next(self) -> str:
        if self._at >= len(self._tokens):
            raise self._error()
        self._at += 1
        return self._tokens[self._at - 1]

    def _expect(self, token: str) -> None:
        if self._next() != token:
            raise self._error()

    def _accept(self, token: str) -> bool:
        if self._at < len(self._tokens) and self._tokens[self._at] == token:
            self._at += 1
            return True
        return False

    def _type(self, depth: int) -> ColumnType:
        if depth > 32:
            raise self._error()
        name = self._next().lower()
        name = _SYNONYMS.get(name, name)
        if name == "array":
            self._expect("<")
            element = self._type(depth + 1)
            self._expect(">")
            return ColumnType("array", element=element)
        if name == "map":
            self._expect("<")
            key = self._type(depth + 1)
            self._expect(",")
            element = self._type(depth + 1)
            self._expect(">")
            return ColumnType("map", key=key, element=element)
        if name == "struct":
            self._expect("<")
            fields: list[tuple[str, ColumnType]] = []
            while not fields or self._accept(","):
                field_name = self._next().strip("`")
                self._accept(":")
                fields.append((field_name, self._type(depth + 1)))
            self._expect(">")
            return ColumnType("struct", fields=tuple(fields))
        args: list[int] = []
        if self._accept("("):
            while not args or self._accept(","):
                token = self._next()
                if not token.isdigit():
                    raise self._error()
                args.append(int(token))
            self._expect(")")
        if name == "decimal":
            precision, scale = (args + [0] * 2)[:2] if args else (10, 0)
            if not 1 <= precision <= 38 or not 0 <= scale <= precision:
                raise self._error()
            return ColumnType("decimal", (precision, scale))
        if name not in _SCALARS or (bool(args) != (name == "varchar")) or len(args) > 1:
            raise self._error()
        if depth and name in {"variant", "varchar"}:
            raise SchemaError(f"{self._text!r}: {name} is supported as a column of its own, not inside another type")
        return ColumnType(name, tuple(args))


def parse_type(text: str) -> ColumnType:
    """The type that a ``type_text`` means.

    Raises:
        SchemaError: it is none, or one that the emulator does not support.
    """
    return _TypeParser(text).parse()


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table."""

    name: str
    type: ColumnType
    nullable: bool = True
    comment: str = ""

    @property
    def field(self) -> delta.Field:
        """The column as the Delta protocol writes it."""
        metadata: dict[str, Any] = {"comment": self.comment} if self.comment else {}
        if self.type.name == "varchar":
            metadata[_VARCHAR_KEY] = self.type.text
        if self.type.name == "variant":
            metadata[_VARIANT_KEY] = "variant"
        return delta.Field(self.name, self.type.delta, nullable=self.nullable, metadata=metadata)

    def declaration(self) -> dict[str, Any]:
        """The column as Unity Catalog's API shows it (without the position)."""
        return {
            "name": self.name,
            "type_text": self.type.text,
            "type_name": {"bigint": "LONG", "smallint": "SHORT", "tinyint": "BYTE"}.get(
                self.type.name, self.type.name.upper()
            ),
            "nullable": self.nullable,
            "comment": self.comment,
        }


@dataclass(frozen=True)
class TableSchema:
    """The columns of a table in order, and the names of its partition columns."""

    columns: tuple[Column, ...]
    partition_by: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for column in self.columns:
            if not _NAME.match(column.name):
                raise SchemaError(f"column {column.name!r}: only ASCII letters, digits and underscore are allowed")
            if column.name.lower() in seen:
                raise SchemaError(f"column {column.name!r} is declared twice")
            seen.add(column.name.lower())
        if not self.columns:
            raise SchemaError("a table needs at least one column")
        if len(self.columns) > MAX_COLUMNS:
            raise SchemaError(f"{len(self.columns)} columns; at most {MAX_COLUMNS} are allowed")
        for name in self.partition_by:
            if name not in self.by_name:
                raise SchemaError(f"partition column {name!r} is not a column of the table")

    @cached_property
    def by_name(self) -> dict[str, Column]:
        """Column by its exact name."""
        return {column.name: column for column in self.columns}

    @cached_property
    def arrow(self) -> pa.Schema:
        """The Arrow schema of the Delta table."""
        return pa.schema([pa.field(c.name, c.type.arrow, c.nullable) for c in self.columns])

    def delta(self) -> delta.Schema:
        """The schema as the Delta protocol writes it."""
        return delta.Schema([column.field for column in self.columns])


def is_table_name(name: str) -> bool:
    """Whether `name` is ``catalog.schema.table`` of the characters that the service allows."""
    return _TABLE_NAME.match(name) is not None


def from_delta(schema: delta.Schema, partition_by: Iterable[str]) -> TableSchema:
    """The declaration that a Delta table's own schema stands for."""

    def type_of(data_type: Any) -> ColumnType:
        if isinstance(data_type, delta.ArrayType):
            return ColumnType("array", element=type_of(data_type.element_type))
        if isinstance(data_type, delta.MapType):
            return ColumnType("map", key=type_of(data_type.key_type), element=type_of(data_type.value_type))
        if isinstance(data_type, delta.StructType):
            return ColumnType("struct", fields=tuple((f.name, type_of(f.type)) for f in data_type.fields))
        return parse_type(data_type.type)

    columns = []
    for item in schema.fields:
        metadata = item.metadata or {}
        if _VARCHAR_KEY in metadata:
            type_ = parse_type(str(metadata[_VARCHAR_KEY]))
        elif _VARIANT_KEY in metadata:
            type_ = ColumnType("variant")
        else:
            type_ = type_of(item.type)
        columns.append(Column(item.name, type_, item.nullable, str(metadata.get("comment", ""))))
    return TableSchema(tuple(columns), tuple(partition_by))


def from_declaration(declaration: Any) -> TableSchema:
    """The schema that a JSON declaration means.

    Args:
        declaration: ``{"columns": [{"name", "type" or "type_text", "nullable"?, "comment"?}], "partition_by"?: [...]}``,
            or only the list of columns.

    Raises:
        SchemaError: it is not one; the message says where.
    """
    if isinstance(declaration, list):
        declaration = {"columns": declaration}
    if not isinstance(declaration, Mapping) or not isinstance(declaration.get("columns"), list):
        raise SchemaError("a table is declared as {'columns': [{'name', 'type', 'nullable'}, …]}")
    columns = []
    for number, item in enumerate(declaration["columns"]):
        where = f"columns[{number}]"
        if not isinstance(item, Mapping) or not isinstance(item.get("name"), str):
            raise SchemaError(f"{where}: a column is an object with a 'name' and a 'type'")
        unknown = set(item) - {"name", "type", "type_text", "type_name", "nullable", "comment", "position"}
        if unknown:
            raise SchemaError(f"{where} ({item['name']}): unknown key {min(unknown)!r}")
        text = item.get("type_text", item.get("type"))
        nullable = item.get("nullable", True)
        if not isinstance(text, str) or not isinstance(nullable, bool):
            raise SchemaError(f"{where} ({item['name']}): 'type' is a text, 'nullable' true or false")
        columns.append(Column(item["name"], parse_type(text), nullable, str(item.get("comment") or "")))
    partition_by = declaration.get("partition_by") or []
    if not isinstance(partition_by, list) or not all(isinstance(name, str) for name in partition_by):
        raise SchemaError("'partition_by' is a list of column names")
    return TableSchema(tuple(columns), tuple(partition_by))


def from_ddl(ddl: str) -> TableSchema:
    """The schema that a Databricks ``CREATE TABLE`` statement means; other clauses of it are ignored.

    Raises:
        SchemaError: it is not one statement that creates a table with columns.
    """
    import sqlglot
    from sqlglot import exp

    try:
        statements = [s for s in sqlglot.parse(ddl, dialect="databricks") if s is not None]
    except sqlglot.errors.SqlglotError as error:
        raise SchemaError(f"not a CREATE TABLE statement: {str(error).splitlines()[0]}") from error
    creations = [s for s in statements if isinstance(s, exp.Create) and isinstance(s.this, exp.Schema)]
    if len(creations) != 1:
        raise SchemaError("exactly one CREATE TABLE statement with columns is needed")
    create = creations[0]
    columns = []
    for item in create.this.expressions:
        if not isinstance(item, exp.ColumnDef):
            continue  # a table constraint
        comment = item.find(exp.CommentColumnConstraint)
        not_null = any(
            isinstance(c.kind, exp.NotNullColumnConstraint) and not c.kind.args.get("allow_null")
            for c in item.constraints
        )
        kind = item.kind
        if kind is None:
            raise SchemaError(f"column {item.name!r} has no type")
        text = kind.sql(dialect="databricks")
        columns.append(Column(item.name, parse_type(text), not not_null, comment.this.name if comment else ""))
    partitioned = create.find(exp.PartitionedByProperty)
    names = [column.name for column in partitioned.this.expressions] if partitioned else []
    return TableSchema(tuple(columns), tuple(names))


def from_text(text: str) -> TableSchema:
    """The schema of a file's content, JSON or DDL."""
    if text.lstrip()[:1] in {"{", "["}:
        try:
            declaration = json.loads(text)
        except json.JSONDecodeError as error:
            raise SchemaError(f"not JSON: {error}") from error
        return from_declaration(declaration)
    return from_ddl(text)
