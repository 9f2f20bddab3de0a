"""What a user writes about a Modbus source, and the values that it means."""

import csv
import io
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator
from typing_extensions import override

from connectors.contract import Context, Reader
from connectors.settings import Duration, Mapping, Place, SourceConfig
from connectors.sources.modbus.plan import REGISTERS, DataType, Kind, Order, Point
from normalization.reading import Tag


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
        "holding", description="table: coil, discrete (input), input (register) or holding (register)"
    )
    address: int = Field(ge=0, le=65535, description="address from 0 as it is on the wire; first register of the value")
    type: DataType = Field(
        "uint16", description="how the value is written; a coil and a discrete input are always a bit"
    )
    bit: int | None = Field(None, ge=0, le=15, description="bit of the register, 0 is the lowest; makes the type `bit`")
    length: int | None = Field(None, ge=1, le=250, description="length of a string in bytes, two in each register")
    encoding: Literal["ascii", "utf-8", "latin-1"] = Field("utf-8", description="encoding of a string")
    byte_order: Order | None = Field(None, description="order of the two bytes of a register; the source's when absent")
    word_order: Order | None = Field(None, description="order of the registers of a number; the source's when absent")
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
    metadata: dict[str, str] = Field({}, description="free text by key; in a file one column `metadata.<key>` each")

    @model_validator(mode="before")
    @classmethod
    def _bits(cls, data: Any) -> Any:
        if (
            isinstance(data, dict)
            and "type" not in data
            and (data.get("bit") is not None or data.get("kind") in ("coil", "discrete"))
        ):
            return {**data, "type": "bit"}
        return data

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        wrong = None
        if self.kind in ("coil", "discrete"):
            if self.type != "bit" or self.bit is not None:
                wrong = f"a {self.kind} holds one bit; leave `type` and `bit` out"
        elif (self.type == "bit") != (self.bit is not None):
            wrong = "a bit of a register needs `type: bit` and `bit: 0` to 15"
        if (self.type == "string") != (self.length is not None):
            wrong = "`length` (in bytes) is needed for a string and only for a string"
        if self.step is not None and self.step < self.size:
            wrong = f"`step` {self.step} is less than the {self.size} registers of a value"
        if wrong is None and (last := self.address + (self.count - 1) * self._step + self.size) > 65536:
            wrong = f"the last value ends at address {last - 1}; the highest address is 65535"
        if wrong is not None:
            raise ValueError(wrong)
        return self

    @property
    def size(self) -> int:
        """Addresses that one value takes."""
        return REGISTERS[self.type] if self.length is None else (self.length + 1) // 2

    @property
    def _step(self) -> int:
        return self.step or self.size

    @cached_property
    def mapping(self) -> dict[str, Any]:
        """The fields of a `Mapping` that are given here."""
        given = self.model_dump(exclude_unset=True, exclude_none=True, include=set(Mapping.model_fields) - {"type"})
        return given | ({"type": self.convert} if self.convert else {})

    def points(self, unit_id: int, byte_order: Order, word_order: Order) -> Iterator[tuple[str, Point]]:
        """Name and place of each value; the arguments are the source's defaults."""
        unit_id = unit_id if self.unit_id is None else self.unit_id
        for n in range(self.count):
            address = self.address + n * self._step
            if self.name is None:
                name = f"unit{unit_id}_{self.kind}_{address}" + ("" if self.bit is None else f".{self.bit}")
            else:
                name = self.name if self.count == 1 or "{" in self.name else self.name + "_{n}"
                name = name.replace("{n}", str(n + 1)).replace("{address}", str(address))
            yield (
                name,
                Point(
                    unit_id=unit_id,
                    kind=Kind[self.kind.upper()],
                    address=address,
                    size=self.size,
                    type=self.type,
                    byte_order=self.byte_order or byte_order,
                    word_order=self.word_order or word_order,
                    bit=self.bit or 0,
                    length=self.length or 0,
                    encoding=self.encoding,
                ),
            )


