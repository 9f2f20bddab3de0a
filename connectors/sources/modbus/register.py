"""What a user writes about one value of a Modbus device, or about many of them in a row."""

import contextlib
import re
from collections.abc import Iterator
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from connectors.settings import Duration, Mapping, Place, Report
from connectors.sources.modbus.address import Address, Style, address_of
from connectors.sources.modbus.datatypes import INTEGERS, PLAIN, REGISTERS, DataType, Meaning, Order, is_order
from connectors.sources.modbus.plan import Kind, Point


def _number(value: object) -> object:
    """An integer from text such as 0x8000, as cells of a file hold it."""
    if isinstance(value, str) and re.fullmatch(r"\s*[+-]?0[xXbB][0-9a-fA-F]+\s*", value):
        return int(value, 0)
    return value


def _numbers(value: object) -> object:
    """Numbers from text such as ``0x8000 0xFFFF``."""
    return [_number(part) for part in value.split()] if isinstance(value, str) else value


def _names(value: object) -> object:
    """Names by number from text such as ``0=off|1=on``."""
    if not isinstance(value, str):
        return value
    pairs = [part.partition("=") for part in value.split("|")]
    return {_number(number.strip()): name.strip() for number, _, name in pairs}


Names = Annotated[dict[int, str], BeforeValidator(_names)]


