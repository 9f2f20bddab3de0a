"""How values are written in registers: the registers that a type takes, and the order of its bytes (pure)."""

from dataclasses import dataclass
from typing import Final, Literal

Order = Literal["big", "little"]
DataType = Literal[
    "bit", "int8_high", "int8_low", "uint8_high", "uint8_low", "int16", "uint16", "int32", "uint32", "int64", "uint64",
    "float16", "float32", "float64", "bcd16", "bcd32", "bcd64", "string",
]  # fmt: skip

REGISTERS: Final[dict[str, int]] = {
    "bit": 1, "int8_high": 1, "int8_low": 1, "uint8_high": 1, "uint8_low": 1, "int16": 1, "uint16": 1, "int32": 2,
    "uint32": 2, "int64": 4, "uint64": 4, "float16": 1, "float32": 2, "float64": 4, "bcd16": 1, "bcd32": 2, "bcd64": 4,
}  # fmt: skip
"""Registers of a number; a string has its length."""

INTEGERS: Final = frozenset(
    name for name in REGISTERS if name.startswith(("int", "uint", "bcd"))
)  # what `decimals`, `enum` can be said of
_LETTERS: Final = "ABCDEFGH"


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a raw value stands for, beyond being a number.

    Attributes:
        mask: Bits of an integer that count, moved down to the lowest; 0 for all.
        decimals: Decimal places of a fixed-point number; 0 for none.
        names: Names of the values of an enumeration, as (value, name).
        invalid: Raw values that say that there is none; NaN among them means any NaN.
    """

    mask: int = 0
    decimals: int = 0
    names: tuple[tuple[int, str], ...] = ()
    invalid: tuple[float, ...] = ()


PLAIN: Final = Meaning()


def order_of(registers: int, byte_order: Order, word_order: Order) -> str:
    """The bytes of a number as they come, by letter: A is the most significant; CDAB has its registers swapped."""
    words = [_LETTERS[at : at + 2] for at in range(0, 2 * registers, 2)]
    if word_order == "little":
        words.reverse()
    return "".join(word[::-1] if byte_order == "little" else word for word in words)


def is_order(order: str, registers: int) -> bool:
    """Whether `order` names each byte of so many registers once."""
    return sorted(order) == list(_LETTERS[: 2 * registers])


def byte_places(order: str) -> list[int]:
    """Where the bytes of a number in network order lie, from its first one on."""
    return [order.index(letter) for letter in _LETTERS[: len(order)]]
