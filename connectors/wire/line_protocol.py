r"""InfluxDB line protocol: readings as lines ``measurement,tag=… field=…,field=… time``.

What is constant per tag (the measurement and the tag set) is rendered once per row of the tag table and taken by index;
values, fields and times are columns of text made by Arrow's kernels. Fields are named by value type, because a field of
one measurement has one type at the server: `value` is always a float, `value_int` always an integer, and so on.

Escaping: in a measurement `,` and space, in tag keys and values `,`, `=` and space get a backslash; in string fields `"`
and `\` do. A line break in a measurement or tag, or a backslash at its end, cannot be written, nor a time whose ns have more
than 64 bits: such readings are refused.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from typing import Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from connectors.wire import rows
from normalization.reading import IDENTITY_COLUMNS, TAG_COLUMNS, Quality, ValueType

Precision = Literal["ns", "us", "ms", "s"]

FIELD_NAMES: Final[Mapping[ValueType, str]] = MappingProxyType(
    {
        ValueType.BOOLEAN: "value_bool",
        ValueType.INT64: "value_int",
        ValueType.UINT64: "value_uint",
        ValueType.DOUBLE: "value",
        ValueType.TEXT: "value_text",
        ValueType.BYTES: "value_bytes",
        ValueType.JSON: "value_json",
    }
)
_QUALITIES: Final = pa.array([f',quality="{q.name}"' for q in Quality], pa.string())
_TIME: Final = {"ns": (1, "000\n"), "us": (1, "\n"), "ms": (1_000, "\n"), "s": (1_000_000, "\n")}

_LAST_DIGITS: Final = pa.array([f"{digits:03}\n" for digits in range(1000)], pa.string())  # of a time in ns

NO_FIELD: Final = "line protocol cannot carry a reading without a value"
NOT_FINITE: Final = "line protocol cannot carry NaN or infinity"
NOT_A_NUMBER: Final = "this server keeps numbers only"
NOT_EXACT: Final = "this server keeps doubles, which cannot hold this integer exactly"
TOO_LARGE: Final = "this server's line protocol cannot carry integers above 2^63−1"
NOT_A_TIME: Final = "line protocol cannot carry a time outside the years 1677 to 2262, whose ns have 64 bits"
_LAST_MICROSECOND: Final = (2**63 - 1) // 1000
_EXACT: Final = 2**53  # integers up to it are doubles
NOT_WRITABLE: Final = "line protocol cannot carry a name with a line break or a backslash at its end"


@dataclass(frozen=True, slots=True)
class LineFormat:
    r"""What becomes what.

    Attributes:
        measurement: Name of the measurement, or a column of the tag table in braces: ``{signal_type}``.
        tags: Columns that become tags: of the tag table, `gateway`, `shard`; empty ones are left out.
        fields: Columns that become fields beside the value: `quality`, `status`, `sequence`, `flags`, `priority`,
            `properties`, `source_time` and `received_time` (µs), `gateway`, `shard`.
        values: Name of the value's field by its type; a reading of a type without name has no value field.
        unsigned: Whether UINT64 values are written with `u`; else those up to 2^63−1 are written as integers, and
            larger ones refused.
        precision: Unit of the time; µs are rounded down to it.
        one_line: Whether a line feed in a text is written as ``\n``, so that every reading is one line; else as it is.
        numbers: Whether the server keeps doubles only: other values are refused, and `quality` is written as its number.
        spread: Whether the last three digits of a time in ns, which no reading has, are those of the reading's `sequence`, so
            that two readings of one tag at one time are two points.
    """

    measurement: str = "reading"
    tags: Sequence[str] = ("path", "source", "unit")
    fields: Sequence[str] = ("quality",)
    values: Mapping[ValueType, str] = field(default_factory=lambda: FIELD_NAMES)
    unsigned: bool = True
    precision: Precision = "ns"
    one_line: bool = False
    numbers: bool = False
    spread: bool = False

    def __post_init__(self) -> None:
        per_tag = set(TAG_COLUMNS)
        identity = set(IDENTITY_COLUMNS)
        numbers = {"quality", "status", "sequence", "flags", "priority", "source_time", "received_time"}
        allowed = numbers if self.numbers else numbers | {"properties"} | identity
        if self.measurement.startswith("{") and self.measurement[1:-1] not in per_tag:
            raise ValueError(f"measurement {self.measurement} is no column of a tag; there are {sorted(per_tag)}")
        if unknown := set(self.tags) - per_tag - identity:
            raise ValueError(f"{sorted(unknown)} cannot be tags; there are {sorted(per_tag | identity)}")
        if wrong := [name for name in self.values.values() if not re.fullmatch(r"\w[\w.-]*", name)]:
            raise ValueError(f"{wrong} cannot name fields; write letters, digits, `_`, `.` and `-`")
        if unknown := set(self.fields) - allowed:
            raise ValueError(f"{sorted(unknown)} cannot be fields; there are {sorted(allowed)}")


@dataclass(frozen=True, slots=True)
class Lines:
    """Encoded readings.

    Attributes:
        payload: The lines, each with its line feed, in the order of the batch; UTF-8.
        rejected: Rows of the batch that line protocol cannot carry, ascending; they have no line.
        reasons: Why, one per rejected row.
        ends: Where in `payload` each line ends.
    """

    payload: bytes
    rejected: list[int]
    reasons: list[str]
    ends: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))


def escape_name(text: pa.Array, special: str) -> pa.Array:
    """A backslash before each of the characters in `special`."""
    for character in special:
        text = pc.replace_substring(text, character, "\\" + character)
    return text


def quote(text: pa.Array, *, one_line: bool = False) -> pa.Array:
    """String field values with their quotes; nulls stay nulls."""
    escaped = pc.replace_substring(pc.replace_substring(text, "\\", "\\\\"), '"', '\\"')
    if one_line:
        escaped = pc.replace_substring(escaped, "\n", "\\n")
    return pc.binary_join_element_wise('"', escaped, '"', "")


def _tag_pairs(name: str, values: pa.Array) -> pa.Array:
    """``,name=value`` for each value, nothing for an empty one."""
    pairs = pc.binary_join_element_wise(f",{name}=", escape_name(values, ",= "), "")
    return pc.if_else(pc.equal(values, ""), "", pairs)


def _unwritable(values: pa.Array) -> pa.Array:
    """Whether a name cannot be escaped: it holds a line break or ends in a backslash."""
    return pc.or_(pc.match_substring_regex(values, r"[\r\n]"), pc.ends_with(values, "\\"))


@lru_cache(maxsize=256)
def _identity_pairs(name: str, values: tuple[str, ...]) -> tuple[pa.Array, np.ndarray]:
    """The tag pairs of a batch's gateways or shards, and which of them cannot be written."""
    array = pa.array(values, pa.string())
    return _tag_pairs(name, array), _unwritable(array).to_numpy(zero_copy_only=False)


