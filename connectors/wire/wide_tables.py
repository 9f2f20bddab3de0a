"""Wide tables of a lakehouse: what columns they have, their rows out of a batch, and the SQL about them. Pure.

A row is a time of an equipment, with a column per signal and its quality (see `connectors.wire.pivot`). Rows are only ever
added, so the readings of one equipment and time may be in several rows: those that came in another unit, those that were
sent again, and of several readings of one signal at one time each but the first. `once` and `merge` put them together: of
each signal the reading that was received last. A row has the identity and the `received_time` of its first reading.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

import pyarrow as pa

from connectors.contract import ConfigError
from connectors.dry_run import Written, columns_of, refuse
from connectors.wire.lakehouse import create, quoted, text
from connectors.wire.pivot import QUALITY, TEXT, Dialect, Pivot, Rows, Signal, cells
from normalization.facts import TIMESTAMP, Quality, field_of

KEY: Final = ("date", "time", "path", "gateway")
WIDE: Final = pa.schema(
    [
        field_of("date", pa.date32(), "UTC date of time; the partition column", nullable=False),
        field_of("time", TIMESTAMP, "when the signals of this row were measured, UTC", nullable=False),
        field_of(
            "path",
            pa.string(),
            "ISA-95 path of what the signals belong to: theirs without its last place, which names the column",
            nullable=False,
        ),
        field_of("gateway", pa.string(), "name of the gateway that read them", nullable=False),
        field_of("received_time", TIMESTAMP, "when the gateway received the first of them, UTC", nullable=False),
        field_of("shard", pa.string(), "shard of the gateway's journal that has the first of them", nullable=False),
        field_of(
            "sequence",
            pa.int64(),
            "number of the first of them; with gateway and shard the identity of the row",
            nullable=False,
        ),
    ]
)
KINDS: Final = ("double", "string", "binary")
ARROW: Final = dict(zip(KINDS, (pa.float64(), pa.string(), pa.binary()), strict=True))
_QUALITIES: Final = ", ".join(quality.name for quality in Quality)
_FIRST: Final = "`first of them`"  # no signal's column can be called so
_CELLS: Final = 1_000_000  # values and nulls that are put together at once


def column_name(signal: str) -> str:
    """The column of a signal: in small letters, because case does not count; ASCII, which ZeroBus takes and no more.

    What a name cannot have becomes ``_``, beyond ASCII with the character's number, so that `温度` is not every name of two.
    """
    safe = re.sub(r"[^A-Za-z0-9_]", lambda found: "_" if found[0].isascii() else f"_{ord(found[0]):x}", signal)
    return ("_" + safe if safe[:1].isdigit() else safe).lower()


DIALECT: Final = Dialect(types=KINDS, taken=frozenset(WIDE.names), longest=255, name=column_name)


def signal_fields(columns: Mapping[str, str]) -> pa.Schema:
    """Columns of signals, and of their qualities, by their types."""
    return pa.schema([field_of(name, ARROW[kind], _meaning(name)) for name, kind in columns.items()])


def _meaning(name: str) -> str:
    if name.endswith(QUALITY):
        return f"quality of {name.removesuffix(QUALITY)}: {_QUALITIES}; null where the row has no reading of it"
    return f"the signal {name}"


def table_of(signals: Mapping[str, str]) -> pa.Schema:
    """The columns of a table with these signals, by the types of their values."""
    pairs = {
        column: kind
        for name, type_ in signals.items()
        for column, kind in ((name, type_), (name + QUALITY, KINDS[TEXT]))
    }
    return pa.schema([*WIDE, *signal_fields(pairs)])


def pivot(partition_time: str) -> Pivot:
    """What makes rows of a stream item, by the time that they are partitioned by."""
    return Pivot(DIALECT, partition_time, every=True)


def batches(batch: pa.RecordBatch, rows: Rows, signals: Sequence[Signal]) -> Iterator[pa.RecordBatch]:
    """The rows, some at a time; each batch has all columns of ``WIDE`` and of the signals.

    Args:
        batch: The readings.
        rows: See `Pivot.rows`.
        signals: See `Pivot.signals`.
    """
    kinds = {name: kind for signal in signals for name, kind in _columns(signal)}
    schema = pa.schema([*WIDE, *signal_fields(kinds)])
    step = max(1, _CELLS // len(schema))
    for start in range(0, len(rows.first), step):
        stop = min(start + step, len(rows.first))
        first = pa.array(rows.first[start:stop])
        time = pa.array(rows.time[start:stop]).cast(TIMESTAMP)
        made = [time.cast(pa.date32()), time, rows.place.slice(start, stop - start)]
        for name in WIDE.names[3:]:
            column = batch.column(name).take(first)
            made.append(column.dictionary_decode() if pa.types.is_dictionary(column.type) else column)
        for signal in signals:
            values, qualities = cells(batch, rows, signal, start, stop)
            made += [qualities] if values is None else [values, qualities]
        yield pa.RecordBatch.from_arrays(made, schema=schema)


def written(batch: pa.RecordBatch, partition_time: str, place: str) -> list[Written]:
    """The rows of a batch in a table that has no signals yet.

    Args:
        batch: The readings.
        partition_time: See `pivot`.
        place: The table.

    Raises:
        DeliveryError: A column cannot be, or a reading cannot be in one.
    """
    made = pivot(partition_time)
    found = made.signals(batch, {})
    if found.unfit:
        raise ConfigError(f"{place}: {'; '.join(found.unfit)}")
    if found.rejected:
        refuse(found.rejected)
    return [one for some in batches(batch, made.rows(batch), found.signals) for one in columns_of(some, place)]


def _columns(signal: Signal) -> Iterator[tuple[str, str]]:
    if signal.kind is not None:
        yield signal.name, KINDS[signal.kind]
    yield signal.name + QUALITY, KINDS[TEXT]


def lost(missing: Iterable[str], signals: Sequence[Signal]) -> dict[str, int]:
    """How many readings would lose something, by the column that the table lacks; see `lakehouse.review`.

    Args:
        missing: The columns that the table lacks; those of other signals do not count.
        signals: The signals.
    """
    lacking = set(missing)
    return {
        column: len(signal.readings)
        for signal in signals
        for column in (signal.name, signal.name + QUALITY)
        if column in lacking
    }


def _together(table: str, signals: Iterable[str], where: str = "") -> list[str]:
    """The SELECT of each equipment and time once."""
    listed = list(signals)
    newest = [
        f"max(CASE WHEN r.{quoted(name + QUALITY)} IS NOT NULL THEN struct(r.received_time, r.sequence, "
        f"r.{quoted(name + QUALITY)} AS quality, r.{quoted(name)} AS value) END) AS {quoted(name)}"
        for name in listed
    ]
    key = [quoted(name) for name in KEY]
    begun = ", ".join(f"seen.{_FIRST}.{name} AS {quoted(name)}" for name in WIDE.names if name not in KEY)
    shown = [
        f"seen.{quoted(name)}.value AS {quoted(name)}, seen.{quoted(name)}.quality AS {quoted(name + QUALITY)}"
        for name in listed
    ]
    return [
        "SELECT " + ",\n  ".join([", ".join(key), begun, *shown]),
        "FROM (",
        "  SELECT "
        + ",\n    ".join(
            [
                ", ".join(f"r.{name}" for name in key),
                f"min(struct(r.received_time, r.sequence, r.shard)) AS {_FIRST}",
                *newest,
            ]
        ),
        f"  FROM {quoted(table)} AS r",
        *([f"  WHERE {where}"] if where else []),
        f"  GROUP BY {', '.join(f'r.{name}' for name in key)}",
        ") AS seen",
    ]


def once(table: str, signals: Iterable[str]) -> str:
    """The view that shows each equipment and time once, with the reading of each signal that was received last.

    It groups by the partition column too, so that a filter on it prunes.
    """
    said = text(f"Each equipment and time of {table} once.")
    lines = [f"CREATE OR REPLACE VIEW {quoted(table + '_once')}", f"COMMENT {said}", "AS", *_together(table, signals)]
    return "\n".join(lines) + ";"


def merge(table: str, signals: Iterable[str], days: int = 3) -> str:
    """The statement that keeps a table with each equipment and time once; see `lakehouse.merge`."""
    listed = list(signals)
    kept = quoted(table + "_merged")
    every = [quoted(column) for column in (*WIDE.names, *(part for name in listed for part in (name, name + QUALITY)))]
    lately = f"r.received_time >= current_timestamp() - INTERVAL {days} DAYS"
    sets = [
        f"{quoted(name)} = CASE WHEN come.{quality} IS NULL THEN kept.{quoted(name)} ELSE come.{quoted(name)} END, "
        f"{quality} = coalesce(come.{quality}, kept.{quality})"
        for name in listed
        for quality in (quoted(name + QUALITY),)
    ]
    return "\n".join(
        [
            f"CREATE TABLE IF NOT EXISTS {kept} LIKE {quoted(table)};",
            "",
            f"MERGE INTO {kept} AS kept",
            "USING (",
            *(f"  {line}" for part in _together(table, listed, lately) for line in part.splitlines()),
            ") AS come",
            "ON " + " AND ".join(f"kept.{quoted(name)} = come.{quoted(name)}" for name in KEY),
            "WHEN MATCHED THEN UPDATE SET\n  " + ",\n  ".join(sets),
            f"WHEN NOT MATCHED THEN INSERT ({', '.join(every)})",
            f"  VALUES ({', '.join(f'come.{column}' for column in every)});",
        ]
    )


def statements(table: str, signals: Mapping[str, str]) -> list[str]:
    """The view and the MERGE; where no signals are known, what to do about it."""
    if not signals:
        lines = (
            "-- The view without duplicates and the MERGE name the signals, of which the configuration tells none:",
            "-- print this again with --signal NAME for each, or NAME:text, NAME:bytes.",
        )
        return ["\n".join(lines)]
    return [once(table, signals), merge(table, signals)]


def delta_ddl(table: str, location: str, signals: Mapping[str, str]) -> str:
    """As `lakehouse.delta_ddl`, for a table with these signals and the types of their values."""
    made = create(table, table_of(signals), f"Signals from Bifrost; {', '.join(KEY)} say which row.", location)
    return "\n\n".join((made, *statements(table, signals))) + "\n"