class ModbusConfig(SourceConfig):
    """Modbus devices behind one address: a device, or a gateway with a line of devices."""

    protocol: Literal["modbus"] = Field("modbus", description="protocol of the source")
    endpoint: str = Field(
        description="tcp://host:port for Modbus TCP, rtu+tcp://host:port for RTU frames over TCP; port 502 when absent"
    )
    unit_id: int = Field(1, ge=0, le=255, description="device on the line, where a register does not say it")
    timeout: Duration = Field(1.0, gt=0, description="time for a connection and for one answer, in seconds or as 500ms")
    interval: Duration = Field(1.0, gt=0, description="time from one reading of all registers to the next, as 1s")
    probe_interval: Duration = Field(
        30.0, gt=0, description="longest time between two tries of a device or address that failed, as 30s"
    )
    byte_order: Order = Field("big", description="order of the two bytes of a register; big is the specification's")
    word_order: Order = Field("big", description="order of the registers of a number; big: the high one first")
    max_gap: int = Field(
        8, ge=0, le=124, description="registers nobody asked for that are read over to save a request (16 bits each)"
    )
    max_registers: int = Field(125, ge=1, le=125, description="registers in one request, at most")
    max_bits: int = Field(2000, ge=1, le=2000, description="coils or discrete inputs in one request, at most")
    source_time: Literal["none", "received"] = Field(
        "none", description="Modbus carries no time: `none` leaves the source time empty, `received` takes the answer's"
    )
    registers: list[RegisterConfig] = Field([], description="the values to read")
    registers_file: Path | None = Field(
        None, description="CSV file of values to read, one a line; the header names fields of `registers`"
    )

    @field_validator("endpoint")
    @classmethod
    def _endpoint(cls, value: str) -> str:
        try:
            parts = urlsplit(value)
            sound = parts.scheme in {"tcp", "rtu+tcp"} and parts.hostname and (parts.port is None or parts.port > 0)
            sound = sound and not (parts.path.strip("/") or parts.query or parts.username)
        except ValueError:
            sound = False
        if not sound:
            msg = f"`{value}` is not an endpoint; write tcp://host:502 or rtu+tcp://host:502"
            raise ValueError(msg)
        return value

    @field_validator("registers_file")
    @classmethod
    def _beside_the_configuration(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        directory = (info.context or {}).get("directory")
        return value if value is None or directory is None else Path(directory) / value

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if not self.values:
            raise ValueError(
                "a Modbus source needs `registers` or `registers_file`: a device cannot be asked what it holds"
            )
        problems = []
        seen: dict[tuple[int, str], Point] = {}
        for _, name, point in self.values:
            where = f"`{name}` (unit {point.unit_id}, {point.kind.name.lower()} {point.address})"
            if not point.kind.is_bits and point.size > self.max_registers:
                problems.append(f"{where} takes {point.size} registers, more than `max_registers`")
            other = seen.setdefault((point.unit_id, name), point)
            if other is not point:
                problems.append(f"{where} has the name of {other.kind.name.lower()} {other.address} of the same unit")
        if problems:
            more = f"\n… and {len(problems) - 20} more" if len(problems) > 20 else ""
            raise ValueError("\n".join(problems[:20]) + more)
        return self

    @property
    def host(self) -> str:
        """Host of the endpoint."""
        return urlsplit(self.endpoint).hostname or ""

    @property
    def port(self) -> int:
        """Port of the endpoint."""
        return urlsplit(self.endpoint).port or 502

    @cached_property
    def values(self) -> list[tuple[RegisterConfig, str, Point]]:
        """Every single value: the entry that it comes from, its name and its place."""
        entries = self.registers if self.registers_file is None else [*self.registers, *read_csv(self.registers_file)]
        return [
            (entry, name, point)
            for entry in entries
            for name, point in entry.points(self.unit_id, self.byte_order, self.word_order)
        ]

    def tag_rows(self) -> list[Tag]:
        """The row of the tag table of each of `values`; what a register says goes before what `tags` says."""
        rows = []
        for entry, name, point in self.values:
            address = f"{entry.kind}:{point.address}" + ("" if entry.bit is None else f".{entry.bit}")
            rows.append(self.tag(str(point.unit_id), address, name, own=Mapping(**entry.mapping)))
        return rows

    @override
    def reader(self, context: Context) -> Reader:
        from connectors.sources.modbus.reader import ModbusReader

        return ModbusReader(self)


def read_csv(path: Path) -> list[RegisterConfig]:
    """The registers of a CSV file: a header with names of fields, `,`, `;` or tab between cells, empty cells left out.

    Raises:
        ValueError: The file cannot be read, or cells are wrong: each with file, line and column.
    """
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read as UTF-8 text: {error}") from error
    header = text.partition("\n")[0]
    lines = csv.DictReader(
        io.StringIO(text, newline=""), delimiter=max(",;\t", key=header.count), skipinitialspace=True, restkey=""
    )
    names = [name.strip() for name in lines.fieldnames or []]
    unknown = [n for n in names if n not in RegisterConfig.model_fields and not n.startswith("metadata.")]
    if unknown or "address" not in names:
        wrong = f"unknown column `{unknown[0]}`" if unknown else "no column `address`"
        raise ValueError(f"{path}:1: {wrong}; columns are {', '.join(RegisterConfig.model_fields)}")
    lines.fieldnames = names
    registers, problems = [], []
    for line in lines:
        given: dict[str, Any] = {
            k: v.strip() for k, v in line.items() if k and isinstance(v, str) and v.strip() and "." not in k
        }
        metadata = {k.partition(".")[2]: v.strip() for k, v in line.items() if "." in k and v and v.strip()}
        if not given:
            continue
        if "" in line:
            problems.append(f"{path}:{lines.line_num}: more cells than the header has")
            continue
        try:
            registers.append(RegisterConfig.model_validate(given | ({"metadata": metadata} if metadata else {})))
        except ValidationError as error:
            problems += [
                f"{path}:{lines.line_num}: {'.'.join(map(str, e['loc']))}{': ' if e['loc'] else ''}{e['msg']}"
                for e in error.errors()
            ]
    if problems:
        more = f"\n… and {len(problems) - 20} more" if len(problems) > 20 else ""
        raise ValueError("\n".join(problems[:20]) + more)
    return registers
