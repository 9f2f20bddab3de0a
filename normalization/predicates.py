"""What conditions are compiled to: operands that read columns of a batch, and tests that tell where something is true.

A condition is in *negation normal form*: NOT is pushed into the comparisons. Then "true" of the whole follows from "true" of
its parts alone, and unknown and false need not be told apart.

A test about the tag alone (`PerTag`) is decided once per tag and looked up by the tag's number; the others (`PerRow`) work
on whole columns.
"""

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from normalization.reading import IDENTITY_COLUMNS, TAG_COLUMNS, Quality, ValueType, raw_numbers

Mask = npt.NDArray[np.bool_]
Truth = bool | Mask  # one truth for all rows, or one per row

WHOLE: Final = ("value_int", "status", "sequence", "flags", "priority")
FLOATS: Final = ("value", "value_double")
TIMES: Final = ("source_time", "received_time")
TEXTS: Final = ("value_text", "properties")
NAMED: Final[dict[str, list[str]]] = {
    "quality": [quality.name for quality in Quality],
    "type": [kind.name for kind in ValueType],
}
COLUMNS: Final = (*TAG_COLUMNS, *IDENTITY_COLUMNS, *FLOATS, *WHOLE, *TEXTS, *NAMED, *TIMES)


class TagRows:
    """The tags of one tag table as rows of text, read from the dictionaries of its batches."""

    def __init__(self, columns: Sequence[str]) -> None:
        self._columns = columns
        self.rows: list[dict[str, str]] = []

    def update(self, batch: pa.RecordBatch) -> None:
        """Take over the tags that `batch` brings for the first time."""
        if not self._columns:
            return
        start = len(self.rows)
        if len(batch.column(self._columns[0]).dictionary) > start:
            texts = [batch.column(name).dictionary.slice(start).to_pylist() for name in self._columns]
            self.rows.extend(dict(zip(self._columns, row, strict=True)) for row in zip(*texts, strict=True))


class Rows:
    """The readings of one batch as numpy arrays, each column read when it is first asked for."""

    __slots__ = ("_batch", "_columns", "_index", "tags")

    def __init__(self, batch: pa.RecordBatch, tags: TagRows) -> None:
        self._batch = batch
        self._columns: dict[str, tuple[Any, Mask | None]] = {}
        self._index: Any = None
        self.tags = tags

    def index(self) -> Any:
        """Row of the tag table of each reading."""
        if self._index is None:
            self._index = self._batch.column("tag").to_numpy()
        return self._index

    def numbers(self, name: str) -> tuple[Any, Mask | None]:
        """The numbers of a column, integers as int64, and where they are null (None: nowhere)."""
        known = self._columns.get(name)
        if known is None:
            array = self._batch.column(name)
            if name in TIMES:
                array = array.view(pa.int64())
            values = raw_numbers(array)
            if values.dtype.kind == "i" and values.itemsize < 8 and name not in NAMED:
                values = values.astype(np.int64)
            known = self._columns[name] = (values, _nulls(array))
        return known

    def texts(self, name: str) -> pa.Array:
        """A column of texts."""
        array = self._batch.column(name)
        return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array

    def nulls(self, name: str) -> Truth:
        """Where a column is null."""
        mask = _nulls(self._batch.column(name))
        return False if mask is None else mask


def _nulls(array: pa.Array) -> Mask | None:
    if not array.null_count:
        return None
    mask: Mask = array.is_null().to_numpy(zero_copy_only=False)
    return mask


Test = Callable[[Rows], Truth]
Decide = Callable[[Mapping[str, str]], bool]


@dataclass(frozen=True, slots=True)
class PerTag:
    """A condition that depends on the tag alone."""

    decide: Decide


@dataclass(frozen=True, slots=True)
class PerRow:
    """A condition that depends on the reading."""

    test: Test


Predicate = PerTag | PerRow | bool


