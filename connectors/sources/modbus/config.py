"""What a user writes about a Modbus source, and the values that it means."""

import ssl
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import yaml
from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator
from typing_extensions import override

from connectors.contract import Context, Reader
from connectors.dry_run import Captured, Registers
from connectors.settings import Duration, Mapping, Place, Settings, SourceConfig, TlsSettings
from connectors.sources.modbus.address import Style
from connectors.sources.modbus.datatypes import Order
from connectors.sources.modbus.endpoint import Endpoint, endpoint_of
from connectors.sources.modbus.plan import Forbidden, Kind, Point
from connectors.sources.modbus.register import RegisterConfig
from connectors.sources.modbus.tables import raise_all, read_csv
from normalization.reading import Columns, Tag

if TYPE_CHECKING:
    from connectors.sources.modbus.serial_line import SerialFormat


class SerialSettings(Settings):
    """How characters travel on a serial line; the specification's values where nothing is said."""

    baud_rate: int = Field(19200, ge=50, description="bits per second")
    parity: Literal["none", "even", "odd"] = Field("even", description="parity bit")
    stop_bits: Literal[1, 2] = Field(1, description="stop bits; the specification asks for 2 where there is no parity")
    data_bits: Literal[7, 8] = Field(8, description="bits of a character; 7 is for ASCII frames only")
    rs485: Literal["none", "rts_high", "rts_low"] = Field(
        "none",
        description="how the driver switches an RS-485 sender on: not at all, or by RTS high or low while it sends",
    )
    rts_delay: Duration = Field(0.0, description="time that RTS leads and follows a frame, as 2ms; whole milliseconds")
    echo: bool = Field(False, description="whether the adapter gives back what is sent on two wires")

    @property
    def format(self) -> "SerialFormat":
        """The same for the line itself."""
        from connectors.sources.modbus.serial_line import SerialFormat

        return SerialFormat(self.baud_rate, self.parity, self.stop_bits, self.data_bits, self.rs485, self.rts_delay)


class ForbiddenAddresses(Settings):
    """Addresses that are never asked for, not even to read over them."""

    kind: Literal["coil", "discrete", "input", "holding"] = Field("holding", description="table")
    first: int = Field(ge=0, le=65535, description="first of them, from 0 as it is on the wire")
    last: int = Field(ge=0, le=65535, description="last of them")
    unit_id: int | None = Field(None, ge=0, le=255, description="unit; all units when absent")


class DeviceProfile(Settings):
    """What all devices of a make have in common; a YAML file."""

    description: str = Field("", description="make and model")
    addresses: Style | None = Field(None, description="how addresses count; the source's when absent")
    byte_order: Order | None = Field(None, description="order of the two bytes of a register; the source's when absent")
    word_order: Order | None = Field(None, description="order of the registers of a number; the source's when absent")
    registers: list[RegisterConfig] = Field(description="its values")


class DeviceConfig(Place):
    """A device on the line whose values are those of a profile."""

    unit_id: int = Field(ge=0, le=255, description="device on the line")
    profile_file: Path = Field(description="YAML file with the values that devices of this make have")
    name: str = Field("", description="put before the names of its values, as `{name}_`")


