"""The Delta table of readings: its name, what of a unit goes where, and whether a table there takes readings. Pure."""

import re
from collections.abc import Iterable
from enum import Enum
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from connectors.contract import RejectedRecords
from normalization.reading import TABLE

_FIRST: Final = int(np.datetime64("0001-01-01", "us").astype(np.int64))
_LAST: Final = int(np.datetime64("9999-12-31T23:59:59.999999", "us").astype(np.int64))

# what a column of TABLE may be at the table, as Delta writes it: the library would cast to anything, also with loss
_FITS: Final[dict[pa.DataType, tuple[str, ...]]] = {
    pa.string(): ("string",),
    pa.int64(): ("long",),
    pa.int32(): ("integer", "long"),
    pa.float64(): ("double",),
    pa.date32(): ("date",),
    pa.timestamp("us", tz="UTC"): ("timestamp", "timestamp_ntz"),
    pa.binary(): ("binary",),
}


class Standing(Enum):
    """What a table says of a unit."""

    NEW = "the unit is not there"
    TAKEN = "the unit is there"
    FOREIGN = "its number was used for other readings"


def standing(number: int | None, mark: int | None, unit: int, readings: int) -> Standing:
    """Compare a unit with what its table has taken last.

    Args:
        number: Number of the last unit in the table, None when there was none.
        mark: Fingerprint of the last unit in the table.
        unit: Number of the unit in hand.
        readings: Fingerprint of the unit in hand.
    """
    if number is None or number < unit:
        return Standing.NEW
    return Standing.TAKEN if (number, mark) == (unit, readings) else Standing.FOREIGN


def table_name(table: str, source: str) -> str:
    """Name of the table for a source's readings: another source never has the same, and it is a name, not a path.

    Bytes other than letters, digits, `_`, `.` and `-` become ``~`` and two hexadecimal digits; not ``%``, because the
    library takes a local path for an URL and decodes that.
    """
    safe = re.sub(rb"[^A-Za-z0-9_.-]", lambda found: b"~%02x" % found[0][0], source.encode())
    return f"{table}_{safe.decode()}"


def places(batch: pa.RecordBatch, table: str) -> dict[str, npt.NDArray[np.int64]]:
    """The rows by the table of their source (see `table_name`), ascending."""
    source = batch.column("source")
    tags = batch.column("tag").to_numpy()
    names = source.dictionary.dictionary_encode()
    per_row = names.indices.to_numpy()[tags]
    return {
        table_name(table, names.dictionary[code].as_py()): np.flatnonzero(per_row == code)
        for code in np.unique(per_row).tolist()
    }


def split(batch: pa.RecordBatch, table: str) -> dict[str, pa.RecordBatch]:
    """The readings by the table of their source (see `table_name`), in their order."""
    rows = places(batch, table)
    if len(rows) == 1:
        return dict.fromkeys(rows, batch)
    return {name: batch.take(pa.array(of_it)) for name, of_it in rows.items()}


def unwritable(batch: pa.RecordBatch) -> RejectedRecords | None:
    """The readings whose date no Delta table can hold: years are 1 to 9999."""
    wrong = np.zeros(len(batch), np.bool_)
    for name in ("source_time", "received_time"):
        times = batch.column(name).view(pa.int64()).fill_null(0).to_numpy()
        wrong |= (times < _FIRST) | (times > _LAST)
    rows = np.flatnonzero(wrong).tolist()
    return RejectedRecords(rows, ["its time is outside the years 1 to 9999"] * len(rows)) if rows else None


def misfits(columns: Iterable[tuple[str, str, bool]], of: pa.Schema = TABLE) -> list[str]:
    """Why a table cannot take every reading as it is, in words; empty when it can.

    Args:
        of: The columns that are written.
        columns: Name, Delta type and whether it is nullable, of each column that the table has. Those that it lacks do
            not matter: a commit adds them.
    """
    ours = {field.name.lower(): field for field in of}
    problems = []
    for name, kind, nullable in columns:
        field = ours.get(name.lower())
        if field is None:
            if not nullable:
                problems.append(f"column `{name}` is NOT NULL and readings do not have it")
        elif name != field.name:
            problems.append(f"column `{name}` must be spelt `{field.name}`")
        elif kind not in _FITS[field.type]:
            problems.append(f"column `{name}` is {kind}, readings need {' or '.join(_FITS[field.type])}")
        elif field.nullable and not nullable:
            problems.append(f"column `{name}` is NOT NULL and some readings have no value for it")
    return problems