class Remembered:
    """A `PerTag` as a test: decided once per tag, then looked up by the tag's number."""

    def __init__(self, decide: Decide) -> None:
        self._decide = decide
        self._tags: TagRows | None = None
        self._known = np.empty(0, bool)
        self._any = False

    def __call__(self, rows: Rows) -> Truth:
        """Where it is true."""
        if self._tags is not rows.tags:
            self._tags, self._known, self._any = rows.tags, np.empty(0, bool), False
        if len(self._known) < len(rows.tags.rows):
            new = [self._decide(row) for row in rows.tags.rows[len(self._known) :]]
            self._known = np.concatenate([self._known, np.array(new, bool)])
            self._any = bool(self._known.any())
        return self._known.take(rows.index()) if self._any else False


def as_test(condition: Predicate) -> Test:
    """What tells, for a batch, where `condition` is true."""
    if isinstance(condition, PerTag):
        return Remembered(condition.decide)
    if isinstance(condition, PerRow):
        return condition.test
    constant = condition
    return lambda _rows: constant


def all_of(conditions: Sequence[Predicate]) -> Predicate:
    """AND; what depends on the tag alone is one decision, and is asked first."""
    if any(condition is False for condition in conditions):
        return False
    decisions = [c.decide for c in conditions if isinstance(c, PerTag)]
    tests = [c.test for c in conditions if isinstance(c, PerRow)]
    if not decisions and not tests:
        return True
    per_tag = PerTag(lambda row: all(decide(row) for decide in decisions))
    if not tests:
        return per_tag
    if decisions:
        tests.insert(0, Remembered(per_tag.decide))

    def test(rows: Rows) -> Truth:
        out: Truth = True
        for each in tests:
            truth = each(rows)
            out = truth if out is True else (out if truth is True else out & truth)
            if out is False or (out is not True and not np.any(out)):
                return False
        return out

    return PerRow(test)


def any_of(conditions: Sequence[Predicate]) -> Predicate:
    """OR; the counterpart of `all_of`."""
    if any(condition is True for condition in conditions):
        return True
    decisions = [c.decide for c in conditions if isinstance(c, PerTag)]
    tests = [c.test for c in conditions if isinstance(c, PerRow)]
    if not decisions and not tests:
        return False
    per_tag = PerTag(lambda row: any(decide(row) for decide in decisions))
    if not tests:
        return per_tag
    if decisions:
        tests.insert(0, Remembered(per_tag.decide))
    return PerRow(lambda rows: union([each(rows) for each in tests]))


def flip(truth: Truth) -> Truth:
    """Where `truth` does not hold."""
    return not truth if isinstance(truth, bool) else ~truth


def settle(truth: Any) -> Truth:
    """A truth of numpy's as one of ours: what is no array is a bool."""
    return truth if np.ndim(truth) else bool(truth)


def union(truths: Sequence[Truth]) -> Truth:
    """Where at least one of `truths` holds."""
    out: Truth = False
    for truth in truths:
        if truth is True:
            return True
        if truth is not False:
            out = truth if out is False else out | truth
    return out


@dataclass(frozen=True, slots=True)
class Number:
    """A number: int64 when `whole`, else float64; with where it is null."""

    read: Callable[[Rows], tuple[Any, Mask | None]]
    whole: bool


@dataclass(frozen=True, slots=True)
class Time:
    """µs since the epoch."""

    read: Callable[[Rows], tuple[Any, Mask | None]]


@dataclass(frozen=True, slots=True)
class Text:
    """A text; `of_tag` when it depends on the tag alone."""

    read: Callable[[Rows], Any]
    of_tag: Callable[[Mapping[str, str]], str] | None = None


@dataclass(frozen=True, slots=True)
class Named:
    """A column of numbers that have names: quality, type."""

    column: str


@dataclass(frozen=True, slots=True)
class Constant:
    """A text or truth value as it is written; what it is compared with says what it means."""

    value: str | bool


class Null:
    """NULL."""


Operand = Number | Time | Text | Named | Constant | Null

_ARROW: Final = {
    operator.eq: pc.equal,
    operator.ne: pc.not_equal,
    operator.lt: pc.less,
    operator.le: pc.less_equal,
    operator.gt: pc.greater,
    operator.ge: pc.greater_equal,
}