def _without_value(values: pa.Array, fields: list[rows.Part]) -> pa.Array:
    """Values and fields in one, where some values are empty: the first field begins the set; null where there is none."""
    others = rows.beside([pc.utf8_slice_codeunits(values, 0, 0), *fields])
    alone = pc.binary_join_element_wise(" ", pc.utf8_slice_codeunits(others, 1), "")
    alone = pc.if_else(pc.equal(others, ""), None, alone)
    return pc.if_else(pc.equal(values, ""), alone, pc.binary_join_element_wise(values, others, ""))


class LineEncoder:
    """Encodes stream items; keeps the constant part of each tag's lines, so use one for as long as possible."""

    def __init__(self, form: LineFormat | None = None) -> None:
        self.form: Final = form or LineFormat()
        self._token = b""
        self._heads = pa.array([], pa.string())
        self._bad = np.zeros(0, np.bool_)
        self._any_bad = False

    def encode(self, batch: pa.RecordBatch) -> Lines:
        """The lines of a batch.

        Args:
            batch: A batch of `normalization.reading.stream_schema`.
        """
        form = self.form
        tag, kinds = batch.column("tag"), rows.types(batch)
        self._learn(batch)
        bad = self._bad[tag.to_numpy()] if self._any_bad else np.zeros(len(tag), np.bool_)
        names: list[rows.Part] = [self._heads.take(tag)]
        for name in form.tags:
            if name in IDENTITY_COLUMNS:
                column = batch.column(name)
                pairs, unwritable = _identity_pairs(name, tuple(column.dictionary.to_pylist()))
                names.append(pairs[0].as_py() if len(pairs) == 1 else pairs.take(column.indices))
                if unwritable.any():
                    bad = bad | unwritable[column.indices.to_numpy()]
        fields = [part for name in form.fields for part in self._field(name, batch)]
        if not all(kind in form.values for kind in kinds):
            fields = [_without_value(rows.by_type(batch, self._value), fields)]
        elif len(kinds) == 1:
            fields = [*self._value_parts(kinds[0], batch), *fields]
        else:
            fields = [rows.by_type(batch, self._value), *fields]
        when = _micros(batch)
        divisor, end = _TIME[form.precision]
        line: list[rows.Part] = [*names, *fields, " ", _integers(when // divisor if divisor > 1 else when), end]
        if form.spread and form.precision == "ns":
            line[-1] = _LAST_DIGITS.take(pa.array(batch.column("sequence").to_numpy() % 1000))
        untimely = (when > _LAST_MICROSECOND) | (when < -_LAST_MICROSECOND)
        columns = [part for part in fields if not isinstance(part, str)]
        empty = [column.is_null().to_numpy(zero_copy_only=False) for column in columns if column.null_count]
        if empty or bad.any() or untimely.any():
            return self._partly(batch, line, bad, untimely, np.logical_or.reduce([bad, untimely, *empty]))
        payload, ends = rows.joined(line)
        return Lines(payload, [], [], ends)

    def _partly(
        self, batch: pa.RecordBatch, line: list[rows.Part], bad: np.ndarray, untimely: np.ndarray, wrong: np.ndarray
    ) -> Lines:
        refused, keep = np.flatnonzero(wrong), pa.array(np.flatnonzero(~wrong))
        kinds = batch.column("type").to_numpy()
        reasons = [
            NOT_WRITABLE if bad[row] else NOT_A_TIME if untimely[row] else self._why(ValueType(kinds[row]))
            for row in refused.tolist()
        ]
        payload, ends = rows.joined([part if isinstance(part, str) else part.take(keep) for part in line])
        return Lines(payload, refused.tolist(), reasons, ends)

    def _why(self, kind: ValueType) -> str:
        """Why a value of this type was not written."""
        match kind:
            case ValueType.DOUBLE:
                return NOT_FINITE
            case ValueType.INT64 | ValueType.UINT64:
                return NOT_EXACT if self.form.numbers else TOO_LARGE
            case ValueType.TEXT | ValueType.BYTES | ValueType.JSON if self.form.numbers:
                return NOT_A_NUMBER
            case _:
                return NO_FIELD

    def _learn(self, batch: pa.RecordBatch) -> None:
        """Render the heads of the tags that are new."""
        token = (batch.schema.metadata or {}).get(b"tags", b"")
        if token != self._token:
            self._token, self._heads = token, pa.array([], pa.string())
            self._bad, self._any_bad = np.zeros(0, np.bool_), False
        known = len(self._heads)
        if known >= len(batch.column("path").dictionary):
            return
        new = {name: batch.column(name).dictionary.slice(known) for name in TAG_COLUMNS}
        count = len(new["path"])
        form = self.form
        if form.measurement.startswith("{"):
            measurement = new[form.measurement[1:-1]]
            measurement = pc.if_else(pc.equal(measurement, ""), "reading", measurement)
        else:
            measurement = pa.array([form.measurement], pa.string()).take(pa.array(np.zeros(count, np.int32)))
        used = [name for name in form.tags if name in TAG_COLUMNS]
        heads = [escape_name(measurement, ", "), *(_tag_pairs(name, new[name]) for name in used)]
        bad = _unwritable(measurement)
        for name in used:
            bad = pc.or_(bad, _unwritable(new[name]))
        self._heads = pa.concat_arrays([self._heads, pc.binary_join_element_wise(*heads, "")])
        self._bad = np.concatenate([self._bad, bad.to_numpy(zero_copy_only=False)])
        self._any_bad = bool(self._bad.any())

    def _value(self, kind: ValueType, batch: rows.Rows) -> pa.Array:
        return rows.beside(self._value_parts(kind, batch))

    def _value_parts(self, kind: ValueType, batch: rows.Rows) -> list[rows.Part]:
        """`` name=value`` of readings of one type; empty for a type without a name, null where it cannot be written."""
        name = self.form.values.get(kind)
        if name is None:
            return [pa.array([""], pa.string()).take(pa.array(np.zeros(len(batch), np.int32)))]
        end = ""
        match kind:
            case ValueType.DOUBLE:
                doubles = batch.column("value_double")
                if doubles.null_count or not np.isfinite(doubles.to_numpy()).all():
                    doubles = pc.if_else(pc.is_finite(doubles), doubles, None)
                text = doubles.cast(pa.string())
            case ValueType.BOOLEAN:
                text = pc.if_else(pc.equal(batch.column("value_int"), 0), "false", "true")
            case ValueType.INT64:
                text, end = self._exact(batch.column("value_int")).cast(pa.string()), "i"
            case ValueType.UINT64:
                numbers = self._exact(rows.unsigned(batch.column("value_int")))
                if not self.form.unsigned:
                    numbers = pc.if_else(pc.greater_equal(batch.column("value_int"), 0), numbers, None)
                text, end = numbers.cast(pa.string()), "u" if self.form.unsigned else "i"
            case _ if self.form.numbers:
                text = pa.nulls(len(batch), pa.string())
            case ValueType.BYTES:
                text = quote(rows.base64_text(batch.column("value_bytes")))
            case _:
                text = quote(batch.column("value_text"), one_line=self.form.one_line)
        return [f" {name}=", text, end]

    def _exact(self, numbers: pa.Array) -> pa.Array:
        """The integers; null where the server would round them."""
        if not self.form.numbers:
            return numbers
        fits = pc.less_equal(numbers, pa.scalar(_EXACT, numbers.type))
        if pa.types.is_signed_integer(numbers.type):
            fits = pc.and_(fits, pc.greater_equal(numbers, pa.scalar(-_EXACT, numbers.type)))
        return pc.if_else(fits, numbers, None)

    def _field(self, name: str, batch: pa.RecordBatch) -> list[rows.Part]:
        """``,name=value`` of a column beside the value; nothing where it is null."""
        column = batch.column(name)
        if name == "quality" and not self.form.numbers:
            codes = column.to_numpy()
            same = len(codes) and (codes == codes[0]).all()
            return [_QUALITIES[codes[0]].as_py() if same else _QUALITIES.take(column)]
        if pa.types.is_dictionary(column.type):
            texts = pc.binary_join_element_wise(f",{name}=", quote(column.dictionary, one_line=self.form.one_line), "")
            return [texts.take(column.indices)]
        if pa.types.is_string(column.type):
            parts: list[rows.Part] = [f",{name}=", quote(column, one_line=self.form.one_line)]
        else:
            numbers = column.view(pa.int64()) if pa.types.is_timestamp(column.type) else column
            parts = [f",{name}=", numbers.cast(pa.string()), "i"]
        return [rows.beside(parts).fill_null("")] if column.null_count else parts


def _integers(numbers: np.ndarray) -> pa.Array:
    """The text of each number; a run of equal ones, as the times of one read are, is rendered once."""
    changes = numbers[1:] != numbers[:-1]
    if changes.all():
        return pa.array(numbers).cast(pa.string())
    starts = np.concatenate([[0], np.flatnonzero(changes) + 1])
    texts = pa.array(numbers[starts]).cast(pa.string())
    return texts.take(pa.array(np.repeat(np.arange(len(starts)), np.diff(starts, append=len(numbers)))))


def _micros(batch: pa.RecordBatch) -> np.ndarray:
    """The times of the lines, µs since the epoch."""
    when = batch.column("source_time")
    if when.null_count:
        when = pc.coalesce(when, batch.column("received_time"))
    return np.asarray(when.view(pa.int64()).to_numpy())
