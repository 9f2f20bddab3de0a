"""Kepware's tag export (CSV) as registers of a Modbus source. The export does not say where the device is."""

import re
from typing import Final

from pydantic import ValidationError

from bifrost.convert.draft import Draft, Section
from connectors.sources.modbus.register import RegisterConfig
from connectors.sources.modbus.tables import KEPWARE, cells_of, from_kepware, rows_of

_KNOWN: Final = {
    "tag name", "address", "data type", "respect data type", "client access", "scan rate", "scaling", "raw low", "raw high",
    "scaled low", "scaled high", "scaled data type", "clamp low", "clamp high", "eng units", "description", "negate value",
}  # fmt: skip
_HEX: Final = re.compile(r"[Hh](?P<table>[0134])(?P<number>[0-9A-Fa-f]{4,5})(?P<rest>(?:\.\d.*|\s*\[.*)?)")
_MODBUS: Final = re.compile(r"[0134][xX]?\d{4,5}(?!\d)")


def is_kepware(header: list[str]) -> bool:
    """Whether the names of columns are those of a tag export."""
    return {name.strip().lower() for name in header} >= KEPWARE


def convert(draft: Draft, text: str) -> None:
    """Turn a tag export into a Modbus source.

    Args:
        draft: Where it goes.
        text: The file.
    """
    source = draft.source(draft.origin.rpartition(".")[0], "modbus")
    source.put(endpoint="tcp://127.0.0.1:502", word_order="little")
    source.remark("to do", "endpoint: the export does not say where the device is; write tcp://HOST:502, and unit_id")
    source.remark(
        "note",
        "word_order: little is the default of Kepware's Modbus drivers (first word low); big if yours is not so set",
    )
    lines = rows_of(text)
    for name in lines.fieldnames or ():
        if name and name.lower() not in _KNOWN:
            source.lost(f"column {name}", "it is no column of a tag export that means something here")
    registers: list[Section] = []
    names: set[str] = set()
    for line in lines:
        cells = cells_of(line)
        if not cells:
            continue
        where = f"line {lines.line_num}, {cells.get('Tag Name', 'a tag without a name')}"
        if "" in line:
            source.lost(where, "it has more cells than the header; put quotes around a cell that holds a comma")
            continue
        _line(source, registers, names, {key.lower(): value for key, value in cells.items()}, where)
    if registers:
        source["registers"] = registers
    else:
        draft.sources.remove(source)
        draft.root.remarks += source.remarks


def _line(source: Section, registers: list[Section], names: set[str], cells: dict[str, str], where: str) -> None:
    said = cells.get("address", "")
    address = _decimal(said)
    if not _MODBUS.match(address):
        why = "is no Modbus address: a tag of another driver; read the device by OPC UA, or by a source of its own"
        source.lost(where, f"`{said}` {why}")
        return
    if cells.get("client access", "").upper().strip() == "WO":
        source.lost(where, "it is written only; Bifrost reads devices and writes nothing to them")
        return
    try:
        given = from_kepware(cells | {"address": address})
        RegisterConfig.model_validate(given)
    except ValidationError as error:
        source.lost(where, "; ".join(item["msg"] for item in error.errors()))
        return
    except ValueError as error:
        source.lost(where, f"{error}")
        return
    given = {key: _typed(value) for key, value in given.items() if value is not None and key != "addresses"}
    if given.get("name") in names:
        source.lost(where, "another line has the same name; give it one of its own")
        return
    names.add(str(given.get("name")))
    register = Section(**{key: given[key] for key in ("name", "address") if key in given})
    register.update(given)
    for clamp in ("clamp low", "clamp high"):
        if cells.get(clamp, "0").lower() not in ("0", "false", "no"):
            register.lost(f"{where}, {clamp}", "values are not cut off; readings beyond the range stay as they are")
    if cells.get("negate value", "0").lower() in ("1", "true", "yes") and register.get("offset"):
        register.remark("note", "the negative of the scaled value, as Negate Value has it")
    if address != said.strip():
        register.remark(
            "to do", f"{where}: {said} is read as {address}: hexadecimal, counting from 1; compare one value"
        )
    source["addresses"] = "modicon"
    registers.append(register)


def _typed(value: object) -> object:
    """A number that stands as text in a cell as a number."""
    return int(value) if isinstance(value, str) and value.isdecimal() and len(value) < 5 else value


def _decimal(address: str) -> str:
    """An address such as H40010 with its number, which counts from 1 as well, in decimal digits."""
    found = _HEX.fullmatch(address.strip())
    if found is None:
        return address.strip()
    number = int(found["number"], 16)
    return f"{found['table']}{number:05d}{found['rest']}" if 1 <= number <= 65536 else address.strip()
