"""What registers that nobody has described probably hold: orders and types by how plausible their values are (pure)."""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np

from connectors.sources.modbus.datatypes import Order, byte_places, order_of
from connectors.sources.modbus.plan import Kind

_PRIOR: Final = (1.3, 1.2, 1.0, 1.0)  # how common the orders are; swapped bytes are rare
ORDERS: Final[tuple[tuple[Order, Order], ...]] = (
    ("big", "big"), ("big", "little"), ("little", "big"), ("little", "little"),
)  # fmt: skip
_USUAL: Final = (0.01, 1e5)  # where the values of a plant nearly always are
_POSSIBLE: Final = (1e-4, 1e9)
_CHANGE: Final = 0.25  # of a value between two looks; a wrong order makes more of the same change
_EXACT: Final = 1e-6  # share of a value by which a float32 may be off
_SURE: Final = 2.0  # what speaks for a float that is usual and round
_TEXT: Final = 3  # registers in a row of letters and digits that make a text
_ROUND: Final = {4: 2.0, 5: 1.0, 6: 0.5, 7: 0.0}  # what speaks for a value that few digits say: people set such ones


@dataclass(frozen=True, slots=True)
class Extent:
    """Addresses in a row that can be read, and what they held at two times.

    Attributes:
        unit_id: The device.
        kind: The table.
        address: First address.
        before: What they held, as the device sent it: registers, or bits.
        after: The same a little later.
    """

    unit_id: int
    kind: Kind
    address: int
    before: tuple[int, ...]
    after: tuple[int, ...]

    @property
    def end(self) -> int:
        """The address after the last one."""
        return self.address + len(self.before)


@dataclass(frozen=True, slots=True)
class Scored:
    """A proposal.

    Attributes:
        byte_order: Order of the bytes of a register.
        word_order: Order of the registers of a number.
        score: Its share of what speaks for any order, 0 to 1.
        floats: Values that are plausible floats in it.
    """

    byte_order: Order
    word_order: Order
    score: float
    floats: int


@dataclass(frozen=True, slots=True)
class Known:
    """A value that somebody reads off a display, and the address that the manual gives for it."""

    address: int
    value: float


@dataclass(frozen=True, slots=True)
class Match:
    """Where and how a known value was found.

    Attributes:
        address: Address on the wire.
        counted: What was added to the manual's number: 0, -1 for manuals that count from 1, or 1.
        type: How it is written.
        byte_order: Order of the bytes of a register.
        word_order: Order of the registers.
        scale: Factor of the raw value.
        error: How far off it is, as a share of the value.
    """

    kind: Kind
    unit_id: int
    address: int
    counted: int
    type: str
    byte_order: Order
    word_order: Order
    scale: float
    error: float


def floats(words: Sequence[int], byte_order: Order, word_order: Order) -> np.ndarray:
    """The float32 that would begin at each register but the last."""
    raw = np.array(words, ">u2").view(np.uint8)
    places = np.array(byte_places(order_of(2, byte_order, word_order)), np.intp)
    starts = np.arange(0, 2 * (len(words) - 1), 2)[:, None]
    with np.errstate(invalid="ignore"):  # signaling NaNs
        found: np.ndarray = raw[starts + places].copy().view(">f4")[:, 0].astype(np.float64)
    return found


def plausible(extent: Extent, byte_order: Order, word_order: Order) -> np.ndarray:
    """How plausible a float at each register is: 0, 0.5 for possible values, 1 for usual ones, 2 more for round ones."""
    if len(extent.before) < 2:
        return np.zeros(0)
    one, two = (floats(words, byte_order, word_order) for words in (extent.before, extent.after))
    with np.errstate(invalid="ignore", over="ignore"):
        size = np.abs(one)
        possible = np.isfinite(one) & np.isfinite(two) & (size >= _POSSIBLE[0]) & (size <= _POSSIBLE[1])
        steady = np.abs(two - one) <= _CHANGE * np.maximum(size, np.abs(two))
        usual = (size >= _USUAL[0]) & (size <= _USUAL[1])
    found = np.where(possible & steady, np.where(usual, 1.0, 0.5), 0.0)
    for at in np.flatnonzero(found):
        found[at] += _ROUND[_digits(one[at])]
    return found


def _digits(value: float) -> int:
    """Significant digits that say this float32 exactly, from 4 to 7."""
    single = struct.pack(">f", value)
    return next((digits for digits in (4, 5, 6) if struct.pack(">f", float(f"{value:.{digits}g}")) == single), 7)


def float_places(extent: Extent, byte_order: Order, word_order: Order) -> list[int]:
    """Offsets of the registers at which floats probably begin: every other one of the likelier half."""
    found = plausible(extent, byte_order, word_order)
    if not len(found):
        return []
    first = int(_half(found, 1) > _half(found, 0))
    return [first + 2 * int(at) for at in np.flatnonzero(found[first::2] >= 1.0)]


def _half(found: np.ndarray, first: int) -> float:
    """What speaks for floats at every other register; that the first register begins one is likelier."""
    return float(found[first::2].sum()) * (1.0 if first == 0 else 0.9)


