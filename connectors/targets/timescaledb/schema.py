"""The table of readings at PostgreSQL: its DDL, and whether a table that is there takes readings. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from connectors.targets.timescaledb.encode import COLUMNS
from normalization.reading import TABLE

KEY: Final = (
    "time",
    "sequence",
    "shard",
    "gateway",
)  # time first: it is the index by time too, and new rows come at its end

_TIME: Final = "timestamp with time zone"
_TYPES: Final[dict[str, tuple[str, ...]]] = {
    "time": (_TIME,),
    "source_time": (_TIME,),
    "received_time": (_TIME,),
    "sequence": ("bigint",),
    "value": ("double precision",),
    "value_int": ("bigint",),
    "value_uint": ("numeric(20,0)", "numeric"),
    "value_bytes": ("bytea",),
    "status": ("bigint",),
    "flags": ("integer",),
    "priority": ("integer",),
}
_TEXT: Final = ("text", "character varying")
_INDEXED: Final = {"path", "gateway", "shard"}  # compared by their bytes: quicker, and LIKE 'plant1/%' uses the index
_ORDER: Final = (
    "time", "path", "value", "value_int", "value_uint", "value_text", "value_bytes", "type", "quality", "status", "unit",
    "source_time", "received_time", "site", "area", "line", "equipment", "signal_type", "tag_name", "source", "protocol",
    "device_id", "address", "metadata", "flags", "properties", "priority", "gateway", "shard", "sequence",
)  # fmt: skip
_COMMENTS: Final = {
    "time": "when it was measured, UTC: what hypertables are cut by, and with gateway, shard and sequence the key",
    "value_int": "the exact value of an INT64 or a BOOLEAN (0, 1)",
    "value_uint": "the exact value of a UINT64",
    "value_bytes": "the value of BYTES, or of a TEXT with a NUL, which text cannot hold, in UTF-8",
}


def quoted(*names: str) -> str:
    """An SQL name, of as many parts."""
    return ".".join('"' + name.replace('"', '""') + '"' for name in names)


def literal(text: str) -> str:
    """An SQL string."""
    return "'" + text.replace("'", "''") + "'"


def interval(seconds: float) -> str:
    """An SQL interval."""
    return f"INTERVAL '{seconds:.6f} seconds'"


@dataclass(frozen=True, slots=True)
class Layout:
    """What a table has.

    Attributes:
        columns: The types that a column may be of, by its name; the first is the one that it is made with.
        needed: Columns that are NOT NULL.
        key: Its unique key.
        comments: What its columns mean.
        about: What the table is.
        order_by: How a hypertable is ordered where it is compressed; with the path it covers the key.
    """

    columns: Mapping[str, tuple[str, ...]]
    needed: frozenset[str]
    key: tuple[str, ...]
    comments: Mapping[str, str]
    about: str
    order_by: str


def _nullable(column: str) -> bool:
    return column not in KEY and (column not in TABLE.names or bool(TABLE.field(column).nullable))


NARROW: Final = Layout(
    columns={column: _TYPES.get(column, _TEXT) for column in _ORDER},
    needed=frozenset(column for column in _ORDER if not _nullable(column)),
    key=KEY,
    comments={name: (TABLE.field(name).metadata or {}).get(b"comment", b"").decode() for name in TABLE.names}
    | _COMMENTS,
    about="readings of industrial devices; gateway, shard and sequence identify one",
    order_by="time DESC, sequence DESC, shard, gateway",
)
WIDE: Final = Layout(
    columns={"time": (_TIME,), "path": _TEXT, "gateway": _TEXT, "received_time": (_TIME,)},
    needed=frozenset({"time", "path", "gateway", "received_time"}),
    key=("time", "path", "gateway"),
    comments={
        "time": "when the signals of this row were measured, UTC",
        "path": "ISA-95 path of what the signals belong to: theirs without its last place, which names the column",
        "gateway": "name of the gateway that read them",
        "received_time": "when the gateway received the last of them, UTC",
    },
    about="signals of industrial devices, a column each, with its quality beside it",
    order_by="time DESC, gateway",
)


def create_table(layout: Layout, schema: str, table: str) -> list[str]:
    """The statements that make the table with its key, its index by path, and comments."""
    name = quoted(schema, table)
    columns = [
        f"{quoted(column)} {types[0]}"
        + (' COLLATE "C"' if column in _INDEXED else "")
        + (" NOT NULL" if column in layout.needed else "")
        for column, types in layout.columns.items()
    ]
    key = f"PRIMARY KEY ({', '.join(quoted(column) for column in layout.key)})"
    return [
        f"CREATE TABLE {name} (\n  " + ",\n  ".join([*columns, key]) + "\n)",
        f"CREATE INDEX ON {name} (path, time DESC)",
        f"COMMENT ON TABLE {name} IS {literal(layout.about)}",
        *(
            f"COMMENT ON COLUMN {name}.{quoted(column)} IS {literal(layout.comments[column])}"
            for column in layout.columns
            if layout.comments.get(column)
        ),
    ]


def copy_into(name: str, columns: Sequence[str] = COLUMNS) -> str:
    """The COPY of rows of these columns into a table, whose name is quoted."""
    return f"COPY {name} ({', '.join(quoted(column) for column in columns)}) FROM STDIN (FORMAT binary)"


def make_staging(staging: str, name: str, of: Sequence[str] = COLUMNS) -> str:
    """The statement that makes a temporary table of some columns of a table, for one transaction."""
    columns = ", ".join(quoted(column) for column in of)
    return f"CREATE TEMP TABLE {staging} ON COMMIT DROP AS SELECT {columns} FROM {name} WITH NO DATA"  # noqa: S608 - of quoted names


def merge(staging: str, name: str) -> str:
    """The statement that takes from a staging table what the table does not have."""
    columns = ", ".join(quoted(column) for column in COLUMNS)
    key = ", ".join(quoted(column) for column in KEY)
    # the key is named: another unique key of the table must refuse readings, not drop them silently
    return f"INSERT INTO {name} ({columns}) SELECT {columns} FROM {staging} ON CONFLICT ({key}) DO NOTHING"  # noqa: S608


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table that is there.

    Attributes:
        type: Its type, as format_type says it.
        nullable: Whether it may be null.
        filled: Whether it has a default, or is made by the server.
    """

    type: str
    nullable: bool
    filled: bool = False


