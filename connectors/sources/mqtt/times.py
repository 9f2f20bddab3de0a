"""Times in payloads: numbers of several units, ISO 8601 and formats of one's own, in µs since the epoch. Pure."""

import math
import re
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

UNITS: Final = ("auto", "s", "ms", "us", "ns", "iso")
_MIN_TIME, _MAX_TIME = -62_135_596_800_000_000, 253_402_300_800_000_000  # years 1 to 9999 in µs
_SCALE: Final = {"s": 1_000_000.0, "ms": 1_000.0, "us": 1.0, "ns": 0.001}
_WHOLE: Final = {"s": 1_000_000, "ms": 1_000, "us": 1}
_NUMBER: Final = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?")
_ISO: Final = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:\.\d{1,6})?(?:Z|[+-]\d\d:\d\d)?", re.ASCII)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_MANY: Final = 48  # texts from which on Arrow reads them in less time


def parse_time(value: Any, form: str = "auto", zone: tzinfo = UTC) -> int | None:
    """A time in µs since the epoch, UTC; None when it cannot be told.

    Args:
        value: A number, text, or a datetime.
        form: s, ms, us, ns, iso, auto, which tells numbers by their size and text by its form, or a format of
            ``datetime.strptime``.
        zone: The zone of times that name none.
    """
    if "%" in form:
        try:
            return _micros(datetime.strptime(str(value), form), zone)  # noqa: DTZ007 - the zone follows
        except (ValueError, OverflowError):
            return None
    if isinstance(value, datetime):
        return _micros(value, zone)
    if isinstance(value, str):
        if form != "iso" and _NUMBER.fullmatch(value):
            value = int(value) if value.lstrip("+-").isdigit() and len(value) < 25 else float(value)
        else:
            try:
                return _micros(datetime.fromisoformat(value), zone)
            except (ValueError, OverflowError):
                return None
    if isinstance(value, bool) or not isinstance(value, int | float) or form == "iso":
        return None
    if form == "auto":
        form = _unit_of(value)
    micros: int
    if isinstance(value, int):
        micros = value // 1000 if form == "ns" else value * int(_SCALE[form])
    else:
        scaled = value * _SCALE[form]
        if not math.isfinite(scaled):
            return None
        micros = round(scaled)
    return micros if _MIN_TIME <= micros < _MAX_TIME else None


def parse_times(values: list[Any], form: str = "auto", zone: tzinfo = UTC) -> list[int | None]:
    """As `parse_time` for each of many; that is short for whole numbers of one size and for text of one kind."""
    kinds = set(map(type, values))
    if kinds == {int}:
        low, high = min(values), max(values)
        if form == "auto" and low >= 0 and _unit_of(low) == _unit_of(high):
            form = _unit_of(low)
        scale = _WHOLE.get(form)
        if scale is not None and low * scale >= _MIN_TIME and high * scale < _MAX_TIME:
            return [value * scale for value in values]
    if kinds == {str} and len(values) >= _MANY and "%" not in form:
        if form in {"auto", "iso"} and all(map(_ISO.fullmatch, values)):
            found = _read_iso(values, zone)
            if found is not None:
                return found
        if form != "iso" and "".join(values).isascii() and all(map(str.isdigit, values)) and max(map(len, values)) < 19:
            return parse_times(list(map(int, values)), form, zone)
    return [None if value is None else parse_time(value, form, zone) for value in values]


def _read_iso(values: list[str], zone: tzinfo) -> list[int | None] | None:
    """Times as ISO 8601 text, all with a zone or all without; None if they are otherwise."""
    zoned = values[0][-1] == "Z" or values[0][-6] in "+-"
    if not zoned and zone is not UTC:
        return None
    try:
        found = pc.cast(pa.array(values), pa.timestamp("us", "UTC" if zoned else None))
    except pa.ArrowInvalid:
        return None
    micros: np.ndarray = found.cast(pa.int64()).to_numpy()
    if micros.min() < _MIN_TIME or micros.max() >= _MAX_TIME:
        return None
    times: list[int | None] = micros.tolist()
    return times


def _micros(when: datetime, zone: tzinfo) -> int | None:
    micros = ((when.replace(tzinfo=zone) if when.tzinfo is None else when) - _EPOCH) // _MICROSECOND
    return micros if _MIN_TIME <= micros < _MAX_TIME else None


def _unit_of(number: float) -> str:
    """What a time is probably counted in, by its size."""
    size = abs(number)
    return "s" if size < 1e11 else "ms" if size < 1e14 else "us" if size < 1e17 else "ns"
