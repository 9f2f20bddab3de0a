"""A tag list as planners write it: CSV with a header that may be worded in many ways."""

import csv
import io
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from connectors.settings import seconds
from flows.commission import TYPES, Expected
from normalization.facts import Quality

_COLUMNS: Final[Mapping[str, str]] = {
    "tag": "tag tag_id id point signal item",
    "path": "path isa95 isa_95_path isa95_path uns_path",
    "source": "source connection channel driver",
    "device": "device device_id unit_id server plc edge_node",
    "address": "address node node_id nodeid register topic metric",
    "tag_name": "tag_name tagname name symbol",
    "type": "type data_type datatype expected_type",
    "unit": "unit units eng_unit eng_units engineering_unit engineering_units eu uom",
    "low": "min minimum low low_limit range_low range_min scaled_low eu_low lo",
    "high": "max maximum high high_limit range_high range_max scaled_high eu_high hi",
    "qualities": "quality expected_quality status",
    "interval": "interval expected_interval scan_interval period cycle cycle_time sampling_interval",
    "interval_ms": "interval_ms period_ms cycle_ms cycle_time_ms scan_rate scan_rate_ms sampling_interval_ms",
    "rate": "rate expected_rate rate_hz hz frequency readings_per_second",
    "description": "description comment remark note",
}
_FIELD_OF: Final = {name: field for field, names in _COLUMNS.items() for name in names.split()}
_IDENTITIES: Final = ("tag", "path", "address", "tag_name")
_MOST: Final = 20  # problems that are told
_ANY: Final = frozenset({"any", "*", "all"})


class TagListError(ValueError):
    """The list cannot be used; the message has a line for every problem."""


@dataclass(frozen=True, slots=True)
class TagList:
    """A tag list.

    Attributes:
        rows: What it expects.
        ignored: Names of columns that are not compared.
    """

    rows: list[Expected]
    ignored: list[str]


def read_tag_list(path: Path) -> TagList:
    """Read a tag list: `,`, `;` or tab between cells; UTF-8, or Windows-1252 as spreadsheets write it.

    Raises:
        TagListError: It cannot be read, or cells are wrong: each with file, line and column.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise TagListError(f"{path}: {error.strerror}") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("cp1252", "replace")
    return parse_tag_list(text, str(path))


def parse_tag_list(text: str, name: str) -> TagList:
    """See `read_tag_list`.

    Args:
        text: The list.
        name: What problems call it.
    """
    first = text.partition("\n")[0]
    divider = max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=divider, skipinitialspace=True)
    try:
        header = [cell.strip() for cell in next(reader, [])]
        fields = [_FIELD_OF.get(_plain(cell), "") for cell in header]
        _check_header(header, fields, name)
        rows, problems = [], []
        begin = reader.line_num + 1
        for cells in reader:
            line, begin = begin, reader.line_num + 1
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) > len(header) and any(cell.strip() for cell in cells[len(header) :]):
                problems.append(f"{name}:{line}: more cells than the header has")
                continue
            row, wrong = _row(line, dict(zip(fields, cells, strict=False)), divider)
            problems += [f"{name}:{line}: {header[fields.index(field)]}: {what}" for field, what in wrong]
            rows.append(row)
            if not row.label:
                problems.append(f"{name}:{line}: says no tag")
    except csv.Error as error:
        raise TagListError(f"{name}:{reader.line_num}: not CSV: {error}") from error
    if problems:
        more = f"\n… and {len(problems) - _MOST} more" if len(problems) > _MOST else ""
        raise TagListError("\n".join(problems[:_MOST]) + more)
    if not rows:
        raise TagListError(f"{name}: has a header and no tag")
    return TagList(rows, [cell for cell, field in zip(header, fields, strict=True) if cell and not field])


def _plain(cell: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", cell.lower()).strip("_")


def _check_header(header: list[str], fields: list[str], name: str) -> None:
    for field in _COLUMNS:
        if fields.count(field) > 1:
            same = " and ".join(f"`{cell}`" for cell, said in zip(header, fields, strict=True) if said == field)
            raise TagListError(f"{name}:1: columns {same} mean the same")
    if sum(field in fields for field in ("interval", "interval_ms", "rate")) > 1:
        raise TagListError(f"{name}:1: say the interval or the rate, in one column")
    if not any(field in fields for field in _IDENTITIES):
        raise TagListError(f"{name}:1: no column names the tags; call one tag, path, address or tag_name")


def _row(line: int, cells: Mapping[str, str], divider: str) -> tuple[Expected, list[tuple[str, str]]]:
    """A row, and what is wrong in which of its fields."""
    found: dict[str, Any] = {}
    wrong = []
    for field, cell in cells.items():
        text = " ".join(cell.split()) if field != "tag" else cell.strip()
        if not field or not text:
            continue
        target, read = _READ.get(field, (field, lambda text, _: text))
        try:
            found[target] = read(text, divider)
        except ValueError as error:
            wrong.append((field, str(error)))
    low, high = found.get("low"), found.get("high")
    if low is not None and high is not None and low > high:
        wrong.append(("low", f"{low:g} is above the largest value {high:g}"))
    return Expected(line, **found), wrong


def _number(text: str, divider: str) -> float:
    try:
        found = float(text.replace(",", ".") if divider != "," and text.count(",") == 1 else text)
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise ValueError(f"`{text}` is no number")
    return found


def _type(text: str, _: str) -> str:
    plain = re.sub(r"[^a-z0-9]+", "", text.lower())
    if plain not in TYPES:
        raise ValueError(f"`{text}` is no type; there are bool, int, double, number, text, bytes, json and many more")
    return plain


def _qualities(text: str, _: str) -> frozenset[Quality]:
    words = [word for word in re.split(r"[\s/|,;+]+", text) if word and word.lower() != "or"]
    if any(word.lower() in _ANY for word in words):
        return frozenset()
    try:
        return frozenset(Quality[word.upper()] for word in words)
    except KeyError as error:
        known = ", ".join(quality.name for quality in Quality)
        raise ValueError(f"`{text}` is no quality; there are {known} and any") from error


def _interval(text: str, divider: str) -> float:
    try:
        found = float(str(seconds(text)))
    except ValueError:
        found = _number(text, divider)
    return _positive(found, text)


def _positive(found: float, text: str) -> float:
    if found <= 0:
        raise ValueError(f"`{text}` is not above 0")
    return found


def _milliseconds(text: str, divider: str) -> float:
    return _positive(_number(text.removesuffix("ms").rstrip(), divider), text) / 1000


def _rate(text: str, divider: str) -> float:
    plain = re.sub(r"\s*(/\s*s(ec)?|hz|per second)$", "", text, flags=re.IGNORECASE)
    return 1 / _positive(_number(plain, divider), text)


_READ: Final[Mapping[str, tuple[str, Callable[[str, str], Any]]]] = {
    "type": ("type", _type),
    "low": ("low", _number),
    "high": ("high", _number),
    "qualities": ("qualities", _qualities),
    "interval": ("interval", _interval),
    "interval_ms": ("interval", _milliseconds),
    "rate": ("interval", _rate),
}
