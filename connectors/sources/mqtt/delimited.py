"""CSV payloads as columns. Pure."""

import csv
import io
import math
import re
from typing import Any, Final, NamedTuple

from connectors.sources.mqtt.config import CsvSettings
from connectors.sources.mqtt.formats import MOST_READINGS, parse_text
from connectors.sources.mqtt.paths import MISSING

_MOST_CELLS: Final = 4 * MOST_READINGS
_MOST_UNFIT: Final = 100  # rows that become rejects of their own
_INTEGER: Final = re.compile(r"[+-]?\d{1,399}", re.ASCII).fullmatch
_NUMBER: Final = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII).fullmatch
_DECIMAL_COMMA: Final = re.compile(r"[+-]?\d*,\d+", re.ASCII).fullmatch


class Delimited(NamedTuple):
    """Rows as columns of one length, and the rows that did not fit: why, and what stood there."""

    columns: dict[str, list[str]]
    unfit: list[tuple[str, bytes]]


def parse_csv(payload: bytes, settings: CsvSettings) -> Delimited:
    """The rows in `payload`.

    Raises:
        ValueError: It is not CSV.
    """
    try:
        text = payload.decode()
        if max(map(text.count, ("\n", "\r", settings.delimiter))) > _MOST_CELLS:
            raise ValueError(f"CSV of more than {_MOST_CELLS} rows or cells")
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=settings.delimiter) if row]
    except UnicodeDecodeError:
        raise ValueError("not UTF-8 text") from None
    except csv.Error as error:
        raise ValueError(f"not CSV: {error}") from None
    del rows[: settings.skip_rows]
    names = settings.columns
    if settings.header and rows:
        first = rows.pop(0)
        names = names or [name.strip() for name in first]
    if len(set(names)) < len(names):
        raise ValueError("two columns have the same name")
    if not rows:
        raise ValueError("CSV without a row")
    unfit: list[tuple[str, bytes]] = []
    if set(map(len, rows)) != {len(names)}:
        reason = f"a row of {{}} columns instead of {len(names)}"
        if sum(len(row) != len(names) for row in rows) > _MOST_UNFIT:
            raise ValueError(f"more than {_MOST_UNFIT} rows that have not {len(names)} columns")
        unfit = [(reason.format(len(row)), _line(row, settings)) for row in rows if len(row) != len(names)]
        rows = [row for row in rows if len(row) == len(names)]
    return Delimited(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)) if rows else {}, unfit)


def _line(row: list[str], settings: CsvSettings) -> bytes:
    out = io.StringIO(newline="")
    csv.writer(out, delimiter=settings.delimiter, lineterminator="").writerow(row)
    return out.getvalue().encode()


def parse_cells(cells: list[str], settings: CsvSettings) -> list[Any]:
    """The values of a column; `MISSING` where a cell is empty."""
    if settings.decimal == ",":
        cells = [cell.replace(",", ".") if _DECIMAL_COMMA(cell) else cell for cell in cells]
    if all(map(_NUMBER, cells)):
        numbers = [int(cell) if _INTEGER(cell) else float(cell) for cell in cells]
        if math.inf not in numbers and -math.inf not in numbers:
            return numbers
    return [parse_text(cell) if cell.strip() else MISSING for cell in cells]
