"""Registers from files: CSV with our own columns or those of a Kepware export, and device profiles."""

import csv
import io
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from connectors.sources.modbus.address import Style
from connectors.sources.modbus.register import RegisterConfig

_MOST: Final = 20  # problems that are named
KEPWARE: Final = frozenset(("tag name", "address", "data type"))
"""Columns by which a tag export of Kepware is known."""
_KEPWARE_TYPES: Final = {
    "boolean": "bit", "char": "int8_low", "byte": "uint8_low", "short": "int16", "word": "uint16", "long": "int32",
    "dword": "uint32", "llong": "int64", "qword": "uint64", "float": "float32", "double": "float64", "bcd": "bcd16",
    "lbcd": "bcd32", "string": "string",
}  # fmt: skip
_KEPWARE_ADDRESS: Final = re.compile(
    r"(?P<digits>[0134]\d{4,5})(?:\.(?P<bit>\d{1,2}))?(?:\.(?P<length>\d{1,3})(?P<half>[HL]))?"
    r"(?:\s*\[(?P<count>\d+)\])?(?:\s*\[(?P<columns>\d+)\])?"
)


def read_csv(path: Path, style: Style = "from_0") -> list[RegisterConfig]:
    """The registers of a CSV file: `,`, `;` or tab between cells, empty cells left out.

    The header holds names of fields, or those of a tag export of Kepware (Tag Name, Address, Data Type …).

    Args:
        path: The file.
        style: How its addresses count, where a line does not say it; a Kepware export has its own way.

    Raises:
        ValueError: The file cannot be read, or cells are wrong: each with file, line and column.
    """
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read as UTF-8 text: {error}") from error
    lines = rows_of(text)
    names = list(lines.fieldnames or ())
    if {name.lower() for name in names} >= KEPWARE:
        return _registers(path, lines, from_kepware)
    unknown = [n for n in names if n not in RegisterConfig.model_fields and not n.startswith("metadata.")]
    if unknown or "address" not in names:
        wrong = f"unknown column `{unknown[0]}`" if unknown else "no column `address`"
        raise ValueError(f"{path}:1: {wrong}; columns are {', '.join(RegisterConfig.model_fields)}")
    return _registers(path, lines, lambda cells: _from_columns(cells, style))


def rows_of(text: str) -> "csv.DictReader[str]":
    """The rows of a CSV file's text; cells that are too many are under the name of none."""
    header = text.partition("\n")[0]
    lines = csv.DictReader(
        io.StringIO(text, newline=""), delimiter=max(",;\t", key=header.count), skipinitialspace=True, restkey=""
    )
    lines.fieldnames = [name.strip() for name in lines.fieldnames or []]
    return lines


def cells_of(line: Mapping[str, Any]) -> dict[str, str]:
    """The cells of a row that hold something, by the names of their columns."""
    return {k: v.strip() for k, v in line.items() if k and isinstance(v, str) and v.strip()}


def _registers(
    path: Path, lines: "csv.DictReader[str]", make: Callable[[dict[str, str]], dict[str, Any]]
) -> list[RegisterConfig]:
    registers, problems = [], []
    for line in lines:
        cells = cells_of(line)
        where = f"{path}:{lines.line_num}"
        if not cells:
            continue
        if "" in line:
            problems.append(f"{where}: more cells than the header has")
            continue
        try:
            registers.append(RegisterConfig.model_validate(make(cells)))
        except ValidationError as error:
            problems += [
                f"{where}: {'.'.join(map(str, e['loc']))}{': ' if e['loc'] else ''}{e['msg']}" for e in error.errors()
            ]
        except ValueError as error:
            problems.append(f"{where}: {error}")
    raise_all(problems)
    return registers


def raise_all(problems: Iterable[str]) -> None:
    """Raise what is wrong as one error, if something is."""
    found = list(problems)
    if found:
        more = f"\n… and {len(found) - _MOST} more" if len(found) > _MOST else ""
        raise ValueError("\n".join(found[:_MOST]) + more)


def _from_columns(cells: dict[str, str], style: Style) -> dict[str, Any]:
    metadata = {name.partition(".")[2]: text for name, text in cells.items() if "." in name}
    given: dict[str, Any] = {"addresses": style} | {name: text for name, text in cells.items() if "." not in name}
    return given | ({"metadata": metadata} if metadata else {})


def from_kepware(cells: dict[str, str]) -> dict[str, Any]:
    """A line of Kepware's tag export (address, type, scan rate, linear scaling, unit, description) as a register."""
    cells = {name.lower(): text for name, text in cells.items()}
    text = cells.get("address", "")
    address = _KEPWARE_ADDRESS.fullmatch(text)
    named = cells.get("data type", "Word").lower().removesuffix(" array")
    if address is None:
        raise ValueError(f"`{text}` is not an address such as 400001, 400001.5, 400001.20H or 400001 [10]")
    if named not in _KEPWARE_TYPES:
        raise ValueError(f"`{cells['data type']}` is not a type; there are {', '.join(_KEPWARE_TYPES)}")
    given: dict[str, Any] = {"addresses": "modicon", "address": address["digits"], "name": cells.get("tag name")}
    kind = _KEPWARE_TYPES[named]
    if address["bit"]:
        given["bit"] = address["bit"]
    elif kind != "bit":
        given["type"] = kind
    elif address["digits"][0] in "34":
        raise ValueError(f"`{text}` needs a bit, as {text}.0, to be a Boolean")
    if address["length"]:
        given |= {"length": address["length"], "byte_order": "big" if address["half"] == "H" else "little"}
    if address["count"]:
        given["count"] = int(address["count"]) * int(address["columns"] or 1)
    if cells.get("scan rate", "0") != "0":
        given["interval"] = float(cells["scan rate"]) / 1000
    return given | _kepware_scaling(cells) | _kepware_words(cells)


def _kepware_scaling(cells: dict[str, str]) -> dict[str, Any]:
    scaling, sign = (
        cells.get("scaling", "None").lower(),
        -1.0 if cells.get("negate value", "0") in "1trueTrueYesyes" else 1.0,
    )
    if scaling in {"none", "0", ""}:
        return {} if sign > 0 else {"scale": sign}
    if scaling != "linear":
        raise ValueError(f"scaling `{cells['scaling']}` is not linear; there is no other here")
    ends = ("raw low", "raw high", "scaled low", "scaled high")
    try:
        raw_low, raw_high, low, high = (float(cells[end]) for end in ends)
        scale = (high - low) / (raw_high - raw_low)
    except (KeyError, ValueError, ZeroDivisionError) as error:
        raise ValueError("linear scaling needs the numbers Raw Low, Raw High, Scaled Low and Scaled High") from error
    return {"scale": sign * scale, "offset": sign * (low - raw_low * scale)}


def _kepware_words(cells: dict[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if "eng units" in cells:
        found["unit"] = cells["eng units"]
    if "description" in cells:
        found["metadata"] = {"description": cells["description"]}
    return found