class ModbusConfig(SourceConfig):
    """Modbus devices behind one address: a device, or a gateway or serial line with many."""

    protocol: Literal["modbus"] = Field("modbus", description="protocol of the source")
    endpoint: str = Field(
        description="tcp://host:port for Modbus TCP, tls:// and udp:// for the same by TLS (port 802) and UDP; rtu+tcp://, "
        "ascii+tcp://, rtu+udp:// for serial frames through a device server; rtu:///dev/ttyUSB0 or ascii:///dev/ttyUSB0 "
        "for a serial line; port 502 when absent"
    )
    serial: SerialSettings = Field(
        SerialSettings.model_validate({}), description="how characters travel on a serial line"
    )
    tls: TlsSettings | None = Field(None, description="TLS settings for tls://")
    unit_id: int = Field(1, ge=0, le=255, description="device on the line, where a register does not say it")
    timeout: Duration = Field(1.0, gt=0, description="time for a connection and for one answer, in seconds or as 500ms")
    pause: Duration | None = Field(
        None,
        description="silence between an answer and the next request, as 5ms; RTU's 3.5 characters on a serial line",
    )
    connect_pause: Duration = Field(0.0, description="silence between connecting and the first request, as 100ms")
    in_flight: int = Field(
        1,
        ge=1,
        le=16,
        description="requests that may wait for their answers at once, on tcp:// and tls://; more than 1 only for devices "
        "that say they can",
    )
    interval: Duration = Field(1.0, gt=0, description="time from one reading of all registers to the next, as 1s")
    probe_interval: Duration = Field(
        30.0, gt=0, description="longest time between two tries of a device or address that failed, as 30s"
    )
    busy_retries: int = Field(
        3, ge=0, le=20, description="times that a device which says it is busy is asked again in the same cycle"
    )
    busy_pause: Duration = Field(0.1, gt=0, description="time before each of them, as 100ms; others are read meanwhile")
    slow_share: float = Field(
        0.5,
        gt=0,
        description="share of the interval above which a unit's answers are called slow, if others are four times as quick; "
        "it is then read last and with one request a cycle",
    )
    addresses: Style = Field(
        "from_0",
        description="how addresses of registers count: from_0 as on the wire, from_1 as in many manuals, or modicon (40001 "
        "is the first holding register)",
    )
    byte_order: Order = Field("big", description="order of the two bytes of a register; big is the specification's")
    word_order: Order = Field("big", description="order of the registers of a number; big: the high one first")
    max_gap: int = Field(
        8, ge=0, le=124, description="registers nobody asked for that are read over to save a request (16 bits each)"
    )
    max_registers: int = Field(125, ge=1, le=125, description="registers in one request, at most")
    max_bits: int = Field(2000, ge=1, le=2000, description="coils or discrete inputs in one request, at most")
    forbidden: list[ForbiddenAddresses] = Field([], description="addresses that are never asked for")
    source_time: Literal["none", "received"] = Field(
        "none", description="Modbus carries no time: `none` leaves the source time empty, `received` takes the answer's"
    )
    registers: list[RegisterConfig] = Field([], description="the values to read")
    registers_file: Path | None = Field(
        None,
        description="CSV file of values to read, one a line; the header names fields of `registers`, or is that of a "
        "Kepware tag export",
    )
    devices: list[DeviceConfig] = Field([], description="devices whose values are described by a profile")

    @field_validator("endpoint")
    @classmethod
    def _endpoint(cls, value: str) -> str:
        endpoint_of(value)
        return value

    @field_validator("registers_file")
    @classmethod
    def _beside_the_configuration(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        directory = (info.context or {}).get("directory")
        return value if value is None or directory is None else Path(directory) / value

    @model_validator(mode="before")
    @classmethod
    def _address_style(cls, data: Any) -> Any:
        """What the source says about addresses holds for each of its registers that says nothing."""
        if isinstance(data, dict) and data.get("addresses") is not None and isinstance(data.get("registers"), list):
            return {**data, "registers": [_with_style(entry, data["addresses"]) for entry in data["registers"]]}
        return data

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if not self.values:
            raise ValueError(
                "a Modbus source needs `registers` or `registers_file`, or `devices` with profiles: a device cannot be asked "
                "what it holds; `bifrost modbus profile` finds out some of it"
            )
        if self.at.transport == "tls" and self.tls is None:
            raise ValueError("an endpoint tls:// needs `tls`; `tls: {}` trusts the system's authorities")
        raise_all(self._problems())
        return self

    def _problems(self) -> list[str]:
        problems = []
        seen: dict[tuple[int, str], Point] = {}
        for _, name, point in self.values:
            where = f"`{name}` (unit {point.unit_id}, {point.kind.name.lower()} {point.address})"
            if not point.kind.is_bits and point.size > self.max_registers:
                problems.append(f"{where} takes {point.size} registers, more than `max_registers`")
            if any(closed.within(point.unit_id, point.kind, point.address, point.end) for closed in self.closed):
                problems.append(f"{where} lies in `forbidden`")
            other = seen.setdefault((point.unit_id, name), point)
            if other is not point:
                problems.append(f"{where} has the name of {other.kind.name.lower()} {other.address} of the same unit")
        return problems

    @cached_property
    def at(self) -> Endpoint:
        """The endpoint taken apart."""
        return endpoint_of(self.endpoint)

    @property
    def silence(self) -> float:
        """Seconds of silence between an answer and the next request."""
        if self.pause is not None:
            return self.pause
        return self.serial.format.silence if (self.at.transport, self.at.mode) == ("serial", "rtu") else 0.0

    @cached_property
    def closed(self) -> list[Forbidden]:
        """What `forbidden` says."""
        return [Forbidden(Kind[each.kind.upper()], each.first, each.last, each.unit_id) for each in self.forbidden]

    def tls_context(self) -> ssl.SSLContext:
        """The context of a TLS connection."""
        from connectors.wire.tls import tls_context

        return tls_context(self.tls or TlsSettings.model_validate({}))

    @cached_property
    def values(self) -> list[tuple[RegisterConfig, str, Point]]:
        """Every single value: the entry that it comes from, its name and its place."""
        entries = list(self.registers)
        if self.registers_file is not None:
            entries += read_csv(self.registers_file, self.addresses)
        for device in self.devices:
            entries += profile_registers(device, self.addresses)
        return [
            (entry, name, point)
            for entry in entries
            for name, point in entry.points(self.unit_id, self.byte_order, self.word_order)
        ]

    def tag_rows(self) -> list[Tag]:
        """The row of the tag table of each of `values`; what a register says goes before what `tags` says."""
        rows = []
        for entry, name, point in self.values:
            bit = f".{point.bit}" if point.type == "bit" and not point.kind.is_bits else ""
            address = f"{point.kind.name.lower()}:{point.address}{bit}"
            rows.append(self.tag(str(point.unit_id), address, name, own=Mapping(**entry.mapping)))
        return rows

    @override
    def named_tags(self) -> bool:
        self.tag_rows()
        return True

    @override
    def named_rows(self) -> list[Tag]:
        return self.tag_rows()

    @override
    def row_of(self, address: str, device: str = "", unit: str = "", tag_name: str = "") -> Tag | None:
        for row in self.tag_rows():
            names = (row.address, row.tag_name, f"{row.device_id}/{row.address}", f"{row.device_id}/{row.tag_name}")
            if address in names and device in ("", row.device_id):
                return row
        return None

    @override
    def decode_captured(self, captured: Sequence[Captured], intern: Callable[[Tag], int]) -> list[Columns]:
        from connectors.sources.modbus.captured import decode

        return [
            decode(self, one, intern) if isinstance(one, Registers) else self.decode_sample(one, intern)
            for one in captured
        ]

    @override
    def reader(self, context: Context) -> Reader:
        from connectors.sources.modbus.reader import ModbusReader

        return ModbusReader(self)


def _with_style(entry: Any, style: Any) -> Any:
    return {"addresses": style, **entry} if isinstance(entry, dict) else entry


def profile_registers(device: DeviceConfig, style: Style) -> list[RegisterConfig]:
    """The registers of a device as its profile describes them.

    Raises:
        ValueError: The profile cannot be read or is wrong: each problem with its file and place.
    """
    path = device.profile_file
    try:
        written = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: cannot be read as YAML: {error}") from error
    if isinstance(written, dict) and isinstance(written.get("registers"), list):
        counted = written.get("addresses") or style
        written = {**written, "registers": [_with_style(entry, counted) for entry in written["registers"]]}
    try:
        profile = DeviceProfile.model_validate(written)
    except ValidationError as error:
        raise_all(f"{path}: {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise
    places = {place: value for place in Place.model_fields if (value := getattr(device, place)) is not None}
    found = []
    for entry in profile.registers:
        said = {name: value for name, value in places.items() if getattr(entry, name) is None}
        said |= {"unit_id": device.unit_id, "byte_order": entry.byte_order or profile.byte_order}
        said |= {"word_order": entry.word_order or profile.word_order}
        if device.name and entry.name:
            said["name"] = f"{device.name}_{entry.name}"
        found.append(entry.model_copy(update=said))
    return found