def misfits(
    layout: Layout, name: str, columns: Mapping[str, Column], keys: Sequence[frozenset[str]], persistence: str
) -> list[str]:
    """Why a table cannot take every reading, each only once, in words and with what to do; empty when it can.

    Args:
        layout: What it should have.
        name: The table, quoted.
        columns: Its columns.
        keys: Columns of its unique keys that hold for all rows.
        persistence: `relpersistence` of pg_class.
    """
    problems = []
    missing = [column for column in layout.columns if column not in columns]
    if missing:
        added = ", ".join(f"ADD COLUMN {quoted(column)} {layout.columns[column][0]}" for column in missing)
        problems.append(f"it lacks {', '.join(missing)}; run: ALTER TABLE {name} {added}")
    for column, there in columns.items():
        if column not in layout.columns:
            if not there.nullable and not there.filled:
                problems.append(f"column {column} is NOT NULL and readings do not have it; give it a default")
        elif there.type not in layout.columns[column]:
            wanted = " or ".join(layout.columns[column])
            problems.append(f"column {column} is {there.type}, readings need {wanted}")
        elif column not in layout.needed and not there.nullable:
            problems.append(f"column {column} is NOT NULL and some readings have no value for it")
    if frozenset(layout.key) not in keys and not missing:
        key = ", ".join(layout.key)
        problems.append(
            f"it has no unique key ({key}), so that readings that are sent twice would be there twice; run: "
            f"ALTER TABLE {name} ADD UNIQUE ({key})"
        )
    if persistence == "u":
        problems.append(f"it is UNLOGGED and empty after a crash; run: ALTER TABLE {name} SET LOGGED")
    return problems
