"""Conversion of values: type, scale, offset and alarm of a tag's mapping, as column operations.

A value without a mapping keeps the type that it had at its source (`Columns.add` infers it); nothing is guessed. What a
mapping says is done in this order, and a value that cannot follow becomes a reject and keeps its raw content:

1. **Text becomes a number** where `type` asks for one: ``12``, ``-1.5e3``, ``nan``, ``inf``; for a boolean also ``true on
   yes 1`` and ``false off no 0``. Spaces around and case do not matter.
2. **value × scale + offset**, as a 64-bit float: a scaled integer is a DOUBLE, unless `type` says integer. A scale such as
   0.1 divides by 10, so that 7 becomes 0.7 and not 0.7000000000000001. What is no number cannot be scaled.
3. **Type**, without loss: *boolean* takes 0 and 1; *integer* takes whole numbers of 64 bits (after scaling: whole to nine
   digits and below 2**53); *number* takes what a 64-bit float holds exactly.
4. **Alarm**: a value other than 0 or false (text: other than empty, ``0``, ``false``) makes a GOOD or UNCERTAIN quality
   ALARM. A worse quality stays: a broken sensor raises no alarm. NaN, JSON and bytes are no alarm.
5. **Text** for `type` text: numbers in their shortest exact form, ``true`` and ``false``, the JSON of arrays and structures,
   and bytes that are UTF-8.

A null stays a null.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from normalization.reading import FACTS, Quality, ValueType, raw_numbers

_TYPE, _DOUBLE, _INT, _TEXT, _BYTES, _QUALITY, _REJECT = (
    FACTS.get_field_index(name)
    for name in ("type", "value_double", "value_int", "value_text", "value_bytes", "quality", "reject")
)
_WANTED: Final = {None: 0, "boolean": 1, "integer": 2, "number": 3, "text": 4}
_BOOLEAN, _INTEGER, _NUMBER, _AS_TEXT = 1, 2, 3, 4

_NOT_SCALABLE, _OUT_OF_RANGE, _NOT_UTF8 = 5, 6, 4
REASONS: Final = (
    "",
    "the mapping wants a boolean, and the value is none of 0, 1, true, false",
    "the mapping wants an integer, and the value is not a whole number of 64 bits",
    "the mapping wants a number, and the value is none that a 64-bit float can hold",
    "the mapping wants text, and the value is bytes that are not UTF-8",
    "the mapping scales the value, and it is not a number",
    "the scaled value is out of range",
)


@dataclass(frozen=True, slots=True)
class Conversion:
    """What a mapping does to the values of a tag.

    Attributes:
        type: boolean, integer, number, text, or None to keep the type.
        scale: Factor, or None.
        offset: Added after scaling, in the tag's unit, or None.
        alarm: A value other than 0 or false is an alarm.
    """

    type: str | None = None
    scale: float | None = None
    offset: float | None = None
    alarm: bool = False

    @staticmethod
    def of(mapping: Mapping[str, Any]) -> "Conversion | None":
        """What `mapping` says of values; None where they stay as they are.

        Raises:
            ValueError: It says something that is not possible.
        """
        if not mapping.keys() & {"type", "scale", "offset", "alarm"}:
            return None
        kind, alarm = mapping.get("type"), mapping.get("alarm", False)
        if not (kind is None or (isinstance(kind, str) and kind in _WANTED)):
            raise ValueError(f"mapping: type `{kind}` is none of boolean, integer, number, text")
        if not isinstance(alarm, bool):
            raise ValueError(f"mapping: alarm `{alarm}` is not true or false")  # noqa: TRY004 - one error for a bad mapping
        factors: list[float | None] = []
        for name in ("scale", "offset"):
            value = mapping.get(name)
            if isinstance(value, bool) or not isinstance(value, int | float | None):
                raise ValueError(f"mapping: {name} `{value}` is not a number")  # noqa: TRY004
            if value is not None and not (abs(value) < 1e300 and math.isfinite(value)):
                raise ValueError(f"mapping: {name} is out of range")
            factors.append(None if value is None else float(value))
        scale, offset = factors
        if (scale is None or scale == 1.0) and not offset:
            scale = offset = None  # says nothing: an integer stays an integer
        if kind is None and scale is None and offset is None and not alarm:
            return None
        return Conversion(kind, scale, offset, alarm)


class Conversions:
    """Distinct conversions, numbered from 1, as columns; 0 is "as it is"."""

    def __init__(self) -> None:
        self._numbers: dict[Conversion, int] = {}
        self._wanted = np.zeros(1, np.int8)
        self._scaled = np.zeros(1, bool)
        self._alarm = np.zeros(1, bool)
        self._multiply, self._divide, self._add = np.ones(1), np.ones(1), np.zeros(1)

    def number(self, conversion: Conversion | None) -> int:
        """The number of `conversion`, which is added if it is new."""
        if conversion is None:
            return 0
        known = self._numbers.get(conversion)
        if known is None:
            known = self._numbers[conversion] = len(self._numbers) + 1
            scale, offset = conversion.scale, conversion.offset
            multiply, divide = (1.0 if scale is None else scale), 1.0
            if 1e-15 < abs(multiply) < 1 and 1 / round(1 / multiply) == multiply:
                multiply, divide = 1.0, float(round(1 / multiply))
            self._wanted = np.append(self._wanted, np.int8(_WANTED[conversion.type]))
            self._scaled = np.append(self._scaled, scale is not None or offset is not None)
            self._alarm = np.append(self._alarm, conversion.alarm)
            self._multiply = np.append(self._multiply, multiply)
            self._divide = np.append(self._divide, divide)
            self._add = np.append(self._add, offset or 0.0)
        return known

    def apply(self, facts: Sequence[pa.Array], which: npt.NDArray[np.int32]) -> list[pa.Array]:
        """The facts with each row's conversion done; rows with `reject` set, and nulls, are left as they are.

        Args:
            facts: Arrays in the order of ``FACTS``.
            which: Number of the conversion of each row.
        """
        columns = list(facts)
        types = columns[_TYPE].to_numpy()
        which = np.where(types == ValueType.NULL, 0, which)
        if columns[_REJECT].null_count != len(types):
            which[_mask(columns[_REJECT].is_valid())] = 0
        if not which.any():
            return columns
        values = _Values(columns, types)
        wanted = self._wanted.take(which)
        scaled = self._scaled.take(which)
        if wanted.any():
            values.parse(wanted)
        if scaled.any():
            values.scale(scaled, wanted, self._multiply.take(which), self._divide.take(which), self._add.take(which))
        if wanted.any():
            values.to_boolean(wanted == _BOOLEAN)
            values.to_integer(wanted == _INTEGER, scaled)
            values.to_number(wanted == _NUMBER)
        if self._alarm.any():
            values.alarm(self._alarm.take(which))
        if wanted.any():
            values.to_text(wanted == _AS_TEXT)
        values.store()
        return columns


_TRUE: Final = pa.array(["true", "on", "yes", "1"])
_FALSE: Final = pa.array(["false", "off", "no", "0"])
_NO_ALARM: Final = pa.array(["", "0", "false"])
_INTEGER_TEXT: Final = r"^[+-]?[0-9]{1,18}$"
_LONG_INTEGER_TEXT: Final = r"^[+-]?[0-9]{19,40}$"
_NUMBER_TEXT: Final = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?$"
_NOT_FINITE: Final = {"nan": math.nan, "+nan": math.nan, "-nan": math.nan} | {
    sign + word: factor * math.inf for sign, factor in (("", 1), ("+", 1), ("-", -1)) for word in ("inf", "infinity")
}
_EXACT: Final = 2.0**53

_Mask = npt.NDArray[np.bool_]
_Floats = npt.NDArray[np.float64]
_Indices = npt.NDArray[np.intp]


class _Values:
    """The values of a batch while they are converted; `store` writes them into the columns."""

    def __init__(self, columns: list[pa.Array], types: npt.NDArray[np.int8]) -> None:
        self._columns = columns
        self._types = types
        self._kind = types.copy()
        self._double = raw_numbers(columns[_DOUBLE]).copy()
        self._integer = raw_numbers(columns[_INT]).copy()
        self._reason = np.zeros(len(types), np.int8)
        self._scaled: _Mask | None = None
        self._alarm: _Mask | None = None
        self._texts: list[tuple[_Indices, pa.Array]] = []

    def _fail(self, mask: _Mask, reason: int) -> None:
        if mask.any():
            self._reason[mask & (self._reason == 0)] = reason

    def _is(self, first: ValueType, last: ValueType) -> _Mask:
        return (self._kind >= first) & (self._kind <= last)

    def _floats(self) -> _Floats:
        """Every number and boolean as a float; 0 for the rest."""
        out: _Floats = self._integer.astype(np.float64)
        unsigned = self._kind == ValueType.UINT64
        if unsigned.any():
            out[unsigned] = self._integer[unsigned].view(np.uint64).astype(np.float64)
        np.copyto(out, self._double, where=self._kind == ValueType.DOUBLE)
        return out

    def parse(self, wanted: npt.NDArray[np.int8]) -> None:
        """Read numbers and booleans from texts where the mapping wants them."""
        where = np.flatnonzero((self._kind == ValueType.TEXT) & (wanted > 0) & (wanted < _AS_TEXT))
        if not len(where):
            return
        text = self._words(where)
        as_boolean, as_integer = wanted[where] == _BOOLEAN, wanted[where] == _INTEGER
        for words, truth in ((_TRUE, 1), (_FALSE, 0)) if as_boolean.any() else ():
            spelled = where[_mask(pc.is_in(text, words)) & as_boolean]
            self._kind[spelled], self._integer[spelled] = ValueType.BOOLEAN, truth
        if as_integer.any():
            whole = _mask(pc.match_substring_regex(text, _INTEGER_TEXT)) & as_integer
            digits = pc.utf8_ltrim(text.filter(pa.array(whole)), characters="+")
            self._kind[where[whole]], self._integer[where[whole]] = ValueType.INT64, digits.cast(pa.int64()).to_numpy()
            # A loop, as no column operation reads what may or may not fit; integers that long are rare in a text.
            for i in np.flatnonzero(_mask(pc.match_substring_regex(text, _LONG_INTEGER_TEXT)) & as_integer).tolist():
                number, row = int(text[i].as_py()), where[i]
                if -(2**63) <= number < 2**63:
                    self._kind[row], self._integer[row] = ValueType.INT64, number
                elif 0 <= number < 2**64:
                    self._kind[row], self._integer[row] = ValueType.UINT64, number - 2**64
                else:
                    self._reason[row] = _INTEGER
        left = (self._kind[where] == ValueType.TEXT) & ~as_boolean & (self._reason[where] == 0)
        if not left.any():
            return
        numeric = left & _mask(pc.match_substring_regex(text, _NUMBER_TEXT))
        doubles = text.filter(pa.array(numeric)).cast(pa.float64()).to_numpy()
        self._kind[where[numeric]], self._double[where[numeric]] = ValueType.DOUBLE, doubles
        overflow = where[numeric][np.isinf(doubles)]
        self._reason[overflow] = wanted[overflow]
        if numeric.sum() < left.sum():
            for word, value in _NOT_FINITE.items():
                spelled = where[left & _mask(pc.equal(text, word))]
                self._kind[spelled], self._double[spelled] = ValueType.DOUBLE, value

    def _words(self, where: _Indices) -> pa.Array:
        return pc.utf8_lower(pc.utf8_trim_whitespace(self._columns[_TEXT].take(pa.array(where)).fill_null("")))

    def scale(
        self, scaled: _Mask, wanted: npt.NDArray[np.int8], multiply: _Floats, divide: _Floats, add: _Floats
    ) -> None:
        """Multiply, divide, add; see the module's rule 2."""
        number = self._is(ValueType.INT64, ValueType.DOUBLE)
        if not number.all():
            number |= (self._kind == ValueType.BOOLEAN) & ((wanted == _INTEGER) | (wanted == _NUMBER))
            failed = scaled & ~number
            parsed = failed & (wanted > 0) & (wanted < _AS_TEXT)  # should have become a number, and did not
            self._reason[parsed] = wanted[parsed]
            self._fail(failed, _NOT_SCALABLE)
        change = scaled & number
        raw = self._floats()
        with np.errstate(over="ignore", invalid="ignore"):
            result = raw * multiply / divide + add
        if not np.isfinite(result).all():
            self._fail(change & np.isfinite(raw) & ~np.isfinite(result), _OUT_OF_RANGE)
        np.copyto(self._double, result, where=change)
        self._kind[change] = ValueType.DOUBLE
        self._scaled = change

    def to_boolean(self, wanted: _Mask) -> None:
        """Numbers 0 and 1 become booleans."""
        if not wanted.any():
            return
        value = self._floats()
        fits = wanted & self._is(ValueType.BOOLEAN, ValueType.DOUBLE) & ((value == 0) | (value == 1))
        self._fail(wanted & ~fits, _BOOLEAN)
        self._integer[fits] = value[fits].astype(np.int64)
        self._kind[fits] = ValueType.BOOLEAN

    def to_integer(self, wanted: _Mask, scaled: _Mask) -> None:
        """Booleans and whole numbers become integers."""
        if not wanted.any():
            return
        self._fail(wanted & ~self._is(ValueType.BOOLEAN, ValueType.DOUBLE), _INTEGER)
        doubles = wanted & (self._kind == ValueType.DOUBLE)
        if doubles.any():
            value = self._double
            with np.errstate(invalid="ignore"):
                near, size = np.rint(value), np.abs(value)
                noise = scaled & (np.abs(value - near) <= 1e-9 * size)
                value = np.where(noise, near, value)
                whole = doubles & (value == np.floor(value)) & (value >= -(2.0**63)) & (value < 2.0**64)
                whole &= ~scaled | (size < _EXACT)  # beyond that, what scaling gives is rounded
            self._fail(doubles & ~whole, _INTEGER)
            large = whole & (value >= 2.0**63)
            small = whole & ~large
            self._integer[small] = value[small].astype(np.int64)
            self._integer[large] = value[large].astype(np.uint64).view(np.int64)
            self._kind[small] = ValueType.INT64
            self._kind[large] = ValueType.UINT64
        self._kind[wanted & (self._kind == ValueType.BOOLEAN)] = ValueType.INT64

    def to_number(self, wanted: _Mask) -> None:
        """Booleans and integers that a float holds exactly become floats."""
        if not wanted.any():
            return
        self._fail(wanted & ~self._is(ValueType.BOOLEAN, ValueType.DOUBLE), _NUMBER)
        whole = wanted & self._is(ValueType.BOOLEAN, ValueType.UINT64)
        if whole.any():
            value = self._floats()
            for i in np.flatnonzero(whole & (np.abs(value) >= _EXACT)):  # rare: there only some integers are floats
                unsigned = self._kind[i] == ValueType.UINT64
                if (
                    int(value[i]) != int(self._integer[i]) % 2**64
                    if unsigned
                    else int(value[i]) != int(self._integer[i])
                ):
                    self._reason[i] = _NUMBER
            np.copyto(self._double, value, where=whole)
            self._kind[whole] = ValueType.DOUBLE

    def alarm(self, wanted: _Mask) -> None:
        """Note where a value is an alarm."""
        kind = self._kind
        active = self._is(ValueType.BOOLEAN, ValueType.UINT64) & (self._integer != 0)
        active |= (kind == ValueType.DOUBLE) & (self._double != 0) & ~np.isnan(self._double)
        texts = np.flatnonzero(wanted & (kind == ValueType.TEXT))
        if len(texts):
            active[texts] = ~_mask(pc.is_in(self._words(texts), _NO_ALARM))
        self._alarm = active & wanted

    def to_text(self, wanted: _Mask) -> None:
        """Every value becomes the text that reads as the same value."""
        if not wanted.any():
            return
        for kind, values in (
            (ValueType.BOOLEAN, self._integer != 0),
            (ValueType.INT64, self._integer),
            (ValueType.UINT64, self._integer.view(np.uint64)),
            (ValueType.DOUBLE, self._double),
        ):
            where = np.flatnonzero(wanted & (self._kind == kind))
            if len(where):
                self._texts.append((where, pa.array(values[where]).cast(pa.string())))
        where = np.flatnonzero(wanted & (self._kind == ValueType.BYTES))
        if len(where):
            decoded = [_utf8(raw) for raw in self._columns[_BYTES].take(pa.array(where)).to_pylist()]
            self._fail(_scattered(len(self._kind), where[[text is None for text in decoded]]), _NOT_UTF8)
            self._texts.append((where, pa.array(decoded, pa.string())))
        self._kind[wanted] = ValueType.TEXT  # a JSON stays where it is and is called text

    def store(self) -> None:
        """Write converted values into the columns; where a conversion failed, only `reject`."""
        columns, size = self._columns, len(self._types)
        failed = self._reason > 0
        if failed.any():
            where = np.flatnonzero(failed)
            columns[_REJECT] = _replaced(columns[_REJECT], where, _REASONS.take(pa.array(self._reason[where])))
            self._kind[failed] = self._types[failed]
        if self._alarm is not None:
            quality = columns[_QUALITY].to_numpy()
            alarm = self._alarm & ~failed & (quality <= Quality.UNCERTAIN)
            columns[_QUALITY] = pa.array(np.where(alarm, np.int8(Quality.ALARM), quality))
        retyped = self._kind != self._types
        changed = retyped if self._scaled is None else (retyped | self._scaled) & ~failed
        if not changed.any():
            return
        columns[_TYPE] = pa.array(self._kind)
        for column, values, valid in (
            (_DOUBLE, self._double, self._kind == ValueType.DOUBLE),
            (_INT, self._integer, self._is(ValueType.BOOLEAN, ValueType.UINT64)),
        ):
            old = columns[column]
            if not changed.all():
                values = np.where(changed, values, raw_numbers(old))  # noqa: PLW2901 - a row that stays keeps what it had
                valid = np.where(changed, valid, _mask(old.is_valid()))  # noqa: PLW2901
            if valid.any():
                columns[column] = pa.array(values, mask=None if valid.all() else ~valid)
            else:
                columns[column] = pa.nulls(size, old.type)
        for column, was in ((_TEXT, ValueType.TEXT), (_BYTES, ValueType.BYTES)):
            emptied = np.flatnonzero(retyped & (self._types == was))
            if len(emptied):
                columns[column] = _replaced(columns[column], emptied, pa.nulls(len(emptied), columns[column].type))
        for where, text in self._texts:
            sound = ~failed[where]
            columns[_TEXT] = _replaced(columns[_TEXT], where[sound], text.filter(pa.array(sound)))


_REASONS: Final = pa.array(REASONS)


def _mask(array: pa.Array) -> Any:
    return array.to_numpy(zero_copy_only=False)


def _scattered(size: int, where: _Indices) -> _Mask:
    mask = np.zeros(size, bool)
    mask[where] = True
    return mask


def _replaced(column: pa.Array, where: _Indices, values: pa.Array) -> pa.Array:
    """`column` with `values` at the rows `where`."""
    index = np.arange(len(column))
    index[where] = np.arange(len(column), len(column) + len(where))
    return pa.concat_arrays([column, values]).take(pa.array(index))


def _utf8(raw: bytes | None) -> str | None:
    try:
        return (raw or b"").decode()
    except UnicodeDecodeError:
        return None
