"""Readings of one network read: gathered as lists, appended to the columns at once, as arrays where they are of one type."""

from array import array
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from normalization.columns import NULL_TIME
from normalization.reading import Columns, Quality

_KINDS: Final = {float: 4, int: 2, bool: 1, str: 5, type(None): 0}
_ARRAYS: Final[dict[type, tuple[str, Any]]] = {float: ("d", np.float64), int: ("q", np.int64), bool: ("b", np.bool_)}
_INT64: Final = (-(2**63), 2**63)
STORED: Final = frozenset(_KINDS)
"""Types of the values that `Gathered.extend` takes."""
Said = tuple[int, int | None]
"""What a device says of a reading: its quality, and the protocol's own status."""
_FEW: Final = 48  # readings below which lists cost less than arrays


class Gathered:
    """Readings that are on their way into `rows`, in their order."""

    def __init__(self, rows: Columns) -> None:
        """None yet."""
        self._rows = rows
        self._tags: list[int] = []
        self._values: list[Any] = []
        self._qualities: list[Said] = []
        self._times: list[int | None] = []
        self._flags: list[int] = []
        self._properties: list[str | None] = []

    def add(
        self,
        tag: int,
        value: Any,
        quality: Said,
        when: int | None,
        flags: int,
        properties: str | None,
    ) -> None:
        """Take one reading; its arguments are those of `extend`, in the singular, and the value may be anything."""
        if type(value) not in _KINDS:
            code, status = quality
            self.flush().add(
                tag, value, quality=code, status=status, source_time=when, flags=flags, properties=properties
            )
            return
        self._tags.append(tag)
        self._values.append(value)
        self._qualities.append(quality)
        self._times.append(when)
        self._flags.append(flags)
        self._properties.append(properties)

    def extend(
        self,
        tags: Sequence[int],
        values: Sequence[Any],
        qualities: Sequence[Said],
        times: Sequence[int | None],
        flags: Sequence[int],
        properties: Sequence[str | None],
    ) -> None:
        """Take readings.

        Args:
            tags: Rows of the tag table.
            values: Numbers, booleans, texts and None.
            qualities: What was said of them; a reading without value is not GOOD whatever that is.
            times: µs since the epoch, UTC.
            flags: `Flags`.
            properties: JSON objects.
        """
        self._tags += tags
        self._values += values
        self._qualities += qualities
        self._times += times
        self._flags += flags
        self._properties += properties

    def flush(self) -> Columns:
        """Append what was gathered; returns the columns, for what is to be appended in another way."""
        if self._tags:
            if len(self._tags) < _FEW or not self._append_arrays():
                self._append_lists()
            for column in (self._tags, self._values, self._qualities, self._times, self._flags, self._properties):
                column.clear()
        return self._rows

    def _append_arrays(self) -> bool:
        """Append the readings as arrays if they are of one type and status; whether they are."""
        kinds, said = set(map(type, self._values)), set(self._qualities)
        code, dtype = _ARRAYS.get(kinds.pop(), ("", None))
        if kinds or not code or len({status for _, status in said}) > 1:
            return False
        quality, status = next(iter(said))
        try:
            values = np.frombuffer(array(code, self._values), dtype)
        except OverflowError:  # more than 64 bits
            return False
        given, none = self._times, self._times.count(None)
        if none:
            given = [NULL_TIME if when is None else when for when in given]
        times = np.frombuffer(array("q", given), np.int64) if none < len(given) else None  # type: ignore[type-var]
        self._rows.add_arrays(
            np.frombuffer(array("i", self._tags), np.int32),
            values,
            quality=quality if len(said) == 1 else np.array([known for known, _ in self._qualities], np.int8),
            status=status,
            source_time=times,
            flags=np.array(self._flags, np.int16) if any(self._flags) else 0,
            properties=self._properties if any(self._properties) else None,
        )
        return True

    def _append_lists(self) -> None:
        values, given = (
            self._values,
            (self._tags, self._values, self._qualities, self._times, self._flags, self._properties),
        )
        kinds = [_KINDS[type(value)] for value in values]
        low, high = _INT64
        if any(
            (kind == 2 and not low <= value < high) or (kind == 5 and not value.isascii())
            for kind, value in zip(kinds, values, strict=True)
        ):
            for tag, value, (code, status), when, flags, properties in zip(*given, strict=True):
                quality = code if value is not None or code else Quality.BAD
                self._rows.add(
                    tag, value, quality=quality, status=status, source_time=when, flags=flags, properties=properties
                )
            return
        none: list[None] = [None] * len(values)
        more = Columns()
        more.tag = self._tags
        more.type = kinds
        more.value_double = [value if kind == 4 else None for kind, value in zip(kinds, values, strict=True)]
        more.value_int = [int(value) if kind in {1, 2} else None for kind, value in zip(kinds, values, strict=True)]
        more.value_text = [value if kind == 5 else None for kind, value in zip(kinds, values, strict=True)]
        more.value_bytes, more.reject = list(none), list(none)
        more.quality = [
            code if kind or code else Quality.BAD for (code, _), kind in zip(self._qualities, kinds, strict=True)
        ]
        more.status = [status for _, status in self._qualities]
        more.source_time, more.flags, more.properties = self._times, self._flags, self._properties
        self._rows.extend(more)
