"""The types of AMQP 1.0 as bytes: all that are read, and those that a sender writes. Pure.

Numbers of sections are those of the standard's part 1, "Types".
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias


class Symbol(str):
    """A name from a set that the protocol knows."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Described:
    """A value with the number that says what it means.

    Attributes:
        code: The descriptor; a composite type of the standard has a number, others may have a name.
        value: The value; the fields, where it is a composite one.
    """

    code: int | str
    value: Any

    def field(self, index: int) -> Any:
        """A field of a composite value; those at its end may be left out, which is null."""
        return self.value[index] if isinstance(self.value, list) and index < len(self.value) else None


@dataclass(frozen=True, slots=True)
class Uint:
    """A number that is written as uint."""

    number: int


@dataclass(frozen=True, slots=True)
class Ubyte:
    """A number that is written as ubyte."""

    number: int


Writable: TypeAlias = (
    "bool | bytes | str | Uint | Ubyte | Described | Sequence[Writable] | Mapping[Symbol, Writable] | None"
)


def _sized(short: int, long: int, data: bytes) -> bytes:
    if len(data) < 256:
        return bytes((short, len(data))) + data
    return bytes((long,)) + struct.pack(">I", len(data)) + data


def text(value: str) -> bytes:
    """A string."""
    return _sized(0xA1, 0xB1, value.encode())


def encode(value: Writable) -> bytes:
    """A value as bytes."""
    match value:
        case None:
            return b"\x40"
        case bool():
            return b"\x41" if value else b"\x42"
        case Uint(number):
            return b"\x70" + struct.pack(">I", number)
        case Ubyte(number):
            return bytes((0x50, number))
        case Symbol():
            return _sized(0xA3, 0xB3, value.encode("ascii"))
        case str():
            return text(value)
        case bytes():
            return _sized(0xA0, 0xB0, value)
        case Described(code, inner):
            return (b"\x00" + text(code) if isinstance(code, str) else bytes((0x00, 0x53, code))) + encode(inner)
        case Mapping():
            items = b"".join(encode(key) + encode(item) for key, item in value.items())
            return b"\xd1" + struct.pack(">II", len(items) + 4, 2 * len(value)) + items
        case _:
            items = b"".join(encode(item) for item in value)
            return b"\xd0" + struct.pack(">II", len(items) + 4, len(value)) + items


# 1.6: constructors of a fixed width
_FIXED: Final[dict[int, struct.Struct]] = {
    0x50: struct.Struct(">B"),
    0x51: struct.Struct(">b"),
    0x52: struct.Struct(">B"),
    0x53: struct.Struct(">B"),
    0x54: struct.Struct(">b"),
    0x55: struct.Struct(">b"),
    0x56: struct.Struct(">?"),
    0x60: struct.Struct(">H"),
    0x61: struct.Struct(">h"),
    0x70: struct.Struct(">I"),
    0x71: struct.Struct(">i"),
    0x72: struct.Struct(">f"),
    0x73: struct.Struct(">I"),
    0x74: struct.Struct(">4s"),
    0x80: struct.Struct(">Q"),
    0x81: struct.Struct(">q"),
    0x82: struct.Struct(">d"),
    0x83: struct.Struct(">q"),
    0x84: struct.Struct(">8s"),
    0x94: struct.Struct(">16s"),
    0x98: struct.Struct(">16s"),
}
_CONSTANT: Final[dict[int, Any]] = {0x40: None, 0x41: True, 0x42: False, 0x43: 0, 0x44: 0}
_DEEPEST: Final = 32


class _Bytes:
    """Reads values one after the other."""

    def __init__(self, data: bytes, at: int) -> None:
        self.data, self.at = data, at

    def take(self, count: int) -> bytes:
        piece = self.data[self.at : self.at + count]
        if len(piece) < count:
            raise ValueError("a value ends before its time")
        self.at += count
        return piece

    def number(self, width: int) -> int:
        return int.from_bytes(self.take(width), "big")

    def value(self, depth: int = 0) -> Any:
        if depth > _DEEPEST:
            raise ValueError("values are nested too deeply")
        constructor = self.number(1)
        if constructor == 0:
            code = self.value(depth + 1)
            if not isinstance(code, int | str):
                raise ValueError("a descriptor is neither a number nor a name")
            return Described(code, self.value(depth + 1))
        return self.of(constructor, depth)

    def of(self, constructor: int, depth: int) -> Any:
        if constructor in _CONSTANT:
            return _CONSTANT[constructor]
        if constructor == 0x45:
            return []
        if (fixed := _FIXED.get(constructor)) is not None:
            return fixed.unpack(self.take(fixed.size))[0]
        kind, width = constructor & 0x0F, {0xA: 1, 0xB: 4, 0xC: 1, 0xD: 4, 0xE: 1, 0xF: 4}.get(constructor >> 4)
        if width is None:
            raise ValueError(f"there is no constructor {constructor:#04x}")
        if constructor >> 4 in {0xA, 0xB}:
            data = self.take(self.number(width))
            if kind == 0:
                return data
            return data.decode() if kind == 1 else Symbol(data.decode("ascii"))
        self.number(width)  # bytes, which the values themselves say too
        count = self.number(width)
        if count > len(self.data):
            raise ValueError("a list says that it has more values than there are bytes")
        if constructor >> 4 in {0xE, 0xF}:
            element = self.number(1)
            if element == 0:
                self.value(depth + 1)
                element = self.number(1)
            return [self.of(element, depth + 1) for _ in range(count)]
        values = [self.value(depth + 1) for _ in range(count)]
        if kind == 1:
            return dict(zip(values[::2], values[1::2], strict=False))
        return values


def decode(data: bytes, at: int = 0) -> Any:
    """The value that begins at a place; raises ValueError where there is none."""
    try:
        return _Bytes(data, at).value()
    except (UnicodeDecodeError, TypeError, struct.error) as error:
        raise ValueError(str(error)) from error