def orders(extents: Iterable[Extent]) -> list[Scored]:
    """All orders, the most plausible first."""
    registers = [extent for extent in extents if not extent.kind.is_bits]
    weights, counts = [], []
    for (byte_order, word_order), prior in zip(ORDERS, _PRIOR, strict=True):
        weight = 1.0  # with nothing to go by they are equal
        count = 0
        for extent in registers:
            found = plausible(extent, byte_order, word_order)
            if len(found):
                weight += max(_half(found, 0), _half(found, 1)) ** 1.5
                count += len(float_places(extent, byte_order, word_order))
            weight += _small(extent, byte_order)
        weights.append(weight * prior)
        counts.append(count)
    # the specification's order comes first among equals
    ranked = sorted(range(len(ORDERS)), key=lambda n: (-weights[n], n))
    return [Scored(*ORDERS[n], round(weights[n] / sum(weights), 3), counts[n]) for n in ranked]


def _small(extent: Extent, byte_order: Order) -> float:
    """Registers that are small numbers in a byte order, and would not be in the other."""
    words = np.array(extent.before, np.uint16)
    high, low = words >> 8, words & 255
    alone = (high == 0) & (low != 0) if byte_order == "big" else (low == 0) & (high != 0)
    return 0.5 * float(alone.sum())


def texts(extent: Extent, byte_order: Order) -> list[tuple[int, int]]:
    """Texts: first register and how many; a run of printable characters, to its end or the first NUL."""
    found = []
    start: int | None = None
    for at, word in enumerate([*extent.before, 0]):
        octets = word.to_bytes(2, byte_order)
        letters = [32 <= octet < 127 for octet in octets]
        ends = letters[0] and octets[1] == 0
        if all(letters) or (ends and start is not None):
            start = at if start is None else start
        if start is not None and not all(letters):
            end = at + ends
            text = b"".join(each.to_bytes(2, byte_order) for each in extent.before[start:end]).rstrip(b"\0")
            if end - start >= _TEXT and sum(chr(c).isalnum() or c in b" -._/" for c in text) >= 0.9 * len(text):
                found.append((start, end - start))
            start = None
    return found


def match(extents: Iterable[Extent], known: Known) -> list[Match]:
    """Every way in which registers near the manual's address hold a known value, the plainest first."""
    found = []
    for extent in extents:
        if extent.kind.is_bits:
            continue
        for counted in (0, -1, 1):
            at = known.address + counted - extent.address
            for name, code in (("float32", "f"), ("int16", "h"), ("uint16", "H"), ("int32", "i"), ("float64", "d")):
                size = struct.calcsize(code) // 2
                words = extent.before[max(at, 0) : max(at, 0) + size]
                if at < 0 or len(words) < size:
                    continue
                for byte_order, word_order in ORDERS[:: 1 if size > 1 else 2]:
                    raw = _unpack(words, code, byte_order, word_order)
                    scale = _scale(raw, known.value, whole=code not in "fd")
                    if scale is not None:
                        place = extent.address + at
                        error = abs(raw * scale - known.value) / (abs(known.value) or 1.0)
                        found.append(
                            Match(
                                extent.kind, extent.unit_id, place, counted, name, byte_order, word_order, scale, error
                            )
                        )
    return sorted(found, key=lambda m: (m.error > _EXACT, abs(1.0 - m.scale) > _EXACT, abs(m.counted), m.error))


def _unpack(words: Sequence[int], code: str, byte_order: Order, word_order: Order) -> float:
    if word_order == "little":
        words = words[::-1]
    number: float = struct.unpack(f">{code}", b"".join(word.to_bytes(2, byte_order) for word in words))[0]
    return number


def _scale(raw: float, value: float, *, whole: bool) -> float | None:
    """The power of ten that makes `raw` the value, within what a display rounds away; None when there is none."""
    for scale in (1.0, 0.1, 0.01, 0.001) if whole else (1.0,):
        if abs(raw * scale - value) <= max(0.6 * scale if whole else 0.0, 0.002 * abs(value)) and (raw or not value):
            return scale
    return None


def runs(extent: Extent, byte_order: Order, word_order: Order, *, with_floats: bool) -> list[tuple[str, int, int]]:
    """The registers of an extent as entries (type, address, count or bytes of a text), in order."""
    if extent.kind.is_bits:
        return [("bit", extent.address, len(extent.before))]
    kinds = ["uint16"] * len(extent.before)
    places = float_places(extent, byte_order, word_order) if with_floats else []
    sure = plausible(extent, byte_order, word_order) >= _SURE
    found = [
        (at, 2, "float32") for at in places if sure[at]
    ]  # some floats look like letters, few texts like round numbers
    found += [(at, count, "string") for at, count in texts(extent, byte_order)]
    found += [(at, 2, "float32") for at in places if not sure[at]]
    for at, count, kind in found:
        if kinds[at : at + count] == ["uint16"] * count:
            kinds[at : at + count] = [kind, *[""] * (count - 1)]
    starts = [at for at, kind in enumerate(kinds) if kind]
    entries: list[tuple[str, int, int]] = []
    for at, following in pairwise([*starts, len(kinds)]):
        kind, size = kinds[at], following - at
        last = entries[-1] if entries else ("", 0, 0)
        if kind == "string":
            entries.append((kind, extent.address + at, 2 * size))
        elif last[0] == kind:
            entries[-1] = (kind, last[1], last[2] + 1)
        else:
            entries.append((kind, extent.address + at, 1))
    return entries