def compare_numbers(
    compare: Callable[[Any, Any], Any], left: Number | Time, right: Number | Time, negated: bool
) -> Predicate:
    """A comparison of numbers or times; `compare` is one of the `operator` module."""

    def test(rows: Rows) -> Truth:
        a, a_null = left.read(rows)
        b, b_null = right.read(rows)
        out = compare(a, b)
        if negated:
            out = ~out
        for null in (a_null, b_null):
            if null is not None:
                out = out & ~null
        return settle(out)

    return PerRow(test)


def compare_texts(compare: Callable[[Any, Any], Any], left: Text, right: Text, negated: bool) -> Predicate:
    """A comparison of texts, by code points."""
    a, b = left.of_tag, right.of_tag
    if a is not None and b is not None:
        return PerTag(lambda row: bool(compare(a(row), b(row))) is not negated)
    return PerRow(lambda rows: _true(_ARROW[compare](left.read(rows), right.read(rows)), negated))


def match_text(text: Text, pattern: str, ignore_case: bool, negated: bool) -> Predicate:
    """LIKE; `pattern` is a regular expression for the whole text."""
    of_tag = text.of_tag
    if of_tag is not None:
        matches = re.compile(pattern, re.DOTALL | (re.IGNORECASE if ignore_case else 0)).fullmatch
        return PerTag(lambda row: (matches(of_tag(row)) is None) is negated)
    expression = f"(?s)\\A(?:{pattern})\\z"
    return PerRow(
        lambda rows: _true(pc.match_substring_regex(text.read(rows), expression, ignore_case=ignore_case), negated)
    )


def _true(truth: pa.BooleanArray, negated: bool) -> Mask:
    out: Mask = (pc.invert(truth) if negated else truth).fill_null(False).to_numpy(zero_copy_only=False)
    return out


def calculate(operation: Callable[[Any, Any], Any], left: Number, right: Number, *, divides: bool = False) -> Number:
    """Arithmetic in floats."""

    def read(rows: Rows) -> tuple[Any, Mask | None]:
        (a, a_null), (b, b_null) = left.read(rows), right.read(rows)
        with np.errstate(all="ignore"):
            out = operation(np.asarray(a, np.float64), np.asarray(b, np.float64))
        null = _either(a_null, b_null)
        if divides:
            zero = np.asarray(b == 0)
            if zero.any():
                null = _either(null, np.broadcast_to(zero, np.shape(out)))
        return out, null

    return Number(read, whole=False)


def _either(a: Mask | None, b: Mask | None) -> Mask | None:
    return b if a is None else (a if b is None else a | b)


def calculate_bits(operation: Callable[[Any, Any], Any], left: Number, right: Number) -> Number:
    """Arithmetic on the bits of whole numbers."""

    def read(rows: Rows) -> tuple[Any, Mask | None]:
        (a, a_null), (b, b_null) = left.read(rows), right.read(rows)
        return operation(a, b), _either(a_null, b_null)

    return Number(read, whole=True)


def constant_number(value: float) -> Number:
    """A number that is written in the condition."""
    whole = isinstance(value, int) and -(2**63) <= value < 2**63
    constant = np.int64(value) if whole else np.float64(value)
    return Number(lambda _rows: (constant, None), whole)


def constant_text(text: str) -> Text:
    """A text that is written in the condition."""
    scalar = pa.scalar(text, pa.string())
    return Text(lambda _rows: scalar, lambda _row: text)


def operand_of_column(name: str) -> Operand:
    """The operand for one of ``COLUMNS``."""
    if name in TAG_COLUMNS:
        return Text(lambda rows: rows.texts(name), operator.itemgetter(name))
    if name in IDENTITY_COLUMNS or name in TEXTS:
        return Text(lambda rows: rows.texts(name))
    if name in NAMED:
        return Named(name)
    if name in TIMES:
        return Time(lambda rows: rows.numbers(name))
    return Number(lambda rows: rows.numbers(name), name in WHOLE)