class RegisterConfig(Place):
    """A value of a Modbus device, or with `count` many of them in a row; also the columns of a `registers_file`."""

    name: str | None = Field(
        None,
        description="name of the tag; with `count`, {n} is its number from 1 and {address} its address; "
        "unit<unit_id>_<kind>_<address> when absent",
    )
    unit_id: int | None = Field(
        None, ge=0, le=255, description="device on the line (unit, slave or station number); the source's when absent"
    )
    kind: Literal["coil", "discrete", "input", "holding"] = Field(
        "holding",
        description="table: coil, discrete (input), input (register) or holding (register); an address such as 30001 says it",
    )
    addresses: Style | None = Field(
        None,
        description="how `address` counts: from_0 as on the wire, from_1, or modicon (40001, 300001 …); the source's when "
        "absent",
    )
    address: int | str = Field(
        description='first address of the value, counted as `addresses` says; with a bit of a register as "40001.3"'
    )
    type: DataType | None = Field(
        None,
        description="how the value is written; uint16 when absent, and a bit for a coil, a discrete input or with `bit`",
    )
    bit: int | None = Field(None, ge=0, le=15, description="bit of the register, 0 is the lowest; makes the type `bit`")
    bits: Names = Field(
        {},
        description="bits of the register by number, a tag for each: `{0: running, 3: fault}`; in a file 0=running|3=fault",
    )
    length: int | None = Field(None, ge=1, le=250, description="length of a string in bytes, two in each register")
    encoding: Literal["ascii", "utf-8", "latin-1"] = Field("utf-8", description="encoding of a string")
    byte_order: Order | None = Field(None, description="order of the two bytes of a register; the source's when absent")
    word_order: Order | None = Field(None, description="order of the registers of a number; the source's when absent")
    order: str | None = Field(
        None,
        pattern="^[A-H]+$",
        description="order of all bytes of a number as they come, A the highest, e.g. CDAB or GHEFCDAB; goes before "
        "`byte_order` and `word_order`",
    )
    mask: Annotated[int, BeforeValidator(_number)] | None = Field(
        None, ge=1, lt=2**64, description="bits of an integer that are the value, moved down to the lowest, e.g. 0x0F00"
    )
    decimals: int = Field(
        0,
        ge=0,
        le=18,
        description="decimal places of a fixed-point number: 1234 with 2 of them is 12.34 (exact to 15 digits)",
    )
    enum: Names = Field(
        {},
        description="names of an integer's values: `{0: off, 1: on}`, in a file 0=off|1=on; the value becomes the name, and "
        "one without a name is told as its number with quality UNCERTAIN",
    )
    invalid: Annotated[list[int | float], BeforeValidator(_numbers)] = Field(
        [],
        description="raw values that say that there is none, e.g. 0x8000, or .nan for floats; they are told as BAD without "
        "a value",
    )
    interval: Duration | None = Field(
        None, gt=0, description="time from one reading to the next, as 250ms; the source's when absent"
    )
    count: int = Field(1, ge=1, le=65536, description="number of such values, one after the other")
    step: int | None = Field(
        None, ge=1, description="addresses from one value of `count` to the next; the size of the value when absent"
    )
    signal_type: str | None = Field(None, description="kind of signal: temperature, pressure, speed …")
    unit: str | None = Field(None, description="engineering unit of the value after scaling, e.g. °C, bar, rpm")
    convert: Literal["boolean", "integer", "number", "text"] | None = Field(
        None, description="convert values to this type; what cannot be converted becomes a dead letter"
    )
    scale: float | None = Field(None, description="factor: value × scale + offset")
    offset: float | None = Field(None, description="added after scaling, in the tag's unit")
    alarm: bool = Field(False, description="a value other than 0 or false is an alarm: its quality becomes ALARM")
    report: Report | None = Field(
        None,
        description="report by exception: which readings go on; `all` for every one, against the source's `report`",
    )
    metadata: dict[str, str] = Field({}, description="free text by key; in a file one column `metadata.<key>` each")

    @model_validator(mode="before")
    @classmethod
    def _table_of_the_address(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("kind") is None and data.get("addresses") == "modicon":
            with contextlib.suppress(ValueError):  # which is said of the address
                kind = address_of(data.get("address", ""), "modicon").kind
                return {**data, "kind": (kind or Kind.HOLDING).name.lower()}
        return data

    @field_validator("address")
    @classmethod
    def _address(cls, value: int | str, info: ValidationInfo) -> int | str:
        address_of(value, info.data.get("addresses") or "from_0")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        at = self._at
        wrong = None
        if at.kind is not None and at.kind is not self.table:
            wrong = f"`{self.address}` is an address of the table {at.kind.name.lower()}, not of {self.kind}"
        elif at.bit is not None and self.bit is not None:
            wrong = f"`{self.address}` says the bit; leave `bit` out"
        elif self.table.is_bits:
            if self.data_type != "bit" or self._bit is not None or self.bits:
                wrong = f"a {self.table.name.lower()} holds one bit; leave `type` and `bit` out"
        elif (self.data_type == "bit") != (self._bit is not None or bool(self.bits)):
            wrong = "a bit of a register needs `type: bit` and `bit: 0` to 15"
        elif max([0, *self.bits, self._bit or 0]) > 15 or min([0, *self.bits]) < 0:
            wrong = "a register has the bits 0 to 15"
        if (self.data_type == "string") != (self.length is not None):
            wrong = "`length` (in bytes) is needed for a string and only for a string"
        wrong = wrong or self._wrong_meaning()
        if self.step is not None and self.step < self.size:
            wrong = f"`step` {self.step} is less than the {self.size} registers of a value"
        if wrong is None and (last := at.number + (self.count - 1) * self._step + self.size) > 65536:
            wrong = f"the last value ends at address {last - 1}; the highest address is 65535"
        if wrong is not None:
            raise ValueError(wrong)
        return self

    def _wrong_meaning(self) -> str | None:
        kind, integer = self.data_type, self.data_type in INTEGERS
        if self.order is not None and (kind not in REGISTERS or "8_" in kind or not is_order(self.order, self.size)):
            return f"`order` {self.order} does not name each byte of a {kind} once"
        if (self.mask or self.decimals) and not integer:
            return f"`mask` and `decimals` are for integers, not for a {kind}"
        if self.enum and not (integer or kind == "bit"):
            return f"`enum` is for integers and bits, not for a {kind}"
        if self.mask and self.mask >> (8 if "8_" in kind else 16 * self.size):
            return f"`mask` {self.mask:#x} has more bits than a {kind}"
        if self.mask and kind.startswith("bcd"):
            return "`mask` is for binary numbers, not for BCD"
        if self.enum and self.decimals:
            return "`enum` names integers, not fixed-point numbers"
        if self.invalid and not (integer or kind.startswith("float")):
            return f"`invalid` is for numbers, not for a {kind}"
        if integer and any(not isinstance(value, int) or not self._fits(value) for value in self.invalid):
            return f"`invalid` {self.invalid} is nothing that a {kind} holds"
        return None

    @property
    def _width(self) -> int:
        return 8 if "8_" in self.data_type else 16 * self.size

    def _fits(self, value: int) -> bool:
        return -(1 << self._width - 1) * (not self.data_type.startswith(("u", "b"))) <= value < 1 << self._width

    def _as_read(self, value: float) -> float:
        """A value such as 0x8000 as a type with sign gives it: -32768."""
        negative = self.data_type.startswith("int") and isinstance(value, int) and value >= 1 << self._width - 1
        return value - (1 << self._width) if negative else value

    @cached_property
    def _at(self) -> Address:
        return address_of(self.address, self.addresses or "from_0")

    @property
    def table(self) -> Kind:
        """The table that the value lies in."""
        return Kind[self.kind.upper()]

    @property
    def _bit(self) -> int | None:
        return self.bit if self._at.bit is None else self._at.bit

    @property
    def data_type(self) -> DataType:
        """How the value is written."""
        return self.type or ("bit" if self.table.is_bits or self._bit is not None or self.bits else "uint16")

    @property
    def size(self) -> int:
        """Addresses that one value takes."""
        return REGISTERS[self.data_type] if self.length is None else (self.length + 1) // 2

    @property
    def _step(self) -> int:
        return self.step or self.size

    @cached_property
    def mapping(self) -> dict[str, Any]:
        """The fields of a `Mapping` that are given here."""
        given = self.model_dump(exclude_unset=True, exclude_none=True, include=set(Mapping.model_fields) - {"type"})
        return given | ({"type": self.convert} if self.convert else {})

    @property
    def _meaning(self) -> Meaning:
        invalid = tuple(self._as_read(value) for value in self.invalid)
        found = Meaning(self.mask or 0, self.decimals, tuple(sorted(self.enum.items())), invalid)
        return PLAIN if found == PLAIN else found

    def points(self, unit_id: int, byte_order: Order, word_order: Order) -> Iterator[tuple[str, Point]]:
        """Name and place of each value; the arguments are the source's defaults."""
        unit_id = unit_id if self.unit_id is None else self.unit_id
        kind, meaning = self.table, self._meaning
        bits: list[tuple[int | None, str]] = list(self.bits.items()) or [(self._bit, "")]
        for n in range(self.count):
            address = self._at.number + n * self._step
            for bit, label in bits:
                yield (
                    self._name(unit_id, n, address, bit, label),
                    Point(
                        unit_id=unit_id,
                        kind=kind,
                        address=address,
                        size=self.size,
                        type=self.data_type,
                        byte_order=self.byte_order or byte_order,
                        word_order=self.word_order or word_order,
                        bit=bit or 0,
                        length=self.length or 0,
                        encoding=self.encoding,
                        order=self.order or "",
                        meaning=meaning,
                        interval=self.interval or 0.0,
                    ),
                )

    def _name(self, unit_id: int, n: int, address: int, bit: int | None, label: str) -> str:
        if self.name is None:
            name = f"unit{unit_id}_{self.table.name.lower()}_{address}"
            return name + (f".{label}" if label else "" if bit is None else f".{bit}")
        name = self.name if self.count == 1 or "{" in self.name else self.name + "_{n}"
        name = name.replace("{n}", str(n + 1)).replace("{address}", str(address))
        return f"{name}.{label}" if label else name
