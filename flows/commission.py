"""Commissioning: what a tag list expects of each tag, what was seen of it, and the verdict. Pure: values in, verdicts out."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from normalization.facts import Quality, ValueType

Result = Literal["pass", "fail", "not seen"]
RESULTS: Final[tuple[Result, ...]] = ("pass", "fail", "not seen")

TOLERANCE: Final = 0.2
"""Share by which the number of readings may differ from what the interval says; one reading always may."""
_SILENCE: Final = 3.0  # intervals without a reading that are a gap
_AHEAD: Final = 10.0  # seconds that a device's clock may be ahead before it is remarked

_WHOLE: Final = frozenset({ValueType.INT64, ValueType.UINT64})
_TYPES: Final[Mapping[frozenset[ValueType], str]] = {
    frozenset({ValueType.BOOLEAN}): "bool boolean bit digital",
    _WHOLE: "int integer sint usint uint dint udint lint ulint int8 int16 int32 int64 uint8 uint16 uint32 uint64 byte "
    "sbyte word dword lword qword short ushort long ulong llong counter bcd lbcd bcd16 bcd32 enum",
    frozenset({ValueType.DOUBLE}): "double float real lreal float32 float64 single decimal",
    _WHOLE | {ValueType.DOUBLE}: "number numeric analog analogue",
    frozenset({ValueType.TEXT}): "text string wstring char str",
    frozenset({ValueType.BYTES}): "bytes bytestring blob binary",
    frozenset({ValueType.JSON}): "json array struct structure object dataset template",
}
TYPES: Final[Mapping[str, frozenset[ValueType]]] = {
    name: kinds for kinds, names in _TYPES.items() for name in names.split()
}
"""What is written in lists as a type, in small letters without spaces, and which of ours it is."""


@dataclass(frozen=True, slots=True)
class Expected:
    """A row of a tag list. What is empty or None is not compared.

    Attributes:
        line: Where it stands in the list.
        tag: Address, name, device/address or ISA-95 path of the tag; the next four say each of them alone.
        path: ISA-95 path.
        source: Name of the source.
        device: The device as its protocol names it.
        address: The tag as its protocol names it.
        tag_name: The tag's name.
        type: The type as the list writes it, see ``TYPES``.
        unit: The unit.
        low: Smallest value.
        high: Largest value.
        qualities: Qualities that readings may have; none: any.
        interval: Seconds from one reading to the next.
        description: What the list says of it besides.
    """

    line: int
    tag: str = ""
    path: str = ""
    source: str = ""
    device: str = ""
    address: str = ""
    tag_name: str = ""
    type: str = ""
    unit: str = ""
    low: float | None = None
    high: float | None = None
    qualities: frozenset[Quality] = frozenset({Quality.GOOD})
    interval: float | None = None
    description: str = ""

    @property
    def label(self) -> str:
        """What the list calls it."""
        return self.tag or self.path or self.tag_name or "/".join(part for part in (self.device, self.address) if part)


@dataclass(slots=True)
class Observed:
    """What was seen of a tag.

    Attributes:
        source: Name of its source.
        device: The device as its protocol names it.
        address: The tag as its protocol names it.
        tag_name: Its name.
        path: Its ISA-95 path; empty where it has none.
        units: Its units, the last one last.
        readings: How many readings came.
        types: How many of them had each type.
        qualities: How many of them had each quality.
        low: Smallest number of a reading that is not BAD or STALE.
        high: Largest one.
        not_finite: How many of these were NaN or infinite.
        live: How many count for the interval: they were neither retained nor historical nor a gap.
        span: Seconds from the arrival of the first live reading to the end of the watch.
        elapsed: Seconds from the first live reading to the last, by the device's clock where that goes on.
        step: Longest time between two of them, by the device's clock where it tells the time.
        arrival: Longest time between two arrivals.
        silence: Seconds from the last arrival to the end.
        rejected: How many could not be used.
        reason: Why the last one of them.
        value: The last value, as it is shown.
        quality: Its quality.
        time: When it was measured, or received where the device does not say; µs since the epoch.
        ahead: Seconds that the device's clock was ahead of ours, at most.
    """

    source: str
    device: str
    address: str
    tag_name: str
    path: str = ""
    units: list[str] = field(default_factory=list)
    readings: int = 0
    types: dict[ValueType, int] = field(default_factory=dict)
    qualities: dict[Quality, int] = field(default_factory=dict)
    low: float | None = None
    high: float | None = None
    not_finite: int = 0
    live: int = 0
    span: float = 0.0
    elapsed: float = 0.0
    step: float = 0.0
    arrival: float = 0.0
    silence: float = 0.0
    rejected: int = 0
    reason: str = ""
    value: str = ""
    quality: Quality = Quality.GOOD
    time: int = 0
    ahead: float = 0.0

    @property
    def interval(self) -> float | None:
        """Seconds from one live reading to the next, on average; None where fewer than two came."""
        return self.elapsed / (self.live - 1) if self.live > 1 else None

    @property
    def unit(self) -> str:
        """The unit that it has now."""
        return self.units[-1] if self.units else ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a row of the list.

    Attributes:
        expected: The row.
        result: The verdict.
        reasons: Why it did not pass, in words.
        remarks: What is not wrong, but should be known.
        seen: What was seen; None where nothing was, or too much.
    """

    expected: Expected
    result: Result
    reasons: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    seen: Observed | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """What came of the whole list.

    Attributes:
        verdicts: One for each row, in the list's order.
        unlisted: Tags that were seen and that the list does not have.
    """

    verdicts: Sequence[Verdict]
    unlisted: Sequence[Observed]

    @property
    def counts(self) -> dict[str, int]:
        """How many rows there are of each verdict, and how many tags that the list does not have."""
        found: dict[str, int] = {result: sum(one.result == result for one in self.verdicts) for result in RESULTS}
        return found | {"unlisted": len(self.unlisted)}


