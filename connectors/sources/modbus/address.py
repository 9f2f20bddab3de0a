"""Addresses as people and manuals write them: from 0, from 1, or with the table as their first digit (pure)."""

import re
from dataclasses import dataclass
from typing import Final, Literal

from connectors.sources.modbus.plan import Kind

Style = Literal["from_0", "from_1", "modicon"]
_TABLES: Final = {"0": Kind.COIL, "1": Kind.DISCRETE, "3": Kind.INPUT, "4": Kind.HOLDING}
_NUMBER: Final = re.compile(r"(\d+)(?:\.(\d{1,2}))?")
_MODICON: Final = re.compile(r"([0134])[xX]?(\d{4,5})(?:\.(\d{1,2}))?")


@dataclass(frozen=True, slots=True)
class Address:
    """An address as it is on the wire.

    Attributes:
        kind: The table, where the address says it.
        number: From 0.
        bit: Bit of the register, where the address says it.
    """

    kind: Kind | None
    number: int
    bit: int | None = None


def address_of(text: int | str, style: Style) -> Address:
    """The address that `text` names: a number, with ``.3`` behind it for a bit of a register.

    In the style `modicon` the first of five or six digits is the table: 0 coils, 1 discrete inputs, 3 input registers, 4
    holding registers; the others count from 1. Zeros at the front may be left out.

    Raises:
        ValueError: It names none.
    """
    written = str(text).strip()
    if style != "modicon":
        match = _NUMBER.fullmatch(written)
        number = int(match[1]) - (style == "from_1") if match else -1
        if match is None or not 0 <= number <= 65535:
            first = int(style == "from_1")
            raise ValueError(f"`{written}` is not an address from {first} to {65535 + first}")
        return Address(None, number, int(match[2]) if match[2] else None)
    digits, point, bit = written.partition(".")
    if digits.isdecimal() and len(digits) < 5:
        digits = digits.zfill(5)
    match = _MODICON.fullmatch(digits + point + bit)
    number = int(match[2]) - 1 if match else -1
    if match is None or not 0 <= number <= 65535:
        raise ValueError(f"`{written}` is not an address such as 40001, 400001 or 30001.5")
    return Address(_TABLES[match[1]], number, int(match[3]) if match[3] else None)