def compare(
    expected: Sequence[Expected], observed: Sequence[Observed], problems: Mapping[str, str] | None = None
) -> Comparison:
    """Compare a tag list with what was seen.

    Args:
        expected: The rows of the list.
        observed: What was seen.
        problems: Of sources, by name, that could not be read: why.
    """
    by_name: dict[str, list[int]] = {}
    for number, one in enumerate(observed):
        for name in {one.path, one.address, one.tag_name, f"{one.device}/{one.address}"}:
            by_name.setdefault(name, []).append(number)
    meant = [_meant(row, observed, by_name) for row in expected]
    named: dict[int, list[int]] = {}
    for row, numbers in zip(expected, meant, strict=True):
        for number in numbers:
            named.setdefault(number, []).append(row.line)
    verdicts = [
        _verdict(row, numbers, observed, named, problems or {}) for row, numbers in zip(expected, meant, strict=True)
    ]
    return Comparison(verdicts, [one for number, one in enumerate(observed) if number not in named])


def _meant(row: Expected, observed: Sequence[Observed], by_name: Mapping[str, list[int]]) -> list[int]:
    """Numbers of the tags that a row means."""
    name = row.tag or row.path or row.address or row.tag_name
    return [number for number in by_name.get(name, ()) if _fits(row, observed[number])]


def _fits(row: Expected, one: Observed) -> bool:
    wanted = (row.path, row.source, row.device, row.address, row.tag_name)
    has = (one.path, one.source, one.device, one.address, one.tag_name)
    return all(said in ("", found) for said, found in zip(wanted, has, strict=True))


def _verdict(
    row: Expected,
    numbers: Sequence[int],
    observed: Sequence[Observed],
    named: Mapping[int, Sequence[int]],
    problems: Mapping[str, str],
) -> Verdict:
    if not numbers:
        said = {row.source: problems[row.source]} if row.source in problems else {} if row.source else problems
        return Verdict(row, "not seen", tuple(f"{source}: {problem}" for source, problem in said.items()))
    if len(numbers) > 1:
        found = [observed[number] for number in numbers]
        places = ", ".join(f"{one.source} {one.device}/{one.address}" for one in found[:4])
        more = f" and {len(found) - 4} more" if len(found) > 4 else ""
        return Verdict(row, "fail", (f"{len(found)} tags are meant: {places}{more}; say the source or the address",))
    one = observed[numbers[0]]
    others = [line for line in named[numbers[0]] if line != row.line]
    reasons = [f"line {', '.join(map(str, others))} of the list means the same tag"] if others else []
    reasons += [*_wrong_kind(row, one), *_wrong_values(row, one), *_wrong_quality(row, one), *_wrong_rate(row, one)]
    remarks = [f"the device's clock is {_time(one.ahead)} ahead"] if one.ahead > _AHEAD else []
    return Verdict(row, "fail" if reasons else "pass", tuple(reasons), tuple(remarks), one)


def _wrong_kind(row: Expected, one: Observed) -> Iterable[str]:
    if one.rejected:
        yield f"{_readings(one.rejected)} could not be used: {one.reason}"
    if row.type:
        wanted = TYPES[row.type]
        wrong = [kind for kind in one.types if kind not in wanted and kind is not ValueType.NULL]
        if wrong:
            yield f"type is {_names(wrong)}, expected {row.type} ({_names(sorted(wanted))})"
        elif not wanted & one.types.keys():
            yield "no reading had a value"
    if row.unit and one.units != [row.unit]:
        yield f"unit is {_said(one.units)}, expected `{row.unit}`"


def _wrong_values(row: Expected, one: Observed) -> Iterable[str]:
    if row.low is None and row.high is None:
        return
    if one.not_finite:
        yield f"{_readings(one.not_finite)} had no finite number"
    if one.low is None or one.high is None:
        if not one.not_finite:
            yield "no reading had a number to compare with the range"
        return
    if row.low is not None and one.low < row.low:
        yield f"value {_number(one.low)} is below {_number(row.low)}"
    if row.high is not None and one.high > row.high:
        yield f"value {_number(one.high)} is above {_number(row.high)}"


def _wrong_quality(row: Expected, one: Observed) -> Iterable[str]:
    if not row.qualities:
        return
    wrong = {quality: count for quality, count in one.qualities.items() if quality not in row.qualities}
    if wrong:
        counts = ", ".join(f"{quality.name} {count}" for quality, count in sorted(wrong.items()))
        allowed = _names(sorted(row.qualities))
        yield f"quality was not {allowed} in {sum(wrong.values())} of {_readings(one.readings)}: {counts}"


def _wrong_rate(row: Expected, one: Observed) -> Iterable[str]:
    wanted = row.interval
    if wanted is None:
        return
    if one.span < 2 * wanted:
        yield f"interval not measured: {_time(one.span)} of readings is less than two intervals of {_time(wanted)}"
        return
    due = one.elapsed / wanted
    if one.interval is None:
        yield f"one reading only in {_time(one.span)}, expected one every {_time(wanted)}"
    elif abs(one.live - 1 - due) > max(1.0, TOLERANCE * due):
        of = f"{_readings(one.live)} in {_time(one.elapsed)}"
        yield f"interval is {_time(one.interval)}, expected {_time(wanted)} ({of})"
    elif one.step > _SILENCE * wanted:
        yield f"no reading for {_time(one.step)}, expected one every {_time(wanted)}"
    if one.silence > max(_SILENCE * wanted, 2 * one.arrival):
        yield f"silent for the last {_time(one.silence)}, expected a reading every {_time(wanted)}"


def _names(kinds: Iterable[ValueType] | Iterable[Quality]) -> str:
    return " or ".join(kind.name for kind in kinds)


def _said(units: Sequence[str]) -> str:
    return ", then ".join(f"`{unit}`" if unit else "not given" for unit in units)


def _readings(count: int) -> str:
    return f"{count:,} reading{'s' if count != 1 else ''}"


def _number(value: float) -> str:
    return f"{value:.10g}"


def _time(seconds: float) -> str:
    """A time as people write it."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 120:
        return f"{seconds:.3g} s"
    minutes = seconds / 60
    return f"{minutes:.3g} min" if minutes < 120 else f"{minutes / 60:.3g} h"


def too_short(expected: Sequence[Expected], seconds: float) -> float | None:
    """How long must be watched to measure every interval of the list; None when `seconds` is enough."""
    longest = max((row.interval for row in expected if row.interval is not None), default=0.0)
    return None if 2.5 * longest <= seconds else math.ceil(2.5 * longest)
